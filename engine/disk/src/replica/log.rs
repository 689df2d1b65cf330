//! The Raft log of one replica in memory: everything that the index does not hold yet, and a bounded tail behind it.
//!
//! What must hold: entries are contiguous; each knows the last record of the write-ahead log that holds it, and these
//! numbers grow with the index, so that the first unflushed entry tells how far back the write-ahead log is needed.
//!
//! Pure: no I/O.

use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// One entry of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Raft term.
    pub term: u64,
    /// Raft index, from 1.
    pub index: u64,
    /// Opaque: what kind of entry this is.
    pub kind: u8,
    /// Opaque content.
    pub data: Bytes,
}

impl LogEntry {
    /// What it takes in memory and in a record.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len() + 24
    }
}

/// What a replica must remember about terms and votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term.
    pub term: u64,
    /// Who got the vote of this term; 0: nobody.
    pub vote: u64,
    /// Highest index known to be committed.
    pub commit: u64,
}

/// Entries behind the index's position that a replayed log keeps for slow followers.
const REPLAYED_TAIL_ENTRIES_MAX: usize = 256;

struct Held {
    entry: LogEntry,
    lsn: u64,
}

/// See the module.
pub(crate) struct Log {
    /// Index and term before the first entry.
    truncated: (u64, u64),
    entries: VecDeque<Held>,
    bytes: usize,
}

impl Log {
    /// Empty behind `truncated`.
    pub(crate) fn new(truncated: (u64, u64)) -> Log {
        Log { truncated, entries: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn truncated(&self) -> (u64, u64) {
        self.truncated
    }

    pub(crate) fn last(&self) -> (u64, u64) {
        self.entries.back().map_or(self.truncated, |held| (held.entry.index, held.entry.term))
    }

    /// The term of an index that is known.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.truncated.0 {
            return Some(self.truncated.1);
        }
        self.held(index).map(|held| held.entry.term)
    }

    fn held(&self, index: u64) -> Option<&Held> {
        self.entries.get(usize::try_from(index.checked_sub(self.truncated.0 + 1)?).ok()?)
    }

    /// The entries of `range` that are there, up to `bytes_max` but at least one.
    pub(crate) fn entries(&self, range: Range<u64>, bytes_max: usize) -> Vec<LogEntry> {
        let mut bytes = 0;
        let mut found = Vec::new();
        for index in range {
            let Some(held) = self.held(index) else { break };
            bytes += held.entry.bytes();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(held.entry.clone());
        }
        found
    }

    /// True where `entries` are contiguous and fit behind or over what is there.
    pub(crate) fn fits(&self, entries: &[LogEntry]) -> bool {
        let contiguous = entries.windows(2).all(|pair| pair[1].index == pair[0].index + 1);
        contiguous
            && entries
                .first()
                .is_none_or(|first| self.truncated.0 < first.index && first.index <= self.last().0 + 1)
    }

    /// Appends, after removing the suffix that the entries replace.
    pub(crate) fn append(&mut self, entries: &[LogEntry], lsn: u64) {
        assert!(self.fits(entries), "entries leave a gap or go behind the truncated position");
        let Some(first) = entries.first() else { return };
        let keep = (first.index - self.truncated.0 - 1) as usize;
        for removed in self.entries.drain(keep..) {
            self.bytes -= removed.entry.bytes();
        }
        for entry in entries {
            self.bytes += entry.bytes();
            self.entries.push_back(Held { entry: entry.clone(), lsn });
        }
    }

    /// Forgets entries up to `flushed`, but for a tail within the limits.
    pub(crate) fn compact(&mut self, flushed: u64, tail_bytes_max: usize, tail_entries_max: usize) {
        let unflushed = self.last().0.saturating_sub(flushed) as usize;
        while let Some(front) = self.entries.front() {
            let over = self.bytes > tail_bytes_max || self.entries.len() > tail_entries_max + unflushed;
            if front.entry.index > flushed || !over {
                break;
            }
            self.truncated = (front.entry.index, front.entry.term);
            self.bytes -= front.entry.bytes();
            self.entries.pop_front();
        }
    }

    /// The record that holds the first entry after `flushed`: the write-ahead log is needed from there on.
    pub(crate) fn needed_lsn(&self, flushed: u64) -> Option<u64> {
        let first = flushed.max(self.truncated.0) + 1;
        self.held(first).map(|held| held.lsn)
    }

    /// Bytes of the entries after `flushed`.
    pub(crate) fn unflushed_bytes(&self, flushed: u64) -> usize {
        self.entries
            .iter()
            .rev()
            .take_while(|held| held.entry.index > flushed)
            .map(|held| held.entry.bytes())
            .sum()
    }
}

/// A log as it comes back from the write-ahead log, of which the front is missing.
pub(crate) struct ReplayedLog {
    /// Index before the first entry; its term may be unknown. `None`: nothing was seen.
    base: Option<u64>,
    entries: VecDeque<Held>,
}

impl ReplayedLog {
    pub(crate) fn new() -> ReplayedLog {
        ReplayedLog { base: None, entries: VecDeque::new() }
    }

    /// Forgets everything: the log starts after `index`.
    pub(crate) fn reset(&mut self, index: u64) {
        *self = ReplayedLog { base: Some(index), ..ReplayedLog::new() };
    }

    /// The index was set to a snapshot at (`index`, `term`). What the log holds behind it stays where it continues
    /// the snapshot: it was acknowledged, and the next entries come behind it.
    pub(crate) fn restart_at(&mut self, index: u64, term: u64) {
        let base = self.base.unwrap_or(0);
        let continues = if index > base {
            self.entries.get((index - base - 1) as usize).is_some_and(|held| held.entry.term == term)
        } else {
            // The entry at the snapshot is gone. Terms only grow in a log, and whoever made an entry of the snapshot's
            // term or a later one had the snapshot's entry.
            self.entries.front().is_some_and(|first| first.entry.term >= term)
        };
        if !continues {
            self.reset(index);
        }
    }

    /// Entries as one record holds them.
    pub(crate) fn append(&mut self, entries: Vec<LogEntry>, lsn: u64) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        if !entries.windows(2).all(|pair| pair[1].index == pair[0].index + 1) || first == 0 {
            return;
        }
        let base = *self.base.get_or_insert(first - 1);
        let end = base + 1 + self.entries.len() as u64;
        if first <= base || first > end {
            // Logged again from before the first record that is left; or, after damage, a gap: then what is left is
            // behind it, and `finish` tells whether the index covers the gap.
            self.entries.clear();
            self.base = Some(first - 1);
        } else {
            self.entries.truncate((first - base - 1) as usize);
        }
        self.entries.extend(entries.into_iter().map(|entry| Held { entry, lsn }));
    }

    /// Forgets all but some of the entries that the index holds.
    pub(crate) fn trim(&mut self, flushed: u64) {
        while self.entries.len() > REPLAYED_TAIL_ENTRIES_MAX {
            let Some(front) = self.entries.front().filter(|held| held.entry.index <= flushed) else { return };
            self.base = Some(front.entry.index);
            self.entries.pop_front();
        }
    }

    /// The log behind what the index holds. False: entries between the two are missing.
    pub(crate) fn finish(mut self, flushed: (u64, u64)) -> (Log, bool) {
        let fresh = Log::new(flushed);
        let Some(base) = self.base else { return (fresh, true) };
        let last = base + self.entries.len() as u64;
        if last <= flushed.0 {
            // A hole that the index covers does no harm.
            return (fresh, true);
        }
        if base > flushed.0 {
            return (fresh, false);
        }
        if base < flushed.0 {
            let at = (flushed.0 - base - 1) as usize;
            if self.entries[at].entry.term != flushed.1 {
                // What the index holds was committed: these entries were never, and had just not been replaced yet.
                return (fresh, true);
            }
            let Some(front) = self.entries.pop_front() else { return (fresh, true) };
            self.base = Some(front.entry.index);
            let truncated = (front.entry.index, front.entry.term);
            let bytes = self.entries.iter().map(|held| held.entry.bytes()).sum();
            return (Log { truncated, entries: self.entries, bytes }, true);
        }
        let bytes = self.entries.iter().map(|held| held.entry.bytes()).sum();
        (Log { truncated: flushed, entries: self.entries, bytes }, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: Range<u64>, term: u64) -> Vec<LogEntry> {
        range.map(|index| LogEntry { term, index, kind: 0, data: Bytes::from(vec![0; 76]) }).collect()
    }

    fn terms(log: &Log) -> Vec<(u64, u64)> {
        log.entries(log.truncated().0 + 1..u64::MAX, usize::MAX).iter().map(|e| (e.index, e.term)).collect()
    }

    #[test]
    fn an_append_replaces_the_suffix() {
        let mut log = Log::new((10, 1));
        log.append(&entries(11..15, 1), 100);
        log.append(&entries(13..14, 2), 101);
        assert_eq!(terms(&log), [(11, 1), (12, 1), (13, 2)]);
        assert_eq!((log.term(10), log.term(13), log.term(14), log.term(9)), (Some(1), Some(2), None, None));
        assert_eq!(
            (log.needed_lsn(10), log.needed_lsn(12), log.needed_lsn(13)),
            (Some(100), Some(101), None)
        );
        assert!(!log.fits(&entries(15..16, 2)) && !log.fits(&entries(10..12, 2)));
    }

    #[test]
    fn compaction_keeps_what_is_unflushed_and_a_bounded_tail() {
        let mut log = Log::new((0, 0));
        log.append(&entries(1..101, 1), 7);
        log.compact(60, usize::MAX, 10);
        assert_eq!((log.truncated(), log.last()), ((50, 1), (100, 1)));
        log.compact(60, 4_500, 10);
        assert_eq!(log.truncated(), (55, 1));
        log.compact(60, 0, 0);
        assert_eq!(log.truncated(), (60, 1));
        assert_eq!(log.unflushed_bytes(60), 4000);
    }

    #[test]
    fn entries_are_limited_by_bytes_but_never_to_nothing() {
        let mut log = Log::new((0, 0));
        log.append(&entries(1..11, 1), 7);
        assert_eq!(log.entries(1..11, 1).len(), 1);
        assert_eq!(log.entries(1..11, 350).len(), 3);
        assert_eq!(log.entries(9..99, usize::MAX).len(), 2);
    }

    #[test]
    fn a_snapshot_leaves_what_continues_it() {
        type Case<'a> = (&'a [Vec<LogEntry>], (u64, u64), (u64, u64));
        let cases: [Case<'_>; 6] = [
            // records before, snapshot; last entry
            (&[], (5, 2), (5, 2)),
            (&[entries(1..4, 1)], (5, 2), (5, 2)),
            (&[entries(1..9, 1)], (5, 2), (5, 2)),
            (&[entries(1..9, 2)], (5, 2), (8, 2)),
            (&[entries(6..9, 1)], (5, 2), (5, 2)),
            (&[entries(6..9, 3)], (5, 2), (8, 3)),
        ];
        for (records, snapshot, last) in cases {
            let mut log = ReplayedLog::new();
            records.iter().for_each(|record| log.append(record.clone(), 1));
            log.restart_at(snapshot.0, snapshot.1);
            let (log, whole) = log.finish(snapshot);
            assert!(whole);
            assert_eq!(log.last(), last, "{records:?} {snapshot:?}");
        }
    }

    #[test]
    fn a_replayed_log_joins_the_index() {
        let replay = |records: &[Vec<LogEntry>]| {
            let mut log = ReplayedLog::new();
            records.iter().enumerate().for_each(|(i, record)| log.append(record.clone(), i as u64));
            log
        };
        type Case<'a> = (&'a [Vec<LogEntry>], (u64, u64), (u64, u64), (u64, u64), bool);
        let cases: [Case<'_>; 8] = [
            // records, flushed; truncated, last, whole
            (&[], (5, 1), (5, 1), (5, 1), true),
            (&[entries(1..4, 1)], (0, 0), (0, 0), (3, 1), true),
            (&[entries(1..9, 1)], (5, 1), (1, 1), (8, 1), true),
            (&[entries(3..5, 1)], (5, 1), (5, 1), (5, 1), true),
            (&[entries(7..9, 1)], (5, 1), (5, 1), (5, 1), false),
            // replaced but not yet on this disk
            (&[entries(3..9, 1)], (5, 2), (5, 2), (5, 2), true),
            // logged again from before the first record that is left
            (&[entries(5..6, 1), entries(3..8, 1)], (2, 1), (2, 1), (7, 1), true),
            (&[entries(3..9, 1), entries(6..8, 2)], (4, 1), (3, 1), (7, 2), true),
        ];
        for (records, flushed, truncated, last, whole) in cases {
            let (log, is_whole) = replay(records).finish(flushed);
            assert_eq!(
                (log.truncated(), log.last(), is_whole),
                (truncated, last, whole),
                "{records:?} {flushed:?}"
            );
        }
        assert!(!replay(&[entries(1..5, 1), entries(7..9, 1)]).finish((3, 1)).1, "5 and 6 are missing");
        assert!(replay(&[entries(1..5, 1), entries(7..9, 1)]).finish((6, 1)).1);
    }
}
