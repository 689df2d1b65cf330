//! Which disks make which sets, and how that changes: `<disk>/.buckets.sys/topology.json`.
//!
//! What must hold:
//! - A change is a new generation, exactly one higher, decided by the root group; the file is its durable copy on every disk.
//! - Sets are numbered over all pools in order, are only ever appended, and never change their code or their number of
//!   partitions: keys and groups depend on both. A slot of a set may get another disk.
//! - A [`TopologyJson`] in memory satisfies [`TopologyJson::parse`]'s rules.

use crate::coding::Coding;
use crate::endpoint::Endpoint;
use crate::id::{DeploymentId, DiskUuid};
use crate::sealed_json::{self, SealError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The file's name in the system directory.
pub const TOPOLOGY_FILE: &str = "topology.json";
/// Virtual nodes of each set on the hash ring.
pub const VNODES_PER_SET: u16 = 150;
/// Most sets of a deployment.
pub const SETS_MAX: usize = 4096;
/// Most partitions of a set: group ids have 8 bits for them.
pub const PARTITIONS_MAX: u16 = 256;

/// What a set is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetState {
    /// Owns keys.
    Active,
    /// Owns no keys any more; what it still holds is being moved.
    Draining,
    /// Holds nothing; its number is never used again.
    Removed,
}

impl SetState {
    /// Whether a next generation may have the set in `next`.
    pub fn may_become(self, next: SetState) -> bool {
        matches!(
            (self, next),
            (SetState::Active, SetState::Active | SetState::Draining)
                | (SetState::Draining, SetState::Draining | SetState::Active | SetState::Removed)
                | (SetState::Removed, SetState::Removed)
        )
    }
}

impl std::fmt::Display for SetState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SetState::Active => "active",
            SetState::Draining => "draining",
            SetState::Removed => "removed",
        })
    }
}

/// One disk as the topology knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyDisk {
    /// The disk.
    pub uuid: DiskUuid,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Size of its file system when it was added, in bytes; 0 where it is not known.
    pub capacity_bytes: u64,
}

/// One erasure set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologySet {
    /// The pool it was added with.
    pub pool: u16,
    /// What it is there for.
    pub state: SetState,
    /// K+M.
    pub coding: Coding,
    /// Raft groups its keys are divided into.
    pub partitions: u16,
    /// Its disks in slot order: slot s of an object's rotation is `disks[s]`.
    pub disks: Vec<TopologyDisk>,
}

impl TopologySet {
    /// A new set, with as many partitions as disks: each disk leads one.
    pub fn new(pool: u16, coding: Coding, disks: Vec<TopologyDisk>) -> TopologySet {
        TopologySet { pool, state: SetState::Active, coding, partitions: coding.n().into(), disks }
    }
}

/// Why a `topology.json`, or a change of it, was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Damaged, edited, or not ours.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Written by a later version.
    #[error("its {what} is {found}, this version understands {expected}")]
    Unsupported {
        /// Which member.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What this build reads.
        expected: u64,
    },
    /// Intact and understood, but contradictory.
    #[error("it contradicts itself: {0}")]
    Contradiction(String),
    /// Not a legal next generation.
    #[error("generation {next} cannot follow generation {current}: {what}")]
    Succession {
        /// The generation in force.
        current: u64,
        /// The one proposed.
        next: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// All sets of a deployment at one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyJson {
    /// The deployment.
    pub deployment: DeploymentId,
    /// 0 for a deployment without sets, 1 for the first with some, one more for each change.
    pub generation: u64,
    /// All sets, the removed too: a set's number is its index.
    pub sets: Vec<TopologySet>,
}

impl TopologyJson {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut pools: Vec<v1::Pool> = Vec::new();
        for (index, set) in self.sets.iter().enumerate() {
            if pools.last().is_none_or(|pool| pool.idx != set.pool) {
                pools.push(v1::Pool { idx: set.pool, sets: Vec::new() });
            }
            if let Some(pool) = pools.last_mut() {
                pool.sets.push(v1::Set::from_checked(index, set));
            }
        }
        sealed_json::seal(&v1::File {
            version: v1::VERSION,
            generation: self.generation,
            deployment_id: self.deployment,
            vnode_factor: VNODES_PER_SET,
            pools,
        })
    }

    /// Reads a file: intact, of a known version, sets numbered in order, each of K+M disks, no disk and no endpoint twice.
    pub fn parse(bytes: &[u8]) -> Result<TopologyJson, TopologyError> {
        let file: v1::File = sealed_json::open(bytes)?;
        let known = [
            ("version", file.version, v1::VERSION),
            ("vnodeFactor", file.vnode_factor.into(), VNODES_PER_SET.into()),
        ];
        for (what, found, expected) in known {
            if found != expected {
                return Err(TopologyError::Unsupported {
                    what,
                    found: found.into(),
                    expected: expected.into(),
                });
            }
        }
        let mut sets = Vec::new();
        for pool in file.pools {
            for set in pool.sets {
                if set.idx != sets.len() {
                    return Err(contradiction(format!(
                        "set {} stands where set {} is expected",
                        set.idx,
                        sets.len()
                    )));
                }
                sets.push(set.into_checked(pool.idx)?);
            }
        }
        let topology = TopologyJson { deployment: file.deployment_id, generation: file.generation, sets };
        topology.check()?;
        Ok(topology)
    }

    /// Whether the rules hold that [`TopologyJson::parse`] asks for.
    pub fn check(&self) -> Result<(), TopologyError> {
        if (self.generation == 0) != self.sets.is_empty() {
            return Err(contradiction(format!(
                "generation {} with {} sets",
                self.generation,
                self.sets.len()
            )));
        }
        if self.sets.len() > SETS_MAX {
            return Err(contradiction(format!("{} sets, at most {SETS_MAX} are supported", self.sets.len())));
        }
        let mut disks = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        let mut pool = 0;
        for (index, set) in self.sets.iter().enumerate() {
            if set.disks.len() != usize::from(set.coding.n()) {
                let (have, coding) = (set.disks.len(), set.coding);
                return Err(contradiction(format!(
                    "set {index} has {have} disks, {coding} needs {}",
                    coding.n()
                )));
            }
            if !(1..=PARTITIONS_MAX).contains(&set.partitions) {
                return Err(contradiction(format!("set {index} has {} partitions", set.partitions)));
            }
            if set.pool < pool {
                return Err(contradiction(format!(
                    "set {index} of pool {} stands after pool {pool}",
                    set.pool
                )));
            }
            pool = set.pool;
            // A removed set's places may serve again.
            for disk in set.disks.iter().filter(|_| set.state != SetState::Removed) {
                if !disks.insert(disk.uuid) {
                    return Err(contradiction(format!("disk {} is in it twice", disk.uuid)));
                }
                if !endpoints.insert(&disk.endpoint) {
                    return Err(contradiction(format!("{} is in it twice", disk.endpoint)));
                }
            }
        }
        Ok(())
    }

    /// Whether `next` may follow this generation.
    pub fn check_successor(&self, next: &TopologyJson) -> Result<(), TopologyError> {
        next.check()?;
        let refuse = |what: String| {
            Err(TopologyError::Succession { current: self.generation, next: next.generation, what })
        };
        if next.deployment != self.deployment {
            return refuse(format!("it is of deployment {}, not {}", next.deployment, self.deployment));
        }
        if self.generation.checked_add(1) != Some(next.generation) {
            return refuse("generations follow one by one".to_owned());
        }
        if next.sets.len() < self.sets.len() {
            return refuse(format!(
                "sets are never dropped, but {} became {}",
                self.sets.len(),
                next.sets.len()
            ));
        }
        for (index, (old, new)) in self.sets.iter().zip(&next.sets).enumerate() {
            if (old.pool, old.coding, old.partitions) != (new.pool, new.coding, new.partitions) {
                return refuse(format!("pool, code and partitions of set {index} are fixed"));
            }
            if !old.state.may_become(new.state) {
                return refuse(format!("set {index} is {} and cannot become {}", old.state, new.state));
            }
        }
        if let Some(index) =
            (self.sets.len()..next.sets.len()).find(|i| next.sets[*i].state != SetState::Active)
        {
            return refuse(format!("set {index} is new and must be active"));
        }
        Ok(())
    }

    /// Set and slot of a disk; removed sets do not count.
    pub fn place_of(&self, disk: DiskUuid) -> Option<(usize, usize)> {
        self.disks().find(|(_, _, d)| d.uuid == disk).map(|(set, slot, _)| (set, slot))
    }

    /// All disks of the sets that are not removed, with set and slot.
    pub fn disks(&self) -> impl Iterator<Item = (usize, usize, &TopologyDisk)> {
        self.sets.iter().enumerate().filter(|(_, set)| set.state != SetState::Removed).flat_map(
            |(index, set)| set.disks.iter().enumerate().map(move |(slot, disk)| (index, slot, disk)),
        )
    }

    /// The numbers of the sets that own keys.
    pub fn active_sets(&self) -> impl Iterator<Item = u16> {
        let active = self.sets.iter().enumerate().filter(|(_, set)| set.state == SetState::Active);
        // At most SETS_MAX.
        active.map(|(index, _)| index as u16)
    }
}

fn contradiction(what: String) -> TopologyError {
    TopologyError::Contradiction(what)
}

mod v1 {
    use super::{SetState, TopologyDisk, TopologyError, TopologySet, contradiction};
    use crate::coding::Coding;
    use crate::id::{DeploymentId, DiskUuid};
    use serde::{Deserialize, Serialize};

    pub(super) const VERSION: u32 = 1;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct File {
        pub(super) version: u32,
        pub(super) generation: u64,
        pub(super) deployment_id: DeploymentId,
        pub(super) vnode_factor: u16,
        pub(super) pools: Vec<Pool>,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Pool {
        pub(super) idx: u16,
        pub(super) sets: Vec<Set>,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Set {
        pub(super) idx: usize,
        pub(super) state: SetState,
        erasure: Coding,
        partitions: u16,
        disks: Vec<Disk>,
    }

    #[derive(Serialize, Deserialize)]
    struct Disk {
        uuid: DiskUuid,
        endpoint: String,
        capacity: u64,
    }

    impl Set {
        pub(super) fn from_checked(idx: usize, set: &TopologySet) -> Set {
            let disk = |d: &TopologyDisk| Disk {
                uuid: d.uuid,
                endpoint: d.endpoint.to_string(),
                capacity: d.capacity_bytes,
            };
            Set {
                idx,
                state: set.state,
                erasure: set.coding,
                partitions: set.partitions,
                disks: set.disks.iter().map(disk).collect(),
            }
        }

        pub(super) fn into_checked(self, pool: u16) -> Result<TopologySet, TopologyError> {
            let disk = |d: Disk| {
                let endpoint = d.endpoint.parse().map_err(|e| contradiction(format!("{e}")))?;
                Ok(TopologyDisk { uuid: d.uuid, endpoint, capacity_bytes: d.capacity })
            };
            Ok(TopologySet {
                pool,
                state: self.state,
                coding: self.erasure,
                partitions: self.partitions,
                disks: self.disks.into_iter().map(disk).collect::<Result<_, TopologyError>>()?,
            })
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn deployment() -> DeploymentId {
        DeploymentId::from_bytes([0xd0; 16])
    }

    /// `sets` sets of 2+2; disk d of set s has a uuid of bytes s, d and the path /disk<s>-<d>.
    pub(crate) fn topology(sets: u8) -> TopologyJson {
        let disk = |set: u8, slot: u8| TopologyDisk {
            uuid: disk_uuid(set, slot),
            endpoint: format!("/disk{set}-{slot}").parse().unwrap(),
            capacity_bytes: 1 << 40,
        };
        let set = |index: u8| TopologySet {
            pool: 0,
            state: SetState::Active,
            coding: Coding::new(2, 2).unwrap(),
            partitions: 4,
            disks: (0..4).map(|slot| disk(index, slot)).collect(),
        };
        TopologyJson { deployment: deployment(), generation: 1, sets: (0..sets).map(set).collect() }
    }

    pub(crate) fn disk_uuid(set: u8, slot: u8) -> DiskUuid {
        let mut bytes = [0xaa; 16];
        bytes[0] = set;
        bytes[1] = slot;
        DiskUuid::from_bytes(bytes)
    }

    fn with(change: impl FnOnce(&mut TopologyJson)) -> TopologyJson {
        let mut next = topology(2);
        next.generation += 1;
        change(&mut next);
        next
    }

    #[test]
    fn what_was_written_is_read() {
        let mut topology = topology(3);
        topology.sets[1].state = SetState::Draining;
        topology.sets[2].pool = 1;
        assert_eq!(TopologyJson::parse(&topology.to_bytes()), Ok(topology.clone()));
        assert_eq!(topology.place_of(disk_uuid(2, 3)), Some((2, 3)));
        assert_eq!(topology.active_sets().collect::<Vec<_>>(), [0, 2]);
        let empty = TopologyJson { deployment: deployment(), generation: 0, sets: Vec::new() };
        assert_eq!(TopologyJson::parse(&empty.to_bytes()), Ok(empty));
    }

    #[test]
    fn the_file_keeps_its_known_shape() {
        let value: serde_json::Value = serde_json::from_slice(&topology(1).to_bytes()).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value["generation"], 1);
        assert_eq!(value["deploymentId"], deployment().to_string());
        assert_eq!(value["vnodeFactor"], 150);
        let set = &value["pools"][0]["sets"][0];
        assert_eq!((&set["idx"], &set["state"]), (&0.into(), &"active".into()));
        assert_eq!(set["disks"][2]["uuid"], disk_uuid(0, 2).to_string());
        assert_eq!(set["disks"][2]["endpoint"], "/disk0-2");
        assert_eq!(set["disks"][2]["capacity"], 1u64 << 40);
    }

    #[test]
    fn contradictions_are_refused() {
        let changes: [fn(&mut TopologyJson); 6] = [
            |t| t.generation = 0,
            |t| t.sets[0].disks.truncate(3),
            |t| t.sets[0].partitions = 0,
            |t| t.sets[0].disks[0].uuid = t.sets[1].disks[0].uuid,
            |t| t.sets[0].disks[0].endpoint = t.sets[1].disks[0].endpoint.clone(),
            |t| t.sets[0].pool = 1,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let bytes = with(change).to_bytes();
            let result = TopologyJson::parse(&bytes);
            assert!(matches!(result, Err(TopologyError::Contradiction(_))), "change {index}: {result:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let good = topology(1).to_bytes();
        for at in (0..good.len()).filter(|at| good[*at].is_ascii_alphanumeric()) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(TopologyJson::parse(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn legal_changes_follow() {
        let replaced = |t: &mut TopologyJson| t.sets[0].disks[1].uuid = disk_uuid(9, 9);
        let grown = |t: &mut TopologyJson| t.sets.push(topology(3).sets.remove(2));
        let drained = |t: &mut TopologyJson| t.sets[1].state = SetState::Draining;
        for next in [with(replaced), with(grown), with(drained)] {
            assert_eq!(topology(2).check_successor(&next), Ok(()));
        }
    }

    #[test]
    fn illegal_changes_do_not_follow() {
        let changes: [fn(&mut TopologyJson); 7] = [
            |t| t.generation = 3,
            |t| t.generation = 1,
            |t| t.deployment = DeploymentId::from_bytes([1; 16]),
            |t| t.sets.truncate(1),
            |t| t.sets[0].partitions = 8,
            |t| t.sets[0].state = SetState::Removed,
            |t| {
                let mut set = topology(3).sets.remove(2);
                set.state = SetState::Draining;
                t.sets.push(set);
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let result = topology(2).check_successor(&with(change));
            assert!(matches!(result, Err(TopologyError::Succession { .. })), "change {index}: {result:?}");
        }
    }
}
