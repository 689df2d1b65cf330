//! `bucketsctl info`: how safe the data is, as the running server sees it.

use super::table::Table;
use super::{CtlError, ServerArgs, write_json};
use crate::admin_api::{DiskCondition, ServerInfo, SetInfo};
use crate::size::ByteSize;
use crate::verdict::{Exit, Verdict};
use std::io::Write;

#[derive(Debug, clap::Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: InfoArgs,
    env: impl Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<Exit, CtlError> {
    let info = args.server.client(env)?.info()?;
    if args.json {
        write_json(out, &info)?;
    } else {
        write_text(out, &info)?;
    }
    Ok(info.verdict.into())
}

fn write_text(out: &mut dyn Write, info: &ServerInfo) -> Result<(), CtlError> {
    writeln!(out, "{}", headline(info))?;
    writeln!(
        out,
        "deployment {}, generation {}, version {}, up {}",
        info.deployment_id,
        info.generation,
        info.version,
        duration(info.uptime_seconds)
    )?;
    for set in &info.sets {
        writeln!(out)?;
        writeln!(out, "set {} ({}, {}): {}", set.set, set.erasure, set.state, set_line(set))?;
        let mut table = Table::new(&["SLOT", "STATE", "DISK", "USED", "SIZE", "CORRUPTIONS", "ENDPOINT"]);
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
        for disk in &set.disks {
            let used = disk.total_bytes.zip(disk.free_bytes).map(|(total, free)| total.saturating_sub(free));
            table.row(vec![
                disk.slot.to_string(),
                disk.condition.to_string(),
                disk.uuid.to_string(),
                or_unknown(used.map(|bytes| ByteSize(bytes).to_string())),
                or_unknown(disk.total_bytes.map(|bytes| ByteSize(bytes).to_string())),
                or_unknown(disk.corruptions.map(|count| count.to_string())),
                disk.endpoint.clone(),
            ]);
        }
        table.write(out)?;
        for disk in set.disks.iter().filter(|disk| disk.condition != DiskCondition::Ok) {
            let reason = disk.reason.as_deref().unwrap_or("the server gave no reason");
            writeln!(out, "! slot {}: {reason}", disk.slot)?;
        }
    }
    let damage = info.damage;
    writeln!(out)?;
    writeln!(
        out,
        "since the start: {} corrupt blocks found, {} reconstructed, {} chunks repaired, {} damaged metadata records",
        damage.corrupt_blocks, damage.reconstructed_blocks, damage.repaired_chunks, damage.corrupt_metadata
    )?;
    Ok(())
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
    let more = match tolerated {
        Some(1) => "1 more disk of a set may fail without loss".to_owned(),
        Some(more) => format!("{more} more disks of a set may fail without loss"),
        None => "there are no sets".to_owned(),
    };
    match info.verdict {
        Verdict::Safe => format!("safe: all {} disks ok, {more}", disks().count()),
        Verdict::Degraded | Verdict::AtRisk => format!("{}: {of_all}, {more}", info.verdict),
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
mod tests {
    use super::*;
    use crate::admin_api::{DamageInfo, DiskInfo};
    use buckets_ring::SetState;
    use buckets_ring::id::{DeploymentId, DiskUuid};

    fn info(conditions: [DiskCondition; 4]) -> ServerInfo {
        let well = conditions.iter().filter(|condition| **condition == DiskCondition::Ok).count() as u8;
        let erasure = "2+2".parse().unwrap();
        let health = crate::verdict::SetHealth::of(erasure, well);
        let disk = |(slot, condition): (usize, DiskCondition)| DiskInfo {
            slot: slot as u8,
            uuid: DiskUuid::from_bytes([slot as u8; 16]),
            endpoint: format!("/mnt/disk{slot}"),
            condition,
            reason: (condition != DiskCondition::Ok).then(|| format!("/mnt/disk{slot} failed")),
            total_bytes: (condition == DiskCondition::Ok).then_some(1 << 30),
            free_bytes: (condition == DiskCondition::Ok).then_some(1 << 29),
            corruptions: Some(3),
        };
        ServerInfo {
            version: "0.1.0".to_owned(),
            deployment_id: DeploymentId::from_bytes([1; 16]),
            generation: 1,
            uptime_seconds: 3700,
            verdict: health.verdict,
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
    }

    #[test]
    fn what_is_unknown_is_not_shown_as_zero() {
        let mut out = Vec::new();
        let mut info =
            info([DiskCondition::Ok, DiskCondition::Ok, DiskCondition::Missing, DiskCondition::Ok]);
        info.sets[0].disks[2].corruptions = None;
        write_text(&mut out, &info).unwrap();
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
    fn durations_are_short() {
        let table = [(59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
