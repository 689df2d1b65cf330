//! Fuzz targets and what feeds them.
//!
//! What must hold: an input that was found once lies in `corpus/TARGET/` and runs with every test; executions follow from
//! target and seed alone, so that any of them can be had again.

mod mutate;
mod targets;

pub use mutate::Mutator;
pub use targets::{TARGETS, Target};

use std::io;
use std::path::{Path, PathBuf};

/// The inputs kept for a target, in the order of their names.
pub fn kept_inputs(target: &Target) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), std::fs::read(path)?))).collect()
}

/// The inputs of a run, without end: first the seeds and the kept ones as they are, then mutations of them.
pub fn inputs(target: &Target, seed: u64) -> io::Result<impl Iterator<Item = Vec<u8>>> {
    let mut begin = (target.seeds)();
    begin.extend(kept_inputs(target)?.into_iter().map(|(_, input)| input));
    begin.push(Vec::new());
    let mut mutator = Mutator::new(seed);
    let all = begin.clone();
    let mutated = std::iter::repeat_with(move || mutator.mutate(&all));
    Ok(begin.into_iter().chain(mutated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    /// More by hand: `cargo run --profile fuzz -p buckets-fuzz`.
    const EXECUTIONS: usize = 4000;

    #[test]
    fn no_input_breaks_a_reader() {
        for target in TARGETS {
            for (number, input) in inputs(target, 1).unwrap().take(EXECUTIONS).enumerate() {
                let outcome = catch_unwind(|| (target.run)(&input));
                assert!(outcome.is_ok(), "{} broke at input {number}: {}", target.name, input.escape_ascii());
            }
        }
    }

    #[test]
    fn a_run_is_the_same_again() {
        for target in TARGETS {
            let run = || inputs(target, 7).unwrap().take(50).collect::<Vec<_>>();
            assert_eq!(run(), run());
        }
    }

    #[test]
    fn seeds_reach_what_they_are_meant_for() {
        // A target whose seeds were all refused at the door would test nothing.
        assert!(TARGETS.iter().all(|target| (target.seeds)().iter().any(|seed| seed.len() > 8)));
    }
}
