//! A crash at any write, flush or rename loses nothing that was reported as flushed, and leaves no half change.

mod world;

use buckets_env::Env;
use buckets_env::sim::{Fault, SimRng, Simulation, sweep};
use buckets_index::{Index, IndexError, Position};
use std::cell::RefCell;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use world::{
    Change, Model, all_rows, apply_to_model, batch, open, position, random_changes, random_key, random_value,
    small,
};

/// What the owner of the index knows for sure: its log, and what it was told.
#[derive(Default)]
struct Log {
    /// The changes of position 1, 2, ...
    changes: Vec<Vec<Change>>,
    /// Whole-content replacements that were begun, by their position: the content.
    loads: Vec<(u64, Model)>,
    /// The largest position that was ever reported as flushed.
    told: Position,
}

impl Log {
    /// The content at a position.
    fn content(&self, at: u64) -> Model {
        let load = self.loads.iter().rfind(|(position, _)| *position <= at);
        let (first, mut model) = load.map_or((0, Model::new()), |(first, model)| (*first, model.clone()));
        for changes in &self.changes[first as usize..at as usize] {
            apply_to_model(&mut model, changes);
        }
        model
    }
}

async fn live(env: Env, log: Rc<RefCell<Log>>, mut rng: SimRng) -> Result<(), IndexError> {
    let index = open(&env, &small(64 << 10)).await?;
    let flushed = index.flushed();
    assert!(flushed >= log.borrow().told, "{flushed:?} after {:?}", log.borrow().told);
    log.borrow_mut().told = flushed;
    let expected = log.borrow().content(flushed.index);
    assert_eq!(all_rows(&index).await?, expected);
    // The owner's log ends where the last life was, replays to there and goes on.
    let end = log.borrow().changes.len() as u64;
    for number in flushed.index + 1..=end {
        let loaded = log.borrow().loads.iter().find(|(at, _)| *at == number).map(|(_, model)| model.clone());
        if let Some(model) = loaded {
            load(&index, &model, number).await?;
            continue;
        }
        let changes = log.borrow().changes[number as usize - 1].clone();
        index.back_pressure().await?;
        index.apply(batch(&changes), position(number));
    }
    for _ in 0..rng.below(300) {
        match rng.below(60) {
            0 => {
                let before = index.applied();
                index.flush().await?;
                assert!(index.flushed() >= before);
            }
            1 => check(&index, &log).await?,
            2 => replace(&index, &log, &mut rng).await?,
            _ => {
                let changes = random_changes(&mut rng);
                let number = {
                    let mut log = log.borrow_mut();
                    log.changes.push(changes.clone());
                    log.changes.len() as u64
                };
                index.back_pressure().await?;
                index.apply(batch(&changes), position(number));
            }
        }
        let mut log = log.borrow_mut();
        log.told = log.told.max(index.flushed());
    }
    check(&index, &log).await
}

async fn check(index: &Index, log: &RefCell<Log>) -> Result<(), IndexError> {
    let expected = log.borrow().content(log.borrow().changes.len() as u64);
    assert_eq!(all_rows(index).await?, expected);
    Ok(())
}

/// A snapshot of the future arrives: position and content jump.
async fn replace(index: &Index, log: &RefCell<Log>, rng: &mut SimRng) -> Result<(), IndexError> {
    let mut model = Model::new();
    for _ in 0..rng.below(200) {
        model.insert(random_key(rng), random_value(rng));
    }
    let at = {
        let mut log = log.borrow_mut();
        log.changes.push(Vec::new());
        let at = log.changes.len() as u64;
        log.loads.push((at, model.clone()));
        at
    };
    load(index, &model, at).await
}

async fn load(index: &Index, model: &Model, at: u64) -> Result<(), IndexError> {
    let mut loader = index.load();
    for (key, value) in model {
        loader.push(key, value).await?;
    }
    loader.finish(position(at)).await
}

#[test]
fn a_crash_at_any_io_keeps_what_was_flushed() {
    sweep(0..40, |seed| {
        let simulation = Simulation::new(seed);
        let mut rng = simulation.rng();
        let node = simulation.node("a");
        let log = Rc::new(RefCell::new(Log::default()));
        for _ in 0..6 {
            let life_rng = simulation.rng();
            let ios = if rng.below(4) == 0 { 1 + rng.below(12) } else { 1 + rng.below(400) };
            node.crash_at_io(ios);
            let outcome = node.run(0, |env| live(env, log.clone(), life_rng));
            node.cancel_crash();
            if let Ok(outcome) = outcome {
                outcome.unwrap();
                match rng.below(2) {
                    0 => node.crash(),
                    _ => node.kill(),
                }
            }
        }
        let end = node.run(0, |env| live(env, log.clone(), simulation.rng()));
        end.unwrap().unwrap();
    });
}

#[test]
fn a_crash_at_each_io_of_the_first_life_keeps_what_was_flushed() {
    for io in 1..100 {
        let simulation = Simulation::new(io);
        let node = simulation.node("a");
        let log = Rc::new(RefCell::new(Log::default()));
        node.crash_at_io(io);
        let _ = node.run(0, |env| live(env, log.clone(), simulation.rng()));
        node.cancel_crash();
        node.crash();
        let end = node.run(0, |env| live(env, log.clone(), simulation.rng()));
        end.unwrap().unwrap();
    }
}

#[test]
fn a_failed_write_or_flush_is_never_taken_for_done() {
    let poisoned = AtomicU32::new(0);
    sweep(0..40, |seed| {
        let simulation = Simulation::new(seed);
        let mut rng = simulation.rng();
        let node = simulation.node("a");
        let disk = node.disk("/disk");
        let log = Rc::new(RefCell::new(Log::default()));
        for _ in 0..4 {
            let fault = if rng.below(2) == 0 { Fault::Write } else { Fault::Flush };
            disk.strike(fault, rng.below(60));
            let outcome = node.run(0, |env| {
                let (log, rng) = (log.clone(), simulation.rng());
                async move {
                    let lived = live(env.clone(), log.clone(), rng).await;
                    if let Err(error) = &lived {
                        assert!(!error.is_corrupt(), "{error}");
                    }
                    lived
                }
            });
            poisoned.fetch_add(u32::from(outcome.unwrap().is_err()), Ordering::Relaxed);
            disk.heal();
            node.crash();
        }
        node.run(0, |env| live(env, log.clone(), simulation.rng())).unwrap().unwrap();
    });
    assert!(
        poisoned.load(Ordering::Relaxed) > 30 || std::env::var("BUCKETS_SIM_SEED").is_ok(),
        "only {poisoned:?} lives met their fault"
    );
}

#[test]
fn a_poisoned_index_still_reads_and_says_so() {
    let simulation = Simulation::new(3);
    let node = simulation.node("a");
    let disk = node.disk("/disk");
    let mut rng = simulation.rng();
    node.run(0, |env| async move {
        let index = open(&env, &small(1 << 20)).await.unwrap();
        let mut model = Model::new();
        for number in 1..=40 {
            let changes = random_changes(&mut rng);
            index.apply(batch(&changes), position(number));
            apply_to_model(&mut model, &changes);
        }
        index.flush().await.unwrap();
        disk.strike(Fault::Flush, 0);
        let change = (random_key(&mut rng), Some(random_value(&mut rng)));
        index.apply(batch(std::slice::from_ref(&change)), position(41));
        apply_to_model(&mut model, &[change]);
        for _ in 0..2 {
            assert!(matches!(index.flush().await, Err(IndexError::Poisoned { .. })));
            assert!(matches!(index.back_pressure().await, Err(IndexError::Poisoned { .. })));
        }
        assert!(index.failure().is_some());
        assert_eq!(index.flushed(), position(40));
        assert_eq!(all_rows(&index).await.unwrap(), model);
        let mut loader = index.load();
        loader.push(b"a", b"b").await.unwrap();
        assert!(loader.finish(position(50)).await.is_err());
        assert_eq!(all_rows(&index).await.unwrap(), model);
        assert!(index.scan(Bound::Unbounded, Bound::Unbounded).next().await.is_ok());
        index.close().await;
    })
    .unwrap();
}
