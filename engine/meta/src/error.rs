//! What can go wrong, one enum for each operation.

use crate::members::BadMembers;
use buckets_disk::DiskError;
use buckets_index::Position;
use buckets_ring::id::{DiskUuid, GroupId};

/// Why a proposal did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader of the group is on this core; nothing was written.
    #[error("the leader of the group is elsewhere")]
    NotLeader {
        /// Where it is, as far as known.
        leader: Option<DiskUuid>,
    },
    /// The leader's term is another one than the proposal was decided in; nothing was written.
    #[error("the leader is in term {current} now")]
    StaleTerm {
        /// The term now.
        current: u64,
    },
    /// Too much is waiting already; nothing was written.
    #[error("the group has too many proposals waiting")]
    Overloaded,
    /// The batch is larger than an entry may be; nothing was written.
    #[error("the batch is too large")]
    TooLarge,
    /// Another leader wrote something else in its place: nothing was written and nothing will be.
    #[error("a new leader dropped the proposal")]
    Lost,
    /// The outcome is not known: it may have been written, or may be later.
    #[error("the outcome of the proposal is not known")]
    Unknown,
}

/// Why a read cannot be answered here and now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader of the group is on this core.
    #[error("the leader of the group is elsewhere")]
    NotLeader {
        /// Where it is, as far as known.
        leader: Option<DiskUuid>,
    },
    /// Too many reads wait already.
    #[error("the group has too many reads waiting")]
    Overloaded,
    /// No majority confirmed the leader in time.
    #[error("no majority answers")]
    Timeout,
}

/// Why a read-only salvage is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SalvageError {
    /// A leader is there, or a majority that can elect one.
    #[error("the group has a majority")]
    Majority,
    /// Too few voters answer: an acknowledged write may be on none of them.
    #[error("{reachable} voters answer, {needed} are needed")]
    TooFew {
        /// Voters that answered.
        reachable: usize,
        /// Voters that must answer.
        needed: usize,
    },
    /// The voter with the newest log is on another core or node: ask there.
    #[error("the newest log is on disk {disk}")]
    Elsewhere {
        /// Its disk.
        disk: DiskUuid,
    },
    /// The rows of the voter with the newest log are being replaced, or an entry cannot be read.
    #[error("the rows of the newest voter cannot be used")]
    Unusable,
    /// No replica of the group is on this core.
    #[error("no replica of the group is here")]
    NoReplica,
}

/// Why a replica cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum AddReplicaError {
    /// The log lost something it had acknowledged: the replica must never vote again.
    #[error("replica of group {group} on disk {disk} is damaged: it must not vote")]
    Damaged {
        /// The group.
        group: GroupId,
        /// The disk.
        disk: DiskUuid,
    },
    /// The store was never given its members (see [`crate::bootstrap`]).
    #[error("replica of group {group} on disk {disk} was never initialised")]
    Uninitialised {
        /// The group.
        group: GroupId,
        /// The disk.
        disk: DiskUuid,
    },
    /// The stored members cannot be read or do not name the disk.
    #[error("replica of group {group} on disk {disk}: {source}")]
    Members {
        /// The group.
        group: GroupId,
        /// The disk.
        disk: DiskUuid,
        /// What is wrong.
        source: BadMembers,
    },
    /// The log holds entries that this version does not know.
    #[error("replica of group {group} on disk {disk}: {what}")]
    Unreadable {
        /// The group.
        group: GroupId,
        /// The disk.
        disk: DiskUuid,
        /// What was seen.
        what: &'static str,
    },
    /// The disk takes no writes.
    #[error("replica of group {group} on disk {disk}: {source}")]
    Disk {
        /// The group.
        group: GroupId,
        /// The disk.
        disk: DiskUuid,
        /// Why.
        source: DiskError,
    },
    /// The host drives this replica already.
    #[error("replica of group {group} on disk {disk} is already here")]
    Present {
        /// The group.
        group: GroupId,
        /// The disk.
        disk: DiskUuid,
    },
}

/// The answer to a proposal: where it was committed.
pub type Proposed = Result<Position, ProposeError>;
