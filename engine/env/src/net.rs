//! TCP listeners and streams.
//!
//! What must hold: a stream belongs to one core; what crosses to another is a [`DetachedStream`], which nobody reads or
//! writes. Whoever drops the last part of a stream, attached or not, closes it.

use crate::{dispatch, real};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

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

impl Stream {
    /// The two directions, for two tasks of this core. The connection ends when both are dropped.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Real(s) => {
                let (reading, writing) = s.split();
                (ReadHalf::Real(reading), WriteHalf::Real(writing))
            }
            #[cfg(feature = "sim")]
            Self::Sim(s) => {
                let (reading, writing) = s.split();
                (ReadHalf::Sim(reading), WriteHalf::Sim(writing))
            }
        }
    }

    /// Makes the stream ready for another core: see [`crate::Env::attach`]. What was not read stays in it.
    pub fn detach(self) -> io::Result<DetachedStream> {
        match self {
            Self::Real(s) => Ok(DetachedStream::Real(s.detach()?)),
            #[cfg(feature = "sim")]
            Self::Sim(s) => Ok(DetachedStream::Sim(s.detach())),
        }
    }

    /// Lets the kernel end the connection where the peer's machine has not been heard of, or has taken nothing, for `limit`
    /// (whole seconds, at least two).
    pub fn keep_alive(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Real(s) => s.keep_alive(limit),
            // The simulated network gives up in a time of its own.
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        }
    }
}

/// A stream on its way to another core of the same process.
pub enum DetachedStream {
    /// A socket.
    Real(OwnedFd),
    /// In the simulator.
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimDetached),
}

/// What reads of a stream.
pub enum ReadHalf {
    /// Real TCP.
    Real(real::RealReadHalf),
    /// In the simulator.
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimReadHalf),
}

impl ReadHalf {
    /// As [`Stream::readable`].
    pub async fn readable(&mut self) -> io::Result<()> {
        dispatch!(self, s => s.readable().await)
    }

    /// Reads some bytes into `buf`; 0 at the end of the stream. A dropped read has taken nothing.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        dispatch!(self, s => s.read(buf).await)
    }
}

/// What writes to a stream.
pub enum WriteHalf {
    /// Real TCP.
    Real(real::RealWriteHalf),
    /// In the simulator.
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimWriteHalf),
}

impl WriteHalf {
    /// Writes all of `data`. A dropped write may have written a part.
    pub async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        dispatch!(self, s => s.write_all(data).await)
    }

    /// As [`Stream::write_all_vectored`].
    pub async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        dispatch!(self, s => s.write_all_vectored(data).await)
    }

    /// Ends the write side (FIN).
    pub async fn shutdown_write(&mut self) -> io::Result<()> {
        dispatch!(self, s => s.shutdown_write().await)
    }
}
