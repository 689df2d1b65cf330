//! The chunks of one disk: written, finished, read, deleted.
//!
//! What must hold:
//! - A finished chunk's data and its record are both durable before [`Chunks::finish`] returns; until then it cannot
//!   be read. A crash leaves it whole or not at all (see [`recover`]).
//! - Changes of the chunk table are applied in the order of their records, when all of them up to there are durable,
//!   data included. So what the table flushes was durable before, and its position says what to replay.
//! - Units are free again only after the record that frees them is durable and no read of the chunk is in flight, and
//!   those of a chunk given up only after its writes came back.

pub(crate) mod entry;
pub(crate) mod free;
pub(crate) mod read;
pub(crate) mod recover;
pub(crate) mod scrub;
pub(crate) mod settle;
pub(crate) mod space;
pub(crate) mod write;

use crate::counters::Counters;
use crate::error::DiskError;
use crate::fence::Fence;
use crate::limits::DiskOptions;
use crate::locks::Locks;
use crate::wait::WaitList;
use crate::wal::Wal;
use buckets_env::{Env, Instant};
use buckets_index::Index;
use buckets_ring::format::BlockChecksum;
use buckets_ring::id::{DeploymentId, DiskUuid, ObjectId};
use buckets_stripe::checksum::ChunkIdentity;
use bytes::Bytes;
use entry::Extent;
use settle::{Overlay, Unsettled};
use space::Space;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use write::Writer;

/// One chunk of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The object.
    pub object: ObjectId,
    /// Its number, 0..K+M.
    pub number: u8,
}

/// A finished chunk of which nobody has said that it is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// Who refers to it, as given to [`Chunks::finish`].
    pub owner: Bytes,
    /// When it was finished; for chunks found at open, when the disk was opened.
    pub since: Instant,
}

/// How full the chunk space is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceUse {
    /// Reserved on the file system.
    pub reserved_bytes: u64,
    /// In use by chunks (finished, being written, or deleted and still being read).
    pub used_bytes: u64,
    /// What more could be reserved now.
    pub reservable_bytes: u64,
}

pub(crate) struct Inner {
    pub(crate) env: Env,
    pub(crate) uuid: DiskUuid,
    pub(crate) deployment: DeploymentId,
    pub(crate) kind: BlockChecksum,
    pub(crate) options: DiskOptions,
    pub(crate) fence: Fence,
    pub(crate) counters: Counters,
    pub(crate) wal: Wal,
    pub(crate) table: Index,
    pub(crate) space: Rc<Space>,
    pub(crate) locks: Locks<ChunkId>,
    pub(crate) state: RefCell<State>,
    /// Woken when chunk data became durable, or a table flush ended.
    pub(crate) progress: Rc<WaitList>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) writers: BTreeMap<ChunkId, Rc<Writer>>,
    /// Records that are not in the table yet, by lsn.
    pub(crate) unsettled: VecDeque<Unsettled>,
    /// What they make of their chunks.
    pub(crate) overlay: BTreeMap<ChunkId, Overlay>,
    pub(crate) pending: BTreeMap<ChunkId, PendingChunk>,
    /// Reads in flight.
    pub(crate) readers: BTreeMap<ChunkId, u32>,
    /// Units of deleted chunks that are still being read.
    pub(crate) zombies: BTreeMap<ChunkId, Vec<Extent>>,
    /// Units given up while writes into them are in flight.
    pub(crate) drowning: Vec<Rc<Writer>>,
    /// Lsn of the last chunk record.
    pub(crate) chain: u64,
    pub(crate) flushing: bool,
}

/// Handle of the chunks of one disk; clones share it.
#[derive(Clone)]
pub struct Chunks {
    pub(crate) inner: Rc<Inner>,
}

impl Chunks {
    /// Chunks that were finished and not confirmed, oldest id first. After a crash some of them belong to committed
    /// objects (their confirmation was not durable yet): the owner decides, by [`Chunks::confirm`] or
    /// [`Chunks::delete`].
    pub fn pending(&self) -> Vec<PendingChunk> {
        self.inner.state.borrow().pending.values().cloned().collect()
    }

    /// Chunks being written.
    pub fn open_writers(&self) -> usize {
        self.inner.state.borrow().writers.len()
    }

    /// How full the space is.
    pub async fn space_use(&self) -> std::io::Result<SpaceUse> {
        let inner = &self.inner;
        let free_bytes = inner.env.disk_space(inner.space.dir()).await?.free_bytes;
        let map = inner.space.free.borrow();
        Ok(SpaceUse {
            reserved_bytes: free::bytes_of(map.units()),
            used_bytes: free::bytes_of(map.units() - map.free()),
            reservable_bytes: free_bytes.saturating_sub(inner.options.space_reserve_bytes),
        })
    }

    pub(crate) fn identity(&self, chunk: ChunkId) -> ChunkIdentity {
        let inner = &self.inner;
        ChunkIdentity {
            deployment: inner.deployment,
            disk: inner.uuid,
            object: chunk.object,
            chunk: chunk.number,
        }
    }

    /// The first record of the log that the chunk table needs.
    pub(crate) fn needed_lsn(&self) -> Option<u64> {
        let flushed = self.inner.table.flushed().index;
        (self.chain() > flushed).then_some(flushed + 1)
    }

    pub(crate) fn chain(&self) -> u64 {
        self.inner.state.borrow().chain
    }

    /// Ends when everything appended so far is in the table.
    pub(crate) async fn settled(&self) -> Result<(), DiskError> {
        let inner = &self.inner;
        inner
            .progress
            .wait(0, || {
                self.settle();
                match inner.state.borrow().unsettled.is_empty() {
                    true => Some(Ok(())),
                    false => inner.fence.check().err().map(Err),
                }
            })
            .await
    }
}
