//! The head of a request: its line and its headers.
//!
//! What must hold:
//! - A head is parsed in one go, from a buffer that holds it whole, into memory that the connection reuses: no allocation for a
//!   header.
//! - What two parties could read differently is refused, never repaired: a bare line feed, two lengths, a length beside a
//!   transfer coding, two hosts. Otherwise a proxy in front and this server could disagree where the next request starts.
//! - After any [`HeadError`] the connection is closed: nobody knows where the next request starts.

use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use std::ops::Range;

/// The methods that S3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Method {
    #[default]
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    /// Any other token: it ends as `MethodNotAllowed`.
    Other,
}

/// How the bytes of the body are marked off on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Framing {
    /// There is no body.
    #[default]
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a head is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the request head is malformed")]
    Malformed,
    #[error("the request head is larger than {HEAD_BYTES_MAX} bytes or has more than {HEADERS_MAX} headers")]
    TooLarge,
    #[error("the HTTP version is not supported")]
    Version,
    #[error("the length of the body is ambiguous")]
    Ambiguous,
    #[error("the transfer coding is not supported")]
    TransferCoding,
    #[error("the Host header is missing or given twice")]
    Host,
    #[error("the expectation is not supported")]
    Expectation,
}

#[derive(Clone, Debug)]
struct HeaderSpan {
    name: Range<u32>,
    value: Range<u32>,
}

/// A parsed head. Reused from request to request: [`Head::parse`] overwrites it.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// The head as it came, but header names in lower case.
    bytes: Vec<u8>,
    method: Method,
    method_text: Range<u32>,
    target: Range<u32>,
    headers: Vec<HeaderSpan>,
    framing: Framing,
    is_version_1_0: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl Head {
    /// Parses the head at the start of `input` and returns the number of its bytes, or `None` where its end has not come yet.
    pub(crate) fn parse(&mut self, input: &[u8]) -> Result<Option<usize>, HeadError> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut lines);
        let consumed = match request.parse(input) {
            Ok(httparse::Status::Complete(consumed)) if consumed <= HEAD_BYTES_MAX => consumed,
            Ok(httparse::Status::Partial) if input.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(httparse::Error::Version) => return Err(HeadError::Version),
            Err(_) => return Err(HeadError::Malformed),
        };
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed);
        };
        if has_bare_line_feed(&input[..consumed]) || target.is_empty() {
            return Err(HeadError::Malformed);
        }

        self.bytes.clear();
        self.bytes.extend_from_slice(&input[..consumed]);
        self.headers.clear();
        self.method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        self.method_text = span_in(input, method.as_bytes());
        self.target = span_in(input, target.as_bytes());
        for line in request.headers.iter() {
            let name = span_in(input, line.name.as_bytes());
            let value = span_in(input, line.value.trim_ascii());
            self.bytes[name.start as usize..name.end as usize].make_ascii_lowercase();
            self.headers.push(HeaderSpan { name, value });
        }
        self.read_framing(minor)?;
        Ok(Some(consumed))
    }

    /// Reads what the headers say about the connection and the body.
    fn read_framing(&mut self, minor: u8) -> Result<(), HeadError> {
        let mut length = None;
        let mut chunked = false;
        let mut hosts = 0;
        let mut keep_alive = minor >= 1;
        let mut expects_continue = false;
        for (name, value) in self.headers() {
            match name {
                "content-length" => {
                    if length.is_some() {
                        return Err(HeadError::Ambiguous);
                    }
                    length = Some(parse_length(value).ok_or(HeadError::Ambiguous)?);
                }
                "transfer-encoding" => {
                    if chunked || minor == 0 {
                        return Err(HeadError::Ambiguous);
                    }
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::TransferCoding);
                    }
                    chunked = true;
                }
                "host" => hosts += 1,
                "connection" => {
                    for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                        if option.eq_ignore_ascii_case(b"close") {
                            keep_alive = false;
                        } else if option.eq_ignore_ascii_case(b"keep-alive") && minor == 0 {
                            keep_alive = true;
                        }
                    }
                }
                "expect" => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(HeadError::Expectation);
                    }
                    expects_continue = minor >= 1;
                }
                _ => {}
            }
        }
        if hosts > 1 || (hosts == 0 && minor >= 1) {
            return Err(HeadError::Host);
        }
        self.framing = match (length, chunked) {
            (Some(_), true) => return Err(HeadError::Ambiguous),
            (None, true) => Framing::Chunked,
            (None | Some(0), false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
        };
        self.is_version_1_0 = minor == 0;
        self.keep_alive = keep_alive;
        // Without a body there is nothing to continue with.
        self.expects_continue = expects_continue && self.framing != Framing::None;
        Ok(())
    }

    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// The method as it was sent, for signatures.
    pub(crate) fn method_text(&self) -> &str {
        self.text(&self.method_text).unwrap_or_default()
    }

    /// The request target as it was sent.
    pub(crate) fn target(&self) -> &[u8] {
        self.slice(&self.target)
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client wants to send another request on this connection.
    pub(crate) fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client speaks HTTP/1.0, where staying connected must be said.
    pub(crate) fn is_version_1_0(&self) -> bool {
        self.is_version_1_0
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the head says anything of the body's length. (`Content-Length: 0` does, [`Framing::None`] does not tell.)
    pub(crate) fn has_length(&self) -> bool {
        self.framing != Framing::None || self.header_bytes("content-length").is_some()
    }

    /// All headers in the order they came, names in lower case, values without the blanks around them.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers
            .iter()
            .map(|header| (self.text(&header.name).unwrap_or_default(), self.slice(&header.value)))
    }

    /// The first header of that name (in lower case).
    pub(crate) fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|header| self.slice(&header.name) == name.as_bytes())
            .map(|header| self.slice(&header.value))
    }

    /// The first header of that name (in lower case), as text. A value that is not UTF-8 counts as absent where nobody could
    /// use it, which is everywhere but in user metadata.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn slice(&self, span: &Range<u32>) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }

    fn text(&self, span: &Range<u32>) -> Option<&str> {
        std::str::from_utf8(self.slice(span)).ok()
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn span_in(whole: &[u8], part: &[u8]) -> Range<u32> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    debug_assert!(start + part.len() <= whole.len());
    start as u32..(start + part.len()) as u32
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// Digits only: no sign, no blank, no list.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, HeadError> {
        let mut head = Head::default();
        match head.parse(text.as_bytes())? {
            Some(bytes) => {
                assert_eq!(bytes, text.len());
                Ok(head)
            }
            None => panic!("partial: {text:?}"),
        }
    }

    #[test]
    fn a_head_is_read_with_its_headers_in_lower_case() {
        let head = parse(
            "PUT /b/k%20?x HTTP/1.1\r\nHost: h:9000\r\nX-Amz-Meta-Name:  some Value \r\nContent-Length: 12\r\n\r\n",
        )
        .unwrap();
        assert_eq!(head.method(), Method::Put);
        assert_eq!(head.method_text(), "PUT");
        assert_eq!(head.target(), b"/b/k%20?x");
        assert_eq!(head.header("x-amz-meta-name"), Some("some Value"));
        assert_eq!(head.header("X-Amz-Meta-Name"), None);
        assert_eq!(head.framing(), Framing::Length(12));
        assert!(head.keep_alive());
        assert!(!head.expects_continue());
    }

    #[test]
    fn a_head_that_has_not_ended_waits_and_every_prefix_of_one_does() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /next";
        let mut head = Head::default();
        for end in 0..27 {
            assert_eq!(head.parse(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(head.parse(text), Ok(Some(27)));
    }

    #[test]
    fn a_head_is_reused() {
        let mut head = Head::default();
        head.parse(b"PUT /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .unwrap();
        assert!(head.expects_continue());
        head.parse(b"GET /2 HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
        assert_eq!(head.framing(), Framing::None);
        assert!(!head.expects_continue());
        assert_eq!(head.headers().count(), 1);
    }

    #[test]
    fn the_connection_header_decides_what_comes_after() {
        for (version, header, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: Keep-Alive\r\n", true),
            ("1.1", "Connection: te, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let head = parse(&format!("GET / HTTP/{version}\r\nHost: h\r\n{header}\r\n")).unwrap();
            assert_eq!(head.keep_alive(), expected, "{version} {header}");
        }
    }

    #[test]
    fn heads_that_two_parties_could_read_differently_are_refused() {
        for (lines, expected) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HeadError::Ambiguous),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", HeadError::Ambiguous),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", HeadError::Ambiguous),
            ("Content-Length: 5, 5\r\n", HeadError::Ambiguous),
            ("Content-Length: +5\r\n", HeadError::Ambiguous),
            ("Content-Length: -1\r\n", HeadError::Ambiguous),
            ("Content-Length: 0x10\r\n", HeadError::Ambiguous),
            ("Content-Length:\r\n", HeadError::Ambiguous),
            ("Content-Length: 99999999999999999999\r\n", HeadError::Ambiguous),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadError::Ambiguous),
            ("Transfer-Encoding: gzip, chunked\r\n", HeadError::TransferCoding),
            ("Transfer-Encoding: identity\r\n", HeadError::TransferCoding),
            ("Transfer-Encoding: xchunked\r\n", HeadError::TransferCoding),
            ("Transfer-Encoding : chunked\r\n", HeadError::Malformed),
            ("Host: other\r\n", HeadError::Host),
            ("Expect: 200-ok\r\n", HeadError::Expectation),
            ("X: a\n", HeadError::Malformed),
            ("X: a\r\n b\r\n", HeadError::Malformed),
            ("X: a\0b\r\n", HeadError::Malformed),
            ("X\u{7f}: a\r\n", HeadError::Malformed),
            ("no colon\r\n", HeadError::Malformed),
            (": empty\r\n", HeadError::Malformed),
        ] {
            let mut head = Head::default();
            let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            assert_eq!(head.parse(text.as_bytes()), Err(expected), "{lines:?}");
        }
        for (text, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", HeadError::Host),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::Ambiguous),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::Malformed),
            ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", HeadError::Version),
            ("\u{16}\u{3}\u{1}", HeadError::Malformed),
        ] {
            assert_eq!(Head::default().parse(text.as_bytes()).map(|_| ()), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn a_head_over_its_limits_is_refused_before_it_ends() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(Head::default().parse(long.as_bytes()), Err(HeadError::TooLarge));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(Head::default().parse(many.as_bytes()), Err(HeadError::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Head::default().parse(&bytes);
        }

        #[test]
        fn no_header_value_breaks_the_parser(name in "[A-Za-z-]{1,20}", value in "[ -~\t]{0,60}") {
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{name}: {value}\r\n\r\n");
            let mut head = Head::default();
            if head.parse(text.as_bytes()).is_ok() {
                let lower = name.to_ascii_lowercase();
                proptest::prop_assert!(head.headers().any(|(n, v)| n == lower && v == value.trim().as_bytes()));
            }
        }
    }
}
