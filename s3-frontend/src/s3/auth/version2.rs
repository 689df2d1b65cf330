//! Presigned URLs of the older signature, version 2: `?AWSAccessKeyId=...&Expires=...&Signature=...`.
//!
//! The Python SDK and `aws s3 presign` still make these by default in `us-east-1`, so that they are understood; requests with an
//! `Authorization` header of that version are not, as every client of today signs those with version 4.
//!
//! What must hold: as much is covered as the version covers (method, path, the parameters that choose an operation or change its
//! response, the `x-amz-*` headers, the end of validity), and the comparison is constant in time.

use crate::http::head::Head;
use crate::http::target::Target;
use crate::s3::auth::Site;
use crate::s3::error::{Code, S3Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

/// Parameters that are signed.
const SIGNED_PARAMETERS: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Whether a request is presigned in this version.
pub(crate) fn is_presigned(target: &Target) -> bool {
    target.has_query("AWSAccessKeyId") && target.has_query("Signature")
}

/// Verifies a presigned request and gives its user. `host_bucket` is the bucket that the host names, where it does.
pub(crate) fn authenticate<U>(
    head: &Head,
    target: &Target,
    host_bucket: Option<&str>,
    site: Site<'_>,
    look_up: impl FnOnce(&str) -> Option<(U, String)>,
) -> S3Result<U> {
    let [Some(access_key), Some(signature), Some(expires)] =
        ["AWSAccessKeyId", "Signature", "Expires"].map(|name| target.query(name))
    else {
        return Err(Code::AccessDenied.because(
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
        ));
    };
    let Ok(end) = expires.parse::<i64>() else {
        return Err(
            Code::AccessDenied.because(format!("Invalid date (should be seconds since epoch): {expires}"))
        );
    };
    if site.unix_seconds > end {
        return Err(Code::AccessDenied.because("Request has expired").with("Expires", expires));
    }
    let Some((user, secret)) = look_up(access_key) else {
        return Err(Code::InvalidAccessKeyId.with("AWSAccessKeyId", access_key));
    };
    let given = BASE64.decode(signature).unwrap_or_default();
    let matches = |text: &[u8]| {
        let Ok(mut hmac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
            unreachable!("HMAC takes keys of every length")
        };
        hmac.update(text);
        bool::from(hmac.finalize().into_bytes().as_slice().ct_eq(&given))
    };
    let path = raw_path(head.target());
    let text = string_to_sign(head, target, host_bucket, path, expires);
    if matches(&text) {
        return Ok(user);
    }
    // A bucket alone is signed as `/bucket/` (botocore) and as it is sent, `/bucket`.
    let is_bucket_alone = path.len() > 1 && !path[1..].contains(&b'/') && host_bucket.is_none();
    if is_bucket_alone
        && matches(&string_to_sign(head, target, None, &[path, b"/".as_slice()].concat(), expires))
    {
        return Ok(user);
    }
    Err(Code::SignatureDoesNotMatch
        .with("AWSAccessKeyId", access_key)
        .with("StringToSign", String::from_utf8_lossy(&text))
        .with("SignatureProvided", signature))
}

fn string_to_sign(
    head: &Head,
    target: &Target,
    host_bucket: Option<&str>,
    path: &[u8],
    expires: &str,
) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    for line in [head.method_text().as_bytes(), header(head, "content-md5"), header(head, "content-type")] {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(expires.as_bytes());
    text.push(b'\n');
    amz_headers(head, &mut text);
    if let Some(bucket) = host_bucket {
        text.push(b'/');
        text.extend_from_slice(bucket.as_bytes());
    }
    text.extend_from_slice(path);
    parameters(target, &mut text);
    text
}

fn header<'a>(head: &'a Head, name: &str) -> &'a [u8] {
    head.header_bytes(name).unwrap_or_default()
}

/// `name:value` lines in the order of names, values of the same name joined by commas.
fn amz_headers(head: &Head, text: &mut Vec<u8>) {
    let mut lines: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (name, value) in head.headers().filter(|(name, _)| name.starts_with("x-amz-")) {
        let line = lines.entry(name).or_default();
        if !line.is_empty() {
            line.push(b',');
        }
        line.extend_from_slice(value);
    }
    for (name, value) in lines {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(&value);
        text.push(b'\n');
    }
}

/// The path as it was sent, without the host of a target in absolute form.
fn raw_path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let path = &target[..end];
    let after_scheme = path.windows(3).position(|three| three == b"://").map(|at| &path[at + 3..]);
    match after_scheme {
        Some(rest) if !path.starts_with(b"/") => {
            rest.iter().position(|byte| *byte == b'/').map_or(&[], |at| &rest[at..])
        }
        _ => path,
    }
}

/// The signed parameters in the order of their names, values decoded.
fn parameters(target: &Target, text: &mut Vec<u8>) {
    let mut signed: Vec<_> =
        target.query_pairs().filter(|(name, _)| SIGNED_PARAMETERS.contains(name)).collect();
    signed.sort_unstable();
    for (at, (name, value)) in signed.into_iter().enumerate() {
        text.push(if at == 0 { b'?' } else { b'&' });
        text.extend_from_slice(name.as_bytes());
        if !value.is_empty() {
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Head, Target) {
        let mut head = Head::default();
        head.parse(text.as_bytes()).unwrap().expect("a whole head");
        let mut target = Target::default();
        target.parse(head.target()).unwrap();
        (head, target)
    }

    fn verify(text: &str, host_bucket: Option<&str>, now: i64) -> Result<(), Code> {
        let (head, target) = parse(text);
        assert!(is_presigned(&target));
        let site = Site { region: "us-east-1", is_also_region: &|_| false, unix_seconds: now };
        let look_up = |key: &str| {
            (key == "AKIAIOSFODNN7EXAMPLE")
                .then(|| ((), "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()))
        };
        authenticate(&head, &target, host_bucket, site, look_up).map_err(|error| error.code)
    }

    /// The published example of query string authentication.
    const PUBLISHED: &str = "GET /photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&\
        Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620 HTTP/1.1\r\n\
        Host: johnsmith.s3.amazonaws.com\r\n\r\n";

    #[test]
    fn the_published_url_is_accepted_until_it_expires() {
        let bucket = Some("johnsmith");
        assert_eq!(verify(PUBLISHED, bucket, 1_175_139_620), Ok(()));
        assert_eq!(verify(PUBLISHED, bucket, 1_175_139_621), Err(Code::AccessDenied));
    }

    #[test]
    fn anything_that_is_covered_and_changed_breaks_the_signature() {
        let bucket = Some("johnsmith");
        for (from, to) in [
            ("GET", "PUT"),
            ("puppy", "kitty"),
            ("Expires=1175139620", "Expires=1175139621"),
            ("Expires", "acl&Expires"),
            ("Expires", "response-content-type=text/html&Expires"),
            ("NpgCj", "NpgCk"),
            ("Host:", "x-amz-meta-a: b\r\nHost:"),
            ("Host:", "Content-Type: a/b\r\nHost:"),
        ] {
            let text = PUBLISHED.replacen(from, to, 1);
            assert_eq!(verify(&text, bucket, 1_175_139_000), Err(Code::SignatureDoesNotMatch), "{from}");
        }
        assert_eq!(verify(PUBLISHED, None, 1_175_139_000), Err(Code::SignatureDoesNotMatch));
        let stranger = PUBLISHED.replace("AKIAIOSFODNN7EXAMPLE", "STRANGER");
        assert_eq!(verify(&stranger, bucket, 1_175_139_000), Err(Code::InvalidAccessKeyId));
        for text in [PUBLISHED.replace("&Expires=1175139620", ""), PUBLISHED.replace("=1175139620", "=soon")]
        {
            assert_eq!(verify(&text, bucket, 1_175_139_000), Err(Code::AccessDenied));
        }
    }

    #[test]
    fn a_bucket_alone_may_be_signed_with_a_slash() {
        let url = |path: &str, signature: &str| {
            format!(
                "GET {path}?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature={signature}&Expires=1175139620&list-type=2 \
                 HTTP/1.1\r\nHost: h\r\n\r\n"
            )
        };
        let (bare, slash) = ("gCI5RgAsFOspFQaZlV%2BmldKHt7E%3D", "M8F1Z78Mjd%2BICpms%2FSvNuIvW7vs%3D");
        for signature in [bare, slash] {
            assert_eq!(verify(&url("/bucket", signature), None, 0), Ok(()));
        }
        assert_eq!(verify(&url("/bucket/", slash), None, 0), Ok(()));
        assert_eq!(verify(&url("/bucket/", bare), None, 0), Err(Code::SignatureDoesNotMatch));
        let key_with_slash = "b8qsLh1SuWtY4LAnnhCgvkRehwk%3D";
        assert_eq!(verify(&url("/bucket/k", key_with_slash), None, 0), Err(Code::SignatureDoesNotMatch));
    }

    #[test]
    fn paths_are_taken_as_they_were_sent() {
        for (target, expected) in [
            ("/a%20b?x", "/a%20b"),
            ("http://h:1/a/b?c=://d", "/a/b"),
            ("/a://b", "/a://b"),
            ("http://h", ""),
        ] {
            assert_eq!(raw_path(target.as_bytes()), expected.as_bytes(), "{target}");
        }
    }
}
