//! Tells one task of this core that something has changed.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

/// Rung any number of times, heard once.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Ends when the bell was rung since it was last heard. One task waits at a time.
    pub(crate) async fn heard(&self) {
        std::future::poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            match &mut *self.waiter.borrow_mut() {
                Some(waiter) if waiter.will_wake(cx.waker()) => {}
                waiter => *waiter = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

/// Tells any number of tasks of this core that something has changed.
#[derive(Default)]
pub(crate) struct Gong {
    strokes: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Gong {
    pub(crate) fn strike(&self) {
        self.strokes.set(self.strokes.get() + 1);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Ends at the next stroke after the future was made.
    pub(crate) fn next(&self) -> impl Future<Output = ()> + '_ {
        let before = self.strokes.get();
        std::future::poll_fn(move |cx| {
            if self.strokes.get() != before {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
                waiters.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}
