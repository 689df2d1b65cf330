//! What a proposal costs the processor: four replicas on one core, log and index included, disks simulated.

#![allow(clippy::unwrap_used, reason = "a test fails by its panic")]

mod cluster;

use buckets_index::WriteBatch;
use buckets_ring::id::GroupId;
use bytes::Bytes;
use cluster::{Cluster, Layout};
use futures::channel::oneshot;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const GROUP: GroupId = GroupId(1);

/// Time that this thread spent on a processor, in nanoseconds.
fn processor_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Microseconds of processor time for each proposal, and messages sent between cores for each.
fn cost(proposals: u64, outstanding: u64, value_bytes: usize, cores: usize) -> (f64, f64) {
    let mut layout = Layout::new(1, cores, 4, 1);
    layout.options = buckets_meta::Options::default();
    layout.large_disks = true;
    let cluster = Cluster::new(1, layout);
    cluster.until(Duration::from_secs(3), "a leader", || cluster.leader(GROUP).is_some());
    let (env, host) = cluster.leader(GROUP).unwrap();
    let term = host.leader_term(GROUP).unwrap();
    let value = Bytes::from(vec![7; value_bytes]);
    let left = Rc::new(Cell::new(proposals));
    let mut ended = Vec::new();
    for _ in 0..outstanding {
        let (host, value, left) = (host.clone(), value.clone(), left.clone());
        let (done, wait) = oneshot::channel();
        env.spawn(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let mut batch = WriteBatch::new();
                batch.put(Bytes::copy_from_slice(&left.get().to_be_bytes()), value.clone());
                host.propose(GROUP, term, &batch).await.unwrap();
            }
            let _ = done.send(());
        });
        ended.push(wait);
    }
    let (messages, began) = (cluster.net.sent.get(), processor_nanos());
    cluster.simulation.run_until(async {
        for end in ended {
            end.await.unwrap();
        }
    });
    let nanos = processor_nanos() - began;
    let messages = cluster.net.sent.get() - messages;
    (nanos as f64 / 1000.0 / proposals as f64, messages as f64 / proposals as f64)
}

#[test]
fn proposals_can_be_counted_and_timed() {
    // Long enough for the scheduler's clock, which moves with its ticks.
    let (micros, messages) = cost(4000, 16, 300, 2);
    assert!(micros > 0.0 && messages > 0.0 && messages < 12.0, "{micros} {messages}");
}

#[test]
#[ignore = "a measurement: run it alone and optimised"]
fn processor_time_of_a_proposal() {
    for (value_bytes, cores) in [(300, 1), (300, 2), (4400, 1), (65_536, 1)] {
        for outstanding in [1, 16, 128] {
            let (micros, messages) = cost(20_000, outstanding, value_bytes, cores);
            println!(
                "{value_bytes} B, {cores} cores, {outstanding} at once: {micros:.2} us, {messages:.2} messages"
            );
        }
    }
}
