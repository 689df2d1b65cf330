//! The hash of a key: which set and which partition of it the key belongs to.
//!
//! What must hold: these functions never change, for the place of every stored object depends on them. The bucket's id is
//! random and unknown to clients, so nobody can choose keys that all meet in one partition.

use crate::id::BucketId;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The 64-bit hash of (bucket, key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// XXH3-64 of the key, seeded with the XXH3-64 of the bucket's id.
    pub fn new(bucket: BucketId, key: &[u8]) -> KeyHash {
        KeyHash(xxh3_64_with_seed(key, xxh3_64(bucket.as_bytes())))
    }

    /// The partition, 0..`partitions`, within the set that owns the key.
    pub fn partition(self, partitions: u16) -> u16 {
        assert!(partitions > 0);
        // The ring looks at the high bits of the hash; mixed again, so that the keys of one set fill all partitions.
        let mixed = mix(self.0);
        ((u128::from(mixed) * u128::from(partitions)) >> 64) as u16
    }
}

/// The partition of a key in its set.
pub fn partition_of(bucket: BucketId, key: &[u8], partitions: u16) -> u16 {
    KeyHash::new(bucket, key).partition(partitions)
}

/// The finaliser of SplitMix64: a bijection of 64-bit numbers.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_key_never_changes() {
        let bucket = BucketId::from_bytes([7; 16]);
        let of = |key: &[u8]| {
            (KeyHash::new(bucket, key).0, partition_of(bucket, key, 6), partition_of(bucket, key, 256))
        };
        assert_eq!(of(b""), (5833663126066131417, 1, 66));
        assert_eq!(of(b"photos/2024/cat.jpg"), (12614853789180873643, 0, 5));
        assert_eq!(of(&[b'k'; 1024]), (6379890424395629246, 4, 191));
    }

    #[test]
    fn partitions_are_filled_evenly() {
        let bucket = BucketId::from_bytes([1; 16]);
        for partitions in [1u16, 4, 6, 20, 256] {
            let mut counts = vec![0u32; usize::from(partitions)];
            let per_partition = 1000;
            for i in 0..per_partition * u32::from(partitions) {
                counts[usize::from(partition_of(bucket, format!("key-{i}").as_bytes(), partitions))] += 1;
            }
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least > 850 && *most < 1150, "{partitions}: {least}..{most}");
        }
    }
}
