//! The closed set of questions that one core asks another, and their answers.
//!
//! What must hold: everything here is owned data, so that it crosses cores by pointer and, later, nodes by
//! encoding; a question names the disk or group it is for, never a memory address; an answer to a question that
//! may have changed something says whether it did ([`Refusal::is_definite`]).

use crate::core::Leadership;
use crate::facts::Facts;
use crate::manifest::{ChunkOwner, GarbageRecord, Manifest, PartRecord, UploadRecord};
use crate::map::{DiskState, NodeIndex};
use crate::object::api::{ChecksumAlgorithm, CompletePart, ListEntry, ObjectError, PartsPage, UploadsPage};
use crate::object::api::{ListUploadsRequest, PutOutcome, User, WriteCondition};
use crate::root::RootState;
use buckets_env::AlignedBytes;
use buckets_ring::id::{BucketId, GroupId, ObjectId, UploadId};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A disk's place in the node map.
pub type DiskIndex = u16;

/// One erasure-coded piece of a part, on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkName {
    /// What the part is stored under.
    pub object: ObjectId,
    /// 0..k data, k..k+m parity.
    pub number: u8,
}

/// A question to the core that owns a disk or leads a group.
#[derive(Debug)]
pub enum Request {
    /// Writes the next block of a chunk, unflushed.
    ChunkAppend {
        /// Where.
        disk: DiskIndex,
        /// What.
        chunk: ChunkName,
        /// 0, 1, 2, ... in order.
        block: u32,
        /// Padded with zeroes to 4096.
        data: AlignedBytes,
        /// Bytes without the padding.
        len: u32,
        /// For the last block, where it is known to be: finishes the chunk for this owner as `ChunkFinish` does.
        finish: Option<Bytes>,
    },
    /// Flushes a chunk's blocks and records the chunk, durably.
    ChunkFinish {
        /// Where.
        disk: DiskIndex,
        /// What.
        chunk: ChunkName,
        /// For orphan collection.
        owner: Bytes,
    },
    /// Reads blocks, verified.
    ChunkRead {
        /// Where.
        disk: DiskIndex,
        /// What.
        chunk: ChunkName,
        /// The first block.
        block: u32,
        /// How many.
        count: u32,
    },
    /// Forgets a chunk, finished or not: nothing refers to it, nor ever will.
    ChunkDrop {
        /// Where.
        disk: DiskIndex,
        /// What.
        chunk: ChunkName,
    },
    /// Gives up a chunk that is being written, if it is not finished. Unlike `ChunkDrop` it may come late: what was written
    /// again meanwhile stays.
    ChunkAbort {
        /// Where.
        disk: DiskIndex,
        /// What.
        chunk: ChunkName,
    },
    /// A manifest refers to these chunks now.
    ChunkConfirm {
        /// Where.
        disk: DiskIndex,
        /// What.
        chunk: ChunkName,
    },
    /// For the leader of a partition.
    Partition {
        /// Which.
        group: GroupId,
        /// What.
        op: PartitionOp,
        /// Read from the most up-to-date reachable log, because no majority is there.
        salvage: bool,
    },
    /// For the leader of the root group.
    Root(RootOp),
    /// The root group's state, for every core.
    PublishRoot(Arc<RootState>),
    /// Which of these parts a reader on this core is reading.
    InUse(Vec<ObjectId>),
    /// How the node is: what every node asks every other one again and again.
    Pulse,
    /// What the asker finds of the way here, as long as that is long.
    FoundFar {
        /// Who asks.
        by: NodeIndex,
        /// The round trip, to a microsecond.
        took: Duration,
    },
    /// The root group's state, as far as the node knows it.
    GetRoot,
    /// What this core tells of itself where a person asks.
    Facts,
    /// The node shall lead nothing from now on, so that it can be stopped; or (false) lead again what it should.
    Drain(bool),
}

impl Request {
    /// True where a leader decides something on it.
    pub fn decides(&self) -> bool {
        match self {
            Request::Partition { op, .. } => !op.is_read(),
            Request::Root(_) => true,
            _ => false,
        }
    }
}

/// What can be asked of a partition.
#[derive(Clone, Debug)]
pub enum PartitionOp {
    /// The current object; with its inline body where `body`.
    Get {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// Whether an inline body is wanted.
        body: bool,
    },
    /// Makes a version current.
    Put {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The new version.
        manifest: Box<Manifest>,
        /// The value of its inline row (the version's id, then the body), where inline.
        inline: Option<Bytes>,
        /// Decided against the current version.
        condition: WriteCondition,
    },
    /// Removes current versions; one answer a key.
    Delete {
        /// The bucket.
        bucket: BucketId,
        /// The keys.
        keys: Vec<String>,
        /// Decided against each current version.
        condition: WriteCondition,
    },
    /// A run of the listing.
    List(ListRun),
    /// Starts an upload.
    CreateUpload {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The new upload.
        upload: UploadId,
        /// Its record.
        record: UploadRecord,
    },
    /// The record of an upload.
    GetUpload {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
    },
    /// Records a finished part.
    PutPart {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
        /// Its record.
        record: Box<PartRecord>,
    },
    /// Turns an upload into the current version.
    CompleteUpload {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
        /// The new version's id, which follows from the upload's ([`ObjectId::of_upload`]).
        object: ObjectId,
        /// The client's list.
        parts: Vec<CompletePart>,
        /// Of the whole object, where the client sent it.
        checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
        /// Decided against the current version.
        condition: WriteCondition,
        /// Unix milliseconds.
        modified_unix_ms: u64,
    },
    /// Drops an upload and its parts.
    AbortUpload {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
    },
    /// Parts of an upload after a number.
    ListParts {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// The upload.
        upload: UploadId,
        /// Exclusive.
        after: u16,
        /// At most.
        max: usize,
    },
    /// Uploads of a bucket in this partition.
    ListUploads {
        /// The bucket.
        bucket: BucketId,
        /// What the client asked, delimiter aside.
        request: ListUploadsRequest,
    },
    /// Refuses writes to a bucket that is being removed; fails where it holds anything.
    Seal {
        /// The bucket.
        bucket: BucketId,
        /// Of this attempt to remove it; refused where a later one has sealed it.
        attempt: u64,
    },
    /// Takes a seal back, if it is of this attempt.
    Unseal {
        /// The bucket.
        bucket: BucketId,
        /// The attempt.
        attempt: u64,
    },
    /// Whether a record refers to this part; if none does, none ever will.
    Refers {
        /// Where to look.
        owner: ChunkOwner,
        /// The part's id.
        object: ObjectId,
    },
    /// Notes chunks that a reader did not find whole, to be written again.
    Suspect {
        /// Who refers to the part.
        owner: ChunkOwner,
        /// The part's id.
        object: ObjectId,
        /// Bit `i`: chunk `i`.
        chunks: u32,
    },
    /// Notes what a disk that was emptied lacks among the next rows, to be written again.
    ListLost {
        /// The disk.
        disk: DiskIndex,
        /// The row to go on from.
        from: Bytes,
    },
    /// Whether anything that the disk lacks still waits to be written.
    HasLost {
        /// The disk.
        disk: DiskIndex,
    },
    /// Drops chunks that were written for a write that did not happen.
    Discard {
        /// The chunks.
        garbage: GarbageRecord,
    },
}

impl PartitionOp {
    /// True where it changes nothing, so that it may be asked again and again.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            PartitionOp::Get { .. }
                | PartitionOp::List(_)
                | PartitionOp::GetUpload { .. }
                | PartitionOp::ListParts { .. }
                | PartitionOp::ListUploads { .. }
                | PartitionOp::HasLost { .. }
        )
    }
}

/// A run of a listing in one partition.
#[derive(Clone, Debug)]
pub struct ListRun {
    /// The bucket.
    pub bucket: BucketId,
    /// As in the request.
    pub prefix: String,
    /// As in the request.
    pub delimiter: Option<String>,
    /// As in the request.
    pub after: Option<String>,
    /// At most so many entries.
    pub limit: usize,
}

/// What can be asked of the root group.
#[derive(Clone, Debug)]
pub enum RootOp {
    /// Adds a bucket.
    CreateBucket {
        /// Its name.
        name: String,
        /// Its location constraint.
        location: String,
        /// Its id.
        id: BucketId,
        /// Unix milliseconds.
        created_unix_ms: u64,
    },
    /// No new writes; the first step of a removal. Ends an attempt that is under way: whoever made it may be gone, or may
    /// not know how it went. The answer is the number of the new one.
    MarkDeleting {
        /// The bucket's name.
        name: String,
        /// It must still be this one.
        id: BucketId,
    },
    /// Fails where this attempt is under way or has removed the bucket; done where it has ended otherwise, and so will never
    /// go on.
    CheckEnded {
        /// The bucket.
        id: BucketId,
        /// The attempt.
        attempt: u64,
    },
    /// The removal was refused: the bucket stays.
    UnmarkDeleting(Removal),
    /// The last step of a removal.
    RemoveBucket(Removal),
    /// Adds a user.
    AddUser(User),
    /// Removes a user.
    RemoveUser {
        /// The access key.
        access_key: String,
    },
}

/// One attempt to remove a bucket.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The bucket's name.
    pub name: String,
    /// It must still be this one.
    pub id: BucketId,
    /// Its number. Later attempts have higher ones; an attempt that was taken over changes nothing any more.
    pub attempt: u64,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// How many cores it has: which core owns which disk follows from it.
    pub cores: u16,
    /// Of its topology.
    pub generation: u64,
    /// Of the root group's state that it knows.
    pub root_version: Option<u64>,
    /// Its disks.
    pub disks: Vec<DiskPulse>,
    /// The groups that disks of this node lead, as far as it knows.
    pub leaders: Vec<Leadership>,
    /// The round trip from it to at least half of the other nodes, to a microsecond, once it is known.
    pub to_most: Option<Duration>,
}

/// How a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPulse {
    /// The disk.
    pub disk: DiskIndex,
    /// Whether it takes part.
    pub state: DiskState,
    /// Why not; empty where it does.
    pub reason: String,
}

/// A verified block.
#[derive(Clone, Debug)]
pub struct Block {
    /// At least `len` bytes.
    pub data: AlignedBytes,
    /// Bytes without padding.
    pub len: u32,
}

/// The answer to a question.
#[derive(Debug)]
pub enum Reply {
    /// It is done (and durable, where the question says so).
    Done,
    /// To `MarkDeleting`.
    Attempt(u64),
    /// To `ChunkRead`.
    Blocks(Vec<Block>),
    /// To `Get`.
    Object(Arc<Manifest>, Option<Bytes>),
    /// To `Delete`: one result a key.
    Deleted(Vec<Result<(), ObjectError>>),
    /// To `List`.
    Listed {
        /// In order.
        entries: Vec<ListEntry>,
        /// Whether the partition has more after the last entry.
        more: bool,
    },
    /// To `GetUpload`.
    Upload(Box<UploadRecord>),
    /// To `CompleteUpload`.
    Completed(Box<PutOutcome>),
    /// To `ListParts`.
    Parts(Box<PartsPage>),
    /// To `ListUploads`.
    Uploads(Box<UploadsPage>),
    /// To `Refers` and `HasLost`.
    Refers(bool),
    /// To `ListLost`: the row to go on from; `None` where that was all.
    NextPage(Option<Bytes>),
    /// To `InUse`: those that are.
    InUse(Vec<ObjectId>),
    /// To `Pulse`.
    Pulse(Box<Pulse>),
    /// To `GetRoot`.
    Root(Arc<RootState>),
    /// To `Facts`.
    Facts(Box<Facts>),
}

/// Why a question was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The chunk is not on the disk.
    #[error("the chunk is not on this disk")]
    ChunkMissing,
    /// A block's checksum does not fit.
    #[error("a block is damaged")]
    ChunkDamaged,
    /// The disk failed, is fenced or not there.
    #[error("the disk is not in service")]
    DiskFailed,
    /// The disk is full.
    #[error("the disk is full")]
    NoSpace,
    /// Another replica leads; nothing happened.
    #[error("not the leader")]
    NotLeader,
    /// Another replica leads, and is known; nothing happened.
    #[error("another replica leads")]
    LedBy(Leadership),
    /// The node cannot be reached; nothing happened.
    #[error("the node cannot be reached")]
    Unreachable,
    /// The voter with the newest log is on another disk (salvage only).
    #[error("the newest log is on another disk")]
    Elsewhere(DiskIndex),
    /// A queue is full; nothing happened.
    #[error("too many requests at once")]
    Overloaded,
    /// No answer in time, or leadership was lost on the way: it may or may not have happened.
    #[error("the outcome is unknown")]
    Unknown,
    /// The operation's own error; nothing happened.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Refusal {
    /// True where nothing was changed, so that the same question may be asked again.
    pub fn is_definite(&self) -> bool {
        !matches!(self, Refusal::Unknown)
    }
}

/// An answer or a refusal.
pub type Answer = Result<Reply, Refusal>;
