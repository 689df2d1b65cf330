//! `bucketsctl disk`: all disks of the deployment, node by node.

mod replace;

use super::table::Table;
use super::watch::View;
use super::{CtlError, ServerArgs, or_unknown};
use crate::admin_api::{DiskCondition, DiskInfo, ServerInfo};
use crate::size::ByteSize;
use crate::verdict::Exit;
use serde::Serialize;
use std::io::{self, Write};

#[derive(Debug, clap::Subcommand)]
pub(super) enum DiskCommand {
    /// List the disks: node, path, set, slot, state and why, size, free
    List(ListArgs),
    /// Put an empty disk into the place of one that is lost (on its node, which may run): it votes again once all other voters
    /// have answered, and its chunks are written again from the other disks
    Replace(replace::ReplaceArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    view: View,
}

/// A disk and its set.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) set: u16,
    #[serde(flatten)]
    pub(super) disk: DiskInfo,
}

#[derive(Serialize)]
struct DiskList {
    disks: Vec<Row>,
}

pub(super) fn run(
    command: DiskCommand,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    let ListArgs { server, view } = match command {
        DiskCommand::List(args) => args,
        DiskCommand::Replace(args) => return replace::run(args, out),
    };
    let choose = |info: &ServerInfo| Ok(DiskList { disks: rows(info) });
    view.show(out, &server.client(env)?, choose, |out, DiskList { disks }, _| write_text(out, disks))
}

/// By node and path.
pub(super) fn rows(info: &ServerInfo) -> Vec<Row> {
    let of_set = info.sets.iter().flat_map(|set| set.disks.iter().map(|disk| (set.set, disk)));
    let mut rows: Vec<Row> = of_set.map(|(set, disk)| Row { set, disk: disk.clone() }).collect();
    rows.sort_by(|a, b| (&a.disk.node, &a.disk.path).cmp(&(&b.disk.node, &b.disk.path)));
    rows
}

pub(super) fn write_text(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    let mut table = Table::new(&["NODE", "PATH", "SET", "SLOT", "STATE", "SIZE", "FREE", "REASON"]);
    for Row { set, disk } in rows {
        table.row(vec![
            disk.node.clone().unwrap_or_else(|| "-".to_owned()),
            disk.path.clone(),
            set.to_string(),
            disk.slot.to_string(),
            state(disk),
            or_unknown(disk.total_bytes.map(ByteSize)),
            or_unknown(disk.free_bytes.map(ByteSize)),
            if disk.condition == DiskCondition::Ok { String::new() } else { reason(disk).to_owned() },
        ]);
    }
    table.write(out)
}

pub(super) fn state(disk: &DiskInfo) -> String {
    let mut state = disk.condition.to_string();
    if disk.slow {
        state.push_str(", slow");
    }
    if disk.entries_behind > 0 {
        state.push_str(&format!(", {} log entries behind", disk.entries_behind));
    }
    state
}

/// Why it is not well.
pub(super) fn reason(disk: &DiskInfo) -> &str {
    disk.reason.as_deref().unwrap_or("the server gave no reason")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::info::tests::info;

    #[test]
    fn disks_are_listed_node_by_node_with_what_is_known() {
        use DiskCondition::{Missing, Ok};
        let mut out = Vec::new();
        write_text(&mut out, &rows(&info([Ok, Ok, Missing, Ok]))).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = "\
NODE     PATH        SET  SLOT  STATE     SIZE   FREE     REASON
n1:9100  /mnt/disk0  0    0     ok        1 GiB  512 MiB
n1:9100  /mnt/disk2  0    2     missing   ?      ?        /mnt/disk2 failed
n2:9100  /mnt/disk1  0    1     ok, slow  1 GiB  512 MiB
n2:9100  /mnt/disk3  0    3     ok        1 GiB  512 MiB
";
        assert_eq!(text, expected);
    }
}
