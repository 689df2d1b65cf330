//! What operators and the layer above see of a group.

use crate::message::Stage;
use buckets_ring::id::{DiskUuid, GroupId};

/// A replica's part in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
}

/// The state of a replica's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsState {
    /// As they should be.
    Whole,
    /// Some cannot be read; they are fetched again as soon as another voter leads.
    Damaged,
    /// Being replaced by those of another voter.
    Loading,
}

/// One voter, as its leader sees it. `None` where this replica does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoterStatus {
    /// The voter's disk.
    pub disk: DiskUuid,
    /// Entries up to here are durable there (Raft index).
    pub matched: Option<u64>,
    /// Entries that are still missing there.
    pub lag: Option<u64>,
    /// It answered lately.
    pub active: Option<bool>,
}

/// One replica and what it knows of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// The replica's disk.
    pub disk: DiskUuid,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The leader that it knows.
    pub leader: Option<DiskUuid>,
    /// Entries up to here are known to be committed.
    pub commit: u64,
    /// Entries up to here are in the rows.
    pub applied: u64,
    /// The first entry that its log still holds; earlier ones are in the rows only.
    pub first: u64,
    /// The last entry of its log.
    pub last: u64,
    /// The state of its rows.
    pub rows: RowsState,
    /// How far it is with taking part.
    pub stage: Stage,
    /// Voters that have not told yet how they stand, where this one may not vote before they did.
    pub awaits: Vec<DiskUuid>,
    /// Proposals without an answer.
    pub proposals_waiting: usize,
    /// All voters, sorted by disk.
    pub voters: Vec<VoterStatus>,
}

/// A group has another leader, or a new term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderChange {
    /// The group.
    pub group: GroupId,
    /// The term.
    pub term: u64,
    /// The leader's disk; `None` while none is known.
    pub leader: Option<DiskUuid>,
}
