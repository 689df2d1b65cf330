//! The write-ahead log: one for each disk, shared by all its replicas and chunks.
//!
//! What must hold:
//! - One write commits everything that waited for it. Records are encoded straight into the open batch; as soon as no
//!   write is in flight the flusher takes the batch, and what arrives meanwhile forms the next one.
//! - At most one batch is in flight, so at most the last batch of a log can be torn by a crash: whatever else does
//!   not verify is damage.
//! - A record is durable when the write of its batch (RWF_DSYNC) came back; a failed one fences the disk.
//! - Segments are written with zeroes before their first use and used again, so that appending changes no metadata
//!   of the file system.

pub(crate) mod batch;
pub(crate) mod field;
pub(crate) mod flusher;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod segment;

use crate::chunk::ChunkId;
use crate::counters::{Counters, add};
use crate::error::DiskError;
use crate::fence::Fence;
use crate::limits::{BATCH_CLOSE_BYTES, RECORD_BYTES_MAX};
use crate::wait::WaitList;
use batch::HEADER_BYTES;
use buckets_ring::id::GroupId;
use field::FieldBuf;
use record::{ChunkOp, ReplicaOp};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// A log sequence number: the place of a record in a disk's log. Grows by one a record, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Capacity of the first buffer of a batch.
const FIRST_BUFFER_BYTES: usize = 64 << 10;

/// A batch before it is written.
pub(crate) struct OpenBatch {
    pub(crate) buffer: FieldBuf,
    pub(crate) first_lsn: u64,
    pub(crate) count: u32,
}

impl OpenBatch {
    fn new(first_lsn: u64) -> OpenBatch {
        OpenBatch { buffer: FieldBuf::with_capacity(FIRST_BUFFER_BYTES, HEADER_BYTES), first_lsn, count: 0 }
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.buffer.len() - HEADER_BYTES
    }
}

struct Queue {
    open: OpenBatch,
    closed: VecDeque<OpenBatch>,
    closed_bytes: usize,
    next_lsn: u64,
    /// Finish records whose chunk data is not durable yet.
    data_pending: BTreeSet<u64>,
}

struct Inner {
    fence: Fence,
    counters: Counters,
    queue: RefCell<Queue>,
    durable: Cell<u64>,
    durable_wait: Rc<WaitList>,
    ready_wait: Rc<WaitList>,
    room_wait: Rc<WaitList>,
    close_bytes: usize,
    record_bytes_max: usize,
    queued_bytes_max: usize,
    /// More segments are in use than there should be.
    full: Cell<bool>,
}

/// Handle of a disk's log; clones share it.
#[derive(Clone)]
pub struct Wal {
    inner: Rc<Inner>,
}

impl Wal {
    /// The log after everything before `next_lsn` was replayed.
    pub(crate) fn new(
        fence: Fence,
        counters: Counters,
        next_lsn: u64,
        segment_bytes: u64,
        queued_bytes_max: usize,
    ) -> Wal {
        let wait = |fence: &Fence| {
            let list = Rc::new(WaitList::default());
            fence.notifies(&list);
            list
        };
        let inner = Inner {
            durable_wait: wait(&fence),
            ready_wait: wait(&fence),
            room_wait: wait(&fence),
            fence,
            counters,
            queue: RefCell::new(Queue {
                open: OpenBatch::new(next_lsn),
                closed: VecDeque::new(),
                closed_bytes: 0,
                next_lsn,
                data_pending: BTreeSet::new(),
            }),
            durable: Cell::new(next_lsn - 1),
            close_bytes: BATCH_CLOSE_BYTES.min((segment_bytes / 8) as usize),
            record_bytes_max: RECORD_BYTES_MAX.min((segment_bytes / 2) as usize),
            queued_bytes_max,
            full: Cell::new(false),
        };
        Wal { inner: Rc::new(inner) }
    }

    /// Ends when the record `lsn` and all before it are durable, or with the reason why they never will be known
    /// to be.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), DiskError> {
        let inner = &self.inner;
        inner.durable_wait.wait(lsn.0, || self.durable_now(lsn)).await
    }

    /// The same without waiting: `None` while the record is on its way.
    pub fn durable_now(&self, lsn: Lsn) -> Option<Result<(), DiskError>> {
        if self.inner.durable.get() >= lsn.0 {
            return Some(Ok(()));
        }
        self.inner.fence.check().err().map(Err)
    }

    /// The last durable record.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.inner.durable.get())
    }

    /// The last record appended.
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.inner.queue.borrow().next_lsn - 1)
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        let queue = self.inner.queue.borrow();
        queue.closed_bytes + queue.open.payload_bytes()
    }

    /// Waits while more than the limit waits to be written, or more segments are in use than there should be. Whoever
    /// appends on behalf of a client calls this first.
    pub async fn room(&self) -> Result<(), DiskError> {
        let inner = &self.inner;
        inner
            .room_wait
            .wait(0, || match inner.fence.check() {
                Err(error) => Some(Err(error)),
                Ok(()) => self.has_room().then_some(Ok(())),
            })
            .await
    }

    /// Longest record this log takes, in bytes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.inner.record_bytes_max
    }

    pub(crate) fn append_replica(
        &self,
        group: GroupId,
        previous: u64,
        op: &ReplicaOp<'_>,
    ) -> Result<Lsn, DiskError> {
        self.append(|out, _| record::write_replica(out, group, previous, op))
    }

    pub(crate) fn append_chunk(
        &self,
        chunk: ChunkId,
        previous: u64,
        op: &ChunkOp<'_>,
    ) -> Result<Lsn, DiskError> {
        self.append(|out, _| record::write_chunk(out, chunk, previous, op))
    }

    fn append(&self, encode: impl FnOnce(&mut FieldBuf, u64)) -> Result<Lsn, DiskError> {
        self.inner.fence.check()?;
        let lsn;
        {
            let mut queue = self.inner.queue.borrow_mut();
            lsn = queue.next_lsn;
            let before = queue.open.buffer.len();
            encode(&mut queue.open.buffer, lsn);
            let after = queue.open.buffer.len();
            assert!(
                after - before <= self.inner.record_bytes_max + 64,
                "records are cut before they come here"
            );
            queue.open.count += 1;
            queue.next_lsn += 1;
            add(&self.inner.counters.wal_payload_bytes, (after - before) as u64);
            if after >= self.inner.close_bytes {
                queue.close_open();
            }
        }
        self.inner.ready_wait.reach_all();
        Ok(Lsn(lsn))
    }

    /// The finish record `lsn` must not count as complete in the headers until [`Wal::data_durable`].
    pub(crate) fn data_pending(&self, lsn: Lsn) {
        self.inner.queue.borrow_mut().data_pending.insert(lsn.0);
    }

    pub(crate) fn data_durable(&self, lsn: Lsn) {
        self.inner.queue.borrow_mut().data_pending.remove(&lsn.0);
    }

    /// Up to which record all chunk data is durable.
    pub(crate) fn data_lsn(&self) -> u64 {
        let queue = self.inner.queue.borrow();
        queue.data_pending.first().map_or(queue.next_lsn, |first| *first) - 1
    }

    /// The next batch to write, if anything waits.
    pub(crate) fn take_batch(&self) -> Option<OpenBatch> {
        let mut queue = self.inner.queue.borrow_mut();
        if let Some(batch) = queue.closed.pop_front() {
            queue.closed_bytes -= batch.payload_bytes();
            return Some(batch);
        }
        if queue.open.count == 0 {
            return None;
        }
        let next = OpenBatch::new(queue.next_lsn);
        Some(std::mem::replace(&mut queue.open, next))
    }

    /// Ends when a batch waits, the fence is closed, or `or` holds after a nudge.
    pub(crate) async fn batch_ready(&self, or: impl Fn() -> bool) {
        let inner = &self.inner;
        inner
            .ready_wait
            .wait(0, || {
                let queue = inner.queue.borrow();
                (queue.open.count > 0 || !queue.closed.is_empty() || inner.fence.is_closed() || or())
                    .then_some(())
            })
            .await;
    }

    /// Wakes the flusher without a record.
    pub(crate) fn nudge(&self) {
        self.inner.ready_wait.reach_all();
    }

    /// Lsn that the first record not yet handed to the flusher has or will have.
    pub(crate) fn next_unwritten_lsn(&self) -> u64 {
        let queue = self.inner.queue.borrow();
        queue.closed.front().map_or(queue.open.first_lsn, |batch| batch.first_lsn)
    }

    /// Everything before `end_lsn` is durable.
    pub(crate) fn complete(&self, end_lsn: u64) {
        self.inner.durable.set(end_lsn - 1);
        self.inner.durable_wait.reach(end_lsn - 1);
        if self.has_room() {
            self.inner.room_wait.reach_all();
        }
    }

    fn has_room(&self) -> bool {
        !self.inner.full.get() && self.queued_bytes() < self.inner.queued_bytes_max
    }

    /// Too many segments are in use, or not any more.
    pub(crate) fn set_full(&self, full: bool) {
        self.inner.full.set(full);
        if self.has_room() {
            self.inner.room_wait.reach_all();
        }
    }
}

impl Queue {
    fn close_open(&mut self) {
        let next = OpenBatch::new(self.next_lsn);
        let full = std::mem::replace(&mut self.open, next);
        self.closed_bytes += full.payload_bytes();
        self.closed.push_back(full);
    }
}
