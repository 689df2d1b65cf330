//! PutObject and UploadPart: from the body to a durable manifest.

use super::api::{
    BodySource, ChecksumAlgorithm, ObjectError, PartInfo, PutOutcome, PutRequest, UploadPartRequest,
};
use super::digest::{BodyDigest, Digested};
use super::store::Store;
use crate::chunk::{drop_part, write_part};
use crate::core::Core;
use crate::counters::count;
use crate::manifest::{Body, ChunkOwner, ETag, Manifest, Part, PartRecord, Placement};
use crate::message::{PartitionOp, Reply};
use buckets_ring::id::ObjectId;
use bytes::{Bytes, BytesMut};
use std::rc::Rc;

/// Largest body of one PUT or one part (AWS: 5 GiB).
const PUT_BYTES_MAX: u64 = 5 << 30;

impl Store {
    /// Makes the body the current version of its key. Durable when this returns.
    pub async fn put<B: BodySource>(
        &self,
        request: PutRequest,
        body: &mut B,
    ) -> Result<PutOutcome, ObjectError> {
        let core = &self.core;
        let bucket = self.known_bucket(&request.bucket)?;
        check_length(request.length)?;
        let algorithm = request.checksum.as_ref().map_or(ChecksumAlgorithm::Crc64Nvme, |c| c.algorithm);
        let mut digest = BodyDigest::new(algorithm);
        let object = ObjectId::from_random(core.env.random_id());
        let owner = ChunkOwner { bucket, key: request.key.clone(), upload: None };

        let stored = store_body(core, object, &owner, request.length, body, &mut digest, true).await?;
        let trailing = body.trailing_checksum();
        let digested = match digest.finish(request.content_md5, request.checksum.as_ref(), trailing) {
            Ok(digested) => digested,
            Err(error) => {
                discard(core, &stored).await;
                return Err(error);
            }
        };

        let manifest = Manifest {
            object,
            size: digested.size,
            etag: ETag { md5: digested.md5, parts: 0 },
            modified_unix_ms: core.env.unix_millis(),
            headers: request.headers,
            checksum: Some(digested.checksum),
            body: match &stored {
                Stored::Inline(_) => Body::Inline,
                Stored::Chunked(part) => Body::Chunked(vec![part.clone()]),
            },
        };
        let outcome = PutOutcome {
            etag: manifest.etag.text(),
            checksum: manifest.checksum.clone(),
            size: manifest.size,
            modified_unix_ms: manifest.modified_unix_ms,
        };
        let inline = match &stored {
            Stored::Inline(row) => Some(row.clone()),
            Stored::Chunked(_) => None,
        };
        let op = PartitionOp::Put {
            bucket,
            key: request.key.clone(),
            manifest: Box::new(manifest),
            inline,
            condition: request.condition,
        };
        commit(core, op, &stored, &owner).await?;
        count(&core.counters.bytes_written, outcome.size);
        Ok(outcome)
    }

    /// Stores a part of an upload. Durable when this returns.
    pub async fn upload_part<B: BodySource>(
        &self,
        request: UploadPartRequest,
        body: &mut B,
    ) -> Result<PartInfo, ObjectError> {
        let core = &self.core;
        let bucket = self.known_bucket(&request.bucket)?;
        check_length(request.length)?;
        let group = core.map.group_for(bucket, &request.key);
        let asked = PartitionOp::GetUpload { bucket, key: request.key.clone(), upload: request.upload };
        let Reply::Upload(upload) = core.ask_group(group, asked).await? else {
            return Err(ObjectError::Internal("an upload was asked for".into()));
        };
        let algorithm = request
            .checksum
            .as_ref()
            .map(|c| c.algorithm)
            .or(upload.checksum.map(|(algorithm, _)| algorithm))
            .unwrap_or(ChecksumAlgorithm::Crc64Nvme);
        let mut digest = BodyDigest::new(algorithm);
        let object = ObjectId::from_random(core.env.random_id());
        let owner =
            ChunkOwner { bucket, key: request.key.clone(), upload: Some((request.upload, request.number)) };
        let stored = store_body(core, object, &owner, request.length, body, &mut digest, false).await?;
        let trailing = body.trailing_checksum();
        let Digested { md5, checksum, size } =
            match digest.finish(request.content_md5, request.checksum.as_ref(), trailing) {
                Ok(digested) => digested,
                Err(error) => {
                    discard(core, &stored).await;
                    return Err(error);
                }
            };
        let part = match &stored {
            Stored::Chunked(part) => Part { number: request.number, ..part.clone() },
            Stored::Inline(_) => empty_part(object, request.number),
        };
        let record = PartRecord {
            md5,
            modified_unix_ms: core.env.unix_millis(),
            checksum: Some(checksum.clone()),
            part,
        };
        let info = PartInfo {
            number: request.number,
            size,
            etag: ETag { md5, parts: 0 }.text(),
            modified_unix_ms: record.modified_unix_ms,
            checksum: Some(checksum),
        };
        let op = PartitionOp::PutPart {
            bucket,
            key: request.key,
            upload: request.upload,
            record: Box::new(record),
        };
        commit(core, op, &stored, &owner).await?;
        count(&core.counters.bytes_written, size);
        Ok(info)
    }
}

/// Where a body went.
enum Stored {
    /// The value of its inline row: the object's id and the body.
    Inline(Bytes),
    /// On the disks, not yet referred to.
    Chunked(Part),
}

/// Reads the whole body, inline where it is small.
async fn store_body<B: BodySource>(
    core: &Rc<Core>,
    object: ObjectId,
    owner: &ChunkOwner,
    length: Option<u64>,
    body: &mut B,
    digest: &mut BodyDigest,
    may_inline: bool,
) -> Result<Stored, ObjectError> {
    let inline_max = if may_inline { core.map.inline_bytes_max } else { 0 };
    match length {
        Some(length) if length <= inline_max as u64 => {
            let mut row = inline_row(object, length as usize);
            let mut filled = 16;
            while filled < row.len() {
                let n = body.fill(&mut row[filled..]).await?;
                if n == 0 {
                    return Err(super::api::BodyError::Incomplete.into());
                }
                filled += n;
            }
            if body.fill(&mut [0]).await? != 0 {
                let longer = super::api::BodyError::Invalid("the body is longer than announced".into());
                return Err(longer.into());
            }
            digest.update(&row[16..]);
            Ok(Stored::Inline(row.freeze()))
        }
        Some(_) => Ok(Stored::Chunked(write_part(core, object, owner, length, body, digest).await?)),
        None => {
            let mut head = inline_row(object, inline_max + 1);
            let mut filled = 16;
            while filled < head.len() {
                let n = body.fill(&mut head[filled..]).await?;
                if n == 0 {
                    head.truncate(filled);
                    digest.update(&head[16..]);
                    return Ok(Stored::Inline(head.freeze()));
                }
                filled += n;
            }
            let mut body = Preceded { head: &head[16..], body };
            Ok(Stored::Chunked(write_part(core, object, owner, None, &mut body, digest).await?))
        }
    }
}

fn inline_row(object: ObjectId, len: usize) -> BytesMut {
    let mut row = BytesMut::zeroed(16 + len);
    row[..16].copy_from_slice(object.as_bytes());
    row
}

/// A body of unknown length of which the first bytes were read already.
struct Preceded<'a, B> {
    head: &'a [u8],
    body: &'a mut B,
}

impl<B: BodySource> BodySource for Preceded<'_, B> {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, super::api::BodyError> {
        if self.head.is_empty() {
            return self.body.fill(buf).await;
        }
        let n = self.head.len().min(buf.len());
        let (now, later) = self.head.split_at(n);
        buf[..n].copy_from_slice(now);
        self.head = later;
        Ok(n)
    }
}

/// Puts the manifest into its partition; only then do the chunks belong to somebody.
async fn commit(
    core: &Rc<Core>,
    op: PartitionOp,
    stored: &Stored,
    owner: &ChunkOwner,
) -> Result<(), ObjectError> {
    match core.ask_group(core.map.group_for(owner.bucket, &owner.key), op).await {
        Ok(_) => {
            if let Stored::Chunked(part) = stored {
                core.confirm_chunks(part, owner);
            }
            Ok(())
        }
        Err(refusal) => {
            if refusal.is_definite() {
                discard(core, stored).await;
            }
            // Where it may have happened the chunks stay; a restart finds out whether they belong to somebody.
            Err(refusal.into())
        }
    }
}

async fn discard(core: &Rc<Core>, stored: &Stored) {
    if let Stored::Chunked(part) = stored {
        drop_part(core, part).await;
    }
}

fn check_length(length: Option<u64>) -> Result<(), ObjectError> {
    match length {
        Some(length) if length > PUT_BYTES_MAX => Err(ObjectError::TooLarge),
        _ => Ok(()),
    }
}

/// A part of no bytes has no chunks.
fn empty_part(object: ObjectId, number: u16) -> Part {
    let placement = Placement { set: 0, k: 1, m: 0, block_bytes: 4096, disks: vec![0], missing: 1 };
    Part { object, number, size: 0, placement }
}
