//! The chunks of a disk at open: the table as it was flushed, and the records after it.
//!
//! What must hold:
//! - A finish record counts only where its data is whole: those after the last header that vouches for their data are
//!   read and verified, and forgotten where they are not (nobody was told).
//! - The free map is what the rows use. Where that is in doubt (damage of the map, of the log, or units claimed twice)
//!   it is built anew from all rows; of two chunks that claim a unit the newer one stays. Where neither the map nor all
//!   rows can be read, every unit there is stays in use: space is lost then, but nothing that can still be read.

use super::entry::{
    Extent, chunk_key, chunk_of_pending_key, free_keys, page_of_free_key, pending_key, pending_keys,
};
use super::free::{FreeMap, units_through};
use super::read::extents_in_table;
use super::scrub::Rows;
use super::settle::{Change, Replaced, write_change};
use super::space::Space;
use super::{ChunkId, Chunks, Inner, PendingChunk, State};
use crate::counters::add;
use crate::locks::Locks;
use crate::wait::WaitList;
use crate::wal::record::ChunkRecord;
use buckets_index::{IndexError, Position, WriteBatch};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;

/// A record that the table does not hold yet.
pub(crate) struct ChunkTail {
    pub(crate) lsn: u64,
    pub(crate) chunk: ChunkId,
    pub(crate) record: ChunkRecord,
}

/// What the log has for the chunks.
pub(crate) struct ChunkReplay {
    /// In their order.
    pub(crate) tail: Vec<ChunkTail>,
    /// Chunk data of all finish records up to here is durable.
    pub(crate) data_lsn: u64,
    /// Lsn of the last chunk record.
    pub(crate) chain: u64,
    /// Chunk records are lost.
    pub(crate) lost: bool,
    /// Where the log ends: the last record of any kind.
    pub(crate) last_lsn: u64,
}

/// Opens the space files and brings table and free map up to the end of the log.
pub(crate) async fn recover(
    space_dir: &Path,
    file_bytes: u64,
    base: ChunkBase,
    replay: ChunkReplay,
) -> Result<Chunks, RecoverError> {
    let rows = FreeRows::load(&base.table).await;
    let mut map_known = rows.is_some() && !base.table_lost;
    let rows = rows.unwrap_or_default();
    let tail_units = replay.tail.iter().map(|tail| end_of(&tail.record)).max().unwrap_or(0);
    // A stored page says that its last units are there only if one of them is used: what rows use decides.
    let units_needed = rows.last_used.max(tail_units);
    let space = Space::open(
        &base.env,
        space_dir,
        base.fence.clone(),
        base.counters.clone(),
        &base.options,
        file_bytes,
        units_needed,
    )
    .await?;
    for (page, value) in &rows.pages {
        map_known &= space.free.borrow_mut().load_row(*page, value);
    }
    let in_doubt = replay.lost || !map_known;
    let chunks = base.into_chunks(space, replay.chain);
    chunks.load_pending().await;
    let (voided, conflicts) = chunks.apply_tail(replay.tail, replay.data_lsn).await;
    if in_doubt || conflicts {
        chunks.rebuild_free_map(map_known).await;
    }
    let table = &chunks.inner.table;
    if replay.last_lsn > table.applied().index {
        table.apply(WriteBatch::new(), Position { index: replay.last_lsn, term: 0 });
    }
    if voided || in_doubt || conflicts {
        // A forgotten record must not be found again once later headers vouch for everything before them.
        chunks.flush_table().await.map_err(|error| RecoverError::Table(error.to_string()))?;
    }
    Ok(chunks)
}

/// Why chunks cannot be recovered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("chunk table: {0}")]
    Table(String),
}

/// What there is before the space is open.
pub(crate) struct ChunkBase {
    pub(crate) env: buckets_env::Env,
    pub(crate) uuid: buckets_ring::id::DiskUuid,
    pub(crate) deployment: buckets_ring::id::DeploymentId,
    pub(crate) kind: buckets_ring::format::BlockChecksum,
    pub(crate) options: crate::DiskOptions,
    pub(crate) fence: crate::fence::Fence,
    pub(crate) counters: crate::counters::Counters,
    pub(crate) wal: crate::wal::Wal,
    pub(crate) table: buckets_index::Index,
    /// The table was damaged beyond opening, and is empty now.
    pub(crate) table_lost: bool,
}

impl ChunkBase {
    fn into_chunks(self, space: Space, chain: u64) -> Chunks {
        let progress = Rc::new(WaitList::default());
        self.fence.notifies(&progress);
        let inner = Inner {
            env: self.env,
            uuid: self.uuid,
            deployment: self.deployment,
            kind: self.kind,
            options: self.options,
            fence: self.fence,
            counters: self.counters,
            wal: self.wal,
            table: self.table,
            space: Rc::new(space),
            locks: Locks::default(),
            state: RefCell::new(State { chain, ..State::default() }),
            progress,
        };
        Chunks { inner: Rc::new(inner) }
    }
}

/// The stored pages of the free map.
#[derive(Default)]
struct FreeRows {
    pages: Vec<(u32, bytes::Bytes)>,
    /// Behind the last unit in use.
    last_used: u64,
}

impl FreeRows {
    /// `None` where they cannot be read.
    async fn load(table: &buckets_index::Index) -> Option<FreeRows> {
        let (start, end) = free_keys();
        let mut scan = table.scan(Bound::Included(start), Bound::Excluded(end));
        let mut rows = FreeRows::default();
        while let Some((key, value)) = scan.next().await.ok()? {
            let page = page_of_free_key(&key)?;
            let mut probe = FreeMap::new();
            probe.grow(units_through(0));
            if !probe.load_row(0, &value) {
                return None;
            }
            let first = units_through(page) - units_through(0);
            rows.last_used = rows.last_used.max(first + probe.end_of_used());
            rows.pages.push((page, value));
        }
        Some(rows)
    }
}

fn end_of(record: &ChunkRecord) -> u64 {
    match record {
        ChunkRecord::Finish { entry, .. } => entry.extents.iter().map(Extent::end).max().unwrap_or(0),
        ChunkRecord::Confirm | ChunkRecord::Delete => 0,
    }
}

impl Chunks {
    async fn load_pending(&self) {
        let inner = &self.inner;
        let (start, end) = pending_keys();
        let mut scan = inner.table.scan(Bound::Included(start), Bound::Excluded(end));
        let since = inner.env.now();
        loop {
            match scan.next().await {
                Ok(Some((key, owner))) => {
                    let Some(chunk) = chunk_of_pending_key(&key) else { continue };
                    inner.state.borrow_mut().pending.insert(chunk, PendingChunk { chunk, owner, since });
                }
                Ok(None) => return,
                Err(error) => {
                    // Orphans may stay behind; healing finds them when it compares chunks with manifests.
                    tracing::error!(%error, "the list of pending chunks is damaged");
                    add(&inner.counters.table_corruptions, 1);
                    return;
                }
            }
        }
    }

    /// Applies the records after the table's position. True: some were forgotten; units were claimed twice.
    async fn apply_tail(&self, tail: Vec<ChunkTail>, data_lsn: u64) -> (bool, bool) {
        let inner = &self.inner;
        let (mut voided, mut conflicts) = (false, false);
        for ChunkTail { lsn, chunk, record } in tail {
            let change = match record {
                ChunkRecord::Finish { entry, owner } => {
                    let entry = Rc::new(entry);
                    if lsn > data_lsn && !self.is_whole(chunk, &entry).await {
                        add(&inner.counters.chunks_voided, 1);
                        voided = true;
                        continue;
                    }
                    let replaced = self.replaced_at_replay(chunk, &mut conflicts).await;
                    conflicts |= self.take_at_replay(&entry.extents);
                    let pending = PendingChunk { chunk, owner: owner.clone(), since: inner.env.now() };
                    inner.state.borrow_mut().pending.insert(chunk, pending);
                    Change::Finish { entry, owner, replaced }
                }
                ChunkRecord::Confirm => {
                    inner.state.borrow_mut().pending.remove(&chunk);
                    Change::Confirm
                }
                ChunkRecord::Delete => {
                    inner.state.borrow_mut().pending.remove(&chunk);
                    Change::Delete { replaced: self.replaced_at_replay(chunk, &mut conflicts).await }
                }
            };
            let mut batch = WriteBatch::new();
            write_change(&mut batch, lsn, chunk, &change);
            inner.table.apply(batch, Position { index: lsn, term: 0 });
        }
        (voided, conflicts)
    }

    /// Frees what a replayed record takes the place of.
    async fn replaced_at_replay(&self, chunk: ChunkId, conflicts: &mut bool) -> Replaced {
        let inner = &self.inner;
        let replaced = match extents_in_table(&inner.table, chunk).await {
            Ok(replaced) => replaced,
            Err(error) => {
                tracing::error!(%error, "a row of the chunk table is damaged");
                add(&inner.counters.table_corruptions, 1);
                *conflicts = true;
                return Replaced { extents: Vec::new(), rows: 1 };
            }
        };
        let mut free = inner.space.free.borrow_mut();
        for &extent in &replaced.extents {
            *conflicts |= free.release(extent) > 0;
            free.mark_dirty(extent);
        }
        replaced
    }

    fn take_at_replay(&self, extents: &[Extent]) -> bool {
        let mut free = self.inner.space.free.borrow_mut();
        let mut taken_before = 0;
        for &extent in extents {
            taken_before += free.take(extent);
            free.mark_dirty(extent);
        }
        taken_before > 0
    }

    /// Builds the free map from the rows, and drops the older of chunks that claim the same units. `map_known`: the map
    /// holds at least what was in use.
    async fn rebuild_free_map(&self, map_known: bool) {
        let inner = &self.inner;
        add(&inner.counters.free_map_rebuilds, 1);
        tracing::warn!(disk = %inner.uuid, "building the free map anew from the chunk table");
        let conflicting = match self.units_claimed_twice().await {
            Ok((map, conflicting)) => {
                *inner.space.free.borrow_mut() = map;
                conflicting
            }
            Err(error) => {
                // Rows that cannot be read may use units: what was in use stays in use.
                tracing::error!(%error, "the chunk table cannot be read as a whole");
                add(&inner.counters.table_corruptions, 1);
                let mut free = inner.space.free.borrow_mut();
                if !map_known {
                    free.take_all();
                }
                free.mark_all_dirty();
                return;
            }
        };
        if !conflicting.is_empty() {
            self.drop_older(&conflicting).await;
        }
        inner.space.free.borrow_mut().mark_all_dirty();
    }

    async fn units_claimed_twice(&self) -> Result<(FreeMap, BTreeSet<u64>), super::read::TableError> {
        let mut map = FreeMap::new();
        map.grow(self.inner.space.free.borrow().units());
        let mut conflicting = BTreeSet::new();
        let mut rows: Rows = self.all_rows();
        while let Some((_, row)) = rows.next().await? {
            for extent in row.extents {
                for unit in extent.start..extent.end() {
                    if map.take(Extent { start: unit, units: 1 }) > 0 {
                        conflicting.insert(unit);
                    }
                }
            }
        }
        Ok((map, conflicting))
    }

    async fn drop_older(&self, conflicting: &BTreeSet<u64>) {
        let inner = &self.inner;
        let mut newest: BTreeMap<u64, (u64, ChunkId)> = BTreeMap::new();
        let mut claims: BTreeMap<ChunkId, (u64, Vec<u64>)> = BTreeMap::new();
        let mut rows = self.all_rows();
        while let Ok(Some((chunk, row))) = rows.next().await {
            let claimed = row.extents.iter().flat_map(|e| conflicting.range(e.start..e.end())).copied();
            for unit in claimed {
                let best = newest.entry(unit).or_insert((row.lsn, chunk));
                *best = (*best).max((row.lsn, chunk));
                claims.entry(chunk).or_insert((row.lsn, Vec::new())).1.push(unit);
            }
        }
        for (chunk, (lsn, units)) in claims {
            if units.iter().all(|unit| newest.get(unit) == Some(&(lsn, chunk))) {
                continue;
            }
            tracing::error!(?chunk, "a chunk's space was given to a newer one");
            add(&inner.counters.chunks_overlapped, 1);
            let Ok(replaced) = extents_in_table(&inner.table, chunk).await else { continue };
            let mut free = inner.space.free.borrow_mut();
            for unit in replaced.extents.iter().flat_map(|extent| extent.start..extent.end()) {
                if !conflicting.contains(&unit) {
                    free.release(Extent { start: unit, units: 1 });
                }
            }
            let mut batch = WriteBatch::new();
            (0..replaced.rows).for_each(|number| batch.delete(chunk_key(chunk, number)));
            batch.delete(pending_key(chunk));
            inner.table.apply(batch, inner.table.applied());
            inner.state.borrow_mut().pending.remove(&chunk);
        }
    }
}

impl From<IndexError> for RecoverError {
    fn from(error: IndexError) -> RecoverError {
        RecoverError::Table(error.to_string())
    }
}
