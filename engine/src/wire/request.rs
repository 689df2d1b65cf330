//! Questions.

use super::BadWire;
use super::fields::{Blocks, Fields, PutFields, get_body, put_body};
use crate::manifest::{ChunkOwner, GarbageRecord, Manifest, PartRecord, UploadRecord};
use crate::message::{ChunkName, ListRun, PartitionOp, Removal, Request, RootOp};
use crate::object::api::{BucketInfo, CompletePart, ListUploadsRequest, User, WriteCondition};
use crate::root::{BucketRecord, RootState};
use buckets_env::AlignedBytes;
use buckets_ring::id::{BucketId, GroupId, ObjectId, UploadId};
use bytes::{BufMut, BytesMut};
use std::sync::Arc;

pub(super) fn put(request: &Request, head: &mut BytesMut, payload: &mut Vec<AlignedBytes>) {
    match request {
        Request::ChunkAppend { disk, chunk, block, data, len, finish } => {
            head.put_u8(1);
            put_chunk(*disk, *chunk, head);
            head.put_u32_le(*block);
            head.put_u32_le(*len);
            head.put_size(data.len());
            head.put_optional(finish.as_ref(), |head, owner| head.put_bytes_of(owner));
            payload.push(data.clone());
        }
        Request::ChunkFinish { disk, chunk, owner } => {
            head.put_u8(2);
            put_chunk(*disk, *chunk, head);
            head.put_bytes_of(owner);
        }
        Request::ChunkRead { disk, chunk, block, count } => {
            head.put_u8(3);
            put_chunk(*disk, *chunk, head);
            head.put_u32_le(*block);
            head.put_u32_le(*count);
        }
        Request::ChunkDrop { disk, chunk } => {
            head.put_u8(4);
            put_chunk(*disk, *chunk, head);
        }
        Request::ChunkConfirm { disk, chunk } => {
            head.put_u8(5);
            put_chunk(*disk, *chunk, head);
        }
        Request::Partition { group, op, salvage } => {
            head.put_u8(6);
            head.put_u32_le(group.0);
            head.put_bool(*salvage);
            put_partition_op(op, head, payload);
        }
        Request::Root(op) => {
            head.put_u8(7);
            put_root_op(op, head);
        }
        Request::PublishRoot(state) => {
            head.put_u8(8);
            put_root_state(state, head);
        }
        Request::InUse(objects) => {
            head.put_u8(9);
            head.put_list(objects, |head, object| head.put_slice(object.as_bytes()));
        }
        Request::Pulse => head.put_u8(11),
        Request::GetRoot => head.put_u8(12),
        Request::ChunkAbort { disk, chunk } => {
            head.put_u8(13);
            put_chunk(*disk, *chunk, head);
        }
        // 10 was another question.
        Request::Facts => head.put_u8(14),
        Request::Drain(draining) => {
            head.put_u8(15);
            head.put_bool(*draining);
        }
        Request::FoundFar { by, took } => {
            head.put_u8(16);
            head.put_u16_le(*by);
            head.put_round_trip(*took);
        }
    }
}

pub(super) fn get(fields: &mut Fields, blocks: &mut Blocks) -> Result<Request, BadWire> {
    Ok(match fields.u8()? {
        1 => {
            let (disk, chunk) = get_chunk(fields)?;
            let (block, len) = (fields.u32()?, fields.u32()?);
            let data = blocks.take(fields.size()?)?;
            if !data.is_aligned() || len as usize > data.len() {
                return Err(BadWire::Payload);
            }
            let finish = fields.optional(Fields::bytes)?;
            Request::ChunkAppend { disk, chunk, block, data, len, finish }
        }
        2 => {
            let (disk, chunk) = get_chunk(fields)?;
            Request::ChunkFinish { disk, chunk, owner: fields.bytes()? }
        }
        3 => {
            let (disk, chunk) = get_chunk(fields)?;
            Request::ChunkRead { disk, chunk, block: fields.u32()?, count: fields.u32()? }
        }
        4 => {
            let (disk, chunk) = get_chunk(fields)?;
            Request::ChunkDrop { disk, chunk }
        }
        5 => {
            let (disk, chunk) = get_chunk(fields)?;
            Request::ChunkConfirm { disk, chunk }
        }
        6 => {
            let (group, salvage) = (GroupId(fields.u32()?), fields.bool()?);
            Request::Partition { group, op: get_partition_op(fields, blocks)?, salvage }
        }
        7 => Request::Root(get_root_op(fields)?),
        8 => Request::PublishRoot(Arc::new(get_root_state(fields)?)),
        9 => Request::InUse(fields.list(|fields| Ok(ObjectId::from_bytes(fields.id()?)))?),
        11 => Request::Pulse,
        12 => Request::GetRoot,
        13 => {
            let (disk, chunk) = get_chunk(fields)?;
            Request::ChunkAbort { disk, chunk }
        }
        14 => Request::Facts,
        15 => Request::Drain(fields.bool()?),
        16 => Request::FoundFar { by: fields.u16()?, took: fields.round_trip()? },
        number => return Err(BadWire::Unknown { what: "question", number }),
    })
}

fn put_chunk(disk: u16, chunk: ChunkName, head: &mut BytesMut) {
    head.put_u16_le(disk);
    head.put_slice(chunk.object.as_bytes());
    head.put_u8(chunk.number);
}

fn get_chunk(fields: &mut Fields) -> Result<(u16, ChunkName), BadWire> {
    let disk = fields.u16()?;
    Ok((disk, ChunkName { object: ObjectId::from_bytes(fields.id()?), number: fields.u8()? }))
}

fn put_key(bucket: BucketId, key: &str, head: &mut BytesMut) {
    head.put_slice(bucket.as_bytes());
    head.put_bytes_of(key.as_bytes());
}

fn get_bucket(fields: &mut Fields) -> Result<BucketId, BadWire> {
    fields.id().map(BucketId::from_bytes)
}

fn get_upload(fields: &mut Fields) -> Result<UploadId, BadWire> {
    fields.id().map(UploadId::from_bytes)
}

fn put_partition_op(op: &PartitionOp, head: &mut BytesMut, payload: &mut Vec<AlignedBytes>) {
    match op {
        PartitionOp::Get { bucket, key, body } => {
            head.put_u8(1);
            put_key(*bucket, key, head);
            head.put_bool(*body);
        }
        PartitionOp::Put { bucket, key, manifest, inline, condition } => {
            head.put_u8(2);
            put_key(*bucket, key, head);
            head.put_bytes_of(&manifest.encode());
            head.put_optional(inline.as_ref(), |head, body| put_body(body, head, payload));
            put_condition(condition, head);
        }
        PartitionOp::Delete { bucket, keys, condition } => {
            head.put_u8(3);
            head.put_slice(bucket.as_bytes());
            head.put_list(keys, |head, key| head.put_bytes_of(key.as_bytes()));
            put_condition(condition, head);
        }
        PartitionOp::List(ListRun { bucket, prefix, delimiter, after, limit }) => {
            head.put_u8(4);
            put_key(*bucket, prefix, head);
            put_optional_text(delimiter.as_deref(), head);
            put_optional_text(after.as_deref(), head);
            head.put_size(*limit);
        }
        PartitionOp::CreateUpload { bucket, key, upload, record } => {
            head.put_u8(5);
            put_key(*bucket, key, head);
            head.put_slice(upload.as_bytes());
            head.put_bytes_of(&record.encode());
        }
        PartitionOp::GetUpload { bucket, key, upload } => {
            head.put_u8(6);
            put_key(*bucket, key, head);
            head.put_slice(upload.as_bytes());
        }
        PartitionOp::PutPart { bucket, key, upload, record } => {
            head.put_u8(7);
            put_key(*bucket, key, head);
            head.put_slice(upload.as_bytes());
            head.put_bytes_of(&record.encode());
        }
        PartitionOp::CompleteUpload {
            bucket,
            key,
            upload,
            object,
            parts,
            checksum,
            condition,
            modified_unix_ms,
        } => {
            head.put_u8(8);
            put_key(*bucket, key, head);
            head.put_slice(upload.as_bytes());
            head.put_slice(object.as_bytes());
            head.put_list(parts, |head, part| {
                head.put_u16_le(part.number);
                head.put_bytes_of(part.etag.as_bytes());
                put_expected(&part.checksum, head);
            });
            put_expected(checksum, head);
            put_condition(condition, head);
            head.put_u64_le(*modified_unix_ms);
        }
        PartitionOp::AbortUpload { bucket, key, upload } => {
            head.put_u8(9);
            put_key(*bucket, key, head);
            head.put_slice(upload.as_bytes());
        }
        PartitionOp::ListParts { bucket, key, upload, after, max } => {
            head.put_u8(10);
            put_key(*bucket, key, head);
            head.put_slice(upload.as_bytes());
            head.put_u16_le(*after);
            head.put_size(*max);
        }
        PartitionOp::ListUploads {
            bucket,
            request: ListUploadsRequest { prefix, delimiter, after, max_uploads },
        } => {
            head.put_u8(11);
            put_key(*bucket, prefix, head);
            put_optional_text(delimiter.as_deref(), head);
            super::answer::put_upload_marker(after, head);
            head.put_size(*max_uploads);
        }
        PartitionOp::Seal { bucket, attempt } => {
            head.put_u8(12);
            head.put_slice(bucket.as_bytes());
            head.put_u64_le(*attempt);
        }
        PartitionOp::Unseal { bucket, attempt } => {
            head.put_u8(13);
            head.put_slice(bucket.as_bytes());
            head.put_u64_le(*attempt);
        }
        PartitionOp::Refers { owner, object } => {
            head.put_u8(14);
            head.put_bytes_of(&owner.encode());
            head.put_slice(object.as_bytes());
        }
        PartitionOp::Discard { garbage } => {
            head.put_u8(15);
            head.put_bytes_of(&garbage.encode());
        }
        PartitionOp::Suspect { owner, object, chunks } => {
            head.put_u8(16);
            head.put_bytes_of(&owner.encode());
            head.put_slice(object.as_bytes());
            head.put_u32_le(*chunks);
        }
        PartitionOp::ListLost { disk, from } => {
            head.put_u8(17);
            head.put_u16_le(*disk);
            head.put_bytes_of(from);
        }
        PartitionOp::HasLost { disk } => {
            head.put_u8(18);
            head.put_u16_le(*disk);
        }
    }
}

fn get_partition_op(fields: &mut Fields, blocks: &mut Blocks) -> Result<PartitionOp, BadWire> {
    Ok(match fields.u8()? {
        1 => PartitionOp::Get { bucket: get_bucket(fields)?, key: fields.text()?, body: fields.bool()? },
        2 => PartitionOp::Put {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            manifest: Box::new(Manifest::decode(&fields.bytes()?)?),
            inline: fields.optional(|fields| get_body(fields, blocks))?,
            condition: get_condition(fields)?,
        },
        3 => PartitionOp::Delete {
            bucket: get_bucket(fields)?,
            keys: fields.list(Fields::text)?,
            condition: get_condition(fields)?,
        },
        4 => PartitionOp::List(ListRun {
            bucket: get_bucket(fields)?,
            prefix: fields.text()?,
            delimiter: fields.optional(Fields::text)?,
            after: fields.optional(Fields::text)?,
            limit: fields.size()?,
        }),
        5 => PartitionOp::CreateUpload {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            upload: get_upload(fields)?,
            record: UploadRecord::decode(&fields.bytes()?)?,
        },
        6 => PartitionOp::GetUpload {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            upload: get_upload(fields)?,
        },
        7 => PartitionOp::PutPart {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            upload: get_upload(fields)?,
            record: Box::new(PartRecord::decode(&fields.bytes()?)?),
        },
        8 => PartitionOp::CompleteUpload {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            upload: get_upload(fields)?,
            object: ObjectId::from_bytes(fields.id()?),
            parts: fields.list(|fields| {
                Ok(CompletePart {
                    number: fields.u16()?,
                    etag: fields.text()?,
                    checksum: get_expected(fields)?,
                })
            })?,
            checksum: get_expected(fields)?,
            condition: get_condition(fields)?,
            modified_unix_ms: fields.u64()?,
        },
        9 => PartitionOp::AbortUpload {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            upload: get_upload(fields)?,
        },
        10 => PartitionOp::ListParts {
            bucket: get_bucket(fields)?,
            key: fields.text()?,
            upload: get_upload(fields)?,
            after: fields.u16()?,
            max: fields.size()?,
        },
        11 => PartitionOp::ListUploads {
            bucket: get_bucket(fields)?,
            request: ListUploadsRequest {
                prefix: fields.text()?,
                delimiter: fields.optional(Fields::text)?,
                after: super::answer::get_upload_marker(fields)?,
                max_uploads: fields.size()?,
            },
        },
        12 => PartitionOp::Seal { bucket: get_bucket(fields)?, attempt: fields.u64()? },
        13 => PartitionOp::Unseal { bucket: get_bucket(fields)?, attempt: fields.u64()? },
        14 => PartitionOp::Refers {
            owner: ChunkOwner::decode(&fields.bytes()?)?,
            object: ObjectId::from_bytes(fields.id()?),
        },
        15 => PartitionOp::Discard { garbage: GarbageRecord::decode(&fields.bytes()?)? },
        16 => PartitionOp::Suspect {
            owner: ChunkOwner::decode(&fields.bytes()?)?,
            object: ObjectId::from_bytes(fields.id()?),
            chunks: fields.u32()?,
        },
        17 => PartitionOp::ListLost { disk: fields.u16()?, from: fields.bytes()? },
        18 => PartitionOp::HasLost { disk: fields.u16()? },
        number => return Err(BadWire::Unknown { what: "question to a partition", number }),
    })
}

fn put_optional_text(text: Option<&str>, head: &mut BytesMut) {
    head.put_optional(text, |head, text| head.put_bytes_of(text.as_bytes()));
}

type Expected = Option<(crate::object::api::ChecksumAlgorithm, Vec<u8>)>;

fn put_expected(checksum: &Expected, head: &mut BytesMut) {
    head.put_optional(checksum.as_ref(), |head, (algorithm, value)| {
        head.put_algorithm(*algorithm);
        head.put_bytes_of(value);
    });
}

fn get_expected(fields: &mut Fields) -> Result<Expected, BadWire> {
    fields.optional(|fields| Ok((fields.algorithm()?, fields.bytes()?.to_vec())))
}

fn put_condition(condition: &WriteCondition, head: &mut BytesMut) {
    match condition {
        WriteCondition::Always => head.put_u8(1),
        WriteCondition::IfAbsent => head.put_u8(2),
        WriteCondition::IfMatch(etag) => {
            head.put_u8(3);
            head.put_bytes_of(etag.as_bytes());
        }
    }
}

fn get_condition(fields: &mut Fields) -> Result<WriteCondition, BadWire> {
    Ok(match fields.u8()? {
        1 => WriteCondition::Always,
        2 => WriteCondition::IfAbsent,
        3 => WriteCondition::IfMatch(fields.text()?),
        number => return Err(BadWire::Unknown { what: "condition", number }),
    })
}

fn put_root_op(op: &RootOp, head: &mut BytesMut) {
    match op {
        RootOp::CreateBucket { name, location, id, created_unix_ms } => {
            head.put_u8(1);
            put_key(*id, name, head);
            head.put_bytes_of(location.as_bytes());
            head.put_u64_le(*created_unix_ms);
        }
        RootOp::MarkDeleting { name, id } => {
            head.put_u8(2);
            put_key(*id, name, head);
        }
        RootOp::CheckEnded { id, attempt } => {
            head.put_u8(3);
            head.put_slice(id.as_bytes());
            head.put_u64_le(*attempt);
        }
        RootOp::UnmarkDeleting(removal) => {
            head.put_u8(4);
            put_removal(removal, head);
        }
        RootOp::RemoveBucket(removal) => {
            head.put_u8(5);
            put_removal(removal, head);
        }
        RootOp::AddUser(user) => {
            head.put_u8(6);
            put_user(user, head);
        }
        RootOp::RemoveUser { access_key } => {
            head.put_u8(7);
            head.put_bytes_of(access_key.as_bytes());
        }
    }
}

fn get_root_op(fields: &mut Fields) -> Result<RootOp, BadWire> {
    Ok(match fields.u8()? {
        1 => RootOp::CreateBucket {
            id: get_bucket(fields)?,
            name: fields.text()?,
            location: fields.text()?,
            created_unix_ms: fields.u64()?,
        },
        2 => RootOp::MarkDeleting { id: get_bucket(fields)?, name: fields.text()? },
        3 => RootOp::CheckEnded { id: get_bucket(fields)?, attempt: fields.u64()? },
        4 => RootOp::UnmarkDeleting(get_removal(fields)?),
        5 => RootOp::RemoveBucket(get_removal(fields)?),
        6 => RootOp::AddUser(get_user(fields)?),
        7 => RootOp::RemoveUser { access_key: fields.text()? },
        number => return Err(BadWire::Unknown { what: "question to the root group", number }),
    })
}

fn put_removal(removal: &Removal, head: &mut BytesMut) {
    put_key(removal.id, &removal.name, head);
    head.put_u64_le(removal.attempt);
}

fn get_removal(fields: &mut Fields) -> Result<Removal, BadWire> {
    Ok(Removal { id: get_bucket(fields)?, name: fields.text()?, attempt: fields.u64()? })
}

fn put_user(user: &User, head: &mut BytesMut) {
    head.put_bytes_of(user.access_key.as_bytes());
    head.put_bytes_of(user.secret_key.as_bytes());
    head.put_u64_le(user.created_unix_ms);
    head.put_bool(user.is_root);
}

fn get_user(fields: &mut Fields) -> Result<User, BadWire> {
    Ok(User {
        access_key: fields.text()?,
        secret_key: fields.text()?,
        created_unix_ms: fields.u64()?,
        is_root: fields.bool()?,
    })
}

pub(super) fn put_root_state(state: &RootState, head: &mut BytesMut) {
    head.put_u64_le(state.version);
    head.put_u32_le(u32::try_from(state.buckets.len()).unwrap_or(u32::MAX));
    for record in state.buckets.values() {
        let BucketRecord { info: BucketInfo { id, name, created_unix_ms, location }, deleting } = record;
        put_key(*id, name, head);
        head.put_u64_le(*created_unix_ms);
        head.put_bytes_of(location.as_bytes());
        head.put_optional(*deleting, BytesMut::put_u64_le);
    }
    head.put_u32_le(u32::try_from(state.users.len()).unwrap_or(u32::MAX));
    state.users.values().for_each(|user| put_user(user, head));
}

pub(super) fn get_root_state(fields: &mut Fields) -> Result<RootState, BadWire> {
    let version = fields.u64()?;
    let buckets = fields.list(|fields| {
        let info = BucketInfo {
            id: get_bucket(fields)?,
            name: fields.text()?,
            created_unix_ms: fields.u64()?,
            location: fields.text()?,
        };
        Ok((info.name.clone(), BucketRecord { info, deleting: fields.optional(Fields::u64)? }))
    })?;
    let users = fields.list(|fields| {
        let user = get_user(fields)?;
        Ok((user.access_key.clone(), user))
    })?;
    Ok(RootState { version, buckets: buckets.into_iter().collect(), users: users.into_iter().collect() })
}
