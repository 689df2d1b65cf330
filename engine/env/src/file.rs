//! Files for direct, aligned I/O.
//!
//! What must hold: offsets and lengths of reads and writes are multiples of [`crate::ALIGNMENT`]; a short
//! write is continued, never reported as success; a failed flush is reported once and the caller must fence the
//! disk, never flush again and believe it.

use crate::{AlignedBuf, AlignedBytes, dispatch, real};
use std::io;

/// How [`crate::Env::open`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; read and write.
    Existing,
    /// Must not exist; created empty, read and write. The name is durable after `sync_dir` of its directory.
    CreateNew,
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// After the next successful [`File::sync_data`].
    Unflushed,
    /// When the write returns (RWF_DSYNC).
    Flushed,
}

/// An open file; clones share it. Closed when the last clone is dropped.
#[derive(Clone)]
pub enum File {
    /// On the real ring.
    Real(real::RealFile),
    /// In the simulator.
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimFile),
}

impl File {
    /// Reads exactly `len` bytes at `offset`. Errors: `UnexpectedEof` past the end of the file.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        dispatch!(self, f => f.read_at(offset, len).await)
    }

    /// Writes all of `data` at `offset`; `data` must start at an aligned address and have an aligned length.
    pub async fn write_at(&self, offset: u64, data: AlignedBytes, mode: WriteMode) -> io::Result<()> {
        dispatch!(self, f => f.write_at(offset, data, mode).await)
    }

    /// Makes all completed writes of this file durable (fdatasync).
    pub async fn sync_data(&self) -> io::Result<()> {
        dispatch!(self, f => f.sync_data().await)
    }

    /// Reserves `[offset, offset + len)` on the disk and extends the file to at least that size (fallocate);
    /// it reads as zeroes. Errors: `StorageFull`.
    pub async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        dispatch!(self, f => f.allocate(offset, len).await)
    }

    /// Gives `[offset, offset + len)` back to the file system; it reads as zeroes.
    pub async fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        dispatch!(self, f => f.punch_hole(offset, len).await)
    }

    /// The file's size in bytes (from the descriptor, not the path).
    pub async fn size(&self) -> io::Result<u64> {
        dispatch!(self, f => f.size().await)
    }
}
