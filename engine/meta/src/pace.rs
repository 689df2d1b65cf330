//! Whether one voter's disk keeps up with the others, as its group's leader sees it.
//!
//! What must hold: nothing is decided by time alone, only by comparison with the voters that would commit without this one
//! (on a busy machine all are late together); one late flush is nothing, [`LATE_MAX`] in a row are a slow disk; a slow
//! disk is in time as often before it is trusted again.

use buckets_env::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A flush that takes less is never late.
const LATE_AFTER: Duration = Duration::from_millis(20);
/// And it takes so many times as long as that of the others.
const LATE_RATIO: u32 = 4;
/// So many in a row change the judgement.
const LATE_MAX: u32 = 8;
/// A flush that takes this long counts as that many.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// Entries that are watched at the same time; those between are as late as their neighbours.
const WATCHED_MAX: usize = 256;

/// Entries on their way to all voters.
struct Sent {
    last: u64,
    at: Instant,
    /// When enough others had them.
    others: Option<Instant>,
}

/// Watches one voter.
#[derive(Default)]
pub(crate) struct Pace {
    on_the_way: VecDeque<Sent>,
    /// Flushes in a row that contradict the judgement.
    against: u32,
    slow: bool,
}

impl Pace {
    /// A new leadership: nothing is known.
    pub(crate) fn forget(&mut self) {
        *self = Pace::default();
    }

    /// The entries up to `last` were sent to all voters.
    pub(crate) fn sent(&mut self, last: u64, now: Instant) {
        if self.on_the_way.len() < WATCHED_MAX {
            self.on_the_way.push_back(Sent { last, at: now, others: None });
        }
    }

    /// Whether [`Pace::look`] can learn anything.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.on_the_way.is_empty()
    }

    /// The voter has flushed up to `watched`, and as many others as commit without it up to `others` (`None` where there
    /// are not so many).
    pub(crate) fn look(&mut self, watched: u64, others: Option<u64>, now: Instant) {
        if let Some(others) = others {
            for sent in self.on_the_way.iter_mut().filter(|sent| sent.last <= others) {
                sent.others.get_or_insert(now);
            }
        }
        while self.on_the_way.front().is_some_and(|sent| sent.last <= watched) {
            if let Some(sent) = self.on_the_way.pop_front() {
                let late = is_late(&sent, now);
                self.judge(late, 1);
            }
        }
        let stuck = self.on_the_way.front().is_some_and(|sent| {
            sent.others.is_some() && now.since(sent.at) >= STUCK_AFTER && is_late(sent, now)
        });
        if stuck {
            self.judge(true, LATE_MAX);
        }
    }

    fn judge(&mut self, late: bool, weight: u32) {
        if late == self.slow {
            self.against = 0;
            return;
        }
        self.against += weight;
        if self.against >= LATE_MAX {
            self.slow = late;
            self.against = 0;
        }
    }

    /// The judgement.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }
}

fn is_late(sent: &Sent, now: Instant) -> bool {
    let took = now.since(sent.at);
    took > LATE_AFTER && sent.others.is_some_and(|others| took > others.since(sent.at) * LATE_RATIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Entry `n` is sent at `n` seconds; the others have it after `others` ms, the voter after `watched` ms.
    fn entries(pace: &mut Pace, numbers: std::ops::Range<u64>, watched: u64, others: u64) {
        for n in numbers {
            let at = n * 1000 * MS;
            pace.sent(n, Instant(at));
            if others < watched {
                pace.look(n - 1, Some(n), Instant(at + others * MS));
            }
            pace.look(n, Some(n), Instant(at + watched * MS));
        }
    }

    #[test]
    fn a_disk_is_slow_beside_others_only() {
        let mut pace = Pace::default();
        entries(&mut pace, 1..20, 900, 800);
        assert!(!pace.is_slow(), "all are late");
        entries(&mut pace, 20..40, 19, 1);
        assert!(!pace.is_slow(), "nobody waits for long");
        entries(&mut pace, 40..47, 100, 2);
        assert!(!pace.is_slow(), "seven may be chance");
        entries(&mut pace, 47..48, 100, 2);
        assert!(pace.is_slow());
        entries(&mut pace, 48..55, 3, 2);
        assert!(pace.is_slow());
        entries(&mut pace, 55..56, 3, 2);
        assert!(!pace.is_slow(), "eight in time");
    }

    #[test]
    fn a_disk_that_hangs_is_slow_without_an_answer() {
        let mut pace = Pace::default();
        pace.sent(1, Instant(0));
        pace.look(0, Some(1), Instant(MS));
        pace.look(0, Some(1), Instant(999 * MS));
        assert!(!pace.is_slow());
        pace.look(0, Some(1), Instant(1001 * MS));
        assert!(pace.is_slow());
        pace.forget();
        assert!(!pace.is_slow() && !pace.is_waiting());
    }

    #[test]
    fn without_enough_others_nothing_is_judged() {
        let mut pace = Pace::default();
        for n in 1..100 {
            pace.sent(n, Instant(n * 1000 * MS));
            pace.look(n, None, Instant((n * 1000 + 900) * MS));
        }
        assert!(!pace.is_slow());
    }
}
