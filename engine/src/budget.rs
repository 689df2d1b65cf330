//! A bound on bytes in memory, shared by the tasks of a core.
//!
//! What must hold: bytes given out never exceed the limit (a single request for more than the limit gets all of it);
//! who waits is served in order; bytes come back when their guard is dropped.

use futures::channel::oneshot;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// The bound.
#[derive(Clone)]
pub(crate) struct Budget {
    state: Rc<RefCell<State>>,
}

struct State {
    limit: usize,
    free: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Held>)>,
}

/// Bytes that were given out.
pub(crate) struct Held {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Budget {
        Budget { state: Rc::new(RefCell::new(State { limit, free: limit, waiting: VecDeque::new() })) }
    }

    /// Takes `bytes`, waiting for those before. Dropping the future gives up the place in the line.
    pub(crate) async fn take(&self, bytes: usize) -> Held {
        loop {
            let turn = {
                let mut state = self.state.borrow_mut();
                let bytes = bytes.min(state.limit);
                if state.waiting.is_empty() && state.free >= bytes {
                    state.free -= bytes;
                    return Held { budget: self.clone(), bytes };
                }
                let (turn_tx, turn_rx) = oneshot::channel();
                state.waiting.push_back((bytes, turn_tx));
                turn_rx
            };
            if let Ok(held) = turn.await {
                return held;
            }
        }
    }

    /// Takes `bytes` if they are there and nobody waits.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Held> {
        let mut state = self.state.borrow_mut();
        let bytes = bytes.min(state.limit);
        if !state.waiting.is_empty() || state.free < bytes {
            return None;
        }
        state.free -= bytes;
        Some(Held { budget: self.clone(), bytes })
    }

    fn give_back(&self, bytes: usize) {
        self.state.borrow_mut().free += bytes;
        loop {
            let (held, turn) = {
                let mut state = self.state.borrow_mut();
                while state.waiting.front().is_some_and(|(_, turn)| turn.is_canceled()) {
                    state.waiting.pop_front();
                }
                match state.waiting.front() {
                    Some((wanted, _)) if *wanted <= state.free => {}
                    _ => return,
                }
                let Some((bytes, turn)) = state.waiting.pop_front() else { return };
                state.free -= bytes;
                (Held { budget: self.clone(), bytes }, turn)
            };
            // Where the waiter went away in between, the guard comes back and is dropped: its bytes are free again.
            drop(turn.send(held));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.clone().give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn bytes_are_bounded_and_given_out_in_order() {
        let budget = Budget::new(10);
        let six = budget.take(6).now_or_never().unwrap();
        let mut five = Box::pin(budget.take(5));
        assert!(five.as_mut().now_or_never().is_none());
        // There would be room, but somebody waits already.
        assert!(budget.try_take(1).is_none());
        let mut left = Box::pin(budget.take(9));
        let mut four = Box::pin(budget.take(4));
        assert!(left.as_mut().now_or_never().is_none());
        assert!(four.as_mut().now_or_never().is_none());
        drop(left);
        drop(six);
        let _five = five.now_or_never().unwrap();
        let _four = four.now_or_never().unwrap();
        assert!(budget.try_take(2).is_none());
        assert!(budget.try_take(1).is_some());
    }

    #[test]
    fn more_than_the_limit_gets_the_limit() {
        let budget = Budget::new(10);
        let all = budget.take(100).now_or_never().unwrap();
        assert!(budget.try_take(1).is_none());
        drop(all);
        assert!(budget.try_take(10).is_some());
    }
}
