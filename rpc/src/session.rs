//! What the handshake leaves each side with: the keys of one connection.
//!
//! What must hold:
//! - Each direction has keys of its own, derived from the deployment's secret and all that was said in the handshake, both
//!   random numbers included: a frame of another connection, of the other direction or of another place in this one does
//!   not verify.
//! - A frame's place is its number in its direction, which does not travel: each side counts.
//! - Keys are never shown. Those that wait for their use are wiped when they are dropped; the states of the hashes that work with
//!   them are not.
//!
//! A head is verified with HMAC-SHA256. A payload is first hashed with XXH3-128 under a secret of the direction, and HMAC is
//! taken of that hash, so that gigabytes a second can be verified and the hash itself never travels. Tags are 16 bytes.
//!
//! XXH3 is no universal hash with a proof: who sits on the way and flips chosen bits of a payload may go unnoticed once in some
//! 2^33 attempts, each of which ends the connection. Where the network between nodes is not one's own, TLS is what is meant for it.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use xxhash_rust::xxh3::Xxh3;
use zeroize::Zeroizing;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Shortest secret of a deployment, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// XXH3's secret, in bytes.
const PAYLOAD_SECRET_BYTES: usize = 192;

pub(crate) type HmacSha256 = Hmac<Sha256>;

/// The tag of one head or payload.
pub type Tag = [u8; TAG_BYTES];

/// The deployment's secret, which every node holds. Wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Shorter than [`SECRET_BYTES_MIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deployment's secret has {0} bytes, at least {SECRET_BYTES_MIN} are needed")]
pub struct ShortSecret(pub usize);

impl Secret {
    /// From random bytes: a word that can be guessed can be found from one recorded handshake.
    pub fn new(bytes: &[u8]) -> Result<Secret, ShortSecret> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(ShortSecret(bytes.len()));
        }
        Ok(Secret(Zeroizing::new(bytes.to_vec())))
    }

    pub(crate) fn mac(&self) -> HmacSha256 {
        keyed(&self.0)
    }
}

impl PartialEq for Secret {
    /// In the same time wherever they differ; lengths are not secret.
    fn eq(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

fn keyed(key: &[u8]) -> HmacSha256 {
    match HmacSha256::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

/// Both directions of one connection, as one side has them.
#[derive(Debug)]
pub struct Session {
    /// The version that both sides speak.
    pub version: u16,
    /// For frames that go out.
    pub sealer: Sealer,
    /// For frames that come in.
    pub opener: Opener,
}

impl Session {
    pub(crate) fn new(secret: &Secret, version: u16, transcript: &[u8], is_initiator: bool) -> Session {
        let towards_acceptor = Keys::derive(secret, b"buckets: to the acceptor", transcript);
        let towards_initiator = Keys::derive(secret, b"buckets: to the initiator", transcript);
        let (sending, receiving) = match is_initiator {
            true => (towards_acceptor, towards_initiator),
            false => (towards_initiator, towards_acceptor),
        };
        Session { version, sealer: Sealer { keys: sending }, opener: Opener { keys: receiving } }
    }
}

/// One direction.
struct Keys {
    frames: HmacSha256,
    payloads: Zeroizing<[u8; PAYLOAD_SECRET_BYTES]>,
    /// The next frame's.
    number: u64,
}

impl Keys {
    fn derive(secret: &Secret, label: &[u8], transcript: &[u8]) -> Keys {
        let block = |number: u8| {
            let mut mac = secret.mac();
            mac.update(&[number]);
            mac.update(label);
            mac.update(transcript);
            Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()))
        };
        let mut payloads = Zeroizing::new([0; PAYLOAD_SECRET_BYTES]);
        for (number, part) in payloads.chunks_exact_mut(32).enumerate() {
            // Six blocks.
            part.copy_from_slice(&*block(number as u8 + 1));
        }
        Keys { frames: keyed(&*block(0)), payloads, number: 0 }
    }

    fn head_tag(&self, header: &[u8], head: &[u8]) -> Tag {
        self.tag(b'H', self.number, [header, head])
    }

    fn payload_tag(&self, number: u64, hash: &PayloadHash) -> Tag {
        self.tag(b'P', number, [&hash.0.digest128().to_le_bytes(), &[]])
    }

    fn tag(&self, kind: u8, number: u64, parts: [&[u8]; 2]) -> Tag {
        let mut mac = self.frames.clone();
        mac.update(&[kind]);
        mac.update(&number.to_le_bytes());
        for part in parts {
            mac.update(part);
        }
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&whole[..TAG_BYTES]);
        tag
    }

    fn payload_hash(&self) -> PayloadHash {
        PayloadHash(Box::new(Xxh3::with_secret(*self.payloads)))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys(at frame {})", self.number)
    }
}

/// Tags outgoing frames, in order.
#[derive(Debug)]
pub struct Sealer {
    keys: Keys,
}

impl Sealer {
    pub(crate) fn payload_tag<P: AsRef<[u8]>>(&self, pieces: &[P]) -> Tag {
        let mut hash = self.keys.payload_hash();
        pieces.iter().for_each(|piece| hash.update(piece.as_ref()));
        self.keys.payload_tag(self.keys.number, &hash)
    }

    /// The tag of the next frame; the one after that is the next from now on.
    pub(crate) fn head_tag(&mut self, header: &[u8], head: &[u8]) -> Tag {
        let tag = self.keys.head_tag(header, head);
        self.keys.number += 1;
        tag
    }
}

/// Verifies incoming frames, in order.
#[derive(Debug)]
pub struct Opener {
    keys: Keys,
}

impl Opener {
    /// True where this is the next frame's head; then the one after that is the next from now on.
    pub(crate) fn takes_head(&mut self, header: &[u8], head: &[u8], tag: &Tag) -> bool {
        let good = self.keys.head_tag(header, head).ct_eq(tag).into();
        self.keys.number += u64::from(good);
        good
    }

    /// What verifies the payload of the frame whose head was taken last.
    pub(crate) fn payload_check(&self, tag: Tag) -> PayloadCheck {
        PayloadCheck { hash: self.keys.payload_hash(), number: self.keys.number - 1, tag }
    }

    /// True where the bytes that the check has seen are the payload.
    pub fn takes_payload(&self, check: &PayloadCheck) -> bool {
        self.keys.payload_tag(check.number, &check.hash).ct_eq(&check.tag).into()
    }
}

/// The bytes of a payload as they come in.
pub struct PayloadCheck {
    hash: PayloadHash,
    number: u64,
    tag: Tag,
}

impl PayloadCheck {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }
}

impl std::fmt::Debug for PayloadCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PayloadCheck(of frame {})", self.number)
    }
}

struct PayloadHash(Box<Xxh3>);

impl PayloadHash {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128_with_secret;

    #[test]
    fn secrets_are_compared_but_not_shown() {
        let secret = |last: u8| Secret::new(&[[0; SECRET_BYTES_MIN].as_slice(), &[last]].concat()).unwrap();
        assert_eq!(secret(1), secret(1));
        assert_ne!(secret(1), secret(2));
        assert_ne!(secret(0), Secret::new(&[0; SECRET_BYTES_MIN]).unwrap());
        assert_eq!(format!("{:?}", secret(1)), "Secret");
    }

    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        let data = vec![7_u8; 256 << 10];
        let secret = [9_u8; PAYLOAD_SECRET_BYTES];
        let rate = |name: &str, run: &dyn Fn() -> u128| {
            let mut best = f64::MAX;
            let mut sum = 0;
            for _ in 0..2000 {
                let start = std::time::Instant::now();
                sum ^= run();
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!("{name}: {:.2} GB/s ({sum})", data.len() as f64 / best / 1e9);
        };
        rate("streamed", &|| {
            let mut hash = Xxh3::with_secret(secret);
            hash.update(&data);
            hash.digest128()
        });
        rate("at once", &|| xxh3_128_with_secret(&data, &secret));
        let mut to = vec![0_u8; 256 << 10];
        let start = std::time::Instant::now();
        for _ in 0..2000 {
            to.copy_from_slice(std::hint::black_box(&data));
            std::hint::black_box(&mut to);
        }
        println!("copied: {:.2} GB/s", 2000.0 * data.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
}
