//! TCP.

use std::io;
use std::net::SocketAddr;

/// A listening TCP socket of one core.
pub struct RealListener {}

impl RealListener {
    pub(crate) async fn accept(&self) -> io::Result<RealStream> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A connected TCP socket.
pub struct RealStream {}

impl RealStream {
    pub(crate) async fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn write_all(&mut self, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn write_all_vectored(&mut self, _data: &[&[u8]]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
