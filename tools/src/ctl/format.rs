//! `bucketsctl format`

use super::{CtlError, write_json};
use crate::cluster::ClusterFile;
use crate::config;
use crate::format::cluster::{ClusterFormatRequest, plan_cluster};
use crate::format::{self, FormatPlan, FormatRequest, KeptDisk, PlannedDisk};
use crate::verdict::Exit;
use buckets_engine::node::{Contents, DiskSizes};
use buckets_ring::endpoint::NodeAddress;
use buckets_ring::id::DiskUuid;
use buckets_ring::{BlockChecksum, Coding, Endpoint};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct FormatArgs {
    /// Existing directories, patterns allowed: '/mnt/disk{1...4}'; may be repeated. A multiple of K+M; each should be its own
    /// file system
    #[arg(long, value_name = "PATTERN", required_unless_present = "cluster", value_delimiter = ',')]
    disks: Vec<String>,
    /// Data and parity chunks, each 1 to 16: 4+2 survives any two disks; 1+2 keeps three copies
    #[arg(long, value_name = "K+M", required_unless_present = "cluster")]
    ec: Option<Coding>,
    /// Checksum of stored blocks: xxh3 (fast, the default) or blake2b (cryptographic); fixed for the deployment
    #[arg(long, value_name = "KIND")]
    checksum: Option<BlockChecksum>,
    /// The cluster file of a deployment of several nodes: format this node's disks in it. May be repeated: what is formatted
    /// stays as it is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["disks", "ec", "checksum"])]
    cluster: Option<PathBuf>,
    /// Which node of the cluster file this is [default: the one whose host is an address of this machine]
    #[arg(long, value_name = "HOST:PORT", requires = "cluster")]
    node: Option<String>,
    /// Destroy what is stored on disks that are formatted already; other people's files are never removed. With --cluster:
    /// also format empty disks beside formatted ones; disks of this deployment are never destroyed
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Formatted {
    deployment_id: String,
    erasure: String,
    block_checksum: &'static str,
    sets: usize,
    /// Of several nodes this one; null without a cluster file.
    node: Option<String>,
    disks: Vec<FormattedDisk>,
    /// Sentences: what to be careful with.
    warnings: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FormattedDisk {
    path: String,
    uuid: String,
    set: usize,
    slot: usize,
    destroyed: Option<String>,
    /// It was this disk before, and is as it was.
    formatted_already: bool,
}

pub(super) fn run(args: FormatArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    match (&args.cluster, args.ec) {
        (Some(path), _) => of_cluster(&args, path, out),
        (None, Some(coding)) => of_machine(&args, coding, out),
        (None, None) => unreachable!("one of the two is required"),
    }
}

/// A new deployment on this machine.
fn of_machine(args: &FormatArgs, coding: Coding, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let request = FormatRequest {
        disks: config::local_disks(&args.disks)?,
        coding,
        block_checksum: args.checksum.unwrap_or_default(),
        force: args.force,
        make_missing: false,
        sizes: DiskSizes::Full,
    };
    let plan = format::plan(&request)?;
    let report = report(&plan, coding, request.block_checksum, None);
    format::execute(plan)?;
    if args.json {
        write_json(out, &report)?;
        return Ok(Exit::Ok);
    }
    write_disks(out, &report)?;
    let patterns: Vec<String> = args.disks.iter().map(|pattern| format!("'{pattern}'")).collect();
    writeln!(out, "next: bucketsd --disks {}", patterns.join(","))?;
    Ok(Exit::Ok)
}

/// The disks of one node.
fn of_cluster(args: &FormatArgs, path: &Path, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let cluster = ClusterFile::load(path)?;
    let node = cluster.own_node(args.node.as_deref())?;
    let plan = plan_cluster(&ClusterFormatRequest { cluster: &cluster, node: &node, force: args.force })?;
    let mut report = report(&plan, cluster.coding, cluster.block_checksum, Some(&node));
    report.warnings.extend(cluster.exposure());
    let nothing_to_do = plan.disks.is_empty();
    format::execute(plan)?;
    if args.json {
        write_json(out, &report)?;
        return Ok(Exit::Ok);
    }
    write_disks(out, &report)?;
    if nothing_to_do {
        writeln!(out, "nothing was to do: all disks of {node} are formatted already")?;
    }
    let own = args.node.as_ref().map_or(String::new(), |node| format!(" --node {node}"));
    writeln!(
        out,
        "next, when the other nodes are formatted too: bucketsd --cluster {}{own}",
        path.display()
    )?;
    Ok(Exit::Ok)
}

fn write_disks(out: &mut dyn Write, report: &Formatted) -> Result<(), CtlError> {
    let of_node = report.node.as_ref().map_or(String::new(), |node| format!(" of {node}"));
    writeln!(
        out,
        "deployment {}: {} disks{of_node} in {} {}, {}, {} checksums",
        report.deployment_id,
        report.disks.len(),
        report.sets,
        if report.sets == 1 { "set" } else { "sets" },
        report.erasure,
        report.block_checksum
    )?;
    for disk in &report.disks {
        write!(out, "set {} slot {}: {} is disk {}", disk.set, disk.slot, disk.path, disk.uuid)?;
        match &disk.destroyed {
            Some(what) => writeln!(out, " (destroyed: {what})")?,
            None if disk.formatted_already => writeln!(out, " (formatted already)")?,
            None => writeln!(out)?,
        }
    }
    for warning in &report.warnings {
        writeln!(out, "! {warning}")?;
    }
    Ok(())
}

/// What the plan does; `node` is this one where there are several.
fn report(
    plan: &FormatPlan,
    coding: Coding,
    block_checksum: BlockChecksum,
    node: Option<&NodeAddress>,
) -> Formatted {
    let disk = |endpoint: &Endpoint, disk: DiskUuid, destroyed: Option<String>, formatted_already: bool| {
        let Some((set, slot)) = plan.topology.place_of(disk) else {
            unreachable!("a plan's disks are in its topology");
        };
        let path = endpoint.path().to_owned();
        FormattedDisk { path, uuid: disk.to_string(), set, slot, destroyed, formatted_already }
    };
    let new = |planned: &PlannedDisk| {
        let destroyed = planned.destroys.as_ref().map(ToString::to_string);
        disk(&planned.endpoint, planned.format.disk, destroyed, false)
    };
    let kept = |kept: &KeptDisk| disk(&kept.endpoint, kept.disk, None, true);
    let mut disks: Vec<FormattedDisk> =
        plan.disks.iter().map(new).chain(plan.kept.iter().map(kept)).collect();
    disks.sort_by_key(|disk| (disk.set, disk.slot));
    let mut sets: Vec<usize> = disks.iter().map(|disk| disk.set).collect();
    sets.dedup();
    let warn = |planned: &PlannedDisk| {
        (planned.contents == Contents::Lost).then(|| {
            format!(
                "{} was formatted although other disks of this node were formatted before: if it was in service, its chunks are \
                 written again from the other disks",
                planned.endpoint
            )
        })
    };
    Formatted {
        deployment_id: plan.topology.deployment.to_string(),
        erasure: coding.to_string(),
        block_checksum: block_checksum.name(),
        sets: sets.len(),
        node: node.map(ToString::to_string),
        disks,
        warnings: plan.disks.iter().filter_map(warn).collect(),
    }
}
