//! Files on the disk ring.

use crate::{AlignedBuf, AlignedBytes, WriteMode};
use std::io;

/// A file on the disk ring.
#[derive(Clone)]
pub struct RealFile {}

impl RealFile {
    pub(crate) async fn read_at(&self, _offset: u64, _len: usize) -> io::Result<AlignedBuf> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn write_at(
        &self,
        _offset: u64,
        _data: AlignedBytes,
        _mode: WriteMode,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn punch_hole(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn size(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
