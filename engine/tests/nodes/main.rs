//! Several nodes in the simulator: any of them serves, any M disks or their nodes may fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drain;
mod faults;
#[path = "../model/mod.rs"]
mod model;
mod slow;
mod status;

use buckets_engine::counters::CoreCounters;
use buckets_engine::node::Contents;
use buckets_engine::object::api::{CompletePart, ListEntry, ListRequest, ObjectError, WriteCondition};
use buckets_engine::object::store::Store;
use buckets_env::Env;
use buckets_env::sim::{LinkOptions, Simulation, sweep, sweep_and};
use buckets_ring::coding::Coding;
use buckets_ring::id::UploadId;
use futures::channel::oneshot;
use futures::future::{join, join_all};
use model::nodes::{Nodes, Plan};
use model::{BUCKET, Content, complete, put, read, upload};
use std::time::Duration;

fn three_nodes() -> Plan {
    Plan { nodes: 3, cores: 2, disks_per_node: 2, coding: Coding::new(4, 2).unwrap() }
}

/// Runs a deployment, and `drive` on a machine beside it.
fn run(seed: u64, plan: Plan, drive: impl AsyncFnOnce(&Simulation, &Nodes, Env)) {
    let simulation = Simulation::new(seed);
    let nodes = Nodes::format(&simulation, plan);
    nodes.start_all();
    let operator = simulation.node("operator");
    operator.run(0, async |env: Env| drive(&simulation, &nodes, env).await).unwrap();
    drop((nodes, operator));
    assert_eq!(simulation.end(), 0, "cores that ended hold themselves");
}

/// The first node's store, with a bucket.
async fn with_bucket(nodes: &Nodes, env: &Env) -> Store {
    let store = nodes.store(env, 0, 0).await;
    store.create_bucket(BUCKET, "here").await.unwrap();
    store
}

#[test]
fn what_one_node_took_every_node_gives() {
    sweep(0..5, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let first = nodes.store(&env, 0, 0).await;
            first.create_bucket(BUCKET, "here").await.unwrap();
            let lens = [0, 1, 5000, 20_000, 300_000, 3_000_000];
            for (number, len) in lens.into_iter().enumerate() {
                let content = Content { seed: number as u64, len };
                let store = nodes.store(&env, number % 3, number % 2).await;
                put(&store, &format!("k{number}"), content, WriteCondition::Always).await.unwrap();
            }
            for node in 0..3 {
                let store = nodes.store(&env, node, 1).await;
                for (number, len) in lens.into_iter().enumerate() {
                    let found = read(&store, &format!("k{number}")).await.unwrap().unwrap();
                    assert!(found.bytes == Content { seed: number as u64, len }.bytes());
                }
                let page = store.list(BUCKET, ListRequest { max_keys: 100, ..Default::default() }).await;
                let keys = |entry: ListEntry| match entry {
                    ListEntry::Object(object) => object.key,
                    ListEntry::Prefix(prefix) => panic!("{prefix} without a delimiter"),
                };
                let keys: Vec<String> = page.unwrap().entries.into_iter().map(keys).collect();
                assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4", "k5"]);
            }
        });
    });
}

#[test]
fn pages_over_many_partitions_are_those_of_one_sorted_list() {
    sweep(0..3, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            // Folders lie in one partition, in some, in all.
            let mut keys: Vec<String> = (0..360)
                .map(|n| match n % 3 {
                    0 => format!("{}/{n}", n % 7),
                    1 => format!("{n}/{}/{n}", n % 5),
                    _ => format!("{n}"),
                })
                .collect();
            keys.sort();
            join_all(keys.iter().map(async |key| {
                let content = Content { seed: 2, len: 0 };
                put(&store, key, content, WriteCondition::Always).await.unwrap();
            }))
            .await;
            for (prefix, delimiter) in
                [("", None), ("", Some("/")), ("1/", Some("/")), ("1", Some("/")), ("2", None)]
            {
                let rolled_up = |key: &String| {
                    let rest = key.strip_prefix(prefix)?;
                    let cut = delimiter.and_then(|delimiter| rest.find(delimiter));
                    Some(cut.map_or(key.clone(), |at| key[..=prefix.len() + at].to_owned()))
                };
                let mut expected: Vec<String> = keys.iter().filter_map(rolled_up).collect();
                expected.dedup();
                for max_keys in [1, 2, 7, 50, 1000] {
                    let (mut listed, mut after) = (Vec::new(), None);
                    loop {
                        let request = ListRequest {
                            prefix: prefix.to_owned(),
                            delimiter: delimiter.map(str::to_owned),
                            after,
                            max_keys,
                        };
                        let page = store.list(BUCKET, request).await.unwrap();
                        assert!(page.entries.len() == max_keys || page.next.is_none());
                        listed.extend(page.entries.into_iter().map(|entry| match entry {
                            ListEntry::Object(object) => object.key,
                            ListEntry::Prefix(prefix) => prefix,
                        }));
                        after = page.next;
                        if after.is_none() {
                            break;
                        }
                    }
                    assert_eq!(listed, expected, "{prefix:?}, {delimiter:?}, pages of {max_keys}");
                }
            }
        });
    });
}

/// Of all nodes that take requests.
async fn counters(nodes: &Nodes) -> CoreCounters {
    let mut sum = CoreCounters::default();
    for node in 0..nodes.plan.nodes {
        if let Some(store) = nodes.life(node).and_then(|life| life.ready(0)) {
            sum.add(store.status().await.unwrap().own.counters);
        }
    }
    sum
}

/// Waits until nothing is left to be written again.
async fn repaired(env: &Env, nodes: &Nodes) -> CoreCounters {
    for _ in 0..600 {
        env.sleep(Duration::from_millis(200)).await;
        let counters = counters(nodes).await;
        if counters.chunks_repaired > 0 && counters.parts_to_repair == 0 {
            assert_eq!(counters.bytes_to_repair, 0);
            return counters;
        }
    }
    panic!("not repaired: {:?}", counters(nodes).await);
}

/// Completes an upload, however often leaders change.
async fn complete_at_last(env: &Env, store: &Store, key: &str, id: UploadId, parts: Vec<CompletePart>) {
    loop {
        match complete(store, key, id, parts.clone(), WriteCondition::Always).await {
            // Without an answer it may have happened.
            Ok(()) | Err(ObjectError::NoSuchUpload) => break,
            Err(_) => env.sleep(Duration::from_millis(100)).await,
        }
    }
}

#[test]
fn what_a_write_could_not_place_is_written_when_its_node_is_back() {
    // 10: the message that gives a late chunk up came when the chunk had been written again.
    sweep_and(0..6, &[10], |seed| {
        let plan = Plan { nodes: 5, cores: 1, disks_per_node: 1, coding: Coding::new(3, 2).unwrap() };
        run(seed, plan, async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let contents: Vec<Content> = (0..9).map(|n| Content { seed: 2 * n, len: 400_000 }).collect();
            // Nobody knows yet that a node does not answer.
            let lost = 1 + seed as usize % 4;
            let others: Vec<_> = (0..5).filter(|node| *node != lost).map(|n| &nodes.nodes[n]).collect();
            simulation.partition(&[&nodes.nodes[lost]], &others);
            let put_one = |number: usize| {
                let (env, store, content) = (&env, &store, contents[number]);
                async move {
                    let key = format!("k{number}");
                    while put(store, &key, content, WriteCondition::Always).await.is_err() {
                        env.sleep(Duration::from_millis(100)).await;
                    }
                }
            };
            let upload_one = async {
                while upload(&store, "k8", contents[8]).await.is_err() {
                    env.sleep(Duration::from_millis(100)).await;
                }
                let (upload, parts) = upload(&store, "k8", contents[8]).await.unwrap();
                complete_at_last(&env, &store, "k8", upload, parts).await;
            };
            join(join_all((0..8).map(put_one)), upload_one).await;
            // Rarely the node was known to be gone by the time of every write.
            let waiting = counters(nodes).await;
            let is_degraded = waiting.parts_to_repair > 0;
            // A chunk of each: a third of the body, or a half where a part knew of one that it had to do without.
            let chunks =
                waiting.parts_to_repair * 400_000_u64.div_ceil(3)..=waiting.parts_to_repair * 200_000;
            assert!(chunks.contains(&waiting.bytes_to_repair), "{waiting:?}");
            simulation.heal_all();
            if is_degraded {
                repaired(&env, nodes).await;
            }
            // With two others gone, what was written again is needed.
            let mut gone = (1..5).filter(|node| *node != lost);
            nodes.crash(gone.next().unwrap());
            nodes.crash(gone.next().unwrap());
            env.sleep(Duration::from_secs(5)).await;
            for (number, content) in contents.iter().enumerate() {
                let found = read(&store, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content.bytes());
            }
        });
    });
}

#[test]
fn what_a_read_did_not_find_whole_is_written_again() {
    sweep(0..6, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 1, len: 500_000 };
            for number in 0..8 {
                put(&store, &format!("k{number}"), content, WriteCondition::Always).await.unwrap();
            }
            // Every block on one disk of the last node.
            let disk = nodes.nodes[2].disk("/d1");
            for file in nodes.nodes[2].files("/d1") {
                if file.to_string_lossy().contains("/space/") {
                    for page in 0..2048 {
                        disk.flip_byte(&file, page * 4096 + 77, 0xff);
                    }
                }
            }
            let reader = nodes.store(&env, 1, 0).await;
            for number in 0..8 {
                let found = read(&reader, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content.bytes());
            }
            let before = repaired(&env, nodes).await;
            assert!(before.blocks_damaged > 0);
            // A core that has none of it in memory meets no damage any more.
            let reader = nodes.store(&env, 0, 1).await;
            for number in 0..8 {
                let found = read(&reader, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content.bytes());
            }
            assert_eq!(counters(nodes).await.blocks_damaged, before.blocks_damaged);
        });
    });
}

/// Waits until every disk has what belongs on it.
async fn whole(env: &Env, nodes: &Nodes) {
    for _ in 0..600 {
        if nodes.are_whole() {
            return;
        }
        env.sleep(Duration::from_millis(200)).await;
    }
    let states = |node: usize| {
        let map = nodes.life(node).unwrap().map;
        map.disks_of(map.own).map(|(_, disk)| (disk.state(), disk.reason())).collect::<Vec<_>>()
    };
    panic!("still not whole: {:?}", (0..nodes.plan.nodes).map(states).collect::<Vec<_>>());
}

#[test]
fn what_an_emptied_node_had_is_written_again() {
    sweep(0..12, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let lens = [0, 1, 5000, 20_000, 300_000, 3_000_000];
            let content = |number: usize| Content { seed: number as u64, len: lens[number % lens.len()] };
            for number in 0..40 {
                put(&store, &format!("k{number}"), content(number), WriteCondition::Always).await.unwrap();
            }
            let big = Content { seed: 70, len: 7_000_000 };
            let (id, parts) = upload(&store, "upload", big).await.unwrap();
            // One disk, which the operator says; or both, of which only the votes tell.
            nodes.crash(1);
            let (paths, contents) = match seed % 2 {
                0 => (&["/d1"][..], Contents::Lost),
                _ => (&["/d1", "/d2"][..], Contents::Nothing),
            };
            for path in paths {
                nodes.empty(1, path, contents).await;
            }
            nodes.start(1);
            nodes.store(&env, 1, 0).await;
            assert!(!nodes.are_whole());
            if seed % 3 == 0 {
                // It goes on where it was.
                env.sleep(Duration::from_millis(200 * seed)).await;
                nodes.crash(1);
                nodes.start(1);
            }
            complete_at_last(&env, &store, "upload", id, parts).await;
            whole(&env, nodes).await;
            // As many disks as may be lost: what was written again is needed.
            nodes.crash(2);
            env.sleep(Duration::from_secs(5)).await;
            for number in 0..40 {
                let found = read(&store, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content(number).bytes(), "k{number}");
            }
            assert!(read(&store, "upload").await.unwrap().unwrap().bytes == big.bytes());
        });
    });
}

#[test]
fn what_a_damaged_chunk_table_held_is_written_again() {
    sweep(0..4, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = |number: u64| Content { seed: number, len: 200_000 };
            for number in 0..20 {
                put(&store, &format!("k{number}"), content(number), WriteCondition::Always).await.unwrap();
            }
            let closed = nodes.store(&env, 1, 0).await;
            join(closed.close(), nodes.store(&env, 1, 1).await.close()).await;
            nodes.crash(1);
            let disk = nodes.nodes[1].disk("/d1");
            let files = nodes.nodes[1].files("/d1");
            let table = files.iter().filter(|file| file.to_string_lossy().contains("/chunks."));
            let flipped =
                table.map(|file| (0..1 << 20).filter(|at| disk.flip_byte(file, at * 64, 0xff)).count());
            assert!(flipped.sum::<usize>() > 0, "{files:?}");
            nodes.start(1);
            nodes.store(&env, 1, 0).await;
            assert!(!nodes.are_whole());
            if seed % 2 == 1 {
                nodes.crash(1);
                nodes.start(1);
                nodes.store(&env, 1, 0).await;
            }
            whole(&env, nodes).await;
            // As many disks as may be lost: what was written again is needed.
            nodes.crash(2);
            env.sleep(Duration::from_secs(5)).await;
            for number in 0..20 {
                let found = read(&store, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content(number).bytes(), "k{number}");
            }
        });
    });
}

/// Whenever it crashes, it knows afterwards that chunks are missing.
#[test]
fn an_emptied_node_that_crashes_before_it_knows_much_is_written_again() {
    sweep(0..120, |seed| {
        let plan = Plan { nodes: 3, cores: 1, disks_per_node: 1, coding: Coding::new(2, 1).unwrap() };
        run(seed, plan, async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 4, len: 100_000 };
            for number in 0..4 {
                put(&store, &format!("k{number}"), content, WriteCondition::Always).await.unwrap();
            }
            nodes.crash(1);
            nodes.empty(1, "/d1", Contents::Nothing).await;
            let node = &nodes.nodes[1];
            node.crash_at_io(1 + seed);
            nodes.start(1);
            env.timeout(Duration::from_secs(30), node.crashed()).await;
            node.cancel_crash();
            nodes.start(1);
            nodes.store(&env, 1, 0).await;
            whole(&env, nodes).await;
            // Its chunks are needed.
            nodes.crash(2);
            env.sleep(Duration::from_secs(5)).await;
            for number in 0..4 {
                let found = read(&store, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content.bytes(), "k{number}");
            }
        });
    });
}

/// Its partitions were asked what belongs on the disk when there was no manifest yet.
#[test]
fn what_is_emptied_between_its_chunks_and_their_manifest_is_written_again() {
    // 36: the chunks are there, and the news of it is lost together with the node that wrote them.
    sweep_and(0..6, &[36], |seed| {
        let plan = Plan { nodes: 5, cores: 1, disks_per_node: 1, coding: Coding::new(3, 2).unwrap() };
        run(seed, plan, async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 2, len: 300_000 };
            let write = async {
                while put(&store, "key", content, WriteCondition::Always).await.is_err() {
                    env.sleep(Duration::from_millis(100)).await;
                }
            };
            let emptied = async {
                env.sleep(Duration::from_micros(1200 + 20 * seed)).await;
                let others: Vec<_> = (1..5).map(|node| &nodes.nodes[node]).collect();
                simulation.partition(&[&nodes.nodes[0]], &others);
                nodes.crash(1);
                nodes.empty(1, "/d1", Contents::Lost).await;
                nodes.start(1);
                // The writer waits a little longer for its partition's leader.
                env.sleep(Duration::from_secs(6)).await;
                simulation.heal_all();
            };
            join(write, emptied).await;
            whole(&env, nodes).await;
            env.sleep(Duration::from_secs(10)).await;
            nodes.crash(2);
            nodes.crash(3);
            env.sleep(Duration::from_secs(5)).await;
            let found = read(&store, "key").await.unwrap().unwrap();
            assert!(found.bytes == content.bytes());
        });
    });
}

/// A part waits for others of its blocks, a flush and a commit: one after the other, a disk of many would take days.
#[test]
fn small_parts_are_written_again_side_by_side() {
    sweep(0..3, |seed| {
        let plan = Plan { nodes: 3, cores: 1, disks_per_node: 2, coding: Coding::new(4, 2).unwrap() };
        run(seed, plan, async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 5, len: 20_000 };
            for twenty in 0..20 {
                let keys: Vec<String> = (0..20).map(|n| format!("k{twenty:02}{n:02}")).collect();
                let puts = keys.iter().map(|key| put(&store, key, content, WriteCondition::Always));
                join_all(puts).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
            }
            nodes.crash(1);
            nodes.empty(1, "/d1", Contents::Lost).await;
            let delay = Duration::from_millis(2);
            let link = LinkOptions { delay: delay..delay * 2, loss_per_million: 0 };
            for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                simulation.set_link(&nodes.nodes[from], &nodes.nodes[to], link.clone());
            }
            nodes.start(1);
            nodes.store(&env, 1, 0).await;
            let repaired = async || counters(nodes).await.chunks_repaired;
            while repaired().await < 10 {
                env.sleep(Duration::from_millis(10)).await;
            }
            let (start, before) = (env.now(), repaired().await);
            while repaired().await < 300 {
                env.sleep(Duration::from_millis(10)).await;
            }
            let took = env.now().since(start) / (300 - before as u32);
            println!("seed {seed}: {took:?} for each part");
            assert!(took < delay * 4, "{took:?} for each of several round trips");
            whole(&env, nodes).await;
        });
    });
}

/// It takes its time, as its client does, and nobody can ask it.
#[test]
fn what_a_gateway_reads_is_freed_behind_it() {
    sweep(0..4, |seed| {
        run(seed, three_nodes(), async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let (old, new) = (Content { seed: 8, len: 20_000_000 }, Content { seed: 9, len: 1000 });
            put(&store, "key", old, WriteCondition::Always).await.unwrap();
            let sim = simulation.node("gateway");
            let life = nodes.start_gateway(&sim);
            let gateway = loop {
                match life.ready(0) {
                    Some(gateway) => break gateway,
                    None => env.sleep(Duration::from_millis(5)).await,
                }
            };
            let (done, received) = oneshot::channel();
            let inside = sim.env(0);
            sim.env(0).spawn(async move {
                let mut stream = gateway.open(BUCKET, "key").await.unwrap().read(0..old.len);
                let mut bytes = Vec::new();
                while let Some(block) = stream.next().await.unwrap() {
                    bytes.extend_from_slice(&block);
                    inside.sleep(Duration::from_millis(500)).await;
                }
                done.send(bytes).unwrap();
            });
            env.sleep(Duration::from_secs(2)).await;
            put(&store, "key", new, WriteCondition::Always).await.unwrap();
            assert!(received.await.unwrap() == old.bytes());
            let freed = || async { counters(nodes).await.chunks_freed };
            let mut waited = 0;
            while freed().await < 6 {
                waited += 1;
                assert!(waited < 300, "what nobody reads any more is still there");
                env.sleep(Duration::from_secs(1)).await;
            }
        });
    });
}

/// Its way to one of the others breaks while it reads, so that this one cannot ask what it reads.
#[test]
fn what_a_node_reads_that_is_not_heard_is_not_freed() {
    sweep(0..6, |seed| {
        run(seed, three_nodes(), async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let (old, new) = (Content { seed: 8, len: 20_000_000 }, Content { seed: 9, len: 1000 });
            put(&store, "key", old, WriteCondition::Always).await.unwrap();
            let reader = nodes.store(&env, 2, 0).await;
            let (done, received) = oneshot::channel();
            let inside = nodes.nodes[2].env(0);
            nodes.nodes[2].env(0).spawn(async move {
                let mut stream = reader.open(BUCKET, "key").await.unwrap().read(0..old.len);
                let mut bytes = Vec::new();
                while let Some(block) = stream.next().await.unwrap() {
                    bytes.extend_from_slice(&block);
                    inside.sleep(Duration::from_secs(1)).await;
                }
                done.send(bytes).unwrap();
            });
            env.sleep(Duration::from_secs(2)).await;
            simulation.partition(&[&nodes.nodes[2]], &[&nodes.nodes[seed as usize % 2]]);
            env.sleep(Duration::from_secs(3)).await;
            while put(&store, "key", new, WriteCondition::Always).await.is_err() {
                env.sleep(Duration::from_millis(200)).await;
            }
            assert!(received.await.unwrap() == old.bytes());
        });
    });
}

/// More disks than may be lost are taken for emptied ones, and lack nothing.
#[test]
fn what_is_only_suspected_still_counts_where_nothing_else_is_left() {
    sweep(0..4, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 3, len: 300_000 };
            for number in 0..8 {
                put(&store, &format!("k{number}"), content, WriteCondition::Always).await.unwrap();
            }
            for node in [1, 2] {
                nodes.crash(node);
                for path in ["/d1", "/d2"] {
                    nodes.suspect(node, path).await;
                }
                nodes.start(node);
                nodes.store(&env, node, 0).await;
            }
            assert!(!nodes.are_whole());
            whole(&env, nodes).await;
            for number in 0..8 {
                let found = read(&store, &format!("k{number}")).await.unwrap().unwrap();
                assert!(found.bytes == content.bytes());
            }
        });
    });
}

#[test]
fn a_node_that_goes_in_the_middle_of_a_write_does_not_fail_it() {
    sweep(0..24, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 2, len: 3_000_000 };
            let gone = async {
                env.sleep(Duration::from_micros(seed * 1500)).await;
                nodes.kill(1);
            };
            let write = put(&store, "key", content, WriteCondition::Always);
            let (written, ()) = join(write, gone).await;
            match written {
                Ok(()) => {
                    let found = read(&store, "key").await.unwrap().unwrap();
                    assert!(found.bytes == content.bytes());
                }
                // The manifest was under way to the node that went.
                Err(error) => assert_eq!(error.to_string(), "unavailable: the outcome is unknown"),
            }
        });
    });
}

#[test]
fn a_minority_says_nothing_that_may_be_old() {
    sweep(0..6, |seed| {
        run(seed, three_nodes(), async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 2, len: 30_000 };
            put(&store, "key", content, WriteCondition::Always).await.unwrap();
            let cut_off = nodes.store(&env, 2, 0).await;
            simulation.partition(&[&nodes.nodes[2]], &[&nodes.nodes[0], &nodes.nodes[1]]);
            let newer = Content { seed: 4, len: 40_000 };
            while put(&store, "key", newer, WriteCondition::Always).await.is_err() {
                env.sleep(Duration::from_millis(100)).await;
            }
            // Before the nodes know of each other's absence, too.
            assert!(read(&cut_off, "key").await.is_err());
            assert!(put(&cut_off, "key", content, WriteCondition::Always).await.is_err());
            env.sleep(Duration::from_secs(4)).await;
            store.create_bucket("another", "here").await.unwrap();
            assert!(cut_off.buckets().is_err() && cut_off.bucket("another").is_err());
            let page = ListRequest { max_keys: 10, ..ListRequest::default() };
            assert!(cut_off.list(BUCKET, page).await.is_err());
            simulation.heal_all();
            env.sleep(Duration::from_secs(20)).await;
            assert_eq!(cut_off.buckets().unwrap().len(), 2);
            assert!(read(&cut_off, "key").await.unwrap().unwrap().bytes == newer.bytes());
        });
    });
}

#[test]
fn a_node_that_hangs_with_as_many_disks_as_may_be_lost_holds_nobody_up_for_long() {
    sweep(0..6, |seed| {
        let plan = Plan { nodes: 3, cores: 1, disks_per_node: 4, coding: Coding::new(8, 4).unwrap() };
        run(seed, plan, async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 2, len: 3_000_000 };
            put(&store, "key", content, WriteCondition::Always).await.unwrap();
            // Another node reads: the first has it in memory.
            let reader = nodes.store(&env, 1, 0).await;
            simulation.partition(&[&nodes.nodes[2]], &[&nodes.nodes[0], &nodes.nodes[1]]);
            let start = env.now();
            let reads = async {
                let found = read(&reader, "key").await.unwrap().unwrap();
                assert!(found.bytes == content.bytes());
                env.now().since(start)
            };
            let writes = join_all((0..4).map(|number| {
                let (env, store) = (&env, &store);
                async move {
                    let outcome = put(store, &format!("new{number}"), content, WriteCondition::Always).await;
                    if let Err(error) = outcome {
                        assert_eq!(error.to_string(), "unavailable: the outcome is unknown");
                    }
                    env.now().since(start)
                }
            }));
            let (read_took, writes_took) = join(reads, writes).await;
            // Until another leads, where the partition was led by the node that hangs.
            assert!(read_took < Duration::from_secs(5), "{read_took:?}");
            assert!(writes_took.iter().all(|took| *took < Duration::from_secs(6)), "{writes_took:?}");
        });
    });
}

#[test]
fn writes_go_on_soon_after_a_leader_is_lost() {
    sweep(0..24, |seed| {
        run(seed, three_nodes(), async |simulation, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let content = Content { seed: 2, len: 3000 };
            put(&store, "first", content, WriteCondition::Always).await.unwrap();
            // Until each partition is led by the disk that should.
            env.sleep(Duration::from_secs(10) + Duration::from_millis(37 * seed)).await;
            match seed % 2 == 1 {
                true => simulation.partition(&[&nodes.nodes[2]], &[&nodes.nodes[0], &nodes.nodes[1]]),
                false => nodes.kill(2),
            }
            let start = env.now();
            let writes = (0..40).map(|number| {
                let (env, store) = (&env, &store);
                async move {
                    let key = format!("k{number}");
                    while put(store, &key, content, WriteCondition::Always).await.is_err() {
                        env.sleep(Duration::from_millis(10)).await;
                    }
                    env.now().since(start)
                }
            });
            let slowest = join_all(writes).await.into_iter().max().unwrap();
            assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
        });
    });
}

/// A virtual machine that is not scheduled, and whose clock stands still: it goes on in the middle of a write of which the
/// others have long given up what it wrote.
#[test]
fn what_was_given_up_is_not_committed() {
    sweep(0..24, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let store = with_bucket(nodes, &env).await;
            let writer = nodes.store(&env, 2, 0).await;
            env.sleep(Duration::from_secs(5)).await;
            let content = Content { seed, len: 300_000 };
            let (done, outcome) = oneshot::channel();
            nodes.nodes[2].env(0).spawn(async move {
                let _ = done.send(match seed % 2 == 0 {
                    true => put(&writer, "key", content, WriteCondition::Always).await.map(|()| None),
                    false => upload(&writer, "key", content).await.map(Some),
                });
            });
            env.sleep(Duration::from_micros(500 * seed)).await;
            nodes.nodes[2].suspend(Duration::from_secs(500));
            let outcome = outcome.await.unwrap();
            env.sleep(Duration::from_secs(5)).await;
            if let Ok(Some((upload, parts))) = &outcome {
                complete(&store, "key", *upload, parts.clone(), WriteCondition::Always).await.unwrap();
            }
            let found = read(&store, "key").await.unwrap();
            assert!(found.is_some() || outcome.is_err());
            assert!(found.is_none_or(|found| found.bytes == content.bytes()));
        });
    });
}
