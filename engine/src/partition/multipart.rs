//! Multipart uploads on the partition's leader.
//!
//! What must hold: an upload, its parts and the object it becomes are rows of one partition, so that completing is one
//! batch that moves no data; every part that the completed object does not use becomes garbage in that same batch;
//! a completed or aborted upload is gone for every later call, but for its completion asked for again.

use super::orphans;
use super::repair::note_missing;
use super::{check_condition, current_version, decoded, free, open_bucket, replace_body};
use crate::core::{Core, Lead, View};
use crate::manifest::{Body, ChunkOwner, ETag, Manifest, PartRecord, UploadRecord};
use crate::message::{Answer, PartitionOp, Refusal, Reply};
use crate::object::api::{
    Checksum, ChecksumAlgorithm, ChecksumKind, CompletePart, ListUploadsRequest, ObjectError, PartInfo,
    PartsPage, PutOutcome, UploadInfo, UploadsPage,
};
use crate::object::digest::{PartDigest, multipart_checksum, multipart_md5};
use crate::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{BucketId, GroupId, ObjectId, UploadId};
use std::ops::Bound;
use std::rc::Rc;

/// Every part but the last must have at least so many bytes (AWS: 5 MiB).
const PART_BYTES_MIN: u64 = 5 << 20;
/// Largest object (AWS: 5 TiB; newer limits are larger, clients still expect this one).
const OBJECT_BYTES_MAX: u64 = 5 << 40;

pub(super) async fn create(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    record: &UploadRecord,
) -> Answer {
    let lead = core.lead(group)?;
    let _open = open_bucket(core, &lead, group, bucket).await?;
    let mut batch = WriteBatch::new();
    batch.put(rows::upload(bucket, key.as_bytes(), upload), record.encode());
    core.propose(group, lead.term, batch).await?;
    Ok(Reply::Done)
}

pub(super) async fn get(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    salvage: bool,
) -> Answer {
    let view = core.read_view(group, salvage).await?;
    let record = upload_record(core, group, &view, bucket, key, upload).await?;
    Ok(Reply::Upload(Box::new(record)))
}

pub(super) async fn put_part(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    record: &PartRecord,
) -> Answer {
    let lead = core.lead(group)?;
    let _open = open_bucket(core, &lead, group, bucket).await?;
    // The upload's row is the latch of all that happens to the upload.
    let _latch = core.latches.lock(group, rows::upload(bucket, key.as_bytes(), upload)).await;
    upload_record(core, group, &lead.view, bucket, key, upload).await?;
    let row = rows::part(bucket, upload, record.part.number);
    let replaced = lead.view.get(&row).await.map_err(|e| core.index_refusal(group, &e))?;
    let replaced = replaced.map(|r| decoded(PartRecord::decode(&r))).transpose()?;
    if replaced.as_ref().is_some_and(|r| r.part.object == record.part.object) {
        return Ok(Reply::Done);
    }
    orphans::check_kept(core, group, &lead, std::slice::from_ref(&record.part)).await?;
    let mut batch = WriteBatch::new();
    batch.put(row, record.encode());
    let freed = replaced.and_then(|r| free(&mut batch, Some((r.part.object, std::slice::from_ref(&r.part)))));
    let upload = Some((upload, record.part.number));
    let owner = || ChunkOwner { bucket, key: key.to_owned(), upload };
    let degraded = note_missing(&mut batch, std::slice::from_ref(&record.part), owner);
    core.propose(group, lead.term, batch).await?;
    core.garbage.add(group, freed);
    core.repairs.add(group, degraded);
    Ok(Reply::Done)
}

pub(super) async fn complete(core: &Rc<Core>, group: GroupId, op: PartitionOp) -> Answer {
    let PartitionOp::CompleteUpload {
        bucket,
        key,
        upload,
        object,
        parts,
        checksum,
        condition,
        modified_unix_ms,
    } = op
    else {
        return Err(ObjectError::Internal("not a completion".into()).into());
    };
    let lead = core.lead(group)?;
    let _open = open_bucket(core, &lead, group, bucket).await?;
    let upload_row = rows::upload(bucket, key.as_bytes(), upload);
    let _upload_latch = core.latches.lock(group, upload_row.clone()).await;
    let record = match upload_record(core, group, &lead.view, bucket, &key, upload).await {
        Err(Refusal::Object(ObjectError::NoSuchUpload)) => {
            return completed_before(core, &lead, group, bucket, &key, upload, &parts).await;
        }
        record => record?,
    };
    let stored = stored_parts(core, group, &lead.view, bucket, upload).await?;
    let chosen = choose(&parts, &stored)?;

    let total = chosen.iter().map(|p| p.part.size).sum();
    if total > OBJECT_BYTES_MAX {
        return Err(ObjectError::TooLarge.into());
    }
    let manifest = Manifest {
        object,
        size: total,
        etag: ETag { md5: multipart_md5(chosen.iter().map(|p| &p.md5)), parts: chosen.len() as u16 },
        modified_unix_ms,
        headers: record.headers,
        checksum: whole_checksum(record.checksum, &chosen, checksum)?,
        body: Body::Chunked(chosen.iter().filter(|p| p.part.size > 0).map(|p| p.part.clone()).collect()),
    };

    let row = rows::object(bucket, key.as_bytes());
    let _latch = core.latches.lock(group, row.clone()).await;
    let current = current_version(core, &lead, group, &row).await?;
    check_condition(core, group, &condition, current.as_ref()).await?;
    let mut batch = WriteBatch::new();
    batch.put(row, manifest.encode());
    replace_body(&mut batch, bucket, &key, current.as_ref(), None);
    batch.delete(upload_row);
    let mut freed = Vec::new();
    for part in &stored {
        batch.delete(rows::part(bucket, upload, part.part.number));
        if !chosen.iter().any(|c| c.part.object == part.part.object) {
            freed.extend(free(&mut batch, Some((part.part.object, std::slice::from_ref(&part.part)))));
        }
    }
    freed.extend(free(&mut batch, current.as_ref().map(|c| (c.object, c.parts()))));
    core.propose(group, lead.term, batch).await?;
    core.garbage.add(group, freed);
    Ok(completed(manifest))
}

/// An upload that is gone, because it is the key's current version: whoever completes it did not hear so the first time
/// and asks again, and hears it now, whatever the condition was.
async fn completed_before(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    parts: &[CompletePart],
) -> Answer {
    let row = rows::object(bucket, key.as_bytes());
    let _latch = core.latches.lock(group, row.clone()).await;
    let current = current_version(core, lead, group, &row).await?;
    // Nothing will be proposed that would prove leadership.
    core.read_view(group, false).await?;
    match current {
        Some(current)
            if current.object == ObjectId::of_upload(upload) && etag_of(parts) == Some(current.etag) =>
        {
            Ok(completed(current))
        }
        _ => Err(ObjectError::NoSuchUpload.into()),
    }
}

fn completed(manifest: Manifest) -> Reply {
    Reply::Completed(Box::new(PutOutcome {
        etag: manifest.etag.text(),
        checksum: manifest.checksum,
        size: manifest.size,
        modified_unix_ms: manifest.modified_unix_ms,
    }))
}

/// Of the object that the listed parts become; `None` where an ETag in the list is none of a part.
fn etag_of(list: &[CompletePart]) -> Option<ETag> {
    let md5s = list.iter().map(|named| {
        let hex = Some(named.etag.as_str()).filter(|etag| etag.len() == 32)?;
        u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
    });
    let md5s = md5s.collect::<Option<Vec<[u8; 16]>>>()?;
    Some(ETag { md5: multipart_md5(md5s.iter()), parts: list.len() as u16 })
}

pub(super) async fn abort(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
) -> Answer {
    let lead = core.lead(group)?;
    let upload_row = rows::upload(bucket, key.as_bytes(), upload);
    let _latch = core.latches.lock(group, upload_row.clone()).await;
    upload_record(core, group, &lead.view, bucket, key, upload).await?;
    let stored = stored_parts(core, group, &lead.view, bucket, upload).await?;
    let mut batch = WriteBatch::new();
    batch.delete(upload_row);
    let mut freed = Vec::new();
    for part in &stored {
        batch.delete(rows::part(bucket, upload, part.part.number));
        freed.extend(free(&mut batch, Some((part.part.object, std::slice::from_ref(&part.part)))));
    }
    core.propose(group, lead.term, batch).await?;
    core.garbage.add(group, freed);
    Ok(Reply::Done)
}

#[expect(clippy::too_many_arguments, reason = "the fields of one operation, taken apart once")]
pub(super) async fn list_parts(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
    after: u16,
    max: usize,
    salvage: bool,
) -> Answer {
    let view = core.read_view(group, salvage).await?;
    let record = upload_record(core, group, &view, bucket, key, upload).await?;
    let stored = stored_parts(core, group, &view, bucket, upload).await?;
    let mut following = stored.into_iter().filter(|p| p.part.number > after);
    let parts: Vec<PartInfo> = following
        .by_ref()
        .take(max)
        .map(|p| PartInfo {
            number: p.part.number,
            size: p.part.size,
            etag: ETag { md5: p.md5, parts: 0 }.text(),
            modified_unix_ms: p.modified_unix_ms,
            checksum: p.checksum,
        })
        .collect();
    let next = following.next().is_some().then(|| parts.last().map_or(after, |p| p.number));
    Ok(Reply::Parts(Box::new(PartsPage { parts, next, checksum: record.checksum })))
}

pub(super) async fn list_uploads(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    request: &ListUploadsRequest,
    salvage: bool,
) -> Answer {
    let view = core.read_view(group, salvage).await?;
    let failed = |error| core.index_refusal(group, &error);
    let prefix_row = rows::uploads_from(bucket, request.prefix.as_bytes());
    let start = match &request.after {
        Some((key, Some(upload))) => Bound::Excluded(rows::upload(bucket, key.as_bytes(), *upload)),
        Some((key, None)) => {
            Bound::Excluded(rows::upload(bucket, key.as_bytes(), UploadId::from_bytes([0xff; 16])))
        }
        None => Bound::Included(prefix_row.clone()),
    };
    let end = rows::after_prefix(&rows::bucket_start(b'u', bucket)).map_or(Bound::Unbounded, Bound::Excluded);
    let mut scan = view.scan(start, end);
    let mut page = UploadsPage { uploads: Vec::new(), prefixes: Vec::new(), next: None };
    while let Some((row, record)) = scan.next().await.map_err(failed)? {
        let Some((key, upload)) = rows::parse_upload(&row) else { continue };
        let Ok(key) = String::from_utf8(key) else { continue };
        if !key.starts_with(&request.prefix) {
            if row < prefix_row {
                scan.seek(&prefix_row);
                continue;
            }
            break;
        }
        if page.uploads.len() == request.max_uploads {
            page.next = page.uploads.last().map(|last| (last.key.clone(), Some(last.upload)));
            break;
        }
        let record = decoded(UploadRecord::decode(&record))?;
        page.uploads.push(UploadInfo {
            key,
            upload,
            initiated_unix_ms: record.initiated_unix_ms,
            checksum: record.checksum,
        });
        core.env.yield_if_needed().await;
    }
    Ok(Reply::Uploads(Box::new(page)))
}

async fn upload_record(
    core: &Rc<Core>,
    group: GroupId,
    view: &View,
    bucket: BucketId,
    key: &str,
    upload: UploadId,
) -> Result<UploadRecord, Refusal> {
    let row = rows::upload(bucket, key.as_bytes(), upload);
    let record = view.get(&row).await.map_err(|e| core.index_refusal(group, &e))?;
    decoded(UploadRecord::decode(&record.ok_or(ObjectError::NoSuchUpload)?))
}

/// All parts of an upload, ascending; at most 10,000.
async fn stored_parts(
    core: &Rc<Core>,
    group: GroupId,
    view: &View,
    bucket: BucketId,
    upload: UploadId,
) -> Result<Vec<PartRecord>, Refusal> {
    let start = rows::part(bucket, upload, 0);
    let end = rows::part(bucket, upload, u16::MAX);
    let mut scan = view.scan(Bound::Included(start), Bound::Included(end));
    let mut parts = Vec::new();
    while let Some((_, record)) = scan.next().await.map_err(|e| core.index_refusal(group, &e))? {
        parts.push(decoded(PartRecord::decode(&record))?);
        core.env.yield_if_needed().await;
    }
    Ok(parts)
}

/// The stored parts that the client's list names, checked one by one.
fn choose(list: &[CompletePart], stored: &[PartRecord]) -> Result<Vec<PartRecord>, ObjectError> {
    if list.is_empty() || !list.is_sorted_by(|a, b| a.number < b.number) {
        return Err(ObjectError::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(list.len());
    for named in list {
        let invalid = || ObjectError::InvalidPart { number: named.number };
        let at = stored.binary_search_by_key(&named.number, |p| p.part.number).map_err(|_| invalid())?;
        let part = &stored[at];
        let same_etag = named.etag.eq_ignore_ascii_case(&ETag { md5: part.md5, parts: 0 }.text());
        let same_checksum = named.checksum.as_ref().is_none_or(|(algorithm, value)| {
            part.checksum.as_ref().is_some_and(|c| c.algorithm == *algorithm && c.value == *value)
        });
        if !same_etag || !same_checksum {
            return Err(invalid());
        }
        chosen.push(part.clone());
    }
    let all_but_last = &chosen[..chosen.len() - 1];
    match all_but_last.iter().find(|p| p.part.size < PART_BYTES_MIN) {
        Some(small) => Err(ObjectError::PartTooSmall {
            number: small.part.number,
            size: small.part.size,
            minimum: PART_BYTES_MIN,
        }),
        None => Ok(chosen),
    }
}

/// The whole object's checksum; where the client sent one, it must be that.
fn whole_checksum(
    asked: Option<(ChecksumAlgorithm, ChecksumKind)>,
    chosen: &[PartRecord],
    sent: Option<(ChecksumAlgorithm, Vec<u8>)>,
) -> Result<Option<Checksum>, ObjectError> {
    let (algorithm, kind) = asked.unwrap_or((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject));
    let parts: Vec<PartDigest<'_>> =
        chosen.iter().map(|p| PartDigest { size: p.part.size, checksum: p.checksum.as_ref() }).collect();
    let checksum = multipart_checksum(algorithm, kind, &parts);
    if let Some((algorithm, value)) = sent {
        let fits = checksum.as_ref().is_some_and(|c| c.algorithm == algorithm && c.value == value);
        if !fits {
            return Err(ObjectError::BadChecksum { algorithm });
        }
    }
    Ok(checksum)
}
