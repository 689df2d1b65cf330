//! Which disks there are, which core owns each, which of them are in service, and where keys and chunks belong.
//!
//! What must hold: the map is the same on every core (it is shared and immutable but for the states); a disk is written
//! to only by the core that owns it; a state is set only by that core, and read by all.

use crate::message::{DiskIndex, Refusal};
use crate::object::api::ObjectError;
use buckets_ring::assembly::Assembly;
use buckets_ring::coding::Coding;
use buckets_ring::hash_ring::HashRing;
use buckets_ring::id::{BucketId, DeploymentId, DiskUuid, GroupId, ObjectId};
use buckets_ring::key::KeyHash;
use buckets_ring::placement;
use buckets_ring::topology::TopologyJson;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

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
}

/// One disk of the topology.
pub struct MappedDisk {
    /// Its identity.
    pub uuid: DiskUuid,
    /// As configured, or as the topology remembers it.
    pub path: PathBuf,
    /// Set, counted over all pools.
    pub set: u16,
    /// Place in the set.
    pub slot: u8,
    /// The core that owns it.
    pub core: usize,
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
    pub disks: Vec<MappedDisk>,
    /// By id.
    pub groups: BTreeMap<GroupId, MappedGroup>,
    /// Bodies up to so many bytes live beside their manifest.
    pub inline_bytes_max: usize,
    sets: Vec<MappedSet>,
    ring: HashRing,
}

impl NodeMap {
    /// Spreads the disks of an assembled deployment over `cores`. `None` where it has no active set.
    pub fn new(assembly: &Assembly, cores: usize, inline_bytes_max: usize) -> Option<NodeMap> {
        let ring = HashRing::of_topology(&assembly.topology)?;
        let mut disks: Vec<MappedDisk> = Vec::new();
        let mut sets = Vec::new();
        let mut groups = BTreeMap::new();
        for (set, described) in assembly.topology.sets.iter().enumerate() {
            let set = u16::try_from(set).ok()?;
            let mut of_set = Vec::new();
            for (slot, disk) in described.disks.iter().enumerate() {
                let member = assembly.members.iter().find(|member| member.disk == disk.uuid);
                let endpoint = member.map_or(&disk.endpoint, |member| &member.endpoint);
                of_set.push(DiskIndex::try_from(disks.len()).ok()?);
                disks.push(MappedDisk {
                    uuid: disk.uuid,
                    path: PathBuf::from(endpoint.path()),
                    set,
                    slot: u8::try_from(slot).ok()?,
                    core: disks.len() % cores,
                    is_member: member.is_some(),
                    state: AtomicU8::new(DiskState::Starting as u8),
                    reason: Mutex::default(),
                });
            }
            sets.push(MappedSet {
                coding: described.coding,
                partitions: described.partitions,
                disks: of_set,
            });
        }
        let index_of =
            |uuid: &DiskUuid| disks.iter().position(|disk| disk.uuid == *uuid).map(|at| at as DiskIndex);
        for (group, voters) in voters_of(&assembly.topology) {
            let voters = voters.iter().map(index_of).collect::<Option<Vec<DiskIndex>>>()?;
            groups.insert(group, MappedGroup { group, preferred: *voters.first()?, voters });
        }
        Some(NodeMap {
            deployment: assembly.deployment,
            generation: assembly.topology.generation,
            disks,
            groups,
            inline_bytes_max,
            sets,
            ring,
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
        self.disks.iter().position(|disk| disk.uuid == uuid).map(|at| at as DiskIndex)
    }

    /// The disk itself.
    pub fn disk(&self, index: DiskIndex) -> &MappedDisk {
        &self.disks[usize::from(index)]
    }

    /// Whether a disk takes reads and writes.
    pub fn in_service(&self, index: DiskIndex) -> bool {
        self.disk(index).state() == DiskState::InService
    }

    /// Whether chunks are read from a disk.
    pub fn is_readable(&self, index: DiskIndex) -> bool {
        matches!(self.disk(index).state(), DiskState::InService | DiskState::ReadOnly)
    }

    /// Whether the disk in a slot takes reads and writes.
    pub fn in_service_at(&self, set: u16, slot: u8) -> bool {
        self.disk_at(set, slot).is_some_and(|disk| self.in_service(disk))
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
        match self.state.load(Ordering::Acquire) {
            0 => DiskState::Starting,
            1 => DiskState::InService,
            2 => DiskState::Absent,
            3 => DiskState::Fenced,
            _ => DiskState::ReadOnly,
        }
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
