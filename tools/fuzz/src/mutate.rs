//! Inputs made of other inputs.

/// Numbers at which readers go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];
/// Bytes that mean something to some reader.
const SIGNS: &[u8] = b"\r\n\t\0 :;,=&?%/+<>\"'[]{}()-_.~*@#0129afAFxX\x7f\x80\xff";
const INPUT_BYTES_MAX: usize = 16 << 10;
const CHANGES_MAX: u64 = 8;

/// A deterministic source of mutations.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// All that follows depends on `seed`.
    pub fn new(seed: u64) -> Mutator {
        Mutator { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03 }
    }

    /// One of `inputs`, changed in a few places. Panics where there are none.
    pub fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.next() % CHANGES_MAX {
            self.change(&mut input, inputs);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let length = self.below(17).min(input.len() - at);
        match self.next() % 11 {
            0 if at < input.len() => input[at] ^= 1 << (self.next() % 8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 if at < input.len() => input[at] = SIGNS[self.below(SIGNS.len())],
            3 => drop(input.drain(at..at + length)),
            4 => input.insert(at, SIGNS[self.below(SIGNS.len())]),
            5 => input.truncate(at),
            6 => {
                let copy = input[at..at + length].to_vec();
                let times = 1 + self.below(4);
                for _ in 0..times {
                    input.splice(at..at, copy.iter().copied());
                }
            }
            7 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)].min(input.len() - at);
                input[at..at + width].copy_from_slice(&edge[..width]);
            }
            8 => {
                let text = EDGES[self.below(EDGES.len())].to_string();
                input.splice(at..at, text.into_bytes());
            }
            9 => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let byte = self.next() as u8;
                let times = self.below(40);
                input.splice(at..at, std::iter::repeat_n(byte, times));
            }
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Vigna's SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
