//! What was read from a connection and not used yet.

use crate::limits::HEAD_BYTES_MAX;
use buckets_env::Stream;
use std::io;

/// Bytes asked of the socket at once, where it is not known how many belong together.
const READ_BYTES: usize = 8 << 10;
/// An idle connection keeps no more than this.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// The read-ahead of one connection: never more than the longest head and one read.
pub(crate) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Input {
        Input { bytes: Vec::new(), start: 0, end: 0 }
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Says that the first `count` bytes were used.
    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start);
        self.start += count;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > KEPT_BYTES_MAX {
                self.bytes = Vec::new();
            }
        }
    }

    /// Reads some bytes behind the unread ones; 0 at the end of the stream.
    pub(crate) async fn read(&mut self, stream: &mut Stream) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        assert!(self.end <= HEAD_BYTES_MAX, "what is unread is used, or refused, before more is read");
        if self.bytes.len() < self.end + READ_BYTES {
            self.bytes.resize(self.end + READ_BYTES, 0);
        }
        let count = stream.read(&mut self.bytes[self.end..]).await?;
        self.end += count;
        Ok(count)
    }
}
