//! A limit on what the indexes of one disk compact at once, and how fast.
//!
//! What must hold: a compaction that nobody waits for leaves the disk to those who wait for their reads and flushes; the
//! further an index falls behind, the faster the compactions of its disk go, and before anybody has to wait for them
//! ([`crate::Index::back_pressure`]) they go as fast as they can.

use crate::signal::Signal;
use buckets_env::{Env, Instant};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Bytes merged per second where no index is behind.
const PACE_BYTES_MIN: f64 = 32e6;
/// How much faster, as a power of two, just before the pace ends.
const PACE_DOUBLINGS: f64 = 6.0;
/// Shorter pauses are put together.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// How many compactions of one disk's indexes run at once, and their pace; clones share it. Each one holds some
/// megabytes.
#[derive(Clone)]
pub struct CompactionSlots {
    inner: Rc<Inner>,
}

struct Inner {
    free: Cell<usize>,
    freed: Signal,
    /// How far behind each index is.
    behind: RefCell<Vec<Weak<Cell<f64>>>>,
    /// When what was merged so far is paid for.
    paid: Cell<Option<Instant>>,
}

impl Inner {
    fn furthest_behind(&self) -> f64 {
        let all = self.behind.borrow();
        all.iter().filter_map(Weak::upgrade).map(|behind| behind.get()).fold(0.0, f64::max)
    }
}

/// How far behind an index is: 0 where it has no more level-0 tables than are merged together, 1 where the pace ends.
pub(crate) type Behind = Rc<Cell<f64>>;

impl CompactionSlots {
    /// At most `count` at once. Panics at zero.
    pub fn new(count: usize) -> CompactionSlots {
        assert!(count > 0, "compactions must be possible");
        let inner = Inner {
            free: Cell::new(count),
            freed: Signal::default(),
            behind: RefCell::default(),
            paid: Cell::new(None),
        };
        CompactionSlots { inner: Rc::new(inner) }
    }

    /// Counts an index in, for as long as it keeps what it is given.
    pub(crate) fn join(&self) -> Behind {
        let behind = Behind::default();
        let mut all = self.inner.behind.borrow_mut();
        all.retain(|behind| behind.strong_count() > 0);
        all.push(Rc::downgrade(&behind));
        behind
    }

    /// Waits for a free slot.
    pub(crate) async fn take(&self) -> Slot {
        let inner = &self.inner;
        inner.freed.until(|| inner.free.get().checked_sub(1).map(|left| inner.free.set(left))).await;
        Slot { slots: self.clone() }
    }
}

/// A slot in use.
pub(crate) struct Slot {
    slots: CompactionSlots,
}

impl Slot {
    /// Waits as long as merging so many bytes is worth.
    pub(crate) async fn pace(&self, env: &Env, bytes: u64) {
        let inner = &self.slots.inner;
        let behind = inner.furthest_behind();
        if behind >= 1.0 {
            return;
        }
        let cost =
            Duration::from_secs_f64(bytes as f64 / (PACE_BYTES_MIN * (PACE_DOUBLINGS * behind).exp2()));
        let now = env.now();
        let paid = inner.paid.get().map_or(now, |paid| paid.max(now)).after(cost);
        inner.paid.set(Some(paid));
        if paid.since(now) >= PAUSE_MIN {
            env.sleep(paid.since(now)).await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let inner = &self.slots.inner;
        inner.free.set(inner.free.get() + 1);
        inner.freed.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_env::sim::Simulation;

    #[test]
    fn the_further_the_furthest_index_is_behind_the_faster_all_merge() {
        let simulation = Simulation::new(1);
        let merged_in = |behind: f64| {
            let took = simulation.node("merger").run(0, |env| async move {
                let slots = CompactionSlots::new(2);
                let (_on_time, late) = (slots.join(), slots.join());
                slots.join().set(7.0);
                late.set(behind);
                let (one, other) = (slots.take().await, slots.take().await);
                let start = env.now();
                for _ in 0..100 {
                    futures::join!(one.pace(&env, 160_000), other.pace(&env, 160_000));
                }
                env.now().since(start).as_secs_f64()
            });
            took.unwrap()
        };
        let near = |seconds: f64, expected: f64| (seconds - expected).abs() < 0.01;
        let (idle, late, last) = (merged_in(0.0), merged_in(0.5), merged_in(1.0));
        assert!(near(idle, 1.0) && near(late, 0.125) && near(last, 0.0), "{idle} {late} {last}");
    }
}
