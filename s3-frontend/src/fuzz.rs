//! Entry points for fuzzing (feature `fuzz`): each takes any bytes and panics where an invariant does not hold.

use crate::http::body::{Chunked, Framer, FramingError};
use crate::http::head::Head;
use crate::http::target::Target;
use crate::s3::auth::signing::{ChunkSigner, SigningKey, SigningKeys, hex};
use crate::s3::auth::{self, Site};
use crate::s3::aws_chunked::AwsChunked;
use crate::s3::xml::reader;
use crate::{date, s3};

const UNIX_SECONDS: i64 = 1_700_000_000;

/// An HTTP head: what is parsed does not depend on what follows it, and not on how it arrived.
pub fn http_head(data: &[u8]) {
    let mut head = Head::default();
    if let Ok(Some(used)) = head.parse(data) {
        assert!(used <= data.len());
        let mut again = Head::default();
        assert_eq!(again.parse(&data[..used]), Ok(Some(used)));
        assert_eq!((again.keep_alive(), again.method()), (head.keep_alive(), head.method()));
        assert!(!matches!(again.parse(&data[..used - 1]), Ok(Some(_))), "a head ends twice");
    }
}

/// A request target with its query: what is decoded is text, and encodes back to something that decodes alike.
pub fn query_string(data: &[u8]) {
    let mut target = Target::default();
    if target.parse(data).is_err() {
        return;
    }
    for (name, value) in target.query_pairs() {
        assert!(target.has_query(name));
        let _ = value.len();
    }
    let _ = (target.path().len(), target.authority());
}

/// Chunks of HTTP: what comes out does not depend on how the bytes are cut.
pub fn http_chunked(data: &[u8]) {
    let whole = decode(Chunked::new(), data, usize::MAX);
    for piece in [1, 7] {
        assert_eq!(decode(Chunked::new(), data, piece), whole, "in pieces of {piece}");
    }
}

/// aws-chunked, unsigned with a trailer and signed.
pub fn aws_chunked(data: &[u8]) {
    let framings: [fn() -> AwsChunked; 2] = [
        || AwsChunked::new(None, Some("x-amz-checksum-crc32")),
        || {
            let key = SigningKey::derive("secret", "20231114", "us-east-1");
            let scope = "20231114/us-east-1/s3/aws4_request";
            let signer = ChunkSigner::new(key, date::amz_date(UNIX_SECONDS), scope, hex(&[7; 32]));
            AwsChunked::new(Some(Box::new(signer)), Some("x-amz-checksum-crc32"))
        },
    ];
    for framing in framings {
        let whole = decode(framing(), data, usize::MAX);
        for piece in [1, 13] {
            assert_eq!(decode(framing(), data, piece), whole, "in pieces of {piece}");
        }
    }
}

/// The data of a framed body that arrives in pieces, whether it is complete, and the bytes behind it.
fn decode(
    mut framing: impl Framer,
    mut data: &[u8],
    piece_bytes: usize,
) -> Result<(Vec<u8>, bool, usize), FramingError> {
    let mut out = Vec::new();
    while !data.is_empty() && !framing.is_done() {
        let mut piece = &data[..data.len().min(piece_bytes)];
        let begun_with = piece.len();
        while !piece.is_empty() && !framing.is_done() {
            let take = framing.data_left().min(piece.len() as u64) as usize;
            let used = match take {
                0 => framing.skip_framing(piece)?,
                _ => {
                    framing.advance(&piece[..take]);
                    out.extend_from_slice(&piece[..take]);
                    take
                }
            };
            assert!(used > 0 && used <= piece.len(), "no bytes taken, or more than there were");
            piece = &piece[used..];
        }
        data = &data[begun_with - piece.len()..];
    }
    Ok((out, framing.is_done(), data.len()))
}

/// The signature of a request. Nobody knows the secret, so nothing is ever accepted.
pub fn sigv4(data: &[u8]) {
    let mut head = Head::default();
    let Ok(Some(_)) = head.parse(data) else { return };
    let mut target = Target::default();
    if target.parse(head.target()).is_err() {
        return;
    }
    let site = Site { region: "us-east-1", is_also_region: &|_| false, unix_seconds: UNIX_SECONDS };
    let mut keys = SigningKeys::default();
    let user = |_: &str| Some(((), "a secret that is in no input".to_owned()));
    assert!(auth::authenticate(&head, &target, site, &mut keys, user).is_err());
}

/// The documents that S3 clients send.
pub fn xml(data: &[u8]) {
    let mut depth = 0;
    let _ = reader::read(data, |path, _| {
        depth = depth.max(path.split('/').count());
        Ok(())
    });
    assert!(depth <= crate::limits::XML_DEPTH_MAX);
    s3::op::fuzz_documents(data);
}
