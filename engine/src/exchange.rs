//! Questions between the cores of a node: a bounded queue into each core, and the questions that wait for answers.
//!
//! What must hold: every question ends with an answer, a refusal or its deadline; a late answer to a question that
//! nobody waits for is dropped; in-flight questions are bounded, and over the bound the asker is refused at once.

use crate::message::{Answer, Refusal, Request};
use buckets_env::{CoreSender, Env};
use futures::channel::oneshot;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// Messages that wait in a core's queue, at most.
pub const QUEUED_MESSAGES_MAX: usize = 16_384;
/// Questions of one core that wait for other cores, at most.
const INFLIGHT_QUESTIONS_MAX: usize = 8_192;

/// What travels between cores of a node.
pub enum CoreMessage {
    /// A question; the answer goes back to `from`.
    Ask {
        /// The asking core.
        from: usize,
        /// The asker's number for it.
        id: u64,
        /// The question.
        request: Request,
    },
    /// An answer.
    Tell {
        /// The asker's number.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Between Raft replicas.
    Group(buckets_meta::GroupMessage),
    /// Who leads a group now.
    Leader(crate::core::Leadership),
}

/// The asking side of one core.
pub(crate) struct Exchange {
    env: Env,
    this_core: usize,
    cores: Vec<CoreSender<CoreMessage>>,
    next_id: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Answer>>>,
}

impl Exchange {
    pub(crate) fn new(env: Env, this_core: usize, cores: Vec<CoreSender<CoreMessage>>) -> Exchange {
        Exchange { env, this_core, cores, next_id: Cell::new(0), waiting: RefCell::default() }
    }

    pub(crate) fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Sends without waiting; `Overloaded` where the core's queue is full.
    pub(crate) fn send(&self, core: usize, message: CoreMessage) -> Result<(), Refusal> {
        self.cores[core].send(message).map_err(|_| Refusal::Overloaded)
    }

    /// Asks another core and waits for its answer, at most `limit`.
    pub(crate) async fn ask(&self, core: usize, request: Request, limit: Duration) -> Answer {
        debug_assert_ne!(core, self.this_core);
        if self.waiting.borrow().len() >= INFLIGHT_QUESTIONS_MAX {
            return Err(Refusal::Overloaded);
        }
        let id = self.next_id.replace(self.next_id.get() + 1);
        let (answer_tx, answer_rx) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, answer_tx);
        let _forget = Forget { exchange: self, id };
        self.send(core, CoreMessage::Ask { from: self.this_core, id, request })?;
        match self.env.timeout(limit, answer_rx).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) | None => Err(Refusal::Unknown),
        }
    }

    /// Hands an answer to who waits for it.
    pub(crate) fn told(&self, id: u64, answer: Answer) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
            let _ = waiting.send(answer);
        }
    }
}

/// Forgets a question when its asker goes away.
struct Forget<'a> {
    exchange: &'a Exchange,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.exchange.waiting.borrow_mut().remove(&self.id);
    }
}
