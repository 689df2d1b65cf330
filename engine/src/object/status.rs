//! The facts about a node, its sets and its disks; what they mean for an operator is judged above.
//!
//! What must hold: what is not known is `None`, never a zero; other nodes are asked only for a person, never for a machine that
//! asks all of them anyway.

use super::api::ObjectError;
use super::store::Store;
use crate::facts::{Facts, Road};
use crate::map::{DiskState, NodeIndex, NodeState, Place, Voters};
use crate::message::{DiskIndex, Refusal, Request};
use buckets_env::DiskSpace;
use buckets_ring::coding::Coding;
use buckets_ring::id::{DeploymentId, DiskUuid, GroupId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The whole picture.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Topology generation.
    pub generation: u64,
    /// Since this node started.
    pub uptime: Duration,
    /// Node by node; one without a name where the deployment has local disks only.
    pub nodes: Vec<PeerStatus>,
    /// Set by set.
    pub sets: Vec<SetStatus>,
    /// Group by group.
    pub groups: Vec<GroupVoters>,
    /// What this node's cores tell, all together.
    pub own: Facts,
}

/// A node, as this one sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Host and port.
    pub name: String,
    /// Whether it is this one.
    pub is_own: bool,
    /// Whether it answers.
    pub state: NodeState,
    /// How many cores it has, once it has told.
    pub cores: Option<u16>,
    /// How this node reaches it, all cores together; `None` where it has not asked it anything.
    pub road: Option<Road>,
    /// Its disks in service.
    pub disks_in_service: usize,
    /// All its disks.
    pub disks: usize,
    /// What it tells of itself; `None` where it was not asked, or did not answer.
    pub told: Option<Facts>,
}

/// A set.
#[derive(Clone, Debug)]
pub struct SetStatus {
    /// Its number.
    pub set: u16,
    /// K+M.
    pub coding: Coding,
    /// Its disks by slot.
    pub disks: Vec<DiskStatus>,
}

/// A disk.
#[derive(Clone, Debug)]
pub struct DiskStatus {
    /// Its identity.
    pub uuid: DiskUuid,
    /// Where it is: a path of this node, or with the node before it.
    pub endpoint: String,
    /// The node that has it: a place in [`NodeStatus::nodes`].
    pub node: NodeIndex,
    /// Its directory there.
    pub path: PathBuf,
    /// Place in its set.
    pub slot: u8,
    /// Whether it takes part.
    pub state: DiskState,
    /// Why not; empty where it does.
    pub reason: String,
    /// Whether it takes long beside the others, as this node or its own sees it.
    pub is_slow: bool,
    /// Entries of logs that it lacks, as far as the leaders of its groups were asked.
    pub entries_behind: u64,
    /// Of its file system; `None` where its node did not tell.
    pub space: Option<DiskSpace>,
    /// Its own counters since the start, by name; empty where it is not in service, or its node did not tell.
    pub counters: Vec<(&'static str, u64)>,
}

/// The voters of a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupVoters {
    /// The group.
    pub group: GroupId,
    /// How many of its voters are in service.
    pub voters: Voters,
}

impl Store {
    /// Whether requests can be served; the reason where not. A node whose disks are still being opened can often read already,
    /// but not write: it is ready when they are open, or when enough are.
    pub fn ready(&self) -> Result<(), String> {
        let map = &self.core.map;
        let starting = map.disks.iter().find(|disk| disk.state() == DiskState::Starting);
        if let Some(disk) = starting
            && !map.groups.keys().all(|group| map.voters_in_service(*group).are_majority())
        {
            let awaited = map.disks.iter().find(|disk| map.node(disk.node).state() != NodeState::Up);
            let node = map.node(awaited.unwrap_or(disk).node);
            let reason = Some(disk.reason()).filter(|reason| !reason.is_empty());
            return Err(match (awaited.is_none() && disk.node == map.own, reason) {
                (false, _) => format!("waiting for node {}", node.name),
                (true, Some(reason)) => format!("disk {}: {reason}", disk.path.display()),
                (true, None) => format!("disk {} is being opened", disk.path.display()),
            });
        }
        self.core.root_is_known().map_err(|error| error.to_string())
    }

    /// Whether this node leads nothing, so that it can be stopped: it serves what it is asked, but others should be asked.
    pub fn is_draining(&self) -> bool {
        self.core.map.own_node().is_draining()
    }

    /// Makes the node of this name, host and port, hand over what it leads and lead nothing until it is told otherwise or
    /// starts again; or (false) lead again what it should. Errors: `Conflict` where there is no such node.
    pub async fn drain(&self, name: &str, draining: bool) -> Result<(), ObjectError> {
        let map = &self.core.map;
        if map.nodes.len() == 1 {
            return Err(ObjectError::Conflict(
                "the deployment has one node only: nobody could lead in its place".to_owned(),
            ));
        }
        let mut named = map.nodes.iter().enumerate().filter(|(_, node)| node.name == name);
        let Some((node, _)) = named.next() else {
            return Err(ObjectError::Conflict(format!(
                "there is no node `{name}`; write host:port as the cluster file does"
            )));
        };
        let place = Place { node: node as NodeIndex, core: 0 };
        match self.core.ask_at(place, Request::Drain(draining)).await {
            Ok(_) => Ok(()),
            Err(refusal @ (Refusal::Unreachable | Refusal::Unknown)) => {
                Err(ObjectError::Unavailable(format!("node {name} did not answer: {refusal}")))
            }
            Err(Refusal::Overloaded) => Err(ObjectError::Unavailable(format!(
                "node {name} declined: it is busy, or runs a version that cannot be drained"
            ))),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// What this node knows by itself.
    pub async fn status(&self) -> Result<NodeStatus, ObjectError> {
        self.status_with(BTreeMap::new()).await
    }

    /// The whole picture: the other nodes are asked for what they alone know, and a second is waited for them.
    pub async fn status_of_all(&self) -> Result<NodeStatus, ObjectError> {
        self.status_with(self.core.facts_elsewhere().await).await
    }

    async fn status_with(&self, mut told: BTreeMap<NodeIndex, Facts>) -> Result<NodeStatus, ObjectError> {
        let (core, map) = (&self.core, &self.core.map);
        let own = core.facts_here().await?;
        told.insert(map.own, own.clone());
        let sets = map.sets().enumerate().map(|(number, (coding, members))| SetStatus {
            set: number as u16,
            coding,
            disks: members.iter().map(|disk| self.disk_status(*disk, &told)).collect(),
        });
        let sets = sets.collect();
        let groups = map
            .groups
            .keys()
            .map(|group| GroupVoters { group: *group, voters: map.voters_in_service(*group) });
        let nodes = (0..map.nodes.len() as NodeIndex).map(|index| {
            let node = map.node(index);
            PeerStatus {
                name: node.name.clone(),
                is_own: index == map.own,
                state: node.state(),
                cores: node.cores(),
                road: own.roads.get(&index).cloned(),
                disks_in_service: map.disks_of(index).filter(|(disk, _)| map.in_service(*disk)).count(),
                disks: map.disks_of(index).count(),
                told: told.remove(&index),
            }
        });
        Ok(NodeStatus {
            deployment: map.deployment,
            generation: map.generation,
            uptime: core.env.now().since(core.started),
            nodes: nodes.collect(),
            sets,
            groups: groups.collect(),
            own,
        })
    }

    fn disk_status(&self, index: DiskIndex, told: &BTreeMap<NodeIndex, Facts>) -> DiskStatus {
        let map = &self.core.map;
        let disk = map.disk(index);
        let of_node = told.get(&disk.node);
        let counters =
            of_node.and_then(|facts| facts.counters.disks.iter().find(|(of, _)| *of == index).cloned());
        let sees_slow = |facts: &Facts| facts.slow.contains(&index);
        DiskStatus {
            uuid: disk.uuid,
            endpoint: map.disk_name(index),
            node: disk.node,
            path: disk.path.clone(),
            slot: disk.slot,
            state: disk.state(),
            reason: disk.reason(),
            is_slow: of_node.is_some_and(sees_slow) || told.get(&map.own).is_some_and(sees_slow),
            entries_behind: told.values().filter_map(|facts| facts.behind.get(&index)).sum(),
            space: of_node.and_then(|facts| facts.spaces.get(&index).copied()),
            counters: counters.map(|(_, counters)| counters).unwrap_or_default(),
        }
    }
}
