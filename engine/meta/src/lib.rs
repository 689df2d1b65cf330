//! Replicated partitions: one Raft group for each hash slice of a set's keys, and the root group.
//!
//! What must hold:
//! - A proposal answered `Ok` is durable on a majority of the group's disks and applied on its leader; no later
//!   leader lacks it.
//! - Reads that [`GroupHost::read_barrier`] lets through are linearizable, whatever pauses, crashes and delays.
//! - One [`GroupHost`] per core drives all replicas on that core's disks. It shares nothing with other cores but
//!   [`GroupMessage`]s. All replicas of a disk share that disk's log and its flushes.
//! - The protobuf types of the Raft library stay in this room, and bytes of a peer never reach its parser.

mod admission;
mod error;
mod event;
mod host;
mod lease;
pub mod limits;
mod log;
mod members;
mod message;
mod pace;
mod payload;
mod replica;
mod salvage;
mod snapshot;
mod status;
mod view;

pub use error::{AddReplicaError, ProposeError, Proposed, ReadError, SalvageError};
pub use host::{GroupHost, Transport, VotersLive, bootstrap};
pub use limits::Options;
pub use members::BadMembers;
pub use message::{
    BadMessage, GroupBody, GroupMessage, LogPosition, RaftMessage, SnapshotPage, SnapshotRequest, Stage,
    Standing, decode_list, encode_list,
};
pub use status::{GroupStatus, LeaderChange, Role, RowsState, VoterStatus};
pub use view::{RowsId, View, ViewScan};
