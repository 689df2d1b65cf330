//! What the front end asks of the engine, and what it gets back.
//!
//! What must hold: names here are S3's terms; nothing here knows HTTP or XML; keys are UTF-8 of 1 to 1,024 bytes,
//! checked by the front end; ETags carry no quotes.

use buckets_env::AlignedBytes;
use buckets_ring::id::{BucketId, UploadId};
use bytes::Bytes;
use std::ops::Deref;

/// A bucket as the root group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Changes when a bucket is removed and created again.
    pub id: BucketId,
    /// 3 to 63 characters, checked by the front end.
    pub name: String,
    /// Unix milliseconds.
    pub created_unix_ms: u64,
    /// The LocationConstraint it was created with; empty for none.
    pub location: String,
}

/// Checksum algorithms of `x-amz-checksum-*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC), 4 bytes big-endian.
    Crc32,
    /// CRC-32C, 4 bytes big-endian.
    Crc32c,
    /// CRC-64/NVME, 8 bytes big-endian.
    Crc64Nvme,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

impl ChecksumAlgorithm {
    /// Bytes of a value.
    pub fn value_bytes(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Crc64Nvme => 8,
            ChecksumAlgorithm::Sha1 => 20,
            ChecksumAlgorithm::Sha256 => 32,
        }
    }
}

/// How the checksum of a multipart object is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// Over the whole object's bytes.
    FullObject,
    /// Over the parts' checksums; shown as `value-N`.
    Composite,
}

/// A checksum that was computed and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// What it covers.
    pub kind: ChecksumKind,
    /// The raw value, big-endian where it is a number.
    pub value: Vec<u8>,
}

/// Headers kept with an object, names in lower case: the standard ones (`content-type`, `cache-control`, ...), and
/// `x-amz-meta-*`. The engine does not look into them.
pub type ObjectHeaders = Vec<(String, String)>;

/// A finished part of a multipart object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSize {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes.
    pub size: u64,
}

/// An object's description, as HEAD shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key.
    pub key: String,
    /// Bytes of the body.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Unix milliseconds.
    pub modified_unix_ms: u64,
    /// See [`ObjectHeaders`].
    pub headers: ObjectHeaders,
    /// Where one was asked for at upload (CRC64NVME otherwise).
    pub checksum: Option<Checksum>,
    /// In order; empty for objects that were put in one piece.
    pub parts: Vec<PartSize>,
}

/// When a write may happen; decided inside the partition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum WriteCondition {
    /// Always.
    #[default]
    Always,
    /// `If-None-Match: *`: no current object.
    IfAbsent,
    /// `If-Match: etag` (without quotes; `*` for any current object).
    IfMatch(String),
}

/// What the client said of the body's checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumRequest {
    /// The algorithm to compute and store.
    pub algorithm: ChecksumAlgorithm,
    /// The value from the header; `None` where a trailer will bring it or the server is to compute it.
    pub expected: Option<Vec<u8>>,
}

/// The body of an upload, as the front end decodes it.
#[expect(async_fn_in_trait, reason = "everything runs on one core; no Send bound is wanted")]
pub trait BodySource {
    /// Fills part of `buf` and returns the number of bytes; 0 only at the end of a complete and verified body.
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError>;

    /// The checksum that a trailer brought; asked after `fill` returned 0.
    fn trailing_checksum(&self) -> Option<(ChecksumAlgorithm, Vec<u8>)> {
        None
    }
}

/// Why a body could not be read to its end. The upload is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection ended before the announced length.
    #[error("the body ended early")]
    Incomplete,
    /// The client was too slow.
    #[error("the body did not come in time")]
    Timeout,
    /// The front end found the body wrong (chunk signature, payload hash, framing); it knows the S3 error.
    #[error("the body is invalid: {0}")]
    Invalid(String),
    /// Reading the source object of a copy failed.
    #[error("the source could not be read: {0}")]
    Source(Box<ObjectError>),
}

/// A PutObject.
#[derive(Clone, Debug)]
pub struct PutRequest {
    /// Bucket name.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Kept with the object.
    pub headers: ObjectHeaders,
    /// Decoded body length in bytes, where known (a size hint and a check).
    pub length: Option<u64>,
    /// When to write.
    pub condition: WriteCondition,
    /// `Content-MD5`.
    pub content_md5: Option<[u8; 16]>,
    /// `x-amz-checksum-*`; `None`: the server computes CRC64NVME as AWS does.
    pub checksum: Option<ChecksumRequest>,
}

/// A PutObject or CompleteMultipartUpload that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Without quotes.
    pub etag: String,
    /// As stored.
    pub checksum: Option<Checksum>,
    /// Bytes.
    pub size: u64,
    /// Unix milliseconds.
    pub modified_unix_ms: u64,
}

/// A part of a body on its way out: verified bytes, shared with the cache.
#[derive(Clone, Debug)]
pub enum BodyBlock {
    /// From the metadata partition (inline body).
    Inline(Bytes),
    /// From chunks.
    Chunk(AlignedBytes),
}

impl Deref for BodyBlock {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            BodyBlock::Inline(bytes) => bytes,
            BodyBlock::Chunk(bytes) => bytes,
        }
    }
}

/// A ListObjects (v1 and v2 alike).
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Only keys that start with it.
    pub prefix: String,
    /// Keys that share what follows the prefix up to and with the delimiter are rolled up.
    pub delimiter: Option<String>,
    /// Only keys and common prefixes after this one (exclusive). Where it is itself a rolled-up prefix, everything
    /// below it is skipped.
    pub after: Option<String>,
    /// At most so many entries, objects and prefixes together.
    pub max_keys: usize,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// An object.
    Object(ObjectSummary),
    /// A rolled-up prefix (with its delimiter).
    Prefix(String),
}

/// An object as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Unix milliseconds.
    pub modified_unix_ms: u64,
    /// Algorithm and kind of its checksum.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// A page of a listing, in byte order of keys and prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// At most `max_keys`.
    pub entries: Vec<ListEntry>,
    /// Where there is more: the `after` of the next page.
    pub next: Option<String>,
}

/// A CreateMultipartUpload.
#[derive(Clone, Debug)]
pub struct CreateUploadRequest {
    /// Bucket name.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Kept with the object when it is completed.
    pub headers: ObjectHeaders,
    /// Of `x-amz-checksum-algorithm` and `x-amz-checksum-type`.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// An UploadPart.
#[derive(Clone, Debug)]
pub struct UploadPartRequest {
    /// Bucket name.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// 1 to 10,000.
    pub number: u16,
    /// Decoded body length in bytes, where known.
    pub length: Option<u64>,
    /// `Content-MD5`.
    pub content_md5: Option<[u8; 16]>,
    /// `x-amz-checksum-*`.
    pub checksum: Option<ChecksumRequest>,
}

/// One line of a CompleteMultipartUpload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletePart {
    /// 1 to 10,000, ascending.
    pub number: u16,
    /// Without quotes.
    pub etag: String,
    /// Where the client repeats it, it must be the part's.
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

/// A CompleteMultipartUpload.
#[derive(Clone, Debug)]
pub struct CompleteUploadRequest {
    /// Bucket name.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// The client's list, checked part by part.
    pub parts: Vec<CompletePart>,
    /// When to write.
    pub condition: WriteCondition,
    /// The whole object's checksum, where the client sent it (FULL_OBJECT).
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

/// A stored part, as ListParts shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Unix milliseconds.
    pub modified_unix_ms: u64,
    /// As stored.
    pub checksum: Option<Checksum>,
}

/// A page of ListParts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartsPage {
    /// Ascending by number.
    pub parts: Vec<PartInfo>,
    /// Where there is more: the `after` of the next page.
    pub next: Option<u16>,
    /// The upload's algorithm and kind, where one was chosen.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// A ListMultipartUploads.
#[derive(Clone, Debug, Default)]
pub struct ListUploadsRequest {
    /// Only keys that start with it.
    pub prefix: String,
    /// As in listings.
    pub delimiter: Option<String>,
    /// Only uploads after this key, or of this key and after this upload.
    pub after: Option<(String, Option<UploadId>)>,
    /// At most so many.
    pub max_uploads: usize,
}

/// An upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The key it will be.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// Unix milliseconds.
    pub initiated_unix_ms: u64,
    /// As chosen at its creation.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// A page of ListMultipartUploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadsPage {
    /// By key, then by upload id.
    pub uploads: Vec<UploadInfo>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// Where there is more: the markers of the next page.
    pub next: Option<(String, Option<UploadId>)>,
}

/// Why an operation did not happen. The front end has the one table from these to S3 codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// No bucket of that name.
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// CreateBucket of an existing one.
    #[error("the bucket exists already")]
    BucketExists,
    /// CreateBucket of one more than there may be.
    #[error("there are as many buckets as there may be")]
    TooManyBuckets,
    /// DeleteBucket of one that holds objects or uploads.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The bucket is being removed.
    #[error("another operation on this bucket is in progress")]
    OperationAborted,
    /// No current object of that key.
    #[error("the key does not exist")]
    NoSuchKey,
    /// The condition of the write does not hold.
    #[error("the condition does not hold")]
    PreconditionFailed,
    /// Unknown, completed or aborted upload.
    #[error("the upload does not exist")]
    NoSuchUpload,
    /// A part that was not uploaded, or whose ETag or checksum differs.
    #[error("part {number} is not there or differs from what was uploaded")]
    InvalidPart {
        /// The part.
        number: u16,
    },
    /// Part numbers do not ascend.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is smaller than 5 MiB.
    #[error("part {number} has {size} bytes, fewer than {minimum}")]
    PartTooSmall {
        /// The part.
        number: u16,
        /// Its bytes.
        size: u64,
        /// The least allowed.
        minimum: u64,
    },
    /// `Content-MD5` differs from the body's.
    #[error("the Content-MD5 differs from the body's")]
    BadDigest,
    /// `x-amz-checksum-*` differs from the body's.
    #[error("the {algorithm:?} checksum differs from the body's")]
    BadChecksum {
        /// The algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// More than 5 GiB in one part or put, or 5 TiB in one object.
    #[error("the object is larger than allowed")]
    TooLarge,
    /// The body could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A limit is reached: try again later (503 SlowDown).
    #[error("too many requests at once")]
    SlowDown,
    /// No quorum, no leader, or too many disks gone: nothing was guessed (503 ServiceUnavailable).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The disks are full (507).
    #[error("no space left on the disks")]
    NoSpace,
    /// An access key that exists already or does not exist, and the like, in administration.
    #[error("{0}")]
    Conflict(String),
    /// Something that should not be (500).
    #[error("internal error: {0}")]
    Internal(String),
}

/// A user of the S3 interface.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The access key id.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
    /// Unix milliseconds.
    pub created_unix_ms: u64,
    /// May use the admin interface.
    pub is_root: bool,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}
