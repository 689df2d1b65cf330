//! `bucketsctl format`

use super::{CtlError, write_json};
use crate::config;
use crate::format::{self, FormatPlan, FormatRequest};
use crate::verdict::Exit;
use buckets_engine::node::DiskSizes;
use buckets_ring::{BlockChecksum, Coding};
use serde::Serialize;
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(super) struct FormatArgs {
    /// Existing directories, patterns allowed: '/mnt/disk{1...4}'; may be repeated. A multiple of K+M; each should be its own
    /// file system
    #[arg(long, value_name = "PATTERN", required = true, value_delimiter = ',')]
    disks: Vec<String>,
    /// Data and parity chunks, each 1 to 16: 4+2 survives any two disks; 1+2 keeps three copies
    #[arg(long, value_name = "K+M")]
    ec: Coding,
    /// Checksum of stored blocks: xxh3 (fast) or blake2b (cryptographic); fixed for the deployment
    #[arg(long, value_name = "KIND", default_value_t)]
    checksum: BlockChecksum,
    /// Destroy what is stored on disks that are formatted already; other people's files are never removed
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Formatted<'a> {
    deployment_id: String,
    erasure: String,
    block_checksum: &'a str,
    sets: usize,
    disks: Vec<FormattedDisk>,
}

#[derive(Serialize)]
struct FormattedDisk {
    path: String,
    uuid: String,
    set: usize,
    slot: usize,
    destroyed: Option<String>,
}

pub(super) fn run(args: FormatArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let request = FormatRequest {
        disks: config::local_disks(&args.disks)?,
        coding: args.ec,
        block_checksum: args.checksum,
        force: args.force,
        make_missing: false,
        sizes: DiskSizes::Full,
    };
    let plan = format::plan(&request)?;
    let report = report(&request, &plan);
    format::execute(plan)?;
    if args.json {
        write_json(out, &report)?;
        return Ok(Exit::Ok);
    }
    writeln!(
        out,
        "deployment {}: {} disks in {} {}, {}, {} checksums",
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
            None => writeln!(out)?,
        }
    }
    let patterns: Vec<String> = args.disks.iter().map(|pattern| format!("'{pattern}'")).collect();
    writeln!(out, "next: bucketsd --disks {}", patterns.join(","))?;
    Ok(Exit::Ok)
}

fn report(request: &FormatRequest, plan: &FormatPlan) -> Formatted<'static> {
    let n = usize::from(request.coding.n());
    let disk = |(index, disk): (usize, &format::PlannedDisk)| FormattedDisk {
        path: disk.endpoint.to_string(),
        uuid: disk.format.disk.to_string(),
        set: index / n,
        slot: index % n,
        destroyed: disk.destroys.as_ref().map(ToString::to_string),
    };
    Formatted {
        deployment_id: plan.topology.deployment.to_string(),
        erasure: request.coding.to_string(),
        block_checksum: request.block_checksum.name(),
        sets: plan.topology.sets.len(),
        disks: plan.disks.iter().enumerate().map(disk).collect(),
    }
}
