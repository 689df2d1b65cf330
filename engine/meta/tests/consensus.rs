//! Whatever crashes, is cut off or comes late: nothing acknowledged is lost, no read is stale, replicas end equal.

mod cluster;

use buckets_env::Env;
use buckets_env::sim::sweep;
use buckets_index::WriteBatch;
use buckets_meta::{GroupHost, ProposeError};
use cluster::{Cluster, Layout};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const KEYS: u8 = 3;

#[test]
fn quiet_groups_elect_write_and_read() {
    sweep(0..3, |seed| {
        for (nodes, cores, disks) in [(1, 1, 1), (1, 2, 4), (3, 1, 1), (1, 2, 5), (4, 1, 1)] {
            let cluster = Cluster::new(seed, Layout::new(nodes, cores, disks, 2));
            let stop = Rc::new(Cell::new(false));
            for _ in 0..3 {
                cluster.client(KEYS, stop.clone(), 1_000..50_000);
            }
            cluster.run_for(Duration::from_secs(3));
            stop.set(true);
            cluster.run_for(Duration::from_secs(1));
            let (writes, unknown, reads) = cluster.tally();
            assert!(writes > 20 && reads > 20 && unknown == 0, "{writes} {unknown} {reads}");
            cluster.check_convergence(Duration::from_secs(10));
            cluster.read_all(KEYS);
            cluster.check_history();
        }
    });
}

/// What waits when leadership moves is told to ask the heir: nobody has too much to do.
#[test]
fn a_hand_over_is_no_overload() {
    sweep(0..16, |seed| {
        let cluster = Cluster::new(seed, Layout::new(1, 2, 4, 1));
        cluster.run_for(Duration::from_secs(2));
        let group = cluster.groups().next().unwrap();
        let leading = |(at, env, host): (_, Env, GroupHost)| Some((at, env, host.leader_term(group)?, host));
        let (at, env, term, host) = cluster.hosts().into_iter().find_map(leading).unwrap();
        let outcomes = Rc::new(RefCell::new(Vec::new()));
        // Not this leader's own disk.
        let heirs: Vec<_> = cluster.places.iter().filter(|place| place.at != at).collect();
        let heir = heirs[seed as usize % heirs.len()].disk;
        for turn in 0..20 {
            let (host, outcomes) = (host.clone(), outcomes.clone());
            env.spawn(async move {
                let mut batch = WriteBatch::new();
                batch.put(vec![0], vec![1]);
                // The proposal waits for Raft's next turn, and the hand-over comes before it.
                let hand_over = async { turn == 9 && host.transfer_leadership(group, heir) };
                let (outcome, _) = futures::join!(host.propose(group, term, &batch), hand_over);
                outcomes.borrow_mut().push(outcome);
            });
        }
        cluster.run_for(Duration::from_secs(3));
        let outcomes = outcomes.borrow();
        assert_eq!(outcomes.len(), 20);
        let overloaded =
            |outcome: &&Result<_, ProposeError>| matches!(outcome, Err(ProposeError::Overloaded));
        assert_eq!(outcomes.iter().filter(overloaded).count(), 0, "{outcomes:?}");
        assert!(outcomes.iter().any(|outcome| outcome.is_err()), "nothing waited");
    });
}

/// Something goes wrong.
fn disturb(cluster: &Cluster) {
    let nodes = cluster.nodes.len();
    let (what, node, other) = {
        let mut rng = cluster.rng.borrow_mut();
        (rng.below(13), rng.below(nodes as u64) as usize, rng.below(nodes as u64) as usize)
    };
    let net = &cluster.net;
    match what {
        0..2 if cluster.is_up(node) => cluster.crash(node),
        2 if cluster.is_up(node) => {
            let at_io = 1 + cluster.rng.borrow_mut().below(40);
            cluster.nodes[node].crash_at_io(at_io);
        }
        3..5 if node != other => {
            net.blocked.borrow_mut().insert((node, other));
            if cluster.rng.borrow_mut().one_in(2) {
                net.blocked.borrow_mut().insert((other, node));
            }
        }
        5..7 => net.blocked.borrow_mut().clear(),
        7 => net.loss_per_million.set(cluster.rng.borrow_mut().below(300_000) as u32),
        8 => net.late_per_million.set(cluster.rng.borrow_mut().below(100_000) as u32),
        9 => {
            let hosts = cluster.hosts();
            let groups: Vec<_> = cluster.groups().collect();
            let mut rng = cluster.rng.borrow_mut();
            if let Some((_, _, host)) = hosts.get(rng.below(hosts.len().max(1) as u64) as usize) {
                let group = *rng.pick(&groups);
                host.transfer_leadership(group, rng.pick(&cluster.places).disk);
            }
        }
        10 => {
            let place = cluster.rng.borrow_mut().pick(&cluster.places).clone();
            if let Some((_, host)) = cluster.host(place.at) {
                host.stop_disk(place.disk);
            }
        }
        // One disk at a time is what every group tolerates.
        11 if cluster.layout.nodes > 1 && cluster.all_vote() => {
            let place = cluster.rng.borrow_mut().pick(&cluster.places).clone();
            cluster.crash(place.at.0);
            cluster.empty(place.disk);
        }
        _ => {
            let place = cluster.rng.borrow_mut().pick(&cluster.places).clone();
            let groups: Vec<_> = cluster.groups().collect();
            let group = *cluster.rng.borrow_mut().pick(&groups);
            if let Some((_, host)) = cluster.host(place.at) {
                host.index_damaged(group, place.disk);
            }
        }
    }
}

/// Brings back what a crash took.
fn restart_the_dead(cluster: &Cluster, crashes: &mut [u32]) {
    for (node, seen) in crashes.iter_mut().enumerate() {
        let crashes = cluster.nodes[node].crashes();
        if crashes != *seen {
            *seen = crashes;
            cluster.forget(node);
        }
        if !cluster.is_up(node) && cluster.rng.borrow_mut().one_in(3) {
            cluster.start(node);
        }
    }
}

fn chaos(seed: u64, layout: Layout, steps: u32) -> Cluster {
    let cluster = Cluster::new(seed, layout);
    let stop = Rc::new(Cell::new(false));
    for _ in 0..3 {
        cluster.client(KEYS, stop.clone(), 10_000..400_000);
    }
    let mut crashes = vec![0; cluster.nodes.len()];
    for _ in 0..steps {
        let pause = cluster.rng.borrow_mut().within(50..1200);
        cluster.run_for(Duration::from_millis(pause));
        disturb(&cluster);
        restart_the_dead(&cluster, &mut crashes);
    }
    stop.set(true);
    cluster.net.blocked.borrow_mut().clear();
    cluster.net.loss_per_million.set(0);
    cluster.net.late_per_million.set(0);
    // A disk that left comes back with its process.
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].cancel_crash();
        cluster.crash(node);
        cluster.start(node);
    }
    cluster.run_for(Duration::from_secs(5));
    cluster.check_convergence(Duration::from_secs(60));
    cluster.read_all(KEYS);
    cluster.check_history();
    if std::env::var("BUCKETS_SIM_SEED").is_ok() {
        eprintln!("{:?} writes, unknown writes, reads; {} refused", cluster.tally(), cluster.refused.get());
    }
    cluster
}

#[test]
fn one_node_survives_crashes() {
    sweep(0..20, |seed| {
        let layouts = [(1, 1, 1), (1, 2, 3), (1, 2, 4), (1, 3, 5)];
        let (nodes, cores, disks) = layouts[seed as usize % layouts.len()];
        chaos(seed, Layout::new(nodes, cores, disks, 2), 15);
    });
}

#[test]
fn several_nodes_survive_crashes_cuts_and_loss() {
    sweep(0..40, |seed| {
        let layouts = [(3, 1, 1), (4, 1, 1), (5, 1, 1), (3, 2, 2), (2, 1, 2)];
        let (nodes, cores, disks) = layouts[seed as usize % layouts.len()];
        chaos(seed, Layout::new(nodes, cores, disks, 2), 25);
    });
}
