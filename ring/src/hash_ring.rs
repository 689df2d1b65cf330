//! Keys to sets: a hash ring with 150 virtual nodes a set, and jump hash as the stateless alternative.
//!
//! What must hold:
//! - The points of a set depend on its number alone, so adding a set moves only keys to the new set, and taking one out
//!   moves only its keys. Keys belong to the first point at or after their hash, round the end.
//! - Look-up costs about one cache line whatever the number of sets: the points are uniform, so the high bits of a hash
//!   say where to start, and a step or two finds the point.

use crate::key::{KeyHash, mix};
use crate::topology::{TopologyJson, VNODES_PER_SET};

/// Where each set's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashRing {
    /// Sorted by hash, then set.
    points: Vec<Point>,
    /// `starts[b]`: the first point whose hash has the high bits `b` or higher.
    starts: Vec<u32>,
    /// Hash bits below the bucket number.
    shift: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u64,
    set: u16,
}

/// The keys of one set: the share of all hashes that it owns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SetShare {
    /// The set.
    pub set: u16,
    /// 0..=1.
    pub share: f64,
}

impl HashRing {
    /// The ring over the sets of a topology that own keys. `None` where none does.
    pub fn of_topology(topology: &TopologyJson) -> Option<HashRing> {
        HashRing::new(topology.active_sets())
    }

    /// The ring over these set numbers. `None` where there are none.
    pub fn new(sets: impl IntoIterator<Item = u16>) -> Option<HashRing> {
        let mut points: Vec<Point> = sets
            .into_iter()
            .flat_map(|set| (0..VNODES_PER_SET).map(move |vnode| Point { hash: point_hash(set, vnode), set }))
            .collect();
        points.sort_unstable();
        // Two sets with one hash: the lower number owns it, whoever came first.
        points.dedup_by_key(|point| point.hash);
        if points.is_empty() {
            return None;
        }
        let buckets = (points.len() * 2).next_power_of_two();
        let shift = u64::BITS - buckets.trailing_zeros();
        // SETS_MAX x VNODES_PER_SET fits u32.
        let first_at =
            |bucket: usize| points.partition_point(|p| ((p.hash >> shift) as usize) < bucket) as u32;
        let starts = (0..buckets).map(first_at).collect();
        Some(HashRing { points, starts, shift })
    }

    /// The set that owns a key.
    #[inline]
    pub fn set_of(&self, key: KeyHash) -> u16 {
        self.points[self.point_at(key.0)].set
    }

    /// The first `count` different sets at and after a key's place, the owner first; fewer where there are fewer.
    pub fn owners(&self, key: KeyHash, count: usize) -> Vec<u16> {
        let start = self.point_at(key.0);
        let mut owners = Vec::new();
        for point in self.points[start..].iter().chain(&self.points[..start]) {
            if owners.len() == count {
                break;
            }
            if !owners.contains(&point.set) {
                owners.push(point.set);
            }
        }
        owners
    }

    /// The share of the hash space that each set owns, by set number.
    pub fn shares(&self) -> Vec<SetShare> {
        let mut owned: std::collections::BTreeMap<u16, u128> = std::collections::BTreeMap::new();
        for arc in self.arcs() {
            *owned.entry(arc.set).or_default() += u128::from(arc.last - arc.first) + 1;
        }
        owned
            .into_iter()
            .map(|(set, hashes)| SetShare { set, share: hashes as f64 / 2f64.powi(64) })
            .collect()
    }

    /// The hash space in ascending order, cut where the owner may change: gapless from 0 to `u64::MAX`.
    pub(crate) fn arcs(&self) -> Vec<Arc> {
        let mut arcs: Vec<Arc> = Vec::with_capacity(self.points.len() + 1);
        let mut first = 0;
        for point in &self.points {
            arcs.push(Arc { first, last: point.hash, set: point.set });
            match point.hash.checked_add(1) {
                Some(next) => first = next,
                None => return arcs,
            }
        }
        arcs.push(Arc { first, last: u64::MAX, set: self.points[0].set });
        arcs
    }

    #[inline]
    fn point_at(&self, hash: u64) -> usize {
        let mut at = self.starts[(hash >> self.shift) as usize] as usize;
        while let Some(point) = self.points.get(at) {
            if point.hash >= hash {
                return at;
            }
            at += 1;
        }
        0
    }
}

/// A stretch of the hash space, ends included, that one set owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arc {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) set: u16,
}

fn point_hash(set: u16, vnode: u16) -> u64 {
    mix(mix(u64::from(set) << 16 | u64::from(vnode)))
}

/// Jump consistent hash (Lamping and Veach): a bucket in 0..`buckets` without any table. Adding the last bucket moves
/// 1/N of the keys, but only the last one can ever be taken away.
pub fn jump_hash(key: KeyHash, buckets: u32) -> u32 {
    assert!(buckets > 0);
    let mut state = key.0;
    let mut bucket = 0u64;
    let mut next = 0u64;
    while next < u64::from(buckets) {
        bucket = next;
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = (1u64 << 31) as f64 / ((state >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * scale) as u64;
    }
    bucket as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(count: u64) -> impl Iterator<Item = KeyHash> {
        (0..count).map(|i| KeyHash(mix(i ^ 0x5eed)))
    }

    /// The definition, without the shortcut.
    fn slow_set_of(ring: &HashRing, key: KeyHash) -> u16 {
        ring.points.iter().find(|p| p.hash >= key.0).unwrap_or(&ring.points[0]).set
    }

    #[test]
    fn look_up_follows_the_definition_at_every_point_and_beside_it() {
        for sets in [1, 2, 3, 7, 40] {
            let ring = HashRing::new(0..sets).unwrap();
            let edges =
                ring.points.iter().flat_map(|p| [p.hash.wrapping_sub(1), p.hash, p.hash.wrapping_add(1)]);
            for hash in edges.chain([0, u64::MAX]).collect::<Vec<_>>() {
                assert_eq!(
                    ring.set_of(KeyHash(hash)),
                    slow_set_of(&ring, KeyHash(hash)),
                    "{sets} sets, {hash:x}"
                );
            }
        }
    }

    #[test]
    fn no_sets_make_no_ring() {
        assert_eq!(HashRing::new([]), None);
    }

    #[test]
    fn the_ring_never_changes() {
        let ring = HashRing::new(0..5).unwrap();
        let sets: Vec<u16> = keys(16).map(|key| ring.set_of(key)).collect();
        assert_eq!(sets, [4, 1, 1, 1, 4, 4, 4, 0, 3, 4, 0, 1, 2, 0, 4, 4]);
    }

    #[test]
    fn shares_are_even_and_add_up() {
        let shares = HashRing::new(0..20).unwrap().shares();
        assert_eq!(shares.len(), 20);
        assert!((shares.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-9);
        // 150 points a set: a standard deviation of about 1 / sqrt(150) = 8 %.
        for SetShare { set, share } in shares {
            assert!((0.7..1.35).contains(&(share * 20.0)), "set {set} owns {share}");
        }
    }

    #[test]
    fn owners_are_different_and_begin_with_the_owner() {
        let ring = HashRing::new(0..4).unwrap();
        for key in keys(100) {
            let mut owners = ring.owners(key, 3);
            assert_eq!(owners[0], ring.set_of(key));
            owners.sort();
            owners.dedup();
            assert_eq!(owners.len(), 3);
            assert_eq!(ring.owners(key, 9).len(), 4);
        }
    }

    #[test]
    fn jump_hash_moves_only_to_the_new_bucket() {
        for buckets in [1u32, 2, 7, 50] {
            let mut moved = 0;
            for key in keys(20_000) {
                let (before, after) = (jump_hash(key, buckets), jump_hash(key, buckets + 1));
                assert!(before < buckets);
                assert!(after == before || after == buckets);
                moved += u32::from(after != before);
            }
            let expected = 20_000.0 / f64::from(buckets + 1);
            assert!(
                (f64::from(moved) / expected - 1.0).abs() < 0.2,
                "{buckets}: {moved} of about {expected}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn adding_a_set_moves_about_one_nth_and_nothing_else(
            sets in proptest::collection::btree_set(0u16..500, 1..30), new in 500u16..600,
        ) {
            let before = HashRing::new(sets.iter().copied()).unwrap();
            let after = HashRing::new(sets.iter().copied().chain([new])).unwrap();
            let mut moved = 0;
            for key in keys(4000) {
                let (old, now) = (before.set_of(key), after.set_of(key));
                prop_assert!(now == old || now == new);
                moved += u32::from(now != old);
            }
            let expected = 4000.0 / (sets.len() + 1) as f64;
            // Three deviations of the points (8 %) and of the sample.
            let slack = 0.25 * expected + 3.0 * expected.sqrt();
            prop_assert!((f64::from(moved) - expected).abs() < slack, "{moved} moved, about {expected} expected");
        }
    }
}
