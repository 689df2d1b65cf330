//! Reads one HTTP/1.1 response from pieces of bytes as they come.
//!
//! What must hold: no input or output here; a response is complete only where its framing says so; a body's bytes are handed
//! on where they lie and never copied; bytes after the end are an error, because nobody asked for them.

/// Longest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 64;

/// What is known of a response whose head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Bytes, where the head says so.
    pub(crate) content_length: Option<u64>,
    /// The server will close the connection.
    pub(crate) close: bool,
}

/// Not HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed answer: {0}")]
pub(crate) struct Malformed(&'static str);

#[derive(Debug)]
enum State {
    /// What came of the head so far is in `partial`.
    Head,
    Body {
        left: u64,
    },
    ChunkSize {
        size: u64,
        digits: u32,
        extension: bool,
    },
    ChunkData {
        left: u64,
    },
    ChunkEnd,
    /// Bytes of the present line of the trailer.
    Trailer {
        line: usize,
    },
    UntilClose,
    Done,
}

#[derive(Debug)]
pub(crate) struct ResponseReader {
    state: State,
    partial: Vec<u8>,
    head: Option<Head>,
    bodiless: bool,
}

impl ResponseReader {
    pub(crate) fn new() -> ResponseReader {
        ResponseReader { state: State::Done, partial: Vec::new(), head: None, bodiless: false }
    }

    /// Expects the next response; `bodiless` after a HEAD.
    pub(crate) fn begin(&mut self, bodiless: bool) {
        self.state = State::Head;
        self.partial.clear();
        self.head = None;
        self.bodiless = bodiless;
    }

    /// The head, once it has come.
    pub(crate) fn head(&self) -> Option<Head> {
        self.head
    }

    /// Whether all of it has come.
    pub(crate) fn done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes to come of a body whose length the head has said.
    pub(crate) fn body_left(&self) -> Option<u64> {
        match self.state {
            State::Body { left } => Some(left),
            _ => None,
        }
    }

    /// So much of such a body has come and was dropped.
    pub(crate) fn skip(&mut self, len: u64) {
        let State::Body { left } = &mut self.state else {
            unreachable!("only a body of known length is skipped")
        };
        assert!(len <= *left);
        *left -= len;
        if *left == 0 {
            self.state = State::Done;
        }
    }

    /// The peer has closed: whether that was the end of the body.
    pub(crate) fn closed(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Done;
        }
        self.done()
    }

    /// Takes what came; `body` gets the body's bytes in order.
    pub(crate) fn feed(
        &mut self,
        mut data: &[u8],
        mut body: impl FnMut(Head, &[u8]),
    ) -> Result<(), Malformed> {
        while !data.is_empty() {
            data = match self.state {
                State::Done => return Err(Malformed("more bytes than the answer has")),
                State::Head => self.feed_head(data)?,
                _ => self.feed_body(data, &mut body)?,
            };
        }
        Ok(())
    }

    fn feed_head<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.partial.len();
        let whole = if before == 0 {
            parse_head(data)?
        } else {
            self.partial.extend_from_slice(data);
            parse_head(&self.partial)?
        };
        let Some((len, head, chunked)) = whole else {
            if before == 0 {
                self.partial.extend_from_slice(data);
            }
            if self.partial.len() > HEAD_BYTES_MAX {
                return Err(Malformed("the head does not end"));
            }
            return Ok(&[]);
        };
        self.partial.clear();
        // The parts of the head that came before did not hold its end.
        let rest = &data[len - before..];
        if (100..200).contains(&head.status) {
            return Ok(rest);
        }
        self.head = Some(head);
        self.state = match head.content_length {
            _ if self.bodiless || head.status == 204 || head.status == 304 => State::Done,
            _ if chunked => State::ChunkSize { size: 0, digits: 0, extension: false },
            Some(0) => State::Done,
            Some(left) => State::Body { left },
            None => State::UntilClose,
        };
        Ok(rest)
    }

    fn feed_body<'a>(
        &mut self,
        data: &'a [u8],
        body: &mut impl FnMut(Head, &[u8]),
    ) -> Result<&'a [u8], Malformed> {
        let Some(head) = self.head else { unreachable!("a body follows a head") };
        let (byte, after) = (data[0], &data[1..]);
        match &mut self.state {
            State::Head | State::Done => unreachable!("the caller looked"),
            State::UntilClose => {
                body(head, data);
                return Ok(&[]);
            }
            State::Body { left } | State::ChunkData { left } => {
                let (now, rest) = data.split_at(data.len().min(usize::try_from(*left).unwrap_or(usize::MAX)));
                *left -= now.len() as u64;
                body(head, now);
                if *left == 0 {
                    let chunked = matches!(self.state, State::ChunkData { .. });
                    self.state = if chunked { State::ChunkEnd } else { State::Done };
                }
                return Ok(rest);
            }
            State::ChunkSize { size, digits, extension } => match (byte, char::from(byte).to_digit(16)) {
                (b'\n', _) if *digits == 0 => return Err(Malformed("a chunk without a size")),
                (b'\n', _) if *size == 0 => self.state = State::Trailer { line: 0 },
                (b'\n', _) => self.state = State::ChunkData { left: *size },
                (b';', _) => *extension = true,
                (b'\r' | b' ' | b'\t', _) => {}
                _ if *extension => {}
                (_, Some(digit)) if *digits < 15 => {
                    *size = *size * 16 + u64::from(digit);
                    *digits += 1;
                }
                _ => return Err(Malformed("a chunk's size is no number")),
            },
            State::ChunkEnd => match byte {
                b'\r' => {}
                b'\n' => self.state = State::ChunkSize { size: 0, digits: 0, extension: false },
                _ => return Err(Malformed("a chunk is longer than it said")),
            },
            State::Trailer { line } => match byte {
                b'\r' => {}
                b'\n' if *line == 0 => self.state = State::Done,
                b'\n' => *line = 0,
                _ => *line += 1,
            },
        }
        Ok(after)
    }
}

/// The head's length in bytes, what it says, and whether the body is chunked; `None` where it is not complete.
fn parse_head(data: &[u8]) -> Result<Option<(usize, Head, bool)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(data) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed("the head is not HTTP")),
    };
    let mut head =
        Head { status: response.code.unwrap_or(0), content_length: None, close: response.version != Some(1) };
    let mut chunked = false;
    for header in response.headers.iter() {
        // Few names are as long as these: most headers cost one comparison of lengths.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let text = std::str::from_utf8(header.value).unwrap_or("");
                let length = text.trim().parse().map_err(|_| Malformed("content-length is no number"))?;
                head.content_length = Some(length);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                chunked = header.value.eq_ignore_ascii_case(b"chunked");
            }
            10 if header.name.eq_ignore_ascii_case("connection") => {
                head.close = header.value.eq_ignore_ascii_case(b"close");
            }
            _ => {}
        }
    }
    Ok(Some((len, head, chunked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `raw` in pieces of every size; status, body and whether it was complete must not depend on it.
    fn read(raw: &str, bodiless: bool) -> Result<(Option<Head>, String, bool), Malformed> {
        let mut results = Vec::new();
        for piece in 1..=raw.len() {
            let mut reader = ResponseReader::new();
            reader.begin(bodiless);
            let mut body = Vec::new();
            let result = raw
                .as_bytes()
                .chunks(piece)
                .try_for_each(|data| reader.feed(data, |_, bytes| body.extend_from_slice(bytes)));
            results.push(result.map(|()| (reader.head(), String::from_utf8(body).unwrap(), reader.done())));
        }
        results.dedup();
        assert_eq!(results.len(), 1, "{raw}: {results:?}");
        results.remove(0)
    }

    fn head(status: u16, content_length: Option<u64>, close: bool) -> Option<Head> {
        Some(Head { status, content_length, close })
    }

    #[test]
    fn responses_end_where_their_framing_says() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let table = [
            (format!("{ok}Content-Length: 5\r\n\r\nhello"), head(200, Some(5), false), "hello"),
            (format!("{ok}content-length: 0\r\nconnection: close\r\n\r\n"), head(200, Some(0), true), ""),
            (
                format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"),
                head(200, None, false),
                "hello!",
            ),
            (
                format!("{ok}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-trailer: b\r\n\r\n"),
                head(200, None, false),
                "a",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), head(204, None, false), ""),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length: 1\r\n\r\nx"
                    .to_owned(),
                head(404, Some(1), false),
                "x",
            ),
        ];
        for (raw, head, body) in table {
            assert_eq!(read(&raw, false), Ok((head, body.to_owned(), true)), "{raw}");
        }
    }

    #[test]
    fn the_answer_to_a_head_has_no_body() {
        let raw = "HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n";
        assert_eq!(read(raw, true), Ok((head(200, Some(4096), false), String::new(), true)));
        assert_eq!(read(raw, false), Ok((head(200, Some(4096), false), String::new(), false)));
    }

    #[test]
    fn without_a_length_the_body_ends_with_the_connection() {
        let mut reader = ResponseReader::new();
        reader.begin(false);
        let mut body = Vec::new();
        reader.feed(b"HTTP/1.0 200 OK\r\n\r\nab", |_, bytes| body.extend_from_slice(bytes)).unwrap();
        assert!(!reader.done() && reader.head().unwrap().close);
        assert!(reader.closed());
        assert_eq!(body, b"ab");

        reader.begin(false);
        reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", |_, _| ()).unwrap();
        assert!(!reader.closed(), "cut off");
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for raw in [
            "hello world\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nx".to_owned(),
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n".to_owned(),
            format!("{chunked}\r\n"),
            format!("{chunked}x\r\n"),
            format!("{chunked}1\r\nab\r\n"),
            format!("{chunked}1111111111111111\r\n"),
        ] {
            assert!(read(&raw, false).is_err(), "{raw}");
        }
    }
}
