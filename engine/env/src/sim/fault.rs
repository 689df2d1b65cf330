//! What can go wrong with a simulated disk.

/// A fault of one disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read ends with EIO.
    Read,
    /// A write ends with EIO; some of it may be on the disk.
    Write,
    /// A flush (or a flushed write) ends with EIO; what it covered may be gone, and a later flush does not
    /// report that again.
    Flush,
    /// A stored bit flips, for good, under the range that is read.
    BitRot,
    /// A write is acknowledged and was never done.
    LostWrite,
    /// A write is acknowledged and was done elsewhere in the file.
    MisdirectedWrite,
}

/// Faults by chance and slowness of one disk. Probabilities are in millionths for each operation concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFaults {
    /// [`Fault::Read`].
    pub read_error_per_million: u32,
    /// [`Fault::Write`].
    pub write_error_per_million: u32,
    /// [`Fault::Flush`].
    pub flush_error_per_million: u32,
    /// [`Fault::BitRot`].
    pub bit_rot_per_million: u32,
    /// [`Fault::LostWrite`].
    pub lost_write_per_million: u32,
    /// [`Fault::MisdirectedWrite`].
    pub misdirected_write_per_million: u32,
    /// How many times longer than normal each operation takes: 1 is normal.
    pub slow_factor: u32,
}

impl Default for DiskFaults {
    fn default() -> Self {
        DiskFaults {
            read_error_per_million: 0,
            write_error_per_million: 0,
            flush_error_per_million: 0,
            bit_rot_per_million: 0,
            lost_write_per_million: 0,
            misdirected_write_per_million: 0,
            slow_factor: 1,
        }
    }
}

impl DiskFaults {
    pub(super) fn per_million(&self, fault: Fault) -> u32 {
        match fault {
            Fault::Read => self.read_error_per_million,
            Fault::Write => self.write_error_per_million,
            Fault::Flush => self.flush_error_per_million,
            Fault::BitRot => self.bit_rot_per_million,
            Fault::LostWrite => self.lost_write_per_million,
            Fault::MisdirectedWrite => self.misdirected_write_per_million,
        }
    }
}

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
