//! Wake-ups of a core from other threads.
//!
//! What must hold: after [`WakeCore::wake`] returns, every receiver registered here is polled again, soon: at the
//! next pass of any task of that core through [`crate::Env`], when its runnable tasks have run, or at once where it
//! sleeps. Any number of wake-ups before that cost one.
//!
//! Two flags make it sure. `rung`: a sender queues its message, then sets the flag; the core clears the flag, then
//! wakes its receivers, who look into their queues. A sender that finds the flag set has queued its message before
//! the core clears it. `asleep`: the core sets it, then looks at `rung` once more before it sleeps; a sender sets
//! `rung`, then looks at `asleep`. One of the two sees the other (all four are sequentially consistent), and only a
//! sender that sees a sleeping core pays a system call.

use super::kernel;
use crate::WakeCore;
use futures::task::AtomicWaker;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};

/// Ends the sleep of one core; made before the core is started, so that queues into it can be built first.
pub struct CoreWaker {
    rung: AtomicBool,
    asleep: AtomicBool,
    /// An eventfd that the core's ring watches while the core sleeps.
    bell: File,
    receivers: Mutex<Vec<Weak<AtomicWaker>>>,
    name: OnceLock<String>,
    ticks: AtomicU64,
    retired: AtomicBool,
    /// Wakes glommio's executor.
    executor: OnceLock<Waker>,
}

impl CoreWaker {
    /// A waker for a core that is not running yet.
    pub fn new() -> io::Result<Arc<CoreWaker>> {
        Ok(Arc::new(CoreWaker {
            rung: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell: File::from(kernel::eventfd()?),
            receivers: Mutex::new(Vec::new()),
            name: OnceLock::new(),
            ticks: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            executor: OnceLock::new(),
        }))
    }

    /// Ties this waker to the one core it wakes.
    pub(super) fn claim(&self, name: &str) {
        assert!(self.name.set(name.to_owned()).is_ok(), "a waker belongs to one core");
    }

    /// Another handle of the bell, for the core's ring.
    pub(super) fn bell(&self) -> io::Result<OwnedFd> {
        Ok(self.bell.try_clone()?.into())
    }

    /// Says that the core is about to sleep; false where it must not, because somebody has just woken it.
    pub(super) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.rung.load(Ordering::SeqCst) {
            self.wake_up();
            return false;
        }
        true
    }

    /// Says that the core sleeps no longer.
    pub(super) fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
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

    /// The task that a kick wakes.
    pub(super) async fn be_kicked(&self) {
        std::future::poll_fn(|cx| {
            self.executor.get_or_init(|| cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Makes glommio look at its run queue, wherever it is.
    pub(super) fn kick(&self) {
        if let Some(executor) = self.executor.get() {
            executor.wake_by_ref();
        }
    }

    pub(super) fn name(&self) -> &str {
        self.name.get().map_or("unnamed", String::as_str)
    }
}

impl WakeCore for CoreWaker {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) && self.asleep.load(Ordering::SeqCst) {
            // Fails only where the counter is full: then the core has been told 2^64 times.
            let _ = (&self.bell).write_all(&1_u64.to_ne_bytes());
        }
    }

    fn register(&self, receiver: Weak<AtomicWaker>) {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
    }
}
