//! Faults that strike once, and what a simulated disk has done.

use crate::Fault;

/// A fault that strikes once, after `skip` operations that it could have struck.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneShot {
    pub(super) fault: Fault,
    pub(super) skip: u64,
}

/// What a simulated disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskIoCounts {
    /// Reads of file content.
    pub reads: u64,
    /// Writes, reservations and holes.
    pub writes: u64,
    /// Flushes of files.
    pub flushes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Faults that struck.
    pub faults: u64,
}
