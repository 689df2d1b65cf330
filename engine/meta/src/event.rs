//! Wakes the tasks of one core that wait for something to change.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Something that happens again and again. A waiter sees everything that happened after it last looked.
#[derive(Default)]
pub(crate) struct Event {
    happened: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Event {
    /// It happened: every waiter is woken.
    pub(crate) fn happen(&self) {
        self.happened.set(self.happened.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// How often it happened so far.
    pub(crate) fn seen(&self) -> u64 {
        self.happened.get()
    }

    /// Waits until it has happened since `seen`.
    pub(crate) async fn after(&self, seen: u64) {
        poll_fn(|cx| {
            if self.happened.get() != seen {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
