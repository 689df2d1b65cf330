//! The block: the unit of reading, checking and caching.
//!
//! What must hold:
//! - A [`Block`] exists only after its checksum was verified for its file and page; raw bytes are never searched.
//! - Blocks are whole pages; the checksum covers every byte after itself, padding included.
//! - Even a verified block is parsed with bounds checks: what does not parse is [`Malformed`], never a panic.
//! - A look-up touches few cache lines: the restart points carry the head of their key (the eight bytes after what
//!   all keys of the block share), so that the binary search runs over one small array, not over the entries.
//!
//! Drawn in docs/formats/index.md.

use crate::checksum::FileSeed;
use crate::limits::PAGE_BYTES;
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Range;
use std::rc::Rc;

/// Bytes before the payload: checksum, pages, payload bytes, restarts, kind, version, length of the shared prefix.
pub(crate) const HEADER_BYTES: usize = 32;
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8;
const RESTART_BYTES: usize = HEAD_BYTES + 4;
/// A restart point comes after so many bytes of entries, if not before.
const RESTART_SPAN_BYTES: usize = 1024;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    Data = 1,
    Index = 2,
    Filter = 3,
    Tail = 4,
    Root = 5,
}

/// The bytes parse as no block of this version, though their checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What [`Malformed`] is called in an error.
pub(crate) const MALFORMED: &str = "the block does not parse";

/// Where a block is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) page: u32,
    pub(crate) pages: u32,
}

impl Place {
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.page) * PAGE_BYTES as u64
    }
    pub(crate) fn bytes(self) -> usize {
        self.pages as usize * PAGE_BYTES
    }
}

/// Fills in the header of `bytes` (whose first [`HEADER_BYTES`] are reserved; the length of the shared prefix is already
/// there) and pads it to whole pages.
pub(crate) fn seal(bytes: &mut Vec<u8>, restarts: u32, kind: BlockKind, seed: FileSeed, page: u32) -> Place {
    let payload = u32_of(bytes.len() - HEADER_BYTES);
    let padding = bytes.len().next_multiple_of(PAGE_BYTES) - bytes.len();
    bytes.extend_from_slice(&[0; PAGE_BYTES][..padding]);
    let pages = u32_of(bytes.len() / PAGE_BYTES);
    bytes[16..20].copy_from_slice(&pages.to_le_bytes());
    bytes[20..24].copy_from_slice(&payload.to_le_bytes());
    bytes[24..28].copy_from_slice(&restarts.to_le_bytes());
    bytes[28] = kind as u8;
    bytes[29] = VERSION;
    let checksum = seed.checksum(page, &bytes[16..]);
    bytes[..16].copy_from_slice(&checksum);
    Place { page, pages }
}

fn u32_of(value: usize) -> u32 {
    match u32::try_from(value) {
        Ok(value) => value,
        Err(_) => unreachable!("block sizes are bounded far below 4 GiB"),
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The number of pages that unverified bytes claim to have: a hint for how much to read, nothing more.
pub(crate) fn claimed_pages(first_page: &[u8]) -> Option<u32> {
    u32_at(first_page, 16)
}

/// The eight bytes of a key behind the shared prefix, as a number that sorts like them; shorter keys end in zeroes.
#[inline]
fn head_of(rest: &[u8]) -> u64 {
    let mut head = [0u8; HEAD_BYTES];
    let len = rest.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&rest[..len]);
    u64::from_be_bytes(head)
}

/// A verified block.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    entries_end: usize,
    restarts: usize,
    /// What all keys begin with.
    prefix: Range<usize>,
}

impl Block {
    /// Checks `bytes`, read from `page` of the file with `seed`.
    pub(crate) fn verify(
        bytes: Bytes,
        kind: BlockKind,
        seed: FileSeed,
        page: u32,
    ) -> Result<Block, &'static str> {
        if bytes.len() < PAGE_BYTES || !bytes.len().is_multiple_of(PAGE_BYTES) {
            return Err("the block is not whole pages");
        }
        if bytes[..16] != seed.checksum(page, &bytes[16..]) {
            return Err("the checksum is wrong");
        }
        let pages = u32_at(&bytes, 16).unwrap_or(0) as usize;
        let payload = u32_at(&bytes, 20).unwrap_or(u32::MAX) as usize;
        let restarts = u32_at(&bytes, 24).unwrap_or(u32::MAX) as usize;
        if pages * PAGE_BYTES != bytes.len() || bytes[29] != VERSION {
            return Err("the block has an unknown version or another size");
        }
        if bytes[28] != kind as u8 {
            return Err("the block is of another kind");
        }
        let end = HEADER_BYTES + payload;
        let restart_bytes = restarts.saturating_mul(RESTART_BYTES);
        if end > bytes.len() || restart_bytes > payload {
            return Err(MALFORMED);
        }
        let entries_end = end - restart_bytes;
        let prefix_bytes = usize::from(u16::from_le_bytes([bytes[30], bytes[31]]));
        let mut prefix = 0..0;
        if prefix_bytes > 0 {
            let first = Entry::parse(&bytes, HEADER_BYTES, entries_end).map_err(|Malformed| MALFORMED)?;
            if first.shared != 0 || first.suffix.len() < prefix_bytes {
                return Err(MALFORMED);
            }
            prefix = first.suffix.start..first.suffix.start + prefix_bytes;
        }
        Ok(Block { entries_end, restarts, prefix, bytes })
    }

    /// Everything between header and restart points.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.entries_end]
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    /// Heads of all restart points come first, then their offsets.
    fn restart(&self, number: usize) -> Result<usize, Malformed> {
        let offsets = self.entries_end + self.restarts * HEAD_BYTES;
        let at = u32_at(&self.bytes, offsets + number * 4).ok_or(Malformed)? as usize;
        if at < HEADER_BYTES || at >= self.entries_end {
            return Err(Malformed);
        }
        Ok(at)
    }

    fn restart_key(&self, number: usize) -> Result<&[u8], Malformed> {
        let entry = Entry::parse(&self.bytes, self.restart(number)?, self.entries_end)?;
        if entry.shared != 0 {
            return Err(Malformed);
        }
        Ok(&self.bytes[entry.suffix])
    }

    /// The last restart point whose key is at or before `target`, and how its key compares.
    fn restart_before(&self, target: &[u8]) -> Result<Option<(usize, Ordering)>, Malformed> {
        let prefix = &self.bytes[self.prefix.clone()];
        let start = target.len().min(prefix.len());
        match target[..start].cmp(prefix) {
            Ordering::Less => return Ok(None),
            Ordering::Greater => return Ok(self.restarts.checked_sub(1).map(|last| (last, Ordering::Less))),
            Ordering::Equal => {}
        }
        let heads = &self.bytes[self.entries_end..self.entries_end + self.restarts * HEAD_BYTES];
        let (heads, _) = heads.as_chunks::<HEAD_BYTES>();
        let wanted = head_of(&target[start..]);
        let mut low = heads.partition_point(|head| u64::from_be_bytes(*head) < wanted);
        // Keys with the same head are told apart by the keys themselves.
        let same = heads[low..].iter().take_while(|head| u64::from_be_bytes(**head) == wanted).count();
        let mut high = low + same;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.restart_key(middle)?.cmp(target) {
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some((middle, Ordering::Equal))),
                Ordering::Less => low = middle + 1,
            }
        }
        Ok(low.checked_sub(1).map(|before| (before, Ordering::Less)))
    }

    /// The first entry at or after `target`: its value, and whether its key equals `target`.
    pub(crate) fn lower_bound(&self, target: &[u8]) -> Result<Option<Found>, Malformed> {
        let found = self.entry_at_or_after(target)?;
        Ok(found.map(|(entry, exact)| Found { exact, value: entry.value }))
    }

    /// The first entry at or after `target`, and whether its key equals `target`. Builds no keys: the entry's shared
    /// bytes are the first of `target`.
    fn entry_at_or_after(&self, target: &[u8]) -> Result<Option<(Entry, bool)>, Malformed> {
        let (mut at, group_end) = match self.restart_before(target)? {
            None if self.restarts == 0 => return Ok(None),
            None => (self.restart(0)?, HEADER_BYTES),
            Some((number, Ordering::Equal)) => {
                let entry = Entry::parse(&self.bytes, self.restart(number)?, self.entries_end)?;
                return Ok(Some((entry, true)));
            }
            Some((number, _)) => {
                let next = number + 1;
                let end = if next < self.restarts { self.restart(next)? } else { self.entries_end };
                (self.restart(number)?, end)
            }
        };
        // Every key from here to `group_end` shares `matched` bytes or fewer with the target, and all before
        // `at` are smaller; the entry at `group_end` (the next restart point) is known to be greater.
        let mut matched = 0;
        while at < self.entries_end {
            let entry = Entry::parse(&self.bytes, at, self.entries_end)?;
            if at >= group_end || entry.shared < matched {
                return if entry.shared <= matched { Ok(Some((entry, false))) } else { Err(Malformed) };
            }
            if entry.shared == matched {
                let suffix = &self.bytes[entry.suffix.clone()];
                let rest = target.get(matched..).ok_or(Malformed)?;
                let common = common_prefix(suffix, rest);
                match (suffix.get(common), rest.get(common)) {
                    (None, None) => return Ok(Some((entry, true))),
                    (Some(_), None) => return Ok(Some((entry, false))),
                    (Some(a), Some(b)) if a > b => return Ok(Some((entry, false))),
                    _ => matched += common,
                }
            }
            at = entry.end;
        }
        Ok(None)
    }
}

/// An entry found by [`Block::lower_bound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The entry's key is the key looked for.
    pub(crate) exact: bool,
    /// Where the value is in the block; `None` is a tombstone.
    pub(crate) value: Option<Range<usize>>,
}

struct Entry {
    shared: usize,
    suffix: Range<usize>,
    value: Option<Range<usize>>,
    end: usize,
}

impl Entry {
    #[inline]
    fn parse(bytes: &[u8], at: usize, end: usize) -> Result<Entry, Malformed> {
        let (shared, at) = read_varint(bytes, at)?;
        let (unshared, at) = read_varint(bytes, at)?;
        let (tag, at) = read_varint(bytes, at)?;
        let value_at = at + unshared;
        let entry_end = value_at + tag.saturating_sub(1);
        if entry_end > end {
            return Err(Malformed);
        }
        let value = (tag > 0).then_some(value_at..entry_end);
        Ok(Entry { shared, suffix: at..value_at, value, end: entry_end })
    }
}

#[inline]
fn read_varint(bytes: &[u8], at: usize) -> Result<(usize, usize), Malformed> {
    let first = *bytes.get(at).ok_or(Malformed)?;
    if first < 0x80 {
        return Ok((usize::from(first), at + 1));
    }
    let mut value = usize::from(first & 0x7f);
    for (index, shift) in (1..5).zip([7u32, 14, 21, 28]) {
        let byte = *bytes.get(at + index).ok_or(Malformed)?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value, at + index + 1));
        }
    }
    Err(Malformed)
}

fn write_varint(out: &mut Vec<u8>, value: usize) {
    let mut value = u32_of(value);
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes `a` and `b` have in common at their start.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let mut at = 0;
    while at + 8 <= len {
        let mut left = [0u8; 8];
        let mut right = [0u8; 8];
        left.copy_from_slice(&a[at..at + 8]);
        right.copy_from_slice(&b[at..at + 8]);
        let differing = u64::from_le_bytes(left) ^ u64::from_le_bytes(right);
        if differing != 0 {
            return at + (differing.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < len && a[at] == b[at] {
        at += 1;
    }
    at
}

/// Collects sorted entries into the payload of a block.
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
    since_restart: usize,
    restart_interval: usize,
}

impl BlockBuilder {
    pub(crate) fn new(restart_interval: usize) -> BlockBuilder {
        BlockBuilder {
            bytes: vec![0; HEADER_BYTES],
            restarts: Vec::new(),
            last_key: Vec::new(),
            since_restart: 0,
            restart_interval,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.restarts.is_empty()
    }

    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// An upper bound of the block's bytes with one more entry.
    pub(crate) fn bytes_with(&self, key: &[u8], value: Option<&[u8]>) -> usize {
        self.bytes.len()
            + (self.restarts.len() + 1) * RESTART_BYTES
            + 15
            + key.len()
            + value.map_or(0, <[u8]>::len)
    }

    /// Adds an entry; keys come in strictly ascending order.
    pub(crate) fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        debug_assert!(self.is_empty() || self.last_key.as_slice() < key);
        let group_bytes = self.restarts.last().map_or(0, |&restart| self.bytes.len() - restart as usize);
        let group_ended = self.since_restart == self.restart_interval || group_bytes >= RESTART_SPAN_BYTES;
        let shared = if self.is_empty() || group_ended {
            self.restarts.push(u32_of(self.bytes.len()));
            self.since_restart = 0;
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        self.since_restart += 1;
        write_varint(&mut self.bytes, shared);
        write_varint(&mut self.bytes, key.len() - shared);
        write_varint(&mut self.bytes, value.map_or(0, |value| value.len() + 1));
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
    }

    /// Ends the block: the unsealed bytes (header reserved) and the number of restart points. The builder is
    /// empty afterwards and keeps its memory only through [`BlockBuilder::recycle`].
    pub(crate) fn take(&mut self) -> (Vec<u8>, u32) {
        let entries_end = self.bytes.len();
        let key_at = |bytes: &[u8], at: u32| match Entry::parse(bytes, at as usize, entries_end) {
            Ok(entry) => entry.suffix,
            Err(Malformed) => unreachable!("the builder wrote it"),
        };
        let first = self.restarts.first().map_or(0..0, |&first| key_at(&self.bytes, first));
        let prefix = common_prefix(&self.bytes[first], &self.last_key);
        for &restart in &self.restarts {
            let key = key_at(&self.bytes, restart);
            let head = head_of(&self.bytes[key.start + prefix..key.end]);
            self.bytes.extend_from_slice(&head.to_be_bytes());
        }
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        self.bytes[30..32].copy_from_slice(&(prefix as u16).to_le_bytes());
        let restarts = u32_of(self.restarts.len());
        self.restarts.clear();
        self.last_key.clear();
        self.since_restart = 0;
        (std::mem::replace(&mut self.bytes, vec![0; HEADER_BYTES]), restarts)
    }

    /// Gives the memory of an ended block back for the next one.
    pub(crate) fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.is_empty() {
            bytes.truncate(HEADER_BYTES);
            self.bytes = bytes;
        }
    }
}

/// Walks a block in key order.
pub(crate) struct BlockIter {
    block: Rc<Block>,
    next: usize,
    key: Vec<u8>,
    value: Option<Range<usize>>,
}

impl BlockIter {
    /// Before the first entry.
    pub(crate) fn new(block: Rc<Block>) -> BlockIter {
        BlockIter { block, next: HEADER_BYTES, key: Vec::new(), value: None }
    }

    /// Before the first entry of another block, keeping the key's memory.
    pub(crate) fn restart(&mut self, block: Rc<Block>) {
        self.block = block;
        self.next = HEADER_BYTES;
        self.key.clear();
        self.value = None;
    }

    /// Moves to the next entry; false at the end.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<bool, Malformed> {
        if self.next >= self.block.entries_end {
            return Ok(false);
        }
        let entry = Entry::parse(&self.block.bytes, self.next, self.block.entries_end)?;
        if entry.shared > self.key.len() {
            return Err(Malformed);
        }
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(&self.block.bytes[entry.suffix]);
        self.value = entry.value;
        self.next = entry.end;
        Ok(true)
    }

    /// Moves to the first entry at or after `target`; false where there is none.
    pub(crate) fn seek(&mut self, target: &[u8]) -> Result<bool, Malformed> {
        let Some((entry, _)) = self.block.entry_at_or_after(target)? else {
            self.next = self.block.entries_end;
            return Ok(false);
        };
        self.key.clear();
        self.key.extend_from_slice(target.get(..entry.shared).ok_or(Malformed)?);
        self.key.extend_from_slice(&self.block.bytes[entry.suffix]);
        self.value = entry.value;
        self.next = entry.end;
        Ok(true)
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The current value's place in the block; `None` is a tombstone.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.block.bytes[range])
    }

    /// The current value, sharing the block's memory.
    pub(crate) fn value_bytes(&self) -> Option<Bytes> {
        self.value.clone().map(|range| self.block.bytes.slice(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn seed() -> FileSeed {
        FileSeed::table(&[3; 16], 7, 9)
    }

    fn built(rows: &BTreeMap<Vec<u8>, Option<Vec<u8>>>, interval: usize) -> Block {
        let mut builder = BlockBuilder::new(interval);
        for (key, value) in rows {
            builder.add(key, value.as_deref());
        }
        let (mut bytes, restarts) = builder.take();
        seal(&mut bytes, restarts, BlockKind::Data, seed(), 5);
        Block::verify(Bytes::from(bytes), BlockKind::Data, seed(), 5).unwrap()
    }

    /// Few different bytes, each `stretch` times: short and long keys, and many whose heads are the same.
    fn rows(count: usize, stretch: usize) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let mut state = 12345u64;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let len = (state >> 60) as usize % 6;
                let symbols = (0..len).map(|i| ((state >> (i * 3 + 8)) & 3) as u8);
                let key: Vec<u8> = symbols.flat_map(|symbol| vec![symbol; stretch]).collect();
                let value =
                    ((state >> 40) & 7 != 0).then(|| vec![(state >> 33) as u8; (state >> 50) as usize % 40]);
                (key, value)
            })
            .collect()
    }

    #[test]
    fn every_key_is_found_and_every_gap_leads_to_the_next() {
        for interval in [1, 2, 3, 16] {
            for (count, stretch) in [(0, 1), (1, 1), (2, 1), (17, 1), (300, 1), (300, 3), (300, 9)] {
                check_look_ups(&rows(count, stretch), interval);
            }
        }
        let long_prefix =
            rows(300, 2).into_iter().map(|(key, value)| ([vec![7; 50], key].concat(), value)).collect();
        check_look_ups(&long_prefix, 4);
    }

    fn check_look_ups(rows: &BTreeMap<Vec<u8>, Option<Vec<u8>>>, interval: usize) {
        let block = Rc::new(built(rows, interval));
        let mut targets: Vec<Vec<u8>> = rows.keys().cloned().collect();
        for key in rows.keys() {
            targets.extend([0u8, 1, 2, 9].map(|last| [key.as_slice(), &[last]].concat()));
            targets.push(key[..key.len() / 2].to_vec());
        }
        targets.extend([vec![], vec![7; 20], vec![6; 60], vec![8; 60], vec![255]]);
        for target in targets {
            let expected = rows.range(target.clone()..).next();
            let found = block.lower_bound(&target).unwrap();
            let mut iter = BlockIter::new(block.clone());
            let sought = iter.seek(&target).unwrap();
            assert_eq!(sought, expected.is_some());
            match expected {
                None => assert_eq!(found, None),
                Some((key, value)) => {
                    let found = found.unwrap();
                    assert_eq!(found.exact, *key == target);
                    assert_eq!(found.value.map(|range| block.slice(range).to_vec()), *value);
                    assert_eq!(iter.key(), key.as_slice());
                    assert_eq!(iter.value(), value.as_deref());
                }
            }
        }
        let mut iter = BlockIter::new(block);
        let mut seen = BTreeMap::new();
        while iter.advance().unwrap() {
            seen.insert(iter.key().to_vec(), iter.value_bytes().map(|value| value.to_vec()));
        }
        assert_eq!(seen, *rows);
    }

    #[test]
    fn a_block_verifies_only_unchanged_and_in_its_place() {
        let mut builder = BlockBuilder::new(16);
        builder.add(b"key", Some(b"value"));
        let (mut bytes, restarts) = builder.take();
        seal(&mut bytes, restarts, BlockKind::Data, seed(), 5);
        let verify = |bytes: &[u8], kind, seed, page| {
            Block::verify(Bytes::copy_from_slice(bytes), kind, seed, page).is_ok()
        };
        assert!(verify(&bytes, BlockKind::Data, seed(), 5));
        assert!(!verify(&bytes, BlockKind::Data, seed(), 6));
        assert!(!verify(&bytes, BlockKind::Index, seed(), 5));
        assert!(!verify(&bytes, BlockKind::Data, FileSeed::table(&[3; 16], 8, 9), 5));
        assert!(!verify(&bytes, BlockKind::Data, FileSeed::table(&[4; 16], 7, 9), 5));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(!verify(&damaged, BlockKind::Data, seed(), 5), "byte {at}");
        }
    }

    #[test]
    fn verified_nonsense_is_malformed_and_never_a_panic() {
        let mut state = 99u64;
        let mut parsed = 0;
        for _ in 0..20_000 {
            let mut bytes = vec![0; HEADER_BYTES];
            for _ in 0..60 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                bytes.push(if state >> 63 == 0 { (state >> 58) as u8 } else { (state >> 40) as u8 });
            }
            bytes[30] = ((state >> 33) as u8 % 8).saturating_sub(4);
            seal(&mut bytes, (state >> 20) as u32 % 5, BlockKind::Data, seed(), 0);
            let Ok(block) = Block::verify(Bytes::from(bytes), BlockKind::Data, seed(), 0) else { continue };
            parsed += 1;
            let block = Rc::new(block);
            let _ = block.lower_bound(b"abc");
            let mut iter = BlockIter::new(block);
            let _ = iter.seek(b"abc");
            while iter.advance() == Ok(true) {
                let _ = iter.value();
            }
        }
        assert!(parsed > 10_000);
    }
}
