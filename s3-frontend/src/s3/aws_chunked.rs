//! The `aws-chunked` body: chunks with a signature each, or without, and a trailer that may bring a checksum and a signature.
//!
//! ```text
//! <hex size>[;chunk-signature=<64 hex>] CR LF  <data> CR LF     any number of times
//! 0[;chunk-signature=<64 hex>] CR LF
//! [<name>:<value> (CR) LF]*  [CR LF] [x-amz-trailer-signature:<64 hex> CR LF]    where a trailer was announced
//! CR LF
//! ```
//!
//! What must hold: data is passed on as it comes, but a chunk's signature is known to be right only at its end. So whoever reads
//! must keep nothing of a body that does not end well.

use crate::http::body::{Framer, FramingError};
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::s3::auth::signing::{ChunkSigner, Hex};
use sha2::{Digest, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the line of a chunk's size.
    Size,
    Data,
    /// Between a chunk's data and its CR LF.
    DataEnd,
    /// In the trailer, or the empty line that stands for it.
    Trailer,
    Done,
}

/// The framing. Not at its end before every signature has been found right.
#[derive(Debug)]
pub(crate) struct AwsChunked {
    signer: Option<Box<ChunkSigner>>,
    /// Lower-case names of the trailer that was announced (`x-amz-trailer`).
    announced: Vec<String>,
    state: State,
    left: u64,
    line: Vec<u8>,
    /// Of the chunk that is being read.
    hasher: Sha256,
    signature: Option<Hex>,
    trailer: Vec<(String, String)>,
    trailer_bytes: usize,
    trailer_signature: Option<Vec<u8>>,
}

impl AwsChunked {
    /// `signer`: where chunks are signed. `announced`: the header `x-amz-trailer`, where there is a trailer.
    pub(crate) fn new(signer: Option<Box<ChunkSigner>>, announced: Option<&str>) -> AwsChunked {
        let announced = announced.into_iter().flat_map(|names| names.split(','));
        AwsChunked {
            signer,
            announced: announced
                .map(|name| name.trim().to_ascii_lowercase())
                .filter(|name| !name.is_empty())
                .collect(),
            state: State::Size,
            left: 0,
            line: Vec::new(),
            hasher: Sha256::new(),
            signature: None,
            trailer: Vec::new(),
            trailer_bytes: 0,
            trailer_signature: None,
        }
    }

    /// The trailer's headers, names in lower case. Complete when the body is.
    pub(crate) fn trailer(&self) -> &[(String, String)] {
        &self.trailer
    }

    /// Takes one line, without its end.
    fn take_line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        match self.state {
            State::Size => self.take_size(line),
            State::DataEnd if line.is_empty() => {
                self.verify_chunk()?;
                self.state = State::Size;
                Ok(())
            }
            State::DataEnd => Err(FramingError::Malformed("a chunk is longer than its size")),
            State::Trailer => self.take_trailer_line(line),
            State::Data | State::Done => unreachable!("lines are only read where lines are"),
        }
    }

    fn take_size(&mut self, line: &[u8]) -> Result<(), FramingError> {
        let line =
            std::str::from_utf8(line).map_err(|_| FramingError::Malformed("a chunk size is not text"))?;
        let (size, extension) = line.split_once(';').map_or((line, None), |(size, rest)| (size, Some(rest)));
        if size.is_empty() || size.len() > 15 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(FramingError::Malformed("a chunk size is not hexadecimal"));
        }
        self.left = u64::from_str_radix(size, 16)
            .map_err(|_| FramingError::Malformed("a chunk size is not hexadecimal"))?;
        if self.signer.is_some() {
            let signature = extension
                .and_then(|extension| extension.trim().strip_prefix("chunk-signature="))
                .and_then(|signature| Hex::try_from(signature.as_bytes()).ok())
                .ok_or(FramingError::Malformed("a chunk has no signature"))?;
            self.signature = Some(signature);
        }
        if self.left == 0 {
            self.verify_chunk()?;
            self.state = State::Trailer;
        } else {
            self.state = State::Data;
        }
        Ok(())
    }

    fn verify_chunk(&mut self) -> Result<(), FramingError> {
        if let (Some(signer), Some(signature)) = (&mut self.signer, self.signature.take()) {
            let hash = self.hasher.finalize_reset().into();
            if !signer.verify_chunk(&hash, &signature) {
                return Err(FramingError::Signature);
            }
        }
        Ok(())
    }

    fn take_trailer_line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        if line.is_empty() {
            let signature_due =
                self.signer.is_some() && !self.announced.is_empty() && self.trailer_signature.is_none();
            if signature_due && !self.trailer.is_empty() {
                // Some clients put an empty line before the signature of the trailer.
                return Ok(());
            }
            self.verify_trailer()?;
            self.state = State::Done;
            return Ok(());
        }
        self.trailer_bytes += line.len();
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(FramingError::Trailer);
        }
        let line = std::str::from_utf8(line).map_err(|_| FramingError::Trailer)?;
        let (name, value) = line.split_once(':').ok_or(FramingError::Trailer)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name == "x-amz-trailer-signature" {
            if self.trailer_signature.replace(value.as_bytes().to_vec()).is_some() {
                return Err(FramingError::Trailer);
            }
        } else if self.announced.contains(&name) && self.trailer.iter().all(|(known, _)| *known != name) {
            self.trailer.push((name, value.to_owned()));
        } else {
            return Err(FramingError::Trailer);
        }
        Ok(())
    }

    /// The trailer must be exactly the one that was announced, and signed where the chunks are.
    fn verify_trailer(&mut self) -> Result<(), FramingError> {
        if self.trailer.len() != self.announced.len() {
            return Err(FramingError::Trailer);
        }
        let Some(signer) = &mut self.signer else { return Ok(()) };
        match &self.trailer_signature {
            None if self.announced.is_empty() => Ok(()),
            None => Err(FramingError::Trailer),
            Some(given) => {
                let mut lines = String::new();
                for (name, value) in &self.trailer {
                    lines.push_str(&format!("{name}:{value}\n"));
                }
                if signer.verify_trailer(lines.as_bytes(), given) {
                    Ok(())
                } else {
                    Err(FramingError::Signature)
                }
            }
        }
    }
}

impl Framer for AwsChunked {
    fn data_left(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    fn skip_framing(&mut self, input: &[u8]) -> Result<usize, FramingError> {
        let mut used = 0;
        while used < input.len() && !matches!(self.state, State::Data | State::Done) {
            let rest = &input[used..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let piece = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + piece.len() > CHUNK_LINE_BYTES_MAX {
                return Err(FramingError::Malformed("a line between chunks is too long"));
            }
            self.line.extend_from_slice(piece);
            used += piece.len();
            if end.is_some() {
                used += 1;
                let mut line = std::mem::take(&mut self.line);
                if line.last() == Some(&b'\r') {
                    line.pop();
                } else if self.state != State::Trailer {
                    return Err(FramingError::Malformed("a line between chunks ends without CR"));
                }
                self.take_line(&line)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(used)
    }

    fn advance(&mut self, data: &[u8]) {
        assert!(self.state == State::Data && data.len() as u64 <= self.left);
        if self.signer.is_some() {
            self.hasher.update(data);
        }
        self.left -= data.len() as u64;
        if self.left == 0 {
            self.state = State::DataEnd;
        }
    }

    fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::date::{amz_date, parse_amz_date};
    use crate::http::body::tests::decode;
    use crate::s3::auth::signing::SigningKey;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    fn signer(seed: &str) -> Box<ChunkSigner> {
        let key = SigningKey::derive(SECRET, "20130524", "us-east-1");
        let date = amz_date(parse_amz_date("20130524T000000Z").unwrap());
        let seed = seed.as_bytes().try_into().unwrap();
        Box::new(ChunkSigner::new(key, date, "20130524/us-east-1/s3/aws4_request", seed))
    }

    const SEED: &str = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    const TRAILER_SEED: &str = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e";

    /// The published example: 65 KiB of `a` in a chunk of 64 KiB and one of 1 KiB.
    fn published() -> Vec<u8> {
        let mut wire =
            b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
                .to_vec();
        wire.extend(vec![b'a'; 65536]);
        wire.extend(
            b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n",
        );
        wire.extend(vec![b'a'; 1024]);
        wire.extend(
            b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
        );
        wire
    }

    fn published_with_trailer(before_signature: &str) -> Vec<u8> {
        let mut wire =
            b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
                .to_vec();
        wire.extend(vec![b'a'; 65536]);
        wire.extend(
            b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n",
        );
        wire.extend(vec![b'a'; 1024]);
        wire.extend(
            b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n\
              x-amz-checksum-crc32c:sOO8/Q==",
        );
        wire.extend(before_signature.as_bytes());
        wire.extend(
            b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
        );
        wire
    }

    #[test]
    fn the_published_chunks_are_accepted_however_they_arrive() {
        for piece in [1, 7, 4096, 65536 + 88, 100_000] {
            let mut framer = AwsChunked::new(Some(signer(SEED)), None);
            let (data, used) = decode(&mut framer, &published(), piece).unwrap();
            assert_eq!((data.len(), used), (66560, 66824));
            assert!(data.iter().all(|byte| *byte == b'a'));
        }
    }

    #[test]
    fn the_published_trailer_is_accepted_in_the_forms_that_clients_send() {
        for before_signature in ["\r\n", "\n", "\n\r\n", "\r\n\r\n"] {
            let mut framer = AwsChunked::new(Some(signer(TRAILER_SEED)), Some("X-Amz-Checksum-Crc32c"));
            let wire = published_with_trailer(before_signature);
            decode(&mut framer, &wire, 1000).unwrap();
            assert_eq!(framer.trailer(), [("x-amz-checksum-crc32c".to_owned(), "sOO8/Q==".to_owned())]);
        }
    }

    #[test]
    fn a_changed_byte_or_signature_is_noticed() {
        let at_data = 90 + 5000;
        let last_signature = published().len() - 10;
        for at in [at_data, last_signature, 40] {
            let mut wire = published();
            wire[at] = if wire[at] == b'1' { b'2' } else { b'1' };
            let mut framer = AwsChunked::new(Some(signer(SEED)), None);
            assert_eq!(decode(&mut framer, &wire, 999), Err(FramingError::Signature), "{at}");
        }
        let wire = String::from_utf8(published_with_trailer("\r\n")).unwrap().replace("sOO8", "sOO9");
        let mut framer = AwsChunked::new(Some(signer(TRAILER_SEED)), Some("x-amz-checksum-crc32c"));
        assert_eq!(decode(&mut framer, wire.as_bytes(), 999), Err(FramingError::Signature));
    }

    #[test]
    fn chunks_may_not_be_left_out_or_lose_their_signature() {
        let mut short = published();
        let second = 88 + 65536 + 2;
        short.drain(second..second + 86 + 1024 + 2);
        let mut framer = AwsChunked::new(Some(signer(SEED)), None);
        assert_eq!(decode(&mut framer, &short, 999), Err(FramingError::Signature));
        let mut framer = AwsChunked::new(Some(signer(SEED)), None);
        assert!(matches!(decode(&mut framer, b"1\r\na\r\n0\r\n\r\n", 9), Err(FramingError::Malformed(_))));
        let wire = published_with_trailer("\r\n");
        let end = wire.len() - b"x-amz-trailer-signature:".len() - 64 - 4;
        let mut framer = AwsChunked::new(Some(signer(TRAILER_SEED)), Some("x-amz-checksum-crc32c"));
        let unsigned = [&wire[..end], b"\r\n"].concat();
        assert_eq!(decode(&mut framer, &unsigned, 999), Err(FramingError::Incomplete));
    }

    #[test]
    fn unsigned_chunks_bring_their_trailer() {
        let wire = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
        for piece in 1..wire.len() {
            let mut framer = AwsChunked::new(None, Some("x-amz-checksum-crc32"));
            let (data, used) = decode(&mut framer, wire, piece).unwrap();
            assert_eq!((data.as_slice(), used), (&b"hello"[..], wire.len()));
            assert_eq!(framer.trailer(), [("x-amz-checksum-crc32".to_owned(), "NhCmhg==".to_owned())]);
        }
    }

    #[test]
    fn a_trailer_must_be_the_one_announced() {
        for (announced, trailer, expected) in [
            (Some("x-amz-checksum-crc32"), "", FramingError::Trailer),
            (None, "x-amz-checksum-crc32:NhCmhg==\r\n", FramingError::Trailer),
            (Some("x-amz-checksum-crc32c"), "x-amz-checksum-crc32:NhCmhg==\r\n", FramingError::Trailer),
            (Some("a"), "a:1\r\na:2\r\n", FramingError::Trailer),
            (Some("a"), "a\r\n", FramingError::Trailer),
        ] {
            let wire = format!("5\r\nhello\r\n0\r\n{trailer}\r\n");
            let mut framer = AwsChunked::new(None, announced);
            assert_eq!(decode(&mut framer, wire.as_bytes(), 5), Err(expected), "{trailer}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            "x\r\n",
            "\r\n",
            "5\nhello\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "-5\r\n",
            "1111111111111111\r\n",
        ] {
            let result = decode(&mut AwsChunked::new(None, None), wire.as_bytes(), 3);
            assert!(matches!(result, Err(FramingError::Malformed(_))), "{wire:?} {result:?}");
        }
        let long = format!("5;{}", "x".repeat(CHUNK_LINE_BYTES_MAX));
        assert!(decode(&mut AwsChunked::new(None, None), long.as_bytes(), 3).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_reader(wire in "[0-9a-f;:=\\r\\nx]{0,80}", piece in 1usize..9, signed: bool) {
            let signer = signed.then(|| signer(SEED));
            let _ = decode(&mut AwsChunked::new(signer, Some("x")), wire.as_bytes(), piece);
        }
    }
}
