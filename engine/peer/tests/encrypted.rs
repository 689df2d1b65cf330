//! Peers and servers that encrypt, on real cores, over loopback sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::real::CoreWaker;
use buckets_peer::{AskError, HandshakeError, Identity, PeerOptions, Secret};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use support::authority::{Authority, Files};
use support::cores::{HOST, Node, start};
use support::{bytes_of, identity, text, with_payload};

const LIMIT: Duration = Duration::from_secs(20);

fn with(files: &Files) -> PeerOptions {
    PeerOptions { tls: Some(files.tls(None).unwrap()), ..PeerOptions::default() }
}

#[test]
fn cores_of_two_nodes_ask_each_other() {
    let authority = Authority::new("the CA");
    let (one, two) = (with(&authority.issue(&["node1"])), with(&authority.issue(&[HOST])));
    let node = Node::start(&two);
    // Whichever core accepts hands the connection to the one that it is for.
    let peers: Vec<_> = (0..16).map(|n| (n % 2, node.peer(n % 2, one.clone()))).collect();
    let client = start(2, CoreWaker::new().unwrap(), move |env| async move {
        for (core, peer) in &peers {
            let peer = peer(&env, identity(1, 1));
            let shapes: [&[usize]; 5] =
                [&[], &[1], &[262_144, 262_144, 262_144, 4096], &[300_000], &[8 << 20]];
            for pieces in shapes {
                let question = with_payload("echo", pieces);
                let answer = peer.request(question.clone(), LIMIT).await.unwrap();
                assert!(bytes_of(&answer) == bytes_of(&question));
                assert!(answer.payload.iter().all(|piece| (piece.as_ptr() as usize).is_multiple_of(4096)));
            }
            assert_eq!(peer.remote().unwrap().core, *core);
        }
    });
    client.join();
    assert_eq!(node.stop().iter().sum::<u64>(), 0);
}

#[test]
fn strangers_are_refused_by_what_they_lack() {
    let (authority, other) = (Authority::new("the CA"), Authority::new("another CA"));
    let good = authority.issue(&["node1"]);
    let node = Node::start(&with(&authority.issue(&[HOST])));
    let misnamed = Node::start(&with(&authority.issue(&["node2"])));
    let plain = Node::start(&PeerOptions::default());
    // It believes the node, but not the other way round.
    let of_another_ca = Files { ca: authority.pem() + &other.pem(), ..other.issue(&["node1"]) };
    let good_secret = || identity(1, 1);
    let other_secret =
        || Identity { secret: Secret::new(b"another secret of somebody").unwrap(), ..identity(1, 1) };
    let table = [
        (node.peer(0, with(&of_another_ca)), good_secret(), HandshakeError::Certificate),
        (node.peer(0, with(&other.issue(&["node1"]))), good_secret(), HandshakeError::Certificate),
        (node.peer(0, PeerOptions::default()), good_secret(), HandshakeError::TlsMismatch),
        (node.peer(0, with(&good)), other_secret(), HandshakeError::WrongSecret),
        (misnamed.peer(0, with(&good)), good_secret(), HandshakeError::Certificate),
        (plain.peer(0, with(&good)), good_secret(), HandshakeError::TlsMismatch),
    ];
    let client = start(2, CoreWaker::new().unwrap(), move |env| async move {
        for (number, (peer, identity, error)) in table.into_iter().enumerate() {
            let peer = peer(&env, identity);
            let refused = peer.request(text("let me in"), LIMIT).await.map(drop);
            assert_eq!(refused, Err(AskError::Unreachable), "{number}");
            let counts = peer.counts();
            assert!(counts.refused[error.kind()] > 0 && counts.connected == 0, "{number}: {counts:?}");
            peer.close();
        }
    });
    client.join();
    let refused = node.stop();
    for error in [HandshakeError::Certificate, HandshakeError::TlsMismatch, HandshakeError::WrongSecret] {
        assert!(refused[error.kind()] > 0, "{error}: {refused:?}");
    }
    assert!(misnamed.stop()[HandshakeError::Certificate.kind()] > 0);
    assert!(plain.stop()[HandshakeError::TlsMismatch.kind()] > 0);
}

#[test]
fn new_files_count_from_the_next_connection_on() {
    let (authority, other) = (Authority::new("the CA"), Authority::new("another CA"));
    let (before, after) = (with(&authority.issue(&["node1"])), with(&other.issue(&["node1"])));
    let options = with(&authority.issue(&[HOST]));
    let node = Node::start(&options);
    let (early, late, stranger) = (node.peer(0, before.clone()), node.peer(0, after), node.peer(1, before));
    let client = start(2, CoreWaker::new().unwrap(), move |env| async move {
        let early = early(&env, identity(1, 1));
        let question = || with_payload("echo", &[1000]);
        early.request(question(), LIMIT).await.unwrap();
        options.tls.unwrap().renew(&other.issue(&[HOST]).tls(None).unwrap());
        // What is there stays.
        early.request(question(), LIMIT).await.unwrap();
        let late = late(&env, identity(1, 1));
        late.request(question(), LIMIT).await.unwrap();
        let stranger = stranger(&env, identity(1, 1));
        let refused = stranger.request(question(), LIMIT).await.map(drop);
        assert_eq!(refused, Err(AskError::Unreachable));
    });
    client.join();
    assert!(node.stop()[HandshakeError::Certificate.kind()] > 0);
}

#[test]
fn nothing_can_be_read_on_the_way() {
    let authority = Authority::new("the CA");
    let node = Node::start(&with(&authority.issue(&[HOST])));
    let (to_node, own) = (node.address, TcpListener::bind((HOST, 0)).unwrap());
    let between = own.local_addr().unwrap();
    let listener = std::thread::spawn(move || {
        let (mut asker, _) = own.accept().unwrap();
        let mut answerer = TcpStream::connect(to_node).unwrap();
        let (mut from_answerer, mut to_asker) = (answerer.try_clone().unwrap(), asker.try_clone().unwrap());
        let back = std::thread::spawn(move || pass_on(&mut from_answerer, &mut to_asker));
        let mut heard = pass_on(&mut asker, &mut answerer);
        heard.extend(back.join().unwrap());
        heard
    });
    let peer = Node::peer_at(between, 0, with(&authority.issue(&["node1"])));
    let client = start(2, CoreWaker::new().unwrap(), move |env| async move {
        let peer = peer(&env, identity(1, 1));
        let question = text("a word that nobody should hear");
        assert_eq!(peer.request(question.clone(), LIMIT).await.unwrap().head, question.head);
        peer.close();
        env.sleep(Duration::from_millis(20)).await;
    });
    client.join();
    node.stop();
    let heard = listener.join().unwrap();
    assert!(heard.len() > 1000);
    for word in [&b"nobody should hear"[..], b"BKTH", b"BKTF"] {
        assert!(!heard.windows(word.len()).any(|bytes| bytes == word));
    }
}

/// Until one side ends; gives what has passed.
fn pass_on(from: &mut TcpStream, to: &mut TcpStream) -> Vec<u8> {
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read) = from.read(&mut buffer)
        && read > 0
    {
        heard.extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
    heard
}
