//! What the absence of a node costs, from what a server tells of its sets.
//!
//! What must hold: disks count as gone where they are not known to be there, or where their node is about to be stopped too.
//! Pure.

use crate::admin_api::{DiskCondition, DiskInfo, NodeCondition, ServerInfo, SetInfo};
use buckets_ring::Coding;

/// Without a node.
#[derive(Debug)]
pub(super) struct Absence {
    /// Further disks of a set that may fail while writes go on; `None` where some are refused already.
    pub(super) writes_tolerate: Option<u8>,
    /// The same for reads.
    pub(super) reads_tolerate: Option<u8>,
    /// Sets with disks of the node that others have to stand in for in vain.
    broken: Vec<BrokenSet>,
}

/// A set that the node cannot be taken away from.
#[derive(Debug)]
struct BrokenSet {
    set: u16,
    erasure: Coding,
    /// Disks that would be left.
    left: u8,
    is_readable: bool,
    /// Disks of other nodes that are gone, or about to be.
    gone: Vec<String>,
}

impl Absence {
    pub(super) fn of(info: &ServerInfo, node: &str) -> Absence {
        let leaves = |disk: &DiskInfo| {
            let of_node = |name: &str| info.nodes.iter().find(|node| node.name == name);
            let condition = disk.node.as_deref().and_then(of_node).map(|node| node.condition);
            disk.node.as_deref() == Some(node) || condition == Some(NodeCondition::Draining)
        };
        let mut absence =
            Absence { writes_tolerate: Some(u8::MAX), reads_tolerate: Some(u8::MAX), broken: Vec::new() };
        for set in &info.sets {
            let stays = |disk: &&DiskInfo| !leaves(disk);
            let readable = |disk: &&DiskInfo| disk.condition == DiskCondition::Ok;
            let writable =
                |disk: &&DiskInfo| matches!(disk.condition, DiskCondition::Ok | DiskCondition::Rebuilding);
            let count = |is_there: fn(&&DiskInfo) -> bool| {
                // A set has at most 32 disks.
                set.disks.iter().filter(stays).filter(is_there).count() as u8
            };
            let (left, left_for_writes) = (count(readable), count(writable));
            let tolerates = |bears: u8, left: u8| bears.checked_sub(set.erasure.n().saturating_sub(left));
            let reads = tolerates(set.erasure.read_failures_tolerated(), left);
            let writes = tolerates(set.erasure.write_failures_tolerated(), left_for_writes);
            absence.reads_tolerate = absence.reads_tolerate.min(reads);
            absence.writes_tolerate = absence.writes_tolerate.min(writes);
            let is_in_it = set.disks.iter().any(|disk| disk.node.as_deref() == Some(node));
            if is_in_it && (reads.is_none() || writes.is_none()) {
                let is_readable = reads.is_some();
                let left = if is_readable { left_for_writes } else { left };
                let gone = |disk: &&DiskInfo| {
                    disk.node.as_deref() != Some(node) && (leaves(disk) || !readable(disk))
                };
                absence.broken.push(BrokenSet {
                    set: set.set,
                    erasure: set.erasure,
                    left,
                    is_readable,
                    gone: gone_disks(set, gone),
                });
            }
        }
        absence
    }

    /// Why the node must not be taken away; `None` where nobody would notice.
    pub(super) fn refusal(&self, node: &str) -> Option<String> {
        // Data that cannot be read is worse than writes that are refused.
        let worst = self.broken.iter().min_by_key(|set| (set.is_readable, set.set))?;
        let BrokenSet { set, erasure, left, is_readable, gone } = worst;
        let n = erasure.n();
        let (for_writes, for_reads) =
            (n - erasure.write_failures_tolerated(), n - erasure.read_failures_tolerated());
        let cost = match is_readable {
            true => format!(
                "set {set} ({erasure}) would take no writes: {left} of its {n} disks would be left, {for_writes} are needed"
            ),
            false => format!(
                "set {set} ({erasure}) could not be read: {left} of its {n} disks would be left, {for_reads} are needed, and {for_writes} \
                 for writes"
            ),
        };
        let found = match gone.is_empty() {
            true => {
                "none of the others is out of service, the deployment cannot do without this node".to_owned()
            }
            false => format!(
                "bring back first what is out of service, rebuilding, or on a draining node: {}",
                gone.join(", ")
            ),
        };
        Some(format!(
            "node {node} is not drained, without it {cost}; {found}; --force drains it all the same"
        ))
    }
}

fn gone_disks(set: &SetInfo, is_gone: impl Fn(&&DiskInfo) -> bool) -> Vec<String> {
    set.disks.iter().filter(is_gone).map(|disk| disk.endpoint.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::info::tests::info;

    /// 2+4 on three nodes, two disks each: a voter majority is 4 of 6.
    fn three_nodes(coding: &str) -> ServerInfo {
        let mut info = info([DiskCondition::Ok; 4]);
        let mut third = info.nodes[1].clone();
        third.name = "n3:9100".to_owned();
        info.nodes.push(third);
        let set = &mut info.sets[0];
        set.erasure = coding.parse().unwrap();
        for slot in 4..6 {
            set.disks.push(DiskInfo { slot, ..set.disks[0].clone() });
        }
        for (slot, disk) in set.disks.iter_mut().enumerate() {
            let node = format!("n{}:9100", slot % 3 + 1);
            disk.endpoint = format!("{node}/mnt/disk{slot}");
            disk.node = Some(node);
        }
        info
    }

    #[test]
    fn a_node_within_the_tolerance_may_go() {
        let absence = Absence::of(&three_nodes("4+2"), "n2:9100");
        assert_eq!((absence.writes_tolerate, absence.reads_tolerate), (Some(0), Some(0)));
        assert_eq!(absence.refusal("n2:9100"), None);
        let absence = Absence::of(&three_nodes("2+4"), "n2:9100");
        assert_eq!((absence.writes_tolerate, absence.reads_tolerate), (Some(0), Some(1)));
    }

    #[test]
    fn what_is_gone_already_counts_wherever_it_is() {
        for condition in
            [DiskCondition::Missing, DiskCondition::Fenced, DiskCondition::Damaged, DiskCondition::Unknown]
        {
            let mut info = three_nodes("4+2");
            info.sets[0].disks[2].condition = condition;
            let told = Absence::of(&info, "n2:9100").refusal("n2:9100").unwrap();
            assert!(
                told.contains("set 0 (4+2) could not be read: 3 of its 6 disks would be left, 4 are needed"),
                "{told}"
            );
            assert!(told.contains("draining node: n3:9100/mnt/disk2; --force"), "{told}");
            // Its own disks that are gone cost nothing more.
            assert_eq!(Absence::of(&info, "n3:9100").refusal("n3:9100"), None);
        }
    }

    #[test]
    fn a_disk_that_is_rebuilding_takes_writes_and_cannot_be_read_from() {
        let mut info = three_nodes("4+2");
        info.sets[0].disks[2].condition = DiskCondition::Rebuilding;
        let absence = Absence::of(&info, "n2:9100");
        assert_eq!((absence.writes_tolerate, absence.reads_tolerate), (Some(0), None));
        assert!(absence.refusal("n2:9100").unwrap().contains("could not be read"));
    }

    #[test]
    fn two_nodes_are_not_drained_at_the_same_time() {
        let mut info = three_nodes("4+2");
        info.nodes[0].condition = NodeCondition::Draining;
        let told = Absence::of(&info, "n2:9100").refusal("n2:9100").unwrap();
        assert!(
            told.contains("2 of its 6 disks") && told.contains("n1:9100/mnt/disk0, n1:9100/mnt/disk3"),
            "{told}"
        );
        // Again: that changes nothing.
        assert_eq!(Absence::of(&info, "n1:9100").refusal("n1:9100"), None);
    }

    #[test]
    fn writes_that_would_be_refused_are_reason_enough() {
        // 2+2 on two nodes.
        let told = Absence::of(&info([DiskCondition::Ok; 4]), "n2:9100").refusal("n2:9100").unwrap();
        assert!(
            told.contains("set 0 (2+2) would take no writes: 2 of its 4 disks would be left, 3 are needed"),
            "{told}"
        );
        assert!(told.contains("cannot do without this node; --force"), "{told}");
        // A set that lacks what it needs, and has no disk of the node, is none of its business.
        let mut info = three_nodes("4+2");
        let mut other = info.sets[0].clone();
        other.set = 1;
        other.disks.iter_mut().for_each(|disk| disk.node = Some("n1:9100".to_owned()));
        other.disks.iter_mut().for_each(|disk| disk.condition = DiskCondition::Missing);
        info.sets.push(other);
        let absence = Absence::of(&info, "n2:9100");
        assert_eq!((absence.refusal("n2:9100"), absence.reads_tolerate), (None, None));
    }
}
