//! One end of a proven connection: questions and answers under way, and what waits to be written.
//!
//! What must hold:
//! - Every question ends exactly once: with an answer, or with a [`Fate`] that says whether it may have happened.
//! - Nothing grows without a limit. A question over a limit is refused at once; a message that wants no answer is dropped and
//!   counted; a peer that does not take its answers is not read any more ([`Connection::is_choked`]).
//! - Questions and answers leave in the order in which they were given. Messages that want no answer, pings and pongs leave
//!   before them, in their own order: heartbeats do not wait behind bodies.
//! - A payload (`P`, anything that is bytes) is never copied here.
//!
//! Times are durations since any fixed start. `T` is what the asker gets its answer through.

use crate::frame::{self, FrameHeader, FrameKind, HEADER_BYTES, TooLong};
use crate::limits::Limits;
use crate::session::Sealer;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

/// Heads from this length on are written from where they lie; shorter ones are copied behind their headers.
const LONG_HEAD_BYTES: usize = 1024;
/// A batch keeps memory for so many headers and short heads.
const HEADS_KEPT_BYTES: usize = 4 << 10;

/// What a waiting frame is charged beside its bytes.
const FRAME_COST_BYTES: usize = 192;

/// What is sent: a head, and a payload in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<P> {
    /// The encoded question or answer.
    pub head: Bytes,
    /// Raw bytes that belong to it. Where all pieces but the last are equally long, and at least 4096 bytes, they arrive as
    /// they were sent, else as one.
    pub payload: Vec<P>,
}

impl<P: AsRef<[u8]>> Message<P> {
    /// Without a payload.
    pub fn new(head: Bytes) -> Message<P> {
        Message { head, payload: Vec::new() }
    }

    /// Bytes of head and payload.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.payload_bytes()
    }

    fn payload_bytes(&self) -> usize {
        self.payload.iter().map(|piece| piece.as_ref().len()).sum()
    }
}

/// Why a message is not taken. Nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too much is under way.
    #[error("too much is under way to this peer")]
    Overloaded,
    /// It can never be sent.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// How a question ended that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No byte of it left: nothing happened.
    NotSent,
    /// The peer did not take it: nothing happened.
    Declined,
    /// It may or may not have happened.
    Unknown,
}

/// A question of the peer that is being served; given back with the answer.
#[derive(Debug)]
#[must_use = "a question that is not answered counts as being served for ever"]
pub struct Serving {
    id: u64,
    payload_bytes: usize,
}

/// What a frame of the peer means.
#[derive(Debug)]
pub enum Event<P, T> {
    /// A question. Nobody waits any more after the time, where there is one.
    Request(Serving, Message<P>, Option<Duration>),
    /// The answer to an own question.
    Answer(T, Message<P>),
    /// An own question was not taken.
    Declined(T),
    /// A message that wants no answer.
    OneWay(Message<P>),
    /// The round trip of a ping.
    RoundTrip(Duration),
    /// Nothing to do: a ping, an answer that nobody waits for, a question that was declined.
    Nothing,
}

/// What happened on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions sent or queued.
    pub asked: u64,
    /// Answers that came.
    pub answered: u64,
    /// Questions whose outcome is unknown.
    pub unknown: u64,
    /// Questions refused here, because of a limit.
    pub refused: u64,
    /// Questions that the peer declined.
    pub declined_by_peer: u64,
    /// Answers that nobody waited for any more.
    pub late_answers: u64,
    /// Messages sent that want no answer.
    pub told: u64,
    /// The same, dropped because of a limit.
    pub dropped: u64,
    /// Questions of the peer taken.
    pub served: u64,
    /// Questions of the peer declined, because of a limit.
    pub declined: u64,
    /// Frames written, and their bytes.
    pub frames_out: u64,
    /// See `frames_out`.
    pub bytes_out: u64,
    /// Frames read, and their bytes.
    pub frames_in: u64,
    /// See `frames_in`.
    pub bytes_in: u64,
}

impl Counts {
    /// Names and values.
    pub fn values(&self) -> [(&'static str, u64); 14] {
        [
            ("asked", self.asked),
            ("answered", self.answered),
            ("unknown", self.unknown),
            ("refused", self.refused),
            ("declined_by_peer", self.declined_by_peer),
            ("late_answers", self.late_answers),
            ("told", self.told),
            ("dropped", self.dropped),
            ("served", self.served),
            ("declined", self.declined),
            ("frames_out", self.frames_out),
            ("bytes_out", self.bytes_out),
            ("frames_in", self.frames_in),
            ("bytes_in", self.bytes_in),
        ]
    }

    /// Adds those of another connection.
    pub fn add(&mut self, other: &Counts) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.declined_by_peer += other.declined_by_peer;
        self.late_answers += other.late_answers;
        self.told += other.told;
        self.dropped += other.dropped;
        self.served += other.served;
        self.declined += other.declined;
        self.frames_out += other.frames_out;
        self.bytes_out += other.bytes_out;
        self.frames_in += other.frames_in;
        self.bytes_in += other.bytes_in;
    }
}

struct Asking<T> {
    token: T,
    deadline: Duration,
    /// At least one byte of it may have left.
    sent: bool,
}

struct Waiting<P> {
    kind: FrameKind,
    id: u64,
    deadline: Option<Duration>,
    message: Message<P>,
    cost_bytes: usize,
}

struct Queue<P> {
    frames: VecDeque<Waiting<P>>,
    bytes: usize,
}

impl<P: AsRef<[u8]>> Queue<P> {
    fn new() -> Queue<P> {
        Queue { frames: VecDeque::new(), bytes: 0 }
    }

    fn push(&mut self, kind: FrameKind, id: u64, deadline: Option<Duration>, message: Message<P>) {
        let cost_bytes = cost_bytes(&message);
        self.bytes += cost_bytes;
        self.frames.push_back(Waiting { kind, id, deadline, message, cost_bytes });
    }

    fn pop(&mut self) -> Option<Waiting<P>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.cost_bytes;
        Some(frame)
    }
}

fn cost_bytes<P: AsRef<[u8]>>(message: &Message<P>) -> usize {
    FRAME_COST_BYTES + HEADER_BYTES + message.bytes()
}

/// Frames on their way out together: one vectored write.
pub struct Batch<P> {
    /// Headers and short heads.
    heads: BytesMut,
    parts: Vec<Part<P>>,
    bytes: usize,
}

enum Part<P> {
    Heads(Range<usize>),
    LongHead(Bytes),
    Piece(P),
}

impl<P: AsRef<[u8]>> Default for Batch<P> {
    fn default() -> Batch<P> {
        Batch { heads: BytesMut::new(), parts: Vec::new(), bytes: 0 }
    }
}

impl<P: AsRef<[u8]>> Batch<P> {
    /// True where there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What to write, in order.
    pub fn slices(&self) -> Vec<&[u8]> {
        let slices = self.parts.iter().map(|part| match part {
            Part::Heads(range) => &self.heads[range.clone()],
            Part::LongHead(head) => head,
            Part::Piece(piece) => piece.as_ref(),
        });
        slices.collect()
    }

    /// Lets go of what was written.
    pub fn clear(&mut self) {
        match self.heads.capacity() {
            0..=HEADS_KEPT_BYTES => self.heads.clear(),
            _ => self.heads = BytesMut::new(),
        }
        self.parts.clear();
        self.bytes = 0;
    }

    fn add(&mut self, sealer: &mut Sealer, header: FrameHeader, message: Message<P>) {
        self.bytes += HEADER_BYTES + message.bytes();
        let start = self.heads.len();
        frame::seal(sealer, header, &message.head, &message.payload, &mut self.heads);
        let is_long = message.head.len() >= LONG_HEAD_BYTES;
        if !is_long {
            self.heads.extend_from_slice(&message.head);
        }
        let end = self.heads.len();
        match self.parts.last_mut() {
            Some(Part::Heads(range)) => range.end = end,
            _ => self.parts.push(Part::Heads(start..end)),
        }
        if is_long {
            self.parts.push(Part::LongHead(message.head));
        }
        let pieces = message.payload.into_iter().filter(|piece| !piece.as_ref().is_empty());
        self.parts.extend(pieces.map(Part::Piece));
    }
}

/// One end of a connection.
pub struct Connection<P, T> {
    limits: Limits,
    sealer: Sealer,
    next_id: u64,
    asking: BTreeMap<u64, Asking<T>>,
    deadlines: BTreeSet<(Duration, u64)>,
    /// Questions and answers.
    orderly: Queue<P>,
    /// Everything else; goes first.
    urgent: Queue<P>,
    serving: usize,
    serving_bytes: usize,
    next_ping: u64,
    ping: Option<(u64, Duration)>,
    counts: Counts,
}

impl<P: AsRef<[u8]>, T> Connection<P, T> {
    /// A connection on which nothing has happened.
    pub fn new(sealer: Sealer, limits: Limits) -> Connection<P, T> {
        Connection {
            limits,
            sealer,
            next_id: 1,
            asking: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            orderly: Queue::new(),
            urgent: Queue::new(),
            serving: 0,
            serving_bytes: 0,
            next_ping: 1,
            ping: None,
            counts: Counts::default(),
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Own questions that wait for answers.
    pub fn asking(&self) -> usize {
        self.asking.len()
    }

    /// Questions of the peer that are being served.
    pub fn serving(&self) -> usize {
        self.serving
    }

    /// Bytes that wait to be written.
    pub fn waiting_bytes(&self) -> usize {
        self.orderly.bytes + self.urgent.bytes
    }

    // Own questions.

    /// Queues a question; the asker is done with it at `deadline`. Gives its number.
    pub fn ask(&mut self, message: Message<P>, deadline: Duration, token: T) -> Result<u64, Refused> {
        let refused = self.check_question(&message);
        if let Err(refused) = refused {
            self.counts.refused += 1;
            return Err(refused);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.asking.insert(id, Asking { token, deadline, sent: false });
        self.deadlines.insert((deadline, id));
        self.orderly.push(FrameKind::Request, id, Some(deadline), message);
        self.counts.asked += 1;
        Ok(id)
    }

    fn check_question(&self, message: &Message<P>) -> Result<(), Refused> {
        frame::check_lengths(&message.head, &message.payload)?;
        let full = self.asking.len() >= self.limits.asking_max
            || self.orderly.bytes + cost_bytes(message) > self.limits.outgoing_bytes_max;
        if full { Err(Refused::Overloaded) } else { Ok(()) }
    }

    /// The asker is gone: nobody waits for this question any more. Says what became of it, where it had not ended.
    pub fn forget(&mut self, id: u64) -> Option<Fate> {
        self.end_question(id).map(|asking| self.fate(&asking))
    }

    /// Ends the questions whose time is over.
    pub fn expire(&mut self, now: Duration) -> Vec<(T, Fate)> {
        let mut over = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            if let Some(asking) = self.end_question(id) {
                let fate = self.fate(&asking);
                over.push((asking.token, fate));
            }
        }
        over
    }

    /// When [`Connection::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The connection is gone: ends every question.
    pub fn end(&mut self) -> Vec<(T, Fate)> {
        self.deadlines.clear();
        let asking = std::mem::take(&mut self.asking);
        asking.into_values().map(|asking| (self.fate(&asking), asking)).map(|(f, a)| (a.token, f)).collect()
    }

    fn end_question(&mut self, id: u64) -> Option<Asking<T>> {
        let asking = self.asking.remove(&id)?;
        self.deadlines.remove(&(asking.deadline, id));
        Some(asking)
    }

    fn fate(&mut self, asking: &Asking<T>) -> Fate {
        if !asking.sent {
            return Fate::NotSent;
        }
        self.counts.unknown += 1;
        Fate::Unknown
    }

    // Messages that want no answer.

    /// Queues a message that wants no answer; where it is refused it is dropped and counted.
    pub fn tell(&mut self, message: Message<P>) -> Result<(), Refused> {
        let fits = frame::check_lengths(&message.head, &message.payload).map_err(Refused::from);
        let taken = fits.and_then(|()| self.push_urgent(FrameKind::OneWay, 0, message));
        match taken {
            Ok(()) => self.counts.told += 1,
            Err(_) => self.counts.dropped += 1,
        }
        taken
    }

    /// Queues a ping unless one is under way.
    pub fn send_ping(&mut self, now: Duration) {
        if self.ping.is_none() {
            let number = self.next_ping;
            self.next_ping += 1;
            if self.push_urgent(FrameKind::Ping, number, Message::new(Bytes::new())).is_ok() {
                self.ping = Some((number, now));
            }
        }
    }

    /// When the ping was sent that has no answer yet.
    pub fn ping_since(&self) -> Option<Duration> {
        self.ping.map(|(_, since)| since)
    }

    fn push_urgent(&mut self, kind: FrameKind, id: u64, message: Message<P>) -> Result<(), Refused> {
        if self.urgent.bytes + cost_bytes(&message) > self.limits.urgent_bytes_max {
            return Err(Refused::Overloaded);
        }
        self.urgent.push(kind, id, None, message);
        Ok(())
    }

    // The peer's frames.

    /// True while the peer must not be read: it does not take what it has asked for.
    pub fn is_choked(&self) -> bool {
        self.orderly.bytes > self.limits.outgoing_bytes_max
    }

    /// Takes a whole, verified frame of the peer.
    pub fn take(&mut self, header: FrameHeader, message: Message<P>, now: Duration) -> Event<P, T> {
        self.counts.frames_in += 1;
        self.counts.bytes_in += (HEADER_BYTES + message.bytes()) as u64;
        let FrameHeader { kind, request_id: id, deadline_ms } = header;
        match kind {
            FrameKind::Request => {
                let payload_bytes = message.payload_bytes();
                let bytes = self.serving_bytes + payload_bytes;
                if self.serving >= self.limits.serving_max || bytes > self.limits.serving_bytes_max {
                    self.counts.declined += 1;
                    self.orderly.push(FrameKind::Declined, id, None, Message::new(Bytes::new()));
                    return Event::Nothing;
                }
                self.counts.served += 1;
                self.serving += 1;
                self.serving_bytes = bytes;
                let patience = Duration::from_millis(deadline_ms.into());
                let deadline = (deadline_ms > 0).then(|| now + patience);
                Event::Request(Serving { id, payload_bytes }, message, deadline)
            }
            FrameKind::Answer => match self.end_question(id) {
                Some(asking) => {
                    self.counts.answered += 1;
                    Event::Answer(asking.token, message)
                }
                None => {
                    self.counts.late_answers += 1;
                    Event::Nothing
                }
            },
            FrameKind::Declined => match self.end_question(id) {
                Some(asking) => {
                    self.counts.declined_by_peer += 1;
                    Event::Declined(asking.token)
                }
                None => Event::Nothing,
            },
            FrameKind::OneWay => Event::OneWay(message),
            FrameKind::Ping => {
                // Who sends pings and takes no pongs gets fewer.
                let _ = self.push_urgent(FrameKind::Pong, id, Message::new(Bytes::new()));
                Event::Nothing
            }
            FrameKind::Pong => match self.ping {
                Some((number, since)) if number == id => {
                    self.ping = None;
                    Event::RoundTrip(now.saturating_sub(since))
                }
                _ => Event::Nothing,
            },
        }
    }

    /// Queues the answer to a question of the peer. Where it cannot be sent the asker will never get one.
    pub fn answer(&mut self, serving: Serving, message: Message<P>) -> Result<(), TooLong> {
        self.served(&serving);
        frame::check_lengths(&message.head, &message.payload)?;
        self.orderly.push(FrameKind::Answer, serving.id, None, message);
        Ok(())
    }

    /// Says that a question of the peer was not taken, and nothing happened.
    pub fn decline(&mut self, serving: Serving) {
        self.served(&serving);
        self.counts.declined += 1;
        self.orderly.push(FrameKind::Declined, serving.id, None, Message::new(Bytes::new()));
    }

    fn served(&mut self, serving: &Serving) {
        self.serving -= 1;
        self.serving_bytes -= serving.payload_bytes;
    }

    // Writing.

    /// True where [`Connection::output`] has something.
    pub fn has_output(&self) -> bool {
        !self.urgent.frames.is_empty() || !self.orderly.frames.is_empty()
    }

    /// Moves waiting frames into an empty `batch`. From here on a question counts as sent. Everything in the batch must be
    /// written before the next batch is.
    pub fn output(&mut self, now: Duration, batch: &mut Batch<P>) {
        assert!(batch.is_empty(), "the batch before was written");
        while batch.bytes < self.limits.batch_bytes_max {
            let Some(waiting) = self.urgent.pop().or_else(|| self.orderly.pop()) else { break };
            let Waiting { kind, id, deadline, message, .. } = waiting;
            if kind == FrameKind::Request {
                // Nobody waits any more: it is not even sent.
                let Some(asking) = self.asking.get_mut(&id) else { continue };
                asking.sent = true;
            }
            let deadline_ms = deadline.map_or(0, |deadline| {
                let left = deadline.saturating_sub(now).as_millis().max(1);
                u32::try_from(left).unwrap_or(u32::MAX)
            });
            let before = batch.bytes;
            batch.add(&mut self.sealer, FrameHeader { kind, request_id: id, deadline_ms }, message);
            self.counts.frames_out += 1;
            self.counts.bytes_out += (batch.bytes - before) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{HEAD_BYTES_MAX, Opened, open};
    use crate::handshake::tests::sessions;
    use crate::session::Opener;

    type Side = (Connection<Bytes, &'static str>, Opener);

    const SECOND: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(9);

    fn sides(limits: Limits) -> (Side, Side) {
        let (here, there) = sessions();
        let side = |session: crate::session::Session| {
            (Connection::new(session.sealer, limits.clone()), session.opener)
        };
        (side(here), side(there))
    }

    fn message(head: &'static str, payload: &'static [u8]) -> Message<Bytes> {
        let payload = if payload.is_empty() { Vec::new() } else { vec![Bytes::from_static(payload)] };
        Message { head: Bytes::from_static(head.as_bytes()), payload }
    }

    /// Carries everything that waits over to the other side.
    fn carry(from: &mut Side, to: &mut Side, now: Duration) -> Vec<Event<Bytes, &'static str>> {
        let mut events = Vec::new();
        let mut batch = Batch::default();
        while from.0.has_output() {
            from.0.output(now, &mut batch);
            let wire = batch.slices().concat();
            assert_eq!(wire.len(), batch.bytes());
            batch.clear();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let Opened::Head(opened) = open(&mut to.1, rest).unwrap() else { panic!("cut") };
                let (header, head) = (opened.header, Bytes::copy_from_slice(opened.head));
                rest = &rest[opened.bytes..];
                let mut payload = Vec::new();
                if let Some((shape, mut check)) = opened.payload {
                    for len in shape.pieces() {
                        check.update(&rest[..len]);
                        payload.push(Bytes::copy_from_slice(&rest[..len]));
                        rest = &rest[len..];
                    }
                    assert!(to.1.takes_payload(&check));
                }
                events.push(to.0.take(header, Message { head, payload }, now));
            }
        }
        events
    }

    #[test]
    fn answers_find_their_questions_in_any_order() {
        let (mut here, mut there) = sides(Limits::default());
        here.0.ask(message("one", b""), LATER, "1").unwrap();
        here.0.ask(message("two", &[7; 10_000]), LATER, "2").unwrap();
        let mut taken = Vec::new();
        for event in carry(&mut here, &mut there, SECOND) {
            let Event::Request(serving, question, Some(deadline)) = event else { panic!("{event:?}") };
            assert_eq!(deadline, LATER);
            taken.push((serving, question));
        }
        assert_eq!(taken[1].1, message("two", &[7; 10_000]));
        assert_eq!(there.0.serving(), 2);
        while let Some((serving, mut question)) = taken.pop() {
            question.payload.clear();
            there.0.answer(serving, question).unwrap();
        }
        let answers: Vec<_> = carry(&mut there, &mut here, SECOND)
            .into_iter()
            .map(|event| match event {
                Event::Answer(token, answer) => (token, answer.head),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(answers, [("2", Bytes::from_static(b"two")), ("1", Bytes::from_static(b"one"))]);
        assert_eq!((here.0.asking(), there.0.serving(), here.0.waiting_bytes()), (0, 0, 0));
    }

    #[test]
    fn messages_and_pings_go_before_questions() {
        let (mut here, mut there) = sides(Limits::default());
        here.0.ask(message("body", &[1; 5000]), LATER, "1").unwrap();
        here.0.tell(message("raft", b"")).unwrap();
        here.0.send_ping(SECOND);
        here.0.send_ping(SECOND);
        let events = carry(&mut here, &mut there, SECOND);
        assert!(matches!(&events[..], [Event::OneWay(_), Event::Nothing, Event::Request(..)]), "{events:?}");
        let back = carry(&mut there, &mut here, SECOND + Duration::from_millis(3));
        assert!(matches!(back[..], [Event::RoundTrip(rtt)] if rtt == Duration::from_millis(3)), "{back:?}");
        assert_eq!(here.0.ping_since(), None);
    }

    #[test]
    fn a_question_over_a_limit_is_refused_and_a_message_dropped() {
        let cost = cost_bytes(&message("12345", b""));
        let limits = Limits {
            asking_max: 3,
            outgoing_bytes_max: 2 * cost,
            urgent_bytes_max: cost,
            ..Limits::default()
        };
        let (mut here, mut there) = sides(limits);
        for token in ["1", "2"] {
            here.0.ask(message("12345", b""), LATER, token).unwrap();
        }
        assert_eq!(here.0.ask(message("12345", b""), LATER, "3"), Err(Refused::Overloaded));
        carry(&mut here, &mut there, SECOND);
        here.0.ask(message("12345", b""), LATER, "3").unwrap();
        carry(&mut here, &mut there, SECOND);
        assert_eq!(here.0.ask(message("", b""), LATER, "4"), Err(Refused::Overloaded));
        here.0.tell(message("12345", b"")).unwrap();
        assert_eq!(here.0.tell(message("12345", b"")), Err(Refused::Overloaded));
        let long = Message::new(Bytes::from(vec![0; HEAD_BYTES_MAX + 1]));
        assert!(matches!(here.0.ask(long, LATER, "5"), Err(Refused::TooLong(_))));
        assert_eq!((here.0.counts().refused, here.0.counts().dropped), (3, 1));
    }

    #[test]
    fn a_question_ends_at_its_deadline_by_whether_it_was_sent() {
        let (mut here, mut there) = sides(Limits::default());
        here.0.ask(message("sent", b""), 2 * SECOND, "sent").unwrap();
        let events = carry(&mut here, &mut there, SECOND);
        here.0.ask(message("queued", b""), 3 * SECOND, "queued").unwrap();
        here.0.ask(message("later", b""), LATER, "later").unwrap();
        assert_eq!(here.0.next_deadline(), Some(2 * SECOND));
        assert_eq!(here.0.expire(SECOND), []);
        assert_eq!(here.0.expire(3 * SECOND), [("sent", Fate::Unknown), ("queued", Fate::NotSent)]);
        // What expired is not sent any more, and its answer finds nobody.
        let [Event::Request(serving, ..)] = <[_; 1]>::try_from(events).unwrap() else {
            panic!("no question")
        };
        there.0.answer(serving, message("too late", b"")).unwrap();
        assert!(matches!(carry(&mut there, &mut here, LATER)[..], [Event::Nothing]));
        let [Event::Request(_, later, _)] = &carry(&mut here, &mut there, 4 * SECOND)[..] else {
            panic!("one question is left");
        };
        assert_eq!(&later.head[..], b"later");
        assert_eq!((here.0.counts().late_answers, here.0.counts().unknown), (1, 1));
    }

    #[test]
    fn the_end_of_a_connection_ends_every_question() {
        let (mut here, mut there) = sides(Limits::default());
        here.0.ask(message("sent", b""), LATER, "sent").unwrap();
        carry(&mut here, &mut there, SECOND);
        here.0.ask(message("queued", b""), LATER, "queued").unwrap();
        let forgotten = here.0.ask(message("forgotten", b""), LATER, "forgotten").unwrap();
        assert_eq!(here.0.forget(forgotten), Some(Fate::NotSent));
        assert_eq!(here.0.forget(forgotten), None);
        assert_eq!(here.0.end(), [("sent", Fate::Unknown), ("queued", Fate::NotSent)]);
        assert_eq!(here.0.end(), []);
    }

    #[test]
    fn a_flood_of_questions_is_declined_and_then_not_read() {
        let limits = Limits { serving_max: 2, outgoing_bytes_max: 1000, ..Limits::default() };
        let (_, mut there) = sides(limits);
        let mut here = sides(Limits::default()).0;
        let mut served = Vec::new();
        for _ in 0..10 {
            here.0.ask(message("flood", b""), LATER, "flood").unwrap();
        }
        for event in carry(&mut here, &mut there, SECOND) {
            match event {
                Event::Request(serving, ..) => served.push(serving),
                other => assert!(matches!(other, Event::Nothing)),
            }
        }
        assert_eq!((served.len(), there.0.counts().declined), (2, 8));
        assert!(there.0.is_choked());
        let answers = carry(&mut there, &mut here, SECOND);
        assert!(answers.iter().all(|answer| matches!(answer, Event::Declined("flood"))));
        assert!(!there.0.is_choked());
        for serving in served {
            there.0.decline(serving);
        }
        assert_eq!(carry(&mut there, &mut here, SECOND).len(), 2);
        assert_eq!((here.0.asking(), there.0.serving()), (0, 0));
    }

    #[test]
    fn payloads_in_service_are_bounded() {
        let limits = Limits { serving_bytes_max: 10_000, ..Limits::default() };
        let (mut here, mut there) = sides(limits);
        for _ in 0..2 {
            here.0.ask(message("body", &[1; 6000]), LATER, "body").unwrap();
        }
        let events = carry(&mut here, &mut there, SECOND);
        assert!(matches!(&events[..], [Event::Request(..), Event::Nothing]));
    }
}
