//! Within a set: which disk holds which chunk of an object, and which disks vote for a partition.
//!
//! What must hold: everything is a function of ids and numbers, so that every node and every later version agrees; chunks of
//! different objects and leaders of different partitions are spread evenly over the slots.

use crate::coding::Coding;
use crate::id::ObjectId;
use xxhash_rust::xxh3::xxh3_64;

/// Most disks of a set.
pub const SLOTS_MAX: usize = 32;

/// An ordered choice of slots of a set: entry i is the slot of chunk i, or of voter i.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slots {
    slots: [u8; SLOTS_MAX],
    len: u8,
}

impl Slots {
    /// The slots in order.
    pub fn as_slice(&self) -> &[u8] {
        &self.slots[..usize::from(self.len)]
    }

    /// The entry whose slot is `slot`: the chunk that a disk holds, for one.
    pub fn position_of(&self, slot: u8) -> Option<u8> {
        // At most 32 entries.
        self.as_slice().iter().position(|s| *s == slot).map(|at| at as u8)
    }

    /// `start`, `start + 1`, ... round the end of `n` slots, those that `wanted` accepts, at most `count`.
    fn rotated(n: u8, start: u8, count: u8, wanted: impl Fn(u8) -> bool) -> Slots {
        assert!(usize::from(n) <= SLOTS_MAX && start < n);
        let mut chosen = Slots { slots: [0; SLOTS_MAX], len: 0 };
        for slot in (start..n).chain(0..start).filter(|slot| wanted(*slot)).take(usize::from(count)) {
            chosen.slots[usize::from(chosen.len)] = slot;
            chosen.len += 1;
        }
        chosen
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// The slots of an object's chunks, 0..n in an order rotated by the object's id. `missing` (bit s = slot s) are left
/// out: what remains is the order for a degraded write.
pub fn place(object: ObjectId, n: u8, missing: u32) -> Slots {
    let start = ((u128::from(xxh3_64(object.as_bytes())) * u128::from(n)) >> 64) as u8;
    Slots::rotated(n, start, n, |slot| missing & (1 << slot) == 0)
}

/// The slots whose disks hold a Raft replica of a partition: min(K+M, 2M+1) of them.
pub fn voters(coding: Coding, partition: u16) -> Slots {
    Slots::rotated(coding.n(), preferred_leader(coding, partition), coding.voters(), |_| true)
}

/// The slot that should lead a partition while its disk is well: the first voter.
pub fn preferred_leader(coding: Coding, partition: u16) -> u8 {
    // Below n, which is at most 32.
    (partition % u16::from(coding.n())) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::mix;

    fn object(i: u64) -> ObjectId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&mix(i).to_le_bytes());
        ObjectId::from_bytes(bytes)
    }

    #[test]
    fn every_slot_gets_one_chunk_and_all_chunks_alike() {
        for n in [2u8, 4, 6, 20, 32] {
            let mut firsts = vec![0u32; usize::from(n)];
            for i in 0..1000 * u64::from(n) {
                let slots = place(object(i), n, 0);
                let mut sorted = slots.as_slice().to_vec();
                firsts[usize::from(sorted[0])] += 1;
                assert_eq!(slots.position_of(sorted[0]), Some(0));
                sorted.sort();
                assert_eq!(sorted, (0..n).collect::<Vec<u8>>());
            }
            assert!(firsts.iter().all(|count| (850..1150).contains(count)), "{n}: {firsts:?}");
        }
    }

    #[test]
    fn missing_slots_are_left_out_and_the_order_stays() {
        for i in 0..100 {
            let whole = place(object(i), 6, 0);
            let rest = place(object(i), 6, 0b010010);
            let expected: Vec<u8> = whole.as_slice().iter().copied().filter(|s| *s != 1 && *s != 4).collect();
            assert_eq!(rest.as_slice(), expected);
            assert_eq!(rest.position_of(4), None);
        }
        assert!(place(object(1), 4, 0b1111).as_slice().is_empty());
    }

    #[test]
    fn placement_never_changes() {
        let first = |i| place(object(i), 6, 0).as_slice()[0];
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(first), [3, 5, 3, 0, 0, 3, 4, 2]);
    }

    #[test]
    fn voters_and_leaders_are_spread() {
        let coding = Coding::new(4, 2).unwrap();
        assert_eq!(voters(coding, 0).as_slice(), [0, 1, 2, 3, 4]);
        assert_eq!(voters(coding, 5).as_slice(), [5, 0, 1, 2, 3]);
        assert_eq!(voters(coding, 6), voters(coding, 0));
        for k in 1..=16 {
            for m in 1..=16 {
                let coding = Coding::new(k, m).unwrap();
                let n = u16::from(coding.n());
                let mut votes = vec![0; usize::from(n)];
                for partition in 0..n {
                    let voters = voters(coding, partition);
                    assert_eq!(voters.as_slice()[0], preferred_leader(coding, partition));
                    assert_eq!(voters.as_slice().len(), usize::from(coding.voters()));
                    voters.as_slice().iter().for_each(|slot| votes[usize::from(*slot)] += 1);
                }
                assert!(votes.iter().all(|count| *count == coding.voters()), "{coding}: {votes:?}");
            }
        }
    }
}
