//! TCP listeners and streams.

use crate::{dispatch, real};
use std::io;
use std::net::SocketAddr;

/// A listening socket of one core.
pub enum Listener {
    /// Real TCP.
    Real(real::RealListener),
    /// In the simulator.
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimListener),
}

impl Listener {
    /// The next connection. The future must not be dropped before it ends (one dedicated accept task):
    /// a dropped one may leak a socket.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Real(l) => Ok(Stream::Real(l.accept().await?)),
            #[cfg(feature = "sim")]
            Self::Sim(l) => Ok(Stream::Sim(l.accept().await?)),
        }
    }

    /// The bound address (with the port that was picked).
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        dispatch!(self, l => l.local_address())
    }
}

/// A connected byte stream, TCP_NODELAY set. One reader and one writer at a time.
pub enum Stream {
    /// Real TCP.
    Real(real::RealStream),
    /// In the simulator.
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimStream),
}

impl Stream {
    /// Waits until there may be something to read (bytes, the end, an error), so that a buffer is needed only then. May
    /// end early; the read then waits.
    pub async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Real(s) => s.readable().await,
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        }
    }

    /// Reads some bytes into `buf`; 0 at the end of the stream.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        dispatch!(self, s => s.read(buf).await)
    }

    /// Writes all of `data`.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        dispatch!(self, s => s.write_all(data).await)
    }

    /// Writes all of the slices, in order, with as few system calls as the socket allows (writev).
    pub async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        dispatch!(self, s => s.write_all_vectored(data).await)
    }

    /// Ends the write side (FIN); reading goes on.
    pub async fn shutdown_write(&mut self) -> io::Result<()> {
        dispatch!(self, s => s.shutdown_write().await)
    }

    /// The peer's address.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        dispatch!(self, s => s.peer_address())
    }
}
