//! Deadlines of connections, watched by one task per core.
//!
//! What must hold: waiting with a deadline costs two stores and no timer, as every read and write of every connection waits so; a
//! missed deadline is noticed within [`SWEEP_INTERVAL`].

use buckets_env::Instant;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How often deadlines are looked at.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// The deadline has passed, or the server has no more patience with idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimedOut;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// A new request: the wait may be cut short when the server drains.
    Idle,
    /// Anything of a request in progress.
    Busy,
}

/// The deadline of one connection.
pub(crate) struct Watch {
    deadline: Cell<Instant>,
    waiting: Cell<Waiting>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    fn new() -> Watch {
        Watch {
            deadline: Cell::new(Instant(u64::MAX)),
            waiting: Cell::new(Waiting::Busy),
            expired: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Ends with the result of `work`, or `TimedOut` after `deadline`; then `work` is dropped.
    pub(crate) async fn guard<T>(
        &self,
        deadline: Instant,
        waiting: Waiting,
        work: impl Future<Output = T>,
    ) -> Result<T, TimedOut> {
        let mut work = pin!(work);
        self.deadline.set(deadline);
        self.waiting.set(waiting);
        self.expired.set(false);
        let result = std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            if self.expired.get() {
                return Poll::Ready(Err(TimedOut));
            }
            let mut waker = self.waker.borrow_mut();
            match waker.as_ref() {
                Some(known) if known.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
        self.deadline.set(Instant(u64::MAX));
        self.waiting.set(Waiting::Busy);
        result
    }

    fn expire(&self) {
        self.expired.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// The watches of a core.
#[derive(Default)]
pub(crate) struct Watches {
    next: Cell<u64>,
    all: RefCell<BTreeMap<u64, Rc<Watch>>>,
}

impl Watches {
    /// A watch that is looked at until it is dropped.
    pub(crate) fn add(self: &Rc<Self>) -> Watched {
        let number = self.next.get();
        self.next.set(number + 1);
        let watch = Rc::new(Watch::new());
        self.all.borrow_mut().insert(number, watch.clone());
        Watched { watches: self.clone(), number, watch }
    }

    /// Ends the waits whose deadline has passed.
    pub(crate) fn sweep(&self, now: Instant) {
        for watch in self.all.borrow().values() {
            if watch.deadline.get() <= now {
                watch.expire();
            }
        }
    }

    /// Ends the waits for new requests.
    pub(crate) fn expire_idle(&self) {
        for watch in self.all.borrow().values() {
            if watch.waiting.get() == Waiting::Idle {
                watch.expire();
            }
        }
    }
}

/// A watch and its place among the others.
pub(crate) struct Watched {
    watches: Rc<Watches>,
    number: u64,
    watch: Rc<Watch>,
}

impl std::ops::Deref for Watched {
    type Target = Watch;
    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watches.all.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_wait_ends_with_its_work_or_its_deadline() {
        let watches = Rc::new(Watches::default());
        let watched = watches.add();
        assert_eq!(watched.guard(Instant(5), Waiting::Busy, async { 7 }).now_or_never(), Some(Ok(7)));
        // The deadline of a wait that is over does not count.
        watches.sweep(Instant(10));
        let mut wait = Box::pin(watched.guard(Instant(20), Waiting::Busy, std::future::pending::<()>()));
        assert_eq!(wait.as_mut().now_or_never(), None);
        watches.sweep(Instant(19));
        assert_eq!(wait.as_mut().now_or_never(), None);
        watches.expire_idle();
        assert_eq!(wait.as_mut().now_or_never(), None);
        watches.sweep(Instant(20));
        assert_eq!(wait.as_mut().now_or_never(), Some(Err(TimedOut)));
    }

    #[test]
    fn idle_waits_can_be_ended_at_once() {
        let watches = Rc::new(Watches::default());
        let watched = watches.add();
        let mut wait = Box::pin(watched.guard(Instant(20), Waiting::Idle, std::future::pending::<()>()));
        assert_eq!(wait.as_mut().now_or_never(), None);
        watches.expire_idle();
        assert_eq!(wait.as_mut().now_or_never(), Some(Err(TimedOut)));
        drop(wait);
        drop(watched);
        assert!(watches.all.borrow().is_empty());
    }
}
