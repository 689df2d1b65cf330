//! A node's cores: how they start, how they watch their disks, how they end.
//!
//! What must hold: a core answers the others from its first moment (with refusals, while its disks open); a disk is
//! in service only after its log was replayed and its replicas run; a disk that fails is out of service for all cores
//! at once, and the node goes on with the rest; a disk that was missing at the start, or that went away, comes back
//! by itself once it is there again.

use crate::core::{Core, CoreParts, Leadership};
use crate::counters::count;
use crate::exchange::{CoreMessage, Exchange, QUEUED_MESSAGES_MAX};
use crate::location::Locations;
use crate::manifest::ChunkOwner;
use crate::map::{self, DiskState, NodeMap};
use crate::message::{ChunkName, DiskIndex, PartitionOp, Reply, Request};
use crate::nodes::{self, Network, NetworkSetup, Nodes};
use crate::object::api::User;
use crate::object::store::Store;
use crate::partition;
use crate::rebuild;
use crate::root;
use buckets_disk::{Disk, DiskFormatError, DiskOptions, FormatMode};
use buckets_env::{CoreReceiver, CoreSender, Env, Instant, WakeCore, core_queue};
use buckets_index::{BlockCache, IndexOptions};
use buckets_meta::{GroupHost, GroupMessage, LeaderChange, Transport, VotersLive};
use buckets_ring::format::FormatJson;
use buckets_ring::id::{DiskUuid, GroupId};
use buckets_ring::rebuild::RebuildJson;
use buckets_ring::topology::TopologyJson;
use futures::future::join_all;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// For the index blocks of a disk that is being formatted.
const FORMAT_CACHE_BYTES: usize = 1 << 20;
/// How often a core looks after its disks.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A disk that went away is looked for at every so many looks.
const LOOKS_PER_RETURN: u64 = 4;
/// How long a disk stays fenced after a failed write or flush before it is opened again; twice as long each time.
const REOPEN_FIRST: Duration = Duration::from_secs(5);
/// The longest such pause.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(600);
/// How soon a new leader tries its first duty again.
const DUTY_RETRY: Duration = Duration::from_millis(2);
/// How often the root group's state is asked for until it is known.
const ROOT_RETRY: Duration = Duration::from_millis(50);
/// How long leaderships may take to be handed over before an end.
const HAND_OVER_MAX: Duration = Duration::from_secs(3);
/// A removal of a bucket that is seen twice at this distance got stuck; it takes seconds at most.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(60);
/// How often chunks are looked for that were written long ago and confirmed by nobody.
const ORPHAN_LOOK: Duration = Duration::from_secs(60);
/// Older than any write can still be under way: its chunks are finished, only its manifest may be missing.
const ORPHAN_AGE: Duration = Duration::from_secs(300);
/// How often chunks that nobody may own are looked at again where a partition did not answer.
const ORPHAN_RETRY: Duration = Duration::from_secs(5);

/// Limits of a node that an operator sets.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Verified blocks kept in memory, all cores together, in bytes.
    pub cache_bytes: usize,
    /// The root user.
    pub root_user: User,
    /// Sizes of what disks hold; the same as at format.
    pub disk_sizes: DiskSizes,
}

/// How large logs, tables and space files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskSizes {
    /// For disks.
    #[default]
    Full,
    /// For directories that stand for disks on a machine where one tries things out.
    Dev,
    /// For simulations: every edge is reached within seconds.
    Tiny,
}

impl DiskSizes {
    fn options(self, index: IndexOptions) -> DiskOptions {
        match self {
            DiskSizes::Full => DiskOptions::new(index),
            DiskSizes::Dev => DiskOptions {
                wal_segment_bytes: 16 << 20,
                space_step_bytes: 256 << 20,
                ..DiskOptions::new(index)
            },
            DiskSizes::Tiny => DiskOptions::small(index),
        }
    }
}

/// What belongs on a disk that is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing yet: it is new in its deployment, or the deployment is.
    Nothing,
    /// What a disk had whose place it takes: it is written again from the others.
    Lost,
}

/// Makes a directory a disk of a deployment: its identity, its log, and an empty replica of each group that it votes in.
/// Errors: formatted already, unless `mode` says overwrite.
pub async fn format_disk(
    env: &Env,
    path: &Path,
    format: &FormatJson,
    topology: &TopologyJson,
    mode: FormatMode,
    sizes: DiskSizes,
    contents: Contents,
) -> Result<(), FormatFailed> {
    let failed = |error: String| FormatFailed::Replicas { path: path.to_owned(), error };
    let options = || sizes.options(IndexOptions::new(BlockCache::new(FORMAT_CACHE_BYTES)));
    Disk::format(env, path, format, mode, &options()).await?;
    let opened = Disk::open(env, path, options()).await.map_err(|error| failed(error.to_string()))?;
    let disk = opened.disk;
    for (group, voters) in map::voters_of(topology) {
        if voters.contains(&format.disk) {
            let store = disk.replica(group).await.map_err(|error| failed(error.to_string()))?;
            buckets_meta::bootstrap(&disk, &store, &voters)
                .await
                .map_err(|error| failed(error.to_string()))?;
        }
    }
    if contents == Contents::Lost {
        let rebuild = RebuildJson::default();
        disk.write_rebuild(Some(&rebuild)).await.map_err(|error| failed(error.to_string()))?;
    }
    disk.write_topology(topology).await.map_err(|error| failed(error.to_string()))?;
    disk.close().await.map_err(|error| failed(error.to_string()))
}

/// Why a disk was not formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatFailed {
    /// See there.
    #[error(transparent)]
    Disk(#[from] DiskFormatError),
    /// Its replicas could not be made.
    #[error("{path}: the replicas could not be made: {error}; format it again with --force")]
    Replicas {
        /// The disk.
        path: PathBuf,
        /// What failed.
        error: String,
    },
}

/// What one core needs to start; made for all cores before any of them starts.
pub struct CoreSetup {
    number: usize,
    map: Arc<NodeMap>,
    cores: Vec<CoreSender<CoreMessage>>,
    messages: CoreReceiver<CoreMessage>,
    network: Option<NetworkSetup>,
    options: NodeOptions,
}

/// Connects all cores with each other, and with `network` to other nodes. One waker a core.
pub fn connect(
    map: Arc<NodeMap>,
    wakers: Vec<Arc<dyn WakeCore>>,
    options: &NodeOptions,
    network: Option<&Network>,
) -> Vec<CoreSetup> {
    let mut of_network: Vec<Option<NetworkSetup>> = match network {
        Some(network) => {
            let identity = network.identity(&map, wakers.len());
            let setup = |door| NetworkSetup { identity: identity.clone(), network: network.clone(), door };
            buckets_peer::doors(&wakers).into_iter().map(|door| Some(setup(door))).collect()
        }
        None => wakers.iter().map(|_| None).collect(),
    };
    let capacity = match options.disk_sizes {
        DiskSizes::Full | DiskSizes::Dev => QUEUED_MESSAGES_MAX,
        // A queue's memory is touched when it is made, and a simulation makes thousands.
        DiskSizes::Tiny => 1024,
    };
    let queues: Vec<_> = wakers.into_iter().map(|waker| core_queue(capacity, waker)).collect();
    let cores: Vec<CoreSender<CoreMessage>> = queues.iter().map(|(sender, _)| sender.clone()).collect();
    let setups = queues.into_iter().enumerate().map(|(number, (_, messages))| CoreSetup {
        number,
        map: map.clone(),
        cores: cores.clone(),
        messages,
        network: of_network[number].take(),
        options: options.clone(),
    });
    setups.collect()
}

/// Starts one core and returns once its disks are open. The core goes on in tasks of its own. Errors: the address for
/// other nodes cannot be listened on.
pub async fn start(env: Env, setup: CoreSetup) -> io::Result<Store> {
    let CoreSetup { number, map, cores, messages, network, options } = setup;
    let cache_bytes = options.cache_bytes / cores.len();
    let nodes = Nodes::new(&env, &map, number, network.as_ref());
    let exchange = Exchange::new(env.clone(), number, cores);
    let link = Rc::new(GroupLink { core: RefCell::default() });
    let host = GroupHost::new(env.clone(), buckets_meta::Options::default(), link.clone());
    let noted = link.clone();
    host.vote_again_once(move |disk| noted.is_noted(disk));
    let locations = Locations::new(cache_bytes / 8);
    let remembered = locations.clone();
    host.on_change(move |rows, batch| remembered.apply(rows, batch));
    let mapped = map.clone();
    host.drain_while(move || mapped.own_node().shall_not_lead());
    let core = Core::new(CoreParts {
        env: env.clone(),
        number,
        map,
        exchange,
        nodes,
        host,
        root_user: options.root_user,
        disk_sizes: options.disk_sizes,
        // A quarter for index blocks, an eighth for locations, the rest for bodies.
        cache_bytes: cache_bytes - cache_bytes / 4 - cache_bytes / 8,
        locations,
    });
    *link.core.borrow_mut() = Rc::downgrade(&core);
    env.spawn(serve_messages(core.clone(), messages));
    follow_leaders(&core);
    core.host.run();
    // Only where nobody else can write through this node's disks, what was being written when it ended is over.
    let opening = if network.is_none() { Opening::AtStart } else { Opening::Again };
    if let Some(network) = network {
        *core.server.borrow_mut() = nodes::start(&core, network)?;
    }
    let index_cache = BlockCache::new(cache_bytes / 4);
    let own: Vec<DiskIndex> = own_disks(&core).collect();
    join_all(own.iter().map(|disk| async {
        match core.map.disk(*disk).is_member {
            true => open_disk(&core, *disk, &index_cache, opening).await,
            false => core
                .map
                .disk(*disk)
                .set_state(DiskState::Absent, "it was not there, or was refused, at the start"),
        }
    }))
    .await;
    env.spawn(partition::collect_garbage(core.clone()));
    env.spawn(partition::repair_chunks(core.clone()));
    env.spawn(watch_disks(core.clone(), index_cache));
    env.spawn(learn_root(core.clone()));
    Ok(Store::new(core))
}

impl Store {
    /// Gets ready for an end that other nodes do not notice: they lead what this core led, and what they have asked of it is
    /// answered. Takes some seconds at most.
    pub async fn retire(&self) {
        self.core.hand_over(HAND_OVER_MAX).await;
    }

    /// Flushes what the core's disks hold in memory and closes them; the core serves nothing afterwards.
    pub async fn close(&self) {
        let disks = std::mem::take(&mut *self.core.disks.borrow_mut());
        disks.values().for_each(|disk| self.core.host.stop_disk(disk.uuid()));
        for closed in join_all(disks.values().map(Disk::close)).await {
            if let Err(error) = closed {
                tracing::error!(%error, "a disk was not closed well: its log is read again at the next start");
            }
        }
        // Only now: leaders that handed over have told so.
        if let Some(server) = self.core.server.take() {
            server.close();
        }
        self.core.nodes.close();
    }
}

fn own_disks(core: &Core) -> impl Iterator<Item = DiskIndex> + '_ {
    core.map.disks_of(core.map.own).map(|(index, _)| index).filter(|index| core.owns(*index))
}

/// Carries Raft messages to the core that owns the receiving replica's disk. The core holds the host, and that the link.
struct GroupLink {
    core: RefCell<Weak<Core>>,
}

impl GroupLink {
    /// Whether it stands on a disk that it was emptied.
    fn is_noted(&self, disk: DiskUuid) -> bool {
        let Some(core) = self.core.borrow().upgrade() else { return false };
        core.map.disk_of(disk).is_some_and(|index| core.emptied.borrow().contains(&index))
    }
}

impl Transport for GroupLink {
    fn send(&self, message: GroupMessage) {
        let Some(core) = self.core.borrow().upgrade() else { return };
        let Some(disk) = core.map.disk_of(message.to) else { return };
        let Some(to) = core.map.place_of(disk) else { return };
        // Lossy: Raft sends again what got lost.
        if to.node != core.map.own {
            core.nodes.send(to, message);
        } else if to.core == core.number {
            core.host.deliver(message);
        } else {
            let _ = core.exchange.send(to.core, CoreMessage::Group(message));
        }
    }
}

async fn serve_messages(core: Rc<Core>, messages: CoreReceiver<CoreMessage>) {
    loop {
        match messages.recv().await {
            CoreMessage::Ask { from, id, request } => {
                let serving = core.clone();
                core.env.spawn(async move {
                    let answer = serving.serve(request).await;
                    // A full queue drops the answer; the asker's deadline ends its question.
                    let _ = serving.exchange.send(from, CoreMessage::Tell { id, answer });
                });
            }
            CoreMessage::Tell { id, answer } => core.exchange.told(id, answer),
            CoreMessage::Group(message) => core.host.deliver(message),
            CoreMessage::Leader(leadership) => drop(core.learn_leader(leadership)),
        }
    }
}

/// Tells every core when a group has a new leader here, and does what a new leader has to do first.
fn follow_leaders(core: &Rc<Core>) {
    let watching = Rc::downgrade(core);
    core.host.on_leader_change(move |LeaderChange { group, term, leader }| {
        let Some(core) = watching.upgrade() else { return };
        let Some(disk) = leader.and_then(|uuid| core.map.disk_of(uuid)) else { return };
        let leadership = Leadership { group, disk, term };
        let is_news = core.learn_leader(leadership);
        let is_here = core.owns(disk);
        // Of a leader on another node every replica's core may be the first to hear.
        if is_news && (is_here || core.map.disk(disk).node != core.map.own) {
            core.broadcast(|| CoreMessage::Leader(leadership));
        }
        if is_news && is_here {
            core.env.spawn(first_duty(core.clone(), leadership));
        }
    });
}

/// What a new leader does once it may decide.
async fn first_duty(core: Rc<Core>, leadership: Leadership) {
    let group = leadership.group;
    while core.leads(leadership) {
        let done = match group {
            GroupId::ROOT => root::publish_current(&core).await,
            group => match partition::rescan_garbage(&core, group).await {
                Ok(()) => partition::rescan_repairs(&core, group).await,
                failed => failed,
            },
        };
        match done {
            Ok(()) if group == GroupId::ROOT => return core.reopen_buckets().await,
            Ok(()) => return,
            Err(refusal) => tracing::debug!(%group, %refusal, "the new leader is not ready yet"),
        }
        core.env.sleep(DUTY_RETRY).await;
    }
}

/// When a disk is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// With the only node: whatever was being written then is over.
    AtStart,
    /// While this node or others run.
    Again,
}

async fn open_disk(core: &Rc<Core>, index: DiskIndex, index_cache: &BlockCache, opening: Opening) {
    let mapped = core.map.disk(index);
    let options = core.disk_sizes.options(IndexOptions::new(index_cache.clone()));
    let opened = match Disk::open(&core.env, &mapped.path, options).await {
        Ok(opened) if opened.disk.uuid() == mapped.uuid => opened,
        Ok(opened) => {
            let found = opened.disk.uuid();
            let _ = opened.disk.close().await;
            mapped
                .set_state(DiskState::Absent, &format!("disk {found} is here, {} was expected", mapped.uuid));
            return;
        }
        Err(error) => {
            tracing::error!(disk = %mapped.path.display(), %error, "a disk cannot be opened");
            mapped.set_state(DiskState::Absent, &error.to_string());
            return;
        }
    };
    let disk = opened.disk;
    core.disks.borrow_mut().insert(index, disk.clone());
    core.emptied.borrow_mut().remove(&index);
    let rebuild = disk.read_rebuild().await.unwrap_or_else(|error| {
        tracing::error!(disk = %mapped.path.display(), %error, "whether the disk was emptied is not known");
        Some(RebuildJson::default())
    });
    let mut refused = Vec::new();
    for group in core.map.groups.values().filter(|group| group.voters.contains(&index)) {
        let voters_live = match core.map.is_local(group) {
            true => VotersLive::InThisProcess,
            false => VotersLive::Elsewhere,
        };
        let preference: Vec<DiskUuid> = group.voters.iter().map(|voter| core.map.disk(*voter).uuid).collect();
        let added = async {
            let store = disk.replica(group.group).await.map_err(|error| error.to_string())?;
            core.host.add_replica(&disk, store, &preference, voters_live).map_err(|error| error.to_string())
        };
        if let Err(error) = added.await {
            tracing::error!(disk = %mapped.path.display(), error, "a replica takes no part");
            refused.push(error);
        }
    }
    if !refused.is_empty() {
        // Its chunks may be whole, but what it knows of the metadata is not: it must not vote.
        return core.only_read(index, &refused.join("; "));
    }
    let mut admitted = Box::pin(rebuild::admit(core.clone(), index, disk.clone(), rebuild));
    // Of a disk that is as it was that is all.
    if futures::poll!(&mut admitted).is_pending() {
        core.env.spawn(admitted);
    }
    core.env.spawn(adopt_pending(core.clone(), index, disk, opening));
}

/// Finds out whether chunks whose write was cut short belong to anybody, and frees those that do not.
async fn adopt_pending(core: Rc<Core>, index: DiskIndex, disk: Disk, opening: Opening) {
    let mut pending = match opening {
        Opening::AtStart => disk.chunks().pending(),
        // A write of this process, or of another node, may still be on its way to its manifest.
        Opening::Again => Vec::new(),
    };
    while core.map.disk(index).state() == DiskState::Starting {
        core.env.sleep(ORPHAN_RETRY).await;
    }
    while core.map.in_service(index) {
        let mut undecided = Vec::new();
        for found in pending {
            let chunk = found.chunk;
            let Ok(described) = ChunkOwner::decode(&found.owner) else {
                tracing::error!(object = %chunk.object, "the owner of a chunk cannot be read: it is kept");
                continue;
            };
            let group = core.map.group_for(described.bucket, &described.key);
            let question = PartitionOp::Refers { owner: described, object: chunk.object };
            let name = ChunkName { object: chunk.object, number: chunk.number };
            let verdict = match core.ask_group(group, question).await {
                Ok(Reply::Refers(true)) => {
                    core.ask_disk(index, Request::ChunkConfirm { disk: index, chunk: name })
                }
                Ok(Reply::Refers(false)) => {
                    count(&core.counters.orphans_collected, 1);
                    core.ask_disk(index, Request::ChunkDrop { disk: index, chunk: name })
                }
                _ => {
                    undecided.push(found);
                    continue;
                }
            };
            let _ = verdict.await;
        }
        if !undecided.is_empty() {
            pending = undecided;
            core.env.sleep(ORPHAN_RETRY).await;
            continue;
        }
        core.env.sleep(ORPHAN_LOOK).await;
        // A write whose outcome was never known: by now it has happened or never will.
        let now = core.env.now();
        pending = disk.chunks().pending();
        pending.retain(|found| now.since(found.since) >= ORPHAN_AGE);
    }
}

/// Fences disks that failed or went away, and takes back those that are there again.
async fn watch_disks(core: Rc<Core>, index_cache: BlockCache) {
    let mut pauses: BTreeMap<DiskIndex, Duration> = BTreeMap::new();
    let mut reopen_at: BTreeMap<DiskIndex, Instant> = BTreeMap::new();
    for looks in 1u64.. {
        core.env.sleep(WATCH_INTERVAL).await;
        for index in own_disks(&core).collect::<Vec<_>>() {
            let mapped = core.map.disk(index);
            let disk = core.disks.borrow().get(&index).cloned();
            match (mapped.state(), disk) {
                (DiskState::Absent | DiskState::Fenced, Some(_)) => {}
                (_, Some(disk)) => {
                    if let Err(error) = Disk::identify(&core.env, &mapped.path).await {
                        core.retire(index, DiskState::Absent, &error.to_string());
                        // What only a disk that is there could end must not keep the others from being looked after.
                        disk.give_up(&error.to_string());
                        let _ = disk.close().await;
                    } else if let buckets_disk::DiskState::Fenced { reason } = disk.state() {
                        core.retire(index, DiskState::Fenced, &reason);
                        let _ = disk.close().await;
                        let pause = pauses.entry(index).or_insert(REOPEN_FIRST);
                        reopen_at.insert(index, core.env.now().after(*pause));
                        *pause = (*pause * 2).min(REOPEN_PAUSE_MAX);
                    }
                }
                (DiskState::Absent, None) if looks.is_multiple_of(LOOKS_PER_RETURN) => {
                    let found = Disk::identify(&core.env, &mapped.path).await;
                    // Somebody may be formatting it right now.
                    if found.is_ok_and(|format| format.disk == mapped.uuid)
                        && Disk::is_complete(&core.env, &mapped.path).await
                    {
                        tracing::info!(disk = %mapped.path.display(), "the disk is there again");
                        open_disk(&core, index, &index_cache, Opening::Again).await;
                    }
                }
                (DiskState::Fenced, None)
                    if reopen_at.get(&index).is_some_and(|at| core.env.now() >= *at) =>
                {
                    // As a restart would: what its log holds is believed, nothing that only was in memory.
                    reopen_at.remove(&index);
                    tracing::info!(disk = %mapped.path.display(), "a fenced disk is opened again");
                    open_disk(&core, index, &index_cache, Opening::Again).await;
                }
                _ => {}
            }
        }
    }
}

/// Until the root group's state is known: without a majority it is read from the newest log. Then, where this core leads
/// the root group: removals of buckets that got stuck are taken back.
async fn learn_root(core: Rc<Core>) {
    loop {
        core.env.sleep(ROOT_RETRY).await;
        if core.root_version().is_some() {
            break;
        }
        // Nodes that nothing was heard of yet may make up a majority.
        let is_awaiting = core.map.disks.iter().any(|disk| disk.state() == DiskState::Starting);
        if !is_awaiting
            && !core.map.voters_in_service(GroupId::ROOT).are_majority()
            && let Err(refusal) = root::publish_salvaged(&core).await
        {
            tracing::debug!(%refusal, "the buckets cannot be read yet");
        }
    }
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    loop {
        core.env.sleep(REMOVAL_PATIENCE).await;
        let root = core.root.borrow().clone();
        let removals: BTreeSet<u64> = root.buckets.values().filter_map(|record| record.deleting).collect();
        let is_stuck = removals.iter().any(|attempt| seen.contains(attempt));
        if is_stuck && core.lead(GroupId::ROOT).is_ok() {
            core.reopen_buckets().await;
        }
        seen = removals;
    }
}
