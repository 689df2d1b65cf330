//! What can go wrong with a disk, one enum for each kind of operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why the disk accepts no writes any more. It stays so until the process restarts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// A write or a flush failed: what was not acknowledged before may be lost, nothing is acknowledged after.
    #[error("disk is fenced: {reason}")]
    Fenced {
        /// The failed operation and its error.
        reason: Arc<str>,
    },
    /// [`crate::Disk::close`] was called.
    #[error("disk is closed")]
    Closed,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// The directory carries no format.
    #[error(
        "{path} is not a formatted disk (no .buckets.sys/format.json): format it, or check that it is mounted"
    )]
    NotFormatted {
        /// The disk's directory.
        path: PathBuf,
    },
    /// `format.json` cannot be read or is not valid.
    #[error("{path}: format.json is damaged ({what}): restore it from a backup, or replace the disk")]
    FormatDamaged {
        /// The disk's directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Neither copy of the superblock is valid.
    #[error("{path}: both copies of the superblock are damaged ({what}): replace the disk")]
    SuperblockDamaged {
        /// The disk's directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// `format.json` and superblock name different disks.
    #[error(
        "{path}: format.json names disk {format}, its superblock names disk {superblock}: files of two disks are mixed"
    )]
    Swapped {
        /// The disk's directory.
        path: PathBuf,
        /// Disk uuid in `format.json`.
        format: String,
        /// Disk uuid in the superblock.
        superblock: String,
    },
    /// The options contradict each other.
    #[error("disk options: {what}")]
    Options {
        /// What is wrong.
        what: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {doing}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
}

/// Why a disk could not be formatted.
#[derive(Debug, thiserror::Error)]
pub enum DiskFormatError {
    /// It carries a format already.
    #[error(
        "{path} is already formatted as disk {disk} of deployment {deployment}: formatting destroys its data"
    )]
    AlreadyFormatted {
        /// The disk's directory.
        path: PathBuf,
        /// Its uuid; "unknown" where `format.json` is damaged.
        disk: String,
        /// Its deployment; "unknown" where `format.json` is damaged.
        deployment: String,
    },
    /// The options contradict each other.
    #[error("disk options: {what}")]
    Options {
        /// What is wrong.
        what: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {doing}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The error.
        source: io::Error,
    },
}

/// Why a chunk could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkWriteError {
    /// The disk takes no writes.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No chunk space is left.
    #[error("disk is full")]
    NoSpace,
    /// Too many chunks are being written.
    #[error("too many chunks are being written on this disk")]
    TooManyWriters,
    /// The chunk was never begun, was aborted, or expired.
    #[error("chunk is not being written (aborted or expired)")]
    NotOpen,
    /// The block is not one that may come next: a bug of whoever sends it, perhaps on another node.
    #[error("the block does not fit: {0}")]
    Misfit(&'static str),
    /// The chunk table cannot be read where the chunk belongs.
    #[error("chunk table is damaged: {what}")]
    TableDamaged {
        /// What the index says.
        what: Arc<str>,
    },
}

/// Why blocks of a chunk could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkReadError {
    /// The disk does not hold the chunk, or not this block of it.
    #[error("chunk is not on this disk")]
    Missing,
    /// A block does not verify.
    #[error("block {block} does not verify")]
    Corrupt {
        /// The first bad block.
        block: u32,
    },
    /// The chunk table cannot be read where the chunk belongs.
    #[error("chunk table is damaged: {what}")]
    TableDamaged {
        /// What the index says.
        what: Arc<str>,
    },
    /// The device reports an error.
    #[error("read error: {what}")]
    Io {
        /// The error.
        what: Arc<str>,
    },
}

/// Why a replica could not be made or removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The disk takes no writes.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its index cannot be opened.
    #[error(transparent)]
    Index(#[from] buckets_index::IndexError),
    /// Its files cannot be removed.
    #[error("remove the index of a group: {what}")]
    Remove {
        /// The error.
        what: Arc<str>,
    },
}
