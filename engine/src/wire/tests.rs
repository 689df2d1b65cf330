//! Every variant survives; nothing else is taken.

use super::{
    BadWire, Notice, decode_answer, decode_notice, decode_request, encode_answer, encode_notice,
    encode_request,
};
use crate::core::Leadership;
use crate::counters::{CoreCounters, RefusedConnections};
use crate::facts::{Facts, Road};
use crate::manifest::{
    Body, ChunkOwner, ETag, GarbageRecord, Manifest, Part, PartRecord, Placement, UploadRecord,
};
use crate::map::DiskState;
use crate::message::{
    Answer, Block, ChunkName, DiskPulse, ListRun, PartitionOp, Pulse, Refusal, Removal, Reply, Request,
    RootOp,
};
use crate::object::api::{
    BodyError, BucketInfo, Checksum, ChecksumAlgorithm, ChecksumKind, CompletePart, ListEntry,
    ListUploadsRequest, ObjectError, ObjectSummary, PartInfo, PartsPage, PutOutcome, UploadInfo, UploadsPage,
    User, WriteCondition,
};
use crate::root::{BucketRecord, RootState};
use buckets_env::{AlignedBuf, AlignedBytes, DiskSpace};
use buckets_meta::{GroupBody, GroupMessage, LogPosition, SnapshotRequest};
use buckets_peer::{HealthState, Message};
use buckets_ring::id::{BucketId, DiskUuid, GroupId, ObjectId, UploadId};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

const BUCKET: BucketId = BucketId(uuid_of(1));
const UPLOAD: UploadId = UploadId(uuid_of(2));
const OBJECT: ObjectId = ObjectId(uuid_of(3));
const CHUNK: ChunkName = ChunkName { object: OBJECT, number: 9 };

const fn uuid_of(byte: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([byte; 16])
}

fn block(len: usize) -> AlignedBytes {
    let mut data = AlignedBuf::with_len(len);
    data.iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
    data.freeze()
}

fn checksum(kind: ChecksumKind) -> Checksum {
    Checksum { algorithm: ChecksumAlgorithm::Crc32c, kind, value: vec![1, 2, 3, 4] }
}

fn part() -> Part {
    let placement = Placement { set: 3, k: 2, m: 1, block_bytes: 4096, disks: vec![2, 0, 1], missing: 0b10 };
    Part { object: OBJECT, number: 4, size: 9999, placement }
}

fn manifest() -> Manifest {
    Manifest {
        object: OBJECT,
        size: 9999,
        etag: ETag { md5: [7; 16], parts: 1 },
        modified_unix_ms: 5,
        headers: vec![("content-type".into(), "text/plain".into())],
        checksum: Some(checksum(ChecksumKind::Composite)),
        body: Body::Chunked(vec![part()]),
    }
}

fn upload() -> UploadRecord {
    let checksum = Some((ChecksumAlgorithm::Sha1, ChecksumKind::FullObject));
    UploadRecord { initiated_unix_ms: 8, headers: Vec::new(), checksum }
}

fn owner() -> ChunkOwner {
    ChunkOwner { bucket: BUCKET, key: "schlüssel".into(), upload: Some((UPLOAD, 3)) }
}

fn user(is_root: bool) -> User {
    User { access_key: "AK".into(), secret_key: "geheim".into(), created_unix_ms: 1, is_root }
}

fn key() -> String {
    "a/ключ".into()
}

fn partition_ops() -> Vec<PartitionOp> {
    let expected = || Some((ChecksumAlgorithm::Sha256, vec![5; 32]));
    let condition = || WriteCondition::IfMatch("abc-2".into());
    let (bucket, upload) = (BUCKET, UPLOAD);
    vec![
        PartitionOp::Get { bucket, key: key(), body: true },
        PartitionOp::Put {
            bucket,
            key: key(),
            manifest: Box::new(manifest()),
            inline: Some(Bytes::from_static(b"body")),
            condition: WriteCondition::IfAbsent,
        },
        PartitionOp::Delete { bucket, keys: vec![key(), String::new()], condition: condition() },
        PartitionOp::List(ListRun {
            bucket,
            prefix: "p".into(),
            delimiter: Some("/".into()),
            after: None,
            limit: 1001,
        }),
        PartitionOp::CreateUpload { bucket, key: key(), upload, record: self::upload() },
        PartitionOp::GetUpload { bucket, key: key(), upload },
        PartitionOp::PutPart {
            bucket,
            key: key(),
            upload,
            record: Box::new(PartRecord { md5: [1; 16], modified_unix_ms: 2, checksum: None, part: part() }),
        },
        PartitionOp::CompleteUpload {
            bucket,
            key: key(),
            upload,
            object: OBJECT,
            parts: vec![
                CompletePart { number: 1, etag: "e".into(), checksum: expected() },
                CompletePart { number: 10_000, etag: String::new(), checksum: None },
            ],
            checksum: expected(),
            condition: WriteCondition::Always,
            modified_unix_ms: u64::MAX,
        },
        PartitionOp::AbortUpload { bucket, key: key(), upload },
        PartitionOp::ListParts { bucket, key: key(), upload, after: 7, max: 1000 },
        PartitionOp::ListUploads {
            bucket,
            request: ListUploadsRequest {
                prefix: "p".into(),
                delimiter: None,
                after: Some((key(), Some(UPLOAD))),
                max_uploads: usize::MAX,
            },
        },
        PartitionOp::Seal { bucket, attempt: 3 },
        PartitionOp::Unseal { bucket, attempt: 4 },
        PartitionOp::Refers { owner: owner(), object: OBJECT },
        PartitionOp::Discard { garbage: GarbageRecord { parts: vec![part()] } },
        PartitionOp::Suspect { owner: owner(), object: OBJECT, chunks: 5 },
        PartitionOp::ListLost { disk: 513, from: Bytes::from_static(b"u row") },
        PartitionOp::HasLost { disk: 513 },
    ]
}

fn root_ops() -> Vec<RootOp> {
    let removal = || Removal { name: "photos".into(), id: BUCKET, attempt: 6 };
    vec![
        RootOp::CreateBucket {
            name: "photos".into(),
            location: "eu-central-1".into(),
            id: BUCKET,
            created_unix_ms: 1,
        },
        RootOp::MarkDeleting { name: "photos".into(), id: BUCKET },
        RootOp::CheckEnded { id: BUCKET, attempt: 2 },
        RootOp::UnmarkDeleting(removal()),
        RootOp::RemoveBucket(removal()),
        RootOp::AddUser(user(false)),
        RootOp::RemoveUser { access_key: "AK".into() },
    ]
}

const LEADERSHIP: Leadership = Leadership { group: GroupId(5), disk: 6, term: 7 };

fn root_state() -> RootState {
    let info = BucketInfo { id: BUCKET, name: "photos".into(), created_unix_ms: 3, location: "here".into() };
    let bucket = |deleting| BucketRecord { info: info.clone(), deleting };
    RootState {
        version: 77,
        buckets: [("photos".to_owned(), bucket(Some(4)))].into(),
        users: [("AK".to_owned(), user(false))].into(),
    }
}

pub(crate) fn requests() -> Vec<Request> {
    let (disk, chunk) = (513, CHUNK);
    let owner = || owner().encode();
    let mut all = vec![
        Request::ChunkAppend { disk, chunk, block: 5, data: block(8192), len: 5000, finish: Some(owner()) },
        Request::ChunkAppend { disk, chunk, block: 0, data: block(0), len: 0, finish: None },
        Request::ChunkFinish { disk, chunk, owner: owner() },
        Request::ChunkRead { disk, chunk, block: 1, count: 2 },
        Request::ChunkDrop { disk, chunk },
        Request::ChunkConfirm { disk, chunk },
        Request::PublishRoot(Arc::new(root_state())),
        Request::InUse(vec![OBJECT, OBJECT]),
        Request::Pulse,
        Request::FoundFar { by: 513, took: Duration::from_micros(1700) },
        Request::GetRoot,
        Request::ChunkAbort { disk, chunk },
        Request::Facts,
        Request::Drain(true),
    ];
    let group = GroupId::partition(3, 2);
    let mut salvage = false;
    all.extend(partition_ops().into_iter().map(|op| {
        salvage = !salvage;
        Request::Partition { group, op, salvage }
    }));
    all.extend(root_ops().into_iter().map(Request::Root));
    all
}

fn errors() -> Vec<ObjectError> {
    vec![
        ObjectError::NoSuchBucket,
        ObjectError::BucketExists,
        ObjectError::BucketNotEmpty,
        ObjectError::OperationAborted,
        ObjectError::NoSuchKey,
        ObjectError::PreconditionFailed,
        ObjectError::NoSuchUpload,
        ObjectError::InvalidPart { number: 7 },
        ObjectError::InvalidPartOrder,
        ObjectError::PartTooSmall { number: 1, size: 2, minimum: 3 },
        ObjectError::BadDigest,
        ObjectError::BadChecksum { algorithm: ChecksumAlgorithm::Crc32 },
        ObjectError::TooLarge,
        ObjectError::Body(BodyError::Incomplete),
        ObjectError::Body(BodyError::Timeout),
        ObjectError::Body(BodyError::Invalid("why".into())),
        ObjectError::Body(BodyError::Source(Box::new(ObjectError::Body(BodyError::Source(Box::new(
            ObjectError::NoSuchKey,
        )))))),
        ObjectError::SlowDown,
        ObjectError::Unavailable("why".into()),
        ObjectError::NoSpace,
        ObjectError::Conflict("why".into()),
        ObjectError::Internal("why".into()),
        ObjectError::TooManyBuckets,
    ]
}

fn facts() -> Facts {
    let (known, _) = buckets_disk::CounterValues::default().named()[0];
    let mut refused = RefusedConnections::default();
    refused.set("wrong_secret", 3);
    let road = |health, round_trip| Road {
        health,
        round_trip,
        connected: 1,
        lost: 2,
        unreachable: 3,
        refused: refused.clone(),
    };
    Facts {
        counters: CoreCounters {
            bytes_written: 1,
            salvage_reads: u64::MAX,
            parts_to_repair: 2,
            bytes_to_repair: 3 << 40,
            disks: vec![(3, vec![(known, 9)]), (4, Vec::new())],
            ..CoreCounters::default()
        },
        refused: refused.clone(),
        spaces: [(513, DiskSpace { free_bytes: 4, total_bytes: 5 })].into(),
        slow: [513].into(),
        behind: [(7, 12), (513, u64::MAX)].into(),
        roads: [
            (1, road(HealthState::Up, Some(Duration::from_micros(90)))),
            (2, road(HealthState::Down, None)),
        ]
        .into(),
        leads: Some(5),
        is_draining: true,
        is_far: true,
    }
}

fn answers() -> Vec<Answer> {
    let chosen = Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject));
    let replies = vec![
        Reply::Done,
        Reply::Attempt(12),
        Reply::Blocks(vec![
            Block { data: block(4096), len: 4096 },
            Block { data: block(4096), len: 4096 },
            Block { data: block(100), len: 100 },
        ]),
        Reply::Blocks(Vec::new()),
        Reply::Object(Arc::new(manifest()), Some(Bytes::from_static(b"inline"))),
        Reply::Object(Arc::new(Manifest { body: Body::Inline, ..manifest() }), None),
        Reply::Deleted(vec![Ok(()), Err(ObjectError::PreconditionFailed)]),
        Reply::Listed {
            entries: vec![
                ListEntry::Object(ObjectSummary {
                    key: key(),
                    size: 1,
                    etag: "e".into(),
                    modified_unix_ms: 2,
                    checksum: chosen,
                }),
                ListEntry::Prefix("a/".into()),
            ],
            more: true,
        },
        Reply::Upload(Box::new(upload())),
        Reply::Completed(Box::new(PutOutcome {
            etag: "e-2".into(),
            checksum: Some(checksum(ChecksumKind::FullObject)),
            size: 3,
            modified_unix_ms: 4,
        })),
        Reply::Parts(Box::new(PartsPage {
            parts: vec![PartInfo {
                number: 1,
                size: 2,
                etag: "e".into(),
                modified_unix_ms: 3,
                checksum: None,
            }],
            next: Some(1),
            checksum: chosen,
        })),
        Reply::Uploads(Box::new(UploadsPage {
            uploads: vec![UploadInfo { key: key(), upload: UPLOAD, initiated_unix_ms: 1, checksum: None }],
            prefixes: vec!["a/".into()],
            next: Some((key(), None)),
        })),
        Reply::Refers(true),
        Reply::NextPage(Some(Bytes::from_static(b"o row"))),
        Reply::NextPage(None),
        Reply::InUse(vec![OBJECT]),
        Reply::Pulse(Box::new(Pulse {
            cores: 4,
            generation: 2,
            root_version: Some(9),
            disks: vec![DiskPulse { disk: 513, state: DiskState::Fenced, reason: "why".into() }],
            leaders: vec![LEADERSHIP],
            to_most: Some(Duration::from_micros(1700)),
        })),
        Reply::Root(Arc::new(root_state())),
        Reply::Facts(Box::new(facts())),
    ];
    let refusals = [
        Refusal::ChunkMissing,
        Refusal::ChunkDamaged,
        Refusal::DiskFailed,
        Refusal::NoSpace,
        Refusal::NotLeader,
        Refusal::Elsewhere(9),
        Refusal::Overloaded,
        Refusal::Unknown,
        Refusal::LedBy(LEADERSHIP),
        Refusal::Unreachable,
    ];
    let errors = errors().into_iter().map(Refusal::Object);
    replies.into_iter().map(Ok).chain(refusals.into_iter().chain(errors).map(Err)).collect()
}

fn notices() -> Vec<Notice> {
    let group = |body| {
        let disk = |byte| DiskUuid::from_bytes([byte; 16]);
        GroupMessage { group: GroupId(7), from: disk(1), to: disk(2), body }
    };
    let last = buckets_index::Position { index: 4, term: 3 };
    let all = vec![
        group(GroupBody::SnapshotRequest(SnapshotRequest { session: 1, page: 2, index_min: 3 })),
        group(GroupBody::SnapshotRefused { session: 8 }),
        group(GroupBody::LogPosition(LogPosition {
            round: 5,
            frozen: true,
            leader: false,
            usable: true,
            joining: false,
            last,
        })),
        group(GroupBody::Thaw),
    ];
    let one_by_one = all.iter().map(|message| Notice::Groups(vec![message.clone()]));
    one_by_one.chain([Notice::Groups(Vec::new()), Notice::Groups(all.clone())]).collect()
}

/// The message as it arrives: the pieces of its payload in one, where `joined`.
fn arrived(message: &Message, joined: bool) -> Message {
    let mut message = message.clone();
    if joined && message.payload.len() > 1 {
        let whole: Vec<u8> = message.payload.iter().flat_map(|piece| piece.to_vec()).collect();
        let mut one = AlignedBuf::with_len(whole.len());
        one.copy_from_slice(&whole);
        message.payload = vec![one.freeze()];
    }
    message
}

fn check<T: Debug>(
    values: &[T],
    encode: impl Fn(&T) -> Message,
    decode: impl Fn(Message) -> Result<T, BadWire>,
) {
    for value in values {
        let message = encode(value);
        for joined in [false, true] {
            let decoded = decode(arrived(&message, joined)).unwrap();
            assert_eq!(format!("{decoded:?}"), format!("{value:?}"));
            let again = encode(&decoded);
            assert_eq!(again.head, message.head, "{value:?}");
            let bytes = |message: &Message| message.payload.iter().map(|p| p.to_vec()).collect::<Vec<_>>();
            assert_eq!(bytes(&again), bytes(&message));
        }
        for end in 0..message.head.len() {
            let cut = Message { head: message.head.slice(..end), payload: message.payload.clone() };
            assert!(decode(cut).is_err(), "{value:?} cut at {end}");
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = message.head.to_vec();
                bytes[end] ^= flip;
                let _ = decode(Message { head: Bytes::from(bytes), payload: message.payload.clone() });
            }
        }
        let longer = [&message.head[..], b"!"].concat();
        assert!(decode(Message { head: Bytes::from(longer), payload: message.payload.clone() }).is_err());
        let mut payload = message.payload.clone();
        payload.push(block(4096));
        let more = decode(Message { head: message.head.clone(), payload });
        assert_eq!(more.map(drop).unwrap_err(), BadWire::Payload, "{value:?}");
        if message.payload.iter().any(|piece| !piece.is_empty()) {
            let none = decode(Message::new(message.head.clone())).map(drop);
            assert_eq!(none.unwrap_err(), BadWire::Payload);
        }
    }
}

/// The numbers at `at` of the heads.
fn numbers(heads: impl Iterator<Item = Message>, at: usize) -> Vec<u8> {
    let numbers: BTreeSet<u8> = heads.map(|message| message.head[at]).collect();
    numbers.into_iter().collect()
}

fn first_to(last: u8) -> Vec<u8> {
    (1..=last).collect()
}

/// With a number that is not used again.
fn first_to_without(last: u8, gone: u8) -> Vec<u8> {
    (1..=last).filter(|number| *number != gone).collect()
}

#[test]
fn every_question_survives() {
    check(&requests(), encode_request, decode_request);
    // None is missing here: numbers have no gaps, and a new variant does not compile without one.
    assert_eq!(numbers(requests().iter().map(encode_request), 2), first_to_without(16, 10));
    let partition = |request: &&Request| matches!(request, Request::Partition { .. });
    assert_eq!(numbers(requests().iter().filter(partition).map(encode_request), 8), first_to(18));
    let root = |request: &&Request| matches!(request, Request::Root(_));
    assert_eq!(numbers(requests().iter().filter(root).map(encode_request), 3), first_to(7));
}

#[test]
fn every_answer_survives() {
    check(&answers(), encode_answer, decode_answer);
    let with = |is_refusal: bool| answers().into_iter().filter(move |answer| answer.is_err() == is_refusal);
    assert_eq!(numbers(with(false).map(|answer| encode_answer(&answer)), 3), first_to_without(17, 13));
    assert_eq!(numbers(with(true).map(|answer| encode_answer(&answer)), 3), first_to(11));
    let errors = with(true).filter(|answer| matches!(answer, Err(Refusal::Object(_))));
    assert_eq!(numbers(errors.map(|answer| encode_answer(&answer)), 4), first_to(23));
}

#[test]
fn every_notice_survives() {
    check(&notices(), encode_notice, decode_notice);
}

#[test]
fn secrets_of_users_survive_though_they_are_not_shown() {
    let request = decode_request(encode_request(&Request::Root(RootOp::AddUser(user(true))))).unwrap();
    let Request::Root(RootOp::AddUser(decoded)) = request else { panic!("another question") };
    assert!(decoded == user(true));
}

#[test]
fn what_is_newer_has_a_name() {
    let request = |bytes: &'static [u8]| decode_request(Message::new(Bytes::from_static(bytes))).map(drop);
    assert_eq!(request(&[2, 1, 1]), Err(BadWire::Version(2)));
    assert_eq!(request(&[1, 2, 1]), Err(BadWire::Kind(2)));
    assert_eq!(request(&[1, 1, 99]), Err(BadWire::Unknown { what: "question", number: 99 }));
    let answer = |bytes: &'static [u8]| decode_answer(Message::new(Bytes::from_static(bytes))).map(drop);
    assert_eq!(answer(&[1, 2, 1, 99]), Err(BadWire::Unknown { what: "refusal", number: 99 }));
    let notice = |bytes: &'static [u8]| decode_notice(Message::new(Bytes::from_static(bytes))).map(drop);
    assert_eq!(notice(&[1, 3, 99]), Err(BadWire::Unknown { what: "notice", number: 99 }));
}

#[test]
fn counters_of_a_newer_build_are_left_out() {
    let mut newer = encode_answer(&Ok(Reply::Facts(Box::default())));
    let head = newer.head.to_vec();
    // The first name becomes one that nobody has.
    let name = head.windows(13).position(|window| window == b"bytes_written").unwrap();
    let mut renamed = head.clone();
    renamed[name] = b'B';
    newer.head = Bytes::from(renamed);
    assert!(decode_answer(newer).is_ok());
}

#[test]
fn errors_within_errors_end_somewhere() {
    let mut deep = ObjectError::NoSuchKey;
    for _ in 0..100 {
        deep = ObjectError::Body(BodyError::Source(Box::new(deep)));
    }
    let decoded = decode_answer(encode_answer(&Err(Refusal::Object(deep)))).unwrap();
    assert!(matches!(decoded, Err(Refusal::Object(ObjectError::Body(BodyError::Source(_))))));
    let mut head = vec![1, 2, 1, 9];
    head.extend([17; 1_000_000]);
    assert!(decode_answer(Message::new(Bytes::from(head))).is_err());
}

#[test]
fn a_block_that_no_disk_could_write_is_refused() {
    let chunk = CHUNK;
    for (bytes, len) in [(5000, 5000), (4096, 4097)] {
        let request =
            Request::ChunkAppend { disk: 1, chunk, block: 0, data: block(bytes), len, finish: None };
        assert_eq!(decode_request(encode_request(&request)).map(drop), Err(BadWire::Payload));
    }
}
