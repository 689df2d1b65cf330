//! One thread's connections: non-blocking sockets, one request at a time on each, and one epoll for all.
//!
//! What must hold: the client stays cheap, because it shares its machine with the server: a request is one write, an answer
//! mostly one read, and the loop sleeps where nothing is ready; one connection with a large body does not keep the others
//! waiting; a connection that fails is counted and opened again; no request waits longer than the timeout.

use super::content::Slices;
use super::exchange::{Endpoint, Exchange, Requests};
use super::measure::{Account, Live, Tally, Verdict};
use super::workload::{Picker, Window};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One read takes at most so much; it stays in the core's own cache.
const READ_BYTES_MAX: usize = 256 << 10;
/// Reads or writes of one connection before the others have their turn.
const TURNS_MAX: usize = 16;
const EVENTS_MAX: usize = 256;
/// Between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Between two looks at the clock while nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// What a thread is given.
pub(crate) struct Assignment<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) address: SocketAddr,
    pub(crate) picker: Picker<'a>,
    pub(crate) connections: usize,
    pub(crate) window: Window,
    pub(crate) timeout: Duration,
    pub(crate) live: &'a Live,
}

enum Phase {
    Down { retry_at: Instant },
    Connecting { since: Instant },
    Busy { started: Instant, sent: u64 },
    Retired,
}

struct Connection {
    socket: Option<TcpStream>,
    phase: Phase,
    exchange: Exchange,
    opened: bool,
    /// No connection since then.
    failing_since: Option<Instant>,
}

/// Whether a connection waits for the kernel or for its next turn.
#[derive(PartialEq, Eq)]
enum Turn {
    Waits,
    Again,
}

struct Thread<'a> {
    given: Assignment<'a>,
    requests: Requests<'a>,
    epoll: OwnedFd,
    scratch: Vec<u8>,
    account: Account<'a>,
    connections: usize,
}

/// Runs the connections until the window ends or nothing is left to do. Errors: the thread cannot have an epoll.
pub(crate) fn run(given: Assignment<'_>) -> io::Result<Tally> {
    let mut connections: Vec<Connection> = (0..given.connections)
        .map(|_| Connection {
            socket: None,
            phase: Phase::Down { retry_at: Instant::now() },
            exchange: Exchange::new(),
            opened: false,
            failing_since: None,
        })
        .collect();
    let mut thread = Thread {
        requests: Requests::new(given.endpoint, given.picker.workload),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        scratch: vec![0; READ_BYTES_MAX],
        account: Account::new(given.window, given.live),
        connections: connections.len(),
        given,
    };
    thread.run(&mut connections)?;
    Ok(thread.account.tally)
}

impl Thread<'_> {
    fn run(&mut self, connections: &mut [Connection]) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut again: Vec<usize> = Vec::new();
        let mut next_tick = Instant::now();
        while self.connections > 0 {
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                for (lane, connection) in connections.iter_mut().enumerate() {
                    self.tick(lane, connection, now);
                }
            }
            let wait =
                if again.is_empty() { next_tick.saturating_duration_since(now) } else { Duration::ZERO };
            let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // Who had too much to do for one turn reads until nothing is left, as after a hang-up: no edge will tell.
            let turns: Vec<(usize, bool)> = again.drain(..).map(|lane| (lane, true)).collect();
            let ready = events.drain(..).map(|event| {
                let flags = event.flags;
                let hangup = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                (event.data.u64() as usize, hangup)
            });
            for (lane, to_the_end) in turns.into_iter().chain(ready) {
                let turn = self.advance(lane, &mut connections[lane], to_the_end);
                if turn == Turn::Again && !again.contains(&lane) {
                    again.push(lane);
                }
            }
        }
        Ok(())
    }

    /// Opens what is down and gives up what takes too long.
    fn tick(&mut self, lane: usize, connection: &mut Connection, now: Instant) {
        match connection.phase {
            Phase::Down { retry_at } if now >= retry_at => {
                let given_up = |since: Instant| now >= since + self.given.timeout;
                let over = match self.given.window.until {
                    Some(until) => now >= until,
                    None => connection.failing_since.is_some_and(given_up),
                };
                if over {
                    self.retire(connection);
                } else if let Err(error) = self.connect(lane, connection, now) {
                    self.broken(lane, connection, &format!("connect: {}", error.kind()));
                }
            }
            Phase::Connecting { since } if now >= since + self.given.timeout => {
                self.broken(lane, connection, "connect: timeout");
            }
            Phase::Busy { started, .. } if now >= started + self.given.timeout => {
                self.broken(lane, connection, "timeout");
            }
            _ => {}
        }
    }

    fn connect(&mut self, lane: usize, connection: &mut Connection, now: Instant) -> io::Result<()> {
        let address = self.given.address;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = TcpStream::from(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?);
        socket.set_nodelay(true)?;
        if let Some(name) = &self.given.endpoint.congestion {
            rustix::net::sockopt::set_tcp_congestion(&socket, name)?;
        }
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        // Edge-triggered for both, once: no further call is needed to wait for either.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(lane as u64), flags)?;
        connection.socket = Some(socket);
        connection.phase = Phase::Connecting { since: now };
        self.account.tally.reconnects += u64::from(connection.opened);
        connection.opened = true;
        Ok(())
    }

    /// Does what the socket is ready for.
    fn advance(&mut self, lane: usize, connection: &mut Connection, to_the_end: bool) -> Turn {
        if let (Phase::Connecting { .. }, Some(socket)) = (&connection.phase, &connection.socket) {
            match socket.take_error() {
                Ok(None) if socket.peer_addr().is_ok() => {
                    connection.failing_since = None;
                    self.begin(lane, connection);
                }
                Ok(None) => return Turn::Waits,
                Ok(Some(error)) | Err(error) => {
                    self.broken(lane, connection, &format!("connect: {}", error.kind()));
                }
            }
        }
        for _ in 0..TURNS_MAX {
            let moved = match self.step(connection, to_the_end) {
                Ok(moved) => moved,
                Err(name) => {
                    self.broken(lane, connection, &name);
                    return Turn::Waits;
                }
            };
            if connection.exchange.reader.done() && matches!(connection.phase, Phase::Busy { .. }) {
                self.end(lane, connection);
                // Nothing can be there to be read: the next question has just been asked. If it did not fit into one
                // write, there may still be room.
                return match connection.phase {
                    Phase::Busy { sent, .. } if sent < connection.exchange.request_bytes() => Turn::Again,
                    _ => Turn::Waits,
                };
            }
            if !moved {
                return Turn::Waits;
            }
        }
        Turn::Again
    }

    /// One write or one read; false where the socket has neither room nor bytes (or, unless `to_the_end`, will tell of
    /// more). Errors: what went wrong, by name.
    fn step(&mut self, connection: &mut Connection, to_the_end: bool) -> Result<bool, String> {
        let (Phase::Busy { sent, .. }, Some(socket)) = (&mut connection.phase, &mut connection.socket) else {
            return Ok(false);
        };
        let exchange = &mut connection.exchange;
        if *sent < exchange.request_bytes() {
            match send(socket, exchange, *sent, &self.given) {
                Ok(written) => {
                    *sent += written as u64;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The answer may say why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error.kind().to_string()),
            }
        }
        if let Some(unread) = exchange.unread().filter(|_| self.given.endpoint.discard) {
            let len = usize::try_from(unread).unwrap_or(usize::MAX).min(READ_BYTES_MAX);
            // On TCP this flag means: take the bytes, and copy nothing.
            return match rustix::net::recv(&*socket, &mut self.scratch[..len], RecvFlags::TRUNC) {
                Ok((_, 0)) => Err("connection closed".to_owned()),
                Ok((_, dropped)) => {
                    exchange.skip(dropped as u64);
                    Ok(dropped == READ_BYTES_MAX || to_the_end)
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
                Err(error) => Err(io::Error::from(error).kind().to_string()),
            };
        }
        let read = match socket.read(&mut self.scratch) {
            Ok(0) if exchange.reader.closed() => return Ok(true),
            Ok(0) => return Err("connection closed".to_owned()),
            Ok(read) => read,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error.kind().to_string()),
        };
        let verify = self.given.endpoint.verify.then_some(&self.given.picker.workload.content);
        exchange.feed(&self.scratch[..read], verify).map_err(|error| error.to_string())?;
        Ok(read == READ_BYTES_MAX || to_the_end)
    }

    /// Sends the next request, or retires the connection.
    fn begin(&mut self, lane: usize, connection: &mut Connection) {
        match self.given.picker.next(lane, Instant::now()) {
            None => {
                self.account.nothing_left();
                self.retire(connection);
            }
            Some(operation) => {
                connection.exchange.begin(operation, &mut self.requests);
                let Some(socket) = &mut connection.socket else { unreachable!("it is connected") };
                let started = Instant::now();
                // What does not fit, or fails, comes up again with the socket's next event.
                let sent = send(socket, &connection.exchange, 0, &self.given).unwrap_or(0);
                connection.phase = Phase::Busy { started, sent: sent as u64 };
            }
        }
    }

    /// Counts a complete answer and goes on.
    fn end(&mut self, lane: usize, connection: &mut Connection) {
        let Phase::Busy { started, sent } = connection.phase else { unreachable!("an answer came") };
        let exchange = &mut connection.exchange;
        let whole = sent == exchange.request_bytes();
        let verdict = match exchange.verdict(self.given.picker.workload, self.given.endpoint.verify) {
            Verdict::Good { .. } if !whole => {
                Verdict::Refused("answered before the request was sent".to_owned())
            }
            verdict => verdict,
        };
        let close = exchange.reader.head().is_some_and(|head| head.close) || !whole;
        let ending = self.account.ended(exchange.operation.action, started, verdict);
        self.given.picker.ended(lane, &exchange.operation, ending);
        if close {
            let now = Instant::now();
            connection.socket = None;
            connection.phase = Phase::Down { retry_at: now };
            self.tick(lane, connection, now);
        } else {
            self.begin(lane, connection);
        }
    }

    /// Drops the connection, and the request with it.
    fn broken(&mut self, lane: usize, connection: &mut Connection, name: &str) {
        let now = Instant::now();
        let ending = self.account.broken(name);
        if let Phase::Busy { .. } = connection.phase {
            self.given.picker.ended(lane, &connection.exchange.operation, ending);
        }
        connection.socket = None;
        connection.failing_since.get_or_insert(now);
        connection.phase = Phase::Down { retry_at: now + RETRY_AFTER };
    }

    fn retire(&mut self, connection: &mut Connection) {
        connection.socket = None;
        connection.phase = Phase::Retired;
        self.connections -= 1;
    }
}

/// Writes what comes after the first `sent` bytes of the request, as much as the socket takes.
fn send(socket: &mut TcpStream, exchange: &Exchange, sent: u64, given: &Assignment<'_>) -> io::Result<usize> {
    let head_len = exchange.head.len() as u64;
    let Some(body) = exchange.body.filter(|body| body.size > 0) else {
        return socket.write(&exchange.head[sent as usize..]);
    };
    let mut slices = Slices::default();
    if sent < head_len {
        slices.push(&exchange.head[sent as usize..]);
    }
    let from = sent.saturating_sub(head_len);
    given.picker.workload.content.slices(body, from, body.size, &mut slices);
    socket.write_vectored(slices.as_slice())
}

/// Whether anybody is there. Errors: why not.
pub(crate) fn reach(address: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop)
}
