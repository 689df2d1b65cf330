//! A partition's operations, on the core where its leader is.
//!
//! What must hold:
//! - A write is decided against the current version while the key's latch is held, on a leader that has applied
//!   everything before its own term; what is proposed is then a blind batch that every replica applies alike.
//!   Should leadership move meanwhile, the proposal is refused or lost: it can not apply after a newer leader's write.
//! - A write that replaces a version names the chunks to free in the same batch.
//! - An answer that says "nothing to do" (a failed condition, a delete of nothing) is a read and waits for the read
//!   barrier like any other.

mod garbage;
mod latch;
mod list;
mod lost;
mod multipart;
mod orphans;
mod repair;

pub(crate) use garbage::{GarbageQueue, collect_garbage, rescan_garbage};
pub(crate) use latch::Latches;
pub(crate) use lost::first_page;
pub(crate) use repair::{RepairQueue, repair_chunks, rescan_repairs};

use crate::core::{Core, Lead, View};
use crate::counters::count;
use crate::manifest::{Body, ChunkOwner, GarbageRecord, Manifest, Part};
use crate::message::{Answer, PartitionOp, Refusal, Reply, RootOp};
use crate::object::api::{ObjectError, WriteCondition};
use crate::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{BucketId, GroupId, ObjectId};
use bytes::Bytes;
use std::ops::{Bound, Range};
use std::rc::Rc;
use std::sync::Arc;

/// Changes of many rows are proposed in pieces of about so many bytes. With what one row adds (10,000 parts at the most) a piece
/// stays below what an entry may hold.
const PROPOSAL_BYTES: usize = 1 << 20;

/// The parts that rows of one kind name, `max` of them at most: what a new leader goes on with.
async fn parts_in(
    core: &Rc<Core>,
    group: GroupId,
    rows: Range<Bytes>,
    max: usize,
) -> Result<Vec<ObjectId>, Refusal> {
    let lead = core.lead(group)?;
    let mut scan = lead.view.scan(Bound::Included(rows.start), Bound::Excluded(rows.end));
    let mut found = Vec::new();
    while found.len() < max
        && let Some((row, _)) = scan.next().await.map_err(|error| core.index_refusal(group, &error))?
    {
        found.extend(rows::parse_part_of(&row));
        core.env.yield_if_needed().await;
    }
    Ok(found)
}

/// Does an operation on the partition's leader, or (reads only) on a salvaged view.
pub(crate) async fn serve(core: &Rc<Core>, group: GroupId, op: PartitionOp, salvage: bool) -> Answer {
    match op {
        PartitionOp::Get { bucket, key, body } => get(core, group, bucket, &key, body, salvage).await,
        PartitionOp::List(run) => list::run(core, group, run, salvage).await,
        PartitionOp::GetUpload { bucket, key, upload } => {
            multipart::get(core, group, bucket, &key, upload, salvage).await
        }
        PartitionOp::ListParts { bucket, key, upload, after, max } => {
            multipart::list_parts(core, group, bucket, &key, upload, after, max, salvage).await
        }
        PartitionOp::ListUploads { bucket, request } => {
            multipart::list_uploads(core, group, bucket, &request, salvage).await
        }
        PartitionOp::Refers { owner, object } => orphans::refers(core, group, &owner, object).await,
        PartitionOp::Put { bucket, key, manifest, inline, condition } => {
            core.room_in(group)?;
            put(core, group, bucket, &key, &manifest, inline, &condition).await
        }
        PartitionOp::Delete { bucket, keys, condition } => {
            delete(core, group, bucket, keys, &condition).await
        }
        PartitionOp::CreateUpload { bucket, key, upload, record } => {
            core.room_in(group)?;
            multipart::create(core, group, bucket, &key, upload, &record).await
        }
        PartitionOp::PutPart { bucket, key, upload, record } => {
            core.room_in(group)?;
            let answer = multipart::put_part(core, group, bucket, &key, upload, &record).await;
            proven(core, group, answer).await
        }
        PartitionOp::CompleteUpload { .. } => {
            let answer = multipart::complete(core, group, op).await;
            proven(core, group, answer).await
        }
        PartitionOp::AbortUpload { bucket, key, upload } => {
            let answer = multipart::abort(core, group, bucket, &key, upload).await;
            proven(core, group, answer).await
        }
        PartitionOp::Seal { bucket, attempt } => seal(core, group, bucket, attempt).await,
        PartitionOp::Unseal { bucket, attempt } => unseal(core, group, bucket, attempt).await,
        PartitionOp::Discard { garbage } => discard(core, group, &garbage).await,
        PartitionOp::ListLost { disk, from } => {
            core.room_in(group)?;
            lost::list(core, group, disk, from).await
        }
        PartitionOp::HasLost { disk } => lost::is_any_left(core, group, disk).await,
        PartitionOp::Suspect { owner, object, chunks } => {
            core.room_in(group)?;
            repair::suspect(core, group, owner, object, chunks).await
        }
    }
}

/// An answer that a client takes for final, from somebody who could still decide: a leader that was deposed and does not know
/// it yet has not seen what others were promised meanwhile.
async fn proven(core: &Rc<Core>, group: GroupId, answer: Answer) -> Answer {
    if matches!(answer, Err(Refusal::Object(_))) {
        core.read_view(group, false).await?;
    }
    answer
}

async fn get(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    with_body: bool,
    salvage: bool,
) -> Answer {
    let view = core.read_view(group, salvage).await?;
    let manifest = match core.locations.get(&view, bucket, key, core.env.now()) {
        Some(manifest) => {
            count(&core.counters.location_hits, 1);
            manifest
        }
        None => {
            count(&core.counters.location_misses, 1);
            locate(core, group, &view, bucket, key).await?
        }
    };
    if !with_body || !matches!(manifest.body, Body::Inline) {
        return Ok(Reply::Object(manifest, None));
    }
    let body = view.get(&rows::inline_body(bucket, key.as_bytes())).await;
    let body = body.map_err(|error| core.index_refusal(group, &error))?;
    // The two rows are read one after the other: only a body of this very version may be returned.
    match body.filter(|body| body.starts_with(manifest.object.as_bytes())) {
        Some(body) => Ok(Reply::Object(manifest, Some(body.slice(16..)))),
        None => Err(Refusal::NotLeader),
    }
}

/// Reads an object's manifest and remembers it. Errors: `NoSuchKey`.
async fn locate(
    core: &Rc<Core>,
    group: GroupId,
    view: &View,
    bucket: BucketId,
    key: &str,
) -> Result<Arc<Manifest>, Refusal> {
    let row = rows::object(bucket, key.as_bytes());
    let before = view.applied();
    let record = view.get(&row).await.map_err(|error| core.index_refusal(group, &error))?;
    let record = record.ok_or(ObjectError::NoSuchKey)?;
    let manifest = Arc::new(decoded(Manifest::decode(&record))?);
    // A change that came while the row was read has passed by: what was read may be older.
    if view.applied() == before {
        core.locations.insert(view, row, manifest.clone(), core.env.now());
    }
    Ok(manifest)
}

async fn put(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    key: &str,
    manifest: &Manifest,
    inline: Option<Bytes>,
    condition: &WriteCondition,
) -> Answer {
    let lead = core.lead(group)?;
    let _open = open_bucket(core, &lead, group, bucket).await?;
    let row = rows::object(bucket, key.as_bytes());
    let _latch = core.latches.lock(group, row.clone()).await;
    let current = current_version(core, &lead, group, &row).await?;
    if let Some(current) = &current
        && current.object == manifest.object
    {
        // The same question asked again: it has already happened.
        return Ok(Reply::Done);
    }
    orphans::check_kept(core, group, &lead, manifest.parts()).await?;
    check_condition(core, group, condition, current.as_ref()).await?;
    let mut batch = WriteBatch::new();
    batch.put(row, manifest.encode());
    replace_body(&mut batch, bucket, key, current.as_ref(), inline);
    let freed = free(&mut batch, current.as_ref().map(|c| (c.object, c.parts())));
    let owner = || ChunkOwner { bucket, key: key.to_owned(), upload: None };
    let degraded = repair::note_missing(&mut batch, manifest.parts(), owner);
    core.propose(group, lead.term, batch).await?;
    core.garbage.add(group, freed);
    core.repairs.add(group, degraded);
    Ok(Reply::Done)
}

async fn delete(
    core: &Rc<Core>,
    group: GroupId,
    bucket: BucketId,
    keys: Vec<String>,
    condition: &WriteCondition,
) -> Answer {
    let lead = core.lead(group)?;
    let _open = open_bucket(core, &lead, group, bucket).await?;
    let mut rows_of_keys: Vec<Bytes> = keys.iter().map(|key| rows::object(bucket, key.as_bytes())).collect();
    // Latches are taken in one order everywhere, so that two batches can not wait for each other.
    rows_of_keys.sort();
    rows_of_keys.dedup();
    let mut latches = Vec::with_capacity(rows_of_keys.len());
    for row in rows_of_keys {
        latches.push(core.latches.lock(group, row).await);
    }
    let mut batch = WriteBatch::new();
    let mut is_proven = false;
    let mut freed = Vec::new();
    let mut results = Vec::with_capacity(keys.len());
    let mut seen = std::collections::BTreeSet::new();
    for key in &keys {
        let row = rows::object(bucket, key.as_bytes());
        let current = match seen.insert(row.clone()) {
            true => current_version(core, &lead, group, &row).await?,
            false => None,
        };
        if let Err(refusal) = check_condition(core, group, condition, current.as_ref()).await {
            match refusal {
                Refusal::Object(error) => results.push(Err(error)),
                other => return Err(other),
            }
            continue;
        }
        if let Some(current) = current {
            batch.delete(row);
            if matches!(current.body, Body::Inline) {
                batch.delete(rows::inline_body(bucket, key.as_bytes()));
            }
            freed.extend(free(&mut batch, Some((current.object, current.parts()))));
        }
        results.push(Ok(()));
        // Many parts of many keys are more than one entry may hold. Who asks again finds the first ones gone.
        if batch.bytes() >= PROPOSAL_BYTES {
            core.propose(group, lead.term, std::mem::take(&mut batch)).await?;
            core.garbage.add(group, std::mem::take(&mut freed));
            is_proven = true;
        }
    }
    if is_proven && batch.is_empty() {
        return Ok(Reply::Deleted(results));
    }
    if batch.is_empty() {
        core.read_view(group, false).await?;
    } else {
        core.propose(group, lead.term, batch).await?;
        core.garbage.add(group, freed);
    }
    Ok(Reply::Deleted(results))
}

/// Chunks of a write that did not happen are garbage like any other, so that a crash does not forget them.
async fn discard(core: &Rc<Core>, group: GroupId, garbage: &GarbageRecord) -> Answer {
    let lead = core.lead(group)?;
    let mut batch = WriteBatch::new();
    let mut freed = Vec::new();
    for part in &garbage.parts {
        freed.extend(free(&mut batch, Some((part.object, std::slice::from_ref(part)))));
    }
    core.propose(group, lead.term, batch).await?;
    core.garbage.add(group, freed);
    Ok(Reply::Done)
}

/// Refuses new writes to the bucket, waits for those under way, and then looks whether anything is left.
async fn seal(core: &Rc<Core>, group: GroupId, bucket: BucketId, attempt: u64) -> Answer {
    let _one_at_a_time = core.latches.lock(group, rows::seal(bucket)).await;
    let lead = core.lead(group)?;
    let _closed = core.latches.close_bucket(group, bucket).await;
    if sealed_by(core, &lead, group, bucket).await?.is_some_and(|later| later > attempt) {
        return Err(ObjectError::OperationAborted.into());
    }
    let mut batch = WriteBatch::new();
    batch.put(rows::seal(bucket), Bytes::copy_from_slice(&attempt.to_le_bytes()));
    core.propose(group, lead.term, batch).await?;
    for kind in [b'o', b'u'] {
        let start = rows::bucket_start(kind, bucket);
        let end = rows::after_prefix(&start).map_or(Bound::Unbounded, Bound::Excluded);
        let mut scan = lead.view.scan(Bound::Included(start), end);
        if scan.next().await.map_err(|e| core.index_refusal(group, &e))?.is_some() {
            return Err(ObjectError::BucketNotEmpty.into());
        }
    }
    Ok(Reply::Done)
}

async fn unseal(core: &Rc<Core>, group: GroupId, bucket: BucketId, attempt: u64) -> Answer {
    let _one_at_a_time = core.latches.lock(group, rows::seal(bucket)).await;
    let lead = core.lead(group)?;
    if sealed_by(core, &lead, group, bucket).await? == Some(attempt) {
        let mut batch = WriteBatch::new();
        batch.delete(rows::seal(bucket));
        core.propose(group, lead.term, batch).await?;
    }
    Ok(Reply::Done)
}

/// The attempt to remove the bucket that has sealed it.
async fn sealed_by(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    bucket: BucketId,
) -> Result<Option<u64>, Refusal> {
    let row = lead.view.get(&rows::seal(bucket)).await.map_err(|e| core.index_refusal(group, &e))?;
    let attempt = |row: Bytes| row[..].try_into().map(u64::from_le_bytes);
    row.map(attempt).transpose().map_err(|_| ObjectError::Internal("a seal is damaged".into()).into())
}

/// A write may go on: the bucket is not sealed, and will not be while the guard lives. A seal of an attempt that has
/// ended (it may have come late) is taken away.
pub(crate) async fn open_bucket(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    bucket: BucketId,
) -> Result<latch::OpenBucket, Refusal> {
    let open = core.latches.open_bucket(group, bucket).ok_or(ObjectError::OperationAborted)?;
    let Some(attempt) = sealed_by(core, lead, group, bucket).await? else { return Ok(open) };
    drop(open);
    core.ask_root(RootOp::CheckEnded { id: bucket, attempt }).await?;
    unseal(core, group, bucket, attempt).await?;
    let open = core.latches.open_bucket(group, bucket).ok_or(ObjectError::OperationAborted)?;
    match sealed_by(core, lead, group, bucket).await? {
        None => Ok(open),
        Some(_) => Err(ObjectError::OperationAborted.into()),
    }
}

pub(crate) async fn current_version(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    row: &Bytes,
) -> Result<Option<Manifest>, Refusal> {
    let record = lead.view.get(row).await.map_err(|e| core.index_refusal(group, &e))?;
    record.map(|record| decoded(Manifest::decode(&record))).transpose()
}

/// RFC 9110 section 13.1 as S3 has it: `If-Match` of a key that is not there is NoSuchKey.
pub(crate) async fn check_condition(
    core: &Rc<Core>,
    group: GroupId,
    condition: &WriteCondition,
    current: Option<&Manifest>,
) -> Result<(), Refusal> {
    let verdict = match (condition, current) {
        (WriteCondition::Always, _) | (WriteCondition::IfAbsent, None) => return Ok(()),
        (WriteCondition::IfMatch(etag), Some(current)) if etag == "*" || *etag == current.etag.text() => {
            return Ok(());
        }
        (WriteCondition::IfMatch(_), None) => ObjectError::NoSuchKey,
        (WriteCondition::IfAbsent | WriteCondition::IfMatch(_), Some(_)) => ObjectError::PreconditionFailed,
    };
    // Nothing will be proposed that would prove leadership: the verdict is a read.
    core.read_view(group, false).await?;
    Err(verdict.into())
}

/// Sets or removes the inline body row (the version's id, then the body) beside a new manifest.
pub(crate) fn replace_body(
    batch: &mut WriteBatch,
    bucket: BucketId,
    key: &str,
    current: Option<&Manifest>,
    inline: Option<Bytes>,
) {
    let row = rows::inline_body(bucket, key.as_bytes());
    match inline {
        Some(body) => batch.put(row, body),
        None if current.is_some_and(|c| matches!(c.body, Body::Inline)) => {
            batch.delete(row);
        }
        None => {}
    }
}

/// Names chunks to free in the batch; returns their garbage row's id, if there are any.
pub(crate) fn free(batch: &mut WriteBatch, parts: Option<(ObjectId, &[Part])>) -> Option<ObjectId> {
    let (object, parts) = parts.filter(|(_, parts)| !parts.is_empty())?;
    batch.put(rows::garbage(object), GarbageRecord { parts: parts.to_vec() }.encode());
    Some(object)
}

pub(crate) fn decoded<T>(record: Result<T, crate::manifest::BadRecord>) -> Result<T, Refusal> {
    record.map_err(|bad| ObjectError::Internal(bad.to_string()).into())
}
