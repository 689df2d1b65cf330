//! What a bad disk does, on purpose: in the simulator, and on the disks of a real node that is being tested
//! ([`crate::real::set_disk_faults`]).

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
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
    pub(crate) fn per_million(&self, fault: Fault) -> u32 {
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
