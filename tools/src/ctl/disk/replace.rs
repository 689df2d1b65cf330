//! `bucketsctl disk replace`: an empty disk in the place of a lost one.

use super::super::{CtlError, OwnDisksArgs, write_json};
use crate::config::{self, NodeCluster};
use crate::format::{self, replace};
use crate::verdict::Exit;
use serde::Serialize;
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct ReplaceArgs {
    /// The directory of the lost disk, where an empty one is mounted now
    #[arg(value_name = "DIRECTORY")]
    place: String,
    #[command(flatten)]
    disks: OwnDisksArgs,
    /// Destroy what another deployment has stored there; disks of this one, and other people's files, are never destroyed
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Replaced {
    path: String,
    uuid: String,
    destroyed: Option<String>,
}

pub(super) fn run(args: ReplaceArgs, out: &mut dyn Write) -> Result<Exit, CtlError> {
    let places = config::local_disks(std::slice::from_ref(&args.place))?;
    let (disks, cluster) = args.disks.resolve()?;
    let plans = places.iter().map(|place| match &cluster {
        None => Ok(replace::plan_local(&disks, place, args.force)?),
        Some(NodeCluster { node: None, .. }) => Err(CtlError::GatewayDisks),
        Some(NodeCluster { file, node: Some(node) }) => {
            Ok(replace::plan_in_cluster(file, node, place, args.force)?)
        }
    });
    let mut replaced = Vec::new();
    for plan in plans.collect::<Result<Vec<_>, CtlError>>()? {
        replaced.extend(plan.disks.iter().map(|disk| Replaced {
            path: disk.endpoint.path().to_owned(),
            uuid: disk.format.disk.to_string(),
            destroyed: disk.destroys.as_ref().map(ToString::to_string),
        }));
        format::execute(plan)?;
    }
    if args.json {
        write_json(out, &replaced)?;
        return Ok(Exit::Ok);
    }
    for Replaced { path, uuid, destroyed } in &replaced {
        let destroyed = destroyed.as_ref().map_or(String::new(), |what| format!(" (destroyed: {what})"));
        writeln!(out, "{path} is disk {uuid} again, and empty{destroyed}")?;
    }
    writeln!(
        out,
        "next: bucketsd takes it within seconds, where it runs; see how it is filled: bucketsctl disk list --watch"
    )?;
    Ok(Exit::Ok)
}
