//! The timers of one core.
//!
//! What must hold: a sleep ends no earlier than it was asked to, and a dropped one leaves nothing behind.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Sleepers by the end of their sleep, and a number that tells apart those of the same instant.
type Sleepers = BTreeMap<(Instant, u64), Waker>;

/// The sleepers of one core.
#[derive(Clone, Default)]
pub(super) struct Timers {
    sleepers: Rc<RefCell<Sleepers>>,
    numbers: Rc<Cell<u64>>,
}

impl Timers {
    /// Sleeps; for ever where the clock does not reach that far.
    pub(super) fn sleep(&self, duration: Duration) -> Sleep {
        let number = self.numbers.get();
        self.numbers.set(number + 1);
        let end = Instant::now().checked_add(duration).map(|end| (end, number));
        Sleep { sleepers: self.sleepers.clone(), end }
    }

    /// Wakes all whose time has come.
    pub(super) fn fire(&self) {
        if self.sleepers.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        loop {
            // Not borrowed while waking.
            let due = {
                let mut sleepers = self.sleepers.borrow_mut();
                match sleepers.first_entry() {
                    Some(first) if first.key().0 <= now => first.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }

    /// The time until the next sleep ends.
    pub(super) fn next(&self) -> Duration {
        match self.sleepers.borrow().first_key_value() {
            Some(((end, _), _)) => end.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        }
    }
}

/// A sleep; begun when it was made.
pub(super) struct Sleep {
    sleepers: Rc<RefCell<Sleepers>>,
    end: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(end) = self.end else { return Poll::Pending };
        if end.0 <= Instant::now() {
            return Poll::Ready(());
        }
        self.sleepers
            .borrow_mut()
            .entry(end)
            .and_modify(|waker| waker.clone_from(cx.waker()))
            .or_insert_with(|| cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            let waker = self.sleepers.borrow_mut().remove(&end);
            // May be the last handle of a task, whose drop comes back here.
            drop(waker);
        }
    }
}
