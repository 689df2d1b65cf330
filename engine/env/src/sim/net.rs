//! The simulated network: links between nodes, and connections over them.
//!
//! What must hold:
//! - A connection is a pair of ordered byte streams. Bytes are never lost, doubled or reordered within it; what
//!   TCP cannot repair shows as a reset or a timeout.
//! - A link has two directions that are cut separately. What is sent into a cut waits, as TCP repeats it, until
//!   the cut is healed or the sender gives up; the answer's way counts too, for without it nothing is known to
//!   have arrived.
//! - Bytes sent and not yet read by the peer are bounded for each direction.

use super::executor::{Event, Life};
use super::rng::SimRng;
use super::world::{LifeEnd, Trace, World, draw_nanos, nanos};
use bytes::{Buf, Bytes};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::task::Waker;
use std::time::Duration;

/// How the network behaves.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// How long a segment takes from node to node where no link says otherwise.
    pub delay: Range<Duration>,
    /// The same within one node.
    pub loopback_delay: Range<Duration>,
    /// How often a segment is lost for good, in millionths: the connection is reset.
    pub loss_per_million: u32,
    /// Bytes sent and not yet read, for each direction of a connection.
    pub buffer_bytes_max: usize,
    /// Time without any acknowledgement after which a sender gives a connection up.
    pub give_up_after: Duration,
    /// Time after which a connection attempt gives up.
    pub connect_timeout: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        NetworkOptions {
            delay: Duration::from_micros(50)..Duration::from_micros(300),
            loopback_delay: Duration::from_micros(5)..Duration::from_micros(30),
            loss_per_million: 0,
            buffer_bytes_max: 256 << 10,
            give_up_after: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// The way from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// How long a segment takes.
    pub delay: Range<Duration>,
    /// How often a segment is lost for good, in millionths: the connection is reset.
    pub loss_per_million: u32,
}

/// What the simulated network has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Connections that there are now.
    pub connections: u64,
    /// Pieces of data sent: what one write handed over.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Connections that wait to be accepted, for each listener.
const BACKLOG_CONNECTIONS_MAX: usize = 1024;
/// Bytes of one segment, at most.
const SEGMENT_BYTES_MAX: usize = 64 << 10;
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// One end of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndKey {
    connection: u32,
    generation: u32,
    /// 0: who connected; 1: who accepted.
    side: u8,
}

impl EndKey {
    fn peer(self) -> EndKey {
        EndKey { side: 1 - self.side, ..self }
    }
    fn trace_id(self) -> u64 {
        u64::from(self.connection) << 33 | u64::from(self.side) << 32 | u64::from(self.generation)
    }
}

/// What travels from one end of a connection to the other.
#[derive(Debug)]
enum Segment {
    Data(Bytes),
    /// No data follows.
    End,
    /// The connection is gone.
    Reset,
}

/// A network event.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The sender's end.
    from: EndKey,
    what: What,
}

#[derive(Debug)]
enum What {
    Arrives(Segment),
    /// The link was healed a moment ago: what waited arrives.
    Resumes,
    /// The sender gives up if nothing more than this was acknowledged since.
    GivesUp {
        acknowledged: u64,
    },
}

struct End {
    life: Life,
    address: SocketAddr,
    /// Its stream exists.
    open: bool,
    /// Why reads and writes fail.
    broken: Option<ErrorKind>,
    reader: Option<Waker>,
    writer: Option<Waker>,

    received: VecDeque<Bytes>,
    /// The peer's end of data was received.
    finished: bool,

    /// Bytes sent and not read by the peer.
    outstanding_bytes: usize,
    end_sent: bool,
    segments_sent: u64,
    segments_arrived: u64,
    segments_acknowledged: u64,
    last_arrival: u64,
    /// Sent, and held up by a cut.
    held_up: VecDeque<Segment>,
    will_give_up: bool,
}

impl End {
    fn new(life: Life, address: SocketAddr) -> End {
        End {
            life,
            address,
            open: true,
            broken: None,
            reader: None,
            writer: None,
            received: VecDeque::new(),
            finished: false,
            outstanding_bytes: 0,
            end_sent: false,
            segments_sent: 0,
            segments_arrived: 0,
            segments_acknowledged: 0,
            last_arrival: 0,
            held_up: VecDeque::new(),
            will_give_up: false,
        }
    }

    fn wake(&mut self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.reader.take());
        wakes.extend(self.writer.take());
    }

    fn break_off(&mut self, kind: ErrorKind, wakes: &mut Vec<Waker>) {
        self.broken.get_or_insert(kind);
        self.wake(wakes);
    }
}

struct Connection {
    generation: u32,
    /// `None`: the place is free.
    ends: Option<[End; 2]>,
}

struct ListenerState {
    address: SocketAddr,
    life: Life,
    backlog: VecDeque<EndKey>,
    waker: Option<Waker>,
}

/// What a listener's or stream's operation finds.
pub(super) enum Attempt<T> {
    Done(T),
    Wait,
    Failed(ErrorKind),
}

/// All links, listeners and connections.
pub(super) struct Network {
    options: NetworkOptions,
    rng: SimRng,
    links: BTreeMap<(u32, u32), LinkOptions>,
    cuts: BTreeMap<(u32, u32), ()>,
    listeners: BTreeMap<u32, ListenerState>,
    next_listener: u32,
    next_port: u16,
    connections: Vec<Connection>,
    free: Vec<u32>,
    segments: u64,
    bytes: u64,
}

impl Network {
    pub(super) fn new(options: NetworkOptions, rng: SimRng) -> Network {
        Network {
            options,
            rng,
            links: BTreeMap::new(),
            cuts: BTreeMap::new(),
            listeners: BTreeMap::new(),
            next_listener: 0,
            next_port: FIRST_EPHEMERAL_PORT,
            connections: Vec::new(),
            free: Vec::new(),
            segments: 0,
            bytes: 0,
        }
    }

    pub(super) fn counts(&self) -> NetworkCounts {
        let connections = (self.connections.len() - self.free.len()) as u64;
        NetworkCounts { connections, segments: self.segments, bytes: self.bytes }
    }

    pub(super) fn options(&self) -> &NetworkOptions {
        &self.options
    }

    // Links.

    pub(super) fn set_link(&mut self, from: u32, to: u32, options: LinkOptions) {
        self.links.insert((from, to), options);
    }

    pub(super) fn cut(&mut self, from: u32, to: u32) {
        self.cuts.insert((from, to), ());
    }

    pub(super) fn is_cut(&self, from: u32, to: u32) -> bool {
        !self.cuts.is_empty() && self.cuts.contains_key(&(from, to))
    }

    pub(super) fn cuts(&self) -> Vec<(u32, u32)> {
        self.cuts.keys().copied().collect()
    }

    /// Ends a cut: what waited for it arrives after the usual delay.
    pub(super) fn heal(&mut self, world: &World, from: u32, to: u32) {
        if self.cuts.remove(&(from, to)).is_none() {
            return;
        }
        for index in 0..self.connections.len() {
            for side in 0..2u8 {
                let connection = &mut self.connections[index];
                let key = EndKey { connection: index as u32, generation: connection.generation, side };
                let Some(ends) = &mut connection.ends else { continue };
                let way = (ends[side as usize].life.node, ends[1 - side as usize].life.node);
                let end = &mut ends[side as usize];
                if way == (to, from) {
                    end.segments_acknowledged = end.segments_arrived;
                }
                if way == (from, to) && !end.held_up.is_empty() {
                    let at = world.now() + self.draw_delay(from, to);
                    world.schedule(at, Event::Network(Arrival { from: key, what: What::Resumes }));
                }
            }
        }
    }

    pub(super) fn draw_delay(&mut self, from: u32, to: u32) -> u64 {
        let range = match self.links.get(&(from, to)) {
            Some(link) => &link.delay,
            None if from == to => &self.options.loopback_delay,
            None => &self.options.delay,
        };
        draw_nanos(&mut self.rng, range)
    }

    fn draw_loss(&mut self, from: u32, to: u32) -> bool {
        let loss = match self.links.get(&(from, to)) {
            Some(link) => link.loss_per_million,
            None if from == to => 0,
            None => self.options.loss_per_million,
        };
        self.rng.per_million(loss)
    }

    // Listeners.

    pub(super) fn listen(&mut self, life: Life, address: SocketAddr) -> Result<u32, ErrorKind> {
        let mut address = address;
        if address.ip().is_unspecified() {
            address.set_ip(ip_of(life.node));
        } else if !address.ip().is_loopback() && address.ip() != ip_of(life.node) {
            return Err(ErrorKind::AddrNotAvailable);
        }
        if address.port() == 0 {
            address.set_port(self.draw_port());
        }
        self.next_listener += 1;
        let state = ListenerState { address, life, backlog: VecDeque::new(), waker: None };
        self.listeners.insert(self.next_listener, state);
        Ok(self.next_listener)
    }

    fn draw_port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
        self.next_port
    }

    pub(super) fn listener_address(&self, listener: u32) -> Option<SocketAddr> {
        Some(self.listeners.get(&listener)?.address)
    }

    pub(super) fn accept(&mut self, listener: u32, waker: &Waker) -> Attempt<EndKey> {
        let Some(state) = self.listeners.get_mut(&listener) else {
            return Attempt::Failed(ErrorKind::NotConnected);
        };
        match state.backlog.pop_front() {
            Some(end) => Attempt::Done(end),
            None => {
                state.waker = Some(waker.clone());
                Attempt::Wait
            }
        }
    }

    pub(super) fn close_listener(&mut self, world: &World, listener: u32) {
        let Some(state) = self.listeners.remove(&listener) else { return };
        for end in state.backlog {
            self.close(world, end);
        }
    }

    // Connections.

    /// Connects `life` to a listener at `to`, a random one where several share the address.
    pub(super) fn connect(
        &mut self,
        life: Life,
        to: SocketAddr,
        wakes: &mut Vec<Waker>,
    ) -> Result<EndKey, ErrorKind> {
        let here = |state: &ListenerState| {
            state.address == to && (!to.ip().is_loopback() || state.life.node == life.node)
        };
        let open: Vec<u32> =
            self.listeners.iter().filter(|(_, state)| here(state)).map(|(listener, _)| *listener).collect();
        if open.is_empty() {
            return Err(ErrorKind::ConnectionRefused);
        }
        let listener = *self.rng.pick(&open);
        let own_ip = if to.ip().is_loopback() { to.ip() } else { ip_of(life.node) };
        let own = SocketAddr::new(own_ip, self.draw_port());
        let Some(state) = self.listeners.get_mut(&listener) else { return Err(ErrorKind::ConnectionRefused) };
        if state.backlog.len() >= BACKLOG_CONNECTIONS_MAX {
            return Err(ErrorKind::ConnectionRefused);
        }
        let ends = [End::new(life, own), End::new(state.life, to)];
        let connection = self.free.pop().unwrap_or_else(|| {
            self.connections.push(Connection { generation: 0, ends: None });
            (self.connections.len() - 1) as u32
        });
        let place = &mut self.connections[connection as usize];
        place.ends = Some(ends);
        let key = EndKey { connection, generation: place.generation, side: 0 };
        state.backlog.push_back(key.peer());
        wakes.extend(state.waker.take());
        Ok(key)
    }

    fn ends(&mut self, key: EndKey) -> Option<(&mut End, &mut End)> {
        let connection = &mut self.connections[key.connection as usize];
        if connection.generation != key.generation {
            return None;
        }
        let [connector, acceptor] = connection.ends.as_mut()?;
        Some(if key.side == 0 { (connector, acceptor) } else { (acceptor, connector) })
    }

    pub(super) fn peer_address(&mut self, key: EndKey) -> Option<SocketAddr> {
        Some(self.ends(key)?.1.address)
    }

    pub(super) fn read(
        &mut self,
        key: EndKey,
        buffer: &mut [u8],
        waker: &Waker,
        wakes: &mut Vec<Waker>,
    ) -> Attempt<usize> {
        // A stream may always give less than it has.
        let partial = self.rng.one_in(8);
        let limit =
            if partial { self.rng.below(buffer.len().max(1) as u64) as usize + 1 } else { buffer.len() };
        let Some((end, peer)) = self.ends(key) else { return Attempt::Failed(ErrorKind::NotConnected) };
        let limit = limit.min(buffer.len());
        let mut filled = 0;
        while filled < limit {
            let Some(front) = end.received.front_mut() else { break };
            let part = front.len().min(limit - filled);
            buffer[filled..filled + part].copy_from_slice(&front[..part]);
            front.advance(part);
            if front.is_empty() {
                end.received.pop_front();
            }
            filled += part;
        }
        if filled > 0 || buffer.is_empty() {
            peer.outstanding_bytes -= filled;
            wakes.extend(peer.writer.take());
            return Attempt::Done(filled);
        }
        match (end.broken, end.finished) {
            (Some(kind), _) => Attempt::Failed(kind),
            (None, true) => Attempt::Done(0),
            (None, false) => {
                end.reader = Some(waker.clone());
                Attempt::Wait
            }
        }
    }

    /// Sends the first bytes of `data`, as many as fit.
    pub(super) fn write(&mut self, world: &World, key: EndKey, data: &[u8], waker: &Waker) -> Attempt<usize> {
        let buffer_bytes_max = self.options.buffer_bytes_max;
        let Some((end, _)) = self.ends(key) else { return Attempt::Failed(ErrorKind::NotConnected) };
        if let Some(kind) = end.broken {
            return Attempt::Failed(kind);
        }
        if end.end_sent {
            return Attempt::Failed(ErrorKind::BrokenPipe);
        }
        let part =
            data.len().min(SEGMENT_BYTES_MAX).min(buffer_bytes_max.saturating_sub(end.outstanding_bytes));
        if part == 0 && !data.is_empty() {
            end.writer = Some(waker.clone());
            return Attempt::Wait;
        }
        end.outstanding_bytes += part;
        if part > 0 {
            self.send(world, key, Segment::Data(Bytes::copy_from_slice(&data[..part])));
        }
        Attempt::Done(part)
    }

    pub(super) fn shutdown_write(&mut self, world: &World, key: EndKey) -> Result<(), ErrorKind> {
        let Some((end, _)) = self.ends(key) else { return Err(ErrorKind::NotConnected) };
        if let Some(kind) = end.broken {
            return Err(kind);
        }
        if !std::mem::replace(&mut end.end_sent, true) {
            self.send(world, key, Segment::End);
        }
        Ok(())
    }

    /// The stream of this end is dropped.
    pub(super) fn close(&mut self, world: &World, key: EndKey) {
        let Some((end, peer)) = self.ends(key) else { return };
        end.open = false;
        if !peer.open {
            return self.release(key);
        }
        if end.broken.is_some() {
            return;
        }
        if end.received.is_empty() {
            if !std::mem::replace(&mut end.end_sent, true) {
                self.send(world, key, Segment::End);
            }
        } else {
            // The peer must learn that its data was not read.
            end.received.clear();
            self.send(world, key, Segment::Reset);
        }
    }

    fn release(&mut self, key: EndKey) {
        let connection = &mut self.connections[key.connection as usize];
        connection.ends = None;
        connection.generation = connection.generation.wrapping_add(1);
        self.free.push(key.connection);
    }

    fn send(&mut self, world: &World, from: EndKey, segment: Segment) {
        let Some((end, peer)) = self.ends(from) else { return };
        let way = (end.life.node, peer.life.node);
        end.segments_sent += 1;
        let sent = end.segments_sent;
        let delay = self.draw_delay(way.0, way.1);
        let segment = if self.draw_loss(way.0, way.1) { Segment::Reset } else { segment };
        let Some((end, _)) = self.ends(from) else { return };
        let at = (world.now() + delay).max(end.last_arrival);
        end.last_arrival = at;
        let size = if let Segment::Data(data) = &segment { data.len() as u64 } else { 0 };
        self.segments += u64::from(size > 0);
        self.bytes += size;
        world.trace(Trace::NetworkSend, from.trace_id(), sent << 32 ^ size);
        world.schedule(at, Event::Network(Arrival { from, what: What::Arrives(segment) }));
    }

    fn arrive(&mut self, world: &World, arrival: Arrival, wakes: &mut Vec<Waker>) {
        let from = arrival.from;
        let Some((end, peer)) = self.ends(from) else { return };
        let way = (end.life.node, peer.life.node);
        world.trace(Trace::NetworkArrival, from.trace_id(), end.segments_arrived);
        let cut = self.is_cut(way.0, way.1);
        let Some((end, _)) = self.ends(from) else { return };
        match arrival.what {
            What::Arrives(Segment::Reset) if cut => {}
            What::Arrives(segment) if cut || !end.held_up.is_empty() => {
                end.held_up.push_back(segment);
                self.watch(world, from);
            }
            What::Arrives(segment) => self.deliver(world, from, segment, wakes),
            What::Resumes if cut => {}
            What::Resumes => {
                while let Some(segment) = self.ends(from).and_then(|(end, _)| end.held_up.pop_front()) {
                    self.deliver(world, from, segment, wakes);
                }
            }
            What::GivesUp { acknowledged } => {
                end.will_give_up = false;
                if end.segments_acknowledged == end.segments_sent {
                    return;
                }
                if end.segments_acknowledged > acknowledged {
                    return self.watch(world, from);
                }
                end.held_up.clear();
                end.break_off(ErrorKind::TimedOut, wakes);
                self.send(world, from, Segment::Reset);
            }
        }
    }

    fn deliver(&mut self, world: &World, from: EndKey, segment: Segment, wakes: &mut Vec<Waker>) {
        let discards = self.rng.one_in(2);
        let Some((end, peer)) = self.ends(from) else { return };
        let way_back = (peer.life.node, end.life.node);
        end.segments_arrived += 1;
        if !peer.open || peer.broken.is_some() {
            // Nobody is there: the sender learns of it.
            if !matches!(segment, Segment::Reset) && end.open {
                self.send(world, from.peer(), Segment::Reset);
            }
            return;
        }
        match segment {
            Segment::Data(data) => {
                peer.received.push_back(data);
                wakes.extend(peer.reader.take());
            }
            Segment::End => {
                peer.finished = true;
                wakes.extend(peer.reader.take());
            }
            Segment::Reset => {
                // Data that was received and not read may or may not be given to the reader.
                if discards {
                    peer.received.clear();
                }
                peer.break_off(ErrorKind::ConnectionReset, wakes);
                // After a loss the sender's side learns it too.
                if end.open && end.broken.is_none() {
                    self.send(world, from.peer(), Segment::Reset);
                }
                return;
            }
        }
        if self.is_cut(way_back.0, way_back.1) {
            self.watch(world, from);
        } else if let Some((end, _)) = self.ends(from) {
            end.segments_acknowledged = end.segments_arrived;
        }
    }

    /// Lets the sender give up if nothing is acknowledged from now on.
    fn watch(&mut self, world: &World, from: EndKey) {
        let jitter = 75 + self.rng.below(50);
        let after = nanos(self.options.give_up_after) / 100 * jitter;
        let Some((end, _)) = self.ends(from) else { return };
        if end.broken.is_some() || std::mem::replace(&mut end.will_give_up, true) {
            return;
        }
        let what = What::GivesUp { acknowledged: end.segments_acknowledged };
        world.schedule(world.now() + after, Event::Network(Arrival { from, what }));
    }

    /// All sockets of earlier lives of the node are gone. A peer learns it at once, or, where the power failed,
    /// perhaps only when it sends again.
    fn crash(&mut self, world: &World, current: Life, how: LifeEnd) {
        let dead = |life: Life| life.node == current.node && life.number != current.number;
        let listeners: Vec<u32> =
            self.listeners.iter().filter(|(_, state)| dead(state.life)).map(|(key, _)| *key).collect();
        for listener in listeners {
            self.listeners.remove(&listener);
        }
        for index in 0..self.connections.len() as u32 {
            for side in 0..2u8 {
                let generation = self.connections[index as usize].generation;
                let key = EndKey { connection: index, generation, side };
                let tells = how == LifeEnd::ProcessKilled || self.rng.one_in(2);
                let Some((end, peer)) = self.ends(key) else { continue };
                if !dead(end.life) || !end.open {
                    continue;
                }
                end.open = false;
                end.received.clear();
                end.held_up.clear();
                if !peer.open {
                    self.release(key);
                } else if tells {
                    self.send(world, key, Segment::Reset);
                }
            }
        }
    }

    /// The simulation ends. Streams that outlive it find nothing.
    pub(super) fn end(&mut self) {
        self.listeners.clear();
        for connection in &mut self.connections {
            connection.ends = None;
            connection.generation = connection.generation.wrapping_add(1);
        }
    }
}

/// A node's address.
pub(super) fn ip_of(node: u32) -> IpAddr {
    let [_, high, middle, low] = (node + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, high, middle, low))
}

/// The node that has an address.
pub(super) fn node_at(ip: IpAddr) -> Option<u32> {
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [10, high, middle, low] => u32::from_be_bytes([0, high, middle, low]).checked_sub(1),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

pub(super) fn arrive(world: &World, arrival: Arrival) {
    let mut wakes = Vec::new();
    world.network.borrow_mut().arrive(world, arrival, &mut wakes);
    for waker in wakes {
        waker.wake();
    }
}

pub(super) fn crash(world: &World, current: Life, how: LifeEnd) {
    world.network.borrow_mut().crash(world, current, how);
}
