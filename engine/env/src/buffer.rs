//! Aligned buffers for direct I/O.
//!
//! What must hold: address and capacity are multiples of [`ALIGNMENT`]; every byte is initialised (a reused
//! buffer holds old bytes, never uninitialised memory); a frozen buffer is immutable. Buffers are `Send`: a
//! stripe filled on one core is written by another without a copy. Each thread keeps a bounded pool of free
//! buffers, so that the hot path neither allocates nor zeroes.
#![expect(unsafe_code, reason = "aligned allocation has no safe interface in std")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment of every address, offset and length of direct I/O, in bytes.
pub const ALIGNMENT: usize = 4096;

/// Free bytes a thread keeps for reuse.
const POOL_BYTES_MAX: usize = 16 << 20;
/// Buffers larger than this are never kept.
const POOLED_BUFFER_BYTES_MAX: usize = 1 << 20;
const CLASSES: usize = (POOLED_BUFFER_BYTES_MAX / ALIGNMENT).trailing_zeros() as usize + 1;

#[derive(Default)]
struct Pool {
    free: [Vec<NonNull<u8>>; CLASSES],
    bytes: usize,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (class, list) in self.free.iter_mut().enumerate() {
            for pointer in list.drain(..) {
                // SAFETY: pooled pointers were allocated with exactly this layout and are owned by the pool.
                unsafe { dealloc(pointer.as_ptr(), layout(ALIGNMENT << class)) };
            }
        }
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::default());
}

fn layout(capacity: usize) -> Layout {
    match Layout::from_size_align(capacity, ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => unreachable!("buffer capacities are far below isize::MAX"),
    }
}

/// Capacity for `len` bytes: a power-of-two number of pages up to the pooled limit, whole pages above it.
fn capacity_for(len: usize) -> usize {
    let pages = len.max(1).div_ceil(ALIGNMENT);
    if pages * ALIGNMENT <= POOLED_BUFFER_BYTES_MAX {
        pages.next_power_of_two() * ALIGNMENT
    } else {
        pages * ALIGNMENT
    }
}

fn class_of(capacity: usize) -> Option<usize> {
    (capacity <= POOLED_BUFFER_BYTES_MAX).then(|| (capacity / ALIGNMENT).trailing_zeros() as usize)
}

/// An owned, unique, aligned buffer.
pub struct AlignedBuf {
    pointer: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer owns its memory exclusively; nothing in it is tied to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` bytes with unspecified (old) content.
    pub fn with_len(len: usize) -> AlignedBuf {
        let capacity = capacity_for(len);
        let pooled = class_of(capacity).and_then(|class| {
            POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                let pointer = pool.free[class].pop()?;
                pool.bytes -= capacity;
                Some(pointer)
            })
            .ok()
            .flatten()
        });
        let pointer = pooled.unwrap_or_else(|| {
            let layout = layout(capacity);
            // SAFETY: the layout's size is at least one page.
            let raw = unsafe { alloc_zeroed(layout) };
            NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
        });
        AlignedBuf { pointer, len, capacity }
    }

    /// A buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let mut buffer = AlignedBuf::with_len(len);
        buffer.fill(0);
        buffer
    }

    /// A copy of `data`, padded with zeroes to a whole number of pages.
    pub fn padded_copy(data: &[u8]) -> AlignedBuf {
        let mut buffer = AlignedBuf::with_len(data.len().next_multiple_of(ALIGNMENT));
        buffer[..data.len()].copy_from_slice(data);
        buffer[data.len()..].fill(0);
        buffer
    }

    /// Bytes the buffer can grow to without a new allocation.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shortens the buffer, or lengthens it within its capacity (the new bytes have unspecified content).
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity);
        self.len = len;
    }

    /// Makes the buffer immutable and shareable.
    pub fn freeze(self) -> AlignedBytes {
        let range = 0..self.len;
        AlignedBytes { buffer: Arc::new(self), range }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `pointer` is valid for `capacity >= len` initialised bytes owned by `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let kept = class_of(self.capacity).is_some_and(|class| {
            POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.bytes + self.capacity > POOL_BYTES_MAX {
                    return false;
                }
                pool.bytes += self.capacity;
                pool.free[class].push(self.pointer);
                true
            })
            .unwrap_or(false)
        });
        if !kept {
            // SAFETY: allocated in `with_len` with this layout; ownership ends here.
            unsafe { dealloc(self.pointer.as_ptr(), layout(self.capacity)) };
        }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// A shared, immutable part of an aligned buffer.
#[derive(Clone)]
pub struct AlignedBytes {
    buffer: Arc<AlignedBuf>,
    range: Range<usize>,
}

impl AlignedBytes {
    /// A part of this part, sharing the memory. Panics where `range` is out of bounds.
    pub fn slice(&self, range: Range<usize>) -> AlignedBytes {
        assert!(range.start <= range.end && range.end <= self.len());
        let start = self.range.start + range.start;
        AlignedBytes { buffer: self.buffer.clone(), range: start..start + range.len() }
    }

    /// The buffer itself where this is its last handle, for reuse.
    pub fn try_into_buf(self) -> Option<AlignedBuf> {
        Arc::try_unwrap(self.buffer).ok()
    }

    /// True where both the address and the length fit direct I/O.
    pub fn is_aligned(&self) -> bool {
        self.range.start.is_multiple_of(ALIGNMENT) && self.range.len().is_multiple_of(ALIGNMENT)
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let buffer = AlignedBuf::with_len(5000);
        let address = buffer.as_ptr() as usize;
        assert_eq!(address % ALIGNMENT, 0);
        assert_eq!(buffer.capacity(), 8192);
        drop(buffer);
        assert_eq!(AlignedBuf::with_len(8192).as_ptr() as usize, address);
    }

    #[test]
    fn slices_share_memory_and_the_last_handle_gives_the_buffer_back() {
        let mut buffer = AlignedBuf::zeroed(8192);
        buffer[4096] = 7;
        let whole = buffer.freeze();
        let part = whole.slice(4096..8192);
        assert!(part.is_aligned());
        assert_eq!(part[0], 7);
        assert!(whole.try_into_buf().is_none());
        assert!(part.try_into_buf().is_some());
    }
}
