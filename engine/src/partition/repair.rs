//! Chunks that are missing are written again, as soon as their disk takes them.
//!
//! What must hold:
//! - What is missing is known, not searched for: a write that left out a chunk says so in its own batch, a reader that did not
//!   find a chunk whole tells the partition.
//! - A chunk is durable on its disk before the manifest says that it is there; a crash in between leaves a chunk that nobody
//!   reads, and the row that asks for it.
//! - A row goes only when every chunk that it asks for is there, or nothing refers to the part any more. Rows that could not be
//!   finished are tried again, and are found again by whoever leads the partition next.
//! - A few parts at once: each waits for reads, flushes and a commit most of its time. One part is never repaired twice at once.

use super::{current_version, decoded, parts_in};
use crate::chunk::rebuild;
use crate::core::{Core, Lead};
use crate::counters::count;
use crate::manifest::{Body, ChunkOwner, Part, PartRecord, RepairRecord};
use crate::message::{Answer, ChunkName, DiskIndex, Refusal, Reply, Request};
use crate::rows;
use buckets_env::Instant;
use buckets_index::WriteBatch;
use buckets_ring::id::{GroupId, ObjectId};
use futures::stream::{FuturesUnordered, StreamExt};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Parts that one core writes again side by side.
const AT_ONCE: usize = 8;
/// Parts remembered beyond which the next scan finds the rest.
const QUEUED_PARTS_MAX: usize = 65_536;
/// How long the queue is left alone when there is nothing to do.
const LOOK: Duration = Duration::from_millis(500);
/// How long until a part is looked at again whose disks were not there.
const RETRY: Duration = Duration::from_secs(5);
/// How often all rows are looked for again.
const RESCAN: Duration = Duration::from_secs(60);

/// A part whose chunks are missing.
type Broken = (GroupId, ObjectId);

/// The parts of this core's partitions that have chunks to be written again.
#[derive(Default)]
pub(crate) struct RepairQueue {
    queue: RefCell<Queue>,
}

#[derive(Default)]
struct Queue {
    parts: BTreeMap<Broken, Queued>,
    /// Those that wait, by when they are to be looked at.
    waiting: BTreeSet<(Instant, Broken)>,
    /// Of all parts.
    bytes: u64,
}

struct Queued {
    turn: Turn,
    /// What is to be written, as far as that is known.
    bytes: u64,
}

/// Where a part is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waiting,
    /// It is being looked at.
    Now,
    /// The same, and it has been added once more since.
    Again,
}

impl RepairQueue {
    /// Queues parts whose rows are committed, each with the bytes that are to be written; 0 where these are not known yet.
    pub(crate) fn add(&self, group: GroupId, objects: impl IntoIterator<Item = (ObjectId, u64)>) {
        let mut queue = self.queue.borrow_mut();
        for (object, bytes) in objects {
            let part = (group, object);
            let is_full = queue.parts.len() >= QUEUED_PARTS_MAX;
            match queue.parts.get_mut(&part) {
                Some(queued) if queued.turn == Turn::Now => queued.turn = Turn::Again,
                Some(_) => {}
                None if is_full => continue,
                None => queue.wait(part, Instant(0), 0),
            }
            if bytes > 0 {
                queue.weigh(part, bytes);
            }
        }
    }

    /// Parts that wait or are being repaired.
    pub(crate) fn len(&self) -> usize {
        self.queue.borrow().parts.len()
    }

    /// What is to be written for them, as far as that is known.
    pub(crate) fn bytes(&self) -> u64 {
        self.queue.borrow().bytes
    }

    /// The next part whose time has come; [`RepairQueue::end`] is to follow.
    fn begin(&self, now: Instant) -> Option<Broken> {
        let mut queue = self.queue.borrow_mut();
        let first @ (_, part) = queue.waiting.first().copied().filter(|(at, _)| *at <= now)?;
        queue.waiting.remove(&first);
        if let Some(queued) = queue.parts.get_mut(&part) {
            queued.turn = Turn::Now;
        }
        Some(part)
    }

    /// So much is to be written for a part that was begun.
    fn weigh(&self, part: Broken, bytes: u64) {
        self.queue.borrow_mut().weigh(part, bytes);
    }

    /// Forgets a part, unless it was added since, or lets it wait until a time.
    fn end(&self, part: Broken, next: Option<Instant>) {
        let mut queue = self.queue.borrow_mut();
        let Some(Queued { turn, bytes }) = queue.parts.remove(&part) else { return };
        queue.bytes -= bytes;
        match (next, turn) {
            (Some(at), _) => queue.wait(part, at, bytes),
            (None, Turn::Again) => queue.wait(part, Instant(0), bytes),
            (None, _) => {}
        }
    }
}

impl Queue {
    /// Adds a part that is not there.
    fn wait(&mut self, part: Broken, at: Instant, bytes: u64) {
        self.parts.insert(part, Queued { turn: Turn::Waiting, bytes });
        self.waiting.insert((at, part));
        self.bytes += bytes;
    }

    fn weigh(&mut self, part: Broken, bytes: u64) {
        if let Some(queued) = self.parts.get_mut(&part) {
            self.bytes = self.bytes - queued.bytes + bytes;
            queued.bytes = bytes;
        }
    }
}

/// What these chunks of a part take.
pub(super) fn bytes_of(part: &Part, chunks: u32) -> u64 {
    part.size.div_ceil(u64::from(part.placement.k).max(1)) * u64::from(chunks.count_ones())
}

/// Says in the batch of a write which of its chunks are missing; returns what to queue.
pub(super) fn note_missing(
    batch: &mut WriteBatch,
    parts: &[Part],
    owner: impl Fn() -> ChunkOwner,
) -> Vec<(ObjectId, u64)> {
    let degraded = parts.iter().filter(|part| part.size > 0 && part.placement.missing != 0);
    degraded
        .map(|part| {
            let record = RepairRecord { owner: owner(), suspects: 0 };
            batch.put(rows::repair(part.object), record.encode());
            (part.object, bytes_of(part, part.placement.missing))
        })
        .collect()
}

/// A reader did not find chunks of a part whole.
pub(super) async fn suspect(
    core: &Rc<Core>,
    group: GroupId,
    owner: ChunkOwner,
    object: ObjectId,
    chunks: u32,
) -> Answer {
    let _latch = core.latches.lock(group, rows::repair(object)).await;
    let lead = core.lead(group)?;
    let Some(found) = find(core, &lead, group, &owner, object).await? else { return Ok(Reply::Done) };
    let before = row_of(core, &lead, group, object).await?;
    let suspects = before.as_ref().map_or(0, |record| record.suspects) | chunks;
    if before.is_none_or(|before| before.suspects != suspects) {
        let mut batch = WriteBatch::new();
        batch.put(rows::repair(object), RepairRecord { owner, suspects }.encode());
        core.propose(group, lead.term, batch).await?;
    }
    let bytes = bytes_of(found.part(), found.part().placement.missing | suspects);
    core.repairs.add(group, [(object, bytes)]);
    Ok(Reply::Done)
}

/// Writes missing chunks for as long as the core runs.
pub(crate) async fn repair_chunks(core: Rc<Core>) {
    let mut last_scan = core.env.now();
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some(part) = core.repairs.begin(core.env.now())
        {
            let core = &core;
            under_way.push(async move { (part, repair(core, part.0, part.1).await) });
        }
        if under_way.is_empty() {
            core.env.sleep(LOOK).await;
            if core.env.now().since(last_scan) >= RESCAN {
                last_scan = core.env.now();
                for group in core.led_groups() {
                    let _ = rescan_repairs(&core, group).await;
                }
            }
            continue;
        }
        // What was queued meanwhile does not wait for one that takes long.
        let Some(Some((part, outcome))) = core.env.timeout(LOOK, under_way.next()).await else { continue };
        let (group, object) = part;
        let later = Some(core.env.now().after(RETRY));
        let next = match outcome {
            Ok(Outcome::Done) | Err(Refusal::NotLeader) => None,
            Ok(Outcome::Later) => later,
            Err(refusal) => {
                tracing::debug!(%group, %object, %refusal, "chunks will be written again later");
                later
            }
        };
        core.repairs.end(part, next);
    }
}

/// Queues the parts whose rows are already there: a new leader's first duty.
pub(crate) async fn rescan_repairs(core: &Rc<Core>, group: GroupId) -> Result<(), Refusal> {
    let found = parts_in(core, group, rows::all_repairs(), QUEUED_PARTS_MAX).await?;
    core.repairs.add(group, found.into_iter().map(|object| (object, 0)));
    Ok(())
}

/// What became of one attempt.
enum Outcome {
    /// The row is gone.
    Done,
    /// Some disk is not there.
    Later,
}

async fn repair(core: &Rc<Core>, group: GroupId, object: ObjectId) -> Result<Outcome, Refusal> {
    let lead = core.lead(group)?;
    let Some(record) = row_of(core, &lead, group, object).await? else { return Ok(Outcome::Done) };
    let Some(found) = find(core, &lead, group, &record.owner, object).await? else {
        let mut batch = WriteBatch::new();
        batch.delete(rows::repair(object));
        core.propose(group, lead.term, batch).await?;
        return Ok(Outcome::Done);
    };
    let part = found.part();
    let wanted = part.placement.missing | record.suspects;
    core.repairs.weigh((group, object), bytes_of(part, wanted));
    let chunks: Vec<(u8, DiskIndex)> = (0..part.placement.disks.len() as u8)
        .filter(|chunk| wanted >> chunk & 1 == 1)
        .filter_map(|chunk| Some((chunk, disk_of(core, part, chunk)?)))
        .collect();
    if chunks.is_empty() && wanted != 0 {
        return Ok(Outcome::Later);
    }
    let written = match rebuild(core, part, wanted, &chunks, record.owner.encode()).await {
        // What is only suspected may be whole: blocks are verified in any case.
        Err(_) if record.suspects != 0 => {
            rebuild(core, part, part.placement.missing, &chunks, record.owner.encode()).await?
        }
        written => written?,
    };
    let bits = written.iter().fold(0, |bits, chunk| bits | 1 << chunk);
    count(&core.counters.chunks_repaired, written.len() as u64);
    count(&core.counters.bytes_repaired, bytes_of(part, bits));
    let outcome = settle(core, group, object, &record.owner, bits).await;
    for (chunk, disk) in chunks.into_iter().filter(|(chunk, _)| bits >> chunk & 1 == 1) {
        let name = ChunkName { object, number: chunk };
        // What nothing refers to any more was freed before it was written.
        let is_wanted = match &outcome {
            Ok(wanted) => wanted.is_some(),
            // It stays pending: who owns it is found out later.
            Err(_) => continue,
        };
        if !is_wanted {
            let _ = core.ask_disk(disk, Request::ChunkDrop { disk, chunk: name }).await;
        } else if let Err(Refusal::ChunkMissing) =
            core.ask_disk(disk, Request::ChunkConfirm { disk, chunk: name }).await
        {
            // Its disk was emptied meanwhile.
            core.suspect(&record.owner, object, chunk);
        }
    }
    Ok(match outcome? {
        Some(0) | None => Outcome::Done,
        Some(_) => Outcome::Later,
    })
}

/// Notes that chunks are there. Returns which are still wanted; `None` where nothing refers to the part any more.
async fn settle(
    core: &Rc<Core>,
    group: GroupId,
    object: ObjectId,
    owner: &ChunkOwner,
    written: u32,
) -> Result<Option<u32>, Refusal> {
    let lead = core.lead(group)?;
    let _upload_latch = match owner.upload {
        Some((upload, _)) => {
            let row = rows::upload(owner.bucket, owner.key.as_bytes(), upload);
            Some(core.latches.lock(group, row).await)
        }
        None => None,
    };
    let _latch = core.latches.lock(group, rows::object(owner.bucket, owner.key.as_bytes())).await;
    let _row_latch = core.latches.lock(group, rows::repair(object)).await;
    let mut batch = WriteBatch::new();
    let mut left = None;
    if let Some(mut found) = find(core, &lead, group, owner, object).await? {
        let missing = &mut found.part_mut().placement.missing;
        let was_missing = *missing & written != 0;
        *missing &= !written;
        let record = row_of(core, &lead, group, object).await?;
        let suspects = record.map_or(0, |record| record.suspects) & !written;
        left = Some(*missing | suspects);
        if left != Some(0) {
            batch.put(rows::repair(object), RepairRecord { owner: owner.clone(), suspects }.encode());
        }
        if was_missing {
            found.put(&mut batch, owner);
        }
    }
    if left.is_none_or(|left| left == 0) {
        batch.delete(rows::repair(object));
    }
    core.propose(group, lead.term, batch).await?;
    Ok(left)
}

pub(super) async fn row_of(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    object: ObjectId,
) -> Result<Option<RepairRecord>, Refusal> {
    let row = lead.view.get(&rows::repair(object)).await.map_err(|e| core.index_refusal(group, &e))?;
    row.map(|row| decoded(RepairRecord::decode(&row))).transpose()
}

/// The record that refers to a part.
pub(super) enum Found {
    OfUpload(PartRecord),
    OfObject(Box<crate::manifest::Manifest>, usize),
}

impl Found {
    pub(super) fn part(&self) -> &Part {
        match self {
            Found::OfUpload(record) => &record.part,
            Found::OfObject(manifest, at) => &manifest.parts()[*at],
        }
    }

    fn part_mut(&mut self) -> &mut Part {
        match self {
            Found::OfUpload(record) => &mut record.part,
            Found::OfObject(manifest, at) => match &mut manifest.body {
                Body::Chunked(parts) => &mut parts[*at],
                Body::Inline => unreachable!("a part was found in it"),
            },
        }
    }

    fn put(&self, batch: &mut WriteBatch, owner: &ChunkOwner) {
        match (self, owner.upload) {
            (Found::OfUpload(record), Some((upload, number))) => {
                batch.put(rows::part(owner.bucket, upload, number), record.encode());
            }
            (Found::OfUpload(_), None) => unreachable!("it was found by its upload"),
            (Found::OfObject(manifest, _), _) => {
                batch.put(rows::object(owner.bucket, owner.key.as_bytes()), manifest.encode());
            }
        }
    }
}

pub(super) async fn find(
    core: &Rc<Core>,
    lead: &Lead,
    group: GroupId,
    owner: &ChunkOwner,
    object: ObjectId,
) -> Result<Option<Found>, Refusal> {
    if let Some((upload, number)) = owner.upload {
        let row = rows::part(owner.bucket, upload, number);
        let record = lead.view.get(&row).await.map_err(|e| core.index_refusal(group, &e))?;
        let record = record.map(|record| decoded(PartRecord::decode(&record))).transpose()?;
        if let Some(record) = record.filter(|record| record.part.object == object) {
            return Ok(Some(Found::OfUpload(record)));
        }
    }
    let row = rows::object(owner.bucket, owner.key.as_bytes());
    let Some(manifest) = current_version(core, lead, group, &row).await? else { return Ok(None) };
    let at = manifest.parts().iter().position(|part| part.object == object);
    Ok(at.map(|at| Found::OfObject(Box::new(manifest), at)))
}

/// The disk of a chunk, where it takes writes.
fn disk_of(core: &Core, part: &Part, chunk: u8) -> Option<DiskIndex> {
    let place = *part.placement.disks.get(usize::from(chunk))?;
    core.map.disk_at(part.placement.set, place).filter(|disk| core.map.in_service(*disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_repaired_once_at_a_time_and_again_where_it_was_added_meanwhile() {
        let queue = RepairQueue::default();
        let (group, object, now) = (GroupId(3), ObjectId::from_bytes([7; 16]), Instant(50));
        queue.add(group, [(object, 0)]);
        assert_eq!(queue.begin(now), Some((group, object)));
        assert_eq!(queue.begin(now), None);
        queue.add(group, [(object, 0)]);
        assert_eq!((queue.begin(now), queue.len()), (None, 1));
        queue.end((group, object), None);
        assert_eq!(queue.begin(now), Some((group, object)));
        queue.end((group, object), None);
        assert_eq!((queue.begin(now), queue.len()), (None, 0));
    }

    #[test]
    fn a_part_waits_until_its_time_and_added_again_does_not_come_earlier() {
        let queue = RepairQueue::default();
        let (group, first, second) =
            (GroupId(3), ObjectId::from_bytes([1; 16]), ObjectId::from_bytes([2; 16]));
        queue.add(group, [(first, 0)]);
        assert_eq!(queue.begin(Instant(1)), Some((group, first)));
        queue.end((group, first), Some(Instant(90)));
        queue.add(group, [(first, 0), (second, 0)]);
        assert_eq!(queue.begin(Instant(10)), Some((group, second)));
        queue.end((group, second), None);
        assert_eq!(queue.begin(Instant(89)), None);
        assert_eq!(queue.begin(Instant(90)), Some((group, first)));
    }

    #[test]
    fn bytes_are_those_of_the_parts_that_are_left() {
        let queue = RepairQueue::default();
        let (group, now) = (GroupId(3), Instant(50));
        let [first, second, third] = [1, 2, 3].map(|number| ObjectId::from_bytes([number; 16]));
        queue.add(group, [(first, 10), (second, 200), (third, 0)]);
        assert_eq!(queue.bytes(), 210);
        // Added again with more that is missing, and where it is not known how much.
        queue.add(group, [(second, 400), (first, 0)]);
        assert_eq!(queue.bytes(), 410);
        for _ in 0..3 {
            queue.begin(now);
        }
        queue.weigh((group, third), 3000);
        assert_eq!(queue.bytes(), 3410);
        queue.end((group, first), None);
        queue.end((group, third), Some(Instant(90)));
        queue.add(group, [(second, 0)]);
        queue.end((group, second), None);
        assert_eq!((queue.bytes(), queue.len()), (3400, 2));
        queue.begin(now);
        queue.end((group, second), None);
        assert_eq!((queue.bytes(), queue.len()), (3000, 1));
    }
}
