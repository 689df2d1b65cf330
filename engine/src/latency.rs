//! How long disks take, and which of them are slow beside the others.
//!
//! What must hold: a disk is slow only in comparison (where all are late the node has too much to do, and no disk is to
//! blame); what is still waited for counts as soon as it is late; a slow disk gets another chance after a while.

use crate::message::DiskIndex;
use buckets_env::Instant;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// A slow disk takes more than so many times as long as the fastest.
const SLOW_RATIO: u32 = 4;

/// The latencies of one kind of operation, as one core sees them.
pub(crate) struct Latencies {
    /// A disk that takes longer than this on average is slow, if others are not.
    slow_after: Duration,
    /// After so long without an operation a slow disk gets another chance.
    memory: Duration,
    disks: RefCell<BTreeMap<DiskIndex, OfDisk>>,
}

#[derive(Default)]
struct OfDisk {
    /// And when it changed last.
    average: Option<(Duration, Instant)>,
    /// When operations began that have not ended, each with a number of its own.
    under_way: BTreeSet<(Instant, u64)>,
    begun: u64,
}

impl Latencies {
    pub(crate) fn new(slow_after: Duration, memory: Duration) -> Rc<Latencies> {
        Rc::new(Latencies { slow_after, memory, disks: RefCell::default() })
    }

    /// An operation begins; it ends with the drop of what is returned, or with [`UnderWay::ended`].
    pub(crate) fn begin(self: &Rc<Self>, disk: DiskIndex, now: Instant) -> UnderWay {
        let mut disks = self.disks.borrow_mut();
        let of_disk = disks.entry(disk).or_default();
        of_disk.begun += 1;
        let key = (now, of_disk.begun);
        of_disk.under_way.insert(key);
        UnderWay { latencies: self.clone(), disk, key }
    }

    /// Remembers how long an operation took, or was waited for.
    pub(crate) fn note(&self, disk: DiskIndex, took: Duration, now: Instant) {
        let mut disks = self.disks.borrow_mut();
        let of_disk = disks.entry(disk).or_default();
        let average = of_disk.average.map_or(took, |(average, _)| average);
        of_disk.average = Some(((average * 7 + took) / 8, now));
    }

    /// Whether a disk takes long.
    pub(crate) fn is_slow(&self, disk: DiskIndex, now: Instant) -> bool {
        self.slow_at(disk, now).is_some()
    }

    /// Where a disk takes long: when that was seen last.
    pub(crate) fn slow_at(&self, disk: DiskIndex, now: Instant) -> Option<Instant> {
        let disks = self.disks.borrow();
        let of_disk = disks.get(&disk)?;
        let averages = disks.values().filter_map(|of_disk| of_disk.average);
        let fastest = averages.map(|(average, _)| average).min().unwrap_or_default();
        let limit = self.slow_after.max(fastest * SLOW_RATIO);
        let waits = of_disk.under_way.first().is_some_and(|(began, _)| now.since(*began) > limit);
        let was_slow = |(average, at): &(Duration, Instant)| *average > limit && now.since(*at) < self.memory;
        let before = of_disk.average.filter(was_slow).map(|(_, at)| at);
        if waits { Some(now) } else { before }
    }
}

/// An operation that has begun.
pub(crate) struct UnderWay {
    latencies: Rc<Latencies>,
    disk: DiskIndex,
    key: (Instant, u64),
}

impl UnderWay {
    /// It ended at `now`, and counts.
    pub(crate) fn ended(self, now: Instant) {
        self.latencies.note(self.disk, now.since(self.key.0), now);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(of_disk) = self.latencies.disks.borrow_mut().get_mut(&self.disk) {
            of_disk.under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant(ms * MS)
    }

    fn latencies() -> Rc<Latencies> {
        Latencies::new(Duration::from_millis(20), Duration::from_secs(10))
    }

    #[test]
    fn a_disk_is_slow_beside_others_and_not_for_ever() {
        let latencies = latencies();
        for n in 0..20 {
            latencies.note(0, Duration::from_millis(2), at(n));
            latencies.note(1, Duration::from_millis(200), at(n));
            latencies.note(2, Duration::from_millis(15), at(n));
        }
        let slow = |now| [0, 1, 2].map(|disk| latencies.is_slow(disk, now));
        assert_eq!(slow(at(100)), [false, true, false]);
        assert_eq!(slow(at(9_000)), [false, true, false]);
        assert_eq!(slow(at(11_000)), [false; 3]);
        for n in 0..40 {
            latencies.note(0, Duration::from_millis(100), at(11_000 + n));
            latencies.note(1, Duration::from_millis(200), at(11_000 + n));
            latencies.note(2, Duration::from_millis(150), at(11_000 + n));
        }
        assert_eq!(slow(at(11_100)), [false; 3]);
    }

    #[test]
    fn what_is_waited_for_counts_before_it_ends_and_what_is_given_up_does_not() {
        let latencies = latencies();
        latencies.note(0, Duration::from_millis(2), at(0));
        let stuck = latencies.begin(1, at(0));
        let also = latencies.begin(1, at(0));
        assert!(!latencies.is_slow(1, at(19)));
        assert!(latencies.is_slow(1, at(21)));
        drop(stuck);
        assert!(latencies.is_slow(1, at(22)));
        drop(also);
        assert!(!latencies.is_slow(1, at(30_000)));
        latencies.begin(1, at(40_000)).ended(at(40_300));
        assert_eq!(latencies.slow_at(1, at(40_301)), Some(at(40_300)));
    }
}
