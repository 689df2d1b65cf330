//! Block checksums, bound to identity and place.
//!
//! What must hold: a checksum depends on the deployment, the disk, the object, the chunk number and the block number as
//! well as on every byte and the length of the block. A block that was written for another place, or an old
//! block where a new one was lost, does not verify. The encoding below is durable and never changes for its kind.

use buckets_ring::format::BlockChecksum;
use buckets_ring::id::{DeploymentId, DiskUuid, ObjectId};

/// Bytes of the longest checksum.
pub const CHECKSUM_BYTES_MAX: usize = 32;

const PLACE_BYTES: usize = 16 + 16 + 16 + 4 + 4;
/// Sets block checksums apart from every other use of the same hash ("BKTBLK1\0").
const DOMAIN: [u8; 8] = *b"BKTBLK1\0";

/// Where a block belongs, but for its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkIdentity {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The disk that holds the chunk.
    pub disk: DiskUuid,
    /// The object whose chunk it is.
    pub object: ObjectId,
    /// The chunk's number, 0..K+M.
    pub chunk: u8,
}

/// The checksum of one block: 16 or 32 bytes by its kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum {
    bytes: [u8; CHECKSUM_BYTES_MAX],
    len: u8,
}

impl Checksum {
    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// From stored bytes; `None` where their number does not fit `kind`.
    pub fn from_bytes(kind: BlockChecksum, stored: &[u8]) -> Option<Checksum> {
        (stored.len() == kind.bytes()).then(|| Checksum::new(stored))
    }

    fn new(of: &[u8]) -> Checksum {
        let mut bytes = [0u8; CHECKSUM_BYTES_MAX];
        bytes[..of.len()].copy_from_slice(of);
        Checksum { bytes, len: of.len() as u8 }
    }
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The checksum of block `block` of the chunk `identity`.
///
/// XXH3: the 128-bit hash of the data, seeded with the 64-bit XXH3 of the place; stored big-endian (canonical form).
/// BLAKE2b: the 256-bit hash of the place followed by the data.
pub fn checksum(kind: BlockChecksum, identity: &ChunkIdentity, block: u32, data: &[u8]) -> Checksum {
    let place = place(identity, block);
    match kind {
        BlockChecksum::Xxh3 => {
            let seed = xxhash_rust::xxh3::xxh3_64(&place);
            Checksum::new(&xxhash_rust::xxh3::xxh3_128_with_seed(data, seed).to_be_bytes())
        }
        BlockChecksum::Blake2b => {
            use blake2::Digest;
            let mut hash = blake2::Blake2b::<blake2::digest::consts::U32>::new();
            hash.update(place);
            hash.update(data);
            Checksum::new(&hash.finalize())
        }
    }
}

/// domain 8 | deployment 16 | disk 16 | object 16 | chunk u32 LE | block u32 LE
fn place(identity: &ChunkIdentity, block: u32) -> [u8; DOMAIN.len() + PLACE_BYTES] {
    let mut place = [0u8; DOMAIN.len() + PLACE_BYTES];
    place[..8].copy_from_slice(&DOMAIN);
    place[8..24].copy_from_slice(identity.deployment.as_bytes());
    place[24..40].copy_from_slice(identity.disk.as_bytes());
    place[40..56].copy_from_slice(identity.object.as_bytes());
    place[56..60].copy_from_slice(&u32::from(identity.chunk).to_le_bytes());
    place[60..64].copy_from_slice(&block.to_le_bytes());
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [BlockChecksum; 2] = [BlockChecksum::Xxh3, BlockChecksum::Blake2b];

    fn identity() -> ChunkIdentity {
        ChunkIdentity {
            deployment: DeploymentId::from_bytes([1; 16]),
            disk: DiskUuid::from_bytes([2; 16]),
            object: ObjectId::from_bytes([3; 16]),
            chunk: 4,
        }
    }

    #[test]
    fn every_part_of_the_place_changes_the_checksum() {
        let here = identity();
        let elsewhere = [
            (ChunkIdentity { deployment: DeploymentId::from_bytes([9; 16]), ..here }, 5),
            (ChunkIdentity { disk: DiskUuid::from_bytes([9; 16]), ..here }, 5),
            (ChunkIdentity { object: ObjectId::from_bytes([9; 16]), ..here }, 5),
            (ChunkIdentity { chunk: 9, ..here }, 5),
            (here, 9),
        ];
        for kind in KINDS {
            for data in [&b""[..], b"x", &[7u8; 100], &[7u8; 5000]] {
                let right = checksum(kind, &here, 5, data);
                for (identity, block) in elsewhere {
                    assert_ne!(
                        checksum(kind, &identity, block, data),
                        right,
                        "{kind:?} {identity:?} {block}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_the_length_change_the_checksum() {
        for kind in KINDS {
            let mut data = vec![0u8; 600];
            let right = checksum(kind, &identity(), 0, &data);
            for bit in 0..data.len() * 8 {
                data[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(checksum(kind, &identity(), 0, &data), right, "{kind:?} bit {bit}");
                data[bit / 8] ^= 1 << (bit % 8);
            }
            assert_ne!(checksum(kind, &identity(), 0, &data[..599]), right);
        }
    }

    #[test]
    fn stored_checksums_never_change() {
        let of = |kind| format!("{:?}", checksum(kind, &identity(), 7, b"one block"));
        assert_eq!(of(BlockChecksum::Xxh3), "7906920aad8bd1e542790200a0363cd3");
        assert_eq!(
            of(BlockChecksum::Blake2b),
            "12973783e9c14910d6454607bf7ce61f76f994e5f1bb95da245672febaada98c"
        );
    }

    #[test]
    fn stored_bytes_come_back_only_at_the_right_length() {
        for kind in KINDS {
            let sum = checksum(kind, &identity(), 0, b"data");
            assert_eq!(sum.as_bytes().len(), kind.bytes());
            assert_eq!(Checksum::from_bytes(kind, sum.as_bytes()), Some(sum));
            assert_eq!(Checksum::from_bytes(kind, &sum.as_bytes()[1..]), None);
        }
    }
}
