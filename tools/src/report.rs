//! What a node says of itself: readiness, the admin interface's picture, metrics.
//!
//! What must hold: facts come from the engine, the verdict from [`crate::verdict`]; nothing is shown as well that is not
//! known to be well.

use crate::admin_api::{DamageInfo, DiskCondition, DiskInfo, ServerInfo, SetInfo};
use crate::verdict::{SetHealth, Verdict, overall};
use buckets_engine::map::DiskState;
use buckets_engine::object::status::{DiskStatus, NodeStatus, SetStatus};
use buckets_engine::object::store::Store;
use buckets_ring::SetState;
use buckets_s3::store::NodeReport;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use std::fmt::Write;

/// Disk counters that count damage.
const DISK_DAMAGE: [&str; 7] = [
    "blocks_corrupt",
    "chunks_missing",
    "chunk_chain_breaks",
    "read_errors",
    "table_corruptions",
    "wal_damages",
    "replicas_damaged",
];

/// Those that count damage of logs and tables.
const METADATA_DAMAGE: [&str; 4] =
    ["chunk_chain_breaks", "table_corruptions", "wal_damages", "replicas_damaged"];

/// The reporter of one core.
#[derive(Clone)]
pub struct Report {
    store: Store,
}

impl Report {
    /// Reports on the node behind `store`.
    pub fn new(store: Store) -> Report {
        Report { store }
    }
}

impl NodeReport for Report {
    fn ready(&self) -> Result<(), String> {
        self.store.ready()
    }

    fn info(&self) -> LocalBoxFuture<'_, serde_json::Value> {
        async {
            match self.store.status().await {
                Ok(status) => serde_json::json!(server_info(&status)),
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            }
        }
        .boxed_local()
    }

    fn metrics(&self) -> LocalBoxFuture<'_, String> {
        async {
            match self.store.status().await {
                Ok(status) => metrics(&status),
                Err(_) => String::new(),
            }
        }
        .boxed_local()
    }
}

fn server_info(status: &NodeStatus) -> ServerInfo {
    let damage = damage(status);
    let mut sets: Vec<SetInfo> = status.sets.iter().map(set_info).collect();
    if damage != DamageInfo::default() {
        // Damage was read around, but it is there until it is repaired.
        sets.iter_mut().for_each(|set| set.verdict = set.verdict.max(Verdict::Degraded));
    }
    ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        deployment_id: status.deployment,
        generation: status.generation,
        uptime_seconds: status.uptime.as_secs(),
        verdict: overall(sets.iter().map(|set| set.verdict)),
        sets,
        damage,
    }
}

fn set_info(set: &SetStatus) -> SetInfo {
    let well = set.disks.iter().filter(|disk| disk.state == DiskState::InService).count();
    // A set has at most 32 disks.
    let health = SetHealth::of(set.coding, well as u8);
    SetInfo {
        set: set.set,
        erasure: set.coding,
        state: SetState::Active,
        verdict: health.verdict,
        failures_tolerated: health.failures_tolerated,
        writable: health.writable,
        degraded_objects: None,
        disks: set.disks.iter().map(disk_info).collect(),
    }
}

fn disk_info(disk: &DiskStatus) -> DiskInfo {
    let is_well = disk.state == DiskState::InService;
    DiskInfo {
        slot: disk.slot,
        uuid: disk.uuid,
        endpoint: disk.path.display().to_string(),
        condition: condition(disk.state),
        reason: (!is_well).then(|| disk.reason.clone()).filter(|reason| !reason.is_empty()),
        total_bytes: disk.space.map(|space| space.total_bytes),
        free_bytes: disk.space.map(|space| space.free_bytes),
        corruptions: (!disk.counters.is_empty()).then(|| disk_damage(disk)),
    }
}

fn condition(state: DiskState) -> DiskCondition {
    match state {
        DiskState::InService => DiskCondition::Ok,
        DiskState::Absent => DiskCondition::Missing,
        DiskState::Fenced => DiskCondition::Fenced,
        DiskState::ReadOnly => DiskCondition::Damaged,
        DiskState::Starting => DiskCondition::Unknown,
    }
}

fn disk_damage(disk: &DiskStatus) -> u64 {
    disk.counters.iter().filter(|(name, _)| DISK_DAMAGE.contains(name)).map(|(_, value)| value).sum()
}

fn damage(status: &NodeStatus) -> DamageInfo {
    let counters = &status.counters;
    let disks = status.sets.iter().flat_map(|set| &set.disks).flat_map(|disk| &disk.counters);
    let metadata_damage: u64 =
        disks.filter(|(name, _)| METADATA_DAMAGE.contains(name)).map(|(_, value)| value).sum();
    DamageInfo {
        corrupt_blocks: counters.blocks_damaged + counters.chunks_missing,
        reconstructed_blocks: counters.blocks_reconstructed,
        repaired_chunks: 0,
        corrupt_metadata: counters.rows_damaged + metadata_damage,
    }
}

/// Prometheus text format 0.0.4.
fn metrics(status: &NodeStatus) -> String {
    let mut text = String::with_capacity(8 << 10);
    // Writing to a string does not fail.
    for (name, value) in status.counters.values() {
        let _ = writeln!(text, "# TYPE buckets_{name}_total counter\nbuckets_{name}_total {value}");
    }
    let info = server_info(status);
    let _ = writeln!(text, "# TYPE buckets_verdict gauge\nbuckets_verdict {}", info.verdict as u8);
    let _ = writeln!(text, "# TYPE buckets_set_failures_tolerated gauge");
    for set in &info.sets {
        // Not readable now: less than none.
        let tolerated = set.failures_tolerated.map_or(-1, i16::from);
        let _ = writeln!(text, "buckets_set_failures_tolerated{{set=\"{}\"}} {tolerated}", set.set);
    }
    let _ = writeln!(text, "# TYPE buckets_group_voters_in_service gauge");
    for group in &status.groups {
        let _ = writeln!(
            text,
            "buckets_group_voters_in_service{{group=\"{}\"}} {}",
            group.group, group.voters.in_service
        );
    }
    let disks = || status.sets.iter().flat_map(|set| &set.disks);
    let _ = writeln!(text, "# TYPE buckets_disk_in_service gauge");
    for disk in disks() {
        let up = u8::from(disk.state == DiskState::InService);
        let _ = writeln!(text, "buckets_disk_in_service{{{}}} {up}", labels(disk));
    }
    for (name, of) in [
        ("total", (|space| space.total_bytes) as fn(buckets_env::DiskSpace) -> u64),
        ("free", |space| space.free_bytes),
    ] {
        let _ = writeln!(text, "# TYPE buckets_disk_{name}_bytes gauge");
        for disk in disks() {
            if let Some(space) = disk.space {
                let _ = writeln!(text, "buckets_disk_{name}_bytes{{{}}} {}", labels(disk), of(space));
            }
        }
    }
    let names: Vec<&str> = disks()
        .find(|disk| !disk.counters.is_empty())
        .map_or(Vec::new(), |disk| disk.counters.iter().map(|(name, _)| *name).collect());
    for name in names {
        let _ = writeln!(text, "# TYPE buckets_disk_{name}_total counter");
        for disk in disks() {
            if let Some((_, value)) = disk.counters.iter().find(|(of, _)| *of == name) {
                let _ = writeln!(text, "buckets_disk_{name}_total{{{}}} {value}", labels(disk));
            }
        }
    }
    text
}

fn labels(disk: &DiskStatus) -> String {
    let path =
        disk.path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("disk=\"{}\",path=\"{path}\"", disk.uuid)
}
