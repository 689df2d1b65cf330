//! What was counted: latencies and bytes by action, errors by name.
//!
//! What must hold: only what succeeded within the window is in the latencies and rates; what failed is counted by name and
//! nowhere else; latencies keep three significant digits from a microsecond to a minute and beyond.

use super::workload::{Action, Ending, Window};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest latency told apart, in nanoseconds: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// So many wrong answers are described; all are counted.
const MISMATCHES_SHOWN_MAX: usize = 5;

/// Of one action.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Of bodies.
    pub(crate) bytes: u64,
    /// Of listings.
    pub(crate) keys: u64,
}

impl Measured {
    fn new() -> Measured {
        let Ok(latencies) = Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3) else {
            unreachable!("the bounds are constants")
        };
        Measured { latencies, bytes: 0, keys: 0 }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.latencies.len()
    }
}

/// Of one thread, or of all of them.
#[derive(Debug)]
pub(crate) struct Tally {
    actions: [Option<Box<Measured>>; Action::ALL.len()],
    /// Failed operations within the window, by S3 code or by what went wrong on the connection.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Answers that said success and were wrong, at any time, the first of them described.
    pub(crate) mismatches: (u64, Vec<String>),
    /// Connections opened after the first of each.
    pub(crate) reconnects: u64,
    /// The end of the last operation within the window.
    pub(crate) last_end: Option<Instant>,
    /// All operations were done before the window ended.
    pub(crate) exhausted: bool,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally {
            actions: Default::default(),
            errors: BTreeMap::new(),
            mismatches: (0, Vec::new()),
            reconnects: 0,
            last_end: None,
            exhausted: false,
        }
    }

    pub(crate) fn good(&mut self, action: Action, latency: Duration, bytes: u64, keys: u64) {
        let measured = self.actions[action as usize].get_or_insert_with(|| Box::new(Measured::new()));
        measured.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX));
        measured.bytes += bytes;
        measured.keys += keys;
    }

    pub(crate) fn error(&mut self, name: &str) {
        match self.errors.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(name.to_owned(), 1);
            }
        }
    }

    pub(crate) fn mismatch(&mut self, description: impl FnOnce() -> String) {
        self.mismatches.0 += 1;
        if self.mismatches.1.len() < MISMATCHES_SHOWN_MAX {
            self.mismatches.1.push(description());
        }
    }

    /// What was measured of each action that happened.
    pub(crate) fn actions(&self) -> impl Iterator<Item = (Action, &Measured)> {
        Action::ALL.into_iter().filter_map(|action| Some((action, self.actions[action as usize].as_deref()?)))
    }

    pub(crate) fn operations(&self) -> u64 {
        self.actions().map(|(_, measured)| measured.operations()).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.actions().map(|(_, measured)| measured.bytes).sum()
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: Tally) {
        for (mine, others) in self.actions.iter_mut().zip(other.actions) {
            match (mine.as_mut(), others) {
                (Some(mine), Some(others)) => {
                    mine.bytes += others.bytes;
                    mine.keys += others.keys;
                    let Ok(()) = mine.latencies.add(&others.latencies) else {
                        unreachable!("all have the same bounds")
                    };
                }
                (None, others) => *mine = others,
                (Some(_), None) => {}
            }
        }
        for (name, count) in other.errors {
            *self.errors.entry(name).or_insert(0) += count;
        }
        self.mismatches.0 += other.mismatches.0;
        self.mismatches.1.extend(other.mismatches.1);
        self.mismatches.1.truncate(MISMATCHES_SHOWN_MAX);
        self.reconnects += other.reconnects;
        self.last_end = self.last_end.max(other.last_end);
        self.exhausted |= other.exhausted;
    }
}

/// What one thread has done so far, for whoever watches. On its own cache line: the thread writes it all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Live {
    operations: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Live {
    // Only the thread itself writes: no read-modify-write is needed.
    pub(crate) fn good(&self, bytes: u64) {
        self.operations.store(self.operations.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    pub(crate) fn error(&self) {
        self.errors.store(self.errors.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Operations, bytes and errors of all threads.
    pub(crate) fn sum(all: &[Arc<Live>]) -> [u64; 3] {
        let sum = |counter: fn(&Live) -> &AtomicU64| {
            all.iter().map(|live| counter(live).load(Ordering::Relaxed)).sum::<u64>()
        };
        [sum(|live| &live.operations), sum(|live| &live.bytes), sum(|live| &live.errors)]
    }
}

/// How an answer is to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Bytes of the body; of a listing, its keys and whether there are more.
    Good { bytes: u64, keys: u64, more: bool },
    /// The store says no, or nothing.
    Refused(String),
    /// The store says yes, and it is not so.
    Wrong(String),
}

/// Counts what one thread does.
pub(crate) struct Account<'a> {
    pub(crate) tally: Tally,
    window: Window,
    live: &'a Live,
}

impl<'a> Account<'a> {
    pub(crate) fn new(window: Window, live: &'a Live) -> Account<'a> {
        Account { tally: Tally::new(), window, live }
    }

    /// Counts an operation, and says how it ended.
    pub(crate) fn ended(&mut self, action: Action, started: Instant, verdict: Verdict) -> Ending {
        let now = Instant::now();
        let counts = self.window.counts(now);
        if counts {
            self.tally.last_end = Some(now);
        }
        match verdict {
            Verdict::Good { bytes, keys, more } => {
                self.live.good(bytes);
                if counts {
                    self.tally.good(action, now - started, bytes, keys);
                }
                Ending::Good { keys, more }
            }
            Verdict::Refused(name) => self.failed(&name, counts),
            Verdict::Wrong(description) => {
                self.tally.mismatch(|| description);
                // Whenever it comes, a wrong answer is not passed over.
                self.failed("wrong answer", true)
            }
        }
    }

    /// Counts a request or a connection that broke.
    pub(crate) fn broken(&mut self, name: &str) -> Ending {
        let counts = self.window.counts(Instant::now());
        self.failed(name, counts)
    }

    fn failed(&mut self, name: &str, counts: bool) -> Ending {
        self.live.error();
        if counts {
            self.tally.error(name);
        }
        Ending::Failed
    }

    /// Nothing is left to be begun: whether because the clock has stopped it, or because all is done.
    pub(crate) fn nothing_left(&mut self) {
        self.tally.exhausted |= self.window.until.is_none_or(|until| Instant::now() < until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let mut all = Tally::new();
        for thread in 0..2 {
            let mut tally = Tally::new();
            for micros in 1..=1000 {
                tally.good(Action::Get, Duration::from_micros(micros + 1000 * thread), 10, 0);
            }
            tally.error("503 SlowDown");
            for number in 0..4 {
                tally.mismatch(|| number.to_string());
            }
            all.merge(tally);
        }
        let (action, measured) = all.actions().next().unwrap();
        assert_eq!((action, measured.operations(), measured.bytes), (Action::Get, 2000, 20_000));
        let p50 = measured.latencies.value_at_quantile(0.5);
        assert!(p50.abs_diff(1_000_000) < 1_000, "{p50}");
        assert_eq!(all.errors["503 SlowDown"], 2);
        assert_eq!((all.mismatches.0, all.mismatches.1.len()), (8, MISMATCHES_SHOWN_MAX));
    }

    #[test]
    fn an_endless_wait_is_recorded_as_the_longest_there_is() {
        let mut tally = Tally::new();
        tally.good(Action::Put, Duration::from_secs(1 << 40), 0, 0);
        assert!(tally.actions().next().unwrap().1.latencies.max() >= LATENCY_NS_MAX);
    }
}
