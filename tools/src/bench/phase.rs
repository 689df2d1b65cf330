//! One phase: its threads, its clock and what is looked at meanwhile.
//!
//! What must hold: processor time of client and servers is taken at the same moments as the operations are counted from and
//! to; watching costs one wake-up a second.

use super::measure::{Live, Tally};
use super::process_usage::{ProcessUsage, own_cpu};
use super::workload::Window;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How a phase is run.
pub(crate) struct Schedule<'a> {
    /// Shown while it runs.
    pub(crate) name: &'a str,
    pub(crate) threads: usize,
    /// The CPUs that the threads are pinned to, in turn; empty: anywhere.
    pub(crate) cpus: &'a [usize],
    pub(crate) window: Window,
    pub(crate) server_pids: &'a [u32],
}

/// What came of a phase.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// What was measured took so long.
    pub(crate) elapsed: Duration,
    pub(crate) client_cpu: Duration,
    /// In the order of the process ids: before and after; absent where the process could not be looked at.
    pub(crate) servers: Vec<Option<(ProcessUsage, ProcessUsage)>>,
    /// Operations that ended in each second.
    pub(crate) seconds: Vec<u64>,
}

/// Why a phase has no outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PhaseError {
    #[error("a client thread could not work: {0}")]
    Thread(#[from] io::Error),
    #[error("a client thread panicked")]
    Panicked,
}

struct Watch {
    client_cpu: Duration,
    servers: Vec<Option<ProcessUsage>>,
}

impl Schedule<'_> {
    /// Runs `thread(index, live)` on each thread.
    pub(crate) fn run(
        &self,
        thread: impl Fn(usize, &Arc<Live>) -> io::Result<Tally> + Sync,
    ) -> Result<Outcome, PhaseError> {
        let lives: Vec<Arc<Live>> = (0..self.threads).map(|_| Arc::default()).collect();
        let (thread, lives) = (&thread, &lives);
        std::thread::scope(|scope| {
            let (ended, ends) = mpsc::channel::<()>();
            let mut handles = Vec::new();
            for (index, live) in lives.iter().enumerate() {
                let ended = ended.clone();
                let work = move || {
                    if !self.cpus.is_empty() {
                        pin(self.cpus[index % self.cpus.len()])?;
                    }
                    let result = thread(index, live);
                    drop(ended);
                    result
                };
                let builder = std::thread::Builder::new().name(format!("client-{index}"));
                handles.push(builder.spawn_scoped(scope, work)?);
            }
            drop(ended);
            let (before, after, seconds) = self.watch(lives, &ends);
            let mut tally = Tally::new();
            for handle in handles {
                tally.merge(handle.join().map_err(|_| PhaseError::Panicked)??);
            }
            let servers =
                before.servers.into_iter().zip(after.servers).map(|(before, after)| before.zip(after));
            Ok(Outcome {
                elapsed: self.elapsed(&tally),
                client_cpu: after.client_cpu.saturating_sub(before.client_cpu),
                servers: servers.collect(),
                seconds,
                tally,
            })
        })
    }

    fn elapsed(&self, tally: &Tally) -> Duration {
        let Window { measure_from, until } = self.window;
        let end = match (until, tally.last_end) {
            (Some(until), _) if !tally.exhausted => until,
            (_, Some(last_end)) => last_end,
            (_, None) => measure_from,
        };
        end.saturating_duration_since(measure_from)
    }

    /// Sleeps through the phase, waking up each second; returns what was seen at the window's two ends.
    fn watch(&self, lives: &[Arc<Live>], ends: &mpsc::Receiver<()>) -> (Watch, Watch, Vec<u64>) {
        let Window { measure_from, until } = self.window;
        let sleep_to = |to: Instant| {
            // All threads have ended where the channel is disconnected; nothing is ever sent.
            let left = to.saturating_duration_since(Instant::now());
            ends.recv_timeout(left) == Err(RecvTimeoutError::Disconnected)
        };
        let mut over = sleep_to(measure_from);
        let before = self.look();
        let mut seconds = Vec::new();
        let [mut counted, bytes, _] = Live::sum(lives);
        let mut progress = Progress::new(self.name, [counted, bytes]);
        let mut next = measure_from;
        while !over && until.is_none_or(|until| Instant::now() < until) {
            next += Duration::from_secs(1);
            over = sleep_to(until.map_or(next, |until| until.min(next)));
            let [operations, bytes, errors] = Live::sum(lives);
            if Instant::now() >= next {
                seconds.push(operations - counted);
                counted = operations;
                progress.show(operations, bytes, errors, next - measure_from);
            }
        }
        progress.clear();
        let after = self.look();
        (before, after, seconds)
    }

    fn look(&self) -> Watch {
        Watch {
            client_cpu: own_cpu(),
            servers: self.server_pids.iter().map(|pid| ProcessUsage::of(*pid).ok()).collect(),
        }
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no CPU {cpu}")));
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("CPU {cpu} cannot be used: {error}"))
    })
}

/// One line on the terminal, written over each second.
struct Progress<'a> {
    name: &'a str,
    terminal: bool,
    shown: [u64; 2],
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, shown: [u64; 2]) -> Progress<'a> {
        Progress { name, terminal: io::stderr().is_terminal(), shown }
    }

    fn show(&mut self, operations: u64, bytes: u64, errors: u64, after: Duration) {
        let [shown_operations, shown_bytes] = std::mem::replace(&mut self.shown, [operations, bytes]);
        if self.terminal {
            // A terminal that is gone does not stop the measurement.
            let _ = write!(
                io::stderr(),
                "\r\x1b[K{} {:>4} s: {} operations/s, {:.1} MB/s, {errors} errors",
                self.name,
                after.as_secs(),
                operations - shown_operations,
                (bytes - shown_bytes) as f64 / 1e6,
            );
        }
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
