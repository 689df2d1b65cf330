//! Block checksums: XXH3-128, seeded with identity and place.
//!
//! What must hold: a block verifies only in the index, the table and the page it was written for, so that a
//! stale, foreign or misdirected block is seen like a flipped bit.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// The seed of one file: no two files ever share one, because each has its own random salt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileSeed(u64);

impl FileSeed {
    pub(crate) fn table(identity: &[u8; 16], number: u64, salt: u64) -> FileSeed {
        let mut place = [0u8; 36];
        place[..16].copy_from_slice(identity);
        place[16..24].copy_from_slice(&number.to_le_bytes());
        place[24..32].copy_from_slice(&salt.to_le_bytes());
        place[32..].copy_from_slice(b"tbl1");
        FileSeed(xxh3_64(&place))
    }

    pub(crate) fn root(identity: &[u8; 16]) -> FileSeed {
        let mut place = [0u8; 20];
        place[..16].copy_from_slice(identity);
        place[16..].copy_from_slice(b"roo1");
        FileSeed(xxh3_64(&place))
    }

    /// The checksum of `data`, whose block starts at page `page` of the file.
    pub(crate) fn checksum(self, page: u32, data: &[u8]) -> [u8; 16] {
        let seed = self.0 ^ (u64::from(page) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        xxh3_128_with_seed(data, seed).to_le_bytes()
    }
}

/// The hash of a key for the filters.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}
