//! One node in the simulator: several cores, four disks with 2+2, many clients, and crashes at any write or flush.
//!
//! The model is a plain map. A write that was acknowledged must be there after every crash, byte-equal; a write that was
//! under way may be there as a whole or not at all; listings show what reads show.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model;

use buckets_engine::object::api::{ListEntry, ListRequest, ObjectError, WriteCondition};
use buckets_engine::object::store::Store;
use buckets_env::sim::{DiskFaults, SimNode, Simulation, sweep, sweep_and};
use buckets_ring::coding::Coding;
use model::{
    BUCKET, Cluster, Content, INLINE_BYTES_MAX, Layout, complete, path, put, put_into, read, upload,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const CORES: usize = 2;
const DISKS: u8 = 4;

/// What a key may hold.
#[derive(Clone, Debug, Default)]
struct Key {
    acknowledged: Option<Content>,
    /// Set while a write is under way: what it would leave.
    attempt: Option<Option<Content>>,
}

type Model = Rc<RefCell<BTreeMap<String, Key>>>;

fn layout() -> Layout {
    Layout { cores: CORES, coding: Coding::new(2, 2).unwrap(), partitions: 4 }
}

fn format(simulation: &Simulation, node: &SimNode) {
    model::format(simulation, node, layout());
}

fn start(node: &SimNode) -> Cluster {
    model::start(node, layout())
}

async fn put_multipart(store: &Store, key: &str, content: Content) -> Result<(), ObjectError> {
    let (upload, parts) = upload(store, key, content).await?;
    complete(store, key, upload, parts, WriteCondition::Always).await
}

/// The seed of an object's content, by its description alone; `None` where there is no object.
async fn version(store: &Store, key: &str) -> Result<Option<u64>, ObjectError> {
    match store.head(BUCKET, key).await {
        Ok(info) => Ok(info.headers.iter().find_map(|(_, value)| value.parse().ok())),
        Err(ObjectError::NoSuchKey) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One client: writes and removes its own keys, and reads them back.
async fn client(store: Store, number: u64, seed: u64, model: Model, operations: u64) {
    let mut state = seed ^ (number + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..operations {
        let key = format!("c{number}/k{}", random(4));
        let len = match random(6) {
            0 => 0,
            1 => random(200),
            2 | 3 => random(2 * INLINE_BYTES_MAX as u64),
            4 => random(100_000),
            _ => random(700_000),
        };
        let content = Content { seed: random(u64::MAX >> 1), len };
        let before = model.borrow().get(&key).cloned().unwrap_or_default();
        assert!(before.attempt.is_none());
        let attempt = |after: Option<Content>| {
            model.borrow_mut().entry(key.clone()).or_default().attempt = Some(after);
        };
        let settle = |outcome: &Result<(), ObjectError>, after: Option<Content>| {
            let mut model = model.borrow_mut();
            let key = model.entry(key.clone()).or_default();
            match outcome {
                Ok(()) => {
                    key.acknowledged = after;
                    key.attempt = None;
                }
                Err(ObjectError::PreconditionFailed | ObjectError::NoSuchKey) => key.attempt = None,
                // Refused or unknown: both are possible until it is read.
                Err(_) => {}
            }
        };
        match random(10) {
            0..=4 => {
                attempt(Some(content));
                let outcome = put(&store, &key, content, WriteCondition::Always).await;
                settle(&outcome, Some(content));
            }
            5 => {
                attempt(Some(content));
                let outcome = put(&store, &key, content, WriteCondition::IfAbsent).await;
                match before.acknowledged {
                    Some(_) => assert!(outcome.is_err(), "{key} was there"),
                    None => assert_ne!(outcome, Err(ObjectError::PreconditionFailed), "{key} was not there"),
                }
                settle(&outcome, Some(content));
            }
            6 => {
                attempt(Some(content));
                let outcome = put_multipart(&store, &key, content).await;
                settle(&outcome, Some(content));
            }
            7 => {
                attempt(None);
                let outcome = store.delete(BUCKET, &key, WriteCondition::Always).await;
                settle(&outcome, None);
            }
            _ => check(&store, &key, &model).await,
        }
        let undecided = model.borrow().get(&key).is_some_and(|key| key.attempt.is_some());
        if undecided {
            check(&store, &key, &model).await;
        }
    }
}

/// Reads a key and compares; what a cut-short write left is decided now.
async fn check(store: &Store, key: &str, model: &Model) {
    let found = read(store, key).await.unwrap_or_else(|error| panic!("{key} cannot be read: {error}"));
    let mut model = model.borrow_mut();
    let expected = model.entry(key.to_owned()).or_default();
    let mut possible = vec![expected.acknowledged];
    possible.extend(expected.attempt.take());
    let is = |content: &Option<Content>| match (content, &found) {
        (None, None) => true,
        (Some(content), Some(found)) => content.seed == found.seed && content.bytes() == found.bytes,
        _ => false,
    };
    let Some(content) = possible.iter().copied().find(is) else {
        let found = found.map(|found| (found.seed, found.bytes.len()));
        panic!("{key} is {found:?}, expected one of {possible:?}");
    };
    expected.acknowledged = content;
}

async fn check_all(store: Store, model: Model) {
    let keys: Vec<String> = model.borrow().keys().cloned().collect();
    for key in &keys {
        check(&store, key, &model).await;
    }
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let request = ListRequest { after, max_keys: 3, ..ListRequest::default() };
        let page = store.list(BUCKET, request).await.unwrap();
        for entry in page.entries {
            match entry {
                ListEntry::Object(object) => listed.push((object.key, object.size)),
                ListEntry::Prefix(prefix) => panic!("{prefix} without a delimiter"),
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<(String, u64)> = model
        .borrow()
        .iter()
        .filter_map(|(key, state)| Some((key.clone(), state.acknowledged?.len)))
        .collect();
    assert_eq!(listed, expected);
}

fn crash_run(seed: u64, rounds: u64, clients: u64, operations: u64) {
    let simulation = Simulation::new(seed);
    let node = simulation.node("a");
    format(&simulation, &node);
    let model: Model = Rc::default();
    let mut random = simulation.rng();
    start(&node)
        .run(0, async |store| {
            store.create_bucket(BUCKET, "").await.unwrap();
        })
        .unwrap();
    node.crash();
    for round in 0..rounds {
        let cluster = start(&node);
        if round + 1 < rounds {
            node.crash_at_io(1 + random.next_u64() % 400);
        }
        let for_clients = model.clone();
        let work = cluster.run((seed % CORES as u64) as usize, async |store| {
            check_all(store.clone(), for_clients.clone()).await;
            let tasks = (0..clients).map(|number| {
                client(store.clone(), number, seed.wrapping_add(round), for_clients.clone(), operations)
            });
            futures::future::join_all(tasks).await;
            check_all(store, for_clients.clone()).await;
        });
        if work.is_ok() {
            node.cancel_crash();
            node.crash();
        }
    }
    let cluster = start(&node);
    let last = model.clone();
    cluster.run(1, async |store| check_all(store, last).await).unwrap();
}

#[test]
fn acknowledged_writes_survive_crashes_at_any_write_or_flush() {
    // test.sh takes a thousand.
    sweep(0..60, |seed| crash_run(seed, 4, 4, 12));
}

/// A node with objects of every size, stopped.
fn filled(seed: u64) -> (Simulation, SimNode, Model) {
    let simulation = Simulation::new(seed);
    let node = simulation.node("a");
    format(&simulation, &node);
    let model: Model = Rc::default();
    let for_clients = model.clone();
    start(&node)
        .run(0, async |store| {
            store.create_bucket(BUCKET, "").await.unwrap();
            let tasks = (0..3).map(|number| client(store.clone(), number, seed, for_clients.clone(), 12));
            futures::future::join_all(tasks).await;
            check_all(store, for_clients.clone()).await;
        })
        .unwrap();
    node.crash();
    (simulation, node, model)
}

/// Two of the four disks.
fn pair(seed: u64) -> [u8; 2] {
    let pairs = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
    pairs[(seed % 6) as usize]
}

#[test]
fn any_two_disks_may_be_removed_wiped_or_rot_while_stopped() {
    sweep(0..24, |seed| {
        let (simulation, node, model) = filled(seed);
        let mut random = simulation.rng();
        for disk in pair(seed) {
            let disk = node.disk(path(disk));
            match random.next_u64() % 3 {
                0 => disk.remove(),
                1 => disk.wipe(),
                _ => drop(disk.rot(40)),
            }
        }
        start(&node).run(0, async |store| check_all(store, model.clone()).await).unwrap();
    });
}

#[test]
fn any_two_disks_may_be_removed_wiped_or_rot_while_running() {
    sweep(0..24, |seed| {
        let (simulation, node, model) = filled(seed);
        let mut random = simulation.rng();
        let cluster = start(&node);
        cluster.run(0, async |store| check_all(store, model.clone()).await).unwrap();
        for disk in pair(seed) {
            let disk = node.disk(path(disk));
            match random.next_u64() % 3 {
                0 => disk.remove(),
                1 => disk.wipe(),
                _ => drop(disk.rot(40)),
            }
        }
        for core in [1, 0] {
            cluster.run(core, async |store| check_all(store, model.clone()).await).unwrap();
        }
    });
}

/// Second asks are limited, so a disk that is always late must be known for it.
#[test]
fn a_slow_disk_is_soon_asked_last() {
    sweep(0..4, |seed| {
        let (_simulation, node, _) = filled(seed);
        // More than the cache holds.
        let keys: Vec<String> = (0..8).map(|number| format!("in-chunks-{number}")).collect();
        start(&node)
            .run(0, async |store| {
                for key in &keys {
                    put(&store, key, Content { seed, len: 600_000 }, WriteCondition::Always).await.unwrap();
                }
                node.disk(path((seed % 4) as u8))
                    .faults(DiskFaults { slow_factor: 1000, ..DiskFaults::default() });
                let mut late = 0;
                for key in keys.iter().cycle().take(300) {
                    let begun = store.env().now();
                    assert!(read(&store, key).await.unwrap().is_some());
                    late += u32::from(store.env().now().since(begun) >= Duration::from_millis(20));
                    store.env().sleep(Duration::from_millis(50)).await;
                }
                assert!(late <= 30, "{late} of 300 reads waited for the slow disk");
            })
            .unwrap();
    });
}

/// A write waits for no slow disk once it is known: not as one of its chunks, and not as the leader of its partition.
#[test]
fn a_slow_disk_soon_holds_up_no_write() {
    sweep(0..4, |seed| {
        let (_simulation, node, _) = filled(seed);
        start(&node)
            .run(0, async |store| {
                node.disk(path((seed % 4) as u8))
                    .faults(DiskFaults { slow_factor: 1000, ..DiskFaults::default() });
                let mut late = 0;
                for number in 0..400_u64 {
                    let len = if number.is_multiple_of(2) { 100 } else { 100_000 };
                    let begun = store.env().now();
                    let key = format!("key-{}", number % 40);
                    put(&store, &key, Content { seed: number, len }, WriteCondition::Always).await.unwrap();
                    late += u32::from(store.env().now().since(begun) >= Duration::from_millis(50));
                    store.env().sleep(Duration::from_millis(20)).await;
                }
                assert!(late <= 60, "{late} of 400 writes waited for the slow disk");
            })
            .unwrap();
    });
}

#[test]
fn with_one_disk_gone_everything_goes_on_and_when_it_is_back_too() {
    sweep(0..24, |seed| {
        let (_simulation, node, model) = filled(seed);
        let disk = node.disk(path((seed % 4) as u8));
        let cluster = start(&node);
        cluster
            .run(0, async |store| {
                disk.remove();
                let tasks = (0..3).map(|number| client(store.clone(), number, seed + 1, model.clone(), 12));
                futures::future::join_all(tasks).await;
                check_all(store.clone(), model.clone()).await;
                disk.restore();
                store.env().sleep(Duration::from_secs(10)).await;
                check_all(store.clone(), model.clone()).await;
                let tasks = (0..3).map(|number| client(store.clone(), number, seed + 2, model.clone(), 12));
                futures::future::join_all(tasks).await;
            })
            .unwrap();
        node.crash();
        // Another disk goes now: what was written meanwhile must not have counted on it alone.
        node.disk(path(((seed + 1) % 4) as u8)).remove();
        start(&node).run(1, async |store| check_all(store, model.clone()).await).unwrap();
    });
}

#[test]
fn with_three_disks_gone_nothing_is_guessed_and_all_is_there_when_they_are_back() {
    sweep(0..12, |seed| {
        let (_simulation, node, model) = filled(seed);
        let cluster = start(&node);
        let gone =
            || (0..DISKS).filter(|disk| u64::from(*disk) != seed % 4).map(|disk| node.disk(path(disk)));
        cluster
            .run(0, async |store| {
                check_all(store.clone(), model.clone()).await;
                gone().for_each(|disk| disk.remove());
                store.env().sleep(Duration::from_secs(3)).await;
                let keys: Vec<String> = model.borrow().keys().cloned().collect();
                for key in &keys {
                    let found = read(&store, key).await;
                    assert!(
                        matches!(found, Err(ObjectError::Unavailable(_))),
                        "{key}: {:?}",
                        found.map(|f| f.map(|f| f.seed))
                    );
                }
                let content = Content { seed: 1, len: 100 };
                let refused = put(&store, &keys[0], content, WriteCondition::Always).await;
                assert!(matches!(refused, Err(ObjectError::Unavailable(_))), "{refused:?}");
                let listed = store.list(BUCKET, ListRequest { max_keys: 10, ..ListRequest::default() }).await;
                assert!(matches!(listed, Err(ObjectError::Unavailable(_))), "{listed:?}");
                gone().for_each(|disk| disk.restore());
                store.env().sleep(Duration::from_secs(10)).await;
                check_all(store, model.clone()).await;
            })
            .unwrap();
    });
}

/// One client writes keys that others ask for all the time, so that they are remembered at the moment they change: what
/// was acknowledged before a question was asked is in its answer, wherever the partition is led by then.
#[test]
fn what_is_remembered_of_a_key_is_never_older_than_its_last_write() {
    const KEYS: u64 = 3;
    const STEPS: u64 = 60;
    // After these steps the key is not there.
    let is_removal = |step: u64| step % 20 == 7;
    sweep(0..24, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        format(&simulation, &node);
        let disk = node.disk(path((seed % 4) as u8));
        let counted = start(&node).run((seed % CORES as u64) as usize, async |store| {
            store.create_bucket(BUCKET, "").await.unwrap();
            // Of each key: the last step that was acknowledged, and the last that was begun.
            let steps: Vec<Cell<(u64, u64)>> = (0..KEYS).map(|_| Cell::default()).collect();
            let over = Cell::new(false);
            let writer = async {
                for step in 1..=STEPS {
                    let (key, known) = (format!("k{}", step % KEYS), &steps[(step % KEYS) as usize]);
                    known.set((known.get().0, step));
                    let written = match is_removal(step) {
                        true => store.delete(BUCKET, &key, WriteCondition::Always).await,
                        false => {
                            // Memtables are flushed all the time, so that rows are read from tables, too.
                            let len = if step.is_multiple_of(5) { 20_000 } else { 7000 + step };
                            put(&store, &key, Content { seed: step, len }, WriteCondition::Always).await
                        }
                    };
                    if written.is_ok() {
                        known.set((step, step));
                    }
                    match step {
                        20 => disk.remove(),
                        40 => disk.restore(),
                        _ => {}
                    }
                    store.env().sleep(Duration::from_millis(step % 4 * 10)).await;
                }
                over.set(true);
            };
            let reader = async |first: u64| {
                for at in first.. {
                    let number = at % KEYS;
                    if over.get() {
                        return;
                    }
                    let (acknowledged, _) = steps[number as usize].get();
                    let found = version(&store, &format!("k{number}")).await;
                    let (_, begun) = steps[number as usize].get();
                    let Ok(found) = found else { continue };
                    let mut possible =
                        (acknowledged..=begun).filter(|step| step % KEYS == number || *step == 0);
                    let is = |step| found == Some(step) || found.is_none() && (is_removal(step) || step == 0);
                    assert!(possible.any(is), "k{number}: {found:?}, of {acknowledged} to {begun}");
                    store.env().sleep(Duration::from_micros(200 * (at % 20))).await;
                }
            };
            futures::join!(writer, reader(0), reader(1), reader(2));
            store.status().await.unwrap().own.counters
        });
        let counted = counted.unwrap();
        let (hits, misses) = (counted.location_hits, counted.location_misses);
        assert!(hits > 100 && misses > STEPS / 2, "{hits} hits and {misses} misses");
    });
}

/// Removals that are given up by their clients at any moment, tried again beside each other, and cut short by crashes.
#[test]
fn a_bucket_is_removed_with_nothing_in_it_or_stays_open() {
    const BUCKETS: u64 = 4;
    const KEYS: u64 = 12;
    let small = |seed| Content { seed, len: 100 };
    sweep_and(0..12, &[30], |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        format(&simulation, &node);
        let mut random = simulation.rng();
        // Keys that were acknowledged, by bucket; buckets whose removal was.
        let acked: Rc<RefCell<Vec<(String, String)>>> = Rc::default();
        let removed: Rc<RefCell<Vec<String>>> = Rc::default();
        let names: Vec<String> = (0..BUCKETS).map(|number| format!("bucket-{number}")).collect();
        let cluster = start(&node);
        cluster
            .run(0, async |store| {
                for name in &names {
                    store.create_bucket(name, "").await.unwrap();
                }
            })
            .unwrap();
        if random.one_in(2) {
            node.crash_at_io(1 + random.next_u64() % 200);
        }
        let ended = cluster.run(1, async |store| {
            let mut tasks: Vec<futures::future::LocalBoxFuture<'_, ()>> = Vec::new();
            for name in &names {
                let (begins, count) = (random.next_u64() % 20_000, random.next_u64() % 3);
                for number in 0..count {
                    let (store, acked) = (&store, acked.clone());
                    tasks.push(Box::pin(async move {
                        store.env().sleep(Duration::from_micros(begins + number * 3000)).await;
                        let key = format!("key-{number}");
                        if put_into(store, name, &key, small(number), WriteCondition::Always).await.is_ok() {
                            acked.borrow_mut().push((name.clone(), key));
                        }
                    }));
                }
                for _ in 0..2 {
                    let (begins, patience) = (random.next_u64() % 20_000, random.next_u64() % 20_000);
                    let (store, removed) = (&store, removed.clone());
                    tasks.push(Box::pin(async move {
                        store.env().sleep(Duration::from_micros(begins)).await;
                        let removal = store.delete_bucket(name);
                        let removal = store.env().timeout(Duration::from_micros(patience), removal).await;
                        if matches!(removal, Some(Ok(()))) {
                            removed.borrow_mut().push(name.clone());
                        }
                    }));
                }
            }
            futures::future::join_all(tasks).await;
        });
        let cluster = if ended.is_ok() {
            node.cancel_crash();
            cluster
        } else {
            start(&node)
        };
        cluster
            .run(0, async |store| {
                for name in &names {
                    let kept: Vec<String> = {
                        let acked = acked.borrow();
                        acked.iter().filter(|(of, _)| of == name).map(|(_, key)| key.clone()).collect()
                    };
                    // One that got stuck is open again after a while.
                    let mut is_there = false;
                    for _ in 0..150 {
                        is_there = store.bucket(name).is_ok();
                        if is_there {
                            break;
                        }
                        store.env().sleep(Duration::from_secs(1)).await;
                    }
                    assert!(!is_there || !removed.borrow().contains(name), "{name} is back");
                    assert!(is_there || kept.is_empty(), "{name} is gone, and {kept:?} with it");
                    if !is_there {
                        continue;
                    }
                    for number in 0..KEYS {
                        let key = format!("after-{number}");
                        put_into(&store, name, &key, small(number), WriteCondition::Always).await.unwrap();
                        store.delete(name, &key, WriteCondition::Always).await.unwrap();
                    }
                    for key in &kept {
                        store.delete(name, key, WriteCondition::Always).await.unwrap();
                    }
                }
            })
            .unwrap();
    });
}

/// A client goes away when its write is proposed and not yet applied: the next decision about the key must know of it.
#[test]
fn a_write_whose_client_has_gone_is_not_decided_over() {
    sweep(0..6, |seed| {
        let (_simulation, node, _) = filled(seed);
        start(&node)
            .run((seed % CORES as u64) as usize, async |store| {
                let small = |seed| Content { seed, len: 100 };
                let mut random = node.env(0).random_id()[0];
                for number in 0..40u64 {
                    let key = format!("given-up-{number}");
                    let [first, gone, second] = [1, 2, 3].map(|version| 10 * number + version);
                    put(&store, &key, small(first), WriteCondition::Always).await.unwrap();
                    let etag = store.head(BUCKET, &key).await.unwrap().etag;
                    let found_first = || WriteCondition::IfMatch(etag.clone());
                    let (seen, is_over) = (RefCell::new(Vec::new()), RefCell::new(false));
                    let reader = async {
                        while !*is_over.borrow() {
                            let found = read(&store, &key).await.unwrap();
                            seen.borrow_mut().extend(found.map(|found| found.seed));
                            store.env().sleep(Duration::from_micros(20)).await;
                        }
                    };
                    random = random.wrapping_mul(77).wrapping_add(13);
                    let patience = Duration::from_micros(4 * u64::from(random));
                    let writer = async {
                        let put_gone = put(&store, &key, small(gone), found_first());
                        let given_up = store.env().timeout(patience, put_gone).await.is_none();
                        let outcome = put(&store, &key, small(second), found_first()).await;
                        *is_over.borrow_mut() = true;
                        (given_up, outcome)
                    };
                    let ((), (given_up, outcome)) = futures::join!(reader, writer);
                    let both = outcome.is_ok() && seen.borrow().contains(&gone);
                    assert!(!both, "{key}: both writes found the first version");
                    assert!(given_up || outcome.is_err(), "{key}: a write was acknowledged and not seen");
                }
            })
            .unwrap();
    });
}
