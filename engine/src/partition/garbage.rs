//! Chunks are freed behind the write that made them garbage.
//!
//! What must hold: a chunk is freed only after the batch that names it as garbage is committed; its garbage row goes
//! only after every disk that is in service has freed it; what a node reads is not freed, unless that node has not been
//! heard for minutes; rows that could not be finished are tried again, and are found again by whoever leads the
//! partition next.

use super::orphans::forget_given_up;
use super::parts_in;
use crate::core::Core;
use crate::counters::count;
use crate::manifest::GarbageRecord;
use crate::message::{ChunkName, Refusal, Request};
use crate::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{GroupId, ObjectId};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Rows one batch removes, at most.
const BATCH_ROWS_MAX: usize = 256;
/// Rows remembered beyond which the next scan finds the rest.
const QUEUED_ROWS_MAX: usize = 65_536;
/// How long a burst is gathered before its chunks are freed together.
const GATHER: Duration = Duration::from_millis(20);
/// And so much longer for each node that is asked whether it reads them.
const GATHER_PER_NODE: Duration = Duration::from_millis(2);
/// Rows of one round together, about.
const ROUND_ROWS_MAX: usize = 1024;
/// Parts of one round together, about: an object has 10,000 at the most, and a question names them all.
const ROUND_PARTS_MAX: usize = 16_384;
/// How long until rows that could not be finished are tried again.
const RETRY: Duration = Duration::from_secs(30);

/// What waits to be freed on this core's partitions.
#[derive(Default)]
pub(crate) struct GarbageQueue {
    rows: RefCell<BTreeSet<(GroupId, ObjectId)>>,
}

impl GarbageQueue {
    /// Queues committed garbage rows.
    pub(crate) fn add(&self, group: GroupId, objects: impl IntoIterator<Item = ObjectId>) {
        let mut rows = self.rows.borrow_mut();
        for object in objects {
            if rows.len() < QUEUED_ROWS_MAX {
                rows.insert((group, object));
            }
        }
    }

    fn take(&self) -> Option<(GroupId, Vec<ObjectId>)> {
        let mut rows = self.rows.borrow_mut();
        let (group, _) = *rows.first()?;
        let mut batch = Vec::new();
        while batch.len() < BATCH_ROWS_MAX
            && let Some(row) = rows.first().copied().filter(|(g, _)| *g == group)
        {
            rows.remove(&row);
            batch.push(row.1);
        }
        Some((group, batch))
    }
}

/// Frees what is queued, for as long as the core runs. All nodes are asked once for a round, not for each partition; where they
/// are many, rounds are rarer.
pub(crate) async fn collect_garbage(core: Rc<Core>) {
    let mut last_scan = core.env.now();
    let gather = GATHER + GATHER_PER_NODE * core.map.nodes.len() as u32;
    loop {
        core.env.sleep(gather).await;
        while !core.may_be_read_unheard()
            && let Err(refusal) = free_round(&core).await
        {
            tracing::debug!(%refusal, "garbage will be freed later");
        }
        if core.env.now().since(last_scan) >= RETRY {
            last_scan = core.env.now();
            for group in core.led_groups() {
                let _ = rescan_garbage(&core, group).await;
                let _ = forget_given_up(&core, group).await;
            }
        }
    }
}

/// Frees what is queued now. Errors: some of it stays for a later scan; there may be more.
async fn free_round(core: &Rc<Core>) -> Result<(), Refusal> {
    loop {
        let mut round = Vec::new();
        let (mut rows, mut parts) = (0, 0);
        while rows < ROUND_ROWS_MAX
            && parts < ROUND_PARTS_MAX
            && let Some((group, objects)) = core.garbage.take()
        {
            rows += objects.len();
            match records(core, group, &objects, ROUND_PARTS_MAX - parts).await {
                Ok((found, rest)) => {
                    parts += found.iter().map(|(_, garbage)| garbage.parts.len()).sum::<usize>();
                    round.push((group, found));
                    core.garbage.add(group, rest);
                }
                Err(refusal) => tracing::debug!(%group, %refusal, "garbage will be freed later"),
            }
        }
        if rows == 0 {
            return Ok(());
        }
        let of_round = round.iter().flat_map(|(_, found)| found).flat_map(|(_, garbage)| &garbage.parts);
        let in_use: BTreeSet<ObjectId> =
            core.in_use(of_round.map(|part| part.object).collect()).await?.into_iter().collect();
        for (group, found) in round {
            if let Err(refusal) = free(core, group, found, &in_use).await {
                tracing::debug!(%group, %refusal, "garbage will be freed later");
            }
        }
    }
}

/// Queues the garbage rows that are already there: a new leader's first duty, and the retry of what was left.
pub(crate) async fn rescan_garbage(core: &Rc<Core>, group: GroupId) -> Result<(), Refusal> {
    let found = parts_in(core, group, rows::all_garbage(), QUEUED_ROWS_MAX).await?;
    core.garbage.add(group, found);
    Ok(())
}

type Found = Vec<(Bytes, GarbageRecord)>;

/// Of the first rows, with about so many parts, and the other rows.
async fn records<'a>(
    core: &Rc<Core>,
    group: GroupId,
    objects: &'a [ObjectId],
    parts_max: usize,
) -> Result<(Found, impl Iterator<Item = ObjectId> + use<'a>), Refusal> {
    let lead = core.lead(group)?;
    let mut found = Vec::with_capacity(objects.len());
    let mut parts = 0;
    let mut objects = objects.iter().copied();
    while parts < parts_max
        && let Some(object) = objects.next()
    {
        let row = rows::garbage(object);
        let record = lead.view.get(&row).await.map_err(|e| core.index_refusal(group, &e))?;
        if let Some(record) = record {
            let record: GarbageRecord = super::decoded(GarbageRecord::decode(&record))?;
            parts += record.parts.len();
            found.push((row, record));
        }
    }
    Ok((found, objects))
}

async fn free(
    core: &Rc<Core>,
    group: GroupId,
    found: Found,
    in_use: &BTreeSet<ObjectId>,
) -> Result<(), Refusal> {
    let lead = core.lead(group)?;
    let mut batch = WriteBatch::new();
    for (row, garbage) in found {
        // What somebody still reads is freed by a later scan.
        let is_read = garbage.parts.iter().any(|part| in_use.contains(&part.object));
        if !is_read && free_chunks(core, &garbage).await {
            batch.delete(row);
        }
    }
    if !batch.is_empty() {
        core.propose(group, lead.term, batch).await?;
    }
    Ok(())
}

/// True where nothing is left to do. A disk out of service keeps its chunks, and the row, for later.
async fn free_chunks(core: &Rc<Core>, garbage: &GarbageRecord) -> bool {
    let mut all_freed = true;
    for part in &garbage.parts {
        for (number, place) in part.placement.disks.iter().enumerate() {
            let chunk = ChunkName { object: part.object, number: number as u8 };
            let Some(disk) = core.map.disk_at(part.placement.set, *place) else {
                continue;
            };
            match core.ask_disk(disk, Request::ChunkDrop { disk, chunk }).await {
                Ok(_) | Err(Refusal::ChunkMissing) => count(&core.counters.chunks_freed, 1),
                Err(_) => all_freed = false,
            }
        }
    }
    all_freed
}
