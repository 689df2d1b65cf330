//! What one disk keeps of one Raft group: its log, its hard state, its configuration and its index.
//!
//! What must hold:
//! - What was appended is part of the replica's state at once, and durable when its lsn is.
//! - The write-ahead log holds every entry that the index does not hold durably; older ones may be gone.
//! - A damaged replica (its records may be lost) stays damaged over restarts until it is repaired: it must not vote.

pub(crate) mod log;
pub(crate) mod replay;

use crate::counters::{Counters, add};
use crate::error::DiskError;
use crate::identity;
use crate::limits::DiskOptions;
use crate::wal::record::{ReplicaCheckpoint, ReplicaOp, Reset, State};
use crate::wal::{Lsn, Wal};
use buckets_env::Env;
use buckets_index::Index;
use buckets_ring::id::{DiskUuid, GroupId};
use bytes::Bytes;
use log::{HardState, Log, LogEntry};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use xxhash_rust::xxh3::xxh3_128;

/// Where a snapshot stands and what comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPosition {
    /// Raft index of the last entry that the snapshot includes.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Opaque configuration at that index.
    pub conf: Bytes,
    /// Hard state to take over; `None`: as it is.
    pub hard_state: Option<HardState>,
}

pub(crate) struct ReplicaState {
    pub(crate) log: Log,
    pub(crate) hard_state: HardState,
    pub(crate) conf: Bytes,
    pub(crate) damaged: bool,
    /// Lsn of the last record.
    pub(crate) chain: u64,
    /// A snapshot is being loaded.
    pub(crate) reset: Option<Reset>,
    pub(crate) removed: bool,
    /// An index flush to free a log segment is on its way.
    pub(crate) flushing: bool,
}

struct Inner {
    group: GroupId,
    index: Index,
    /// Directory of the disk, and generation of the index.
    place: (PathBuf, u32),
    env: Env,
    wal: Wal,
    counters: Counters,
    record_entries_bytes_max: usize,
    tail_bytes_max: usize,
    tail_entries_max: usize,
    held_bytes_max: usize,
    /// Entries after it are held.
    held_after: Cell<Option<u64>>,
    state: RefCell<ReplicaState>,
}

/// Handle of one replica; clones share it.
#[derive(Clone)]
pub struct ReplicaStore {
    inner: Rc<Inner>,
}

impl ReplicaStore {
    #[expect(clippy::too_many_arguments, reason = "the parts of a disk that a replica uses")]
    pub(crate) fn new(
        group: GroupId,
        index: Index,
        place: (PathBuf, u32),
        wal: Wal,
        counters: Counters,
        env: &Env,
        options: &DiskOptions,
        state: ReplicaState,
    ) -> ReplicaStore {
        let inner = Inner {
            group,
            index,
            place,
            env: env.clone(),
            record_entries_bytes_max: wal.record_bytes_max() / 2,
            wal,
            counters,
            tail_bytes_max: options.log_tail_bytes_max,
            tail_entries_max: options.log_tail_entries_max,
            held_bytes_max: options.log_held_bytes_max,
            held_after: Cell::new(None),
            state: RefCell::new(state),
        };
        ReplicaStore { inner: Rc::new(inner) }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.inner.group
    }

    /// The group's keys. Committed entries are applied here, with their Raft index and term as position.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// The hard state as last appended or recovered.
    pub fn hard_state(&self) -> HardState {
        self.inner.state.borrow().hard_state
    }

    /// The configuration as last appended or recovered; empty where there never was one.
    pub fn conf(&self) -> Bytes {
        self.inner.state.borrow().conf.clone()
    }

    /// True where records of this replica may be lost: it must not vote, and its log may be too short.
    pub fn damaged(&self) -> bool {
        self.inner.state.borrow().damaged
    }

    /// Appends entries and state to the disk's log; durable when [`Wal::durable`] of the result is. The entries may
    /// replace a suffix of the log, but nothing at or before [`ReplicaStore::truncated`] (panics: a bug of the
    /// caller).
    pub fn append(
        &self,
        entries: &[LogEntry],
        hard_state: Option<HardState>,
        conf: Option<Bytes>,
    ) -> Result<Lsn, DiskError> {
        assert!(
            self.inner.state.borrow().log.fits(entries),
            "{:?}: entries do not fit the log",
            self.inner.group
        );
        let mut state = State { hard_state, conf };
        let mut rest = entries;
        // A crash may keep the first of several records only: then that is what was appended.
        loop {
            let (part, after) = rest.split_at(self.record_part(rest));
            let lsn = self.log_part(part, &state)?;
            rest = after;
            if rest.is_empty() {
                return Ok(lsn);
            }
            state = State::default();
        }
    }

    /// How many entries go into one record.
    fn record_part(&self, entries: &[LogEntry]) -> usize {
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            bytes += entry.bytes();
            bytes <= self.inner.record_entries_bytes_max
        });
        fitting.count().max(1).min(entries.len())
    }

    fn log_part(&self, entries: &[LogEntry], with: &State) -> Result<Lsn, DiskError> {
        let mut state = self.inner.state.borrow_mut();
        let op = ReplicaOp::Append { state: with, entries, again: false };
        let lsn = self.inner.wal.append_replica(self.inner.group, state.chain, &op)?;
        state.chain = lsn.0;
        state.log.append(entries, lsn.0);
        state.take(with);
        self.compact_log(&mut state.log);
        Ok(lsn)
    }

    /// Entries of `range` as far as they are here, up to `bytes_max` but at least one.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> Vec<LogEntry> {
        self.inner.state.borrow().log.entries(range, bytes_max)
    }

    /// The term of an index; `None` before [`ReplicaStore::truncated`] and after the last entry.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.inner.state.borrow().log.term(index)
    }

    /// Index and term of the entry before the first one that is here.
    pub fn truncated(&self) -> (u64, u64) {
        self.inner.state.borrow().log.truncated()
    }

    /// Index of the first entry that is (or would be) here.
    pub fn first_index(&self) -> u64 {
        self.truncated().0 + 1
    }

    /// Index of the last entry; that of the truncated position where there is none.
    pub fn last_index(&self) -> u64 {
        self.inner.state.borrow().log.last().0
    }

    /// First step of taking a snapshot: its position becomes durable as an intention. Then the caller replaces the
    /// content of [`ReplicaStore::index`], with the same position, and calls [`ReplicaStore::end_snapshot`]. A crash
    /// in between leaves the replica either as it was or at the snapshot, by what the index holds.
    pub async fn begin_snapshot(&self, snapshot: &SnapshotPosition) -> Result<(), DiskError> {
        let reset = Reset {
            index: snapshot.index,
            term: snapshot.term,
            state: State { hard_state: snapshot.hard_state, conf: Some(snapshot.conf.clone()) },
        };
        let lsn = {
            let mut state = self.inner.state.borrow_mut();
            let lsn =
                self.inner.wal.append_replica(self.inner.group, state.chain, &ReplicaOp::Reset(&reset))?;
            state.chain = lsn.0;
            state.reset = Some(reset);
            lsn
        };
        self.inner.wal.durable(lsn).await
    }

    /// Last step of taking a snapshot: the log starts behind it, or goes on where it continues the snapshot (what it
    /// holds behind it was acknowledged). Panics where no snapshot was begun or the index is not at its position.
    pub fn end_snapshot(&self) {
        let mut state = self.inner.state.borrow_mut();
        let Some(reset) = state.reset.take() else { panic!("{:?}: no snapshot was begun", self.inner.group) };
        let flushed = self.inner.index.flushed();
        assert_eq!(
            (flushed.index, flushed.term),
            (reset.index, reset.term),
            "the index is not at the snapshot"
        );
        if state.log.term(reset.index) != Some(reset.term) {
            state.log = Log::new((reset.index, reset.term));
        }
        state.take(&reset.state);
        state.hard_state.commit = state.hard_state.commit.max(reset.index);
    }

    /// Gives up a snapshot that was begun and whose content did not arrive; the index must not have been replaced.
    pub fn abandon_snapshot(&self) {
        self.inner.state.borrow_mut().reset = None;
    }

    /// The replica has got back what it lost (it joined anew, or took a snapshot as a learner): it is not damaged any
    /// more, durably. What was left of a damaged index is removed.
    pub async fn repaired(&self) -> Result<(), DiskError> {
        let (disk, generation) = &self.inner.place;
        for older in 0..*generation {
            let dir = identity::group_dir(disk, self.inner.group, older);
            if let Err(error) = identity::clear_dir(&self.inner.env, &dir).await {
                // The replica counts as damaged again at the next open: safe, and tried again then.
                tracing::warn!(path = %dir.display(), %error, "cannot remove a damaged index");
            }
        }
        let lsn = {
            let mut state = self.inner.state.borrow_mut();
            let lsn = self.inner.wal.append_replica(self.inner.group, state.chain, &ReplicaOp::Repaired)?;
            state.chain = lsn.0;
            state.damaged = false;
            lsn
        };
        self.inner.wal.durable(lsn).await
    }

    pub(crate) fn log_created(&self) -> Result<Lsn, DiskError> {
        self.log_plain(&ReplicaOp::Create)
    }

    pub(crate) fn log_removed(&self) -> Result<Lsn, DiskError> {
        let lsn = self.log_plain(&ReplicaOp::Remove)?;
        self.inner.state.borrow_mut().removed = true;
        Ok(lsn)
    }

    fn log_plain(&self, op: &ReplicaOp<'_>) -> Result<Lsn, DiskError> {
        let mut state = self.inner.state.borrow_mut();
        let lsn = self.inner.wal.append_replica(self.inner.group, state.chain, op)?;
        state.chain = lsn.0;
        Ok(lsn)
    }

    pub(crate) fn checkpoint(&self) -> ReplicaCheckpoint {
        let state = self.inner.state.borrow();
        ReplicaCheckpoint {
            group: self.inner.group,
            damaged: state.damaged,
            chain: state.chain,
            truncated: state.log.truncated(),
            last: state.log.last(),
            state: State { hard_state: Some(state.hard_state), conf: Some(state.conf.clone()) },
            reset: state.reset.clone(),
        }
    }

    /// The first record of the write-ahead log that this replica needs.
    pub(crate) fn needed_lsn(&self) -> Option<u64> {
        let flushed = self.inner.index.flushed().index;
        let durable = self.inner.wal.durable_lsn().0;
        self.inner.state.borrow_mut().log.needed_lsn(flushed, durable)
    }

    /// Bytes of entries that the index does not hold at all: they cannot be flushed.
    pub(crate) fn unapplied_bytes(&self) -> usize {
        let applied = self.inner.index.applied().index;
        self.inner.state.borrow().log.bytes_after(applied)
    }

    /// Flushes the index in the background where more than `bytes_max` of entries wait for it. Keys that are written again
    /// and again fill the log and not the memtable.
    pub(crate) fn bound_unflushed(&self, bytes_max: usize) {
        let (flushed, applied) = (self.inner.index.flushed().index, self.inner.index.applied().index);
        let (bytes, flushing) = {
            let state = self.inner.state.borrow();
            (state.log.bytes_after(flushed) - state.log.bytes_after(applied), state.flushing)
        };
        if bytes > bytes_max && !flushing {
            self.start_flush(0);
        }
    }

    /// Drops what the index has taken over.
    pub(crate) fn compact(&self) {
        self.compact_log(&mut self.inner.state.borrow_mut().log);
    }

    fn compact_log(&self, log: &mut Log) {
        let inner = &self.inner;
        let flushed = inner.index.flushed().index;
        // Over the bound nobody is helped by a part of it.
        let held = inner.held_after.get().filter(|_| log.bytes() <= inner.held_bytes_max);
        log.compact(flushed.min(held.unwrap_or(u64::MAX)), inner.tail_bytes_max, inner.tail_entries_max);
    }

    /// Keeps the entries after `after`, though the index has taken them over, for somebody who fetches a snapshot that ends
    /// there; `None`: for nobody. At most [`DiskOptions::log_held_bytes_max`].
    pub fn hold_log(&self, after: Option<u64>) {
        self.inner.held_after.set(after);
    }

    /// Makes this replica need nothing before `until_lsn`: logs the unflushed entries before it again where they are
    /// few, else flushes the index first. Returns at once where the index is flushed in the background.
    pub(crate) fn release_log(&self, relog_bytes_max: usize, until_lsn: u64) {
        let flushed = self.inner.index.flushed().index;
        let (bytes, flushing) = {
            let state = self.inner.state.borrow();
            let runs = state.log.unflushed_before(flushed, until_lsn);
            (runs.iter().flatten().map(LogEntry::bytes).sum::<usize>(), state.flushing)
        };
        if flushing {
            return;
        }
        if bytes <= relog_bytes_max {
            self.relog(until_lsn);
            return;
        }
        self.start_flush(until_lsn);
    }

    /// Flushes the index in the background, then logs again what is still not flushed before `until_lsn`.
    fn start_flush(&self, until_lsn: u64) {
        add(&self.inner.counters.wal_forced_flushes, 1);
        self.inner.state.borrow_mut().flushing = true;
        let replica = self.clone();
        self.inner.env.spawn(async move {
            // A failure poisons the index, which the housekeeping sees.
            let flushed = replica.inner.index.flush().await;
            replica.inner.state.borrow_mut().flushing = false;
            if flushed.is_ok() {
                replica.compact();
                // What is not committed yet cannot be flushed.
                replica.relog(until_lsn);
            }
        });
    }

    /// Logs the unflushed entries again whose records are before `until_lsn`.
    fn relog(&self, until_lsn: u64) {
        let flushed = self.inner.index.flushed().index;
        let runs = self.inner.state.borrow().log.unflushed_before(flushed, until_lsn);
        add(&self.inner.counters.wal_relogs, u64::from(!runs.is_empty()));
        for run in runs {
            let mut rest = &run[..];
            while !rest.is_empty() {
                let (part, after) = rest.split_at(self.record_part(rest));
                // A fenced disk frees nothing any more.
                let Ok(()) = self.log_again(part) else { return };
                rest = after;
            }
        }
    }

    fn log_again(&self, entries: &[LogEntry]) -> Result<(), DiskError> {
        let mut state = self.inner.state.borrow_mut();
        let op = ReplicaOp::Append { state: &State::default(), entries, again: true };
        let lsn = self.inner.wal.append_replica(self.inner.group, state.chain, &op)?;
        state.chain = lsn.0;
        state.log.logged_again(entries[0].index, entries.len(), lsn.0);
        Ok(())
    }
}

impl ReplicaState {
    pub(crate) fn take(&mut self, with: &State) {
        if let Some(hard_state) = with.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(conf) = &with.conf {
            self.conf = conf.clone();
        }
    }
}

/// What is bound into every checksum of an index: the disk, and what it is the index of.
pub(crate) fn index_identity(disk: DiskUuid, of: &[u8]) -> [u8; 16] {
    let mut bytes = disk.as_bytes().to_vec();
    bytes.extend_from_slice(of);
    xxh3_128(&bytes).to_le_bytes()
}
