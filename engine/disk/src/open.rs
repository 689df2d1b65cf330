//! Opening a disk: who it is, what its indexes hold, what the log adds, and from where it goes on.
//!
//! What must hold: damage of any file costs what was in it and is reported, nothing else: a damaged log makes replicas
//! damaged, a damaged index its group or the chunk table; only an unreadable identity keeps a disk from being opened.

use crate::chunk::recover::{ChunkBase, ChunkReplay, ChunkTail, RecoverError, recover};
use crate::core::{DiskCore, Recovered};
use crate::counters::{CounterCells, Counters, add};
use crate::disk::{Disk, OpenReport, OpenedDisk};
use crate::error::DiskOpenError;
use crate::fence::Fence;
use crate::identity;
use crate::limits::DiskOptions;
use crate::replica::replay::ReplicaReplay;
use crate::replica::{ReplicaStore, index_identity};
use crate::superblock::Superblock;
use crate::wal::Wal;
use crate::wal::batch::BatchSeal;
use crate::wal::record::{Checkpoint, Record};
use crate::wal::replay::{Item, LogEnd, Replay};
use crate::wal::segment::Segments;
use crate::{housekeeping, wal};
use buckets_env::Env;
use buckets_index::{Index, IndexError, IndexOptions, Position};
use buckets_ring::format::FormatJson;
use buckets_ring::id::GroupId;
use buckets_ring::rebuild::RebuildJson;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How often a log that the device does not read is read before what was there is taken for lost: a disk may be away for
/// a moment, and damage is for ever.
const LOG_READS_MAX: u32 = 3;
/// Between two of these attempts.
const LOG_READ_PAUSE: Duration = Duration::from_millis(200);

/// Opens the disk in the directory `path`.
pub(crate) async fn open(env: &Env, path: &Path, options: DiskOptions) -> Result<OpenedDisk, DiskOpenError> {
    options.check()?;
    let (format, superblock) = identity::read(env, path).await?;
    let (topology, topology_damage) = match identity::read_topology(env, path).await {
        Ok(topology) => (topology, None),
        Err(what) => (None, Some(what)),
    };
    let opening = Opening {
        env: env.clone(),
        path: path.to_owned(),
        format,
        superblock,
        options,
        fence: Fence::new(),
        counters: Rc::new(CounterCells::default()),
    };
    let core = opening.recover().await?;
    let damaged_replicas: Vec<GroupId> = {
        let replicas = core.replicas.borrow();
        replicas.values().filter(|replica| replica.damaged()).map(ReplicaStore::group).collect()
    };
    add(&core.counters.replicas_damaged, damaged_replicas.len() as u64);
    let report = OpenReport {
        damaged_replicas,
        topology_damage,
        replayed_to: core.wal.last_lsn(),
        counters: core.counters.read(),
    };
    env.spawn(wal::flusher::run(core.clone()));
    env.spawn(housekeeping::run(core.clone()));
    Ok(OpenedDisk { disk: Disk { core }, format: opening.format, topology, report })
}

struct Opening {
    env: Env,
    path: PathBuf,
    format: FormatJson,
    superblock: Superblock,
    options: DiskOptions,
    fence: Fence,
    counters: Counters,
}

/// The index of a group at open.
struct OpenedGroup {
    index: Index,
    generation: u32,
    /// An older generation was damaged: what it held is not here.
    lost: bool,
}

/// What the log says.
struct Replayed {
    replicas: BTreeMap<GroupId, ReplicaReplay>,
    chunks: ChunkReplay,
    damaged: bool,
    end: LogEnd,
}

impl Opening {
    async fn recover(&self) -> Result<Rc<DiskCore>, DiskOpenError> {
        let (table, table_lost) = self.open_chunk_table().await?;
        let groups = self.open_groups().await?;
        let mut replayed = self.replay(&table, &groups).await?;
        for _ in 1..LOG_READS_MAX {
            if !replayed.end.unreadable {
                break;
            }
            self.env.sleep(LOG_READ_PAUSE).await;
            replayed = self.replay(&table, &groups).await?;
        }
        let Replayed { mut replicas, chunks, damaged, end } = replayed;
        let next_lsn = chunks.last_lsn + 1;
        let wal = Wal::new(
            self.fence.clone(),
            self.counters.clone(),
            next_lsn,
            self.superblock.wal_segment_bytes,
            self.options.wal_queued_bytes_max,
        );
        let mut stores = BTreeMap::new();
        for (group, opened) in groups {
            let OpenedGroup { index, generation, lost } = opened;
            let replay = replicas.remove(&group);
            if let Some(store) = self.replica(group, index, generation, lost, damaged, replay, &wal) {
                stores.insert(group, store);
            } else {
                self.remove_group(group).await?;
            }
        }
        // Groups of which the log knows but whose index is gone altogether.
        for (group, mut replay) in replicas {
            if replay.is_removed() {
                continue;
            }
            let index = self.open_index(identity::group_dir(&self.path, group, 0), group_key(group)).await?;
            replay.index_lost();
            if let Some(store) = self.replica(group, index, 0, true, damaged, Some(replay), &wal) {
                stores.insert(group, store);
            }
        }
        let any_damage = damaged || table_lost || stores.values().any(ReplicaStore::damaged);
        let base = ChunkBase {
            env: self.env.clone(),
            uuid: self.format.disk,
            deployment: self.format.deployment,
            kind: self.format.block_checksum,
            options: self.options.clone(),
            fence: self.fence.clone(),
            counters: self.counters.clone(),
            wal: wal.clone(),
            table,
            table_lost,
        };
        if table_lost {
            // Once the new table is durable nothing else tells that there were chunks. What was written again already may be gone too.
            let begun = RebuildJson::default();
            let noted = identity::write_rebuild(&self.env, &self.path, Some(&begun)).await;
            noted.map_err(|source| self.io("note that the chunks are lost", source))?;
        }
        let space_dir = identity::space_dir(&self.path);
        let chunks =
            recover(&space_dir, self.superblock.space_file_bytes, base, chunks).await.map_err(|error| {
                match error {
                    RecoverError::Io(source) => self.io("open chunk space", source),
                    RecoverError::Table(what) => self.io("recover the chunk table", io::Error::other(what)),
                }
            })?;
        if table_lost {
            self.forget_old_chunk_tables().await?;
        }
        Ok(Rc::new(DiskCore::new(Recovered {
            env: self.env.clone(),
            path: self.path.clone(),
            uuid: self.format.disk,
            options: self.options.clone(),
            fence: self.fence.clone(),
            counters: self.counters.clone(),
            seal: BatchSeal::new(self.format.disk),
            wal,
            segments: self.segments(end),
            replicas: stores,
            chunks,
            checkpoint_wanted: any_damage,
        })))
    }

    fn io(&self, doing: &'static str, source: io::Error) -> DiskOpenError {
        DiskOpenError::Io { path: self.path.clone(), doing, source }
    }

    /// The chunk table: the newest generation, or a new one where that is damaged beyond opening.
    async fn open_chunk_table(&self) -> Result<(Index, bool), DiskOpenError> {
        let found = identity::chunk_table_generations(&self.env, &self.path).await;
        let found = found.map_err(|source| self.io("list the chunk table", source))?;
        let found =
            self.existing(found, |generation| identity::chunk_table_dir(&self.path, generation)).await?;
        let dir = |generation| identity::chunk_table_dir(&self.path, generation);
        let (index, _, lost) = self.open_newest(&found, dir, b"chunk table").await?;
        if lost {
            add(&self.counters.table_corruptions, 1);
        }
        Ok((index, lost))
    }

    async fn forget_old_chunk_tables(&self) -> Result<(), DiskOpenError> {
        let failed = |source| self.io("remove a damaged chunk table", source);
        let found = identity::chunk_table_generations(&self.env, &self.path).await.map_err(failed)?;
        for generation in found.iter().rev().skip(1) {
            let dir = identity::chunk_table_dir(&self.path, *generation);
            identity::clear_dir(&self.env, &dir).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn open_groups(&self) -> Result<BTreeMap<GroupId, OpenedGroup>, DiskOpenError> {
        let found = identity::group_generations(&self.env, &self.path).await;
        let found = found.map_err(|source| self.io("list the groups", source))?;
        let mut opened = BTreeMap::new();
        for (group, generations) in found {
            let dir = |generation| identity::group_dir(&self.path, group, generation);
            let generations = self.existing(generations, dir).await?;
            if generations.is_empty() {
                continue;
            }
            let (index, generation, lost) = self.open_newest(&generations, dir, &group_key(group)).await?;
            opened.insert(group, OpenedGroup { index, generation, lost });
        }
        Ok(opened)
    }

    /// Those generations whose directories hold something.
    async fn existing(
        &self,
        generations: Vec<u32>,
        dir: impl Fn(u32) -> PathBuf,
    ) -> Result<Vec<u32>, DiskOpenError> {
        let mut existing = Vec::with_capacity(generations.len());
        for generation in generations {
            let names = self.env.list_dir(&dir(generation)).await;
            if !names.map_err(|source| self.io("list an index", source))?.is_empty() {
                existing.push(generation);
            }
        }
        Ok(existing)
    }

    /// Opens the newest generation, or makes the next where it is damaged. True: an older one was damaged.
    async fn open_newest(
        &self,
        generations: &[u32],
        dir: impl Fn(u32) -> PathBuf,
        key: &[u8],
    ) -> Result<(Index, u32, bool), DiskOpenError> {
        let newest = generations.last().copied().unwrap_or(0);
        let identity = index_identity(self.format.disk, key);
        let options = self.index_options(key);
        match Index::open(&self.env, dir(newest), identity, options.clone()).await {
            Ok(index) => Ok((index, newest, generations.len() > 1)),
            Err(error) if error.is_corrupt() => {
                tracing::error!(path = %dir(newest).display(), %error, "an index is damaged beyond opening");
                let index = Index::open(&self.env, dir(newest + 1), identity, options).await;
                let index = index.map_err(|error| self.index_error(error))?;
                Ok((index, newest + 1, true))
            }
            Err(error) => Err(self.index_error(error)),
        }
    }

    async fn open_index(&self, dir: PathBuf, key: Vec<u8>) -> Result<Index, DiskOpenError> {
        let identity = index_identity(self.format.disk, &key);
        let index = Index::open(&self.env, dir, identity, self.index_options(&key)).await;
        index.map_err(|error| self.index_error(error))
    }

    fn index_options(&self, key: &[u8]) -> IndexOptions {
        if key.starts_with(b"chunk") {
            // Its flushes must carry the free map: only they may freeze it.
            return IndexOptions { memtable_bytes_max: usize::MAX, ..self.options.index.clone() };
        }
        self.options.index.clone()
    }

    fn index_error(&self, error: IndexError) -> DiskOpenError {
        self.io("open an index", io::Error::other(error.to_string()))
    }

    /// Reads the log from front to back.
    async fn replay(
        &self,
        table: &Index,
        groups: &BTreeMap<GroupId, OpenedGroup>,
    ) -> Result<Replayed, DiskOpenError> {
        let dir = identity::wal_dir(&self.path);
        let seal = BatchSeal::new(self.format.disk);
        let replay = Replay::begin(&self.env, &dir, seal, self.superblock.wal_segment_bytes).await;
        let mut replay = replay.map_err(|source| self.io("read the log", source))?;
        let mut reading = Reading {
            flushed: groups.iter().map(|(group, opened)| (*group, opened.index.flushed())).collect(),
            lost_indexes: groups.iter().filter(|(_, opened)| opened.lost).map(|(group, _)| *group).collect(),
            table_flushed: table.flushed().index,
            replicas: BTreeMap::new(),
            tail: Vec::new(),
            chain: 0,
            lost: Vec::new(),
            start_lsn: None,
            chunk_suspected: Vec::new(),
            chunk_lost: false,
        };
        while let Some(item) = replay.next().await {
            reading.take(item, &self.counters);
            self.env.yield_if_needed().await;
        }
        let end = replay.end();
        if reading.table_flushed >= end.next_lsn {
            // What the table has flushed was durable in the log.
            reading.take(Item::Lost(end.next_lsn..reading.table_flushed + 1), &self.counters);
        }
        if end.torn_tail {
            add(&self.counters.wal_torn_tails, 1);
        }
        // Unproven losses of chunk records count where the table does not hold what was lost.
        let unproven = reading.chunk_suspected.iter().any(|range| range.end > reading.table_flushed + 1);
        let chunks = ChunkReplay {
            tail: reading.tail,
            data_lsn: end.data_lsn,
            chain: reading.chain,
            lost: reading.chunk_lost || unproven,
            last_lsn: (end.next_lsn - 1).max(reading.table_flushed),
        };
        Ok(Replayed { replicas: reading.replicas, chunks, damaged: !reading.lost.is_empty(), end })
    }

    /// `None` where the group was removed.
    #[expect(
        clippy::too_many_arguments,
        reason = "what the indexes and the log know of one group, in one place"
    )]
    fn replica(
        &self,
        group: GroupId,
        index: Index,
        generation: u32,
        lost: bool,
        log_damaged: bool,
        replay: Option<ReplicaReplay>,
        wal: &Wal,
    ) -> Option<ReplicaStore> {
        let replay = replay.unwrap_or_else(|| {
            // An index without a record: the crash came between the two. But where something is in it, or records are
            // lost, there was a replica.
            let flushed = index.flushed();
            let mut replay = ReplicaReplay::new((flushed.index, flushed.term), &[]);
            if flushed.index > 0 || lost || log_damaged {
                replay.index_lost();
            }
            replay
        });
        let state = replay.finish()?;
        let dir = self.path.clone();
        Some(ReplicaStore::new(
            group,
            index,
            (dir, generation),
            wal.clone(),
            self.counters.clone(),
            &self.env,
            &self.options,
            state,
        ))
    }

    async fn remove_group(&self, group: GroupId) -> Result<(), DiskOpenError> {
        remove_group_files(&self.env, &self.path, group)
            .await
            .map_err(|source| self.io("remove a group", source))
    }

    fn segments(&self, end: LogEnd) -> Segments {
        let mut segments = Segments::new(identity::wal_dir(&self.path), self.superblock.wal_segment_bytes);
        segments.number_used(end.newest_number);
        for live in end.live {
            segments.slot_used(live.segment.slot);
            segments.push_live(live);
        }
        for segment in end.unused {
            segments.slot_used(segment.slot);
            segments.give_reusable(segment);
        }
        segments.page = end.page;
        segments.batch_number = end.next_batch_number;
        segments
    }
}

/// Removes the index of a group that was removed.
pub(crate) async fn remove_group_files(env: &Env, disk: &Path, group: GroupId) -> io::Result<()> {
    let found = identity::group_generations(env, disk).await?;
    for generation in found.get(&group).into_iter().flatten() {
        identity::clear_dir(env, &identity::group_dir(disk, group, *generation)).await?;
    }
    Ok(())
}

/// What an index's identity is made of, for a group.
pub(crate) fn group_key(group: GroupId) -> Vec<u8> {
    let mut key = b"group".to_vec();
    key.extend(group.0.to_le_bytes());
    key
}

/// The state of everything while the log is read.
struct Reading {
    flushed: BTreeMap<GroupId, Position>,
    lost_indexes: std::collections::BTreeSet<GroupId>,
    table_flushed: u64,
    replicas: BTreeMap<GroupId, ReplicaReplay>,
    tail: Vec<ChunkTail>,
    chain: u64,
    lost: Vec<Range<u64>>,
    /// The first record that the log still holds.
    start_lsn: Option<u64>,
    /// Lost parts of which it is not known whether chunk records were in them.
    chunk_suspected: Vec<Range<u64>>,
    chunk_lost: bool,
}

impl Reading {
    fn take(&mut self, item: Item, counters: &Counters) {
        match item {
            Item::Lost(range) => {
                tracing::error!(?range, "a part of the log is damaged");
                add(&counters.wal_damages, 1);
                if !range.is_empty() {
                    self.replicas.values_mut().for_each(|replica| replica.lost(&range));
                    self.chunk_suspected.push(range.clone());
                    self.lost.push(range);
                }
            }
            Item::Checkpoint { next_lsn, checkpoint } => self.checkpoint(next_lsn, checkpoint, counters),
            Item::Records { first_lsn, records } => {
                for (lsn, record) in (first_lsn..).zip(records) {
                    self.record(lsn, record, counters);
                }
            }
        }
    }

    fn checkpoint(&mut self, next_lsn: u64, checkpoint: Checkpoint, counters: &Counters) {
        self.start_lsn.get_or_insert(next_lsn);
        if checkpoint.chunk_chain < next_lsn {
            self.prove_chunks(checkpoint.chunk_chain, counters);
            self.chain = checkpoint.chunk_chain;
        }
        for replica in checkpoint.replicas {
            self.replica(replica.group).checkpoint(replica, next_lsn);
        }
    }

    fn record(&mut self, lsn: u64, record: Record, counters: &Counters) {
        self.start_lsn.get_or_insert(lsn);
        match record {
            Record::Replica { group, previous, op } => self.replica(group).record(lsn, previous, op),
            Record::Chunk { chunk, previous, op } => {
                self.prove_chunks(previous, counters);
                self.chain = lsn;
                if lsn > self.table_flushed {
                    self.tail.push(ChunkTail { lsn, chunk, record: op });
                }
            }
        }
    }

    /// The last chunk record before this place is `previous`: was it in a lost part?
    fn prove_chunks(&mut self, previous: u64, counters: &Counters) {
        let lost = self.chunk_suspected.iter().any(|range| range.contains(&previous));
        // A table that is older than the log reaches back has itself lost what it had flushed.
        let gone = self.start_lsn.is_some_and(|start| previous < start);
        if (lost || gone) && previous > self.table_flushed {
            add(&counters.chunk_chain_breaks, 1);
            self.chunk_lost = true;
        }
        self.chunk_suspected.clear();
    }

    fn replica(&mut self, group: GroupId) -> &mut ReplicaReplay {
        self.replicas.entry(group).or_insert_with(|| {
            let flushed = self.flushed.get(&group).copied().unwrap_or(Position { index: 0, term: 0 });
            let mut replay = ReplicaReplay::new((flushed.index, flushed.term), &self.lost);
            if self.lost_indexes.contains(&group) {
                replay.index_lost();
            }
            replay
        })
    }
}
