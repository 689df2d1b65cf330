//! The records of the write-ahead log and of its checkpoints.
//!
//! What must hold: a record's lsn is its place in the log (first lsn of its batch plus its number in it) and is not
//! stored. `previous` is the lsn of the last record of the same chain (one chain for each replica, one for all chunks;
//! 0: none): where a part of the log is damaged, it tells whether this chain lost something.
//!
//! ```text
//! v1, little-endian
//! record          type u8 | zero 3 | body bytes u32 | body
//!  1 append       group u32 | previous u64 | state | entries u32 | entry*   what was behind them is gone
//!  6 append again group u32 | previous u64 | state | entries u32 | entry*   what is behind them stays
//!  2 create       group u32 | previous u64
//!  3 reset        group u32 | previous u64 | index u64 | term u64 | state
//!  4 remove       group u32 | previous u64
//!  5 repaired     group u32 | previous u64
//! 16 finish       previous u64 | chunk 17 | chunk body
//! 17 confirm      previous u64 | chunk 17
//! 18 delete       previous u64 | chunk 17
//! state           flags u8 (1 hard state, 2 conf) | [term u64 | vote u64 | commit u64] | [conf bytes u32 | conf]
//! entry           index u64 | term u64 | kind u8 | data bytes u32 | data
//! chunk           object id 16 | number u8
//! chunk body      checksum kind u8 | block bytes u32 | last block bytes u32 | blocks u32 | extents u32
//!                 | (first unit u64 | units u32)* | owner bytes u32 | owner | checksum*
//!
//! checkpoint      oldest live segment u64 | chunk chain u64 | replicas u32 | replica*
//! replica         group u32 | flags u8 (1 damaged, 2 reset begun) | chain u64 | truncated index u64 | truncated term u64
//!                 | last index u64 | last term u64 | state | [reset index u64 | reset term u64 | state]
//! ```

use super::field::{FieldBuf, Fields};
use crate::chunk::ChunkId;
use crate::chunk::entry::{ChunkEntry, Extent};
use crate::limits::{CHUNK_BLOCKS_MAX, OWNER_BYTES_MAX};
use crate::replica::log::{HardState, LogEntry};
use buckets_ring::format::BlockChecksum;
use buckets_ring::id::{GroupId, ObjectId};
use bytes::Bytes;

/// Bytes before a record's body.
const PREFIX_BYTES: usize = 8;

const APPEND: u8 = 1;
const CREATE: u8 = 2;
const RESET: u8 = 3;
const REMOVE: u8 = 4;
const REPAIRED: u8 = 5;
const APPEND_AGAIN: u8 = 6;
const FINISH: u8 = 16;
const CONFIRM: u8 = 17;
const DELETE: u8 = 18;

const HAS_HARD_STATE: u8 = 1;
const HAS_CONF: u8 = 2;
const IS_DAMAGED: u8 = 1;
const HAS_RESET: u8 = 2;

/// What goes with entries: either may be left as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) conf: Option<Bytes>,
}

/// The position and state that a snapshot brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reset {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) state: State,
}

/// A replica's record as it is written.
pub(crate) enum ReplicaOp<'a> {
    /// `again`: entries that are in the log already.
    Append {
        state: &'a State,
        entries: &'a [LogEntry],
        again: bool,
    },
    Create,
    Reset(&'a Reset),
    Remove,
    Repaired,
}

/// A chunk's record as it is written.
pub(crate) enum ChunkOp<'a> {
    Finish { entry: &'a ChunkEntry, owner: &'a [u8] },
    Confirm,
    Delete,
}

/// Encodes one record at the end of `out`.
pub(crate) fn write_replica(out: &mut FieldBuf, group: GroupId, previous: u64, op: &ReplicaOp<'_>) {
    let kind = match op {
        ReplicaOp::Append { again: false, .. } => APPEND,
        ReplicaOp::Append { again: true, .. } => APPEND_AGAIN,
        ReplicaOp::Create => CREATE,
        ReplicaOp::Reset(_) => RESET,
        ReplicaOp::Remove => REMOVE,
        ReplicaOp::Repaired => REPAIRED,
    };
    let start = begin(out, kind);
    out.u32(group.0);
    out.u64(previous);
    match op {
        ReplicaOp::Append { state, entries, .. } => {
            write_state(out, state);
            out.u32(entries.len() as u32);
            for entry in *entries {
                out.u64(entry.index);
                out.u64(entry.term);
                out.u8(entry.kind);
                out.long_bytes(&entry.data);
            }
        }
        ReplicaOp::Reset(reset) => write_reset(out, reset),
        ReplicaOp::Create | ReplicaOp::Remove | ReplicaOp::Repaired => {}
    }
    end(out, start);
}

/// Encodes one record at the end of `out`.
pub(crate) fn write_chunk(out: &mut FieldBuf, chunk: ChunkId, previous: u64, op: &ChunkOp<'_>) {
    let kind = match op {
        ChunkOp::Finish { .. } => FINISH,
        ChunkOp::Confirm => CONFIRM,
        ChunkOp::Delete => DELETE,
    };
    let start = begin(out, kind);
    out.u64(previous);
    out.bytes(chunk.object.as_bytes());
    out.u8(chunk.number);
    if let ChunkOp::Finish { entry, owner } = op {
        out.u8(checksum_code(entry.kind));
        out.u32(entry.block_bytes);
        out.u32(entry.last_block_bytes);
        out.u32(entry.blocks);
        out.u32(entry.extents.len() as u32);
        for extent in &entry.extents {
            out.u64(extent.start);
            out.u32(extent.units);
        }
        out.long_bytes(owner);
        out.bytes(&entry.checksums);
    }
    end(out, start);
}

fn begin(out: &mut FieldBuf, kind: u8) -> usize {
    let start = out.len();
    out.bytes(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    start
}

fn end(out: &mut FieldBuf, start: usize) {
    let body = out.len() - start - PREFIX_BYTES;
    out.patch_u32(start + 4, body as u32);
}

fn write_state(out: &mut FieldBuf, state: &State) {
    let mut flags = 0;
    if state.hard_state.is_some() {
        flags |= HAS_HARD_STATE;
    }
    if state.conf.is_some() {
        flags |= HAS_CONF;
    }
    out.u8(flags);
    if let Some(hard_state) = &state.hard_state {
        out.u64(hard_state.term);
        out.u64(hard_state.vote);
        out.u64(hard_state.commit);
    }
    if let Some(conf) = &state.conf {
        out.long_bytes(conf);
    }
}

fn write_reset(out: &mut FieldBuf, reset: &Reset) {
    out.u64(reset.index);
    out.u64(reset.term);
    write_state(out, &reset.state);
}

pub(crate) fn checksum_code(kind: BlockChecksum) -> u8 {
    match kind {
        BlockChecksum::Xxh3 => 1,
        BlockChecksum::Blake2b => 2,
    }
}

pub(crate) fn checksum_kind(code: u8) -> Option<BlockChecksum> {
    match code {
        1 => Some(BlockChecksum::Xxh3),
        2 => Some(BlockChecksum::Blake2b),
        _ => None,
    }
}

/// A record as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Replica { group: GroupId, previous: u64, op: ReplicaRecord },
    Chunk { chunk: ChunkId, previous: u64, op: ChunkRecord },
}

/// See [`ReplicaOp`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplicaRecord {
    Append { state: State, entries: Vec<LogEntry>, again: bool },
    Create,
    Reset(Reset),
    Remove,
    Repaired,
}

/// See [`ChunkOp`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChunkRecord {
    Finish { entry: ChunkEntry, owner: Bytes },
    Confirm,
    Delete,
}

/// The records of a payload that verified. `None` where they cannot be understood: written by a newer version, or a bug.
pub(crate) fn read_records(payload: &[u8], count: u32) -> Option<Vec<Record>> {
    let mut fields = Fields::new(payload);
    let mut records = Vec::with_capacity((count as usize).min(payload.len() / PREFIX_BYTES));
    for _ in 0..count {
        let kind = fields.u8()?;
        fields.bytes(3)?;
        let mut body = Fields::new(fields.long_bytes()?);
        records.push(read_record(kind, &mut body)?);
        if !body.is_empty() {
            return None;
        }
    }
    fields.is_empty().then_some(records)
}

fn read_record(kind: u8, body: &mut Fields<'_>) -> Option<Record> {
    if kind >= FINISH {
        let previous = body.u64()?;
        let chunk = ChunkId { object: ObjectId::from_bytes(body.array()?), number: body.u8()? };
        let op = match kind {
            FINISH => read_finish(body)?,
            CONFIRM => ChunkRecord::Confirm,
            DELETE => ChunkRecord::Delete,
            _ => return None,
        };
        return Some(Record::Chunk { chunk, previous, op });
    }
    let group = GroupId(body.u32()?);
    let previous = body.u64()?;
    let op = match kind {
        APPEND | APPEND_AGAIN => {
            let again = kind == APPEND_AGAIN;
            let state = read_state(body)?;
            let count = body.u32()?;
            let mut entries = Vec::with_capacity(count.min(1024) as usize);
            for _ in 0..count {
                let (index, term, kind) = (body.u64()?, body.u64()?, body.u8()?);
                entries.push(LogEntry {
                    term,
                    index,
                    kind,
                    data: Bytes::copy_from_slice(body.long_bytes()?),
                });
            }
            ReplicaRecord::Append { state, entries, again }
        }
        CREATE => ReplicaRecord::Create,
        RESET => ReplicaRecord::Reset(read_reset(body)?),
        REMOVE => ReplicaRecord::Remove,
        REPAIRED => ReplicaRecord::Repaired,
        _ => return None,
    };
    Some(Record::Replica { group, previous, op })
}

fn read_finish(body: &mut Fields<'_>) -> Option<ChunkRecord> {
    let kind = checksum_kind(body.u8()?)?;
    let (block_bytes, last_block_bytes) = (body.u32()?, body.u32()?);
    let (blocks, extent_count) = (body.u32()?, body.u32()?);
    if blocks > CHUNK_BLOCKS_MAX {
        return None;
    }
    let mut extents = Vec::with_capacity(extent_count.min(1024) as usize);
    for _ in 0..extent_count {
        extents.push(Extent { start: body.u64()?, units: body.u32()? });
    }
    let owner = body.long_bytes()?;
    if owner.len() > OWNER_BYTES_MAX {
        return None;
    }
    let checksums = Bytes::copy_from_slice(body.bytes(blocks as usize * kind.bytes())?);
    let entry = ChunkEntry { kind, block_bytes, last_block_bytes, blocks, extents, checksums };
    entry.is_consistent().then(|| ChunkRecord::Finish { entry, owner: Bytes::copy_from_slice(owner) })
}

fn read_state(body: &mut Fields<'_>) -> Option<State> {
    let flags = body.u8()?;
    let mut state = State::default();
    if flags & HAS_HARD_STATE != 0 {
        state.hard_state = Some(HardState { term: body.u64()?, vote: body.u64()?, commit: body.u64()? });
    }
    if flags & HAS_CONF != 0 {
        state.conf = Some(Bytes::copy_from_slice(body.long_bytes()?));
    }
    Some(state)
}

fn read_reset(body: &mut Fields<'_>) -> Option<Reset> {
    Some(Reset { index: body.u64()?, term: body.u64()?, state: read_state(body)? })
}

/// The state with which a segment starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The log is needed from this segment on.
    pub(crate) oldest_segment: u64,
    /// Lsn of the last chunk record.
    pub(crate) chunk_chain: u64,
    pub(crate) replicas: Vec<ReplicaCheckpoint>,
}

/// One replica in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaCheckpoint {
    pub(crate) group: GroupId,
    pub(crate) damaged: bool,
    /// Lsn of its last record.
    pub(crate) chain: u64,
    pub(crate) truncated: (u64, u64),
    pub(crate) last: (u64, u64),
    pub(crate) state: State,
    /// A snapshot is being loaded.
    pub(crate) reset: Option<Reset>,
}

impl Checkpoint {
    pub(crate) fn write(&self, out: &mut FieldBuf) {
        out.u64(self.oldest_segment);
        out.u64(self.chunk_chain);
        out.u32(self.replicas.len() as u32);
        for replica in &self.replicas {
            out.u32(replica.group.0);
            let damaged = if replica.damaged { IS_DAMAGED } else { 0 };
            out.u8(damaged | if replica.reset.is_some() { HAS_RESET } else { 0 });
            out.u64(replica.chain);
            for position in [replica.truncated, replica.last] {
                out.u64(position.0);
                out.u64(position.1);
            }
            write_state(out, &replica.state);
            if let Some(reset) = &replica.reset {
                write_reset(out, reset);
            }
        }
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Checkpoint> {
        let mut fields = Fields::new(payload);
        let (oldest_segment, chunk_chain, count) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let mut replicas = Vec::with_capacity(count.min(1024) as usize);
        for _ in 0..count {
            let group = GroupId(fields.u32()?);
            let flags = fields.u8()?;
            let chain = fields.u64()?;
            let truncated = (fields.u64()?, fields.u64()?);
            let last = (fields.u64()?, fields.u64()?);
            let state = read_state(&mut fields)?;
            let reset = if flags & HAS_RESET != 0 { Some(read_reset(&mut fields)?) } else { None };
            let damaged = flags & IS_DAMAGED != 0;
            replicas.push(ReplicaCheckpoint { group, damaged, chain, truncated, last, state, reset });
        }
        fields.is_empty().then_some(Checkpoint { oldest_segment, chunk_chain, replicas })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: usize) -> LogEntry {
        LogEntry { term: 3, index, kind: 1, data: Bytes::from(vec![index as u8; bytes]) }
    }

    fn chunk() -> ChunkId {
        ChunkId { object: ObjectId::from_bytes([5; 16]), number: 2 }
    }

    fn chunk_entry() -> ChunkEntry {
        ChunkEntry {
            kind: BlockChecksum::Xxh3,
            block_bytes: 8192,
            last_block_bytes: 100,
            blocks: 3,
            extents: vec![Extent { start: 77, units: 3 }, Extent { start: 90, units: 2 }],
            checksums: Bytes::from(vec![9; 48]),
        }
    }

    #[test]
    fn records_read_back_as_written() {
        let mut out = FieldBuf::with_capacity(100, 0);
        let group = GroupId(4);
        let state = State {
            hard_state: Some(HardState { term: 3, vote: 1, commit: 9 }),
            conf: Some(Bytes::from_static(b"conf")),
        };
        let entries = vec![entry(10, 0), entry(11, 10_000)];
        let reset = Reset { index: 50, term: 4, state: state.clone() };
        write_replica(&mut out, group, 0, &ReplicaOp::Create);
        write_replica(
            &mut out,
            group,
            1,
            &ReplicaOp::Append { state: &state, entries: &entries, again: false },
        );
        write_replica(&mut out, group, 2, &ReplicaOp::Reset(&reset));
        write_chunk(&mut out, chunk(), 7, &ChunkOp::Finish { entry: &chunk_entry(), owner: b"who" });
        write_chunk(&mut out, chunk(), 8, &ChunkOp::Delete);
        let payload = out.into_padded(16384);
        let used = payload.iter().rposition(|&b| b != 0).unwrap_or(0) + 1;
        let records = (used..16384).find_map(|end| read_records(&payload[..end], 5)).unwrap();
        assert_eq!(
            records[1],
            Record::Replica {
                group,
                previous: 1,
                op: ReplicaRecord::Append { state, entries, again: false }
            }
        );
        assert_eq!(records[2], Record::Replica { group, previous: 2, op: ReplicaRecord::Reset(reset) });
        let op = ChunkRecord::Finish { entry: chunk_entry(), owner: Bytes::from_static(b"who") };
        assert_eq!(records[3], Record::Chunk { chunk: chunk(), previous: 7, op });
        assert_eq!(records[4], Record::Chunk { chunk: chunk(), previous: 8, op: ChunkRecord::Delete });
    }

    #[test]
    fn cut_records_are_refused_not_panicked_on() {
        let mut out = FieldBuf::with_capacity(100, 0);
        let state = State { hard_state: None, conf: Some(Bytes::from_static(b"c")) };
        write_replica(
            &mut out,
            GroupId(1),
            0,
            &ReplicaOp::Append { state: &state, entries: &[entry(1, 20)], again: true },
        );
        write_chunk(&mut out, chunk(), 0, &ChunkOp::Finish { entry: &chunk_entry(), owner: b"" });
        let len = out.len();
        let payload = out.into_padded(4096);
        assert!(read_records(&payload[..len], 2).is_some());
        for end in 0..len {
            assert_eq!(read_records(&payload[..end], 2), None, "cut at {end}");
        }
    }

    #[test]
    fn checkpoints_read_back_as_written() {
        let state = State { hard_state: Some(HardState { term: 1, vote: 2, commit: 3 }), conf: None };
        let checkpoint = Checkpoint {
            oldest_segment: 4,
            chunk_chain: 99,
            replicas: vec![
                ReplicaCheckpoint {
                    group: GroupId(1),
                    damaged: true,
                    chain: 5,
                    truncated: (6, 7),
                    last: (8, 9),
                    state: state.clone(),
                    reset: None,
                },
                ReplicaCheckpoint {
                    group: GroupId(2),
                    damaged: false,
                    chain: 0,
                    truncated: (0, 0),
                    last: (0, 0),
                    state: State::default(),
                    reset: Some(Reset { index: 1, term: 1, state }),
                },
            ],
        };
        let mut out = FieldBuf::with_capacity(10, 0);
        checkpoint.write(&mut out);
        let len = out.len();
        let payload = out.into_padded(4096);
        assert_eq!(Checkpoint::read(&payload[..len]), Some(checkpoint));
        for end in 0..len {
            assert_eq!(Checkpoint::read(&payload[..end]), None);
        }
    }
}
