//! Split-block Bloom filter: one key touches one 32-byte line, one bit in each of its eight words.
//!
//! What must hold: no key that was put in is ever answered with "no". At 10 bits a key about one foreign key in
//! a hundred is answered with "maybe".

/// One line, in bytes.
pub(crate) const LINE_BYTES: usize = 32;

const SALT: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

fn bit(word: usize, hash: u64) -> u32 {
    1 << ((hash as u32).wrapping_mul(SALT[word]) >> 27)
}

fn line(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

/// Bytes of a filter of `keys` keys.
pub(crate) fn filter_bytes(keys: usize, bits_per_key: usize) -> usize {
    (keys * bits_per_key).div_ceil(LINE_BYTES * 8).max(1) * LINE_BYTES
}

/// Builds the filter of `hashes` at the end of `out`.
pub(crate) fn build(hashes: &[u64], bits_per_key: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let bytes = filter_bytes(hashes.len(), bits_per_key);
    out.resize(start + bytes, 0);
    let filter = &mut out[start..];
    for &hash in hashes {
        let at = line(hash, bytes / LINE_BYTES) * LINE_BYTES;
        for (index, word) in filter[at..at + LINE_BYTES].chunks_exact_mut(4).enumerate() {
            let mut value = [0u8; 4];
            value.copy_from_slice(word);
            word.copy_from_slice(&(u32::from_le_bytes(value) | bit(index, hash)).to_le_bytes());
        }
    }
}

/// False where the key is certainly not among those the filter was built from.
pub(crate) fn may_contain(filter: &[u8], hash: u64) -> bool {
    let lines = filter.len() / LINE_BYTES;
    if lines == 0 {
        return true;
    }
    let at = line(hash, lines) * LINE_BYTES;
    let mut missing = 0;
    for (index, word) in filter[at..at + LINE_BYTES].chunks_exact(4).enumerate() {
        let mut value = [0u8; 4];
        value.copy_from_slice(word);
        missing |= !u32::from_le_bytes(value) & bit(index, hash);
    }
    missing == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::key_hash;

    #[test]
    fn keeps_every_key_and_few_others() {
        for keys in [1usize, 2, 100, 13_000] {
            let hashes: Vec<u64> = (0..keys as u64).map(|k| key_hash(&k.to_be_bytes())).collect();
            let mut filter = Vec::new();
            build(&hashes, 10, &mut filter);
            assert!(hashes.iter().all(|&hash| may_contain(&filter, hash)));
            let foreign = (1 << 40..(1 << 40) + 20_000u64)
                .filter(|k| may_contain(&filter, key_hash(&k.to_be_bytes())))
                .count();
            assert!(foreign < 20_000 * 2 / 100, "{foreign} of 20000 at {keys} keys");
        }
    }
}
