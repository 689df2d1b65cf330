//! TLS over a stream.
//!
//! What must hold:
//! - Not a byte of the protocol is read of who has not shown a certificate that the CA signed, and none is written to who has
//!   not shown one for its name.
//! - Before that little is read, and kept: a connection is not worth more to a stranger than it is without TLS.
//! - A connection that is idle holds no buffer of ours; TLS itself keeps one, of a record (18 KiB) at most.
//! - The end of a stream needs no farewell: every frame says for itself whether it is whole.

use crate::HandshakeError;
pub(crate) use crate::certificates::Tls;
use crate::shake::NoSession;
use buckets_env::{AlignedBuf, ReadHalf, Stream, WriteHalf};
use buckets_rpc::handshake::HandshakeFrame;
use rustls::{ClientConnection, Connection, ServerConnection};
use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::rc::Rc;

/// Read of a stream at a time.
const READ_BYTES: usize = 64 << 10;
/// The same while the peer is a stranger.
const STRANGER_READ_BYTES: usize = 4 << 10;
/// Read of a stranger in all: certificates with all that leads to the CA come to a few KiB.
const STRANGER_BYTES_MAX: usize = 64 << 10;
/// As many slices are encrypted together as there may be in one write.
const SLICES_MAX: usize = 64;
/// Bytes by which a frame of the handshake is known.
const BEGIN_BYTES: usize = 4;

/// A TLS connection over a stream, attached to a core or not.
pub(crate) struct TlsStream<S> {
    stream: S,
    connection: Connection,
    incoming: Incoming,
}

/// What came of the stream and was not given to TLS yet.
#[derive(Default)]
struct Incoming {
    buffer: Option<AlignedBuf>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn unread(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    /// Where to read to, behind what is there.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            if self.buffer.as_ref().is_some_and(|buffer| buffer.len() != bytes) {
                self.buffer = None;
            }
        }
        let buffer = self.buffer.get_or_insert_with(|| AlignedBuf::with_len(bytes));
        &mut buffer[self.end..]
    }
}

impl<S> TlsStream<S> {
    /// The same connection over the same stream in another state.
    pub(crate) fn map_stream<T>(self, map: impl FnOnce(S) -> T) -> TlsStream<T> {
        let TlsStream { stream, connection, incoming } = self;
        TlsStream { stream: map(stream), connection, incoming }
    }

    /// The same where that may fail.
    pub(crate) fn try_map_stream<T>(self, map: impl FnOnce(S) -> io::Result<T>) -> io::Result<TlsStream<T>> {
        let TlsStream { stream, connection, incoming } = self;
        Ok(TlsStream { stream: map(stream)?, connection, incoming })
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }
}

impl TlsStream<Stream> {
    pub(crate) fn connecting(stream: Stream, tls: &Tls, host: &str) -> Result<Self, NoSession> {
        let connection = ClientConnection::new(tls.client(), Tls::name(host)?)?;
        Ok(TlsStream { stream, connection: connection.into(), incoming: Incoming::default() })
    }

    pub(crate) fn accepting(stream: Stream, tls: &Tls) -> Result<Self, NoSession> {
        let connection = ServerConnection::new(tls.server())?;
        Ok(TlsStream { stream, connection: connection.into(), incoming: Incoming::default() })
    }

    /// Shows certificates to each other. Who connects does not know yet whether its own was accepted when this ends.
    pub(crate) async fn secure(&mut self) -> Result<(), NoSession> {
        let mut read_bytes = 0;
        loop {
            self.write_pending().await.map_err(|_| HandshakeError::Ended)?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            read_bytes += self.read_more(STRANGER_READ_BYTES).await.map_err(|_| HandshakeError::Ended)?;
            if read_bytes < BEGIN_BYTES {
                continue;
            }
            if read_bytes == self.incoming.end && HandshakeFrame::begins(self.incoming.unread()) {
                return Err(HandshakeError::TlsMismatch.into());
            }
            if read_bytes > STRANGER_BYTES_MAX {
                return Err(HandshakeError::Oversized(read_bytes).into());
            }
            while !self.incoming.is_empty() && self.connection.is_handshaking() {
                if let Err(error) = feed(&mut self.connection, &mut self.incoming) {
                    // The alert that says why.
                    let _ = self.write_pending().await;
                    return Err(NoSession::of_io(&error));
                }
            }
        }
    }

    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = open(&mut self.connection, &mut self.incoming, buf)? {
                return Ok(read);
            }
            match self.read_more(STRANGER_READ_BYTES).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => read?,
            };
        }
    }

    pub(crate) async fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let mut slices = [IoSlice::new(data)];
        let mut rest = &mut slices[..];
        while rest.iter().any(|slice| !slice.is_empty()) {
            let sealed = seal(&mut self.connection, &mut rest)?;
            self.stream.write_all(&sealed).await?;
        }
        Ok(())
    }

    /// Sends a refusal. TLS has told the peer what TLS has found; who does not speak TLS is told without it.
    pub(crate) async fn refuse(&mut self, error: HandshakeError, frame: &[u8]) -> io::Result<()> {
        match error {
            HandshakeError::TlsMismatch => self.stream.write_all(frame).await,
            _ if self.connection.is_handshaking() => Ok(()),
            _ => self.write_all(frame).await,
        }
    }

    pub(crate) fn split(self) -> (TlsReadHalf, TlsWriteHalf) {
        let (reading, writing) = self.stream.split();
        let connection = Rc::new(RefCell::new(self.connection));
        let reading = TlsReadHalf { reading, connection: connection.clone(), incoming: self.incoming };
        (reading, TlsWriteHalf { writing, connection })
    }

    async fn read_more(&mut self, bytes: usize) -> io::Result<usize> {
        match self.stream.read(self.incoming.room(bytes)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.incoming.end += read;
                Ok(read)
            }
        }
    }

    async fn write_pending(&mut self) -> io::Result<()> {
        let pending = pending(&mut self.connection)?;
        if pending.is_empty() { Ok(()) } else { self.stream.write_all(&pending).await }
    }
}

/// What reads of a connection.
pub(crate) struct TlsReadHalf {
    reading: ReadHalf,
    connection: Rc<RefCell<Connection>>,
    incoming: Incoming,
}

impl TlsReadHalf {
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        let is_blocked = match self.connection.borrow_mut().reader().into_first_chunk() {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => false,
        };
        if !is_blocked || !self.incoming.is_empty() {
            return Ok(());
        }
        self.incoming.buffer = None;
        self.reading.readable().await
    }

    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = open(&mut self.connection.borrow_mut(), &mut self.incoming, buf)? {
                return Ok(read);
            }
            match self.reading.read(self.incoming.room(READ_BYTES)).await? {
                0 => return Ok(0),
                read => self.incoming.end += read,
            }
        }
    }
}

/// What writes to a connection.
pub(crate) struct TlsWriteHalf {
    writing: WriteHalf,
    connection: Rc<RefCell<Connection>>,
}

impl TlsWriteHalf {
    pub(crate) async fn write_all_vectored(&mut self, data: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            data.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let sealed = seal(&mut self.connection.borrow_mut(), &mut rest)?;
            self.writing.write_all(&sealed).await?;
        }
        Ok(())
    }
}

/// Gives TLS the next bytes that came. Errors: of TLS, with a [`rustls::Error`] within.
fn feed(connection: &mut Connection, incoming: &mut Incoming) -> io::Result<()> {
    let taken = connection.read_tls(&mut incoming.unread())?;
    incoming.start += taken;
    if taken == 0 {
        // It was told that the peer is done.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(())
}

/// Decrypts into `buf` what came, as much as fits; 0 at the end, `None` where more has to come first.
fn open(connection: &mut Connection, incoming: &mut Incoming, buf: &mut [u8]) -> io::Result<Option<usize>> {
    let mut filled = 0;
    loop {
        match connection.reader().read(&mut buf[filled..]) {
            Ok(0) => return Ok(Some(filled)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if incoming.is_empty() {
                    return Ok((filled > 0).then_some(filled));
                }
                feed(connection, incoming)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Encrypts as much as TLS takes at a time, takes it off `plain`, and gives what to write.
fn seal(connection: &mut Connection, plain: &mut &mut [IoSlice<'_>]) -> io::Result<Vec<u8>> {
    let taken = connection.writer().write_vectored(&plain[..plain.len().min(SLICES_MAX)])?;
    if taken == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    IoSlice::advance_slices(plain, taken);
    pending(connection)
}

/// What TLS wants to write.
fn pending(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut pending = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut pending)?;
    }
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::Pem;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    /// Both ends of a connection that is secured, and of which nothing was said yet.
    fn connected() -> (Connection, Connection) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["node1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let (ca, certificate, key) = (issuer.pem(), own.pem(), key.serialize_pem());
        let pem = Pem { ca: ca.as_bytes(), certificate: certificate.as_bytes(), key: key.as_bytes() };
        let tls = Tls::new(pem, Some("node1")).unwrap();
        let mut here: Connection =
            ClientConnection::new(tls.client(), Tls::name("node1").unwrap()).unwrap().into();
        let mut there: Connection = ServerConnection::new(tls.server()).unwrap().into();
        while here.is_handshaking() || there.is_handshaking() {
            carry(&mut here, &mut there);
            carry(&mut there, &mut here);
        }
        (here, there)
    }

    fn incoming(data: &[u8]) -> Incoming {
        let mut incoming = Incoming::default();
        incoming.room(data.len().max(1))[..data.len()].copy_from_slice(data);
        incoming.end = data.len();
        incoming
    }

    fn carry(from: &mut Connection, to: &mut Connection) {
        let mut incoming = incoming(&pending(from).unwrap());
        while !incoming.is_empty() {
            feed(to, &mut incoming).unwrap();
        }
    }

    fn sealed(connection: &mut Connection, parts: &[&[u8]]) -> Vec<u8> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let (mut rest, mut sealed) = (&mut slices[..], Vec::new());
        while !rest.is_empty() {
            sealed.extend(seal(connection, &mut rest).unwrap());
        }
        sealed
    }

    /// Opens what comes in pieces of `cut` bytes, into buffers of `room` bytes.
    fn opened(connection: &mut Connection, sealed: &[u8], cut: usize, room: usize) -> Vec<u8> {
        let (mut opened, mut buffer) = (Vec::new(), vec![0; room]);
        for piece in sealed.chunks(cut) {
            let mut incoming = incoming(piece);
            while let Some(read) = open(connection, &mut incoming, &mut buffer).unwrap() {
                opened.extend_from_slice(&buffer[..read]);
            }
        }
        opened
    }

    #[test]
    fn what_is_sealed_is_opened_however_it_is_cut() {
        let (mut here, mut there) = connected();
        let body: Vec<u8> = (0..300_000_u32).map(|n| (n * 7) as u8).collect();
        for (cut, room) in [(1, 1 << 20), (5, 3), (4096, 16), (65_536, 4096), (1 << 20, 262_144)] {
            let length = if cut < 100 { 20_000 } else { body.len() };
            let parts = [&body[..64], &body[64..length]];
            let sealed = sealed(&mut here, &parts);
            assert!(opened(&mut there, &sealed, cut, room) == body[..length], "{cut} {room}");
        }
    }

    #[test]
    fn keys_may_change_under_way() {
        let (mut here, mut there) = connected();
        for round in 0..4_u8 {
            here.refresh_traffic_keys().unwrap();
            let data = [round; 1000];
            let there_hears = sealed(&mut here, &[&data]);
            assert_eq!(opened(&mut there, &there_hears, 700, 4096), data);
            // The answer brings the other direction's keys along.
            let here_hears = sealed(&mut there, &[&data]);
            assert_eq!(opened(&mut here, &here_hears, 700, 4096), data);
        }
    }

    #[test]
    fn a_changed_byte_ends_it() {
        let (mut here, mut there) = connected();
        let mut sealed = sealed(&mut here, &[b"a frame"]);
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        let error = open(&mut there, &mut incoming(&sealed), &mut [0; 100]).unwrap_err();
        assert_eq!(NoSession::of_io(&error).error, HandshakeError::Tls);
    }

    #[test]
    fn a_farewell_is_the_end() {
        let (mut here, mut there) = connected();
        here.send_close_notify();
        let mut incoming = incoming(&pending(&mut here).unwrap());
        assert_eq!(open(&mut there, &mut incoming, &mut [0; 100]).unwrap(), Some(0));
    }

    /// A connection is handed from core to core.
    const _: fn() = || {
        fn crosses_threads<T: Send>() {}
        crosses_threads::<TlsStream<()>>();
    };
}
