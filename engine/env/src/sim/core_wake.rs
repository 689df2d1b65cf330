//! Wake-ups between simulated cores.
//!
//! What must hold: [`WakeCore`] is `Send + Sync`, so a wake only leaves a note here; the simulation turns it
//! into an event after a small seeded delay. Wakes before that event count once.

use crate::WakeCore;
use futures::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Which cores were woken since the simulation looked last, in order.
#[derive(Default)]
pub(super) struct WokenCores {
    any: AtomicBool,
    cores: Mutex<Vec<(u32, usize)>>,
}

impl WokenCores {
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }
    pub(super) fn take(&self) -> Vec<(u32, usize)> {
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.cores.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Wakes one core of one node.
pub(super) struct SimCoreWaker {
    node: u32,
    core: usize,
    on_its_way: AtomicBool,
    receivers: Mutex<Vec<Weak<AtomicWaker>>>,
    woken: Arc<WokenCores>,
}

impl SimCoreWaker {
    pub(super) fn new(node: u32, core: usize, woken: Arc<WokenCores>) -> Arc<SimCoreWaker> {
        Arc::new(SimCoreWaker {
            node,
            core,
            on_its_way: AtomicBool::new(false),
            receivers: Mutex::new(Vec::new()),
            woken,
        })
    }

    /// The wake-up arrives: every receiver looks again.
    pub(super) fn arrive(&self) {
        self.on_its_way.store(false, Ordering::Relaxed);
        let mut alive = Vec::new();
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner).retain(|receiver| {
            let receiver = receiver.upgrade();
            alive.extend(receiver.clone());
            receiver.is_some()
        });
        for receiver in alive {
            receiver.wake();
        }
    }

    /// The core is gone, and with it who waited.
    pub(super) fn forget_receivers(&self) {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl WakeCore for SimCoreWaker {
    fn wake(&self) {
        if !self.on_its_way.swap(true, Ordering::Relaxed) {
            self.woken.cores.lock().unwrap_or_else(PoisonError::into_inner).push((self.node, self.core));
            self.woken.any.store(true, Ordering::Relaxed);
        }
    }
    fn register(&self, receiver: Weak<AtomicWaker>) {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
    }
}
