//! Wake-ups of a core from other threads.
//!
//! What must hold: after [`WakeCore::wake`] returns, every receiver registered here is polled again, soon: at the
//! next pass of any task of that core through [`crate::Env`], at the end of its executor's turn, or at once where
//! it sleeps. Any number of wake-ups before that cost one.
//!
//! The flag `rung` is what makes it sure: a sender queues its message, then sets the flag; the core clears the
//! flag, then wakes its receivers, who look into their queues. A sender that finds the flag set has queued its
//! message before the core clears it. The bell (a glommio task) is rung by the first sender only; where the core
//! sleeps, glommio writes its eventfd, where it runs, no system call is made.

use crate::WakeCore;
use futures::task::AtomicWaker;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};

/// Ends the sleep of one core; made before the core is started, so that queues into it can be built first.
pub struct CoreWaker {
    rung: AtomicBool,
    bell: AtomicWaker,
    receivers: Mutex<Vec<Weak<AtomicWaker>>>,
    name: OnceLock<String>,
    ticks: AtomicU64,
    retired: AtomicBool,
    /// Wakes the bell's task whether or not the bell was rung.
    kick: OnceLock<Waker>,
}

impl CoreWaker {
    /// A waker for a core that is not running yet.
    pub fn new() -> io::Result<Arc<CoreWaker>> {
        Ok(Arc::new(CoreWaker {
            rung: AtomicBool::new(false),
            bell: AtomicWaker::new(),
            receivers: Mutex::new(Vec::new()),
            name: OnceLock::new(),
            ticks: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            kick: OnceLock::new(),
        }))
    }

    /// Ties this waker to the one core it wakes.
    pub(super) fn claim(&self, name: &str) {
        assert!(self.name.set(name.to_owned()).is_ok(), "a waker belongs to one core");
    }

    /// Wakes the receivers if the bell was rung; true if it was.
    pub(super) fn answer(&self) -> bool {
        // The plain load first: it is what a task pays on every pass.
        if !self.rung.load(Ordering::Relaxed) || !self.rung.swap(false, Ordering::AcqRel) {
            return false;
        }
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        receivers.retain(|receiver| match receiver.upgrade() {
            Some(receiver) => {
                receiver.wake();
                true
            }
            None => false,
        });
        true
    }

    /// The task that the bell wakes.
    pub(super) async fn answer_for_ever(&self) {
        std::future::poll_fn(|cx| {
            self.bell.register(cx.waker());
            self.kick.get_or_init(|| cx.waker().clone());
            self.answer();
            Poll::<()>::Pending
        })
        .await;
    }

    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// The core's `main` is over: it no longer ticks.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Ticks of the core so far.
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Makes glommio look at its run queue, wherever it is.
    pub(super) fn kick(&self) {
        if let Some(task) = self.kick.get() {
            task.wake_by_ref();
        }
    }

    pub(super) fn name(&self) -> &str {
        self.name.get().map_or("unnamed", String::as_str)
    }
}

impl WakeCore for CoreWaker {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.bell.wake();
        }
    }

    fn register(&self, receiver: Weak<AtomicWaker>) {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
    }
}
