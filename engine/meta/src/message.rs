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
    /// Asks how a voter stands, before the asker may vote.
    StandingRequest {
        /// The round that the answer belongs to.
        round: u64,
    },
    /// How a voter stands.
    Standing(Standing),
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
    /// The replica could serve: its rows are whole and, where it was not asked to stand still, its node may lead (it is
    /// neither drained nor far from the others).
    pub usable: bool,
    /// It was emptied and may lack what it had acknowledged (see [`Stage::Joining`]).
    pub joining: bool,
    /// Term and index of the last entry.
    pub last: Position,
}

/// How far a replica is with taking part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its store says nothing: it is new, or was emptied.
    Blank,
    /// Every voter was blank; it waits until all of them know.
    Founding,
    /// It was emptied, and catches up with what it may have acknowledged before.
    Joining,
    /// A voter like others.
    Voting,
}

impl Stage {
    const ALL: [Stage; 4] = [Stage::Blank, Stage::Founding, Stage::Joining, Stage::Voting];
}

/// How a voter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The round that was asked.
    pub round: u64,
    /// How far it is.
    pub stage: Stage,
    /// The highest term it knows of.
    pub term: u64,
    /// Term and index of the last entry of its log.
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
    pub(super) const STANDING_REQUEST: u8 = 8;
    pub(super) const STANDING: u8 = 9;
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
const ENTRIES_OF_BEFORE: u8 = 4;
/// Messages in a row that may have the entries of the one before them: a set has 32 disks at most, so that one leader has
/// no more other voters. What is read stays within so many times what was received.
const REPEATS_MAX: usize = 31;

impl GroupMessage {
    /// The bytes for another node.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        self.encode_behind(None, &mut out);
        out.freeze()
    }

    fn encode_behind(&self, before: Option<&GroupMessage>, out: &mut BytesMut) {
        out.put_u8(VERSION);
        out.put_u8(match &self.body {
            GroupBody::Raft(_) => kind::RAFT,
            GroupBody::SnapshotRequest(_) => kind::SNAPSHOT_REQUEST,
            GroupBody::SnapshotPage(_) => kind::SNAPSHOT_PAGE,
            GroupBody::SnapshotRefused { .. } => kind::SNAPSHOT_REFUSED,
            GroupBody::LogPositionRequest { .. } => kind::LOG_POSITION_REQUEST,
            GroupBody::LogPosition(_) => kind::LOG_POSITION,
            GroupBody::Thaw => kind::THAW,
            GroupBody::StandingRequest { .. } => kind::STANDING_REQUEST,
            GroupBody::Standing(_) => kind::STANDING,
        });
        out.put_u32_le(self.group.0);
        out.put_slice(self.from.as_bytes());
        out.put_slice(self.to.as_bytes());
        match &self.body {
            GroupBody::Raft(message) => encode_raft(&message.0, before.is_some(), out),
            GroupBody::SnapshotRequest(request) => {
                out.put_u64_le(request.session);
                out.put_u32_le(request.page);
                out.put_u64_le(request.index_min);
            }
            GroupBody::SnapshotPage(page) => encode_page(page, out),
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
                        | u8::from(position.usable) << 2
                        | u8::from(position.joining) << 3,
                );
                out.put_u64_le(position.last.term);
                out.put_u64_le(position.last.index);
            }
            GroupBody::Thaw => {}
            GroupBody::StandingRequest { round } => out.put_u64_le(*round),
            GroupBody::Standing(standing) => {
                out.put_u64_le(standing.round);
                out.put_u8(standing.stage as u8);
                out.put_u64_le(standing.term);
                out.put_u64_le(standing.last.term);
                out.put_u64_le(standing.last.index);
            }
        }
    }

    fn entries(&self) -> &[Entry] {
        match &self.body {
            GroupBody::Raft(message) => message.0.get_entries(),
            _ => &[],
        }
    }

    /// Index and term tell an entry of a group from all others, and what precedes it in any log.
    fn has_entries_of(&self, before: &GroupMessage) -> bool {
        let ends = |message: &GroupMessage| {
            let place = |entry: &Entry| (entry.index, entry.term);
            let entries = message.entries();
            Some((place(entries.first()?), place(entries.last()?)))
        };
        let own = ends(self);
        own.is_some() && self.group == before.group && own == ends(before)
    }

    /// About how many bytes [`GroupMessage::encode`] makes; also what the message holds in memory.
    pub fn encoded_bytes(&self) -> usize {
        72 + match &self.body {
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
    pub fn decode(bytes: Bytes) -> Result<GroupMessage, BadMessage> {
        GroupMessage::decode_behind(None, bytes)
    }

    fn decode_behind(before: Option<&GroupMessage>, mut bytes: Bytes) -> Result<GroupMessage, BadMessage> {
        let input = &mut bytes;
        if get_u8(input)? != VERSION {
            return Err(BadMessage { what: "unknown version" });
        }
        let kind = get_u8(input)?;
        let group = GroupId(get_u32(input)?);
        let from = get_disk(input)?;
        let to = get_disk(input)?;
        let body = match kind {
            kind::RAFT => {
                let before =
                    before.filter(|before| before.group == group).map_or(&[][..], GroupMessage::entries);
                GroupBody::Raft(RaftMessage(Box::new(decode_raft(from, to, before, input)?)))
            }
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
                    joining: flags & 8 != 0,
                    last: Position { index: get_u64(input)?, term },
                })
            }
            kind::THAW => GroupBody::Thaw,
            kind::STANDING_REQUEST => GroupBody::StandingRequest { round: get_u64(input)? },
            kind::STANDING => {
                let round = get_u64(input)?;
                let stage = Stage::ALL.get(usize::from(get_u8(input)?)).copied();
                let stage = stage.ok_or(BadMessage { what: "unknown stage" })?;
                let term = get_u64(input)?;
                let last_term = get_u64(input)?;
                let last = Position { index: get_u64(input)?, term: last_term };
                GroupBody::Standing(Standing { round, stage, term, last })
            }
            _ => return Err(BadMessage { what: "unknown kind" }),
        };
        if !bytes.is_empty() {
            return Err(BadMessage { what: "it goes on behind its end" });
        }
        Ok(GroupMessage { group, from, to, body })
    }
}

/// Appends messages for one node. Entries that one has from the one before it, because both are for voters of that node, are
/// not repeated.
pub fn encode_list(messages: &[GroupMessage], out: &mut BytesMut) {
    // In one piece: where it grows instead, half of its cost is the kernel's, who has to clear new memory.
    out.reserve(4 + messages.iter().map(|message| 4 + message.encoded_bytes()).sum::<usize>());
    out.put_u32_le(messages.len() as u32);
    let mut repeats = 0;
    for (number, message) in messages.iter().enumerate() {
        let before = number.checked_sub(1).and_then(|before| messages.get(before));
        let before = before.filter(|before| repeats < REPEATS_MAX && message.has_entries_of(before));
        repeats = if before.is_some() { repeats + 1 } else { 0 };
        let start = out.len();
        out.put_u32_le(0);
        message.encode_behind(before, out);
        let bytes = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
    }
}

/// Reads what [`encode_list`] wrote.
pub fn decode_list(input: &mut Bytes) -> Result<Vec<GroupMessage>, BadMessage> {
    let count = get_u32(input)?;
    let mut messages: Vec<GroupMessage> = Vec::new();
    let mut repeats = 0;
    for _ in 0..count {
        let len = get_u32(input)? as usize;
        let bytes = get_bytes(input, len)?;
        let before = messages.last().filter(|_| repeats < REPEATS_MAX);
        let message = GroupMessage::decode_behind(before, bytes)?;
        let is_repeated = before.is_some_and(|before| message.has_entries_of(before));
        repeats = if is_repeated { repeats + 1 } else { 0 };
        messages.push(message);
    }
    Ok(messages)
}

fn encode_raft(message: &Message, has_entries_of_before: bool, out: &mut BytesMut) {
    let number = RAFT_TYPES.iter().find(|(_, kind)| *kind == message.get_msg_type());
    assert!(number.is_some(), "{:?} never leaves a replica", message.get_msg_type());
    out.put_u8(number.map_or(0, |(number, _)| *number));
    let snapshot = message.has_snapshot().then(|| message.get_snapshot());
    let flags = [
        (REJECT, message.reject),
        (WITH_SNAPSHOT, snapshot.is_some()),
        (ENTRIES_OF_BEFORE, has_entries_of_before),
    ];
    out.put_u8(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum());
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
    if has_entries_of_before {
        return;
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

fn decode_raft(
    from: DiskUuid,
    to: DiskUuid,
    entries_before: &[Entry],
    input: &mut Bytes,
) -> Result<Message, BadMessage> {
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
    let entries = match flags & ENTRIES_OF_BEFORE != 0 {
        true if entries_before.is_empty() => {
            return Err(BadMessage { what: "it has the entries of the message before it, which has none" });
        }
        true => entries_before.to_vec(),
        false => decode_entries(input)?,
    };
    // Raft counts on entries that follow each other.
    let first = message.index.wrapping_add(1);
    if entries.iter().enumerate().any(|(n, entry)| entry.index != first.wrapping_add(n as u64)) {
        return Err(BadMessage { what: "entries do not follow each other" });
    }
    message.set_entries(entries.into());
    Ok(message)
}

fn decode_entries(input: &mut Bytes) -> Result<Vec<Entry>, BadMessage> {
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
    Ok(entries)
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
                joining: false,
                last: Position { index: 2, term: 1 },
            }),
            GroupBody::Thaw,
            GroupBody::StandingRequest { round: 6 },
            GroupBody::Standing(Standing {
                round: 6,
                stage: Stage::Joining,
                term: 9,
                last: Position { index: 2, term: 1 },
            }),
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
    fn entries_for_two_voters_of_a_node_travel_once() {
        let first = messages().remove(0);
        let mut second = first.clone();
        second.to = disk(3);
        let GroupBody::Raft(body) = &mut second.body else { panic!() };
        body.0.to = raft_id(disk(3));
        body.0.commit = 39;
        let list = |messages: &[&GroupMessage]| {
            let mut out = BytesMut::new();
            encode_list(&messages.iter().map(|message| (*message).clone()).collect::<Vec<_>>(), &mut out);
            out.freeze()
        };
        let check = |messages: &[&GroupMessage], bodies: usize| {
            let bytes = list(messages);
            assert!((bodies * 3000..bodies * 3000 + messages.len() * 200).contains(&bytes.len()));
            let decoded = decode_list(&mut bytes.clone()).unwrap();
            assert_eq!(format!("{:?}", decoded.iter().collect::<Vec<_>>()), format!("{messages:?}"));
            bytes
        };
        let both = check(&[&first, &second], 1);
        check(&[&first, &second, &first, &second], 1);
        check(&[&first; 40], 2);
        // Behind nothing they are missed.
        let without_the_first = [&1_u32.to_le_bytes()[..], &both[4 + 4 + first.encode().len()..]].concat();
        assert!(decode_list(&mut Bytes::from(without_the_first)).is_err());
        // Others are not taken for the same.
        let stranger = GroupMessage { group: GroupId(78), ..first.clone() };
        check(&[&stranger, &second], 2);
        let mut older = first.clone();
        let GroupBody::Raft(body) = &mut older.body else { panic!() };
        body.0.mut_entries()[0].term = 6;
        check(&[&older, &second], 2);
        let mut longer = first.clone();
        let GroupBody::Raft(body) = &mut longer.body else { panic!() };
        body.0.mut_entries().push(Entry { term: 7, index: 43, ..Entry::default() });
        check(&[&longer, &second], 2);
        // A row that is too long is not believed.
        let one = &both[4 + 4 + first.encode().len()..];
        let many = [&40_u32.to_le_bytes()[..], &list(&[&first])[4..], &one.repeat(39)].concat();
        assert!(decode_list(&mut Bytes::from(many)).is_err());
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
