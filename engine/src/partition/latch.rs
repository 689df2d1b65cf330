//! Who may decide about a key, and whether a bucket takes writes.
//!
//! What must hold: at most one holder per (group, row) at a time, first come first served; a closed bucket has no
//! open guard and gives none; dropping a guard hands over at once. Local to the leader's core: nothing here is
//! durable.

use buckets_ring::id::{BucketId, GroupId};
use bytes::Bytes;
use futures::channel::oneshot;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// The latches of one core.
#[derive(Clone, Default)]
pub(crate) struct Latches {
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    /// Present while held; who waits behind the holder.
    keys: BTreeMap<(GroupId, Bytes), VecDeque<oneshot::Sender<()>>>,
    buckets: BTreeMap<(GroupId, BucketId), BucketUse>,
}

#[derive(Default)]
struct BucketUse {
    open: usize,
    closed: bool,
    /// The closer, while it waits for the last open guard.
    closer: Option<oneshot::Sender<()>>,
}

/// The right to decide about a key.
pub(crate) struct KeyLatch {
    latches: Latches,
    key: (GroupId, Bytes),
}

/// A write to the bucket is under way.
pub(crate) struct OpenBucket {
    latches: Latches,
    bucket: (GroupId, BucketId),
}

/// No write to the bucket is under way or begins.
pub(crate) struct ClosedBucket {
    latches: Latches,
    bucket: (GroupId, BucketId),
}

impl Latches {
    pub(crate) async fn lock(&self, group: GroupId, row: Bytes) -> KeyLatch {
        let key = (group, row);
        loop {
            let turn = {
                let mut state = self.state.borrow_mut();
                match state.keys.get_mut(&key) {
                    None => {
                        state.keys.insert(key.clone(), VecDeque::new());
                        return KeyLatch { latches: self.clone(), key };
                    }
                    Some(waiting) => {
                        let (turn_tx, turn_rx) = oneshot::channel();
                        waiting.push_back(turn_tx);
                        turn_rx
                    }
                }
            };
            // Handed over: the entry stays, and this task owns it. A sender that is dropped without a word means
            // that the latch is to be tried again.
            if turn.await.is_ok() {
                return KeyLatch { latches: self.clone(), key };
            }
        }
    }

    pub(crate) fn open_bucket(&self, group: GroupId, bucket: BucketId) -> Option<OpenBucket> {
        let mut state = self.state.borrow_mut();
        let used = state.buckets.entry((group, bucket)).or_default();
        if used.closed {
            return None;
        }
        used.open += 1;
        Some(OpenBucket { latches: self.clone(), bucket: (group, bucket) })
    }

    /// Waits for the writes under way; new ones are refused from now on. A second closer at the same time gets its
    /// turn at once: it closes nothing more than is closed.
    pub(crate) async fn close_bucket(&self, group: GroupId, bucket: BucketId) -> ClosedBucket {
        let guard = ClosedBucket { latches: self.clone(), bucket: (group, bucket) };
        let last_write = {
            let mut state = self.state.borrow_mut();
            let used = state.buckets.entry((group, bucket)).or_default();
            used.closed = true;
            (used.open > 0).then(|| {
                let (done_tx, done_rx) = oneshot::channel();
                used.closer = Some(done_tx);
                done_rx
            })
        };
        if let Some(last_write) = last_write {
            let _ = last_write.await;
        }
        guard
    }
}

impl Drop for KeyLatch {
    fn drop(&mut self) {
        let mut state = self.latches.state.borrow_mut();
        if let Some(waiting) = state.keys.get_mut(&self.key) {
            // A waiter that went away does not take its turn.
            while let Some(next) = waiting.pop_front() {
                if next.send(()).is_ok() {
                    return;
                }
            }
            state.keys.remove(&self.key);
        }
    }
}

impl Drop for OpenBucket {
    fn drop(&mut self) {
        let mut state = self.latches.state.borrow_mut();
        if let Some(used) = state.buckets.get_mut(&self.bucket) {
            used.open -= 1;
            if used.open == 0 {
                match used.closer.take() {
                    Some(closer) => drop(closer.send(())),
                    None if !used.closed => drop(state.buckets.remove(&self.bucket)),
                    None => {}
                }
            }
        }
    }
}

impl Drop for ClosedBucket {
    fn drop(&mut self) {
        let mut state = self.latches.state.borrow_mut();
        if let Some(used) = state.buckets.get_mut(&self.bucket) {
            used.closed = false;
            if used.open == 0 {
                state.buckets.remove(&self.bucket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn row(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn a_latch_goes_to_the_next_in_line_and_skips_who_left() {
        let latches = Latches::default();
        let group = GroupId(1);
        let first = latches.lock(group, row("k")).now_or_never().unwrap();
        let mut left = Box::pin(latches.lock(group, row("k")));
        let mut waits = Box::pin(latches.lock(group, row("k")));
        assert!(left.as_mut().now_or_never().is_none());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(latches.lock(group, row("other")).now_or_never().is_some());
        drop(left);
        drop(first);
        let second = waits.now_or_never().unwrap();
        assert!(latches.lock(group, row("k")).now_or_never().is_none());
        drop(second);
        assert!(latches.lock(group, row("k")).now_or_never().is_some());
    }

    #[test]
    fn closing_a_bucket_waits_for_its_writes_and_refuses_new_ones() {
        let latches = Latches::default();
        let (group, bucket) = (GroupId(1), BucketId::from_random([1; 16]));
        let write = latches.open_bucket(group, bucket).unwrap();
        let mut closing = Box::pin(latches.close_bucket(group, bucket));
        assert!(closing.as_mut().now_or_never().is_none());
        assert!(latches.open_bucket(group, bucket).is_none());
        drop(write);
        let closed = closing.now_or_never().unwrap();
        assert!(latches.open_bucket(group, bucket).is_none());
        drop(closed);
        assert!(latches.open_bucket(group, bucket).is_some());
    }
}
