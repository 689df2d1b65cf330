//! Pinned views: snapshots and ordered scans.
//!
//! What must hold: a snapshot sees exactly what was applied when it was taken, whatever is applied, flushed,
//! compacted or replaced while it lives; it keeps the memtables and tables that it needs, and their files.

use crate::checksum::key_hash;
use crate::cursor::{Merge, RunCursor, Source};
use crate::error::IndexError;
use crate::index::{Index, View};
use crate::memtable::{Memtable, MemtableCursor, Sequence};
use crate::root::Position;
use bytes::Bytes;
use std::ops::Bound;
use std::rc::Rc;

/// Rows without an answer (tombstones) that a scan passes before it looks at the clock.
const SILENT_ROWS_PER_SLICE: usize = 64;

/// The whole index at one moment. Memory and files stay until it is dropped: drop it soon.
pub struct Snapshot {
    index: Index,
    active: Rc<Memtable>,
    view: Rc<View>,
    pin: Sequence,
    position: Position,
}

impl Index {
    /// Pins the present content.
    pub fn snapshot(&self) -> Snapshot {
        let state = &self.state;
        let pin = state.sequence.get();
        let mut pins = state.pins.borrow_mut();
        *pins.entry(pin).or_insert(0) += 1;
        state.newest_pin.set(Some(pin));
        Snapshot {
            index: self.clone(),
            active: state.active.borrow().clone(),
            view: state.view.borrow().clone(),
            pin,
            position: state.applied.get(),
        }
    }

    /// The rows between two bounds, in key order, as they are now.
    pub fn scan(&self, start: Bound<Bytes>, end: Bound<Bytes>) -> Scan {
        Scan::new(Rc::new(self.snapshot()), start, end)
    }

    /// The first row at or after `key`.
    pub async fn first_at_or_after(&self, key: &[u8]) -> Result<Option<(Bytes, Bytes)>, IndexError> {
        self.scan(Bound::Included(Bytes::copy_from_slice(key)), Bound::Unbounded).next().await
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let state = &self.index.state;
        let mut pins = state.pins.borrow_mut();
        if let Some(count) = pins.get_mut(&self.pin) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.pin);
            }
        }
        state.newest_pin.set(pins.last_key_value().map(|(&pin, _)| pin));
    }
}

impl Snapshot {
    /// The position of the last change that the snapshot sees.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The value of `key` at the snapshot's moment.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        if let Some(change) = self.active.get_at(key, self.pin) {
            return Ok(change);
        }
        for frozen in self.view.frozen.iter().rev() {
            if let Some(change) = frozen.memtable.get_at(key, self.pin) {
                return Ok(change);
            }
        }
        let found = self.view.levels.get(key, key_hash(key)).await;
        Ok(self.index.count_damage(found)?.flatten())
    }

    /// The rows between two bounds at the snapshot's moment.
    pub fn scan(self: &Rc<Snapshot>, start: Bound<Bytes>, end: Bound<Bytes>) -> Scan {
        Scan::new(self.clone(), start, end)
    }

    /// Newest first.
    fn sources(&self) -> Vec<Source> {
        let frozen = self.view.frozen.iter().rev().map(|frozen| &frozen.memtable);
        let memtables = std::iter::once(&self.active).chain(frozen).filter(|memtable| !memtable.is_empty());
        let memtables =
            memtables.map(|memtable| Source::Memtable(MemtableCursor::new(memtable.clone(), self.pin)));
        let level0 = self.view.levels.level0().iter().map(|table| Rc::from([table.clone()]));
        let deeper = self.view.levels.deeper().iter().filter(|level| !level.is_empty()).cloned();
        let runs = level0.chain(deeper).map(|run| Source::Run(Box::new(RunCursor::cached(run))));
        memtables.chain(runs).collect()
    }
}

/// Walks rows in key order at one moment. After an error the same row is tried again by the next call.
pub struct Scan {
    snapshot: Rc<Snapshot>,
    merge: Merge,
    end: Bound<Bytes>,
}

impl Scan {
    fn new(snapshot: Rc<Snapshot>, start: Bound<Bytes>, end: Bound<Bytes>) -> Scan {
        let start = match start {
            Bound::Unbounded => Vec::new(),
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => {
                let mut next = key.to_vec();
                next.push(0);
                next
            }
        };
        Scan { merge: Merge::new(snapshot.sources(), start), snapshot, end }
    }

    /// The next row; `None` at the end. Dropping the future loses no row.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, IndexError> {
        let mut silent = 0usize;
        loop {
            let advanced = self.merge.advance().await;
            if !self.snapshot.index.count_damage(advanced)? {
                return Ok(None);
            }
            let Some((key, value)) = self.merge.row() else { return Ok(None) };
            let ended = match &self.end {
                Bound::Unbounded => false,
                Bound::Included(end) => key > end.as_ref(),
                Bound::Excluded(end) => key >= end.as_ref(),
            };
            if ended {
                self.merge.end();
                return Ok(None);
            }
            if let Some(value) = value {
                return Ok(Some((Bytes::copy_from_slice(key), value)));
            }
            silent += 1;
            if silent.is_multiple_of(SILENT_ROWS_PER_SLICE) {
                self.snapshot.index.state.env.yield_if_needed().await;
            }
        }
    }

    /// Makes [`Scan::next`] go on at the first row at or after `key`. Only forward: rows that were passed do not
    /// come again.
    pub fn seek(&mut self, key: &[u8]) {
        self.merge.seek(key);
    }

    /// The position of the last change that the scan sees.
    pub fn position(&self) -> Position {
        self.snapshot.position
    }
}
