//! What changes between two generations: sets added, sets in another state, disks replaced, and the stretches of the hash
//! space whose keys move.
//!
//! What must hold: a key moves exactly if its hash is in one of the moves, and then from and to the sets named there.

use crate::hash_ring::HashRing;
use crate::id::DiskUuid;
use crate::key::KeyHash;
use crate::topology::{SetState, TopologyError, TopologyJson};

/// Keys whose hash is in `first..=last` move from one set to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// First hash.
    pub first: u64,
    /// Last hash, included.
    pub last: u64,
    /// The set that owned them.
    pub from: u16,
    /// The set that owns them now.
    pub to: u16,
}

/// A slot that has another disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedDisk {
    /// The set.
    pub set: u16,
    /// The slot.
    pub slot: u8,
    /// The disk that was there.
    pub old: DiskUuid,
    /// The disk that is there now.
    pub new: DiskUuid,
}

/// The difference of one generation to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyDiff {
    /// Sets that are new.
    pub added_sets: Vec<u16>,
    /// Sets in another state: number, old and new.
    pub changed_states: Vec<(u16, SetState, SetState)>,
    /// Slots with another disk; their chunks are rebuilt, not moved.
    pub replaced_disks: Vec<ReplacedDisk>,
    /// What moves, ascending by hash, neighbours with the same ends joined.
    pub moves: Vec<Move>,
}

impl TopologyDiff {
    /// Compares a generation with its successor. Errors: `next` is not a legal successor.
    pub fn between(current: &TopologyJson, next: &TopologyJson) -> Result<TopologyDiff, TopologyError> {
        current.check_successor(next)?;
        let added_sets = (current.sets.len()..next.sets.len()).map(|set| set as u16).collect();
        let mut changed_states = Vec::new();
        let mut replaced_disks = Vec::new();
        for (set, (old, new)) in current.sets.iter().zip(&next.sets).enumerate() {
            // Set numbers are below SETS_MAX, slots below 32.
            let set = set as u16;
            if old.state != new.state {
                changed_states.push((set, old.state, new.state));
            }
            for (slot, (old, new)) in old.disks.iter().zip(&new.disks).enumerate() {
                if old.uuid != new.uuid {
                    replaced_disks.push(ReplacedDisk { set, slot: slot as u8, old: old.uuid, new: new.uuid });
                }
            }
        }
        let moves = match (HashRing::of_topology(current), HashRing::of_topology(next)) {
            (Some(old), Some(new)) => moves(&old, &new),
            // From nothing nothing moves; to nothing nothing can.
            _ => Vec::new(),
        };
        Ok(TopologyDiff { added_sets, changed_states, replaced_disks, moves })
    }

    /// The move that a key is part of.
    pub fn move_of(&self, key: KeyHash) -> Option<&Move> {
        let at = self.moves.partition_point(|m| m.last < key.0);
        self.moves.get(at).filter(|m| m.first <= key.0)
    }

    /// The share of all keys that move, 0..=1.
    pub fn moved_share(&self) -> f64 {
        let hashes: u128 = self.moves.iter().map(|m| u128::from(m.last - m.first) + 1).sum();
        hashes as f64 / 2f64.powi(64)
    }
}

/// Walks both rings side by side, from edge to edge.
fn moves(old: &HashRing, new: &HashRing) -> Vec<Move> {
    let (old, new) = (old.arcs(), new.arcs());
    let (mut i, mut j) = (0, 0);
    let mut first = 0u64;
    let mut moves: Vec<Move> = Vec::new();
    while let (Some(from), Some(to)) = (old.get(i), new.get(j)) {
        let last = from.last.min(to.last);
        if from.set != to.set {
            match moves.last_mut() {
                Some(m) if m.from == from.set && m.to == to.set && m.last.checked_add(1) == Some(first) => {
                    m.last = last
                }
                _ => moves.push(Move { first, last, from: from.set, to: to.set }),
            }
        }
        i += usize::from(from.last == last);
        j += usize::from(to.last == last);
        // After the last hash both rings have ended and the loop with them.
        first = last.wrapping_add(1);
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::mix;
    use crate::topology::tests::{disk_uuid, topology};
    use proptest::prelude::*;

    #[test]
    fn a_replaced_disk_moves_no_key() {
        let current = topology(2);
        let mut next = current.clone();
        next.generation = 2;
        next.sets[1].disks[3].uuid = disk_uuid(7, 7);
        let diff = TopologyDiff::between(&current, &next).unwrap();
        let replaced = ReplacedDisk { set: 1, slot: 3, old: disk_uuid(1, 3), new: disk_uuid(7, 7) };
        assert_eq!(diff.replaced_disks, [replaced]);
        assert_eq!((diff.moves.len(), diff.moved_share()), (0, 0.0));
    }

    #[test]
    fn a_draining_set_gives_all_its_keys_and_no_others() {
        let current = topology(4);
        let mut next = current.clone();
        next.generation = 2;
        next.sets[2].state = SetState::Draining;
        let diff = TopologyDiff::between(&current, &next).unwrap();
        assert_eq!(diff.changed_states, [(2, SetState::Active, SetState::Draining)]);
        assert!(diff.moves.iter().all(|m| m.from == 2 && m.to != 2));
        let share = HashRing::of_topology(&current).unwrap().shares()[2].share;
        assert!((diff.moved_share() - share).abs() < 1e-12);
    }

    #[test]
    fn an_illegal_successor_has_no_difference() {
        assert!(TopologyDiff::between(&topology(1), &topology(2)).is_err());
    }

    #[test]
    fn the_first_sets_move_nothing() {
        let mut empty = topology(0);
        empty.generation = 0;
        let diff = TopologyDiff::between(&empty, &topology(2)).unwrap();
        assert_eq!((diff.added_sets, diff.moves), (vec![0, 1], vec![]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn moves_are_exactly_where_the_owner_changes(sets in 1u8..12, added in 1u8..3, seed: u64) {
            let current = topology(sets);
            let mut next = topology(sets + added);
            next.generation = 2;
            let diff = TopologyDiff::between(&current, &next).unwrap();
            let (old, new) = (HashRing::of_topology(&current).unwrap(), HashRing::of_topology(&next).unwrap());
            let edges = diff.moves.iter().flat_map(|m| [m.first.wrapping_sub(1), m.first, m.last, m.last.wrapping_add(1)]);
            let random = (0..500).map(|i| mix(seed ^ i));
            for hash in edges.chain(random).chain([0, u64::MAX]) {
                let (from, to) = (old.set_of(KeyHash(hash)), new.set_of(KeyHash(hash)));
                let found = diff.move_of(KeyHash(hash)).map(|m| (m.from, m.to));
                prop_assert_eq!(found, (from != to).then_some((from, to)));
            }
            let expected = f64::from(added) / f64::from(sets + added);
            prop_assert!((diff.moved_share() / expected - 1.0).abs() < 0.3);
        }
    }
}
