//! What the simulation promises to the tests that build on it.

use super::{Crashed, SimNode, Simulation, sweep};
use crate::{AlignedBuf, Env, File, OpenMode, WriteMode, core_queue};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const PAGE: usize = 4096;

fn page(value: u8) -> crate::AlignedBytes {
    let mut data = AlignedBuf::with_len(PAGE);
    data.fill(value);
    data.freeze()
}

async fn create(env: &Env, path: &str) -> File {
    env.create_dir_all(Path::new(path).parent().unwrap()).await.unwrap();
    env.open(Path::new(path), OpenMode::CreateNew).await.unwrap()
}

/// A file of four zero pages whose name and content are durable.
async fn durable_file(env: &Env, path: &str) -> File {
    let file = create(env, path).await;
    file.write_at(0, AlignedBuf::zeroed(4 * PAGE).freeze(), WriteMode::Flushed).await.unwrap();
    env.sync_dir(Path::new(path).parent().unwrap()).await.unwrap();
    file
}

/// The values of the sectors of one page after a crash.
fn sectors(node: &SimNode, path: &str, page: usize) -> BTreeSet<u8> {
    let content = node.peek_file(path).unwrap();
    content[page * PAGE..(page + 1) * PAGE].chunks(512).flat_map(BTreeSet::from_iter).copied().collect()
}

#[test]
fn timers_fire_in_order_and_time_jumps() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let order = Rc::new(RefCell::new(Vec::new()));
    for hours in [5u64, 1, 3, 2, 4] {
        let (env, order) = (node.env(0), order.clone());
        node.env(0).spawn(async move {
            env.sleep(Duration::from_secs(3600 * hours)).await;
            order.borrow_mut().push((hours, env.now()));
        });
    }
    let start = simulation.now();
    simulation.run_for(Duration::from_secs(3600 * 6));
    let expected: Vec<_> =
        (1..=5).map(|hours| (hours, start.after(Duration::from_secs(3600 * hours)))).collect();
    assert_eq!(*order.borrow(), expected);
    assert_eq!(simulation.now(), start.after(Duration::from_secs(3600 * 6)));
}

#[test]
fn a_timeout_drops_the_work_and_its_timers() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let end = node.run(0, |env| async move {
        for _ in 0..1000 {
            let work = env.sleep(Duration::from_secs(1000));
            assert!(env.timeout(Duration::from_millis(1), work).await.is_none());
            let quick = env.timeout(Duration::from_secs(500), async { 7 }).await;
            assert_eq!(quick, Some(7));
        }
        env.now()
    });
    assert!(end.unwrap().since(crate::Instant(0)) < Duration::from_secs(3));
}

#[test]
fn a_yield_lets_every_other_runnable_task_run() {
    sweep(0..20, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let ran = Rc::new(Cell::new(0));
        let seen = node.run(0, |env| {
            let ran = ran.clone();
            async move {
                for _ in 0..10 {
                    let ran = ran.clone();
                    env.spawn(async move { ran.set(ran.get() + 1) });
                }
                env.yield_now().await;
                ran.get()
            }
        });
        assert_eq!(seen, Ok(10));
    });
}

#[test]
fn waiting_by_yields_alone_still_lets_time_pass() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let done = Rc::new(Cell::new(false));
    let (env, set) = (node.env(0), done.clone());
    node.env(0).spawn(async move {
        env.sleep(Duration::from_millis(3)).await;
        set.set(true);
    });
    let outcome = node.run(0, |env| async move {
        while !done.get() {
            env.yield_now().await;
        }
    });
    assert_eq!(outcome, Ok(()));
}

#[test]
fn the_order_of_tasks_depends_on_the_seed() {
    let order_of = |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let order = Rc::new(RefCell::new(Vec::new()));
        for index in 0..8 {
            let order = order.clone();
            node.env(0).spawn(async move { order.borrow_mut().push(index) });
        }
        simulation.run_for(Duration::from_millis(1));
        order.take()
    };
    let orders: BTreeSet<Vec<i32>> = (0..20).map(order_of).collect();
    assert!(orders.len() > 15);
    assert_eq!(order_of(3), order_of(3));
}

#[test]
fn a_crash_drops_all_tasks_at_once_and_a_new_env_starts_anew() {
    struct Witness(Rc<Cell<u32>>);
    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let other = simulation.node("b");
    let dropped = Rc::new(Cell::new(0));
    for node in [&node, &node, &other] {
        let (env, witness) = (node.env(0), Witness(dropped.clone()));
        node.env(0).spawn(async move {
            let _witness = witness;
            env.sleep(Duration::from_secs(1)).await;
            // A destructor may use the env of the dead life; nothing comes of it.
            env.spawn(async { panic!("a task of a dead node ran") });
            env.sleep(Duration::from_secs(1000)).await;
        });
    }
    simulation.run_for(Duration::from_millis(1));
    let stale = node.env(0);
    node.crash();
    assert_eq!((dropped.get(), node.task_count(), other.task_count()), (2, 0, 1));
    stale.spawn(async { panic!("a task of a dead node ran") });
    assert_eq!(node.run(0, |env| async move { env.sleep(Duration::from_millis(5)).await }), Ok(()));
    assert_eq!(node.crashes(), 1);
    drop(other);
    drop(simulation);
    assert_eq!(dropped.get(), 3);
}

#[test]
fn work_on_a_node_ends_with_its_crash() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    node.env(0).spawn({
        let (env, node) = (node.env(0), node.clone());
        async move {
            env.sleep(Duration::from_millis(1)).await;
            node.crash();
            env.sleep(Duration::from_millis(1)).await;
            panic!("a task of a dead node ran");
        }
    });
    let outcome = node.run(0, |env| async move { env.sleep(Duration::from_secs(1)).await });
    assert_eq!(outcome, Err(Crashed));
}

#[test]
fn an_unflushed_write_is_kept_lost_or_torn_and_a_flushed_one_stays() {
    let mut seen = BTreeSet::new();
    sweep(0..300, |seed| {
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
    sweep(0..100, |seed| {
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
    sweep(0..100, |seed| {
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

    sweep(0..50, |seed| {
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
    sweep(0..300, |seed| {
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
    sweep(0..200, |seed| {
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
fn messages_between_cores_arrive_in_order_and_a_full_queue_refuses() {
    sweep(0..20, |seed| {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        let (sender, receiver) = core_queue::<u32>(16, node.waker(1));
        let got = Rc::new(RefCell::new(Vec::new()));
        node.env(1).spawn({
            let got = got.clone();
            async move {
                loop {
                    let message = receiver.recv().await;
                    got.borrow_mut().push(message);
                }
            }
        });
        node.run(0, |env| async move {
            for burst in 0..10 {
                for message in 0..16 {
                    sender.send(burst * 16 + message).unwrap();
                }
                assert!(sender.send(0).is_err());
                env.sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
        assert_eq!(*got.borrow(), (0..160).collect::<Vec<_>>());
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
