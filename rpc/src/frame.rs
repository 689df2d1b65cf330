//! Frames: a fixed header, a compact head, a raw payload.
//!
//! What must hold:
//! - A frame is accepted only with the right magic and a known kind, lengths within the caps, and good tags; anything else
//!   ends the connection, for after a bad header nothing on it can be trusted.
//! - Lengths are checked before anything is allocated or waited for, and a head is verified before its payload is.
//! - A payload is never copied: it is written from where it lies, and read into memory that the reader provides.
//!
//! ```text
//!  0  magic "BKTF"                 4
//!  4  kind                         1
//!  5  flags (0)                    1
//!  6  reserved (0)                 2
//!  8  request id                   8
//! 16  deadline, ms from sending    4   (0: none)
//! 20  head length                  4
//! 24  payload length               4
//! 28  piece length                 4   (0: the payload is one piece; else all but the last piece are so long)
//! 32  tag of the payload          16   (zeroes where there is none)
//! 48  tag of bytes 0..48 and head 16
//! 64  head, then payload
//! ```
//! All integers are little-endian. The tags are drawn in [`crate::session`].

use crate::session::{Opener, PayloadCheck, Sealer, TAG_BYTES, Tag};
use bytes::{Buf, BufMut, BytesMut};

/// Bytes before the head.
pub const HEADER_BYTES: usize = 64;
/// Longest head: a Raft message with the largest entry, a page of a listing.
pub const HEAD_BYTES_MAX: usize = 8 << 20;
/// Longest payload: a run of blocks.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Shortest piece of a payload that has several, in bytes: one unit of direct I/O.
pub const PIECE_BYTES_MIN: usize = 4096;

const MAGIC: [u8; 4] = *b"BKTF";
const PAYLOAD_TAG_AT: usize = 32;
const HEAD_TAG_AT: usize = 48;
const _: () = assert!(PAYLOAD_TAG_AT + TAG_BYTES == HEAD_TAG_AT && HEAD_TAG_AT + TAG_BYTES == HEADER_BYTES);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A question that wants an answer.
    Request = 1,
    /// The answer to a question.
    Answer = 2,
    /// A question was not taken: nothing happened.
    Declined = 3,
    /// A message that wants no answer.
    OneWay = 4,
    /// Asks whether the peer is there.
    Ping = 5,
    /// It is.
    Pong = 6,
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameKind,
    /// The asker's number; what answers it repeats it.
    pub request_id: u64,
    /// Milliseconds from sending until nobody waits any more; 0 for none.
    pub deadline_ms: u32,
}

/// How a payload is cut into the pieces that it had at the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadShape {
    /// All bytes.
    pub bytes: usize,
    /// Bytes of every piece but the last, which has the rest.
    pub piece_bytes: usize,
}

impl PayloadShape {
    const NONE: PayloadShape = PayloadShape { bytes: 0, piece_bytes: 0 };

    /// Of these pieces; where they cannot be told apart by one length they arrive as one piece.
    fn of<P: AsRef<[u8]>>(pieces: &[P]) -> PayloadShape {
        let bytes = pieces.iter().map(|piece| piece.as_ref().len()).sum();
        let first = pieces.first().map_or(0, |piece| piece.as_ref().len());
        let regular = pieces.split_last().is_some_and(|(last, others)| {
            others.iter().all(|piece| piece.as_ref().len() == first)
                && (1..=first).contains(&last.as_ref().len())
        });
        let piece_bytes = if regular && first >= PIECE_BYTES_MIN { first } else { bytes };
        PayloadShape { bytes, piece_bytes }
    }

    /// The lengths of the pieces, in order.
    pub fn pieces(self) -> impl Iterator<Item = usize> {
        let count = if self.bytes == 0 { 0 } else { self.bytes.div_ceil(self.piece_bytes) };
        (0..count).map(move |at| self.piece_bytes.min(self.bytes - at * self.piece_bytes))
    }
}

/// A verified head. Its payload, where it has one, is what follows on the wire.
#[derive(Debug)]
pub struct OpenedHead<'a> {
    /// What the frame is.
    pub header: FrameHeader,
    /// The encoded question or answer.
    pub head: &'a [u8],
    /// What follows, and what verifies it.
    pub payload: Option<(PayloadShape, PayloadCheck)>,
    /// Bytes of header and head.
    pub bytes: usize,
}

/// What the front of the input is.
#[derive(Debug)]
pub enum Opened<'a> {
    /// A head.
    Head(OpenedHead<'a>),
    /// The beginning of a head: so many bytes are needed in all.
    Needs(usize),
}

/// Why bytes are no frame. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Not the protocol.
    #[error("not a frame of this protocol")]
    Magic,
    /// A kind that this version does not have.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Flags that this version does not have.
    #[error("unknown frame flags {0:#x}")]
    Flags(u8),
    /// Longer than the caps, or cut into pieces that are too short.
    #[error(
        "frame of {head} + {payload} bytes in pieces of {piece}, at most {HEAD_BYTES_MAX} + {PAYLOAD_BYTES_MAX} in pieces of \
         {PIECE_BYTES_MIN} or more are accepted"
    )]
    Lengths {
        /// Announced bytes of the head.
        head: usize,
        /// Announced bytes of the payload.
        payload: usize,
        /// Announced bytes of a piece.
        piece: usize,
    },
    /// A tag does not fit: damaged, or not of this connection and place.
    #[error("frame tag does not fit")]
    Tag,
}

/// Longer than a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {head} + {payload} bytes, at most {HEAD_BYTES_MAX} + {PAYLOAD_BYTES_MAX} can be sent")]
pub struct TooLong {
    /// Bytes of the head.
    pub head: usize,
    /// Bytes of the payload.
    pub payload: usize,
}

/// Whether head and payload fit one frame.
pub(crate) fn check_lengths<P: AsRef<[u8]>>(head: &[u8], pieces: &[P]) -> Result<(), TooLong> {
    let payload = PayloadShape::of(pieces).bytes;
    match head.len() <= HEAD_BYTES_MAX && payload <= PAYLOAD_BYTES_MAX {
        true => Ok(()),
        false => Err(TooLong { head: head.len(), payload }),
    }
}

/// Appends the header of the connection's next frame to `out`; the head and the pieces of the payload follow on the wire as
/// they are.
pub fn seal<P: AsRef<[u8]>>(
    sealer: &mut Sealer,
    header: FrameHeader,
    head: &[u8],
    pieces: &[P],
    out: &mut BytesMut,
) {
    let shape = PayloadShape::of(pieces);
    assert!(head.len() <= HEAD_BYTES_MAX && shape.bytes <= PAYLOAD_BYTES_MAX, "checked when it was queued");
    let start = out.len();
    out.put_slice(&MAGIC);
    out.put_u8(header.kind as u8);
    out.put_u8(0);
    out.put_u16_le(0);
    out.put_u64_le(header.request_id);
    out.put_u32_le(header.deadline_ms);
    // All fit: the caps are far below 4 GiB.
    out.put_u32_le(head.len() as u32);
    out.put_u32_le(shape.bytes as u32);
    out.put_u32_le(if shape.piece_bytes == shape.bytes { 0 } else { shape.piece_bytes as u32 });
    let payload_tag = if shape.bytes == 0 { [0; TAG_BYTES] } else { sealer.payload_tag(pieces) };
    out.put_slice(&payload_tag);
    let tag = sealer.head_tag(&out[start..], head);
    out.put_slice(&tag);
}

/// Takes the head of the next frame off the front of `input`, if all of it is there.
pub fn open<'a>(opener: &mut Opener, input: &'a [u8]) -> Result<Opened<'a>, BadFrame> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
        // Garbage is refused at its first wrong byte, not after 64 of them.
        let seen = input.len().min(MAGIC.len());
        return if input[..seen] == MAGIC[..seen] {
            Ok(Opened::Needs(HEADER_BYTES))
        } else {
            Err(BadFrame::Magic)
        };
    };
    let mut fields = &header[..];
    if fields[..4] != MAGIC {
        return Err(BadFrame::Magic);
    }
    fields.advance(4);
    let kind = kind_of(fields.get_u8())?;
    let flags = fields.get_u8();
    if flags != 0 {
        return Err(BadFrame::Flags(flags));
    }
    fields.advance(2);
    let header_fields =
        FrameHeader { kind, request_id: fields.get_u64_le(), deadline_ms: fields.get_u32_le() };
    let [head_bytes, payload_bytes, piece_bytes] = [(); 3].map(|()| fields.get_u32_le() as usize);
    let shape = shape_of(head_bytes, payload_bytes, piece_bytes)?;
    if rest.len() < head_bytes {
        return Ok(Opened::Needs(HEADER_BYTES + head_bytes));
    }
    let head = &rest[..head_bytes];
    if !opener.takes_head(&header[..HEAD_TAG_AT], head, &tag_at(header, HEAD_TAG_AT)) {
        return Err(BadFrame::Tag);
    }
    let payload = (shape.bytes > 0).then(|| (shape, opener.payload_check(tag_at(header, PAYLOAD_TAG_AT))));
    Ok(Opened::Head(OpenedHead { header: header_fields, head, payload, bytes: HEADER_BYTES + head_bytes }))
}

fn kind_of(number: u8) -> Result<FrameKind, BadFrame> {
    Ok(match number {
        1 => FrameKind::Request,
        2 => FrameKind::Answer,
        3 => FrameKind::Declined,
        4 => FrameKind::OneWay,
        5 => FrameKind::Ping,
        6 => FrameKind::Pong,
        other => return Err(BadFrame::Kind(other)),
    })
}

fn shape_of(head: usize, payload: usize, piece: usize) -> Result<PayloadShape, BadFrame> {
    let pieces_good = piece == 0 || (PIECE_BYTES_MIN <= piece && piece < payload);
    if head > HEAD_BYTES_MAX || payload > PAYLOAD_BYTES_MAX || !pieces_good {
        return Err(BadFrame::Lengths { head, payload, piece });
    }
    Ok(match (payload, piece) {
        (0, _) => PayloadShape::NONE,
        (bytes, 0) => PayloadShape { bytes, piece_bytes: bytes },
        (bytes, piece_bytes) => PayloadShape { bytes, piece_bytes },
    })
}

fn tag_at(header: &[u8; HEADER_BYTES], at: usize) -> Tag {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&header[at..at + TAG_BYTES]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::tests::sessions;

    const HEADER: FrameHeader = FrameHeader { kind: FrameKind::Request, request_id: 77, deadline_ms: 1500 };

    fn wire(sealer: &mut Sealer, head: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        seal(sealer, HEADER, head, pieces, &mut out);
        out.put_slice(head);
        pieces.iter().for_each(|piece| out.put_slice(piece));
        out.to_vec()
    }

    /// Takes one whole frame: its head and the pieces of its payload.
    fn take(opener: &mut Opener, input: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), BadFrame> {
        let Opened::Head(opened) = open(opener, input)? else { return Err(BadFrame::Magic) };
        assert_eq!(opened.header, HEADER);
        let mut rest = &input[opened.bytes..];
        let mut pieces = Vec::new();
        if let Some((shape, mut check)) = opened.payload {
            for len in shape.pieces() {
                pieces.push(rest[..len].to_vec());
                check.update(&rest[..len]);
                rest = &rest[len..];
            }
            if !opener.takes_payload(&check) {
                return Err(BadFrame::Tag);
            }
        }
        assert!(rest.is_empty());
        Ok((opened.head.to_vec(), pieces))
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_wait_for_their_bytes() {
        let (mut here, mut there) = sessions();
        for pieces in [&[][..], &[&[7u8; 5000][..]], &[&[1; 4096], &[2; 4096], &[3; 10]]] {
            let frame = wire(&mut here.sealer, b"head", pieces);
            for end in 0..HEADER_BYTES + 4 {
                let needs = open(&mut there.opener, &frame[..end]).unwrap();
                assert!(matches!(needs, Opened::Needs(bytes) if bytes > end), "{end}");
            }
            let (head, taken) = take(&mut there.opener, &frame).unwrap();
            assert_eq!((head, taken), (b"head".to_vec(), pieces.iter().map(|p| p.to_vec()).collect()));
        }
    }

    #[test]
    fn pieces_that_one_length_cannot_tell_apart_arrive_as_one() {
        let (mut here, mut there) = sessions();
        for pieces in [[&[1u8; 4096][..], &[2; 5000]], [&[1; 10], &[2; 10]], [&[1; 5000], &[]]] {
            let frame = wire(&mut here.sealer, b"", &pieces);
            assert_eq!(take(&mut there.opener, &frame).unwrap().1, vec![pieces.concat()]);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (mut here, mut there) = sessions();
        let good = wire(&mut here.sealer, b"head", &[b"payload"]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (mut here, mut there) = sessions();
            wire(&mut here.sealer, b"head", &[b"payload"]);
            assert!(take(&mut there.opener, &bad).is_err(), "bit {bit}");
        }
        assert!(take(&mut there.opener, &good).is_ok());
    }

    #[test]
    fn a_frame_is_good_in_its_place_alone() {
        let (mut here, mut there) = sessions();
        let first = wire(&mut here.sealer, b"first", &[b"payload"]);
        let second = wire(&mut here.sealer, b"second", &[]);
        // Out of order, to the side it came from, twice.
        assert_eq!(take(&mut there.opener, &second), Err(BadFrame::Tag));
        assert_eq!(take(&mut here.opener, &first), Err(BadFrame::Tag));
        assert!(take(&mut there.opener, &first).is_ok());
        assert_eq!(take(&mut there.opener, &first), Err(BadFrame::Tag));
        assert!(take(&mut there.opener, &second).is_ok());
    }

    #[test]
    fn lengths_are_refused_before_anything_is_waited_for() {
        let (mut here, mut there) = sessions();
        let good = wire(&mut here.sealer, b"", &[]);
        for (at, value) in [(20, u32::MAX), (24, u32::MAX), (28, 1), (28, 4096)] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(matches!(open(&mut there.opener, &bad), Err(BadFrame::Lengths { .. })));
        }
        assert!(matches!(open(&mut there.opener, b"GE"), Err(BadFrame::Magic)));
    }
}
