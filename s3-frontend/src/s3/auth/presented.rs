//! What a request presents as its proof: the `Authorization` header, or the parameters of a presigned URL.

use crate::date;
use crate::http::head::Head;
use crate::http::target::Target;
use crate::limits::PRESIGN_SECONDS_MAX;
use crate::s3::error::{Code, S3Error, S3Result};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Where the proof stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Header,
    Query { expires_seconds: u64 },
}

/// The parts of a proof, well-formed but not yet believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presented<'a> {
    pub(super) source: Source,
    pub(super) access_key: &'a str,
    /// `day/region/service/aws4_request`
    pub(super) scope: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    /// Names in lower case, with semicolons between.
    pub(super) signed_headers: &'a str,
    pub(super) signature: &'a str,
    /// When it was signed.
    pub(super) unix_seconds: i64,
    /// The value of `x-amz-content-sha256`.
    pub(super) payload: &'a str,
}

impl<'a> Presented<'a> {
    pub(super) fn read(head: &'a Head, target: &'a Target) -> S3Result<Presented<'a>> {
        let in_query = target.has_query("X-Amz-Algorithm")
            || target.has_query("X-Amz-Signature")
            || target.has_query("X-Amz-Credential");
        match (head.header("authorization"), in_query) {
            (Some(_), true) => Err(Code::InvalidArgument
                .because("Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified")),
            (Some(authorization), false) => Presented::from_header(head, authorization),
            (None, true) => Presented::from_query(head, target),
            // Nobody is allowed anything without a name.
            (None, false) => Err(Code::AccessDenied.into()),
        }
    }

    fn from_header(head: &'a Head, authorization: &'a str) -> S3Result<Presented<'a>> {
        let Some(fields) = authorization.strip_prefix(ALGORITHM) else {
            return Err(match authorization.split_ascii_whitespace().next() {
                Some("AWS") | Some("AWS4-ECDSA-P256-SHA256") => Code::InvalidRequest.because(
                    "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
                ),
                _ => S3Error::invalid_argument("Unsupported Authorization Type", "Authorization", authorization),
            });
        };
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            match field.trim().split_once('=') {
                Some(("Credential", value)) => credential = Some(value),
                Some(("SignedHeaders", value)) => signed_headers = Some(value),
                Some(("Signature", value)) => signature = Some(value),
                _ => {}
            }
        }
        let missing = |name: &str| {
            malformed_header(&format!(
                "the authorization header requires three components: Credential, SignedHeaders, and Signature; {name} is missing."
            ))
        };
        let credential = credential.ok_or_else(|| missing("Credential"))?;
        let signed_headers = signed_headers.ok_or_else(|| missing("SignedHeaders"))?;
        let signature = signature.ok_or_else(|| missing("Signature"))?;

        let unix_seconds = match (head.header("x-amz-date"), head.header("date")) {
            (Some(date), _) => date::parse_amz_date(date),
            (None, Some(date)) => date::parse_http_date(date).or_else(|| date::parse_amz_date(date)),
            (None, None) => None,
        };
        let Some(unix_seconds) = unix_seconds else {
            return Err(
                Code::AccessDenied.because("AWS authentication requires a valid Date or x-amz-date header")
            );
        };
        let Some(payload) = head.header("x-amz-content-sha256") else {
            return Err(Code::InvalidRequest
                .because("Missing required header for this request: x-amz-content-sha256"));
        };
        let credential = Credential::parse(credential).ok_or_else(|| {
            malformed_header(
                "the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        })?;
        Ok(Presented {
            source: Source::Header,
            access_key: credential.access_key,
            scope: credential.scope,
            region: credential.region,
            service: credential.service,
            signed_headers,
            signature,
            unix_seconds,
            payload,
        })
    }

    fn from_query(head: &'a Head, target: &'a Target) -> S3Result<Presented<'a>> {
        let required = [
            "X-Amz-Algorithm",
            "X-Amz-Credential",
            "X-Amz-Signature",
            "X-Amz-Date",
            "X-Amz-SignedHeaders",
            "X-Amz-Expires",
        ];
        let [
            Some(algorithm),
            Some(credential),
            Some(signature),
            Some(date),
            Some(signed_headers),
            Some(expires),
        ] = required.map(|name| target.query(name))
        else {
            return Err(malformed_query(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, \
                 X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            ));
        };
        if algorithm != ALGORITHM {
            return Err(malformed_query("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
        }
        let unix_seconds = date::parse_amz_date(date).ok_or_else(|| {
            malformed_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        })?;
        let expires_seconds = match expires.parse::<i64>() {
            Err(_) => return Err(malformed_query("X-Amz-Expires should be a number")),
            Ok(seconds) if seconds < 1 => return Err(malformed_query("X-Amz-Expires must be positive")),
            Ok(seconds) if seconds as u64 > PRESIGN_SECONDS_MAX => {
                return Err(malformed_query(
                    "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less \
                     than 604800 seconds",
                ));
            }
            Ok(seconds) => seconds as u64,
        };
        let credential = Credential::parse(credential).ok_or_else(|| {
            malformed_query(
                "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        })?;
        let payload = target
            .query("X-Amz-Content-Sha256")
            .or_else(|| head.header("x-amz-content-sha256"))
            .unwrap_or("UNSIGNED-PAYLOAD");
        Ok(Presented {
            source: Source::Query { expires_seconds },
            access_key: credential.access_key,
            scope: credential.scope,
            region: credential.region,
            service: credential.service,
            signed_headers,
            signature,
            unix_seconds,
            payload,
        })
    }

    /// The day of the scope.
    pub(super) fn day(&self) -> &'a str {
        self.scope.split('/').next().unwrap_or_default()
    }

    /// Whether the header of that name (in lower case) is signed.
    pub(super) fn signs(&self, name: &str) -> bool {
        self.signed_headers.split(';').any(|signed| signed.eq_ignore_ascii_case(name))
    }

    /// The error of a scope that is wrong, by where it stands.
    pub(super) fn malformed(&self, what: &str) -> S3Error {
        match self.source {
            Source::Header => malformed_header(what),
            Source::Query { .. } => {
                malformed_query(&format!("Error parsing the X-Amz-Credential parameter; {what}"))
            }
        }
    }
}

struct Credential<'a> {
    access_key: &'a str,
    scope: &'a str,
    region: &'a str,
    service: &'a str,
}

impl<'a> Credential<'a> {
    /// The access key may itself hold slashes: the scope is the last four parts.
    fn parse(text: &'a str) -> Option<Credential<'a>> {
        let mut parts = text.rsplitn(5, '/');
        let (terminator, service, region, day) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let access_key = parts.next()?;
        let day_is_plain = day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
        if terminator != "aws4_request" || !day_is_plain || access_key.is_empty() {
            return None;
        }
        Some(Credential { access_key, scope: &text[access_key.len() + 1..], region, service })
    }
}

fn malformed_header(what: &str) -> S3Error {
    Code::AuthorizationHeaderMalformed.because(format!("The authorization header is malformed; {what}"))
}

fn malformed_query(what: &str) -> S3Error {
    Code::AuthorizationQueryParametersError.because(what.to_owned())
}
