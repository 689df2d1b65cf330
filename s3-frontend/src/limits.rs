//! The limits of the front end that are part of the protocol or of its safety. What an operator may want to change is in
//! [`crate::server::Options`]; those are only its defaults.

/// Bytes of a request line and its headers together. Signed URLs with session tokens and 2 KiB of metadata fit four times.
pub(crate) const HEAD_BYTES_MAX: usize = 32 << 10;
/// Header lines of one request.
pub(crate) const HEADERS_MAX: usize = 128;
/// Bytes of an object key, decoded.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Bytes of one chunk's size line, its extensions and signature included.
pub(crate) const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// Bytes of all trailer lines of a body together.
pub(crate) const TRAILER_BYTES_MAX: usize = 4 << 10;
/// Bytes of user metadata, names and values together, as S3 counts them.
pub(crate) const USER_METADATA_BYTES_MAX: usize = 2 << 10;

/// Bytes of the XML of `CreateBucket` and of other small documents.
pub(crate) const SMALL_XML_BYTES_MAX: usize = 64 << 10;
/// Bytes of the XML of `DeleteObjects`: a thousand keys of 1,024 bytes, escaped.
pub(crate) const DELETE_XML_BYTES_MAX: usize = 4 << 20;
/// Bytes of the XML of `CompleteMultipartUpload`: ten thousand parts with checksums.
pub(crate) const COMPLETE_XML_BYTES_MAX: usize = 6 << 20;
/// Elements inside each other in a request's XML.
pub(crate) const XML_DEPTH_MAX: usize = 8;

/// Keys of one `DeleteObjects`.
pub(crate) const DELETE_KEYS_MAX: usize = 1000;
/// Entries of one page of a listing.
pub(crate) const LIST_KEYS_MAX: u32 = 1000;
/// Part numbers are 1 to this.
pub(crate) const PART_NUMBER_MAX: u16 = 10_000;
/// Bytes of one upload (`PutObject`, `UploadPart`) and of one copied part or object: 5 GiB.
pub(crate) const PUT_BYTES_MAX: u64 = 5 << 30;

/// Seconds that a request's date may differ from the clock.
pub(crate) const CLOCK_SKEW_SECONDS_MAX: i64 = 15 * 60;
/// Seconds for which a presigned URL may be valid: a week.
pub(crate) const PRESIGN_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Signing keys that a core remembers.
pub(crate) const SIGNING_KEYS_MAX: usize = 1024;

const _: () = assert!(CHUNK_LINE_BYTES_MAX < HEAD_BYTES_MAX && TRAILER_BYTES_MAX < HEAD_BYTES_MAX);
const _: () = assert!(DELETE_XML_BYTES_MAX > DELETE_KEYS_MAX * KEY_BYTES_MAX);
