//! Peers and servers on real cores, over loopback sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::real::{CoreHandle, CoreOptions, CoreWaker, run_core};
use buckets_env::{Env, WakeCore};
use buckets_peer::{
    AskError, HandshakeError, HealthState, Identity, NodeId, Peer, PeerAddress, PeerOptions, PeerServer,
    Secret, Target, doors,
};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::{Echo, Heard, bytes_of, identity, text, with_payload};

const LIMIT: Duration = Duration::from_secs(20);

fn start<M, F>(index: usize, waker: Arc<CoreWaker>, main: M) -> CoreHandle
where
    M: FnOnce(Env) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    run_core(CoreOptions { cpu: None, index, name: format!("core-{index}") }, waker, main).unwrap()
}

/// A node of two cores that echo, until told to stop.
struct Node {
    address: SocketAddr,
    cores: Vec<(CoreHandle, mpsc::Sender<()>)>,
}

impl Node {
    fn start() -> Node {
        let wakers: Vec<Arc<CoreWaker>> = (0..2).map(|_| CoreWaker::new().unwrap()).collect();
        let waking: Vec<Arc<dyn WakeCore>> =
            wakers.iter().map(|waker| waker.clone() as Arc<dyn WakeCore>).collect();
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cores = Vec::new();
        for (number, (waker, door)) in wakers.into_iter().zip(doors(&waking)).enumerate() {
            let (report, bound) = mpsc::channel();
            let (stop, stopped) = mpsc::channel::<()>();
            let core = start(number, waker, move |env| async move {
                let listener = env.listen(address).unwrap();
                report.send(listener.local_address().unwrap()).unwrap();
                let service = Rc::new(Echo { env: env.clone(), heard: Rc::<Heard>::default() });
                let (identity, options) = (Arc::new(identity(2, 2)), PeerOptions::default());
                let server =
                    PeerServer::start(&env, number as u16, identity, listener, door, service, options);
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    env.sleep(Duration::from_millis(5)).await;
                }
                server.close();
                env.sleep(Duration::from_millis(5)).await;
            });
            address = bound.recv().unwrap();
            cores.push((core, stop));
        }
        Node { address, cores }
    }

    fn peer(&self, core: u16) -> impl Fn(&Env, Identity) -> Peer + Send + use<> {
        let to = PeerAddress { address: self.address, target: Target { node: Some(NodeId([2; 16])), core } };
        move |env, identity| Peer::new(env, 0, Arc::new(identity), to, PeerOptions::default())
    }

    fn stop(self) {
        for (core, stop) in self.cores {
            stop.send(()).unwrap();
            core.join();
        }
    }
}

#[test]
fn cores_of_two_nodes_ask_each_other() {
    let node = Node::start();
    let peers = [node.peer(0), node.peer(1)];
    let stranger = node.peer(0);
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
    let node = Node::start();
    let peer = node.peer(1);
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
