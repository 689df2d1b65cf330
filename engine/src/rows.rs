//! Keys of the rows in a partition's index and in the root group's index.
//!
//! What must hold: the byte order of rows of one kind and bucket is the order of their S3 keys, so that a listing is a
//! range scan; kinds are told apart by their first byte; every row of an object lies in one partition.
//!
//! ```text
//! 'o' bucket(16) key                       -> Manifest            current objects
//! 'i' bucket(16) key                       -> object(16) body     inline bodies, apart from what listings scan
//! 'u' bucket(16) escaped(key) upload(16)   -> UploadRecord        uploads in progress
//! 'p' bucket(16) upload(16) number(2, BE)  -> PartRecord          their parts
//! 'g' object(16)                           -> GarbageRecord       chunks to free
//! 'r' object(16)                           -> RepairRecord        chunks to write again
//! 'x' object(16)                           -> Unix ms             given up: no record may refer to it any more
//! 's' bucket(16)                           -> attempt             sealed: the bucket is being removed
//! 'B' name                                 -> bucket record       root group
//! 'U' access key                           -> user record         root group
//! ```

use buckets_ring::id::{BucketId, ObjectId, UploadId};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;

/// The current object of a key.
pub fn object(bucket: BucketId, key: &[u8]) -> Bytes {
    row(b'o', bucket, &[key])
}

/// The inline body of a key's current object.
pub fn inline_body(bucket: BucketId, key: &[u8]) -> Bytes {
    row(b'i', bucket, &[key])
}

/// An upload in progress.
pub fn upload(bucket: BucketId, key: &[u8], upload: UploadId) -> Bytes {
    row(b'u', bucket, &[&escape(key), upload.as_bytes()])
}

/// Where the uploads of keys that start with `prefix` begin.
pub fn uploads_from(bucket: BucketId, prefix: &[u8]) -> Bytes {
    let escaped = escape(prefix);
    row(b'u', bucket, &[&escaped[..escaped.len() - 2]])
}

/// The key and the upload id of an upload's row.
pub fn parse_upload(row: &[u8]) -> Option<(Vec<u8>, UploadId)> {
    let rest = row.get(17..)?;
    let split = rest.len().checked_sub(16)?;
    let key = unescape(&rest[..split])?;
    Some((key, UploadId::from_bytes(rest[split..].try_into().ok()?)))
}

/// A part of an upload.
pub fn part(bucket: BucketId, upload: UploadId, number: u16) -> Bytes {
    row(b'p', bucket, &[upload.as_bytes(), &number.to_be_bytes()])
}

/// The part number of a part's row.
pub fn parse_part(row: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(row.get(33..)?.try_into().ok()?))
}

/// Chunks to free.
pub fn garbage(object: ObjectId) -> Bytes {
    of_part(b'g', object)
}

/// Chunks to write again.
pub fn repair(object: ObjectId) -> Bytes {
    of_part(b'r', object)
}

/// A part that was given up.
pub fn given_up(object: ObjectId) -> Bytes {
    of_part(b'x', object)
}

/// All rows of parts that were given up.
pub fn all_given_up() -> Range<Bytes> {
    Bytes::from_static(b"x")..Bytes::from_static(b"y")
}

/// All rows of chunks to free.
pub fn all_garbage() -> Range<Bytes> {
    Bytes::from_static(b"g")..Bytes::from_static(b"h")
}

/// All rows of chunks to write again.
pub fn all_repairs() -> Range<Bytes> {
    Bytes::from_static(b"r")..Bytes::from_static(b"s")
}

/// The part of a row of either kind.
pub fn parse_part_of(row: &[u8]) -> Option<ObjectId> {
    row.get(1..).and_then(|id| id.try_into().ok()).map(ObjectId::from_bytes)
}

fn of_part(kind: u8, object: ObjectId) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u8(kind);
    out.put_slice(object.as_bytes());
    out.freeze()
}

/// The seal of a bucket that is being removed.
pub fn seal(bucket: BucketId) -> Bytes {
    row(b's', bucket, &[])
}

/// Every row of one kind and bucket starts with this.
pub fn bucket_start(kind: u8, bucket: BucketId) -> Bytes {
    row(kind, bucket, &[])
}

/// The S3 key of an object's row.
pub fn parse_object(row: &[u8]) -> Option<&[u8]> {
    row.get(17..)
}

/// A bucket, in the root group.
pub fn root_bucket(name: &str) -> Bytes {
    root(b'B', name)
}

/// A user, in the root group.
pub fn root_user(access_key: &str) -> Bytes {
    root(b'U', access_key)
}

/// The smallest key after all keys that start with `prefix`; `None` where there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(Bytes::from(end))
}

fn root(kind: u8, name: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + name.len());
    out.put_u8(kind);
    out.put_slice(name.as_bytes());
    out.freeze()
}

fn row(kind: u8, bucket: BucketId, parts: &[&[u8]]) -> Bytes {
    let len = 17 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(len);
    out.put_u8(kind);
    out.put_slice(bucket.as_bytes());
    parts.iter().for_each(|part| out.put_slice(part));
    out.freeze()
}

/// Order-preserving and self-terminating: 0 becomes 0,255 and the end is 0,1.
fn escape(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2);
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 1]);
    out
}

fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        if *byte != 0 {
            out.push(*byte);
            continue;
        }
        match bytes.next()? {
            0xff => out.push(0),
            1 => return bytes.next().is_none().then_some(out),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_rows_sort_by_key_then_upload_and_read_back() {
        let bucket = BucketId::from_random([1; 16]);
        let (low, high) = (UploadId::from_bytes([0; 16]), UploadId::from_bytes([0xff; 16]));
        let keys: [&[u8]; 5] = [b"a", b"a\0", b"a\0b", b"a\x01", b"b"];
        let mut rows = Vec::new();
        for key in keys {
            for id in [low, high] {
                let row = upload(bucket, key, id);
                assert_eq!(parse_upload(&row), Some((key.to_vec(), id)));
                assert!(row >= uploads_from(bucket, key));
                rows.push(row);
            }
        }
        assert!(rows.is_sorted());
    }

    #[test]
    fn the_end_of_a_prefix_is_after_all_its_keys() {
        assert_eq!(after_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(after_prefix(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
