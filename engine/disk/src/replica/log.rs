//! The Raft log of one replica in memory: everything that the index does not hold yet, and a bounded tail behind it.
//!
//! What must hold: entries are contiguous; each knows the last record of the write-ahead log that holds it, so that the
//! unflushed entries tell how far back the write-ahead log is needed. A record that takes the place of older ones does
//! so only when it is durable.
//!
//! Pure: no I/O.

use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
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
    /// Until the first record is durable, the second one is needed: the first took its place.
    superseded: Vec<(u64, u64)>,
}

impl Log {
    /// Empty behind `truncated`.
    pub(crate) fn new(truncated: (u64, u64)) -> Log {
        Log { truncated, entries: VecDeque::new(), bytes: 0, superseded: Vec::new() }
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
        self.supersede(keep..self.entries.len(), lsn);
        for removed in self.entries.drain(keep..) {
            self.bytes -= removed.entry.bytes();
        }
        for entry in entries {
            self.bytes += entry.bytes();
            self.entries.push_back(Held { entry: entry.clone(), lsn });
        }
    }

    /// The record `lsn` holds `count` entries from `first` on again.
    pub(crate) fn logged_again(&mut self, first: u64, count: usize, lsn: u64) {
        let from = (first - self.truncated.0 - 1) as usize;
        assert!(from + count <= self.entries.len(), "only what is here can be logged again");
        self.supersede(from..from + count, lsn);
        self.entries.range_mut(from..from + count).for_each(|held| held.lsn = lsn);
    }

    fn supersede(&mut self, range: Range<usize>, lsn: u64) {
        if let Some(oldest) = self.entries.range(range).map(|held| held.lsn).min() {
            self.superseded.push((lsn, oldest));
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

    /// The first record that holds an entry after `flushed`: the write-ahead log is needed from there on. Records up to
    /// `durable` are durable.
    pub(crate) fn needed_lsn(&mut self, flushed: u64, durable: u64) -> Option<u64> {
        self.superseded.retain(|(by, _)| *by > durable);
        let superseded = self.superseded.iter().map(|(_, old)| *old);
        self.unflushed(flushed).map(|held| held.lsn).chain(superseded).min()
    }

    fn unflushed(&self, flushed: u64) -> impl Iterator<Item = &Held> {
        self.entries.iter().rev().take_while(move |held| held.entry.index > flushed)
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the entries after `index`.
    pub(crate) fn bytes_after(&self, index: u64) -> usize {
        self.unflushed(index).map(|held| held.entry.bytes()).sum()
    }

    /// The entries after `flushed` whose records are before `until`, in runs without gaps.
    pub(crate) fn unflushed_before(&self, flushed: u64, until: u64) -> Vec<Vec<LogEntry>> {
        let mut runs: Vec<Vec<LogEntry>> = Vec::new();
        let first = flushed.max(self.truncated.0) + 1;
        let from = (first - self.truncated.0 - 1) as usize;
        for held in self.entries.iter().skip(from).filter(|held| held.lsn < until) {
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|last| last.index + 1 == held.entry.index) => {
                    run.push(held.entry.clone());
                }
                _ => runs.push(vec![held.entry.clone()]),
            }
        }
        runs
    }
}

/// A log as it comes back from the write-ahead log: what is left of it, in the order of its records.
pub(crate) struct ReplayedLog {
    entries: BTreeMap<u64, Held>,
}

impl ReplayedLog {
    pub(crate) fn new() -> ReplayedLog {
        ReplayedLog { entries: BTreeMap::new() }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The index was set to a snapshot at (`index`, `term`). What the log holds behind it stays where it continues
    /// the snapshot: it was acknowledged, and the next entries come behind it.
    pub(crate) fn restart_at(&mut self, index: u64, term: u64) {
        let continues = match self.entries.first_key_value() {
            // The entry at the snapshot is gone. Terms only grow in a log, and whoever made an entry of the snapshot's
            // term or a later one had the snapshot's entry.
            Some((first, held)) if index < *first => held.entry.term >= term,
            _ => self.entries.get(&index).is_some_and(|held| held.entry.term == term),
        };
        if !continues {
            self.clear();
        }
    }

    /// Entries as one record holds them: what was behind them is gone.
    pub(crate) fn append(&mut self, entries: Vec<LogEntry>, lsn: u64) {
        if let Some(first) = entries.first() {
            self.entries.split_off(&first.index);
        }
        self.append_again(entries, lsn);
    }

    /// Entries that were in the log already, as one record holds them again: what is behind them stays.
    pub(crate) fn append_again(&mut self, entries: Vec<LogEntry>, lsn: u64) {
        self.entries.extend(entries.into_iter().map(|entry| (entry.index, Held { entry, lsn })));
    }

    /// Forgets all but some of the entries that the index holds.
    pub(crate) fn trim(&mut self, flushed: u64) {
        while self.entries.len() > REPLAYED_TAIL_ENTRIES_MAX
            && self.entries.first_key_value().is_some_and(|(first, _)| *first <= flushed)
        {
            self.entries.pop_first();
        }
    }

    /// The log behind what the index holds, with what is left of a tail before that. False: entries between the two,
    /// or between others, are missing.
    pub(crate) fn finish(mut self, flushed: (u64, u64)) -> (Log, bool) {
        if self.entries.get(&flushed.0).is_some_and(|held| held.entry.term != flushed.1) {
            // What the index holds was committed: these entries were never, and had just not been replaced yet.
            return (Log::new(flushed), true);
        }
        let behind = self.entries.split_off(&(flushed.0 + 1));
        let mut log = Log::new(flushed);
        for (index, held) in self.entries.into_iter().rev() {
            if index + 1 != log.entries.front().map_or(flushed.0 + 1, |first| first.entry.index) {
                break;
            }
            log.bytes += held.entry.bytes();
            log.entries.push_front(held);
        }
        // The term before the first entry is not known: that entry becomes the truncated position.
        if let Some(first) = log.entries.pop_front() {
            log.bytes -= first.entry.bytes();
            log.truncated = (first.entry.index, first.entry.term);
        }
        for (index, held) in behind {
            if index != log.last().0 + 1 {
                return (log, false);
            }
            log.bytes += held.entry.bytes();
            log.entries.push_back(held);
        }
        (log, true)
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
        assert!(!log.fits(&entries(15..16, 2)) && !log.fits(&entries(10..12, 2)));
        let mut needed = |flushed, durable| log.needed_lsn(flushed, durable);
        // What was replaced is needed until its replacement is durable.
        assert_eq!((needed(12, 100), needed(12, 101)), (Some(100), Some(101)));
        assert_eq!((needed(10, 101), needed(13, 101)), (Some(100), None));
    }

    #[test]
    fn what_is_logged_again_is_needed_where_it_was_until_that_is_durable() {
        let mut log = Log::new((0, 0));
        log.append(&entries(1..5, 1), 10);
        log.append(&entries(5..9, 1), 11);
        assert_eq!(log.unflushed_before(1, 11), [entries(2..5, 1)]);
        log.logged_again(2, 3, 20);
        let mut needed = |flushed, durable| log.needed_lsn(flushed, durable);
        assert_eq!((needed(0, 19), needed(0, 20)), (Some(10), Some(10)));
        assert_eq!((needed(1, 20), needed(4, 20), needed(8, 20)), (Some(11), Some(11), None));
        assert_eq!(log.unflushed_before(0, 20), [entries(1..2, 1), entries(5..9, 1)]);
        assert_eq!(log.last(), (8, 1));

        // The record with the first entries is gone: they come back in two records.
        let mut replayed = ReplayedLog::new();
        replayed.append(entries(5..9, 1), 11);
        replayed.append_again(entries(1..3, 1), 20);
        replayed.append_again(entries(3..5, 1), 21);
        let (mut log, whole) = replayed.finish((0, 0));
        assert!(whole);
        assert_eq!((log.last(), log.needed_lsn(0, 30), log.needed_lsn(2, 30)), ((8, 1), Some(11), Some(11)));
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
