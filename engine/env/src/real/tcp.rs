//! TCP on glommio's reactor: system calls first, the ring only to wait until a socket is ready.
//!
//! What must hold: every socket has TCP_NODELAY; a slow or flooding peer cannot keep the core to itself (each
//! call gives way when the slice is used up); a write to a gone peer is an error, no signal (Rust's runtime ignores
//! SIGPIPE, on which glommio's own send relies).

use super::core::Core;
use super::kernel;
use futures::{AsyncReadExt, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;

/// Slices handed to one system call; Linux takes 1024.
const SLICES_PER_CALL_MAX: usize = 64;

/// A listening TCP socket of one core. Other cores listen on the same address with their own.
pub struct RealListener {
    core: Rc<Core>,
    listener: TcpListener,
}

impl RealListener {
    pub(super) fn bind(core: &Rc<Core>, address: SocketAddr) -> io::Result<RealListener> {
        // glommio sets SO_REUSEPORT and a backlog of 1024.
        Ok(RealListener { core: core.clone(), listener: TcpListener::bind(address)? })
    }

    pub(crate) async fn accept(&self) -> io::Result<RealStream> {
        loop {
            self.core.yield_if_needed().await;
            let stream = match self.listener.accept().await.map_err(io::Error::from) {
                Ok(stream) => stream,
                // The peer gave up while it waited in the backlog.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            // Inherited by none of glommio's sockets; fails only on what is no socket.
            kernel::reuse_address(&stream)?;
            // Fails where the peer has already reset the connection; the first read says so.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY on a new connection");
            }
            return Ok(RealStream { core: self.core.clone(), stream });
        }
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }
}

/// A connected TCP socket.
pub struct RealStream {
    core: Rc<Core>,
    stream: TcpStream,
}

impl RealStream {
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.core.yield_if_needed().await;
        self.stream.read(buf).await
    }

    pub(crate) async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            self.core.yield_if_needed().await;
            let written = self.write_when_ready(data).await?;
            data = &data[written..];
        }
        Ok(())
    }

    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            data.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut rest: &mut [IoSlice<'_>] = &mut slices;
        while !rest.is_empty() {
            self.core.yield_if_needed().await;
            let batch = &rest[..rest.len().min(SLICES_PER_CALL_MAX)];
            let sent = match kernel::send_now(&self.stream, batch) {
                // glommio has no "wait until writable" but in its write: that sends the first slice.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.write_when_ready(&rest[0]).await?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            IoSlice::advance_slices(&mut rest, sent);
        }
        Ok(())
    }

    async fn write_when_ready(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_write(cx, data)).await?;
        if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
    }

    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write).await?)
    }

    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        Ok(self.stream.peer_addr()?)
    }
}
