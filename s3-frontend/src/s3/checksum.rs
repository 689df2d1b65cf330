//! `x-amz-checksum-*` and `Content-MD5`: what a client announces and what it is shown. Bodies of objects are summed by the engine;
//! here only documents are.

use crate::http::head::Head;
use crate::s3::error::{Code, S3Error, S3Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use buckets_engine::object::api::{Checksum, ChecksumAlgorithm, ChecksumKind, ChecksumRequest};
use md5::{Digest, Md5};

/// An algorithm under all its names.
pub(crate) struct Names {
    pub(crate) algorithm: ChecksumAlgorithm,
    /// In `x-amz-checksum-algorithm` and in XML values.
    pub(crate) name: &'static str,
    /// The header that carries a value.
    pub(crate) header: &'static str,
    /// The XML element that carries a value.
    pub(crate) element: &'static str,
}

/// All algorithms.
pub(crate) const ALL: &[Names] = &[
    Names {
        algorithm: ChecksumAlgorithm::Crc32,
        name: "CRC32",
        header: "x-amz-checksum-crc32",
        element: "ChecksumCRC32",
    },
    Names {
        algorithm: ChecksumAlgorithm::Crc32c,
        name: "CRC32C",
        header: "x-amz-checksum-crc32c",
        element: "ChecksumCRC32C",
    },
    Names {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        name: "CRC64NVME",
        header: "x-amz-checksum-crc64nvme",
        element: "ChecksumCRC64NVME",
    },
    Names {
        algorithm: ChecksumAlgorithm::Sha1,
        name: "SHA1",
        header: "x-amz-checksum-sha1",
        element: "ChecksumSHA1",
    },
    Names {
        algorithm: ChecksumAlgorithm::Sha256,
        name: "SHA256",
        header: "x-amz-checksum-sha256",
        element: "ChecksumSHA256",
    },
];

/// The names of an algorithm.
pub(crate) fn names(algorithm: ChecksumAlgorithm) -> &'static Names {
    match algorithm {
        ChecksumAlgorithm::Crc32 => &ALL[0],
        ChecksumAlgorithm::Crc32c => &ALL[1],
        ChecksumAlgorithm::Crc64Nvme => &ALL[2],
        ChecksumAlgorithm::Sha1 => &ALL[3],
        ChecksumAlgorithm::Sha256 => &ALL[4],
    }
}

pub(crate) fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// The algorithm that an upload's `x-amz-checksum-algorithm` names.
pub(crate) fn algorithm_named(name: &str) -> S3Result<ChecksumAlgorithm> {
    ALL.iter().find(|names| names.name.eq_ignore_ascii_case(name)).map(|names| names.algorithm).ok_or_else(|| {
        Code::InvalidRequest.because("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
    })
}

/// A value as clients see it: base64, and for a checksum over checksums the number of parts.
pub(crate) fn text(checksum: &Checksum, parts: usize) -> String {
    let mut text = BASE64.encode(&checksum.value);
    if checksum.kind == ChecksumKind::Composite {
        text.push_str(&format!("-{parts}"));
    }
    text
}

/// A value from a client; `None` where it is none of this algorithm.
pub(crate) fn decode(algorithm: ChecksumAlgorithm, text: &str) -> Option<Vec<u8>> {
    let value = BASE64.decode(text.trim()).ok()?;
    (value.len() == algorithm.value_bytes()).then_some(value)
}

/// The one checksum whose value a request's headers carry.
pub(crate) fn announced_value(head: &Head) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    let mut found = None;
    for names in ALL {
        let Some(text) = head.header(names.header) else { continue };
        if found.is_some() {
            return Err(Code::InvalidRequest.because(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        let value = decode(names.algorithm, text).ok_or_else(|| {
            Code::InvalidRequest.because(format!("Value for {} header is invalid.", names.header))
        })?;
        found = Some((names.algorithm, value));
    }
    Ok(found)
}

/// The checksum that the client wants of the body it uploads: with its value in a header, with its value in a trailer, or not at
/// all.
pub(crate) fn of_upload(head: &Head) -> S3Result<Option<ChecksumRequest>> {
    let in_header = announced_value(head)?;
    let in_trailer = match head.header("x-amz-trailer") {
        Some(names) => Some(trailer_algorithm(names)?),
        None => None,
    };
    match (in_header, in_trailer.flatten()) {
        (Some(_), Some(_)) => Err(Code::InvalidRequest
            .because("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")),
        (Some((algorithm, value)), None) => Ok(Some(ChecksumRequest { algorithm, expected: Some(value) })),
        (None, Some(algorithm)) => Ok(Some(ChecksumRequest { algorithm, expected: None })),
        (None, None) if head.header("x-amz-sdk-checksum-algorithm").is_some() => Err(Code::InvalidRequest.because(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
        )),
        (None, None) => Ok(None),
    }
}

fn trailer_algorithm(trailer: &str) -> S3Result<Option<ChecksumAlgorithm>> {
    let mut found = None;
    for name in trailer.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = ALL.iter().find(|names| names.header.eq_ignore_ascii_case(name));
        match known {
            Some(names) if found.is_none() => found = Some(names.algorithm),
            _ => {
                return Err(Code::InvalidRequest
                    .because("The value specified in the x-amz-trailer header is not supported"));
            }
        }
    }
    Ok(found)
}

/// `Content-MD5`.
pub(crate) fn content_md5(head: &Head) -> S3Result<Option<[u8; 16]>> {
    let Some(text) = head.header_bytes("content-md5") else { return Ok(None) };
    let value = BASE64.decode(text).ok().and_then(|value| <[u8; 16]>::try_from(value).ok());
    value.map(Some).ok_or_else(|| S3Error::from(Code::InvalidDigest))
}

/// Checks a document, held whole, against its `Content-MD5`.
pub(crate) fn check_md5(head: &Head, document: &[u8]) -> S3Result<()> {
    match content_md5(head)? {
        Some(expected) if expected != <[u8; 16]>::from(Md5::digest(document)) => {
            Err(Code::BadDigest.because("The Content-MD5 you specified did not match what we received."))
        }
        _ => Ok(()),
    }
}

/// Checks a document, held whole, against the checksum that its headers or its trailer carry.
pub(crate) fn check_document(
    head: &Head,
    trailing: Option<(ChecksumAlgorithm, Vec<u8>)>,
    document: &[u8],
) -> S3Result<()> {
    match announced_value(head)?.or(trailing) {
        Some((algorithm, expected)) if compute(algorithm, document) != expected => Err(mismatch(algorithm)),
        _ => Ok(()),
    }
}

/// What a body that is not what its checksum says is answered with.
pub(crate) fn mismatch(algorithm: ChecksumAlgorithm) -> S3Error {
    Code::BadDigest.because(format!(
        "The {} you specified did not match the calculated checksum.",
        names(algorithm).name
    ))
}

fn compute(algorithm: ChecksumAlgorithm, data: &[u8]) -> Vec<u8> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => crc_fast::crc32_iso_hdlc(data).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Crc32c => crc_fast::crc32_iscsi(data).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Crc64Nvme => crc_fast::crc64_nvme(data).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Sha1 => sha1::Sha1::digest(data).to_vec(),
        ChecksumAlgorithm::Sha256 => sha2::Sha256::digest(data).to_vec(),
    }
}

/// The algorithm and kind that a CreateMultipartUpload asks for.
pub(crate) fn of_multipart(head: &Head) -> S3Result<Option<(ChecksumAlgorithm, ChecksumKind)>> {
    let kind = match head.header("x-amz-checksum-type") {
        None => None,
        Some(name) if name.eq_ignore_ascii_case("FULL_OBJECT") => Some(ChecksumKind::FullObject),
        Some(name) if name.eq_ignore_ascii_case("COMPOSITE") => Some(ChecksumKind::Composite),
        Some(_) => {
            return Err(Code::InvalidRequest.because("Value for x-amz-checksum-type header is invalid."));
        }
    };
    let Some(name) = head.header("x-amz-checksum-algorithm") else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(Code::InvalidRequest.because(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
        };
    };
    let algorithm = algorithm_named(name)?;
    let kinds: &[ChecksumKind] = match algorithm {
        ChecksumAlgorithm::Crc64Nvme => &[ChecksumKind::FullObject],
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => &[ChecksumKind::Composite],
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => {
            &[ChecksumKind::Composite, ChecksumKind::FullObject]
        }
    };
    match kind {
        None => Ok(Some((algorithm, kinds[0]))),
        Some(kind) if kinds.contains(&kind) => Ok(Some((algorithm, kind))),
        Some(kind) => Err(Code::InvalidRequest.because(format!(
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            kind_name(kind),
            name.to_ascii_lowercase()
        ))),
    }
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
    fn every_algorithm_is_in_its_place_and_sums_the_check_string() {
        for names_of in ALL {
            assert_eq!(names(names_of.algorithm).name, names_of.name);
            assert_eq!(algorithm_named(&names_of.name.to_ascii_lowercase()), Ok(names_of.algorithm));
            assert_eq!(compute(names_of.algorithm, b"123456789").len(), names_of.algorithm.value_bytes());
        }
        for (algorithm, expected) in [
            (ChecksumAlgorithm::Crc32, "y/Q5Jg=="),
            (ChecksumAlgorithm::Crc32c, "4waSgw=="),
            (ChecksumAlgorithm::Crc64Nvme, "rosUhgp5mIg="),
            (ChecksumAlgorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (ChecksumAlgorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ] {
            let value = compute(algorithm, b"123456789");
            assert_eq!(decode(algorithm, expected).as_ref(), Some(&value));
            assert_eq!(text(&Checksum { algorithm, kind: ChecksumKind::FullObject, value }, 1), expected);
        }
    }

    #[test]
    fn a_composite_checksum_shows_its_parts() {
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::Composite,
            value: vec![0; 4],
        };
        assert_eq!(text(&checksum, 3), "AAAAAA==-3");
    }

    #[test]
    fn an_upload_says_how_it_is_summed() {
        let with_value =
            |algorithm, value: &[u8]| Ok(Some(ChecksumRequest { algorithm, expected: Some(value.to_vec()) }));
        let in_trailer = |algorithm| Ok(Some(ChecksumRequest { algorithm, expected: None }));
        for (lines, expected) in [
            ("", Ok(None)),
            ("x-amz-checksum-crc32: AAAAAA==\r\n", with_value(ChecksumAlgorithm::Crc32, &[0; 4])),
            ("x-amz-trailer: x-amz-checksum-crc32c\r\n", in_trailer(ChecksumAlgorithm::Crc32c)),
            ("x-amz-checksum-crc32: AAAA\r\n", Err(Code::InvalidRequest)),
            ("x-amz-checksum-crc32: ?\r\n", Err(Code::InvalidRequest)),
            ("x-amz-trailer: x-amz-meta-a\r\n", Err(Code::InvalidRequest)),
            ("x-amz-sdk-checksum-algorithm: CRC32\r\n", Err(Code::InvalidRequest)),
            (
                "x-amz-checksum-crc32: AAAAAA==\r\nx-amz-checksum-crc32c: AAAAAA==\r\n",
                Err(Code::InvalidRequest),
            ),
            (
                "x-amz-checksum-crc32: AAAAAA==\r\nx-amz-trailer: x-amz-checksum-crc32\r\n",
                Err(Code::InvalidRequest),
            ),
        ] {
            assert_eq!(of_upload(&head(lines)).map_err(|error| error.code), expected, "{lines}");
        }
    }

    #[test]
    fn a_multipart_upload_chooses_algorithm_and_kind_that_fit() {
        use ChecksumAlgorithm::{Crc32, Crc64Nvme, Sha256};
        for (algorithm, kind, expected) in [
            ("", "", Ok(None)),
            ("CRC32", "", Ok(Some((Crc32, ChecksumKind::Composite)))),
            ("CRC32", "FULL_OBJECT", Ok(Some((Crc32, ChecksumKind::FullObject)))),
            ("CRC64NVME", "", Ok(Some((Crc64Nvme, ChecksumKind::FullObject)))),
            ("SHA256", "COMPOSITE", Ok(Some((Sha256, ChecksumKind::Composite)))),
            ("CRC64NVME", "COMPOSITE", Err(Code::InvalidRequest)),
            ("SHA256", "FULL_OBJECT", Err(Code::InvalidRequest)),
            ("MD5", "", Err(Code::InvalidRequest)),
            ("CRC32", "HALF", Err(Code::InvalidRequest)),
            ("", "COMPOSITE", Err(Code::InvalidRequest)),
        ] {
            let line = |name: &str, value: &str| {
                if value.is_empty() { String::new() } else { format!("{name}: {value}\r\n") }
            };
            let lines = line("x-amz-checksum-algorithm", algorithm) + &line("x-amz-checksum-type", kind);
            assert_eq!(of_multipart(&head(&lines)).map_err(|error| error.code), expected, "{lines}");
        }
    }

    #[test]
    fn documents_are_checked_against_what_their_headers_say() {
        assert!(check_md5(&head("Content-MD5: JfnnlDI7RTiF9RgfG2JNCw==\r\n"), b"123456789").is_ok());
        let other = check_md5(&head("Content-MD5: JfnnlDI7RTiF9RgfG2JNCw==\r\n"), b"12345678");
        assert_eq!(other.unwrap_err().code, Code::BadDigest);
        let no_md5 = check_md5(&head("Content-MD5: JfnnlDI7RTiF9RgfG2JN\r\n"), b"");
        assert_eq!(no_md5.unwrap_err().code, Code::InvalidDigest);
        assert!(check_document(&head("x-amz-checksum-crc32: y/Q5Jg==\r\n"), None, b"123456789").is_ok());
        let other = check_document(&head("x-amz-checksum-crc32: y/Q5Jg==\r\n"), None, b"12345678");
        assert_eq!(other.unwrap_err().code, Code::BadDigest);
        let trailing = Some((ChecksumAlgorithm::Crc32, vec![0; 4]));
        assert_eq!(check_document(&head(""), trailing, b"1").unwrap_err().code, Code::BadDigest);
    }
}
