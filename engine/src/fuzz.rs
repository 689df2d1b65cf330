//! Entry points for fuzzing (feature `fuzz`): each takes any bytes and panics where an invariant does not hold.

use crate::manifest::{
    Body, ChunkOwner, ETag, GarbageRecord, Manifest, ManifestSummary, Part, PartRecord, Placement,
    UploadRecord,
};
use crate::object::api::{Checksum, ChecksumAlgorithm, ChecksumKind};
use buckets_ring::id::{BucketId, ObjectId, UploadId};

/// Every durable record of a partition: what decodes comes out of its encoding again.
pub fn manifests(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
        assert!(ManifestSummary::decode(data).is_ok());
    }
    if let Ok(upload) = UploadRecord::decode(data) {
        assert_eq!(UploadRecord::decode(&upload.encode()).as_ref(), Ok(&upload));
    }
    if let Ok(part) = PartRecord::decode(data) {
        assert_eq!(PartRecord::decode(&part.encode()).as_ref(), Ok(&part));
    }
    if let Ok(garbage) = GarbageRecord::decode(data) {
        assert_eq!(GarbageRecord::decode(&garbage.encode()).as_ref(), Ok(&garbage));
    }
    if let Ok(owner) = ChunkOwner::decode(data) {
        assert_eq!(ChunkOwner::decode(&owner.encode()).as_ref(), Ok(&owner));
    }
}

/// Valid records, from which mutations begin.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let part = |number: u16| Part {
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
    };
    let manifest = Manifest {
        object: ObjectId::from_random([7; 16]),
        size: 70_000_000,
        etag: ETag { md5: [0xab; 16], parts: 2 },
        modified_unix_ms: 1_700_000_000_123,
        headers: vec![("content-type".into(), "text/plain".into()), ("x-amz-meta-ü".into(), String::new())],
        checksum: Some(Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: vec![1, 2, 3, 4, 5, 6, 7, 8],
        }),
        body: Body::Chunked(vec![part(1), part(2)]),
    };
    let inline = Manifest { size: 3, checksum: None, body: Body::Inline, ..manifest.clone() };
    let upload = UploadRecord {
        initiated_unix_ms: 5,
        headers: vec![("a".into(), "b".into())],
        checksum: Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)),
    };
    let record = PartRecord { md5: [9; 16], modified_unix_ms: 6, checksum: None, part: part(3) };
    let garbage = GarbageRecord { parts: vec![part(4), part(5)] };
    let owner = ChunkOwner {
        bucket: BucketId::from_random([1; 16]),
        key: "a/b".into(),
        upload: Some((UploadId::from_random([2; 16]), 77)),
    };
    let encoded = [
        manifest.encode(),
        inline.encode(),
        upload.encode(),
        record.encode(),
        garbage.encode(),
        owner.encode(),
    ];
    encoded.iter().map(|record| record.to_vec()).collect()
}
