//! How the nodes of a cluster on one machine are.
//!
//! What must hold: what is not known to be ready is not counted as ready. What a node knows of its disks beyond that they are
//! there, it says itself (`bucketsctl info`).

use super::directory::{LocalCluster, LocalNode};
use super::process::{self, Found};
use super::{LocalError, readiness};
use crate::local_disks;
use crate::verdict::{SetHealth, Verdict, overall};
use buckets_ring::{Endpoint, TopologyJson};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// Whether a node's process is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessState {
    /// It is.
    Running,
    /// It is, and does nothing until it is resumed.
    Paused,
    /// None was started, or the last one was stopped.
    Stopped,
    /// It is gone, and nobody had stopped it.
    Killed,
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProcessState::Running => "running",
            ProcessState::Paused => "paused",
            ProcessState::Stopped => "stopped",
            ProcessState::Killed => "killed",
        })
    }
}

/// How one node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// From 1.
    pub node: usize,
    /// Its process.
    pub state: ProcessState,
    /// The id of its process, where it is there.
    pub pid: Option<i32>,
    /// It serves.
    pub ready: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// Its disks that are not there.
    pub missing_disks: Vec<PathBuf>,
    /// For S3 clients.
    pub endpoint: String,
    /// For the other nodes, and its name in the cluster file.
    pub address: String,
    /// What its processes have said.
    pub log: PathBuf,
}

/// How the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalStatus {
    /// Its directory.
    pub directory: PathBuf,
    /// How safe the data is without the nodes that are not ready and the disks that are not there.
    pub verdict: Verdict,
    /// In order.
    pub nodes: Vec<NodeStatus>,
}

impl LocalStatus {
    /// Looks at all nodes at the same time.
    pub fn of(cluster: &LocalCluster) -> Result<LocalStatus, LocalError> {
        let nodes: Vec<NodeStatus> = std::thread::scope(|scope| {
            let looks: Vec<_> =
                cluster.nodes.iter().map(|node| scope.spawn(|| status_of(cluster, node))).collect();
            looks
                .into_iter()
                .map(|look| look.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<_, _>>()
        })?;
        let of_disk = |disk: &Endpoint| {
            cluster.nodes.iter().zip(&nodes).find(|(node, _)| disk.node() == Some(&node.address))
        };
        let is_well = |disk: &Endpoint| {
            of_disk(disk).is_some_and(|(_, status)| {
                status.ready && !status.missing_disks.iter().any(|missing| missing == Path::new(disk.path()))
            })
        };
        let verdict = verdict(&cluster.cluster.topology(), is_well);
        Ok(LocalStatus { directory: cluster.directory.clone(), verdict, nodes })
    }

    /// Nodes that are ready.
    pub fn ready(&self) -> usize {
        self.nodes.iter().filter(|node| node.ready).count()
    }
}

fn status_of(cluster: &LocalCluster, node: &LocalNode) -> Result<NodeStatus, LocalError> {
    let found = process::find(cluster, node)?;
    let (state, pid) = match &found {
        Found::Stopped => (ProcessState::Stopped, None),
        Found::Gone => (ProcessState::Killed, None),
        Found::Running(process) if process.is_paused() => (ProcessState::Paused, Some(process.pid)),
        Found::Running(process) => (ProcessState::Running, Some(process.pid)),
    };
    let ready = match state {
        ProcessState::Running => readiness::ask(node.listen),
        ProcessState::Paused => Err("it is paused".to_owned()),
        ProcessState::Stopped => Err("it is stopped".to_owned()),
        ProcessState::Killed => Err(match process::last_error(&node.log()) {
            Some(error) => format!("its process has ended: {error}"),
            None => "its process is gone".to_owned(),
        }),
    };
    let disks = cluster.cluster.disks_of(&node.address).into_iter();
    let missing = disks.filter(|disk| !local_disks::system_dir(disk).is_dir());
    Ok(NodeStatus {
        node: node.number,
        state,
        pid,
        ready: ready.is_ok(),
        reason: ready.err(),
        missing_disks: missing.map(|disk| disk.path().into()).collect(),
        endpoint: node.endpoint(),
        address: node.name(),
        log: node.log(),
    })
}

/// How safe the data is when only these disks are there.
fn verdict(topology: &TopologyJson, is_well: impl Fn(&Endpoint) -> bool) -> Verdict {
    overall(topology.sets.iter().map(|set| {
        let well = set.disks.iter().filter(|disk| is_well(&disk.endpoint)).count();
        // A set has at most 32 disks.
        SetHealth::of(set.coding, well as u8).verdict
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterFile, NewCluster};
    use buckets_engine::node::DiskSizes;
    use buckets_ring::BlockChecksum;

    #[test]
    fn the_verdict_is_of_the_disks_that_are_there() {
        let patterns = ["http://node{1...6}:9100/d{1...2}".to_owned()];
        let new = NewCluster {
            coding: "8+4".parse().unwrap(),
            block_checksum: BlockChecksum::Xxh3,
            disk_sizes: DiskSizes::Dev,
            patterns: &patterns,
        };
        let file = ClusterFile::parse(Path::new("cluster.toml"), &new.compose().unwrap()).unwrap();
        let topology = file.topology();
        let without = |lost: &[&str]| {
            verdict(&topology, |disk| !lost.iter().any(|lost| disk.to_string().contains(lost)))
        };
        assert_eq!(without(&[]), Verdict::Safe);
        assert_eq!(without(&["node1:9100/d1"]), Verdict::Degraded);
        assert_eq!(without(&["node1"]), Verdict::Degraded);
        assert_eq!(without(&["node1", "node2"]), Verdict::AtRisk);
        assert_eq!(without(&["node"]), Verdict::AtRisk);
    }
}
