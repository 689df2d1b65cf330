//! Whether this node is far from the others: whatever has to come here takes long, so it had better not lead.
//!
//! What must hold: far is who is far beside the others. Where all ways are long, nobody is. Pure.

use crate::map::NodeIndex;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The quickest of so many pulses counts: a busy moment is no distance.
const PULSES: usize = 8;
/// Far begins at so many times what the others have among themselves, and ends at half of that.
const RATIO: u32 = 8;
/// What is below is near anyway.
const NEAR: Duration = Duration::from_millis(3);

/// The ways between this node and the others.
#[derive(Debug, Default)]
pub(crate) struct Distance {
    ways: BTreeMap<NodeIndex, Way>,
    is_far: bool,
}

#[derive(Debug, Default)]
struct Way {
    /// The last pulses.
    took: VecDeque<Duration>,
    /// What the other node has to most others.
    told: Option<Duration>,
}

impl Distance {
    /// A pulse came back after `took`; the other node told what it has to most others.
    pub(crate) fn pulse(&mut self, node: NodeIndex, took: Duration, told: Option<Duration>) {
        let way = self.ways.entry(node).or_default();
        if way.took.len() == PULSES {
            way.took.pop_front();
        }
        way.took.push_back(took);
        way.told = told;
        self.judge();
    }

    /// A node does not answer any more.
    pub(crate) fn lost(&mut self, node: NodeIndex) {
        self.ways.remove(&node);
        self.judge();
    }

    /// The round trip to at least half of the others, once that is known.
    pub(crate) fn to_most(&self) -> Option<Duration> {
        let known = self.ways.values().filter(|way| way.took.len() == PULSES);
        median(known.filter_map(|way| way.took.iter().min().copied()))
    }

    /// Whether this node is far from the others.
    pub(crate) fn is_far(&self) -> bool {
        self.is_far
    }

    fn judge(&mut self) {
        let of_others = median(self.ways.values().filter_map(|way| way.told));
        let (Some(own), Some(of_others)) = (self.to_most(), of_others) else { return };
        let limit = NEAR.max(of_others * RATIO);
        self.is_far = own > if self.is_far { limit / 2 } else { limit };
    }
}

/// The lower one of two.
fn median(values: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut values: Vec<Duration> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(200);
    const LONG: Duration = Duration::from_millis(40);

    fn pulses(distance: &mut Distance, node: NodeIndex, took: Duration, told: Duration) {
        (0..PULSES).for_each(|_| distance.pulse(node, took, Some(told)));
    }

    #[test]
    fn who_is_far_from_most_is_far_and_nobody_else() {
        let mut of_far = Distance::default();
        let mut of_near = Distance::default();
        for node in [1, 2] {
            of_far.pulse(node, LONG, Some(SHORT));
        }
        assert!(!of_far.is_far());
        pulses(&mut of_far, 1, LONG, SHORT);
        pulses(&mut of_far, 2, LONG, SHORT);
        assert_eq!((of_far.is_far(), of_far.to_most()), (true, Some(LONG)));
        pulses(&mut of_near, 1, SHORT, SHORT);
        pulses(&mut of_near, 2, LONG, LONG);
        assert_eq!((of_near.is_far(), of_near.to_most()), (false, Some(SHORT)));
    }

    #[test]
    fn where_all_ways_are_long_or_only_two_nodes_are_left_nobody_is_far() {
        let mut distance = Distance::default();
        pulses(&mut distance, 1, LONG, LONG);
        pulses(&mut distance, 2, LONG, LONG);
        assert!(!distance.is_far());
        pulses(&mut distance, 1, LONG, SHORT);
        pulses(&mut distance, 2, LONG, SHORT);
        assert!(distance.is_far());
        distance.lost(1);
        pulses(&mut distance, 2, LONG, LONG);
        assert!(!distance.is_far());
    }

    #[test]
    fn a_busy_moment_is_no_distance_and_far_ends_later_than_it_begins() {
        let mut distance = Distance::default();
        for node in [1, 2] {
            pulses(&mut distance, node, LONG, SHORT);
            distance.pulse(node, SHORT, Some(SHORT));
        }
        assert!(!distance.is_far());
        let between = NEAR * 3 / 4;
        for (took, is_far) in [(between, false), (LONG, true), (between, true), (NEAR / 3, false)] {
            pulses(&mut distance, 1, took, SHORT);
            pulses(&mut distance, 2, took, SHORT);
            assert_eq!(distance.is_far(), is_far, "{took:?}");
        }
    }
}
