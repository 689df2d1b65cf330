//! Damage of any file: wrong bytes are never returned, nothing panics, and what is not damaged goes on.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod rig;

use buckets_disk::{ChunkId, ChunkReadError, Disk, DiskOpenError, HardState, LogEntry};
use buckets_env::Env;
use buckets_env::sim::{DiskFaults, SimNode, SimRng, sweep_and};
use buckets_index::{Position, WriteBatch};
use buckets_ring::id::GroupId;
use rig::{Content, chunk, entry, holds, open, write};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const GROUPS: u32 = 3;

/// What was acknowledged.
#[derive(Default)]
struct Model {
    logs: BTreeMap<u32, (Vec<LogEntry>, HardState)>,
    /// Appended last, perhaps not acknowledged: what a fence interrupts may be there or not.
    attempted: BTreeMap<u32, (Vec<LogEntry>, HardState)>,
    applied: BTreeMap<u32, u64>,
    /// Every content that a chunk ever had.
    chunks: BTreeMap<ChunkId, Content>,
    deleted: Vec<ChunkId>,
}

type Shared = Rc<RefCell<Model>>;

/// Fills a disk until segments of the log were used again and indexes were flushed. Stops where the disk is fenced.
async fn fill(env: &Env, disk: &Disk, model: &Shared, rng: &mut SimRng, rounds: u64) -> Option<()> {
    for _ in 0..rounds {
        let group = rng.below(u64::from(GROUPS)) as u32;
        let replica = disk.replica(GroupId(group)).await.ok()?;
        let next = replica.last_index() + 1;
        let entries: Vec<LogEntry> =
            (next..next + 1 + rng.below(3)).map(|index| entry(index, 1, rng.below(3000) as usize)).collect();
        let hard_state = HardState { term: 1, vote: rng.below(5), commit: next - 1 };
        let lsn = replica.append(&entries, Some(hard_state), None).ok()?;
        model.borrow_mut().attempted.insert(group, (entries.clone(), hard_state));
        disk.wal().durable(lsn).await.ok()?;
        let last = {
            let mut model = model.borrow_mut();
            let log = model.logs.entry(group).or_default();
            log.0.extend(entries);
            log.1 = hard_state;
            let last = log.0.len() as u64;
            model.attempted.remove(&group);
            last
        };
        let applied = model.borrow().applied.get(&group).copied().unwrap_or(0);
        for index in applied + 1..=last {
            let data = model.borrow().logs[&group].0[index as usize - 1].data.clone();
            let mut batch = WriteBatch::new();
            batch.put((index % 20).to_be_bytes().to_vec(), data);
            replica.index().apply(batch, Position { index, term: 1 });
        }
        model.borrow_mut().applied.insert(group, last);
        let object = model.borrow().chunks.len() as u64;
        let content = Content {
            seed: rng.next_u64() >> 24,
            blocks: 1 + rng.below(4) as u32,
            block_bytes: 4000 + rng.below(9000) as u32,
            last_block_bytes: 4000,
        };
        let content = Content {
            last_block_bytes: if content.blocks == 1 { content.block_bytes } else { 4000 },
            ..content
        };
        model.borrow_mut().chunks.insert(chunk(object, 0), content);
        write(disk, chunk(object, 0), &content, b"owner").await.ok()?;
        if rng.one_in(4) {
            let victim = chunk(rng.below(object + 1), 0);
            disk.chunks().delete(victim).await.ok()?;
            model.borrow_mut().deleted.push(victim);
        }
        if rng.one_in(10) {
            env.sleep(Duration::from_millis(60)).await;
        }
    }
    Some(())
}

/// Every answer is right or an error. Returns how many chunks read well.
async fn check(disk: &Disk, model: &Shared) -> usize {
    let chunks = model.borrow().chunks.clone();
    let mut good = 0;
    for (id, content) in &chunks {
        for block in 0..content.blocks {
            match disk.chunks().read(*id, block, 1).await {
                Ok(blocks) => {
                    assert!(blocks[0].data() == content.block(block), "wrong bytes of {id:?} block {block}");
                    good += 1;
                }
                Err(
                    ChunkReadError::Missing
                    | ChunkReadError::Corrupt { .. }
                    | ChunkReadError::TableDamaged { .. }
                    | ChunkReadError::Io { .. },
                ) => {}
            }
        }
    }
    let (logs, attempted) = {
        let model = model.borrow();
        (model.logs.clone(), model.attempted.clone())
    };
    for (group, (mut acked, mut hard_state)) in logs {
        let Some(replica) = disk.existing_replica(GroupId(group)) else {
            panic!("group {group} is forgotten")
        };
        if replica.damaged() {
            continue;
        }
        let (first, last) = (replica.first_index(), replica.last_index());
        if last > acked.len() as u64
            && let Some((entries, state)) = attempted.get(&group)
        {
            acked.extend(entries.iter().cloned());
            hard_state = *state;
        }
        assert_eq!(last, acked.len() as u64, "group {group} has lost entries without being damaged");
        assert!(replica.entries(first..last + 1, usize::MAX)[..] == acked[first as usize - 1..]);
        let found = replica.hard_state();
        assert_eq!((found.term, found.vote), (hard_state.term, hard_state.vote), "group {group}");
        let flushed = replica.index().flushed().index;
        for key in 0..20u64 {
            let expected = (1..=flushed).rev().find(|index| index % 20 == key);
            let expected = expected.map(|index| acked[index as usize - 1].data.clone());
            match replica.index().get(&key.to_be_bytes()).await {
                Ok(value) => assert!(value == expected, "wrong value of key {key} in group {group}"),
                Err(error) => assert!(matches!(
                    error,
                    buckets_index::IndexError::Corrupt { .. } | buckets_index::IndexError::Io { .. }
                )),
            }
        }
    }
    good
}

/// Only an unreadable identity keeps a disk from being opened, or a device that refuses to be read.
fn is_identity(error: &DiskOpenError) -> bool {
    matches!(
        error,
        DiskOpenError::FormatDamaged { .. }
            | DiskOpenError::SuperblockDamaged { .. }
            | DiskOpenError::NotFormatted { .. }
            | DiskOpenError::Io { .. }
    )
}

/// Opens a damaged disk, checks it, goes on writing, and checks again, also after another start.
fn check_and_go_on(node: &SimNode, model: &Shared) {
    for start in 0..3 {
        let model = model.clone();
        let opened = node
            .run(0, |env| async move {
                let disk = match Disk::open(&env, rig::path(), rig::options()).await {
                    Ok(opened) => opened.disk,
                    Err(error) => {
                        assert!(is_identity(&error), "{error}");
                        return false;
                    }
                };
                let good = check(&disk, &model).await;
                for object in 0..8 {
                    let content =
                        Content { seed: 1000 + object, blocks: 3, block_bytes: 9000, last_block_bytes: 1 };
                    let id = chunk(1_000_000 + start * 100 + object, 1);
                    if write(&disk, id, &content, b"").await.is_err() {
                        break;
                    }
                    assert!(holds(&disk, id, &content).await);
                }
                assert!(check(&disk, &model).await >= good, "new chunks have overwritten old ones");
                let _ = disk.chunks().audit().await;
                let mut scrub = disk.chunks().scrub();
                let mut errors = 0;
                loop {
                    match scrub.next().await {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => errors += 1,
                    }
                    assert!(errors < 2000, "the scrubber does not get past damage");
                }
                if start == 1 {
                    let _ = disk.close().await;
                }
                true
            })
            .unwrap();
        node.crash();
        if !opened {
            return;
        }
    }
}

#[test]
fn rot_anywhere_gives_errors_but_never_wrong_answers() {
    sweep_and(0..50, &[224], |seed| {
        let (simulation, node) = rig::formatted(seed);
        let model: Shared = Rc::default();
        let mut rng = simulation.rng();
        let (shared, mut fork) = (model.clone(), rng.fork());
        let close = rng.one_in(2);
        node.run(0, |env| async move {
            let disk = open(&env).await.disk;
            fill(&env, &disk, &shared, &mut fork, 60).await.unwrap();
            // The last batch is sealed: from here on nothing looks like a torn write.
            env.sleep(Duration::from_millis(100)).await;
            if close {
                disk.close().await.unwrap();
            }
        })
        .unwrap();
        node.crash();
        let sim_disk = node.disk(rig::PATH);
        match rng.below(4) {
            0..2 => {
                sim_disk.rot(1 + rng.below(6) as usize);
            }
            2 => {
                // A page of a file of the log or of an index, not of the mass of chunk data.
                let files = node.files(rig::PATH);
                let files: Vec<_> =
                    files.into_iter().filter(|file| !file.starts_with("/disk/.buckets.sys/space")).collect();
                let file = rng.pick(&files).clone();
                let len = node.peek_file(&file).unwrap().len() as u64;
                let offset = rng.below(len.max(1));
                if rng.one_in(2) {
                    sim_disk.flip_byte(&file, offset, 1 << rng.below(8));
                } else {
                    sim_disk.make_unreadable(&file, offset / 4096 * 4096);
                }
            }
            _ => {
                let files = node.files(rig::PATH);
                let file = rng.pick(&files).clone();
                node.run(0, |env| async move { env.remove_file(&file).await.unwrap() }).unwrap();
            }
        }
        check_and_go_on(&node, &model);
    });
}

#[test]
fn lost_misdirected_and_rotten_writes_give_errors_but_never_wrong_answers() {
    sweep_and(0..50, &[307], |seed| {
        let (simulation, node) = rig::formatted(seed);
        let model: Shared = Rc::default();
        let mut rng = simulation.rng();
        let (shared, mut fork) = (model.clone(), rng.fork());
        let sim_disk = node.disk(rig::PATH);
        let kind = rng.below(3);
        let faults = DiskFaults {
            lost_write_per_million: if kind == 0 { 5000 } else { 0 },
            misdirected_write_per_million: if kind == 1 { 5000 } else { 0 },
            bit_rot_per_million: if kind == 2 { 20_000 } else { 0 },
            read_error_per_million: if rng.one_in(3) { 2000 } else { 0 },
            ..DiskFaults::default()
        };
        let faulty = sim_disk.clone();
        node.run(0, |env| async move {
            let disk = open(&env).await.disk;
            faulty.faults(faults);
            let _ = fill(&env, &disk, &shared, &mut fork, 60).await;
            faulty.heal();
            env.sleep(Duration::from_millis(100)).await;
        })
        .unwrap();
        node.crash();
        check_and_go_on(&node, &model);
    });
}

#[test]
fn every_flipped_bit_of_a_block_or_its_padding_is_found_by_reads_and_by_the_scrubber() {
    let (_simulation, node) = rig::formatted(1);
    let content = Content { seed: 3, blocks: 5, block_bytes: 6000, last_block_bytes: 123 };
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        for object in 0..3 {
            write(&disk, chunk(object, 0), &Content { seed: object, ..content }, b"").await.unwrap();
        }
        disk.close().await.unwrap();
    })
    .unwrap();
    let file = std::path::Path::new("/disk/.buckets.sys/space/00000000.space");
    let space = node.peek_file(file).unwrap();
    let place = |object: u64, block: u32| {
        let data = Content { seed: object, ..content }.block(block);
        space.windows(data.len()).position(|window| window == data).unwrap() as u64
    };
    // A byte of the data, and one of the padding behind it.
    for (block, offset) in [(0, 0), (1, 5999), (2, 6000), (4, 4095), (4, 122)] {
        let at = place(1, block) + offset;
        assert!(node.disk(rig::PATH).flip_byte(file, at, 0x20));
        node.run(0, |env| async move {
            let disk = open(&env).await.disk;
            for object in [0, 2] {
                assert!(holds(&disk, chunk(object, 0), &Content { seed: object, ..content }).await);
            }
            let whole = disk.chunks().read(chunk(1, 0), 0, 5).await;
            assert_eq!(whole.unwrap_err(), ChunkReadError::Corrupt { block });
            for other in (0..5).filter(|other| *other != block) {
                assert!(disk.chunks().read(chunk(1, 0), other, 1).await.is_ok());
            }
            let mut scrub = disk.chunks().scrub();
            let (mut blocks, mut corrupt) = (0, Vec::new());
            while let Some(step) = scrub.next().await.unwrap() {
                blocks += step.blocks;
                corrupt.extend(step.corrupt.into_iter().map(|number| (step.chunk, number)));
            }
            assert_eq!((blocks, corrupt), (15, vec![(chunk(1, 0), block)]));
            assert!(disk.counters().blocks_corrupt >= 2);
            disk.close().await.unwrap();
        })
        .unwrap();
        assert!(node.disk(rig::PATH).flip_byte(file, at, 0x20));
    }
}
