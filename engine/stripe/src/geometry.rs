//! How a body is cut into stripes, blocks and chunks.
//!
//! ```text
//! body    | stripe 0: k blocks of block_bytes | stripe 1 | ... | last stripe: the rest, k shorter equal blocks |
//! chunk c | block c of stripe 0               | of stripe 1    | its block of the last stripe                  |
//! ```
//!
//! What must hold:
//! - The cut is a function of (k, block_bytes, body length) alone, and stripe s starts at `s * k * block_bytes`, so that a
//!   body of unknown length can be cut while it streams: every stripe is full until the body ends.
//! - All blocks of a stripe have one length: the coding needs it. The blocks of a short last stripe are `ceil(rest / k)`
//!   rounded up to 64 bytes; body bytes fill them in order and zeroes fill the end.
//! - Block number = stripe number; a chunk has one block of every stripe. An empty body has no stripe.
//! - On disk each block is padded to 4096 bytes.

use std::ops::Range;

/// Blocks start and end on disk at multiples of this, in bytes.
pub const BLOCK_ALIGN_BYTES: u32 = 4096;

/// Body bytes of a full stripe that are aimed at.
const STRIPE_TARGET_BYTES: u32 = 1 << 20;
/// Smallest full block.
const BLOCK_BYTES_MIN: u32 = 64 << 10;
/// Largest full block.
const BLOCK_BYTES_MAX: u32 = 256 << 10;
/// The length of a short block is a multiple of this: a cache line, and the widest vector of the coding kernels.
const SHORT_BLOCK_UNIT_BYTES: u64 = 64;

const _: () = {
    assert!(
        BLOCK_BYTES_MIN.is_multiple_of(BLOCK_ALIGN_BYTES)
            && BLOCK_BYTES_MAX.is_multiple_of(BLOCK_ALIGN_BYTES)
    );
    assert!((BLOCK_ALIGN_BYTES as u64).is_multiple_of(SHORT_BLOCK_UNIT_BYTES));
};

/// The cut of one object's body: stored in its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StripeLayout {
    k: u8,
    block_bytes: u32,
}

/// One stripe of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeShape {
    /// Its number, from 0: also the block number in every chunk.
    pub number: u32,
    /// Where its data starts in the body.
    pub body_offset: u64,
    /// Body bytes in it: 1..=k * block_bytes.
    pub body_bytes: u32,
    /// Logical length of each of its blocks (what is encoded, checksummed and sent).
    pub block_bytes: u32,
}

impl StripeShape {
    /// Bytes each of its blocks takes on disk.
    pub fn block_disk_bytes(&self) -> u32 {
        self.block_bytes.next_multiple_of(BLOCK_ALIGN_BYTES)
    }

    /// Body bytes in the block of data chunk `chunk`: the block's length but for the last ones of a short stripe,
    /// where the rest of the block is zeroes.
    pub fn body_bytes_in(&self, chunk: u8) -> u32 {
        let start = u64::from(chunk) * u64::from(self.block_bytes);
        // At most block_bytes, which is a u32.
        u64::from(self.body_bytes).saturating_sub(start).min(u64::from(self.block_bytes)) as u32
    }
}

/// A part of one block that holds a part of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Stripe, and so block number.
    pub stripe: u32,
    /// Data chunk, 0..k.
    pub chunk: u8,
    /// First byte within the block.
    pub offset: u32,
    /// Bytes, at least 1.
    pub len: u32,
    /// Where the piece is in the body.
    pub body_offset: u64,
}

impl StripeLayout {
    /// The layout for new objects with `k` data chunks: about 1 MiB of body a stripe. Panics unless k is 1..=16.
    pub fn for_data_chunks(k: u8) -> StripeLayout {
        assert!((1..=crate::DATA_CHUNKS_MAX).contains(&usize::from(k)), "{k} data chunks");
        let share = STRIPE_TARGET_BYTES / u32::from(k);
        let block_bytes = (share - share % BLOCK_ALIGN_BYTES).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        StripeLayout { k, block_bytes }
    }

    /// A layout as stored, or one with smaller blocks for tests. `None` unless k is 1..=16 and `block_bytes` a positive
    /// multiple of 4096 up to 256 KiB.
    pub fn from_stored(k: u8, block_bytes: u32) -> Option<StripeLayout> {
        let good = (1..=crate::DATA_CHUNKS_MAX).contains(&usize::from(k))
            && (BLOCK_ALIGN_BYTES..=BLOCK_BYTES_MAX).contains(&block_bytes)
            && block_bytes.is_multiple_of(BLOCK_ALIGN_BYTES);
        good.then_some(StripeLayout { k, block_bytes })
    }

    /// Data chunks.
    pub fn k(&self) -> u8 {
        self.k
    }

    /// Length of a full block, in bytes.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Body bytes of a full stripe.
    pub fn stripe_bytes(&self) -> u32 {
        // At most 16 x 256 KiB.
        u32::from(self.k) * self.block_bytes
    }

    /// Longest body that can be cut: block numbers are 32 bits.
    pub fn body_bytes_max(&self) -> u64 {
        u64::from(self.stripe_bytes()) * u64::from(u32::MAX)
    }

    /// Stripes of a body of `body_bytes`; none for an empty body. Panics over [`StripeLayout::body_bytes_max`].
    pub fn stripes(&self, body_bytes: u64) -> u32 {
        assert!(body_bytes <= self.body_bytes_max(), "a body of {body_bytes} bytes");
        body_bytes.div_ceil(u64::from(self.stripe_bytes())) as u32
    }

    /// Logical block length of a stripe that holds `body_bytes` (1..=stripe_bytes) of the body. This is what the end of
    /// a streamed body calls: it does not need to know the body's length.
    pub fn block_bytes_for(&self, body_bytes: u32) -> u32 {
        assert!((1..=self.stripe_bytes()).contains(&body_bytes), "{body_bytes} bytes in a stripe");
        // Full blocks are multiples of 4096, so rounding up never exceeds them.
        body_bytes.div_ceil(u32::from(self.k)).next_multiple_of(SHORT_BLOCK_UNIT_BYTES as u32)
    }

    /// The shape of stripe `number` of a body of `body_bytes`, or `None` past its end.
    pub fn stripe(&self, body_bytes: u64, number: u32) -> Option<StripeShape> {
        let body_offset = u64::from(number) * u64::from(self.stripe_bytes());
        let rest = body_bytes.checked_sub(body_offset).filter(|&rest| rest > 0)?;
        let in_stripe = rest.min(u64::from(self.stripe_bytes())) as u32;
        let block_bytes = self.block_bytes_for(in_stripe);
        Some(StripeShape { number, body_offset, body_bytes: in_stripe, block_bytes })
    }

    /// All stripes of a body, in order.
    pub fn iter_stripes(&self, body_bytes: u64) -> impl Iterator<Item = StripeShape> + use<> {
        let layout = *self;
        (0..self.stripes(body_bytes)).filter_map(move |number| layout.stripe(body_bytes, number))
    }

    /// Logical bytes of each chunk: the sum of its blocks' lengths. All chunks, parity too, have the same.
    pub fn chunk_bytes(&self, body_bytes: u64) -> u64 {
        self.full_stripes(body_bytes) * u64::from(self.block_bytes)
            + self.last_stripe(body_bytes).map_or(0, |last| u64::from(last.block_bytes))
    }

    /// Bytes each chunk takes on disk.
    pub fn chunk_disk_bytes(&self, body_bytes: u64) -> u64 {
        self.full_stripes(body_bytes) * u64::from(self.block_bytes)
            + self.last_stripe(body_bytes).map_or(0, |last| u64::from(last.block_disk_bytes()))
    }

    /// The stripes that a range of the body touches. Panics where the range leaves the body.
    pub fn stripes_of(&self, body_bytes: u64, range: &Range<u64>) -> Range<u32> {
        assert!(range.start <= range.end && range.end <= body_bytes, "{range:?} of {body_bytes} bytes");
        if range.is_empty() {
            return 0..0;
        }
        let stripe_bytes = u64::from(self.stripe_bytes());
        (range.start / stripe_bytes) as u32..((range.end - 1) / stripe_bytes) as u32 + 1
    }

    /// The pieces of the blocks that hold a range of the body, in body order, and no others. Panics where the range
    /// leaves the body.
    pub fn pieces(&self, body_bytes: u64, range: Range<u64>) -> impl Iterator<Item = Piece> + use<> {
        let layout = *self;
        self.stripes_of(body_bytes, &range)
            .filter_map(move |number| layout.stripe(body_bytes, number))
            .flat_map(move |stripe| layout.pieces_of(stripe, range.clone()))
    }

    /// The pieces of one stripe that hold a part of `range` (a range of the body).
    pub fn pieces_of(&self, stripe: StripeShape, range: Range<u64>) -> impl Iterator<Item = Piece> + use<> {
        let StripeShape { number, body_offset, body_bytes, block_bytes } = stripe;
        let start = range.start.max(body_offset);
        let end = range.end.min(body_offset + u64::from(body_bytes));
        let mut at = start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            // Within one stripe everything is below k * block_bytes and fits u32.
            let in_stripe = (at - body_offset) as u32;
            let (chunk, offset) = ((in_stripe / block_bytes) as u8, in_stripe % block_bytes);
            let len = u64::from(block_bytes - offset).min(end - at) as u32;
            let piece = Piece { stripe: number, chunk, offset, len, body_offset: at };
            at += u64::from(len);
            Some(piece)
        })
    }

    fn full_stripes(&self, body_bytes: u64) -> u64 {
        body_bytes / u64::from(self.stripe_bytes())
    }

    /// The stripe that is not full, if there is one.
    fn last_stripe(&self, body_bytes: u64) -> Option<StripeShape> {
        // Its number fits u32 wherever `stripes` accepts the body.
        self.stripe(body_bytes, self.stripes(body_bytes).checked_sub(1)?)
            .filter(|last| last.body_bytes < self.stripe_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn new_objects_get_about_a_mebibyte_a_stripe() {
        let table = [
            (1, 256 << 10),
            (2, 256 << 10),
            (4, 256 << 10),
            (6, 172032),
            (8, 128 << 10),
            (12, 86016),
            (16, 64 << 10),
        ];
        for (k, block_bytes) in table {
            assert_eq!(StripeLayout::for_data_chunks(k).block_bytes(), block_bytes, "k = {k}");
        }
    }

    #[test]
    fn stored_layouts_are_checked() {
        for (k, block_bytes) in [(0, 4096), (17, 4096), (4, 0), (4, 4097), (4, (256 << 10) + 4096)] {
            assert_eq!(StripeLayout::from_stored(k, block_bytes), None, "{k} x {block_bytes}");
        }
        for k in 1..=16 {
            let layout = StripeLayout::for_data_chunks(k);
            assert_eq!(StripeLayout::from_stored(k, layout.block_bytes()), Some(layout));
        }
    }

    #[test]
    fn bodies_are_cut_as_drawn() {
        let layout = StripeLayout::from_stored(4, 8192).unwrap();
        // (body, stripes, last stripe's body bytes, its block length, chunk bytes, chunk bytes on disk)
        let table = [
            (1, 1, 1, 64, 64, 4096),
            (64, 1, 64, 64, 64, 4096),
            (256, 1, 256, 64, 64, 4096),
            (257, 1, 257, 128, 128, 4096),
            (16384, 1, 16384, 4096, 4096, 4096),
            (16385, 1, 16385, 4160, 4160, 8192),
            (32767, 1, 32767, 8192, 8192, 8192),
            (32768, 1, 32768, 8192, 8192, 8192),
            (32769, 2, 1, 64, 8256, 12288),
            (3 * 32768 + 1000, 4, 1000, 256, 24832, 28672),
        ];
        for (body, stripes, last_body, last_block, chunk, disk) in table {
            assert_eq!(layout.stripes(body), stripes, "{body}");
            let last = layout.stripe(body, stripes - 1).unwrap();
            assert_eq!((last.body_bytes, last.block_bytes), (last_body, last_block), "{body}");
            assert_eq!((layout.chunk_bytes(body), layout.chunk_disk_bytes(body)), (chunk, disk), "{body}");
            assert_eq!(layout.stripe(body, stripes), None);
        }
        assert_eq!((layout.stripes(0), layout.chunk_bytes(0), layout.stripe(0, 0)), (0, 0, None));
    }

    #[test]
    fn a_short_stripe_ends_in_zeroes() {
        let layout = StripeLayout::from_stored(4, 8192).unwrap();
        let shape = layout.stripe(100, 0).unwrap();
        assert_eq!([0, 1, 2, 3].map(|chunk| shape.body_bytes_in(chunk)), [64, 36, 0, 0]);
    }

    #[test]
    fn a_range_touches_only_its_blocks() {
        let layout = StripeLayout::from_stored(2, 4096).unwrap();
        let body = 2 * 8192 + 200;
        let of = |range: Range<u64>| {
            let pieces = layout.pieces(body, range);
            pieces.map(|p| (p.stripe, p.chunk, p.offset, p.len)).collect::<Vec<_>>()
        };
        assert_eq!(of(0..0), []);
        assert_eq!(of(body..body), []);
        assert_eq!(of(0..1), [(0, 0, 0, 1)]);
        assert_eq!(of(4095..4097), [(0, 0, 4095, 1), (0, 1, 0, 1)]);
        assert_eq!(of(8191..8193), [(0, 1, 4095, 1), (1, 0, 0, 1)]);
        assert_eq!(of(16384..16584), [(2, 0, 0, 128), (2, 1, 0, 72)]);
        assert_eq!(of(16583..16584), [(2, 1, 71, 1)]);
    }

    fn layouts() -> impl Strategy<Value = StripeLayout> {
        (1u8..=16, 1u32..=64).prop_map(|(k, pages)| StripeLayout::from_stored(k, pages * 4096).unwrap())
    }

    proptest! {
        #[test]
        fn stripes_tile_the_body(layout in layouts(), body in 0u64..64 << 20) {
            let mut at = 0;
            let mut chunk_bytes = 0;
            let mut chunk_disk_bytes = 0;
            for (number, stripe) in layout.iter_stripes(body).enumerate() {
                prop_assert_eq!(stripe.number as usize, number);
                prop_assert_eq!(stripe.body_offset, at);
                prop_assert!(stripe.block_bytes <= layout.block_bytes() && stripe.block_bytes % 64 == 0);
                let held: u32 = (0..layout.k()).map(|chunk| stripe.body_bytes_in(chunk)).sum();
                prop_assert_eq!(held, stripe.body_bytes);
                at += u64::from(stripe.body_bytes);
                chunk_bytes += u64::from(stripe.block_bytes);
                chunk_disk_bytes += u64::from(stripe.block_disk_bytes());
            }
            prop_assert_eq!(at, body);
            prop_assert_eq!(layout.chunk_bytes(body), chunk_bytes);
            prop_assert_eq!(layout.chunk_disk_bytes(body), chunk_disk_bytes);
        }

        #[test]
        fn pieces_tile_the_range(layout in layouts(), body in 1u64..64 << 20, a: u64, b: u64) {
            let (a, b) = (a % (body + 1), b % (body + 1));
            let range = a.min(b)..a.max(b);
            let mut at = range.start;
            for piece in layout.pieces(body, range.clone()) {
                prop_assert_eq!(piece.body_offset, at);
                let stripe = layout.stripe(body, piece.stripe).unwrap();
                prop_assert!(piece.len > 0 && piece.offset + piece.len <= stripe.body_bytes_in(piece.chunk));
                let starts = stripe.body_offset + u64::from(piece.chunk) * u64::from(stripe.block_bytes);
                prop_assert_eq!(starts + u64::from(piece.offset), at);
                at += u64::from(piece.len);
            }
            prop_assert_eq!(at, range.end);
        }
    }
}
