//! `bucketsctl topology`: what the disks of this machine say, without a running server.

use super::table::Table;
use super::{CtlError, write_json};
use crate::config::{self, ConfigFile};
use crate::local_disks;
use crate::size::ByteSize;
use crate::verdict::{self, Exit, SetHealth, Verdict};
use buckets_ring::assembly::{self, Assembly, FoundDisk};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum TopologyCommand {
    /// Show sets, disks and what is wrong with them
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Directories of the disks, patterns allowed: '/mnt/disk{1...4}'; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', required_unless_present = "config")]
    disks: Vec<String>,
    /// The configuration file that names the disks
    #[arg(long, value_name = "FILE", conflicts_with = "disks")]
    config: Option<PathBuf>,
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
    capacity_bytes: u64,
    /// Where it was found; null where it was not.
    found_at: Option<String>,
}

pub(super) fn run(command: TopologyCommand, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let TopologyCommand::Show(args) = command;
    let patterns = match &args.config {
        Some(path) => ConfigFile::load(path)?.disks,
        None => args.disks,
    };
    let found: Vec<FoundDisk> = config::local_disks(&patterns)?.iter().map(local_disks::identify).collect();
    let shown = show(&assembly::assemble(&found)?);
    if args.json {
        write_json(out, &shown)?;
    } else {
        write_text(out, &shown)?;
    }
    Ok(shown.verdict.into())
}

fn show(assembly: &Assembly) -> Shown {
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
                capacity_bytes: disk.capacity_bytes,
                found_at: member(disk.uuid).map(|member| member.endpoint.to_string()),
            })
            .collect();
        let removed = set.state == buckets_ring::SetState::Removed;
        let well = disks.iter().filter(|disk| removed || disk.found_at.is_some()).count();
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
                None => "NO".to_owned(),
            };
            let size = ByteSize(disk.capacity_bytes).to_string();
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
