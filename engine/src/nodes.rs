//! The other nodes of the deployment, as one core asks and serves them.
//!
//! What must hold:
//! - A question for a core of another node goes straight to that core, along a connection of this core's own; the answer says
//!   whether something may have happened.
//! - Every node asks every other one how it is, again and again: which of its disks take part, which groups it leads, which
//!   state of the root group it knows. A node that does not answer takes its disks out of service here, and nowhere else.
//! - What another node says of disks that are not its own is not believed.
//! - Questions that are for a node as a whole ([`Request::PublishRoot`], [`Request::InUse`], [`Request::Facts`],
//!   [`Request::Drain`]) are answered for all of its cores.

use crate::core::Core;
use crate::distance::{Distance, WORTH_TELLING};
use crate::exchange::CoreMessage;
use crate::facts::Road;
use crate::map::{DiskState, NodeIndex, NodeMap, NodeState, Place};
use crate::message::{Answer, DiskPulse, Pulse, Refusal, Reply, Request};
use crate::wire::{self, Notice};
use buckets_env::{Env, Instant};
use buckets_meta::GroupMessage;
use buckets_peer::{
    AskError, Door, Identity, Message, Peer, PeerAddress, PeerOptions, PeerServer, Remote, Secret, Service,
    Target, VERSIONS,
};
use buckets_ring::id::ObjectId;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// Between two questions how a node is.
const PULSE_EVERY: Duration = Duration::from_millis(300);
/// How long its answer is waited for.
const PULSE_LIMIT: Duration = Duration::from_millis(1000);
/// A node that cannot be connected to for so long is unreachable.
const UNREACHABLE_AFTER: Duration = Duration::from_millis(600);
/// A node that takes connections and does not answer for so long is, too.
const SILENT_AFTER: Duration = Duration::from_millis(2000);
/// Messages of Raft for one core that leave together have so many bytes at most, unless one alone has more.
const NOTICE_BYTES: usize = 1 << 20;
/// How long another node may take to hear of a new state of the root group, before the change is answered without it.
const PUBLISH_LIMIT: Duration = Duration::from_secs(1);
/// How long it is waited for what is being read on other nodes.
const IN_USE_LIMIT: Duration = Duration::from_secs(3);
/// A node that is not heard cannot say what it reads, and may be heard by others: for so long after it was lost it counts
/// as reading everything.
const READS_UNHEARD: Duration = Duration::from_secs(120);

/// How a node reaches the others, and is reached.
#[derive(Clone)]
pub struct Network {
    /// Where this node listens for others; a gateway, which nobody asks, does not.
    pub listen: Option<SocketAddr>,
    /// The deployment's secret.
    pub secret: Secret,
    /// The numbers of connections.
    pub options: PeerOptions,
}

/// One core's part of it.
pub(crate) struct NetworkSetup {
    pub(crate) identity: Arc<Identity>,
    pub(crate) network: Network,
    pub(crate) door: Door,
}

impl Network {
    /// Who this node is to others.
    pub(crate) fn identity(&self, map: &NodeMap, cores: usize) -> Arc<Identity> {
        Arc::new(Identity {
            deployment: map.deployment,
            node: map.own_node().id,
            cores: u16::try_from(cores).unwrap_or(u16::MAX),
            secret: self.secret.clone(),
            versions: VERSIONS,
        })
    }
}

/// The connections of one core to cores of other nodes, each made when it is first wanted.
pub(crate) struct Nodes {
    env: Env,
    map: Arc<NodeMap>,
    core: u16,
    /// `None` where the deployment has one node only.
    identity: Option<Arc<Identity>>,
    options: PeerOptions,
    peers: RefCell<BTreeMap<(NodeIndex, usize), Peer>>,
    /// Messages of Raft that leave when the tasks that run now had their turn.
    outbox: RefCell<BTreeMap<Place, Outgoing>>,
    is_flush_due: Cell<bool>,
}

#[derive(Default)]
struct Outgoing {
    messages: Vec<GroupMessage>,
    bytes: usize,
}

impl Nodes {
    pub(crate) fn new(
        env: &Env,
        map: &Arc<NodeMap>,
        core: usize,
        network: Option<&NetworkSetup>,
    ) -> Rc<Nodes> {
        Rc::new(Nodes {
            env: env.clone(),
            map: map.clone(),
            core: core as u16,
            identity: network.map(|network| network.identity.clone()),
            options: network.map(|network| network.network.options.clone()).unwrap_or_default(),
            peers: RefCell::default(),
            outbox: RefCell::default(),
            is_flush_due: Cell::new(false),
        })
    }

    /// The way to a core; `None` where its node's address is not known.
    fn peer(&self, to: Place) -> Option<Peer> {
        let address = self.map.node(to.node).address()?;
        let mut peers = self.peers.borrow_mut();
        let key = (to.node, to.core);
        if let Some(peer) = peers.get(&key).filter(|peer| peer.address().address == address) {
            return Some(peer.clone());
        }
        // The node may have come back with fewer cores, or at another address.
        peers.retain(|(node, core), peer| {
            let node = self.map.node(*node);
            let has_core = node.cores().is_none_or(|cores| *core < usize::from(cores));
            has_core && node.address() == Some(peer.address().address)
        });
        let node = self.map.node(to.node);
        let target = Target { node: Some(node.id), core: to.core as u16 };
        let identity = self.identity.clone()?;
        let to = PeerAddress { address, host: node.host().to_owned(), target };
        let peer = Peer::new(&self.env, self.core, identity, to, self.options.clone());
        peers.insert(key, peer.clone());
        Some(peer)
    }

    /// Asks a core of another node.
    pub(crate) async fn ask(&self, to: Place, request: &Request, limit: Duration) -> Answer {
        self.ask_heard(to, request, limit).await.unwrap_or_else(|error| {
            Err(match error {
                AskError::Overloaded | AskError::Declined => Refusal::Overloaded,
                AskError::Unreachable | AskError::NotSent => Refusal::Unreachable,
                AskError::Unknown => Refusal::Unknown,
                AskError::TooLong(lengths) => internal(lengths.to_string()),
            })
        })
    }

    /// Asks it where it matters whether it was heard: an error where there is no answer.
    async fn ask_heard(&self, to: Place, request: &Request, limit: Duration) -> Result<Answer, AskError> {
        let peer = self.peer(to).ok_or(AskError::Unreachable)?;
        let answer = peer.request(wire::encode_request(request), limit).await?;
        // It has been answered, but how is not known.
        Ok(wire::decode_answer(answer).unwrap_or_else(|error| {
            tracing::error!(node = self.map.node(to.node).name, %error, "an answer of another node cannot be read");
            Err(Refusal::Unknown)
        }))
    }

    /// Sends a message of Raft, which may be lost: together with others for the same core, as soon as the tasks that run now
    /// had their turn.
    pub(crate) fn send(self: &Rc<Self>, to: Place, message: GroupMessage) {
        let bytes = message.encoded_bytes();
        if self.outbox.borrow().get(&to).is_some_and(|outgoing| outgoing.bytes + bytes > NOTICE_BYTES) {
            self.flush();
        }
        let mut outbox = self.outbox.borrow_mut();
        let outgoing = outbox.entry(to).or_default();
        outgoing.bytes += bytes;
        outgoing.messages.push(message);
        if !self.is_flush_due.replace(true) {
            let nodes = self.clone();
            self.env.spawn(async move { nodes.flush() });
        }
    }

    fn flush(&self) {
        self.is_flush_due.set(false);
        let outbox = std::mem::take(&mut *self.outbox.borrow_mut());
        for (to, Outgoing { messages, .. }) in outbox {
            if let Some(peer) = self.peer(to) {
                let _ = peer.send(wire::encode_notice(&Notice::Groups(messages)));
            }
        }
    }

    /// How this core reaches the nodes that it has asked.
    pub(crate) fn roads(&self) -> BTreeMap<NodeIndex, Road> {
        let mut roads: BTreeMap<NodeIndex, Road> = BTreeMap::new();
        for ((node, _), peer) in &*self.peers.borrow() {
            match roads.get_mut(node) {
                Some(road) => road.add(Road::of(peer)),
                None => drop(roads.insert(*node, Road::of(peer))),
            }
        }
        roads
    }

    /// Ends all connections.
    pub(crate) fn close(&self) {
        let peers = std::mem::take(&mut *self.peers.borrow_mut());
        peers.values().for_each(Peer::close);
    }
}

fn internal(what: String) -> Refusal {
    crate::object::api::ObjectError::Internal(what).into()
}

/// Serves other nodes from now on, and asks them how they are.
pub(crate) fn start(core: &Rc<Core>, setup: NetworkSetup) -> io::Result<Option<PeerServer>> {
    let NetworkSetup { identity, network, door } = setup;
    let server = match network.listen {
        Some(address) => {
            let listener = core.env.listen(address)?;
            let (env, number) = (&core.env, core.number as u16);
            let service = Rc::new(ServeNodes { core: Rc::downgrade(core) });
            Some(PeerServer::start(env, number, identity, listener, door, service, network.options))
        }
        None => None,
    };
    if core.number == 0 {
        for node in core.map.other_nodes() {
            core.env.spawn(watch(core.clone(), node));
        }
    }
    Ok(server)
}

/// Serves the questions of other nodes for one core, which holds the server.
struct ServeNodes {
    core: Weak<Core>,
}

impl Service for ServeNodes {
    fn serve(
        &self,
        from: Remote,
        message: Message,
        _deadline: Option<Instant>,
    ) -> LocalBoxFuture<'static, Option<Message>> {
        let Some(core) = self.core.upgrade() else { return async { None }.boxed_local() };
        let request = match wire::decode_request(message) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(node = %from.node, %error, "a question of another node cannot be read");
                // Nothing happened: the question is declined.
                return async { None }.boxed_local();
            }
        };
        if let Request::ChunkRead { chunk, .. } = &request
            && !core.map.nodes.iter().any(|node| node.id == from.node)
        {
            core.guest_reads.note(chunk.object, core.env.now());
        }
        async move { Some(wire::encode_answer(&serve(&core, request).await)) }.boxed_local()
    }

    fn take(&self, from: Remote, message: Message) {
        let Some(core) = self.core.upgrade() else { return };
        match wire::decode_notice(message) {
            Ok(Notice::Groups(messages)) => {
                messages.into_iter().for_each(|message| core.host.deliver(message));
            }
            Err(error) => {
                tracing::error!(node = %from.node, %error, "a notice of another node cannot be read")
            }
        }
    }
}

async fn serve(core: &Rc<Core>, request: Request) -> Answer {
    match request {
        Request::PublishRoot(state) => {
            core.publish_here(&state).await?;
            Ok(Reply::Done)
        }
        Request::InUse(parts) => Ok(Reply::InUse(core.in_use_here(&parts).await?)),
        Request::Facts => Ok(Reply::Facts(Box::new(core.facts_here().await?))),
        request => core.serve(request).await,
    }
}

/// How this node is.
pub(crate) fn pulse(core: &Core) -> Pulse {
    let map = &core.map;
    let disks = map.disks_of(map.own);
    Pulse {
        cores: map.own_node().cores().unwrap_or(0),
        generation: map.generation,
        root_version: core.root_version(),
        disks: disks
            .map(|(disk, mapped)| DiskPulse { disk, state: mapped.state(), reason: mapped.reason() })
            .collect(),
        leaders: core.own_leaders(),
        to_most: core.distance.borrow().to_most(),
    }
}

/// Asks another node how it is, for as long as this one runs.
async fn watch(core: Rc<Core>, node: NodeIndex) {
    let to = Place { node, core: 0 };
    let mut heard = core.env.now();
    for turn in 0.. {
        let asked = core.env.now();
        let answer = core.nodes.ask_heard(to, &Request::Pulse, PULSE_LIMIT).await;
        let now = core.env.now();
        match answer {
            Ok(Ok(Reply::Pulse(pulse))) => {
                heard = now;
                core.note_distance(|distance| distance.pulse(node, now.since(asked), pulse.to_most));
                take_pulse(&core, node, *pulse).await;
                tell_if_far(&core, node).await;
            }
            // It has something else to do. Where this node has, that says nothing of the other one.
            Err(AskError::Declined) => heard = now,
            other => {
                let patience = match other {
                    Err(AskError::Unreachable) => UNREACHABLE_AFTER,
                    _ => SILENT_AFTER,
                };
                if now.since(heard) >= patience {
                    lose(&core, node);
                }
            }
        }
        core.env.sleep(until_next_pulse(turn)).await;
    }
}

/// A node that is slow finds answers waiting whenever it looks: the others have to say so.
async fn tell_if_far(core: &Core, node: NodeIndex) {
    let found = core.distance.borrow().found(node);
    let Some(took) = found.filter(|took| *took > WORTH_TELLING) else { return };
    let question = Request::FoundFar { by: core.map.own, took };
    if let Err(refusal) = core.nodes.ask(Place { node, core: 0 }, &question, PULSE_LIMIT).await {
        // An older build declines.
        tracing::debug!(node = core.map.node(node).name, %refusal, "a node does not hear that it is far");
    }
}

/// From two thirds to four thirds of [`PULSE_EVERY`], spread evenly: pulses that came at even intervals would fall in with whatever
/// else does, and always find a node awake that is so for a moment now and then.
fn until_next_pulse(turn: u32) -> Duration {
    // Multiples of the golden ratio.
    let part = turn.wrapping_mul(0x9e37_79b9) >> 22;
    PULSE_EVERY * 2 / 3 + PULSE_EVERY * part / (1024 * 3 / 2)
}

async fn take_pulse(core: &Rc<Core>, node: NodeIndex, pulse: Pulse) {
    let map = &core.map;
    let mapped = map.node(node);
    if pulse.generation != map.generation {
        tracing::warn!(
            node = mapped.name,
            theirs = pulse.generation,
            ours = map.generation,
            "a node has another topology"
        );
        return lose(core, node);
    }
    mapped.set_cores(pulse.cores);
    for DiskPulse { disk, state, reason } in pulse.disks {
        let is_theirs = map.disks.get(usize::from(disk)).is_some_and(|mapped| mapped.node == node);
        if !is_theirs {
            tracing::error!(node = mapped.name, disk, "a node speaks of a disk that is not its own");
            continue;
        }
        let known = map.disk(disk);
        if known.state() != state {
            tracing::info!(disk = map.disk_name(disk), ?state, reason, "a disk of another node");
            known.set_state(state, &reason);
        }
    }
    if mapped.state() != NodeState::Up {
        tracing::info!(node = mapped.name, cores = pulse.cores, "a node answers");
        mapped.set_state(NodeState::Up);
    }
    for leadership in pulse.leaders {
        let is_theirs = map.disks.get(usize::from(leadership.disk)).is_some_and(|disk| disk.node == node);
        if is_theirs && core.learn_leader(leadership) {
            core.broadcast(|| CoreMessage::Leader(leadership));
        }
    }
    if pulse.root_version > core.root_version() {
        let asked = core.nodes.ask(Place { node, core: 0 }, &Request::GetRoot, PULSE_LIMIT).await;
        if let Ok(Reply::Root(state)) = asked
            && let Err(refusal) = core.publish_here(&state).await
        {
            tracing::debug!(%refusal, "a core did not take the buckets");
        }
    }
}

/// A node does not answer: none of its disks takes part, as far as this node is concerned.
fn lose(core: &Core, node: NodeIndex) {
    let mapped = core.map.node(node);
    if mapped.state() != NodeState::Unreachable {
        tracing::warn!(node = mapped.name, "a node does not answer");
        mapped.set_lost(core.env.now());
        core.note_distance(|distance| distance.lost(node));
    }
    for (_, disk) in core.map.disks_of(node) {
        if disk.state() != DiskState::Absent {
            disk.set_state(DiskState::Absent, "its node does not answer");
        }
    }
}

impl Core {
    /// Whoever is far from the others, or slow, leads nothing while it is.
    pub(crate) fn note_distance(&self, note: impl FnOnce(&mut Distance)) {
        let mut distance = self.distance.borrow_mut();
        let was_far = distance.is_far();
        note(&mut distance);
        let is_far = distance.is_far();
        if is_far != was_far {
            let round_trip = distance.to_most();
            match is_far {
                true => {
                    tracing::warn!(
                        ?round_trip,
                        "this node is far from the others, or too slow to answer them soon: they lead what it should"
                    )
                }
                false => tracing::info!(?round_trip, "this node answers the others soon again"),
            }
            self.map.own_node().set_far(is_far);
        }
    }

    /// Hands a state of the root group to every core of this node.
    pub(crate) async fn publish_here(
        self: &Rc<Self>,
        state: &Arc<crate::root::RootState>,
    ) -> Result<(), Refusal> {
        for core in 0..self.cores() {
            self.ask(core, Request::PublishRoot(state.clone())).await?;
        }
        Ok(())
    }

    /// Hands it to every node that answers. One that does not, or not in time, asks for it when it is back.
    pub(crate) async fn publish_everywhere(
        self: &Rc<Self>,
        state: Arc<crate::root::RootState>,
    ) -> Result<(), Refusal> {
        self.publish_here(&state).await?;
        let request = Request::PublishRoot(state);
        let up = self.map.other_nodes().filter(|node| self.map.node(*node).state() == NodeState::Up);
        let asked = up.map(|node| {
            let (core, request) = (self, &request);
            async move {
                let to = Place { node, core: 0 };
                if let Err(refusal) = core.nodes.ask(to, request, PUBLISH_LIMIT).await {
                    tracing::warn!(node = core.map.node(node).name, %refusal, "a node hears of a change later");
                }
            }
        });
        join_all(asked.collect::<Vec<_>>()).await;
        Ok(())
    }

    /// Which of these parts are being read on this node.
    async fn in_use_here(self: &Rc<Self>, parts: &[ObjectId]) -> Result<Vec<ObjectId>, Refusal> {
        let mut in_use = Vec::new();
        for core in 0..self.cores() {
            if let Reply::InUse(parts) = self.ask(core, Request::InUse(parts.to_vec())).await? {
                in_use.extend(parts);
            }
        }
        Ok(in_use)
    }

    /// Whether a node that is not heard may be reading anything.
    pub(crate) fn may_be_read_unheard(&self) -> bool {
        let now = self.env.now();
        let mut silent = self.map.other_nodes().filter_map(|node| self.map.node(node).silent_for(now));
        silent.any(|silent| silent < READS_UNHEARD)
    }

    /// Which of them are being read on any node. An error where one of them did not say; a node that has not been there
    /// for minutes reads nothing.
    pub(crate) async fn in_use(self: &Rc<Self>, parts: Vec<ObjectId>) -> Result<Vec<ObjectId>, Refusal> {
        let mut in_use = self.in_use_here(&parts).await?;
        if self.may_be_read_unheard() {
            return Err(Refusal::Unreachable);
        }
        let request = Request::InUse(parts);
        let up = self.map.other_nodes().filter(|node| self.map.node(*node).state() == NodeState::Up);
        let asked = up.map(|node| self.nodes.ask(Place { node, core: 0 }, &request, IN_USE_LIMIT));
        for answer in join_all(asked.collect::<Vec<_>>()).await {
            if let Reply::InUse(parts) = answer? {
                in_use.extend(parts);
            }
        }
        Ok(in_use)
    }
}
