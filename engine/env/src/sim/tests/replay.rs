//! A seed is a run.

use super::super::{DiskFaults, SimOptions, Simulation, assert_replays};
use super::{each_seed, page};
use crate::{Env, OpenMode, WriteMode, core_queue};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Nodes that write files, flush, send messages between cores and over the network, crash and restart, on disks
/// and links with faults. Gives the trace hash and the number of events.
fn busy_run(seed: u64) -> (u64, u64) {
    let simulation = Simulation::with_options(seed, SimOptions::default());
    let nodes: Vec<_> = (0..3).map(|index| simulation.node(&format!("node-{index}"))).collect();
    let mut rng = simulation.rng();
    for node in &nodes {
        node.disk("/d").faults(DiskFaults {
            read_error_per_million: 1000,
            write_error_per_million: 1000,
            flush_error_per_million: 1000,
            bit_rot_per_million: 1000,
            ..DiskFaults::default()
        });
    }
    for _round in 0..3 {
        for (index, node) in nodes.iter().enumerate() {
            let (sender, receiver) = core_queue::<u64>(64, node.waker(1));
            node.env(1).spawn(async move { while receiver.recv().await != u64::MAX {} });
            node.env(0).spawn(serve(node.env(0)));
            for task in 0..4 {
                let (node, env, sender) = (node.clone(), node.env(0), sender.clone());
                let peer = SocketAddr::new(nodes[(index + 1) % nodes.len()].ip(), 9000);
                node.env(0).spawn(async move {
                    env.create_dir_all("/d".as_ref()).await.ok();
                    let path = PathBuf::from(format!("/d/{task}"));
                    let file = match env.open(&path, OpenMode::CreateNew).await {
                        Ok(file) => file,
                        Err(_) => env.open(&path, OpenMode::Existing).await.unwrap(),
                    };
                    loop {
                        let number = env.random_u64();
                        let mode = if number & 1 == 0 { WriteMode::Flushed } else { WriteMode::Unflushed };
                        file.write_at(number % 64 * 4096, page(number as u8), mode).await.ok();
                        file.read_at(0, 4096).await.ok();
                        if number & 6 == 0 {
                            file.sync_data().await.ok();
                            env.write_file_durably("/d/small".as_ref(), &number.to_le_bytes()).await.ok();
                        }
                        sender.send(number).ok();
                        if let Ok(mut stream) = node.connect(peer).await {
                            stream.write_all(&number.to_le_bytes()).await.ok();
                            stream.read(&mut [0; 8]).await.ok();
                        }
                        env.sleep(Duration::from_micros(number % 500)).await;
                    }
                });
            }
        }
        simulation.run_for(Duration::from_millis(20));
        simulation.partition(&[&nodes[0]], &[&nodes[1], &nodes[2]]);
        nodes[1].crash_at_io(1 + rng.below(20));
        simulation.run_for(Duration::from_millis(5));
        simulation.heal_all();
        for node in &nodes {
            node.crash();
        }
    }
    (simulation.trace_hash(), simulation.events())
}

async fn serve(env: Env) {
    let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], 9000))).unwrap();
    loop {
        let Ok(mut stream) = listener.accept().await else { continue };
        env.spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}

#[test]
fn the_same_seed_replays_exactly_and_another_does_not() {
    let mut hashes = BTreeSet::new();
    each_seed(0..10, |seed| {
        let (hash, events) = busy_run(seed);
        assert!(events > 5_000, "{events}");
        assert_eq!(busy_run(seed), (hash, events));
        hashes.insert(hash);
    });
    assert_eq!(hashes.len(), 10);
}

#[test]
fn a_run_that_does_not_repeat_is_shown_where_it_parts() {
    let runs = std::cell::Cell::new(0u64);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_replays(1, SimOptions::default(), |simulation| {
            runs.set(runs.get() + 1);
            let pause = Duration::from_millis(runs.get());
            simulation.node("a").run(0, |env| async move { env.sleep(pause).await }).unwrap();
        });
    }));
    let message = result.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("parts at event 1"), "{message}");
    assert_replays(1, SimOptions::default(), |simulation| simulation.run_for(Duration::from_secs(1)));
}

#[test]
fn what_a_task_does_is_part_of_the_trace() {
    let hash_of = |value: u8| {
        let simulation = Simulation::new(1);
        let write = |env: Env| async move {
            env.create_dir_all("/d".as_ref()).await.unwrap();
            let file = env.open("/d/file".as_ref(), OpenMode::CreateNew).await.unwrap();
            file.write_at(0, page(value), WriteMode::Flushed).await.unwrap();
        };
        simulation.node("a").run(0, write).unwrap();
        simulation.trace_hash()
    };
    assert_eq!(hash_of(1), hash_of(1));
    assert_ne!(hash_of(1), hash_of(2));
}

/// Run with `--ignored --nocapture` to see how fast the simulator is.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let tell = |what: &str, simulation: &Simulation, start: std::time::Instant| {
        let rate = simulation.events() as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("{what}: {} events, {rate:.2} M/s", simulation.events());
    };
    let start = std::time::Instant::now();
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    for _ in 0..100 {
        let env = node.env(0);
        node.env(0).spawn(async move {
            loop {
                env.yield_now().await;
                env.sleep(Duration::from_micros(10)).await;
            }
        });
    }
    simulation.run_for(Duration::from_millis(100));
    tell("sleep and yield", &simulation, start);

    let start = std::time::Instant::now();
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    for task in 0..8 {
        let env = node.env(0);
        node.env(0).spawn(async move {
            env.create_dir_all("/d".as_ref()).await.unwrap();
            let file = env.open(&PathBuf::from(format!("/d/{task}")), OpenMode::CreateNew).await.unwrap();
            let data = page(1);
            for at in 0.. {
                file.write_at(at % 64 * 4096, data.clone(), WriteMode::Unflushed).await.unwrap();
                file.read_at(at % 64 * 4096, 4096).await.unwrap();
                if at % 64 == 0 {
                    file.sync_data().await.unwrap();
                }
            }
        });
    }
    simulation.run_for(Duration::from_secs(3));
    tell("disk", &simulation, start);
}
