//! Crashes at any disk operation, with replicas and chunks at work side by side.
//!
//! What must hold after each: what was acknowledged is there byte for byte; what was not is there whole or not at all;
//! the free map is exactly what the chunk table uses.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod rig;

use buckets_disk::{ChunkId, ChunkReadError, Disk, DiskOptions, HardState, LogEntry, ReplicaStore};
use buckets_env::Env;
use buckets_env::sim::{SimNode, SimRng, Simulation, sweep};
use buckets_index::{Position, WriteBatch};
use buckets_ring::id::GroupId;
use bytes::Bytes;
use rig::{Content, chunk, entry, holds};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const GROUPS: u32 = 3;
const CHUNK_WRITERS: u64 = 4;
const OBJECTS: u64 = 24;

/// What one replica must hold.
#[derive(Default, Clone)]
struct ReplicaModel {
    acked: BTreeMap<u64, LogEntry>,
    acked_hard: HardState,
    /// An append that was not acknowledged.
    maybe: Vec<LogEntry>,
    maybe_hard: Option<HardState>,
    created: bool,
    /// Applied to the index: never ahead of what was acknowledged.
    applied: u64,
}

/// What chunks may be: several where an operation was not acknowledged, or is durable only later.
#[derive(Default)]
struct Model {
    replicas: BTreeMap<u32, ReplicaModel>,
    chunks: BTreeMap<ChunkId, Vec<Option<Content>>>,
    /// Chunks, by what they hold, that nobody has confirmed.
    unconfirmed: BTreeSet<(ChunkId, u64)>,
    acknowledged: u64,
}

type Shared = Rc<RefCell<Model>>;

#[test]
fn acknowledged_survives_and_unacknowledged_is_whole_or_absent() {
    sweep(0..220, |seed| {
        // Small segments: every tenth write or so starts the next one.
        let options = DiskOptions {
            wal_segment_bytes: if seed % 2 == 0 { 256 << 10 } else { 64 << 10 },
            ..rig::options()
        };
        let (simulation, node) = rig::formatted_with(Simulation::new(seed), &options);
        let model: Shared = Rc::default();
        let mut rng = simulation.rng();
        for round in 0..5 {
            // The crash may come while the disk is being opened.
            node.crash_at_io(1 + rng.below(if round % 2 == 0 { 60 } else { 700 }));
            let work = work_until_crash(&node, &model, rng.fork());
            assert_eq!(work, None, "the work ends only with the crash");
            node.cancel_crash();
            check(&node, &model);
        }
        assert!(model.borrow().acknowledged > 0 || seed != 0);
    });
}

/// Opens the disk and works on it. `None`: the node crashed.
fn work_until_crash(node: &SimNode, model: &Shared, mut rng: SimRng) -> Option<()> {
    let model = model.clone();
    node.run(0, |env| async move {
        let disk = rig::open(&env).await.disk;
        for group in 0..GROUPS {
            env.spawn(append_for_ever(env.clone(), disk.clone(), GroupId(group), model.clone(), rng.fork()));
        }
        for writer in 0..CHUNK_WRITERS {
            env.spawn(write_for_ever(env.clone(), disk.clone(), writer, model.clone(), rng.fork()));
        }
        env.sleep(Duration::from_secs(3600)).await;
    })
    .ok()
}

async fn append_for_ever(env: Env, disk: Disk, group: GroupId, model: Shared, mut rng: SimRng) {
    let replica = disk.replica(group).await.unwrap();
    with(&model, group, |m| m.created = true);
    let mut term = replica.hard_state().term.max(1);
    let (log, applied) = with(&model, group, |m| (m.acked.clone(), m.applied));
    apply_again(&replica, &log, applied);
    loop {
        let (last, applied) = with(&model, group, |m| (last_of(&m.acked), m.applied));
        // Sometimes a new leader replaces what was not applied.
        let mut first = last + 1;
        if rng.one_in(5) && last > applied {
            first = applied + 1 + rng.below(last - applied);
            term += 1;
        }
        let count = rng.below(5);
        let entries: Vec<LogEntry> =
            (first..first + count).map(|index| entry(index, term, rng.below(6000) as usize)).collect();
        let hard = HardState { term, vote: rng.below(4), commit: applied };
        let hard = rng.one_in(2).then_some(hard);
        with(&model, group, |m| {
            m.maybe = entries.clone();
            m.maybe_hard = hard;
        });
        let lsn = replica.append(&entries, hard, None).unwrap();
        disk.wal().durable(lsn).await.unwrap();
        with(&model, group, |m| {
            m.acknowledge();
            m.maybe_hard = None;
        });
        model.borrow_mut().acknowledged += 1;
        if rng.one_in(2) {
            apply_some(&replica, &model, group, &mut rng);
        }
        if rng.one_in(20) {
            env.sleep(Duration::from_millis(rng.below(60))).await;
        }
    }
}

fn apply_some(replica: &ReplicaStore, model: &Shared, group: GroupId, rng: &mut SimRng) {
    let (last, applied) = with(model, group, |m| (last_of(&m.acked), m.applied));
    let to = applied + rng.below(last - applied + 1);
    for index in applied + 1..=to {
        let entry = with(model, group, |m| m.acked[&index].clone());
        let mut batch = WriteBatch::new();
        batch.put((index % 50).to_be_bytes().to_vec(), entry.data.clone());
        replica.index().apply(batch, Position { index, term: entry.term });
    }
    with(model, group, |m| m.applied = to);
}

impl ReplicaModel {
    fn acknowledge(&mut self) {
        let Some(first) = self.maybe.first().map(|entry| entry.index) else { return self.take_hard() };
        self.acked.split_off(&first);
        self.acked.extend(std::mem::take(&mut self.maybe).into_iter().map(|entry| (entry.index, entry)));
        self.take_hard();
    }

    fn take_hard(&mut self) {
        if let Some(hard) = self.maybe_hard {
            self.acked_hard = hard;
        }
    }
}

fn last_of(log: &BTreeMap<u64, LogEntry>) -> u64 {
    log.last_key_value().map_or(0, |(index, _)| *index)
}

fn with<T>(model: &Shared, group: GroupId, f: impl FnOnce(&mut ReplicaModel) -> T) -> T {
    f(model.borrow_mut().replicas.entry(group.0).or_default())
}

async fn write_for_ever(env: Env, disk: Disk, writer: u64, model: Shared, mut rng: SimRng) {
    let chunks = disk.chunks().clone();
    loop {
        // Each writer has its own objects: what happens to one chunk is known to one task.
        let id = chunk(rng.below(OBJECTS / CHUNK_WRITERS) * CHUNK_WRITERS + writer, 0);
        match rng.below(10) {
            0..5 => {
                let content = random_content(&mut rng);
                let before = possible(&model, id);
                // Nothing shows before it is finished.
                set(&model, id, [before.clone(), vec![Some(content)]].concat());
                model.borrow_mut().unconfirmed.insert((id, content.seed));
                match rig::write(&disk, id, &content, b"owner").await {
                    Ok(()) => set(&model, id, vec![Some(content)]),
                    Err(error) => panic!("{error}"),
                }
                model.borrow_mut().acknowledged += 1;
            }
            5 => {
                let content = Content { blocks: 1, ..random_content(&mut rng) };
                let content = Content { last_block_bytes: content.block_bytes, ..content };
                let data = content.block(0);
                let before = possible(&model, id);
                set(&model, id, [before, vec![Some(content)]].concat());
                model.borrow_mut().unconfirmed.insert((id, content.seed));
                let len = data.len() as u32;
                chunks.write_small(id, rig::padded(&data), len, Bytes::from_static(b"owner")).await.unwrap();
                set(&model, id, vec![Some(content)]);
            }
            6 => {
                let before = possible(&model, id);
                set(&model, id, [before, vec![None]].concat());
                chunks.delete(id).await.unwrap();
                assert_eq!(chunks.read(id, 0, 1).await.unwrap_err(), ChunkReadError::Missing);
            }
            7 => {
                let content = random_content(&mut rng);
                let data = content.block(0);
                chunks.append(id, 0, rig::padded(&data), data.len() as u32).await.unwrap();
                chunks.abort(id);
            }
            8 => {
                if let [Some(content)] = possible(&model, id)[..] {
                    model.borrow_mut().unconfirmed.remove(&(id, content.seed));
                    chunks.confirm(id).unwrap();
                }
            }
            _ => {
                if let [Some(content)] = possible(&model, id)[..] {
                    assert!(holds(&disk, id, &content).await);
                }
                env.sleep(Duration::from_micros(rng.below(2000))).await;
            }
        }
    }
}

fn random_content(rng: &mut SimRng) -> Content {
    let block_bytes = 1 + rng.below(11_000) as u32;
    // Now and then more blocks than one row of the table holds.
    let blocks = if rng.one_in(20) { 70 } else { 1 + rng.below(6) as u32 };
    let last_block_bytes =
        if blocks == 1 { block_bytes } else { 1 + rng.below(u64::from(block_bytes)) as u32 };
    Content { seed: rng.next_u64() >> 24, blocks, block_bytes, last_block_bytes }
}

fn possible(model: &Shared, id: ChunkId) -> Vec<Option<Content>> {
    model.borrow().chunks.get(&id).cloned().unwrap_or_else(|| vec![None])
}

fn set(model: &Shared, id: ChunkId, now: Vec<Option<Content>>) {
    model.borrow_mut().chunks.insert(id, now);
}

/// Opens the disk after a crash and compares all of it with the model, which then knows what is there.
fn check(node: &SimNode, model: &Shared) {
    let model = model.clone();
    node.run(0, |env| async move {
        let opened = rig::open(&env).await;
        let disk = opened.disk;
        assert_eq!(opened.report.damaged_replicas, [], "a crash is no damage");
        let counters = opened.report.counters;
        assert_eq!((counters.wal_damages, counters.chunk_chain_breaks), (0, 0), "a crash is no damage");
        assert_eq!((counters.free_map_rebuilds, counters.chunks_overlapped), (0, 0), "the free map is exact");
        check_chunks(&disk, &model).await;
        let groups: Vec<u32> = model.borrow().replicas.keys().copied().collect();
        for group in groups {
            check_replica(&disk, GroupId(group), &model).await;
        }
        // Some of the checks end with an orderly close, the others with the next crash.
        if env.random_u64().is_multiple_of(2) {
            disk.close().await.unwrap();
        }
    })
    .unwrap();
    node.crash();
}

async fn check_chunks(disk: &Disk, model: &Shared) {
    let audit = disk.chunks().audit().await.unwrap();
    assert_eq!((audit.overlapping_units, audit.unprotected_units), (0, 0));
    assert_eq!(audit.claimed_units, audit.used_units, "units leak");
    let pending: BTreeSet<ChunkId> = disk.chunks().pending().into_iter().map(|p| p.chunk).collect();
    let known = model.borrow().chunks.clone();
    for (id, possible) in &known {
        let mut found = None;
        for state in possible {
            let matches = match state {
                Some(content) => holds(disk, *id, content).await,
                None => disk.chunks().shape(*id).await == Ok(None),
            };
            if matches {
                found = Some(*state);
            }
        }
        let shape = disk.chunks().shape(*id).await;
        let Some(state) = found else { panic!("{id:?} is {shape:?}, possible {possible:?}") };
        if state.is_some_and(|content| model.borrow().unconfirmed.contains(&(*id, content.seed))) {
            assert!(pending.contains(id), "{id:?} is not pending though nobody confirmed it");
        }
        set(model, *id, vec![state]);
    }
    let list = disk.chunks().list(None, usize::MAX).await.unwrap();
    let there = |state: &Vec<Option<Content>>| state[0].is_some();
    let expected: BTreeSet<ChunkId> =
        model.borrow().chunks.iter().filter(|(_, state)| there(state)).map(|(id, _)| *id).collect();
    assert_eq!(list.into_iter().collect::<BTreeSet<_>>(), expected);
    assert!(pending.is_subset(&expected), "pending chunks that are not there");
}

async fn check_replica(disk: &Disk, group: GroupId, model: &Shared) {
    let before = with(model, group, |m| m.clone());
    let Some(replica) = disk.existing_replica(group) else {
        assert!(!before.created, "{group:?} is gone");
        return;
    };
    let (truncated, last) = (replica.truncated().0, replica.last_index());
    let log: BTreeMap<u64, LogEntry> = replica
        .entries(truncated + 1..last + 1, usize::MAX)
        .into_iter()
        .map(|entry| (entry.index, entry))
        .collect();
    assert_eq!(log.len() as u64, last - truncated);
    // Either the acknowledged log, or that with (a part of) the append that was not acknowledged.
    let tail = |log: &BTreeMap<u64, LogEntry>| -> Vec<LogEntry> {
        log.range(truncated + 1..).map(|(_, entry)| entry.clone()).collect()
    };
    let mut candidates = vec![before.acked.clone()];
    for count in 1..=before.maybe.len() {
        let mut with_maybe = before.acked.clone();
        with_maybe.split_off(&before.maybe[0].index);
        with_maybe.extend(before.maybe[..count].iter().map(|entry| (entry.index, entry.clone())));
        candidates.push(with_maybe);
    }
    let found = candidates.into_iter().find(|candidate| tail(candidate) == tail(&log));
    let Some(found) = found else {
        panic!("{group:?}: log {:?}, acknowledged {:?}", indexes(&log), indexes(&before.acked))
    };
    let hard = replica.hard_state();
    let same = |expected: HardState| (expected.term, expected.vote) == (hard.term, hard.vote);
    assert!(
        same(before.acked_hard) || before.maybe_hard.is_some_and(same) || hard.term >= before.acked_hard.term,
        "{hard:?} {:?} {:?}",
        before.acked_hard,
        before.maybe_hard
    );
    assert!(hard.commit <= last);
    let flushed = replica.index().flushed().index;
    assert!(truncated <= flushed && flushed <= before.applied);
    check_index(&replica, &found, flushed).await;
    apply_again(&replica, &found, before.applied);
    check_index(&replica, &found, before.applied).await;
    with(model, group, |m| {
        *m = ReplicaModel {
            acked: found,
            acked_hard: hard,
            created: true,
            applied: before.applied,
            ..ReplicaModel::default()
        }
    });
}

/// The owner applies again what the index had not flushed.
fn apply_again(replica: &ReplicaStore, log: &BTreeMap<u64, LogEntry>, applied: u64) {
    for index in replica.index().flushed().index + 1..=applied {
        let entry = &log[&index];
        let mut batch = WriteBatch::new();
        batch.put((index % 50).to_be_bytes().to_vec(), entry.data.clone());
        replica.index().apply(batch, Position { index, term: entry.term });
    }
}

async fn check_index(replica: &ReplicaStore, log: &BTreeMap<u64, LogEntry>, applied: u64) {
    for key in 0..50u64 {
        let expected =
            (1..=applied).rev().find(|index| index % 50 == key).map(|index| log[&index].data.clone());
        let found = replica.index().get(&key.to_be_bytes()).await.unwrap();
        assert!(found == expected, "key {key} is not as applied up to {applied}");
    }
}

fn indexes(log: &BTreeMap<u64, LogEntry>) -> Vec<(u64, u64)> {
    log.values().map(|entry| (entry.index, entry.term)).collect()
}
