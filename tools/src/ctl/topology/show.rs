//! `bucketsctl topology show`: what the disks of this machine say, without a running server.

use super::super::table::Table;
use super::super::{CtlError, OwnDisksArgs, write_json};
use crate::config::NodeCluster;
use crate::local_disks;
use crate::size::ByteSize;
use crate::verdict::{self, Exit, SetHealth, Verdict};
use buckets_ring::Endpoint;
use buckets_ring::assembly::{self, Assembly, FoundDisk};
use buckets_ring::endpoint::NodeAddress;
use serde::Serialize;
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct ShowArgs {
    #[command(flatten)]
    disks: OwnDisksArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    verdict: Verdict,
    deployment_id: String,
    generation: u64,
    /// Of several nodes this one; null without a cluster file.
    node: Option<String>,
    block_checksum: &'static str,
    sets: Vec<ShownSet>,
    /// Sentences: what is wrong with which disk, and what to do.
    problems: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSet {
    set: usize,
    pool: u16,
    state: String,
    erasure: String,
    partitions: u16,
    verdict: Verdict,
    failures_tolerated: Option<u8>,
    writable: bool,
    disks: Vec<ShownDisk>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownDisk {
    slot: usize,
    uuid: String,
    endpoint: String,
    /// Null where it is not known.
    capacity_bytes: Option<u64>,
    /// Where it was found; null where it was not.
    found_at: Option<String>,
    /// It is another node's, and was not looked for.
    elsewhere: bool,
}

pub(super) fn run(args: ShowArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let (disks, cluster) = args.disks.resolve()?;
    let found: Vec<FoundDisk> = disks.iter().map(local_disks::identify).collect();
    let shown = match &cluster {
        None => show(&assembly::assemble(&found)?, None),
        Some(NodeCluster { node: None, .. }) => return Err(CtlError::GatewayDisks),
        Some(NodeCluster { file, node: Some(node) }) => {
            let assembly = assembly::assemble(&found)?;
            file.check_deployment(assembly.deployment)?;
            let mut shown = show(&assembly, Some(node));
            shown.problems.extend(file.exposure());
            shown
        }
    };
    if args.json {
        write_json(out, &shown)?;
    } else {
        write_text(out, &shown)?;
    }
    Ok(shown.verdict.into())
}

/// What the disks of this machine say; `own` is this node, where there are several.
fn show(assembly: &Assembly, own: Option<&NodeAddress>) -> Shown {
    let is_elsewhere = |endpoint: &Endpoint| own.is_some() && endpoint.node() != own;
    let topology = &assembly.topology;
    let mut sets: Vec<ShownSet> = Vec::new();
    for (index, set) in topology.sets.iter().enumerate() {
        let member = |uuid| assembly.members.iter().find(|member| member.disk == uuid);
        let disks: Vec<ShownDisk> = set
            .disks
            .iter()
            .enumerate()
            .map(|(slot, disk)| ShownDisk {
                slot,
                uuid: disk.uuid.to_string(),
                endpoint: disk.endpoint.to_string(),
                capacity_bytes: (disk.capacity_bytes > 0).then_some(disk.capacity_bytes),
                found_at: member(disk.uuid).map(|member| member.endpoint.to_string()),
                elsewhere: is_elsewhere(&disk.endpoint) && member(disk.uuid).is_none(),
            })
            .collect();
        let removed = set.state == buckets_ring::SetState::Removed;
        // Of disks that are elsewhere nothing is known, so the verdict is about this node's.
        let counts = |disk: &&ShownDisk| removed || disk.elsewhere || disk.found_at.is_some();
        let well = disks.iter().filter(counts).count();
        // A set has at most 32 disks.
        let health = SetHealth::of(set.coding, well as u8);
        sets.push(ShownSet {
            set: index,
            pool: set.pool,
            state: set.state.to_string(),
            erasure: set.coding.to_string(),
            partitions: set.partitions,
            verdict: health.verdict,
            failures_tolerated: health.failures_tolerated,
            writable: health.writable,
            disks,
        });
    }
    let stale = assembly.members.iter().filter(|member| !member.topology_is_current).map(|member| {
        format!(
            "{}: its topology.json is missing, damaged or old; the next start writes it again",
            member.endpoint
        )
    });
    // A refused disk's place has its own sentence.
    let absent = assembly
        .absent
        .iter()
        .filter(|absent| !is_elsewhere(&absent.endpoint))
        .filter(|absent| assembly.refused.iter().all(|refused| refused.expected != Some(absent.disk)));
    let absent = absent.map(|absent| {
        format!(
            "disk {} (set {} slot {}) is expected at {} and was not found; name it, or check that it is mounted",
            absent.disk, absent.set, absent.slot, absent.endpoint
        )
    });
    Shown {
        verdict: verdict::overall(sets.iter().map(|set| set.verdict)),
        deployment_id: assembly.deployment.to_string(),
        generation: topology.generation,
        node: own.map(ToString::to_string),
        block_checksum: assembly.block_checksum.name(),
        problems: assembly.refused.iter().map(ToString::to_string).chain(absent).chain(stale).collect(),
        sets,
    }
}

fn write_text(out: &mut dyn Write, shown: &Shown) -> Result<(), CtlError> {
    writeln!(
        out,
        "{}: deployment {}, generation {}, {} checksums",
        shown.verdict, shown.deployment_id, shown.generation, shown.block_checksum
    )?;
    if let Some(node) = &shown.node {
        writeln!(out, "this is what the disks of {node} say; those of other nodes were not looked at")?;
    }
    for set in &shown.sets {
        let tolerated = match set.failures_tolerated {
            Some(more) => format!("{more} more disks may fail"),
            None => "NOT READABLE".to_owned(),
        };
        let writable = if set.writable { "" } else { ", read-only" };
        writeln!(out)?;
        writeln!(
            out,
            "set {} (pool {}, {}, {}, {} partitions): {}, {tolerated}{writable}",
            set.set, set.pool, set.erasure, set.state, set.partitions, set.verdict
        )?;
        let mut table = Table::new(&["SLOT", "DISK", "SIZE", "ENDPOINT", "FOUND"]);
        for disk in &set.disks {
            let found = match &disk.found_at {
                Some(place) if *place == disk.endpoint => "yes".to_owned(),
                Some(place) => format!("at {place}"),
                None if disk.elsewhere => "elsewhere".to_owned(),
                None => "NO".to_owned(),
            };
            let size = disk.capacity_bytes.map_or("-".to_owned(), |bytes| ByteSize(bytes).to_string());
            table.row(vec![disk.slot.to_string(), disk.uuid.clone(), size, disk.endpoint.clone(), found]);
        }
        table.write(out)?;
    }
    if !shown.problems.is_empty() {
        writeln!(out)?;
    }
    for problem in &shown.problems {
        writeln!(out, "! {problem}")?;
    }
    Ok(())
}
