//! What a node tells of itself where a person asks: what it counted, how large its disks are, how it reaches the others.
//!
//! What must hold: it is gathered when it is asked for, and never before; a node that does not tell in time is left out, not
//! waited for; what a node tells of disks that are not its own is not believed, but for how far they are behind it.

use crate::core::Core;
use crate::counters::{CoreCounters, RefusedConnections};
use crate::map::{NodeIndex, NodeState, Place};
use crate::message::{DiskIndex, Refusal, Reply, Request};
use buckets_env::DiskSpace;
use buckets_meta::Role;
use buckets_peer::{HealthState, Peer};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// How long another node may take to tell.
const TELL_LIMIT: Duration = Duration::from_secs(1);

/// Of one core, or of all cores of a node together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Since the start.
    pub counters: CoreCounters,
    /// Connections of others that were refused here, since the start.
    pub refused: RefusedConnections,
    /// The file systems of its disks, as far as they answer.
    pub spaces: BTreeMap<DiskIndex, DiskSpace>,
    /// Disks, of any node, that take long beside the others.
    pub slow: BTreeSet<DiskIndex>,
    /// Entries of logs that voters lack, by disk of any node, as far as the leaders among its own know.
    pub behind: BTreeMap<DiskIndex, u64>,
    /// How other nodes are reached.
    pub roads: BTreeMap<NodeIndex, Road>,
    /// How many groups it leads; `None` where an older build does not tell.
    pub leads: Option<u64>,
    /// Whether the node shall lead nothing.
    pub is_draining: bool,
    /// Whether it is far from the others, or slow beside them, and leads nothing as long as that lasts.
    pub is_far: bool,
}

/// How a node is reached from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Road {
    /// The best that is thought of any connection.
    pub health: HealthState,
    /// The shortest smoothed round trip.
    pub round_trip: Option<Duration>,
    /// Connections made.
    pub connected: u64,
    /// Connections lost.
    pub lost: u64,
    /// Attempts at which nobody answered.
    pub unreachable: u64,
    /// Connections refused, there or here.
    pub refused: RefusedConnections,
}

impl Facts {
    /// Adds another core's.
    fn add(&mut self, other: Facts) {
        let Facts { counters, refused, spaces, slow, behind, roads, leads, is_draining, is_far } = other;
        self.leads = self.leads.into_iter().chain(leads).reduce(|sum, led| sum + led);
        self.is_draining |= is_draining;
        self.is_far |= is_far;
        self.counters.add(counters);
        self.refused.add(&refused);
        self.spaces.extend(spaces);
        self.slow.extend(slow);
        for (disk, entries) in behind {
            *self.behind.entry(disk).or_default() += entries;
        }
        for (node, road) in roads {
            match self.roads.get_mut(&node) {
                Some(known) => known.add(road),
                None => drop(self.roads.insert(node, road)),
            }
        }
    }

    /// Leaves out what is not about these disks.
    fn only_of(mut self, is_own: impl Fn(DiskIndex) -> bool) -> Facts {
        self.counters.disks.retain(|(disk, _)| is_own(*disk));
        self.spaces.retain(|disk, _| is_own(*disk));
        self.slow.retain(|disk| is_own(*disk));
        self
    }
}

impl Road {
    pub(crate) fn of(peer: &Peer) -> Road {
        let counts = peer.counts();
        Road {
            health: peer.health(),
            round_trip: peer.round_trip(),
            connected: counts.connected,
            lost: counts.lost,
            unreachable: counts.unreachable,
            refused: RefusedConnections(counts.refused),
        }
    }

    /// Adds another connection to the same node.
    pub(crate) fn add(&mut self, other: Road) {
        let Road { health, round_trip, connected, lost, unreachable, refused } = other;
        self.health = self.health.min(health);
        self.round_trip = self.round_trip.into_iter().chain(round_trip).min();
        self.connected += connected;
        self.lost += lost;
        self.unreachable += unreachable;
        self.refused.add(&refused);
    }
}

impl Core {
    /// Of this core.
    pub(crate) async fn facts(&self) -> Facts {
        let (map, now) = (&self.map, self.env.now());
        let mut facts =
            Facts { counters: self.read_counters(), roads: self.nodes.roads(), ..Facts::default() };
        if let Some(server) = &*self.server.borrow() {
            facts.refused = RefusedConnections(server.counts().refused);
        }
        let is_slow = |disk: &DiskIndex| {
            self.read_latencies.is_slow(*disk, now) || self.write_latencies.is_slow(*disk, now)
        };
        facts.slow = (0..map.disks.len() as DiskIndex).filter(is_slow).collect();
        let statuses = self.host.statuses();
        facts.leads = Some(statuses.iter().filter(|status| status.role == Role::Leader).count() as u64);
        facts.is_draining = map.own_node().is_draining();
        facts.is_far = map.own_node().is_far();
        for voter in statuses.into_iter().flat_map(|status| status.voters) {
            if let Some(lag) = voter.lag.filter(|lag| *lag > 0)
                && let Some(disk) = map.disk_of(voter.disk)
            {
                *facts.behind.entry(disk).or_default() += lag;
            }
        }
        for (index, disk) in map.disks_of(map.own).filter(|(index, _)| self.owns(*index)) {
            if map.is_readable(index)
                && let Ok(space) = self.env.disk_space(&disk.path).await
            {
                facts.spaces.insert(index, space);
            }
        }
        facts
    }

    /// Of all cores of this node.
    pub(crate) async fn facts_here(self: &Rc<Self>) -> Result<Facts, Refusal> {
        let mut sum = Facts::default();
        for core in 0..self.cores() {
            if let Reply::Facts(facts) = self.ask(core, Request::Facts).await? {
                sum.add(*facts);
            }
        }
        Ok(sum)
    }

    /// Of the other nodes that answer.
    pub(crate) async fn facts_elsewhere(self: &Rc<Self>) -> BTreeMap<NodeIndex, Facts> {
        let map = &self.map;
        let up = map.other_nodes().filter(|node| map.node(*node).state() == NodeState::Up);
        let asked = up.map(|node| async move {
            match self.nodes.ask(Place { node, core: 0 }, &Request::Facts, TELL_LIMIT).await {
                Ok(Reply::Facts(facts)) => {
                    let is_own =
                        |disk| map.disks.get(usize::from(disk)).is_some_and(|disk| disk.node == node);
                    Some((node, facts.only_of(is_own)))
                }
                _ => None,
            }
        });
        join_all(asked.collect::<Vec<_>>()).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn road(health: HealthState, round_trip_us: Option<u64>, connected: u64) -> Road {
        let round_trip = round_trip_us.map(Duration::from_micros);
        Road {
            health,
            round_trip,
            connected,
            lost: 1,
            unreachable: 0,
            refused: RefusedConnections::default(),
        }
    }

    #[test]
    fn the_best_connection_speaks_for_a_node_and_all_are_counted() {
        let of = |road, space| Facts {
            roads: [(2, road)].into(),
            spaces: [(space, DiskSpace { free_bytes: 1, total_bytes: 2 })].into(),
            slow: [7].into(),
            behind: [(9, 20)].into(),
            leads: Some(4),
            ..Facts::default()
        };
        let mut sum = Facts::default();
        sum.add(Facts::default());
        assert_eq!(sum.leads, None);
        sum.add(of(road(HealthState::Suspect, None, 3), 0));
        sum.add(of(road(HealthState::Up, Some(90), 4), 1));
        sum.add(of(road(HealthState::Slow, Some(40), 0), 1));
        let expected = Road { lost: 3, ..road(HealthState::Up, Some(40), 7) };
        assert_eq!(sum.roads, [(2, expected)].into());
        assert_eq!((sum.spaces.len(), sum.slow.len(), sum.behind[&9], sum.leads), (2, 1, 60, Some(12)));
        let own = sum.only_of(|disk| disk == 1);
        assert_eq!((own.spaces.into_keys().collect::<Vec<_>>(), own.slow.len()), (vec![1], 0));
    }
}
