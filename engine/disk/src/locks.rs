//! One change of a thing at a time: between looking up what a change replaces and logging it, nothing else may change
//! the same thing.

use crate::wait::WaitList;
use std::cell::RefCell;
use std::collections::BTreeSet;

pub(crate) struct Locks<K> {
    held: RefCell<BTreeSet<K>>,
    released: WaitList,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Locks { held: RefCell::new(BTreeSet::new()), released: WaitList::default() }
    }
}

impl<K: Ord + Copy> Locks<K> {
    /// Waits for the lock of `key`; held until the guard is dropped.
    pub(crate) async fn lock(&self, key: K) -> Lock<'_, K> {
        self.released.wait(0, || self.held.borrow_mut().insert(key).then_some(())).await;
        Lock { locks: self, key }
    }
}

pub(crate) struct Lock<'a, K: Ord + Copy> {
    locks: &'a Locks<K>,
    key: K,
}

impl<K: Ord + Copy> Drop for Lock<'_, K> {
    fn drop(&mut self) {
        self.locks.held.borrow_mut().remove(&self.key);
        self.locks.released.reach_all();
    }
}
