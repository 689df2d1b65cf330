//! The log of one replica, as Raft reads it.
//!
//! What must hold: Raft sees every appended entry at once (it is told later that it is durable); an entry's bytes
//! are shared, never copied.

use crate::members::Members;
use crate::message::{entry_kind, entry_type, snapshot};
use buckets_disk::{HardState, LogEntry, ReplicaStore};
use buckets_index::Position;
use raft::eraftpb::{self, Entry};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What a leader offers to a follower that needs entries which the log no longer holds.
pub(crate) struct Offer {
    /// Everything up to here is in the rows.
    pub(crate) applied: Cell<Position>,
    /// The rows are whole.
    pub(crate) usable: Cell<bool>,
    pub(crate) members: RefCell<Members>,
}

/// The log, with what raft-rs asks of it.
pub(crate) struct Log {
    pub(crate) store: ReplicaStore,
    pub(crate) offer: Rc<Offer>,
    /// What Raft starts from.
    pub(crate) hard_state: HardState,
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = eraftpb::HardState::default();
        hard_state.term = self.hard_state.term;
        hard_state.vote = self.hard_state.vote;
        hard_state.commit = self.hard_state.commit;
        Ok(RaftState::new(hard_state, self.offer.members.borrow().conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.store.first_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.store.last_index() + 1, "entries behind the end of the log are asked for");
        let bytes_max = max_size.into().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        Ok(self.store.entries(low..high, bytes_max).iter().map(raft_entry).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.store.term(index) {
            Some(term) => Ok(term),
            None if index < self.store.first_index() => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.store.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.store.last_index())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        let applied = self.offer.applied.get();
        if !self.offer.usable.get() || applied.index == 0 || applied.index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let members = self.offer.members.borrow().encode();
        snapshot(applied, members).map_err(|bad| Error::Store(StorageError::Other(Box::new(bad))))
    }
}

/// An entry as a disk stores it.
pub(crate) fn log_entry(entry: &Entry) -> LogEntry {
    debug_assert!(entry.context.is_empty());
    LogEntry {
        term: entry.term,
        index: entry.index,
        kind: entry_kind(entry.get_entry_type()),
        data: entry.data.clone(),
    }
}

/// An entry as Raft handles it.
pub(crate) fn raft_entry(stored: &LogEntry) -> Entry {
    let mut entry = Entry::default();
    // The disk verified these bytes; a kind that this version does not know was refused when the replica was opened.
    entry.set_entry_type(entry_type(stored.kind).unwrap_or_default());
    entry.term = stored.term;
    entry.index = stored.index;
    entry.data = stored.data.clone();
    entry
}
