//! Every limit of the protocol, with its unit last, and the relations that must hold between them.

use crate::frame::{HEAD_BYTES_MAX, HEADER_BYTES, PAYLOAD_BYTES_MAX};

/// Longest frame of the handshake, in bytes: all that is read of a peer that has proved nothing.
pub const HANDSHAKE_BYTES_MAX: usize = 1024;

/// The numbers of one connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Own questions that wait for answers.
    pub asking_max: usize,
    /// Questions of the peer that are being served.
    pub serving_max: usize,
    /// Payloads of the peer's questions that are being served together, in bytes.
    pub serving_bytes_max: usize,
    /// Questions and answers that wait to be written together, in bytes: above it no question is taken, and no frame of the
    /// peer is read until it has taken some of its answers.
    pub outgoing_bytes_max: usize,
    /// The same for messages that want no answer; these go before questions and answers, and over the limit are dropped.
    pub urgent_bytes_max: usize,
    /// One write takes no more frames than come to this, in bytes (one frame may be longer).
    pub batch_bytes_max: usize,
}

impl Limits {
    /// As in production.
    pub const PRODUCTION: Limits = Limits {
        asking_max: 8192,
        serving_max: 4096,
        serving_bytes_max: 64 << 20,
        outgoing_bytes_max: 64 << 20,
        urgent_bytes_max: 32 << 20,
        batch_bytes_max: 1 << 20,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::PRODUCTION
    }
}

const FRAME_BYTES_MAX: usize = HEADER_BYTES + HEAD_BYTES_MAX + PAYLOAD_BYTES_MAX;
// The longest frames fit, one behind the other.
const _: () = assert!(
    Limits::PRODUCTION.outgoing_bytes_max >= 2 * FRAME_BYTES_MAX
        && Limits::PRODUCTION.serving_bytes_max >= 2 * FRAME_BYTES_MAX
        && Limits::PRODUCTION.urgent_bytes_max >= 2 * (HEADER_BYTES + HEAD_BYTES_MAX)
);
// Lengths travel in 32 bits.
const _: () = assert!(HEAD_BYTES_MAX <= u32::MAX as usize && PAYLOAD_BYTES_MAX <= u32::MAX as usize);
