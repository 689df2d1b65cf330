//! What grows with the number of nodes, and how: the map and the way from a key to its disks (`placement`), what nodes that
//! nobody asks anything say to each other, and a page of a listing (`control`). No bodies.
//!
//! Each test runs small with the others and shows nothing. The curve of benches/README.md:
//!
//!     BUCKETS_SCALE_NODES=1,3,10,30,100 cargo test --release -p buckets-engine --test scale -- --nocapture --test-threads 1

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod control;
#[path = "../model/mod.rs"]
mod model;
mod placement;

use buckets_ring::coding::Coding;
use model::nodes::Plan;
use std::fs;
use std::time::Duration;

/// Numbers of nodes, and whether numbers are wanted.
fn sizes() -> (Vec<usize>, bool) {
    match std::env::var("BUCKETS_SCALE_NODES") {
        Ok(sizes) => (sizes.split(',').map(|size| size.parse().unwrap()).collect(), true),
        Err(_) => (vec![1, 3], false),
    }
}

/// Ten disks a node, and so sets of ten: as many sets as nodes.
fn plan(nodes: usize) -> Plan {
    Plan { nodes, cores: 1, disks_per_node: 10, coding: Coding::new(6, 4).unwrap() }
}

/// Of this process.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Of this thread.
fn processor_time() -> Duration {
    let nanos = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(nanos.split(' ').next().unwrap().parse().unwrap())
}
