//! What a disk that was emptied has lost is listed by the partitions and written again like any missing chunk.
//!
//! What must hold:
//! - Every part with a chunk on the disk gets its repair row, whatever moves meanwhile: uploads are listed before objects,
//!   because parts move from those to these only; what is written from now on finds the disk in service.
//! - The walk is asked for page by page and remembers nothing: a new leader goes on where the last one was.

use super::repair::bytes_of;
use super::{PROPOSAL_BYTES, decoded};
use crate::core::{Core, Lead};
use crate::manifest::{ChunkOwner, Manifest, Part, PartRecord, RepairRecord};
use crate::message::{Answer, DiskIndex, Refusal, Reply};
use crate::object::api::ObjectError;
use crate::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{BucketId, GroupId, ObjectId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// Rows that one question walks over, and parts that it asks to be repaired.
const PAGE_ROWS_MAX: usize = 4096;
const PAGE_PARTS_MAX: usize = 128;
/// Rows of the queue that are looked at for one that concerns a disk.
const QUEUE_ROWS_MAX: usize = 256;

/// Where a walk begins.
const FIRST: &[u8] = b"u";
const UPLOADS_END: &[u8] = b"v";
const OBJECTS: &[u8] = b"o";
const OBJECTS_END: &[u8] = b"p";

/// Where the walk over a partition begins.
pub(crate) fn first_page() -> Bytes {
    Bytes::from_static(FIRST)
}

/// Asks for the repair of what the disk lacks among the next rows. The answer says where to go on.
pub(super) async fn list(core: &Rc<Core>, group: GroupId, disk: DiskIndex, from: Bytes) -> Answer {
    let lead = core.lead(group)?;
    let is_uploads = from.starts_with(FIRST);
    if !is_uploads && !from.starts_with(OBJECTS) {
        return Err(ObjectError::Internal("a walk goes over uploads and objects".into()).into());
    }
    let end = Bytes::from_static(if is_uploads { UPLOADS_END } else { OBJECTS_END });
    let mut scan = lead.view.scan(Bound::Included(from), Bound::Excluded(end));
    let mut found = BTreeMap::new();
    let mut next = is_uploads.then(|| Bytes::from_static(OBJECTS));
    for rows in 0.. {
        let row = scan.next().await.map_err(|error| core.index_refusal(group, &error))?;
        let Some((row, record)) = row else { break };
        if rows == PAGE_ROWS_MAX || found.len() >= PAGE_PARTS_MAX {
            next = Some(row);
            break;
        }
        let Some(bucket) = bucket_of(&row) else { continue };
        match is_uploads {
            true => find_in_upload(core, &lead, group, disk, bucket, &row, &mut found).await?,
            false => {
                let manifest = decoded(Manifest::decode(&record))?;
                let Some(key) = rows::parse_object(&row).and_then(|key| std::str::from_utf8(key).ok()) else {
                    continue;
                };
                let owner = ChunkOwner { bucket, key: key.to_owned(), upload: None };
                found.extend(manifest.parts().iter().filter_map(|part| lacks(core, part, disk, &owner)));
            }
        }
        core.env.yield_if_needed().await;
    }
    ask_for(core, &lead, group, found).await?;
    Ok(Reply::NextPage(next))
}

/// Whether anything that the disk lacks still waits to be written.
pub(super) async fn is_any_left(core: &Rc<Core>, group: GroupId, disk: DiskIndex) -> Answer {
    let lead = core.lead(group)?;
    let repairs = rows::all_repairs();
    let mut scan = lead.view.scan(Bound::Included(repairs.start), Bound::Excluded(repairs.end));
    for rows in 0.. {
        let row = scan.next().await.map_err(|error| core.index_refusal(group, &error))?;
        let Some((row, record)) = row else { break };
        if rows == QUEUE_ROWS_MAX {
            return Ok(Reply::Refers(true));
        }
        let Some(object) = rows::parse_part_of(&row) else { continue };
        let record = decoded(RepairRecord::decode(&record))?;
        let found = super::repair::find(core, &lead, group, &record.owner, object).await?;
        if let Some(found) = found
            && let Some(chunk) = chunk_on(core, found.part(), disk)
            && (record.suspects | found.part().placement.missing) >> chunk & 1 == 1
        {
            return Ok(Reply::Refers(true));
        }
    }
    // Of a leader that could still decide: nobody else has added rows that are not seen here.
    core.read_view(group, false).await?;
    Ok(Reply::Refers(false))
}

async fn find_in_upload(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    disk: DiskIndex,
    bucket: BucketId,
    row: &Bytes,
    found: &mut BTreeMap<ObjectId, Lacking>,
) -> Result<(), Refusal> {
    let Some((key, upload)) = rows::parse_upload(row) else { return Ok(()) };
    let Ok(key) = String::from_utf8(key) else { return Ok(()) };
    let (first, last) = (rows::part(bucket, upload, 0), rows::part(bucket, upload, u16::MAX));
    let mut scan = lead.view.scan(Bound::Included(first), Bound::Included(last));
    while let Some((row, record)) = scan.next().await.map_err(|error| core.index_refusal(group, &error))? {
        let Some(number) = rows::parse_part(&row) else { continue };
        let record = decoded(PartRecord::decode(&record))?;
        let owner = ChunkOwner { bucket, key: key.clone(), upload: Some((upload, number)) };
        found.extend(lacks(core, &record.part, disk, &owner));
    }
    Ok(())
}

fn bucket_of(row: &[u8]) -> Option<BucketId> {
    row.get(1..17).and_then(|id| id.try_into().ok()).map(BucketId::from_bytes)
}

/// What is to be written again of a part: the row that asks for it, and how much it is.
struct Lacking {
    record: RepairRecord,
    bytes: u64,
}

/// The part's chunk that belongs on the disk.
fn chunk_on(core: &Core, part: &Part, disk: DiskIndex) -> Option<u8> {
    let is_there = |slot: &u8| core.map.disk_at(part.placement.set, *slot) == Some(disk);
    let chunk = part.placement.disks.iter().position(is_there).filter(|_| part.size > 0)?;
    u8::try_from(chunk).ok()
}

fn lacks(core: &Core, part: &Part, disk: DiskIndex, owner: &ChunkOwner) -> Option<(ObjectId, Lacking)> {
    let suspects = 1 << chunk_on(core, part, disk)?;
    let bytes = bytes_of(part, suspects);
    Some((part.object, Lacking { record: RepairRecord { owner: owner.clone(), suspects }, bytes }))
}

/// Adds the rows.
async fn ask_for(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    found: BTreeMap<ObjectId, Lacking>,
) -> Result<(), Refusal> {
    let (mut batch, mut is_proven) = (WriteBatch::new(), false);
    let mut latches = Vec::with_capacity(found.len());
    let mut queued = Vec::with_capacity(found.len());
    // In ascending order, as everywhere where several are held.
    for (object, Lacking { record: mut wanted, bytes }) in found {
        latches.push(core.latches.lock(group, rows::repair(object)).await);
        let before = super::repair::row_of(core, lead, group, object).await?;
        let suspects = before.as_ref().map_or(0, |record| record.suspects);
        if before.is_none() || suspects | wanted.suspects != suspects {
            wanted.suspects |= suspects;
            batch.put(rows::repair(object), wanted.encode());
        }
        queued.push((object, bytes));
        if batch.bytes() >= PROPOSAL_BYTES {
            core.propose(group, lead.term, std::mem::take(&mut batch)).await?;
            core.repairs.add(group, queued.drain(..));
            latches.clear();
            is_proven = true;
        }
    }
    match batch.is_empty() {
        // Only a leader that could still decide has seen everything.
        true if !is_proven => drop(core.read_view(group, false).await?),
        true => {}
        false => drop(core.propose(group, lead.term, batch).await?),
    }
    core.repairs.add(group, queued);
    Ok(())
}
