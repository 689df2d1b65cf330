//! Tasks, time, crashes of nodes and messages between cores.

use super::super::{Crashed, Simulation};
use super::each_seed;
use crate::{Env, core_queue};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

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
    each_seed(0..20, |seed| {
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
fn a_paused_node_does_nothing_until_it_goes_on_or_is_started_again() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let start = simulation.now();
    let ticks = Rc::new(RefCell::new(Vec::new()));
    let tick = |env: Env| {
        let ticks = ticks.clone();
        async move {
            loop {
                env.sleep(Duration::from_millis(10)).await;
                ticks.borrow_mut().push(env.now().since(start).as_millis());
            }
        }
    };
    node.env(0).spawn(tick(node.env(0)));
    let wait = |millis| {
        simulation
            .node("other")
            .run(0, |env| async move { env.sleep(Duration::from_millis(millis)).await })
            .unwrap();
    };
    wait(15);
    node.pause(Duration::from_millis(100));
    wait(145);
    // What came due meanwhile happens when it goes on; its clock has gone on, too.
    assert_eq!(ticks.take(), [10, 115, 125, 135, 145, 155]);
    node.pause(Duration::from_secs(10));
    wait(50);
    assert!(ticks.borrow().is_empty());
    node.kill();
    node.env(0).spawn(tick(node.env(0)));
    wait(25);
    assert_eq!(ticks.take(), [220, 230]);
}

#[test]
fn the_clock_of_a_suspended_node_stands_still() {
    let simulation = Simulation::new(1);
    let (node, other) = (simulation.node("a"), simulation.node("other"));
    let ticks = Rc::new(RefCell::new(Vec::new()));
    let (env, kept, world) = (node.env(0), ticks.clone(), other.env(0));
    let (start, started) = (env.now(), world.now());
    env.clone().spawn(async move {
        loop {
            env.sleep(Duration::from_millis(10)).await;
            kept.borrow_mut()
                .push((env.now().since(start).as_millis(), world.now().since(started).as_millis()));
        }
    });
    let wait = |millis| {
        other.run(0, |env| async move { env.sleep(Duration::from_millis(millis)).await }).unwrap();
    };
    wait(15);
    node.suspend(Duration::from_millis(100));
    wait(120);
    assert_eq!(ticks.take(), [(10, 10), (20, 120), (30, 130)]);
    node.suspend(Duration::from_secs(10));
    wait(5);
    node.kill();
    let before = node.env(0).now();
    wait(5);
    assert_eq!(node.env(0).now().since(before), Duration::from_millis(5));
}

#[test]
fn a_drifting_clock_shows_and_sleeps_by_its_own_time() {
    let simulation = Simulation::new(1);
    let (fast, slow) = (simulation.node("fast"), simulation.node("slow"));
    fast.drift_clock(100_000);
    slow.drift_clock(-100_000);
    let hour = Duration::from_secs(3600);
    for (node, expected) in [(&fast, hour.div_f64(1.1)), (&slow, hour.div_f64(0.9) / 10)] {
        let start = simulation.now();
        let sleep = if node.name() == "fast" { hour } else { hour / 10 };
        let shown = node.run(0, |env| async move {
            let before = env.now();
            env.sleep(sleep).await;
            env.now().since(before)
        });
        let passed = simulation.now().since(start);
        assert!(shown.unwrap() >= sleep && shown.unwrap() - sleep < Duration::from_micros(1));
        assert!(passed.abs_diff(expected) < Duration::from_micros(1), "{passed:?}");
    }
}

#[test]
fn messages_between_cores_arrive_in_order_and_a_full_queue_refuses() {
    each_seed(0..20, |seed| {
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
