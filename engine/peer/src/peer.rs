//! One core of another node, as one core of this node asks it.
//!
//! What must hold:
//! - There is at most one connection, made when something is first wanted of the peer; from then on it is made again whenever
//!   it is lost, with pauses that grow and are drawn at random.
//! - A question waits for a connection that is being made, not for one that has just failed: its asker learns at once that
//!   nothing happened, and may ask somebody else.
//! - What becomes of the connection tells the peer's health; health forbids nothing.

use crate::bell::{Bell, Gong};
use crate::channel::Channel;
use crate::link::{AskError, Link, LinkEnd, Receiver, now};
use crate::options::PeerOptions;
use crate::shake::{NoSession, nonce, shake};
use crate::{Counts, HandshakeError, HealthState, Identity, Message, Remote, Target};
use buckets_env::{Env, Stream};
use buckets_rpc::connection::Serving;
use buckets_rpc::handshake::Handshake;
use buckets_rpc::health::Health;
use buckets_rpc::session::Session;
use futures::future::select;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where a core of another node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node's port for other nodes.
    pub address: SocketAddr,
    /// What its certificate must name where connections are encrypted: the host that the address is of.
    pub host: String,
    /// The node, and its core.
    pub target: Target,
}

/// What happened with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Of all connections so far together.
    pub connection: Counts,
    /// Connections made.
    pub connected: u64,
    /// Connections lost.
    pub lost: u64,
    /// Attempts that did not come to a handshake.
    pub unreachable: u64,
    /// Messages that want no answer, dropped because there was no connection.
    pub dropped_unconnected: u64,
    /// Questions refused because there was no connection.
    pub refused_unconnected: u64,
    /// Handshakes that failed, by [`HandshakeError::kind_name`].
    pub refused: [u64; HandshakeError::KINDS],
}

/// One core of another node. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct Peer {
    handle: Rc<Handle>,
}

/// Shared by the clones of one [`Peer`].
struct Handle {
    road: Rc<Road>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.road.close();
    }
}

impl Peer {
    /// The core at `to`, as core `core` of this node asks it. Nothing happens before something is wanted of it.
    pub fn new(env: &Env, core: u16, identity: Arc<Identity>, to: PeerAddress, options: PeerOptions) -> Peer {
        let health = Health::new(options.health.clone(), now(env));
        let road = Road {
            env: env.clone(),
            core,
            identity,
            to,
            options: Rc::new(options),
            started: Cell::new(false),
            way: RefCell::new(Way::Connecting),
            changed: Gong::default(),
            closing: Bell::default(),
            closed: Cell::new(false),
            remote: Cell::new(None),
            health: RefCell::new(health),
            noted: Cell::new(HealthState::Suspect),
            waiting: Cell::new(0),
            counts: RefCell::default(),
        };
        Peer { handle: Rc::new(Handle { road: Rc::new(road) }) }
    }

    /// Connects, and stays connected, before anything is asked.
    pub fn connect(&self) {
        self.handle.road.start();
    }

    /// Asks, and waits for the answer for up to `limit`. Dropped before its end, the question may still be served.
    pub async fn request(&self, message: Message, limit: Duration) -> Result<Message, AskError> {
        let road = &self.handle.road;
        let deadline = now(&road.env) + limit;
        let link = road.link(deadline).await?;
        link.ask(message, deadline).await
    }

    /// Sends a message that wants no answer. It may be lost, and is where there is no connection.
    pub fn send(&self, message: Message) -> Result<(), AskError> {
        let road = &self.handle.road;
        road.start();
        match &*road.way.borrow() {
            Way::Connected(link) => link.tell(message),
            Way::Connecting | Way::Pausing => {
                road.counts.borrow_mut().dropped_unconnected += 1;
                Err(AskError::Unreachable)
            }
        }
    }

    /// Where it is.
    pub fn address(&self) -> &PeerAddress {
        &self.handle.road.to
    }

    /// Who is there, and how many cores the node has, where it was ever connected.
    pub fn remote(&self) -> Option<Remote> {
        self.handle.road.remote.get()
    }

    /// What is thought of it.
    pub fn health(&self) -> HealthState {
        let road = &self.handle.road;
        road.health.borrow_mut().state(now(&road.env))
    }

    /// Its smoothed round trip, where one is known.
    pub fn round_trip(&self) -> Option<Duration> {
        self.handle.road.health.borrow().round_trip()
    }

    /// What happened so far.
    pub fn counts(&self) -> PeerCounts {
        let road = &self.handle.road;
        let mut counts = road.counts.borrow().clone();
        if let Way::Connected(link) = &*road.way.borrow() {
            counts.connection.add(&link.counts());
        }
        counts
    }

    /// Ends the connection and makes no other; questions are refused from now on.
    pub fn close(&self) {
        self.handle.road.close();
    }
}

/// How far the way to the peer is.
enum Way {
    /// A connection is being made, or will be when something is wanted.
    Connecting,
    /// There is one.
    Connected(Rc<Link>),
    /// An attempt has just failed.
    Pausing,
}

struct Road {
    env: Env,
    core: u16,
    identity: Arc<Identity>,
    to: PeerAddress,
    options: Rc<PeerOptions>,
    started: Cell<bool>,
    way: RefCell<Way>,
    /// The way is another.
    changed: Gong,
    closing: Bell,
    closed: Cell<bool>,
    remote: Cell<Option<Remote>>,
    health: RefCell<Health>,
    /// Health as it was told last.
    noted: Cell<HealthState>,
    /// Questions that wait for a connection.
    waiting: Cell<usize>,
    /// Without those of the connection that is there now.
    counts: RefCell<PeerCounts>,
}

impl Road {
    fn start(self: &Rc<Self>) {
        if !self.started.replace(true) {
            self.env.spawn(self.clone().keep());
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.closing.ring();
        if let Way::Connected(link) = &*self.way.borrow() {
            link.close();
        }
        self.changed.strike();
    }

    fn set(&self, way: Way) {
        let before = self.way.replace(way);
        drop(before);
        self.changed.strike();
    }

    /// The connection, when there is one.
    async fn link(self: &Rc<Self>, deadline: Duration) -> Result<Rc<Link>, AskError> {
        self.start();
        loop {
            let refusal = match &*self.way.borrow() {
                Way::Connected(link) => return Ok(link.clone()),
                _ if self.closed.get() => Some(AskError::Unreachable),
                Way::Pausing => Some(AskError::Unreachable),
                Way::Connecting if self.waiting.get() >= self.options.limits.asking_max => {
                    Some(AskError::Overloaded)
                }
                Way::Connecting => None,
            };
            let left = deadline.saturating_sub(now(&self.env));
            if let Some(refusal) = refusal.or(left.is_zero().then_some(AskError::Unreachable)) {
                self.counts.borrow_mut().refused_unconnected += 1;
                return Err(refusal);
            }
            let _waiting = Waiting::begin(&self.waiting);
            let _ = self.env.timeout(left, self.changed.next()).await;
        }
    }

    /// Keeps the connection until the peer is closed.
    async fn keep(self: Rc<Self>) {
        let mut pause = self.options.retry_after;
        while !self.closed.get() {
            let attempt = pin!(self.attempt());
            let attempted = match select(attempt, pin!(self.closing.heard())).await {
                futures::future::Either::Left((attempted, _)) => attempted,
                futures::future::Either::Right(_) => break,
            };
            if let Some((channel, session, remote)) = attempted {
                let since = now(&self.env);
                self.keep_one(channel, session, remote).await;
                if now(&self.env).saturating_sub(since) >= self.options.retry_after_max {
                    // It was good for a while: no pause.
                    pause = self.options.retry_after;
                    self.set(Way::Connecting);
                    continue;
                }
            }
            self.set(Way::Pausing);
            self.note(now(&self.env));
            let drawn = pause / 2 + pause / 2 * (self.env.random_u64() % 1000) as u32 / 1000;
            select(pin!(self.closing.heard()), pin!(self.env.sleep(drawn))).await;
            pause = (pause * 2).min(self.options.retry_after_max);
            self.set(Way::Connecting);
        }
        self.set(Way::Pausing);
    }

    /// Makes one attempt at a proven connection.
    async fn attempt(&self) -> Option<(Channel, Session, Remote)> {
        let PeerAddress { address, target, .. } = self.to;
        let connecting = self.env.timeout(self.options.connect_limit, self.env.connect(address));
        let stream = match connecting.await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%address, %error, "a node cannot be reached");
                self.counts.borrow_mut().unreachable += 1;
                return None;
            }
        };
        if let Err(error) = stream.keep_alive(self.options.silence_max) {
            tracing::debug!(%error, "no keepalive on a connection between nodes");
        }
        match self.prove(stream).await {
            Ok(proven) => Some(proven),
            Err(refusal) => {
                self.counts.borrow_mut().refused[refusal.error.kind()] += 1;
                tracing::warn!(%address, core = target.core, error = %refusal, "no connection to another node");
                None
            }
        }
    }

    async fn prove(&self, stream: Stream) -> Result<(Channel, Session, Remote), NoSession> {
        let mut channel = Channel::connecting(stream, self.options.tls.as_ref(), &self.to.host)?;
        let nonce = nonce(&self.env);
        let (handshake, hello) = Handshake::initiate(self.identity.clone(), self.core, self.to.target, nonce);
        let limit = self.options.handshake_limit;
        let (session, remote) = shake(&self.env, &mut channel, handshake, Some(hello), limit).await?;
        Ok((channel, session, remote))
    }

    /// Drives one connection to its end.
    async fn keep_one(&self, channel: Channel, session: Session, remote: Remote) {
        let (link, opener) = Link::new(&self.env, &self.options, session);
        self.remote.set(Some(remote));
        self.counts.borrow_mut().connected += 1;
        self.health.borrow_mut().connected(now(&self.env));
        self.set(Way::Connected(link.clone()));
        let end = link.run(channel, opener, self, true).await;
        // Before anybody is told: who asks now finds no connection.
        let mut counts = self.counts.borrow_mut();
        counts.lost += 1;
        counts.connection.add(&link.counts());
        drop(counts);
        *self.way.borrow_mut() = Way::Connecting;
        let at = now(&self.env);
        self.health.borrow_mut().lost(at);
        self.note(at);
        match end {
            LinkEnd::Closed => {}
            end => tracing::info!(address = %self.to.address, core = remote.core, %end, "lost another node"),
        }
    }

    /// Tells of a change of health.
    fn note(&self, now: Duration) {
        let state = self.health.borrow_mut().state(now);
        let before = self.noted.replace(state);
        if state != before {
            let (state, before) = (state.name(), before.name());
            let (address, core) = (self.to.address, self.to.target.core);
            tracing::info!(%address, core, before, state, "another node's core");
        }
    }
}

impl Receiver for Road {
    fn request(&self, link: &Rc<Link>, serving: Serving, _: Message, _: Option<Duration>) {
        // Questions go the way they were connected.
        link.decline(serving);
    }

    fn one_way(&self, _: Message) {}

    fn heard(&self, now: Duration) {
        self.health.borrow_mut().heard(now);
    }

    fn round_trip(&self, now: Duration, round_trip: Duration) {
        self.health.borrow_mut().answered(now, round_trip);
        self.note(now);
    }

    fn pinged(&self, now: Duration) {
        self.health.borrow_mut().pinged(now);
    }

    fn look(&self, now: Duration) {
        self.note(now);
    }
}

/// Counts a question that waits, for as long as it does.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<usize>) -> Waiting<'a> {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
