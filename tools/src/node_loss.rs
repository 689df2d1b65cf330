//! What the loss of whole nodes costs a deployment, from where the disks of its sets are.
//!
//! What must hold: a set bears what its code says and nothing more; what several nodes cost is judged by the worst choice
//! of them. Pure.

use buckets_ring::endpoint::NodeAddress;
use buckets_ring::topology::TopologySet;
use buckets_ring::{SetState, TopologyJson};
use serde::Serialize;
use std::fmt;

/// What is left when a node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Reads and writes go on.
    Tolerated,
    /// Everything can be read, not everything written.
    ReadsOnly,
    /// Some data cannot be read until the node is back.
    Unavailable,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Tolerated => "tolerated",
            Loss::ReadsOnly => "reads only",
            Loss::Unavailable => "DATA UNAVAILABLE",
        })
    }
}

/// The part of one node in the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeShare {
    /// The node.
    pub node: NodeAddress,
    /// How many disks of each set it holds, by set; sets of which it holds none are left out.
    pub disks_of_sets: Vec<(usize, u8)>,
    /// What its loss costs.
    pub loss: Loss,
}

impl NodeShare {
    /// All its disks.
    pub fn disks(&self) -> usize {
        self.disks_of_sets.iter().map(|(_, disks)| usize::from(*disks)).sum()
    }
}

/// How many nodes may fail at once, whichever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFailures {
    /// While reads and writes go on.
    pub reads_and_writes: usize,
    /// While everything can be read.
    pub reads: usize,
}

/// The part of each of `nodes`, in their order.
pub fn shares(topology: &TopologyJson, nodes: &[NodeAddress]) -> Vec<NodeShare> {
    let share = |node: &NodeAddress| {
        let held = live_sets(topology).map(|(index, set)| (index, disks_on(set, node)));
        let disks_of_sets: Vec<(usize, u8)> = held.filter(|(_, disks)| *disks > 0).collect();
        let losses = disks_of_sets.iter().map(|(index, disks)| loss_of(&topology.sets[*index], *disks));
        NodeShare { node: node.clone(), loss: losses.max().unwrap_or(Loss::Tolerated), disks_of_sets }
    };
    nodes.iter().map(share).collect()
}

/// How many of `nodes` may fail at once, at worst: for each set those that hold most of it.
pub fn failures(topology: &TopologyJson, nodes: &[NodeAddress]) -> NodeFailures {
    let least = |bears: fn(&TopologySet) -> u8| {
        let of_sets = live_sets(topology).map(|(_, set)| {
            let mut held: Vec<u8> = nodes.iter().map(|node| disks_on(set, node)).collect();
            held.sort_unstable_by(|a, b| b.cmp(a));
            let lost = held.iter().scan(0u32, |lost, disks| {
                *lost += u32::from(*disks);
                Some(*lost)
            });
            lost.take_while(|lost| *lost <= bears(set).into()).count()
        });
        of_sets.min().unwrap_or(0)
    };
    NodeFailures {
        reads_and_writes: least(|set| set.coding.write_failures_tolerated()),
        reads: least(|set| set.coding.read_failures_tolerated()),
    }
}

fn live_sets(topology: &TopologyJson) -> impl Iterator<Item = (usize, &TopologySet)> {
    topology.sets.iter().enumerate().filter(|(_, set)| set.state != SetState::Removed)
}

fn disks_on(set: &TopologySet, node: &NodeAddress) -> u8 {
    // A set has at most 32 disks.
    set.disks.iter().filter(|disk| disk.endpoint.node() == Some(node)).count() as u8
}

fn loss_of(set: &TopologySet, disks: u8) -> Loss {
    if disks <= set.coding.write_failures_tolerated() {
        Loss::Tolerated
    } else if disks <= set.coding.read_failures_tolerated() {
        Loss::ReadsOnly
    } else {
        Loss::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_ring::endpoint::{self, NodeAddress};
    use buckets_ring::id::{DeploymentId, DiskUuid};
    use buckets_ring::topology::TopologyDisk;
    use proptest::prelude::*;

    fn deployment(coding: &str, pattern: &str) -> (TopologyJson, Vec<NodeAddress>) {
        let deployment = DeploymentId::from_bytes([1; 16]);
        let coding = coding.parse::<buckets_ring::Coding>().unwrap();
        let endpoints = endpoint::expand(&[pattern]).unwrap();
        let disk = |endpoint: &buckets_ring::Endpoint| TopologyDisk {
            uuid: DiskUuid::of_endpoint(deployment, endpoint),
            endpoint: endpoint.clone(),
            capacity_bytes: 0,
        };
        let sets = endpoint::group(&endpoints, coding.n().into()).unwrap();
        let sets = sets.iter().map(|set| TopologySet::new(0, coding, set.iter().map(disk).collect()));
        let topology = TopologyJson { deployment, generation: 1, sets: sets.collect() };
        let mut nodes: Vec<NodeAddress> = endpoints.iter().filter_map(|e| e.node().cloned()).collect();
        nodes.dedup();
        (topology, nodes)
    }

    #[test]
    fn the_loss_of_nodes_costs_what_their_disks_are() {
        // K+M, nodes, disks of each, what one costs, how many may fail for writes and for reads.
        let table = [
            ("8+4", 6, 4, Loss::Tolerated, 2, 2),
            ("4+2", 3, 4, Loss::Tolerated, 1, 1),
            ("4+2", 2, 3, Loss::Unavailable, 0, 0),
            ("2+2", 4, 1, Loss::Tolerated, 1, 2),
            ("2+2", 2, 2, Loss::ReadsOnly, 0, 1),
            ("1+2", 3, 1, Loss::Tolerated, 1, 1),
            ("1+2", 1, 3, Loss::Unavailable, 0, 0),
            ("4+2", 12, 1, Loss::Tolerated, 2, 2),
        ];
        for (coding, count, disks, loss, reads_and_writes, reads) in table {
            let (topology, nodes) =
                deployment(coding, &format!("http://n{{1...{count}}}:1/d{{1...{disks}}}"));
            let shares = shares(&topology, &nodes);
            assert_eq!(shares.len(), count);
            assert!(shares.iter().all(|share| share.loss == loss && share.disks() == disks), "{shares:?}");
            let failures = failures(&topology, &nodes);
            assert_eq!(failures, NodeFailures { reads_and_writes, reads }, "{coding} on {count} x {disks}");
        }
    }

    proptest! {
        #[test]
        fn the_worst_choice_of_nodes_is_the_one_that_counts(
            nodes in 1usize..6,
            disks in 1usize..5,
            lost in any::<u8>(),
        ) {
            prop_assume!((nodes * disks).is_multiple_of(4));
            let (topology, all) = deployment("2+2", &format!("http://n{{1...{nodes}}}:1/d{{1...{disks}}}"));
            let gone: Vec<&NodeAddress> = (0..nodes).filter(|i| lost >> i & 1 == 1).map(|i| &all[i]).collect();
            let most = topology.sets.iter().map(|set| gone.iter().map(|node| disks_on(set, node)).sum::<u8>());
            let most = most.max().unwrap();
            let failures = failures(&topology, &all);
            // 2+2 reads on with two disks lost, and writes on with one.
            prop_assert!(gone.len() > failures.reads || most <= 2);
            prop_assert!(gone.len() > failures.reads_and_writes || most <= 1);
            prop_assert!(failures.reads_and_writes <= failures.reads && failures.reads < nodes);
        }
    }
}
