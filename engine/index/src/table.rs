//! Reads one sorted table.
//!
//! What must hold: every byte that an answer rests on was verified (tail at open, index, filter and data blocks
//! when they are read into the cache); what does not verify is [`IndexError::Corrupt`], never another answer.
//! In memory a table has its tail only: one key and two places for each partition (about 20,000 rows).

use crate::block::{Block, BlockKind, MALFORMED, Malformed, Place, u32_at, u64_at};
use crate::cache::{BlockCache, CacheKey};
use crate::checksum::FileSeed;
use crate::cursor::RunCursor;
use crate::error::IndexError;
use crate::filter;
use crate::limits::{IO_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES, TAIL_PAGES_MAX};
use crate::root::TableEntry;
use crate::table_name;
use crate::table_writer::TAIL_MAGIC;
use buckets_env::{AlignedBuf, Env, File, OpenMode};
use bytes::Bytes;
use std::path::Path;
use std::rc::Rc;

/// A range of a table with one index block and one filter block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) last_key: Box<[u8]>,
    pub(crate) index: Place,
    filter: Place,
}

/// The verified tail of a table.
#[derive(Debug, PartialEq, Eq)]
struct Tail {
    entries: u64,
    tombstones: u64,
    data_pages: u32,
    first_key: Box<[u8]>,
    last_key: Box<[u8]>,
    partitions: Vec<Partition>,
}

/// An open table. Immutable.
pub(crate) struct Table {
    entry: TableEntry,
    name: String,
    file: File,
    seed: FileSeed,
    cache: BlockCache,
    cache_number: u32,
    tail: Tail,
}

impl Table {
    /// Opens the table that the root describes by `entry` and checks its size and tail.
    pub(crate) async fn open(
        env: &Env,
        dir: &Path,
        identity: &[u8; 16],
        entry: TableEntry,
        cache: &BlockCache,
    ) -> Result<Table, IndexError> {
        let name = table_name::of(entry.number);
        let opened = env.open(&dir.join(&name), OpenMode::Existing).await;
        let file = opened.map_err(|error| IndexError::read(&name, 0, error))?;
        let size = file.size().await.map_err(|error| IndexError::io(&name, "size", error))?;
        if size != u64::from(entry.pages) * PAGE_BYTES as u64 {
            return Err(IndexError::corrupt(&name, size, "the file has another size than was written"));
        }
        let seed = FileSeed::table(identity, entry.number, entry.salt);
        if entry.tail_pages == 0
            || entry.tail_pages >= entry.pages
            || entry.tail_pages as usize > TAIL_PAGES_MAX
        {
            return Err(IndexError::corrupt(&name, 0, "the tail's size is impossible"));
        }
        let place = Place { page: entry.pages - entry.tail_pages, pages: entry.tail_pages };
        let block = read_block(&file, &name, place, BlockKind::Tail, seed).await?;
        let tail = Tail::parse(block.payload(), identity, &entry)
            .ok_or_else(|| IndexError::corrupt(&name, place.offset(), MALFORMED))?;
        let cache_number = cache.number_table();
        Ok(Table { entry, name, file, seed, cache: cache.clone(), cache_number, tail })
    }

    pub(crate) fn entry(&self) -> TableEntry {
        self.entry
    }
    pub(crate) fn number(&self) -> u64 {
        self.entry.number
    }
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.entry.pages) * PAGE_BYTES as u64
    }
    pub(crate) fn entries(&self) -> u64 {
        self.tail.entries
    }
    pub(crate) fn tombstones(&self) -> u64 {
        self.tail.tombstones
    }
    pub(crate) fn data_pages(&self) -> u32 {
        self.tail.data_pages
    }
    pub(crate) fn first_key(&self) -> &[u8] {
        &self.tail.first_key
    }
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.tail.last_key
    }
    pub(crate) fn partitions(&self) -> &[Partition] {
        &self.tail.partitions
    }
    /// True where a row of `first..=last` may be in this table.
    pub(crate) fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        self.first_key() <= last && first <= self.last_key()
    }

    /// The first partition that may hold `key` or a later key.
    pub(crate) fn partition_at(&self, key: &[u8]) -> usize {
        self.tail.partitions.partition_point(|partition| &*partition.last_key < key)
    }

    /// What this table says of `key`: a value, a deletion, or nothing.
    pub(crate) async fn get(&self, key: &[u8], hash: u64) -> Result<Option<Option<Bytes>>, IndexError> {
        let Some(partition) = self.tail.partitions.get(self.partition_at(key)) else { return Ok(None) };
        let filter = self.block(partition.filter, BlockKind::Filter).await?;
        if !filter::may_contain(filter.payload(), hash) {
            return Ok(None);
        }
        let index = self.block(partition.index, BlockKind::Index).await?;
        let found = index.lower_bound(key).map_err(|malformed| self.malformed(partition.index, malformed))?;
        let Some(found) = found else { return Ok(None) };
        let place =
            self.data_place(found.value.map(|range| index.slice(range)).as_deref(), partition.index)?;
        let data = self.block(place, BlockKind::Data).await?;
        let found = data.lower_bound(key).map_err(|malformed| self.malformed(place, malformed))?;
        Ok(found.filter(|found| found.exact).map(|found| found.value.map(|range| owned(&data, range))))
    }

    /// Reads the place of a data block out of an index block's value.
    pub(crate) fn data_place(&self, value: Option<&[u8]>, index: Place) -> Result<Place, IndexError> {
        let parse = |value: &[u8]| Some(Place { page: u32_at(value, 0)?, pages: u32_at(value, 4)? });
        value
            .and_then(parse)
            .filter(|place| within(*place, self.tail.data_pages))
            .ok_or_else(|| self.malformed(index, Malformed))
    }

    pub(crate) fn malformed(&self, place: Place, _: Malformed) -> IndexError {
        self.damage(place, MALFORMED)
    }

    pub(crate) fn damage(&self, place: Place, what: &'static str) -> IndexError {
        IndexError::corrupt(&self.name, place.offset(), what)
    }

    /// A block out of the cache, without reading.
    pub(crate) fn cached(&self, place: Place) -> Option<Rc<Block>> {
        self.cache.lookup(CacheKey::new(self.cache_number, place.page))
    }

    /// A block through the cache.
    pub(crate) async fn block(&self, place: Place, kind: BlockKind) -> Result<Rc<Block>, IndexError> {
        let key = CacheKey::new(self.cache_number, place.page);
        if let Some(block) = self.cache.lookup(key) {
            return Ok(block);
        }
        self.cache.get_or_read(key, || read_block(&self.file, &self.name, place, kind, self.seed)).await
    }

    /// Checks bytes read by [`Table::read_pages`] as a data block.
    pub(crate) fn verify_data(&self, bytes: Bytes, page: u32) -> Result<Block, IndexError> {
        Block::verify(bytes, BlockKind::Data, self.seed, page)
            .map_err(|what| self.damage(Place { page, pages: 1 }, what))
    }

    /// Checks a data block read by [`Table::read_pages`] and puts a copy of it into the cache (the bytes may be a part of
    /// a larger read, which must not stay in memory for them).
    pub(crate) fn insert_data(&self, place: Place, bytes: &Bytes) -> Result<Rc<Block>, IndexError> {
        let block = Rc::new(self.verify_data(Bytes::copy_from_slice(bytes), place.page)?);
        self.cache.insert(CacheKey::new(self.cache_number, place.page), block.clone());
        Ok(block)
    }

    /// Unverified pages, past the cache: for readers that walk a whole table.
    pub(crate) async fn read_pages(&self, place: Place) -> Result<Bytes, IndexError> {
        read_pages(&self.file, &self.name, place).await
    }
}

/// Reads every byte of the table and checks it, past the cache. Returns the bytes read.
pub(crate) async fn verify_all(table: &Rc<Table>, env: &Env) -> Result<u64, IndexError> {
    let tail = Place { page: table.entry.pages - table.entry.tail_pages, pages: table.entry.tail_pages };
    let mut places = vec![(tail, BlockKind::Tail)];
    for partition in table.partitions() {
        places.push((partition.index, BlockKind::Index));
        places.push((partition.filter, BlockKind::Filter));
    }
    for (place, kind) in places {
        read_block(&table.file, &table.name, place, kind, table.seed).await?;
        env.yield_if_needed().await;
    }
    let mut rows = RunCursor::streaming([table.clone()].into());
    let mut count = 0u64;
    rows.seek(b"").await?;
    while rows.key().is_some() {
        count += 1;
        if !rows.advance()? {
            env.yield_if_needed().await;
            rows.load().await?;
        }
    }
    if count != table.tail.entries {
        return Err(table.damage(tail, "the number of rows is another than was written"));
    }
    Ok(table.bytes())
}

impl Tail {
    fn parse(payload: &[u8], identity: &[u8; 16], entry: &TableEntry) -> Option<Tail> {
        const FIXED_BYTES: usize = 64;
        if payload.len() < FIXED_BYTES
            || payload[..8] != *TAIL_MAGIC
            || payload[8..24] != *identity
            || u64_at(payload, 24)? != entry.number
            || u64_at(payload, 32)? != entry.salt
        {
            return None;
        }
        let data_pages = u32_at(payload, 56)?;
        let count = u32_at(payload, 60)? as usize;
        let mut rest = &payload[FIXED_BYTES..];
        let first_key = take_key(&mut rest)?;
        let last_key = take_key(&mut rest)?;
        let mut partitions: Vec<Partition> = Vec::new();
        for _ in 0..count {
            let key = take_key(&mut rest)?;
            let places = rest.get(..16)?;
            let place = |at| Some(Place { page: u32_at(places, at)?, pages: u32_at(places, at + 4)? });
            let partition = Partition { last_key: key, index: place(0)?, filter: place(8)? };
            rest = &rest[16..];
            let ascending = partitions.last().is_none_or(|before| before.last_key < partition.last_key);
            let tail_page = entry.pages - entry.tail_pages;
            if !ascending || !within(partition.index, tail_page) || !within(partition.filter, tail_page) {
                return None;
            }
            partitions.push(partition);
        }
        let covered = partitions.last().is_some_and(|last| *last.last_key >= *last_key);
        if !rest.is_empty() || !covered || first_key > last_key || data_pages >= entry.pages {
            return None;
        }
        let (entries, tombstones) = (u64_at(payload, 40)?, u64_at(payload, 48)?);
        Some(Tail { entries, tombstones, data_pages, first_key, last_key, partitions })
    }
}

fn take_key(rest: &mut &[u8]) -> Option<Box<[u8]>> {
    let len = usize::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?));
    let key = rest.get(2..2 + len)?.into();
    *rest = &rest[2 + len..];
    (len <= KEY_BYTES_MAX).then_some(key)
}

fn within(place: Place, pages: u32) -> bool {
    place.pages > 0 && place.page.checked_add(place.pages).is_some_and(|end| end <= pages)
}

/// A small value is copied, so that whoever keeps it does not keep a whole block in memory.
fn owned(block: &Block, range: std::ops::Range<usize>) -> Bytes {
    let value = block.slice(range);
    if value.len() * 2 < block.bytes_len() { Bytes::copy_from_slice(&value) } else { value }
}

async fn read_block(
    file: &File,
    name: &str,
    place: Place,
    kind: BlockKind,
    seed: FileSeed,
) -> Result<Block, IndexError> {
    let bytes = read_pages(file, name, place).await?;
    Block::verify(bytes, kind, seed, place.page)
        .map_err(|what| IndexError::corrupt(name, place.offset(), what))
}

async fn read_pages(file: &File, name: &str, place: Place) -> Result<Bytes, IndexError> {
    let read = |error| IndexError::read(name, place.offset(), error);
    if place.bytes() <= IO_BYTES_MAX {
        let buffer = file.read_at(place.offset(), place.bytes()).await.map_err(read)?;
        return Ok(Bytes::from_owner(buffer.freeze()));
    }
    let mut whole = AlignedBuf::with_len(place.bytes());
    for at in (0..place.bytes()).step_by(IO_BYTES_MAX) {
        let len = (place.bytes() - at).min(IO_BYTES_MAX);
        let part = file.read_at(place.offset() + at as u64, len).await.map_err(read)?;
        whole[at..at + len].copy_from_slice(&part);
    }
    Ok(Bytes::from_owner(whole.freeze()))
}
