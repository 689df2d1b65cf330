//! Accepting connections of other nodes, and serving what they ask.
//!
//! What must hold:
//! - Every core listens on the one port between nodes, and accepts for all: who has proved itself is handed to the core that
//!   it is for, whose [`Service`] alone serves it.
//! - Handshakes under way, connections, and questions in service are bounded; over a bound a connection is closed and a
//!   question declined, at once, and counted. Of handshakes the one that has taken longest makes room: strangers who keep all
//!   places do not keep nodes out, which need milliseconds.
//! - Questions of one connection are given to the service in the order in which they were asked.

use crate::channel::{Channel, DetachedChannel};
use crate::link::{Link, LinkEnd, Receiver, now};
use crate::options::PeerOptions;
use crate::shake::{NoSession, nonce, shake};
use crate::{Counts, HandshakeError, Identity, Message, Remote};
use buckets_env::{CoreReceiver, CoreSender, Env, Instant, Listener, Stream, WakeCore, core_queue};
use buckets_rpc::connection::Serving;
use buckets_rpc::handshake::Handshake;
use buckets_rpc::session::Session;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, select};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Connections that wait to be taken over by one core.
const ARRIVALS_MAX: usize = 1024;
/// The pause after a failed accept: the process may be out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So many lines about refused connections are written by one core in so long a time.
const LINES_MAX: u32 = 20;
const LINES_EVERY: Duration = Duration::from_secs(60);

/// What serves the questions of other nodes on one core.
pub trait Service {
    /// Takes a question, in order; the future answers it. `None`: it was not taken, and nothing happened. Nobody waits after
    /// `deadline`. The future is run to its end, also where the asker is gone.
    fn serve(
        &self,
        from: Remote,
        message: Message,
        deadline: Option<Instant>,
    ) -> LocalBoxFuture<'static, Option<Message>>;

    /// Takes a message that wants no answer, in order.
    fn take(&self, from: Remote, message: Message);
}

/// A proven connection on its way to the core that it is for.
pub struct Arrival {
    channel: DetachedChannel,
    session: Session,
    remote: Remote,
}

/// One core's way to hand connections to the others, and to be handed some.
pub struct Door {
    to_cores: Vec<CoreSender<Arrival>>,
    arrivals: CoreReceiver<Arrival>,
}

/// A door for each core, given what wakes them.
pub fn doors(wakers: &[Arc<dyn WakeCore>]) -> Vec<Door> {
    let (to_cores, arrivals): (Vec<_>, Vec<_>) =
        wakers.iter().map(|waker| core_queue(ARRIVALS_MAX, waker.clone())).unzip();
    arrivals.into_iter().map(|arrivals| Door { to_cores: to_cores.clone(), arrivals }).collect()
}

/// What happened at one core's door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Of all connections so far together.
    pub connection: Counts,
    /// Connections accepted from the kernel.
    pub accepted: u64,
    /// Connections handed to other cores.
    pub handed_over: u64,
    /// Proven connections that this core has now.
    pub connected: u64,
    /// Connections that were refused or never came to their proof, by [`HandshakeError::kind_name`].
    pub refused: [u64; HandshakeError::KINDS],
}

/// One core's side of the connections that other nodes make.
#[derive(Clone)]
pub struct PeerServer {
    server: Rc<Server>,
}

struct Server {
    env: Env,
    core: u16,
    identity: Arc<Identity>,
    options: Rc<PeerOptions>,
    service: Rc<dyn Service>,
    to_cores: Vec<CoreSender<Arrival>>,
    /// Handshakes under way, in the order in which they began; one ends where its sender is dropped.
    newcomers: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
    next_newcomer: Cell<u64>,
    /// Since when lines about refused connections are counted, and how many there were.
    told: Cell<(Instant, u32)>,
    serving: Cell<usize>,
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    next_link: Cell<u64>,
    /// Without those of connections that are there now.
    counts: RefCell<ServerCounts>,
    closed: Cell<bool>,
}

impl PeerServer {
    /// Serves on this core, whose number is `core`, from now on.
    pub fn start(
        env: &Env,
        core: u16,
        identity: Arc<Identity>,
        listener: Listener,
        door: Door,
        service: Rc<dyn Service>,
        options: PeerOptions,
    ) -> PeerServer {
        assert_eq!(door.to_cores.len(), usize::from(identity.cores), "a door for each core");
        let Door { to_cores, arrivals } = door;
        let server = Rc::new(Server {
            env: env.clone(),
            core,
            identity,
            options: Rc::new(options),
            service,
            to_cores,
            newcomers: RefCell::default(),
            next_newcomer: Cell::new(0),
            told: Cell::new((env.now(), 0)),
            serving: Cell::new(0),
            links: RefCell::default(),
            next_link: Cell::new(0),
            counts: RefCell::default(),
            closed: Cell::new(false),
        });
        env.spawn(server.clone().accept(listener));
        let taking = server.clone();
        env.spawn(async move {
            loop {
                let Arrival { channel, session, remote } = arrivals.recv().await;
                let channel = channel.attach(&taking.env);
                taking.clone().take_over(channel, session, remote);
            }
        });
        PeerServer { server }
    }

    /// What happened so far.
    pub fn counts(&self) -> ServerCounts {
        let mut counts = self.server.counts.borrow().clone();
        let links = self.server.links.borrow();
        links.values().for_each(|link| counts.connection.add(&link.counts()));
        counts.connected = links.len() as u64;
        counts
    }

    /// Ends all connections, and takes no more.
    pub fn close(&self) {
        self.server.closed.set(true);
        self.server.links.borrow().values().for_each(|link| link.close());
    }
}

impl Server {
    async fn accept(self: Rc<Self>, listener: Listener) {
        while !self.closed.get() {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection of another node could not be accepted");
                    self.env.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.counts.borrow_mut().accepted += 1;
            let full = self.links.borrow().len() >= self.options.connections_max;
            if full || self.closed.get() {
                self.count_refusal(HandshakeError::Busy);
                continue;
            }
            let number = self.next_newcomer.replace(self.next_newcomer.get() + 1);
            let (stay, leave) = oneshot::channel();
            let crowded_out = {
                let mut newcomers = self.newcomers.borrow_mut();
                newcomers.insert(number, stay);
                (newcomers.len() > self.options.handshakes_max).then(|| newcomers.pop_first())
            };
            if crowded_out.is_some() {
                self.count_refusal(HandshakeError::Busy);
            }
            let server = self.clone();
            self.env.spawn(async move {
                select(pin!(server.clone().welcome(stream)), leave).await;
                server.newcomers.borrow_mut().remove(&number);
            });
        }
    }

    async fn welcome(self: Rc<Self>, stream: Stream) {
        let from = stream.peer_address().ok();
        let (channel, session, remote) = match self.prove(stream).await {
            Ok(proven) => proven,
            Err(refusal) => {
                self.tell(from, &refusal);
                return self.count_refusal(refusal.error);
            }
        };
        if remote.for_core == self.core {
            return self.take_over(channel, session, remote);
        }
        let handed = channel.detach().map(|channel| {
            let arrival = Arrival { channel, session, remote };
            self.to_cores[usize::from(remote.for_core)].send(arrival)
        });
        match handed {
            Ok(Ok(())) => self.counts.borrow_mut().handed_over += 1,
            _ => self.count_refusal(HandshakeError::Busy),
        }
    }

    async fn prove(&self, stream: Stream) -> Result<(Channel, Session, Remote), NoSession> {
        let mut channel = Channel::accepting(stream, self.options.tls.as_ref())?;
        let handshake = Handshake::accept(self.identity.clone(), nonce(&self.env));
        let limit = self.options.handshake_limit;
        let (session, remote) = shake(&self.env, &mut channel, handshake, None, limit).await?;
        Ok((channel, session, remote))
    }

    fn take_over(self: Rc<Self>, channel: Channel, session: Session, remote: Remote) {
        if self.closed.get() || self.links.borrow().len() >= self.options.connections_max {
            return self.count_refusal(HandshakeError::Busy);
        }
        if let Err(error) = channel.keep_alive(self.options.silence_max) {
            tracing::debug!(%error, "no keepalive on a connection between nodes");
        }
        let (link, opener) = Link::new(&self.env, &self.options, session);
        let number = self.next_link.replace(self.next_link.get() + 1);
        self.links.borrow_mut().insert(number, link.clone());
        tracing::debug!(node = %remote.node, core = remote.core, "another node has connected");
        self.env.clone().spawn(async move {
            let end = {
                let guest = Guest { server: &self, remote };
                link.run(channel, opener, &guest, false).await
            };
            self.links.borrow_mut().remove(&number);
            self.counts.borrow_mut().connection.add(&link.counts());
            match end {
                LinkEnd::Closed => {}
                end => tracing::debug!(node = %remote.node, core = remote.core, %end, "another node is gone"),
            }
        });
    }

    /// Strangers must not fill the log.
    fn tell(&self, from: Option<SocketAddr>, refusal: &NoSession) {
        let now = self.env.now();
        let (mut since, mut lines) = self.told.get();
        if now.since(since) >= LINES_EVERY {
            (since, lines) = (now, 0);
        }
        lines = lines.saturating_add(1);
        self.told.set((since, lines));
        if lines <= LINES_MAX {
            tracing::warn!(?from, error = %refusal, "a connection between nodes was refused");
        }
        if lines == LINES_MAX {
            tracing::warn!("more connections that are refused are only counted for a while");
        }
    }

    fn count_refusal(&self, error: HandshakeError) {
        self.counts.borrow_mut().refused[error.kind()] += 1;
    }
}

/// Who is connected.
struct Guest<'a> {
    server: &'a Rc<Server>,
    remote: Remote,
}

impl Receiver for Guest<'_> {
    fn request(&self, link: &Rc<Link>, serving: Serving, message: Message, deadline: Option<Duration>) {
        let server = self.server;
        if server.serving.get() >= server.options.core_serving_max {
            return link.decline(serving);
        }
        server.serving.set(server.serving.get() + 1);
        let deadline = deadline.map(|at| server.env.now().after(at.saturating_sub(now(&server.env))));
        let answer = server.service.serve(self.remote, message, deadline);
        let (server, link, remote) = (server.clone(), link.clone(), self.remote);
        self.server.env.spawn(async move {
            let answer = answer.await;
            server.serving.set(server.serving.get() - 1);
            match answer {
                Some(message) => {
                    if let Err(error) = link.answer(serving, message) {
                        tracing::error!(node = %remote.node, %error, "an answer cannot be sent");
                    }
                }
                None => link.decline(serving),
            }
        });
    }

    fn one_way(&self, message: Message) {
        self.server.service.take(self.remote, message);
    }
}
