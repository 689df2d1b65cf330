//! Peers and servers over simulated links.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::Env;
use buckets_env::sim::{LinkOptions, SimNode, SimOptions, Simulation, sweep};
use buckets_peer::{
    AskError, HandshakeError, HealthState, Identity, Limits, Peer, PeerOptions, PeerServer, Secret,
};
use buckets_ring::id::DeploymentId;
use bytes::Bytes;
use futures::future::join_all;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use support::{Heard, PORT, bytes_of, identity, peer, serve, text, with_payload};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn nodes(simulation: &Simulation) -> (SimNode, SimNode) {
    (simulation.node("client"), simulation.node("server"))
}

/// A node that serves on some cores, and one that asks; both with the usual options.
struct Pair {
    simulation: Simulation,
    client: SimNode,
    server: SimNode,
    servers: Vec<PeerServer>,
    heard: Vec<Rc<Heard>>,
}

impl Pair {
    fn new(seed: u64, cores: u16) -> Pair {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let (servers, heard) = serve(&server, identity(2, cores), &PeerOptions::default());
        Pair { simulation, client, server, servers, heard }
    }

    /// Asks a core of the server's, from the client's node.
    fn ask<T>(&self, core: u16, work: impl AsyncFnOnce(Env, Peer) -> T) -> T {
        let asked = self.client.run(0, async |env: Env| {
            let peer = peer(&env, identity(1, 1), &self.server, core, &PeerOptions::default());
            work(env, peer).await
        });
        asked.unwrap()
    }
}

fn slow_link() -> LinkOptions {
    LinkOptions { delay: 2 * MS..30 * MS, loss_per_million: 0 }
}

#[test]
fn a_question_reaches_the_core_it_is_for_and_its_payload_comes_back_in_its_pieces() {
    sweep(0..20, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let options = PeerOptions::default();
        let (servers, heard) = serve(&server, identity(2, 3), &options);
        client
            .run(0, async |env: Env| {
                for core in 0..3 {
                    let peer = peer(&env, identity(1, 1), &server, core, &options);
                    let pieces: [&[usize]; 5] =
                        [&[], &[1], &[262_144, 262_144, 4096], &[300_000], &[3_000_000]];
                    for pieces in pieces {
                        let question = with_payload(&format!("to {core}"), pieces);
                        let answer = peer.request(question.clone(), 10 * SECOND).await.unwrap();
                        assert!(bytes_of(&answer) == bytes_of(&question));
                    }
                    assert_eq!(peer.remote().unwrap().cores, 3);
                }
            })
            .unwrap();
        for (core, heard) in heard.iter().enumerate() {
            let served: Vec<_> = heard.served.borrow().clone().into_iter().collect();
            assert_eq!(served, [(Bytes::from(format!("to {core}")), 5)]);
            assert!(heard.from.borrow().iter().all(|from| usize::from(from.for_core) == core));
        }
        let accepted: u64 = servers.iter().map(|server| server.counts().accepted).sum();
        assert_eq!(accepted, 3);
    });
}

#[test]
fn questions_overtake_each_other_over_a_slow_link() {
    sweep(0..10, |seed| {
        let pair = Pair::new(seed, 2);
        pair.simulation.set_link(&pair.client, &pair.server, slow_link());
        pair.simulation.set_link(&pair.server, &pair.client, slow_link());
        let took = pair.ask(1, async |env, peer| {
            peer.request(text("first"), 10 * SECOND).await.unwrap();
            let start = env.now();
            let questions = (0..200).map(|number| {
                let (peer, question) = (peer.clone(), text(&format!("wait {} {number}", number % 50)));
                async move {
                    let answer = peer.request(question.clone(), 10 * SECOND).await.unwrap();
                    assert_eq!(answer.head, question.head);
                }
            });
            join_all(questions).await;
            env.now().since(start)
        });
        // One after the other they would take 200 round trips.
        assert!(took < SECOND, "{took:?}");
    });
}

#[test]
fn messages_arrive_in_order() {
    let pair = Pair::new(1, 1);
    pair.ask(0, async |env, peer| {
        // There is no connection yet: it is lost.
        assert_eq!(peer.send(text("lost")), Err(AskError::Unreachable));
        env.sleep(SECOND).await;
        for number in 0..1000 {
            peer.send(text(&number.to_string())).unwrap();
        }
        env.sleep(SECOND).await;
        assert_eq!(peer.counts().dropped_unconnected, 1);
    });
    let expected: Vec<Bytes> = (0..1000).map(|number| Bytes::from(number.to_string())).collect();
    assert_eq!(*pair.heard[0].told.borrow(), expected);
}

/// Questions, and what became of them.
type Outcomes = Rc<RefCell<Vec<(Bytes, Result<(), AskError>)>>>;

/// Asks for ever, each question once, and notes what became of it.
async fn ask_on(env: Env, peer: Peer, outcomes: Outcomes, name: u32) {
    for number in 0_u32.. {
        let question =
            with_payload(&format!("wait {} {name}-{number}", number % 7), &[number as usize % 9000]);
        let head = question.head.clone();
        let outcome = peer.request(question, 800 * MS).await;
        env.sleep(20 * MS).await;
        outcomes.borrow_mut().push((head, outcome.map(drop)));
    }
}

#[test]
fn whatever_happens_an_outcome_says_the_truth() {
    let [unknown, definite, answered] = [const { AtomicU64::new(0) }; 3];
    sweep(0..40, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let mut rng = simulation.rng();
        if seed % 2 == 0 {
            let lossy = LinkOptions { delay: MS..10 * MS, loss_per_million: 3_000 };
            simulation.set_link(&client, &server, lossy.clone());
            simulation.set_link(&server, &client, lossy);
        }
        let options = PeerOptions { silence_max: 3 * SECOND, ..PeerOptions::default() };
        let (_, heard) = serve(&server, identity(2, 2), &options);
        let mut heard_in_all_lives = heard;
        let outcomes = Outcomes::default();
        let env = client.env(0);
        let peer = peer(&env, identity(1, 1), &server, (seed % 2) as u16, &options);
        for name in 0..8 {
            env.spawn(ask_on(env.clone(), peer.clone(), outcomes.clone(), name));
        }
        for _ in 0..10 {
            simulation.run_for(Duration::from_millis(rng.below(1500)));
            match rng.below(4) {
                0 => simulation.cut(&client, &server),
                1 => simulation.cut(&server, &client),
                2 => {
                    server.crash();
                    simulation.run_for(Duration::from_millis(rng.below(1500)));
                    heard_in_all_lives.extend(serve(&server, identity(2, 2), &options).1);
                }
                _ => simulation.heal_all(),
            }
        }
        simulation.heal_all();
        simulation.run_for(15 * SECOND);
        let before = outcomes.borrow().len();
        simulation.run_for(SECOND);
        let late: Vec<_> = outcomes.borrow()[before..].to_vec();
        if seed % 2 == 1 {
            assert!(
                late.len() > 100 && late.iter().all(|(_, outcome)| outcome.is_ok()),
                "it goes on afterwards"
            );
        }
        let times_served = |question: &Bytes| -> u32 {
            heard_in_all_lives
                .iter()
                .map(|life| life.served.borrow().get(question).copied().unwrap_or(0))
                .sum()
        };
        for (question, outcome) in &*outcomes.borrow() {
            let served = times_served(question);
            match outcome {
                Ok(()) => {
                    answered.fetch_add(1, Relaxed);
                    assert_eq!(served, 1, "{question:?} was answered");
                }
                Err(AskError::Unknown) => {
                    unknown.fetch_add(1, Relaxed);
                    assert!(served <= 1, "{question:?} was served again");
                }
                Err(error) => {
                    definite.fetch_add(1, Relaxed);
                    assert_eq!(served, 0, "{question:?} ended with {error}, and happened");
                }
            }
        }
    });
    let [unknown, definite, answered] = [unknown, definite, answered].map(AtomicU64::into_inner);
    assert!(unknown > 100 && definite > 100 && answered > 10_000, "{unknown}, {definite}, {answered}");
}

#[test]
fn a_question_ends_at_its_deadline_and_a_late_answer_is_dropped() {
    Pair::new(1, 1).ask(0, async |env, peer| {
        peer.request(text("first"), SECOND).await.unwrap();
        // The one that comes later has less time.
        let patient = peer.request(text("wait 3000 a"), 5 * SECOND);
        let hasty = async {
            env.sleep(10 * MS).await;
            let start = env.now();
            let outcome = peer.request(text("wait 2000 b"), 100 * MS).await.map(drop);
            assert_eq!(outcome, Err(AskError::Unknown));
            let took = env.now().since(start);
            assert!(took >= 100 * MS && took < 110 * MS, "{took:?}");
        };
        let (patient, ()) = futures::future::join(patient, hasty).await;
        assert!(patient.is_ok());
        let counts = peer.counts().connection;
        assert_eq!((counts.late_answers, counts.unknown, counts.answered), (1, 1, 2));
        // What nobody waits for any more is forgotten.
        assert!(env.timeout(10 * MS, peer.request(text("wait 500 c"), SECOND)).await.is_none());
        assert_eq!(peer.request(text("refuse"), SECOND).await.map(drop), Err(AskError::Declined));
    });
}

#[test]
fn a_lost_connection_ends_questions_and_is_made_again() {
    sweep(0..10, |seed| {
        let pair = Pair::new(seed, 2);
        pair.ask(1, async |env, peer| {
            for life in 1..=3 {
                peer.request(text("hello"), 5 * SECOND).await.unwrap();
                let lost = peer.request(text("wait 60000"), 60 * SECOND);
                let kill = async {
                    env.sleep(50 * MS).await;
                    pair.server.kill();
                };
                let start = env.now();
                let (lost, ()) = futures::future::join(lost, kill).await;
                assert_eq!(lost.map(drop), Err(AskError::Unknown));
                assert!(env.now().since(start) < SECOND);
                env.sleep(100 * MS).await;
                let refused = peer.request(text("nobody is there"), SECOND).await.map(drop);
                assert_eq!(refused, Err(AskError::Unreachable));
                serve(&pair.server, identity(2, 2), &PeerOptions::default());
                env.sleep(3 * SECOND).await;
                assert_eq!(peer.counts().connected, life + 1);
            }
            assert_eq!(peer.counts().lost, 3);
        });
    });
}

#[test]
fn a_cut_in_either_direction_makes_a_peer_suspect_then_down_and_healing_up() {
    for direction in 0..2 {
        let pair = Pair::new(direction, 1);
        pair.ask(0, async |env, peer| {
            peer.request(text("hello"), SECOND).await.unwrap();
            assert_eq!(peer.health(), HealthState::Up);
            match direction {
                0 => pair.simulation.cut(&pair.client, &pair.server),
                _ => pair.simulation.cut(&pair.server, &pair.client),
            }
            let outcome = peer.request(text("into the cut"), 2 * SECOND).await.map(drop);
            assert_eq!(outcome, Err(AskError::Unknown));
            env.sleep(2 * SECOND).await;
            assert_eq!(peer.health(), HealthState::Suspect);
            env.sleep(5 * SECOND).await;
            assert_eq!(peer.health(), HealthState::Down);
            env.sleep(60 * SECOND).await;
            assert_eq!(peer.health(), HealthState::Down);
            let start = env.now();
            assert!(peer.request(text("no way"), 20 * SECOND).await.is_err());
            assert!(env.now().since(start) < 10 * SECOND);
            pair.simulation.heal_all();
            env.sleep(10 * SECOND).await;
            assert_eq!(peer.health(), HealthState::Up);
            peer.request(text("again"), SECOND).await.unwrap();
        });
    }
}

#[test]
fn a_peer_that_becomes_late_is_slow_not_dead() {
    let pair = Pair::new(1, 1);
    pair.ask(0, async |env, peer| {
        peer.connect();
        env.sleep(5 * SECOND).await;
        assert!(peer.round_trip().unwrap() < 2 * MS);
        let link = |delay| LinkOptions { delay, loss_per_million: 0 };
        pair.simulation.set_link(&pair.server, &pair.client, link(400 * MS..600 * MS));
        env.sleep(5 * SECOND).await;
        for _ in 0..50 {
            assert_eq!(peer.health(), HealthState::Slow);
            peer.request(text("late"), 5 * SECOND).await.unwrap();
        }
        assert!(peer.round_trip().unwrap() > 200 * MS);
        pair.simulation.set_link(&pair.server, &pair.client, link(MS / 10..MS));
        env.sleep(30 * SECOND).await;
        assert_eq!((peer.health(), peer.counts().lost), (HealthState::Up, 0));
    });
}

#[test]
fn a_flood_is_declined_and_nobody_else_suffers() {
    sweep(0..5, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let limits = Limits { serving_max: 50, serving_bytes_max: 4 << 20, ..Limits::default() };
        let options = PeerOptions { limits, core_serving_max: 80, ..PeerOptions::default() };
        let (servers, heard) = serve(&server, identity(2, 1), &options);
        let flooding = PeerOptions::default();
        client
            .run(0, async |env: Env| {
                let flood = peer(&env, identity(1, 1), &server, 0, &flooding);
                let other = peer(&env, identity(3, 1), &server, 0, &flooding);
                other.request(text("hello"), SECOND).await.unwrap();
                let questions = (0..3000).map(|number| {
                    let question = with_payload(&format!("wait 300 {number}"), &[(number % 3) * 4096]);
                    flood.request(question, 10 * SECOND)
                });
                let calm = async {
                    for number in 0..50 {
                        let start = env.now();
                        other.request(text(&format!("calm {number}")), SECOND).await.unwrap();
                        assert!(env.now().since(start) < 50 * MS);
                    }
                };
                let (outcomes, ()) = futures::future::join(join_all(questions), calm).await;
                let declined =
                    outcomes.iter().filter(|outcome| matches!(outcome, Err(AskError::Declined))).count();
                let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
                assert_eq!(declined + answered, 3000);
                assert!(answered >= 50 && declined > 1000, "{answered}, {declined}");
            })
            .unwrap();
        assert!(heard[0].served.borrow().len() < 2000);
        assert!(servers[0].counts().connection.declined > 1000);
    });
}

#[test]
fn too_many_questions_at_once_are_refused_here() {
    let simulation = Simulation::new(1);
    let (client, server) = nodes(&simulation);
    let options = PeerOptions::default();
    serve(&server, identity(2, 1), &options);
    let limits = Limits { asking_max: 10, ..Limits::default() };
    let asking = PeerOptions { limits, ..PeerOptions::default() };
    client
        .run(0, async |env: Env| {
            let peer = peer(&env, identity(1, 1), &server, 0, &asking);
            // While it connects, and when it is connected.
            for _ in 0..2 {
                let questions = (0..30).map(|_| peer.request(text("wait 100"), 5 * SECOND));
                let outcomes = join_all(questions).await;
                assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
                let refused = |outcome: &Result<_, _>| matches!(outcome, Err(AskError::Overloaded));
                assert_eq!(outcomes.iter().filter(|outcome| refused(outcome)).count(), 20);
            }
        })
        .unwrap();
}

#[test]
fn strangers_are_refused_and_counted_by_name() {
    let simulation = Simulation::new(1);
    let (client, server) = nodes(&simulation);
    let options = PeerOptions::default();
    let (servers, heard) = serve(&server, identity(2, 1), &options);
    let secret = Secret::new(b"another secret of somebody").unwrap();
    let strangers = [
        (Identity { secret, ..identity(1, 1) }, 0, HandshakeError::WrongSecret),
        (
            Identity { deployment: DeploymentId::from_bytes([8; 16]), ..identity(1, 1) },
            0,
            HandshakeError::WrongDeployment,
        ),
        (Identity { versions: 2..=3, ..identity(1, 1) }, 0, HandshakeError::Version),
        (identity(2, 1), 0, HandshakeError::Reflected),
        (identity(1, 1), 1, HandshakeError::NoSuchCore),
    ];
    client
        .run(0, async |env: Env| {
            for (stranger, core, error) in strangers {
                let peer = peer(&env, stranger, &server, core, &options);
                let outcome = peer.request(text("let me in"), 5 * SECOND).await.map(drop);
                assert_eq!(outcome, Err(AskError::Unreachable));
                assert_eq!(peer.counts().refused[error.kind()], 1, "{error}");
                peer.close();
                env.sleep(SECOND).await;
                assert_eq!(servers[0].counts().refused[error.kind()], 1, "{error}");
            }
        })
        .unwrap();
    assert!(heard[0].served.borrow().is_empty() && heard[0].told.borrow().is_empty());
}

#[test]
fn garbage_oversized_and_silent_connections_are_ended_and_counted() {
    sweep(0..10, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let options = PeerOptions { handshakes_max: 20, ..PeerOptions::default() };
        let (servers, _) = serve(&server, identity(2, 1), &options);
        let address = SocketAddr::new(server.ip(), PORT);
        client
            .run(0, async |env: Env| {
                let mut oversized = b"BKTH\x01\0\xff\xff".to_vec();
                oversized.resize(2000, 7);
                let table: [(&[u8], HandshakeError); 4] = [
                    (b"GET / HTTP/1.1\r\n\r\n", HandshakeError::Garbage),
                    (&oversized, HandshakeError::Oversized(0)),
                    (b"BKTH\x01\0\x01\0checksumx", HandshakeError::Damaged),
                    (b"BKTH\x01\0\x40\0only half", HandshakeError::Late),
                ];
                for (words, error) in table {
                    let mut stream = env.connect(address).await.unwrap();
                    stream.write_all(words).await.unwrap();
                    let start = env.now();
                    let mut buffer = [0; 100];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                    let expected = if error == HandshakeError::Late { 4 * SECOND } else { SECOND };
                    assert!(env.now().since(start) < expected, "{error}");
                    assert_eq!(servers[0].counts().refused[error.kind()], 1, "{error}");
                }
                // Many who say nothing: over the limit they are not even listened to, and the others end by themselves.
                let mut silent = Vec::new();
                for _ in 0..30 {
                    silent.push(env.connect(address).await.unwrap());
                }
                env.sleep(SECOND).await;
                assert_eq!(servers[0].counts().refused[HandshakeError::Busy.kind()], 10);
                env.sleep(5 * SECOND).await;
                assert_eq!(servers[0].counts().refused[HandshakeError::Late.kind()], 21);
                let peer = peer(&env, identity(1, 1), &server, 0, &options);
                peer.request(text("an honest one"), SECOND).await.unwrap();
            })
            .unwrap();
    });
}

#[test]
fn strangers_who_keep_every_place_do_not_keep_nodes_out() {
    sweep(0..10, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let options = PeerOptions { handshakes_max: 20, ..PeerOptions::default() };
        serve(&server, identity(2, 1), &options);
        let address = SocketAddr::new(server.ip(), PORT);
        let stranger = simulation.node("stranger").env(0);
        let flood = stranger.clone();
        stranger.spawn(async move {
            let mut silent = Vec::new();
            for _ in 0..1000 {
                silent.extend(flood.connect(address).await);
                flood.sleep(10 * MS).await;
            }
        });
        client
            .run(0, async |env: Env| {
                env.sleep(SECOND).await;
                for _ in 0..5 {
                    let peer = peer(&env, identity(1, 1), &server, 0, &options);
                    peer.request(text("an honest one"), SECOND).await.unwrap();
                }
            })
            .unwrap();
    });
}

#[test]
fn a_peer_whose_power_failed_is_given_up() {
    sweep(0..10, |seed| {
        let simulation = Simulation::new(seed);
        let (client, server) = nodes(&simulation);
        let options = PeerOptions::default();
        let (servers, _) = serve(&client, identity(2, 1), &options);
        // The asker dies, and who served it must notice.
        let asker = peer(&server.env(0), identity(1, 1), &client, 0, &options);
        asker.connect();
        simulation.run_for(SECOND);
        assert_eq!(servers[0].counts().connected, 1);
        simulation.cut(&server, &client);
        simulation.cut(&client, &server);
        simulation.run_for(5 * SECOND);
        assert_eq!(servers[0].counts().connected, 1);
        simulation.run_for(10 * SECOND);
        assert_eq!(servers[0].counts().connected, 0);
    });
}

#[test]
fn the_last_handle_ends_the_connection() {
    let pair = Pair::new(1, 1);
    pair.ask(0, async |env, peer| {
        peer.clone().request(text("hello"), SECOND).await.unwrap();
        env.sleep(SECOND).await;
        assert_eq!(pair.servers[0].counts().connected, 1);
        drop(peer);
        env.sleep(SECOND).await;
        assert_eq!(pair.servers[0].counts().connected, 0);
    });
    assert_eq!(pair.client.task_count(), 0);
}

#[test]
fn a_run_repeats_exactly() {
    buckets_env::sim::assert_replays(7, SimOptions::default(), |simulation| {
        let (client, server) = nodes(simulation);
        let options = PeerOptions::default();
        serve(&server, identity(2, 2), &options);
        let outcomes = Outcomes::default();
        let env = client.env(0);
        let peer = peer(&env, identity(1, 1), &server, 1, &options);
        env.spawn(ask_on(env.clone(), peer.clone(), outcomes.clone(), 0));
        simulation.run_for(300 * MS);
        server.crash();
        simulation.run_for(SECOND);
    });
}
