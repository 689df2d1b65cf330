//! The bytes of a batch: what one write appends to a log segment.
//!
//! What must hold: a batch starts on a page, is a whole number of pages and lies in one segment. Its checksums bind
//! it to the disk, the segment's number, the page in it and the batch number, so that a batch of an earlier life
//! of the segment, of another disk or at another place is not a batch. The padding is covered.
//!
//! ```text
//! v1, little-endian, offsets in bytes
//!   0  magic            8  "BKTWAL\r\n"
//!   8  version          2  1
//!  10  kind             2  1 records, 2 checkpoint, 3 seal, 4 next
//!  12  record count     4
//!  16  segment number   8  counts up as segments are (re)used
//!  24  batch number     8  counts up by one, over all segments
//!  32  first lsn        8  of the first record; where there is none: of the next one to come
//!  40  data lsn         8  chunk data of all finish records up to here was durable when this was written
//!  48  page             4  of this batch in its segment
//!  52  payload bytes    4  after the header, without padding
//!  56  reserved         8  zero
//!  64  payload checksum 16 XXH3-128 of payload and padding, seeded with the place
//!  80  header checksum  16 XXH3-128 of bytes 0..80, seeded with the disk
//!  96  payload, padded with zeroes to a whole page
//! ```

use buckets_env::ALIGNMENT;
use buckets_ring::id::DiskUuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 96;
const MAGIC: [u8; 8] = *b"BKTWAL\r\n";
const VERSION: u16 = 1;

const AT_VERSION: usize = 8;
const AT_KIND: usize = AT_VERSION + 2;
const AT_COUNT: usize = AT_KIND + 2;
const AT_SEGMENT: usize = AT_COUNT + 4;
const AT_NUMBER: usize = AT_SEGMENT + 8;
const AT_FIRST_LSN: usize = AT_NUMBER + 8;
const AT_DATA_LSN: usize = AT_FIRST_LSN + 8;
const AT_PAGE: usize = AT_DATA_LSN + 8;
const AT_PAYLOAD_BYTES: usize = AT_PAGE + 4;
const AT_RESERVED: usize = AT_PAYLOAD_BYTES + 4;
const AT_PAYLOAD_SUM: usize = AT_RESERVED + 8;
const AT_HEADER_SUM: usize = AT_PAYLOAD_SUM + 16;
const _: () = assert!(AT_HEADER_SUM + 16 == HEADER_BYTES && HEADER_BYTES < ALIGNMENT);

/// What a batch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchKind {
    /// Records, each with the next log sequence number.
    Records,
    /// The state of all replicas; first in every segment.
    Checkpoint,
    /// Nothing: proves that the batch before was durable.
    Seal,
    /// The next segment has begun, durably: last in a segment.
    Next,
}

/// A header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) kind: BatchKind,
    pub(crate) record_count: u32,
    pub(crate) segment: u64,
    pub(crate) number: u64,
    pub(crate) first_lsn: u64,
    pub(crate) data_lsn: u64,
    pub(crate) page: u32,
    pub(crate) payload_bytes: u32,
}

impl BatchHeader {
    /// Bytes of the whole batch with header and padding.
    pub(crate) fn batch_bytes(&self) -> usize {
        batch_bytes(self.payload_bytes as usize)
    }

    /// Where the next batch's lsns begin.
    pub(crate) fn end_lsn(&self) -> u64 {
        self.first_lsn + u64::from(self.record_count)
    }
}

/// Bytes of a batch with this payload.
pub(crate) fn batch_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// The checksum seeds of one disk's log.
#[derive(Clone, Copy)]
pub(crate) struct BatchSeal {
    header_seed: u64,
    disk: [u8; 16],
}

impl BatchSeal {
    pub(crate) fn new(disk: DiskUuid) -> BatchSeal {
        let mut domain = [0u8; 24];
        domain[..8].copy_from_slice(&MAGIC);
        domain[8..].copy_from_slice(disk.as_bytes());
        BatchSeal { header_seed: xxh3_64(&domain), disk: *disk.as_bytes() }
    }

    /// Writes `header` over the first bytes of `batch` and both checksums; `batch` is a whole, padded batch.
    pub(crate) fn close(&self, header: &BatchHeader, batch: &mut [u8]) {
        assert_eq!(batch.len(), header.batch_bytes());
        let payload_sum = xxh3_128_with_seed(&batch[HEADER_BYTES..], self.payload_seed(header));
        batch[..8].copy_from_slice(&MAGIC);
        let kind: u16 = match header.kind {
            BatchKind::Records => 1,
            BatchKind::Checkpoint => 2,
            BatchKind::Seal => 3,
            BatchKind::Next => 4,
        };
        put(batch, AT_VERSION, &VERSION.to_le_bytes());
        put(batch, AT_KIND, &kind.to_le_bytes());
        put(batch, AT_COUNT, &header.record_count.to_le_bytes());
        put(batch, AT_SEGMENT, &header.segment.to_le_bytes());
        put(batch, AT_NUMBER, &header.number.to_le_bytes());
        put(batch, AT_FIRST_LSN, &header.first_lsn.to_le_bytes());
        put(batch, AT_DATA_LSN, &header.data_lsn.to_le_bytes());
        put(batch, AT_PAGE, &header.page.to_le_bytes());
        put(batch, AT_PAYLOAD_BYTES, &header.payload_bytes.to_le_bytes());
        put(batch, AT_RESERVED, &[0; 8]);
        put(batch, AT_PAYLOAD_SUM, &payload_sum.to_le_bytes());
        let header_sum = xxh3_128_with_seed(&batch[..AT_HEADER_SUM], self.header_seed);
        put(batch, AT_HEADER_SUM, &header_sum.to_le_bytes());
    }

    /// The header at the start of `page`, if there is a valid one.
    pub(crate) fn header(&self, page: &[u8]) -> Option<BatchHeader> {
        let bytes = page.get(..HEADER_BYTES)?;
        if bytes[..8] != MAGIC || u16_at(bytes, AT_VERSION) != VERSION {
            return None;
        }
        let sum = xxh3_128_with_seed(&bytes[..AT_HEADER_SUM], self.header_seed);
        if sum.to_le_bytes() != bytes[AT_HEADER_SUM..] {
            return None;
        }
        let kind = match u16_at(bytes, AT_KIND) {
            1 => BatchKind::Records,
            2 => BatchKind::Checkpoint,
            3 => BatchKind::Seal,
            4 => BatchKind::Next,
            _ => return None,
        };
        Some(BatchHeader {
            kind,
            record_count: u32_at(bytes, AT_COUNT),
            segment: u64_at(bytes, AT_SEGMENT),
            number: u64_at(bytes, AT_NUMBER),
            first_lsn: u64_at(bytes, AT_FIRST_LSN),
            data_lsn: u64_at(bytes, AT_DATA_LSN),
            page: u32_at(bytes, AT_PAGE),
            payload_bytes: u32_at(bytes, AT_PAYLOAD_BYTES),
        })
    }

    /// The payload of a whole batch whose header was verified, if it is undamaged.
    pub(crate) fn payload<'a>(&self, header: &BatchHeader, batch: &'a [u8]) -> Option<&'a [u8]> {
        let body = batch.get(HEADER_BYTES..header.batch_bytes())?;
        let sum = xxh3_128_with_seed(body, self.payload_seed(header));
        (sum.to_le_bytes() == batch[AT_PAYLOAD_SUM..AT_PAYLOAD_SUM + 16])
            .then(|| &body[..header.payload_bytes as usize])
    }

    fn payload_seed(&self, header: &BatchHeader) -> u64 {
        let mut place = [0u8; 36];
        place[..16].copy_from_slice(&self.disk);
        place[16..24].copy_from_slice(&header.segment.to_le_bytes());
        place[24..32].copy_from_slice(&header.number.to_le_bytes());
        place[32..].copy_from_slice(&header.page.to_le_bytes());
        xxh3_64(&place)
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0u8; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0u8; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (BatchSeal, BatchHeader, Vec<u8>) {
        let seal = BatchSeal::new(DiskUuid::from_bytes([7; 16]));
        let header = BatchHeader {
            kind: BatchKind::Records,
            record_count: 3,
            segment: 9,
            number: 77,
            first_lsn: 1000,
            data_lsn: 990,
            page: 12,
            payload_bytes: 5000,
        };
        let mut batch = vec![0u8; header.batch_bytes()];
        for (i, byte) in batch[HEADER_BYTES..HEADER_BYTES + 5000].iter_mut().enumerate() {
            *byte = i as u8;
        }
        seal.close(&header, &mut batch);
        (seal, header, batch)
    }

    #[test]
    fn a_closed_batch_reads_back() {
        let (seal, header, batch) = sample();
        assert_eq!(seal.header(&batch), Some(header));
        assert_eq!(seal.payload(&header, &batch), Some(&batch[HEADER_BYTES..HEADER_BYTES + 5000]));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (seal, header, mut batch) = sample();
        for bit in 0..batch.len() * 8 {
            batch[bit / 8] ^= 1 << (bit % 8);
            let valid =
                seal.header(&batch).is_some_and(|h| h == header && seal.payload(&h, &batch).is_some());
            assert!(!valid, "bit {bit}");
            batch[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn another_disk_or_place_is_not_a_batch() {
        let (seal, header, batch) = sample();
        assert_eq!(BatchSeal::new(DiskUuid::from_bytes([8; 16])).header(&batch), None);
        for other in [
            BatchHeader { segment: 10, ..header },
            BatchHeader { number: 78, ..header },
            BatchHeader { page: 13, ..header },
        ] {
            assert_eq!(seal.payload(&other, &batch), None);
        }
    }
}
