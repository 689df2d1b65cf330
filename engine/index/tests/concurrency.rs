//! Readers that run beside a writer, flushes and compactions see whole batches, in order, and may be dropped at any
//! point.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod world;

use buckets_env::Env;
use buckets_env::sim::{SimRng, Simulation, sweep};
use buckets_index::{Index, WriteBatch};
use bytes::Bytes;
use futures::future::poll_immediate;
use std::cell::Cell;
use std::ops::Bound;
use std::rc::Rc;
use world::{Model, apply_to_model, batch, open, position, random_changes, random_key, small};

const KEYS: u64 = 40;
const BATCHES: u64 = 300;

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key/{number:04}"))
}

fn version(value: &Bytes) -> u64 {
    u64::from_be_bytes(value[..8].try_into().unwrap_or_default())
}

/// Sets all keys to one version after the other.
async fn write_versions(env: Env, index: Index, written: Rc<Cell<u64>>) {
    for number in 1..=BATCHES {
        index.back_pressure().await.unwrap();
        let mut batch = WriteBatch::new();
        for at in 0..KEYS {
            let mut value = number.to_be_bytes().to_vec();
            value.resize(8 + (number * at % 60) as usize, 1);
            batch.put(key(at), value);
        }
        index.apply(batch, position(number));
        written.set(number);
        env.yield_now().await;
    }
}

async fn read_versions(env: Env, index: Index, written: Rc<Cell<u64>>, mut rng: SimRng) {
    while written.get() < BATCHES {
        env.yield_now().await;
        let before = written.get();
        if rng.below(3) == 0 {
            let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
            let mut rows = 0;
            while let Some((_, value)) = scan.next().await.unwrap() {
                assert_eq!(version(&value), before, "a scan sees the moment of its start");
                rows += 1;
            }
            assert_eq!(rows, if before == 0 { 0 } else { KEYS });
        } else {
            let value = index.get(&key(rng.below(KEYS))).await.unwrap();
            assert_eq!(
                value.map_or(0, |value| version(&value)),
                before,
                "a read sees the moment of its start"
            );
        }
    }
}

#[test]
fn readers_see_whole_batches_of_the_moment_they_began() {
    sweep(0..6, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let cache_bytes = if seed % 2 == 0 { 0 } else { 64 << 10 };
        let readers: Vec<SimRng> = (0..4).map(|_| simulation.rng()).collect();
        let outcome = node.run(0, |env| async move {
            let index = open(&env, &small(cache_bytes)).await.unwrap();
            let written = Rc::new(Cell::new(0));
            let left = Rc::new(Cell::new(readers.len()));
            for rng in readers {
                let (env, index) = (env.clone(), index.clone());
                let (written, left) = (written.clone(), left.clone());
                env.clone().spawn(async move {
                    read_versions(env, index, written, rng).await;
                    left.set(left.get() - 1);
                });
            }
            write_versions(env.clone(), index.clone(), written).await;
            while left.get() > 0 {
                env.sleep(std::time::Duration::from_millis(1)).await;
            }
            assert!(index.counters().compactions > 0);
            index.close().await;
        });
        assert!(outcome.is_ok());
    });
}

#[test]
fn a_dropped_step_of_a_scan_loses_no_row() {
    sweep(0..8, |seed| {
        let simulation = Simulation::new(seed);
        let mut rng = simulation.rng();
        let outcome = simulation.node("a").run(0, |env| async move {
            let index = open(&env, &small([0, 32 << 10][seed as usize % 2])).await.unwrap();
            let mut model = Model::new();
            for number in 1..300 {
                let changes = random_changes(&mut rng);
                index.back_pressure().await.unwrap();
                index.apply(batch(&changes), position(number));
                apply_to_model(&mut model, &changes);
            }
            for _ in 0..4 {
                let mut rest = model.clone();
                let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
                loop {
                    if rng.below(10) == 0 {
                        let target = random_key(&mut rng);
                        scan.seek(&target);
                        rest = rest.split_off(&target);
                    }
                    let mut dropped = None;
                    for _ in 0..rng.below(3) {
                        // Polled once and dropped, unless it was ready.
                        if let Some(row) = poll_immediate(Box::pin(scan.next())).await {
                            dropped = Some(row);
                            break;
                        }
                    }
                    let row = match dropped {
                        Some(row) => row,
                        None => scan.next().await,
                    };
                    let row = row.unwrap();
                    assert_eq!(row, rest.pop_first());
                    if row.is_none() {
                        break;
                    }
                }
            }
            index.close().await;
        });
        assert!(outcome.is_ok());
    });
}
