//! A full disk refuses new chunks and nothing else.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod rig;

use buckets_disk::{ChunkWriteError, Disk, DiskOptions, DiskState};
use buckets_index::{Position, WriteBatch};
use buckets_ring::id::GroupId;
use rig::{Content, chunk, entry, holds, open, write};
use std::time::Duration;

const CONTENT: Content = Content { seed: 1, blocks: 8, block_bytes: 30_000, last_block_bytes: 9 };

#[test]
fn reads_deletes_and_the_log_go_on_and_freed_space_is_used_again() {
    let (_simulation, node) = rig::formatted(1);
    let disk_size: u64 = 12 << 20;
    node.disk(rig::PATH).set_capacity(disk_size);
    let count = node
        .run(0, |env| async move {
            let disk = open(&env).await.disk;
            let replica = disk.replica(GroupId(1)).await.unwrap();
            let content = |object| Content { seed: object, ..CONTENT };
            let mut count = 0;
            let error = loop {
                match write(&disk, chunk(count, 0), &content(count), b"").await {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, ChunkWriteError::NoSpace);
            assert!(count > 20, "{count} chunks");
            assert_eq!(disk.state(), DiskState::Ok);
            // What was refused holds no space.
            assert_eq!(disk.chunks().open_writers(), 0);
            let audit = disk.chunks().audit().await.unwrap();
            assert_eq!(audit.claimed_units, audit.used_units);
            for object in 0..count {
                assert!(holds(&disk, chunk(object, 0), &content(object)).await);
            }
            // The log and the indexes have their reserve.
            for index in 1..200 {
                let lsn = replica.append(&[entry(index, 1, 3000)], None, None).unwrap();
                disk.wal().durable(lsn).await.unwrap();
                let mut batch = WriteBatch::new();
                batch.put(&b"one key"[..], entry(index, 1, 3000).data);
                replica.index().apply(batch, Position { index, term: 1 });
            }
            for object in (0..count).step_by(2) {
                assert!(disk.chunks().delete(chunk(object, 0)).await.unwrap());
            }
            for object in (0..count).step_by(2) {
                write(&disk, chunk(1000 + object, 0), &content(1000 + object), b"").await.unwrap();
            }
            assert!(disk.counters().refused_no_space > 0);
            count
        })
        .unwrap();
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        for object in 0..count {
            let there = if object % 2 == 0 { 1000 + object } else { object };
            assert!(holds(&disk, chunk(there, 0), &Content { seed: there, ..CONTENT }).await, "{object}");
        }
        let audit = disk.chunks().audit().await.unwrap();
        assert_eq!((audit.claimed_units, audit.overlapping_units), (audit.used_units, 0));
        assert_eq!(disk.existing_replica(GroupId(1)).unwrap().last_index(), 199);
    })
    .unwrap();
}

#[test]
fn a_step_of_chunk_space_leaves_most_of_a_small_file_system_to_others() {
    let (_simulation, node) = rig::formatted(4);
    node.disk(rig::PATH).set_capacity(64 << 20);
    node.run(0, |env| async move {
        let greedy = DiskOptions { space_step_bytes: 16 << 20, ..rig::options() };
        let disk = Disk::open(&env, rig::path(), greedy).await.unwrap().disk;
        let before = disk.chunks().space_use().await.unwrap();
        write(&disk, chunk(1, 0), &CONTENT, b"").await.unwrap();
        let reserved = disk.chunks().space_use().await.unwrap().reserved_bytes;
        assert_eq!(before.reserved_bytes, 0);
        assert!(reserved > 0 && reserved <= before.reservable_bytes / 32, "{reserved} of {before:?}");
    })
    .unwrap();
}

#[test]
fn a_chunk_may_lie_in_many_pieces() {
    let (_simulation, node) = rig::formatted(2);
    node.disk(rig::PATH).set_capacity(6 << 20);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let one = |seed| Content { seed, blocks: 1, block_bytes: 4000, last_block_bytes: 4000 };
        let mut count = 0;
        while write(&disk, chunk(count, 0), &one(count), b"").await.is_ok() {
            count += 1;
        }
        // Every other unit is free: a block of many units is scattered.
        for object in (0..count).step_by(2) {
            disk.chunks().delete(chunk(object, 0)).await.unwrap();
        }
        disk.chunks().audit().await.unwrap();
        let large = Content { seed: 77, blocks: 3, block_bytes: 100_000, last_block_bytes: 50_000 };
        write(&disk, chunk(5000, 1), &large, b"").await.unwrap();
        assert!(holds(&disk, chunk(5000, 1), &large).await);
        for object in (1..count).step_by(2) {
            assert!(holds(&disk, chunk(object, 0), &one(object)).await);
        }
        disk.close().await.unwrap();
        let disk = open(&env).await.disk;
        assert!(holds(&disk, chunk(5000, 1), &large).await);
        assert_eq!(disk.chunks().audit().await.unwrap().overlapping_units, 0);
    })
    .unwrap();
}

#[test]
fn where_space_is_short_the_log_keeps_few_segments() {
    // Up to almost a segment of entries that nobody can flush: they are not committed.
    for held_count in [0, 1, 20, 50] {
        let (_simulation, node) = rig::formatted(3);
        node.run(0, |env| async move {
            let short = DiskOptions { floor_bytes: u64::MAX, ..rig::options() };
            let disk = Disk::open(&env, rig::path(), short).await.unwrap().disk;
            let held = disk.replica(GroupId(1)).await.unwrap();
            let mut lsn = disk.wal().last_lsn();
            for index in 1..=held_count {
                lsn = held.append(&[entry(index, 1, 5000)], None, None).unwrap();
            }
            disk.wal().durable(lsn).await.unwrap();
            let busy = disk.replica(GroupId(2)).await.unwrap();
            for index in 1..1500 {
                let lsn = busy.append(&[entry(index, 1, 3000)], None, None).unwrap();
                disk.wal().durable(lsn).await.unwrap();
                let mut batch = WriteBatch::new();
                batch.put(&b"one key"[..], entry(index, 1, 3000).data);
                busy.index().apply(batch, Position { index, term: 1 });
                env.sleep(Duration::from_millis(1)).await;
            }
            assert!(disk.is_short_of_space());
            env.sleep(Duration::from_secs(1)).await;
            let (live, all) = disk.wal_segments();
            assert!(live <= 2 && all <= 4, "{live} of {all} segments in use beside {held_count} entries");
            // It does not go on for ever, neither logging again nor beginning segments.
            let before = disk.counters();
            env.sleep(Duration::from_secs(5)).await;
            assert_eq!(disk.counters(), before);
        })
        .unwrap();
        node.crash();
        node.run(0, |env| async move {
            let disk = open(&env).await.disk;
            let held = disk.existing_replica(GroupId(1)).unwrap();
            assert_eq!(held.last_index(), held_count);
            for index in 1..=held_count {
                assert_eq!(held.entries(index..index + 1, usize::MAX), [entry(index, 1, 5000)]);
            }
            assert_eq!(disk.existing_replica(GroupId(2)).unwrap().last_index(), 1499);
        })
        .unwrap();
    }
}
