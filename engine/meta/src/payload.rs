//! The payload of a Raft entry: an ordered list of puts and deletes.
//!
//! What must hold: applying a payload needs nothing but the payload (conditions were decided before it was
//! proposed), so that every replica ends with the same rows. Decoding shares the entry's memory: keys and values
//! are slices of it, from the leader's log to the followers' memtables.
//!
//! ```text
//! payload v1:  version u8 = 1 | operation ...
//! operation:   kind u8 (1 put, 2 delete) | key length u16 | value length u32 (put only) | key | value (put only)
//! ```
//! An empty payload (zero bytes) changes nothing: it is the first entry of each leader.

use crate::limits::{ENTRY_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use buckets_index::WriteBatch;
use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const PUT_HEAD_BYTES: usize = 1 + 2 + 4;
const DELETE_HEAD_BYTES: usize = 1 + 2;

/// A batch that cannot be an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a batch of {bytes} bytes is larger than an entry may be")]
pub(crate) struct TooLarge {
    /// Bytes of the payload.
    pub(crate) bytes: usize,
}

/// A payload that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload of an entry cannot be read: {what}")]
pub(crate) struct Unreadable {
    /// What was seen.
    pub(crate) what: &'static str,
}

/// Puts a batch into the payload of an entry.
pub(crate) fn encode(batch: &WriteBatch) -> Result<Bytes, TooLarge> {
    let row = |(key, value): (&Bytes, Option<&Bytes>)| {
        key.len() + value.map_or(DELETE_HEAD_BYTES, |value| PUT_HEAD_BYTES + value.len())
    };
    let bytes = 1 + batch.iter().map(row).sum::<usize>();
    if bytes > ENTRY_BYTES_MAX {
        return Err(TooLarge { bytes });
    }
    let mut payload = BytesMut::with_capacity(bytes);
    payload.put_u8(VERSION);
    for (key, value) in batch.iter() {
        payload.put_u8(if value.is_some() { PUT } else { DELETE });
        // A batch takes no longer keys and values than these lengths can say.
        payload.put_u16_le(key.len() as u16);
        if let Some(value) = value {
            payload.put_u32_le(value.len() as u32);
        }
        payload.put_slice(key);
        if let Some(value) = value {
            payload.put_slice(value);
        }
    }
    debug_assert_eq!(payload.len(), bytes);
    Ok(payload.freeze())
}

/// Reads the payload of an entry; keys and values share its memory.
pub(crate) fn decode(mut payload: Bytes) -> Result<WriteBatch, Unreadable> {
    let mut batch = WriteBatch::default();
    if payload.is_empty() {
        return Ok(batch);
    }
    if payload.get_u8() != VERSION {
        return Err(Unreadable { what: "unknown version" });
    }
    while !payload.is_empty() {
        let kind = payload.get_u8();
        let key_bytes =
            usize::from(payload.try_get_u16_le().map_err(|_| Unreadable { what: "no key length" })?);
        let value_bytes = match kind {
            PUT => payload.try_get_u32_le().map_err(|_| Unreadable { what: "no value length" })? as usize,
            DELETE => 0,
            _ => return Err(Unreadable { what: "unknown operation" }),
        };
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(Unreadable { what: "a row is too long" });
        }
        if payload.len() < key_bytes + value_bytes {
            return Err(Unreadable { what: "a row ends too early" });
        }
        let key = payload.split_to(key_bytes);
        match kind {
            PUT => batch.put(key, payload.split_to(value_bytes)),
            _ => batch.delete(key),
        };
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(batch: &WriteBatch) -> Vec<(Bytes, Option<Bytes>)> {
        batch.iter().map(|(key, value)| (key.clone(), value.cloned())).collect()
    }

    fn sample() -> WriteBatch {
        let mut batch = WriteBatch::default();
        batch.put(Bytes::from_static(b"a"), Bytes::from_static(b"1"));
        batch.delete(Bytes::from_static(b"b"));
        batch.put(Bytes::from_static(b"a"), Bytes::new());
        batch.put(Bytes::new(), Bytes::from(vec![7; 70_000]));
        batch
    }

    #[test]
    fn a_batch_survives_and_shares_the_memory() {
        let batch = sample();
        let payload = encode(&batch).unwrap();
        let memory = payload.as_ptr_range();
        let decoded = decode(payload).unwrap();
        assert_eq!(rows(&decoded), rows(&batch));
        let (_, value) = &rows(&decoded)[3];
        assert!(memory.contains(&value.as_ref().unwrap().as_ptr()));
        assert!(rows(&decode(Bytes::new()).unwrap()).is_empty());
    }

    #[test]
    fn every_cut_and_every_flip_is_refused_or_harmless() {
        let payload = encode(&sample()).unwrap();
        for end in 1..payload.len().min(64) {
            let _ = decode(payload.slice(..end));
            let mut flipped = payload.to_vec();
            flipped[end] ^= 0xff;
            let _ = decode(Bytes::from(flipped));
        }
        assert_eq!(decode(payload.slice(..payload.len() - 1)).unwrap_err().what, "a row ends too early");
        assert_eq!(decode(Bytes::from_static(&[9])).unwrap_err().what, "unknown version");
        assert_eq!(decode(Bytes::from_static(&[1, 3, 0, 0])).unwrap_err().what, "unknown operation");
    }

    #[test]
    fn too_large_batches_are_refused() {
        let mut batch = WriteBatch::default();
        for _ in 0..5 {
            batch.put(Bytes::new(), Bytes::from(vec![0; 1 << 20]));
        }
        assert!(encode(&batch).is_err());
    }
}
