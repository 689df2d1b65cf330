//! The superblock: what the program must know about a disk before it can read anything else of it.
//!
//! What must hold: written at format, never changed. Two equal copies, so that one bad page does not cost the disk.
//!
//! ```text
//! .buckets.sys/superblock, two pages with the same content, v1, little-endian
//!   0  magic              8  "BKTDISK\n"
//!   8  version            4  1
//!  12  zero               4
//!  16  deployment id      16
//!  32  disk uuid          16
//!  48  log segment bytes  8
//!  56  space file bytes   8
//!  64  checksum           16 XXH3-128 of bytes 0..64
//!  80  zero, to 4096
//! ```

use buckets_env::{ALIGNMENT, AlignedBuf, AlignedBytes};
use buckets_ring::id::{DeploymentId, DiskUuid};
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of the file.
pub(crate) const SUPERBLOCK_BYTES: usize = 2 * ALIGNMENT;
/// The file's name, beside `format.json`.
pub(crate) const SUPERBLOCK_FILE: &str = "superblock";
const MAGIC: [u8; 8] = *b"BKTDISK\n";
const VERSION: u32 = 1;
const CHECKED_BYTES: usize = 64;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) deployment: DeploymentId,
    pub(crate) disk: DiskUuid,
    pub(crate) wal_segment_bytes: u64,
    pub(crate) space_file_bytes: u64,
}

impl Superblock {
    /// The file's content.
    pub(crate) fn encode(&self) -> AlignedBytes {
        let mut file = AlignedBuf::zeroed(SUPERBLOCK_BYTES);
        let mut copy = [0u8; CHECKED_BYTES];
        copy[..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[16..32].copy_from_slice(self.deployment.as_bytes());
        copy[32..48].copy_from_slice(self.disk.as_bytes());
        copy[48..56].copy_from_slice(&self.wal_segment_bytes.to_le_bytes());
        copy[56..64].copy_from_slice(&self.space_file_bytes.to_le_bytes());
        let sum = xxh3_128(&copy).to_le_bytes();
        for page in file.chunks_exact_mut(ALIGNMENT) {
            page[..CHECKED_BYTES].copy_from_slice(&copy);
            page[CHECKED_BYTES..CHECKED_BYTES + 16].copy_from_slice(&sum);
        }
        file.freeze()
    }

    /// From one page; the sentence says why it is not one.
    pub(crate) fn decode(page: &[u8]) -> Result<Superblock, &'static str> {
        let Some((copy, rest)) = page.split_first_chunk::<CHECKED_BYTES>() else { return Err("it is cut") };
        if copy[..8] != MAGIC {
            return Err("it does not begin as one");
        }
        if rest.get(..16) != Some(&xxh3_128(copy).to_le_bytes()[..]) {
            return Err("its checksum is wrong");
        }
        let mut fields = crate::wal::field::Fields::new(&copy[8..]);
        let read = |fields: &mut crate::wal::field::Fields<'_>| {
            let version = fields.u32()?;
            fields.u32()?;
            let superblock = Superblock {
                deployment: DeploymentId::from_bytes(fields.array()?),
                disk: DiskUuid::from_bytes(fields.array()?),
                wal_segment_bytes: fields.u64()?,
                space_file_bytes: fields.u64()?,
            };
            Some((version, superblock))
        };
        match read(&mut fields) {
            Some((VERSION, superblock)) => Ok(superblock),
            Some(_) => Err("it was written by another version of this program"),
            None => Err("it is cut"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_copy_tells_everything_and_no_flipped_bit_goes_unseen() {
        let superblock = Superblock {
            deployment: DeploymentId::from_bytes([1; 16]),
            disk: DiskUuid::from_bytes([2; 16]),
            wal_segment_bytes: 64 << 20,
            space_file_bytes: 1 << 38,
        };
        let file = superblock.encode();
        for page in file.chunks_exact(ALIGNMENT) {
            assert_eq!(Superblock::decode(page), Ok(superblock));
            for bit in 0..(CHECKED_BYTES + 16) * 8 {
                let mut wrong = page.to_vec();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(Superblock::decode(&wrong).is_err(), "bit {bit}");
            }
        }
        assert!(Superblock::decode(&[]).is_err());
    }
}
