//! `bucketsctl local`: clusters of several nodes on one machine, to try things out.

use super::table::Table;
use super::{CtlError, write_json};
use crate::config::REGION_DEFAULT;
use crate::credentials::{self, Credentials};
use crate::local::directory::{DIRECTORY_DEFAULT, LocalCluster, Wanted};
use crate::local::lifecycle;
use crate::local::status::{LocalStatus, ProcessState};
use crate::node_loss;
use crate::verdict::Exit;
use buckets_ring::Coding;
use serde::Serialize;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Most nodes, and most disks of a node.
const OF_A_KIND_MAX: i64 = 64;
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// The cursor to the upper left, and everything behind it blank.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";
/// To the start of the line, and everything behind it blank.
const CLEAR_LINE: &str = "\r\x1b[K";

#[derive(Debug, clap::Subcommand)]
pub(super) enum LocalCommand {
    /// Make a cluster below a directory where there is none, start the nodes that are not running, and wait until they serve
    Start(StartArgs),
    /// How each node is: its process, and whether it serves
    Status(StatusArgs),
    /// End nodes at once, as a crash would (SIGKILL)
    Kill(NodesArgs),
    /// Let nodes hang (SIGSTOP)
    Pause(NodesArgs),
    /// Let paused nodes go on (SIGCONT)
    Resume(NodesArgs),
    /// Stop nodes that are running, and start them again
    Restart(NodesArgs),
    /// Stop all nodes (SIGTERM) and wait until they have ended; what they store stays
    Stop(ClusterArgs),
    /// End all nodes and delete the directory with everything that they store
    Remove(ClusterArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// The directory of the cluster
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// Nodes, one process each [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=OF_A_KIND_MAX))]
    nodes: Option<u16>,
    /// Disks of each node: directories with small files [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=OF_A_KIND_MAX))]
    disks: Option<u16>,
    /// Data and parity chunks [default: a code that bears the loss of any node; 8+4 for 3 nodes of 4 disks]
    #[arg(long, value_name = "K+M")]
    ec: Option<Coding>,
    /// Cores of each node [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=OF_A_KIND_MAX))]
    cores: Option<u16>,
    /// The port for S3 of the first node; the others have the next ones [default: 9000]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Show it again every second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct NodesArgs {
    /// Their numbers, from 1
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<usize>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What a person or a script needs to use it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    erasure: String,
    endpoints: Vec<String>,
    access_key: String,
    secret_key: String,
    region: &'static str,
    /// What the loss of one node would cost, where that is not nothing.
    warning: Option<String>,
    #[serde(flatten)]
    status: LocalStatus,
}

pub(super) fn run(command: LocalCommand, out: &mut dyn Write) -> Result<Exit, CtlError> {
    match command {
        LocalCommand::Start(args) => start(args, out),
        LocalCommand::Status(args) => status(args, out),
        LocalCommand::Kill(args) => on_nodes(args, out, lifecycle::kill),
        LocalCommand::Pause(args) => on_nodes(args, out, lifecycle::pause),
        LocalCommand::Resume(args) => on_nodes(args, out, lifecycle::resume),
        LocalCommand::Restart(args) => on_nodes(args, out, |cluster, nodes| {
            with_progress(|progress| {
                lifecycle::stop(cluster, nodes, progress)?;
                lifecycle::start(cluster, nodes, progress).map(|_| ())
            })
        }),
        LocalCommand::Stop(args) => {
            let cluster = LocalCluster::open(&args.dir)?;
            with_progress(|progress| lifecycle::stop(&cluster, &lifecycle::all(&cluster), progress))?;
            show_after(&cluster, args.json, out)
        }
        LocalCommand::Remove(args) => {
            let cluster = LocalCluster::open(&args.dir)?;
            let directory = cluster.directory.clone();
            lifecycle::remove(cluster)?;
            match args.json {
                true => write_json(out, &serde_json::json!({ "removed": directory }))?,
                false => writeln!(out, "removed {}", directory.display())?,
            }
            Ok(Exit::Ok)
        }
    }
}

fn start(args: StartArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let wanted = Wanted {
        nodes: args.nodes.map(usize::from),
        disks: args.disks.map(usize::from),
        coding: args.ec,
        cores: args.cores.map(usize::from),
        port: args.port,
    };
    let cluster = LocalCluster::open_or_make(&args.cluster.dir, &wanted)?;
    let numbers = lifecycle::all(&cluster);
    let status = with_progress(|progress| lifecycle::start(&cluster, &numbers, progress))?;
    // The daemons do not get those of the environment either.
    let (root, _) = credentials::find(|_| None, &cluster.cluster.credentials, &cluster.cluster.path)?;
    let started = Started {
        erasure: cluster.cluster.coding.to_string(),
        endpoints: status.nodes.iter().map(|node| node.endpoint.clone()).collect(),
        access_key: root.access_key.clone(),
        secret_key: root.secret_key.clone(),
        region: REGION_DEFAULT,
        warning: warning(&cluster),
        status,
    };
    if args.cluster.json {
        write_json(out, &started)?;
    } else {
        write_started(out, &cluster, &started, &root)?;
    }
    Ok(Exit::Ok)
}

/// A sentence where one node is too much to lose.
fn warning(cluster: &LocalCluster) -> Option<String> {
    let failures = node_loss::failures(&cluster.cluster.topology(), &cluster.cluster.nodes());
    let cost = match (failures.reads_and_writes, failures.reads) {
        (0, 0) => "makes data unavailable",
        (0, _) => "stops writes",
        _ => return None,
    };
    Some(format!("with {} on these nodes the loss of one {cost}", cluster.cluster.coding))
}

fn write_started(
    out: &mut dyn Write,
    cluster: &LocalCluster,
    started: &Started,
    root: &Credentials,
) -> io::Result<()> {
    let Credentials { access_key, secret_key } = root;
    write_status(out, &started.status)?;
    if let Some(warning) = &started.warning {
        writeln!(out, "! {warning}")?;
    }
    writeln!(
        out,
        "\nErasure code {}. Root credentials (in {}):",
        started.erasure,
        cluster.cluster.path.display()
    )?;
    writeln!(out, "  access key  {access_key}\n  secret key  {secret_key}")?;
    let first = started.endpoints.first().map_or("", String::as_str);
    writeln!(out, "Try it, at any of the endpoints:")?;
    writeln!(out, "  export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}")?;
    writeln!(out, "  export AWS_DEFAULT_REGION={} AWS_ENDPOINT_URL={first}", started.region)?;
    writeln!(out, "  aws s3 mb s3://photos && aws s3 cp README.md s3://photos/ && aws s3 ls s3://photos/")?;
    let is_default = fs::canonicalize(DIRECTORY_DEFAULT).is_ok_and(|default| default == cluster.directory);
    let which =
        if is_default { String::new() } else { format!(", each with --dir {}", cluster.directory.display()) };
    writeln!(out, "Then{which}: bucketsctl local status | kill 1 | restart 1 | stop | remove")
}

fn status(args: StatusArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let cluster = LocalCluster::open(&args.cluster.dir)?;
    let clear = if io::stdout().is_terminal() { CLEAR_SCREEN } else { "\n" };
    loop {
        let status = LocalStatus::of(&cluster)?;
        if args.watch {
            // In one piece, so that it does not flicker.
            let mut screen = clear.as_bytes().to_vec();
            write_status(&mut screen, &status)?;
            out.write_all(&screen)?;
            out.flush()?;
            std::thread::sleep(WATCH_EVERY);
            continue;
        }
        match args.cluster.json {
            true => write_json(out, &status)?,
            false => write_status(out, &status)?,
        }
        return Ok(status.verdict.into());
    }
}

fn on_nodes(
    args: NodesArgs,
    out: &mut dyn Write,
    act: impl FnOnce(&LocalCluster, &[usize]) -> Result<(), crate::local::LocalError>,
) -> Result<Exit, CtlError> {
    let cluster = LocalCluster::open(&args.cluster.dir)?;
    act(&cluster, &args.nodes)?;
    show_after(&cluster, args.cluster.json, out)
}

/// How it is after a command that did what it should, whatever that makes of the data.
fn show_after(cluster: &LocalCluster, json: bool, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let status = LocalStatus::of(cluster)?;
    match json {
        true => write_json(out, &status)?,
        false => write_status(out, &status)?,
    }
    Ok(Exit::Ok)
}

fn write_status(out: &mut dyn Write, status: &LocalStatus) -> io::Result<()> {
    let (ready, all) = (status.ready(), status.nodes.len());
    writeln!(out, "{}: {ready} of {all} nodes ready, in {}", status.verdict, status.directory.display())?;
    let mut table = Table::new(&["NODE", "STATE", "PID", "READY", "S3", "BETWEEN NODES", "LOG"]);
    for node in &status.nodes {
        table.row(vec![
            node.node.to_string(),
            node.state.to_string(),
            node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            if node.ready { "yes" } else { "no" }.to_owned(),
            node.endpoint.clone(),
            node.address.clone(),
            node.log.strip_prefix(&status.directory).unwrap_or(&node.log).display().to_string(),
        ]);
    }
    table.write(out)?;
    for node in &status.nodes {
        // Of the others their state is the reason.
        let says_more = matches!(node.state, ProcessState::Running | ProcessState::Killed);
        if let Some(reason) = node.reason.as_ref().filter(|_| says_more) {
            writeln!(out, "! node {}: {reason}", node.node)?;
        }
        for disk in &node.missing_disks {
            writeln!(out, "! node {}: {} is missing", node.node, disk.display())?;
        }
    }
    Ok(())
}

/// Shows how far something is, on standard error: on a terminal always in the same line, otherwise a line where something
/// has changed.
fn with_progress<T>(work: impl FnOnce(&mut dyn FnMut(&str)) -> T) -> T {
    let is_terminal = io::stderr().is_terminal();
    let mut last = String::new();
    // Nobody is kept from the result where this cannot be shown.
    let result = work(&mut |line: &str| {
        if line == last {
            return;
        }
        let mut stderr = io::stderr();
        let _ = match is_terminal {
            true => write!(stderr, "{CLEAR_LINE}{line}").and_then(|()| stderr.flush()),
            false => writeln!(stderr, "{line}"),
        };
        line.clone_into(&mut last);
    });
    if is_terminal && !last.is_empty() {
        let _ = write!(io::stderr(), "{CLEAR_LINE}");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::directory::{CORES_DEFAULT, DISKS_DEFAULT, NODES_DEFAULT, PORT_DEFAULT};
    use crate::local::status::NodeStatus;
    use crate::verdict::Verdict;
    use clap::Subcommand;

    #[test]
    fn what_is_not_ready_has_its_reason() {
        let node = |node: usize, state, reason: Option<&str>| NodeStatus {
            node,
            state,
            pid: (state == ProcessState::Running).then_some(17),
            ready: reason.is_none(),
            reason: reason.map(str::to_owned),
            missing_disks: if node == 1 { vec!["/c/node1/disk2".into()] } else { Vec::new() },
            endpoint: format!("http://127.0.0.1:{}", 9000 + node),
            address: format!("127.0.0.1:{}", 9100 + node),
            log: format!("/c/node{node}/log").into(),
        };
        let status = LocalStatus {
            directory: "/c".into(),
            verdict: Verdict::AtRisk,
            nodes: vec![
                node(1, ProcessState::Running, None),
                node(2, ProcessState::Killed, Some("its process is gone")),
            ],
        };
        let mut out = Vec::new();
        write_status(&mut out, &status).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "at risk: 1 of 2 nodes ready, in /c");
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            ["1", "running", "17", "yes", "http://127.0.0.1:9001", "127.0.0.1:9101", "node1/log"]
        );
        assert_eq!(lines[4], "! node 1: /c/node1/disk2 is missing");
        assert_eq!(lines[5], "! node 2: its process is gone");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["nodes"][1]["state"], "killed");
        assert_eq!(json["nodes"][1]["pid"], serde_json::Value::Null);
    }

    #[test]
    fn the_help_names_the_defaults() {
        let mut command = LocalCommand::augment_subcommands(clap::Command::new("local"));
        let start = command.find_subcommand_mut("start").unwrap();
        let help = start.render_long_help().to_string();
        for (flag, default) in [
            ("--nodes", NODES_DEFAULT),
            ("--disks", DISKS_DEFAULT),
            ("--cores", CORES_DEFAULT),
            ("--port", PORT_DEFAULT.into()),
        ] {
            let (_, behind) = help.split_once(flag).unwrap();
            let (_, default_shown) = behind.split_once("[default: ").unwrap();
            assert!(default_shown.starts_with(&format!("{default}]")), "{help}");
        }
    }
}
