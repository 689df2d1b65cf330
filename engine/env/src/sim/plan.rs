//! Sweeps whose seeds draw a plan first, so that a failure can be made smaller before it is shown.
//!
//! What must hold: a run is a function of its seed and its plan; a plan's text gives the same plan back; the plan that is
//! shown was run and has failed; looking for a smaller one ends after [`SHRINK_FOR`].

use super::sweep::{SEED_VARIABLE, message, sweep, variable};
use std::cell::Cell;
use std::fmt::Display;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::str::FromStr;
use std::sync::Once;
use std::time::{Duration, Instant};

/// Takes the place of the plan that the chosen seed draws.
const PLAN_VARIABLE: &str = "BUCKETS_SIM_PLAN";
/// Real time for a smaller plan.
const SHRINK_FOR: Duration = Duration::from_secs(60);

/// What a seed decides before the simulation begins.
pub trait Plan: Display + FromStr<Err = String> + Sized {
    /// The plan that a seed draws.
    fn of_seed(seed: u64) -> Self;

    /// Plans with a little less in them, those that leave out most first. All are smaller by the same measure: it can
    /// not go on for ever.
    fn smaller(&self) -> Vec<Self>;
}

/// [`sweep`] with the plans of the seeds, after the seeds and plans `found` that have failed once (plans, because what a
/// seed draws changes). Where one fails, smaller ones are tried, and the smallest that still fails is printed.
///
/// `BUCKETS_SIM_SEED=N BUCKETS_SIM_PLAN='...'` runs that plan alone.
pub fn sweep_plans<P: Plan>(seeds: Range<u64>, found: &[(u64, &str)], test: impl Fn(u64, &P) + Sync) {
    let given = std::env::var(PLAN_VARIABLE).ok();
    let one = variable(SEED_VARIABLE).is_some();
    assert!(given.is_none() || one, "{PLAN_VARIABLE} needs the seed of its failure in {SEED_VARIABLE}");
    let name = std::thread::current().name().unwrap_or("TEST").to_owned();
    for (seed, plan) in found.iter().filter(|_| !one) {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| test(*seed, &parsed(plan)))) {
            eprintln!("a plan that has failed before fails again\n{}", replay(*seed, plan, &name));
            resume_unwind(cause);
        }
    }
    sweep(seeds, |seed| {
        let plan = given.as_ref().map_or_else(|| P::of_seed(seed), |text| parsed(text));
        let Err(cause) = catch_unwind(AssertUnwindSafe(|| test(seed, &plan))) else { return };
        if given.is_none() {
            eprintln!("seed {seed} failed: {}; looking for less that fails", message(&*cause));
            let (plan, what) = quietly(|| {
                let deadline = Instant::now() + SHRINK_FOR;
                let first = (plan, message(&*cause).to_owned());
                smallest(first, |plan| failure(|| test(seed, plan)), || Instant::now() < deadline)
            });
            eprintln!("the least that still fails: {what}\n{}", replay(seed, &plan, &name));
        }
        resume_unwind(cause);
    });
}

fn parsed<P: Plan>(text: &str) -> P {
    match text.parse() {
        Ok(plan) => plan,
        Err(what) => panic!("{text}: {what}"),
    }
}

fn replay(seed: u64, plan: &impl Display, name: &str) -> String {
    format!("{SEED_VARIABLE}={seed} {PLAN_VARIABLE}='{plan}' cargo test {name}")
}

/// The smallest plan on the way down from `first` for which `fails` still tells why, and what it told. No other is begun
/// once `goes_on` is false.
pub fn smallest<P: Plan>(
    first: (P, String),
    fails: impl Fn(&P) -> Option<String>,
    goes_on: impl Fn() -> bool,
) -> (P, String) {
    let mut least = first;
    'smaller: loop {
        for plan in least.0.smaller() {
            if !goes_on() {
                return least;
            }
            if let Some(what) = fails(&plan) {
                least = (plan, what);
                continue 'smaller;
            }
        }
        return least;
    }
}

/// What `test` panics with.
fn failure(test: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(test)).err().map(|cause| message(&*cause).to_owned())
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of this thread print nothing meanwhile.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = work();
    IS_QUIET.set(false);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers: one may be left out, or made less.
    #[derive(Clone, Debug, PartialEq)]
    struct Numbers(Vec<u64>);

    impl Display for Numbers {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let texts: Vec<String> = self.0.iter().map(u64::to_string).collect();
            f.write_str(&texts.join(" "))
        }
    }

    impl FromStr for Numbers {
        type Err = String;
        fn from_str(text: &str) -> Result<Numbers, String> {
            let parse = |word: &str| word.parse().map_err(|_| format!("{word} is no number"));
            text.split_whitespace().map(parse).collect::<Result<_, _>>().map(Numbers)
        }
    }

    impl Plan for Numbers {
        fn of_seed(seed: u64) -> Numbers {
            Numbers((seed..seed + 10).collect())
        }
        fn smaller(&self) -> Vec<Numbers> {
            let without = |at: usize| Numbers([&self.0[..at], &self.0[at + 1..]].concat());
            let less = |at: usize| {
                let mut numbers = self.clone();
                numbers.0[at] /= 2;
                numbers
            };
            let halves = (0..self.0.len()).filter(|at| self.0[*at] > 0).map(less);
            (0..self.0.len()).map(without).chain(halves).collect()
        }
    }

    /// Fails where there is one above 9 and one that is even.
    fn fails(plan: &Numbers) -> Option<String> {
        let large = plan.0.iter().find(|number| **number > 9)?;
        let even = plan.0.iter().find(|number| number.is_multiple_of(2))?;
        Some(format!("{large} and {even}"))
    }

    #[test]
    fn what_has_nothing_to_do_with_a_failure_is_left_out() {
        let first = Numbers::of_seed(20);
        let (least, what) = smallest((first, String::new()), fails, || true);
        assert_eq!((least.to_string().as_str(), what.as_str()), ("14", "14 and 14"));
        assert_eq!(least.to_string().parse(), Ok(least));
    }

    #[test]
    fn a_plan_that_was_not_tried_is_not_shown() {
        let tries = Cell::new(0);
        let counted = |plan: &Numbers| {
            tries.set(tries.get() + 1);
            fails(plan)
        };
        let first = Numbers::of_seed(20);
        let (least, _) = smallest((first.clone(), "first".into()), counted, || tries.get() < 3);
        assert_eq!((tries.get(), least.0.len()), (3, 7));
        let (least, what) = smallest((first.clone(), "first".into()), counted, || false);
        assert_eq!((least, what.as_str()), (first, "first"));
    }

    #[test]
    fn a_failing_plan_is_made_smaller_and_the_failure_stays() {
        if std::env::var(SEED_VARIABLE).is_ok() || std::env::var(PLAN_VARIABLE).is_ok() {
            return;
        }
        let ran = std::sync::Mutex::new(Vec::new());
        let cause = failure(|| {
            sweep_plans(0..3, &[], |seed, plan: &Numbers| {
                ran.lock().unwrap().push(plan.clone());
                if let Some(what) = fails(plan) {
                    panic!("seed {seed}: {what}");
                }
            });
        });
        // Seeds draw ten numbers from theirs on: 0 to 9 are fine, 1 to 10 are not. It is the first failure that is thrown.
        assert_eq!(cause.as_deref(), Some("seed 1: 10 and 2"));
        assert!(ran.lock().unwrap().contains(&Numbers(vec![10])));
    }
}
