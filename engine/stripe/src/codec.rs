//! The erasure code: K data chunks, M parity chunks, any K of them give all of them.
//!
//! The generator matrix is durable knowledge and never changes. Chunks 0..K are the data (identity rows); row i of the
//! parity chunks K..K+M has the coefficients `1 / (i xor j)` for data chunk j, over GF(2^8) with polynomial 0x11d (a Cauchy
//! matrix: every square part of it is invertible, so any K chunks suffice). With K = 1 every chunk is a plain copy.

use crate::kernel::Tables;
use crate::{DATA_CHUNKS_MAX, PARITY_CHUNKS_MAX, gf256};
use std::cell::RefCell;
use std::rc::Rc;

/// Erasure patterns whose tables a codec keeps. At 16+16 one pattern is at most 8 KiB of tables.
const CACHED_PATTERNS_MAX: usize = 64;

/// Why chunks could not be reconstructed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReconstructError {
    /// Fewer than K good chunks were given.
    #[error("{present} good chunks of the {needed} that are needed")]
    TooFewChunks {
        /// Good chunks given.
        present: usize,
        /// K.
        needed: usize,
    },
}

/// Encoder and decoder for one K+M. Belongs to one core (`!Sync`); keep one per K+M and reuse it: it caches tables.
pub struct Codec {
    k: usize,
    m: usize,
    /// Parity rows, row-major m x k.
    parity_matrix: Vec<u8>,
    encode_tables: Tables,
    decode_tables: RefCell<PatternCache>,
}

impl Codec {
    /// A codec for `k` data and `m` parity chunks, each 1..=16. `None` outside of that.
    pub fn new(k: usize, m: usize) -> Option<Codec> {
        if !(1..=DATA_CHUNKS_MAX).contains(&k) || !(1..=PARITY_CHUNKS_MAX).contains(&m) {
            return None;
        }
        let parity_matrix = parity_matrix(k, m);
        let encode_tables = Tables::new(k, m, &parity_matrix);
        Some(Codec {
            k,
            m,
            parity_matrix,
            encode_tables,
            decode_tables: RefCell::new(PatternCache::default()),
        })
    }

    /// Data chunks.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity chunks.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Computes the M parity blocks of K data blocks. Panics unless there are K and M slices of one length.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert!(data.len() == self.k && parity.len() == self.m, "{}+{} given", data.len(), parity.len());
        if self.k == 1 {
            for copy in parity.iter_mut() {
                copy.copy_from_slice(data[0]);
            }
            return;
        }
        self.encode_tables.multiply(data, parity);
    }

    /// Computes the blocks of the chunks `wanted` (numbers 0..K+M, data or parity) into `out` from any K of `present`
    /// (number and block, all good, any order). Panics on numbers out of range or given twice and on unequal lengths.
    pub fn reconstruct(
        &self,
        present: &[(u8, &[u8])],
        wanted: &[u8],
        out: &mut [&mut [u8]],
    ) -> Result<(), ReconstructError> {
        assert_eq!(wanted.len(), out.len());
        let chunks = self.k + self.m;
        assert!(wanted.iter().all(|&w| usize::from(w) < chunks));
        let mut slots: [Option<&[u8]>; DATA_CHUNKS_MAX + PARITY_CHUNKS_MAX] =
            [None; DATA_CHUNKS_MAX + PARITY_CHUNKS_MAX];
        for &(number, block) in present {
            assert!(usize::from(number) < chunks, "chunk {number} of {chunks}");
            let before = slots[usize::from(number)].replace(block);
            assert!(before.is_none(), "chunk {number} given twice");
        }
        if present.len() < self.k {
            return Err(ReconstructError::TooFewChunks { present: present.len(), needed: self.k });
        }
        if wanted.is_empty() {
            return Ok(());
        }
        if self.k == 1 {
            for copy in out.iter_mut() {
                copy.copy_from_slice(present[0].1);
            }
            return Ok(());
        }
        // The lowest numbers first: data chunks are the cheapest sources, and the choice is deterministic.
        let mut sources: [&[u8]; DATA_CHUNKS_MAX] = [&[]; DATA_CHUNKS_MAX];
        let mut source_mask = 0u32;
        let good = slots.iter().enumerate().filter_map(|(number, slot)| slot.map(|block| (number, block)));
        for (source, (number, block)) in sources.iter_mut().zip(good.take(self.k)) {
            *source = block;
            source_mask |= 1 << number;
        }
        self.tables_for(source_mask, wanted).multiply(&sources[..self.k], out);
        Ok(())
    }

    fn tables_for(&self, source_mask: u32, wanted: &[u8]) -> Rc<Tables> {
        let mut cache = self.decode_tables.borrow_mut();
        if let Some(tables) = cache.get(source_mask, wanted) {
            return tables;
        }
        let tables = Rc::new(self.decode_tables_of(source_mask, wanted));
        cache.insert(source_mask, wanted, tables.clone());
        tables
    }

    /// Rows that give each wanted chunk from the sources: its generator row times the inverse of the sources' rows.
    fn decode_tables_of(&self, source_mask: u32, wanted: &[u8]) -> Tables {
        let k = self.k;
        let sources = (0..k + self.m).filter(|number| source_mask & (1 << number) != 0);
        let square: Vec<u8> = sources.flat_map(|number| self.generator_row(number)).collect();
        let Some(inverse) = gf256::invert_matrix(square, k) else {
            unreachable!("every square part of a Cauchy matrix extended by the identity is invertible")
        };
        let mut rows = vec![0u8; wanted.len() * k];
        for (row, &number) in rows.chunks_exact_mut(k).zip(wanted) {
            for (j, coefficient) in self.generator_row(usize::from(number)).into_iter().enumerate() {
                for (cell, &inverse) in row.iter_mut().zip(&inverse[j * k..(j + 1) * k]) {
                    *cell ^= gf256::multiply(coefficient, inverse);
                }
            }
        }
        Tables::new(k, wanted.len(), &rows)
    }

    fn generator_row(&self, number: usize) -> Vec<u8> {
        if number < self.k {
            (0..self.k).map(|j| u8::from(j == number)).collect()
        } else {
            self.parity_matrix[(number - self.k) * self.k..][..self.k].to_vec()
        }
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Codec({}+{})", self.k, self.m)
    }
}

fn parity_matrix(k: usize, m: usize) -> Vec<u8> {
    if k == 1 {
        return vec![1; m];
    }
    // i >= k > j, so i xor j is never zero; both are below 32.
    (k..k + m).flat_map(|i| (0..k).map(move |j| gf256::invert((i ^ j) as u8))).collect()
}

/// The most recently used patterns, newest last. Sixty-four short comparisons cost less than the coding they save.
#[derive(Default)]
struct PatternCache {
    patterns: Vec<Pattern>,
}

struct Pattern {
    source_mask: u32,
    wanted: Box<[u8]>,
    tables: Rc<Tables>,
}

impl PatternCache {
    fn get(&mut self, source_mask: u32, wanted: &[u8]) -> Option<Rc<Tables>> {
        let at = self.patterns.iter().rposition(|p| p.source_mask == source_mask && *p.wanted == *wanted)?;
        self.patterns[at..].rotate_left(1);
        self.patterns.last().map(|p| p.tables.clone())
    }

    fn insert(&mut self, source_mask: u32, wanted: &[u8], tables: Rc<Tables>) {
        if self.patterns.len() == CACHED_PATTERNS_MAX {
            self.patterns.remove(0);
        }
        self.patterns.push(Pattern { source_mask, wanted: wanted.into(), tables });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_keeps_what_was_used_last() {
        let codec = Codec::new(8, 8).unwrap();
        let hot = (0x00fe | 0x0100, [0u8]);
        codec.tables_for(hot.0, &hot.1);
        let mut seen = 0;
        for mask in (0u32..1 << 16).filter(|mask| mask.count_ones() == 8).take(200) {
            codec.tables_for(mask, &[15]);
            codec.tables_for(hot.0, &hot.1);
            seen += 1;
        }
        let mut cache = codec.decode_tables.borrow_mut();
        assert_eq!(seen, 200);
        assert_eq!(cache.patterns.len(), CACHED_PATTERNS_MAX);
        assert!(cache.get(hot.0, &hot.1).is_some());
    }

    #[test]
    fn the_generator_matrix_never_changes() {
        // Chunks on disks depend on these bytes.
        assert_eq!(parity_matrix(2, 2), [0x8e, 0xf4, 0xf4, 0x8e]);
        assert_eq!(parity_matrix(4, 2), [0x47, 0xa7, 0x7a, 0xba, 0xa7, 0x47, 0xba, 0x7a]);
        assert_eq!(parity_matrix(1, 3), [1, 1, 1]);
    }
}
