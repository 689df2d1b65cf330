//! From the log to the chunk table: records settle in their order.
//!
//! What must hold: a record settles when it and all chunk records before it are durable, the chunk data they speak of
//! included. Until then what it makes of its chunk lies in the overlay, newest last.

use super::entry::{ChunkEntry, Extent, chunk_key, free_key, pending_key};
use super::space::FlushTicket;
use super::{ChunkId, Chunks, State};
use buckets_index::{Position, WriteBatch};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;

/// What a change takes the place of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replaced {
    pub(crate) extents: Vec<Extent>,
    pub(crate) rows: u32,
}

/// What a record does to the table.
pub(crate) enum Change {
    Finish { entry: Rc<ChunkEntry>, owner: Bytes, replaced: Replaced },
    Confirm,
    Delete { replaced: Replaced },
}

/// Where a finish record's data is on its way to the disk.
pub(crate) enum DataWait {
    /// Flushes of the space files it lies in.
    Flushes(Vec<FlushTicket>),
    /// A flushed write of its own; sets `ready` itself.
    OwnWrite,
}

/// A record that is not in the table yet.
pub(crate) struct Unsettled {
    pub(crate) lsn: u64,
    pub(crate) chunk: ChunkId,
    pub(crate) change: Change,
    pub(crate) data: DataWait,
    /// The data is durable.
    pub(crate) ready: Rc<Cell<bool>>,
}

/// What unsettled records make of one chunk, oldest first.
#[derive(Default)]
pub(crate) struct Overlay {
    versions: Vec<Version>,
}

struct Version {
    lsn: u64,
    /// `None`: deleted.
    entry: Option<Rc<ChunkEntry>>,
    ready: Rc<Cell<bool>>,
}

/// What the overlay says of a chunk.
pub(crate) enum Seen {
    /// It is this.
    Here(Rc<ChunkEntry>, u64),
    /// It is deleted.
    Gone,
    /// Nothing: the table knows.
    InTable,
}

impl Overlay {
    /// What the newest record makes of the chunk.
    fn newest(&self) -> Seen {
        match self.versions.last() {
            Some(Version { lsn, entry: Some(entry), .. }) => Seen::Here(entry.clone(), *lsn),
            Some(_) => Seen::Gone,
            None => Seen::InTable,
        }
    }

    /// What a reader sees: the newest that is complete.
    fn readable(&self, durable_lsn: u64) -> Seen {
        for version in self.versions.iter().rev() {
            match &version.entry {
                None => return Seen::Gone,
                Some(entry) if version.ready.get() && version.lsn <= durable_lsn => {
                    return Seen::Here(entry.clone(), version.lsn);
                }
                Some(_) => {}
            }
        }
        Seen::InTable
    }
}

impl State {
    pub(crate) fn newest(&self, chunk: ChunkId) -> Seen {
        self.overlay.get(&chunk).map_or(Seen::InTable, Overlay::newest)
    }

    pub(crate) fn readable(&self, chunk: ChunkId, durable_lsn: u64) -> Seen {
        self.overlay.get(&chunk).map_or(Seen::InTable, |overlay| overlay.readable(durable_lsn))
    }

    /// Queues a record that was just logged.
    pub(crate) fn queue(&mut self, unsettled: Unsettled) {
        let entry = match &unsettled.change {
            Change::Finish { entry, .. } => Some(Some(entry.clone())),
            Change::Delete { .. } => Some(None),
            Change::Confirm => None,
        };
        if let Some(entry) = entry {
            let version = Version { lsn: unsettled.lsn, entry, ready: unsettled.ready.clone() };
            self.overlay.entry(unsettled.chunk).or_default().versions.push(version);
        }
        self.chain = unsettled.lsn;
        self.unsettled.push_back(unsettled);
    }
}

impl Chunks {
    /// A flush of a space file is done: data may have become durable.
    pub(crate) fn data_flushed(&self) {
        let inner = &self.inner;
        for unsettled in &inner.state.borrow().unsettled {
            let DataWait::Flushes(tickets) = &unsettled.data else { continue };
            if !unsettled.ready.get() && tickets.iter().all(|&ticket| inner.space.is_flushed(ticket)) {
                unsettled.ready.set(true);
                inner.wal.data_durable(crate::wal::Lsn(unsettled.lsn));
            }
        }
        self.settle();
        inner.progress.reach_all();
    }

    /// Takes into the table what is durable.
    pub(crate) fn settle(&self) {
        let inner = &self.inner;
        let durable = inner.wal.durable_lsn().0;
        let mut batch = WriteBatch::new();
        let mut last = None;
        {
            let mut state = inner.state.borrow_mut();
            while state.unsettled.front().is_some_and(|first| first.lsn <= durable && first.ready.get()) {
                let Some(settled) = state.unsettled.pop_front() else { break };
                last = Some(settled.lsn);
                self.settle_one(&mut state, settled, &mut batch);
            }
            // Records of replicas behind the last chunk record move the table's position too: it needs none of them.
            if state.unsettled.is_empty() && durable > inner.table.applied().index {
                last = Some(durable);
            }
        }
        let Some(last) = last else { return };
        let position = Position { index: last, term: 0 };
        if last > inner.table.applied().index {
            inner.table.apply(batch, position);
        }
        if inner.table.memtable_bytes() > inner.options.chunk_memtable_bytes_max {
            self.start_table_flush();
        }
        inner.progress.reach_all();
    }

    fn settle_one(&self, state: &mut State, settled: Unsettled, batch: &mut WriteBatch) {
        let Unsettled { lsn, chunk, change, .. } = settled;
        if let std::collections::btree_map::Entry::Occupied(mut overlay) = state.overlay.entry(chunk) {
            overlay.get_mut().versions.retain(|version| version.lsn > lsn);
            if overlay.get().versions.is_empty() {
                overlay.remove();
            }
        }
        write_change(batch, lsn, chunk, &change);
        let mut free = self.inner.space.free.borrow_mut();
        let replaced = match &change {
            Change::Finish { entry, replaced, .. } => {
                entry.extents.iter().for_each(|&extent| free.mark_dirty(extent));
                replaced
            }
            Change::Delete { replaced } => replaced,
            Change::Confirm => return,
        };
        replaced.extents.iter().for_each(|&extent| free.mark_dirty(extent));
        if state.readers.contains_key(&chunk) {
            state.zombies.entry(chunk).or_default().extend(&replaced.extents);
        } else {
            replaced.extents.iter().for_each(|&extent| release(&mut free, extent));
        }
    }

    /// Starts a flush of the table, with the pages of the free map that changed, unless one is on its way.
    pub(crate) fn start_table_flush(&self) {
        if std::mem::replace(&mut self.inner.state.borrow_mut().flushing, true) {
            return;
        }
        let chunks = self.clone();
        self.inner.env.spawn(async move {
            let flushed = chunks.flush_table_alone().await;
            chunks.inner.state.borrow_mut().flushing = false;
            if let Err(error) = flushed {
                chunks.inner.fence.close_for("flush of the chunk table", &error);
            }
            chunks.inner.progress.reach_all();
        });
    }

    /// Flushes the table and waits for it.
    pub(crate) async fn flush_table(&self) -> Result<(), crate::DiskError> {
        let inner = &self.inner;
        let free = || (!inner.state.borrow().flushing).then_some(());
        inner.progress.wait(0, free).await;
        self.start_table_flush();
        inner.progress.wait(0, free).await;
        inner.fence.check()
    }

    async fn flush_table_alone(&self) -> Result<(), buckets_index::IndexError> {
        let inner = &self.inner;
        let rows = {
            let state = inner.state.borrow();
            let mut free = inner.space.free.borrow_mut();
            free.take_dirty_rows(state.transient().into_iter())
        };
        let mut batch = WriteBatch::new();
        for (page, value) in rows {
            match value {
                Some(value) => batch.put(free_key(page), value),
                None => batch.delete(free_key(page)),
            }
        }
        // From here to the freeze inside the flush without a wait: the pages belong to exactly this position.
        inner.table.apply(batch, inner.table.applied());
        inner.table.flush().await
    }
}

impl State {
    /// Units that are in use but not by a row of the table.
    pub(crate) fn transient(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = self.zombies.values().flatten().copied().collect();
        for writer in self.writers.values().chain(&self.drowning) {
            extents.extend(writer.extents());
        }
        for unsettled in &self.unsettled {
            if let Change::Finish { entry, .. } = &unsettled.change {
                extents.extend(&entry.extents);
            }
        }
        extents
    }
}

/// The rows of one change.
pub(crate) fn write_change(batch: &mut WriteBatch, lsn: u64, chunk: ChunkId, change: &Change) {
    match change {
        Change::Finish { entry, owner, replaced } => {
            for number in 0..entry.rows() {
                batch.put(chunk_key(chunk, number), entry.row(number, lsn).encode());
            }
            for number in entry.rows()..replaced.rows {
                batch.delete(chunk_key(chunk, number));
            }
            batch.put(pending_key(chunk), owner.clone());
        }
        Change::Confirm => batch.delete(pending_key(chunk)),
        Change::Delete { replaced } => {
            for number in 0..replaced.rows.max(1) {
                batch.delete(chunk_key(chunk, number));
            }
            batch.delete(pending_key(chunk));
        }
    }
}

/// Frees units that rows used. Units that were free already speak of damage that was counted where it was found.
pub(crate) fn release(free: &mut super::free::FreeMap, extent: Extent) {
    let wrong = free.release(extent);
    if wrong > 0 {
        tracing::error!(?extent, wrong, "units were free already");
    }
}
