//! What replicas of a group say to each other.
//!
//! What must hold: between cores of one process messages are moved, never encoded, and the entries of an append
//! share their bytes with the sender's log. Between nodes they are encoded here, by our own codec: the bytes of a
//! peer never reach a protobuf parser, and no input makes the decoder panic or allocate more than it was given.
//! Integrity is the frame's job (it carries a checksum). The format is drawn in `docs/formats/meta.md`.
//!
//! Every message may be lost, delayed, repeated or overtaken.

use crate::limits::{ENTRY_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::members::{Members, raft_id};
use buckets_index::Position;
use buckets_ring::id::{DiskUuid, GroupId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

const VERSION: u8 = 1;
/// Bytes of a page's rows that are believed before the page is read.
const ROWS_MAX: u32 = 1 << 20;

/// A message from one replica of a group to another.
#[derive(Clone, Debug)]
pub struct GroupMessage {
    /// The group.
    pub group: GroupId,
    /// The disk of the sending replica.
    pub from: DiskUuid,
    /// The disk of the receiving replica.
    pub to: DiskUuid,
    /// What is said.
    pub body: GroupBody,
}

/// What is said.
#[derive(Clone, Debug)]
pub enum GroupBody {
    /// A message of the consensus.
    Raft(RaftMessage),
    /// Asks for a page of a snapshot; page 0 begins one.
    SnapshotRequest(SnapshotRequest),
    /// A page of a snapshot.
    SnapshotPage(SnapshotPage),
    /// No page: begin again, or ask another replica.
    SnapshotRefused {
        /// The fetch that is refused.
        session: u64,
    },
    /// Asks how far a log reaches, and to stand still where no leader is known.
    LogPositionRequest {
        /// The round that the answer belongs to.
        round: u64,
        /// Stand still (take and send nothing of the consensus) for a promise's time.
        freeze: bool,
    },
    /// How far the log reaches.
    LogPosition(LogPosition),
    /// Stand still no more.
    Thaw,
}

/// A message of the consensus.
#[derive(Clone, Debug)]
pub struct RaftMessage(pub(crate) Box<Message>);

/// Asks for a page of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The fetch: a random number.
    pub session: u64,
    /// The page wanted, from 0.
    pub page: u32,
    /// The snapshot must hold everything up to here (Raft index).
    pub index_min: u64,
}

/// A page of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPage {
    /// The fetch.
    pub session: u64,
    /// The page, from 0.
    pub page: u32,
    /// The snapshot holds everything up to here, and nothing behind it.
    pub position: Position,
    /// The members at that position, encoded.
    pub members: Bytes,
    /// Rows in key order, behind those of the page before.
    pub rows: Vec<(Bytes, Bytes)>,
    /// With the last page: how many rows the whole snapshot has.
    pub rows_total: Option<u64>,
}

/// How far the log of a replica reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// The round that was asked.
    pub round: u64,
    /// The replica stands still as it was asked to.
    pub frozen: bool,
    /// A leader is there, or was heard so lately that it may count on this voter.
    pub leader: bool,
    /// The replica's rows are whole: it could serve them.
    pub usable: bool,
    /// Term and index of the last entry.
    pub last: Position,
}

/// Bytes that are not a message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a group message: {what}")]
pub struct BadMessage {
    /// What was seen.
    pub what: &'static str,
}

const SHORT: BadMessage = BadMessage { what: "it ends too early" };

mod kind {
    pub(super) const RAFT: u8 = 1;
    pub(super) const SNAPSHOT_REQUEST: u8 = 2;
    pub(super) const SNAPSHOT_PAGE: u8 = 3;
    pub(super) const SNAPSHOT_REFUSED: u8 = 4;
    pub(super) const LOG_POSITION_REQUEST: u8 = 5;
    pub(super) const LOG_POSITION: u8 = 6;
    pub(super) const THAW: u8 = 7;
}

/// Message types by their stored number.
const RAFT_TYPES: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTimeoutNow),
    (9, MessageType::MsgRequestPreVote),
    (10, MessageType::MsgRequestPreVoteResponse),
];
/// Entry types by their stored number; also the `kind` of an entry in a disk's log.
const ENTRY_TYPES: [(u8, EntryType); 1] = [(0, EntryType::EntryNormal)];

const REJECT: u8 = 1;
const WITH_SNAPSHOT: u8 = 2;

impl GroupMessage {
    /// The bytes for another node.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        out.put_u8(VERSION);
        out.put_u8(match &self.body {
            GroupBody::Raft(_) => kind::RAFT,
            GroupBody::SnapshotRequest(_) => kind::SNAPSHOT_REQUEST,
            GroupBody::SnapshotPage(_) => kind::SNAPSHOT_PAGE,
            GroupBody::SnapshotRefused { .. } => kind::SNAPSHOT_REFUSED,
            GroupBody::LogPositionRequest { .. } => kind::LOG_POSITION_REQUEST,
            GroupBody::LogPosition(_) => kind::LOG_POSITION,
            GroupBody::Thaw => kind::THAW,
        });
        out.put_u32_le(self.group.0);
        out.put_slice(self.from.as_bytes());
        out.put_slice(self.to.as_bytes());
        match &self.body {
            GroupBody::Raft(message) => encode_raft(&message.0, &mut out),
            GroupBody::SnapshotRequest(request) => {
                out.put_u64_le(request.session);
                out.put_u32_le(request.page);
                out.put_u64_le(request.index_min);
            }
            GroupBody::SnapshotPage(page) => encode_page(page, &mut out),
            GroupBody::SnapshotRefused { session } => out.put_u64_le(*session),
            GroupBody::LogPositionRequest { round, freeze } => {
                out.put_u64_le(*round);
                out.put_u8(u8::from(*freeze));
            }
            GroupBody::LogPosition(position) => {
                out.put_u64_le(position.round);
                out.put_u8(
                    u8::from(position.frozen)
                        | u8::from(position.leader) << 1
                        | u8::from(position.usable) << 2,
                );
                out.put_u64_le(position.last.term);
                out.put_u64_le(position.last.index);
            }
            GroupBody::Thaw => {}
        }
        out.freeze()
    }

    /// About how many bytes [`GroupMessage::encode`] makes; also what the message holds in memory.
    pub fn encoded_bytes(&self) -> usize {
        64 + match &self.body {
            GroupBody::Raft(message) => {
                let entries =
                    message.0.get_entries().iter().map(|entry| 24 + entry.data.len()).sum::<usize>();
                100 + message.0.context.len() + message.0.get_snapshot().data.len() + entries
            }
            GroupBody::SnapshotPage(page) => {
                600 + page.rows.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>()
            }
            _ => 0,
        }
    }

    /// Reads the bytes of another node; entries and rows share their memory.
    pub fn decode(mut bytes: Bytes) -> Result<GroupMessage, BadMessage> {
        let input = &mut bytes;
        if get_u8(input)? != VERSION {
            return Err(BadMessage { what: "unknown version" });
        }
        let kind = get_u8(input)?;
        let group = GroupId(get_u32(input)?);
        let from = get_disk(input)?;
        let to = get_disk(input)?;
        let body = match kind {
            kind::RAFT => GroupBody::Raft(RaftMessage(Box::new(decode_raft(from, to, input)?))),
            kind::SNAPSHOT_REQUEST => GroupBody::SnapshotRequest(SnapshotRequest {
                session: get_u64(input)?,
                page: get_u32(input)?,
                index_min: get_u64(input)?,
            }),
            kind::SNAPSHOT_PAGE => GroupBody::SnapshotPage(decode_page(input)?),
            kind::SNAPSHOT_REFUSED => GroupBody::SnapshotRefused { session: get_u64(input)? },
            kind::LOG_POSITION_REQUEST => {
                GroupBody::LogPositionRequest { round: get_u64(input)?, freeze: get_u8(input)? == 1 }
            }
            kind::LOG_POSITION => {
                let round = get_u64(input)?;
                let flags = get_u8(input)?;
                let term = get_u64(input)?;
                GroupBody::LogPosition(LogPosition {
                    round,
                    frozen: flags & 1 != 0,
                    leader: flags & 2 != 0,
                    usable: flags & 4 != 0,
                    last: Position { index: get_u64(input)?, term },
                })
            }
            kind::THAW => GroupBody::Thaw,
            _ => return Err(BadMessage { what: "unknown kind" }),
        };
        if !bytes.is_empty() {
            return Err(BadMessage { what: "it goes on behind its end" });
        }
        Ok(GroupMessage { group, from, to, body })
    }
}

fn encode_raft(message: &Message, out: &mut BytesMut) {
    let number = RAFT_TYPES.iter().find(|(_, kind)| *kind == message.get_msg_type());
    assert!(number.is_some(), "{:?} never leaves a replica", message.get_msg_type());
    out.put_u8(number.map_or(0, |(number, _)| *number));
    let snapshot = message.has_snapshot().then(|| message.get_snapshot());
    out.put_u8(if message.reject { REJECT } else { 0 } | if snapshot.is_some() { WITH_SNAPSHOT } else { 0 });
    for field in [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
    ] {
        out.put_u64_le(field);
    }
    put_short(&message.context, out);
    if let Some(snapshot) = snapshot {
        out.put_u64_le(snapshot.get_metadata().term);
        out.put_u64_le(snapshot.get_metadata().index);
        put_short(&snapshot.data, out);
    }
    out.put_u32_le(message.get_entries().len() as u32);
    for entry in message.get_entries() {
        out.put_u8(entry_kind(entry.get_entry_type()));
        out.put_u64_le(entry.term);
        out.put_u64_le(entry.index);
        out.put_u32_le(entry.data.len() as u32);
        out.put_slice(&entry.data);
    }
}

fn decode_raft(from: DiskUuid, to: DiskUuid, input: &mut Bytes) -> Result<Message, BadMessage> {
    let number = get_u8(input)?;
    let Some((_, kind)) = RAFT_TYPES.iter().find(|(known, _)| *known == number) else {
        return Err(BadMessage { what: "unknown type" });
    };
    let flags = get_u8(input)?;
    let mut message = Message::default();
    message.set_msg_type(*kind);
    message.from = raft_id(from);
    message.to = raft_id(to);
    message.reject = flags & REJECT != 0;
    for field in [
        &mut message.term,
        &mut message.log_term,
        &mut message.index,
        &mut message.commit,
        &mut message.commit_term,
        &mut message.request_snapshot,
        &mut message.reject_hint,
    ] {
        *field = input.try_get_u64_le().map_err(|_| SHORT)?;
    }
    message.context = get_short(input)?;
    if flags & WITH_SNAPSHOT != 0 {
        let (term, index) = (get_u64(input)?, get_u64(input)?);
        let members = get_short(input)?;
        message.set_snapshot(snapshot(Position { index, term }, members)?);
    }
    let count = get_u32(input)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let mut entry = Entry::default();
        entry.set_entry_type(entry_type(get_u8(input)?).ok_or(BadMessage { what: "unknown entry type" })?);
        entry.term = get_u64(input)?;
        entry.index = get_u64(input)?;
        let bytes = get_u32(input)? as usize;
        if bytes > ENTRY_BYTES_MAX {
            return Err(BadMessage { what: "an entry is too long" });
        }
        entry.data = get_bytes(input, bytes)?;
        entries.push(entry);
    }
    // Raft counts on entries that follow each other.
    let first = message.index.wrapping_add(1);
    if entries.iter().enumerate().any(|(n, entry)| entry.index != first.wrapping_add(n as u64)) {
        return Err(BadMessage { what: "entries do not follow each other" });
    }
    message.set_entries(entries.into());
    Ok(message)
}

/// Raft's description of a snapshot; the rows are fetched in pages.
pub(crate) fn snapshot(position: Position, members: Bytes) -> Result<Snapshot, BadMessage> {
    let conf =
        Members::decode(&members).map_err(|_| BadMessage { what: "members cannot be read" })?.conf_state();
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = position.index;
    snapshot.mut_metadata().term = position.term;
    snapshot.mut_metadata().set_conf_state(conf);
    snapshot.data = members;
    Ok(snapshot)
}

fn encode_page(page: &SnapshotPage, out: &mut BytesMut) {
    out.put_u64_le(page.session);
    out.put_u32_le(page.page);
    out.put_u64_le(page.position.term);
    out.put_u64_le(page.position.index);
    put_short(&page.members, out);
    out.put_u8(u8::from(page.rows_total.is_some()));
    out.put_u64_le(page.rows_total.unwrap_or(0));
    out.put_u32_le(page.rows.len() as u32);
    for (key, value) in &page.rows {
        out.put_u16_le(key.len() as u16);
        out.put_u32_le(value.len() as u32);
        out.put_slice(key);
        out.put_slice(value);
    }
}

fn decode_page(input: &mut Bytes) -> Result<SnapshotPage, BadMessage> {
    let session = get_u64(input)?;
    let page = get_u32(input)?;
    let term = get_u64(input)?;
    let position = Position { index: get_u64(input)?, term };
    let members = get_short(input)?;
    let last = get_u8(input)? == 1;
    let rows_total = get_u64(input)?;
    let count = get_u32(input)?;
    if count > ROWS_MAX {
        return Err(BadMessage { what: "too many rows" });
    }
    let mut rows = Vec::new();
    for _ in 0..count {
        let key_bytes = usize::from(input.try_get_u16_le().map_err(|_| SHORT)?);
        let value_bytes = get_u32(input)? as usize;
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(BadMessage { what: "a row is too long" });
        }
        rows.push((get_bytes(input, key_bytes)?, get_bytes(input, value_bytes)?));
    }
    Ok(SnapshotPage { session, page, position, members, rows, rows_total: last.then_some(rows_total) })
}

/// The stored number of an entry type.
pub(crate) fn entry_kind(kind: EntryType) -> u8 {
    ENTRY_TYPES.iter().find(|(_, known)| *known == kind).map_or(0, |(number, _)| *number)
}

/// The entry type behind a stored number.
pub(crate) fn entry_type(number: u8) -> Option<EntryType> {
    ENTRY_TYPES.iter().find(|(known, _)| *known == number).map(|(_, kind)| *kind)
}

fn put_short(bytes: &[u8], out: &mut BytesMut) {
    out.put_u16_le(bytes.len() as u16);
    out.put_slice(bytes);
}

fn get_short(input: &mut Bytes) -> Result<Bytes, BadMessage> {
    let bytes = usize::from(input.try_get_u16_le().map_err(|_| SHORT)?);
    get_bytes(input, bytes)
}

fn get_bytes(input: &mut Bytes, bytes: usize) -> Result<Bytes, BadMessage> {
    if input.len() < bytes {
        return Err(SHORT);
    }
    Ok(input.split_to(bytes))
}

fn get_u8(input: &mut Bytes) -> Result<u8, BadMessage> {
    input.try_get_u8().map_err(|_| SHORT)
}

fn get_u32(input: &mut Bytes) -> Result<u32, BadMessage> {
    input.try_get_u32_le().map_err(|_| SHORT)
}

fn get_u64(input: &mut Bytes) -> Result<u64, BadMessage> {
    input.try_get_u64_le().map_err(|_| SHORT)
}

fn get_disk(input: &mut Bytes) -> Result<DiskUuid, BadMessage> {
    let mut bytes = [0; 16];
    input.try_copy_to_slice(&mut bytes).map_err(|_| SHORT)?;
    Ok(DiskUuid::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(number: u8) -> DiskUuid {
        DiskUuid::from_bytes([number; 16])
    }

    fn messages() -> Vec<GroupMessage> {
        let members = Members::of_voters(&[disk(1), disk(2)]).unwrap().encode();
        let mut append = Message::default();
        append.set_msg_type(MessageType::MsgAppend);
        append.from = raft_id(disk(1));
        append.to = raft_id(disk(2));
        append.term = 7;
        append.log_term = 6;
        append.index = 41;
        append.commit = 40;
        append.commit_term = 6;
        append.context = Bytes::from_static(b"context");
        let entry = Entry { term: 7, index: 42, data: Bytes::from(vec![9; 3000]), ..Entry::default() };
        append.set_entries(vec![entry].into());
        let mut offer = Message::default();
        offer.set_msg_type(MessageType::MsgSnapshot);
        offer.from = raft_id(disk(1));
        offer.to = raft_id(disk(2));
        offer.reject = true;
        offer.set_snapshot(snapshot(Position { index: 9, term: 3 }, members.clone()).unwrap());
        let bodies = vec![
            GroupBody::Raft(RaftMessage(Box::new(append))),
            GroupBody::Raft(RaftMessage(Box::new(offer))),
            GroupBody::SnapshotRequest(SnapshotRequest { session: 1, page: 2, index_min: 3 }),
            GroupBody::SnapshotPage(SnapshotPage {
                session: 1,
                page: 2,
                position: Position { index: 5, term: 4 },
                members,
                rows: vec![
                    (Bytes::from_static(b"k"), Bytes::from_static(b"v")),
                    (Bytes::new(), Bytes::new()),
                ],
                rows_total: Some(12),
            }),
            GroupBody::SnapshotRefused { session: 8 },
            GroupBody::LogPositionRequest { round: 5, freeze: true },
            GroupBody::LogPosition(LogPosition {
                round: 5,
                frozen: true,
                leader: false,
                usable: true,
                last: Position { index: 2, term: 1 },
            }),
            GroupBody::Thaw,
        ];
        bodies
            .into_iter()
            .map(|body| GroupMessage { group: GroupId(77), from: disk(1), to: disk(2), body })
            .collect()
    }

    #[test]
    fn every_message_survives() {
        for message in messages() {
            let bytes = message.encode();
            assert!(bytes.len() <= message.encoded_bytes(), "{message:?}");
            let decoded = GroupMessage::decode(bytes.clone()).unwrap();
            assert_eq!(format!("{decoded:?}"), format!("{message:?}"));
            assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn every_cut_is_refused_and_no_flip_panics() {
        for message in messages() {
            let bytes = message.encode();
            for end in 0..bytes.len() {
                assert!(GroupMessage::decode(bytes.slice(..end)).is_err());
                let mut flipped = bytes.to_vec();
                flipped[end] ^= 0x81;
                let _ = GroupMessage::decode(Bytes::from(flipped));
            }
        }
    }

    #[test]
    fn entries_share_the_memory_of_the_frame() {
        let bytes = messages()[0].encode();
        let memory = bytes.as_ptr_range();
        let GroupBody::Raft(message) = GroupMessage::decode(bytes).unwrap().body else { panic!() };
        assert!(memory.contains(&message.0.get_entries()[0].data.as_ptr()));
    }

    #[test]
    fn messages_go_to_other_cores() {
        fn is_send<T: Send>() {}
        is_send::<GroupMessage>();
    }
}
