//! One core of a node: the disks it owns, the replicas on them, and how it reaches everything else.
//!
//! What must hold: a question for a disk or a group is served by the core that owns it, and nowhere else; asking
//! oneself and asking another core are the same call; a question about a partition finds its leader or ends with a
//! clear refusal before its deadline; nothing that may have happened is asked twice; a decision that has begun is carried
//! to its end, whether its asker still waits or not.

use crate::budget::{Budget, Held};
use crate::chunk::{BlockCache, Hedges};
use crate::counters::{CoreCounters, LiveCounters, count};
use crate::distance::Distance;
use crate::exchange::{CoreMessage, Exchange};
use crate::guests::GuestReads;
use crate::latency::Latencies;
use crate::location::Locations;
use crate::manifest::{ChunkOwner, Part};
use crate::map::{DiskState, NodeMap, Place, Voters};
use crate::message::{
    Answer, Block, ChunkName, DiskIndex, PartitionOp, Refusal, Removal, Reply, Request, RootOp,
};
use crate::node::DiskSizes;
use crate::nodes::Nodes;
use crate::object::api::{ObjectError, User};
use crate::object::md5_lanes::Md5Lanes;
use crate::partition::{self, GarbageQueue, Latches, RepairQueue};
use crate::root::{self, RootState};
use buckets_disk::{ChunkId, ChunkReadError, ChunkWriteError, Disk};
use buckets_env::{Env, Instant};
use buckets_index::{IndexError, Position, WriteBatch};
use buckets_meta::{GroupHost, ProposeError, ReadError, SalvageError};
use buckets_peer::PeerServer;
use buckets_ring::coding::Coding;
use buckets_ring::id::{BucketId, GroupId, ObjectId};
use buckets_stripe::Codec;
use futures::channel::oneshot;
use futures::future::{Either, join_all, select};
use futures::lock::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use buckets_meta::View;

/// Bytes of bodies on their way in or out of one core, beside the cache.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long a body waits for its share of them.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// A question to another core, of this node or another, ends after so long.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// How long a question about a partition looks for its leader.
const LEADER_LIMIT: Duration = Duration::from_secs(8);
/// Between two looks for a leader.
const LEADER_RETRY: Duration = Duration::from_millis(5);
/// How often it is looked whether a leader on another node is still one, while it is waited for.
const DEPOSED_LOOK: Duration = Duration::from_millis(100);
/// Parts with chunks that are not whole which are remembered as told.
const SUSPECTED_MAX: usize = 4096;
/// How often it is looked whether leaderships are handed over before an end.
const HAND_OVER_LOOK: Duration = Duration::from_millis(20);
/// After so long without a word it is told again that a chunk is not whole.
const SUSPECTED_FOR: Duration = Duration::from_secs(60);
/// One in so many of them asks another voter than the leader that is known: the news of a new one may have been lost.
const ATTEMPTS_PER_DETOUR: usize = 8;
/// How often a disk is told that a chunk has its manifest, and the pause in between. One that is away for longer asks by itself
/// when it is back.
const CONFIRM_ATTEMPTS: usize = 8;
const CONFIRM_RETRY: Duration = Duration::from_secs(3);
/// A disk whose reads take longer than this on average is asked last, for a while.
const SLOW_READ: Duration = Duration::from_millis(10);
/// After so long without a read a slow disk gets another chance.
const SLOW_READ_MEMORY: Duration = Duration::from_secs(2);
/// New chunks are not put on a disk whose writes take longer than this on average, for a while.
const SLOW_WRITE: Duration = Duration::from_millis(20);
/// After so long without a write a slow disk gets another chance: the writes that try it may wait for it.
const SLOW_WRITE_MEMORY: Duration = Duration::from_secs(30);

/// Who leads a group, as the leader's core tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The group.
    pub group: GroupId,
    /// Its leader's disk.
    pub disk: DiskIndex,
    /// Later terms win.
    pub term: u64,
}

/// The right to decide in a group, for one term.
pub(crate) struct Lead {
    pub(crate) term: u64,
    /// The leader's rows: everything committed before the term is in them.
    pub(crate) view: View,
}

/// One core.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) number: usize,
    pub(crate) map: Arc<NodeMap>,
    pub(crate) latches: Latches,
    pub(crate) garbage: GarbageQueue,
    pub(crate) repairs: RepairQueue,
    pub(crate) counters: LiveCounters,
    pub(crate) root: RefCell<Arc<RootState>>,
    pub(crate) root_user: User,
    pub(crate) disk_sizes: DiskSizes,
    /// Decides root operations one after the other.
    pub(crate) root_lock: Mutex<()>,
    pub(crate) block_cache: RefCell<BlockCache>,
    pub(crate) locations: Locations,
    pub(crate) md5_lanes: Md5Lanes,
    pub(crate) hedges: Hedges,
    /// Bytes of bodies on their way in and out.
    pub(crate) body_bytes: Budget,
    pub(crate) exchange: Exchange,
    pub(crate) nodes: Rc<Nodes>,
    /// What serves other nodes.
    pub(crate) server: RefCell<Option<PeerServer>>,
    pub(crate) disks: RefCell<BTreeMap<DiskIndex, Disk>>,
    /// Disks on which it stands that they were emptied.
    pub(crate) emptied: RefCell<BTreeSet<DiskIndex>>,
    /// The ways to the other nodes; kept by core 0.
    pub(crate) distance: RefCell<Distance>,
    pub(crate) host: GroupHost,
    /// When this core started.
    pub(crate) started: Instant,
    root_known: Cell<bool>,
    leaders: RefCell<BTreeMap<GroupId, Leadership>>,
    codecs: RefCell<BTreeMap<Coding, Rc<Codec>>>,
    reading: RefCell<BTreeMap<ObjectId, usize>>,
    /// Parts of which gateways fetched blocks from this core.
    pub(crate) guest_reads: GuestReads,
    /// Chunks that are not whole, by part, whose partitions have been told.
    suspected: RefCell<BTreeMap<ObjectId, u32>>,
    /// Of reads.
    pub(crate) read_latencies: Rc<Latencies>,
    /// Of blocks of new chunks.
    pub(crate) write_latencies: Rc<Latencies>,
}

/// What a core is made of.
pub(crate) struct CoreParts {
    pub(crate) env: Env,
    pub(crate) number: usize,
    pub(crate) map: Arc<NodeMap>,
    pub(crate) exchange: Exchange,
    pub(crate) nodes: Rc<Nodes>,
    pub(crate) host: GroupHost,
    pub(crate) root_user: User,
    pub(crate) disk_sizes: DiskSizes,
    pub(crate) cache_bytes: usize,
    pub(crate) locations: Locations,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Rc<Core> {
        Rc::new(Core {
            started: parts.env.now(),
            number: parts.number,
            map: parts.map,
            latches: Latches::default(),
            garbage: GarbageQueue::default(),
            repairs: RepairQueue::default(),
            counters: LiveCounters::default(),
            root: RefCell::default(),
            root_user: parts.root_user,
            disk_sizes: parts.disk_sizes,
            root_lock: Mutex::new(()),
            block_cache: RefCell::new(BlockCache::new(parts.cache_bytes)),
            locations: parts.locations,
            md5_lanes: Md5Lanes::new(parts.env.clone()),
            hedges: Hedges::new(),
            body_bytes: Budget::new(BODY_BYTES_MAX),
            exchange: parts.exchange,
            nodes: parts.nodes,
            server: RefCell::default(),
            disks: RefCell::default(),
            emptied: RefCell::default(),
            distance: RefCell::default(),
            host: parts.host,
            root_known: Cell::new(false),
            leaders: RefCell::default(),
            codecs: RefCell::default(),
            reading: RefCell::default(),
            guest_reads: GuestReads::default(),
            suspected: RefCell::default(),
            read_latencies: Latencies::new(SLOW_READ, SLOW_READ_MEMORY),
            write_latencies: Latencies::new(SLOW_WRITE, SLOW_WRITE_MEMORY),
            env: parts.env,
        })
    }

    /// Cores of this node.
    pub(crate) fn cores(&self) -> usize {
        self.exchange.cores()
    }

    /// Asks a core of any node.
    pub(crate) async fn ask_at(self: &Rc<Self>, place: Place, request: Request) -> Answer {
        match place.node == self.map.own {
            true => self.ask(place.core, request).await,
            false => self.nodes.ask(place, &request, ASK_LIMIT).await,
        }
    }

    /// Asks a core of this node, this one included.
    pub(crate) async fn ask(self: &Rc<Self>, core: usize, request: Request) -> Answer {
        if core == self.number && request.decides() {
            // To its end, also where the asker goes away: the latch of a key must not be free before what was proposed
            // under it is applied. Otherwise the next decision about the key would be made without it.
            let (answer_tx, answer_rx) = oneshot::channel();
            let serving = self.clone();
            self.env.spawn(async move {
                let _ = answer_tx.send(serving.serve(request).await);
            });
            return answer_rx.await.unwrap_or(Err(Refusal::Unknown));
        }
        if core == self.number {
            // Boxed: serving may ask in turn.
            return Box::pin(self.serve(request)).await;
        }
        self.exchange.ask(core, request, ASK_LIMIT).await
    }

    /// Asks the core that owns a disk.
    pub(crate) async fn ask_disk(self: &Rc<Self>, disk: DiskIndex, request: Request) -> Answer {
        let takes = match request {
            Request::ChunkRead { .. } => self.map.is_readable(disk),
            _ => self.map.in_service(disk),
        };
        if !takes {
            return Err(Refusal::DiskFailed);
        }
        self.ask_owner(disk, request).await
    }

    /// Asks the core that owns a disk, whatever the disk's state.
    async fn ask_owner(self: &Rc<Self>, disk: DiskIndex, request: Request) -> Answer {
        let place = self.map.place_of(disk).ok_or(Refusal::Unreachable)?;
        self.ask_at(place, request).await
    }

    /// Whether this core owns a disk.
    pub(crate) fn owns(&self, disk: DiskIndex) -> bool {
        self.map.place_of(disk) == Some(Place { node: self.map.own, core: self.number })
    }

    /// Asks the leader of a partition, wherever it is; without a majority, reads are salvaged.
    pub(crate) async fn ask_group(self: &Rc<Self>, group: GroupId, op: PartitionOp) -> Answer {
        self.find_leader(group, op.is_read(), |salvage| Request::Partition { group, op: op.clone(), salvage })
            .await
    }

    /// Asks the leader of the root group.
    pub(crate) async fn ask_root(self: &Rc<Self>, op: RootOp) -> Answer {
        let reply = self.find_leader(GroupId::ROOT, false, |_| Request::Root(op.clone())).await?;
        if self.map.disks_of(self.map.own).next().is_none() {
            // Other nodes do not know of a gateway: it has to ask for what it has changed itself.
            self.fetch_root().await;
        }
        Ok(reply)
    }

    /// Gets the root group's state from its leader's node.
    async fn fetch_root(self: &Rc<Self>) {
        let leader = self.leaders.borrow().get(&GroupId::ROOT).map(|known| known.disk);
        let Some(disk) = leader else { return };
        if let Ok(Reply::Root(state)) = self.ask_owner(disk, Request::GetRoot).await
            && let Err(refusal) = self.publish_here(&state).await
        {
            tracing::debug!(%refusal, "a core did not take the buckets");
        }
    }

    /// Begins an attempt to remove a bucket; ends one that is under way.
    pub(crate) async fn begin_removal(
        self: &Rc<Self>,
        name: &str,
        id: BucketId,
    ) -> Result<Removal, ObjectError> {
        match self.ask_root(RootOp::MarkDeleting { name: name.to_owned(), id }).await? {
            Reply::Attempt(attempt) => Ok(Removal { name: name.to_owned(), id, attempt }),
            _ => Err(ObjectError::Internal("an attempt was asked for".into())),
        }
    }

    async fn find_leader(
        self: &Rc<Self>,
        group: GroupId,
        is_read: bool,
        request: impl Fn(bool) -> Request,
    ) -> Answer {
        let start = self.env.now();
        for attempt in 0.. {
            // Before it is asked, not after: who stood still for long may have been given up by others, and what it wants to commit
            // may lie on no disk any more.
            if self.env.now().since(start) > LEADER_LIMIT {
                let Voters { in_service, majority, .. } = self.map.voters_in_service(group);
                return Err(ObjectError::Unavailable(format!(
                    "partition {group} found no leader in {} s; {in_service} of its voters are in service, {majority} are needed",
                    LEADER_LIMIT.as_secs()
                ))
                .into());
            }
            let voters = self.map.voters_in_service(group);
            if !(voters.are_majority() || is_read && voters.meet_every_majority()) {
                return Err(voters.too_few(group));
            }
            let answer = match self.leader_of(group, attempt) {
                _ if !voters.are_majority() => self.salvage(group, &request).await,
                Some(disk) => self.ask_leader(group, disk, request(false)).await,
                None => Err(Refusal::NotLeader),
            };
            match answer {
                Err(Refusal::NotLeader | Refusal::DiskFailed | Refusal::Unreachable) => {}
                // Asked at once, where that is news.
                Err(Refusal::LedBy(leadership)) if self.learn_leader(leadership) => continue,
                Err(Refusal::LedBy(_)) => {}
                Err(Refusal::Unknown) if is_read => {}
                answer => return answer,
            }
            count(&self.counters.questions_retried, 1);
            self.env.sleep(LEADER_RETRY).await;
        }
        unreachable!("attempts do not end")
    }

    /// Asks a leader until it is known to be none any more: a node that hangs is not waited for longer than it takes the others
    /// to notice. What was asked may have happened then.
    async fn ask_leader(self: &Rc<Self>, group: GroupId, disk: DiskIndex, request: Request) -> Answer {
        let place = self.map.place_of(disk).ok_or(Refusal::Unreachable)?;
        if place.node == self.map.own {
            return self.ask(place.core, request).await;
        }
        let asked = pin!(self.nodes.ask(place, &request, ASK_LIMIT));
        let known = || self.leaders.borrow().get(&group).copied();
        let before = known();
        let deposed = pin!(async {
            while known() == before && self.map.in_service(disk) {
                self.env.sleep(DEPOSED_LOOK).await;
            }
        });
        match select(asked, deposed).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => Err(Refusal::Unknown),
        }
    }

    /// Without a majority: the voter with the newest log answers reads.
    async fn salvage(self: &Rc<Self>, group: GroupId, request: &impl Fn(bool) -> Request) -> Answer {
        let Some(mapped) = self.map.groups.get(&group) else {
            return Err(Refusal::NotLeader);
        };
        let mut last = Refusal::NotLeader;
        for disk in mapped.voters.iter().filter(|disk| self.map.in_service(**disk)) {
            let mut at = *disk;
            // The first voter that is asked may know of one with a newer log.
            for _ in 0..2 {
                match self.ask_owner(at, request(true)).await {
                    Err(Refusal::Elsewhere(disk)) => at = disk,
                    Err(
                        refusal @ (Refusal::NotLeader
                        | Refusal::LedBy(_)
                        | Refusal::DiskFailed
                        | Refusal::Unreachable
                        | Refusal::Unknown),
                    ) => {
                        last = refusal;
                        break;
                    }
                    answer => {
                        count(&self.counters.salvage_reads, 1);
                        return answer;
                    }
                }
            }
        }
        Err(last)
    }

    /// Whom to ask: the leader that is known, and now and then, or where that one is not there, the other voters by turns.
    fn leader_of(&self, group: GroupId, attempt: usize) -> Option<DiskIndex> {
        let mapped = self.map.groups.get(&group)?;
        let known = self.leaders.borrow().get(&group).map_or(mapped.preferred, |known| known.disk);
        let is_detour = attempt % ATTEMPTS_PER_DETOUR == ATTEMPTS_PER_DETOUR - 1;
        if self.map.in_service(known) && !is_detour {
            return Some(known);
        }
        let in_service = || mapped.voters.iter().copied().filter(|voter| self.map.in_service(*voter));
        in_service().nth(attempt / ATTEMPTS_PER_DETOUR % in_service().count().max(1))
    }

    /// A leader's core tells who leads; later terms win. True where that is news.
    pub(crate) fn learn_leader(&self, leadership: Leadership) -> bool {
        let mut leaders = self.leaders.borrow_mut();
        let known = leaders.get(&leadership.group);
        let is_news = known.is_none_or(|known| leadership.term > known.term);
        if is_news {
            leaders.insert(leadership.group, leadership);
        }
        is_news
    }

    /// Whether this is still the newest leadership of its group.
    pub(crate) fn leads(&self, leadership: Leadership) -> bool {
        self.leaders.borrow().get(&leadership.group) == Some(&leadership)
    }

    /// Groups whose leader, as far as this core knows, is on one of its disks.
    pub(crate) fn led_groups(&self) -> Vec<GroupId> {
        let leaders = self.leaders.borrow();
        let is_here = |l: &&Leadership| self.owns(l.disk);
        leaders.values().filter(is_here).map(|l| l.group).filter(|g| *g != GroupId::ROOT).collect()
    }

    /// From now on the replicas of this node, of all its cores, hand over what they lead; or no more.
    fn drain(&self, draining: bool) {
        let node = self.map.own_node();
        match (node.is_draining(), draining) {
            (false, true) => tracing::info!("this node hands over what it leads"),
            (true, false) => tracing::info!("this node leads again what it should"),
            _ => {}
        }
        node.set_draining(draining);
    }

    /// Makes voters on other nodes lead what this core leads, where they can; for up to `limit`. The node leads nothing any
    /// more afterwards.
    pub(crate) async fn hand_over(&self, limit: Duration) {
        self.drain(true);
        let start = self.env.now();
        let elsewhere =
            |voter: &DiskIndex| self.map.disk(*voter).node != self.map.own && self.map.in_service(*voter);
        let leads = || {
            let mut with_heirs =
                self.map.groups.values().filter(|mapped| mapped.voters.iter().any(elsewhere));
            with_heirs.any(|mapped| self.host.leader_term(mapped.group).is_some())
        };
        while leads() && self.env.now().since(start) < limit {
            self.env.sleep(HAND_OVER_LOOK).await;
        }
    }

    /// Of the groups that disks of this node lead, as far as this core knows.
    pub(crate) fn own_leaders(&self) -> Vec<Leadership> {
        let leaders = self.leaders.borrow();
        let known = self.map.own_groups().iter().filter_map(|group| leaders.get(group).copied());
        known.filter(|known| self.map.disk(known.disk).node == self.map.own).collect()
    }

    /// The answer of a group that is not led here says who leads, where that is known.
    fn with_leader(&self, group: GroupId, answer: Answer) -> Answer {
        match (answer, self.leaders.borrow().get(&group)) {
            (Err(Refusal::NotLeader), Some(leadership)) if !self.owns(leadership.disk) => {
                Err(Refusal::LedBy(*leadership))
            }
            (answer, _) => answer,
        }
    }

    /// Serves a question that is for this core.
    pub(crate) async fn serve(self: &Rc<Self>, request: Request) -> Answer {
        match request {
            Request::ChunkAppend { disk, chunk, block, data, len, finish } => {
                let disk = self.own_disk(disk)?;
                let chunks = disk.chunks();
                let id = chunk_id(chunk);
                let written = match finish {
                    Some(owner) if block == 0 => chunks.write_small(id, data, len, owner).await,
                    finish => match (chunks.append(id, block, data, len).await, finish) {
                        (Ok(()), Some(owner)) => chunks.finish(id, owner).await,
                        (written, _) => written,
                    },
                };
                written.map(|()| Reply::Done).map_err(|error| write_refusal(&error))
            }
            Request::ChunkFinish { disk, chunk, owner } => {
                let disk = self.own_disk(disk)?;
                let chunks = disk.chunks();
                let finished = chunks.finish(chunk_id(chunk), owner).await;
                finished.map(|()| Reply::Done).map_err(|error| write_refusal(&error))
            }
            Request::ChunkRead { disk, chunk, block, count } => {
                let disk = self.own_disk(disk)?;
                let chunks = disk.chunks();
                let blocks =
                    chunks.read(chunk_id(chunk), block, count).await.map_err(|error| match error {
                        ChunkReadError::Missing => Refusal::ChunkMissing,
                        ChunkReadError::Corrupt { .. } | ChunkReadError::TableDamaged { .. } => {
                            Refusal::ChunkDamaged
                        }
                        ChunkReadError::Io { .. } => Refusal::DiskFailed,
                    })?;
                Ok(Reply::Blocks(
                    blocks.into_iter().map(|block| Block { data: block.padded, len: block.len }).collect(),
                ))
            }
            Request::ChunkDrop { disk, chunk } => {
                let disk = self.own_disk(disk)?;
                let chunks = disk.chunks();
                chunks.abort(chunk_id(chunk));
                let deleted = chunks.delete(chunk_id(chunk)).await;
                deleted.map(|_| Reply::Done).map_err(|error| write_refusal(&error))
            }
            Request::ChunkAbort { disk, chunk } => {
                self.own_disk(disk)?.chunks().abort(chunk_id(chunk));
                Ok(Reply::Done)
            }
            Request::ChunkConfirm { disk, chunk } => {
                let disk = self.own_disk(disk)?;
                // Not confirmed only means that it is asked about again after a restart.
                let is_known = disk.chunks().confirm(chunk_id(chunk)).unwrap_or(true);
                if !is_known && matches!(disk.chunks().shape(chunk_id(chunk)).await, Ok(None)) {
                    return Err(Refusal::ChunkMissing);
                }
                Ok(Reply::Done)
            }
            Request::Partition { group, op, salvage } => {
                let answer = partition::serve(self, group, op, salvage).await;
                self.with_leader(group, answer)
            }
            Request::Root(op) => {
                let answer = root::serve(self, op).await;
                self.with_leader(GroupId::ROOT, answer)
            }
            Request::PublishRoot(state) => {
                let mut held = self.root.borrow_mut();
                if !self.root_known.get() || held.version <= state.version {
                    *held = state;
                    self.root_known.set(true);
                }
                Ok(Reply::Done)
            }
            Request::InUse(parts) => {
                let (reading, now) = (self.reading.borrow(), self.env.now());
                let is_read =
                    |part: &ObjectId| reading.contains_key(part) || self.guest_reads.may_read(*part, now);
                Ok(Reply::InUse(parts.into_iter().filter(is_read).collect()))
            }
            Request::Pulse => Ok(Reply::Pulse(Box::new(crate::nodes::pulse(self)))),
            Request::FoundFar { by, took } => {
                // A gateway has a number, too, and is no node.
                if self.map.other_nodes().any(|node| node == by) {
                    self.note_distance(|distance| distance.found_by(by, took));
                }
                Ok(Reply::Done)
            }
            Request::GetRoot => match self.root_version() {
                Some(_) => Ok(Reply::Root(self.root.borrow().clone())),
                None => Err(Refusal::NotLeader),
            },
            Request::Facts => Ok(Reply::Facts(Box::new(self.facts().await))),
            Request::Drain(draining) => {
                self.drain(draining);
                Ok(Reply::Done)
            }
        }
    }

    fn own_disk(&self, disk: DiskIndex) -> Result<Disk, Refusal> {
        self.disks.borrow().get(&disk).cloned().ok_or(Refusal::DiskFailed)
    }

    pub(crate) fn read_counters(&self) -> CoreCounters {
        let mut counters = self.counters.read();
        counters.parts_to_repair = self.repairs.len() as u64;
        counters.bytes_to_repair = self.repairs.bytes();
        for (index, disk) in self.disks.borrow().iter() {
            counters.disks.push((*index, disk.counters().named()));
        }
        counters
    }

    /// The right to decide in a group; `NotLeader` where its leader is not on this core.
    pub(crate) fn lead(&self, group: GroupId) -> Result<Lead, Refusal> {
        let (term, view) = self.host.leader_view(group).ok_or(Refusal::NotLeader)?;
        Ok(Lead { term, view })
    }

    /// How far the replicas of a group on this core have applied (Raft index).
    pub(crate) fn applied(&self, group: GroupId) -> u64 {
        self.host.status(group).iter().map(|replica| replica.applied).max().unwrap_or(0)
    }

    /// Replicates a batch that was decided in `term`. Durable and applied when this returns.
    pub(crate) async fn propose(
        self: &Rc<Self>,
        group: GroupId,
        term: u64,
        batch: WriteBatch,
    ) -> Result<Position, Refusal> {
        self.host.propose(group, term, &batch).await.map_err(|error| match error {
            ProposeError::NotLeader { .. } | ProposeError::StaleTerm { .. } | ProposeError::Lost => {
                Refusal::NotLeader
            }
            ProposeError::Overloaded => Refusal::Overloaded,
            ProposeError::TooLarge => {
                ObjectError::Internal("the change is larger than one entry may be".into()).into()
            }
            ProposeError::Unknown => Refusal::Unknown,
        })
    }

    /// A view that holds every acknowledged write.
    pub(crate) async fn read_view(self: &Rc<Self>, group: GroupId, salvage: bool) -> Result<View, Refusal> {
        if salvage {
            return self.host.salvage(group).await.map_err(|error| match error {
                SalvageError::Elsewhere { disk } => {
                    self.map.disk_of(disk).map_or(Refusal::NotLeader, Refusal::Elsewhere)
                }
                // Something is moving: a leader was heard lately, a voter has not answered yet, rows are on their way.
                SalvageError::Majority
                | SalvageError::TooFew { .. }
                | SalvageError::Unusable
                | SalvageError::NoReplica => Refusal::NotLeader,
            });
        }
        match self.host.read_barrier(group).await {
            Ok(view) => Ok(view),
            Err(ReadError::Overloaded) => Err(Refusal::Overloaded),
            Err(ReadError::NotLeader { .. } | ReadError::Timeout) => Err(Refusal::NotLeader),
        }
    }

    /// A table of a replica's index is damaged: another replica takes over, and the question is asked there.
    pub(crate) fn index_refusal(&self, group: GroupId, error: &IndexError) -> Refusal {
        tracing::error!(%group, %error, "the index of a partition's replica is damaged");
        count(&self.counters.rows_damaged, 1);
        if let Some(disk) = self.host.leader(group) {
            self.host.index_damaged(group, disk);
        }
        Refusal::NotLeader
    }

    /// A share of the memory for bodies. Errors: `SlowDown` where it does not come in time.
    pub(crate) async fn body_share(&self, bytes: usize) -> Result<Held, ObjectError> {
        if let Some(held) = self.body_bytes.try_take(bytes) {
            return Ok(held);
        }
        self.env.timeout(BODY_PATIENCE, self.body_bytes.take(bytes)).await.ok_or(ObjectError::SlowDown)
    }

    /// An error where one of this core's disks with a replica of the group is nearly full: what adds rows is refused, so
    /// that there is room for removals.
    pub(crate) fn room_in(&self, group: GroupId) -> Result<(), Refusal> {
        let voters = self.map.groups.get(&group).map_or(&[][..], |mapped| &mapped.voters);
        let disks = self.disks.borrow();
        match voters.iter().filter_map(|disk| disks.get(disk)).any(Disk::is_short_of_space) {
            true => Err(Refusal::NoSpace),
            false => Ok(()),
        }
    }

    /// The codec for a code, made once.
    pub(crate) fn codec(&self, coding: Coding) -> Rc<Codec> {
        let mut codecs = self.codecs.borrow_mut();
        let codec = codecs.entry(coding).or_insert_with(|| {
            match Codec::new(usize::from(coding.k()), usize::from(coding.m())) {
                Some(codec) => Rc::new(codec),
                None => unreachable!("a Coding is within the limits of the codec"),
            }
        });
        codec.clone()
    }

    /// Tells the disks that a manifest refers to these chunks; nobody waits. What a disk lost since its chunk was finished is
    /// known now: it may have been emptied, and asked what belongs on it, before there was a manifest to tell.
    pub(crate) fn confirm_chunks(self: &Rc<Self>, part: &Part, owner: &ChunkOwner) {
        for (number, slot) in part.placement.disks.iter().enumerate() {
            let Some(disk) = self.map.disk_at(part.placement.set, *slot) else { continue };
            let chunk = ChunkName { object: part.object, number: number as u8 };
            let is_expected = part.placement.missing >> number & 1 == 0;
            let (core, owner) = (self.clone(), owner.clone());
            self.env.spawn(async move {
                for _ in 0..CONFIRM_ATTEMPTS {
                    match core.ask_disk(disk, Request::ChunkConfirm { disk, chunk }).await {
                        Err(Refusal::ChunkMissing) if is_expected => {
                            return core.suspect(&owner, chunk.object, chunk.number);
                        }
                        // It is not there, or being emptied.
                        Err(_) if is_expected => core.env.sleep(CONFIRM_RETRY).await,
                        _ => return,
                    }
                }
            });
        }
    }

    /// Tells a part's partition that a chunk is not whole; once in a while, and nobody waits.
    pub(crate) fn suspect(self: &Rc<Self>, owner: &ChunkOwner, object: ObjectId, chunk: u8) {
        let mut suspected = self.suspected.borrow_mut();
        if suspected.len() >= SUSPECTED_MAX {
            suspected.clear();
        }
        let known = suspected.entry(object).or_default();
        if *known >> chunk & 1 == 1 {
            return;
        }
        *known |= 1 << chunk;
        let (core, owner) = (self.clone(), owner.clone());
        self.env.spawn(async move {
            let group = core.map.group_for(owner.bucket, &owner.key);
            let told = PartitionOp::Suspect { owner, object, chunks: 1 << chunk };
            if core.ask_group(group, told).await.is_ok() {
                // Readers that come until it is written again need not say so, each of them.
                core.env.sleep(SUSPECTED_FOR).await;
            }
            // The next reader tells it: it may be damaged once more.
            core.suspected.borrow_mut().remove(&object);
        });
    }

    /// Keeps chunks from being freed while they are read.
    pub(crate) fn read_parts(self: &Rc<Self>, parts: &[Part]) -> Reading {
        let mut reading = self.reading.borrow_mut();
        for part in parts {
            *reading.entry(part.object).or_default() += 1;
        }
        Reading { core: self.clone(), parts: parts.iter().map(|part| part.object).collect() }
    }

    /// Seals a bucket in every partition. Errors: `BucketNotEmpty`.
    pub(crate) async fn seal_everywhere(self: &Rc<Self>, removal: &Removal) -> Result<(), ObjectError> {
        let groups = self.map.all_partitions();
        let (bucket, attempt) = (removal.id, removal.attempt);
        let seals = groups.iter().map(|group| self.ask_group(*group, PartitionOp::Seal { bucket, attempt }));
        let answers = join_all(seals).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(ObjectError::from)
    }

    /// Takes a removal back: seals go first, so that a bucket that is open is open everywhere.
    pub(crate) async fn reopen_bucket(self: &Rc<Self>, removal: Removal) -> Result<(), ObjectError> {
        let (groups, bucket, attempt) = (self.map.all_partitions(), removal.id, removal.attempt);
        let unseals =
            groups.iter().map(|group| self.ask_group(*group, PartitionOp::Unseal { bucket, attempt }));
        for answer in join_all(unseals).await {
            answer?;
        }
        self.ask_root(RootOp::UnmarkDeleting(removal)).await?;
        Ok(())
    }

    /// Takes back the removals that a crash cut short: their buckets are there again.
    pub(crate) async fn reopen_buckets(self: &Rc<Self>) {
        let root = self.root.borrow().clone();
        for record in root.buckets.values().filter(|record| record.deleting.is_some()) {
            let reopened = match self.begin_removal(&record.info.name, record.info.id).await {
                Ok(removal) => self.reopen_bucket(removal).await,
                Err(error) => Err(error),
            };
            if let Err(error) = reopened {
                tracing::warn!(bucket = record.info.name, %error, "a removal that was cut short is still open");
            }
        }
    }

    /// Of the root group's state that this core holds.
    pub(crate) fn root_version(&self) -> Option<u64> {
        self.root_known.get().then(|| self.root.borrow().version)
    }

    /// An error until this core holds the root group's state, and where that may be an old one.
    pub(crate) fn root_is_known(&self) -> Result<(), ObjectError> {
        if !self.root_known.get() {
            return Err(ObjectError::Unavailable("the buckets are not known yet: starting".into()));
        }
        // Where other nodes may go on without this one, what it knows may be old.
        let voters = self.map.voters_in_service(GroupId::ROOT);
        let may_be_old = self.map.nodes.len() > 1 && !voters.are_majority() && !voters.meet_every_majority();
        match may_be_old {
            true => Err(voters.too_few(GroupId::ROOT).into()),
            false => Ok(()),
        }
    }

    /// Takes a disk out of service; its replicas leave at once.
    pub(crate) fn retire(&self, disk: DiskIndex, state: DiskState, reason: &str) {
        let mapped = self.map.disk(disk);
        tracing::error!(disk = %mapped.path.display(), reason, "disk is out of service");
        mapped.set_state(state, reason);
        self.host.stop_disk(mapped.uuid);
        self.disks.borrow_mut().remove(&disk);
    }

    /// Keeps a disk for the reads of its chunks only; its replicas leave at once.
    pub(crate) fn only_read(&self, disk: DiskIndex, reason: &str) {
        let mapped = self.map.disk(disk);
        tracing::error!(disk = %mapped.path.display(), reason, "disk is read-only, replace it");
        mapped.set_state(DiskState::ReadOnly, reason);
        self.host.stop_disk(mapped.uuid);
    }

    /// Sends without waiting.
    pub(crate) fn broadcast(&self, message: impl Fn() -> CoreMessage) {
        for core in (0..self.cores()).filter(|core| *core != self.number) {
            if self.exchange.send(core, message()).is_err() {
                tracing::warn!(core, "the queue of a core is full: a message to it is lost");
            }
        }
    }
}

/// Parts that are being read.
pub(crate) struct Reading {
    core: Rc<Core>,
    parts: Vec<ObjectId>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut reading = self.core.reading.borrow_mut();
        for part in &self.parts {
            if let Some(readers) = reading.get_mut(part) {
                *readers -= 1;
                if *readers == 0 {
                    reading.remove(part);
                }
            }
        }
    }
}

fn chunk_id(chunk: ChunkName) -> ChunkId {
    ChunkId { object: chunk.object, number: chunk.number }
}

fn write_refusal(error: &ChunkWriteError) -> Refusal {
    match error {
        ChunkWriteError::NoSpace => Refusal::NoSpace,
        ChunkWriteError::TooManyWriters => Refusal::Overloaded,
        _ => Refusal::DiskFailed,
    }
}
