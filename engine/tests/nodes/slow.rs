//! A node that everything takes long to reach, or that takes long for everything, is hardly felt.

use crate::model::nodes::Nodes;
use crate::model::{Content, put, read};
use crate::{run, three_nodes, with_bucket};
use buckets_engine::object::api::WriteCondition;
use buckets_engine::object::store::Store;
use buckets_env::Env;
use buckets_env::sim::{LinkOptions, Simulation, sweep};
use std::time::Duration;

/// Small enough to lie beside its manifest, and in chunks.
const LENS: [u64; 2] = [3000, 300_000];
const OBJECTS: u64 = 40;
/// What the slowest of a hundred takes where nothing is slow; with luck it is less.
const USUAL: Duration = Duration::from_millis(2);
/// By then it is known who is slow.
const FOUND_OUT: Duration = Duration::from_secs(15);

/// The 99th percentile of the time of a GET.
async fn late(env: &Env, store: &Store, count: u64) -> Duration {
    let mut took = Vec::new();
    for number in 0..count {
        let start = env.now();
        let number = number % OBJECTS;
        assert!(read(store, &format!("k{number}")).await.unwrap().is_some());
        took.push(env.now().since(start));
    }
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

#[test]
fn a_node_that_is_a_hundred_times_further_away_is_hardly_felt() {
    is_hardly_felt(|simulation, nodes, slow| {
        for other in (0..3).filter(|other| *other != slow) {
            let far = LinkOptions {
                delay: Duration::from_millis(5)..Duration::from_millis(30),
                loss_per_million: 0,
            };
            simulation.set_link(&nodes.nodes[slow], &nodes.nodes[other], far.clone());
            simulation.set_link(&nodes.nodes[other], &nodes.nodes[slow], far);
        }
    });
}

#[test]
fn a_node_that_gets_a_hundredth_of_its_time_is_hardly_felt() {
    is_hardly_felt(|simulation, nodes, slow| {
        let (node, env) = (nodes.nodes[slow].clone(), simulation.node("scheduler").env(0));
        env.clone().spawn(async move {
            loop {
                node.pause(Duration::from_millis(99));
                env.sleep(Duration::from_millis(100)).await;
            }
        });
    });
}

/// Slows one of three nodes down, and asks another one.
fn is_hardly_felt(slow_down: impl Fn(&Simulation, &Nodes, usize) + Sync) {
    sweep(0..6, |seed| {
        run(seed, three_nodes(), async |simulation: &Simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            for number in 0..OBJECTS {
                let content = Content { seed: number, len: LENS[number as usize % 2] };
                put(&store, &format!("k{number}"), content, WriteCondition::Always).await.unwrap();
            }
            env.sleep(FOUND_OUT).await;
            let before = late(&env, &store, 1000).await;
            slow_down(simulation, nodes, 1 + seed as usize % 2);
            let meanwhile = late(&env, &store, 200).await;
            env.sleep(FOUND_OUT).await;
            // What chunks lie on it is found out again now and then, by a read or two.
            let after = late(&env, &store, 1000).await;
            assert!(
                after <= before.max(USUAL) * 2,
                "{before:?}, then {meanwhile:?}, and {after:?} once it is found out"
            );
        });
    });
}
