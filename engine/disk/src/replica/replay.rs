//! One replica's state while the write-ahead log is read.
//!
//! What must hold: where a part of the log is lost, the chain of `previous` numbers decides whether a record of this
//! replica was in it; without proof that none was, the replica is damaged. A checkpoint makes good what it
//! states (hard state, configuration), and entries that the index holds are not missed.

use super::ReplicaState;
use super::log::{HardState, Log, ReplayedLog};
use crate::wal::record::{ReplicaCheckpoint, ReplicaRecord, Reset, State};
use bytes::Bytes;
use std::ops::Range;

/// See the module.
pub(crate) struct ReplicaReplay {
    /// Position of the index, durable.
    flushed: (u64, u64),
    log: ReplayedLog,
    hard_state: HardState,
    conf: Bytes,
    damaged: bool,
    chain: u64,
    reset: Option<Reset>,
    removed: bool,
    /// Lost parts of the log of which it is not known whether they held records of this replica.
    suspected: Vec<Range<u64>>,
    /// The last index that the log knows of.
    known: u64,
}

impl ReplicaReplay {
    /// For a group that shows up first after `lost` parts of the log.
    pub(crate) fn new(flushed: (u64, u64), lost: &[Range<u64>]) -> ReplicaReplay {
        ReplicaReplay {
            flushed,
            log: ReplayedLog::new(),
            hard_state: HardState::default(),
            conf: Bytes::new(),
            damaged: false,
            chain: 0,
            reset: None,
            removed: false,
            suspected: lost.to_vec(),
            known: 0,
        }
    }

    /// Records with these numbers are lost.
    pub(crate) fn lost(&mut self, range: &Range<u64>) {
        self.suspected.push(range.clone());
    }

    /// True where the group was removed and not created again.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed
    }

    /// The index lost what it held.
    pub(crate) fn index_lost(&mut self) {
        self.damaged = true;
    }

    /// The state in a checkpoint before which `next_lsn` was the next record.
    pub(crate) fn checkpoint(&mut self, checkpoint: ReplicaCheckpoint, next_lsn: u64) {
        // A chain that points forward says nothing: the records it counts are still to come.
        if checkpoint.chain < next_lsn {
            let lost = self.suspected.iter().any(|range| range.contains(&checkpoint.chain));
            // Where the index holds all entries, what may be lost is only state that stands in this checkpoint.
            if lost && checkpoint.last.0 <= self.flushed.0 {
                self.log.clear();
            } else {
                self.damaged |= lost;
            }
            self.suspected.clear();
            self.chain = checkpoint.chain;
        }
        self.damaged |= checkpoint.damaged;
        self.known = checkpoint.last.0;
        self.take(&checkpoint.state);
        self.reset = checkpoint.reset;
        self.removed = false;
    }

    /// A record with number `lsn`.
    pub(crate) fn record(&mut self, lsn: u64, previous: u64, record: ReplicaRecord) {
        self.damaged |= self.suspected.iter().any(|range| range.contains(&previous));
        self.suspected.clear();
        self.chain = lsn;
        match record {
            ReplicaRecord::Append { state, entries, again } => {
                self.take(&state);
                let last = entries.last().map_or(self.known, |last| last.index);
                if again {
                    self.known = self.known.max(last);
                    self.log.append_again(entries, lsn);
                } else {
                    self.known = last;
                    self.log.append(entries, lsn);
                }
                self.log.trim(self.flushed.0);
            }
            ReplicaRecord::Create => self.removed = false,
            ReplicaRecord::Reset(reset) => self.begin_reset(reset),
            ReplicaRecord::Remove => {
                *self = ReplicaReplay { removed: true, chain: lsn, ..ReplicaReplay::new(self.flushed, &[]) };
            }
            ReplicaRecord::Repaired => self.damaged = false,
        }
        // Entries follow a reset only after the index was replaced.
        if let Some(reset) = self.reset.take_if(|reset| reset.index <= self.flushed.0) {
            self.end_reset(&reset);
        }
    }

    fn begin_reset(&mut self, reset: Reset) {
        self.reset = Some(reset);
    }

    fn end_reset(&mut self, reset: &Reset) {
        self.log.restart_at(reset.index, reset.term);
        self.known = self.known.max(reset.index);
        self.take(&reset.state);
    }

    fn take(&mut self, state: &State) {
        if let Some(hard_state) = state.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(conf) = &state.conf {
            self.conf = conf.clone();
        }
    }

    /// The recovered state; `None` where the group was removed.
    pub(crate) fn finish(mut self) -> Option<ReplicaState> {
        if self.removed {
            return None;
        }
        if let Some(reset) = self.reset.take_if(|reset| reset.index <= self.flushed.0) {
            self.end_reset(&reset);
        }
        // Entries are applied when they are durable: an index that is ahead of the log speaks of a lost part of it.
        let mut damaged = self.damaged || !self.suspected.is_empty() || self.flushed.0 > self.known;
        let (log, whole): (Log, bool) = self.log.finish(self.flushed);
        damaged |= !whole;
        let mut hard_state = self.hard_state;
        // The commit index of a record may have been kept where its entries were not: nobody was told.
        hard_state.commit = hard_state.commit.min(log.last().0).max(self.flushed.0);
        hard_state.term = hard_state.term.max(log.last().1);
        Some(ReplicaState {
            log,
            hard_state,
            conf: self.conf,
            damaged,
            chain: self.chain,
            // A snapshot whose content did not arrive is forgotten; the leader sends it again.
            reset: None,
            removed: false,
            flushing: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::log::LogEntry;
    use buckets_ring::id::GroupId;

    fn append(index: u64, term: u64) -> ReplicaRecord {
        let entries = vec![LogEntry { term, index, kind: 0, data: Bytes::new() }];
        let hard_state = Some(HardState { term, vote: 1, commit: index });
        ReplicaRecord::Append { state: State { hard_state, conf: None }, entries, again: false }
    }

    fn checkpoint(chain: u64, last: u64) -> ReplicaCheckpoint {
        ReplicaCheckpoint {
            group: GroupId(1),
            damaged: false,
            chain,
            truncated: (0, 0),
            last: (last, 1),
            state: State::default(),
            reset: None,
        }
    }

    #[test]
    fn the_chain_tells_whether_something_was_lost() {
        let lost = 20..30;
        let damaged = |after: &mut dyn FnMut(&mut ReplicaReplay), flushed: u64| {
            let mut replay = ReplicaReplay::new((flushed, 1), &[]);
            replay.checkpoint(checkpoint(0, 0), 1);
            replay.record(10, 0, append(1, 1));
            replay.lost(&lost);
            after(&mut replay);
            replay.finish().map(|state| state.damaged)
        };
        assert_eq!(damaged(&mut |_| {}, 0), Some(true), "nothing proves that nothing was lost");
        assert_eq!(damaged(&mut |r| r.record(35, 10, append(2, 1)), 0), Some(false));
        assert_eq!(damaged(&mut |r| r.record(35, 25, append(3, 1)), 0), Some(true));
        assert_eq!(damaged(&mut |r| r.checkpoint(checkpoint(10, 1), 40), 0), Some(false));
        assert_eq!(damaged(&mut |r| r.checkpoint(checkpoint(25, 2), 40), 0), Some(true));
        assert_eq!(
            damaged(&mut |r| r.checkpoint(checkpoint(25, 2), 40), 2),
            Some(false),
            "the index holds it"
        );
        assert_eq!(damaged(&mut |r| r.checkpoint(checkpoint(45, 2), 40), 0), Some(true), "points forward");
    }

    #[test]
    fn damage_lasts_until_repaired() {
        let mut replay = ReplicaReplay::new((0, 0), &[]);
        replay.checkpoint(ReplicaCheckpoint { damaged: true, ..checkpoint(5, 0) }, 10);
        replay.record(11, 5, append(1, 1));
        replay.checkpoint(ReplicaCheckpoint { damaged: true, ..checkpoint(11, 1) }, 12);
        replay.record(12, 11, ReplicaRecord::Repaired);
        replay.checkpoint(checkpoint(12, 1), 13);
        assert_eq!(replay.finish().map(|state| state.damaged), Some(false));
    }

    #[test]
    fn a_snapshot_counts_when_its_content_is_there() {
        for (flushed, truncated, conf) in [((0, 0), (0, 0), ""), ((50, 4), (50, 4), "new")] {
            let mut replay = ReplicaReplay::new(flushed, &[]);
            replay.record(1, 0, append(1, 1));
            let state = State { hard_state: None, conf: Some(Bytes::from_static(b"new")) };
            replay.record(2, 1, ReplicaRecord::Reset(Reset { index: 50, term: 4, state }));
            let state = replay.finish().unwrap();
            assert_eq!((state.log.truncated(), &state.conf[..]), (truncated, conf.as_bytes()));
            assert!(!state.damaged);
        }
    }

    #[test]
    fn a_commit_index_without_its_entries_is_cut() {
        let mut replay = ReplicaReplay::new((0, 0), &[]);
        let hard_state = Some(HardState { term: 3, vote: 0, commit: 90 });
        let state = State { hard_state, conf: None };
        replay.checkpoint(ReplicaCheckpoint { state, ..checkpoint(0, 0) }, 1);
        assert_eq!(replay.finish().map(|state| state.hard_state.commit), Some(0));
    }
}
