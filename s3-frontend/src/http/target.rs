//! The request target: a path and a query, percent-decoded.
//!
//! What must hold: a path is never normalised (`a//b` and `a/../b` are keys); what does not decode to UTF-8 is refused; `+` is a
//! blank in a query and a plus in a path.

use std::ops::Range;

/// The target cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request target cannot be decoded")]
pub(crate) struct InvalidTarget;

/// The decoded target. Reused from request to request.
#[derive(Debug, Default)]
pub(crate) struct Target {
    path: String,
    /// Host of a target in absolute form (`GET http://host/path`), which takes the place of the `Host` header.
    authority: Option<String>,
    query_text: String,
    query: Vec<(Range<u32>, Option<Range<u32>>)>,
}

impl Target {
    /// Decodes `raw`, the target as it was sent.
    pub(crate) fn parse(&mut self, raw: &[u8]) -> Result<(), InvalidTarget> {
        self.authority = None;
        let mut rest = raw;
        for scheme in [&b"http://"[..], b"https://"] {
            if raw.len() >= scheme.len() && raw[..scheme.len()].eq_ignore_ascii_case(scheme) {
                let after = &raw[scheme.len()..];
                let end = after.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(after.len());
                let authority = std::str::from_utf8(&after[..end]).map_err(|_| InvalidTarget)?;
                self.authority = Some(authority.to_owned());
                rest = &after[end..];
            }
        }
        let (path, query) = match rest.iter().position(|byte| *byte == b'?') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let path = if path.is_empty() && self.authority.is_some() { b"/" } else { path };
        if !path.starts_with(b"/") && path != b"*" {
            return Err(InvalidTarget);
        }
        let mut bytes = std::mem::take(&mut self.path).into_bytes();
        bytes.clear();
        decode_onto(path, false, &mut bytes)?;
        self.path = String::from_utf8(bytes).map_err(|_| InvalidTarget)?;
        self.parse_query(query)
    }

    fn parse_query(&mut self, query: Option<&[u8]>) -> Result<(), InvalidTarget> {
        self.query.clear();
        let mut text = std::mem::take(&mut self.query_text).into_bytes();
        text.clear();
        for pair in query.into_iter().flat_map(|query| query.split(|byte| *byte == b'&')) {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], Some(&pair[at + 1..])),
                None => (pair, None),
            };
            let name = decode_onto(name, true, &mut text)?;
            let value = value.map(|value| decode_onto(value, true, &mut text)).transpose()?;
            self.query.push((name, value));
        }
        self.query_text = String::from_utf8(text).map_err(|_| InvalidTarget)?;
        Ok(())
    }

    /// The decoded path, with its leading slash.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The value of the first parameter of that name; empty where it has none.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query_pairs().find(|(parameter, _)| *parameter == name).map(|(_, value)| value)
    }

    pub(crate) fn has_query(&self, name: &str) -> bool {
        self.query(name).is_some()
    }

    pub(crate) fn query_is_empty(&self) -> bool {
        self.query.is_empty()
    }

    /// All parameters in the order they came.
    pub(crate) fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(name, value)| {
            (self.query_slice(name), value.as_ref().map_or("", |value| self.query_slice(value)))
        })
    }

    fn query_slice(&self, span: &Range<u32>) -> &str {
        &self.query_text[span.start as usize..span.end as usize]
    }
}

/// Percent-decodes a piece that is not part of a target: the `x-amz-copy-source` header.
pub(crate) fn decode(raw: &str) -> Result<String, InvalidTarget> {
    let mut bytes = Vec::new();
    decode_onto(raw.as_bytes(), false, &mut bytes)?;
    String::from_utf8(bytes).map_err(|_| InvalidTarget)
}

/// Appends the percent-decoded `raw` and returns where it lies. What is appended is UTF-8 by itself.
fn decode_onto(raw: &[u8], plus_is_blank: bool, out: &mut Vec<u8>) -> Result<Range<u32>, InvalidTarget> {
    let start = out.len();
    out.reserve(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(InvalidTarget) };
                let (high, low) = (hex_digit(*high)?, hex_digit(*low)?);
                out.push(high << 4 | low);
                rest = after;
            }
            b'+' if plus_is_blank => out.push(b' '),
            byte => out.push(byte),
        }
    }
    match std::str::from_utf8(&out[start..]) {
        Ok(_) => Ok(start as u32..out.len() as u32),
        Err(_) => Err(InvalidTarget),
    }
}

fn hex_digit(byte: u8) -> Result<u8, InvalidTarget> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(InvalidTarget),
    }
}

/// Whether a path's slashes stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slash {
    Keep,
    Encode,
}

/// Appends `text` with everything but RFC 3986's unreserved characters as `%XX`: the encoding of SigV4 and of
/// `encoding-type=url`.
pub(crate) fn encode_into(text: &str, slash: Slash, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            b'/' if slash == Slash::Keep => out.push(byte),
            byte => out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<Target, InvalidTarget> {
        let mut target = Target::default();
        target.parse(raw.as_bytes()).map(|()| target)
    }

    #[test]
    fn paths_are_decoded_and_never_normalised() {
        for (raw, expected) in [
            ("/", "/"),
            ("/bucket/a%20b", "/bucket/a b"),
            ("/bucket/a+b", "/bucket/a+b"),
            ("/bucket/a%2Fb%2fc", "/bucket/a/b/c"),
            ("/bucket//a/../b/./", "/bucket//a/../b/./"),
            ("/bucket/%E2%82%AC", "/bucket/\u{20ac}"),
            ("/bucket/\u{20ac}", "/bucket/\u{20ac}"),
            ("/bucket/a?x=/y", "/bucket/a"),
            ("*", "*"),
        ] {
            assert_eq!(parse(raw).unwrap().path(), expected, "{raw}");
        }
    }

    #[test]
    fn targets_in_absolute_form_carry_their_host() {
        let target = parse("http://bucket.example.com:9000/key?acl").unwrap();
        assert_eq!(target.authority(), Some("bucket.example.com:9000"));
        assert_eq!(target.path(), "/key");
        assert!(target.has_query("acl"));
        assert_eq!(parse("HTTP://h?x").unwrap().path(), "/");
    }

    #[test]
    fn queries_keep_order_and_tell_absent_from_empty() {
        let target = parse("/b?prefix=a+b%2Bc&uploads&&delimiter=&x=1&x=2").unwrap();
        let pairs: Vec<_> = target.query_pairs().collect();
        assert_eq!(pairs, [("prefix", "a b+c"), ("uploads", ""), ("delimiter", ""), ("x", "1"), ("x", "2")]);
        assert_eq!(target.query("x"), Some("1"));
        assert_eq!(target.query("delimiter"), Some(""));
        assert_eq!(target.query("marker"), None);
    }

    #[test]
    fn what_does_not_decode_is_refused() {
        for raw in ["/%", "/%2", "/%zz", "/%ff", "/?a=%", "/?a=%C3", "bucket/key", "", "mailto:x"] {
            assert!(parse(raw).is_err(), "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_survives_encoding_and_decoding(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let mut encoded = b"/".to_vec();
            encode_into(&text, Slash::Encode, &mut encoded);
            encoded.extend_from_slice(b"?p=");
            encode_into(&text, Slash::Encode, &mut encoded);
            let mut target = Target::default();
            target.parse(&encoded).unwrap();
            proptest::prop_assert_eq!(&target.path()[1..], &text);
            proptest::prop_assert_eq!(target.query("p"), Some(text.as_str()));
        }
    }
}
