//! Whether this node is far from the others, or too slow to answer them soon: whatever has to come here takes long, so it had
//! better not lead.
//!
//! What must hold: far is who is far beside the others, as it finds or as they find. Where all ways are long, nobody is. Pure.

use crate::map::NodeIndex;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// So many pulses are looked at.
const PULSES: usize = 8;
/// Of a slow node a few are quick all the same: a process that gets a hundredth of its time answers now and then at once.
const LUCKY: usize = 2;
/// Far, or slow, is what takes so many times what the others have among themselves.
const RATIO: u32 = 8;
/// Far is whose quickest pulse takes longer than this, too: busy moments are no distance. It ends at half.
const FAR: Duration = Duration::from_millis(3);
/// Slow is whose pulses but for the lucky ones take longer than this: a core that has much to do takes some milliseconds. It
/// ends at a quarter.
const SLOW: Duration = Duration::from_millis(10);
/// What is shorter a node need not hear from others.
pub(crate) const WORTH_TELLING: Duration = Duration::from_millis(2);

/// The ways between this node and the others.
#[derive(Debug, Default)]
pub(crate) struct Distance {
    ways: BTreeMap<NodeIndex, Way>,
    is_distant: bool,
    is_slow: bool,
}

#[derive(Debug, Default)]
struct Way {
    /// The last pulses.
    took: VecDeque<Duration>,
    /// What the other node has to most others.
    told: Option<Duration>,
    /// What the other node finds of this way: longer than what this one does where this one is slow. It tells that again
    /// with each pulse, as long as it is worth telling.
    found_by_other: Option<Duration>,
    /// Pulses since it did.
    untold: usize,
}

impl Way {
    /// What this node finds, but for so many lucky pulses, once it has looked often enough.
    fn found(&self, lucky: usize) -> Option<Duration> {
        let mut took: Vec<Duration> = self.took.iter().copied().collect();
        took.sort_unstable();
        (took.len() == PULSES).then(|| took[lucky])
    }

    fn length(&self) -> Option<Duration> {
        self.found(LUCKY).map(|found| self.found_by_other.map_or(found, |other| other.max(found)))
    }
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
        way.untold += 1;
        if way.untold > PULSES {
            way.found_by_other = None;
        }
        self.judge();
    }

    /// What this node finds of the way to another one.
    pub(crate) fn found(&self, node: NodeIndex) -> Option<Duration> {
        self.ways.get(&node)?.found(LUCKY)
    }

    /// What another node finds of the way to this one.
    pub(crate) fn found_by(&mut self, node: NodeIndex, took: Duration) {
        let way = self.ways.entry(node).or_default();
        (way.found_by_other, way.untold) = (Some(took), 0);
        self.judge();
    }

    /// A node does not answer any more.
    pub(crate) fn lost(&mut self, node: NodeIndex) {
        self.ways.remove(&node);
        self.judge();
    }

    /// The round trip to at least half of the others, once that is known.
    pub(crate) fn to_most(&self) -> Option<Duration> {
        median(self.ways.values().filter_map(Way::length))
    }

    /// Whether this node is far from the others.
    pub(crate) fn is_far(&self) -> bool {
        self.is_distant || self.is_slow
    }

    fn judge(&mut self) {
        let of_others = median(self.ways.values().filter_map(|way| way.told));
        let quickest = median(self.ways.values().filter_map(|way| way.found(0)));
        let (Some(quickest), Some(own), Some(of_others)) = (quickest, self.to_most(), of_others) else {
            return;
        };
        let limit = |least: Duration| least.max(of_others * RATIO);
        self.is_distant = quickest > limit(FAR) / if self.is_distant { 2 } else { 1 };
        self.is_slow = own > limit(SLOW) / if self.is_slow { 4 } else { 1 };
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
    fn busy_moments_are_no_distance_and_lucky_ones_no_nearness() {
        for (took, quick, is_far) in
            [(LONG, LUCKY, true), (LONG, LUCKY + 1, false), (SLOW * 3 / 4, 0, true), (SLOW * 3 / 4, 1, false)]
        {
            let mut distance = Distance::default();
            for node in [1, 2] {
                pulses(&mut distance, node, took, SHORT);
                (0..quick).for_each(|_| distance.pulse(node, SHORT, Some(SHORT)));
            }
            assert_eq!(distance.is_far(), is_far, "{took:?}, and {quick} of {PULSES} quick");
        }
    }

    #[test]
    fn it_ends_later_than_it_begins() {
        let mut distance = Distance::default();
        let table = [(FAR * 3 / 4, false), (LONG, true), (FAR * 3 / 4, true), (FAR / 3, false)];
        for (took, is_far) in table {
            pulses(&mut distance, 1, took, SHORT);
            pulses(&mut distance, 2, took, SHORT);
            assert_eq!(distance.is_far(), is_far, "{took:?}");
        }
        for (found, is_far) in [(SLOW * 3 / 4, false), (SLOW * 2, true), (SLOW / 2, true), (SLOW / 5, false)]
        {
            distance.found_by(1, found);
            distance.found_by(2, found);
            assert_eq!(distance.is_far(), is_far, "{found:?}");
        }
    }

    #[test]
    fn who_is_slow_hears_it_from_the_others() {
        let mut of_slow = Distance::default();
        let mut of_quick = Distance::default();
        // It finds all answers waiting when it gets to look.
        pulses(&mut of_slow, 1, SHORT, SHORT);
        pulses(&mut of_slow, 2, SHORT, SHORT);
        of_slow.found_by(1, LONG);
        assert!(!of_slow.is_far());
        of_slow.found_by(2, LONG);
        assert!(of_slow.is_far());
        pulses(&mut of_quick, 1, SHORT, SHORT);
        pulses(&mut of_quick, 2, LONG, LONG);
        of_quick.found_by(1, SHORT);
        of_quick.found_by(2, SHORT);
        assert_eq!((of_quick.is_far(), of_quick.to_most()), (false, Some(SHORT)));
        // They fall silent when it is not worth telling any more.
        pulses(&mut of_slow, 1, SHORT, SHORT);
        assert!(of_slow.is_far());
        of_slow.pulse(1, SHORT, Some(SHORT));
        assert!(!of_slow.is_far());
    }
}
