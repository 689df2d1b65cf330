//! What was read from a connection and not used yet.

use crate::limits::HEAD_BYTES_MAX;
use buckets_env::Stream;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// Bytes asked of the socket at once, where it is not known how many belong together.
const READ_BYTES: usize = 8 << 10;
/// Buffers of one core that wait for their next use.
const SPARE_MAX: usize = 64;

/// Buffers of one core, each [`READ_BYTES`] long: a connection holds one only while something is unread, so that ten
/// thousand idle ones cost next to nothing.
#[derive(Default)]
pub(crate) struct InputBuffers {
    spare: RefCell<Vec<Vec<u8>>>,
}

impl InputBuffers {
    fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| vec![0; READ_BYTES])
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && buffer.len() >= READ_BYTES {
            buffer.truncate(READ_BYTES);
            buffer.shrink_to_fit();
            spare.push(buffer);
        }
    }
}

/// The read-ahead of one connection: never more than the longest head and one read.
pub(crate) struct Input {
    buffers: Rc<InputBuffers>,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new(buffers: Rc<InputBuffers>) -> Input {
        Input { buffers, bytes: Vec::new(), start: 0, end: 0 }
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
            self.buffers.give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Reads some bytes behind the unread ones; 0 at the end of the stream.
    pub(crate) async fn read(&mut self, stream: &mut Stream) -> io::Result<usize> {
        if self.is_empty() {
            stream.readable().await?;
            if self.bytes.is_empty() {
                self.bytes = self.buffers.take();
            }
        }
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
