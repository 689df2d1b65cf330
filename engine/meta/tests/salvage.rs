//! Half of the voters is gone: reads go on, writes are refused, and nothing acknowledged is missing.

mod cluster;

use buckets_env::sim::sweep;
use buckets_meta::{GroupHost, SalvageError, View};
use buckets_ring::id::{DiskUuid, GroupId};
use cluster::{Cluster, Layout, value_of};
use std::collections::BTreeMap;
use std::time::Duration;

/// Asks the hosts in turn, as a request that is passed on would.
fn salvage(cluster: &Cluster, group: GroupId) -> Result<(buckets_env::Env, View), SalvageError> {
    let mut last = SalvageError::NoReplica;
    for (_, env, host) in cluster.hosts() {
        let mut asked: (buckets_env::Env, GroupHost) = (env, host);
        for _ in 0..3 {
            let (env, host) = asked.clone();
            match cluster.within(&env, async move { host.salvage(group).await }) {
                Some(Ok(view)) => return Ok((env, view)),
                Some(Err(SalvageError::Elsewhere { disk })) => match cluster.host_of(disk) {
                    Some(next) => asked = next,
                    None => break,
                },
                Some(Err(error)) => {
                    last = error;
                    break;
                }
                None => break,
            }
        }
    }
    Err(last)
}

/// Writes without ever waiting for all voters: some are behind.
fn scribble(
    cluster: &Cluster,
    group: GroupId,
    acknowledged: &mut BTreeMap<u8, u64>,
    values: std::ops::Range<u64>,
) {
    for value in values {
        let key = (value % 5) as u8;
        cluster.until(Duration::from_secs(10), "a leader", || cluster.leader(group).is_some());
        if cluster.put(group, key, value) == Some(true) {
            acknowledged.insert(key, value);
        }
    }
}

#[test]
fn half_of_the_voters_shows_every_acknowledged_write() {
    sweep(0..20, |seed| {
        let cluster = Cluster::new(seed, Layout::new(4, 1, 1, 1));
        let group = GroupId(1);
        let mut acknowledged = BTreeMap::new();
        scribble(&cluster, group, &mut acknowledged, 0..20);
        // One voter after the other is away for a while, so that each lacks something.
        for round in 1..4 {
            let away = cluster.rng.borrow_mut().below(4) as usize;
            cluster.crash(away);
            scribble(&cluster, group, &mut acknowledged, round * 20..round * 20 + 10);
            cluster.start(away);
            scribble(&cluster, group, &mut acknowledged, round * 20 + 10..round * 20 + 12);
        }
        let gone = {
            let mut nodes = vec![0, 1, 2, 3];
            cluster.rng.borrow_mut().shuffle(&mut nodes);
            (nodes[0], nodes[1])
        };
        cluster.crash(gone.0);
        cluster.crash(gone.1);
        let mut found = None;
        cluster.until(Duration::from_secs(10), "a salvage", || {
            found = salvage(&cluster, group).ok();
            found.is_some()
        });
        assert!(cluster.leader(group).is_none() || cluster.put(group, 1, 1) != Some(true));
        for (key, value) in &acknowledged {
            let (env, view) = salvage(&cluster, group).unwrap();
            let key = *key;
            let seen =
                cluster.within(&env, async move { value_of(view.get(&[key]).await.unwrap()) }).unwrap();
            assert!(seen >= Some(*value), "key {key}: {seen:?} instead of {value}");
        }
        let (env, view) = salvage(&cluster, group).unwrap();
        let rows = cluster.within(&env, async move { cluster::all_rows(&view).await }).unwrap();
        let keys: Vec<u8> = rows.iter().map(|(key, _)| key[0]).collect();
        assert_eq!(keys, acknowledged.keys().copied().collect::<Vec<_>>());
        // One voter back is a majority: the salvage ends and writes go on.
        cluster.start(gone.0);
        cluster.until(Duration::from_secs(10), "a leader", || cluster.leader(group).is_some());
        scribble(&cluster, group, &mut acknowledged, 100..110);
        cluster.until(Duration::from_secs(5), "the end of the salvage", || {
            cluster.hosts().iter().all(|(_, _, host)| !host.in_salvage(group))
        });
        assert_eq!(salvage(&cluster, group).err(), Some(SalvageError::Majority));
        cluster.start(gone.1);
        cluster.check_convergence(Duration::from_secs(30));
        for (key, value) in acknowledged {
            let (env, host) = cluster.leader(group).unwrap();
            let seen = cluster
                .within(&env, async move {
                    let view = host.read_barrier(group).await.unwrap();
                    value_of(view.get(&[key]).await.unwrap())
                })
                .unwrap();
            assert!(seen >= Some(value), "key {key}: {seen:?} instead of {value}");
        }
    });
}

#[test]
fn one_node_with_half_of_its_disks_serves_reads() {
    sweep(0..10, |seed| {
        let cluster = Cluster::new(seed, Layout::new(1, 2, 4, 2));
        let mut acknowledged = BTreeMap::new();
        let group = GroupId(1);
        scribble(&cluster, group, &mut acknowledged, 0..30);
        let mut disks: Vec<DiskUuid> = cluster.places.iter().map(|place| place.disk).collect();
        cluster.rng.borrow_mut().shuffle(&mut disks);
        for disk in &disks[..2] {
            let (_, host) = cluster.host_of(*disk).unwrap();
            host.stop_disk(*disk);
        }
        let mut found = None;
        cluster.until(Duration::from_secs(6), "a salvage", || {
            found = salvage(&cluster, group).ok();
            found.is_some()
        });
        for (key, value) in acknowledged {
            let (env, view) = salvage(&cluster, group).unwrap();
            let seen =
                cluster.within(&env, async move { value_of(view.get(&[key]).await.unwrap()) }).unwrap();
            assert_eq!(seen, Some(value));
        }
    });
}

#[test]
fn voters_that_are_only_cut_off_are_not_salvaged_behind_their_leaders_back() {
    sweep(0..20, |seed| {
        let cluster = Cluster::new(seed, Layout::new(4, 1, 1, 1));
        let group = GroupId(1);
        let mut acknowledged = BTreeMap::new();
        scribble(&cluster, group, &mut acknowledged, 0..10);
        cluster.run_for(Duration::from_secs(1));
        cluster.values().set(1000);
        // Two hear each other and a third, but not the fourth; links fail one way.
        for _ in 0..30 {
            {
                let mut rng = cluster.rng.borrow_mut();
                let mut blocked = cluster.net.blocked.borrow_mut();
                blocked.clear();
                for _ in 0..rng.below(8) {
                    blocked.insert((rng.below(4) as usize, rng.below(4) as usize));
                }
            }
            let value = cluster.values().get();
            cluster.values().set(value + 1);
            if let Some((env, host)) = cluster.leader(group)
                && let Some(term) = host.leader_term(group)
            {
                let batch = cluster::row(1, value, 10);
                let outcome = cluster.within(&env, async move { host.propose(group, term, &batch).await });
                if let Some(Ok(_)) = outcome {
                    acknowledged.insert(1, value);
                }
            }
            if let Ok((env, view)) = salvage(&cluster, group) {
                let seen =
                    cluster.within(&env, async move { value_of(view.get(&[1]).await.unwrap()) }).unwrap();
                let least = acknowledged.get(&1).copied();
                assert!(seen >= least, "{seen:?} instead of {least:?}");
            }
            let pause = cluster.rng.borrow_mut().within(10..1500);
            cluster.run_for(Duration::from_millis(pause));
        }
        cluster.net.blocked.borrow_mut().clear();
        cluster.check_convergence(Duration::from_secs(30));
    });
}
