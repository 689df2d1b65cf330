//! Frames: a fixed header, a compact head, a raw payload.
//!
//! What must hold:
//! - A frame is accepted only with the right magic, a known version and type, lengths within the caps, and both
//!   checksums good; anything else ends the connection, for after a bad header nothing on it can be trusted.
//! - Lengths are checked before anything is allocated or waited for.
//! - The header's checksum covers the lengths, so that a flipped bit in them is never followed.
//!
//! ```text
//!  0  magic "BKT1"                4
//!  4  version                     1
//!  5  type                        1
//!  6  flags (0)                   2
//!  8  request id                  8
//! 16  deadline, ms from sending   4   (0: none)
//! 20  head length                 4
//! 24  payload length              4
//! 28  reserved (0)                4
//! 32  checksum of head + payload  8   XXH3-64
//! 40  checksum of bytes 0..40     8   XXH3-64
//! 48  head, then payload
//! ```
//! All integers are little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes before the head.
pub const HEADER_BYTES: usize = 48;
/// Longest head.
pub const HEAD_BYTES_MAX: usize = 1 << 20;
/// Longest payload: one block with room to spare.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The version that this build writes; it reads the same.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"BKT1";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// The first frame of a connection: who is there, and the proof of the deployment's secret.
    Hello = 1,
    /// A question that wants an answer.
    Request = 2,
    /// The answer to a question.
    Response = 3,
    /// A message that wants no answer.
    OneWay = 4,
    /// Keeps the connection known to be alive.
    Ping = 5,
}

/// What a frame says before its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameType,
    /// The asker's number; an answer repeats it.
    pub request_id: u64,
    /// Milliseconds from sending until nobody waits any more; 0 for none.
    pub deadline_ms: u32,
}

/// A whole, verified frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// The encoded question or answer.
    pub head: Bytes,
    /// Raw bytes that belong to it.
    pub payload: Bytes,
}

/// Why the bytes are no frame. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Not the protocol.
    #[error("not a frame of this protocol")]
    Magic,
    /// A version that this build does not read.
    #[error("frame version {0}, this build reads version {VERSION}")]
    Version(u8),
    /// A type that this version does not have.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// Longer than the caps.
    #[error("frame of {head} + {payload} bytes, at most {HEAD_BYTES_MAX} + {PAYLOAD_BYTES_MAX} are accepted")]
    TooLong {
        /// Announced bytes of the head.
        head: usize,
        /// Announced bytes of the payload.
        payload: usize,
    },
    /// A checksum does not fit.
    #[error("frame checksum does not fit")]
    Checksum,
}

/// Encodes header and head; the payload follows on the wire as it is, without a copy.
pub fn encode(header: FrameHeader, head: &[u8], payload: &[u8]) -> Bytes {
    assert!(head.len() <= HEAD_BYTES_MAX && payload.len() <= PAYLOAD_BYTES_MAX);
    let mut out = BytesMut::with_capacity(HEADER_BYTES + head.len());
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(header.kind as u8);
    out.put_u16_le(0);
    out.put_u64_le(header.request_id);
    out.put_u32_le(header.deadline_ms);
    // Both fit: the caps are far below 4 GiB.
    out.put_u32_le(head.len() as u32);
    out.put_u32_le(payload.len() as u32);
    out.put_u32_le(0);
    out.put_u64_le(body_checksum(head, payload));
    out.put_u64_le(xxh3_64(&out));
    out.put_slice(head);
    out.freeze()
}

/// Takes the next frame off the front of `buffer`; `None` where more bytes are needed.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
    let Some((mut header, _)) = buffer.split_first_chunk::<HEADER_BYTES>().map(|(h, rest)| (&h[..], rest))
    else {
        // Garbage is refused at its first wrong byte, not after 48 of them.
        let seen = buffer.len().min(MAGIC.len());
        return if buffer[..seen] == MAGIC[..seen] { Ok(None) } else { Err(BadFrame::Magic) };
    };
    if header[..4] != MAGIC {
        return Err(BadFrame::Magic);
    }
    if xxh3_64(&header[..40]) != u64::from_le_bytes(last_eight(header)) {
        return Err(BadFrame::Checksum);
    }
    header.advance(4);
    let version = header.get_u8();
    if version != VERSION {
        return Err(BadFrame::Version(version));
    }
    let kind = frame_type(header.get_u8())?;
    header.advance(2);
    let request_id = header.get_u64_le();
    let deadline_ms = header.get_u32_le();
    let (head_len, payload_len) = (header.get_u32_le() as usize, header.get_u32_le() as usize);
    if head_len > HEAD_BYTES_MAX || payload_len > PAYLOAD_BYTES_MAX {
        return Err(BadFrame::TooLong { head: head_len, payload: payload_len });
    }
    header.advance(4);
    let checksum = header.get_u64_le();
    let total = HEADER_BYTES + head_len + payload_len;
    if buffer.len() < total {
        buffer.reserve(total - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(total).freeze();
    frame.advance(HEADER_BYTES);
    let head = frame.split_to(head_len);
    if body_checksum(&head, &frame) != checksum {
        return Err(BadFrame::Checksum);
    }
    Ok(Some(Frame { header: FrameHeader { kind, request_id, deadline_ms }, head, payload: frame }))
}

fn frame_type(number: u8) -> Result<FrameType, BadFrame> {
    Ok(match number {
        1 => FrameType::Hello,
        2 => FrameType::Request,
        3 => FrameType::Response,
        4 => FrameType::OneWay,
        5 => FrameType::Ping,
        other => return Err(BadFrame::Type(other)),
    })
}

fn body_checksum(head: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(payload);
    hash.digest()
}

fn last_eight(header: &[u8]) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&header[HEADER_BYTES - 8..HEADER_BYTES]);
    eight
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: FrameHeader = FrameHeader { kind: FrameType::Request, request_id: 77, deadline_ms: 1500 };

    fn wire() -> BytesMut {
        let mut wire = BytesMut::from(&encode(HEADER, b"head", b"payload")[..]);
        wire.extend_from_slice(b"payload");
        wire
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let mut two = wire();
        two.extend_from_slice(&wire());
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in two {
            buffer.put_u8(byte);
            frames.extend(decode(&mut buffer).unwrap());
        }
        assert_eq!(frames.len(), 2);
        for frame in frames {
            assert_eq!(
                (frame.header, &frame.head[..], &frame.payload[..]),
                (HEADER, &b"head"[..], &b"payload"[..])
            );
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let good = wire();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&mut bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_are_refused_before_anything_is_waited_for() {
        let mut long = BytesMut::from(&encode(HEADER, b"", b"")[..]);
        long[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = xxh3_64(&long[..40]);
        long[40..48].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(decode(&mut long), Err(BadFrame::TooLong { .. })));
        assert_eq!(decode(&mut BytesMut::from(&b"GE"[..])), Err(BadFrame::Magic));
    }
}
