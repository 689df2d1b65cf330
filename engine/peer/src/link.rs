//! One proven connection, driven by one task.
//!
//! What must hold:
//! - Whatever ends the connection ends every question on it, at once and with a fate.
//! - A peer that takes none of its answers is not read; one that says nothing for long is given up.
//! - Everything that is queued by the time the task comes up leaves in one write.

use crate::bell::Bell;
use crate::channel::{Channel, ChannelWriteHalf};
use crate::inbox::{Inbox, InboxError, Incoming};
use crate::options::PeerOptions;
use crate::{AlignedBytes, Message};
use buckets_env::Env;
use buckets_rpc::connection::{Batch, Connection, Counts, Event, Fate, Refused, Serving};
use buckets_rpc::frame::TooLong;
use buckets_rpc::session::{Opener, Session};
use futures::channel::oneshot;
use futures::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Frames that are taken before other tasks of the core get their turn.
const FRAMES_PER_SLICE: u32 = 64;

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too much is under way here. Nothing happened.
    #[error("too much is under way to this peer")]
    Overloaded,
    /// The peer has heard it and does not serve it: it has too much to do, or does not know the question. Nothing happened.
    #[error("the peer declines")]
    Declined,
    /// There is no connection, or none came in time. Nothing happened.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// There is a connection, and its turn did not come in time. Nothing happened.
    #[error("it could not be sent in time")]
    NotSent,
    /// It can never be sent. Nothing happened.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// No answer in time, or the connection was lost: it may or may not have happened.
    #[error("the outcome is unknown")]
    Unknown,
}

impl AskError {
    /// True where nothing happened, so that it may be asked again.
    pub fn is_definite(&self) -> bool {
        !matches!(self, AskError::Unknown)
    }
}

impl From<Refused> for AskError {
    fn from(refused: Refused) -> AskError {
        match refused {
            Refused::Overloaded => AskError::Overloaded,
            Refused::TooLong(lengths) => AskError::TooLong(lengths),
        }
    }
}

impl From<Fate> for AskError {
    fn from(fate: Fate) -> AskError {
        match fate {
            Fate::NotSent => AskError::NotSent,
            Fate::Declined => AskError::Declined,
            Fate::Unknown => AskError::Unknown,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkEnd {
    #[error(transparent)]
    Reading(#[from] InboxError),
    #[error("writing failed: {0}")]
    Writing(#[source] io::Error),
    #[error("nothing was heard for long")]
    Silent,
    #[error("closed here")]
    Closed,
}

/// What each side does with what comes in.
pub(crate) trait Receiver {
    fn request(&self, link: &Rc<Link>, serving: Serving, message: Message, deadline: Option<Duration>);
    fn one_way(&self, message: Message);
    /// Something arrived.
    fn heard(&self, _now: Duration) {}
    fn round_trip(&self, _now: Duration, _round_trip: Duration) {}
    fn pinged(&self, _now: Duration) {}
    /// Called now and then.
    fn look(&self, _now: Duration) {}
}

type Outcome = Result<Message, AskError>;

/// A proven connection.
pub(crate) struct Link {
    env: Env,
    options: Rc<PeerOptions>,
    state: RefCell<Connection<AlignedBytes, oneshot::Sender<Outcome>>>,
    /// There is something to write.
    output: Bell,
    /// The peer may be read again.
    room: Bell,
    /// A deadline came before the next look.
    earlier: Bell,
    next_look: Cell<Duration>,
    heard: Cell<Duration>,
    /// What is read now was sent before the peer must have given the connection up.
    is_stale: Cell<bool>,
    closing: Bell,
    over: Cell<bool>,
}

/// Time as the protocol counts it.
pub(crate) fn now(env: &Env) -> Duration {
    Duration::from_nanos(env.now().0)
}

impl Link {
    /// Of a session; the rest of the session is for [`Link::run`].
    pub(crate) fn new(env: &Env, options: &Rc<PeerOptions>, session: Session) -> (Rc<Link>, Opener) {
        let Session { sealer, opener, .. } = session;
        let link = Rc::new(Link {
            env: env.clone(),
            options: options.clone(),
            state: RefCell::new(Connection::new(sealer, options.limits.clone())),
            output: Bell::default(),
            room: Bell::default(),
            earlier: Bell::default(),
            next_look: Cell::new(Duration::ZERO),
            heard: Cell::new(now(env)),
            is_stale: Cell::new(false),
            closing: Bell::default(),
            over: Cell::new(false),
        });
        (link, opener)
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.state.borrow().counts()
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        self.closing.ring();
    }

    /// Asks, and waits for the answer until `deadline`. Dropped, nobody waits any more; it may happen all the same.
    pub(crate) async fn ask(&self, message: Message, deadline: Duration) -> Outcome {
        if self.over.get() {
            return Err(AskError::Unreachable);
        }
        let (to_asker, outcome) = oneshot::channel();
        let id = self.state.borrow_mut().ask(message, deadline, to_asker)?;
        self.output.ring();
        if deadline < self.next_look.get() {
            self.earlier.ring();
        }
        let _forget = Forget { link: self, id };
        outcome.await.unwrap_or(Err(AskError::Unknown))
    }

    /// Sends a message that wants no answer.
    pub(crate) fn tell(&self, message: Message) -> Result<(), AskError> {
        if self.over.get() {
            return Err(AskError::Unreachable);
        }
        self.state.borrow_mut().tell(message)?;
        self.output.ring();
        Ok(())
    }

    /// Answers a question of the peer.
    pub(crate) fn answer(&self, serving: Serving, message: Message) -> Result<(), TooLong> {
        self.queue(|state| state.answer(serving, message))
    }

    /// Says that a question of the peer was not taken.
    pub(crate) fn decline(&self, serving: Serving) {
        self.queue(|state| state.decline(serving));
    }

    fn queue<T>(&self, push: impl FnOnce(&mut Connection<AlignedBytes, oneshot::Sender<Outcome>>) -> T) -> T {
        let pushed = push(&mut self.state.borrow_mut());
        self.output.ring();
        pushed
    }

    /// Drives the connection until it ends.
    pub(crate) async fn run(
        self: &Rc<Self>,
        channel: Channel,
        opener: Opener,
        receiver: &dyn Receiver,
        pings: bool,
    ) -> LinkEnd {
        let _end = End { link: self };
        let (reading, mut writing) = channel.split();
        let heard = || {
            let now = now(&self.env);
            // Who stood still for longer than this finds questions that their asker has given up long ago: they are not served.
            let is_late = now >= self.heard.get() + self.options.silence_max;
            self.is_stale.set(self.is_stale.get() || is_late);
            self.heard.set(now);
            receiver.heard(now);
        };
        let reads = pin!(self.read(Inbox::new(reading, opener, heard), receiver));
        let writes = pin!(self.write(&mut writing));
        let watches = pin!(self.watch(receiver, pings));
        let closes = pin!(self.closing.heard());
        // One task for all: what a frame leads to is written without another task's turn in between.
        match select(select(reads, writes), select(watches, closes)).await {
            Either::Left((Either::Left((end, _)) | Either::Right((end, _)), _)) => end,
            Either::Right((Either::Left((end, _)), _)) => end,
            Either::Right((Either::Right(((), _)), _)) => LinkEnd::Closed,
        }
    }

    async fn read(self: &Rc<Self>, mut inbox: Inbox<impl Fn()>, receiver: &dyn Receiver) -> LinkEnd {
        let mut frames = 0_u32;
        loop {
            while self.state.borrow().is_choked() {
                self.room.heard().await;
            }
            let Incoming { header, head, payload } = match inbox.next().await {
                Ok(incoming) => incoming,
                Err(error) => return error.into(),
            };
            if self.is_stale.get() {
                return LinkEnd::Silent;
            }
            let now = now(&self.env);
            let event = self.state.borrow_mut().take(header, Message { head, payload }, now);
            match event {
                Event::Request(serving, message, deadline) => {
                    receiver.request(self, serving, message, deadline);
                }
                Event::Answer(asker, message) => drop(asker.send(Ok(message))),
                Event::Declined(asker) => drop(asker.send(Err(AskError::Declined))),
                Event::OneWay(message) => receiver.one_way(message),
                Event::RoundTrip(round_trip) => receiver.round_trip(now, round_trip),
                // A pong, or a refusal, may wait now.
                Event::Nothing => self.output.ring(),
            }
            frames = frames.wrapping_add(1);
            if frames.is_multiple_of(FRAMES_PER_SLICE) {
                self.env.yield_if_needed().await;
            }
        }
    }

    async fn write(&self, writing: &mut ChannelWriteHalf) -> LinkEnd {
        let mut batch = Batch::default();
        loop {
            while !self.state.borrow().has_output() {
                self.output.heard().await;
            }
            while self.state.borrow().has_output() {
                self.state.borrow_mut().output(now(&self.env), &mut batch);
                if let Err(error) = writing.write_all_vectored(&batch.slices()).await {
                    return LinkEnd::Writing(error);
                }
                batch.clear();
                if self.state.borrow().is_choked() {
                    // It takes something; only that it is not read keeps it from being heard.
                    self.heard.set(now(&self.env));
                }
                self.room.ring();
            }
        }
    }

    /// Ends what is over its time, and the connection where nothing is heard.
    async fn watch(&self, receiver: &dyn Receiver, pings: bool) -> LinkEnd {
        let mut next_ping = now(&self.env);
        loop {
            let now = now(&self.env);
            let expired = self.state.borrow_mut().expire(now);
            for (asker, fate) in expired {
                let _ = asker.send(Err(fate.into()));
            }
            let silent_at = self.heard.get() + self.options.silence_max;
            if now >= silent_at {
                return LinkEnd::Silent;
            }
            if pings && now >= next_ping {
                self.state.borrow_mut().send_ping(now);
                receiver.pinged(now);
                self.output.ring();
                next_ping = now + self.options.ping_every;
            }
            receiver.look(now);
            let mut next = silent_at;
            if pings {
                next = next.min(next_ping);
            }
            if let Some(deadline) = self.state.borrow().next_deadline() {
                next = next.min(deadline);
            }
            self.next_look.set(next);
            let earlier = pin!(self.earlier.heard());
            select(earlier, pin!(self.env.sleep(next.saturating_sub(now)))).await;
        }
    }
}

/// Ends what is under way when the connection does, however that comes.
struct End<'a> {
    link: &'a Link,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.link.over.set(true);
        let left = self.link.state.borrow_mut().end();
        for (asker, fate) in left {
            let _ = asker.send(Err(fate.into()));
        }
    }
}

/// Forgets a question when its asker goes away.
struct Forget<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link.state.borrow_mut().forget(self.id);
    }
}
