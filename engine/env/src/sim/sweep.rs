//! Runs a test once per seed.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// Chooses one seed for all sweeps: the replay of a failure.
const SEED_VARIABLE: &str = "BUCKETS_SIM_SEED";
/// Chooses how many seeds a sweep takes.
const SEEDS_VARIABLE: &str = "BUCKETS_SIM_SEEDS";
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Runs `test` with each of `seeds`; the first panic ends the sweep, after a line on stderr that says how to
/// replay exactly that seed.
///
/// `BUCKETS_SIM_SEED=N` runs seed N alone; `BUCKETS_SIM_SEEDS=N` runs N seeds from the start of the range.
pub fn sweep(seeds: Range<u64>, test: impl FnMut(u64)) {
    sweep_and(seeds, &[], test);
}

/// [`sweep`], after the seeds `found` that have failed once.
pub fn sweep_and(seeds: Range<u64>, found: &[u64], mut test: impl FnMut(u64)) {
    let one = variable(SEED_VARIABLE);
    let seeds = chosen_seeds(seeds, one, variable(SEEDS_VARIABLE));
    let found = if one.is_none() { found } else { &[] };
    let name = std::thread::current().name().unwrap_or("TEST").to_owned();
    let count = found.len() as u64 + seeds.end - seeds.start;
    let mut told = Instant::now();
    for (done, seed) in (1..).zip(found.iter().copied().chain(seeds)) {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            let what = cause
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| cause.downcast_ref::<&str>().copied())
                .unwrap_or("panic");
            eprintln!("seed {seed} failed: {what}; replay with {SEED_VARIABLE}={seed} cargo test {name}");
            resume_unwind(cause);
        }
        if told.elapsed() >= PROGRESS_EVERY {
            eprintln!("{name}: {done} of {count} seeds");
            told += told.elapsed();
        }
    }
}

fn chosen_seeds(seeds: Range<u64>, one: Option<u64>, count: Option<u64>) -> Range<u64> {
    match (one, count) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => seeds.start..seeds.start + count,
        (None, None) => seeds,
    }
}

fn variable(name: &str) -> Option<u64> {
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
        let mut ran = Vec::new();
        let result = catch_unwind(AssertUnwindSafe(|| {
            sweep(0..10, |seed| {
                ran.push(seed);
                assert_ne!(seed, 3, "three is bad");
            });
        }));
        if std::env::var(SEED_VARIABLE).is_err() && std::env::var(SEEDS_VARIABLE).is_err() {
            assert!(result.is_err());
            assert_eq!(ran, [0, 1, 2, 3]);
        }
    }
}
