//! One disk: a directory on its own file system, owned by one core.

use crate::chunk::Chunks;
use crate::core::DiskCore;
use crate::counters::CounterValues;
use crate::error::{DiskError, DiskFormatError, DiskOpenError, ReplicaError};
use crate::fence::DiskState;
use crate::identity::{self, FormatMode};
use crate::limits::DiskOptions;
use crate::open;
use crate::replica::log::{HardState, Log};
use crate::replica::{ReplicaState, ReplicaStore, index_identity};
use crate::wal::{Lsn, Wal};
use buckets_env::Env;
use buckets_index::{Index, IndexCounters};
use buckets_ring::format::FormatJson;
use buckets_ring::id::{DiskUuid, GroupId};
use buckets_ring::rebuild::RebuildJson;
use buckets_ring::topology::TopologyJson;
use bytes::Bytes;
use std::path::Path;
use std::rc::Rc;

/// Handle of an open disk; clones share it. Belongs to one core.
#[derive(Clone)]
pub struct Disk {
    pub(crate) core: Rc<DiskCore>,
}

/// An open disk and what was found on it.
pub struct OpenedDisk {
    /// The disk.
    pub disk: Disk,
    /// Its identity. Whether it belongs here is for the caller to decide.
    pub format: FormatJson,
    /// The topology as this disk last saw it.
    pub topology: Option<TopologyJson>,
    /// What recovery found.
    pub report: OpenReport,
}

/// What recovery found.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// Replicas that may have lost records: they must not vote.
    pub damaged_replicas: Vec<GroupId>,
    /// Why `topology.json` is not there though there is a file.
    pub topology_damage: Option<String>,
    /// The last record found.
    pub replayed_to: Lsn,
    /// Counters of recovery (damages, torn tails, forgotten chunks).
    pub counters: CounterValues,
}

impl Disk {
    /// Makes the directory `path` (created if need be) a disk with the identity `format`.
    pub async fn format(
        env: &Env,
        path: &Path,
        format: &FormatJson,
        mode: FormatMode,
        options: &DiskOptions,
    ) -> Result<(), DiskFormatError> {
        identity::format(env, path, format, mode, options).await
    }

    /// The identity of the disk in `path`, without opening it.
    pub async fn identify(env: &Env, path: &Path) -> Result<FormatJson, DiskOpenError> {
        identity::read(env, path).await.map(|(format, _)| format)
    }

    /// Whether everything is there that formatting writes: the topology comes last.
    pub async fn is_complete(env: &Env, path: &Path) -> bool {
        matches!(identity::read_topology(env, path).await, Ok(Some(_)))
    }

    /// Opens the disk in `path` and recovers what a crash has left. Only one may be open at a time.
    pub async fn open(env: &Env, path: &Path, options: DiskOptions) -> Result<OpenedDisk, DiskOpenError> {
        open::open(env, path, options).await
    }

    /// The disk's uuid.
    pub fn uuid(&self) -> DiskUuid {
        self.core.uuid
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.core.path
    }

    /// Whether it accepts writes.
    pub fn state(&self) -> DiskState {
        self.core.fence.state()
    }

    /// Accepts no more writes, and answers all that wait: its directory is gone, so that nothing would end.
    pub fn give_up(&self, reason: &str) {
        self.core.fence.close_for("the disk went away", &reason);
    }

    /// True where so little of its file system is free that nothing should be added, only removed.
    pub fn is_short_of_space(&self) -> bool {
        self.core.short_of_space.get()
    }

    /// What it has counted since it was opened.
    pub fn counters(&self) -> CounterValues {
        self.core.counters.read()
    }

    /// What the chunk table's index has counted.
    pub fn chunk_table_counters(&self) -> IndexCounters {
        self.core.chunks.inner.table.counters()
    }

    /// The write-ahead log.
    pub fn wal(&self) -> &Wal {
        &self.core.wal
    }

    /// Segments of the log: in use, and all there are.
    pub fn wal_segments(&self) -> (usize, usize) {
        let segments = self.core.segments.borrow();
        (segments.live_count(), segments.count())
    }

    /// The chunks.
    pub fn chunks(&self) -> &Chunks {
        &self.core.chunks
    }

    /// The groups with a replica on this disk.
    pub fn groups(&self) -> Vec<GroupId> {
        self.core.replicas.borrow().keys().copied().collect()
    }

    /// The replica of a group that is on this disk.
    pub fn existing_replica(&self, group: GroupId) -> Option<ReplicaStore> {
        self.core.replicas.borrow().get(&group).cloned()
    }

    /// The replica of a group, created (durably) where there is none.
    pub async fn replica(&self, group: GroupId) -> Result<ReplicaStore, ReplicaError> {
        let core = &self.core;
        let _lock = core.group_locks.lock(group).await;
        if let Some(replica) = self.existing_replica(group) {
            return Ok(replica);
        }
        core.fence.check()?;
        let dir = identity::group_dir(&core.path, group, 0);
        let key = open::group_key(group);
        let options = core.options.index.clone();
        // The index is durable before the first record: a group whose records are lost is known by its index.
        let index = Index::open(&core.env, dir, index_identity(core.uuid, &key), options).await?;
        let state = ReplicaState {
            log: Log::new((0, 0)),
            hard_state: HardState::default(),
            conf: Bytes::new(),
            damaged: false,
            chain: 0,
            reset: None,
            removed: false,
            flushing: false,
        };
        let replica = ReplicaStore::new(
            group,
            index,
            (core.path.clone(), 0),
            core.wal.clone(),
            core.counters.clone(),
            &core.env,
            &core.options,
            state,
        );
        let created = replica.log_created()?;
        core.replicas.borrow_mut().insert(group, replica.clone());
        core.wal.durable(created).await?;
        Ok(replica)
    }

    /// Removes a replica with all it holds, durably. Handles of it must not be used any more.
    pub async fn remove_replica(&self, group: GroupId) -> Result<(), ReplicaError> {
        let core = &self.core;
        let _lock = core.group_locks.lock(group).await;
        let Some(replica) = self.existing_replica(group) else { return Ok(()) };
        let removed = replica.log_removed()?;
        core.wal.durable(removed).await?;
        core.replicas.borrow_mut().remove(&group);
        replica.index().clone().close().await;
        open::remove_group_files(&core.env, &core.path, group)
            .await
            .map_err(|error| ReplicaError::Remove { what: error.to_string().into() })
    }

    /// Writes the topology, durably.
    pub async fn write_topology(&self, topology: &TopologyJson) -> std::io::Result<()> {
        identity::write_topology(&self.core.env, &self.core.path, topology).await
    }

    /// How far the rebuild of the disk is, where it was emptied; `None` where none is under way.
    pub async fn read_rebuild(&self) -> std::io::Result<Option<RebuildJson>> {
        identity::read_rebuild(&self.core.env, &self.core.path).await
    }

    /// Notes durably how far the rebuild of the disk is; `None`: nothing is left of it.
    pub async fn write_rebuild(&self, rebuild: Option<&RebuildJson>) -> std::io::Result<()> {
        identity::write_rebuild(&self.core.env, &self.core.path, rebuild).await
    }

    /// Whether the two are handles of one and the same opening.
    pub fn is(&self, other: &Disk) -> bool {
        Rc::ptr_eq(&self.core, &other.core)
    }

    /// Flushes everything, seals the log and lets go of the disk. Afterwards it may be opened again. Errors: the disk
    /// was fenced; it is closed all the same.
    pub async fn close(&self) -> Result<(), DiskError> {
        let core = &self.core;
        let flushed = self.flush_all().await;
        core.closing.set(true);
        core.wal.nudge();
        core.flusher_wait.wait(0, || core.flusher_ended.get().then_some(())).await;
        let outcome = flushed.and(core.fence.check());
        core.fence.shut();
        let indexes: Vec<Index> = {
            let replicas = core.replicas.borrow();
            replicas.values().map(|replica| replica.index().clone()).collect()
        };
        for index in indexes.into_iter().chain([core.chunks.inner.table.clone()]) {
            index.close().await;
        }
        outcome
    }

    async fn flush_all(&self) -> Result<(), DiskError> {
        let core = &self.core;
        core.wal.durable(core.wal.last_lsn()).await?;
        core.chunks.settled().await?;
        core.chunks.flush_table().await?;
        let replicas: Vec<ReplicaStore> = core.replicas.borrow().values().cloned().collect();
        for replica in replicas {
            if let Err(error) = replica.index().flush().await {
                core.fence.close_for("flush of an index", &error);
            }
        }
        core.fence.check()
    }
}
