//! Writes one sorted table: data blocks as the rows come, then the index and filter blocks, then the tail.
//!
//! What must hold: rows come in strictly ascending key order; when [`TableWriter::finish`] returns, the file's
//! bytes are durable (its name is durable after the caller has flushed the directory). The memory used does not
//! grow with the data, only with the index and filter blocks of this one table.

use crate::block::{BlockBuilder, BlockKind, HEADER_BYTES, Place, common_prefix, seal};
use crate::checksum::{FileSeed, key_hash};
use crate::error::{CREATE, IndexError, WRITE};
use crate::filter;
use crate::limits::{KEY_BYTES_MAX, PAGE_BYTES, VALUE_BYTES_MAX, WRITE_BYTES};
use crate::root::TableEntry;
use crate::table_name;
use buckets_env::{AlignedBuf, Env, File, OpenMode, WriteMode};
use std::path::Path;

pub(crate) const TAIL_MAGIC: &[u8; 8] = b"BKTTABL1";
const DATA_RESTART_INTERVAL: usize = 16;
const INDEX_RESTART_INTERVAL: usize = 8;

/// How tables are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableShape {
    pub(crate) block_bytes: usize,
    pub(crate) filter_bits_per_key: usize,
}

/// A part of a table with its own index block and filter block.
struct Partition {
    last_key: Vec<u8>,
    index: Vec<u8>,
    index_restarts: u32,
    filter: Vec<u8>,
}

/// A table being written.
pub(crate) struct TableWriter {
    file: File,
    name: String,
    identity: [u8; 16],
    number: u64,
    salt: u64,
    seed: FileSeed,
    shape: TableShape,
    data: BlockBuilder,
    index: BlockBuilder,
    hashes: Vec<u64>,
    partitions: Vec<Partition>,
    first_key: Vec<u8>,
    entries: u64,
    tombstones: u64,
    /// Pages given to blocks so far; the last of them may still be in `buffer`.
    pages: u32,
    written_bytes: u64,
    buffer: AlignedBuf,
    buffered: usize,
}

impl TableWriter {
    pub(crate) async fn create(
        env: &Env,
        dir: &Path,
        identity: [u8; 16],
        number: u64,
        shape: TableShape,
    ) -> Result<TableWriter, IndexError> {
        let name = table_name::of(number);
        let file = env
            .open(&dir.join(&name), OpenMode::CreateNew)
            .await
            .map_err(|error| IndexError::io(&name, CREATE, error))?;
        let salt = env.random_u64();
        Ok(TableWriter {
            file,
            name,
            identity,
            number,
            salt,
            seed: FileSeed::table(&identity, number, salt),
            shape,
            data: BlockBuilder::new(DATA_RESTART_INTERVAL),
            index: BlockBuilder::new(INDEX_RESTART_INTERVAL),
            hashes: Vec::new(),
            partitions: Vec::new(),
            first_key: Vec::new(),
            entries: 0,
            tombstones: 0,
            pages: 0,
            written_bytes: 0,
            buffer: AlignedBuf::with_len(WRITE_BYTES),
            buffered: 0,
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of data blocks ended so far.
    pub(crate) fn data_bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_BYTES as u64
    }

    /// Adds a row; `None` is a tombstone.
    pub(crate) async fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), IndexError> {
        assert!(key.len() <= KEY_BYTES_MAX && value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX));
        if !self.data.is_empty() && self.data.bytes_with(key, value) > self.shape.block_bytes {
            let last = separator(self.data.last_key(), key);
            self.end_block(last).await?;
        }
        if self.entries == 0 {
            self.first_key = key.to_vec();
        }
        self.data.add(key, value);
        self.hashes.push(key_hash(key));
        self.entries += 1;
        self.tombstones += u64::from(value.is_none());
        Ok(())
    }

    /// Writes everything and flushes it. Nothing may be added afterwards.
    pub(crate) async fn finish(&mut self) -> Result<TableEntry, IndexError> {
        assert!(self.entries > 0, "a table has at least one row");
        let last_key = self.data.last_key().to_vec();
        self.end_block(last_key.clone()).await?;
        if !self.index.is_empty() {
            self.end_partition();
        }
        let data_pages = self.pages;
        let mut tail = vec![0; HEADER_BYTES];
        tail.extend_from_slice(TAIL_MAGIC);
        tail.extend_from_slice(&self.identity);
        tail.extend_from_slice(&self.number.to_le_bytes());
        tail.extend_from_slice(&self.salt.to_le_bytes());
        tail.extend_from_slice(&self.entries.to_le_bytes());
        tail.extend_from_slice(&self.tombstones.to_le_bytes());
        tail.extend_from_slice(&data_pages.to_le_bytes());
        tail.extend_from_slice(&(self.partitions.len() as u32).to_le_bytes());
        push_key(&mut tail, &self.first_key);
        push_key(&mut tail, &last_key);
        for mut partition in std::mem::take(&mut self.partitions) {
            let index =
                self.write_block(&mut partition.index, partition.index_restarts, BlockKind::Index).await?;
            let filter = self.write_block(&mut partition.filter, 0, BlockKind::Filter).await?;
            push_key(&mut tail, &partition.last_key);
            for place in [index, filter] {
                tail.extend_from_slice(&place.page.to_le_bytes());
                tail.extend_from_slice(&place.pages.to_le_bytes());
            }
        }
        let tail_place = self.write_block(&mut tail, 0, BlockKind::Tail).await?;
        self.write_buffer().await?;
        self.file.sync_data().await.map_err(|error| IndexError::io(&self.name, "flush", error))?;
        Ok(TableEntry {
            number: self.number,
            salt: self.salt,
            pages: self.pages,
            tail_pages: tail_place.pages,
            level: 0,
        })
    }

    /// Ends the data block: all its keys are at or before `last`, all later ones after it.
    async fn end_block(&mut self, last: Vec<u8>) -> Result<(), IndexError> {
        let (mut bytes, restarts) = self.data.take();
        let place = self.write_block(&mut bytes, restarts, BlockKind::Data).await?;
        self.data.recycle(bytes);
        let mut value = [0u8; 8];
        value[..4].copy_from_slice(&place.page.to_le_bytes());
        value[4..].copy_from_slice(&place.pages.to_le_bytes());
        self.index.add(&last, Some(&value));
        let filter_bytes = filter::filter_bytes(self.hashes.len(), self.shape.filter_bits_per_key);
        let index_bytes = self.index.bytes_with(&last, Some(&value));
        if index_bytes.max(filter_bytes + HEADER_BYTES) >= self.shape.block_bytes {
            self.end_partition();
        }
        Ok(())
    }

    fn end_partition(&mut self) {
        let last_key = self.index.last_key().to_vec();
        let (index, index_restarts) = self.index.take();
        let mut filter = vec![0; HEADER_BYTES];
        filter::build(&self.hashes, self.shape.filter_bits_per_key, &mut filter);
        self.hashes.clear();
        self.partitions.push(Partition { last_key, index, index_restarts, filter });
    }

    /// Seals a block at the next page and queues its bytes.
    async fn write_block(
        &mut self,
        bytes: &mut Vec<u8>,
        restarts: u32,
        kind: BlockKind,
    ) -> Result<Place, IndexError> {
        let place = seal(bytes, restarts, kind, self.seed, self.pages);
        self.pages += place.pages;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let len = rest.len().min(self.buffer.len() - self.buffered);
            self.buffer[self.buffered..self.buffered + len].copy_from_slice(&rest[..len]);
            self.buffered += len;
            rest = &rest[len..];
            if self.buffered == self.buffer.len() {
                self.write_buffer().await?;
            }
        }
        Ok(place)
    }

    async fn write_buffer(&mut self) -> Result<(), IndexError> {
        if self.buffered == 0 {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, AlignedBuf::with_len(0)).freeze();
        let part = full.slice(0..self.buffered);
        let written = self.file.write_at(self.written_bytes, part, WriteMode::Unflushed).await;
        written.map_err(|error| IndexError::io(&self.name, WRITE, error))?;
        self.written_bytes += self.buffered as u64;
        self.buffered = 0;
        self.buffer = full.try_into_buf().unwrap_or_else(|| AlignedBuf::with_len(WRITE_BYTES));
        Ok(())
    }
}

fn push_key(out: &mut Vec<u8>, key: &[u8]) {
    assert!(key.len() <= KEY_BYTES_MAX);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key);
}

/// A short key at or after `last` and before `next`.
fn separator(last: &[u8], next: &[u8]) -> Vec<u8> {
    let common = common_prefix(last, next);
    // `next` is greater, so it has a byte at `common`. Its prefix up to there is after `last` where `last` is
    // longer or differs there; it is before `next` only if it is shorter than `next`.
    if common + 1 < next.len() && common < last.len() && common + 1 < last.len() {
        return next[..=common].to_vec();
    }
    last.to_vec()
}

#[cfg(test)]
mod tests {
    use super::separator;

    #[test]
    fn separators_separate() {
        let keys: [&[u8]; 9] =
            [b"", b"\0", b"a", b"a\0", b"ab", b"abcdef", b"abcdefg", b"abd", b"b\xff\xff\xff"];
        for pair in keys.windows(2) {
            let found = separator(pair[0], pair[1]);
            assert!(found.as_slice() >= pair[0] && found.as_slice() < pair[1], "{pair:?} {found:?}");
        }
        assert_eq!(separator(b"bucket/aaaaaaaaa", b"bucket/bbbbbbbb"), b"bucket/b");
    }
}
