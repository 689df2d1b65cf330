//! Walking over all chunks: to verify them, to list them, to count their space.

use super::entry::{Row, chunk_key, chunk_keys_end, chunk_of_key, units_of};
use super::free::FreeMap;
use super::read::TableError;
use super::{ChunkId, Chunks};
use crate::counters::add;
use crate::error::ChunkReadError;
use crate::limits::{IO_BYTES_MAX, UNIT_BYTES};
use buckets_index::IndexError;
use buckets_ring::id::ObjectId;
use std::ops::Bound;

/// What one step of a scrub has verified: up to 1 MiB of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// The chunk.
    pub chunk: ChunkId,
    /// Blocks verified.
    pub blocks: u32,
    /// Bytes read.
    pub bytes: u64,
    /// Those of them that do not verify.
    pub corrupt: Vec<u32>,
}

/// A walk over all finished chunks in the order of their ids. Chunks that come or go meanwhile may be missed.
pub struct Scrub {
    chunks: Chunks,
    chunk: ChunkId,
    block: u32,
    /// How far the walk jumps over damage of the table, in units of the first half of an object id; doubles until
    /// something can be read again.
    jump: u64,
    /// Damage reaches to the end.
    ended: bool,
}

/// The first jump over damage: about one in a million objects.
const FIRST_JUMP: u64 = 1 << 44;

/// Chunk space as the rows of the table use it, compared with the free map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceAudit {
    /// Units that rows and chunks being written use.
    pub claimed_units: u64,
    /// Units in use by the free map.
    pub used_units: u64,
    /// Units that two rows claim.
    pub overlapping_units: u64,
    /// Units claimed but free.
    pub unprotected_units: u64,
    /// Chunks.
    pub chunks: u64,
}

impl Chunks {
    /// A walk over all chunks, from the first.
    pub fn scrub(&self) -> Scrub {
        self.scrub_from(ChunkId { object: ObjectId::from_bytes([0; 16]), number: 0 })
    }

    /// The same, beginning with `chunk` (or the next one there is).
    pub fn scrub_from(&self, chunk: ChunkId) -> Scrub {
        Scrub { chunks: self.clone(), chunk, block: 0, jump: FIRST_JUMP, ended: false }
    }

    /// Up to `count` chunks after `after`, by id. Records of the last moments may be missing.
    pub async fn list(&self, after: Option<ChunkId>, count: usize) -> Result<Vec<ChunkId>, ChunkReadError> {
        let start = match after {
            Some(chunk) => Bound::Excluded(chunk_key(chunk, u32::MAX)),
            None => {
                Bound::Included(chunk_key(ChunkId { object: ObjectId::from_bytes([0; 16]), number: 0 }, 0))
            }
        };
        let mut scan = self.inner.table.scan(start, Bound::Excluded(chunk_keys_end()));
        let mut found: Vec<ChunkId> = Vec::new();
        while found.len() < count {
            let Some((key, _)) = scan.next().await.map_err(|error| self.table_damaged(error))? else { break };
            if let Some((chunk, _)) = chunk_of_key(&key)
                && found.last() != Some(&chunk)
            {
                found.push(chunk);
            }
        }
        Ok(found)
    }

    /// Compares the free map with the rows, after everything logged has settled. For tests and tools: it reads the
    /// whole table, and is exact only where nothing else happens meanwhile.
    pub async fn audit(&self) -> Result<SpaceAudit, ChunkReadError> {
        let inner = &self.inner;
        let disk = |error: crate::DiskError| ChunkReadError::Io { what: error.to_string().into() };
        self.settled().await.map_err(disk)?;
        let mut claimed = FreeMap::new();
        claimed.grow(inner.space.free.borrow().units());
        let mut audit = SpaceAudit::default();
        let mut rows = self.all_rows();
        while let Some((_, row)) = rows.next().await.map_err(|error| self.table_damaged(error))? {
            audit.chunks += u64::from(row.first_block == 0);
            for extent in row.extents {
                audit.overlapping_units += claimed.take(extent);
                audit.unprotected_units += u64::from(!inner.space.free.borrow().is_used(extent));
            }
        }
        for extent in inner.state.borrow().transient() {
            audit.overlapping_units += claimed.take(extent);
        }
        audit.claimed_units = claimed.units() - claimed.free();
        let free = inner.space.free.borrow();
        audit.used_units = free.units() - free.free();
        Ok(audit)
    }

    pub(crate) fn all_rows(&self) -> Rows {
        let first = chunk_key(ChunkId { object: ObjectId::from_bytes([0; 16]), number: 0 }, 0);
        Rows { scan: self.inner.table.scan(Bound::Included(first), Bound::Excluded(chunk_keys_end())) }
    }

    fn table_damaged(&self, error: impl std::fmt::Display) -> ChunkReadError {
        add(&self.inner.counters.table_corruptions, 1);
        ChunkReadError::TableDamaged { what: error.to_string().into() }
    }
}

/// All rows of all chunks, as of one moment.
pub(crate) struct Rows {
    scan: buckets_index::Scan,
}

impl Rows {
    /// The next row.
    pub(crate) async fn next(&mut self) -> Result<Option<(ChunkId, Row)>, TableError> {
        let Some((key, value)) = self.scan.next().await? else { return Ok(None) };
        let unknown = ChunkId { object: ObjectId::from_bytes([0; 16]), number: 0 };
        let (chunk, number) = chunk_of_key(&key).ok_or(TableError::Row { chunk: unknown, row: 0 })?;
        let row = Row::decode(number, &value).ok_or(TableError::Row { chunk, row: number })?;
        Ok(Some((chunk, row)))
    }
}

impl Scrub {
    /// Verifies the next piece; `None` after the last chunk. The caller bounds the rate, by the bytes of each step.
    /// Errors: a part of the chunk table cannot be read; the next call goes on behind it.
    pub async fn next(&mut self) -> Result<Option<Scrubbed>, ChunkReadError> {
        while !self.ended {
            match self.step().await {
                Ok(Step::Done) => return Ok(None),
                Ok(Step::Verified(scrubbed)) => {
                    self.jump = FIRST_JUMP;
                    return Ok(Some(scrubbed));
                }
                Ok(Step::Gone) => {}
                Err(error) => {
                    self.jump_over_damage();
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    fn jump_over_damage(&mut self) {
        let mut id = *self.chunk.object.as_bytes();
        let (high, _) = id.split_at_mut(8);
        let mut number = [0u8; 8];
        number.copy_from_slice(high);
        let behind = u64::from_be_bytes(number).saturating_add(self.jump);
        high.copy_from_slice(&behind.to_be_bytes());
        self.chunk = ChunkId { object: ObjectId::from_bytes(id), number: 0 };
        self.block = 0;
        self.ended = behind == u64::MAX;
        self.jump = self.jump.saturating_mul(2);
    }

    /// Where the walk stands: for [`Chunks::scrub_from`] after a restart.
    pub fn position(&self) -> ChunkId {
        self.chunk
    }

    async fn step(&mut self) -> Result<Step, ChunkReadError> {
        let Some((chunk, row)) = self.next_row().await? else { return Ok(Step::Done) };
        if (chunk, row.first_block) != (self.chunk, self.block)
            && !(chunk == self.chunk && row.first_block < self.block)
        {
            (self.chunk, self.block) = (chunk, row.first_block);
        }
        let block_bytes = units_of(row.block_bytes) as usize * UNIT_BYTES as usize;
        let end = row.end_block().min(self.block + (IO_BYTES_MAX / block_bytes).max(1) as u32);
        let first = std::mem::replace(&mut self.block, end);
        let mut scrubbed = Scrubbed { chunk, blocks: end - first, bytes: 0, corrupt: Vec::new() };
        scrubbed.bytes = row.units_between(first, end) * UNIT_BYTES;
        match self.chunks.read(chunk, first, end - first).await {
            Ok(_) => {}
            // Deleted since: nothing to verify.
            Err(ChunkReadError::Missing) => return Ok(Step::Gone),
            Err(error @ ChunkReadError::TableDamaged { .. }) => return Err(error),
            Err(ChunkReadError::Corrupt { .. } | ChunkReadError::Io { .. }) => {
                for block in first..end {
                    match self.chunks.read(chunk, block, 1).await {
                        Ok(_) | Err(ChunkReadError::Missing) => {}
                        Err(_) => scrubbed.corrupt.push(block),
                    }
                }
            }
        }
        let counters = &self.chunks.inner.counters;
        add(&counters.scrubbed_blocks, u64::from(scrubbed.blocks));
        add(&counters.scrubbed_bytes, scrubbed.bytes);
        Ok(Step::Verified(scrubbed))
    }

    /// The row that holds the next block.
    async fn next_row(&mut self) -> Result<Option<(ChunkId, Row)>, ChunkReadError> {
        let number = self.block / crate::limits::ROW_BLOCKS_MAX;
        let start = chunk_key(self.chunk, number);
        let scan = self.chunks.inner.table.scan(Bound::Included(start), Bound::Excluded(chunk_keys_end()));
        let mut rows = Rows { scan };
        loop {
            let found = rows.next().await.map_err(|error| match error {
                TableError::Index(error) => self.chunks.table_damaged(error),
                TableError::Row { .. } => self.chunks.table_damaged(&error),
            })?;
            match found {
                // All of this row is verified already.
                Some((chunk, row)) if chunk == self.chunk && row.end_block() <= self.block => {}
                other => return Ok(other),
            }
        }
    }
}

enum Step {
    Done,
    Verified(Scrubbed),
    Gone,
}

impl From<TableError> for ChunkReadError {
    fn from(error: TableError) -> ChunkReadError {
        ChunkReadError::TableDamaged { what: error.to_string().into() }
    }
}

impl From<IndexError> for ChunkReadError {
    fn from(error: IndexError) -> ChunkReadError {
        ChunkReadError::TableDamaged { what: error.to_string().into() }
    }
}
