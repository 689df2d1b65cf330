//! A service that does what it is told, and nodes that run it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod authority;
pub mod cores;

use buckets_env::sim::SimNode;
use buckets_env::{AlignedBuf, Env, Instant, WakeCore};
use buckets_peer::{
    Identity, Message, NodeId, Peer, PeerAddress, PeerOptions, PeerServer, Remote, Secret, Service, Target,
    VERSIONS, doors,
};
use buckets_ring::id::DeploymentId;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub const PORT: u16 = 9100;

pub fn identity(node: u8, cores: u16) -> Identity {
    Identity {
        deployment: DeploymentId::from_bytes([9; 16]),
        node: NodeId([node; 16]),
        cores,
        secret: Secret::new(b"a secret of the deployment").unwrap(),
        versions: VERSIONS,
    }
}

/// What a service was asked and told, by whom.
#[derive(Default)]
pub struct Heard {
    /// How often each question was served.
    pub served: RefCell<BTreeMap<Bytes, u32>>,
    pub told: RefCell<Vec<Bytes>>,
    pub from: RefCell<Vec<Remote>>,
}

/// Sends questions back. `wait MS ...` takes so many milliseconds, `refuse` is not taken.
pub struct Echo {
    pub env: Env,
    pub heard: Rc<Heard>,
}

impl Service for Echo {
    fn serve(
        &self,
        from: Remote,
        message: Message,
        _: Option<Instant>,
    ) -> LocalBoxFuture<'static, Option<Message>> {
        self.heard.from.borrow_mut().push(from);
        let words = String::from_utf8_lossy(&message.head).into_owned();
        if words.starts_with("refuse") {
            return Box::pin(std::future::ready(None));
        }
        *self.heard.served.borrow_mut().entry(message.head.clone()).or_default() += 1;
        let wait = words.strip_prefix("wait ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let env = self.env.clone();
        Box::pin(async move {
            if let Some(ms) = wait {
                env.sleep(Duration::from_millis(ms)).await;
            }
            Some(message)
        })
    }

    fn take(&self, _: Remote, message: Message) {
        self.heard.told.borrow_mut().push(message.head);
    }
}

pub fn text(head: &str) -> Message {
    Message::new(Bytes::copy_from_slice(head.as_bytes()))
}

pub fn with_payload(head: &str, pieces: &[usize]) -> Message {
    let piece = |(number, len): (usize, &usize)| {
        let mut buffer = AlignedBuf::with_len(*len);
        buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7 + number) as u8);
        buffer.freeze()
    };
    Message { payload: pieces.iter().enumerate().map(piece).collect(), ..text(head) }
}

pub fn bytes_of(message: &Message) -> (Bytes, Vec<Vec<u8>>) {
    (message.head.clone(), message.payload.iter().map(|piece| piece.to_vec()).collect())
}

/// Runs an echo on every core of a simulated node.
pub fn serve(node: &SimNode, identity: Identity, options: &PeerOptions) -> (Vec<PeerServer>, Vec<Rc<Heard>>) {
    let wakers: Vec<Arc<dyn WakeCore>> =
        (0..usize::from(identity.cores)).map(|core| node.waker(core)).collect();
    let identity = Arc::new(identity);
    let mut servers = Vec::new();
    let mut heard = Vec::new();
    for (core, door) in doors(&wakers).into_iter().enumerate() {
        let env = node.env(core);
        let listener = env.listen(SocketAddr::from(([0, 0, 0, 0], PORT))).unwrap();
        heard.push(Rc::<Heard>::default());
        let service = Rc::new(Echo { env: env.clone(), heard: heard[core].clone() });
        let started =
            PeerServer::start(&env, core as u16, identity.clone(), listener, door, service, options.clone());
        servers.push(started);
    }
    (servers, heard)
}

pub fn peer(env: &Env, identity: Identity, server: &SimNode, core: u16, options: &PeerOptions) -> Peer {
    let to = PeerAddress {
        address: SocketAddr::new(server.ip(), PORT),
        host: server.ip().to_string(),
        target: Target { node: Some(NodeId([2; 16])), core },
    };
    Peer::new(env, 0, Arc::new(identity), to, options.clone())
}
