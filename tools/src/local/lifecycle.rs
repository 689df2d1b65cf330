//! Starting and ending the nodes of a cluster on one machine.
//!
//! What must hold: only nodes that have never run are formatted, so that nothing that somebody did to the disks of a node is
//! undone, and no disk comes back empty under its old name. Who starts holds the directory's lock until the processes are
//! known by their files: nothing is started twice.

use super::directory::{LocalCluster, LocalNode};
use super::process::{self, Found, KILL_MAX, NodeProcess};
use super::status::{LocalStatus, ProcessState};
use super::{LocalError, at};
use crate::format::{self, cluster::ClusterFormatRequest};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// How long nodes may take until they are ready. An optimised build takes seconds.
const READY_MAX: Duration = Duration::from_secs(180);
const READY_LOOK: Duration = Duration::from_millis(200);
/// How long nodes may take to end: requests in progress get 30 s of it.
const END_MAX: Duration = Duration::from_secs(60);

/// Starts the nodes that are not running, and waits until they are ready. Says now and then how far it is. A paused node is
/// running, and not waited for.
pub fn start(
    cluster: &LocalCluster,
    numbers: &[usize],
    progress: &mut dyn FnMut(&str),
) -> Result<LocalStatus, LocalError> {
    let nodes = chosen(cluster, numbers)?;
    let daemon = process::daemon()?;
    {
        let _lock = cluster.lock()?;
        for node in &nodes {
            if let Found::Running(_) = process::find(cluster, node)? {
                continue;
            }
            if !node.log().exists() {
                progress(&format!("formatting the disks of node {}", node.number));
                format_new(cluster, node)?;
            }
            process::spawn(cluster, node, &daemon)?;
        }
    }
    wait_until_ready(cluster, numbers, progress)
}

/// The disks of a node that has never run.
fn format_new(cluster: &LocalCluster, node: &LocalNode) -> Result<(), LocalError> {
    for disk in cluster.cluster.disks_of(&node.address) {
        fs::create_dir_all(disk.path()).map_err(at("made", disk.path().as_ref()))?;
    }
    // What an interrupted start left half formatted is formatted again: nobody has relied on it yet.
    let request = ClusterFormatRequest { cluster: &cluster.cluster, node: &node.address, force: true };
    Ok(format::execute(format::cluster::plan_cluster(&request)?)?)
}

fn wait_until_ready(
    cluster: &LocalCluster,
    numbers: &[usize],
    progress: &mut dyn FnMut(&str),
) -> Result<LocalStatus, LocalError> {
    let until = Instant::now() + READY_MAX;
    loop {
        let status = LocalStatus::of(cluster)?;
        let awaited: Vec<_> = status
            .nodes
            .iter()
            .filter(|node| numbers.contains(&node.node) && node.state != ProcessState::Paused)
            .collect();
        if let Some(gone) = awaited.iter().find(|node| node.pid.is_none()) {
            let why = process::last_error(&gone.log).unwrap_or_else(|| "it does not say why".to_owned());
            return Err(LocalError::Ended { number: gone.node, why, log: gone.log.clone() });
        }
        let reason = |node: &str, reason: &Option<String>| {
            format!("node {node}: {}", reason.as_deref().unwrap_or("it gives no reason"))
        };
        let waiting: Vec<String> = awaited
            .iter()
            .filter(|node| !node.ready)
            .map(|node| reason(&node.node.to_string(), &node.reason))
            .collect();
        if waiting.is_empty() {
            return Ok(status);
        }
        if Instant::now() >= until {
            return Err(LocalError::NotReady { seconds: READY_MAX.as_secs(), what: waiting.join("; ") });
        }
        let ready = awaited.len() - waiting.len();
        progress(&format!("{ready} of {} nodes ready ({})", awaited.len(), waiting.join("; ")));
        std::thread::sleep(READY_LOOK);
    }
}

/// Lets the nodes finish what they do, and waits until they have ended. Nodes that are not running are then stopped too.
pub fn stop(
    cluster: &LocalCluster,
    numbers: &[usize],
    progress: &mut dyn FnMut(&str),
) -> Result<(), LocalError> {
    let nodes = chosen(cluster, numbers)?;
    let mut running: Vec<(&LocalNode, NodeProcess)> = Vec::new();
    for node in nodes {
        match process::find(cluster, node)? {
            Found::Running(process) => {
                process.terminate()?;
                running.push((node, process));
            }
            Found::Gone | Found::Stopped => forget(node)?,
        }
    }
    let until = Instant::now() + END_MAX;
    for (node, process) in running {
        progress(&format!("waiting for node {} to end", node.number));
        if !process.ends_within(until.saturating_duration_since(Instant::now()))? {
            return Err(LocalError::NotEnding { number: node.number, seconds: END_MAX.as_secs() });
        }
        forget(node)?;
    }
    Ok(())
}

/// Ends nodes at once, as a crash would. Errors: `NotRunning`, and none is killed.
pub fn kill(cluster: &LocalCluster, numbers: &[usize]) -> Result<(), LocalError> {
    for (number, process) in running(cluster, numbers)? {
        if !process.kill()? {
            return Err(LocalError::NotEnding { number, seconds: KILL_MAX.as_secs() });
        }
    }
    Ok(())
}

/// Lets nodes do nothing more, as if they hung. Errors: `NotRunning`, and none is paused.
pub fn pause(cluster: &LocalCluster, numbers: &[usize]) -> Result<(), LocalError> {
    running(cluster, numbers)?.into_iter().try_for_each(|(_, process)| process.pause())
}

/// Lets paused nodes go on. Errors: `NotRunning`, and none is resumed.
pub fn resume(cluster: &LocalCluster, numbers: &[usize]) -> Result<(), LocalError> {
    running(cluster, numbers)?.into_iter().try_for_each(|(_, process)| process.resume())
}

/// Ends all nodes and deletes the directory.
pub fn remove(cluster: LocalCluster) -> Result<(), LocalError> {
    cluster.check_deletable()?;
    for node in &cluster.nodes {
        if let Found::Running(process) = process::find(&cluster, node)? {
            // Nothing that it might still write is wanted.
            if !process.kill()? {
                return Err(LocalError::NotEnding { number: node.number, seconds: KILL_MAX.as_secs() });
            }
        }
    }
    cluster.delete()
}

/// All numbers of a cluster's nodes.
pub fn all(cluster: &LocalCluster) -> Vec<usize> {
    cluster.nodes.iter().map(|node| node.number).collect()
}

fn chosen<'a>(cluster: &'a LocalCluster, numbers: &[usize]) -> Result<Vec<&'a LocalNode>, LocalError> {
    numbers.iter().map(|number| cluster.node(*number)).collect()
}

fn running(cluster: &LocalCluster, numbers: &[usize]) -> Result<Vec<(usize, NodeProcess)>, LocalError> {
    let nodes = chosen(cluster, numbers)?.into_iter();
    let found = nodes.map(|node| match process::find(cluster, node)? {
        Found::Running(process) => Ok((node.number, process)),
        Found::Gone | Found::Stopped => Err(LocalError::NotRunning(node.number)),
    });
    found.collect()
}

/// The node is stopped, as far as anybody can see from now on.
fn forget(node: &LocalNode) -> Result<(), LocalError> {
    let path = node.pid_file();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("deleted", &path)(error)),
        _ => Ok(()),
    }
}
