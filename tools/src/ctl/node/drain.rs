//! `bucketsctl node drain` and `undrain`: a node leads nothing, so that clients do not notice when it is stopped.
//!
//! What must hold: a node whose absence somebody would notice is left alone, unless that was asked for; what is said to be
//! drained was seen to lead nothing.

use super::super::{CtlError, ServerArgs, or_unknown, write_json};
use super::absence::Absence;
use super::meant;
use crate::admin_api::{NodeCondition, ServerInfo};
use crate::admin_client::AdminClient;
use crate::verdict::Exit;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two looks at what the node still leads.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What takes longer than this says how far it is.
const LONG: Duration = Duration::from_secs(2);
/// To the beginning of the line, and away with what is there.
const CLEAR_LINE: &[u8] = b"\r\x1b[K";

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct DrainArgs {
    /// The node, as the cluster file names it; the port may be left out. Any node may be asked
    #[arg(value_name = "HOST[:PORT]")]
    name: String,
    /// Also where reads or writes would be refused without the node
    #[arg(long)]
    force: bool,
    /// How long others may take to lead what it led; it goes on draining afterwards
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON, once it is done; how far it is goes to standard error, a line each, where it takes long
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::ctl) struct UndrainArgs {
    /// The node, as the cluster file names it; the port may be left out. Any node may be asked
    #[arg(value_name = "HOST[:PORT]")]
    name: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is left while the node is stopped.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Drained {
    node: String,
    draining: bool,
    leads: u64,
    /// Further disks of a set that may fail; `null` where that is refused already.
    writes_tolerate: Option<u8>,
    reads_tolerate: Option<u8>,
    /// Parts that lack chunks already; `null` where unknown.
    parts_to_repair: Option<u64>,
}

pub(super) fn drain(
    args: DrainArgs,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    let client = args.server.client(env)?;
    let info = client.info()?;
    let node = meant(&info, &args.name)?.name.clone();
    let refusal = Absence::of(&info, &node).refusal(&node);
    if let Some(refusal) = refusal.filter(|_| !args.force) {
        return Err(CtlError::NotDrained(refusal));
    }
    client.drain(&node)?;
    let is_watched = !args.json && io::stdout().is_terminal();
    let start = Instant::now();
    let mut shown = None;
    let mut progress = |leads: Option<u64>, state: &str| {
        if is_watched {
            out.write_all(CLEAR_LINE)?;
            write!(out, "{node} {state}")?;
            out.flush()?;
        } else if args.json && start.elapsed() >= LONG && shown != Some(leads) {
            // Beside the answer, which is one document.
            eprintln!("{}", serde_json::json!({ "node": node, "draining": true, "leads": leads }));
            shown = Some(leads);
        }
        Ok(())
    };
    let waited = wait(&client, &node, Duration::from_secs(args.timeout), &mut progress);
    if is_watched {
        out.write_all(CLEAR_LINE)?;
    }
    // As it is now: the disks of others may have gone meanwhile.
    let info = waited?;
    let Absence { writes_tolerate, reads_tolerate, .. } = Absence::of(&info, &node);
    let parts_to_repair =
        info.repairs.filter(|known| known.nodes_unknown == 0).map(|known| known.parts_to_repair);
    if args.json {
        let drained =
            Drained { node, draining: true, leads: 0, writes_tolerate, reads_tolerate, parts_to_repair };
        write_json(out, &drained)?;
        return Ok(Exit::Ok);
    }
    writeln!(out, "{node} is drained: it leads nothing, and its /ready answers 503; it may be stopped")?;
    writeln!(out, "without it {}", left(writes_tolerate, reads_tolerate))?;
    if parts_to_repair != Some(0) {
        let parts = or_unknown(parts_to_repair);
        writeln!(
            out,
            "wait before you stop it: {parts} parts are not repaired yet, and lack chunks already (bucketsctl info)"
        )?;
    }
    writeln!(out, "its next start ends this; so does: bucketsctl node undrain {node}")?;
    Ok(Exit::Ok)
}

/// Until the node leads nothing; what the server told then.
fn wait(
    client: &AdminClient,
    node: &str,
    limit: Duration,
    progress: &mut dyn FnMut(Option<u64>, &str) -> io::Result<()>,
) -> Result<ServerInfo, CtlError> {
    let start = Instant::now();
    loop {
        let told = client.info();
        let known = told.as_ref().ok().and_then(|info| info.nodes.iter().find(|known| known.name == node));
        let state = match known.map(|known| (known.condition, known.leads)) {
            Some((NodeCondition::Draining, Some(0))) => return Ok(told?),
            Some((NodeCondition::Up, Some(_))) => {
                return Err(CtlError::DrainUnfinished(format!(
                    "node {node} is not draining any more: it was started again, or somebody took it back; drain it again"
                )));
            }
            Some((NodeCondition::Draining, Some(leads))) => format!("leads {leads} partitions"),
            Some((condition, _)) => format!("does not tell what it leads ({condition})"),
            None => "is not told of".to_owned(),
        };
        if start.elapsed() >= limit {
            let trouble = told.err().map_or(String::new(), |error| format!(" ({error})"));
            return Err(CtlError::DrainUnfinished(format!(
                "after {} s node {node} still {state}{trouble}: clients would notice its end for a moment; it goes on draining, \
                 wait with the same command, or take it back with `bucketsctl node undrain {node}`",
                limit.as_secs()
            )));
        }
        progress(known.and_then(|known| known.leads), &state)?;
        std::thread::sleep(LOOK_EVERY);
    }
}

fn left(writes_tolerate: Option<u8>, reads_tolerate: Option<u8>) -> String {
    let disks = |more: u8| match more {
        1 => "1 more disk of a set may fail".to_owned(),
        more => format!("{more} more disks of a set may fail"),
    };
    match (writes_tolerate, reads_tolerate) {
        (_, None) => "SOME DATA CANNOT BE READ".to_owned(),
        (None, Some(reads)) => format!("WRITES ARE REFUSED; {} while everything can be read", disks(reads)),
        (Some(writes), Some(reads)) if writes == reads => {
            format!("{} while everything can be read and written", disks(writes))
        }
        (Some(writes), Some(reads)) => {
            format!("{} while writes go on, {reads} while everything can be read", disks(writes))
        }
    }
}

pub(super) fn undrain(
    args: UndrainArgs,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    let client = args.server.client(env)?;
    let node = meant(&client.info()?, &args.name)?.name.clone();
    client.undrain(&node)?;
    match args.json {
        true => write_json(out, &serde_json::json!({ "node": node, "draining": false }))?,
        false => writeln!(out, "{node} is ready again, and leads within seconds what it should")?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_one_line() {
        let table = [
            (Some(0), Some(0), "0 more disks of a set may fail while everything can be read and written"),
            (
                Some(1),
                Some(2),
                "1 more disk of a set may fail while writes go on, 2 while everything can be read",
            ),
            (
                None,
                Some(0),
                "WRITES ARE REFUSED; 0 more disks of a set may fail while everything can be read",
            ),
            (None, None, "SOME DATA CANNOT BE READ"),
            (Some(0), None, "SOME DATA CANNOT BE READ"),
        ];
        for (writes, reads, text) in table {
            assert_eq!(left(writes, reads), text);
        }
    }
}
