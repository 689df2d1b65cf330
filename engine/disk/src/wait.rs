//! Waiting for a number to be reached.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tasks that wait for a level (a log sequence number, a flush). A dropped waiter costs one needless wake-up.
#[derive(Default)]
pub(crate) struct WaitList {
    waiters: RefCell<Vec<(u64, Waker)>>,
}

impl WaitList {
    /// Ends with the first value that `ready` gives; looks again each time `level` is reached.
    pub(crate) async fn wait<T>(&self, level: u64, mut ready: impl FnMut() -> Option<T>) -> T {
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            // Polled again by the same task before the wake-up came: still registered.
            let same = registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if !same || !self.holds(level, cx.waker()) {
                self.waiters.borrow_mut().push((level, cx.waker().clone()));
                registered = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn holds(&self, level: u64, waker: &Waker) -> bool {
        self.waiters.borrow().iter().any(|(l, w)| *l == level && w.will_wake(waker))
    }

    /// Wakes everyone who waits for `level` or less.
    pub(crate) fn reach(&self, level: u64) {
        let mut woken = Vec::new();
        self.waiters.borrow_mut().retain_mut(|(wanted, waker)| {
            let reached = *wanted <= level;
            if reached {
                woken.push(waker.clone());
            }
            !reached
        });
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes everyone.
    pub(crate) fn reach_all(&self) {
        self.reach(u64::MAX);
    }
}
