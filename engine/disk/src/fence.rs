//! The fence: after one failed write or flush nothing on this disk is acknowledged any more.
//!
//! What must hold: a fenced disk stays fenced until the process restarts (a flush that failed may have dropped the
//! data that it should have written, so that a later one succeeds without it); everyone who waits is told.

use crate::error::DiskError;
use crate::wait::WaitList;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The state of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// Reads and writes.
    Ok,
    /// Reads only; see [`DiskError::Fenced`].
    Fenced {
        /// The failed operation and its error.
        reason: Arc<str>,
    },
    /// Closed by its owner.
    Closed,
}

#[derive(Clone)]
pub(crate) struct Fence {
    cell: Rc<Cell>,
}

struct Cell {
    error: RefCell<Option<DiskError>>,
    /// Lists whose waiters must hear of the fence.
    lists: RefCell<Vec<std::rc::Weak<WaitList>>>,
}

impl Fence {
    pub(crate) fn new() -> Fence {
        Fence { cell: Rc::new(Cell { error: RefCell::new(None), lists: RefCell::new(Vec::new()) }) }
    }

    /// Waiters on `list` are woken when the fence closes.
    pub(crate) fn notifies(&self, list: &Rc<WaitList>) {
        let mut lists = self.cell.lists.borrow_mut();
        lists.retain(|list| list.strong_count() > 0);
        lists.push(Rc::downgrade(list));
    }

    /// Closes the fence for a failure; the first reason stays.
    pub(crate) fn close_for(&self, what: &str, error: &dyn std::fmt::Display) {
        let reason: Arc<str> = format!("{what}: {error}").into();
        tracing::error!(%reason, "disk is fenced");
        self.close(DiskError::Fenced { reason });
    }

    /// Closes it because the owner closes the disk.
    pub(crate) fn shut(&self) {
        self.close(DiskError::Closed);
    }

    fn close(&self, error: DiskError) {
        {
            let mut state = self.cell.error.borrow_mut();
            if state.is_none() {
                *state = Some(error);
            }
        }
        let lists: Vec<_> = self.cell.lists.borrow().iter().filter_map(std::rc::Weak::upgrade).collect();
        lists.iter().for_each(|list| list.reach_all());
    }

    /// `Ok` while writes are accepted.
    pub(crate) fn check(&self) -> Result<(), DiskError> {
        self.cell.error.borrow().clone().map_or(Ok(()), Err)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.cell.error.borrow().is_some()
    }

    pub(crate) fn state(&self) -> DiskState {
        match &*self.cell.error.borrow() {
            None => DiskState::Ok,
            Some(DiskError::Fenced { reason }) => DiskState::Fenced { reason: reason.clone() },
            Some(DiskError::Closed) => DiskState::Closed,
        }
    }
}
