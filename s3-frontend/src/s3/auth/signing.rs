//! Keys that sign, the memory of them, and the chain of signatures inside a streamed body.

use crate::date::DateText;
use crate::limits::SIGNING_KEYS_MAX;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use subtle::ConstantTimeEq;

/// A SHA-256 or a signature, as lower-case hex.
pub(crate) type Hex = [u8; 64];

pub(crate) fn hex(bytes: &[u8; 32]) -> Hex {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (at, byte) in bytes.iter().enumerate() {
        text[2 * at] = DIGITS[usize::from(byte >> 4)];
        text[2 * at + 1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |digit: u8| (digit as char).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

/// A key, ready to sign: both halves of its HMAC are computed once.
#[derive(Clone)]
pub(crate) struct SigningKey {
    hmac: Hmac<Sha256>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    fn new(key: &[u8]) -> SigningKey {
        match Hmac::new_from_slice(key) {
            Ok(hmac) => SigningKey { hmac },
            Err(_) => unreachable!("HMAC takes keys of every length"),
        }
    }

    /// The key of one secret for one day, one region and S3.
    pub(crate) fn derive(secret: &str, day: &str, region: &str) -> SigningKey {
        let mut key = SigningKey::new(format!("AWS4{secret}").as_bytes());
        for part in [day, region, "s3", "aws4_request"] {
            key = SigningKey::new(&key.sign(&[part.as_bytes()]));
        }
        key
    }

    /// The HMAC-SHA256 of the parts, one after the other.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hmac = self.hmac.clone();
        for part in parts {
            hmac.update(part);
        }
        hmac.finalize().into_bytes().into()
    }
}

struct RememberedKey {
    secret_hash: [u8; 32],
    day: String,
    region: String,
    key: SigningKey,
}

/// A core's memory of derived keys: four HMACs fewer per request. One key per access key; limited.
#[derive(Default)]
pub(crate) struct SigningKeys {
    keys: HashMap<String, RememberedKey>,
}

impl SigningKeys {
    /// The key of `access_key` for `day` and `region`. A secret that was changed since is noticed.
    pub(crate) fn get(&mut self, access_key: &str, secret: &str, day: &str, region: &str) -> SigningKey {
        let secret_hash: [u8; 32] = Sha256::digest(secret).into();
        if let Some(known) = self.keys.get(access_key)
            && known.day == day
            && known.region == region
            && bool::from(known.secret_hash.ct_eq(&secret_hash))
        {
            return known.key.clone();
        }
        let key = SigningKey::derive(secret, day, region);
        if self.keys.len() >= SIGNING_KEYS_MAX && !self.keys.contains_key(access_key) {
            self.keys.clear();
        }
        let known =
            RememberedKey { secret_hash, day: day.to_owned(), region: region.to_owned(), key: key.clone() };
        self.keys.insert(access_key.to_owned(), known);
        key
    }
}

/// The chain of signatures inside a streamed body: each one covers a piece and the signature before it; the first follows the
/// signature of the head.
#[derive(Debug)]
pub(crate) struct ChunkSigner {
    key: SigningKey,
    date: DateText<16>,
    scope: String,
    previous: Hex,
}

impl ChunkSigner {
    pub(crate) fn new(key: SigningKey, date: DateText<16>, scope: &str, seed: Hex) -> ChunkSigner {
        ChunkSigner { key, date, scope: scope.to_owned(), previous: seed }
    }

    /// Whether `given` is the signature of the next chunk, whose data has this hash. The chain goes on from the computed one.
    pub(crate) fn verify_chunk(&mut self, data_hash: &[u8; 32], given: &[u8]) -> bool {
        const EMPTY_SHA256: &[u8] = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";
        let computed = self.key.sign(&[
            b"AWS4-HMAC-SHA256-PAYLOAD\n",
            self.date.as_bytes(),
            b"\n",
            self.scope.as_bytes(),
            b"\n",
            &self.previous,
            b"\n",
            EMPTY_SHA256,
            &hex(data_hash),
        ]);
        self.compare(&computed, given)
    }

    /// Whether `given` is the signature of the trailer; `lines` are its headers as `name:value\n` each.
    pub(crate) fn verify_trailer(&mut self, lines: &[u8], given: &[u8]) -> bool {
        let computed = self.key.sign(&[
            b"AWS4-HMAC-SHA256-TRAILER\n",
            self.date.as_bytes(),
            b"\n",
            self.scope.as_bytes(),
            b"\n",
            &self.previous,
            b"\n",
            &hex(&Sha256::digest(lines).into()),
        ]);
        self.compare(&computed, given)
    }

    fn compare(&mut self, computed: &[u8; 32], given: &[u8]) -> bool {
        self.previous = hex(computed);
        bool::from(self.previous.as_slice().ct_eq(given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways() {
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8 * 8);
        let text = hex(&bytes);
        assert_eq!(unhex(std::str::from_utf8(&text).unwrap()), Some(bytes));
        assert_eq!(unhex("00"), None);
        assert_eq!(unhex(&"g".repeat(64)), None);
    }

    #[test]
    fn a_remembered_key_is_forgotten_when_secret_day_or_region_change() {
        let mut keys = SigningKeys::default();
        let sign = |keys: &mut SigningKeys, secret: &str, day: &str, region: &str| {
            keys.get("AK", secret, day, region).sign(&[b"x"])
        };
        let first = sign(&mut keys, "s", "20130524", "us-east-1");
        assert_eq!(first, sign(&mut keys, "s", "20130524", "us-east-1"));
        assert_ne!(first, sign(&mut keys, "t", "20130524", "us-east-1"));
        assert_ne!(first, sign(&mut keys, "s", "20130525", "us-east-1"));
        assert_ne!(first, sign(&mut keys, "s", "20130524", "eu-west-1"));
        assert_eq!(first, sign(&mut keys, "s", "20130524", "us-east-1"));
    }

    #[test]
    fn the_memory_of_keys_is_limited() {
        let mut keys = SigningKeys::default();
        for user in 0..SIGNING_KEYS_MAX + 10 {
            keys.get(&user.to_string(), "s", "20130524", "us-east-1");
        }
        assert!(keys.keys.len() <= SIGNING_KEYS_MAX);
    }
}
