//! Entry points for fuzzing (feature `fuzz`): each takes any bytes and panics where an invariant does not hold.

use crate::manifest::{
    Body, ChunkOwner, ETag, GarbageRecord, Manifest, ManifestSummary, Part, PartRecord, Placement,
    UploadRecord,
};
use crate::object::api::{Checksum, ChecksumAlgorithm, ChecksumKind};
use crate::wire;
use buckets_env::AlignedBuf;
use buckets_peer::Message;
use buckets_ring::id::{BucketId, ObjectId, UploadId};
use bytes::Bytes;

/// Every durable record of a partition: what decodes comes out of its encoding again.
pub fn manifests(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
        assert!(ManifestSummary::decode(data).is_ok());
    }
    if let Ok(upload) = UploadRecord::decode(data) {
        assert_eq!(UploadRecord::decode(&upload.encode()).as_ref(), Ok(&upload));
    }
    if let Ok(part) = PartRecord::decode(data) {
        assert_eq!(PartRecord::decode(&part.encode()).as_ref(), Ok(&part));
    }
    if let Ok(garbage) = GarbageRecord::decode(data) {
        assert_eq!(GarbageRecord::decode(&garbage.encode()).as_ref(), Ok(&garbage));
    }
    if let Ok(owner) = ChunkOwner::decode(data) {
        assert_eq!(ChunkOwner::decode(&owner.encode()).as_ref(), Ok(&owner));
    }
}

/// Valid records, from which mutations begin.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let part = |number: u16| Part {
        object: ObjectId::from_random([number as u8; 16]),
        number,
        size: 35_000_000,
        placement: Placement {
            set: 3,
            k: 2,
            m: 2,
            block_bytes: 262_144,
            disks: vec![3, 0, 1, 2],
            missing: 0b100,
        },
    };
    let manifest = Manifest {
        object: ObjectId::from_random([7; 16]),
        size: 70_000_000,
        etag: ETag { md5: [0xab; 16], parts: 2 },
        modified_unix_ms: 1_700_000_000_123,
        headers: vec![("content-type".into(), "text/plain".into()), ("x-amz-meta-ü".into(), String::new())],
        checksum: Some(Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: vec![1, 2, 3, 4, 5, 6, 7, 8],
        }),
        body: Body::Chunked(vec![part(1), part(2)]),
    };
    let inline = Manifest { size: 3, checksum: None, body: Body::Inline, ..manifest.clone() };
    let upload = UploadRecord {
        initiated_unix_ms: 5,
        headers: vec![("a".into(), "b".into())],
        checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
    };
    let record = PartRecord { md5: [9; 16], modified_unix_ms: 6, checksum: None, part: part(3) };
    let garbage = GarbageRecord { parts: vec![part(4), part(5)] };
    let owner = ChunkOwner {
        bucket: BucketId::from_random([1; 16]),
        key: "a/b".into(),
        upload: Some((UploadId::from_random([2; 16]), 77)),
    };
    let encoded = [
        manifest.encode(),
        inline.encode(),
        upload.encode(),
        record.encode(),
        garbage.encode(),
        owner.encode(),
    ];
    encoded.iter().map(|record| record.to_vec()).collect()
}

/// Messages between nodes: the first byte says how long the payload is, the rest is the head. What decodes comes out of its
/// encoding again.
pub fn wire(data: &[u8]) {
    let Some((shape, head)) = data.split_first() else { return };
    let payload =
        (0..shape % 4).map(|_| AlignedBuf::zeroed(usize::from(shape / 4) * 1024).freeze()).collect();
    let message = Message { head: Bytes::copy_from_slice(head), payload };
    if let Ok(request) = wire::decode_request(message.clone()) {
        let encoded = wire::encode_request(&request);
        let again = wire::decode_request(encoded.clone()).map(|request| wire::encode_request(&request).head);
        assert_eq!(again, Ok(encoded.head));
    }
    if let Ok(answer) = wire::decode_answer(message.clone()) {
        let encoded = wire::encode_answer(&answer);
        let again = wire::decode_answer(encoded.clone()).map(|answer| wire::encode_answer(&answer).head);
        assert_eq!(again, Ok(encoded.head));
    }
    if let Ok(notice) = wire::decode_notice(message) {
        let encoded = wire::encode_notice(&notice);
        let again = wire::decode_notice(encoded.clone()).map(|notice| wire::encode_notice(&notice).head);
        assert_eq!(again, Ok(encoded.head));
    }
}

/// Heads of all kinds, some with payloads.
pub fn wire_seeds() -> Vec<Vec<u8>> {
    let [manifest, _, upload, part, garbage, owner] =
        <[Vec<u8>; 6]>::try_from(manifest_seeds()).unwrap_or_else(|_| unreachable!("six records"));
    let id = [5_u8; 16];
    let of_len = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let key = of_len(b"a/key");
    let chunk = [&7_u16.to_le_bytes()[..], &id, &[3]].concat();
    let group = [&9_u32.to_le_bytes()[..], &[0]].concat();
    let number = |number: u64| number.to_le_bytes().to_vec();
    // Shape of the payload, version, kind, then the variant and its fields.
    let seed = |shape: u8, kind: u8, parts: &[&[u8]]| [&[shape, 1, kind], &parts.concat()[..]].concat();
    let raft = [
        &[1, 1][..],
        &9_u32.to_le_bytes(),
        &[1; 16],
        &[2; 16],
        // An append of one entry behind the first.
        &[1, 0],
        &[1_u64, 1, 0, 0, 0, 0, 0].map(u64::to_le_bytes).concat(),
        &[0, 0],
        &1_u32.to_le_bytes(),
        &[0],
        &number(1),
        &number(1),
        &of_len(b"entry"),
    ]
    .concat();
    vec![
        // One piece of 8192 bytes.
        seed(33, 1, &[&[1], &chunk, &[1, 0, 0, 0], &[0, 16, 0, 0], &number(8192), &[1], &of_len(&owner)]),
        seed(0, 1, &[&[3], &chunk, &[1, 0, 0, 0], &[2, 0, 0, 0]]),
        seed(0, 1, &[&[6], &group, &[2], &id, &key, &of_len(&manifest), &[1], &of_len(b"body"), &[1]]),
        seed(0, 1, &[&[6], &group, &[5], &id, &key, &id, &of_len(&upload)]),
        seed(0, 1, &[&[6], &group, &[7], &id, &key, &id, &of_len(&part)]),
        seed(0, 1, &[&[6], &group, &[15], &of_len(&garbage)]),
        seed(0, 1, &[&[7, 1], &id, &key, &key, &number(4)]),
        seed(0, 1, &[&[8], &number(4), &[1, 0, 0, 0], &id, &key, &number(4), &key, &[0], &[0; 4]]),
        seed(0, 2, &[&[0, 4], &of_len(&manifest), &[0]]),
        // Two pieces of 4096 bytes.
        seed(18, 2, &[&[0, 3], &[2, 0, 0, 0], &[0, 16, 0, 0], &[0, 16, 0, 0]]),
        seed(0, 2, &[&[0, 6], &[1, 0, 0, 0], &[2], &key, &[1]]),
        seed(0, 2, &[&[1, 9, 17, 17, 19], &key]),
        seed(0, 3, &[&[1], &raft]),
        seed(0, 3, &[&[2], &[1, 0, 0, 0], &[2, 0], &number(3)]),
    ]
}
