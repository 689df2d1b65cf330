//! One disk: format, write-ahead log, Raft replica storage, chunk space, recovery.
//!
//! What must hold:
//! - What was reported durable survives any crash, byte for byte; what was not is there whole or not at all.
//! - Everything read from a disk is verified; damage is an error or a counted loss, never a panic and never wrong bytes.
//! - After one failed write or flush nothing is acknowledged any more ([`DiskState::Fenced`]).
//! - The outside world is [`buckets_env::Env`]: everything here also runs in the simulator.
//!
//! From the top: `disk` (the handle), `open` (recovery, in order), `identity` and `superblock` (who the disk is);
//! `wal` (one log, one write commits everything that waits), `replica` (a Raft group's log and index), `chunk` (chunk
//! space and its table), `housekeeping` (segments are freed and made ahead). The bytes are drawn in
//! docs/formats/disk.md.

mod chunk;
mod core;
mod counters;
mod disk;
mod error;
mod fence;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod housekeeping;
mod identity;
mod limits;
mod locks;
mod open;
mod replica;
mod superblock;
mod wait;
mod wal;

pub use chunk::read::{Block, ChunkShape};
pub use chunk::scrub::{Scrub, Scrubbed, SpaceAudit};
pub use chunk::{ChunkId, Chunks, PendingChunk, SpaceUse};
pub use counters::{BATCH_CLASSES, CounterValues};
pub use disk::{Disk, OpenReport, OpenedDisk};
pub use error::{ChunkReadError, ChunkWriteError, DiskError, DiskFormatError, DiskOpenError, ReplicaError};
pub use fence::DiskState;
pub use identity::FormatMode;
pub use limits::{
    BLOCK_BYTES_MAX, CHUNK_BLOCKS_MAX, DiskOptions, OWNER_BYTES_MAX, RECORD_BYTES_MAX, UNIT_BYTES,
};
pub use replica::log::{HardState, LogEntry};
pub use replica::{ReplicaStore, SnapshotPosition};
pub use wal::{Lsn, Wal};
