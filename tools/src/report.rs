//! What a node says of itself: readiness, the admin interface's picture, metrics.
//!
//! What must hold: facts come from the engine, the verdict from [`crate::verdict`]; nothing is shown as well that is not
//! known to be well; metrics are of this node and of what it sees, so that those of all nodes can be added up.

use crate::admin_api::{
    ConnectionsInfo, DamageInfo, DiskCondition, DiskInfo, NodeCondition, NodeInfo, RepairInfo, ServerInfo,
    SetInfo,
};
use crate::verdict::{SetHealth, Verdict, overall};
use buckets_engine::counters::{CoreCounters, RefusedConnections};
use buckets_engine::facts::Road;
use buckets_engine::map::{DiskState, NodeState};
use buckets_engine::object::api::ObjectError;
use buckets_engine::object::status::{DiskStatus, NodeStatus, PeerStatus, SetStatus};
use buckets_engine::object::store::Store;
use buckets_peer::HealthState;
use buckets_peer::Tls;
use buckets_ring::SetState;
use buckets_s3::store::NodeReport;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

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
    tls: Option<Tls>,
}

impl Report {
    /// Reports on the node behind `store`, and on what encrypts its road to others.
    pub fn new(store: Store, tls: Option<Tls>) -> Report {
        Report { store, tls }
    }
}

impl NodeReport for Report {
    fn ready(&self) -> Result<(), String> {
        self.store.ready()?;
        match self.store.is_draining() {
            true => Err("this node is drained: it serves, but is about to be stopped (`bucketsctl node undrain` takes \
                         that back)"
                .to_owned()),
            false => Ok(()),
        }
    }

    fn drain<'a>(&'a self, node: &'a str, draining: bool) -> LocalBoxFuture<'a, Result<(), ObjectError>> {
        self.store.drain(node, draining).boxed_local()
    }

    fn info(&self) -> LocalBoxFuture<'_, serde_json::Value> {
        async {
            match self.store.status_of_all().await {
                Ok(status) => serde_json::json!(server_info(&status)),
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            }
        }
        .boxed_local()
    }

    fn metrics(&self) -> LocalBoxFuture<'_, String> {
        async {
            match self.store.status().await {
                Ok(status) => metrics(&status) + &expiry(self.tls.as_ref()),
                Err(_) => String::new(),
            }
        }
        .boxed_local()
    }
}

/// So many log entries may be on their way to a disk that is well.
const ENTRIES_ON_THEIR_WAY: u64 = 1000;

fn server_info(status: &NodeStatus) -> ServerInfo {
    let damage = damage(status);
    let repairs = repairs(status);
    let mut sets: Vec<SetInfo> = status.sets.iter().map(|set| set_info(status, set)).collect();
    let is_damaged = damage.corrupt_blocks > 0 || damage.corrupt_metadata > 0;
    if is_damaged || repairs.parts_to_repair > 0 {
        // Damage was read around, but that all of it is repaired is not known.
        sets.iter_mut().for_each(|set| set.verdict = set.verdict.max(Verdict::Degraded));
    } else if repairs.nodes_unknown == 0 {
        // How many objects have chunks on a disk that is not well is not counted.
        let are_well = |set: &&mut SetInfo| set.disks.iter().all(|disk| disk.condition == DiskCondition::Ok);
        sets.iter_mut().filter(are_well).for_each(|set| set.degraded_objects = Some(0));
    }
    ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        deployment_id: status.deployment,
        generation: status.generation,
        uptime_seconds: status.uptime.as_secs(),
        verdict: overall(sets.iter().map(|set| set.verdict)),
        nodes: status.nodes.iter().filter(|node| !node.name.is_empty()).map(node_info).collect(),
        sets,
        damage,
        repairs: Some(repairs),
    }
}

fn node_info(node: &PeerStatus) -> NodeInfo {
    let is_up = node.state == NodeState::Up;
    let is_slow = |road: &Road| is_up && road.health == HealthState::Slow;
    let told = node.told.as_ref().filter(|_| is_up);
    NodeInfo {
        name: node.name.clone(),
        own: node.is_own,
        condition: match node.state {
            NodeState::Up if told.is_some_and(|told| told.is_draining) => NodeCondition::Draining,
            NodeState::Up => NodeCondition::Up,
            NodeState::Awaited => NodeCondition::Awaited,
            NodeState::Unreachable => NodeCondition::Unreachable,
        },
        slow: node.road.as_ref().is_some_and(is_slow) || told.is_some_and(|told| told.is_far),
        leads: node.told.as_ref().and_then(|told| told.leads),
        cores: node.cores,
        disks_in_service: node.disks_in_service as u32,
        disks_total: node.disks as u32,
        round_trip_micros: round_trip(node).map(micros),
        connections: node.road.as_ref().map(|road| ConnectionsInfo {
            made: road.connected,
            lost: road.lost,
            unreachable: road.unreachable,
            refused: occurred(&road.refused),
        }),
        refused: node.told.as_ref().map(|told| occurred(&told.refused)),
        repairs: node.told.as_ref().map(|told| repairs_of(&told.counters)),
    }
}

/// Of a node that does not answer it is not known any more.
fn round_trip(node: &PeerStatus) -> Option<Duration> {
    node.road.as_ref().filter(|_| node.state == NodeState::Up)?.round_trip
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn occurred(refused: &RefusedConnections) -> BTreeMap<String, u64> {
    let some = refused.values().into_iter().filter(|(_, count)| *count > 0);
    some.map(|(kind, count)| (kind.to_owned(), count)).collect()
}

fn repairs_of(counters: &CoreCounters) -> RepairInfo {
    RepairInfo {
        parts_to_repair: counters.parts_to_repair,
        bytes_to_repair: counters.bytes_to_repair,
        chunks_repaired: counters.chunks_repaired,
        bytes_repaired: counters.bytes_repaired,
        ..RepairInfo::default()
    }
}

fn repairs(status: &NodeStatus) -> RepairInfo {
    let mut sum = RepairInfo::default();
    for node in &status.nodes {
        match &node.told {
            Some(told) => {
                let of_node = repairs_of(&told.counters);
                sum.parts_to_repair += of_node.parts_to_repair;
                sum.bytes_to_repair += of_node.bytes_to_repair;
                sum.chunks_repaired += of_node.chunks_repaired;
                sum.bytes_repaired += of_node.bytes_repaired;
            }
            None => sum.nodes_unknown += 1,
        }
    }
    let disks = status.sets.iter().flat_map(|set| &set.disks);
    sum.entries_behind = disks.map(entries_behind).sum();
    sum
}

/// What a disk has to catch up with: something is always on its way.
fn entries_behind(disk: &DiskStatus) -> u64 {
    if disk.entries_behind >= ENTRIES_ON_THEIR_WAY { disk.entries_behind } else { 0 }
}

fn set_info(status: &NodeStatus, set: &SetStatus) -> SetInfo {
    let well = set.disks.iter().filter(|disk| disk.state == DiskState::InService).count();
    // A set has at most 32 disks.
    let health = SetHealth::of(set.coding, well as u8);
    let in_service = set.disks.iter().filter(|disk| disk.state.is_in_service()).count();
    SetInfo {
        set: set.set,
        erasure: set.coding,
        state: SetState::Active,
        verdict: health.verdict,
        failures_tolerated: health.failures_tolerated,
        writable: SetHealth::of(set.coding, in_service as u8).writable,
        degraded_objects: None,
        disks: set.disks.iter().map(|disk| disk_info(status, disk)).collect(),
    }
}

fn disk_info(status: &NodeStatus, disk: &DiskStatus) -> DiskInfo {
    let is_well = disk.state == DiskState::InService;
    let node = &status.nodes[usize::from(disk.node)].name;
    DiskInfo {
        slot: disk.slot,
        uuid: disk.uuid,
        endpoint: disk.endpoint.clone(),
        node: Some(node.clone()).filter(|node| !node.is_empty()),
        path: disk.path.display().to_string(),
        condition: condition(disk.state),
        slow: is_well && disk.is_slow,
        reason: (!is_well).then(|| disk.reason.clone()).filter(|reason| !reason.is_empty()),
        total_bytes: disk.space.map(|space| space.total_bytes),
        free_bytes: disk.space.map(|space| space.free_bytes),
        entries_behind: entries_behind(disk),
        corruptions: (!disk.counters.is_empty()).then(|| disk_damage(disk)),
    }
}

fn condition(state: DiskState) -> DiskCondition {
    match state {
        DiskState::InService => DiskCondition::Ok,
        DiskState::Rebuilding => DiskCondition::Rebuilding,
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
    let sum = |of: fn(&CoreCounters) -> u64| -> u64 {
        status.nodes.iter().filter_map(|node| node.told.as_ref()).map(|told| of(&told.counters)).sum()
    };
    let disks = status.sets.iter().flat_map(|set| &set.disks).flat_map(|disk| &disk.counters);
    let metadata_damage: u64 =
        disks.filter(|(name, _)| METADATA_DAMAGE.contains(name)).map(|(_, value)| value).sum();
    DamageInfo {
        corrupt_blocks: sum(|counters| counters.blocks_damaged + counters.chunks_missing),
        reconstructed_blocks: sum(|counters| counters.blocks_reconstructed),
        repaired_chunks: sum(|counters| counters.chunks_repaired),
        corrupt_metadata: sum(|counters| counters.rows_damaged) + metadata_damage,
    }
}

/// Prometheus text format 0.0.4.
fn metrics(status: &NodeStatus) -> String {
    let mut text = String::with_capacity(8 << 10);
    // Writing to a string does not fail.
    for (name, value) in status.own.counters.values() {
        let _ = writeln!(text, "# TYPE buckets_{name}_total counter\nbuckets_{name}_total {value}");
    }
    for (name, value) in status.own.counters.gauges() {
        let _ = writeln!(text, "# TYPE buckets_{name} gauge\nbuckets_{name} {value}");
    }
    let leads = status.own.leads.unwrap_or(0);
    let _ = writeln!(text, "# TYPE buckets_groups_led gauge\nbuckets_groups_led {leads}");
    let draining = u8::from(status.own.is_draining);
    let _ = writeln!(text, "# TYPE buckets_draining gauge\nbuckets_draining {draining}");
    let far = u8::from(status.own.is_far);
    let _ = writeln!(text, "# TYPE buckets_far gauge\nbuckets_far {far}");
    write_nodes(&mut text, status);
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
        let up = u8::from(disk.state.is_in_service());
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

fn expiry(tls: Option<&Tls>) -> String {
    let name = "buckets_tls_certificate_expiry_timestamp_seconds";
    let value =
        tls.and_then(Tls::expires_unix_s).map_or(String::new(), |seconds| format!("{name} {seconds}\n"));
    format!("# TYPE {name} gauge\n{value}")
}

/// The other nodes as this one sees them, and who was refused here.
fn write_nodes(text: &mut String, status: &NodeStatus) {
    let others = || status.nodes.iter().filter(|node| !node.is_own);
    let _ = writeln!(text, "# TYPE buckets_node_up gauge");
    for node in others() {
        let up = u8::from(node.state == NodeState::Up);
        let _ = writeln!(text, "buckets_node_up{{node=\"{}\"}} {up}", escaped(&node.name));
    }
    let _ = writeln!(text, "# TYPE buckets_node_round_trip_seconds gauge");
    for node in others() {
        if let Some(time) = round_trip(node) {
            let (name, seconds) = (escaped(&node.name), time.as_secs_f64());
            let _ = writeln!(text, "buckets_node_round_trip_seconds{{node=\"{name}\"}} {seconds}");
        }
    }
    let _ = writeln!(text, "# TYPE buckets_peer_connections_refused_total counter");
    for (kind, count) in status.own.refused.values() {
        let _ = writeln!(text, "buckets_peer_connections_refused_total{{kind=\"{kind}\"}} {count}");
    }
}

fn labels(disk: &DiskStatus) -> String {
    format!("disk=\"{}\",path=\"{}\"", disk.uuid, escaped(&disk.endpoint))
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_engine::facts::Facts;
    use buckets_engine::map::Voters;
    use buckets_engine::object::status::GroupVoters;
    use buckets_env::DiskSpace;
    use buckets_ring::id::{DeploymentId, DiskUuid, GroupId};

    const GIB: u64 = 1 << 30;

    /// Two nodes with two disks each, as the first of them sees them.
    fn status(second: NodeState, told: Option<Facts>) -> NodeStatus {
        let is_up = second == NodeState::Up;
        let road = Road {
            health: HealthState::Up,
            round_trip: Some(Duration::from_micros(250)),
            connected: 3,
            lost: 1,
            unreachable: 0,
            refused: RefusedConnections::default(),
        };
        let node = |number: u16, state, road, told| PeerStatus {
            name: format!("n{number}:9100"),
            is_own: number == 1,
            state,
            cores: Some(4),
            road,
            disks_in_service: if state == NodeState::Up { 2 } else { 0 },
            disks: 2,
            told,
        };
        let disk = |slot: u8| {
            let (node, path) = (u16::from(slot % 2), format!("/d{}", slot / 2));
            let is_there = node == 0 || is_up;
            DiskStatus {
                uuid: DiskUuid::from_bytes([slot; 16]),
                endpoint: format!("n{}:9100{path}", node + 1),
                node,
                path: path.into(),
                slot,
                state: if is_there { DiskState::InService } else { DiskState::Absent },
                reason: if is_there { String::new() } else { "its node does not answer".to_owned() },
                is_slow: slot == 0,
                entries_behind: 800 * u64::from(slot),
                space: is_there.then_some(DiskSpace { free_bytes: GIB, total_bytes: 2 * GIB }),
                counters: Vec::new(),
            }
        };
        let voters = Voters { in_service: 3, all: 3, majority: 2 };
        NodeStatus {
            deployment: DeploymentId::from_bytes([1; 16]),
            generation: 1,
            uptime: Duration::from_secs(5),
            nodes: vec![
                node(1, NodeState::Up, None, Some(Facts::default())),
                node(2, second, Some(road), told),
            ],
            sets: vec![SetStatus {
                set: 0,
                coding: "2+2".parse().unwrap(),
                disks: (0..4).map(disk).collect(),
            }],
            groups: vec![GroupVoters { group: GroupId::ROOT, voters }],
            own: Facts::default(),
        }
    }

    fn repairing(parts_to_repair: u64) -> Facts {
        let bytes_to_repair = parts_to_repair << 20;
        let counters =
            CoreCounters { parts_to_repair, bytes_to_repair, chunks_repaired: 4, ..CoreCounters::default() };
        Facts { counters, ..Facts::default() }
    }

    #[test]
    fn disks_of_a_node_that_does_not_answer_are_missing() {
        let well = server_info(&status(NodeState::Up, Some(Facts::default())));
        assert_eq!((well.verdict, well.sets[0].failures_tolerated), (Verdict::Safe, Some(2)));
        assert_eq!(well.sets[0].degraded_objects, Some(0));
        let lost = server_info(&status(NodeState::Unreachable, None));
        assert_eq!((lost.verdict, lost.sets[0].failures_tolerated), (Verdict::AtRisk, Some(0)));
        assert_eq!(lost.sets[0].degraded_objects, None);
        let disk = &lost.sets[0].disks[1];
        assert_eq!((disk.condition, disk.node.as_deref()), (DiskCondition::Missing, Some("n2:9100")));
        assert_eq!((disk.total_bytes, disk.reason.as_deref()), (None, Some("its node does not answer")));
        assert_eq!(
            (lost.nodes[1].condition, lost.nodes[1].refused.as_ref()),
            (NodeCondition::Unreachable, None)
        );
        assert!(lost.sets[0].disks[0].slow && !disk.slow);
    }

    #[test]
    fn nothing_is_safe_while_parts_wait_on_any_node() {
        let waiting = server_info(&status(NodeState::Up, Some(repairing(3))));
        let repairs = waiting.repairs.unwrap();
        assert_eq!(
            (repairs.parts_to_repair, repairs.bytes_to_repair, repairs.nodes_unknown),
            (3, 3 << 20, 0)
        );
        assert_eq!((waiting.verdict, waiting.sets[0].degraded_objects), (Verdict::Degraded, None));
        let done = server_info(&status(NodeState::Up, Some(repairing(0))));
        assert_eq!((done.verdict, done.damage.repaired_chunks), (Verdict::Safe, 4));
        let untold = server_info(&status(NodeState::Up, None));
        assert_eq!((untold.repairs.unwrap().nodes_unknown, untold.sets[0].degraded_objects), (1, None));
    }

    #[test]
    fn a_drained_node_is_shown_as_long_as_it_answers() {
        let drained = || Some(Facts { leads: Some(0), is_draining: true, ..Facts::default() });
        let shown = |state, told| {
            let node = server_info(&status(state, told)).nodes.remove(1);
            (node.condition, node.leads)
        };
        assert_eq!(shown(NodeState::Up, drained()), (NodeCondition::Draining, Some(0)));
        assert_eq!(shown(NodeState::Unreachable, None), (NodeCondition::Unreachable, None));
        let far = || Some(Facts { is_far: true, ..Facts::default() });
        let is_slow = |state, told| server_info(&status(state, told)).nodes.remove(1).slow;
        assert!(is_slow(NodeState::Up, far()) && !is_slow(NodeState::Up, drained()));
        assert!(!is_slow(NodeState::Unreachable, far()));
        // An older one does not tell.
        assert_eq!(shown(NodeState::Up, Some(Facts::default())), (NodeCondition::Up, None));
        let mut own = status(NodeState::Up, None);
        own.own = Facts { leads: Some(3), ..Facts::default() };
        assert!(
            metrics(&own)
                .contains("\nbuckets_groups_led 3\n# TYPE buckets_draining gauge\nbuckets_draining 0\n")
        );
    }

    #[test]
    fn only_what_is_more_than_usual_is_to_be_caught_up_with() {
        let info = server_info(&status(NodeState::Up, Some(Facts::default())));
        let of_disks: Vec<u64> = info.sets[0].disks.iter().map(|disk| disk.entries_behind).collect();
        assert_eq!(of_disks, [0, 0, 1600, 2400]);
        assert_eq!(info.repairs.unwrap().entries_behind, 4000);
    }

    #[test]
    fn metrics_tell_how_others_are_seen_and_what_comes_and_goes_is_a_gauge() {
        let text = metrics(&status(NodeState::Up, None));
        for line in [
            "# TYPE buckets_parts_to_repair gauge\nbuckets_parts_to_repair 0\n",
            "# TYPE buckets_chunks_repaired_total counter\nbuckets_chunks_repaired_total 0\n",
            "# TYPE buckets_node_up gauge\nbuckets_node_up{node=\"n2:9100\"} 1\n# TYPE",
            "\nbuckets_node_round_trip_seconds{node=\"n2:9100\"} 0.00025\n",
            "\nbuckets_peer_connections_refused_total{kind=\"wrong_secret\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("parts_to_repair_total"));
        let lost = metrics(&status(NodeState::Unreachable, None));
        assert!(lost.contains("buckets_node_up{node=\"n2:9100\"} 0\n"));
        assert!(!lost.contains("buckets_node_round_trip_seconds{"));
    }
}
