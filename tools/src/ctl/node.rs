//! `bucketsctl node`: the nodes, as the one that is asked sees them.

mod absence;
mod drain;

use super::disk::{self, Row};
use super::table::Table;
use super::watch::View;
use super::{CtlError, ServerArgs, or_unknown};
use crate::admin_api::{DiskInfo, NodeInfo, ServerInfo};
use crate::size::ByteSize;
use crate::verdict::Exit;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

#[derive(Debug, clap::Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes: state, partitions that they lead, cores, disks in service, round trip
    List(ListArgs),
    /// Show one node: its connections, whom it refused, its disks
    Info(InfoArgs),
    /// Make a node ready to be stopped: others lead what it led, and its /ready answers 503
    Drain(drain::DrainArgs),
    /// Take that back: the node leads again what it should
    Undrain(drain::UndrainArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {
    /// The node, as the cluster file names it; the port may be left out
    #[arg(value_name = "HOST[:PORT]")]
    name: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    view: View,
}

#[derive(Serialize)]
struct NodeList {
    nodes: Vec<NodeInfo>,
}

/// A node with its disks.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    node: NodeInfo,
    disks: Vec<Row>,
}

pub(super) fn run(
    command: NodeCommand,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    match command {
        NodeCommand::List(ListArgs { server, view }) => {
            let choose = |info: &ServerInfo| Ok(NodeList { nodes: info.nodes.clone() });
            view.show(out, &server.client(env)?, choose, |out, NodeList { nodes }, _| {
                match nodes.is_empty() {
                    true => writeln!(out, "the deployment has local disks only"),
                    false => table(nodes).write(out),
                }
            })
        }
        NodeCommand::Info(InfoArgs { name, server, view }) => {
            let choose = |info: &ServerInfo| shown(info, &name);
            view.show(out, &server.client(env)?, choose, |out, shown, _| write_text(out, shown))
        }
        NodeCommand::Drain(args) => drain::drain(args, env, out),
        NodeCommand::Undrain(args) => drain::undrain(args, env, out),
    }
}

pub(super) fn table(nodes: &[NodeInfo]) -> Table {
    let mut table = Table::new(&["NODE", "STATE", "LEADS", "CORES", "DISKS", "ROUND TRIP"]);
    for node in nodes {
        table.row(vec![
            node.name.clone(),
            state(node),
            or_unknown(node.leads),
            or_unknown(node.cores),
            format!("{}/{}", node.disks_in_service, node.disks_total),
            round_trip(node),
        ]);
    }
    table
}

fn state(node: &NodeInfo) -> String {
    match (node.own, node.slow) {
        (_, true) => format!("{}, slow", node.condition),
        (true, _) => format!("{}, answers here", node.condition),
        _ => node.condition.to_string(),
    }
}

fn round_trip(node: &NodeInfo) -> String {
    match node.round_trip_micros {
        _ if node.own => "-".to_owned(),
        Some(micros @ 0..1000) => format!("{micros} us"),
        Some(micros) => format!("{:.1} ms", micros as f64 / 1000.0),
        None => "?".to_owned(),
    }
}

/// The node that a name stands for.
fn meant<'a>(info: &'a ServerInfo, name: &str) -> Result<&'a NodeInfo, CtlError> {
    let is_meant = |node: &&NodeInfo| {
        let host = node.name.rsplit_once(':').map(|(host, _)| host);
        node.name == name || host == Some(name)
    };
    let meant: Vec<&NodeInfo> = info.nodes.iter().filter(is_meant).collect();
    let [node] = meant[..] else {
        let known = match meant.is_empty() {
            true => info.nodes.iter().map(|node| node.name.clone()).collect(),
            false => meant.iter().map(|node| node.name.clone()).collect(),
        };
        return Err(CtlError::NoSuchNode { name: name.to_owned(), known });
    };
    Ok(node)
}

fn shown(info: &ServerInfo, name: &str) -> Result<Shown, CtlError> {
    let node = meant(info, name)?;
    let is_its = |disk: &DiskInfo| disk.node.as_ref() == Some(&node.name);
    let mut disks = disk::rows(info);
    disks.retain(|row| is_its(&row.disk));
    Ok(Shown { node: node.clone(), disks })
}

fn write_text(out: &mut dyn Write, shown: &Shown) -> io::Result<()> {
    let Shown { node, disks } = shown;
    writeln!(out, "node {}: {}", node.name, state(node))?;
    writeln!(
        out,
        "leads {} partitions, cores {}, disks in service {} of {}, round trip {}",
        or_unknown(node.leads),
        or_unknown(node.cores),
        node.disks_in_service,
        node.disks_total,
        round_trip(node)
    )?;
    if let Some(connections) = &node.connections {
        writeln!(
            out,
            "connections to it: {} made, {} lost, {} attempts unanswered{}",
            connections.made,
            connections.lost,
            connections.unreachable,
            refusals(", refused: ", &connections.refused)
        )?;
    }
    match &node.refused {
        Some(refused) if refused.is_empty() => writeln!(out, "connections that it refused: none")?,
        Some(refused) => writeln!(out, "connections that it refused{}", refusals(": ", refused))?,
        None => writeln!(out, "connections that it refused: ? (it does not tell)")?,
    }
    if let Some(repairs) = node.repairs {
        writeln!(
            out,
            "repairs in partitions that it leads: {} parts{} wait, {} chunks ({}) repaired since its start",
            repairs.parts_to_repair,
            super::info::in_brackets(repairs.bytes_to_repair),
            repairs.chunks_repaired,
            ByteSize(repairs.bytes_repaired)
        )?;
    }
    writeln!(out)?;
    disk::write_text(out, disks)
}

fn refusals(before: &str, refused: &BTreeMap<String, u64>) -> String {
    let kinds: Vec<String> = refused.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    match kinds.is_empty() {
        true => String::new(),
        false => format!("{before}{}", kinds.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_api::{ConnectionsInfo, DiskCondition, NodeCondition};
    use crate::ctl::info::tests::info;

    fn text(shown: &Shown) -> String {
        let mut out = Vec::new();
        write_text(&mut out, shown).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_node_is_found_by_its_host_where_that_is_enough() {
        let mut info = info([DiskCondition::Ok; 4]);
        assert_eq!(shown(&info, "n2").unwrap().node.name, "n2:9100");
        let slots = |shown: Shown| shown.disks.iter().map(|row| row.disk.slot).collect::<Vec<_>>();
        assert_eq!(slots(shown(&info, "n1:9100").unwrap()), [0, 2]);
        let error = shown(&info, "n3").map(drop).unwrap_err().to_string();
        assert!(error.contains("n3") && error.ends_with("n1:9100, n2:9100"), "{error}");
        info.nodes[0].name = "n2:9200".to_owned();
        assert!(shown(&info, "n2").is_err());
        assert_eq!(shown(&info, "n2:9200").unwrap().node.name, "n2:9200");
    }

    #[test]
    fn who_was_refused_is_named_and_what_is_unknown_is_not_none() {
        let mut info = info([DiskCondition::Ok; 4]);
        let refused = BTreeMap::from([("wrong_secret".to_owned(), 3)]);
        info.nodes[1].refused = Some(refused.clone());
        info.nodes[1].connections = Some(ConnectionsInfo { made: 4, refused, ..ConnectionsInfo::default() });
        let told = text(&shown(&info, "n2").unwrap());
        assert!(told.contains("connections that it refused: 3 wrong_secret\n"), "{told}");
        assert!(told.contains("4 made, 0 lost, 0 attempts unanswered, refused: 3 wrong_secret\n"), "{told}");
        info.nodes[1].refused = None;
        info.nodes[1].condition = NodeCondition::Unreachable;
        let silent = text(&shown(&info, "n2").unwrap());
        assert!(silent.starts_with("node n2:9100: unreachable\n"), "{silent}");
        assert!(silent.contains("refused: ? "), "{silent}");
    }

    #[test]
    fn round_trips_are_short_and_unknown_ones_are_said_so() {
        let mut node = info([DiskCondition::Ok; 4]).nodes.remove(1);
        let mut shown = |micros| {
            node.round_trip_micros = micros;
            round_trip(&node)
        };
        assert_eq!(shown(Some(412)), "412 us");
        assert_eq!(shown(Some(12_345)), "12.3 ms");
        assert_eq!(shown(None), "?");
    }
}
