//! Answers and refusals.

use super::BadWire;
use super::facts;
use super::fields::{Blocks, Fields, PutFields, get_body, put_body};
use super::request::{get_root_state, put_root_state};
use crate::core::Leadership;
use crate::manifest::{Manifest, UploadRecord};
use crate::map::DiskState;
use crate::message::{Answer, Block, DiskPulse, Pulse, Refusal, Reply};
use crate::object::api::{
    BodyError, Checksum, ChecksumAlgorithm, ChecksumKind, ListEntry, ObjectError, ObjectSummary, PartInfo,
    PartsPage, PutOutcome, UploadInfo, UploadsPage,
};
use buckets_env::AlignedBytes;
use buckets_ring::id::{GroupId, ObjectId, UploadId};
use bytes::{BufMut, BytesMut};
use std::sync::Arc;

/// Errors that have one another as their source, at most.
const NESTED_ERRORS_MAX: u32 = 4;

/// Keys that one question deletes, at most; S3 allows 1000.
const DELETED_MAX: usize = 10_000;

const REPLY: u8 = 0;
const REFUSAL: u8 = 1;

pub(super) fn put(answer: &Answer, head: &mut BytesMut, payload: &mut Vec<AlignedBytes>) {
    match answer {
        Ok(reply) => {
            head.put_u8(REPLY);
            put_reply(reply, head, payload);
        }
        Err(refusal) => {
            head.put_u8(REFUSAL);
            put_refusal(refusal, head);
        }
    }
}

pub(super) fn get(fields: &mut Fields, blocks: &mut Blocks) -> Result<Answer, BadWire> {
    match fields.u8()? {
        REPLY => get_reply(fields, blocks).map(Ok),
        REFUSAL => get_refusal(fields).map(Err),
        number => Err(BadWire::Unknown { what: "answer", number }),
    }
}

fn put_reply(reply: &Reply, head: &mut BytesMut, payload: &mut Vec<AlignedBytes>) {
    match reply {
        Reply::Done => head.put_u8(1),
        Reply::Attempt(attempt) => {
            head.put_u8(2);
            head.put_u64_le(*attempt);
        }
        Reply::Blocks(blocks) => {
            head.put_u8(3);
            head.put_list(blocks, |head, block| head.put_u32_le(block.len));
            // Without the padding: nobody reads it.
            payload.extend(blocks.iter().map(|block| block.data.slice(0..block.len as usize)));
        }
        Reply::Object(manifest, body) => {
            head.put_u8(4);
            head.put_bytes_of(&manifest.encode());
            head.put_optional(body.as_ref(), |head, body| put_body(body, head, payload));
        }
        Reply::Deleted(results) => {
            head.put_u8(5);
            head.put_list(results, |head, result| {
                head.put_optional(result.as_ref().err(), |head, error| put_error(error, head, 0));
            });
        }
        Reply::Listed { entries, more } => {
            head.put_u8(6);
            head.put_list(entries, |head, entry| match entry {
                ListEntry::Object(summary) => {
                    head.put_u8(1);
                    head.put_bytes_of(summary.key.as_bytes());
                    head.put_u64_le(summary.size);
                    head.put_bytes_of(summary.etag.as_bytes());
                    head.put_u64_le(summary.modified_unix_ms);
                    put_chosen(summary.checksum, head);
                }
                ListEntry::Prefix(prefix) => {
                    head.put_u8(2);
                    head.put_bytes_of(prefix.as_bytes());
                }
            });
            head.put_bool(*more);
        }
        Reply::Upload(record) => {
            head.put_u8(7);
            head.put_bytes_of(&record.encode());
        }
        Reply::Completed(outcome) => {
            head.put_u8(8);
            head.put_bytes_of(outcome.etag.as_bytes());
            put_optional_checksum(outcome.checksum.as_ref(), head);
            head.put_u64_le(outcome.size);
            head.put_u64_le(outcome.modified_unix_ms);
        }
        Reply::Parts(page) => {
            head.put_u8(9);
            head.put_list(&page.parts, |head, part| {
                head.put_u16_le(part.number);
                head.put_u64_le(part.size);
                head.put_bytes_of(part.etag.as_bytes());
                head.put_u64_le(part.modified_unix_ms);
                put_optional_checksum(part.checksum.as_ref(), head);
            });
            head.put_optional(page.next, BytesMut::put_u16_le);
            put_chosen(page.checksum, head);
        }
        Reply::Uploads(page) => {
            head.put_u8(10);
            head.put_list(&page.uploads, |head, upload| {
                head.put_bytes_of(upload.key.as_bytes());
                head.put_slice(upload.upload.as_bytes());
                head.put_u64_le(upload.initiated_unix_ms);
                put_chosen(upload.checksum, head);
            });
            head.put_list(&page.prefixes, |head, prefix| head.put_bytes_of(prefix.as_bytes()));
            put_upload_marker(&page.next, head);
        }
        Reply::Refers(refers) => {
            head.put_u8(11);
            head.put_bool(*refers);
        }
        Reply::InUse(objects) => {
            head.put_u8(12);
            head.put_list(objects, |head, object| head.put_slice(object.as_bytes()));
        }
        Reply::Pulse(pulse) => {
            head.put_u8(14);
            put_pulse(pulse, head);
        }
        Reply::Root(state) => {
            head.put_u8(15);
            put_root_state(state, head);
        }
        // 13 was another answer.
        Reply::Facts(told) => {
            head.put_u8(16);
            facts::put(told, head);
        }
        Reply::NextPage(next) => {
            head.put_u8(17);
            head.put_optional(next.as_ref(), |head, row| head.put_bytes_of(row));
        }
    }
}

fn get_reply(fields: &mut Fields, blocks: &mut Blocks) -> Result<Reply, BadWire> {
    Ok(match fields.u8()? {
        1 => Reply::Done,
        2 => Reply::Attempt(fields.u64()?),
        3 => Reply::Blocks(fields.list(|fields| {
            let len = fields.u32()?;
            Ok(Block { data: blocks.take(len as usize)?, len })
        })?),
        4 => {
            let manifest = Arc::new(Manifest::decode(&fields.bytes()?)?);
            Reply::Object(manifest, fields.optional(|fields| get_body(fields, blocks))?)
        }
        5 => {
            let mut count = 0;
            Reply::Deleted(fields.list(|fields| {
                count += 1;
                if count > DELETED_MAX {
                    // One byte is a result of many in memory.
                    return Err(BadWire::Range("the number of deleted keys"));
                }
                let error = fields.optional(|fields| get_error(fields, 0))?;
                Ok(error.map_or(Ok(()), Err))
            })?)
        }
        6 => Reply::Listed { entries: fields.list(get_entry)?, more: fields.bool()? },
        7 => Reply::Upload(Box::new(UploadRecord::decode(&fields.bytes()?)?)),
        8 => Reply::Completed(Box::new(PutOutcome {
            etag: fields.text()?,
            checksum: fields.optional(Fields::checksum)?,
            size: fields.u64()?,
            modified_unix_ms: fields.u64()?,
        })),
        9 => Reply::Parts(Box::new(PartsPage {
            parts: fields.list(|fields| {
                Ok(PartInfo {
                    number: fields.u16()?,
                    size: fields.u64()?,
                    etag: fields.text()?,
                    modified_unix_ms: fields.u64()?,
                    checksum: fields.optional(Fields::checksum)?,
                })
            })?,
            next: fields.optional(Fields::u16)?,
            checksum: get_chosen(fields)?,
        })),
        10 => Reply::Uploads(Box::new(UploadsPage {
            uploads: fields.list(|fields| {
                Ok(UploadInfo {
                    key: fields.text()?,
                    upload: UploadId::from_bytes(fields.id()?),
                    initiated_unix_ms: fields.u64()?,
                    checksum: get_chosen(fields)?,
                })
            })?,
            prefixes: fields.list(Fields::text)?,
            next: get_upload_marker(fields)?,
        })),
        11 => Reply::Refers(fields.bool()?),
        12 => Reply::InUse(fields.list(|fields| Ok(ObjectId::from_bytes(fields.id()?)))?),
        14 => Reply::Pulse(Box::new(get_pulse(fields)?)),
        15 => Reply::Root(Arc::new(get_root_state(fields)?)),
        16 => Reply::Facts(Box::new(facts::get(fields)?)),
        17 => Reply::NextPage(fields.optional(Fields::bytes)?),
        number => return Err(BadWire::Unknown { what: "answer", number }),
    })
}

fn get_entry(fields: &mut Fields) -> Result<ListEntry, BadWire> {
    Ok(match fields.u8()? {
        1 => ListEntry::Object(ObjectSummary {
            key: fields.text()?,
            size: fields.u64()?,
            etag: fields.text()?,
            modified_unix_ms: fields.u64()?,
            checksum: get_chosen(fields)?,
        }),
        2 => ListEntry::Prefix(fields.text()?),
        number => return Err(BadWire::Unknown { what: "line of a listing", number }),
    })
}

type Chosen = Option<(ChecksumAlgorithm, ChecksumKind)>;

fn put_chosen(checksum: Chosen, head: &mut BytesMut) {
    head.put_optional(checksum, |head, (algorithm, kind)| {
        head.put_algorithm(algorithm);
        head.put_checksum_kind(kind);
    });
}

fn get_chosen(fields: &mut Fields) -> Result<Chosen, BadWire> {
    fields.optional(|fields| Ok((fields.algorithm()?, fields.checksum_kind()?)))
}

fn put_optional_checksum(checksum: Option<&Checksum>, head: &mut BytesMut) {
    head.put_optional(checksum, BytesMut::put_checksum);
}

type UploadMarker = Option<(String, Option<UploadId>)>;

pub(super) fn put_upload_marker(marker: &UploadMarker, head: &mut BytesMut) {
    head.put_optional(marker.as_ref(), |head, (key, upload)| {
        head.put_bytes_of(key.as_bytes());
        head.put_optional(*upload, |head, upload| head.put_slice(upload.as_bytes()));
    });
}

pub(super) fn get_upload_marker(fields: &mut Fields) -> Result<UploadMarker, BadWire> {
    fields.optional(|fields| {
        let key = fields.text()?;
        Ok((key, fields.optional(|fields| Ok(UploadId::from_bytes(fields.id()?)))?))
    })
}

fn put_pulse(pulse: &Pulse, head: &mut BytesMut) {
    head.put_u16_le(pulse.cores);
    head.put_u64_le(pulse.generation);
    head.put_optional(pulse.root_version, BytesMut::put_u64_le);
    head.put_list(&pulse.disks, |head, DiskPulse { disk, state, reason }| {
        head.put_u16_le(*disk);
        head.put_u8(state.number());
        head.put_bytes_of(reason.as_bytes());
    });
    head.put_list(&pulse.leaders, |head, leadership| put_leadership(leadership, head));
    head.put_optional(pulse.to_most, BytesMut::put_round_trip);
}

fn get_pulse(fields: &mut Fields) -> Result<Pulse, BadWire> {
    Ok(Pulse {
        cores: fields.u16()?,
        generation: fields.u64()?,
        root_version: fields.optional(Fields::u64)?,
        disks: fields.list(|fields| {
            let disk = fields.u16()?;
            let state = DiskState::from_number(fields.u8()?).ok_or(BadWire::Range("a disk's state"))?;
            Ok(DiskPulse { disk, state, reason: fields.text()? })
        })?,
        leaders: fields.list(get_leadership)?,
        to_most: fields.optional(Fields::round_trip)?,
    })
}

fn put_leadership(leadership: &Leadership, head: &mut BytesMut) {
    head.put_u32_le(leadership.group.0);
    head.put_u16_le(leadership.disk);
    head.put_u64_le(leadership.term);
}

fn get_leadership(fields: &mut Fields) -> Result<Leadership, BadWire> {
    Ok(Leadership { group: GroupId(fields.u32()?), disk: fields.u16()?, term: fields.u64()? })
}

fn put_refusal(refusal: &Refusal, head: &mut BytesMut) {
    match refusal {
        Refusal::ChunkMissing => head.put_u8(1),
        Refusal::ChunkDamaged => head.put_u8(2),
        Refusal::DiskFailed => head.put_u8(3),
        Refusal::NoSpace => head.put_u8(4),
        Refusal::NotLeader => head.put_u8(5),
        Refusal::Elsewhere(disk) => {
            head.put_u8(6);
            head.put_u16_le(*disk);
        }
        Refusal::Overloaded => head.put_u8(7),
        Refusal::Unknown => head.put_u8(8),
        Refusal::Object(error) => {
            head.put_u8(9);
            put_error(error, head, 0);
        }
        Refusal::LedBy(leadership) => {
            head.put_u8(10);
            put_leadership(leadership, head);
        }
        Refusal::Unreachable => head.put_u8(11),
    }
}

fn get_refusal(fields: &mut Fields) -> Result<Refusal, BadWire> {
    Ok(match fields.u8()? {
        1 => Refusal::ChunkMissing,
        2 => Refusal::ChunkDamaged,
        3 => Refusal::DiskFailed,
        4 => Refusal::NoSpace,
        5 => Refusal::NotLeader,
        6 => Refusal::Elsewhere(fields.u16()?),
        7 => Refusal::Overloaded,
        8 => Refusal::Unknown,
        9 => Refusal::Object(get_error(fields, 0)?),
        10 => Refusal::LedBy(get_leadership(fields)?),
        11 => Refusal::Unreachable,
        number => return Err(BadWire::Unknown { what: "refusal", number }),
    })
}

fn put_error(error: &ObjectError, head: &mut BytesMut, depth: u32) {
    let mut with_text = |number: u8, text: &str| {
        head.put_u8(number);
        head.put_bytes_of(text.as_bytes());
    };
    match error {
        ObjectError::NoSuchBucket => head.put_u8(1),
        ObjectError::BucketExists => head.put_u8(2),
        ObjectError::BucketNotEmpty => head.put_u8(3),
        ObjectError::OperationAborted => head.put_u8(4),
        ObjectError::NoSuchKey => head.put_u8(5),
        ObjectError::PreconditionFailed => head.put_u8(6),
        ObjectError::NoSuchUpload => head.put_u8(7),
        ObjectError::InvalidPart { number } => {
            head.put_u8(8);
            head.put_u16_le(*number);
        }
        ObjectError::InvalidPartOrder => head.put_u8(9),
        ObjectError::PartTooSmall { number, size, minimum } => {
            head.put_u8(10);
            head.put_u16_le(*number);
            head.put_u64_le(*size);
            head.put_u64_le(*minimum);
        }
        ObjectError::BadDigest => head.put_u8(11),
        ObjectError::BadChecksum { algorithm } => {
            head.put_u8(12);
            head.put_algorithm(*algorithm);
        }
        ObjectError::TooLarge => head.put_u8(13),
        ObjectError::Body(BodyError::Incomplete) => head.put_u8(14),
        ObjectError::Body(BodyError::Timeout) => head.put_u8(15),
        ObjectError::Body(BodyError::Invalid(text)) => with_text(16, text),
        ObjectError::Body(BodyError::Source(source)) if depth < NESTED_ERRORS_MAX => {
            head.put_u8(17);
            put_error(source, head, depth + 1);
        }
        deep @ ObjectError::Body(BodyError::Source(_)) => with_text(22, &deep.to_string()),
        ObjectError::SlowDown => head.put_u8(18),
        ObjectError::Unavailable(text) => with_text(19, text),
        ObjectError::NoSpace => head.put_u8(20),
        ObjectError::Conflict(text) => with_text(21, text),
        ObjectError::Internal(text) => with_text(22, text),
        ObjectError::TooManyBuckets => head.put_u8(23),
    }
}

fn get_error(fields: &mut Fields, depth: u32) -> Result<ObjectError, BadWire> {
    Ok(match fields.u8()? {
        1 => ObjectError::NoSuchBucket,
        2 => ObjectError::BucketExists,
        3 => ObjectError::BucketNotEmpty,
        4 => ObjectError::OperationAborted,
        5 => ObjectError::NoSuchKey,
        6 => ObjectError::PreconditionFailed,
        7 => ObjectError::NoSuchUpload,
        8 => ObjectError::InvalidPart { number: fields.u16()? },
        9 => ObjectError::InvalidPartOrder,
        10 => {
            ObjectError::PartTooSmall { number: fields.u16()?, size: fields.u64()?, minimum: fields.u64()? }
        }
        11 => ObjectError::BadDigest,
        12 => ObjectError::BadChecksum { algorithm: fields.algorithm()? },
        13 => ObjectError::TooLarge,
        14 => ObjectError::Body(BodyError::Incomplete),
        15 => ObjectError::Body(BodyError::Timeout),
        16 => ObjectError::Body(BodyError::Invalid(fields.text()?)),
        17 if depth < NESTED_ERRORS_MAX => {
            ObjectError::Body(BodyError::Source(Box::new(get_error(fields, depth + 1)?)))
        }
        17 => return Err(BadWire::Range("the depth of an error")),
        18 => ObjectError::SlowDown,
        19 => ObjectError::Unavailable(fields.text()?),
        20 => ObjectError::NoSpace,
        21 => ObjectError::Conflict(fields.text()?),
        22 => ObjectError::Internal(fields.text()?),
        23 => ObjectError::TooManyBuckets,
        number => return Err(BadWire::Unknown { what: "error", number }),
    })
}
