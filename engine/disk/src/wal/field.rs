//! Little-endian fields: written into a batch, read from bytes that verified.
//!
//! Bytes that verified were written by this program, but maybe by another version of it: reading never panics.

use buckets_env::AlignedBuf;

/// Bytes that grow by appending, aligned for direct I/O.
pub(crate) struct FieldBuf {
    buffer: AlignedBuf,
    len: usize,
}

impl FieldBuf {
    /// Begins with `reserved` bytes for a header.
    pub(crate) fn with_capacity(capacity: usize, reserved: usize) -> FieldBuf {
        let mut buffer = AlignedBuf::with_len(capacity.max(reserved));
        let whole = buffer.capacity();
        buffer.set_len(whole);
        FieldBuf { buffer, len: reserved }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        let end = self.len + value.len();
        if end > self.buffer.len() {
            self.grow(end);
        }
        self.buffer[self.len..end].copy_from_slice(value);
        self.len = end;
    }

    /// A length and the bytes.
    pub(crate) fn long_bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.bytes(value);
    }

    /// Overwrites four bytes written before.
    pub(crate) fn patch_u32(&mut self, at: usize, value: u32) {
        self.buffer[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Pads with zeroes to `len` bytes, which become the buffer's length.
    pub(crate) fn into_padded(mut self, len: usize) -> AlignedBuf {
        assert!(len >= self.len);
        if len > self.buffer.len() {
            self.grow(len);
        }
        self.buffer[self.len..len].fill(0);
        self.buffer.set_len(len);
        self.buffer
    }

    #[cold]
    fn grow(&mut self, need: usize) {
        let mut larger = AlignedBuf::with_len(need.max(self.buffer.len() * 4));
        let whole = larger.capacity();
        larger.set_len(whole);
        larger[..self.len].copy_from_slice(&self.buffer[..self.len]);
        self.buffer = larger;
    }
}

/// Reads fields off the front; `None` past the end.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn long_bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(len as usize)
    }
}
