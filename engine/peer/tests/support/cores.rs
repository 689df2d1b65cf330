//! Nodes on real cores, over loopback sockets.

use super::{Echo, Heard, identity};
use buckets_env::real::{CoreHandle, CoreOptions, CoreWaker, run_core};
use buckets_env::{Env, WakeCore};
use buckets_peer::{
    HandshakeError, Identity, NodeId, Peer, PeerAddress, PeerOptions, PeerServer, Target, doors,
};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Where the nodes are.
pub const HOST: &str = "127.0.0.1";

pub fn start<M, F>(index: usize, waker: Arc<CoreWaker>, main: M) -> CoreHandle
where
    M: FnOnce(Env) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    run_core(CoreOptions { cpu: None, index, name: format!("core-{index}") }, waker, main).unwrap()
}

/// A node of two cores that echo, until told to stop.
pub struct Node {
    pub address: SocketAddr,
    cores: Vec<(CoreHandle, mpsc::Sender<()>)>,
    refused: mpsc::Receiver<[u64; HandshakeError::KINDS]>,
}

impl Node {
    pub fn start(options: &PeerOptions) -> Node {
        let wakers: Vec<Arc<CoreWaker>> = (0..2).map(|_| CoreWaker::new().unwrap()).collect();
        let waking: Vec<Arc<dyn WakeCore>> =
            wakers.iter().map(|waker| waker.clone() as Arc<dyn WakeCore>).collect();
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cores = Vec::new();
        let (tell_refused, refused) = mpsc::channel();
        for (number, (waker, door)) in wakers.into_iter().zip(doors(&waking)).enumerate() {
            let (report, bound) = mpsc::channel();
            let (stop, stopped) = mpsc::channel::<()>();
            let (options, tell_refused) = (options.clone(), tell_refused.clone());
            let core = start(number, waker, move |env| async move {
                let listener = env.listen(address).unwrap();
                report.send(listener.local_address().unwrap()).unwrap();
                let service = Rc::new(Echo { env: env.clone(), heard: Rc::<Heard>::default() });
                let identity = Arc::new(identity(2, 2));
                let server =
                    PeerServer::start(&env, number as u16, identity, listener, door, service, options);
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    env.sleep(Duration::from_millis(5)).await;
                }
                tell_refused.send(server.counts().refused).unwrap();
                server.close();
                env.sleep(Duration::from_millis(5)).await;
            });
            address = bound.recv().unwrap();
            cores.push((core, stop));
        }
        Node { address, cores, refused }
    }

    /// What makes a peer for a core of it, on another one.
    pub fn peer(&self, core: u16, options: PeerOptions) -> impl Fn(&Env, Identity) -> Peer + Send + use<> {
        Node::peer_at(self.address, core, options)
    }

    /// The same, by way of another address.
    pub fn peer_at(
        address: SocketAddr,
        core: u16,
        options: PeerOptions,
    ) -> impl Fn(&Env, Identity) -> Peer + Send + use<> {
        let target = Target { node: Some(NodeId([2; 16])), core };
        let to = PeerAddress { address, host: HOST.to_owned(), target };
        move |env, identity| Peer::new(env, 0, Arc::new(identity), to.clone(), options.clone())
    }

    /// Ends it; gives what it has refused, by kinds.
    pub fn stop(self) -> [u64; HandshakeError::KINDS] {
        let mut sum = [0; HandshakeError::KINDS];
        for (core, stop) in self.cores {
            stop.send(()).unwrap();
            core.join();
            let refused = self.refused.recv().unwrap();
            sum.iter_mut().zip(refused).for_each(|(sum, count)| *sum += count);
        }
        sum
    }
}
