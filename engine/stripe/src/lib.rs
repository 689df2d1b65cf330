//! Erasure coding, block checksums and stripe geometry: everything about the bytes of a stripe, and no I/O.
//!
//! What must hold:
//! - The generator matrix is fixed for ever (see [`codec`]): a chunk written by one build is decoded by every later one.
//! - ISA-L's expanded tables never leave memory: their format depends on the CPU.
//! - A block's checksum binds it to its place, so that a lost or misdirected write is seen.
//! - The cut of a body into stripes is a pure function of the layout and the body's length.

pub mod checksum;
pub mod codec;
pub mod geometry;
mod gf256;
mod kernel;

pub use buckets_ring::format::BlockChecksum;
pub use checksum::{Checksum, ChunkIdentity, checksum};
pub use codec::{Codec, ReconstructError};
pub use geometry::{BLOCK_ALIGN_BYTES, Piece, StripeLayout, StripeShape};

/// Most data chunks of one object.
pub const DATA_CHUNKS_MAX: usize = 16;
/// Most parity chunks of one object.
pub const PARITY_CHUNKS_MAX: usize = 16;
