//! Who sends a request, proven by AWS Signature Version 4.
//!
//! What must hold:
//! - A request is what its signature says, or it is refused: the host and every `x-amz-*` header must be signed, the date must be
//!   near the clock, the scope must be this day, this region and `s3`.
//! - Signatures are compared in constant time, and nothing but the final comparison depends on the secret.
//! - The signature covers the body through [`Payload`]: whoever reads the body checks it.

mod canonical;
mod presented;
pub(crate) mod signing;
pub(crate) mod version2;

use crate::date;
use crate::http::head::Head;
use crate::http::target::Target;
use crate::limits::{CLOCK_SKEW_SECONDS_MAX, PRESIGN_SECONDS_MAX};
use crate::s3::error::{Code, S3Error, S3Result};
use presented::{Presented, Source};
use sha2::{Digest, Sha256};
use signing::{ChunkSigner, SigningKeys};
use subtle::ConstantTimeEq;

/// How the signature covers the body.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Not at all (`UNSIGNED-PAYLOAD`).
    Unsigned,
    /// By the SHA-256 of the whole body.
    Sha256([u8; 32]),
    /// By a signature on each chunk, and on the trailer where there is one.
    SignedChunks { signer: Box<ChunkSigner>, trailer: bool },
    /// Not at all, but the body is aws-chunked and has a trailer.
    UnsignedChunks,
}

/// A request whose signature is right.
#[derive(Debug)]
pub(crate) struct Authenticated<U> {
    /// Who sent it, as `look_up` gave it.
    pub(crate) user: U,
    pub(crate) payload: Payload,
}

/// The site's part of a signature.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) region: &'a str,
    /// Whether another region may be named too: the one that the bucket was created for.
    pub(crate) is_also_region: &'a dyn Fn(&str) -> bool,
    pub(crate) unix_seconds: i64,
}

/// Verifies the signature of a request. `look_up` gives the user and the secret of an access key.
pub(crate) fn authenticate<U>(
    head: &Head,
    target: &Target,
    site: Site<'_>,
    keys: &mut SigningKeys,
    look_up: impl FnOnce(&str) -> Option<(U, String)>,
) -> S3Result<Authenticated<U>> {
    let presented = Presented::read(head, target)?;
    check_scope(&presented, site)?;
    check_time(&presented, site)?;
    check_signed_headers(head, &presented)?;
    let payload = payload_of(&presented)?;

    let Some((user, secret)) = look_up(presented.access_key) else {
        return Err(Code::InvalidAccessKeyId.with("AWSAccessKeyId", presented.access_key));
    };
    let key = keys.get(presented.access_key, &secret, presented.day(), presented.region);
    let canonical = canonical::request(head, target, &presented);
    let date = date::amz_date(presented.unix_seconds);
    let text = string_to_sign(&date, presented.scope, &canonical);
    let computed = signing::hex(&key.sign(&[&text]));
    if !bool::from(computed.as_slice().ct_eq(presented.signature.as_bytes())) {
        return Err(mismatch(&presented, &text, &canonical));
    }

    let signer = || Box::new(ChunkSigner::new(key.clone(), date, presented.scope, computed));
    let payload = match payload {
        PayloadName::Unsigned => Payload::Unsigned,
        PayloadName::Sha256(hash) => Payload::Sha256(hash),
        PayloadName::Chunks => Payload::SignedChunks { signer: signer(), trailer: false },
        PayloadName::ChunksAndTrailer => Payload::SignedChunks { signer: signer(), trailer: true },
        PayloadName::UnsignedChunks => Payload::UnsignedChunks,
    };
    Ok(Authenticated { user, payload })
}

fn check_scope(presented: &Presented<'_>, site: Site<'_>) -> S3Result<()> {
    if presented.region != site.region && !(site.is_also_region)(presented.region) {
        let message = format!("the region '{}' is wrong; expecting '{}'", presented.region, site.region);
        return Err(presented.malformed(&message).with("Region", site.region));
    }
    if presented.service != "s3" {
        let message =
            format!("incorrect service \"{}\". This endpoint belongs to \"s3\".", presented.service);
        return Err(presented.malformed(&message));
    }
    let date = date::amz_date(presented.unix_seconds);
    let day = &date.as_str()[..8];
    if presented.day() != day {
        let message = format!(
            "Invalid credential date \"{}\". This date is not the same as X-Amz-Date: \"{day}\".",
            presented.day()
        );
        return Err(presented.malformed(&message));
    }
    Ok(())
}

fn check_time(presented: &Presented<'_>, site: Site<'_>) -> S3Result<()> {
    let age = site.unix_seconds.saturating_sub(presented.unix_seconds);
    let server_time = date::iso8601_millis(site.unix_seconds.saturating_mul(1000));
    match presented.source {
        Source::Header if age.abs() > CLOCK_SKEW_SECONDS_MAX => Err(Code::RequestTimeTooSkewed
            .with("RequestTime", date::amz_date(presented.unix_seconds).as_str())
            .with("ServerTime", server_time.as_str())
            .with("MaxAllowedSkewMilliseconds", (CLOCK_SKEW_SECONDS_MAX * 1000).to_string())),
        Source::Query { .. } if age < -CLOCK_SKEW_SECONDS_MAX => Err(Code::AccessDenied
            .because("Request is not valid yet")
            .with("ServerTime", server_time.as_str())),
        Source::Query { expires_seconds } if age > expires_seconds as i64 => {
            let end = presented.unix_seconds.saturating_add(expires_seconds as i64);
            Err(Code::AccessDenied
                .because("Request has expired")
                .with("X-Amz-Expires", expires_seconds.to_string())
                .with("Expires", date::iso8601_millis(end.saturating_mul(1000)).as_str())
                .with("ServerTime", server_time.as_str()))
        }
        Source::Header | Source::Query { .. } => Ok(()),
    }
}

/// What is not signed could have been added by anyone on the way.
fn check_signed_headers(head: &Head, presented: &Presented<'_>) -> S3Result<()> {
    let must_be_signed = |name: &str| match presented.source {
        Source::Header => name.starts_with("x-amz-"),
        // The hash of a presigned request's body is part of its query; some clients send the header all the same.
        Source::Query { .. } => name.starts_with("x-amz-") && name != "x-amz-content-sha256",
    };
    let mut unsigned = head
        .headers()
        .map(|(name, _)| name)
        .filter(|name| must_be_signed(name) && !presented.signs(name))
        .chain((!presented.signs("host")).then_some("host"))
        .peekable();
    if unsigned.peek().is_none() {
        return Ok(());
    }
    let names: Vec<_> = unsigned.collect();
    Err(Code::AccessDenied
        .because("There were headers present in the request which were not signed")
        .with("HeadersNotSigned", names.join(", ")))
}

enum PayloadName {
    Unsigned,
    Sha256([u8; 32]),
    Chunks,
    ChunksAndTrailer,
    UnsignedChunks,
}

fn payload_of(presented: &Presented<'_>) -> S3Result<PayloadName> {
    Ok(match presented.payload {
        "UNSIGNED-PAYLOAD" => PayloadName::Unsigned,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => PayloadName::Chunks,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => PayloadName::ChunksAndTrailer,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => PayloadName::UnsignedChunks,
        hash => match signing::unhex(hash) {
            Some(hash) => PayloadName::Sha256(hash),
            None => {
                let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
                    STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, \
                    STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.";
                return Err(S3Error::invalid_argument(message, "x-amz-content-sha256", hash));
            }
        },
    })
}

fn string_to_sign(date: &date::DateText<16>, scope: &str, canonical: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(160);
    text.extend_from_slice(b"AWS4-HMAC-SHA256\n");
    text.extend_from_slice(date.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(scope.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(&signing::hex(&Sha256::digest(canonical).into()));
    text
}

/// The refusal shows what was computed over, as S3 does: it is how people find what their client signed instead. It holds nothing
/// that the sender does not know.
fn mismatch(presented: &Presented<'_>, string_to_sign: &[u8], canonical: &[u8]) -> S3Error {
    Code::SignatureDoesNotMatch
        .with("AWSAccessKeyId", presented.access_key)
        .with("StringToSign", String::from_utf8_lossy(string_to_sign))
        .with("SignatureProvided", presented.signature)
        .with("CanonicalRequest", String::from_utf8_lossy(canonical))
}

const _: () = assert!(PRESIGN_SECONDS_MAX < i64::MAX as u64);

#[cfg(test)]
mod tests;
