//! The headers that belong to an object: which of a request's are kept with it, and which of a response's the client may choose.
//!
//! What must hold: what S3 would honour and this server cannot (encryption, tags, locks, grants) is refused, never dropped: a client
//! that asked for encryption must not believe that it got it.

use crate::http::head::Head;
use crate::http::target::Target;
use crate::limits::USER_METADATA_BYTES_MAX;
use crate::s3::error::{Code, S3Error, S3Result};
use buckets_engine::object::api::ObjectHeaders;

/// The standard headers that are kept with an object.
const KEPT: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];

const USER_METADATA: &str = "x-amz-meta-";

/// What an object has whose client named no type.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Headers of S3's that ask for what this server does not have.
const NOT_IMPLEMENTED: &[&str] = &[
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-context",
    "x-amz-server-side-encryption-bucket-key-enabled",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-bucket-object-lock-enabled",
];

/// Canned ACLs that say what holds anyway where ACLs are off.
const HARMLESS_ACLS: &[&str] = &["private", "bucket-owner-full-control", "bucket-owner-read"];

/// Reads the headers to keep with a new object.
pub(crate) fn kept(head: &Head) -> S3Result<ObjectHeaders> {
    check_supported(head)?;
    check_storage_class(head)?;
    let mut headers = ObjectHeaders::new();
    let mut metadata_bytes = 0;
    for (name, value) in head.headers() {
        let metadata = name.strip_prefix(USER_METADATA);
        if metadata.is_none() && !KEPT.contains(&name) {
            continue;
        }
        let value = std::str::from_utf8(value)
            .map_err(|_| S3Error::invalid_argument("Header values must be UTF-8", name, ""))?;
        if let Some(metadata) = metadata {
            metadata_bytes += metadata.len() + value.len();
        }
        let value = match name {
            "content-encoding" => without_aws_chunked(value),
            _ => value.to_owned(),
        };
        match headers.iter_mut().find(|(known, _)| known == name) {
            _ if value.is_empty() && metadata.is_none() => {}
            Some((_, known)) => {
                known.push(',');
                known.push_str(&value);
            }
            None => headers.push((name.to_owned(), value)),
        }
    }
    if metadata_bytes > USER_METADATA_BYTES_MAX {
        return Err(S3Error::from(Code::MetadataTooLarge)
            .with("Size", metadata_bytes.to_string())
            .with("MaxSizeAllowed", USER_METADATA_BYTES_MAX.to_string()));
    }
    Ok(headers)
}

/// Refuses a request whose headers ask for what this server does not have.
pub(crate) fn check_supported(head: &Head) -> S3Result<()> {
    for (name, value) in head.headers() {
        if !name.starts_with("x-amz-") {
            continue;
        }
        // `false` asks for nothing.
        let asks = !value.eq_ignore_ascii_case(b"false");
        if asks && NOT_IMPLEMENTED.contains(&name) {
            return Err(S3Error::not_implemented(name));
        }
        let harmless = || HARMLESS_ACLS.iter().any(|acl| value == acl.as_bytes());
        if name.starts_with("x-amz-grant-") || (name == "x-amz-acl" && !harmless()) {
            return Err(Code::AccessControlListNotSupported.into());
        }
    }
    Ok(())
}

fn check_storage_class(head: &Head) -> S3Result<()> {
    match head.header("x-amz-storage-class") {
        None | Some("STANDARD" | "REDUCED_REDUNDANCY") => Ok(()),
        Some(_) => Err(Code::InvalidStorageClass.into()),
    }
}

/// `aws-chunked` is how the body travelled, not what it is.
fn without_aws_chunked(value: &str) -> String {
    let codings = value.split(',').map(str::trim);
    codings.filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked")).collect::<Vec<_>>().join(",")
}

/// Query parameters with which a reader replaces headers of the response.
const OVERRIDES: &[(&str, &str)] = &[
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
    ("response-content-language", "content-language"),
    ("response-content-type", "content-type"),
    ("response-expires", "expires"),
];

/// The value that the reader wants for a header of the response.
pub(crate) fn overridden<'a>(target: &'a Target, name: &str) -> Option<&'a str> {
    let (parameter, _) = OVERRIDES.iter().find(|(_, header)| *header == name)?;
    target.query(parameter)
}

/// The overrides of headers that are not among those kept with the object.
pub(crate) fn added_overrides<'a>(
    target: &'a Target,
    kept: &'a ObjectHeaders,
) -> impl Iterator<Item = (&'static str, &'a str)> {
    OVERRIDES
        .iter()
        .filter(move |(_, header)| !kept.iter().any(|(name, _)| name == header))
        .filter_map(|(parameter, header)| target.query(parameter).map(|value| (*header, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Head {
        let mut head = Head::default();
        head.parse(format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n").as_bytes()).unwrap();
        head
    }

    #[test]
    fn standard_headers_and_metadata_are_kept() {
        let kept = kept(&head(
            "Content-Type: text/plain\r\nX-Amz-Meta-A: 1\r\nContent-Encoding: aws-chunked, gzip\r\nX-Amz-Date: x\r\n\
             x-amz-meta-a: 2\r\nx-amz-meta-empty:\r\nUser-Agent: me\r\nCache-Control:\r\nx-amz-acl: private\r\n\
             x-amz-storage-class: STANDARD\r\n",
        ))
        .unwrap();
        let kept: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            kept,
            [
                ("content-type", "text/plain"),
                ("x-amz-meta-a", "1,2"),
                ("content-encoding", "gzip"),
                ("x-amz-meta-empty", ""),
            ]
        );
        assert!(super::kept(&head("Content-Encoding: aws-chunked\r\n")).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (line, expected) in [
            ("x-amz-server-side-encryption: AES256", Code::NotImplemented),
            ("x-amz-server-side-encryption-customer-algorithm: AES256", Code::NotImplemented),
            ("x-amz-tagging: a=b", Code::NotImplemented),
            ("x-amz-object-lock-mode: COMPLIANCE", Code::NotImplemented),
            ("x-amz-acl: public-read", Code::AccessControlListNotSupported),
            ("x-amz-grant-read: id=1", Code::AccessControlListNotSupported),
            ("x-amz-storage-class: GLACIER", Code::InvalidStorageClass),
            ("x-amz-meta-a: \u{80}", Code::InvalidArgument),
        ] {
            // The last one is not UTF-8 on the wire.
            let mut bytes = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n").into_bytes();
            bytes.retain(|byte| *byte != 0xc2);
            let mut head = Head::default();
            head.parse(&bytes).unwrap();
            assert_eq!(kept(&head).map_err(|error| error.code), Err(expected), "{line}");
        }
        assert!(kept(&head("x-amz-bucket-object-lock-enabled: false\r\n")).is_ok());
    }

    #[test]
    fn metadata_is_limited() {
        let line = |bytes: usize| format!("x-amz-meta-a: {}\r\n", "v".repeat(bytes));
        assert!(kept(&head(&line(USER_METADATA_BYTES_MAX - 1))).is_ok());
        let error = kept(&head(&line(USER_METADATA_BYTES_MAX))).unwrap_err();
        assert_eq!(error.code, Code::MetadataTooLarge);
    }
}
