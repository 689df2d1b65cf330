//! An empty disk takes the place of one that is lost: under the same identity, so that the deployment need not agree on
//! anything; the votes it has forgotten and the chunks it lacks come back by themselves (see `buckets_engine`).
//!
//! What must hold: only an empty place becomes a disk; a disk of this deployment is never destroyed, not even with force.

use super::cluster::{Looked, Seen, look_for};
use super::{
    FormatDisksError, FormatPlan, Obstacle, PlannedDisk, RefusedFormat, all_or_refused, claim_locked,
};
use crate::cluster::ClusterFile;
use crate::local_disks::{self, DiskLock, LockError};
use buckets_engine::node::{Contents, DiskSizes};
use buckets_ring::assembly::{AssemblyError, FoundFile, assemble};
use buckets_ring::endpoint::NodeAddress;
use buckets_ring::id::DiskUuid;
use buckets_ring::{Endpoint, FormatJson, TopologyJson};
use std::time::Duration;

/// Within this time a server has noticed that a disk is gone; it looks twice a second.
const NOTICED_MAX: Duration = Duration::from_secs(3);

/// Why a place cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The other disks do not make a deployment.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// See there.
    #[error(transparent)]
    Format(#[from] FormatDisksError),
}

/// One disk of a node of a cluster file. `force` destroys what another deployment has stored there.
pub fn plan_in_cluster(
    cluster: &ClusterFile,
    node: &NodeAddress,
    place: &Endpoint,
    force: bool,
) -> Result<FormatPlan, ReplaceError> {
    let known = cluster.disks_of(node);
    let endpoint = known.iter().find(|disk| disk.path() == place.path()).cloned();
    let endpoint =
        endpoint.ok_or_else(|| FormatDisksError::NotAPlace { place: place.clone(), known: known.clone() })?;
    let expected = cluster.format_of(DiskUuid::of_endpoint(cluster.deployment, &endpoint));
    Ok(plan(
        look_for(endpoint, expected, &cluster.topology()),
        cluster.topology(),
        cluster.disk_sizes,
        force,
    )?)
}

/// One disk of a deployment that has local disks only: its other disks, which are among `disks`, tell which belongs there.
pub fn plan_local(disks: &[Endpoint], place: &Endpoint, force: bool) -> Result<FormatPlan, ReplaceError> {
    let others = disks.iter().filter(|disk| *disk != place);
    let found: Vec<_> = others.map(local_disks::identify).collect();
    let assembly = assemble(&found)?;
    let topology = assembly.topology;
    let known: Vec<Endpoint> = topology.disks().map(|(_, _, disk)| disk.endpoint.clone()).collect();
    let lost = topology.disks().map(|(_, _, disk)| disk).find(|disk| disk.endpoint == *place);
    // A copy of the identity that the disks share, with the lost one's own.
    let shared = found.iter().filter_map(|disk| match &disk.format {
        FoundFile::Bytes(bytes) => FormatJson::parse(bytes).ok(),
        FoundFile::Absent | FoundFile::Unreadable(_) => None,
    });
    let shared = shared.into_iter().find(|format| format.deployment == topology.deployment);
    let (Some(lost), Some(shared)) = (lost, shared) else {
        return Err(FormatDisksError::NotAPlace { place: place.clone(), known }.into());
    };
    let looked = look_for(place.clone(), FormatJson { disk: lost.uuid, ..shared }, &topology);
    Ok(plan(looked, topology, DiskSizes::Full, force)?)
}

fn plan(
    looked: Looked,
    topology: TopologyJson,
    sizes: DiskSizes,
    force: bool,
) -> Result<FormatPlan, FormatDisksError> {
    let Looked { endpoint, expected, lock, seen } = looked;
    let refused =
        |obstacle| FormatDisksError::Refused(vec![RefusedFormat { endpoint: endpoint.clone(), obstacle }]);
    match seen {
        Seen::Formatted => return Err(refused(Obstacle::Formed(expected.disk))),
        Seen::Wrong(obstacle) => return Err(refused(Obstacle::Cluster(obstacle))),
        Seen::Free => {}
    }
    let lock = match lock {
        Err(LockError::InUse(_)) => {
            // A server that runs has the directory, and may not have noticed yet that the disk is gone.
            std::thread::sleep(NOTICED_MAX);
            DiskLock::acquire_beside_server(&endpoint)
        }
        lock => lock,
    };
    let claimed = lock.map_err(Obstacle::Lock).and_then(|lock| claim_locked(&endpoint, lock, force));
    let claim = all_or_refused([(&endpoint, claimed)].into_iter())?.remove(0);
    let disk = PlannedDisk {
        endpoint,
        format: expected,
        destroys: claim.stored,
        contents: Contents::Lost,
        _lock: claim.lock,
    };
    Ok(FormatPlan { disks: vec![disk], kept: Vec::new(), topology, sizes })
}
