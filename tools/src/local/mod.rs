//! Clusters for people on one machine: a directory with a cluster file and the disks of all nodes, and a process for each
//! node.
//!
//! What must hold:
//! - A directory is ours only where the files in it say so ([`directory`]); nothing else is ever changed or deleted.
//! - A signal goes to a process only while that provably is the `bucketsd` of the node ([`process`]).
//! - A node that has ever run is never formatted again ([`lifecycle`]): a disk that somebody removed to see what happens stays
//!   removed.

pub mod coding;
pub mod directory;
pub mod lifecycle;
pub mod process;
pub mod readiness;
pub mod status;

use crate::cluster::ClusterError;
use crate::format::FormatDisksError;
use buckets_ring::Coding;
use std::io;
use std::path::{Path, PathBuf};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Not a directory that `start` made.
    #[error(
        "{} is no cluster of `bucketsctl local start`: {why}; name the right directory with --dir",
        directory.display()
    )]
    NotOurs {
        /// The directory.
        directory: PathBuf,
        /// What is missing or too much.
        why: String,
    },
    /// It is there already, and different.
    #[error(
        "the cluster in {} has {flag} {is}, not {wanted}; leave {flag} out, or name another directory with --dir",
        directory.display()
    )]
    Differs {
        /// The directory.
        directory: PathBuf,
        /// What was asked for.
        flag: &'static str,
        /// How it is.
        is: String,
        /// How it should be.
        wanted: String,
    },
    /// Nothing fits.
    #[error(
        "no K+M bears the loss of one of {nodes} nodes with {disks} disks each; choose three or more nodes, other --disks, or say \
         --ec K+M"
    )]
    NoCoding {
        /// Nodes.
        nodes: usize,
        /// Disks of each.
        disks: usize,
    },
    /// What was asked for cannot be made.
    #[error("{coding} does not go with {nodes} nodes of {disks} disks: {error}")]
    Shape {
        /// K+M.
        coding: Coding,
        /// Nodes.
        nodes: usize,
        /// Disks of each.
        disks: usize,
        /// Why.
        error: ClusterError,
    },
    /// Somebody listens there.
    #[error("port {0} of 127.0.0.1 is in use; choose another first port for S3 with --port")]
    PortInUse(u16),
    /// Too few ports above the first.
    #[error("no {nodes} free ports between nodes above port {port}; choose a lower --port")]
    NoPorts {
        /// The first port for S3.
        port: u16,
        /// How many are needed.
        nodes: usize,
    },
    /// Not in the cluster.
    #[error("there is no node {number}; the nodes are 1 to {nodes}")]
    NoSuchNode {
        /// As asked for.
        number: usize,
        /// How many there are.
        nodes: usize,
    },
    /// There is no process to do it to.
    #[error("node {0} is not running; start it with: bucketsctl local restart {0}")]
    NotRunning(usize),
    /// The daemon is not where it should be.
    #[error("{} is not there; install bucketsd beside bucketsctl", .0.display())]
    NoDaemon(PathBuf),
    /// It ended instead of getting ready.
    #[error("node {number} has ended: {why} (see {})", log.display())]
    Ended {
        /// The node.
        number: usize,
        /// What it said.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// Not ready in time.
    #[error(
        "not ready after {seconds} s: {what}; it goes on trying, look with: bucketsctl local status --watch"
    )]
    NotReady {
        /// How long that was.
        seconds: u64,
        /// Each node that is not, and why.
        what: String,
    },
    /// Still there.
    #[error("node {number} has not ended after {seconds} s; end it with: bucketsctl local kill {number}")]
    NotEnding {
        /// The node.
        number: usize,
        /// How long that was.
        seconds: u64,
    },
    /// The cluster file.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The disks.
    #[error(transparent)]
    Format(#[from] FormatDisksError),
    /// A file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was done with what.
        what: String,
        /// What failed.
        error: io::Error,
    },
}

/// For `map_err`: what was done with a path.
fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.display().to_string();
    move |error| LocalError::Io { what: format!("{path} cannot be {what}"), error }
}
