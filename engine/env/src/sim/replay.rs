//! Finds where two runs of one seed part.

use super::{SimOptions, Simulation};

/// Events shown before the first difference.
const CONTEXT_EVENTS: usize = 5;

/// Runs `run` twice in simulations of the same seed and panics at the first event that differs: the place
/// where something else than the seed (hash order, addresses, real time) has decided.
pub fn assert_replays(seed: u64, options: SimOptions, run: impl Fn(&Simulation)) {
    let record = || {
        let simulation = Simulation::with_options(seed, options.clone());
        simulation.world.record();
        run(&simulation);
        simulation.world.take_recording()
    };
    let (first, second) = (record(), record());
    let common = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
    if common == first.len() && common == second.len() {
        return;
    }
    let context = &first[common.saturating_sub(CONTEXT_EVENTS)..common];
    panic!(
        "seed {seed} does not replay: it parts at event {common}, which is {:?} in one run and {:?} in the other, \
         after {context:?}",
        first.get(common),
        second.get(common)
    );
}
