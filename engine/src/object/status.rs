//! The facts about a node, its sets and its disks; what they mean for an operator is judged above.
//!
//! What must hold: what is not known is `None`, never a zero.

use super::api::ObjectError;
use super::store::Store;
use crate::counters::CoreCounters;
use crate::map::{DiskState, Voters};
use crate::message::{DiskIndex, Reply, Request};
use buckets_env::DiskSpace;
use buckets_ring::coding::Coding;
use buckets_ring::id::{DeploymentId, DiskUuid, GroupId};
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
    /// Set by set.
    pub sets: Vec<SetStatus>,
    /// Group by group.
    pub groups: Vec<GroupVoters>,
    /// Counters of all cores since the start.
    pub counters: CoreCounters,
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
    /// Where it is.
    pub path: PathBuf,
    /// Place in its set.
    pub slot: u8,
    /// Whether it takes part.
    pub state: DiskState,
    /// Why not; empty where it does.
    pub reason: String,
    /// Of its file system.
    pub space: Option<DiskSpace>,
    /// Its own counters since the start, by name; empty where it is not in service.
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
            return Err(format!("disk {} is being opened", disk.path.display()));
        }
        self.core.root_is_known().map_err(|error| error.to_string())
    }

    /// The whole picture.
    pub async fn status(&self) -> Result<NodeStatus, ObjectError> {
        let core = &self.core;
        let counters = self.counters().await?;
        let mut sets = Vec::new();
        for (number, (coding, members)) in core.map.sets().enumerate() {
            let mut disks = Vec::new();
            for disk in members {
                disks.push(self.disk_status(*disk, &counters).await);
            }
            sets.push(SetStatus { set: number as u16, coding, disks });
        }
        let groups = core
            .map
            .groups
            .keys()
            .map(|group| GroupVoters { group: *group, voters: core.map.voters_in_service(*group) });
        Ok(NodeStatus {
            deployment: core.map.deployment,
            generation: core.map.generation,
            uptime: core.env.now().since(core.started),
            sets,
            groups: groups.collect(),
            counters,
        })
    }

    /// Counters of all cores of this node.
    async fn counters(&self) -> Result<CoreCounters, ObjectError> {
        let mut sum = CoreCounters::default();
        for core in 0..self.core.cores() {
            match self.core.ask(core, Request::Counters).await? {
                Reply::Counters(counters) => sum.add(*counters),
                _ => return Err(ObjectError::Internal("counters were asked for".into())),
            }
        }
        Ok(sum)
    }

    async fn disk_status(&self, index: DiskIndex, counters: &CoreCounters) -> DiskStatus {
        let disk = self.core.map.disk(index);
        let space = match disk.state() {
            DiskState::InService | DiskState::ReadOnly => self.core.env.disk_space(&disk.path).await.ok(),
            _ => None,
        };
        let own = counters.disks.iter().find(|(of, _)| *of == index);
        DiskStatus {
            uuid: disk.uuid,
            path: disk.path.clone(),
            slot: disk.slot,
            state: disk.state(),
            reason: disk.reason(),
            space,
            counters: own.map(|(_, counters)| counters.clone()).unwrap_or_default(),
        }
    }
}
