//! Names: buckets, keys, and how a request names them by host or by path.

use crate::limits::KEY_BYTES_MAX;
use crate::s3::error::{Code, S3Error, S3Result};

/// The first path segments that this server keeps for itself (`/buckets/admin/v1/...`).
pub(crate) const RESERVED_BUCKET: &str = "buckets";

/// Whether a bucket may be created under this name: S3's rules for general purpose buckets.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(*byte) || matches!(byte, b'.' | b'-'))
        && plain(bytes[0])
        && plain(bytes[bytes.len() - 1])
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
        && name != RESERVED_BUCKET
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    /// The server: all buckets.
    Service,
    Bucket(&'a str),
    Object {
        bucket: &'a str,
        key: &'a str,
    },
}

impl<'a> Resource<'a> {
    /// Reads the resource from the decoded path and the host. A host that is one of `domains` with a label in front
    /// (`bucket.s3.example.com`) names the bucket; otherwise the path does.
    pub(crate) fn locate(host: &'a str, path: &'a str, domains: &[String]) -> Resource<'a> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = match bucket_of_host(host, domains) {
            Some(bucket) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        match (bucket, key) {
            ("", _) => Resource::Service,
            (bucket, "") => Resource::Bucket(bucket),
            (bucket, key) => Resource::Object { bucket, key },
        }
    }

    pub(crate) fn bucket(&self) -> &'a str {
        match self {
            Resource::Service => "",
            Resource::Bucket(bucket) | Resource::Object { bucket, .. } => bucket,
        }
    }

    pub(crate) fn key(&self) -> &'a str {
        match self {
            Resource::Service | Resource::Bucket(_) => "",
            Resource::Object { key, .. } => key,
        }
    }

    /// Whether the names can name anything. A bucket name that could never be created is refused as such.
    pub(crate) fn check(&self) -> S3Result<()> {
        let (bucket, key) = (self.bucket(), self.key());
        if *self != Resource::Service && !is_bucket_name(bucket) {
            return Err(Code::InvalidBucketName.with("BucketName", bucket));
        }
        check_key(key)
    }
}

/// Keys are any UTF-8 up to their limit.
pub(crate) fn check_key(key: &str) -> S3Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(S3Error::from(Code::KeyTooLongError)
            .with("Size", key.len().to_string())
            .with("MaxSizeAllowed", KEY_BYTES_MAX.to_string()));
    }
    Ok(())
}

/// The bucket that a host names, where it is one of `domains` with a label in front.
pub(crate) fn bucket_of_host<'a>(host: &'a str, domains: &[String]) -> Option<&'a str> {
    if domains.is_empty() {
        return None;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    domains.iter().find_map(|domain| {
        let split = name.len().checked_sub(domain.len())?;
        let (bucket, rest) = (name.get(..split)?, name.get(split..)?);
        let bucket = bucket.strip_suffix('.')?;
        (rest.eq_ignore_ascii_case(domain) && !bucket.is_empty()).then_some(bucket)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_rules() {
        for name in ["abc", "a-b", "a.b.c", "0ab", &"a".repeat(63), "my-bucket.2026", "1.2.3.4.5"] {
            assert!(is_bucket_name(name), "{name}");
        }
        for name in [
            "",
            "ab",
            &"a".repeat(64),
            "Abc",
            "a_b",
            "-abc",
            "abc-",
            ".abc",
            "abc.",
            "a..b",
            "192.168.1.1",
            "xn--abc",
            "abc-s3alias",
            "abc--ol-s3",
            "buckets",
            "a b",
            "\u{e4}bc",
        ] {
            assert!(!is_bucket_name(name), "{name}");
        }
    }

    #[test]
    fn resources_are_named_by_path_or_by_host() {
        let domains = ["s3.example.com".to_owned(), "localhost".to_owned()];
        let object = |bucket, key| Resource::Object { bucket, key };
        for (host, path, expected) in [
            ("1.2.3.4:9000", "/", Resource::Service),
            ("1.2.3.4:9000", "/b", Resource::Bucket("b")),
            ("1.2.3.4:9000", "/b/", Resource::Bucket("b")),
            ("1.2.3.4:9000", "/b/k/l", object("b", "k/l")),
            ("1.2.3.4:9000", "/b//k", object("b", "/k")),
            ("s3.example.com", "/b/k", object("b", "k")),
            ("b.s3.example.com", "/", Resource::Bucket("b")),
            ("b.S3.Example.com:9000", "/k", object("b", "k")),
            ("b.c.s3.example.com", "/k/", object("b.c", "k/")),
            ("b.localhost:9000", "/k", object("b", "k")),
            ("bs3.example.com", "/b/k", object("b", "k")),
            (".localhost", "/b/k", object("b", "k")),
            ("[::1]:9000", "/b/k", object("b", "k")),
            ("\u{e4}localhost", "/b/k", object("b", "k")),
        ] {
            assert_eq!(Resource::locate(host, path, &domains), expected, "{host}{path}");
        }
        assert_eq!(Resource::locate("b.localhost", "/k", &[]), Resource::Bucket("k"));
    }

    #[test]
    fn names_that_can_name_nothing_are_refused() {
        let long = "k".repeat(1025);
        for (resource, expected) in [
            (Resource::Service, None),
            (Resource::Object { bucket: "abc", key: &long[..1024] }, None),
            (Resource::Object { bucket: "abc", key: &long }, Some(Code::KeyTooLongError)),
            (Resource::Bucket("A"), Some(Code::InvalidBucketName)),
            (Resource::Object { bucket: "A", key: "k" }, Some(Code::InvalidBucketName)),
        ] {
            assert_eq!(resource.check().err().map(|error| error.code), expected);
        }
    }
}
