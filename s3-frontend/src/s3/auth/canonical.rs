//! The canonical form of a request: what both sides sign.

use super::presented::{Presented, Source};
use crate::http::head::Head;
use crate::http::target::{Slash, Target, encode_into};
use std::ops::Range;

/// Method, path, query, signed headers, their names, and the name of the payload, a line each.
pub(super) fn request(head: &Head, target: &Target, presented: &Presented<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(head.method_text().as_bytes());
    out.push(b'\n');
    encode_into(target.path(), Slash::Keep, &mut out);
    out.push(b'\n');
    query(target, presented.source, &mut out);
    out.push(b'\n');
    for name in presented.signed_headers.split(';') {
        header(head, name, &mut out);
    }
    out.push(b'\n');
    out.extend_from_slice(presented.signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(presented.payload.as_bytes());
    out
}

/// All parameters but the signature, encoded, in the order of their encoded names and values.
fn query(target: &Target, source: Source, out: &mut Vec<u8>) {
    if target.query_is_empty() {
        return;
    }
    let mut text = Vec::with_capacity(256);
    let mut pairs: Vec<(Range<usize>, Range<usize>)> = Vec::with_capacity(16);
    for (name, value) in target.query_pairs() {
        if name == "X-Amz-Signature" && source != Source::Header {
            continue;
        }
        let start = text.len();
        encode_into(name, Slash::Encode, &mut text);
        let middle = text.len();
        encode_into(value, Slash::Encode, &mut text);
        pairs.push((start..middle, middle..text.len()));
    }
    pairs.sort_by_key(|(name, value)| (&text[name.clone()], &text[value.clone()]));
    for (at, (name, value)) in pairs.into_iter().enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(&text[name]);
        out.push(b'=');
        out.extend_from_slice(&text[value]);
    }
}

/// `name:value`, values of the same name joined by commas, runs of blanks made one.
fn header(head: &Head, name: &str, out: &mut Vec<u8>) {
    out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
    out.push(b':');
    let values = head.headers().filter(|(header, _)| header.eq_ignore_ascii_case(name));
    for (at, (_, value)) in values.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut blank = false;
        for byte in value {
            if *byte != b' ' || !blank {
                out.push(*byte);
            }
            blank = *byte == b' ';
        }
    }
    out.push(b'\n');
}
