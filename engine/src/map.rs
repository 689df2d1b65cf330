//! Which nodes and disks there are, which core owns each disk, which of them are in service, and where keys and chunks belong.
//!
//! What must hold: the map is the same on every core (it is shared and immutable but for the states); a disk is written
//! to only by the core that owns it; the state of a disk of this node is set only by that core, that of another node's disk
//! only by core 0 as that node tells it, and all read them; that this node is drained may be set by any of its cores. Nodes
//! of one generation number disks and groups alike.

use crate::message::{DiskIndex, Refusal};
use crate::object::api::ObjectError;
use buckets_env::Instant;
use buckets_peer::NodeId;
use buckets_ring::assembly::Assembly;
use buckets_ring::coding::Coding;
use buckets_ring::endpoint::NodeAddress;
use buckets_ring::hash_ring::HashRing;
use buckets_ring::id::{BucketId, DeploymentId, DiskUuid, GroupId, ObjectId};
use buckets_ring::key::KeyHash;
use buckets_ring::placement;
use buckets_ring::topology::TopologyJson;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Bodies up to so many bytes live beside their manifest, unless something else is chosen. Measured (benches/README.md):
/// below it a PUT beside the manifest is 2 to 3 times as fast as one in chunks, above it slower.
pub const INLINE_BYTES_DEFAULT: usize = 16 << 10;
/// The most that may be chosen, in bytes: such a body is one row of the index.
pub const INLINE_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(INLINE_BYTES_MAX < buckets_index::VALUE_BYTES_MAX);

/// Whether a disk takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// Not opened yet.
    Starting,
    /// Reads and writes.
    InService,
    /// Not there, refused, or could not be opened.
    Absent,
    /// A write or flush failed; it is opened again after a while.
    Fenced,
    /// Its metadata is damaged: its chunks are read, each verified, but nothing is written to it and its replicas take no
    /// part. It has to be replaced.
    ReadOnly,
    /// Reads and writes; but it was emptied, and not all of its chunks are there again.
    Rebuilding,
}

impl DiskState {
    const ALL: [DiskState; 6] = [
        DiskState::Starting,
        DiskState::InService,
        DiskState::Absent,
        DiskState::Fenced,
        DiskState::ReadOnly,
        DiskState::Rebuilding,
    ];

    /// Takes reads and writes.
    pub fn is_in_service(self) -> bool {
        matches!(self, DiskState::InService | DiskState::Rebuilding)
    }

    /// As nodes tell it each other.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_number(number: u8) -> Option<DiskState> {
        DiskState::ALL.get(usize::from(number)).copied()
    }
}

/// A node's place in the node map of this node.
pub type NodeIndex = u16;

/// A core of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: NodeIndex,
    /// Its core.
    pub core: usize,
}

/// Whether a node is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Nothing was heard of it yet.
    Awaited,
    /// It answers.
    Up,
    /// It does not.
    Unreachable,
}

impl NodeState {
    /// As logs and the admin API show it.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Awaited => "awaited",
            NodeState::Up => "up",
            NodeState::Unreachable => "unreachable",
        }
    }
}

/// One node of the deployment.
pub struct MappedNode {
    /// What it proves to others.
    pub id: NodeId,
    /// Host and port as the topology has them; empty where the deployment has local disks only.
    pub name: String,
    /// 0 until it told.
    cores: AtomicU16,
    state: AtomicU8,
    /// When it was lost, in nanoseconds of the clock; the end of time where that never happened.
    lost_at: AtomicU64,
    draining: AtomicBool,
    far: AtomicBool,
    address: Mutex<Option<SocketAddr>>,
}

impl MappedNode {
    /// How many cores it has; `None` until it told.
    pub fn cores(&self) -> Option<u16> {
        Some(self.cores.load(Ordering::Acquire)).filter(|cores| *cores > 0)
    }

    /// The host alone, as a certificate names it: an address of IPv6 without its brackets.
    pub fn host(&self) -> &str {
        let host = self.name.rsplit_once(':').map_or(&*self.name, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// Whether it is heard.
    pub fn state(&self) -> NodeState {
        match self.state.load(Ordering::Acquire) {
            0 => NodeState::Awaited,
            1 => NodeState::Up,
            _ => NodeState::Unreachable,
        }
    }

    /// For how long it has been lost, or nothing where it was never heard; `None` where it is heard.
    pub(crate) fn silent_for(&self, now: Instant) -> Option<Duration> {
        let lost_at = Instant(self.lost_at.load(Ordering::Acquire));
        (self.state() != NodeState::Up).then(|| now.since(lost_at))
    }

    /// Whether it shall lead nothing, so that it can be stopped. Known of this node only.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether others shall lead what it could: it is drained, or far from them or slow. Known of this node only.
    pub fn shall_not_lead(&self) -> bool {
        self.is_draining() || self.is_far()
    }

    /// Whether it is far from the others, or slow beside them. Known of this node only.
    pub(crate) fn is_far(&self) -> bool {
        self.far.load(Ordering::Acquire)
    }

    /// Where it listens for other nodes, as far as its name could be resolved.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.lock().map_or(None, |address| *address)
    }

    /// For who resolves names: at any time, from any thread.
    pub fn set_address(&self, address: SocketAddr) {
        if let Ok(mut held) = self.address.lock() {
            *held = Some(address);
        }
    }

    pub(crate) fn set_cores(&self, cores: u16) {
        self.cores.store(cores, Ordering::Release);
    }

    pub(crate) fn set_state(&self, state: NodeState) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(crate) fn set_lost(&self, now: Instant) {
        self.lost_at.store(now.0, Ordering::Release);
        self.set_state(NodeState::Unreachable);
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    pub(crate) fn set_far(&self, far: bool) {
        self.far.store(far, Ordering::Release);
    }
}

/// One disk of the topology.
pub struct MappedDisk {
    /// Its identity.
    pub uuid: DiskUuid,
    /// As configured, or as the topology remembers it: a path of its node.
    pub path: PathBuf,
    /// The node that has it.
    pub node: NodeIndex,
    /// Its number among the disks of its node.
    pub ordinal: u16,
    /// Set, counted over all pools.
    pub set: u16,
    /// Place in the set.
    pub slot: u8,
    /// As assembly judged it: a disk that is not there is never opened.
    pub is_member: bool,
    state: AtomicU8,
    reason: Mutex<String>,
}

struct MappedSet {
    coding: Coding,
    partitions: u16,
    disks: Vec<DiskIndex>,
}

/// One Raft group.
pub struct MappedGroup {
    /// Its id.
    pub group: GroupId,
    /// The disks that hold its replicas.
    pub voters: Vec<DiskIndex>,
    /// Which of them should lead.
    pub preferred: DiskIndex,
}

/// Everything that all cores agree on.
pub struct NodeMap {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Topology generation.
    pub generation: u64,
    /// By index.
    pub nodes: Vec<MappedNode>,
    /// This node.
    pub own: NodeIndex,
    /// By index.
    pub disks: Vec<MappedDisk>,
    /// By id.
    pub groups: BTreeMap<GroupId, MappedGroup>,
    /// Bodies up to so many bytes live beside their manifest.
    pub inline_bytes_max: usize,
    sets: Vec<MappedSet>,
    ring: HashRing,
    by_uuid: BTreeMap<DiskUuid, DiskIndex>,
    by_node: Vec<Vec<DiskIndex>>,
    /// With a voter on this node.
    own_groups: Vec<GroupId>,
}

impl NodeMap {
    /// The map of an assembled deployment for its node `own` with so many cores; `own` is `None` where the topology has local
    /// disks only. A node that the topology does not know has no disks: a gateway. `None` where there is no active set.
    pub fn new(
        assembly: &Assembly,
        own: Option<&NodeAddress>,
        cores: usize,
        inline_bytes_max: usize,
    ) -> Option<NodeMap> {
        let ring = HashRing::of_topology(&assembly.topology)?;
        let mut names: Vec<Option<&NodeAddress>> = Vec::new();
        let named = assembly.topology.sets.iter().flat_map(|set| &set.disks).map(|disk| disk.endpoint.node());
        for name in named.chain([own]) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let node_of = |name: Option<&NodeAddress>| {
            NodeIndex::try_from(names.iter().position(|known| *known == name)?).ok()
        };
        let mut by_node: Vec<Vec<DiskIndex>> = vec![Vec::new(); names.len()];
        let mut by_uuid = BTreeMap::new();
        let mut disks: Vec<MappedDisk> = Vec::new();
        let mut sets = Vec::new();
        let mut groups = BTreeMap::new();
        for (set, described) in assembly.topology.sets.iter().enumerate() {
            let set = u16::try_from(set).ok()?;
            let mut of_set = Vec::new();
            for (slot, disk) in described.disks.iter().enumerate() {
                let member = assembly.members.iter().find(|member| member.disk == disk.uuid);
                let endpoint = member.map_or(&disk.endpoint, |member| &member.endpoint);
                let index = DiskIndex::try_from(disks.len()).ok()?;
                let node = node_of(disk.endpoint.node())?;
                let of_node = &mut by_node[usize::from(node)];
                let ordinal = u16::try_from(of_node.len()).ok()?;
                of_node.push(index);
                of_set.push(index);
                by_uuid.insert(disk.uuid, index);
                disks.push(MappedDisk {
                    uuid: disk.uuid,
                    path: PathBuf::from(endpoint.path()),
                    node,
                    ordinal,
                    set,
                    slot: u8::try_from(slot).ok()?,
                    is_member: member.is_some(),
                    state: AtomicU8::new(DiskState::Starting.number()),
                    reason: Mutex::default(),
                });
            }
            sets.push(MappedSet {
                coding: described.coding,
                partitions: described.partitions,
                disks: of_set,
            });
        }
        let own = node_of(own)?;
        let mut own_groups = Vec::new();
        for (group, voters) in voters_of(&assembly.topology) {
            let voters: Vec<DiskIndex> = voters.iter().map(|uuid| by_uuid[uuid]).collect();
            if voters.iter().any(|disk| disks[usize::from(*disk)].node == own) {
                own_groups.push(group);
            }
            groups.insert(group, MappedGroup { group, preferred: *voters.first()?, voters });
        }
        let node = |name: &Option<&NodeAddress>| {
            let name = name.map(authority).unwrap_or_default();
            MappedNode {
                id: node_id(assembly.deployment, &name),
                name,
                cores: AtomicU16::new(0),
                state: AtomicU8::new(NodeState::Awaited as u8),
                lost_at: AtomicU64::new(u64::MAX),
                draining: AtomicBool::new(false),
                far: AtomicBool::new(false),
                address: Mutex::default(),
            }
        };
        let nodes: Vec<MappedNode> = names.iter().map(node).collect();
        nodes[usize::from(own)].set_cores(u16::try_from(cores).ok()?);
        nodes[usize::from(own)].set_state(NodeState::Up);
        Some(NodeMap {
            deployment: assembly.deployment,
            generation: assembly.topology.generation,
            nodes,
            own,
            disks,
            groups,
            inline_bytes_max,
            sets,
            ring,
            by_uuid,
            by_node,
            own_groups,
        })
    }

    /// The set that a key belongs to.
    pub fn set_for(&self, bucket: BucketId, key: &str) -> u16 {
        self.ring.set_of(KeyHash::new(bucket, key.as_bytes()))
    }

    /// The partition that a key belongs to.
    pub fn group_for(&self, bucket: BucketId, key: &str) -> GroupId {
        let hash = KeyHash::new(bucket, key.as_bytes());
        let set = self.ring.set_of(hash);
        GroupId::partition(set, hash.partition(self.sets[usize::from(set)].partitions))
    }

    /// Every partition of every set.
    pub fn all_partitions(&self) -> Vec<GroupId> {
        self.groups.keys().copied().filter(|group| *group != GroupId::ROOT).collect()
    }

    /// Every partition of a set.
    pub fn partitions_of(&self, set: u16) -> Vec<GroupId> {
        let partitions = self.sets.get(usize::from(set)).map_or(0, |set| set.partitions);
        (0..partitions).map(|partition| GroupId::partition(set, partition)).collect()
    }

    /// Sets with their code and disks.
    pub fn sets(&self) -> impl Iterator<Item = (Coding, &[DiskIndex])> {
        self.sets.iter().map(|set| (set.coding, &set.disks[..]))
    }

    /// K+M of a set.
    pub fn coding(&self, set: u16) -> Coding {
        self.sets[usize::from(set)].coding
    }

    /// The slots for an object's chunks, in order.
    pub fn chunk_order(&self, set: u16, object: ObjectId) -> Vec<u8> {
        placement::place(object, self.coding(set).n(), 0).as_slice().to_vec()
    }

    /// The disk in a slot of a set.
    pub fn disk_at(&self, set: u16, slot: u8) -> Option<DiskIndex> {
        self.sets.get(usize::from(set))?.disks.get(usize::from(slot)).copied()
    }

    /// A disk by its identity.
    pub fn disk_of(&self, uuid: DiskUuid) -> Option<DiskIndex> {
        self.by_uuid.get(&uuid).copied()
    }

    /// The core that owns a disk; `None` while its node has not told how many it has.
    pub fn place_of(&self, index: DiskIndex) -> Option<Place> {
        let disk = self.disk(index);
        let cores = self.nodes[usize::from(disk.node)].cores()?;
        Some(Place { node: disk.node, core: usize::from(disk.ordinal % cores) })
    }

    /// The nodes but this one.
    pub fn other_nodes(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        (0..self.nodes.len() as NodeIndex).filter(|node| *node != self.own)
    }

    /// A node by its index.
    pub fn node(&self, index: NodeIndex) -> &MappedNode {
        &self.nodes[usize::from(index)]
    }

    /// This node.
    pub fn own_node(&self) -> &MappedNode {
        self.node(self.own)
    }

    /// The disks of a node.
    pub fn disks_of(&self, node: NodeIndex) -> impl Iterator<Item = (DiskIndex, &MappedDisk)> {
        self.by_node[usize::from(node)].iter().map(|index| (*index, self.disk(*index)))
    }

    /// Groups with a voter on this node.
    pub fn own_groups(&self) -> &[GroupId] {
        &self.own_groups
    }

    /// Whether all voters of a group are on this node.
    pub fn is_local(&self, group: &MappedGroup) -> bool {
        group.voters.iter().all(|disk| self.disk(*disk).node == self.own)
    }

    /// A disk as people know it.
    pub fn disk_name(&self, index: DiskIndex) -> String {
        let disk = self.disk(index);
        match &self.node(disk.node).name[..] {
            "" => disk.path.display().to_string(),
            node => format!("{node}{}", disk.path.display()),
        }
    }

    /// The disk itself.
    pub fn disk(&self, index: DiskIndex) -> &MappedDisk {
        &self.disks[usize::from(index)]
    }

    /// Whether a disk takes reads and writes.
    pub fn in_service(&self, index: DiskIndex) -> bool {
        self.disk(index).state().is_in_service()
    }

    /// Whether chunks are read from a disk.
    pub fn is_readable(&self, index: DiskIndex) -> bool {
        let state = self.disk(index).state();
        state.is_in_service() || state == DiskState::ReadOnly
    }

    /// How many voters of a group are in service.
    pub fn voters_in_service(&self, group: GroupId) -> Voters {
        let voters = self.groups.get(&group).map_or(&[][..], |mapped| &mapped.voters);
        Voters {
            in_service: voters.iter().filter(|disk| self.in_service(**disk)).count(),
            all: voters.len(),
            majority: voters.len() / 2 + 1,
        }
    }
}

/// The voters of a group, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voters {
    /// Those whose disks are in service.
    pub in_service: usize,
    /// All of them.
    pub all: usize,
    /// So many commit.
    pub majority: usize,
}

impl Voters {
    /// Whether those in service can commit.
    pub fn are_majority(self) -> bool {
        self.in_service >= self.majority
    }

    /// Whether one of those in service holds every committed entry: no majority fits into the rest.
    pub fn meet_every_majority(self) -> bool {
        self.in_service > 0 && self.all - self.in_service < self.majority
    }

    /// The refusal where there are too few.
    pub(crate) fn too_few(self, group: GroupId) -> Refusal {
        let Voters { in_service, majority, .. } = self;
        let what =
            format!("partition {group} has {in_service} voters in service, {majority} are needed for writes");
        ObjectError::Unavailable(what).into()
    }
}

/// `host:port`, the host of an IPv6 address in brackets.
fn authority(address: &NodeAddress) -> String {
    match address.host.contains(':') {
        true => format!("[{}]:{}", address.host, address.port),
        false => format!("{}:{}", address.host, address.port),
    }
}

/// Every node can tell it from the topology.
fn node_id(deployment: DeploymentId, name: &str) -> NodeId {
    let mut hash = Xxh3::new();
    hash.update(b"buckets node");
    hash.update(deployment.as_bytes());
    hash.update(name.as_bytes());
    NodeId(hash.digest128().to_le_bytes())
}

/// The voters of every group, the one that should lead first.
pub(crate) fn voters_of(topology: &TopologyJson) -> BTreeMap<GroupId, Vec<DiskUuid>> {
    let mut groups = BTreeMap::new();
    for (set, described) in (0u16..).zip(&topology.sets) {
        let root = (set == 0).then_some((GroupId::ROOT, 0));
        let partitions = (0..described.partitions).map(|p| (GroupId::partition(set, p), p));
        for (group, partition) in root.into_iter().chain(partitions) {
            let slots = placement::voters(described.coding, partition);
            let voters = slots.as_slice().iter().map(|slot| described.disks[usize::from(*slot)].uuid);
            groups.insert(group, voters.collect());
        }
    }
    groups
}

impl MappedDisk {
    /// Whether it takes part.
    pub fn state(&self) -> DiskState {
        DiskState::from_number(self.state.load(Ordering::Acquire)).unwrap_or(DiskState::ReadOnly)
    }

    /// Why it is out of service; empty where it is not.
    pub fn reason(&self) -> String {
        self.reason.lock().map(|reason| reason.clone()).unwrap_or_default()
    }

    /// For the owning core.
    pub(crate) fn set_state(&self, state: DiskState, reason: &str) {
        if let Ok(mut held) = self.reason.lock() {
            reason.clone_into(&mut held);
        }
        self.state.store(state as u8, Ordering::Release);
    }
}
