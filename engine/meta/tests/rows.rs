//! Rows that are behind the log or damaged come from another voter.

mod cluster;

use buckets_env::sim::{DiskLatency, SimOptions, sweep};
use buckets_meta::RowsState;
use cluster::{Cluster, Layout, value_of};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

fn fill(cluster: &Cluster, values: std::ops::Range<u64>) {
    for value in values {
        for group in cluster.groups() {
            cluster.until(Duration::from_secs(10), "a leader", || cluster.leader(group).is_some());
            assert_eq!(cluster.put(group, value as u8, value), Some(true));
        }
    }
}

#[test]
fn a_voter_that_was_away_too_long_gets_a_snapshot() {
    sweep(0..5, |seed| {
        let cluster = Cluster::new(seed, Layout::new(3, 1, 1, 1));
        fill(&cluster, 0..10);
        cluster.crash(1);
        fill(&cluster, 10..400);
        let group = cluster.groups().next().unwrap();
        let (_, leader) = cluster.leader(group).unwrap();
        assert!(leader.status(group)[0].first > 20, "the log was cut");
        cluster.start(1);
        fill(&cluster, 400..420);
        cluster.check_convergence(Duration::from_secs(30));
    });
}

#[test]
fn a_snapshot_comes_through_loss_crashes_and_growth() {
    sweep(0..10, |seed| {
        let cluster = Cluster::new(seed, Layout::new(3, 1, 1, 1));
        fill(&cluster, 0..10);
        cluster.crash(1);
        fill(&cluster, 10..300);
        cluster.net.loss_per_million.set(100_000);
        for round in 0..6 {
            cluster.start(1);
            let io = 1 + cluster.rng.borrow_mut().below(60);
            cluster.nodes[1].crash_at_io(io);
            let before = cluster.nodes[1].crashes();
            for value in 0..20 {
                let group = cluster.groups().next().unwrap();
                cluster.put(group, value as u8, 1000 * round + value);
                cluster.run_for(Duration::from_millis(50));
            }
            if cluster.nodes[1].crashes() == before {
                cluster.nodes[1].cancel_crash();
                cluster.crash(1);
            } else {
                cluster.forget(1);
            }
        }
        cluster.net.loss_per_million.set(0);
        cluster.start(1);
        cluster.check_convergence(Duration::from_secs(30));
    });
}

#[test]
fn damaged_rows_are_fetched_again_and_the_leader_moves() {
    sweep(0..10, |seed| {
        let (nodes, disks) = if seed % 2 == 0 { (1, 4) } else { (3, 1) };
        let cluster = Cluster::new(seed, Layout::new(nodes, 1, disks, 1));
        fill(&cluster, 0..200);
        let group = cluster.groups().next().unwrap();
        cluster.run_for(Duration::from_secs(3));
        let (_, host) = cluster.leader(group).unwrap();
        let leader = host.leader(group).unwrap();
        host.index_damaged(group, leader);
        let acked = cluster.put(group, 1, 77);
        assert_eq!(acked, Some(true), "a leader with damaged rows goes on until another one leads");
        cluster.until(Duration::from_secs(5), "another leader", || {
            cluster.leader(group).is_some_and(|(_, host)| host.leader(group) != Some(leader))
        });
        cluster.until(Duration::from_secs(20), "whole rows", || {
            let (_, host) = cluster.host_of(leader).unwrap();
            host.status(group).iter().all(|status| status.rows == RowsState::Whole)
        });
        fill(&cluster, 200..210);
        cluster.check_convergence(Duration::from_secs(30));
    });
}

/// Raft begins to count anew there what it wants to be durable.
#[test]
fn what_is_acknowledged_after_a_snapshot_is_durable_like_anything_else() {
    sweep(0..12, |seed| {
        let flush = Duration::from_millis(20)..Duration::from_millis(90);
        let disk_latency = DiskLatency { flush, ..DiskLatency::default() };
        let options = SimOptions { disk_latency, ..SimOptions::default() };
        let cluster = Cluster::with_options(seed, Layout::new(3, 1, 1, 1), options);
        fill(&cluster, 0..20);
        let group = cluster.groups().next().unwrap();
        let (_, host) = cluster.leader(group).unwrap();
        let leader = host.leader(group).unwrap();
        let (first, others): (Vec<_>, Vec<_>) = cluster.places.iter().partition(|place| place.disk == leader);
        let [away, restarted] = [others[0], others[1]];
        cluster.crash(away.at.0);
        let (_, host) = cluster.host_of(restarted.disk).unwrap();
        host.index_damaged(group, restarted.disk);
        cluster.until(Duration::from_secs(20), "whole rows", || {
            host.status(group).iter().all(|status| status.rows == RowsState::Whole)
        });
        assert_eq!(cluster.put(group, 1, 77), Some(true));
        // The machines of those two that acknowledged it lose power.
        cluster.crash(first[0].at.0);
        cluster.crash(restarted.at.0);
        cluster.start(away.at.0);
        cluster.start(restarted.at.0);
        cluster.until(Duration::from_secs(20), "a leader", || cluster.leader(group).is_some());
        let (env, host) = cluster.leader(group).unwrap();
        let value = cluster.within(&env, async move {
            value_of(host.read_barrier(group).await.unwrap().get(&[1]).await.unwrap())
        });
        assert_eq!(value, Some(Some(77)), "an acknowledged write is gone");
    });
}

/// Whatever is written meanwhile: a log that was cut behind the snapshot's back would make it begin again and again.
#[test]
fn a_voter_that_needs_a_snapshot_catches_up_while_others_write() {
    sweep(0..6, |seed| {
        let mut layout = Layout::new(3, 1, 1, 1);
        // So that a snapshot takes longer than the log is kept.
        layout.options.snapshot_page_bytes = 128;
        let cluster = Cluster::new(seed, layout);
        fill(&cluster, 0..256);
        cluster.crash(1);
        fill(&cluster, 0..600);
        let group = cluster.groups().next().unwrap();
        let stop = Rc::new(Cell::new(false));
        for _ in 0..4 {
            cluster.client(255, stop.clone(), 700..2_000);
        }
        cluster.start(1);
        let place = cluster.places.iter().find(|place| place.at.0 == 1).unwrap();
        let (_, host) = cluster.host_of(place.disk).unwrap();
        let behind = || {
            let (_, leader) = cluster.leader(group)?;
            Some((leader.status(group).first()?.last, host.status(group).first()?.applied))
        };
        cluster.until(Duration::from_secs(10), "the voter knows what is written", || {
            behind().is_some_and(|(last, applied)| applied > 800 && last - applied < 60)
        });
        // And stays there.
        for _ in 0..10 {
            cluster.run_for(Duration::from_millis(300));
            assert!(behind().is_none_or(|(last, applied)| last - applied < 2000), "{:?}", behind());
        }
        stop.set(true);
        cluster.check_convergence(Duration::from_secs(30));
    });
}

#[test]
fn what_a_voter_lacks_comes_in_messages_of_a_bounded_length() {
    sweep(0..2, |seed| {
        let mut layout = Layout::new(3, 1, 1, 1);
        layout.options.message_bytes_max = 2 << 10;
        layout.large_disks = true;
        let cluster = Cluster::new(seed, layout);
        fill(&cluster, 0..10);
        cluster.crash(1);
        fill(&cluster, 10..250);
        cluster.start(1);
        fill(&cluster, 0..10);
        cluster.check_convergence(Duration::from_secs(30));
        assert!(cluster.net.longest.get() < 4 << 10, "{} bytes", cluster.net.longest.get());
    });
}
