//! A leader that was cut off answers no stale read, however fast others elect a new one.

mod cluster;

use buckets_env::sim::sweep;
use buckets_ring::id::GroupId;
use cluster::{Cluster, Layout};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const GROUP: GroupId = GroupId(1);

fn lead_node(cluster: &Cluster) -> Option<usize> {
    let leading =
        cluster.hosts().into_iter().filter_map(|(at, _, host)| Some((host.leader_term(GROUP)?, at.0)));
    leading.max().map(|(_, node)| node)
}

/// Cuts one node off: it still sends, or still hears, or neither.
fn cut(cluster: &Cluster, node: usize) {
    let way = cluster.rng.borrow_mut().below(4);
    let mut blocked = cluster.net.blocked.borrow_mut();
    for other in (0..cluster.nodes.len()).filter(|other| *other != node) {
        if way != 1 {
            blocked.insert((node, other));
        }
        if way != 2 {
            blocked.insert((other, node));
        }
    }
}

/// The followers forget that they heard a leader.
fn restart_followers(cluster: &Cluster, leader: usize) {
    let followers: Vec<_> = (0..cluster.nodes.len()).filter(|node| *node != leader).collect();
    for node in &followers {
        cluster.crash(*node);
    }
    for node in followers {
        cluster.start(node);
    }
}

fn lead_others_astray(cluster: &Cluster) {
    let Some(leader) = lead_node(cluster) else { return };
    let what = cluster.rng.borrow_mut().below(5);
    match what {
        0 => cut(cluster, leader),
        1 => {
            cut(cluster, leader);
            restart_followers(cluster, leader);
        }
        2 => {
            // The message that lets the heir start comes late, or never.
            cluster.net.late_per_million.set(400_000);
            let heir = cluster.rng.borrow_mut().pick(&cluster.places).disk;
            if let Some((_, host)) = cluster.host((leader, 0)) {
                host.transfer_leadership(GROUP, heir);
            }
        }
        3 => {
            // It comes when the leader has long given the transfer up, and is cut off then.
            let delay = cluster.rng.borrow_mut().within(1000..2500);
            cluster.net.hand_over_delay.set(Some(Duration::from_millis(delay)));
            let heir = cluster.rng.borrow_mut().pick(&cluster.places).disk;
            if let Some((_, host)) = cluster.host((leader, 0)) {
                host.transfer_leadership(GROUP, heir);
            }
            cluster.run_for(Duration::from_millis(delay - 20));
            cut(cluster, leader);
        }
        _ => {
            cluster.net.late_per_million.set(300_000);
            let others: Vec<_> = (0..cluster.nodes.len()).filter(|node| *node != leader).collect();
            let other = *cluster.rng.borrow_mut().pick(&others);
            cut(cluster, other);
        }
    }
}

#[test]
fn no_read_is_stale() {
    sweep(0..20, |seed| {
        let layouts = [(3, 1, 1), (5, 1, 1), (4, 1, 1)];
        let (nodes, cores, disks) = layouts[seed as usize % layouts.len()];
        let mut layout = Layout::new(nodes, cores, disks, 1);
        // The fastest to elect itself is not always the one that leads.
        layout.options.leader_return_after = Duration::from_secs(60);
        let cluster = Cluster::new(seed, layout);
        for node in &cluster.nodes {
            let drift = cluster.rng.borrow_mut().below(80_000) as i32 - 40_000;
            node.drift_clock(drift);
        }
        let stop = Rc::new(Cell::new(false));
        for _ in 0..4 {
            cluster.client(1, stop.clone(), 4_000..60_000);
        }
        for _ in 0..5 {
            let pause = cluster.rng.borrow_mut().within(300..2000);
            cluster.run_for(Duration::from_millis(pause));
            lead_others_astray(&cluster);
            let pause = cluster.rng.borrow_mut().within(300..2500);
            cluster.run_for(Duration::from_millis(pause));
            cluster.net.blocked.borrow_mut().clear();
            cluster.net.late_per_million.set(0);
            cluster.net.hand_over_delay.set(None);
        }
        stop.set(true);
        cluster.run_for(Duration::from_secs(1));
        cluster.check_history();
        cluster.check_convergence(Duration::from_secs(30));
    });
}
