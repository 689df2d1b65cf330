//! Writing a chunk: append its blocks, then finish it.
//!
//! What must hold: a block goes from the caller's buffer to its place without a copy; nothing is flushed before the end.
//! A write that was begun ends in its own task, so that units are never given to another chunk while a write
//! into them may still be in flight, whatever the caller does.

use super::entry::{ChunkEntry, Extent, units_of};
use super::settle::{Change, DataWait, Replaced, Seen, Unsettled, release};
use super::space::FlushTicket;
use super::{ChunkId, Chunks, PendingChunk};
use crate::counters::add;
use crate::error::{ChunkWriteError, DiskError};
use crate::limits::{BLOCK_BYTES_MAX, CHUNK_BLOCKS_MAX, OWNER_BYTES_MAX, UNIT_BYTES};
use crate::wait::WaitList;
use crate::wal::Lsn;
use crate::wal::record::ChunkOp;
use buckets_env::{AlignedBytes, Instant, WriteMode};
use buckets_ring::format::BlockChecksum;
use buckets_stripe::checksum::checksum;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// From its second block on a chunk takes as many units as it has, up to this many at once, so that chunks written
/// side by side do not cut each other to pieces.
const AHEAD_UNITS_MAX: u64 = 2048;

/// A chunk being written.
pub(crate) struct Writer {
    chunk: ChunkId,
    state: RefCell<WriterState>,
    /// Writes in flight.
    inflight: Cell<u32>,
    /// Woken when a write came back.
    idle: WaitList,
}

struct WriterState {
    kind: BlockChecksum,
    extents: Vec<Extent>,
    reserved_units: u64,
    used_units: u64,
    blocks: u32,
    block_bytes: u32,
    last_block_bytes: u32,
    checksums: Vec<u8>,
    touched: Instant,
    failed: Option<DiskError>,
}

/// Told when the one write of a small chunk is durable.
struct OwnWrite {
    ready: Rc<Cell<bool>>,
    /// The finish record, once it is logged.
    lsn: Rc<Cell<Option<Lsn>>>,
}

impl Writer {
    fn new(chunk: ChunkId, kind: BlockChecksum, now: Instant) -> Writer {
        let state = WriterState {
            kind,
            extents: Vec::new(),
            reserved_units: 0,
            used_units: 0,
            blocks: 0,
            block_bytes: 0,
            last_block_bytes: 0,
            checksums: Vec::new(),
            touched: now,
            failed: None,
        };
        Writer { chunk, state: RefCell::new(state), inflight: Cell::new(0), idle: WaitList::default() }
    }

    /// All units it holds.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        self.state.borrow().extents.clone()
    }

    pub(crate) fn touched(&self) -> Instant {
        self.state.borrow().touched
    }

    pub(crate) fn inflight(&self) -> u32 {
        self.inflight.get()
    }
}

impl WriterState {
    /// Units to ask for so that `units` more fit: some ahead for a chunk that goes on.
    fn wanted(&self, units: u32) -> u32 {
        let missing = (self.used_units + u64::from(units)).saturating_sub(self.reserved_units);
        let ahead = if self.blocks == 0 { 0 } else { self.used_units.min(AHEAD_UNITS_MAX) };
        missing.max(ahead) as u32
    }

    fn add(&mut self, extents: Vec<Extent>) {
        for extent in extents {
            self.reserved_units += u64::from(extent.units);
            match self.extents.last_mut() {
                Some(last)
                    if last.end() == extent.start && last.units.checked_add(extent.units).is_some() =>
                {
                    last.units += extent.units;
                }
                _ => self.extents.push(extent),
            }
        }
    }

    /// The places of the next `units` units.
    fn place(&self, units: u32) -> Vec<Extent> {
        let mut skip = self.used_units;
        let mut left = u64::from(units);
        let mut places = Vec::with_capacity(1);
        for extent in &self.extents {
            if skip >= u64::from(extent.units) {
                skip -= u64::from(extent.units);
                continue;
            }
            if left == 0 {
                break;
            }
            let take = (u64::from(extent.units) - skip).min(left);
            places.push(Extent { start: extent.start + skip, units: take as u32 });
            left -= take;
            skip = 0;
        }
        assert_eq!(left, 0, "units were reserved");
        places
    }

    /// Cuts what was reserved ahead off the end.
    fn trim(&mut self) -> Vec<Extent> {
        let mut cut = Vec::new();
        while self.reserved_units > self.used_units {
            let surplus = self.reserved_units - self.used_units;
            let Some(last) = self.extents.last_mut() else { break };
            let take = surplus.min(u64::from(last.units)) as u32;
            last.units -= take;
            cut.push(Extent { start: last.end(), units: take });
            if last.units == 0 {
                self.extents.pop();
            }
            self.reserved_units -= u64::from(take);
        }
        cut
    }
}

impl Chunks {
    /// Writes the next block of a chunk: `data` is its `len` bytes, padded with zeroes to whole pages. Block 0 begins
    /// the chunk, and gives up an unfinished one of the same id. All blocks but the last have the same length. The
    /// block is not durable before [`Chunks::finish`].
    ///
    /// Errors: `Misfit` where blocks do not come in order or have a wrong length; the chunk is given up.
    pub async fn append(
        &self,
        chunk: ChunkId,
        block: u32,
        data: AlignedBytes,
        len: u32,
    ) -> Result<(), ChunkWriteError> {
        self.inner.fence.check()?;
        let writer = if block == 0 { self.begin(chunk)? } else { self.writer(chunk)? };
        self.check_block(&writer, block, &data, len)?;
        if let Err(error) = self.reserve(&writer, units_of(len)).await {
            self.abort(chunk);
            return Err(error);
        }
        // While space was being reserved the chunk may have been aborted.
        let current = self.writer(chunk)?;
        if !Rc::ptr_eq(&current, &writer) {
            return Err(ChunkWriteError::NotOpen);
        }
        let sum = checksum(self.inner.kind, &self.identity(chunk), block, &data[..len as usize]);
        let places = {
            let mut state = writer.state.borrow_mut();
            let places = state.place(units_of(len));
            state.used_units += u64::from(units_of(len));
            if block == 0 {
                state.block_bytes = len;
            }
            state.last_block_bytes = len;
            state.blocks += 1;
            state.checksums.extend_from_slice(sum.as_bytes());
            state.touched = self.inner.env.now();
            places
        };
        self.write_block(&writer, places, data, WriteMode::Unflushed, None);
        writer.idle.wait(0, || (writer.inflight.get() == 0).then_some(())).await;
        let failed = writer.state.borrow().failed.clone();
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn begin(&self, chunk: ChunkId) -> Result<Rc<Writer>, ChunkWriteError> {
        self.abort(chunk);
        let inner = &self.inner;
        let mut state = inner.state.borrow_mut();
        if state.writers.len() >= inner.options.open_writers_max {
            return Err(ChunkWriteError::TooManyWriters);
        }
        let writer = Rc::new(Writer::new(chunk, inner.kind, inner.env.now()));
        state.writers.insert(chunk, writer.clone());
        Ok(writer)
    }

    fn writer(&self, chunk: ChunkId) -> Result<Rc<Writer>, ChunkWriteError> {
        self.inner.state.borrow().writers.get(&chunk).cloned().ok_or(ChunkWriteError::NotOpen)
    }

    /// Gives the chunk up where the block may not come next.
    fn check_block(
        &self,
        writer: &Writer,
        block: u32,
        data: &AlignedBytes,
        len: u32,
    ) -> Result<(), ChunkWriteError> {
        let misfit = {
            let state = writer.state.borrow();
            let fits_others = block == 0 || state.last_block_bytes == state.block_bytes;
            let is_whole = || data.is_aligned() && data.len() as u64 == u64::from(units_of(len)) * UNIT_BYTES;
            match () {
                () if block != state.blocks => Some("blocks come in order"),
                () if block >= CHUNK_BLOCKS_MAX => Some("a chunk has no more blocks than that"),
                () if len == 0 || len as usize > BLOCK_BYTES_MAX => Some("no block has this length"),
                () if !is_whole() => Some("a block is padded to whole pages"),
                () if data[len as usize..].iter().any(|&byte| byte != 0) => Some("padding is zero"),
                () if !fits_others => Some("only the last block may be shorter"),
                () if block > 0 && len > state.block_bytes => Some("the last block may only be shorter"),
                () => None,
            }
        };
        match misfit {
            Some(what) => {
                self.abort(writer.chunk);
                Err(ChunkWriteError::Misfit(what))
            }
            None => Ok(()),
        }
    }

    /// Makes sure that `units` more units are the writer's.
    async fn reserve(&self, writer: &Rc<Writer>, units: u32) -> Result<(), ChunkWriteError> {
        let space = &self.inner.space;
        let (missing, wanted, goal) = {
            let state = writer.state.borrow();
            if state.used_units + u64::from(units) <= state.reserved_units {
                return Ok(());
            }
            let missing = state.used_units + u64::from(units) - state.reserved_units;
            (missing as u32, state.wanted(units), state.extents.last().map(Extent::end))
        };
        let extents = match space.allocate_now(wanted, goal) {
            Some(extents) => extents,
            // Where space is short, nothing is taken ahead.
            None => self.allocate(missing, goal).await?,
        };
        let current =
            self.inner.state.borrow().writers.get(&writer.chunk).is_some_and(|w| Rc::ptr_eq(w, writer));
        if current {
            writer.state.borrow_mut().add(extents);
            return Ok(());
        }
        let mut free = space.free.borrow_mut();
        extents.into_iter().for_each(|extent| release(&mut free, extent));
        Err(ChunkWriteError::NotOpen)
    }

    /// Takes units, new ones or those of chunks whose deletion is on its way to the disk.
    async fn allocate(&self, units: u32, goal: Option<u64>) -> Result<Vec<Extent>, ChunkWriteError> {
        match self.inner.space.allocate(units, goal).await {
            Err(ChunkWriteError::NoSpace) if !self.inner.state.borrow().unsettled.is_empty() => {
                self.settled().await?;
                self.inner.space.allocate_now(units, goal).ok_or(ChunkWriteError::NoSpace)
            }
            other => other,
        }
    }

    /// Starts a write in a task of its own. `own` is for a chunk of one flushed write.
    fn write_block(
        &self,
        writer: &Rc<Writer>,
        places: Vec<Extent>,
        data: AlignedBytes,
        mode: WriteMode,
        own: Option<OwnWrite>,
    ) {
        writer.inflight.set(writer.inflight.get() + 1);
        let (chunks, writer) = (self.clone(), writer.clone());
        self.inner.env.spawn(async move {
            let inner = &chunks.inner;
            let parts = inner.space.parts(&places);
            let written = match parts {
                Some(parts) => inner.space.write(&parts, &data, mode).await,
                None => unreachable!("units that were given out exist"),
            };
            writer.inflight.set(writer.inflight.get() - 1);
            match written {
                Ok(()) => {
                    add(&inner.counters.block_writes, 1);
                    add(&inner.counters.block_write_bytes, data.len() as u64);
                    if let Some(OwnWrite { ready, lsn }) = own {
                        ready.set(true);
                        lsn.get().into_iter().for_each(|lsn| inner.wal.data_durable(lsn));
                        chunks.settle();
                    }
                }
                Err(error) => {
                    inner.fence.close_for("write of a block", &error);
                    writer.state.borrow_mut().failed = inner.fence.check().err();
                }
            }
            chunks.bury_drowned();
            writer.idle.reach_all();
            inner.progress.reach_all();
        });
    }

    /// Frees the units of chunks given up whose writes have all come back.
    fn bury_drowned(&self) {
        let mut state = self.inner.state.borrow_mut();
        if state.drowning.is_empty() {
            return;
        }
        let mut free = self.inner.space.free.borrow_mut();
        state.drowning.retain(|writer| {
            let done = writer.inflight() == 0;
            if done {
                writer.extents().into_iter().for_each(|extent| release(&mut free, extent));
            }
            !done
        });
    }

    /// Gives up a chunk that is not finished; nothing happens where there is none.
    pub fn abort(&self, chunk: ChunkId) {
        let mut state = self.inner.state.borrow_mut();
        let Some(writer) = state.writers.remove(&chunk) else { return };
        state.drowning.push(writer);
        drop(state);
        add(&self.inner.counters.chunks_abandoned, 1);
        self.bury_drowned();
    }

    /// Makes a chunk durable and readable, in place of an older one of the same id. `owner` (who refers to it) is kept
    /// until [`Chunks::confirm`].
    pub async fn finish(&self, chunk: ChunkId, owner: Bytes) -> Result<(), ChunkWriteError> {
        check_owner(&owner)?;
        let writer = self.writer(chunk)?;
        if writer.state.borrow().blocks == 0 {
            return Err(ChunkWriteError::Misfit("a chunk has blocks"));
        }
        writer.idle.wait(0, || (writer.inflight.get() == 0).then_some(())).await;
        if let Some(error) = writer.state.borrow().failed.clone() {
            return Err(error.into());
        }
        let tickets = self.flush_files(&writer);
        let ready = Rc::new(Cell::new(false));
        let lsn = self.log_finish(&writer, owner, DataWait::Flushes(tickets), &ready).await?;
        // A flush may have ended before the record was queued.
        self.data_flushed();
        self.finished(lsn, &ready).await
    }

    /// Writes and finishes a chunk of one block in one call: data and record go to the disk side by side.
    pub async fn write_small(
        &self,
        chunk: ChunkId,
        data: AlignedBytes,
        len: u32,
        owner: Bytes,
    ) -> Result<(), ChunkWriteError> {
        if data.len() > self.inner.options.small_flushed_bytes_max {
            self.append(chunk, 0, data, len).await?;
            return self.finish(chunk, owner).await;
        }
        check_owner(&owner)?;
        self.inner.fence.check()?;
        let writer = self.begin(chunk)?;
        self.check_block(&writer, 0, &data, len)?;
        if let Err(error) = self.reserve(&writer, units_of(len)).await {
            self.abort(chunk);
            return Err(error);
        }
        let sum = checksum(self.inner.kind, &self.identity(chunk), 0, &data[..len as usize]);
        let places = {
            let mut state = writer.state.borrow_mut();
            let places = state.place(units_of(len));
            state.used_units = u64::from(units_of(len));
            (state.block_bytes, state.last_block_bytes, state.blocks) = (len, len, 1);
            state.checksums.extend_from_slice(sum.as_bytes());
            places
        };
        let ready = Rc::new(Cell::new(false));
        let logged = Rc::new(Cell::new(None));
        let signal = Some(OwnWrite { ready: ready.clone(), lsn: logged.clone() });
        self.write_block(&writer, places, data, WriteMode::Flushed, signal);
        let lsn = self.log_finish(&writer, owner, DataWait::OwnWrite, &ready).await?;
        logged.set(Some(lsn));
        if ready.get() {
            self.inner.wal.data_durable(lsn);
            self.settle();
        }
        self.finished(lsn, &ready).await
    }

    fn flush_files(&self, writer: &Writer) -> Vec<FlushTicket> {
        let inner = &self.inner;
        let extents = writer.extents();
        let Some(parts) = inner.space.parts(&extents) else {
            unreachable!("units that were given out exist")
        };
        let mut files: Vec<usize> = parts.iter().map(|part| part.file).collect();
        files.sort_unstable();
        files.dedup();
        files
            .into_iter()
            .map(|file| {
                let chunks = self.clone();
                inner.space.flush(file, move || chunks.data_flushed())
            })
            .collect()
    }

    /// Logs that the chunk is whole, while its data is on the way to the disk.
    async fn log_finish(
        &self,
        writer: &Rc<Writer>,
        owner: Bytes,
        data: DataWait,
        ready: &Rc<Cell<bool>>,
    ) -> Result<Lsn, ChunkWriteError> {
        let inner = &self.inner;
        let chunk = writer.chunk;
        let _lock = inner.locks.lock(chunk).await;
        // A damaged row is replaced; its units are found again when the free map is built anew.
        let replaced = self.replaced(chunk).await.unwrap_or_default();
        let mut state = inner.state.borrow_mut();
        let current = state.writers.get(&chunk).is_some_and(|w| Rc::ptr_eq(w, writer));
        if !current {
            return Err(ChunkWriteError::NotOpen);
        }
        let (entry, surplus) = writer.entry();
        let op = ChunkOp::Finish { entry: &entry, owner: &owner };
        let lsn = inner.wal.append_chunk(chunk, state.chain, &op)?;
        if !ready.get() {
            inner.wal.data_pending(lsn);
        }
        state.writers.remove(&chunk);
        state.pending.insert(chunk, PendingChunk { chunk, owner: owner.clone(), since: inner.env.now() });
        let change = Change::Finish { entry: Rc::new(entry), owner, replaced };
        state.queue(Unsettled { lsn: lsn.0, chunk, change, data, ready: ready.clone() });
        drop(state);
        let mut free = inner.space.free.borrow_mut();
        surplus.into_iter().for_each(|extent| release(&mut free, extent));
        Ok(lsn)
    }

    async fn finished(&self, lsn: Lsn, ready: &Rc<Cell<bool>>) -> Result<(), ChunkWriteError> {
        let inner = &self.inner;
        inner.wal.durable(lsn).await?;
        inner
            .progress
            .wait(0, || match ready.get() {
                true => Some(Ok(())),
                false => inner.fence.check().err().map(Err),
            })
            .await?;
        add(&inner.counters.chunks_finished, 1);
        // Memory for rows that wait for their flush is bounded.
        let memtable_bytes_max = inner.options.chunk_memtable_bytes_max * 4;
        inner
            .progress
            .wait(0, || match inner.table.memtable_bytes() < memtable_bytes_max {
                true => Some(Ok(())),
                false => inner.fence.check().err().map(Err),
            })
            .await?;
        Ok(())
    }

    /// What a change of `chunk` takes the place of.
    pub(crate) async fn replaced(&self, chunk: ChunkId) -> Result<Replaced, ChunkWriteError> {
        let seen = self.inner.state.borrow().newest(chunk);
        match seen {
            Seen::Here(entry, _) => Ok(Replaced { extents: entry.extents.clone(), rows: entry.rows() }),
            Seen::Gone => Ok(Replaced::default()),
            Seen::InTable => {
                let found = super::read::extents_in_table(&self.inner.table, chunk).await;
                found.map_err(|error| {
                    add(&self.inner.counters.table_corruptions, 1);
                    ChunkWriteError::TableDamaged { what: error.to_string().into() }
                })
            }
        }
    }

    /// Says that a finished chunk is referred to: it is not pending any more. Not waited for: after a crash it may be
    /// pending again. False where it was not pending: confirmed before, or not there.
    pub fn confirm(&self, chunk: ChunkId) -> Result<bool, DiskError> {
        let inner = &self.inner;
        let mut state = inner.state.borrow_mut();
        if !state.pending.contains_key(&chunk) {
            return Ok(false);
        }
        let lsn = inner.wal.append_chunk(chunk, state.chain, &ChunkOp::Confirm)?;
        state.pending.remove(&chunk);
        state.queue(Unsettled {
            lsn: lsn.0,
            chunk,
            change: Change::Confirm,
            data: DataWait::OwnWrite,
            ready: Rc::new(Cell::new(true)),
        });
        Ok(true)
    }

    /// Deletes a chunk, finished or not. It is gone for readers at once; after a crash it may be back. Its space is
    /// free when the record is durable and no read of it is in flight. False where there was none.
    pub async fn delete(&self, chunk: ChunkId) -> Result<bool, ChunkWriteError> {
        self.abort(chunk);
        let inner = &self.inner;
        inner.fence.check()?;
        let _lock = inner.locks.lock(chunk).await;
        let replaced = match self.replaced(chunk).await {
            // Nothing can be said about its units, but the chunk itself can go.
            Err(ChunkWriteError::TableDamaged { .. }) => Replaced { extents: Vec::new(), rows: 1 },
            other => other?,
        };
        if replaced.rows == 0 {
            return Ok(false);
        }
        let mut state = inner.state.borrow_mut();
        let lsn = inner.wal.append_chunk(chunk, state.chain, &ChunkOp::Delete)?;
        state.pending.remove(&chunk);
        state.queue(Unsettled {
            lsn: lsn.0,
            chunk,
            change: Change::Delete { replaced },
            data: DataWait::OwnWrite,
            ready: Rc::new(Cell::new(true)),
        });
        add(&inner.counters.chunks_deleted, 1);
        Ok(true)
    }

    /// Gives up chunks that nobody has touched for too long.
    pub(crate) fn expire_writers(&self) {
        let inner = &self.inner;
        let now = inner.env.now();
        let expired: Vec<ChunkId> = {
            let state = inner.state.borrow();
            let old = |writer: &&Rc<Writer>| now.since(writer.touched()) > inner.options.writer_idle_max;
            state.writers.values().filter(old).map(|writer| writer.chunk).collect()
        };
        for chunk in expired {
            tracing::info!(?chunk, "an unfinished chunk has expired");
            self.abort(chunk);
        }
    }
}

fn check_owner(owner: &Bytes) -> Result<(), ChunkWriteError> {
    match owner.len() <= OWNER_BYTES_MAX {
        true => Ok(()),
        false => Err(ChunkWriteError::Misfit("an owner is not so long")),
    }
}

impl Writer {
    /// The finished chunk, and the units it does not need.
    fn entry(&self) -> (ChunkEntry, Vec<Extent>) {
        let mut state = self.state.borrow_mut();
        let surplus = state.trim();
        let entry = ChunkEntry {
            kind: state.kind,
            block_bytes: state.block_bytes,
            last_block_bytes: state.last_block_bytes,
            blocks: state.blocks,
            extents: state.extents.clone(),
            checksums: Bytes::from(std::mem::take(&mut state.checksums)),
        };
        assert!(entry.is_consistent(), "a chunk of its writer's making: {entry:?}");
        (entry, surplus)
    }
}
