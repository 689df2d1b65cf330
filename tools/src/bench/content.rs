//! What objects hold: bytes that follow from the key, its version and the seed, so that every byte of an answer can be
//! checked without having kept what was sent.
//!
//! What must hold: the same key, version and seed give the same size and bytes in every run; bodies are windows into one
//! pattern that repeats after a prime number of bytes, so that blocks or stripes that changed places do not look right; no
//! body is copied to be sent or to be checked.

use crate::size::ByteSize;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::IoSlice;
use std::str::FromStr;

/// The pattern repeats after so many bytes: prime, and small enough for the pattern to stay in the client's own cache.
const PERIOD: usize = 131_071;
/// Largest body of one PUT that S3 knows.
const SIZE_BYTES_MAX: u64 = 5 << 30;

/// One size, or sizes spread evenly over a range (both ends included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeRange {
    pub(crate) least: u64,
    pub(crate) most: u64,
}

impl FromStr for SizeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<SizeRange, String> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let parse =
            |part: &str| part.parse::<ByteSize>().map(|size| size.0).map_err(|error| error.to_string());
        let range = SizeRange { least: parse(least)?, most: parse(most)? };
        if range.least > range.most {
            return Err(format!("`{text}` runs backwards"));
        }
        if range.most > SIZE_BYTES_MAX {
            return Err("one PUT carries at most 5GiB".to_owned());
        }
        Ok(range)
    }
}

impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SizeRange { least, most } = *self;
        if least == most {
            write!(f, "{}", ByteSize(least))
        } else {
            write!(f, "{} to {}", ByteSize(least), ByteSize(most))
        }
    }
}

/// The content of all objects below one stem.
#[derive(Debug)]
pub(crate) struct Content {
    /// Two periods, so that what is shorter than one is one slice wherever it starts.
    pattern: Vec<u8>,
    seed: u64,
    sizes: SizeRange,
}

/// One object's bytes: a window into the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    start: usize,
    pub(crate) size: u64,
}

impl Content {
    pub(crate) fn new(stem: &str, seed: u64, sizes: SizeRange) -> Content {
        let mut random = Random::new(seed);
        let mut pattern: Vec<u8> = Vec::with_capacity(2 * PERIOD + 8);
        while pattern.len() < PERIOD {
            pattern.extend_from_slice(&random.next().to_le_bytes());
        }
        pattern.truncate(PERIOD);
        pattern.extend_from_within(..);
        // FNV-1a: the stem tells deployments' key spaces apart, nothing more.
        let stem = stem.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Content { pattern, seed: seed ^ stem, sizes }
    }

    /// The body of a key's version.
    pub(crate) fn body(&self, number: u64, version: u32) -> Body {
        let mut random = Random::new(self.seed ^ mix(number ^ (u64::from(version) << 48)));
        let start = (random.next() % PERIOD as u64) as usize;
        let SizeRange { least, most } = self.sizes;
        let size = if least == most { least } else { least + random.next() % (most - least + 1) };
        Body { start, size }
    }

    /// Pushes `from..to` of a body as slices, as many as fit.
    pub(crate) fn slices<'a>(&'a self, body: Body, from: u64, to: u64, out: &mut Slices<'a>) {
        debug_assert!(from <= to && to <= body.size);
        let mut at = from;
        while at < to && out.len < out.slices.len() {
            let start = self.index(body, at);
            let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(PERIOD);
            out.push(&self.pattern[start..start + len]);
            at += len as u64;
        }
    }

    /// Copies what a body holds from `at`, as much as fits; 0 bytes at its end.
    pub(crate) fn copy(&self, body: Body, at: u64, out: &mut [u8]) -> usize {
        let len = out.len().min(usize::try_from(body.size - at).unwrap_or(usize::MAX)).min(PERIOD);
        let start = self.index(body, at);
        out[..len].copy_from_slice(&self.pattern[start..start + len]);
        len
    }

    /// Whether `data` is what the body holds from `at`.
    pub(crate) fn matches(&self, body: Body, mut at: u64, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let start = self.index(body, at);
            let (now, rest) = data.split_at(data.len().min(PERIOD));
            if self.pattern[start..start + now.len()] != *now {
                return false;
            }
            at += now.len() as u64;
            data = rest;
        }
        true
    }

    /// Lower-case hexadecimal SHA-256, as the signature of a payload carries it.
    pub(crate) fn sha256(&self, body: Body) -> [u8; 64] {
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < body.size {
            let mut slices = Slices::default();
            self.slices(body, at, body.size, &mut slices);
            for slice in slices.as_slice() {
                hash.update(&slice[..]);
                at += slice.len() as u64;
            }
        }
        let mut text = [0; 64];
        let Ok(()) = hex::encode_to_slice(hash.finalize(), &mut text) else {
            unreachable!("32 bytes are 64 digits")
        };
        text
    }

    fn index(&self, body: Body, at: u64) -> usize {
        ((body.start as u64 + at) % PERIOD as u64) as usize
    }
}

/// What one vectored write takes.
pub(crate) struct Slices<'a> {
    slices: [IoSlice<'a>; 16],
    len: usize,
}

impl Default for Slices<'_> {
    fn default() -> Self {
        Slices { slices: [IoSlice::new(&[]); 16], len: 0 }
    }
}

impl<'a> Slices<'a> {
    pub(crate) fn push(&mut self, slice: &'a [u8]) {
        self.slices[self.len] = IoSlice::new(slice);
        self.len += 1;
    }

    pub(crate) fn as_slice(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.len]
    }
}

/// Splitmix64: repeatable draws that cost nothing.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`; the bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(sizes: &str) -> Content {
        Content::new("bench/", 7, sizes.parse().unwrap())
    }

    fn bytes(content: &Content, body: Body, from: u64, to: u64) -> Vec<u8> {
        let mut all = Vec::new();
        let mut at = from;
        while at < to {
            let mut slices = Slices::default();
            content.slices(body, at, to, &mut slices);
            for slice in slices.as_slice() {
                all.extend_from_slice(slice);
            }
            at = from + all.len() as u64;
        }
        all
    }

    #[test]
    fn bodies_are_repeatable_and_differ_by_key_version_stem_and_seed() {
        let one = content("4KiB");
        let body = |content: &Content, number, version| {
            let body = content.body(number, version);
            bytes(content, body, 0, body.size)
        };
        assert_eq!(body(&one, 1, 1), body(&content("4KiB"), 1, 1));
        assert_eq!(body(&one, 1, 1).len(), 4096);
        let others = [
            body(&one, 2, 1),
            body(&one, 1, 2),
            body(&Content::new("bench2/", 7, "4KiB".parse().unwrap()), 1, 1),
            body(&Content::new("bench/", 8, "4KiB".parse().unwrap()), 1, 1),
        ];
        for other in others {
            assert_ne!(other, body(&one, 1, 1));
        }
    }

    #[test]
    fn every_piece_of_a_body_matches_where_it_belongs_and_nowhere_else() {
        let content = content("5MiB");
        let body = content.body(3, 1);
        let all = bytes(&content, body, 0, body.size);
        assert_eq!(all.len(), 5 << 20);
        for (from, to) in [(0, 1), (4095, 4097), (131_070, 131_073), (0, 5 << 20), (1 << 20, 3 << 20)] {
            let piece = &all[from..to];
            assert_eq!(bytes(&content, body, from as u64, to as u64), piece);
            let mut copy = vec![0; to - from];
            let copied = content.copy(body, from as u64, &mut copy);
            assert!(copied > 0 && copy[..copied] == piece[..copied]);
            assert!(content.matches(body, from as u64, piece));
            if to - from > 8 {
                assert!(
                    !content.matches(body, from as u64 + (1 << 20), piece),
                    "stripes that changed places"
                );
                let mut wrong = piece.to_vec();
                *wrong.last_mut().unwrap() ^= 1;
                assert!(!content.matches(body, from as u64, &wrong));
            }
        }
        assert_eq!(content.sha256(body).to_vec(), hex::encode(Sha256::digest(&all)).into_bytes());
    }

    #[test]
    fn sizes_stay_in_their_range_and_reach_its_ends() {
        let content = content("10-13");
        let sizes: std::collections::BTreeSet<u64> = (0..200).map(|key| content.body(key, 1).size).collect();
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [10, 11, 12, 13]);
    }

    #[test]
    fn ranges_of_sizes_are_read_as_written() {
        assert_eq!("4KiB".parse(), Ok(SizeRange { least: 4096, most: 4096 }));
        assert_eq!("4KiB-1MiB".parse(), Ok(SizeRange { least: 4096, most: 1 << 20 }));
        assert_eq!("0".parse(), Ok(SizeRange { least: 0, most: 0 }));
        for bad in ["", "-", "4KiB-", "2-1", "6GiB", "x"] {
            assert!(bad.parse::<SizeRange>().is_err(), "{bad}");
        }
    }
}
