//! Body framing: where, in the bytes that follow a head, the body's own bytes lie.
//!
//! What must hold: a framing never copies. It says how many bytes to drop and how many of the next ones are data; whoever holds the
//! bytes moves them. So framings stack (aws-chunked inside HTTP chunks), and data that is still to come can be read from the socket
//! straight to where it belongs.

use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// Why a body is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// It does not follow its grammar.
    #[error("the body is malformed: {0}")]
    Malformed(&'static str),
    /// It ended before its announced end.
    #[error("the body ended early")]
    Incomplete,
    /// It is longer than announced.
    #[error("the body is longer than announced")]
    TooLong,
    /// A chunk's or the trailer's signature is not the one computed.
    #[error("a signature inside the body does not match")]
    Signature,
    /// The trailer does not follow its grammar, or is not the one announced.
    #[error("the trailer is malformed")]
    Trailer,
    /// The hash of the whole body is not the one announced.
    #[error("the hash of the body does not match: computed {computed}")]
    PayloadHash {
        /// As lower-case hex.
        computed: String,
    },
}

/// One framing.
pub(crate) trait Framer {
    /// How many of the next bytes are data. 0: framing follows, or the body is at its end.
    fn data_left(&self) -> u64;
    /// Reads framing at the start of `input` until data begins or `input` ends; returns the bytes read. Only called while
    /// [`Framer::data_left`] is 0 and the body is not at its end.
    fn skip_framing(&mut self, input: &[u8]) -> Result<usize, FramingError>;
    /// Says that `data`, not more than [`Framer::data_left`], was moved.
    fn advance(&mut self, data: &[u8]);
    /// Whether the body is complete.
    fn is_done(&self) -> bool;
}

/// A body of known length, and the body that is absent.
#[derive(Debug)]
pub(crate) struct Length {
    left: u64,
}

impl Length {
    pub(crate) fn new(length: u64) -> Length {
        Length { left: length }
    }
}

impl Framer for Length {
    fn data_left(&self) -> u64 {
        self.left
    }
    fn skip_framing(&mut self, _: &[u8]) -> Result<usize, FramingError> {
        Ok(0)
    }
    fn advance(&mut self, data: &[u8]) {
        assert!(data.len() as u64 <= self.left, "more was moved than there is");
        self.left -= data.len() as u64;
    }
    fn is_done(&self) -> bool {
        self.left == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    /// In the size, after so many digits.
    Size {
        digits: u8,
    },
    /// After the size, up to the end of the line.
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// At the start of a line of the trailer.
    TrailerStart,
    TrailerLine,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

/// `Transfer-Encoding: chunked`, strictly: hex digits, CR LF after each size and each chunk. Extensions and trailers are read over,
/// within limits.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: ChunkState,
    left: u64,
    /// Bytes of the current line, or of the whole trailer.
    line_bytes: usize,
}

impl Chunked {
    pub(crate) fn new() -> Chunked {
        Chunked { state: ChunkState::Size { digits: 0 }, left: 0, line_bytes: 0 }
    }

    fn step(&mut self, byte: u8) -> Result<ChunkState, FramingError> {
        let malformed = |what| Err(FramingError::Malformed(what));
        self.line_bytes += 1;
        Ok(match self.state {
            ChunkState::Size { digits } => match (byte, (byte as char).to_digit(16)) {
                (_, Some(_)) if digits == 15 => return malformed("a chunk size has too many digits"),
                (_, Some(digit)) => {
                    self.left = self.left << 4 | u64::from(digit);
                    ChunkState::Size { digits: digits + 1 }
                }
                _ if digits == 0 => return malformed("a chunk has no size"),
                (b'\r', _) => ChunkState::SizeLineFeed,
                (b';' | b' ' | b'\t', _) => ChunkState::Extension,
                _ => return malformed("a chunk size is not hexadecimal"),
            },
            ChunkState::Extension if self.line_bytes > CHUNK_LINE_BYTES_MAX => {
                return malformed("a chunk extension is too long");
            }
            ChunkState::Extension => match byte {
                b'\r' => ChunkState::SizeLineFeed,
                b'\n' => return malformed("a chunk size ends without CR"),
                _ => ChunkState::Extension,
            },
            ChunkState::SizeLineFeed if byte == b'\n' => {
                self.line_bytes = 0;
                if self.left == 0 { ChunkState::TrailerStart } else { ChunkState::Data }
            }
            ChunkState::DataReturn if byte == b'\r' => ChunkState::DataLineFeed,
            ChunkState::DataLineFeed if byte == b'\n' => {
                self.line_bytes = 0;
                ChunkState::Size { digits: 0 }
            }
            ChunkState::TrailerStart | ChunkState::TrailerLine if self.line_bytes > TRAILER_BYTES_MAX => {
                return malformed("the trailer is too long");
            }
            ChunkState::TrailerStart if byte == b'\r' => ChunkState::LastLineFeed,
            ChunkState::TrailerStart | ChunkState::TrailerLine => match byte {
                b'\r' => ChunkState::TrailerLineFeed,
                b'\n' => return malformed("a trailer line ends without CR"),
                _ => ChunkState::TrailerLine,
            },
            ChunkState::TrailerLineFeed if byte == b'\n' => ChunkState::TrailerStart,
            ChunkState::LastLineFeed if byte == b'\n' => ChunkState::Done,
            _ => return malformed("CR LF is missing"),
        })
    }
}

impl Framer for Chunked {
    fn data_left(&self) -> u64 {
        if self.state == ChunkState::Data { self.left } else { 0 }
    }

    fn skip_framing(&mut self, input: &[u8]) -> Result<usize, FramingError> {
        for (at, byte) in input.iter().enumerate() {
            if matches!(self.state, ChunkState::Data | ChunkState::Done) {
                return Ok(at);
            }
            self.state = self.step(*byte)?;
        }
        Ok(input.len())
    }

    fn advance(&mut self, data: &[u8]) {
        assert!(self.state == ChunkState::Data && data.len() as u64 <= self.left);
        self.left -= data.len() as u64;
        if self.left == 0 {
            self.state = ChunkState::DataReturn;
        }
    }

    fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reads `wire` through `framer`, given in pieces of `piece` bytes; returns the data and the bytes used.
    pub(crate) fn decode(
        framer: &mut dyn Framer,
        wire: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, usize), FramingError> {
        let mut data = Vec::new();
        let mut used = 0;
        for input in wire.chunks(piece.max(1)) {
            let mut rest = input;
            while !rest.is_empty() && !framer.is_done() {
                let moved = (framer.data_left().min(rest.len() as u64)) as usize;
                if moved > 0 {
                    framer.advance(&rest[..moved]);
                    data.extend_from_slice(&rest[..moved]);
                    rest = &rest[moved..];
                } else {
                    let skipped = framer.skip_framing(rest)?;
                    rest = &rest[skipped..];
                }
            }
            used += input.len() - rest.len();
        }
        if framer.is_done() { Ok((data, used)) } else { Err(FramingError::Incomplete) }
    }

    #[test]
    fn chunks_are_joined_however_the_bytes_arrive() {
        let wire = b"4\r\nWiki\r\n6;name=value\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\nZ: w\r\n\r\nGET ";
        for piece in 1..wire.len() {
            let (data, used) = decode(&mut Chunked::new(), wire, piece).unwrap();
            assert_eq!(data, b"Wikipedia in \r\n\r\nchunks.");
            assert_eq!(&wire[used..], b"GET ");
        }
        assert_eq!(decode(&mut Chunked::new(), b"000\r\n\r\n", 99).unwrap(), (vec![], 7));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n0\r\n\r\n",
            b" 1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1;x\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\na\r0\r\n\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\n\rX",
            b"ffffffffffffffff\r\n",
            b"10000000000000000\r\n",
        ] {
            let result = decode(&mut Chunked::new(), wire, 1);
            assert!(matches!(result, Err(FramingError::Malformed(_))), "{wire:?} {result:?}");
        }
        let long = [b"1;".to_vec(), vec![b'x'; CHUNK_LINE_BYTES_MAX]].concat();
        assert!(matches!(decode(&mut Chunked::new(), &long, 7), Err(FramingError::Malformed(_))));
        let long = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(TRAILER_BYTES_MAX)].concat();
        assert!(matches!(decode(&mut Chunked::new(), &long, 7), Err(FramingError::Malformed(_))));
    }

    #[test]
    fn a_body_that_stops_is_incomplete() {
        for wire in [&b""[..], b"4", b"4\r\nWi", b"4\r\nWiki\r\n", b"0\r\n", b"0\r\n\r"] {
            assert_eq!(decode(&mut Chunked::new(), wire, 1), Err(FramingError::Incomplete), "{wire:?}");
        }
        assert_eq!(decode(&mut Length::new(3), b"ab", 1), Err(FramingError::Incomplete));
        assert_eq!(decode(&mut Length::new(2), b"abc", 1), Ok((b"ab".to_vec(), 2)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_chunk_reader(wire in "[0-9a-f;\\r\\nx]{0,60}", piece in 1usize..9) {
            let _ = decode(&mut Chunked::new(), wire.as_bytes(), piece);
        }
    }
}
