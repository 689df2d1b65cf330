//! Records of the partition index: what an object version, an upload and a part are, as bytes.
//!
//! What must hold: a record starts with its format version, so that old records stay readable; a record read
//! from an index is a [`Manifest`] (or another type here) only after every length in it was checked; encoding is a
//! pure function of the value, so that replicas that apply the same batch hold the same bytes.

use crate::object::api::{Checksum, ChecksumAlgorithm, ChecksumKind, ObjectHeaders, ObjectInfo, PartSize};
use buckets_ring::id::{BucketId, ObjectId, UploadId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A record that is not what was written: corruption that the index's checksums did not see, or a newer format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {record} record is damaged or of an unknown version")]
pub struct BadRecord {
    record: &'static str,
}

/// MD5 of the body, or of the parts' MD5s with their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ETag {
    /// The MD5.
    pub md5: [u8; 16],
    /// 0 for a body put in one piece; else the number of parts.
    pub parts: u16,
}

impl ETag {
    /// As S3 shows it, without quotes: hex, with `-parts` for multipart objects.
    pub fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(38);
        for byte in self.md5 {
            let _ = write!(text, "{byte:02x}");
        }
        if self.parts > 0 {
            let _ = write!(text, "-{}", self.parts);
        }
        text
    }
}

/// The current version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Identifies this version's write: a retry that finds its own id has already happened.
    pub object: ObjectId,
    /// Bytes of the body.
    pub size: u64,
    /// See [`ETag`].
    pub etag: ETag,
    /// Unix milliseconds at the node that wrote it.
    pub modified_unix_ms: u64,
    /// What GET returns beside the body.
    pub headers: ObjectHeaders,
    /// Of the whole object.
    pub checksum: Option<Checksum>,
    /// Where the bytes are.
    pub body: Body,
}

/// Where a body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In the body row beside the manifest.
    Inline,
    /// In chunks: one part, or the parts of a completed upload in order.
    Chunked(Vec<Part>),
}

/// Bytes that were written as one run of stripes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What its chunks are stored under.
    pub object: ObjectId,
    /// The client's part number; 0 for a body put in one piece.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// How it was coded and where its chunks are.
    pub placement: Placement,
}

/// How a part is coded and where its chunks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The set, counted over all pools.
    pub set: u16,
    /// Data chunks.
    pub k: u8,
    /// Parity chunks.
    pub m: u8,
    /// Bytes of a full block.
    pub block_bytes: u32,
    /// For each chunk number its disk's place in the set; `k + m` long.
    pub disks: Vec<u8>,
    /// Bit `i`: chunk `i` was not placed and waits for repair.
    pub missing: u32,
}

impl Manifest {
    /// As the front end shows it.
    pub fn info(&self, key: &str) -> ObjectInfo {
        let parts = match &self.body {
            Body::Chunked(parts) if self.etag.parts > 0 => {
                parts.iter().map(|p| PartSize { number: p.number, size: p.size }).collect()
            }
            _ => Vec::new(),
        };
        ObjectInfo {
            key: key.to_owned(),
            size: self.size,
            etag: self.etag.text(),
            modified_unix_ms: self.modified_unix_ms,
            headers: self.headers.clone(),
            checksum: self.checksum.clone(),
            parts,
        }
    }

    /// The chunked parts; none for an inline body.
    pub fn parts(&self) -> &[Part] {
        match &self.body {
            Body::Inline => &[],
            Body::Chunked(parts) => parts,
        }
    }

    /// The record's bytes, in the newest format.
    pub fn encode(&self) -> Bytes {
        v1::encode_manifest(self)
    }

    /// Reads a record of any known format.
    pub fn decode(record: &[u8]) -> Result<Manifest, BadRecord> {
        decode_versioned("manifest", record, v1::manifest)
    }
}

/// The head of a manifest: all that a listing shows, read without the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestSummary {
    /// See [`Manifest::object`].
    pub object: ObjectId,
    /// Bytes of the body.
    pub size: u64,
    /// See [`ETag`].
    pub etag: ETag,
    /// Unix milliseconds.
    pub modified_unix_ms: u64,
    /// Of the whole object.
    pub checksum: Option<Checksum>,
}

impl ManifestSummary {
    /// Reads the head of a manifest record of any known format.
    pub fn decode(record: &[u8]) -> Result<ManifestSummary, BadRecord> {
        let bad = BadRecord { record: "manifest" };
        match record.split_first() {
            Some((&v1::VERSION, mut rest)) => v1::summary(&mut rest).ok_or(bad),
            _ => Err(bad),
        }
    }
}

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRecord {
    /// Unix milliseconds.
    pub initiated_unix_ms: u64,
    /// For the object to be.
    pub headers: ObjectHeaders,
    /// As chosen at creation.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

impl UploadRecord {
    /// The record's bytes.
    pub fn encode(&self) -> Bytes {
        v1::encode_upload(self)
    }
    /// Reads a record of any known format.
    pub fn decode(record: &[u8]) -> Result<UploadRecord, BadRecord> {
        decode_versioned("upload", record, v1::upload)
    }
}

/// A finished part of an upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRecord {
    /// MD5 of the part's bytes.
    pub md5: [u8; 16],
    /// Unix milliseconds.
    pub modified_unix_ms: u64,
    /// Of the part's bytes.
    pub checksum: Option<Checksum>,
    /// Where the bytes are.
    pub part: Part,
}

impl PartRecord {
    /// The record's bytes.
    pub fn encode(&self) -> Bytes {
        v1::encode_part_record(self)
    }
    /// Reads a record of any known format.
    pub fn decode(record: &[u8]) -> Result<PartRecord, BadRecord> {
        decode_versioned("part", record, v1::part_record)
    }
}

/// Chunks that nothing refers to any more and that wait to be freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRecord {
    /// What to free.
    pub parts: Vec<Part>,
}

impl GarbageRecord {
    /// The record's bytes.
    pub fn encode(&self) -> Bytes {
        v1::encode_garbage(self)
    }
    /// Reads a record of any known format.
    pub fn decode(record: &[u8]) -> Result<GarbageRecord, BadRecord> {
        decode_versioned("garbage", record, v1::garbage)
    }
}

/// Who refers to a chunk: written beside it before the manifest is, so that a chunk whose manifest never came is
/// recognised after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkOwner {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: String,
    /// For a part of an upload: the upload and the part's number.
    pub upload: Option<(UploadId, u16)>,
}

impl ChunkOwner {
    /// The record's bytes.
    pub fn encode(&self) -> Bytes {
        v1::encode_owner(self)
    }
    /// Reads a record of any known format.
    pub fn decode(record: &[u8]) -> Result<ChunkOwner, BadRecord> {
        decode_versioned("chunk owner", record, v1::owner)
    }
}

/// Chunks of a part that are to be written again: those that its placement names as missing, and those that a reader did not
/// find whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairRecord {
    /// Who refers to the part.
    pub owner: ChunkOwner,
    /// Bit `i`: a reader did not find chunk `i` whole.
    pub suspects: u32,
}

impl RepairRecord {
    /// The record's bytes.
    pub fn encode(&self) -> Bytes {
        v1::encode_repair(self)
    }
    /// Reads a record of any known format.
    pub fn decode(record: &[u8]) -> Result<RepairRecord, BadRecord> {
        decode_versioned("repair", record, v1::repair)
    }
}

fn decode_versioned<T>(
    record: &'static str,
    mut bytes: &[u8],
    v1: fn(&mut &[u8]) -> Option<T>,
) -> Result<T, BadRecord> {
    let bad = BadRecord { record };
    match bytes.try_get_u8() {
        Ok(v1::VERSION) => {
            let value = v1(&mut bytes).ok_or(bad)?;
            if bytes.is_empty() { Ok(value) } else { Err(bad) }
        }
        _ => Err(bad),
    }
}

/// The first format. Integers are little-endian, strings are length-prefixed; see `docs/formats/manifest.md`.
mod v1 {
    use super::{
        Body, BucketId, Buf, BufMut, Bytes, BytesMut, Checksum, ChecksumAlgorithm, ChecksumKind, ChunkOwner,
        ETag, GarbageRecord, Manifest, ManifestSummary, ObjectHeaders, ObjectId, Part, PartRecord, Placement,
        RepairRecord, UploadId, UploadRecord,
    };

    pub(super) const VERSION: u8 = 1;

    const BODY_INLINE: u8 = 0;
    const BODY_CHUNKED: u8 = 1;

    pub(super) fn encode_manifest(manifest: &Manifest) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(VERSION);
        out.put_slice(manifest.object.as_bytes());
        out.put_u64_le(manifest.size);
        out.put_slice(&manifest.etag.md5);
        out.put_u16_le(manifest.etag.parts);
        out.put_u64_le(manifest.modified_unix_ms);
        put_checksum(&mut out, manifest.checksum.as_ref());
        put_headers(&mut out, &manifest.headers);
        match &manifest.body {
            Body::Inline => out.put_u8(BODY_INLINE),
            Body::Chunked(parts) => {
                out.put_u8(BODY_CHUNKED);
                put_parts(&mut out, parts);
            }
        }
        out.freeze()
    }

    pub(super) fn summary(bytes: &mut &[u8]) -> Option<ManifestSummary> {
        let object = ObjectId::from_bytes(array(bytes)?);
        let size = bytes.try_get_u64_le().ok()?;
        let etag = ETag { md5: array(bytes)?, parts: bytes.try_get_u16_le().ok()? };
        let modified_unix_ms = bytes.try_get_u64_le().ok()?;
        let checksum = checksum(bytes)?;
        Some(ManifestSummary { object, size, etag, modified_unix_ms, checksum })
    }

    pub(super) fn manifest(bytes: &mut &[u8]) -> Option<Manifest> {
        let ManifestSummary { object, size, etag, modified_unix_ms, checksum } = summary(bytes)?;
        let headers = headers(bytes)?;
        let body = match bytes.try_get_u8().ok()? {
            BODY_INLINE => Body::Inline,
            BODY_CHUNKED => Body::Chunked(parts(bytes)?),
            _ => return None,
        };
        Some(Manifest { object, size, etag, modified_unix_ms, headers, checksum, body })
    }

    pub(super) fn encode_upload(upload: &UploadRecord) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(VERSION);
        out.put_u64_le(upload.initiated_unix_ms);
        put_headers(&mut out, &upload.headers);
        match upload.checksum {
            None => out.put_u8(0),
            Some((algorithm, kind)) => {
                out.put_u8(algorithm_code(algorithm));
                out.put_u8(kind_code(kind));
            }
        }
        out.freeze()
    }

    pub(super) fn upload(bytes: &mut &[u8]) -> Option<UploadRecord> {
        let initiated_unix_ms = bytes.try_get_u64_le().ok()?;
        let headers = headers(bytes)?;
        let checksum = match bytes.try_get_u8().ok()? {
            0 => None,
            code => Some((algorithm(code)?, kind(bytes.try_get_u8().ok()?)?)),
        };
        Some(UploadRecord { initiated_unix_ms, headers, checksum })
    }

    pub(super) fn encode_part_record(record: &PartRecord) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(VERSION);
        out.put_slice(&record.md5);
        out.put_u64_le(record.modified_unix_ms);
        put_checksum(&mut out, record.checksum.as_ref());
        put_part(&mut out, &record.part);
        out.freeze()
    }

    pub(super) fn part_record(bytes: &mut &[u8]) -> Option<PartRecord> {
        Some(PartRecord {
            md5: array(bytes)?,
            modified_unix_ms: bytes.try_get_u64_le().ok()?,
            checksum: checksum(bytes)?,
            part: part(bytes)?,
        })
    }

    pub(super) fn encode_garbage(record: &GarbageRecord) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        put_parts(&mut out, &record.parts);
        out.freeze()
    }

    pub(super) fn garbage(bytes: &mut &[u8]) -> Option<GarbageRecord> {
        Some(GarbageRecord { parts: parts(bytes)? })
    }

    pub(super) fn encode_owner(owner: &ChunkOwner) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        put_owner(&mut out, owner);
        out.freeze()
    }

    fn put_owner(out: &mut BytesMut, owner: &ChunkOwner) {
        out.put_slice(owner.bucket.as_bytes());
        put_string(out, &owner.key);
        match owner.upload {
            None => out.put_u8(0),
            Some((upload, number)) => {
                out.put_u8(1);
                out.put_slice(upload.as_bytes());
                out.put_u16_le(number);
            }
        }
    }

    pub(super) fn encode_repair(record: &RepairRecord) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        out.put_u32_le(record.suspects);
        put_owner(&mut out, &record.owner);
        out.freeze()
    }

    pub(super) fn repair(bytes: &mut &[u8]) -> Option<RepairRecord> {
        let suspects = bytes.try_get_u32_le().ok()?;
        Some(RepairRecord { suspects, owner: owner(bytes)? })
    }

    pub(super) fn owner(bytes: &mut &[u8]) -> Option<ChunkOwner> {
        let bucket = BucketId::from_bytes(array(bytes)?);
        let key = string(bytes)?;
        let upload = match bytes.try_get_u8().ok()? {
            0 => None,
            1 => Some((UploadId::from_bytes(array(bytes)?), bytes.try_get_u16_le().ok()?)),
            _ => return None,
        };
        Some(ChunkOwner { bucket, key, upload })
    }

    fn put_parts(out: &mut BytesMut, parts: &[Part]) {
        out.put_u16_le(u16::try_from(parts.len()).unwrap_or(u16::MAX));
        parts.iter().for_each(|part| put_part(out, part));
    }

    fn parts(bytes: &mut &[u8]) -> Option<Vec<Part>> {
        let count = bytes.try_get_u16_le().ok()?;
        (0..count).map(|_| part(bytes)).collect()
    }

    fn put_part(out: &mut BytesMut, part: &Part) {
        out.put_slice(part.object.as_bytes());
        out.put_u16_le(part.number);
        out.put_u64_le(part.size);
        let placement = &part.placement;
        out.put_u16_le(placement.set);
        out.put_u8(placement.k);
        out.put_u8(placement.m);
        out.put_u32_le(placement.block_bytes);
        out.put_u32_le(placement.missing);
        assert_eq!(placement.disks.len(), usize::from(placement.k) + usize::from(placement.m));
        out.put_slice(&placement.disks);
    }

    fn part(bytes: &mut &[u8]) -> Option<Part> {
        let object = ObjectId::from_bytes(array(bytes)?);
        let number = bytes.try_get_u16_le().ok()?;
        let size = bytes.try_get_u64_le().ok()?;
        let set = bytes.try_get_u16_le().ok()?;
        let (k, m) = (bytes.try_get_u8().ok()?, bytes.try_get_u8().ok()?);
        let block_bytes = bytes.try_get_u32_le().ok()?;
        let missing = bytes.try_get_u32_le().ok()?;
        let disks = take(bytes, usize::from(k) + usize::from(m))?.to_vec();
        if k == 0 || block_bytes == 0 {
            return None;
        }
        Some(Part { object, number, size, placement: Placement { set, k, m, block_bytes, disks, missing } })
    }

    fn put_headers(out: &mut BytesMut, headers: &ObjectHeaders) {
        out.put_u16_le(u16::try_from(headers.len()).unwrap_or(u16::MAX));
        for (name, value) in headers {
            put_string(out, name);
            put_string(out, value);
        }
    }

    fn headers(bytes: &mut &[u8]) -> Option<ObjectHeaders> {
        let count = bytes.try_get_u16_le().ok()?;
        (0..count).map(|_| Some((string(bytes)?, string(bytes)?))).collect()
    }

    fn put_checksum(out: &mut BytesMut, checksum: Option<&Checksum>) {
        match checksum {
            None => out.put_u8(0),
            Some(checksum) => {
                out.put_u8(algorithm_code(checksum.algorithm));
                out.put_u8(kind_code(checksum.kind));
                out.put_slice(&checksum.value);
            }
        }
    }

    fn checksum(bytes: &mut &[u8]) -> Option<Option<Checksum>> {
        let code = bytes.try_get_u8().ok()?;
        if code == 0 {
            return Some(None);
        }
        let algorithm = algorithm(code)?;
        let kind = kind(bytes.try_get_u8().ok()?)?;
        let value = take(bytes, algorithm.value_bytes())?.to_vec();
        Some(Some(Checksum { algorithm, kind, value }))
    }

    fn algorithm_code(algorithm: ChecksumAlgorithm) -> u8 {
        match algorithm {
            ChecksumAlgorithm::Crc32 => 1,
            ChecksumAlgorithm::Crc32c => 2,
            ChecksumAlgorithm::Crc64Nvme => 3,
            ChecksumAlgorithm::Sha1 => 4,
            ChecksumAlgorithm::Sha256 => 5,
        }
    }

    fn algorithm(code: u8) -> Option<ChecksumAlgorithm> {
        Some(match code {
            1 => ChecksumAlgorithm::Crc32,
            2 => ChecksumAlgorithm::Crc32c,
            3 => ChecksumAlgorithm::Crc64Nvme,
            4 => ChecksumAlgorithm::Sha1,
            5 => ChecksumAlgorithm::Sha256,
            _ => return None,
        })
    }

    fn kind_code(kind: ChecksumKind) -> u8 {
        match kind {
            ChecksumKind::FullObject => 1,
            ChecksumKind::Composite => 2,
        }
    }

    fn kind(code: u8) -> Option<ChecksumKind> {
        match code {
            1 => Some(ChecksumKind::FullObject),
            2 => Some(ChecksumKind::Composite),
            _ => None,
        }
    }

    fn put_string(out: &mut BytesMut, text: &str) {
        out.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
        out.put_slice(text.as_bytes());
    }

    fn string(bytes: &mut &[u8]) -> Option<String> {
        let len = bytes.try_get_u32_le().ok()?;
        let text = take(bytes, usize::try_from(len).ok()?)?;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        take(bytes, N)?.try_into().ok()
    }

    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        Manifest {
            object: ObjectId::from_random([7; 16]),
            size: 70_000_000,
            etag: ETag { md5: [0xab; 16], parts: 2 },
            modified_unix_ms: 1_700_000_000_123,
            headers: vec![
                ("content-type".into(), "text/plain".into()),
                ("x-amz-meta-ü".into(), String::new()),
            ],
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Crc64Nvme,
                kind: ChecksumKind::FullObject,
                value: vec![1, 2, 3, 4, 5, 6, 7, 8],
            }),
            body: Body::Chunked(
                (1..=2)
                    .map(|number| Part {
                        object: ObjectId::from_random([number as u8; 16]),
                        number,
                        size: 35_000_000,
                        placement: Placement {
                            set: 3,
                            k: 2,
                            m: 2,
                            block_bytes: 262_144,
                            disks: vec![3, 0, 1, 2],
                            missing: 0b100,
                        },
                    })
                    .collect(),
            ),
        }
    }

    #[test]
    fn a_manifest_survives_encoding() {
        let manifest = example();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        assert_eq!(manifest.info("k").parts.len(), 2);
        assert_eq!(manifest.etag.text(), "abababababababababababababababab-2");
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let record = example().encode();
        for len in 0..record.len() {
            assert!(Manifest::decode(&record[..len]).is_err(), "{len} of {}", record.len());
        }
        let mut longer = record.to_vec();
        longer.push(0);
        assert!(Manifest::decode(&longer).is_err());
    }

    #[test]
    fn the_other_records_survive_encoding() {
        let upload = UploadRecord {
            initiated_unix_ms: 5,
            headers: vec![("a".into(), "b".into())],
            checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
        };
        assert_eq!(UploadRecord::decode(&upload.encode()), Ok(upload));
        let part = PartRecord {
            md5: [9; 16],
            modified_unix_ms: 6,
            checksum: None,
            part: example().parts()[0].clone(),
        };
        assert_eq!(PartRecord::decode(&part.encode()), Ok(part));
        let garbage = GarbageRecord { parts: example().parts().to_vec() };
        assert_eq!(GarbageRecord::decode(&garbage.encode()), Ok(garbage));
        let owner = ChunkOwner {
            bucket: BucketId::from_random([1; 16]),
            key: "a/b".into(),
            upload: Some((UploadId::from_random([2; 16]), 77)),
        };
        assert_eq!(ChunkOwner::decode(&owner.encode()), Ok(owner));
    }
}
