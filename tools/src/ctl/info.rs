//! `bucketsctl info`: how safe the data is, as the running server sees it.

use super::table::Table;
use super::watch::{Pace, View};
use super::{CtlError, ServerArgs, or_unknown};
use crate::admin_api::{DiskCondition, RepairInfo, ServerInfo, SetInfo};
use crate::size::ByteSize;
use crate::verdict::Exit;
use std::io::{self, Write};

#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    view: View,
}

pub(super) fn run(
    args: InfoArgs,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    let client = args.server.client(env)?;
    args.view.show(out, &client, |info| Ok(info.clone()), |out, info, pace| write_text(out, info, pace))
}

fn write_text(out: &mut dyn Write, info: &ServerInfo, pace: Option<&Pace>) -> io::Result<()> {
    writeln!(out, "{}", headline(info))?;
    writeln!(
        out,
        "deployment {}, generation {}, version {}, up {}",
        info.deployment_id,
        info.generation,
        info.version,
        duration(info.uptime_seconds)
    )?;
    if let Some(repairs) = &info.repairs {
        writeln!(out, "repairs: {}", repair_line(repairs, pace))?;
    }
    if !info.nodes.is_empty() {
        writeln!(out)?;
        super::node::table(&info.nodes).write(out)?;
    }
    for set in &info.sets {
        writeln!(out)?;
        writeln!(out, "set {} ({}, {}): {}", set.set, set.erasure, set.state, set_line(set))?;
        let mut table = Table::new(&["SLOT", "STATE", "DISK", "USED", "SIZE", "CORRUPTIONS", "ENDPOINT"]);
        for disk in &set.disks {
            let used = disk.total_bytes.zip(disk.free_bytes).map(|(total, free)| total.saturating_sub(free));
            table.row(vec![
                disk.slot.to_string(),
                super::disk::state(disk),
                disk.uuid.to_string(),
                or_unknown(used.map(ByteSize)),
                or_unknown(disk.total_bytes.map(ByteSize)),
                or_unknown(disk.corruptions),
                disk.endpoint.clone(),
            ]);
        }
        table.write(out)?;
        for disk in set.disks.iter().filter(|disk| disk.condition != DiskCondition::Ok) {
            writeln!(out, "! slot {}: {}", disk.slot, super::disk::reason(disk))?;
        }
    }
    let damage = info.damage;
    writeln!(out)?;
    writeln!(
        out,
        "since the start: {} corrupt blocks found, {} reconstructed, {} chunks repaired, {} damaged metadata records",
        damage.corrupt_blocks, damage.reconstructed_blocks, damage.repaired_chunks, damage.corrupt_metadata
    )
}

/// What waits, and how it goes.
fn repair_line(repairs: &RepairInfo, pace: Option<&Pace>) -> String {
    let mut parts = vec![match repairs.parts_to_repair {
        0 => "nothing waits".to_owned(),
        1 => format!("1 part{} waits to be repaired", in_brackets(repairs.bytes_to_repair)),
        count => format!("{count} parts{} wait to be repaired", in_brackets(repairs.bytes_to_repair)),
    }];
    let done = ByteSize(repairs.bytes_repaired);
    parts.push(format!("{} chunks ({done}) repaired since the start", repairs.chunks_repaired));
    if let Some(pace) = pace.filter(|pace| pace.bytes_per_second > 0 || repairs.parts_to_repair > 0) {
        parts.push(format!("{}/s", ByteSize(pace.bytes_per_second)));
        match pace.seconds_left {
            Some(seconds) => parts.push(format!("done in about {}", duration(seconds))),
            None if repairs.parts_to_repair > 0 => parts.push("not getting fewer".to_owned()),
            None => {}
        }
    }
    if repairs.entries_behind > 0 {
        let mut catching_up = format!("disks are {} log entries behind", repairs.entries_behind);
        if let Some(per_second) = pace.map(|pace| pace.entries_per_second).filter(|rate| *rate > 0) {
            let left = duration(repairs.entries_behind.div_ceil(per_second));
            catching_up.push_str(&format!(" ({per_second}/s, done in about {left})"));
        }
        parts.push(catching_up);
    }
    match repairs.nodes_unknown {
        0 => {}
        1 => parts.push("1 node did not tell its own".to_owned()),
        count => parts.push(format!("{count} nodes did not tell their own")),
    }
    parts.join(", ")
}

/// Bytes, where they are known.
pub(super) fn in_brackets(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" ({})", ByteSize(bytes)) }
}

/// The one line that people read.
fn headline(info: &ServerInfo) -> String {
    let disks = || info.sets.iter().flat_map(|set| &set.disks);
    let unwell = disks().filter(|disk| disk.condition != DiskCondition::Ok).count();
    let of_all = format!("{unwell} of {} disks not ok", disks().count());
    if let Some(set) = info.sets.iter().find(|set| set.failures_tolerated.is_none()) {
        return format!("{}: set {} is NOT READABLE, {of_all}", info.verdict, set.set);
    }
    let tolerated = info.sets.iter().filter_map(|set| set.failures_tolerated).min();
    let mut more = match tolerated {
        Some(1) => "1 more disk of a set may fail without loss".to_owned(),
        Some(more) => format!("{more} more disks of a set may fail without loss"),
        None => "there are no sets".to_owned(),
    };
    match info.repairs.map_or(0, |repairs| repairs.parts_to_repair) {
        0 => {}
        1 => more.push_str(" once 1 part is repaired"),
        parts => more.push_str(&format!(" once {parts} parts are repaired")),
    }
    match unwell {
        0 => format!("{}: all {} disks ok, {more}", info.verdict, disks().count()),
        _ => format!("{}: {of_all}, {more}", info.verdict),
    }
}

fn set_line(set: &SetInfo) -> String {
    let mut parts = vec![set.verdict.to_string()];
    parts.push(match set.failures_tolerated {
        Some(more) => format!("{more} more may fail"),
        None => "NOT READABLE".to_owned(),
    });
    if !set.writable {
        parts.push("no writes".to_owned());
    }
    match set.degraded_objects {
        Some(0) => {}
        Some(count) => parts.push(format!("{count} degraded objects")),
        None => parts.push("degraded objects unknown".to_owned()),
    }
    parts.join(", ")
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin_api::{DamageInfo, DiskInfo, NodeCondition, NodeInfo};
    use crate::verdict::Verdict;
    use buckets_ring::SetState;
    use buckets_ring::id::{DeploymentId, DiskUuid};

    pub(in crate::ctl) fn info(conditions: [DiskCondition; 4]) -> ServerInfo {
        let well = conditions.iter().filter(|condition| **condition == DiskCondition::Ok).count() as u8;
        let erasure = "2+2".parse().unwrap();
        let health = crate::verdict::SetHealth::of(erasure, well);
        let disk = |(slot, condition): (usize, DiskCondition)| DiskInfo {
            slot: slot as u8,
            uuid: DiskUuid::from_bytes([slot as u8; 16]),
            endpoint: format!("n{}:9100/mnt/disk{slot}", slot % 2 + 1),
            node: Some(format!("n{}:9100", slot % 2 + 1)),
            path: format!("/mnt/disk{slot}"),
            condition,
            slow: slot == 1,
            reason: (condition != DiskCondition::Ok).then(|| format!("/mnt/disk{slot} failed")),
            total_bytes: (condition == DiskCondition::Ok).then_some(1 << 30),
            free_bytes: (condition == DiskCondition::Ok).then_some(1 << 29),
            entries_behind: 0,
            corruptions: Some(3),
        };
        let node = |number: u32| NodeInfo {
            name: format!("n{number}:9100"),
            own: number == 1,
            condition: NodeCondition::Up,
            slow: false,
            leads: Some(6),
            cores: Some(4),
            disks_in_service: 2,
            disks_total: 2,
            round_trip_micros: (number == 2).then_some(412),
            connections: None,
            refused: None,
            repairs: None,
        };
        ServerInfo {
            version: "0.1.0".to_owned(),
            deployment_id: DeploymentId::from_bytes([1; 16]),
            generation: 1,
            uptime_seconds: 3700,
            verdict: health.verdict,
            nodes: vec![node(1), node(2)],
            sets: vec![SetInfo {
                set: 0,
                erasure,
                state: SetState::Active,
                verdict: health.verdict,
                failures_tolerated: health.failures_tolerated,
                writable: health.writable,
                degraded_objects: None,
                disks: conditions.into_iter().enumerate().map(disk).collect(),
            }],
            damage: DamageInfo { corrupt_blocks: 7, ..DamageInfo::default() },
            repairs: Some(RepairInfo::default()),
        }
    }

    #[test]
    fn the_first_line_is_the_verdict() {
        use DiskCondition::{Fenced, Missing, Ok};
        let line = |conditions| headline(&info(conditions));
        assert_eq!(line([Ok; 4]), "safe: all 4 disks ok, 2 more disks of a set may fail without loss");
        let degraded = line([Ok, Ok, Fenced, Ok]);
        assert_eq!(degraded, "degraded: 1 of 4 disks not ok, 1 more disk of a set may fail without loss");
        let at_risk = line([Missing, Ok, Fenced, Ok]);
        assert_eq!(at_risk, "at risk: 2 of 4 disks not ok, 0 more disks of a set may fail without loss");
        assert_eq!(
            line([Missing, Missing, Missing, Ok]),
            "at risk: set 0 is NOT READABLE, 3 of 4 disks not ok"
        );
        let mut waiting = info([Ok; 4]);
        waiting.verdict = Verdict::Degraded;
        waiting.repairs = Some(RepairInfo { parts_to_repair: 12, ..RepairInfo::default() });
        let expected = "degraded: all 4 disks ok, 2 more disks of a set may fail without loss once 12 parts are repaired";
        assert_eq!(headline(&waiting), expected);
    }

    #[test]
    fn what_is_unknown_is_not_shown_as_zero() {
        let mut out = Vec::new();
        let mut info =
            info([DiskCondition::Ok, DiskCondition::Ok, DiskCondition::Missing, DiskCondition::Ok]);
        info.sets[0].disks[2].corruptions = None;
        write_text(&mut out, &info, None).unwrap();
        let text = String::from_utf8(out).unwrap();
        let row = text.lines().find(|line| line.starts_with("2 ")).unwrap();
        assert_eq!(row.matches(" ? ").count(), 3, "{text}");
        assert!(text.contains("! slot 2: /mnt/disk2 failed"), "{text}");
        assert!(text.contains("degraded objects unknown") && text.contains("7 corrupt blocks"), "{text}");
    }

    #[test]
    fn what_the_server_says_survives_json() {
        let info = info([DiskCondition::Ok; 4]);
        let text = serde_json::to_string(&info).unwrap();
        assert_eq!(serde_json::from_str::<ServerInfo>(&text).unwrap(), info);
        assert!(text.contains("\"failuresTolerated\":2"), "{text}");
    }

    #[test]
    fn what_older_servers_do_not_say_is_unknown() {
        let mut older = serde_json::to_value(info([DiskCondition::Ok; 4])).unwrap();
        for member in ["nodes", "repairs"] {
            older.as_object_mut().unwrap().remove(member);
        }
        for member in ["node", "path", "slow"] {
            older["sets"][0]["disks"][0].as_object_mut().unwrap().remove(member);
        }
        let read: ServerInfo = serde_json::from_value(older).unwrap();
        assert_eq!((read.nodes.len(), read.repairs), (0, None));
        let mut out = Vec::new();
        write_text(&mut out, &read, None).unwrap();
        assert!(!String::from_utf8(out).unwrap().contains("repairs:"));
    }

    #[test]
    fn repairs_say_how_long_they_take_where_they_get_fewer() {
        let repairs = RepairInfo {
            parts_to_repair: 300,
            bytes_to_repair: 5 << 30,
            nodes_unknown: 1,
            ..RepairInfo::default()
        };
        let line = |pace: Option<Pace>| repair_line(&repairs, pace.as_ref());
        assert_eq!(
            line(None),
            "300 parts (5 GiB) wait to be repaired, 0 chunks (0 B) repaired since the start, 1 node did not tell its own"
        );
        let pace = |seconds_left| Pace { bytes_per_second: 64 << 20, seconds_left, entries_per_second: 0 };
        assert!(line(Some(pace(Some(90)))).contains(", 64 MiB/s, done in about 1 min 30 s, "));
        assert!(line(Some(pace(None))).contains(", 64 MiB/s, not getting fewer, "));
    }

    #[test]
    fn what_disks_have_to_catch_up_with_is_told() {
        let repairs = RepairInfo { entries_behind: 9000, ..RepairInfo::default() };
        assert!(repair_line(&repairs, None).ends_with(", disks are 9000 log entries behind"));
        let pace = Pace { entries_per_second: 100, ..Pace::default() };
        assert!(repair_line(&repairs, Some(&pace)).ends_with(" behind (100/s, done in about 1 min 30 s)"));
    }

    #[test]
    fn durations_are_short() {
        let table = [(59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
