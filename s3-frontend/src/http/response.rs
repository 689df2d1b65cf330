//! Response heads.
//!
//! What must hold: no value can end its line; a head says exactly one thing about the length of its body.

use crate::date::DateText;

/// Every status that is ever sent, with its reason phrase.
pub(crate) const STATUSES: &[(u16, &str)] = &[
    (100, "Continue"),
    (200, "OK"),
    (204, "No Content"),
    (206, "Partial Content"),
    (301, "Moved Permanently"),
    (304, "Not Modified"),
    (307, "Temporary Redirect"),
    (400, "Bad Request"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (408, "Request Timeout"),
    (409, "Conflict"),
    (411, "Length Required"),
    (412, "Precondition Failed"),
    (413, "Content Too Large"),
    (416, "Range Not Satisfiable"),
    (417, "Expectation Failed"),
    (431, "Request Header Fields Too Large"),
    (500, "Internal Server Error"),
    (501, "Not Implemented"),
    (503, "Service Unavailable"),
    (505, "HTTP Version Not Supported"),
    (507, "Insufficient Storage"),
];

fn reason(status: u16) -> &'static str {
    STATUSES.iter().find(|(known, _)| *known == status).map_or("", |(_, reason)| reason)
}

/// The interim answer to `Expect: 100-continue`.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One head, written into a buffer that the connection reuses.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    status: u16,
    out: Vec<u8>,
}

impl ResponseHead {
    /// Starts a head in `buffer`, whose content is dropped.
    pub(crate) fn start(mut buffer: Vec<u8>, status: u16, date: &DateText<29>) -> ResponseHead {
        buffer.clear();
        let mut head = ResponseHead { status, out: buffer };
        head.out.extend_from_slice(b"HTTP/1.1 ");
        push_number(&mut head.out, u64::from(status));
        head.out.push(b' ');
        head.out.extend_from_slice(reason(status).as_bytes());
        head.out.extend_from_slice(b"\r\nServer: Buckets\r\nDate: ");
        head.out.extend_from_slice(date.as_bytes());
        head.out.extend_from_slice(b"\r\n");
        head
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// One header. Control characters in the value become blanks: nothing that a client stored or asked for can start a line.
    pub(crate) fn header(&mut self, name: &str, value: &str) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            self.out.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
        } else {
            self.out.extend_from_slice(value.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        push_number(&mut self.out, value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// `ETag`, with its quotes.
    pub(crate) fn etag(&mut self, etag: &str) {
        self.out.extend_from_slice(b"ETag: \"");
        self.out.extend_from_slice(etag.as_bytes());
        self.out.extend_from_slice(b"\"\r\n");
    }

    /// Ends the head and gives the buffer back.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"\r\n");
        self.out
    }
}

/// Appends `value` in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::date::imf_fixdate;

    #[test]
    fn a_head_is_written_in_full() {
        let mut head = ResponseHead::start(b"old".to_vec(), 206, &imf_fixdate(784_111_777));
        head.etag("abc");
        head.number("Content-Length", 10);
        head.header("x-amz-meta-a", "b");
        assert_eq!(
            String::from_utf8(head.finish()).unwrap(),
            "HTTP/1.1 206 Partial Content\r\nServer: Buckets\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             ETag: \"abc\"\r\nContent-Length: 10\r\nx-amz-meta-a: b\r\n\r\n"
        );
    }

    #[test]
    fn no_value_ends_its_line() {
        let mut head = ResponseHead::start(Vec::new(), 200, &imf_fixdate(0));
        head.header("Content-Type", "a\r\nSet-Cookie: b");
        assert!(
            String::from_utf8(head.finish()).unwrap().ends_with("Content-Type: a  Set-Cookie: b\r\n\r\n")
        );
    }

    #[test]
    fn numbers_are_decimal() {
        for value in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }
}
