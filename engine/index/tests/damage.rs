//! Whatever happens to the files, an answer is right or it is an error that names the damage.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod world;

use buckets_env::Env;
use buckets_env::sim::{Fault, SimNode, SimRng, Simulation, sweep};
use buckets_index::{Index, IndexError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use world::{Model, all_rows, apply_to_model, batch, dir, open, position, random_changes, small};

/// Fills an index with several levels and closes it.
async fn fill(env: Env, mut rng: SimRng, count: u64) -> Model {
    let index = open(&env, &small(0)).await.unwrap();
    let mut model = Model::new();
    for number in 1..=count {
        let changes = random_changes(&mut rng);
        index.back_pressure().await.unwrap();
        index.apply(batch(&changes), position(number));
        apply_to_model(&mut model, &changes);
    }
    index.flush().await.unwrap();
    env.sleep(std::time::Duration::from_secs(2)).await;
    index.close().await;
    model
}

/// What reads made of the damage.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Damage,
}

fn seen<T: PartialEq + std::fmt::Debug>(answer: Result<T, IndexError>, right: &T) -> Seen {
    match answer {
        Ok(answer) => {
            assert_eq!(answer, *right);
            Seen::Nothing
        }
        Err(error) => {
            assert!(error.is_corrupt(), "{error}");
            Seen::Damage
        }
    }
}

/// Opens and reads everything in all ways.
async fn read_all(env: Env, model: &Model, options: &buckets_index::IndexOptions) -> Seen {
    let index = match open(&env, options).await {
        Ok(index) => index,
        Err(error) => {
            assert!(error.is_corrupt(), "{error}");
            return Seen::Damage;
        }
    };
    let mut damage = seen(all_rows(&index).await, model) == Seen::Damage;
    for (key, value) in model.iter().step_by(5) {
        damage |= seen(index.get(key).await, &Some(value.clone())) == Seen::Damage;
    }
    let gone = bytes::Bytes::from_static(b"a/never");
    damage |= seen(index.get(&gone).await, &None) == Seen::Damage;
    let verified = index.verify().await;
    assert!(!damage || verified.is_err(), "reads saw damage that the scrub did not see");
    damage |= verified.is_err();
    damage |= index.counters().corruptions > 0;
    assert_eq!(damage, index.counters().corruptions > 0, "damage is counted");
    index.close().await;
    if damage { Seen::Damage } else { Seen::Nothing }
}

fn filled(seed: u64, count: u64) -> (Simulation, SimNode, Model) {
    let simulation = Simulation::new(seed);
    let node = simulation.node("a");
    let rng = simulation.rng();
    let model = node.run(0, |env| fill(env, rng, count)).unwrap();
    (simulation, node, model)
}

#[test]
fn a_flipped_byte_is_seen_and_never_changes_an_answer() {
    sweep(0..2, |seed| {
        let (simulation, node, model) = filled(seed, 60);
        let disk = node.disk("/disk");
        let mut rng = simulation.rng();
        let places: Vec<(PathBuf, u64)> = node
            .files("/disk")
            .into_iter()
            .flat_map(|path| {
                let content = node.peek_file(&path).unwrap();
                let is_root = path.file_name().unwrap().to_str().unwrap().starts_with("root");
                // What is reserved behind a root holds nothing yet.
                let root_pages = u64::from(u32::from_le_bytes(content[16..20].try_into().unwrap()));
                let len = if is_root { root_pages * 4096 } else { content.len() as u64 };
                let heads = (0..len).filter(|at| at % 4096 < 64).step_by(7);
                let random: Vec<u64> = (0..20).map(|_| rng.below(len)).collect();
                let all: Vec<u64> = heads.chain(random).collect();
                all.into_iter().map(move |at| (path.clone(), at))
            })
            .collect();
        assert!(places.len() > 100);
        for (path, at) in places {
            let before = node.peek_file(&path).unwrap();
            let mask = 1 << rng.below(8);
            assert!(disk.flip_byte(&path, at, mask));
            // Opening would begin compactions, which rightly stop: keep the files as they are.
            let mut options = small(0);
            options.level0_tables_trigger = 1000;
            options.level1_bytes = 1 << 40;
            let seen = node.run(0, |env| async { read_all(env, &model, &options).await }).unwrap();
            assert_eq!(seen, Seen::Damage, "{} at {at}", path.display());
            let is_root = path.file_name().unwrap().to_str().unwrap().starts_with("root");
            let after = node.peek_file(&path).unwrap();
            if is_root {
                assert_eq!(after, before, "a damaged copy of the root is rewritten");
            } else {
                assert!(disk.flip_byte(&path, at, mask));
            }
        }
    });
}

#[test]
fn damage_met_by_a_compaction_stops_it_and_nothing_else() {
    sweep(0..20, |seed| {
        let (simulation, node, model) = filled(seed, 200);
        let disk = node.disk("/disk");
        let mut rng = simulation.rng();
        disk.rot(1 + rng.below(4) as usize);
        let outcome = node.run(0, |env| async move {
            let mut model = model;
            let Ok(index) = open(&env, &small(32 << 10)).await else { return };
            for number in 201..400 {
                match index.back_pressure().await {
                    Ok(()) => {}
                    Err(error) => {
                        assert!(error.is_corrupt(), "{error}");
                        break;
                    }
                }
                let changes = random_changes(&mut rng);
                index.apply(batch(&changes), position(number));
                apply_to_model(&mut model, &changes);
                let (key, _) = &random_changes(&mut rng).into_iter().next().unwrap_or_default();
                let _ = seen(index.get(key).await, &model.get(key).cloned());
            }
            index.flush().await.unwrap();
            let _ = seen(all_rows(&index).await, &model);
            index.close().await;
        });
        outcome.unwrap();
    });
}

#[test]
fn a_lost_or_misdirected_write_is_seen_and_never_changes_an_answer() {
    let damaged = AtomicU32::new(0);
    sweep(0..40, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let mut rng = simulation.rng();
        let fault = if rng.below(2) == 0 { Fault::LostWrite } else { Fault::MisdirectedWrite };
        node.disk("/disk").strike(fault, rng.below(60));
        let outcome = node.run(0, |env| async move {
            let index = open(&env, &small(0)).await.unwrap();
            let mut model = Model::new();
            let mut number = 0;
            let mut whole = true;
            while number < 150 && whole {
                number += 1;
                let changes = random_changes(&mut rng);
                // A table is read back when it is done: that may already see it.
                whole = index.back_pressure().await.is_ok();
                index.apply(batch(&changes), position(number));
                apply_to_model(&mut model, &changes);
            }
            let flushed = index.flush().await;
            assert!(flushed.is_ok() || index.failure().is_some());
            index.close().await;
            match flushed {
                Ok(()) => Some(model),
                Err(error) => {
                    assert!(error.is_corrupt(), "{error}");
                    None
                }
            }
        });
        let seen = match outcome.unwrap() {
            Some(model) => {
                let options = small(0);
                node.run(0, |env| async { read_all(env, &model, &options).await }).unwrap()
            }
            None => Seen::Damage,
        };
        damaged.fetch_add(u32::from(seen == Seen::Damage), Ordering::Relaxed);
    });
    assert!(
        damaged.load(Ordering::Relaxed) > 2 || std::env::var("BUCKETS_SIM_SEED").is_ok(),
        "only {damaged:?} faults were met"
    );
}

async fn with_file(env: &Env, change: impl AsyncFnOnce(&Env, Vec<String>)) -> Result<Index, IndexError> {
    let names = env.list_dir(&dir()).await.unwrap();
    change(env, names).await;
    open(env, &small(0)).await
}

#[test]
fn a_missing_swapped_or_foreign_file_is_refused() {
    let refused = |change: fn(&Env, Vec<String>) -> futures::future::LocalBoxFuture<'static, ()>| {
        let (_simulation, node, _) = filled(5, 120);
        let outcome = node.run(0, |env| async move {
            let opened = with_file(&env, async |env, names| change(env, names).await).await;
            match opened {
                Err(IndexError::Corrupt { .. }) => {}
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("opened"),
            }
        });
        outcome.unwrap();
    };
    refused(|env, names| {
        let env = env.clone();
        Box::pin(async move { env.remove_file(&dir().join(&names[1])).await.unwrap() })
    });
    refused(|env, names| {
        let env = env.clone();
        Box::pin(async move {
            env.rename(&dir().join(&names[0]), &dir().join("x")).await.unwrap();
            env.rename(&dir().join(&names[1]), &dir().join(&names[0])).await.unwrap();
            env.rename(&dir().join("x"), &dir().join(&names[1])).await.unwrap();
        })
    });
    refused(|env, _| {
        let env = env.clone();
        Box::pin(async move {
            env.remove_file(&dir().join("root-a")).await.unwrap();
            env.remove_file(&dir().join("root-b")).await.unwrap();
        })
    });
}

#[test]
fn an_index_of_another_identity_is_refused() {
    let (_simulation, node, model) = filled(5, 120);
    let outcome = node.run(0, |env| async move {
        let other = Index::open(&env, dir(), [9; 16], small(0)).await;
        assert!(matches!(other, Err(IndexError::Corrupt { .. })));
        let own = open(&env, &small(0)).await.unwrap();
        assert_eq!(all_rows(&own).await.unwrap(), model);
        own.close().await;
    });
    outcome.unwrap();
}

#[test]
fn one_lost_copy_of_the_root_costs_nothing() {
    for name in ["root-a", "root-b"] {
        let (_simulation, node, model) = filled(5, 120);
        let outcome = node.run(0, |env| async move {
            env.remove_file(&dir().join(name)).await.unwrap();
            let index = open(&env, &small(0)).await.unwrap();
            assert_eq!(all_rows(&index).await.unwrap(), model);
            index.close().await;
            let names = env.list_dir(&dir()).await.unwrap();
            assert!(names.iter().any(|present| present == name));
        });
        outcome.unwrap();
    }
}

#[test]
fn an_unreadable_page_is_an_error_of_the_disk() {
    let (_simulation, node, model) = filled(6, 120);
    let disk = node.disk("/disk");
    let table = node.files("/disk").remove(0);
    assert!(disk.make_unreadable(&table, 0));
    let outcome = node.run(0, |env| async move {
        let index = open(&env, &small(0)).await.unwrap();
        let mut failed = 0;
        for (key, value) in &model {
            match index.get(key).await {
                Ok(answer) => assert_eq!(answer.as_ref(), Some(value)),
                Err(error) => {
                    assert!(matches!(error, IndexError::Io { .. }), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0);
        assert!(all_rows(&index).await.is_err());
        index.close().await;
    });
    outcome.unwrap();
}
