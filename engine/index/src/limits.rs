//! Every limit of the index, with its unit last.

use buckets_env::ALIGNMENT;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value, in bytes: a 1 MiB body and its manifest.
pub const VALUE_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// One page of direct I/O, in bytes; all places inside files are counted in pages.
pub(crate) const PAGE_BYTES: usize = ALIGNMENT;
/// One write or read of a table is never larger than this, in bytes.
pub(crate) const IO_BYTES_MAX: usize = 1 << 20;
/// Table writers collect this much before they write, in bytes.
pub(crate) const WRITE_BYTES: usize = 512 << 10;
/// Sequential readers (compaction, long scans) read this much at once, in bytes.
pub(crate) const STREAM_BYTES: usize = 256 << 10;
/// The largest block there can be, in pages: one largest key and value with their lengths.
pub(crate) const BLOCK_PAGES_MAX: usize = (KEY_BYTES_MAX + VALUE_BYTES_MAX).div_ceil(PAGE_BYTES) + 1;
/// The largest tail of a table, in pages.
pub(crate) const TAIL_PAGES_MAX: usize = (64 << 20) / PAGE_BYTES;
/// The largest root, in pages.
pub(crate) const ROOT_PAGES_MAX: usize = (64 << 20) / PAGE_BYTES;
/// Space reserved for each copy of the root when it is created, in bytes: some two thousand tables.
pub(crate) const ROOT_RESERVED_BYTES: u64 = 64 << 10;
/// Number of levels; the last one has no size limit.
pub(crate) const LEVELS: usize = 7;
/// Rows copied out of a memtable at once by a scan.
pub(crate) const MEMTABLE_ROWS_PER_STEP: usize = 64;
/// Rows merged by a compaction between two looks at the clock.
pub(crate) const MERGE_ROWS_PER_SLICE: usize = 64;
/// The same in bytes, for long rows.
pub(crate) const MERGE_BYTES_PER_SLICE: u64 = 256 << 10;
/// Tables opened or checked at the same time.
pub(crate) const OPENS_AT_ONCE: usize = 16;
/// Compactions of one core at the same time, if the options do not say otherwise.
pub(crate) const COMPACTIONS_AT_ONCE: usize = 2;
/// How long a flush or a compaction waits for space on a full disk before it tries again, in milliseconds.
pub(crate) const FULL_DISK_RETRY_MILLIS: u64 = 1000;
/// Where space is short, a memtable is flushed from this size on, in bytes: its deletions may free more than it takes.
pub(crate) const RECLAIM_BYTES_MIN: usize = 64 << 10;
/// How often retired tables are looked at while a reader still holds them, in milliseconds.
pub(crate) const SWEEP_MILLIS: u64 = 500;

const _: () = {
    assert!(WRITE_BYTES.is_multiple_of(PAGE_BYTES) && WRITE_BYTES <= IO_BYTES_MAX);
    assert!(STREAM_BYTES.is_multiple_of(PAGE_BYTES) && STREAM_BYTES <= IO_BYTES_MAX);
    assert!(KEY_BYTES_MAX <= u16::MAX as usize);
};
