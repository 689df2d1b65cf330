//! Looking once, or again and again.
//!
//! What must hold: what is said of the pace of repairs was seen, not assumed; a server that does not answer for a while ends
//! nothing that has begun.

use super::{CtlError, write_json};
use crate::admin_api::{RepairInfo, ServerInfo};
use crate::admin_client::{AdminClient, AdminClientError};
use crate::verdict::Exit;
use serde::Serialize;
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The pace of repairs is that of so long.
const PACE_OF: Duration = Duration::from_secs(30);
/// Where nothing else was asked for, seconds.
const WATCH_SECONDS: &str = "2";
/// To the upper left corner, and away with what is behind it.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// How a state is shown.
#[derive(Debug, clap::Args)]
pub(super) struct View {
    /// Print JSON; with --watch one line each time
    #[arg(long)]
    json: bool,
    /// Look again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WATCH_SECONDS,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

impl View {
    /// Shows what `choose` takes of the server's state: as JSON, or as `text` writes it for people.
    pub(super) fn show<T: Serialize>(
        &self,
        out: &mut dyn Write,
        client: &AdminClient,
        choose: impl Fn(&ServerInfo) -> Result<T, CtlError>,
        text: impl Fn(&mut dyn Write, &T, Option<&Pace>) -> io::Result<()>,
    ) -> Result<Exit, CtlError> {
        let info = client.info()?;
        let Some(seconds) = self.watch else {
            let chosen = choose(&info)?;
            match self.json {
                true => write_json(out, &chosen)?,
                false => text(out, &chosen, None)?,
            }
            return Ok(info.verdict.into());
        };
        let mut progress = Progress::default();
        let mut last: Result<ServerInfo, AdminClientError> = Ok(info);
        loop {
            let pace = last.as_ref().ok().and_then(|info| progress.note(Instant::now(), info.repairs));
            // In one piece, so that it does not flicker.
            let mut screen = Vec::new();
            if !self.json && io::stdout().is_terminal() {
                screen.extend_from_slice(CLEAR);
            }
            match (&last, self.json) {
                (Ok(info), true) => line(&mut screen, &choose(info)?)?,
                (Ok(info), false) => text(&mut screen, &choose(info)?, pace.as_ref())?,
                (Err(error), true) => line(&mut screen, &serde_json::json!({ "error": error.to_string() }))?,
                (Err(error), false) => writeln!(screen, "{error}")?,
            }
            out.write_all(&screen)?;
            out.flush()?;
            std::thread::sleep(Duration::from_secs(seconds));
            last = client.info();
        }
    }
}

fn line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// How fast chunks are written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) bytes_per_second: u64,
    /// Until no part waits any more; `None` where they do not get fewer.
    pub(super) seconds_left: Option<u64>,
    /// Log entries that disks caught up with.
    pub(super) entries_per_second: u64,
}

/// What was seen of repairs lately.
#[derive(Default)]
struct Progress {
    seen: VecDeque<(Instant, RepairInfo)>,
}

impl Progress {
    fn note(&mut self, now: Instant, repairs: Option<RepairInfo>) -> Option<Pace> {
        let repairs = repairs?;
        // Counters begin again with their node.
        let is_same = |(_, before): &(Instant, RepairInfo)| {
            before.nodes_unknown == repairs.nodes_unknown && before.bytes_repaired <= repairs.bytes_repaired
        };
        if !self.seen.back().is_none_or(is_same) {
            self.seen.clear();
        }
        self.seen.push_back((now, repairs));
        while self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= PACE_OF) {
            self.seen.pop_front();
        }
        let (since, first) = self.seen.front()?;
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds == 0.0 {
            return None;
        }
        let fewer = first.parts_to_repair.saturating_sub(repairs.parts_to_repair) as f64;
        let left = repairs.parts_to_repair as f64 * seconds / fewer;
        Some(Pace {
            bytes_per_second: ((repairs.bytes_repaired - first.bytes_repaired) as f64 / seconds) as u64,
            seconds_left: (fewer > 0.0).then_some(left.ceil() as u64),
            entries_per_second: (first.entries_behind.saturating_sub(repairs.entries_behind) as f64 / seconds)
                as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repairs(parts_to_repair: u64, bytes_repaired: u64, nodes_unknown: u32) -> Option<RepairInfo> {
        Some(RepairInfo { parts_to_repair, bytes_repaired, nodes_unknown, ..RepairInfo::default() })
    }

    #[test]
    fn the_pace_is_what_was_seen_lately() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let pace =
            |bytes_per_second, seconds_left| Some(Pace { bytes_per_second, seconds_left, ..Pace::default() });
        let mut progress = Progress::default();
        assert_eq!(progress.note(at(0), repairs(100, 0, 0)), None);
        assert_eq!(progress.note(at(2), None), None);
        assert_eq!(progress.note(at(10), repairs(80, 1000, 0)), pace(100, Some(40)));
        assert_eq!(progress.note(at(20), repairs(80, 1000, 0)), pace(50, Some(80)));
        assert_eq!(progress.note(at(60), repairs(90, 1000, 0)), pace(0, None));
        assert_eq!(progress.note(at(70), repairs(0, 3000, 0)), pace(40, Some(0)));
    }

    #[test]
    fn a_node_that_starts_again_begins_a_new_count() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::default();
        progress.note(at(0), repairs(100, 5000, 0));
        assert_eq!(progress.note(at(1), repairs(100, 10, 0)), None);
        assert_eq!(progress.note(at(2), repairs(50, 20, 1)), None);
        let pace = Pace { bytes_per_second: 10, seconds_left: Some(49), ..Pace::default() };
        assert_eq!(progress.note(at(3), repairs(49, 30, 1)), Some(pace));
    }
}
