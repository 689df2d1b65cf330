//! Peers and servers on real cores, over loopback sockets.

mod support;

use buckets_env::real::CoreWaker;
use buckets_peer::{AskError, HandshakeError, HealthState, Identity, PeerOptions, Secret};
use std::sync::mpsc;
use std::time::Duration;
use support::cores::{Node, start};
use support::{bytes_of, identity, text, with_payload};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn cores_of_two_nodes_ask_each_other() {
    let node = Node::start(&PeerOptions::default());
    let peers = [node.peer(0, PeerOptions::default()), node.peer(1, PeerOptions::default())];
    let stranger = node.peer(0, PeerOptions::default());
    let client = start(2, CoreWaker::new().unwrap(), move |env| async move {
        for (core, peer) in peers.iter().enumerate() {
            let peer = peer(&env, identity(1, 1));
            let shapes: [&[usize]; 5] =
                [&[], &[1], &[262_144, 262_144, 262_144, 4096], &[300_000], &[8 << 20]];
            for pieces in shapes {
                let question = with_payload("echo", pieces);
                let answer = peer.request(question.clone(), LIMIT).await.unwrap();
                assert!(bytes_of(&answer) == bytes_of(&question));
                assert!(answer.payload.iter().all(|piece| (piece.as_ptr() as usize).is_multiple_of(4096)));
            }
            let late = peer.request(text("wait 2000"), Duration::from_millis(100)).await.map(drop);
            assert_eq!(late, Err(AskError::Unknown));
            // A machine with much other work may be slow, not dead.
            assert!(peer.health() <= HealthState::Slow);
            assert_eq!(peer.remote().unwrap().core, core as u16);
        }
        let secret = Secret::new(b"another secret of somebody").unwrap();
        let stranger = stranger(&env, Identity { secret, ..identity(1, 1) });
        let refused = stranger.request(text("let me in"), LIMIT).await.map(drop);
        assert_eq!(refused, Err(AskError::Unreachable));
        assert_eq!(stranger.counts().refused[HandshakeError::WrongSecret.kind()], 1);
    });
    client.join();
    node.stop();
}

#[test]
fn a_node_that_ends_ends_its_questions() {
    let node = Node::start(&PeerOptions::default());
    let peer = node.peer(1, PeerOptions::default());
    let (connected, is_connected) = mpsc::channel();
    let client = start(2, CoreWaker::new().unwrap(), move |env| async move {
        let peer = peer(&env, identity(1, 1));
        peer.request(text("hello"), LIMIT).await.unwrap();
        connected.send(()).unwrap();
        let lost = peer.request(text("wait 60000"), LIMIT).await.map(drop);
        assert_eq!(lost, Err(AskError::Unknown));
        env.sleep(Duration::from_millis(500)).await;
        let refused = peer.request(text("nobody is there"), LIMIT).await.map(drop);
        assert_eq!(refused, Err(AskError::Unreachable));
    });
    is_connected.recv().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    node.stop();
    client.join();
}
