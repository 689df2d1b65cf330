//! What nodes say to each other while nobody asks them anything, and what a page of a listing takes.

use crate::model::nodes::Nodes;
use crate::model::{BUCKET, Content, put};
use crate::{plan, processor_time, resident_bytes, sizes};
use buckets_engine::object::api::{ListRequest, WriteCondition};
use buckets_env::sim::{NetworkCounts, Simulation};
use futures::stream::{self, StreamExt};
use std::time::Duration;

/// Leaders are where they should be by then.
const SETTLED: Duration = Duration::from_secs(12);
const WATCHED: Duration = Duration::from_secs(10);
const PAGE_KEYS: usize = 1000;
const PUTS_AT_ONCE: usize = 64;

/// What a deployment takes, in so much time.
struct Taken {
    segments: u64,
    bytes: u64,
    processor: Duration,
    time: Duration,
}

struct Meter<'a> {
    simulation: &'a Simulation,
    network: NetworkCounts,
    processor: Duration,
    began: buckets_env::Instant,
}

impl Meter<'_> {
    fn start(simulation: &Simulation) -> Meter<'_> {
        let (network, began) = (simulation.network_counts(), simulation.now());
        Meter { simulation, network, began, processor: processor_time() }
    }

    fn stop(self) -> Taken {
        let network = self.simulation.network_counts();
        Taken {
            segments: network.segments - self.network.segments,
            bytes: network.bytes - self.network.bytes,
            processor: processor_time() - self.processor,
            time: self.simulation.now().since(self.began),
        }
    }
}

impl Taken {
    /// Without what an idle deployment takes in the same time, for each of `count`.
    fn beyond(self, idle: &Taken, count: u32) -> Taken {
        let share = self.time.as_secs_f64() / idle.time.as_secs_f64();
        let less = |all: u64, idle: u64| all.saturating_sub((idle as f64 * share) as u64) / u64::from(count);
        Taken {
            segments: less(self.segments, idle.segments),
            bytes: less(self.bytes, idle.bytes),
            processor: self.processor.saturating_sub(idle.processor.mul_f64(share)) / count,
            time: self.time / count,
        }
    }
}

#[test]
fn what_nodes_say_and_list_grows_no_faster_than_their_number() {
    let (sizes, is_measured) = sizes();
    for nodes in sizes {
        let simulation = Simulation::new(1);
        let deployment = Nodes::format(&simulation, plan(nodes));
        let before = resident_bytes();
        deployment.start_all();
        let operator = simulation.node("operator");
        let env = operator.env(0);
        simulation.run_until(async {
            for node in 0..nodes {
                deployment.store(&env, node, 0).await;
            }
        });
        simulation.run_for(SETTLED);
        let meter = Meter::start(&simulation);
        simulation.run_for(WATCHED);
        let idle = meter.stop();
        let resident = resident_bytes().saturating_sub(before) / nodes as u64;
        let node_seconds = nodes as u64 * WATCHED.as_secs();
        if is_measured {
            println!(
                "{nodes} nodes, idle, of each: {} segments and {} bytes sent a second, {:.2} ms of CPU a second, {} connections, {} KiB",
                idle.segments / node_seconds,
                idle.bytes / node_seconds,
                idle.processor.as_secs_f64() * 1e3 / node_seconds as f64,
                2 * simulation.network_counts().connections / nodes as u64,
                resident >> 10,
            );
        }
        // A node asks all others how they are, and heartbeats of some ninety replicas go to at most as many cores.
        let bytes_max = (nodes as u64 - 1) * 12_000 + 150_000;
        assert!(idle.bytes / node_seconds < bytes_max, "{} bytes a second", idle.bytes / node_seconds);

        // Each group has more than its share of a page.
        let (keys, pages) = if is_measured { ((1500 * nodes).min(60_000), 10) } else { (PAGE_KEYS + 100, 1) };
        let page = simulation.run_until(async {
            let store = deployment.store(&env, 0, 0).await;
            store.create_bucket(BUCKET, "here").await.unwrap();
            let puts = (0..keys).map(|number| {
                let (env, deployment) = (&env, &deployment);
                async move {
                    let store = deployment.store(env, number % nodes, 0).await;
                    let content = Content { seed: number as u64, len: 0 };
                    put(&store, &format!("k{number:07}"), content, WriteCondition::Always).await.unwrap();
                }
            });
            stream::iter(puts).buffer_unordered(PUTS_AT_ONCE).collect::<Vec<()>>().await;
            env.sleep(SETTLED).await;
            let request = || ListRequest { max_keys: PAGE_KEYS, ..Default::default() };
            // Leaders are known and connections made with the first.
            store.list(BUCKET, request()).await.unwrap();
            let meter = Meter::start(&simulation);
            for _ in 0..pages {
                let page = store.list(BUCKET, request()).await.unwrap();
                assert!(page.entries.len() == PAGE_KEYS && page.next.is_some());
            }
            meter.stop().beyond(&idle, pages)
        });
        if is_measured {
            println!(
                "{nodes} nodes, a page of {PAGE_KEYS} of {keys} keys: {} segments and {} bytes sent, {:.2} ms of CPU, {:.2} ms",
                page.segments,
                page.bytes,
                page.processor.as_secs_f64() * 1e3,
                page.time.as_secs_f64() * 1e3,
            );
        }
        // Each group is asked once, for a few more than its share.
        let bytes_max = if nodes == 1 { 0 } else { 400_000 + 2_000 * 10 * nodes as u64 };
        assert!(page.bytes <= bytes_max, "{} bytes for a page", page.bytes);
    }
}
