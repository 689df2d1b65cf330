//! Runs a test once per seed.
//!
//! What must hold: every failure names its seed; a sweep says how far it is and, at its end, how much faster than the
//! world its simulations went.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Chooses one seed for all sweeps: the replay of a failure.
pub(super) const SEED_VARIABLE: &str = "BUCKETS_SIM_SEED";
/// Chooses how many seeds a sweep takes.
const SEEDS_VARIABLE: &str = "BUCKETS_SIM_SEEDS";
/// Chooses how many threads share the seeds.
const THREADS_VARIABLE: &str = "BUCKETS_SIM_THREADS";
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

thread_local! {
    /// Virtual time of the simulations that ended on this thread.
    static SIMULATED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A simulation of this thread has ended after `age`.
pub(super) fn add_virtual_time(age: Duration) {
    SIMULATED.set(SIMULATED.get().saturating_add(age));
}

/// Runs `test` with each of `seeds`; the first panic ends the sweep, after a line on stderr that says how to
/// replay exactly that seed.
///
/// `BUCKETS_SIM_SEED=N` runs seed N alone; `BUCKETS_SIM_SEEDS=N` runs N seeds from the start of the range, and
/// `BUCKETS_SIM_THREADS=N` so many of them side by side.
pub fn sweep(seeds: Range<u64>, test: impl Fn(u64) + Sync) {
    sweep_and(seeds, &[], test);
}

/// [`sweep`], after the seeds `found` that have failed once.
pub fn sweep_and(seeds: Range<u64>, found: &[u64], test: impl Fn(u64) + Sync) {
    let one = variable(SEED_VARIABLE);
    let seeds = chosen_seeds(seeds, one, variable(SEEDS_VARIABLE));
    let found = if one.is_none() { found } else { &[] };
    let name = std::thread::current().name().unwrap_or("TEST").to_owned();
    let count = found.len() as u64 + seeds.end - seeds.start;
    let state = Mutex::new(State {
        left: found.iter().copied().chain(seeds).collect::<Vec<_>>().into_iter(),
        done: 0,
        told: Instant::now(),
        simulated: Duration::ZERO,
        took: Duration::ZERO,
        failure: None,
    });
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let Some(seed) = lock().left.next() else { return };
            let (began, simulated_before) = (Instant::now(), SIMULATED.get());
            let outcome = catch_unwind(AssertUnwindSafe(|| test(seed)));
            let mut state = lock();
            state.done += 1;
            state.took += began.elapsed();
            state.simulated += SIMULATED.get() - simulated_before;
            if let Err(cause) = outcome {
                let what = message(&*cause);
                eprintln!("seed {seed} failed: {what}; replay with {SEED_VARIABLE}={seed} cargo test {name}");
                state.left = Vec::new().into_iter();
                state.failure.get_or_insert(cause);
            }
            if state.told.elapsed() >= PROGRESS_EVERY {
                eprintln!("{name}: {} of {count} seeds, {}", state.done, state.speed());
                state.told = Instant::now();
            }
        }
    };
    match variable(THREADS_VARIABLE) {
        None | Some(0 | 1) => work(),
        Some(threads) => std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        }),
    }
    let mut state = lock();
    eprintln!("{name}: {} of {count} seeds, {}", state.done, state.speed());
    let failure = state.failure.take();
    drop(state);
    if let Some(cause) = failure {
        resume_unwind(cause);
    }
}

/// What the threads of a sweep share.
struct State {
    left: std::vec::IntoIter<u64>,
    done: u64,
    told: Instant,
    /// Virtual time of all seeds.
    simulated: Duration,
    /// What they took, all threads together.
    took: Duration,
    failure: Option<Box<dyn Any + Send>>,
}

impl State {
    fn speed(&self) -> String {
        let (simulated, took) = (self.simulated.as_secs_f64(), self.took.as_secs_f64());
        let times = simulated / took.max(f64::MIN_POSITIVE);
        format!("{simulated:.0} simulated seconds in {took:.1}: {times:.0} times real time on each thread")
    }
}

/// What a panic said.
pub(super) fn message(cause: &(dyn Any + Send)) -> &str {
    cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
}

fn chosen_seeds(seeds: Range<u64>, one: Option<u64>, count: Option<u64>) -> Range<u64> {
    match (one, count) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => seeds.start..seeds.start + count,
        (None, None) => seeds,
    }
}

pub(super) fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    match value.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name}={value} is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_the_seeds() {
        assert_eq!(chosen_seeds(0..10, None, None), 0..10);
        assert_eq!(chosen_seeds(5..10, None, Some(100)), 5..105);
        assert_eq!(chosen_seeds(0..10, Some(77), Some(3)), 77..78);
    }

    #[test]
    fn the_first_failing_seed_ends_the_sweep() {
        let ran = Mutex::new(Vec::new());
        let result = catch_unwind(AssertUnwindSafe(|| {
            sweep(0..10, |seed| {
                ran.lock().unwrap().push(seed);
                assert_ne!(seed, 3, "three is bad");
            });
        }));
        if [SEED_VARIABLE, SEEDS_VARIABLE, THREADS_VARIABLE].iter().all(|name| std::env::var(name).is_err()) {
            assert!(result.is_err());
            assert_eq!(*ran.lock().unwrap(), [0, 1, 2, 3]);
        }
    }
}
