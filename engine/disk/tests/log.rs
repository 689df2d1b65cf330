//! The write-ahead log: group commit, segments used again, damage told apart from a torn tail, the fence.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod rig;

use buckets_disk::{ChunkWriteError, Disk, DiskError, DiskState, HardState, ReplicaStore};
use buckets_env::sim::{Fault, SimNode, sweep};
use buckets_index::{Position, WriteBatch};
use buckets_ring::id::GroupId;
use bytes::Bytes;
use rig::{Content, chunk, entry, holds, open, write};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

const CONTENT: Content = Content { seed: 5, blocks: 3, block_bytes: 5000, last_block_bytes: 77 };

async fn append(disk: &Disk, replica: &ReplicaStore, from: u64, to: u64, len: usize) {
    for index in from..to {
        let lsn = replica.append(&[entry(index, 1, len)], None, None).unwrap();
        disk.wal().durable(lsn).await.unwrap();
    }
}

fn apply(replica: &ReplicaStore, from: u64, to: u64) {
    for index in from..to {
        let mut batch = WriteBatch::new();
        batch
            .put(index.to_be_bytes().to_vec(), replica.entries(index..index + 1, usize::MAX)[0].data.clone());
        replica.index().apply(batch, Position { index, term: 1 });
    }
}

#[test]
fn everything_that_waits_is_committed_by_one_write() {
    let (_simulation, node) = rig::formatted(1);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let mut replicas = Vec::new();
        for group in 0..8 {
            replicas.push(disk.replica(GroupId(group)).await.unwrap());
        }
        let before = disk.counters();
        let done = Rc::new(Cell::new(0));
        for client in 0..64u64 {
            let (disk, replica, done) = (disk.clone(), replicas[client as usize % 8].clone(), done.clone());
            env.spawn(async move {
                for _ in 0..10 {
                    let index = replica.last_index() + 1;
                    let lsn = replica.append(&[entry(index, 1, 300)], None, None).unwrap();
                    disk.wal().durable(lsn).await.unwrap();
                }
                done.set(done.get() + 1);
            });
        }
        while done.get() < 64 {
            env.sleep(Duration::from_millis(1)).await;
        }
        let after = disk.counters();
        assert_eq!(after.wal_records - before.wal_records, 640);
        let batches = after.wal_batches - before.wal_batches;
        assert!(batches <= 40, "{batches} batches for 10 rounds of 64");
        let bytes = after.wal_bytes - before.wal_bytes;
        let payload = after.wal_payload_bytes - before.wal_payload_bytes;
        assert!(bytes < payload + batches * 4200, "{bytes} bytes for {payload}");
    })
    .unwrap();
}

#[test]
fn segments_are_used_again_and_idle_replicas_do_not_pin_them() {
    let (_simulation, node) = rig::formatted(2);
    let (idle, small, busy) = (GroupId(1), GroupId(2), GroupId(3));
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        // One replica with much that is applied and not flushed, one with little that is not even committed.
        let idle = disk.replica(idle).await.unwrap();
        append(&disk, &idle, 1, 5, 5000).await;
        apply(&idle, 1, 4);
        let small = disk.replica(small).await.unwrap();
        append(&disk, &small, 1, 3, 100).await;
        write(&disk, chunk(1, 0), &CONTENT, b"who").await.unwrap();
        let busy = disk.replica(busy).await.unwrap();
        for index in 1..1500 {
            append(&disk, &busy, index, index + 1, 3000).await;
            apply(&busy, index, index + 1);
        }
        let (live, all) = disk.wal_segments();
        assert!(live <= 6 && all <= 8, "{live} of {all} segments in use");
        let counters = disk.counters();
        assert!(counters.wal_segments_started > 10, "{counters:?}");
        assert!(counters.wal_relogs > 0 && counters.wal_forced_flushes > 0, "{counters:?}");
    })
    .unwrap();
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let (idle, small) = (disk.existing_replica(idle).unwrap(), disk.existing_replica(small).unwrap());
        assert_eq!(idle.last_index(), 4);
        assert_eq!(idle.entries(4..5, usize::MAX), [entry(4, 1, 5000)]);
        assert_eq!(idle.index().flushed().index, 3);
        assert_eq!(small.entries(1..3, usize::MAX), [entry(1, 1, 100), entry(2, 1, 100)]);
        let busy = disk.existing_replica(busy).unwrap();
        assert_eq!(busy.last_index(), 1499);
        assert!(busy.first_index() > 1000, "the tail is bounded");
        assert!(holds(&disk, chunk(1, 0), &CONTENT).await);
        assert_eq!(disk.chunks().pending().len(), 1);
    })
    .unwrap();
}

#[test]
fn one_key_written_again_and_again_holds_neither_log_nor_memory() {
    let (_simulation, node) = rig::formatted(6);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let replica = disk.replica(GroupId(1)).await.unwrap();
        for index in 1..1500 {
            append(&disk, &replica, index, index + 1, 3000).await;
            let mut batch = WriteBatch::new();
            batch.put(&b"one key"[..], entry(index, 1, 3000).data);
            replica.index().apply(batch, Position { index, term: 1 });
            env.sleep(Duration::from_millis(1)).await;
            assert!(
                index - replica.first_index() < 200,
                "the log holds {} to {index}",
                replica.first_index()
            );
        }
        let (live, all) = disk.wal_segments();
        assert!(live <= 3 && all <= 6, "{live} of {all} segments in use");
    })
    .unwrap();
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        assert_eq!(disk.existing_replica(GroupId(1)).unwrap().last_index(), 1499);
    })
    .unwrap();
}

/// Files of the log, those with content first.
fn log_files(node: &SimNode) -> Vec<PathBuf> {
    node.files(rig::path().join(".buckets.sys/wal"))
}

/// Where in the log `needle` lies.
fn find(node: &SimNode, needle: &[u8]) -> (PathBuf, u64) {
    for file in log_files(node) {
        let content = node.peek_file(&file).unwrap();
        if let Some(at) = content.windows(needle.len()).position(|window| window == needle) {
            return (file, at as u64);
        }
    }
    panic!("not in the log");
}

/// Three replicas and a chunk; the record of replica 2's entry 3 lies alone in its batch.
fn three_replicas(node: &SimNode) {
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        for group in 1..4 {
            let replica = disk.replica(GroupId(group)).await.unwrap();
            append(&disk, &replica, 1, 3, 200).await;
        }
        let replica = disk.existing_replica(GroupId(2)).unwrap();
        let hard_state = HardState { term: 1, vote: 7, commit: 0 };
        let lsn = replica.append(&[entry(3, 1, 333)], Some(hard_state), None).unwrap();
        disk.wal().durable(lsn).await.unwrap();
        for group in [1, 3] {
            let replica = disk.existing_replica(GroupId(group)).unwrap();
            append(&disk, &replica, 3, 4, 200).await;
        }
        write(&disk, chunk(1, 0), &CONTENT, b"").await.unwrap();
    })
    .unwrap();
}

fn damaged_groups(node: &SimNode) -> Vec<u32> {
    node.run(0, |env| async move {
        let opened = open(&env).await;
        assert!(holds(&opened.disk, chunk(1, 0), &CONTENT).await);
        env.sleep(Duration::from_millis(100)).await;
        opened.report.damaged_replicas.iter().map(|group| group.0).collect()
    })
    .unwrap()
}

#[test]
fn damage_marks_the_replicas_that_lost_records_until_they_are_repaired() {
    let (_simulation, node) = rig::formatted(3);
    three_replicas(&node);
    node.crash();
    let (file, at) = find(&node, &entry(3, 1, 333).data);
    assert!(node.disk(rig::PATH).flip_byte(&file, at + 10, 4));
    // Replicas 1 and 3 have later records that prove that nothing of theirs was lost.
    assert_eq!(damaged_groups(&node), [2]);
    node.crash();
    assert_eq!(damaged_groups(&node), [2], "and it stays damaged");
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        assert!(disk.counters().wal_damages > 0);
        let replica = disk.existing_replica(GroupId(2)).unwrap();
        assert_eq!(replica.last_index(), 2);
        replica.repaired().await.unwrap();
    })
    .unwrap();
    node.crash();
    assert_eq!(damaged_groups(&node), [0; 0]);
}

#[test]
fn damage_of_a_batch_that_is_followed_by_nothing_but_its_seal_is_seen() {
    for sealed in [true, false] {
        let (simulation, node) = rig::formatted(4);
        three_replicas(&node);
        node.crash();
        node.run(0, |env| async move {
            let disk = open(&env).await.disk;
            let replica = disk.existing_replica(GroupId(1)).unwrap();
            append(&disk, &replica, 4, 5, 444).await;
            if sealed {
                env.sleep(Duration::from_millis(60)).await;
            }
        })
        .unwrap();
        node.crash();
        let (file, at) = find(&node, &entry(4, 1, 444).data);
        assert!(node.disk(rig::PATH).flip_byte(&file, at, 1));
        // Without a seal it looks like the write that a crash has torn.
        let expected: &[u32] = if sealed { &[1, 2, 3] } else { &[] };
        assert_eq!(damaged_groups(&node), expected);
        drop(simulation);
    }
}

#[test]
fn a_log_that_is_gone_damages_every_replica() {
    let (_simulation, node) = rig::formatted(5);
    three_replicas(&node);
    node.crash();
    node.run(0, |env| async move {
        for name in env.list_dir(&rig::path().join(".buckets.sys/wal")).await.unwrap() {
            env.remove_file(&rig::path().join(".buckets.sys/wal").join(name)).await.unwrap();
        }
        let opened = open(&env).await;
        assert_eq!(opened.report.damaged_replicas.len(), 3);
        let disk = opened.disk;
        write(&disk, chunk(9, 0), &CONTENT, b"").await.unwrap();
        disk.close().await.unwrap();
    })
    .unwrap();
    node.run(0, |env| async move {
        let opened = open(&env).await;
        assert_eq!(opened.report.damaged_replicas.len(), 3);
        assert!(holds(&opened.disk, chunk(9, 0), &CONTENT).await);
    })
    .unwrap();
}

#[test]
fn one_failed_write_or_flush_fences_the_disk_for_ever() {
    sweep(0..60, |seed| {
        let (simulation, node) = rig::formatted(seed);
        let mut rng = simulation.rng();
        let fault = *rng.pick(&[Fault::Write, Fault::Flush]);
        let skip = rng.below(40);
        let sim_disk = node.disk(rig::PATH);
        let (entries, chunks) = node
            .run(0, |env| async move {
                let disk = open(&env).await.disk;
                let replica = disk.replica(GroupId(1)).await.unwrap();
                sim_disk.strike(fault, skip);
                let chunks = Rc::new(Cell::new(0));
                let (writer, count) = (disk.clone(), chunks.clone());
                env.spawn(async move {
                    while write(&writer, chunk(count.get(), 0), &CONTENT, b"").await.is_ok() {
                        count.set(count.get() + 1);
                    }
                });
                let error = loop {
                    let next = replica.last_index() + 1;
                    match replica.append(&[entry(next, 1, 100)], None, None) {
                        Ok(lsn) => match disk.wal().durable(lsn).await {
                            Ok(()) => {}
                            Err(error) => break error,
                        },
                        Err(error) => break error,
                    }
                };
                assert!(matches!(error, DiskError::Fenced { .. }), "{error}");
                let acked = disk.wal().durable_lsn();
                sim_disk.heal();
                env.sleep(Duration::from_secs(1)).await;
                assert!(matches!(disk.state(), DiskState::Fenced { .. }));
                assert_eq!(disk.wal().durable_lsn(), acked, "nothing is acknowledged after a failure");
                let refused = disk.chunks().append(chunk(99, 0), 0, rig::padded(b"x"), 1).await;
                assert!(matches!(refused, Err(ChunkWriteError::Disk(DiskError::Fenced { .. }))));
                assert!(matches!(disk.chunks().delete(chunk(0, 0)).await, Err(ChunkWriteError::Disk(_))));
                assert!(replica.append(&[], None, Some(Bytes::new())).is_err());
                // What was written before can still be read.
                for object in 0..chunks.get() {
                    assert!(holds(&disk, chunk(object, 0), &CONTENT).await);
                }
                let in_flight = 1;
                (replica.last_index() - in_flight, chunks.get())
            })
            .unwrap();
        node.crash();
        node.run(0, |env| async move {
            let disk = open(&env).await.disk;
            assert_eq!(disk.state(), DiskState::Ok);
            let replica = disk.existing_replica(GroupId(1)).unwrap();
            assert!(replica.damaged() || replica.last_index() + 1 >= entries);
            for object in 0..chunks {
                assert!(holds(&disk, chunk(object, 0), &CONTENT).await, "{object} of {chunks}");
            }
        })
        .unwrap();
    });
}
