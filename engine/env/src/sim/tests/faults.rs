//! Each fault does what it says, and nothing else.

use super::super::{Crashed, DiskFaults, Fault, SimNode, Simulation};
use super::{PAGE, durable_file, each_seed, page, sectors};
use crate::{AlignedBuf, File, OpenMode, WriteMode};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

fn node_with_file(simulation: &Simulation) -> (SimNode, File) {
    let node = simulation.node("a");
    let file = node.run(0, |env| async move { durable_file(&env, "/d/file").await }).unwrap();
    (node, file)
}

#[test]
fn a_planned_fault_strikes_the_chosen_operation_once() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    let disk = node.disk("/d");
    disk.strike(Fault::Read, 1);
    disk.strike(Fault::Write, 0);
    disk.strike(Fault::Flush, 0);
    node.run(0, |_| async move {
        assert!(file.read_at(0, PAGE).await.is_ok());
        assert_eq!(file.read_at(0, PAGE).await.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(file.read_at(0, PAGE).await.is_ok());
        assert!(file.write_at(0, page(1), WriteMode::Unflushed).await.is_err());
        assert!(file.write_at(0, page(1), WriteMode::Unflushed).await.is_ok());
        assert!(file.sync_data().await.is_err());
        assert!(file.sync_data().await.is_ok());
    })
    .unwrap();
    assert_eq!(disk.io_counts().faults, 3);
    assert_eq!(disk.io_counts().flushes, 2);
}

#[test]
fn after_a_failed_flush_the_data_may_be_gone_and_the_next_flush_does_not_tell() {
    let mut seen = BTreeSet::new();
    each_seed(0..100, |seed| {
        let simulation = Simulation::new(seed);
        let (node, file) = node_with_file(&simulation);
        node.disk("/d").strike(Fault::Flush, 0);
        node.run(0, |_| async move {
            file.write_at(0, page(1), WriteMode::Unflushed).await.unwrap();
            assert!(file.sync_data().await.is_err());
            assert!(file.sync_data().await.is_ok());
        })
        .unwrap();
        let before = sectors(&node, "/d/file", 0);
        node.crash();
        assert_eq!(sectors(&node, "/d/file", 0), before);
        seen.insert(before);
    });
    assert!(seen.contains(&[0].into()) && seen.contains(&[1].into()), "{seen:?}");
}

#[test]
fn a_lost_write_is_acknowledged_and_never_there() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    node.disk("/d").strike(Fault::LostWrite, 0);
    node.run(0, |_| async move {
        file.write_at(0, page(1), WriteMode::Flushed).await.unwrap();
        // The file grows all the same.
        file.write_at(4 * PAGE as u64, page(1), WriteMode::Flushed).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 5 * PAGE as u64);
    })
    .unwrap();
    assert_eq!(sectors(&node, "/d/file", 0), [0].into());
    assert_eq!(sectors(&node, "/d/file", 4), [1].into());
}

#[test]
fn a_misdirected_write_lands_elsewhere_in_the_file() {
    let mut places = BTreeSet::new();
    each_seed(0..50, |seed| {
        let simulation = Simulation::new(seed);
        let (node, file) = node_with_file(&simulation);
        node.disk("/d").strike(Fault::MisdirectedWrite, 0);
        node.run(0, |_| async move { file.write_at(0, page(1), WriteMode::Flushed).await.unwrap() }).unwrap();
        node.crash();
        let pages: Vec<usize> =
            (0..4).filter(|number| sectors(&node, "/d/file", *number) == [1].into()).collect();
        assert_eq!(pages.len(), 1);
        places.extend(pages);
    });
    assert_eq!(places, [0, 1, 2, 3].into());
}

#[test]
fn rot_flips_stored_bits_for_good() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    let disk = node.disk("/d");
    assert!(disk.flip_byte("/d/file", 5000, 0x80));
    assert!(!disk.flip_byte("/d/file", 1 << 20, 0x80));
    let places = disk.rot(3);
    assert_eq!(places.len(), 3);
    node.crash();
    let content = node.peek_file("/d/file").unwrap();
    let damaged = content.iter().filter(|byte| **byte != 0).count();
    assert!(content[5000] != 0 && (2..=4).contains(&damaged), "{damaged}");
    drop(file);

    disk.faults(DiskFaults { bit_rot_per_million: 1_000_000, ..DiskFaults::default() });
    let read = node.run(0, |env| async move {
        let file = env.open(Path::new("/d/file"), OpenMode::Existing).await.unwrap();
        file.read_at(0, 4 * PAGE).await.unwrap().to_vec()
    });
    let flipped: u32 = read.unwrap().iter().zip(&content).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(flipped, 1);
}

#[test]
fn an_unreadable_page_is_readable_again_once_it_is_written() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    assert!(node.disk("/d").make_unreadable("/d/file", 5000));
    node.run(0, |_| async move {
        assert!(file.read_at(0, PAGE).await.is_ok());
        assert!(file.read_at(0, 2 * PAGE).await.is_err());
        file.write_at(PAGE as u64, page(1), WriteMode::Unflushed).await.unwrap();
        assert!(file.read_at(0, 2 * PAGE).await.is_ok());
    })
    .unwrap();
}

#[test]
fn a_slow_disk_is_slower_by_its_factor() {
    let time_of_reads = |slow_factor| {
        let simulation = Simulation::new(1);
        let (node, file) = node_with_file(&simulation);
        node.disk("/d").faults(DiskFaults { slow_factor, ..DiskFaults::default() });
        let start = simulation.now();
        node.run(0, |_| async move {
            for _ in 0..100 {
                file.read_at(0, PAGE).await.unwrap();
            }
        })
        .unwrap();
        simulation.now().since(start)
    };
    let (normal, slow) = (time_of_reads(1), time_of_reads(100));
    assert!(normal > Duration::from_millis(6) && normal < Duration::from_millis(30), "{normal:?}");
    assert_eq!(slow, normal * 100);
}

#[test]
fn a_full_disk_refuses_until_space_is_given_back() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    let disk = node.disk("/d");
    disk.set_capacity(16 * PAGE as u64);
    let big = AlignedBuf::zeroed(13 * PAGE).freeze();
    node.run(0, |env| async move {
        assert_eq!(env.disk_space(Path::new("/d")).await.unwrap().free_bytes, 12 * PAGE as u64);
        let full =
            |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        full(file.write_at(4 * PAGE as u64, big.clone(), WriteMode::Unflushed).await);
        full(file.allocate(4 * PAGE as u64, 13 * PAGE as u64).await);
        file.allocate(4 * PAGE as u64, 12 * PAGE as u64).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 16 * PAGE as u64);
        // Reserved space is written without taking more.
        file.write_at(4 * PAGE as u64, big.slice(0..12 * PAGE), WriteMode::Unflushed).await.unwrap();
        full(file.write_at(16 * PAGE as u64, page(1), WriteMode::Unflushed).await);
        file.punch_hole(4 * PAGE as u64, 4 * PAGE as u64).await.unwrap();
        file.write_at(16 * PAGE as u64, page(1), WriteMode::Unflushed).await.unwrap();
        assert_eq!(env.disk_space(Path::new("/d/x")).await.unwrap().free_bytes, 3 * PAGE as u64);
        env.remove_file(Path::new("/d/file")).await.unwrap();
        env.sync_dir(Path::new("/d")).await.unwrap();
        assert_eq!(env.disk_space(Path::new("/d")).await.unwrap().free_bytes, 3 * PAGE as u64);
        drop(file);
        assert_eq!(env.disk_space(Path::new("/d")).await.unwrap().free_bytes, 16 * PAGE as u64);
    })
    .unwrap();
}

#[test]
fn a_pulled_disk_fails_everything_and_comes_back_with_what_was_flushed() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    let disk = node.disk("/d");
    let other = node.run(0, |env| async move { durable_file(&env, "/e/file").await }).unwrap();
    disk.remove();
    node.run(0, |env| async move {
        assert_eq!(file.read_at(0, PAGE).await.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(file.write_at(0, page(1), WriteMode::Flushed).await.is_err());
        assert!(file.size().await.is_err());
        let missing = env.open(Path::new("/d/file"), OpenMode::Existing).await;
        assert_eq!(missing.map(drop).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(env.list_dir(Path::new("/d")).await.is_err());
        assert!(env.create_dir_all(Path::new("/d/x")).await.is_err());
        assert!(env.disk_space(Path::new("/d")).await.is_err());
        assert!(other.read_at(0, PAGE).await.is_ok());
        disk.restore();
        // The old handle stays dead; the file is there.
        assert!(file.read_at(0, PAGE).await.is_err());
        let file = env.open(Path::new("/d/file"), OpenMode::Existing).await.unwrap();
        assert_eq!(file.read_at(0, PAGE).await.unwrap()[..], [0; PAGE]);
    })
    .unwrap();
}

#[test]
fn a_wiped_disk_is_empty_for_good() {
    let simulation = Simulation::new(1);
    let (node, file) = node_with_file(&simulation);
    let disk = node.disk("/d");
    disk.wipe();
    node.run(0, |env| async move {
        // As after `rm -rf /d/*`: the directory is there, and open files go on.
        assert_eq!(env.list_dir(Path::new("/d")).await.unwrap(), [""; 0]);
        assert!(file.read_at(0, PAGE).await.is_ok());
        assert!(env.read_file(Path::new("/d/file")).await.is_err());
        durable_file(&env, "/d/new").await;
    })
    .unwrap();
    node.crash();
    assert_eq!(node.files("/"), [Path::new("/d/new")]);
}

#[test]
fn renames_between_disks_are_refused() {
    let simulation = Simulation::new(1);
    let (node, _file) = node_with_file(&simulation);
    node.disk("/d");
    node.run(0, |env| async move {
        env.create_dir_all(Path::new("/e")).await.unwrap();
        let moved = env.rename(Path::new("/d/file"), Path::new("/e/file")).await;
        assert_eq!(moved.unwrap_err().kind(), ErrorKind::CrossesDevices);
    })
    .unwrap();
}

#[test]
fn a_crash_amid_everything_leaves_consistent_disks() {
    each_seed(0..200, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let disk = node.disk("/d");
        let mut rng = simulation.rng();
        for _ in 0..4 {
            node.crash_at_io(1 + rng.below(60));
            let mut rng = rng.fork();
            let outcome = node.run(0, |env| async move {
                env.create_dir_all(Path::new("/d")).await.unwrap();
                loop {
                    let path = format!("/d/{}", rng.below(4));
                    let path = Path::new(&path);
                    let offset = rng.below(8) * PAGE as u64;
                    let file = match env.open(path, OpenMode::Existing).await {
                        Ok(file) => file,
                        Err(_) => env.open(path, OpenMode::CreateNew).await.unwrap(),
                    };
                    let background = file.clone();
                    env.spawn(async move {
                        background.write_at(offset, page(9), WriteMode::Unflushed).await.unwrap();
                    });
                    match rng.below(8) {
                        0 => file.sync_data().await.unwrap(),
                        1 => file.allocate(offset, 4 * PAGE as u64).await.unwrap(),
                        2 => file.punch_hole(offset, PAGE as u64).await.unwrap(),
                        3 => env.sync_dir(Path::new("/d")).await.unwrap(),
                        4 => env.remove_file(path).await.unwrap(),
                        5 => env.rename(path, Path::new("/d/0")).await.unwrap(),
                        _ => file.write_at(offset, page(1), WriteMode::Flushed).await.unwrap(),
                    }
                }
            });
            assert_eq!(outcome, Err::<(), _>(Crashed));
            for path in node.files("/d") {
                let content = node.peek_file(&path).unwrap();
                assert!(content.iter().all(|byte| [0, 1, 9].contains(byte)));
            }
            let (listed, free) = node
                .run(0, |env| async move {
                    let listed = env.list_dir(Path::new("/d")).await.unwrap_or_default();
                    (listed.len(), env.disk_space(Path::new("/d")).await.unwrap().free_bytes)
                })
                .unwrap();
            assert_eq!(listed, node.files("/d").len());
            disk.set_capacity(1 << 30);
            assert!(free <= 1 << 40);
        }
        disk.wipe();
        let space = node.run(0, |env| async move { env.disk_space(Path::new("/d")).await.unwrap() }).unwrap();
        assert_eq!(space.free_bytes, space.total_bytes, "space is counted exactly");
    });
}
