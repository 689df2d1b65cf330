//! The map of a deployment, and where it says that keys belong.

use crate::model::nodes::format_of;
use crate::{plan, resident_bytes, sizes};
use buckets_engine::map::NodeMap;
use buckets_env::sim::SimRng;
use buckets_ring::assembly::{FoundDisk, FoundFile, assemble};
use buckets_ring::id::{BucketId, GroupId};
use buckets_ring::topology::TopologyJson;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Keys that are made, then looked up, before the next are made.
const BATCH: usize = 10_000;

#[test]
fn keys_are_spread_evenly_over_however_many_disks() {
    let (sizes, is_measured) = sizes();
    let (keys, maps) = if is_measured { (10_000_000, 400) } else { (BATCH, 1) };
    for nodes in sizes {
        let plan = plan(nodes);
        let topology = plan.topology(&mut SimRng::new(1));
        let own = found(&topology);
        let mut times = Times::default();
        let mut assembly = None;
        (0..10).for_each(|_| assembly = times.assembled.of(1, || assemble(&own).ok()));
        let assembly = assembly.unwrap();
        let make =
            || NodeMap::new(&assembly, topology.sets[0].disks[0].endpoint.node(), 1, 16 << 10).unwrap();
        let resident = resident_bytes();
        let many: Vec<NodeMap> = (0..maps).map(|_| times.mapped.of(1, make)).collect();
        let map_bytes = resident_bytes().saturating_sub(resident) / maps;
        let map = &many[0];

        let bucket = BucketId::from_bytes([1; 16]);
        let mut of_groups: BTreeMap<GroupId, u64> = map.groups.keys().map(|group| (*group, 0)).collect();
        of_groups.remove(&GroupId::ROOT);
        for batch in 0..keys / BATCH {
            let texts: Vec<String> =
                (0..BATCH).map(|n| format!("photos/2024/{:09}.jpg", batch * BATCH + n)).collect();
            let groups: Vec<GroupId> =
                times.to_group.of(BATCH, || texts.iter().map(|key| map.group_for(bucket, key)).collect());
            times.to_place.of(BATCH, || {
                for group in &groups {
                    black_box(map.place_of(map.groups[group].preferred));
                }
            });
            groups.iter().for_each(|group| *of_groups.get_mut(group).unwrap() += 1);
        }

        // All disks of a set have a chunk of each object; rows are on the voters of a group.
        let mut of_sets: BTreeMap<u16, u64> = BTreeMap::new();
        let mut rows: BTreeMap<u16, u64> = BTreeMap::new();
        for (group, count) in &of_groups {
            *of_sets.entry(map.disk(map.groups[group].preferred).set).or_default() += count;
            for voter in &map.groups[group].voters {
                *rows.entry(map.disk(*voter).node).or_default() += count;
            }
        }
        assert_eq!((map.disks.len(), of_groups.len()), (10 * nodes, 10 * nodes));
        assert!(of_groups.values().all(|count| *count > 0));
        let groups_spread = spread(of_groups.values());
        assert!(spread(of_sets.values()) < 1.5 && groups_spread < 2.0, "{groups_spread}");
        if is_measured {
            println!(
                "{nodes} nodes, {} groups: assembled in {:.1?}, map of {} KiB made in {:.1?}; key to group {:?}, group to \
                 place {:?}; most over mean: groups {groups_spread:.3}, disks {:.3}; rows of a node: {} to {}",
                of_groups.len(),
                times.assembled.fastest,
                map_bytes >> 10,
                times.mapped.fastest,
                times.to_group.fastest,
                times.to_place.fastest,
                spread(of_sets.values()),
                rows.values().min().unwrap(),
                rows.values().max().unwrap(),
            );
        }
    }
}

/// Of how long what takes: others use the machine, too.
#[derive(Default)]
struct Times {
    assembled: Fastest,
    mapped: Fastest,
    to_group: Fastest,
    to_place: Fastest,
}

struct Fastest {
    fastest: Duration,
}

impl Default for Fastest {
    fn default() -> Fastest {
        Fastest { fastest: Duration::MAX }
    }
}

impl Fastest {
    /// Does something of so many equal steps.
    fn of<T>(&mut self, steps: usize, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let done = work();
        self.fastest = self.fastest.min(before.elapsed() / steps as u32);
        done
    }
}

fn spread<'a>(counts: impl ExactSizeIterator<Item = &'a u64> + Clone) -> f64 {
    let (len, sum, most) = (counts.len(), counts.clone().sum::<u64>(), counts.max().unwrap());
    *most as f64 * len as f64 / sum as f64
}

/// What the first node finds on its disks.
fn found(topology: &TopologyJson) -> Vec<FoundDisk> {
    let own = topology.sets[0].disks[0].endpoint.node();
    let disks = topology.disks().map(|(_, _, disk)| disk).filter(|disk| disk.endpoint.node() == own);
    let found = disks.map(|disk| FoundDisk {
        endpoint: disk.endpoint.clone(),
        format: FoundFile::Bytes(format_of(topology, disk.uuid).to_bytes()),
        topology: FoundFile::Bytes(topology.to_bytes()),
    });
    found.collect()
}
