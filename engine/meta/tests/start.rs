//! A node that was killed serves again at once, and leaders go where they belong.

mod cluster;

use buckets_env::sim::sweep;
use buckets_meta::Role;
use cluster::{Cluster, Layout};
use std::time::Duration;

#[test]
fn all_groups_of_a_killed_node_are_led_within_a_moment() {
    sweep(0..6, |seed| {
        for (cores, disks) in [(1, 1), (2, 4), (3, 5)] {
            let cluster = Cluster::new(seed, Layout::new(1, cores, disks, 8));
            cluster.until(Duration::from_secs(3), "leaders", || {
                cluster.groups().all(|group| cluster.leader(group).is_some())
            });
            for value in 0..20 {
                for group in cluster.groups() {
                    assert_eq!(cluster.put(group, 1, value), Some(true));
                }
            }
            cluster.crash(0);
            cluster.start(0);
            let began = cluster.now();
            cluster.until(Duration::from_millis(500), "leaders", || {
                cluster.groups().all(|group| cluster.leader(group).is_some())
            });
            for group in cluster.groups() {
                let preferred = cluster.preference(group)[0];
                let (_, host) = cluster.host_of(preferred).unwrap();
                assert_eq!(host.leader(group), Some(preferred), "after {:?}", cluster.now().since(began));
            }
        }
    });
}

#[test]
fn a_missing_preferred_disk_delays_the_start_little() {
    sweep(0..10, |seed| {
        let cluster = Cluster::new(seed, Layout::new(1, 2, 4, 4));
        cluster.run_for(Duration::from_secs(2));
        cluster.crash(0);
        let missing = cluster.places[seed as usize % 4].disk;
        cluster.missing.borrow_mut().insert(missing);
        cluster.start(0);
        cluster.until(Duration::from_millis(900), "leaders", || {
            cluster.groups().all(|group| cluster.leader(group).is_some())
        });
    });
}

#[test]
fn a_disk_that_fails_hands_its_groups_over_at_once() {
    sweep(0..10, |seed| {
        let cluster = Cluster::new(seed, Layout::new(1, 2, 4, 4));
        cluster.run_for(Duration::from_secs(2));
        let group = cluster.groups().next().unwrap();
        let leader = cluster.preference(group)[0];
        let (_, host) = cluster.host_of(leader).unwrap();
        assert_eq!(host.leader(group), Some(leader));
        host.stop_disk(leader);
        cluster.until(Duration::from_millis(200), "another leader", || {
            cluster.leader(group).is_some_and(|(_, host)| host.leader(group) != Some(leader))
        });
        assert_eq!(cluster.put(group, 1, 7), Some(true));
    });
}

#[test]
fn leadership_returns_to_the_preferred_disk() {
    sweep(0..5, |seed| {
        let cluster = Cluster::new(seed, Layout::new(3, 1, 1, 3));
        cluster.run_for(Duration::from_secs(4));
        cluster.crash(0);
        cluster.until(Duration::from_secs(5), "leaders elsewhere", || {
            cluster.groups().all(|group| cluster.leader(group).is_some())
        });
        for group in cluster.groups() {
            assert_eq!(cluster.put(group, 1, 7), Some(true));
        }
        cluster.start(0);
        cluster.until(Duration::from_secs(20), "the preferred leaders", || {
            cluster.groups().all(|group| {
                let preferred = cluster.preference(group)[0];
                let Some((_, host)) = cluster.host_of(preferred) else { return false };
                host.status(group)
                    .iter()
                    .any(|status| status.role == Role::Leader && status.disk == preferred)
            })
        });
    });
}
