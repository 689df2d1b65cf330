//! The newest rows, in memory.
//!
//! What must hold:
//! - A reader that pinned sequence number `s` sees, for each key, the newest change with a number up to `s`,
//!   whatever is applied later: a change that a pinned reader still needs is kept behind the newer one.
//! - After it is frozen a memtable never changes.
//! - `bytes` counts keys, values and a fixed cost per row, so that a limit on it bounds the memory used.

use crate::limits::MEMTABLE_ROWS_PER_STEP;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::rc::Rc;

/// Memory of one row beside its key and value, in bytes (tree node share, handles, counters).
const ROW_BYTES: usize = 128;

/// Orders the changes of one index while it is open.
pub(crate) type Sequence = u64;

struct Change {
    sequence: Sequence,
    value: Option<Bytes>,
    older: Option<Box<Change>>,
}

/// Keys with their newest value, `None` being a deletion.
#[derive(Default)]
pub(crate) struct Memtable {
    rows: RefCell<BTreeMap<Bytes, Change>>,
    bytes: Cell<usize>,
}

impl Memtable {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.borrow().is_empty()
    }

    /// Puts or deletes. A value that was there is kept for readers that pinned `newest_pin` or earlier.
    pub(crate) fn apply(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        sequence: Sequence,
        newest_pin: Option<Sequence>,
    ) {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        let key_bytes = key.len();
        let mut change = Change { sequence, value, older: None };
        let mut bytes = self.bytes.get();
        match self.rows.borrow_mut().entry(key) {
            std::collections::btree_map::Entry::Vacant(row) => {
                bytes += ROW_BYTES + key_bytes + value_bytes;
                row.insert(change);
            }
            std::collections::btree_map::Entry::Occupied(mut row) => {
                let row = row.get_mut();
                if newest_pin.is_some_and(|pin| row.sequence <= pin) && row.sequence < sequence {
                    bytes += ROW_BYTES + value_bytes;
                    std::mem::swap(row, &mut change);
                    row.older = Some(Box::new(change));
                } else {
                    bytes = bytes + value_bytes - row.value.as_ref().map_or(0, Bytes::len);
                    row.sequence = sequence;
                    row.value = change.value;
                }
            }
        }
        self.bytes.set(bytes);
    }

    /// The newest change of `key`: a value, a deletion, or nothing known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.borrow().get(key).map(|change| change.value.clone())
    }

    /// The change of `key` that a reader pinned at `pin` sees.
    pub(crate) fn get_at(&self, key: &[u8], pin: Sequence) -> Option<Option<Bytes>> {
        self.rows.borrow().get(key).and_then(|change| visible(change, pin)).map(|change| change.value.clone())
    }

    /// Appends up to `count` rows after `from` as seen at `pin`; false where no row is left behind them.
    fn copy_rows(
        &self,
        from: Bound<&[u8]>,
        pin: Sequence,
        count: usize,
        rows: &mut VecDeque<(Bytes, Option<Bytes>)>,
    ) -> bool {
        for (key, change) in self.rows.borrow().range::<[u8], _>((from, Bound::Unbounded)) {
            if rows.len() >= count {
                return true;
            }
            if let Some(change) = visible(change, pin) {
                rows.push_back((key.clone(), change.value.clone()));
            }
        }
        false
    }
}

fn visible(change: &Change, pin: Sequence) -> Option<&Change> {
    let mut change = change;
    while change.sequence > pin {
        change = change.older.as_deref()?;
    }
    Some(change)
}

/// Walks a memtable in key order as it was at one moment. Copies handles of a few rows at a time, so that the
/// memtable may change between two steps.
pub(crate) struct MemtableCursor {
    memtable: Rc<Memtable>,
    pin: Sequence,
    rows: VecDeque<(Bytes, Option<Bytes>)>,
    more: bool,
    step_rows: usize,
}

impl MemtableCursor {
    /// At no row; [`MemtableCursor::seek`] comes first.
    pub(crate) fn new(memtable: Rc<Memtable>, pin: Sequence) -> MemtableCursor {
        MemtableCursor { memtable, pin, rows: VecDeque::new(), more: true, step_rows: 4 }
    }

    /// Moves to the first row at or after `target`.
    pub(crate) fn seek(&mut self, target: &[u8]) {
        while self.rows.len() > 1 && self.rows.front().is_some_and(|(key, _)| key < target) {
            self.rows.pop_front();
        }
        if self.rows.front().is_some_and(|(key, _)| key < target) || self.rows.is_empty() {
            self.rows.clear();
            self.step_rows = 4;
            self.fill(Bound::Included(target));
        }
    }

    /// Moves to the next row.
    pub(crate) fn advance(&mut self) {
        let Some((passed, _)) = self.rows.pop_front() else { return };
        if self.rows.is_empty() && self.more {
            self.fill(Bound::Excluded(&passed));
        }
    }

    fn fill(&mut self, from: Bound<&[u8]>) {
        self.more = self.memtable.copy_rows(from, self.pin, self.step_rows, &mut self.rows);
        self.step_rows = (self.step_rows * 2).min(MEMTABLE_ROWS_PER_STEP);
    }

    /// The current row; `None` at the end.
    pub(crate) fn row(&self) -> Option<&(Bytes, Option<Bytes>)> {
        self.rows.front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn all(memtable: &Rc<Memtable>, pin: Sequence) -> Vec<(Bytes, Option<Bytes>)> {
        let mut cursor = MemtableCursor::new(memtable.clone(), pin);
        cursor.seek(b"");
        let mut rows = Vec::new();
        while let Some(row) = cursor.row() {
            rows.push(row.clone());
            cursor.advance();
        }
        rows
    }

    #[test]
    fn a_pinned_reader_sees_its_moment() {
        let memtable = Rc::new(Memtable::default());
        memtable.apply(bytes("a"), Some(bytes("1")), 1, None);
        memtable.apply(bytes("b"), Some(bytes("1")), 1, None);
        let pin = Some(1);
        let then = all(&memtable, 1);
        memtable.apply(bytes("a"), None, 2, pin);
        memtable.apply(bytes("a"), Some(bytes("3")), 3, pin);
        memtable.apply(bytes("c"), Some(bytes("3")), 3, pin);
        assert_eq!(all(&memtable, 1), then);
        assert_eq!(memtable.get_at(b"a", 1), Some(Some(bytes("1"))));
        assert_eq!(memtable.get_at(b"c", 1), None);
        assert_eq!(memtable.get(b"a"), Some(Some(bytes("3"))));
        assert_eq!(all(&memtable, 3).len(), 3);
    }

    #[test]
    fn a_batch_may_change_a_key_twice() {
        let memtable = Rc::new(Memtable::default());
        memtable.apply(bytes("a"), Some(bytes("0")), 1, None);
        memtable.apply(bytes("a"), Some(bytes("1")), 2, Some(1));
        memtable.apply(bytes("a"), Some(bytes("2")), 2, Some(1));
        assert_eq!(memtable.get_at(b"a", 1), Some(Some(bytes("0"))));
        assert_eq!(memtable.get_at(b"a", 2), Some(Some(bytes("2"))));
    }

    #[test]
    fn seeks_skip_forward() {
        let memtable = Rc::new(Memtable::default());
        for number in 0..1000u32 {
            memtable.apply(Bytes::copy_from_slice(&number.to_be_bytes()), Some(bytes("x")), 1, None);
        }
        let mut cursor = MemtableCursor::new(memtable, 1);
        for target in [0u32, 1, 2, 7, 300, 301, 999] {
            cursor.seek(&target.to_be_bytes());
            assert_eq!(cursor.row().unwrap().0.as_ref(), target.to_be_bytes());
        }
        cursor.advance();
        assert!(cursor.row().is_none());
    }
}
