//! What a crash leaves on a disk.

use super::super::{Crashed, Simulation};
use super::{PAGE, create, durable_file, each_seed, page, sectors};
use crate::{OpenMode, WriteMode};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

#[test]
fn an_unflushed_write_is_kept_lost_or_torn_and_a_flushed_one_stays() {
    let mut seen = BTreeSet::new();
    each_seed(0..300, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        node.run(0, |env| async move {
            let file = durable_file(&env, "/d/file").await;
            file.write_at(0, page(1), WriteMode::Flushed).await.unwrap();
            file.write_at(PAGE as u64, page(2), WriteMode::Unflushed).await.unwrap();
            file.sync_data().await.unwrap();
            file.write_at(2 * PAGE as u64, page(3), WriteMode::Unflushed).await.unwrap();
            file.write_at(3 * PAGE as u64, page(4), WriteMode::Unflushed).await.unwrap();
            // A clone's view includes what is not flushed.
            let read = file.clone().read_at(3 * PAGE as u64, PAGE).await.unwrap();
            assert_eq!(read[..], page(4)[..]);
        })
        .unwrap();
        node.crash();
        assert_eq!(sectors(&node, "/d/file", 0), [1].into());
        assert_eq!(sectors(&node, "/d/file", 1), [2].into());
        seen.insert((sectors(&node, "/d/file", 2), sectors(&node, "/d/file", 3)));
    });
    let [lost, first, second] = [0, 3, 4].map(|value| BTreeSet::from([value]));
    for outcome in [
        (lost.clone(), lost.clone()),
        (first.clone(), second.clone()),
        (first.clone(), lost.clone()),
        // Reordered: the later write is there, the earlier is not.
        (lost.clone(), second.clone()),
        ([0, 3].into(), lost.clone()),
        (lost, [0, 4].into()),
    ] {
        assert!(seen.contains(&outcome), "{outcome:?} never happened");
    }
}

#[test]
fn a_write_in_flight_at_a_crash_may_be_partially_there() {
    let mut seen = BTreeSet::new();
    each_seed(0..100, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let file = node.run(0, |env| async move { durable_file(&env, "/d/file").await }).unwrap();
        node.env(0).spawn(async move {
            file.write_at(0, page(1), WriteMode::Flushed).await.unwrap();
        });
        simulation.run_for(Duration::from_micros(5));
        node.crash();
        seen.insert(sectors(&node, "/d/file", 0));
    });
    assert_eq!(seen, [[0].into(), [1].into(), [0, 1].into()].into());
}

#[test]
fn a_name_is_durable_after_a_flush_of_its_directory_only() {
    let mut seen = BTreeSet::new();
    each_seed(0..100, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        node.run(0, |env| async move {
            durable_file(&env, "/d/old").await;
            create(&env, "/d/created").await;
            env.rename(Path::new("/d/old"), Path::new("/d/new")).await.unwrap();
            env.remove_file(Path::new("/d/created")).await.unwrap();
            assert_eq!(env.list_dir(Path::new("/d")).await.unwrap(), ["new"]);
        })
        .unwrap();
        node.crash();
        let names = node.run(0, |env| async move { env.list_dir(Path::new("/d")).await.unwrap() }).unwrap();
        seen.insert(names.join(" "));
    });
    let expected = ["old", "created old", "created new", "new"].map(str::to_owned);
    assert_eq!(seen, expected.into());

    each_seed(0..50, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        node.run(0, |env| async move {
            durable_file(&env, "/d/old").await;
            env.rename(Path::new("/d/old"), Path::new("/d/new")).await.unwrap();
            env.sync_dir(Path::new("/d")).await.unwrap();
        })
        .unwrap();
        node.crash();
        assert_eq!(node.files("/d"), [Path::new("/d/new")]);
        assert_eq!(node.peek_file("/d/new").unwrap().len(), 4 * PAGE);
    });
}

#[test]
fn a_small_file_is_replaced_as_a_whole_wherever_the_node_crashes() {
    let mut outcomes = BTreeSet::new();
    each_seed(0..300, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let path = Path::new("/d/identity.json");
        node.run(0, |env| async move {
            env.create_dir_all(Path::new("/d")).await.unwrap();
            env.write_file_durably(path, b"first").await.unwrap();
        })
        .unwrap();
        node.crash_at_io(1 + seed % 7);
        let outcome =
            node.run(0, |env| async move { env.write_file_durably(path, b"the second").await.unwrap() });
        node.cancel_crash();
        let read = node.run(0, |env| async move { env.read_file(path).await.unwrap() }).unwrap();
        match outcome {
            Ok(()) => assert_eq!(read, b"the second"),
            Err(Crashed) => assert!(read == b"first" || read == b"the second", "{read:?}"),
        }
        outcomes.insert((outcome.is_ok(), read.len()));
    });
    assert_eq!(outcomes, [(true, 10), (false, 5), (false, 10)].into());
}

#[test]
fn a_node_crashes_exactly_at_the_chosen_operation() {
    each_seed(0..200, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let file = node.run(0, |env| async move { durable_file(&env, "/d/file").await }).unwrap();
        let (before, acknowledged) = (node.changing_ios(), Rc::new(Cell::new(0)));
        node.crash_at_io(5);
        let outcome = node.run(0, |_| {
            let acknowledged = acknowledged.clone();
            async move {
                for value in 1..=10 {
                    file.write_at(0, page(value), WriteMode::Flushed).await.unwrap();
                    acknowledged.set(value);
                }
            }
        });
        assert_eq!(outcome, Err(Crashed));
        assert_eq!((acknowledged.get(), node.changing_ios() - before), (4, 5));
        let found = sectors(&node, "/d/file", 0);
        assert!(found.is_subset(&[4, 5].into()), "{found:?}");
    });
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    each_seed(0..50, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        node.run(0, |env| async move {
            let file = create(&env, "/d/file").await;
            file.write_at(0, page(1), WriteMode::Unflushed).await.unwrap();
            env.spawn(async move { file.write_at(0, page(2), WriteMode::Unflushed).await.unwrap() });
            env.yield_now().await;
        })
        .unwrap();
        node.kill();
        let found = sectors(&node, "/d/file", 0);
        assert!(found == [1].into() || found == [2].into(), "{found:?}");
    });
}

#[test]
fn errors_of_names_and_ranges_are_those_of_a_file_system() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    node.run(0, |env| async move {
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        let open = |path: &'static str, mode| {
            let env = env.clone();
            async move { env.open(Path::new(path), mode).await.map(drop) }
        };
        assert_eq!(kind(open("/d/file", OpenMode::CreateNew).await), ErrorKind::NotFound);
        assert_eq!(kind(env.list_dir(Path::new("/d")).await.map(drop)), ErrorKind::NotFound);
        let file = durable_file(&env, "/d/file").await;
        assert_eq!(kind(open("/d/file", OpenMode::CreateNew).await), ErrorKind::AlreadyExists);
        assert_eq!(kind(open("/d/other", OpenMode::Existing).await), ErrorKind::NotFound);
        assert_eq!(kind(file.read_at(4 * PAGE as u64, PAGE).await.map(drop)), ErrorKind::UnexpectedEof);
        assert_eq!(file.size().await.unwrap(), 4 * PAGE as u64);
        env.remove_file(Path::new("/d/file")).await.unwrap();
        assert_eq!(file.read_at(0, PAGE).await.unwrap()[..], [0; PAGE]);
    })
    .unwrap();
}
