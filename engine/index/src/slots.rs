//! A limit on what runs at once on one core.

use crate::signal::Signal;
use std::cell::Cell;
use std::rc::Rc;

/// How many compactions of the core's indexes run at once; clones share it. Each one holds some megabytes.
#[derive(Clone)]
pub struct CompactionSlots {
    inner: Rc<Inner>,
}

struct Inner {
    free: Cell<usize>,
    freed: Signal,
}

impl CompactionSlots {
    /// At most `count` at once. Panics at zero.
    pub fn new(count: usize) -> CompactionSlots {
        assert!(count > 0, "compactions must be possible");
        CompactionSlots { inner: Rc::new(Inner { free: Cell::new(count), freed: Signal::default() }) }
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

impl Drop for Slot {
    fn drop(&mut self) {
        let inner = &self.slots.inner;
        inner.free.set(inner.free.get() + 1);
        inner.freed.notify();
    }
}
