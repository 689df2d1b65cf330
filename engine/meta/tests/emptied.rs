//! A voter whose disk was emptied forgets what it promised, and nobody comes to harm.

mod cluster;

use buckets_env::sim::sweep;
use buckets_ring::id::GroupId;
use cluster::{Cluster, Layout, value_of};
use std::time::Duration;

const KEY: u8 = 1;
const LONG: Duration = Duration::from_secs(30);

/// One replica of one group on each of so many nodes, with one value written.
fn group_of(seed: u64, nodes: usize) -> (Cluster, GroupId) {
    let cluster = Cluster::new(seed, Layout::new(nodes, 1, 1, 1));
    let group = GroupId(1);
    cluster.until(LONG, "a leader", || cluster.leader(group).is_some());
    write(&cluster, group, 1);
    (cluster, group)
}

fn write(cluster: &Cluster, group: GroupId, value: u64) {
    cluster.until(LONG, "a write", || cluster.put(group, KEY, value) == Some(true));
}

/// As soon as somebody may answer.
fn read(cluster: &Cluster, group: GroupId) -> Option<u64> {
    let mut found = None;
    cluster.until(LONG, "a read", || {
        let Some((env, host)) = cluster.leader(group) else { return false };
        let answered = cluster.within(&env, async move {
            let view = host.read_barrier(group).await.ok()?;
            Some(value_of(view.get(&[KEY]).await.ok()?))
        });
        found = answered.flatten();
        found.is_some()
    });
    found.flatten()
}

/// The node that leads.
fn leader(cluster: &Cluster, group: GroupId) -> usize {
    let mut found = None;
    cluster.until(LONG, "a leader", || {
        let leader = cluster.leader(group).and_then(|(_, host)| host.leader(group));
        found = cluster.places.iter().position(|place| Some(place.disk) == leader);
        found.is_some()
    });
    found.unwrap_or_default()
}

fn empty(cluster: &Cluster, node: usize) {
    cluster.crash(node);
    cluster.empty(cluster.places[node].disk);
}

#[test]
fn what_one_other_voter_remembers_is_not_voted_away() {
    sweep(0..30, |seed| {
        let (cluster, group) = group_of(seed, 3);
        let leading = leader(&cluster, group);
        let (emptied, behind) = ((leading + 1) % 3, (leading + 2) % 3);
        for node in [leading, emptied] {
            cluster.net.blocked.borrow_mut().extend([(node, behind), (behind, node)]);
        }
        // It is on the leader, and on the voter that forgets it.
        write(&cluster, group, 2);
        empty(&cluster, emptied);
        cluster.crash(leading);
        cluster.net.blocked.borrow_mut().clear();
        cluster.start(emptied);
        for _ in 0..100 {
            cluster.run_for(Duration::from_millis(100));
            assert!(cluster.leader(group).is_none(), "a leader that lacks what was acknowledged");
        }
        cluster.start(leading);
        assert_eq!(read(&cluster, group), Some(2));
        // From when it has caught up it counts like any other.
        cluster.until(LONG, "everybody's vote", || cluster.all_vote());
        cluster.crash(leading);
        assert_eq!(read(&cluster, group), Some(2));
        write(&cluster, group, 3);
        cluster.start(leading);
        cluster.check_convergence(LONG);
    });
}

#[test]
fn who_was_emptied_votes_again_once_that_is_noted() {
    sweep(0..6, |seed| {
        let (cluster, group) = group_of(seed, 3);
        let emptied = (leader(&cluster, group) + 1) % 3;
        empty(&cluster, emptied);
        cluster.emptied_is_noted.set(false);
        cluster.start(emptied);
        cluster.run_for(Duration::from_secs(10));
        assert!(!cluster.all_vote());
        // Nor is it forgotten by a crash.
        cluster.crash(emptied);
        cluster.start(emptied);
        cluster.run_for(Duration::from_secs(10));
        assert!(!cluster.all_vote());
        cluster.emptied_is_noted.set(true);
        cluster.until(LONG, "everybody's vote", || cluster.all_vote());
    });
}

#[test]
fn a_leader_whose_voter_was_emptied_does_not_count_what_that_had() {
    sweep(0..20, |seed| {
        let (cluster, group) = group_of(seed, 3);
        let leading = leader(&cluster, group);
        let (emptied, behind) = ((leading + 1) % 3, (leading + 2) % 3);
        cluster.crash(behind);
        write(&cluster, group, 2);
        empty(&cluster, emptied);
        // The leader goes on in its term, and knows nothing of it.
        cluster.start(emptied);
        cluster.start(behind);
        write(&cluster, group, 3);
        cluster.until(LONG, "everybody's vote", || cluster.all_vote());
        cluster.check_convergence(LONG);
        assert_eq!(read(&cluster, group), Some(3));
    });
}

#[test]
fn half_of_the_voters_may_be_emptied_where_half_remember() {
    sweep(0..20, |seed| {
        for nodes in [2, 4] {
            let (cluster, group) = group_of(seed, nodes);
            for value in 2..30 {
                write(&cluster, group, value);
            }
            let first = seed as usize % nodes;
            for node in first..first + nodes / 2 {
                empty(&cluster, node % nodes);
            }
            for node in first..first + nodes / 2 {
                cluster.start(node % nodes);
            }
            assert_eq!(read(&cluster, group), Some(29));
            write(&cluster, group, 30);
            cluster.until(LONG, "everybody's vote", || cluster.all_vote());
            cluster.check_convergence(LONG);
        }
    });
}

#[test]
fn where_too_few_remember_nothing_is_made_up() {
    sweep(0..10, |seed| {
        let (cluster, group) = group_of(seed, 3);
        let leading = leader(&cluster, group);
        for node in [(leading + 1) % 3, (leading + 2) % 3] {
            empty(&cluster, node);
            cluster.start(node);
        }
        for _ in 0..100 {
            cluster.run_for(Duration::from_millis(100));
        }
        // What the one that is left served before was true; nothing new can be.
        assert_ne!(cluster.put(group, KEY, 9), Some(true));
    });
}

#[test]
fn a_group_whose_founding_is_interrupted_begins_all_the_same() {
    sweep(0..40, |seed| {
        let cluster = Cluster::new(seed, Layout::new(3, 1, 1, 2));
        for round in 0..6 {
            let node = cluster.rng.borrow_mut().below(3) as usize;
            let pause = cluster.rng.borrow_mut().within(1..120);
            cluster.run_for(Duration::from_millis(pause));
            cluster.crash(node);
            if round % 2 == 0 {
                cluster.run_for(Duration::from_millis(pause));
            }
            cluster.start(node);
        }
        for group in cluster.groups() {
            write(&cluster, group, 1);
        }
        cluster.until(LONG, "everybody's vote", || cluster.all_vote());
    });
}
