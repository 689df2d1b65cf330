//! Every limit of one disk, and the options that let tests shrink them.
//!
//! What must hold: sizes that end up in durable structures (segment size, space file size) are written to the
//! superblock at format and read back at open; everything else may change from start to start.

use crate::error::DiskOpenError;
use buckets_env::ALIGNMENT;
use buckets_index::IndexOptions;
use std::time::Duration;

/// The unit of chunk space: one page.
pub const UNIT_BYTES: u64 = ALIGNMENT as u64;

/// Longest single read or write, in bytes; longer ones are cut.
pub(crate) const IO_BYTES_MAX: usize = 1 << 20;
/// Longest record in the write-ahead log, in bytes (a chunk of the most blocks under the longest checksum fits).
pub const RECORD_BYTES_MAX: usize = 8 << 20;
/// A batch is closed when it holds this much and the next one is opened: with a usual last record it still fits
/// one I/O and a pooled buffer.
pub(crate) const BATCH_CLOSE_BYTES: usize = 768 << 10;
/// Most blocks of one chunk.
pub const CHUNK_BLOCKS_MAX: u32 = 1 << 17;
/// Blocks described by one row of the chunk table.
pub(crate) const ROW_BLOCKS_MAX: u32 = 64;
/// Longest block, in bytes.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Longest owner of a chunk, in bytes.
pub const OWNER_BYTES_MAX: usize = 4096;
/// Most space files of one disk.
pub(crate) const SPACE_FILES_MAX: u32 = 1 << 16;

const _: () = {
    assert!(RECORD_BYTES_MAX > CHUNK_BLOCKS_MAX as usize * 32 + OWNER_BYTES_MAX);
    assert!(CHUNK_BLOCKS_MAX.is_multiple_of(ROW_BLOCKS_MAX));
    assert!(BLOCK_BYTES_MAX <= IO_BYTES_MAX && BATCH_CLOSE_BYTES <= IO_BYTES_MAX);
};

/// Limits of one disk.
#[derive(Clone)]
pub struct DiskOptions {
    /// Size of a log segment; used at format only.
    pub wal_segment_bytes: u64,
    /// Segments made (and zero-written) at format.
    pub wal_segments_initial: u32,
    /// Segments in use at which replicas and the chunk table that pin the oldest are flushed.
    pub wal_segments_soft_max: u32,
    /// Segments in use at which [`crate::Wal::room`] waits.
    pub wal_segments_max: u32,
    /// Bytes of closed and open batches at which [`crate::Wal::room`] waits.
    pub wal_queued_bytes_max: usize,
    /// Idle time after which the last batch is sealed.
    pub wal_seal_delay: Duration,
    /// Unflushed entries up to this many bytes are logged again rather than flushed to free a segment.
    pub relog_bytes_max: usize,
    /// Entries of one replica that its index has taken over but not flushed, in bytes, at which it is flushed, however
    /// little is in its memtable.
    pub unflushed_bytes_max: usize,
    /// Entries kept in memory behind a replica's flushed position for slow followers, in bytes.
    pub log_tail_bytes_max: usize,
    /// The same, in entries.
    pub log_tail_entries_max: usize,
    /// Entries kept in memory for followers that fetch a snapshot ([`crate::ReplicaStore::hold_log`]), in bytes.
    pub log_held_bytes_max: usize,
    /// Largest space file; used at format only.
    pub space_file_bytes: u64,
    /// Chunk space is reserved on the file system in steps of this size, in smaller ones where little is left.
    pub space_step_bytes: u64,
    /// Bytes of the file system that chunk space leaves to the log, the index tables and the operator.
    pub space_reserve_bytes: u64,
    /// With less than this free on the file system, [`crate::Disk::is_short_of_space`]: whoever adds rows is to be refused,
    /// so that removals still find room for their log, their tables and a compaction.
    pub floor_bytes: u64,
    /// Most chunks being written at once.
    pub open_writers_max: usize,
    /// A chunk being written that is not touched for this long is given up.
    pub writer_idle_max: Duration,
    /// One-block chunks up to this size are written with one flushed write of their own; longer ones join the
    /// group flush of their space file.
    pub small_flushed_bytes_max: usize,
    /// Bytes of unflushed chunk table at which it is flushed.
    pub chunk_memtable_bytes_max: usize,
    /// How often the housekeeping looks around.
    pub housekeeping_interval: Duration,
    /// For the index of every replica, and (but for the size of its memtable) the chunk table.
    pub index: IndexOptions,
}

impl DiskOptions {
    /// The defaults, with these for the indexes.
    pub fn new(index: IndexOptions) -> Self {
        DiskOptions {
            wal_segment_bytes: 64 << 20,
            wal_segments_initial: 3,
            wal_segments_soft_max: 8,
            wal_segments_max: 24,
            wal_queued_bytes_max: 16 << 20,
            wal_seal_delay: Duration::from_millis(100),
            relog_bytes_max: 128 << 10,
            unflushed_bytes_max: 32 << 20,
            log_tail_bytes_max: 4 << 20,
            log_tail_entries_max: 4096,
            log_held_bytes_max: 32 << 20,
            space_file_bytes: 256 << 30,
            space_step_bytes: 1 << 30,
            space_reserve_bytes: 1 << 30,
            floor_bytes: 256 << 20,
            open_writers_max: 8192,
            writer_idle_max: Duration::from_secs(600),
            small_flushed_bytes_max: 0,
            chunk_memtable_bytes_max: 16 << 20,
            housekeeping_interval: Duration::from_millis(500),
            index,
        }
    }

    /// Limits shrunk until their edges are reachable within a short simulation.
    pub fn small(index: IndexOptions) -> Self {
        DiskOptions {
            wal_segment_bytes: 256 << 10,
            wal_segments_initial: 2,
            wal_segments_soft_max: 3,
            wal_segments_max: 6,
            wal_queued_bytes_max: 512 << 10,
            wal_seal_delay: Duration::from_millis(20),
            relog_bytes_max: 4 << 10,
            unflushed_bytes_max: 128 << 10,
            log_tail_bytes_max: 32 << 10,
            log_tail_entries_max: 32,
            log_held_bytes_max: 512 << 10,
            space_file_bytes: 16 << 20,
            space_step_bytes: 1 << 20,
            space_reserve_bytes: 1 << 20,
            floor_bytes: 0,
            open_writers_max: 64,
            writer_idle_max: Duration::from_secs(5),
            small_flushed_bytes_max: 8 << 10,
            chunk_memtable_bytes_max: 32 << 10,
            housekeeping_interval: Duration::from_millis(50),
            index: IndexOptions {
                memtable_bytes_max: 32 << 10,
                block_bytes: 4 << 10,
                table_bytes_max: 64 << 10,
                level1_bytes: 128 << 10,
                ..index
            },
        }
    }

    /// Refuses options that contradict each other.
    pub(crate) fn check(&self) -> Result<(), DiskOpenError> {
        let wrong = |what: &str| Err(DiskOpenError::Options { what: what.to_owned() });
        if !self.wal_segment_bytes.is_multiple_of(UNIT_BYTES) || self.wal_segment_bytes < 64 << 10 {
            return wrong("a log segment is a multiple of 4 KiB and at least 64 KiB");
        }
        if self.wal_segments_initial < 2 || self.wal_segments_soft_max < 2 {
            return wrong("the log needs at least two segments");
        }
        if self.wal_segments_max <= self.wal_segments_soft_max {
            return wrong("wal_segments_max must be above wal_segments_soft_max");
        }
        if self.space_file_bytes < self.space_step_bytes
            || !self.space_file_bytes.is_multiple_of(crate::chunk::free::PAGE_UNITS as u64 * UNIT_BYTES)
            || !self.space_step_bytes.is_multiple_of(UNIT_BYTES)
        {
            return wrong("space files are multiples of 16 MiB and hold at least one step");
        }
        Ok(())
    }
}
