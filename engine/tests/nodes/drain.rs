//! A node that is about to be stopped leads nothing, and no client notices.

use crate::model::nodes::PORT;
use crate::model::{BUCKET, Content, put, read};
use crate::{run, three_nodes, with_bucket};
use buckets_engine::object::api::WriteCondition;
use buckets_engine::object::status::PeerStatus;
use buckets_engine::object::store::Store;
use buckets_env::Env;
use buckets_env::sim::sweep;
use futures::future::{join, join_all};
use std::cell::Cell;
use std::time::Duration;

/// By then each partition is led by the disk that should.
const SETTLED: Duration = Duration::from_secs(10);
/// Several times as long as a leader waits until it hands over to the disk that should lead.
const DRAINED_FOR: Duration = Duration::from_secs(20);

fn name(node: usize) -> String {
    format!("n{}:{PORT}", node + 1)
}

/// How many groups a node leads, and whether it is drained, as it says itself.
async fn leads(asked: &Store, node: usize) -> (u64, bool) {
    let PeerStatus { told, .. } = asked.status_of_all().await.unwrap().nodes.swap_remove(node);
    let told = told.unwrap();
    (told.leads.unwrap(), told.is_draining)
}

/// Waits until it leads that many.
async fn wait_for(env: &Env, asked: &Store, node: usize, limit: Duration, wanted: impl Fn(u64) -> bool) {
    let start = env.now();
    while !wanted(leads(asked, node).await.0) {
        assert!(env.now().since(start) < limit, "node {node} leads {}", leads(asked, node).await.0);
        env.sleep(Duration::from_millis(50)).await;
    }
}

/// Writes and reads until it is told to stop; nothing fails.
async fn work(env: &Env, store: &Store, client: u64, stopping: &Cell<bool>) {
    for number in 0.. {
        let key = format!("c{client}/{}", number % 12);
        let content = Content { seed: number, len: if number % 7 == 0 { 100_000 } else { 3000 } };
        put(store, &key, content, WriteCondition::Always).await.unwrap();
        assert!(read(store, &key).await.unwrap().unwrap().bytes == content.bytes());
        if stopping.get() {
            return;
        }
        env.sleep(Duration::from_millis(80)).await;
    }
}

#[test]
fn a_drained_node_leads_nothing_and_nobody_notices() {
    sweep(0..4, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let mut stores = Vec::new();
            for node in 0..3 {
                stores.push(nodes.store(&env, node, node % 2).await);
            }
            stores[0].create_bucket(BUCKET, "here").await.unwrap();
            env.sleep(SETTLED).await;
            let drained = seed as usize % 3;
            let asked = &stores[(drained + 1) % 3];
            let (before, is_drained) = leads(asked, drained).await;
            assert!(before > 0 && !is_drained);
            let stopping = Cell::new(false);
            let maintenance = async {
                asked.drain(&name(drained), true).await.unwrap();
                wait_for(&env, asked, drained, Duration::from_secs(3), |led| led == 0).await;
                let start = env.now();
                while env.now().since(start) < DRAINED_FOR {
                    assert_eq!(leads(asked, drained).await, (0, true));
                    env.sleep(Duration::from_millis(20)).await;
                }
                assert!(!leads(asked, (drained + 1) % 3).await.1);
                asked.drain(&name(drained), false).await.unwrap();
                wait_for(&env, asked, drained, Duration::from_secs(15), |led| led >= before).await;
                stopping.set(true);
            };
            let clients = stores.iter().zip(0..).map(|(store, n)| work(&env, store, n, &stopping));
            join(maintenance, join_all(clients)).await;
        });
    });
}

#[test]
fn a_drained_node_leads_where_nobody_else_can() {
    sweep(0..3, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            for drained in 0..2 {
                store.drain(&name(drained), true).await.unwrap();
                wait_for(&env, &store, drained, Duration::from_secs(3), |led| led == 0).await;
            }
            nodes.kill(2);
            let start = env.now();
            let content = Content { seed, len: 3000 };
            for number in 0..20 {
                let key = format!("k{number}");
                while put(&store, &key, content, WriteCondition::Always).await.is_err() {
                    env.sleep(Duration::from_millis(20)).await;
                }
                assert!(read(&store, &key).await.unwrap().unwrap().bytes == content.bytes());
            }
            assert!(env.now().since(start) < Duration::from_secs(5));
            // Somebody who does not drain is there again.
            nodes.start(2);
            for drained in 0..2 {
                wait_for(&env, &store, drained, Duration::from_secs(20), |led| led == 0).await;
            }
            let unknown = store.drain("n9:9100", true).await.unwrap_err();
            assert!(unknown.to_string().contains("n9:9100"), "{unknown}");
        });
    });
}
