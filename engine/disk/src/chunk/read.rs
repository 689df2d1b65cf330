//! Reading blocks of finished chunks.
//!
//! What must hold: no byte is returned that was not verified; what does not verify is an error that names the block.
//! While a chunk is being read its units are not given to another one.

use super::entry::{ChunkEntry, Row, chunk_key, units_of};
use super::settle::{Replaced, Seen, release};
use super::space::Part;
use super::{ChunkId, Chunks};
use crate::counters::add;
use crate::error::ChunkReadError;
use crate::limits::{IO_BYTES_MAX, ROW_BLOCKS_MAX};
use buckets_env::{AlignedBuf, AlignedBytes};
use buckets_index::{Index, IndexError};
use buckets_stripe::checksum::{ChunkIdentity, checksum};
use std::io;
use std::rc::Rc;

/// A verified block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The block, padded with zeroes to whole pages.
    pub padded: AlignedBytes,
    /// Its real length, in bytes.
    pub len: u32,
}

impl Block {
    /// The block without its padding.
    pub fn data(&self) -> &[u8] {
        &self.padded[..self.len as usize]
    }
}

/// Shape of a finished chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkShape {
    /// Number of blocks.
    pub blocks: u32,
    /// Bytes of every block but the last.
    pub block_bytes: u32,
    /// Bytes of the last block.
    pub last_block_bytes: u32,
}

/// Why the table does not tell where a chunk lies.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("row {row} of chunk {chunk:?} contradicts itself or is missing")]
    Row { chunk: ChunkId, row: u32 },
}

/// One row of the table; `None` where there is none.
pub(crate) async fn row_in_table(
    table: &Index,
    chunk: ChunkId,
    number: u32,
) -> Result<Option<Row>, TableError> {
    match table.get(&chunk_key(chunk, number)).await? {
        None => Ok(None),
        Some(value) => Row::decode(number, &value).map(Some).ok_or(TableError::Row { chunk, row: number }),
    }
}

/// All units of a chunk.
pub(crate) async fn extents_in_table(table: &Index, chunk: ChunkId) -> Result<Replaced, TableError> {
    let Some(first) = row_in_table(table, chunk, 0).await? else { return Ok(Replaced::default()) };
    let rows = first.blocks.div_ceil(ROW_BLOCKS_MAX);
    let mut extents = first.extents;
    for number in 1..rows {
        let row = row_in_table(table, chunk, number).await?;
        extents.extend(row.ok_or(TableError::Row { chunk, row: number })?.extents);
    }
    Ok(Replaced { extents, rows })
}

/// Keeps a chunk's units from being given away while it is read.
struct ReadPin<'a> {
    chunks: &'a Chunks,
    chunk: ChunkId,
}

impl Drop for ReadPin<'_> {
    fn drop(&mut self) {
        let mut state = self.chunks.inner.state.borrow_mut();
        let Some(count) = state.readers.get_mut(&self.chunk) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.readers.remove(&self.chunk);
        let mut free = self.chunks.inner.space.free.borrow_mut();
        for extent in state.zombies.remove(&self.chunk).unwrap_or_default() {
            release(&mut free, extent);
        }
    }
}

/// Blocks that lie in one piece.
struct Group {
    first: u32,
    end: u32,
    part: Part,
}

impl Chunks {
    /// Reads `count` blocks from block `first` on, each verified. Errors: the first block that does not verify, or that
    /// the chunk is not here or has fewer blocks.
    pub async fn read(&self, chunk: ChunkId, first: u32, count: u32) -> Result<Vec<Block>, ChunkReadError> {
        let _pin = self.pin(chunk);
        let Some(end) = first.checked_add(count).filter(|_| count > 0) else {
            return Err(ChunkReadError::Missing);
        };
        let rows = self.rows(chunk, first, end).await?;
        let mut blocks = Vec::with_capacity(count as usize);
        for row in rows {
            let (from, to) = (first.max(row.first_block), end.min(row.end_block()));
            blocks.extend(self.read_row(&self.identity(chunk), &row, from, to).await?);
        }
        Ok(blocks)
    }

    /// The shape of a finished chunk; `None` where it is not here.
    pub async fn shape(&self, chunk: ChunkId) -> Result<Option<ChunkShape>, ChunkReadError> {
        match self.row(chunk, 0).await {
            Ok(row) => Ok(Some(ChunkShape {
                blocks: row.blocks,
                block_bytes: row.block_bytes,
                last_block_bytes: row.last_block_bytes,
            })),
            Err(ChunkReadError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn pin(&self, chunk: ChunkId) -> ReadPin<'_> {
        *self.inner.state.borrow_mut().readers.entry(chunk).or_default() += 1;
        ReadPin { chunks: self, chunk }
    }

    /// The rows that hold the blocks `first..end`, all of one life of the chunk.
    async fn rows(&self, chunk: ChunkId, first: u32, end: u32) -> Result<Vec<Row>, ChunkReadError> {
        // A chunk that is replaced between two rows is read again; it cannot be replaced often in so short a time.
        for _ in 0..8 {
            let mut rows: Vec<Row> = Vec::with_capacity(1);
            for number in first / ROW_BLOCKS_MAX..=(end - 1) / ROW_BLOCKS_MAX {
                rows.push(self.row(chunk, number).await?);
            }
            if rows.iter().all(|row| row.lsn == rows[0].lsn) {
                if end > rows[0].blocks {
                    return Err(self.missing());
                }
                return Ok(rows);
            }
        }
        Err(ChunkReadError::TableDamaged { what: "rows of different lives".into() })
    }

    pub(crate) async fn row(&self, chunk: ChunkId, number: u32) -> Result<Row, ChunkReadError> {
        let inner = &self.inner;
        let seen = inner.state.borrow().readable(chunk, inner.wal.durable_lsn().0);
        match seen {
            Seen::Gone => Err(self.missing()),
            Seen::Here(entry, lsn) => {
                if number < entry.rows() {
                    Ok(entry.row(number, lsn))
                } else {
                    Err(self.missing())
                }
            }
            Seen::InTable => match row_in_table(&inner.table, chunk, number).await {
                Ok(Some(row)) => Ok(row),
                Ok(None) => Err(self.missing()),
                Err(error) => {
                    add(&inner.counters.table_corruptions, 1);
                    Err(ChunkReadError::TableDamaged { what: error.to_string().into() })
                }
            },
        }
    }

    fn missing(&self) -> ChunkReadError {
        add(&self.inner.counters.chunks_missing, 1);
        ChunkReadError::Missing
    }

    /// The blocks `first..end` of a row: those that lie together in one read of up to 1 MiB, all reads at once.
    pub(crate) async fn read_row(
        &self,
        identity: &ChunkIdentity,
        row: &Row,
        first: u32,
        end: u32,
    ) -> Result<Vec<Block>, ChunkReadError> {
        let (groups, scattered) =
            self.groups(row, first, end).ok_or(ChunkReadError::Corrupt { block: first })?;
        let together =
            futures::future::join_all(groups.iter().map(|group| self.read_group(identity, row, group)));
        let apart = futures::future::join_all(
            scattered.into_iter().map(|block| self.read_scattered(identity, row, block)),
        );
        let (together, apart) = futures::future::join(together, apart).await;
        let mut blocks: Vec<(u32, Block)> = Vec::with_capacity((end - first) as usize);
        for (group, read) in groups.iter().zip(together) {
            blocks.extend((group.first..).zip(read?));
        }
        for read in apart {
            blocks.push(read?);
        }
        blocks.sort_by_key(|(number, _)| *number);
        Ok(blocks.into_iter().map(|(_, block)| block).collect())
    }

    /// Splits blocks into those that lie together and those that are scattered themselves; `None` where a unit does
    /// not exist.
    fn groups(&self, row: &Row, first: u32, end: u32) -> Option<(Vec<Group>, Vec<u32>)> {
        let mut groups: Vec<Group> = Vec::with_capacity(1);
        let mut scattered = Vec::new();
        for block in first..end {
            let parts = self.inner.space.parts(&row.extents_of(block, block + 1))?;
            let [part] = parts[..] else {
                scattered.push(block);
                continue;
            };
            match groups.last_mut() {
                Some(group)
                    if group.end == block
                        && group.part.file == part.file
                        && group.part.offset + group.part.bytes as u64 == part.offset
                        && group.part.bytes + part.bytes <= IO_BYTES_MAX =>
                {
                    group.end += 1;
                    group.part.bytes += part.bytes;
                }
                _ => groups.push(Group { first: block, end: block + 1, part }),
            }
        }
        Some((groups, scattered))
    }

    async fn read_group(
        &self,
        identity: &ChunkIdentity,
        row: &Row,
        group: &Group,
    ) -> Result<Vec<Block>, ChunkReadError> {
        let whole = self.read_part(group.part, group.first).await?.freeze();
        let mut at = 0;
        let mut blocks = Vec::with_capacity((group.end - group.first) as usize);
        for block in group.first..group.end {
            let bytes = row.units_between(block, block + 1) as usize * crate::limits::UNIT_BYTES as usize;
            let padded = whole.slice(at..at + bytes);
            at += bytes;
            blocks.push(self.verify(identity, row, block, padded)?);
            self.inner.env.yield_if_needed().await;
        }
        Ok(blocks)
    }

    /// A block in several pieces: put together in memory.
    async fn read_scattered(
        &self,
        identity: &ChunkIdentity,
        row: &Row,
        block: u32,
    ) -> Result<(u32, Block), ChunkReadError> {
        let corrupt = || ChunkReadError::Corrupt { block };
        let parts = self.inner.space.parts(&row.extents_of(block, block + 1)).ok_or_else(corrupt)?;
        let mut whole = AlignedBuf::with_len(parts.iter().map(|part| part.bytes).sum());
        let mut at = 0;
        for part in parts {
            let piece = self.read_part(part, block).await?;
            whole[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
        Ok((block, self.verify(identity, row, block, whole.freeze())?))
    }

    async fn read_part(&self, part: Part, block: u32) -> Result<AlignedBuf, ChunkReadError> {
        self.inner.space.read(part).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                add(&self.inner.counters.blocks_corrupt, 1);
                ChunkReadError::Corrupt { block }
            }
            _ => {
                add(&self.inner.counters.read_errors, 1);
                ChunkReadError::Io { what: error.to_string().into() }
            }
        })
    }

    fn verify(
        &self,
        identity: &ChunkIdentity,
        row: &Row,
        block: u32,
        padded: AlignedBytes,
    ) -> Result<Block, ChunkReadError> {
        let counters = &self.inner.counters;
        let (data, padding) = padded.split_at(row.bytes_of(block) as usize);
        let sum = checksum(row.kind, identity, block, data);
        if sum.as_bytes() != row.checksum(block) || padding.iter().any(|&byte| byte != 0) {
            add(&counters.blocks_corrupt, 1);
            tracing::warn!(?identity, block, "a block does not verify");
            return Err(ChunkReadError::Corrupt { block });
        }
        add(&counters.block_reads, 1);
        add(&counters.block_read_bytes, padded.len() as u64);
        Ok(Block { padded, len: row.bytes_of(block) })
    }

    /// True where every block of an entry verifies: for recovery, before anything is in the table.
    pub(crate) async fn is_whole(&self, chunk: ChunkId, entry: &Rc<ChunkEntry>) -> bool {
        for number in 0..entry.rows() {
            let row = entry.row(number, 0);
            let mut block = row.first_block;
            while block < row.end_block() {
                // No more than one read's worth in memory at a time.
                let step = (IO_BYTES_MAX / (units_of(row.block_bytes) as usize * 4096)).max(1) as u32;
                let end = row.end_block().min(block + step);
                if self.read_row(&self.identity(chunk), &row, block, end).await.is_err() {
                    return false;
                }
                block = end;
            }
        }
        true
    }
}
