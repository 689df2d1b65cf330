//! The codec against a slow reference that shares no code with it, over all K+M.
#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use buckets_stripe::{Codec, DATA_CHUNKS_MAX, PARITY_CHUNKS_MAX, ReconstructError};
use proptest::prelude::*;

/// Multiplication in GF(2^8) bit by bit, polynomial 0x11d.
fn slow_multiply(a: u8, b: u8) -> u8 {
    let mut product = 0u8;
    for bit in (0..8).rev() {
        let carry = product & 0x80 != 0;
        product <<= 1;
        if carry {
            product ^= 0x1d;
        }
        if b >> bit & 1 == 1 {
            product ^= a;
        }
    }
    product
}

fn slow_inverse(a: u8) -> u8 {
    (1..=255).find(|&b| slow_multiply(a, b) == 1).unwrap()
}

fn slow_parity(k: usize, m: usize, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let len = data[0].len();
    (k..k + m)
        .map(|i| {
            let mut parity = vec![0u8; len];
            for (j, block) in data.iter().enumerate() {
                let coefficient = if k == 1 { 1 } else { slow_inverse((i ^ j) as u8) };
                let products: Vec<u8> = (0..=255).map(|byte| slow_multiply(byte, coefficient)).collect();
                parity.iter_mut().zip(block).for_each(|(p, &byte)| *p ^= products[usize::from(byte)]);
            }
            parity
        })
        .collect()
}

/// A small generator of test bytes and choices (xorshift).
struct Chaos(u64);

impl Chaos {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }
    /// `count` different numbers below `below`, in random order.
    fn choose(&mut self, count: usize, below: usize) -> Vec<u8> {
        let mut numbers: Vec<u8> = (0..below as u8).collect();
        for i in (1..numbers.len()).rev() {
            numbers.swap(i, self.next() as usize % (i + 1));
        }
        numbers.truncate(count);
        numbers
    }
}

fn encode(codec: &Codec, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
    // Old bytes in the output must not matter.
    let mut parity = vec![vec![0xa5u8; data[0].len()]; codec.m()];
    let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    codec.encode(&sources, &mut outputs);
    parity
}

/// Reconstructs all of `lost` from the others and from exactly K of them, and compares.
fn check_reconstruct(codec: &Codec, chunks: &[Vec<u8>], lost: &[u8], chaos: &mut Chaos) {
    let mut good: Vec<(u8, &[u8])> = chaos
        .choose(chunks.len(), chunks.len())
        .into_iter()
        .filter(|number| !lost.contains(number))
        .map(|number| (number, chunks[usize::from(number)].as_slice()))
        .collect();
    for _ in 0..2 {
        let mut rebuilt = vec![vec![0x5au8; chunks[0].len()]; lost.len()];
        let mut out: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
        codec.reconstruct(&good, lost, &mut out).unwrap();
        for (number, block) in lost.iter().zip(&rebuilt) {
            assert_eq!(block, &chunks[usize::from(*number)], "{codec:?} lost {lost:?}, chunk {number}");
        }
        good.truncate(codec.k());
    }
}

fn check(k: usize, m: usize, len: usize, rounds: usize, seed: u64) {
    let mut chaos = Chaos(seed | 1);
    let codec = Codec::new(k, m).unwrap();
    let data: Vec<Vec<u8>> = (0..k).map(|_| chaos.bytes(len)).collect();
    let parity = encode(&codec, &data);
    assert_eq!(parity, slow_parity(k, m, &data), "{k}+{m}, {len} bytes");
    let chunks: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
    for _ in 0..rounds {
        let count = 1 + chaos.next() as usize % m;
        let lost = chaos.choose(count, k + m);
        check_reconstruct(&codec, &chunks, &lost, &mut chaos);
    }
}

#[test]
fn every_code_agrees_with_the_reference_and_survives_any_m_losses() {
    const LENGTHS: [usize; 8] = [64, 1, 63, 129, 4096, 33, 1000, 31];
    for k in 1..=DATA_CHUNKS_MAX {
        for m in 1..=PARITY_CHUNKS_MAX {
            check(k, m, LENGTHS[(k * 3 + m) % LENGTHS.len()], 4, (k * 100 + m) as u64);
        }
    }
}

#[test]
fn every_pattern_of_losses_of_small_codes_is_repaired() {
    for (k, m) in [(2, 2), (4, 2), (3, 3), (1, 3), (4, 4)] {
        let mut chaos = Chaos(7);
        let codec = Codec::new(k, m).unwrap();
        let data: Vec<Vec<u8>> = (0..k).map(|_| chaos.bytes(96)).collect();
        let parity = encode(&codec, &data);
        let chunks: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
        for mask in 1u32..1 << (k + m) {
            if mask.count_ones() as usize <= m {
                let lost: Vec<u8> = (0..(k + m) as u8).filter(|n| mask & (1 << n) != 0).collect();
                check_reconstruct(&codec, &chunks, &lost, &mut chaos);
            }
        }
    }
}

#[test]
fn lengths_around_vector_widths_are_coded_to_the_last_byte() {
    for len in (1..=130).chain([255, 256, 257, 511, 513, 65535, 65537]) {
        check(5, 3, len, 1, len as u64);
    }
}

#[test]
fn fewer_than_k_chunks_are_refused() {
    let codec = Codec::new(4, 2).unwrap();
    let block = [0u8; 64];
    let mut out = [0u8; 64];
    let result = codec.reconstruct(&[(0, &block), (2, &block), (5, &block)], &[1], &mut [&mut out]);
    assert_eq!(result, Err(ReconstructError::TooFewChunks { present: 3, needed: 4 }));
}

#[test]
fn codes_outside_of_the_limits_do_not_exist() {
    for (k, m) in [(0, 1), (1, 0), (17, 1), (1, 17)] {
        assert!(Codec::new(k, m).is_none());
    }
}

#[test]
fn empty_blocks_are_nothing_to_do() {
    check(3, 2, 0, 1, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_code_any_length_any_losses(k in 1usize..=16, m in 1usize..=16, len in 1usize..3000, seed: u64) {
        check(k, m, len, 3, seed);
    }
}
