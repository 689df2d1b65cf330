//! TCP: system calls first, the core's ring only to wait until a socket is ready.
//!
//! What must hold: every socket has TCP_NODELAY; a slow or flooding peer cannot keep the core to itself (each
//! call gives way when the slice is used up); a write to a gone peer is an error, no signal.

use super::core::Core;
use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_reuseaddr, set_socket_reuseport, set_tcp_keepcnt, set_tcp_keepidle,
    set_tcp_keepintvl, set_tcp_nodelay, set_tcp_user_timeout, socket_error,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType, accept_with,
    bind, connect, getpeername, getsockname, listen, recv, send, sendmsg, shutdown, socket_with,
};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// Slices handed to one system call; Linux takes 1024.
const SLICES_PER_CALL_MAX: usize = 64;
/// Connections that the kernel accepts ahead of a listener.
const BACKLOG: i32 = 1024;
/// Unanswered probes after which a silent connection is given up.
const KEEPALIVE_PROBES: u32 = 3;

/// A listening TCP socket of one core. Other cores listen on the same address with their own.
pub struct RealListener {
    core: Rc<Core>,
    socket: Rc<OwnedFd>,
}

impl RealListener {
    pub(super) fn bind(core: &Rc<Core>, address: SocketAddr) -> io::Result<RealListener> {
        let socket = new_socket(address)?;
        set_socket_reuseport(&socket, true)?;
        // What is left of the connections of a killed process must not keep its successor from its port. The
        // accepted sockets inherit it.
        set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(RealListener { core: core.clone(), socket: Rc::new(socket) })
    }

    pub(crate) async fn accept(&self) -> io::Result<RealStream> {
        loop {
            self.core.yield_if_needed().await;
            let socket = match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(rustix::io::Errno::AGAIN) => {
                    self.core.ring.ready(&self.socket, libc::POLLIN).await?;
                    continue;
                }
                // The peer gave up while it waited in the backlog.
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // Fails where the peer has already reset the connection; the first read says so.
            if let Err(error) = set_tcp_nodelay(&socket, true) {
                tracing::debug!(%error, "no TCP_NODELAY on a new connection");
            }
            return Ok(RealStream::new(&self.core, socket));
        }
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::try_from(getsockname(&self.socket)?)?)
    }
}

fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// A connected TCP socket.
pub struct RealStream {
    reading: RealReadHalf,
    writing: RealWriteHalf,
}

/// What reads of a connected TCP socket.
pub struct RealReadHalf {
    core: Rc<Core>,
    socket: Rc<OwnedFd>,
    /// A read may find something: the last one has not emptied the socket.
    readable: bool,
}

/// What writes to a connected TCP socket.
pub struct RealWriteHalf {
    core: Rc<Core>,
    socket: Rc<OwnedFd>,
}

impl RealStream {
    pub(super) fn new(core: &Rc<Core>, socket: OwnedFd) -> RealStream {
        let socket = Rc::new(socket);
        RealStream {
            reading: RealReadHalf { core: core.clone(), socket: socket.clone(), readable: false },
            writing: RealWriteHalf { core: core.clone(), socket },
        }
    }

    pub(super) async fn connect(core: &Rc<Core>, address: SocketAddr) -> io::Result<RealStream> {
        let stream = RealStream::new(core, new_socket(address)?);
        let socket = &stream.writing.socket;
        set_tcp_nodelay(socket, true)?;
        match connect(socket, &address) {
            Ok(()) => {}
            // The kernel goes on with it.
            Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {
                core.ring.ready(socket, libc::POLLOUT).await?;
                socket_error(socket)??;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(stream)
    }

    pub(crate) fn split(self) -> (RealReadHalf, RealWriteHalf) {
        (self.reading, self.writing)
    }

    /// The socket alone, for another core.
    pub(crate) fn detach(self) -> io::Result<OwnedFd> {
        let RealStream { reading, writing } = self;
        drop(writing);
        match Rc::try_unwrap(reading.socket) {
            Ok(socket) => Ok(socket),
            // A wait that was given up is still in the ring: it keeps its own handle until the kernel has answered.
            Err(shared) => shared.try_clone(),
        }
    }

    pub(crate) fn keep_alive(&self, limit: Duration) -> io::Result<()> {
        let socket = &self.writing.socket;
        // Half of the time in silence, the other half in probes. The kernel counts in seconds.
        let half = Duration::from_secs((limit.as_secs() / 2).max(1));
        let between = Duration::from_secs((half.as_secs() / u64::from(KEEPALIVE_PROBES)).max(1));
        set_socket_keepalive(socket, true)?;
        set_tcp_keepidle(socket, half)?;
        set_tcp_keepintvl(socket, between)?;
        set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
        Ok(set_tcp_user_timeout(socket, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?)
    }

    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        self.reading.readable().await
    }

    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reading.read(buf).await
    }

    pub(crate) async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.writing.write_all(data).await
    }

    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        self.writing.write_all_vectored(data).await
    }

    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        self.writing.shutdown_write().await
    }

    pub(crate) fn peer_address(&self) -> io::Result<SocketAddr> {
        match getpeername(&self.writing.socket)? {
            Some(address) => Ok(SocketAddr::try_from(address)?),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl RealReadHalf {
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        if !self.readable {
            self.core.ring.ready(&self.socket, libc::POLLIN).await?;
            self.readable = true;
        }
        Ok(())
    }

    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.core.yield_if_needed().await;
            self.readable().await?;
            match recv(&self.socket, &mut *buf, RecvFlags::DONTWAIT) {
                Ok((read, _)) => {
                    // The end of the stream stays readable.
                    self.readable = read == 0 || read == buf.len();
                    return Ok(read);
                }
                Err(rustix::io::Errno::AGAIN) => self.readable = false,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl RealWriteHalf {
    pub(crate) async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = self.write_once(&[IoSlice::new(data)]).await?;
            data = &data[written..];
        }
        Ok(())
    }

    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            data.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut rest: &mut [IoSlice<'_>] = &mut slices;
        while !rest.is_empty() {
            let written = self.write_once(&rest[..rest.len().min(SLICES_PER_CALL_MAX)]).await?;
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }

    /// Sends what the socket takes, at least one byte.
    async fn write_once(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            self.core.yield_if_needed().await;
            let sent = match parts {
                [part] => send(&self.socket, part, flags),
                _ => sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags),
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => return Ok(sent),
                Err(rustix::io::Errno::AGAIN) => {
                    self.core.ring.ready(&self.socket, libc::POLLOUT).await?;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) async fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }
}
