//! Formatting: directories become the disks of a new deployment, or a node's disks in one of several nodes ([`cluster`]).
//!
//! What must hold:
//! - Everything is looked at before anything is changed: one refused disk, and no disk is touched.
//! - Stored data is destroyed only where the caller said so, and other people's files never.
//! - The disks' own `format.json` is removed first and written last, so a crash leaves each disk formatted, unfinished or
//!   as before. Replicas and topology follow; disks that lack them are formatted again with force.

pub mod cluster;
pub mod replace;

use crate::local_disks::{self, DirectoryState, DiskLock, LockError};
use crate::size::ByteSize;
use buckets_disk::FormatMode;
use buckets_engine::node::{self, Contents, DiskSizes};
use buckets_env::Env;
use buckets_env::real::{self, CoreOptions, StartError, Warning};
use buckets_ring::endpoint::{self, EndpointError};
use buckets_ring::format::{FormatError, FormatJson};
use buckets_ring::id::{DeploymentId, DiskUuid};
use buckets_ring::topology::{TopologyDisk, TopologySet};
use buckets_ring::{BlockChecksum, Coding, Endpoint, TopologyJson};
use cluster::ClusterObstacle;
use futures::future::join_all;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct FormatRequest {
    /// Local, absolute directories; a multiple of K+M.
    pub disks: Vec<Endpoint>,
    /// K+M.
    pub coding: Coding,
    /// How blocks are checksummed.
    pub block_checksum: BlockChecksum,
    /// Destroy what is stored on formatted disks.
    pub force: bool,
    /// Make directories that are not there (for `--dev`). An operator's missing directory is more likely a missing mount.
    pub make_missing: bool,
    /// How large logs and space files are.
    pub sizes: DiskSizes,
}

/// What will be done, checked and decided.
#[derive(Debug)]
pub struct FormatPlan {
    /// The identity of each disk, and what is destroyed there.
    pub disks: Vec<PlannedDisk>,
    /// The disks that are formatted already as they should be, and are left as they are.
    pub kept: Vec<KeptDisk>,
    /// Generation 1.
    pub topology: TopologyJson,
    /// As requested.
    pub sizes: DiskSizes,
}

/// One disk of a plan.
#[derive(Debug)]
pub struct PlannedDisk {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What it will be.
    pub format: FormatJson,
    /// What is stored there and will be destroyed.
    pub destroys: Option<Stored>,
    /// What belongs on it.
    pub contents: Contents,
    /// Held until the disk is formatted.
    _lock: DiskLock,
}

/// One disk that a plan leaves as it is.
#[derive(Clone, Debug)]
pub struct KeptDisk {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Which it is.
    pub disk: DiskUuid,
}

/// What a formatted directory holds.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its identity, where it can be read.
    pub format: Option<Result<FormatJson, FormatError>>,
    /// Bytes on disk.
    pub bytes: u64,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = ByteSize(self.bytes);
        match &self.format {
            Some(Ok(format)) => {
                write!(f, "disk {} of deployment {} with {bytes}", format.disk, format.deployment)
            }
            Some(Err(_)) => write!(f, "a disk with a damaged format.json and {bytes}"),
            None => write!(f, "an unfinished or damaged disk with {bytes}"),
        }
    }
}

/// Why one disk cannot be formatted.
#[derive(Debug)]
pub enum Obstacle {
    /// Formatted, and not forced.
    Formatted(Stored),
    /// Somebody else's files.
    Foreign {
        /// Some of their names.
        examples: Vec<String>,
        /// How many there are.
        names: usize,
    },
    /// In use, or cannot be opened.
    Lock(LockError),
    /// Not there.
    Missing,
    /// Cannot be looked into or made.
    Unreadable(io::Error),
    /// Not what the cluster file says.
    Cluster(ClusterObstacle),
    /// Nothing is to be replaced there: it is this disk, formatted.
    Formed(DiskUuid),
}

/// A disk that cannot be formatted, and why.
#[derive(Debug)]
pub struct RefusedFormat {
    /// The disk.
    pub endpoint: Endpoint,
    /// Why.
    pub obstacle: Obstacle,
}

impl fmt::Display for RefusedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.endpoint;
        match &self.obstacle {
            Obstacle::Formatted(stored) => {
                write!(
                    f,
                    "{place} holds {stored}, which formatting would destroy; to do so, repeat with --force"
                )
            }
            Obstacle::Foreign { examples, names } => {
                let more = if *names > examples.len() { ", ..." } else { "" };
                write!(
                    f,
                    "{place} holds other files ({names}: {}{more}); name an empty directory (--force does not remove them)",
                    examples.join(", ")
                )
            }
            Obstacle::Lock(error) => error.fmt(f),
            Obstacle::Missing => {
                write!(f, "{place} does not exist; mount the disk there, or make the directory")
            }
            Obstacle::Unreadable(error) => {
                write!(f, "{place} cannot be used ({error}); check that it is mounted and writable")
            }
            Obstacle::Cluster(obstacle) => write!(f, "{place} {obstacle}"),
            Obstacle::Formed(disk) => write!(
                f,
                "{place} is disk {disk} already; to write its chunks again, empty it first (mkfs, or remove its .buckets.sys)"
            ),
        }
    }
}

/// Why nothing was formatted, or not all.
#[derive(Debug, thiserror::Error)]
pub enum FormatDisksError {
    /// Not a multiple of K+M.
    #[error(transparent)]
    Division(#[from] EndpointError),
    /// Some disks are in the way; nothing was changed.
    #[error("nothing was formatted: {}", sentences(.0))]
    Refused(Vec<RefusedFormat>),
    /// No disk of the deployment belongs there.
    #[error("no disk of this deployment belongs at {place}; these do: {}", places(known))]
    NotAPlace {
        /// Where a disk was to be replaced.
        place: Endpoint,
        /// Where disks belong.
        known: Vec<Endpoint>,
    },
    /// No randomness for new ids.
    #[error("no random numbers for new ids: {0}")]
    Random(io::Error),
    /// The machine does not have what disk I/O needs.
    #[error(transparent)]
    Start(StartError),
    /// A node would not start on it.
    #[error("{}: its file system has no O_DIRECT, which a node needs; use ext4 or xfs", path.display())]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
    },
    /// A core could not be started for the work.
    #[error("cannot start a core for the work: {0}")]
    Core(io::Error),
    /// Formatting stopped halfway; the disks can be formatted again.
    #[error("{disk} was not formatted: {what}; repair the cause, then format all disks again with --force")]
    Disk {
        /// The disk.
        disk: Endpoint,
        /// What failed.
        what: String,
    },
}

fn sentences(refused: &[RefusedFormat]) -> String {
    refused.iter().map(RefusedFormat::to_string).collect::<Vec<_>>().join(". ")
}

fn places(known: &[Endpoint]) -> String {
    known.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(", ")
}

/// Looks at all disks, claims them, and decides what to do. Changes nothing, but for making missing directories
/// (their parents must exist) where that is asked for, once no disk is in the way.
pub fn plan(request: &FormatRequest) -> Result<FormatPlan, FormatDisksError> {
    let sets = endpoint::group(&request.disks, usize::from(request.coding.n()))?;
    let endpoints: Vec<Endpoint> = sets.into_iter().flatten().collect();
    let claims = all_or_refused(endpoints.iter().map(|disk| (disk, claim(disk, request))))?;
    // Only now, when no disk is in the way, is anything made.
    let made =
        endpoints.iter().zip(claims).map(|(disk, claimed)| (disk, claimed.map_or_else(|| make(disk), Ok)));
    let claims = all_or_refused(made)?;

    let deployment = DeploymentId::from_random(random_id()?);
    let mut uuids = Vec::with_capacity(claims.len());
    for _ in &claims {
        uuids.push(DiskUuid::from_random(random_id()?));
    }
    let n = usize::from(request.coding.n());
    let format_of = |disk: DiskUuid| FormatJson {
        deployment,
        disk,
        sets: uuids.chunks(n).map(<[DiskUuid]>::to_vec).collect(),
        coding: request.coding,
        block_checksum: request.block_checksum,
    };
    let known: Vec<TopologyDisk> = endpoints
        .iter()
        .zip(&claims)
        .zip(&uuids)
        .map(|((endpoint, claim), uuid)| TopologyDisk {
            uuid: *uuid,
            endpoint: endpoint.clone(),
            capacity_bytes: claim.capacity_bytes,
        })
        .collect();
    let set_of = |disks: &[TopologyDisk]| TopologySet::new(0, request.coding, disks.to_vec());
    let topology = TopologyJson { deployment, generation: 1, sets: known.chunks(n).map(set_of).collect() };
    if let Err(error) = topology.check() {
        unreachable!("a new topology is consistent: {error}");
    }
    let disks = endpoints
        .into_iter()
        .zip(claims)
        .zip(&uuids)
        .map(|((endpoint, claim), uuid)| PlannedDisk {
            endpoint,
            format: format_of(*uuid),
            destroys: claim.stored,
            contents: Contents::Nothing,
            _lock: claim.lock,
        })
        .collect();
    Ok(FormatPlan { disks, kept: Vec::new(), topology, sizes: request.sizes })
}

/// A directory that is ours to format.
struct Claim {
    lock: DiskLock,
    stored: Option<Stored>,
    capacity_bytes: u64,
}

/// All values, or all obstacles.
fn all_or_refused<'a, T>(
    results: impl Iterator<Item = (&'a Endpoint, Result<T, Obstacle>)>,
) -> Result<Vec<T>, FormatDisksError> {
    let mut values = Vec::new();
    let mut refused = Vec::new();
    for (endpoint, result) in results {
        match result {
            Ok(value) => values.push(value),
            Err(obstacle) => refused.push(RefusedFormat { endpoint: endpoint.clone(), obstacle }),
        }
    }
    if refused.is_empty() { Ok(values) } else { Err(FormatDisksError::Refused(refused)) }
}

/// Claims a directory, and looks into it while nobody else can. `None` where it has to be made first.
fn claim(endpoint: &Endpoint, request: &FormatRequest) -> Result<Option<Claim>, Obstacle> {
    if let DirectoryState::Missing = local_disks::inspect(endpoint) {
        return if request.make_missing { Ok(None) } else { Err(Obstacle::Missing) };
    }
    claim_existing(endpoint, request.force).map(Some)
}

fn claim_existing(endpoint: &Endpoint, force: bool) -> Result<Claim, Obstacle> {
    claim_locked(endpoint, DiskLock::acquire(endpoint).map_err(Obstacle::Lock)?, force)
}

/// Looks into a directory that nobody else can claim.
fn claim_locked(endpoint: &Endpoint, lock: DiskLock, force: bool) -> Result<Claim, Obstacle> {
    let stored = match local_disks::inspect(endpoint) {
        DirectoryState::Missing => return Err(Obstacle::Missing),
        DirectoryState::Empty => None,
        DirectoryState::Formatted { format, stored_bytes } => {
            Some(Stored { format: Some(format), bytes: stored_bytes })
        }
        DirectoryState::Unfinished { stored_bytes } => Some(Stored { format: None, bytes: stored_bytes }),
        DirectoryState::Foreign { examples, names } => return Err(Obstacle::Foreign { examples, names }),
        DirectoryState::Unreadable(error) => return Err(Obstacle::Unreadable(error)),
    };
    match stored {
        Some(stored) if !force => Err(Obstacle::Formatted(stored)),
        stored => {
            let capacity_bytes = local_disks::capacity_bytes(endpoint).map_err(Obstacle::Unreadable)?;
            Ok(Claim { lock, stored, capacity_bytes })
        }
    }
}

fn make(endpoint: &Endpoint) -> Result<Claim, Obstacle> {
    fs::create_dir(endpoint.path()).map_err(Obstacle::Unreadable)?;
    claim_existing(endpoint, false)
}

fn random_id() -> Result<[u8; 16], FormatDisksError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| FormatDisksError::Random(io::Error::other(error.to_string())))?;
    Ok(id)
}

/// Carries a plan out, on one core of its own: all disks at once.
pub fn execute(plan: FormatPlan) -> Result<(), FormatDisksError> {
    if plan.disks.is_empty() {
        return Ok(());
    }
    let paths: Vec<&Path> = plan.disks.iter().map(|disk| Path::new(disk.endpoint.path())).collect();
    for warning in real::preflight(&paths).map_err(FormatDisksError::Start)? {
        match warning {
            Warning::NoDirectIo { path } => return Err(FormatDisksError::NoDirectIo { path }),
            // Formatting opens a handful.
            Warning::FewOpenFiles { .. } => {}
        }
    }
    let waker = real::CoreWaker::new().map_err(FormatDisksError::Core)?;
    let options = CoreOptions { cpu: None, index: 0, name: "format".to_owned() };
    let (report, outcome) = mpsc::sync_channel(1);
    let core = real::run_core(options, waker, move |env| async move {
        // The receiver waits for this one message.
        let _ = report.send(format_all(&env, &plan).await);
    });
    core.map_err(FormatDisksError::Core)?.join();
    match outcome.recv() {
        Ok(result) => result,
        Err(_) => unreachable!("a core ends with its report, or the process with a panic"),
    }
}

async fn format_all(env: &Env, plan: &FormatPlan) -> Result<(), FormatDisksError> {
    let disks = plan.disks.iter().map(|disk| format_one(env, disk, plan));
    join_all(disks).await.into_iter().collect()
}

async fn format_one(env: &Env, disk: &PlannedDisk, plan: &FormatPlan) -> Result<(), FormatDisksError> {
    let mode = if disk.destroys.is_some() { FormatMode::Overwrite } else { FormatMode::New };
    let path = Path::new(disk.endpoint.path());
    node::format_disk(env, path, &disk.format, &plan.topology, mode, plan.sizes, disk.contents)
        .await
        .map_err(|error| failed(disk, &error))
}

fn failed(disk: &PlannedDisk, error: &dyn std::error::Error) -> FormatDisksError {
    FormatDisksError::Disk { disk: disk.endpoint.clone(), what: error.to_string() }
}
