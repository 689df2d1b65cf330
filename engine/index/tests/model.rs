//! The index answers as a plain ordered map would, whatever is flushed, compacted or opened again meanwhile.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod world;

use buckets_env::sim::{SimRng, Simulation, sweep};
use buckets_index::{BlockCache, Index, Scan};
use bytes::Bytes;
use std::ops::Bound;
use world::{Model, all_rows, apply_to_model, batch, open, position, random_changes, random_key, small};

/// A scan that was begun earlier, and what it has to answer.
struct OldScan {
    scan: Scan,
    rest: Model,
}

impl OldScan {
    async fn check_some(&mut self, rng: &mut SimRng) {
        for _ in 0..rng.below(40) {
            if rng.below(6) == 0 {
                let target = random_key(rng);
                self.scan.seek(&target);
                self.rest = self.rest.split_off(&target);
            }
            let expected = self.rest.pop_first();
            assert_eq!(self.scan.next().await.unwrap(), expected);
        }
    }
}

fn random_bound(rng: &mut SimRng) -> Bound<Bytes> {
    match rng.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(random_key(rng)),
        _ => Bound::Excluded(random_key(rng)),
    }
}

fn range(model: &Model, start: &Bound<Bytes>, end: &Bound<Bytes>) -> Model {
    let after = |key: &Bytes| match start {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
    };
    let before = |key: &Bytes| match end {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
    };
    model.iter().filter(|(key, _)| after(key) && before(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

async fn check_reads(index: &Index, model: &Model, rng: &mut SimRng) {
    for _ in 0..5 {
        let key = random_key(rng);
        assert_eq!(index.get(&key).await.unwrap().as_ref(), model.get(&key));
        let first = model.range(key.clone()..).next().map(|(key, value)| (key.clone(), value.clone()));
        assert_eq!(index.first_at_or_after(&key).await.unwrap(), first);
    }
}

#[test]
fn answers_like_an_ordered_map() {
    sweep(0..16, |seed| {
        let simulation = Simulation::new(seed);
        let mut rng = simulation.rng();
        let node = simulation.node("a");
        let cache_bytes = [0, 64 << 10, 4 << 20][rng.below(3) as usize];
        let outcome = node.run(0, |env| async move {
            let options = small(cache_bytes);
            let mut index = open(&env, &options).await.unwrap();
            assert!(index.was_created());
            let mut model = Model::new();
            let mut applied = 0;
            let mut old: Vec<OldScan> = Vec::new();
            for _ in 0..400 {
                match rng.below(40) {
                    0 => index.flush().await.unwrap(),
                    1 => {
                        old.clear();
                        index.flush().await.unwrap();
                        index.close().await;
                        index = open(&env, &options).await.unwrap();
                        assert!(!index.was_created());
                        assert_eq!(index.flushed(), position(applied));
                    }
                    2 => assert_eq!(all_rows(&index).await.unwrap(), model),
                    3..6 if old.len() < 4 => {
                        let (start, end) = (random_bound(&mut rng), random_bound(&mut rng));
                        let rest = range(&model, &start, &end);
                        old.push(OldScan { scan: index.scan(start, end), rest });
                    }
                    6..10 if !old.is_empty() => {
                        let chosen = rng.below(old.len() as u64) as usize;
                        old[chosen].check_some(&mut rng).await;
                        if rng.below(4) == 0 {
                            old.swap_remove(chosen);
                        }
                    }
                    _ => {
                        index.back_pressure().await.unwrap();
                        let changes = random_changes(&mut rng);
                        applied += 1;
                        index.apply(batch(&changes), position(applied));
                        apply_to_model(&mut model, &changes);
                        check_reads(&index, &model, &mut rng).await;
                    }
                }
            }
            index.flush().await.unwrap();
            assert_eq!(all_rows(&index).await.unwrap(), model);
            assert!(index.verify().await.unwrap() > 0);
            assert_eq!(index.counters().corruptions, 0);
            assert_eq!(index.counters().tables > 2, index.counters().table_bytes > 8192);
            index.close().await;
        });
        outcome.unwrap();
    });
}

#[test]
fn a_snapshot_is_one_moment_and_its_files_go_after_it() {
    let simulation = Simulation::new(1);
    let mut rng = simulation.rng();
    let node = simulation.node("a");
    let files = || node.files("/disk").len();
    let outcome = node.run(0, |env| async move {
        let index = open(&env, &small(1 << 20)).await.unwrap();
        let mut model = Model::new();
        let mut pinned = None;
        for number in 1..=600 {
            index.back_pressure().await.unwrap();
            let changes = random_changes(&mut rng);
            index.apply(batch(&changes), position(number));
            apply_to_model(&mut model, &changes);
            if number == 300 {
                pinned = Some((std::rc::Rc::new(index.snapshot()), model.clone()));
            }
        }
        index.flush().await.unwrap();
        env.sleep(std::time::Duration::from_secs(2)).await;
        let (snapshot, then) = pinned.unwrap();
        assert_eq!(snapshot.position(), position(300));
        let mut scan = snapshot.scan(Bound::Unbounded, Bound::Unbounded);
        for (key, value) in &then {
            assert_eq!(scan.next().await.unwrap(), Some((key.clone(), value.clone())));
            assert_eq!(snapshot.get(key).await.unwrap().as_ref(), Some(value));
        }
        assert_eq!(scan.next().await.unwrap(), None);
        let with_snapshot = files();
        drop((scan, snapshot));
        env.sleep(std::time::Duration::from_secs(2)).await;
        assert!(files() < with_snapshot);
        assert_eq!(files() as u64, index.counters().tables + 2);
        index.close().await;
    });
    outcome.unwrap();
}

#[test]
fn replaced_content_is_the_only_content() {
    sweep(0..10, |seed| {
        let simulation = Simulation::new(seed);
        let mut rng = simulation.rng();
        let node = simulation.node("a");
        let disk_files = || node.files("/disk").len();
        let outcome = node.run(0, |env| async move {
            let options = small(1 << 20);
            let index = open(&env, &options).await.unwrap();
            let mut old = Model::new();
            for number in 1..=rng.below(300) {
                let changes = random_changes(&mut rng);
                index.back_pressure().await.unwrap();
                index.apply(batch(&changes), position(number));
                apply_to_model(&mut old, &changes);
            }
            let before = index.scan(Bound::Unbounded, Bound::Unbounded);
            let mut model = Model::new();
            for _ in 0..rng.below(100) {
                apply_to_model(&mut model, &random_changes(&mut rng));
            }
            let mut given_up = index.load();
            given_up.push(b"never", b"seen").await.unwrap();
            drop(given_up);
            let mut given_up = index.load();
            given_up.push(b"never", b"seen").await.unwrap();
            // Dropped before the root is written: its first poll has only begun to write a table.
            drop(futures::future::poll_immediate(Box::pin(given_up.finish(position(900)))).await);
            let mut loader = index.load();
            for (key, value) in &model {
                loader.push(key, value).await.unwrap();
            }
            loader.finish(position(1000)).await.unwrap();
            assert_eq!(index.flushed(), position(1000));
            assert_eq!(all_rows(&index).await.unwrap(), model);
            let mut before = OldScan { scan: before, rest: old };
            before.check_some(&mut rng).await;
            drop(before);
            for number in 1001..1100 {
                let changes = random_changes(&mut rng);
                index.back_pressure().await.unwrap();
                index.apply(batch(&changes), position(number));
                apply_to_model(&mut model, &changes);
                check_reads(&index, &model, &mut rng).await;
            }
            index.flush().await.unwrap();
            env.sleep(std::time::Duration::from_secs(2)).await;
            assert_eq!(disk_files() as u64, index.counters().tables + 2);
            index.close().await;
            let index = open(&env, &options).await.unwrap();
            assert_eq!(all_rows(&index).await.unwrap(), model);
            index.close().await;
        });
        outcome.unwrap();
    });
}

#[test]
fn largest_rows_are_legal() {
    let simulation = Simulation::new(7);
    let outcome = simulation.node("a").run(0, |env| async move {
        let mut options = small(1 << 20);
        options.cache = BlockCache::new(8 << 20);
        let index = open(&env, &options).await.unwrap();
        let mut model = Model::new();
        for number in 1..=12u64 {
            let len = if number % 2 == 0 { buckets_index::VALUE_BYTES_MAX } else { number as usize };
            let mut key = vec![number as u8; buckets_index::KEY_BYTES_MAX];
            key.truncate(if number % 3 == 0 { 1 } else { buckets_index::KEY_BYTES_MAX });
            let change = (Bytes::from(key), Some(Bytes::from(vec![number as u8; len])));
            index.back_pressure().await.unwrap();
            index.apply(batch(std::slice::from_ref(&change)), position(number));
            apply_to_model(&mut model, &[change]);
        }
        index.flush().await.unwrap();
        assert_eq!(all_rows(&index).await.unwrap(), model);
        for (key, value) in &model {
            assert_eq!(index.get(key).await.unwrap().as_ref(), Some(value));
        }
        index.close().await;
    });
    outcome.unwrap();
}
