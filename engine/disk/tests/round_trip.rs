//! What was written is there after a clean close and after a crash.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod rig;

use buckets_disk::{ChunkReadError, Disk, DiskFormatError, DiskOpenError, FormatMode, HardState};
use buckets_env::sim::{SimOptions, Simulation};
use buckets_index::{Position, WriteBatch};
use buckets_ring::format::BlockChecksum;
use buckets_ring::id::GroupId;
use bytes::Bytes;
use rig::{Content, chunk, entry, holds, open, write};
use std::time::Duration;

const CONTENT: Content = Content { seed: 9, blocks: 150, block_bytes: 9000, last_block_bytes: 100 };

#[test]
fn everything_acknowledged_survives_close_and_crash() {
    let (_simulation, node) = rig::formatted(1);
    let group = GroupId(3);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let replica = disk.replica(group).await.unwrap();
        let hard_state = HardState { term: 2, vote: 1, commit: 1 };
        let entries: Vec<_> = (1..20).map(|index| entry(index, 2, 500)).collect();
        let lsn = replica.append(&entries, Some(hard_state), Some(Bytes::from_static(b"conf"))).unwrap();
        disk.wal().durable(lsn).await.unwrap();
        write(&disk, chunk(1, 0), &CONTENT, b"owner").await.unwrap();
        let data = rig::bytes(4, 3000);
        disk.chunks().write_small(chunk(2, 1), rig::padded(&data), 3000, Bytes::new()).await.unwrap();
        disk.chunks().confirm(chunk(2, 1)).unwrap();
        disk.close().await.unwrap();
    })
    .unwrap();
    for _ in 0..2 {
        node.run(0, |env| async move {
            let opened = open(&env).await;
            let disk = opened.disk;
            assert!(opened.report.damaged_replicas.is_empty());
            let replica = disk.existing_replica(group).unwrap();
            assert_eq!(replica.hard_state(), HardState { term: 2, vote: 1, commit: 1 });
            assert_eq!(&replica.conf()[..], b"conf");
            assert_eq!((replica.first_index(), replica.last_index()), (1, 19));
            assert_eq!(
                replica.entries(1..20, usize::MAX),
                (1..20).map(|i| entry(i, 2, 500)).collect::<Vec<_>>()
            );
            assert!(holds(&disk, chunk(1, 0), &CONTENT).await);
            let small = disk.chunks().read(chunk(2, 1), 0, 1).await.unwrap();
            assert_eq!(small[0].data(), rig::bytes(4, 3000));
            let pending: Vec<_> = disk.chunks().pending().into_iter().map(|p| (p.chunk, p.owner)).collect();
            assert_eq!(pending, [(chunk(1, 0), Bytes::from_static(b"owner"))]);
            assert_eq!(disk.chunks().read(chunk(7, 0), 0, 1).await.unwrap_err(), ChunkReadError::Missing);
            assert_eq!(disk.chunks().read(chunk(1, 0), 149, 2).await.unwrap_err(), ChunkReadError::Missing);
        })
        .unwrap();
        node.crash();
    }
}

#[test]
fn a_deleted_chunk_is_gone_and_its_space_is_used_again() {
    let (_simulation, node) = rig::formatted(2);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        for round in 0..40 {
            let content = Content { seed: round, ..CONTENT };
            write(&disk, chunk(round, 0), &content, b"").await.unwrap();
            assert!(holds(&disk, chunk(round, 0), &content).await);
            assert!(disk.chunks().delete(chunk(round, 0)).await.unwrap());
            assert!(!disk.chunks().delete(chunk(round, 0)).await.unwrap());
            assert_eq!(disk.chunks().read(chunk(round, 0), 0, 1).await.unwrap_err(), ChunkReadError::Missing);
        }
        let audit = disk.chunks().audit().await.unwrap();
        assert_eq!((audit.claimed_units, audit.used_units, audit.chunks), (0, 0, 0));
        let used = disk.chunks().space_use().await.unwrap();
        assert!(used.reserved_bytes <= 8 << 20, "{used:?}");
        assert!(disk.chunks().pending().is_empty());
    })
    .unwrap();
}

#[test]
fn a_rewritten_chunk_takes_the_place_of_the_old_one() {
    let (_simulation, node) = rig::formatted(3);
    let small = Content { blocks: 2, seed: 99, ..CONTENT };
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        write(&disk, chunk(1, 0), &CONTENT, b"").await.unwrap();
        write(&disk, chunk(1, 0), &small, b"").await.unwrap();
        assert!(holds(&disk, chunk(1, 0), &small).await);
        let audit = disk.chunks().audit().await.unwrap();
        assert_eq!((audit.claimed_units, audit.used_units), (4, 4));
    })
    .unwrap();
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        assert!(holds(&disk, chunk(1, 0), &small).await);
        assert_eq!(disk.chunks().audit().await.unwrap().used_units, 4);
    })
    .unwrap();
}

#[test]
fn units_of_a_chunk_being_read_are_not_given_away() {
    // Reads take longer than everything else: the answer holds what is there at the end.
    let mut options = SimOptions::default();
    options.disk_latency.read = Duration::from_millis(50)..Duration::from_millis(60);
    let (_simulation, node) = rig::formatted_with(Simulation::with_options(4, options), &rig::options());
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        write(&disk, chunk(1, 0), &CONTENT, b"").await.unwrap();
        let (reader, id) = (disk.clone(), chunk(1, 0));
        let (told, read) = futures::channel::oneshot::channel();
        env.spawn(async move {
            let _ = told.send(reader.chunks().read(id, 0, CONTENT.blocks).await);
        });
        env.sleep(Duration::from_millis(5)).await;
        disk.chunks().delete(id).await.unwrap();
        for object in 2..40 {
            let other = Content { seed: object, blocks: 20, ..CONTENT };
            write(&disk, chunk(object, 0), &other, b"").await.unwrap();
        }
        let blocks = read.await.unwrap().unwrap();
        assert!(blocks.iter().zip(0..).all(|(block, number)| block.data() == CONTENT.block(number)));
        let audit = disk.chunks().audit().await.unwrap();
        assert_eq!((audit.used_units, audit.overlapping_units), (audit.claimed_units, 0));
    })
    .unwrap();
}

#[test]
fn abandoned_chunks_expire() {
    let (_simulation, node) = rig::formatted(5);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let data = rig::padded(&CONTENT.block(0));
        disk.chunks().append(chunk(1, 0), 0, data.clone(), 9000).await.unwrap();
        assert_eq!(disk.chunks().open_writers(), 1);
        env.sleep(Duration::from_secs(10)).await;
        assert_eq!(disk.chunks().open_writers(), 0);
        let refused = disk.chunks().append(chunk(1, 0), 1, data, 9000).await;
        assert_eq!(refused, Err(buckets_disk::ChunkWriteError::NotOpen));
        assert_eq!(disk.chunks().audit().await.unwrap().used_units, 0);
        assert_eq!(disk.counters().chunks_abandoned, 1);
    })
    .unwrap();
}

#[test]
fn a_snapshot_replaces_log_and_index() {
    let (_simulation, node) = rig::formatted(6);
    let group = GroupId(1);
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let replica = disk.replica(group).await.unwrap();
        let entries: Vec<_> = (1..5).map(|index| entry(index, 1, 10)).collect();
        replica.append(&entries, None, None).unwrap();
        let mut batch = WriteBatch::new();
        batch.put(&b"old"[..], &b"1"[..]);
        replica.index().apply(batch, Position { index: 2, term: 1 });
        let snapshot = buckets_disk::SnapshotPosition {
            index: 100,
            term: 7,
            conf: Bytes::from_static(b"c2"),
            hard_state: Some(HardState { term: 7, vote: 0, commit: 100 }),
        };
        replica.begin_snapshot(&snapshot).await.unwrap();
        let mut loader = replica.index().load();
        loader.push(b"new", b"2").await.unwrap();
        loader.finish(Position { index: 100, term: 7 }).await.unwrap();
        replica.end_snapshot();
        let lsn = replica.append(&[entry(101, 7, 5)], None, None).unwrap();
        disk.wal().durable(lsn).await.unwrap();
    })
    .unwrap();
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        let replica = disk.existing_replica(group).unwrap();
        assert_eq!((replica.truncated(), replica.last_index()), ((100, 7), 101));
        assert_eq!(&replica.conf()[..], b"c2");
        assert_eq!(replica.hard_state().commit, 100);
        assert_eq!(replica.index().get(b"old").await.unwrap(), None);
        assert_eq!(replica.index().get(b"new").await.unwrap().as_deref(), Some(&b"2"[..]));
        disk.remove_replica(group).await.unwrap();
    })
    .unwrap();
    node.crash();
    node.run(0, |env| async move {
        let disk = open(&env).await.disk;
        assert!(disk.groups().is_empty());
        let replica = disk.replica(group).await.unwrap();
        assert!(!replica.damaged());
        assert_eq!(replica.index().get(b"new").await.unwrap(), None);
    })
    .unwrap();
}

#[test]
fn the_wrong_disk_is_refused_with_a_sentence() {
    let (_simulation, node) = rig::formatted(7);
    node.run(0, |env| async move {
        let json = rig::format_json(BlockChecksum::Blake2b);
        let refused = Disk::format(&env, rig::path(), &json, FormatMode::New, &rig::options()).await;
        assert!(matches!(refused, Err(DiskFormatError::AlreadyFormatted { .. })), "{refused:?}");
        let other = json.for_disk(rig::disk_uuid(1));
        let file = rig::path().join(".buckets.sys/format.json");
        env.write_file_durably(&file, &other.to_bytes()).await.unwrap();
        let swapped = Disk::open(&env, rig::path(), rig::options()).await.err().unwrap();
        assert!(matches!(swapped, DiskOpenError::Swapped { .. }), "{swapped}");
        env.write_file_durably(&file, b"{}").await.unwrap();
        let damaged = Disk::open(&env, rig::path(), rig::options()).await.err().unwrap();
        assert!(matches!(damaged, DiskOpenError::FormatDamaged { .. }), "{damaged}");
        let none = Disk::open(&env, std::path::Path::new("/other"), rig::options()).await.err().unwrap();
        assert!(matches!(none, DiskOpenError::NotFormatted { .. }), "{none}");
        Disk::format(&env, rig::path(), &json, FormatMode::Overwrite, &rig::options()).await.unwrap();
        let opened = open(&env).await;
        assert_eq!(opened.format, json);
        assert!(opened.disk.groups().is_empty());
        write(&opened.disk, chunk(1, 0), &CONTENT, b"").await.unwrap();
        assert!(holds(&opened.disk, chunk(1, 0), &CONTENT).await);
    })
    .unwrap();
}
