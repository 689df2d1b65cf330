//! Frames out of a channel.
//!
//! What must hold: memory follows what has arrived, not what was announced, until a head is verified; a payload is read into
//! its own buffers, past this one, but for what came along with its head; while nothing has arrived no buffer is held.

use crate::channel::ChannelReadHalf;
use buckets_env::{AlignedBuf, AlignedBytes};
use buckets_rpc::frame::{BadFrame, FrameHeader, Opened, OpenedHead, PayloadShape, open};
use buckets_rpc::session::{Opener, PayloadCheck};
use bytes::Bytes;
use std::io;

/// Asked of the channel at a time.
const READ_BYTES: usize = 64 << 10;
/// The same where a payload is expected again: what comes along with its head has to be copied.
const READ_BYTES_BESIDE_PAYLOADS: usize = 4 << 10;
/// From here on a payload is worth that.
const LARGE_PAYLOAD_BYTES: usize = 64 << 10;
/// Bytes of a payload asked for at a time: they are verified while they are in the CPU's cache.
const PAYLOAD_READ_BYTES: usize = 256 << 10;

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InboxError {
    #[error("the connection ended")]
    Ended,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Bad(#[from] BadFrame),
}

/// A whole, verified frame.
pub(crate) struct Incoming {
    pub(crate) header: FrameHeader,
    pub(crate) head: Bytes,
    pub(crate) payload: Vec<AlignedBytes>,
}

/// What reads the frames of one channel.
pub(crate) struct Inbox<F> {
    reading: ChannelReadHalf,
    opener: Opener,
    /// Called when anything has arrived.
    heard: F,
    buffer: Option<AlignedBuf>,
    start: usize,
    end: usize,
    expects_payload: bool,
}

impl<F: Fn()> Inbox<F> {
    pub(crate) fn new(reading: ChannelReadHalf, opener: Opener, heard: F) -> Inbox<F> {
        Inbox { reading, opener, heard, buffer: None, start: 0, end: 0, expects_payload: false }
    }

    /// The next frame. Once dropped before its end nothing more can be read.
    pub(crate) async fn next(&mut self) -> Result<Incoming, InboxError> {
        loop {
            let unread = match &self.buffer {
                Some(buffer) => &buffer[self.start..self.end],
                None => &[],
            };
            let needs = match open(&mut self.opener, unread)? {
                Opened::Head(OpenedHead { header, head, payload, bytes }) => {
                    // A copy, so that a small head that is kept does not keep the buffer.
                    let head = Bytes::copy_from_slice(head);
                    self.start += bytes;
                    self.expects_payload =
                        payload.as_ref().is_some_and(|(shape, _)| shape.bytes >= LARGE_PAYLOAD_BYTES);
                    let payload = match payload {
                        Some((shape, check)) => self.payload(shape, check).await?,
                        None => Vec::new(),
                    };
                    return Ok(Incoming { header, head, payload });
                }
                Opened::Needs(bytes) => bytes,
            };
            self.fill(needs).await?;
        }
    }

    /// Reads on towards `needs` unread bytes.
    async fn fill(&mut self, needs: usize) -> Result<(), InboxError> {
        let unread = self.end - self.start;
        if unread == 0 {
            self.buffer = None;
            self.reading.readable().await?;
        }
        let at_once = if self.expects_payload { READ_BYTES_BESIDE_PAYLOADS } else { READ_BYTES };
        // A long head grows the buffer as it comes.
        let wanted = needs.min(2 * unread).max(at_once);
        let mut buffer = match self.buffer.take() {
            Some(buffer) if self.start + wanted <= buffer.len() => buffer,
            Some(mut buffer) if wanted <= buffer.len() => {
                buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, unread);
                buffer
            }
            old => {
                let mut buffer = AlignedBuf::with_len(wanted.max(READ_BYTES));
                if let Some(old) = old {
                    buffer[..unread].copy_from_slice(&old[self.start..self.end]);
                }
                (self.start, self.end) = (0, unread);
                buffer
            }
        };
        let read = self.reading.read(&mut buffer[self.end..self.start + wanted]).await;
        self.buffer = Some(buffer);
        let read = read?;
        if read == 0 {
            return Err(InboxError::Ended);
        }
        (self.heard)();
        self.end += read;
        Ok(())
    }

    async fn payload(
        &mut self,
        shape: PayloadShape,
        mut check: PayloadCheck,
    ) -> Result<Vec<AlignedBytes>, InboxError> {
        let mut pieces = Vec::new();
        for len in shape.pieces() {
            let mut piece = AlignedBuf::with_len(len);
            let mut filled = self.take(&mut piece);
            check.update(&piece[..filled]);
            while filled < len {
                let limit = len.min(filled + PAYLOAD_READ_BYTES);
                let read = self.reading.read(&mut piece[filled..limit]).await?;
                if read == 0 {
                    return Err(InboxError::Ended);
                }
                (self.heard)();
                check.update(&piece[filled..filled + read]);
                filled += read;
            }
            pieces.push(piece.freeze());
        }
        if !self.opener.takes_payload(&check) {
            return Err(BadFrame::Tag.into());
        }
        Ok(pieces)
    }

    /// Moves unread bytes into `target`, as many as there are or fit.
    fn take(&mut self, target: &mut [u8]) -> usize {
        let Some(buffer) = &self.buffer else { return 0 };
        let taken = target.len().min(self.end - self.start);
        target[..taken].copy_from_slice(&buffer[self.start..self.start + taken]);
        self.start += taken;
        taken
    }
}
