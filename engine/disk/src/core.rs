//! What the parts of one open disk share.

use crate::chunk::Chunks;
use crate::counters::Counters;
use crate::fence::Fence;
use crate::limits::DiskOptions;
use crate::locks::Locks;
use crate::replica::ReplicaStore;
use crate::wait::WaitList;
use crate::wal::Wal;
use crate::wal::batch::BatchSeal;
use crate::wal::record::Checkpoint;
use crate::wal::segment::Segments;
use buckets_env::Env;
use buckets_ring::id::{DiskUuid, GroupId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

pub(crate) struct DiskCore {
    pub(crate) env: Env,
    pub(crate) path: PathBuf,
    pub(crate) uuid: DiskUuid,
    pub(crate) options: DiskOptions,
    pub(crate) fence: Fence,
    pub(crate) counters: Counters,
    pub(crate) seal: BatchSeal,
    pub(crate) wal: Wal,
    pub(crate) segments: RefCell<Segments>,
    pub(crate) replicas: RefCell<BTreeMap<GroupId, ReplicaStore>>,
    pub(crate) group_locks: Locks<GroupId>,
    pub(crate) chunks: Chunks,
    /// A checkpoint must be written before the next record.
    pub(crate) checkpoint_wanted: Cell<bool>,
    /// The log is to go on in the next segment.
    pub(crate) segment_wanted: Cell<bool>,
    /// The log ends with what is in it.
    pub(crate) closing: Cell<bool>,
    pub(crate) flusher_ended: Cell<bool>,
    pub(crate) flusher_wait: Rc<WaitList>,
    /// Less than [`DiskOptions::floor_bytes`] was free at the last look.
    pub(crate) short_of_space: Cell<bool>,
    housekeeping_wanted: Cell<bool>,
    housekeeping_wait: Rc<WaitList>,
}

/// What recovery hands over.
pub(crate) struct Recovered {
    pub(crate) env: Env,
    pub(crate) path: PathBuf,
    pub(crate) uuid: DiskUuid,
    pub(crate) options: DiskOptions,
    pub(crate) fence: Fence,
    pub(crate) counters: Counters,
    pub(crate) seal: BatchSeal,
    pub(crate) wal: Wal,
    pub(crate) segments: Segments,
    pub(crate) replicas: BTreeMap<GroupId, ReplicaStore>,
    pub(crate) chunks: Chunks,
    pub(crate) checkpoint_wanted: bool,
}

impl DiskCore {
    pub(crate) fn new(recovered: Recovered) -> DiskCore {
        let housekeeping_wait = Rc::new(WaitList::default());
        recovered.fence.notifies(&housekeeping_wait);
        DiskCore {
            env: recovered.env,
            path: recovered.path,
            uuid: recovered.uuid,
            options: recovered.options,
            fence: recovered.fence,
            counters: recovered.counters,
            seal: recovered.seal,
            wal: recovered.wal,
            segments: RefCell::new(recovered.segments),
            replicas: RefCell::new(recovered.replicas),
            group_locks: Locks::default(),
            chunks: recovered.chunks,
            checkpoint_wanted: Cell::new(recovered.checkpoint_wanted),
            segment_wanted: Cell::new(false),
            closing: Cell::new(false),
            flusher_ended: Cell::new(false),
            flusher_wait: Rc::new(WaitList::default()),
            short_of_space: Cell::new(false),
            housekeeping_wanted: Cell::new(false),
            housekeeping_wait,
        }
    }

    /// The state with which a segment starts.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let segments = self.segments.borrow();
        Checkpoint {
            oldest_segment: segments.oldest().map_or(1, |oldest| oldest.number),
            chunk_chain: self.chunks.chain(),
            replicas: self.replicas.borrow().values().map(ReplicaStore::checkpoint).collect(),
        }
    }

    /// The first record that anybody needs: segments before it may be used again.
    pub(crate) fn needed_lsn(&self) -> u64 {
        let replicas = self.replicas.borrow();
        let needed = replicas.values().filter_map(ReplicaStore::needed_lsn);
        needed.chain(self.chunks.needed_lsn()).min().unwrap_or(u64::MAX)
    }

    /// Lets the housekeeping look around now.
    pub(crate) fn call_housekeeping(&self) {
        self.housekeeping_wanted.set(true);
        self.housekeeping_wait.reach_all();
    }

    /// Ends when the housekeeping is called for, or the disk is closed.
    pub(crate) async fn housekeeping_called(&self) {
        self.housekeeping_wait
            .wait(0, || (self.housekeeping_wanted.replace(false) || self.fence.is_closed()).then_some(()))
            .await;
    }
}
