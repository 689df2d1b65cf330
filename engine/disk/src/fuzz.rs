//! Entry points for fuzzing (feature `fuzz`): each takes any bytes and panics where an invariant does not hold.

use crate::chunk::ChunkId;
use crate::chunk::entry::{ChunkEntry, Extent};
use crate::replica::log::{HardState, LogEntry};
use crate::superblock::Superblock;
use crate::wal::batch::{BatchHeader, BatchKind, BatchSeal, HEADER_BYTES, batch_bytes};
use crate::wal::field::FieldBuf;
use crate::wal::record::{
    Checkpoint, ChunkOp, ReplicaOp, Reset, State, read_records, write_chunk, write_replica,
};
use buckets_env::ALIGNMENT;
use buckets_ring::format::BlockChecksum;
use buckets_ring::id::{DeploymentId, DiskUuid, GroupId, ObjectId};
use bytes::Bytes;

/// A superblock's page; what is one comes out of its encoding again.
pub fn superblock(data: &[u8]) {
    if let Ok(superblock) = Superblock::decode(data) {
        assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
    }
}

/// A log batch as it may lie on a disk, and its records behind checksums that are right (a bug, or a newer version).
pub fn log_records(data: &[u8]) {
    let seal = BatchSeal::new(DiskUuid::from_bytes([9; 16]));
    if let Some(header) = seal.header(data)
        && header.batch_bytes() <= data.len()
    {
        let _ = seal.payload(&header, data);
    }
    let Some((count, payload)) = data.split_first() else { return };
    let header = BatchHeader {
        kind: BatchKind::Records,
        record_count: u32::from(*count),
        segment: 1,
        number: 2,
        first_lsn: 3,
        data_lsn: 4,
        page: 5,
        payload_bytes: payload.len() as u32,
    };
    let mut batch = vec![0; batch_bytes(payload.len())];
    batch[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    seal.close(&header, &mut batch);
    assert_eq!(seal.header(&batch), Some(header));
    let Some(read) = seal.payload(&header, &batch) else { panic!("what was closed opens") };
    assert_eq!(read, payload);
    if let Some(records) = read_records(read, header.record_count) {
        assert_eq!(records.len(), usize::from(*count));
    }
    let _ = Checkpoint::read(read);
}

/// Valid superblocks, from which mutations begin.
pub fn superblock_seeds() -> Vec<Vec<u8>> {
    let superblock = Superblock {
        deployment: DeploymentId::from_bytes([1; 16]),
        disk: DiskUuid::from_bytes([2; 16]),
        wal_segment_bytes: 64 << 20,
        space_file_bytes: 256 << 30,
    };
    vec![superblock.encode()[..ALIGNMENT].to_vec()]
}

/// Valid payloads behind their number of records, from which mutations begin.
pub fn log_seeds() -> Vec<Vec<u8>> {
    let group = GroupId(4);
    let state = State {
        hard_state: Some(HardState { term: 3, vote: 1, commit: 9 }),
        conf: Some(Bytes::from_static(b"conf")),
    };
    let entry = |index| LogEntry { index, term: 3, kind: 0, data: Bytes::from_static(b"an entry") };
    let entries = [entry(10), entry(11)];
    let reset = Reset { index: 50, term: 4, state: state.clone() };
    let chunk = ChunkId { object: ObjectId::from_bytes([5; 16]), number: 2 };
    let chunk_entry = ChunkEntry {
        kind: BlockChecksum::Xxh3,
        block_bytes: 8192,
        last_block_bytes: 100,
        blocks: 3,
        extents: vec![Extent { start: 77, units: 3 }, Extent { start: 90, units: 2 }],
        checksums: Bytes::from(vec![9; 48]),
    };
    let mut out = FieldBuf::with_capacity(100, 0);
    write_replica(&mut out, group, 0, &ReplicaOp::Create);
    write_replica(&mut out, group, 1, &ReplicaOp::Append { state: &state, entries: &entries, again: false });
    write_replica(&mut out, group, 2, &ReplicaOp::Reset(&reset));
    write_chunk(&mut out, chunk, 7, &ChunkOp::Finish { entry: &chunk_entry, owner: b"who" });
    write_chunk(&mut out, chunk, 8, &ChunkOp::Delete);
    let bytes = out.len();
    let payload = out.into_padded(ALIGNMENT);
    let mut seed = vec![5];
    seed.extend_from_slice(&payload[..bytes]);
    vec![seed]
}
