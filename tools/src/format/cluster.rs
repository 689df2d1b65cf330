//! Formatting the disks of one node of a deployment of several, as its cluster file says.
//!
//! What must hold:
//! - Nothing is agreed with other nodes: identities follow from the file. Done twice, the second time changes nothing.
//! - A disk of this deployment is never destroyed, not even with force; one that lost its identity counts as such a disk
//!   while its topology says so.
//! - An empty place beside formatted disks is more likely a missing mount than a new disk: it is left alone without force. Who
//!   means to replace a disk says so ([`super::replace`]).

use super::{
    FormatDisksError, FormatPlan, KeptDisk, Obstacle, PlannedDisk, Stored, all_or_refused, claim_locked,
};
use crate::cluster::ClusterFile;
use crate::local_disks::{self, DirectoryState, DiskLock, LockError};
use buckets_engine::node::Contents;
use buckets_ring::assembly::FoundFile;
use buckets_ring::endpoint::NodeAddress;
use buckets_ring::id::{DeploymentId, DiskUuid};
use buckets_ring::{Endpoint, FormatJson, TopologyJson};
use std::fmt;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct ClusterFormatRequest<'a> {
    /// The deployment.
    pub cluster: &'a ClusterFile,
    /// The node whose disks are formatted.
    pub node: &'a NodeAddress,
    /// Format what is empty although others of the node are formatted, and destroy what other deployments stored.
    pub force: bool,
}

/// Why a disk cannot become the one that the cluster file has at its place.
#[derive(Clone, Debug)]
pub enum ClusterObstacle {
    /// A disk of another deployment, and not forced.
    OtherDeployment {
        /// What it holds.
        stored: Stored,
        /// The disk that belongs there.
        expected: DiskUuid,
        /// Its deployment.
        deployment: DeploymentId,
    },
    /// Another disk of this deployment.
    OtherDisk {
        /// The disk.
        found: DiskUuid,
        /// The disk that belongs there.
        expected: DiskUuid,
        /// Where the file has the one that was found.
        belongs: Option<Endpoint>,
    },
    /// The right disk, but formatted when the cluster file said something else.
    OtherSets(DiskUuid),
    /// The right disk without a topology: its formatting has not ended, or the file was lost.
    NoTopology {
        /// The disk.
        disk: DiskUuid,
        /// What is wrong with the topology.
        why: String,
    },
    /// Some disk of this deployment; which one is lost.
    LostIdentity {
        /// The disk that belongs there.
        expected: DiskUuid,
        /// What is wrong with the identity.
        why: String,
    },
    /// Not formatted although others of the node are, and not forced.
    Emptied(DiskUuid),
}

impl fmt::Display for ClusterObstacle {
    /// What stands behind the disk's place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterObstacle::OtherDeployment { stored, expected, deployment } => write!(
                f,
                "holds {stored}, disk {expected} of deployment {deployment} is expected there; mount the right disk, or repeat \
                 with --force to destroy what it holds"
            ),
            ClusterObstacle::OtherDisk { found, expected, belongs } => {
                write!(f, "is disk {found} of this deployment, disk {expected} is expected there; ")?;
                match belongs {
                    Some(place) => write!(f, "mount it at {place}, where it belongs"),
                    None => f.write_str(
                        "the cluster file does not have it: take it out, or restore the cluster file",
                    ),
                }
            }
            ClusterObstacle::OtherSets(disk) => write!(
                f,
                "is disk {disk} as expected, but the cluster file had other sets, another code or another checksum when it was \
                 formatted; restore the cluster file of that day"
            ),
            ClusterObstacle::NoTopology { disk, why } => write!(
                f,
                "is disk {disk} as expected, but its topology.json cannot be used ({why}); if the disk was in service, start \
                 bucketsd, which writes it again; if its formatting was interrupted, remove its .buckets.sys and repeat with \
                 --force"
            ),
            ClusterObstacle::LostIdentity { expected, why } => write!(
                f,
                "is a disk of this deployment whose format.json cannot be used ({why}), disk {expected} is expected there; \
                 restore the file, or replace the disk"
            ),
            ClusterObstacle::Emptied(expected) => write!(
                f,
                "is not formatted while other disks of this node are; check that it is mounted; to put an empty disk into the place of \
                 disk {expected}: bucketsctl disk replace"
            ),
        }
    }
}

/// How a place looks to its deployment.
pub(super) enum Seen {
    /// As it should be after formatting.
    Formatted,
    /// A disk of the deployment that is not as it should be.
    Wrong(ClusterObstacle),
    /// No disk of the deployment.
    Free,
}

/// One place, claimed where it could be, and looked at.
pub(super) struct Looked {
    pub(super) endpoint: Endpoint,
    pub(super) expected: FormatJson,
    pub(super) lock: Result<DiskLock, LockError>,
    pub(super) seen: Seen,
}

enum Decided {
    Keep(KeptDisk),
    Format(PlannedDisk),
}

/// Looks at the disks of the node, claims those that are not formatted yet, and decides what to do. Changes nothing. A
/// disk that is formatted already may be in use.
pub fn plan_cluster(request: &ClusterFormatRequest<'_>) -> Result<FormatPlan, FormatDisksError> {
    let disks = request.cluster.disks_of(request.node);
    let looked: Vec<Looked> = disks.into_iter().map(|disk| look(request.cluster, disk)).collect();
    let any_formatted = looked.iter().any(|disk| !matches!(disk.seen, Seen::Free));
    let places: Vec<Endpoint> = looked.iter().map(|disk| disk.endpoint.clone()).collect();
    let decided = looked.into_iter().map(|disk| decide(disk, request.force, any_formatted));
    let mut plan = FormatPlan {
        disks: Vec::new(),
        kept: Vec::new(),
        topology: request.cluster.topology(),
        sizes: request.cluster.disk_sizes,
    };
    for disk in all_or_refused(places.iter().zip(decided))? {
        match disk {
            Decided::Keep(disk) => plan.kept.push(disk),
            Decided::Format(disk) => plan.disks.push(disk),
        }
    }
    Ok(plan)
}

/// Claims before looking, so that what is seen stays as it is. A claim that fails is an obstacle only where the disk has
/// to be formatted.
fn look(cluster: &ClusterFile, endpoint: Endpoint) -> Looked {
    let expected = cluster.format_of(DiskUuid::of_endpoint(cluster.deployment, &endpoint));
    look_for(endpoint, expected, &cluster.topology())
}

/// Looks at the place of a disk of a topology.
pub(super) fn look_for(endpoint: Endpoint, expected: FormatJson, of: &TopologyJson) -> Looked {
    let lock = DiskLock::acquire(&endpoint);
    let found = local_disks::identify(&endpoint);
    let topology = match &found.topology {
        FoundFile::Bytes(bytes) => match TopologyJson::parse(bytes) {
            Ok(topology) if topology.deployment == of.deployment => Ok(()),
            Ok(topology) => Err(format!("it is of deployment {}", topology.deployment)),
            Err(error) => Err(error.to_string()),
        },
        FoundFile::Absent => Err("it is missing".to_owned()),
        FoundFile::Unreadable(why) => Err(why.clone()),
    };
    let format = match &found.format {
        FoundFile::Bytes(bytes) => FormatJson::parse(bytes).map_err(|error| error.to_string()),
        FoundFile::Absent => Err("it is missing".to_owned()),
        FoundFile::Unreadable(why) => Err(why.clone()),
    };
    let seen = match (format, topology) {
        (Ok(format), _) if format.deployment != of.deployment => Seen::Free,
        (Ok(format), _) if format.disk != expected.disk => {
            let belongs = of.disks().find(|(_, _, disk)| disk.uuid == format.disk);
            Seen::Wrong(ClusterObstacle::OtherDisk {
                found: format.disk,
                expected: expected.disk,
                belongs: belongs.map(|(_, _, disk)| disk.endpoint.clone()),
            })
        }
        (Ok(format), _) if format != expected => Seen::Wrong(ClusterObstacle::OtherSets(format.disk)),
        (Ok(_), Ok(())) => Seen::Formatted,
        (Ok(format), Err(why)) => Seen::Wrong(ClusterObstacle::NoTopology { disk: format.disk, why }),
        (Err(why), Ok(())) => Seen::Wrong(ClusterObstacle::LostIdentity { expected: expected.disk, why }),
        (Err(_), Err(_)) => Seen::Free,
    };
    Looked { endpoint, expected, lock, seen }
}

fn decide(disk: Looked, force: bool, any_formatted: bool) -> Result<Decided, Obstacle> {
    let Looked { endpoint, expected, lock, seen } = disk;
    match seen {
        Seen::Formatted => return Ok(Decided::Keep(KeptDisk { endpoint, disk: expected.disk })),
        Seen::Wrong(obstacle) => return Err(Obstacle::Cluster(obstacle)),
        Seen::Free => {}
    }
    if let DirectoryState::Missing = local_disks::inspect(&endpoint) {
        return Err(Obstacle::Missing);
    }
    let emptied = || Obstacle::Cluster(ClusterObstacle::Emptied(expected.disk));
    let claimed = claim_locked(&endpoint, lock.map_err(Obstacle::Lock)?, force);
    let claim = claimed.map_err(|obstacle| match obstacle {
        Obstacle::Formatted(stored) if matches!(stored.format, Some(Ok(_))) => {
            let (expected, deployment) = (expected.disk, expected.deployment);
            Obstacle::Cluster(ClusterObstacle::OtherDeployment { stored, expected, deployment })
        }
        Obstacle::Formatted(_) if any_formatted => emptied(),
        other => other,
    })?;
    if any_formatted && !force {
        return Err(emptied());
    }
    Ok(Decided::Format(PlannedDisk {
        endpoint,
        format: expected,
        destroys: claim.stored,
        // If it served before, it has lost what it had.
        contents: if any_formatted { Contents::Lost } else { Contents::Nothing },
        _lock: claim.lock,
    }))
}
