//! `bucketsctl topology new`: the cluster file of a new deployment.
//!
//! What must hold: an existing file is never overwritten, since it may be the only copy of a deployment's secret; the secret
//! is in the file and nowhere else.

use super::super::table::Table;
use super::super::{CtlError, write_json};
use crate::cluster::{self, ClusterFile, NewCluster};
use crate::node_loss::{self, Loss, NodeFailures, NodeShare};
use crate::verdict::Exit;
use buckets_engine::node::DiskSizes;
use buckets_ring::endpoint::NodeAddress;
use buckets_ring::topology::TopologySet;
use buckets_ring::{BlockChecksum, Coding, Endpoint, TopologyJson};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct NewArgs {
    /// All disks of all nodes, patterns allowed: 'http://node{1...6}:9100/mnt/disk{1...4}'. The port is the one between
    /// nodes, not the one for S3 clients. A multiple of K+M
    #[arg(value_name = "ENDPOINT_PATTERN", required = true)]
    endpoints: Vec<String>,
    /// Data and parity chunks, each 1 to 16: 8+4 survives any four disks of a set
    #[arg(long, value_name = "K+M")]
    ec: Coding,
    /// Checksum of stored blocks: xxh3 (fast) or blake2b (cryptographic); fixed for the deployment
    #[arg(long, value_name = "KIND", default_value_t)]
    checksum: BlockChecksum,
    /// The file to write; an existing one is never overwritten
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    out: PathBuf,
    /// Write nothing; show the sets and what the loss of each node would cost
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned {
    /// The file that was written; null for a dry run.
    file: Option<String>,
    /// Null for a dry run: it is made when the file is written.
    deployment_id: Option<String>,
    erasure: String,
    block_checksum: &'static str,
    sets: Vec<PlannedSet>,
    nodes: Vec<PlannedNode>,
    node_failures_tolerated: NodeFailures,
    /// Sentences: what the loss of one node would cost.
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct PlannedSet {
    set: usize,
    pool: u16,
    /// In slot order.
    disks: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedNode {
    node: String,
    disks: usize,
    disks_of_sets: Vec<DisksOfSet>,
    loss: Loss,
}

#[derive(Serialize)]
struct DisksOfSet {
    set: usize,
    disks: u8,
}

pub(super) fn run(args: NewArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let new = NewCluster {
        coding: args.ec,
        block_checksum: args.checksum,
        disk_sizes: DiskSizes::Full,
        patterns: &args.endpoints,
    };
    let text = new.compose().map_err(CtlError::Random)?;
    // What is written is what nodes will read.
    let file = ClusterFile::parse(&args.out, &text)?;
    if !args.dry_run {
        cluster::write_new(&args.out, &text)
            .map_err(|error| CtlError::WriteCluster { path: args.out.clone(), error })?;
    }
    let (topology, nodes) = (file.topology(), file.nodes());
    let shares = node_loss::shares(&topology, &nodes);
    let planned = Planned {
        file: (!args.dry_run).then(|| args.out.display().to_string()),
        deployment_id: (!args.dry_run).then(|| file.deployment.to_string()),
        erasure: file.coding.to_string(),
        block_checksum: file.block_checksum.name(),
        sets: topology.sets.iter().enumerate().map(planned_set).collect(),
        nodes: shares.iter().map(planned_node).collect(),
        node_failures_tolerated: node_loss::failures(&topology, &nodes),
        warnings: shares.iter().filter_map(|share| warning(&topology, share)).collect(),
    };
    if args.json {
        write_json(out, &planned)?;
    } else {
        write_text(out, &planned, &topology, &shares)?;
    }
    Ok(Exit::Ok)
}

fn planned_set((index, set): (usize, &TopologySet)) -> PlannedSet {
    let disks = set.disks.iter().map(|disk| disk.endpoint.to_string()).collect();
    PlannedSet { set: index, pool: set.pool, disks }
}

fn planned_node(share: &NodeShare) -> PlannedNode {
    let of_set = |(set, disks): &(usize, u8)| DisksOfSet { set: *set, disks: *disks };
    PlannedNode {
        node: share.node.to_string(),
        disks: share.disks(),
        disks_of_sets: share.disks_of_sets.iter().map(of_set).collect(),
        loss: share.loss,
    }
}

/// What is to be known about a node whose loss is not tolerated.
fn warning(topology: &TopologyJson, share: &NodeShare) -> Option<String> {
    let (set, disks) = share.disks_of_sets.iter().max_by_key(|(_, disks)| *disks)?;
    let coding = topology.sets[*set].coding;
    let node = &share.node;
    match share.loss {
        Loss::Tolerated => None,
        Loss::ReadsOnly => Some(format!(
            "without {node} not everything can be written: it holds {disks} disks of set {set}, writes with {coding} go on without {}; \
             spread the disks over more nodes, or choose another K+M",
            coding.write_failures_tolerated()
        )),
        Loss::Unavailable => Some(format!(
            "without {node} DATA IS UNAVAILABLE: it holds {disks} disks of set {set}, {coding} bears the loss of {}; \
             spread the disks over more nodes, or choose another K+M",
            coding.read_failures_tolerated()
        )),
    }
}

fn write_text(
    out: &mut dyn Write,
    planned: &Planned,
    topology: &TopologyJson,
    shares: &[NodeShare],
) -> Result<(), CtlError> {
    match (&planned.file, &planned.deployment_id) {
        (Some(file), Some(deployment)) => writeln!(out, "{file}: deployment {deployment}")?,
        _ => writeln!(out, "dry run: nothing is written")?,
    }
    writeln!(
        out,
        "{} disks on {} in {}, {}, {} checksums",
        topology.disks().count(),
        counted(shares.len(), "node"),
        counted(planned.sets.len(), "set"),
        planned.erasure,
        planned.block_checksum
    )?;
    for (index, set) in topology.sets.iter().enumerate() {
        writeln!(out, "\nset {index} (pool {})", set.pool)?;
        let mut table = Table::new(&["NODE", "DISKS"]);
        let on = |node: &NodeAddress| -> Vec<&str> {
            let of_node = set.disks.iter().filter(|disk| disk.endpoint.node() == Some(node));
            of_node.map(|disk| &disk.endpoint).map(Endpoint::path).collect()
        };
        for share in shares {
            let paths = on(&share.node);
            if !paths.is_empty() {
                table.row(vec![share.node.to_string(), paths.join(" ")]);
            }
        }
        table.write(out)?;
    }
    writeln!(out)?;
    let mut table = Table::new(&["NODE", "DISKS", "OF EACH SET", "ITS LOSS"]);
    for share in shares {
        let (node, disks) = (share.node.to_string(), share.disks().to_string());
        table.row(vec![node, disks, runs(&share.disks_of_sets), share.loss.to_string()]);
    }
    table.write(out)?;
    let NodeFailures { reads_and_writes, reads } = planned.node_failures_tolerated;
    writeln!(out, "\n{}", at_worst(reads_and_writes, reads))?;
    for warning in &planned.warnings {
        writeln!(out, "! {warning}")?;
    }
    if let Some(file) = &planned.file {
        writeln!(
            out,
            "next: copy {file} to every node, readable for bucketsd only; then on each node:\n  \
             bucketsctl format --cluster {file}\n  bucketsd --cluster {file}"
        )?;
    }
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How many nodes may fail, as a sentence.
fn at_worst(reads_and_writes: usize, reads: usize) -> String {
    let any =
        |count: usize| if count == 1 { "any node".to_owned() } else { format!("any {count} nodes at once") };
    match (reads_and_writes, reads) {
        (0, 0) => "at worst the loss of one node makes data unavailable".to_owned(),
        (0, reads) => format!("{} may fail and everything can be read, but not written", any(reads)),
        (both, reads) if both == reads => format!("{} may fail: reads and writes go on", any(both)),
        (both, reads) => {
            format!("{} may fail: reads and writes go on; {}: everything can be read", any(both), any(reads))
        }
    }
}

/// `2 of sets 0-3, 1 of set 5`: neighbours with as many disks together.
fn runs(disks_of_sets: &[(usize, u8)]) -> String {
    let mut runs: Vec<(usize, usize, u8)> = Vec::new();
    for (set, disks) in disks_of_sets {
        match runs.last_mut() {
            Some((_, last, same)) if *last + 1 == *set && same == disks => *last = *set,
            _ => runs.push((*set, *set, *disks)),
        }
    }
    let text = runs.into_iter().map(|(first, last, disks)| match first == last {
        true => format!("{disks} of set {first}"),
        false => format!("{disks} of sets {first}-{last}"),
    });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_sets_are_shown_together() {
        assert_eq!(
            runs(&[(0, 2), (1, 2), (2, 1), (4, 1), (5, 1)]),
            "2 of sets 0-1, 1 of set 2, 1 of sets 4-5"
        );
        assert_eq!(runs(&[]), "");
    }

    #[test]
    fn the_number_of_nodes_that_may_fail_is_a_sentence() {
        assert_eq!(at_worst(0, 0), "at worst the loss of one node makes data unavailable");
        assert_eq!(at_worst(0, 1), "any node may fail and everything can be read, but not written");
        assert_eq!(at_worst(2, 2), "any 2 nodes at once may fail: reads and writes go on");
        assert_eq!(
            at_worst(1, 2),
            "any node may fail: reads and writes go on; any 2 nodes at once: everything can be read"
        );
    }
}
