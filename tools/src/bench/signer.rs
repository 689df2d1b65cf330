//! Signs requests at the rate of a benchmark (AWS Signature Version 4, in the header).
//!
//! What must hold: what does not change from request to request is computed once (the signing key once a day, the date once a
//! second), nothing is allocated per request, and the result is what `sigv4` computes.

use crate::credentials::Credentials;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// Stands for the hash of a body that is not signed.
pub(crate) const UNSIGNED_PAYLOAD: &[u8] = b"UNSIGNED-PAYLOAD";
/// SHA-256 of nothing.
pub(crate) const EMPTY_PAYLOAD: &[u8] = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const SIGNED_HEADERS: &[u8] = b"host;x-amz-content-sha256;x-amz-date";
const SECONDS_PER_DAY: u64 = 86_400;

pub(crate) struct Signer {
    credentials: Credentials,
    region: String,
    authority: String,
    day: u64,
    key: Hmac<Sha256>,
    /// `20130524/us-east-1/s3/aws4_request`
    scope: String,
    second: u64,
    /// `20130524T000000Z`
    date: String,
    /// The canonical request and then the string to sign.
    text: Vec<u8>,
}

/// What is signed besides the date and the host.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a [u8],
    /// Escaped.
    pub(crate) path: &'a [u8],
    /// Escaped and sorted.
    pub(crate) query: &'a [u8],
    /// As `x-amz-content-sha256` says it.
    pub(crate) payload: &'a [u8],
}

impl Signer {
    pub(crate) fn new(credentials: Credentials, region: &str, authority: &str) -> Signer {
        let mut signer = Signer {
            credentials,
            region: region.to_owned(),
            authority: authority.to_owned(),
            day: u64::MAX,
            key: keyed(b""),
            scope: String::new(),
            second: u64::MAX,
            date: String::new(),
            text: Vec::with_capacity(1024),
        };
        signer.at(0);
        signer
    }

    /// Appends the three headers that prove who sends the request.
    pub(crate) fn sign(&mut self, request: &Request<'_>, unix_seconds: u64, head: &mut Vec<u8>) {
        self.at(unix_seconds);
        let Signer { text, authority, date, scope, .. } = self;
        text.clear();
        append(text, &[request.method, b"\n", request.path, b"\n", request.query]);
        append(text, &[b"\nhost:", authority.as_bytes(), b"\nx-amz-content-sha256:", request.payload]);
        append(text, &[b"\nx-amz-date:", date.as_bytes(), b"\n\n", SIGNED_HEADERS, b"\n", request.payload]);
        let hash = hex_of(Sha256::digest(&text).into());

        text.clear();
        append(text, &[b"AWS4-HMAC-SHA256\n", date.as_bytes(), b"\n", scope.as_bytes(), b"\n", &hash]);
        let mut mac = self.key.clone();
        mac.update(text);
        let signature = hex_of(mac.finalize().into_bytes().into());

        let access_key = self.credentials.access_key.as_bytes();
        append(head, &[b"x-amz-content-sha256: ", request.payload, b"\r\nx-amz-date: ", date.as_bytes()]);
        append(
            head,
            &[b"\r\nauthorization: AWS4-HMAC-SHA256 Credential=", access_key, b"/", scope.as_bytes()],
        );
        append(head, &[b", SignedHeaders=", SIGNED_HEADERS, b", Signature=", &signature, b"\r\n"]);
    }

    fn at(&mut self, unix_seconds: u64) {
        if self.second == unix_seconds {
            return;
        }
        self.second = unix_seconds;
        let now = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
        let now = OffsetDateTime::from_unix_timestamp(now).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
        self.date = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        if self.day != unix_seconds / SECONDS_PER_DAY {
            self.day = unix_seconds / SECONDS_PER_DAY;
            let secret = format!("AWS4{}", self.credentials.secret_key);
            let mut key = keyed(secret.as_bytes());
            for part in [&day, &self.region, "s3", "aws4_request"] {
                key.update(part.as_bytes());
                key = keyed(&key.finalize().into_bytes());
            }
            self.key = key;
            self.scope = format!("{day}/{}/s3/aws4_request", self.region);
        }
    }
}

fn append(text: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        text.extend_from_slice(part);
    }
}

fn hex_of(bytes: [u8; 32]) -> [u8; 64] {
    let mut text = [0; 64];
    let Ok(()) = hex::encode_to_slice(bytes, &mut text) else { unreachable!("32 bytes are 64 digits") };
    text
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of every length")
    };
    mac
}

/// Escapes what is neither unreserved nor, in a path, a slash.
pub(crate) fn escape(text: &str, keep_slash: bool, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(byte);
        } else {
            append(out, &[b"%", &[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigv4;

    #[test]
    fn signatures_are_those_of_the_plain_signer_from_day_to_day() {
        let credentials = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG".to_owned(),
        };
        let mut signer = Signer::new(credentials.clone(), "eu-west-1", "localhost:9000");
        let day = 86_400;
        for seconds in [1_369_353_600, 1_369_353_600, 1_369_353_601, 1_369_353_600 + day, 4_102_444_800] {
            for (method, path, query) in
                [("GET", "/b/k", vec![]), ("PUT", "/b/k", vec![("prefix", "a/b c"), ("list-type", "2")])]
            {
                let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
                let plain = sigv4::Request { method, host: "localhost:9000", path, query: &query, body: b"" };
                let expected = sigv4::sign(&plain, &credentials, "eu-west-1", now);
                let expected: String =
                    expected.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();

                let query: &[u8] = if query.is_empty() { b"" } else { b"list-type=2&prefix=a%2Fb%20c" };
                let (method, path) = (method.as_bytes(), path.as_bytes());
                let request = Request { method, path, query, payload: EMPTY_PAYLOAD };
                let mut head = Vec::new();
                signer.sign(&request, seconds as u64, &mut head);
                assert_eq!(String::from_utf8(head).unwrap(), expected);
            }
        }
    }

    #[test]
    fn paths_keep_their_slashes_and_queries_do_not() {
        for (keep_slash, expected) in [(true, "a/b%20%C3%A9~"), (false, "a%2Fb%20%C3%A9~")] {
            let mut out = Vec::new();
            escape("a/b é~", keep_slash, &mut out);
            assert_eq!(out, expected.as_bytes());
        }
    }
}
