//! The fields of heads, and the blocks of payloads.

use super::BadWire;
use crate::object::api::{Checksum, ChecksumAlgorithm, ChecksumKind};
use buckets_env::{AlignedBuf, AlignedBytes};
use buckets_meta::{GroupMessage, decode_list};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::time::Duration;

/// A head that is being read.
pub(super) struct Fields {
    rest: Bytes,
}

impl Fields {
    pub(super) fn new(head: Bytes) -> Fields {
        Fields { rest: head }
    }

    pub(super) fn end(&self) -> Result<(), BadWire> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadWire::Long) }
    }

    pub(super) fn u8(&mut self) -> Result<u8, BadWire> {
        self.rest.try_get_u8().map_err(|_| BadWire::Short)
    }

    pub(super) fn u16(&mut self) -> Result<u16, BadWire> {
        self.rest.try_get_u16_le().map_err(|_| BadWire::Short)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BadWire> {
        self.rest.try_get_u32_le().map_err(|_| BadWire::Short)
    }

    pub(super) fn u64(&mut self) -> Result<u64, BadWire> {
        self.rest.try_get_u64_le().map_err(|_| BadWire::Short)
    }

    pub(super) fn size(&mut self) -> Result<usize, BadWire> {
        usize::try_from(self.u64()?).map_err(|_| BadWire::Range("a size"))
    }

    pub(super) fn bool(&mut self) -> Result<bool, BadWire> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadWire::Range("yes or no")),
        }
    }

    pub(super) fn id(&mut self) -> Result<[u8; 16], BadWire> {
        let mut id = [0; 16];
        self.rest.try_copy_to_slice(&mut id).map_err(|_| BadWire::Short)?;
        Ok(id)
    }

    /// Bytes that share the head's memory.
    pub(super) fn bytes(&mut self) -> Result<Bytes, BadWire> {
        let len = self.u32()? as usize;
        if len > self.rest.len() {
            return Err(BadWire::Short);
        }
        Ok(self.rest.split_to(len))
    }

    pub(super) fn text(&mut self) -> Result<String, BadWire> {
        let bytes = self.bytes()?;
        Ok(std::str::from_utf8(&bytes).map_err(|_| BadWire::Range("a text"))?.to_owned())
    }

    pub(super) fn optional<T>(
        &mut self,
        get: impl FnOnce(&mut Fields) -> Result<T, BadWire>,
    ) -> Result<Option<T>, BadWire> {
        if self.bool()? { get(self).map(Some) } else { Ok(None) }
    }

    /// A list; its memory grows with what is read, not with the count.
    pub(super) fn list<T>(
        &mut self,
        mut get: impl FnMut(&mut Fields) -> Result<T, BadWire>,
    ) -> Result<Vec<T>, BadWire> {
        let count = self.u32()?;
        // No item is shorter than a byte.
        if count as usize > self.rest.len() {
            return Err(BadWire::Short);
        }
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(get(self)?);
        }
        Ok(list)
    }

    /// To a microsecond.
    pub(super) fn round_trip(&mut self) -> Result<Duration, BadWire> {
        self.u32().map(|micros| Duration::from_micros(micros.into()))
    }

    pub(super) fn messages(&mut self) -> Result<Vec<GroupMessage>, BadWire> {
        decode_list(&mut self.rest).map_err(|_| BadWire::Range("a message of a group"))
    }

    pub(super) fn algorithm(&mut self) -> Result<ChecksumAlgorithm, BadWire> {
        Ok(match self.u8()? {
            1 => ChecksumAlgorithm::Crc32,
            2 => ChecksumAlgorithm::Crc32c,
            3 => ChecksumAlgorithm::Crc64Nvme,
            4 => ChecksumAlgorithm::Sha1,
            5 => ChecksumAlgorithm::Sha256,
            number => return Err(BadWire::Unknown { what: "checksum algorithm", number }),
        })
    }

    pub(super) fn checksum_kind(&mut self) -> Result<ChecksumKind, BadWire> {
        Ok(match self.u8()? {
            1 => ChecksumKind::FullObject,
            2 => ChecksumKind::Composite,
            number => return Err(BadWire::Unknown { what: "checksum kind", number }),
        })
    }

    pub(super) fn checksum(&mut self) -> Result<Checksum, BadWire> {
        let (algorithm, kind) = (self.algorithm()?, self.checksum_kind()?);
        Ok(Checksum { algorithm, kind, value: self.bytes()?.to_vec() })
    }
}

/// A head that is being written.
pub(super) trait PutFields {
    fn put_size(&mut self, size: usize);
    fn put_bool(&mut self, value: bool);
    fn put_round_trip(&mut self, took: Duration);
    fn put_bytes_of(&mut self, bytes: &[u8]);
    fn put_optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T));
    fn put_list<T>(&mut self, list: &[T], put: impl FnMut(&mut Self, &T));
    fn put_algorithm(&mut self, algorithm: ChecksumAlgorithm);
    fn put_checksum_kind(&mut self, kind: ChecksumKind);
    fn put_checksum(&mut self, checksum: &Checksum);
}

impl PutFields for BytesMut {
    fn put_size(&mut self, size: usize) {
        self.put_u64_le(size as u64);
    }

    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn put_round_trip(&mut self, took: Duration) {
        self.put_u32_le(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    fn put_bytes_of(&mut self, bytes: &[u8]) {
        // Longer ones do not fit a frame: who sends it is told.
        self.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.put_slice(bytes);
    }

    fn put_optional<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.put_bool(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    fn put_list<T>(&mut self, list: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.put_u32_le(u32::try_from(list.len()).unwrap_or(u32::MAX));
        list.iter().for_each(|item| put(self, item));
    }

    fn put_algorithm(&mut self, algorithm: ChecksumAlgorithm) {
        self.put_u8(match algorithm {
            ChecksumAlgorithm::Crc32 => 1,
            ChecksumAlgorithm::Crc32c => 2,
            ChecksumAlgorithm::Crc64Nvme => 3,
            ChecksumAlgorithm::Sha1 => 4,
            ChecksumAlgorithm::Sha256 => 5,
        });
    }

    fn put_checksum_kind(&mut self, kind: ChecksumKind) {
        self.put_u8(match kind {
            ChecksumKind::FullObject => 1,
            ChecksumKind::Composite => 2,
        });
    }

    fn put_checksum(&mut self, checksum: &Checksum) {
        self.put_algorithm(checksum.algorithm);
        self.put_checksum_kind(checksum.kind);
        self.put_bytes_of(&checksum.value);
    }
}

/// A body beside a manifest: in the payload, which costs less to verify than a head.
pub(super) fn put_body(body: &[u8], head: &mut BytesMut, payload: &mut Vec<AlignedBytes>) {
    head.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
    let mut piece = AlignedBuf::with_len(body.len());
    piece.copy_from_slice(body);
    payload.push(piece.freeze());
}

/// What [`put_body`] wrote.
pub(super) fn get_body(fields: &mut Fields, blocks: &mut Blocks) -> Result<Bytes, BadWire> {
    let len = fields.u32()? as usize;
    blocks.take(len).map(Bytes::from_owner)
}

/// A payload that is being read.
pub(super) struct Blocks {
    /// The next is the last.
    pieces: Vec<AlignedBytes>,
    /// Shared by all blocks of no bytes.
    empty: Option<AlignedBytes>,
}

impl Blocks {
    pub(super) fn new(mut pieces: Vec<AlignedBytes>) -> Blocks {
        pieces.reverse();
        pieces.retain(|piece| !piece.is_empty());
        Blocks { pieces, empty: None }
    }

    pub(super) fn end(&self) -> Result<(), BadWire> {
        if self.pieces.is_empty() { Ok(()) } else { Err(BadWire::Payload) }
    }

    /// The next block, of `len` bytes: a piece, or the next part of one that several blocks arrived in.
    pub(super) fn take(&mut self, len: usize) -> Result<AlignedBytes, BadWire> {
        if len == 0 {
            return Ok(self.empty.get_or_insert_with(|| AlignedBuf::with_len(0).freeze()).clone());
        }
        let piece = self.pieces.pop().filter(|piece| piece.len() >= len).ok_or(BadWire::Payload)?;
        if piece.len() > len {
            self.pieces.push(piece.slice(len..piece.len()));
        }
        Ok(piece.slice(0..len))
    }
}
