//! One chunk's place and checksums, and the rows of the chunk table that hold them.
//!
//! What must hold: rows are decoded only from bytes that the index verified; even so a row that contradicts itself is
//! refused, never trusted. The units of an entry's extents, one after the other, are the units of its blocks, in order;
//! each block is padded with zeroes to whole units, and its checksum covers its bytes without the padding.
//!
//! ```text
//! key    'C' | object id 16 | chunk number u8 | row u32 BE           value (little-endian):
//!        version u8 = 1 | checksum kind u8 | extents u16 | blocks of the chunk u32 | block bytes u32
//!        | last block bytes u32 | lsn of the finish record u64 | (first unit u64 | units u32)* | checksum*
//! key    'P' | object id 16 | chunk number u8                        value: the owner of a chunk that is not confirmed
//! key    'F' | page u32 BE                                           value: version u8 = 1 | u8 1: all used,
//!        2: bitmap follows | [bitmap 512, one bit a unit, 1 = used]; no row: all free
//! ```

use super::ChunkId;
use crate::limits::{BLOCK_BYTES_MAX, CHUNK_BLOCKS_MAX, ROW_BLOCKS_MAX, UNIT_BYTES};
use crate::wal::field::Fields;
use crate::wal::record::{checksum_code, checksum_kind};
use buckets_ring::format::BlockChecksum;
use buckets_ring::id::ObjectId;
use bytes::Bytes;

const ROW_VERSION: u8 = 1;
const CHUNK_PREFIX: u8 = b'C';
const PENDING_PREFIX: u8 = b'P';
const FREE_PREFIX: u8 = b'F';

/// A run of units, counted over all space files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) units: u32,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(u64::from(self.units))
    }
}

/// Where a whole chunk lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChunkEntry {
    pub(crate) kind: BlockChecksum,
    /// Bytes of every block but the last.
    pub(crate) block_bytes: u32,
    pub(crate) last_block_bytes: u32,
    pub(crate) blocks: u32,
    pub(crate) extents: Vec<Extent>,
    /// One after the other.
    pub(crate) checksums: Bytes,
}

/// Units of a block of `bytes`.
pub(crate) fn units_of(bytes: u32) -> u32 {
    bytes.div_ceil(UNIT_BYTES as u32)
}

impl ChunkEntry {
    /// True where no field contradicts another.
    pub(crate) fn is_consistent(&self) -> bool {
        let blocks_fit = (1..=CHUNK_BLOCKS_MAX).contains(&self.blocks)
            && (1..=BLOCK_BYTES_MAX as u32).contains(&self.block_bytes)
            && (1..=self.block_bytes).contains(&self.last_block_bytes)
            && (self.blocks > 1 || self.block_bytes == self.last_block_bytes);
        blocks_fit
            && self.extents.iter().all(|extent| extent.units > 0 && extent.end() < u64::MAX)
            && self.checksums.len() == self.blocks as usize * self.kind.bytes()
            && self.units() == self.extents.iter().map(|extent| u64::from(extent.units)).sum::<u64>()
    }

    /// Units of all blocks.
    pub(crate) fn units(&self) -> u64 {
        u64::from(self.blocks - 1) * u64::from(units_of(self.block_bytes))
            + u64::from(units_of(self.last_block_bytes))
    }

    /// Rows of the chunk table that this chunk takes.
    pub(crate) fn rows(&self) -> u32 {
        self.blocks.div_ceil(ROW_BLOCKS_MAX)
    }

    /// The part that describes blocks `number * 64` and following.
    pub(crate) fn row(&self, number: u32, lsn: u64) -> Row {
        assert!(number < self.rows());
        let first_block = number * ROW_BLOCKS_MAX;
        let row = Row {
            kind: self.kind,
            block_bytes: self.block_bytes,
            last_block_bytes: self.last_block_bytes,
            blocks: self.blocks,
            lsn,
            first_block,
            extents: Vec::new(),
            checksums: Bytes::new(),
        };
        let skip = u64::from(first_block) * u64::from(units_of(self.block_bytes));
        let extents = cut(&self.extents, skip, row.units());
        let sums = first_block as usize * self.kind.bytes()..row.end_block() as usize * self.kind.bytes();
        Row { extents, checksums: self.checksums.slice(sums), ..row }
    }
}

/// Up to 64 blocks of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kind: BlockChecksum,
    pub(crate) block_bytes: u32,
    pub(crate) last_block_bytes: u32,
    /// Of the whole chunk.
    pub(crate) blocks: u32,
    /// Of the record that finished the chunk.
    pub(crate) lsn: u64,
    pub(crate) first_block: u32,
    pub(crate) extents: Vec<Extent>,
    pub(crate) checksums: Bytes,
}

impl Row {
    /// The block after the row's last.
    pub(crate) fn end_block(&self) -> u32 {
        self.blocks.min(self.first_block + ROW_BLOCKS_MAX)
    }

    /// Real bytes of one block.
    pub(crate) fn bytes_of(&self, block: u32) -> u32 {
        if block + 1 == self.blocks { self.last_block_bytes } else { self.block_bytes }
    }

    /// Units of the blocks `first..end`, all in this row.
    pub(crate) fn units_between(&self, first: u32, end: u32) -> u64 {
        (first..end).map(|block| u64::from(units_of(self.bytes_of(block)))).sum()
    }

    fn units(&self) -> u64 {
        self.units_between(self.first_block, self.end_block())
    }

    /// Where the blocks `first..end` of this row lie.
    pub(crate) fn extents_of(&self, first: u32, end: u32) -> Vec<Extent> {
        assert!(self.first_block <= first && first < end && end <= self.end_block());
        cut(&self.extents, self.units_between(self.first_block, first), self.units_between(first, end))
    }

    /// The stored checksum of a block of this row.
    pub(crate) fn checksum(&self, block: u32) -> &[u8] {
        let at = (block - self.first_block) as usize * self.kind.bytes();
        &self.checksums[at..at + self.kind.bytes()]
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(24 + self.extents.len() * 12 + self.checksums.len());
        out.extend([ROW_VERSION, checksum_code(self.kind)]);
        out.extend((self.extents.len() as u16).to_le_bytes());
        for field in [self.blocks, self.block_bytes, self.last_block_bytes] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.lsn.to_le_bytes());
        for extent in &self.extents {
            out.extend(extent.start.to_le_bytes());
            out.extend(extent.units.to_le_bytes());
        }
        out.extend_from_slice(&self.checksums);
        Bytes::from(out)
    }

    /// Row `number` from a stored value; `None` where it contradicts itself.
    pub(crate) fn decode(number: u32, value: &Bytes) -> Option<Row> {
        let mut fields = Fields::new(value);
        if fields.u8()? != ROW_VERSION {
            return None;
        }
        let kind = checksum_kind(fields.u8()?)?;
        let extent_count = fields.u16()?;
        let (blocks, block_bytes, last_block_bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let lsn = fields.u64()?;
        let first_block = number.checked_mul(ROW_BLOCKS_MAX)?;
        if !(1..=CHUNK_BLOCKS_MAX).contains(&blocks)
            || first_block >= blocks
            || !(1..=BLOCK_BYTES_MAX as u32).contains(&block_bytes)
            || !(1..=block_bytes).contains(&last_block_bytes)
        {
            return None;
        }
        let mut extents = Vec::with_capacity(usize::from(extent_count));
        for _ in 0..extent_count {
            extents.push(Extent { start: fields.u64()?, units: fields.u32()? });
        }
        let mut row = Row {
            kind,
            block_bytes,
            last_block_bytes,
            blocks,
            lsn,
            first_block,
            extents,
            checksums: Bytes::new(),
        };
        let sums = (row.end_block() - first_block) as usize * kind.bytes();
        row.checksums = value.slice_ref(fields.bytes(sums)?);
        let stored: u64 = row.extents.iter().map(|extent| u64::from(extent.units)).sum();
        let bounded = row.extents.iter().all(|extent| extent.units > 0 && extent.end() < u64::MAX);
        (fields.is_empty() && stored == row.units() && bounded).then_some(row)
    }
}

/// The part of `extents` after the first `skip` units, `take` units long.
fn cut(extents: &[Extent], mut skip: u64, mut take: u64) -> Vec<Extent> {
    let mut parts = Vec::with_capacity(1);
    for extent in extents {
        let units = u64::from(extent.units);
        if skip >= units {
            skip -= units;
            continue;
        }
        if take == 0 {
            break;
        }
        let part = (units - skip).min(take);
        parts.push(Extent { start: extent.start + skip, units: part as u32 });
        skip = 0;
        take -= part;
    }
    parts
}

/// Key of one row of a chunk.
pub(crate) fn chunk_key(chunk: ChunkId, row: u32) -> Bytes {
    let mut key = Vec::with_capacity(22);
    key.push(CHUNK_PREFIX);
    key.extend_from_slice(chunk.object.as_bytes());
    key.push(chunk.number);
    key.extend(row.to_be_bytes());
    Bytes::from(key)
}

/// Chunk and row of a key; `None` for other rows of the table.
pub(crate) fn chunk_of_key(key: &[u8]) -> Option<(ChunkId, u32)> {
    let mut fields = Fields::new(key);
    if fields.u8()? != CHUNK_PREFIX {
        return None;
    }
    let chunk = ChunkId { object: ObjectId::from_bytes(fields.array()?), number: fields.u8()? };
    let row = u32::from_be_bytes(fields.array()?);
    fields.is_empty().then_some((chunk, row))
}

/// First key after all chunk rows.
pub(crate) fn chunk_keys_end() -> Bytes {
    Bytes::from_static(&[CHUNK_PREFIX + 1])
}

/// Key of the owner of an unconfirmed chunk.
pub(crate) fn pending_key(chunk: ChunkId) -> Bytes {
    let mut key = Vec::with_capacity(18);
    key.push(PENDING_PREFIX);
    key.extend_from_slice(chunk.object.as_bytes());
    key.push(chunk.number);
    Bytes::from(key)
}

/// The chunk of such a key.
pub(crate) fn chunk_of_pending_key(key: &[u8]) -> Option<ChunkId> {
    let mut fields = Fields::new(key);
    if fields.u8()? != PENDING_PREFIX {
        return None;
    }
    let chunk = ChunkId { object: ObjectId::from_bytes(fields.array()?), number: fields.u8()? };
    fields.is_empty().then_some(chunk)
}

/// Bounds of all pending keys.
pub(crate) fn pending_keys() -> (Bytes, Bytes) {
    (Bytes::from_static(&[PENDING_PREFIX]), Bytes::from_static(&[PENDING_PREFIX + 1]))
}

/// Key of one page of the free map.
pub(crate) fn free_key(page: u32) -> Bytes {
    let mut key = vec![FREE_PREFIX];
    key.extend(page.to_be_bytes());
    Bytes::from(key)
}

/// The page of such a key.
pub(crate) fn page_of_free_key(key: &[u8]) -> Option<u32> {
    let mut fields = Fields::new(key);
    if fields.u8()? != FREE_PREFIX {
        return None;
    }
    let page = u32::from_be_bytes(fields.array()?);
    fields.is_empty().then_some(page)
}

/// Bounds of all pages of the free map.
pub(crate) fn free_keys() -> (Bytes, Bytes) {
    (Bytes::from_static(&[FREE_PREFIX]), Bytes::from_static(&[FREE_PREFIX + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(blocks: u32) -> ChunkEntry {
        // Blocks of three units, the last of one; extents of seven units, each apart from the last.
        let units = u64::from(blocks - 1) * 3 + 1;
        let mut extents = Vec::new();
        let mut left = units;
        while left > 0 {
            let take = left.min(7);
            extents.push(Extent { start: extents.len() as u64 * 10, units: take as u32 });
            left -= take;
        }
        let sums: Vec<u8> = (0..blocks * 16).map(|i| i as u8).collect();
        let kind = BlockChecksum::Xxh3;
        let entry = ChunkEntry {
            kind,
            block_bytes: 12_000,
            last_block_bytes: 5,
            blocks,
            extents,
            checksums: Bytes::from(sums),
        };
        assert!(entry.is_consistent());
        entry
    }

    #[test]
    fn rows_read_back_and_cover_every_block_once() {
        let entry = entry(150);
        let mut extents = Vec::new();
        let mut sums = Vec::new();
        for number in 0..entry.rows() {
            let row = entry.row(number, 9);
            assert_eq!(Row::decode(number, &row.encode()), Some(row.clone()));
            for block in row.first_block..row.end_block() {
                extents.extend(row.extents_of(block, block + 1));
                sums.extend_from_slice(row.checksum(block));
            }
        }
        let unit = |list: &[Extent]| -> Vec<u64> { list.iter().flat_map(|e| e.start..e.end()).collect() };
        assert_eq!(unit(&extents), unit(&entry.extents));
        assert_eq!(sums, entry.checksums);
    }

    #[test]
    fn rows_that_contradict_themselves_are_refused() {
        let value = entry(10).row(0, 9).encode();
        assert_eq!(Row::decode(1, &value), None);
        for end in 0..value.len() {
            assert_eq!(Row::decode(0, &value.slice(..end)), None, "cut at {end}");
        }
        for at in [0, 1, 2, 4, 10, 14, 32] {
            let mut wrong = value.to_vec();
            wrong[at] ^= 0x81;
            assert_eq!(Row::decode(0, &Bytes::from(wrong)), None, "byte {at}");
        }
    }

    #[test]
    fn keys_sort_by_object_number_row() {
        let id = |object: u8, number| ChunkId { object: ObjectId::from_bytes([object; 16]), number };
        let keys = [
            chunk_key(id(1, 0), 0),
            chunk_key(id(1, 0), 256),
            chunk_key(id(1, 1), 0),
            chunk_key(id(2, 0), 0),
        ];
        assert!(keys.is_sorted() && keys[3] < chunk_keys_end());
        assert_eq!(chunk_of_key(&keys[1]), Some((id(1, 0), 256)));
        assert_eq!(chunk_of_pending_key(&pending_key(id(3, 4))), Some(id(3, 4)));
        assert_eq!(page_of_free_key(&free_key(70_000)), Some(70_000));
        assert_eq!(chunk_of_key(&free_key(1)), None);
    }
}
