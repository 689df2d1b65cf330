//! Chunks whose write was cut short: whether they belong to anybody.
//!
//! What must hold: once it was said that nothing refers to a part, nothing ever will. Whoever wrote it may only have stood
//! still, with its clock (a virtual machine that was not scheduled), and would otherwise commit what lies on no disk any more.

use super::{PROPOSAL_BYTES, decoded};
use crate::core::{Core, Lead};
use crate::manifest::{ChunkOwner, Manifest, Part, PartRecord};
use crate::message::{Answer, Refusal, Reply};
use crate::object::api::ObjectError;
use crate::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{GroupId, ObjectId};
use bytes::Bytes;
use std::ops::Bound;
use std::rc::Rc;

/// Nobody stands still for so long and goes on, in Unix milliseconds.
const FORGET_AFTER_MS: u64 = 24 * 3600 * 1000;

/// Whether a record refers to this part. If none does, it is given up: from then on none can.
pub(super) async fn refers(core: &Rc<Core>, group: GroupId, owner: &ChunkOwner, object: ObjectId) -> Answer {
    let lead = core.lead(group)?;
    let key = owner.key.as_bytes();
    let key_row = rows::object(owner.bucket, key);
    // Who would commit it holds the same latch.
    let latch = match owner.upload {
        Some((upload, _)) => rows::upload(owner.bucket, key, upload),
        None => key_row.clone(),
    };
    let _latch = core.latches.lock(group, latch).await;
    let part_row = owner.upload.map(|(upload, number)| rows::part(owner.bucket, upload, number));
    for row in part_row.into_iter().chain([key_row]) {
        let Some(record) = read(core, group, &lead, &row).await? else { continue };
        let refers = match row[0] {
            b'p' => decoded(PartRecord::decode(&record))?.part.object == object,
            _ => decoded(Manifest::decode(&record))?.parts().iter().any(|part| part.object == object),
        };
        if refers {
            return Ok(Reply::Refers(true));
        }
    }
    // Each of its disks asks. A row that is there was committed.
    if read(core, group, &lead, &rows::given_up(object)).await?.is_none() {
        let mut batch = WriteBatch::new();
        batch.put(rows::given_up(object), Bytes::copy_from_slice(&core.env.unix_millis().to_le_bytes()));
        core.propose(group, lead.term, batch).await?;
    }
    Ok(Reply::Refers(false))
}

/// A record may refer to this part: its chunks are there. The latch is held under which they would be given up.
pub(super) async fn check_kept(
    core: &Rc<Core>,
    group: GroupId,
    lead: &Lead,
    parts: &[Part],
) -> Result<(), Refusal> {
    for part in parts {
        if read(core, group, lead, &rows::given_up(part.object)).await?.is_some() {
            let why =
                "what was written was given up before it was committed: it took too long; write it again";
            return Err(ObjectError::Unavailable(why.into()).into());
        }
    }
    Ok(())
}

/// Removes what was noted so long ago that it does not matter any more.
pub(super) async fn forget_given_up(core: &Rc<Core>, group: GroupId) -> Result<(), Refusal> {
    let lead = core.lead(group)?;
    let now = core.env.unix_millis();
    let range = rows::all_given_up();
    let mut scan = lead.view.scan(Bound::Included(range.start), Bound::Excluded(range.end));
    let mut batch = WriteBatch::new();
    let mut bytes = 0;
    while bytes < PROPOSAL_BYTES
        && let Some((row, at)) = scan.next().await.map_err(|error| core.index_refusal(group, &error))?
    {
        let at = at[..].try_into().map(u64::from_le_bytes).unwrap_or(0);
        if now.saturating_sub(at) >= FORGET_AFTER_MS {
            bytes += row.len();
            batch.delete(row);
        }
        core.env.yield_if_needed().await;
    }
    if batch.is_empty() { Ok(()) } else { core.propose(group, lead.term, batch).await.map(drop) }
}

async fn read(core: &Core, group: GroupId, lead: &Lead, row: &Bytes) -> Result<Option<Bytes>, Refusal> {
    lead.view.get(row).await.map_err(|error| core.index_refusal(group, &error))
}
