//! ETags and checksums of bodies, computed while they stream.
//!
//! What must hold: the values are AWS's (RFC 1321; CRC32 ISO-HDLC, CRC32C, CRC64NVME as numbers in big-endian;
//! FIPS 180-4), so that any client can verify them.

use super::api::{Checksum, ChecksumAlgorithm, ChecksumKind, ChecksumRequest, ObjectError};
use super::md5_lanes::Md5;
use crc_fast::{CrcAlgorithm, Digest as Crc};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The digests of one body.
pub(crate) struct BodyDigest {
    md5: Md5,
    checksum: Running,
    size: u64,
}

/// What a body's digests came to.
pub(crate) struct Digested {
    /// Of the body.
    pub(crate) md5: [u8; 16],
    /// Of the body.
    pub(crate) checksum: Checksum,
    /// Bytes.
    pub(crate) size: u64,
}

enum Running {
    Crc(ChecksumAlgorithm, Crc),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl BodyDigest {
    /// Starts over an empty body; without a request CRC64NVME is computed, as AWS does.
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> BodyDigest {
        BodyDigest { md5: Md5::new(), checksum: Running::new(algorithm), size: 0 }
    }

    /// Adds the next bytes of the body. About 2 us per KiB; the caller slices and yields.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.update_all_but_md5(data);
    }

    /// As [`BodyDigest::update`]; the MD5 is computed elsewhere and given to [`BodyDigest::set_md5`].
    pub(crate) fn update_all_but_md5(&mut self, data: &[u8]) {
        self.checksum.update(data);
        self.size += data.len() as u64;
    }

    /// The MD5 of the whole body.
    pub(crate) fn set_md5(&mut self, md5: Md5) {
        self.md5 = md5;
    }

    /// The values, compared with what the client sent: `Content-MD5`, and the checksum from header or trailer.
    pub(crate) fn finish(
        self,
        content_md5: Option<[u8; 16]>,
        request: Option<&ChecksumRequest>,
        trailing: Option<(ChecksumAlgorithm, Vec<u8>)>,
    ) -> Result<Digested, ObjectError> {
        let digested = Digested { md5: self.md5.finish(), checksum: self.checksum.finish(), size: self.size };
        if content_md5.is_some_and(|expected| expected != digested.md5) {
            return Err(ObjectError::BadDigest);
        }
        let from_header = request.and_then(|r| Some((r.algorithm, r.expected.clone()?)));
        for (algorithm, expected) in from_header.into_iter().chain(trailing) {
            if algorithm != digested.checksum.algorithm || expected != digested.checksum.value {
                return Err(ObjectError::BadChecksum { algorithm });
            }
        }
        Ok(digested)
    }
}

impl Running {
    fn new(algorithm: ChecksumAlgorithm) -> Running {
        match crc(algorithm) {
            Some(crc) => Running::Crc(algorithm, Crc::new(crc)),
            None if algorithm == ChecksumAlgorithm::Sha1 => Running::Sha1(Sha1::new()),
            None => Running::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Running::Crc(_, crc) => crc.update(data),
            Running::Sha1(sha) => sha.update(data),
            Running::Sha256(sha) => sha.update(data),
        }
    }

    fn finish(self) -> Checksum {
        let (algorithm, value) = match self {
            Running::Crc(algorithm, crc) => (algorithm, crc_value(algorithm, crc.finalize())),
            Running::Sha1(sha) => (ChecksumAlgorithm::Sha1, sha.finalize().to_vec()),
            Running::Sha256(sha) => (ChecksumAlgorithm::Sha256, sha.finalize().to_vec()),
        };
        Checksum { algorithm, kind: ChecksumKind::FullObject, value }
    }
}

/// What the digest of a multipart object is made from.
pub(crate) struct PartDigest<'a> {
    /// Bytes of the part.
    pub(crate) size: u64,
    /// Its checksum, as stored.
    pub(crate) checksum: Option<&'a Checksum>,
}

/// The MD5 of the parts' MD5s.
pub(crate) fn multipart_md5<'a>(parts: impl Iterator<Item = &'a [u8; 16]>) -> [u8; 16] {
    let mut md5 = Md5::new();
    parts.for_each(|part| md5.update(part));
    md5.finish()
}

/// The checksum of a multipart object; `None` where a part has none of that algorithm, or where a full-object value
/// cannot be made from the parts (SHA).
pub(crate) fn multipart_checksum(
    algorithm: ChecksumAlgorithm,
    kind: ChecksumKind,
    parts: &[PartDigest<'_>],
) -> Option<Checksum> {
    let values = parts
        .iter()
        .map(|part| part.checksum.filter(|c| c.algorithm == algorithm).map(|c| (&c.value[..], part.size)))
        .collect::<Option<Vec<_>>>()?;
    let value = match kind {
        ChecksumKind::Composite => {
            let mut running = Running::new(algorithm);
            values.iter().for_each(|(value, _)| running.update(value));
            running.finish().value
        }
        ChecksumKind::FullObject => {
            let crc = crc(algorithm)?;
            let combined = values.iter().map(|(value, size)| (number(value), *size)).reduce(
                |(a, a_size), (b, b_size)| (crc_fast::checksum_combine(crc, a, b, b_size), a_size + b_size),
            )?;
            crc_value(algorithm, combined.0)
        }
    };
    Some(Checksum { algorithm, kind, value })
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

fn crc_value(algorithm: ChecksumAlgorithm, crc: u64) -> Vec<u8> {
    crc.to_be_bytes()[8 - algorithm.value_bytes()..].to_vec()
}

fn number(value: &[u8]) -> u64 {
    value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(algorithm: ChecksumAlgorithm, data: &[u8]) -> Digested {
        let mut digest = BodyDigest::new(algorithm);
        digest.update(data);
        digest.finish(None, None, None).unwrap()
    }

    #[test]
    fn values_are_the_published_check_values() {
        let check = |algorithm| digest(algorithm, b"123456789").checksum.value;
        assert_eq!(check(ChecksumAlgorithm::Crc32), 0xcbf4_3926_u32.to_be_bytes());
        assert_eq!(check(ChecksumAlgorithm::Crc32c), 0xe306_9283_u32.to_be_bytes());
        assert_eq!(check(ChecksumAlgorithm::Crc64Nvme), 0xae8b_1486_0a79_9888_u64.to_be_bytes());
        assert_eq!(digest(ChecksumAlgorithm::Sha1, b"").md5[..2], [0xd4, 0x1d]);
    }

    #[test]
    fn combined_crcs_are_those_of_the_whole() {
        let whole: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
            let sums: Vec<_> =
                whole.chunks(30_001).map(|c| (c.len() as u64, digest(algorithm, c).checksum)).collect();
            let parts: Vec<_> =
                sums.iter().map(|(size, c)| PartDigest { size: *size, checksum: Some(c) }).collect();
            let combined = multipart_checksum(algorithm, ChecksumKind::FullObject, &parts);
            assert_eq!(combined, Some(digest(algorithm, &whole).checksum));
        }
    }

    #[test]
    fn a_differing_checksum_is_refused() {
        let mut body = BodyDigest::new(ChecksumAlgorithm::Crc32);
        body.update(b"abc");
        let request = ChecksumRequest { algorithm: ChecksumAlgorithm::Crc32, expected: Some(vec![0; 4]) };
        assert_eq!(
            body.finish(None, Some(&request), None).err(),
            Some(ObjectError::BadChecksum { algorithm: ChecksumAlgorithm::Crc32 })
        );
    }
}
