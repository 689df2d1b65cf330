//! Which K+M a cluster gets where none is asked for.
//!
//! What must hold: with it the loss of any one node stops neither reads nor writes. Pure.

use buckets_ring::Coding;
use buckets_ring::coding::CHUNKS_OF_A_KIND_MAX;

/// Disks of a set that are preferred not to be exceeded.
const SET_DISKS_PREFERRED_MAX: usize = 12;

/// A code for `nodes` nodes with `disks` disks each: sets as wide as twelve disks allow, a third of them parity, or more where
/// a node holds more. `None` where no code bears the loss of a node.
pub fn for_nodes(nodes: usize, disks: usize) -> Option<Coding> {
    let all = nodes * disks;
    let widths =
        |range: std::ops::RangeInclusive<usize>| range.filter(move |width| all.is_multiple_of(*width));
    let preferred = widths(2..=SET_DISKS_PREFERRED_MAX).rev();
    let wider = widths(SET_DISKS_PREFERRED_MAX + 1..=2 * usize::from(CHUNKS_OF_A_KIND_MAX));
    preferred.chain(wider).find_map(|width| of_width(width, nodes))
}

/// The code of a set of `width` disks on `nodes` nodes.
fn of_width(width: usize, nodes: usize) -> Option<Coding> {
    // Sets are cut from the first disk of every node, then the second of every node, and so on.
    let on_one_node = width.div_ceil(nodes);
    let third = (width + 1) / 3;
    let codes = (third.max(1)..width).filter_map(|m| {
        // A set has at most 32 disks.
        Coding::new((width - m) as u8, m as u8)
    });
    let mut codes = codes.filter(|code| usize::from(code.write_failures_tolerated()) >= on_one_node);
    codes.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterFile, NewCluster};
    use crate::node_loss::{self, Loss};
    use buckets_engine::node::DiskSizes;
    use buckets_ring::BlockChecksum;
    use std::path::Path;

    #[test]
    fn a_third_of_up_to_twelve_disks_is_parity() {
        let table = [
            (3, 4, "8+4"),
            (6, 4, "8+4"),
            (3, 1, "2+1"),
            (3, 2, "4+2"),
            (3, 8, "8+4"),
            (4, 1, "3+1"),
            (4, 4, "5+3"),
            (5, 1, "3+2"),
            (5, 4, "7+3"),
            (12, 1, "8+4"),
            (13, 1, "9+4"),
        ];
        for (nodes, disks, code) in table {
            assert_eq!(for_nodes(nodes, disks), Some(code.parse().unwrap()), "{nodes} x {disks}");
        }
    }

    #[test]
    fn where_a_node_is_too_much_there_is_none() {
        for (nodes, disks) in [(1, 4), (2, 1), (2, 2), (2, 8), (37, 1)] {
            assert_eq!(for_nodes(nodes, disks), None, "{nodes} x {disks}");
        }
    }

    #[test]
    fn every_node_may_be_lost() {
        for (nodes, disks) in (1..=12).flat_map(|nodes| (1..=8).map(move |disks| (nodes, disks))) {
            let Some(coding) = for_nodes(nodes, disks) else {
                assert!(nodes < 3, "{nodes} x {disks}");
                continue;
            };
            let patterns = [format!("http://node{{1...{nodes}}}:9100/d{{1...{disks}}}")];
            let new = NewCluster {
                coding,
                block_checksum: BlockChecksum::Xxh3,
                disk_sizes: DiskSizes::Dev,
                patterns: &patterns,
            };
            let file = ClusterFile::parse(Path::new("cluster.toml"), &new.compose().unwrap()).unwrap();
            let shares = node_loss::shares(&file.topology(), &file.nodes());
            assert!(
                shares.iter().all(|share| share.loss == Loss::Tolerated),
                "{coding} on {nodes} x {disks}: {shares:?}"
            );
        }
    }
}
