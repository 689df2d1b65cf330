//! The body of a request, from the socket into the engine's buffers.
//!
//! What must hold:
//! - Nothing is read past the end of the body but what arrived together with bytes that had to be looked at.
//! - On the plain path the socket is read straight into the caller's buffer.
//! - The end of the body (0 bytes) is only reported after everything that was announced of it held: length, hash, signatures.

use super::input::Input;
use super::options::Limits;
use super::watch::{Waiting, Watch};
use crate::http::body::{Chunked, Framer, FramingError, Length};
use crate::http::head::{Framing, Head};
use crate::http::response::CONTINUE;
use crate::s3::auth::{Payload, signing};
use crate::s3::aws_chunked::AwsChunked;
use crate::s3::checksum;
use crate::s3::error::{Code, S3Error, S3Result};
use buckets_engine::object::api::{BodyError, BodySource, ChecksumAlgorithm};
use buckets_env::{Env, Instant, Stream};
use sha2::{Digest, Sha256};

/// Data is read past the read-ahead where at least so much of it is known to follow.
const DIRECT_BYTES_MIN: u64 = 4 << 10;
/// Bytes hashed before other tasks get their turn: about 150 us.
const HASH_SLICE_BYTES: usize = 256 << 10;
/// Bytes of an unwanted body that are read over to keep the connection.
const DISCARD_BYTES_MAX: u64 = 256 << 10;

enum Outer {
    Length(Length),
    Chunked(Chunked),
}

/// What is left of a body that its operation did not read to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    Nothing,
    /// So many bytes, few enough to be read over.
    Few(u64),
    /// The connection cannot be used further.
    TooMuch,
}

/// A body that is being read.
pub(crate) struct RequestBody<'a> {
    stream: &'a mut Stream,
    input: &'a mut Input,
    watch: &'a Watch,
    env: &'a Env,
    limits: &'a Limits,
    outer: Outer,
    inner: Option<AwsChunked>,
    /// Bytes of the decoded body, where they were announced.
    length: Option<u64>,
    hash: Option<(Sha256, [u8; 32])>,
    continue_is_due: bool,
    started: Option<Instant>,
    received: u64,
    ended: bool,
    /// Why the body is wrong: what the client is to be told, whatever the engine made of it.
    failure: Option<S3Error>,
}

impl<'a> RequestBody<'a> {
    pub(crate) fn new(
        head: &Head,
        stream: &'a mut Stream,
        input: &'a mut Input,
        watch: &'a Watch,
        env: &'a Env,
        limits: &'a Limits,
    ) -> RequestBody<'a> {
        let (outer, length) = match head.framing() {
            Framing::None => (Outer::Length(Length::new(0)), Some(0)),
            Framing::Length(length) => (Outer::Length(Length::new(length)), Some(length)),
            Framing::Chunked => (Outer::Chunked(Chunked::new()), None),
        };
        RequestBody {
            stream,
            input,
            watch,
            env,
            limits,
            outer,
            inner: None,
            length,
            hash: None,
            continue_is_due: head.expects_continue(),
            started: None,
            received: 0,
            ended: false,
            failure: None,
        }
    }

    /// Takes up what the signature says of the body. Before this, nothing may be read.
    pub(crate) fn expect(&mut self, head: &Head, payload: Payload) -> S3Result<()> {
        assert!(self.started.is_none());
        let announced = head.header("x-amz-trailer");
        let inner = match payload {
            Payload::Unsigned => None,
            Payload::Sha256(expected) => {
                self.hash = Some((Sha256::new(), expected));
                None
            }
            Payload::SignedChunks { signer, trailer } => {
                Some(AwsChunked::new(Some(signer), announced.filter(|_| trailer)))
            }
            Payload::UnsignedChunks => Some(AwsChunked::new(None, announced)),
        };
        if inner.is_some() {
            let decoded = head.header("x-amz-decoded-content-length");
            let plain = decoded.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = plain.and_then(|text| text.parse().ok());
            self.length = Some(length.ok_or(Code::MissingContentLength)?);
            self.inner = inner;
        }
        Ok(())
    }

    /// Bytes of the decoded body, where they were announced.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Decoded bytes read so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Why the body is wrong, where it is.
    pub(crate) fn failure(&self) -> Option<&S3Error> {
        self.failure.as_ref()
    }

    /// Reads the whole body, which must be a small document.
    pub(crate) async fn read_document(&mut self, bytes_max: usize) -> S3Result<Vec<u8>> {
        if self.length.is_some_and(|length| length > bytes_max as u64) {
            return Err(Code::MaxMessageLengthExceeded.with("MaxMessageLengthBytes", bytes_max.to_string()));
        }
        let mut document = vec![0; self.length.unwrap_or(4096) as usize];
        let mut filled = 0;
        loop {
            if filled == document.len() {
                // One more byte than there should be, to see the end.
                document.resize(filled + 1 + filled.min(4096), 0);
            }
            match self.read(&mut document[filled..]).await? {
                0 => break,
                count => filled += count,
            }
            if filled > bytes_max {
                return Err(
                    Code::MaxMessageLengthExceeded.with("MaxMessageLengthBytes", bytes_max.to_string())
                );
            }
        }
        document.truncate(filled);
        Ok(document)
    }

    /// Fills part of `buf`; 0 at the end of a body that is what it was announced to be.
    pub(crate) async fn read(&mut self, buf: &mut [u8]) -> S3Result<usize> {
        assert!(!buf.is_empty(), "an empty buffer cannot tell the end of the body");
        if self.ended {
            return Ok(0);
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        match self.read_on(buf).await {
            Ok(0) => {
                self.ended = true;
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(error) => {
                self.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    async fn read_on(&mut self, buf: &mut [u8]) -> S3Result<usize> {
        if self.started.is_none() {
            self.started = Some(self.env.now());
        }
        loop {
            let count = self.take_from_input(buf)?;
            if count > 0 {
                return self.accept(&buf[..count]).await;
            }
            if self.is_done() {
                self.verify_end()?;
                return Ok(0);
            }
            if !self.input.is_empty() {
                // Framing was read over; what follows it is looked at again.
                continue;
            }
            self.say_continue().await?;
            let ahead = self.direct_bytes();
            let count = if ahead > 0 {
                let end = buf.len().min(usize::try_from(ahead).unwrap_or(usize::MAX));
                let deadline = self.deadline();
                let read = self.stream.read(&mut buf[..end]);
                let count = self.watch.guard(deadline, Waiting::Busy, read).await;
                let count = count.map_err(|_| Code::RequestTimeout)?.map_err(|_| Code::IncompleteBody)?;
                if count > 0 {
                    self.advance_outer(&buf[..count]);
                    return self.accept(&buf[..count]).await;
                }
                count
            } else {
                let deadline = self.deadline();
                let read = self.input.read(self.stream);
                let count = self.watch.guard(deadline, Waiting::Busy, read).await;
                count.map_err(|_| Code::RequestTimeout)?.map_err(|_| Code::IncompleteBody)?
            };
            if count == 0 {
                return Err(Code::IncompleteBody.into());
            }
        }
    }

    /// Moves what is data at the start of the read-ahead, after any framing. The outer framing knows of it already, the inner one
    /// not yet.
    fn take_from_input(&mut self, buf: &mut [u8]) -> Result<usize, FramingError> {
        while !self.input.is_empty() {
            let outer = outer(&mut self.outer);
            if outer.data_left() == 0 {
                if outer.is_done() {
                    return Ok(0);
                }
                let skipped = outer.skip_framing(self.input.unread())?;
                self.input.consume(skipped);
                continue;
            }
            let unread = self.input.unread();
            let window = &unread[..unread.len().min(clamp(outer.data_left()))];
            let data = match &mut self.inner {
                None => window,
                Some(inner) if inner.is_done() => return Err(FramingError::TooLong),
                Some(inner) if inner.data_left() == 0 => {
                    let skipped = inner.skip_framing(window)?;
                    outer.advance(&window[..skipped]);
                    self.input.consume(skipped);
                    continue;
                }
                Some(inner) => &window[..window.len().min(clamp(inner.data_left()))],
            };
            let count = data.len().min(buf.len());
            buf[..count].copy_from_slice(&data[..count]);
            outer.advance(&data[..count]);
            self.input.consume(count);
            return Ok(count);
        }
        Ok(0)
    }

    /// How many of the bytes that the socket will bring next are certainly data and worth a read of their own.
    fn direct_bytes(&mut self) -> u64 {
        let plain = matches!(self.outer, Outer::Length(_)) && self.inner.is_none();
        let outer = outer(&mut self.outer).data_left();
        let ahead = self.inner.as_ref().map_or(outer, |inner| outer.min(inner.data_left()));
        if plain || ahead >= DIRECT_BYTES_MIN { ahead } else { 0 }
    }

    fn advance_outer(&mut self, data: &[u8]) {
        outer(&mut self.outer).advance(data);
    }

    /// Takes data that was moved: into the hashes that run over it, in slices.
    async fn accept(&mut self, data: &[u8]) -> S3Result<usize> {
        self.received += data.len() as u64;
        if self.length.is_some_and(|length| self.received > length) {
            return Err(FramingError::TooLong.into());
        }
        if self.inner.is_none() && self.hash.is_none() {
            return Ok(data.len());
        }
        for slice in data.chunks(HASH_SLICE_BYTES) {
            if let Some(inner) = &mut self.inner {
                inner.advance(slice);
            }
            if let Some((hasher, _)) = &mut self.hash {
                hasher.update(slice);
            }
            self.env.yield_if_needed().await;
        }
        Ok(data.len())
    }

    fn is_done(&mut self) -> bool {
        outer(&mut self.outer).is_done()
    }

    fn verify_end(&mut self) -> Result<(), FramingError> {
        if self.inner.as_ref().is_some_and(|inner| !inner.is_done()) {
            return Err(FramingError::Incomplete);
        }
        if self.length.is_some_and(|length| self.received != length) {
            return Err(FramingError::Incomplete);
        }
        if let Some((hasher, expected)) = self.hash.take() {
            let computed: [u8; 32] = hasher.finalize().into();
            if computed != expected {
                let computed = String::from_utf8_lossy(&signing::hex(&computed)).into_owned();
                return Err(FramingError::PayloadHash { computed });
            }
        }
        Ok(())
    }

    /// Tells a client that waits with its body that it is wanted.
    async fn say_continue(&mut self) -> S3Result<()> {
        if !self.continue_is_due {
            return Ok(());
        }
        self.continue_is_due = false;
        let deadline = self.deadline();
        let write = self.stream.write_all(CONTINUE);
        let written = self.watch.guard(deadline, Waiting::Busy, write).await;
        written.map_err(|_| Code::RequestTimeout)?.map_err(|_| S3Error::from(Code::IncompleteBody))
    }

    /// The next bytes must come soon, and all of them at a least rate.
    fn deadline(&self) -> Instant {
        let now = self.env.now();
        let started = self.started.unwrap_or(now);
        now.after(self.limits.body_timeout).min(started.after(self.limits.body_allowance(self.received)))
    }

    /// What the operation left of the body.
    pub(crate) fn leftover(&mut self) -> Leftover {
        let left = outer(&mut self.outer).data_left();
        let is_done = self.is_done();
        match self.outer {
            _ if self.failure.is_some() => Leftover::TooMuch,
            _ if is_done => Leftover::Nothing,
            // Nobody knows whether the client will send what it was not told to send.
            _ if self.continue_is_due => Leftover::TooMuch,
            Outer::Length(_) if left <= DISCARD_BYTES_MAX => Leftover::Few(left),
            Outer::Length(_) | Outer::Chunked(_) => Leftover::TooMuch,
        }
    }
}

fn outer(outer: &mut Outer) -> &mut dyn Framer {
    match outer {
        Outer::Length(length) => length,
        Outer::Chunked(chunked) => chunked,
    }
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl BodySource for RequestBody<'_> {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError> {
        self.read(buf).await.map_err(|error| match error.code {
            Code::IncompleteBody => BodyError::Incomplete,
            Code::RequestTimeout => BodyError::Timeout,
            _ => BodyError::Invalid(error.message.into_owned()),
        })
    }

    fn trailing_checksum(&self) -> Option<(ChecksumAlgorithm, Vec<u8>)> {
        let trailer = self.inner.as_ref()?.trailer();
        trailer.iter().find_map(|(name, value)| {
            let names = checksum::ALL.iter().find(|names| names.header == name)?;
            // A value that cannot be decoded differs from every value computed.
            Some((names.algorithm, checksum::decode(names.algorithm, value).unwrap_or_default()))
        })
    }
}
