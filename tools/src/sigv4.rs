//! Signs a request of our own (AWS Signature Version 4, in the header).

use crate::credentials::Credentials;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// What is signed of a request: `host`, `x-amz-content-sha256` and `x-amz-date`.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// As the Host header says it.
    pub(crate) host: &'a str,
    /// Characters that need no escape only.
    pub(crate) path: &'a str,
    /// Names and values, unescaped.
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// The headers that prove who sends it, and the target to send it to.
pub(crate) struct Signed {
    pub(crate) target: String,
    pub(crate) headers: [(&'static str, String); 3],
}

pub(crate) fn sign(
    request: &Request<'_>,
    credentials: &Credentials,
    region: &str,
    now: OffsetDateTime,
) -> Signed {
    let now = now.to_offset(time::UtcOffset::UTC);
    let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
    let date = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
    let payload = hex::encode(Sha256::digest(request.body));
    let query = canonical_query(request.query);

    let Request { method, host, path, .. } = request;
    let canonical = format!(
        "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{date}\n\n{SIGNED_HEADERS}\n{payload}"
    );
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let mut key = hmac(format!("AWS4{}", credentials.secret_key).as_bytes(), day.as_bytes());
    for part in [region, "s3", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    let signature = hex::encode(hmac(&key, text.as_bytes()));
    let access_key = &credentials.access_key;
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}"
    );
    Signed {
        target: if query.is_empty() { (*path).to_owned() } else { format!("{path}?{query}") },
        headers: [("x-amz-content-sha256", payload), ("x-amz-date", date), ("authorization", authorization)],
    }
}

const SIGNED_HEADERS: &str = "host;x-amz-content-sha256;x-amz-date";

fn canonical_query(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<(String, String)> =
        query.iter().map(|(name, value)| (escape(name), escape(value))).collect();
    pairs.sort();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of every length")
    };
    mac.update(data);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_of_a_listing_has_its_documented_signature() {
        // "GET Bucket (List Objects)" of Amazon's documentation of Signature Version 4; it signs the same three headers.
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let request = Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/",
            query: &[("prefix", "J"), ("max-keys", "2")],
            body: b"",
        };
        let now = time::macros::datetime!(2013-05-24 0:00 UTC);
        let signed = sign(&request, &credentials, "us-east-1", now);
        assert_eq!(signed.target, "/?max-keys=2&prefix=J");
        let authorization = &signed.headers[2].1;
        let expected = "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
        assert!(authorization.ends_with(expected), "{authorization}");
    }

    #[test]
    fn everything_but_unreserved_characters_is_escaped() {
        assert_eq!(canonical_query(&[("k", "a/b c+~é")]), "k=a%2Fb%20c%2B~%C3%A9");
    }
}
