//! Messages between cores: a bounded queue and a wake-up of the receiving core.
//!
//! What must hold: messages from one sender arrive in order; a full queue refuses ([`Overloaded`]) instead of
//! blocking; a message is seen by the receiver within about 50 us, whether that core is busy or asleep.

use crossbeam::queue::ArrayQueue;
use futures::task::AtomicWaker;
use std::sync::{Arc, Weak};
use std::task::Poll;

/// The receiving core's queue is full: the caller must refuse its own caller (503 `SlowDown`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of another core is full")]
pub struct Overloaded;

/// Ends the sleep of one core from any thread. The woken core then wakes, on its own thread, every receiver
/// registered here (waking a foreign executor's task directly is only seen when that executor looks).
pub trait WakeCore: Send + Sync {
    /// Ends the core's sleep. Cheap when a wake-up is already on its way.
    fn wake(&self);
    /// Adds a receiver that is to be polled again after each wake-up.
    fn register(&self, receiver: Weak<AtomicWaker>);
}

struct Queue<T> {
    messages: ArrayQueue<T>,
    receiver: Arc<AtomicWaker>,
    core: Arc<dyn WakeCore>,
}

/// A queue into the core that `core` wakes, holding at most `capacity` messages.
pub fn core_queue<T: Send>(capacity: usize, core: Arc<dyn WakeCore>) -> (CoreSender<T>, CoreReceiver<T>) {
    let receiver = Arc::new(AtomicWaker::new());
    core.register(Arc::downgrade(&receiver));
    let queue = Arc::new(Queue { messages: ArrayQueue::new(capacity), receiver, core });
    (CoreSender { queue: queue.clone() }, CoreReceiver { queue })
}

/// The sending half; any core may hold clones.
pub struct CoreSender<T> {
    queue: Arc<Queue<T>>,
}

impl<T> Clone for CoreSender<T> {
    fn clone(&self) -> Self {
        CoreSender { queue: self.queue.clone() }
    }
}

impl<T: Send> CoreSender<T> {
    /// Queues `message` and wakes the receiving core. `Overloaded` gives no message back: it is dropped.
    pub fn send(&self, message: T) -> Result<(), Overloaded> {
        self.queue.messages.push(message).map_err(|_| Overloaded)?;
        self.queue.core.wake();
        Ok(())
    }
}

/// The receiving half; polled only on its core.
pub struct CoreReceiver<T> {
    queue: Arc<Queue<T>>,
}

impl<T: Send> CoreReceiver<T> {
    /// The next message. Cancel-safe.
    pub async fn recv(&self) -> T {
        std::future::poll_fn(|cx| {
            if let Some(message) = self.queue.messages.pop() {
                return Poll::Ready(message);
            }
            self.queue.receiver.register(cx.waker());
            // A message may have come between the look and the registration.
            match self.queue.messages.pop() {
                Some(message) => Poll::Ready(message),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// A message that is already there.
    pub fn try_recv(&self) -> Option<T> {
        self.queue.messages.pop()
    }
}
