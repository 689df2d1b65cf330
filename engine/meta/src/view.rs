//! The rows of a group as a reader sees them.
//!
//! What must hold: a view answers like the index it stands on, with the changes of an overlay on top where it has
//! one (a salvage: entries of the log that are not applied). A scan sees one moment.

use buckets_index::{Index, IndexError, Position, Scan};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

/// Names the rows of one replica from its start, or from the snapshot that replaced them all, until it ends or another
/// one does. Unique on its core. Whoever remembers something of rows by this id, and is told of every change
/// ([`crate::GroupHost::on_change`]), never needs to know who leads or what was started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowsId(pub u64);

type Overlay = Rc<BTreeMap<Bytes, Option<Bytes>>>;

/// Rows to read from. Cheap to clone. It says what is there when it is asked, not when it was made: take a new
/// one for each request.
#[derive(Clone)]
pub struct View {
    index: Index,
    id: RowsId,
    overlay: Option<Overlay>,
}

impl View {
    pub(crate) fn new(index: Index, id: RowsId) -> View {
        View { index, id, overlay: None }
    }

    pub(crate) fn with_overlay(index: Index, id: RowsId, overlay: BTreeMap<Bytes, Option<Bytes>>) -> View {
        View { index, id, overlay: (!overlay.is_empty()).then(|| Rc::new(overlay)) }
    }

    /// Whose rows these are; `None` where changes lie over them that nobody has applied.
    pub fn rows_id(&self) -> Option<RowsId> {
        self.overlay.is_none().then_some(self.id)
    }

    /// The last change that the rows hold now.
    pub fn applied(&self) -> Position {
        self.index.applied()
    }

    /// The value of `key`.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        match self.overlay.as_ref().and_then(|overlay| overlay.get(key)) {
            Some(change) => Ok(change.clone()),
            None => self.index.get(key).await,
        }
    }

    /// The rows between two bounds, in key order.
    pub fn scan(&self, start: Bound<Bytes>, end: Bound<Bytes>) -> ViewScan {
        let from = self.overlay.as_ref().map(|_| start.clone());
        ViewScan {
            rows: self.index.scan(start, end.clone()),
            overlay: self.overlay.clone().zip(from).map(|(changes, from)| OverlayScan {
                changes,
                from,
                end,
                row: None,
            }),
        }
    }
}

struct OverlayScan {
    changes: Overlay,
    /// Where the overlay goes on.
    from: Bound<Bytes>,
    end: Bound<Bytes>,
    /// A row of the index that was read but not given out.
    row: Option<Option<(Bytes, Bytes)>>,
}

impl OverlayScan {
    fn change(&self) -> Option<(Bytes, Option<Bytes>)> {
        // A range that begins behind its end is a panic of the map.
        let begin = match &self.from {
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        };
        let over = match (&self.end, begin) {
            (Bound::Included(end), Some(begin)) => begin > end,
            (Bound::Excluded(end), Some(begin)) => begin >= end,
            _ => false,
        };
        if over || (matches!(self.from, Bound::Excluded(_)) && begin_is_end(&self.from, &self.end)) {
            return None;
        }
        self.changes
            .range((self.from.clone(), self.end.clone()))
            .next()
            .map(|(key, value)| (key.clone(), value.clone()))
    }
}

fn begin_is_end(begin: &Bound<Bytes>, end: &Bound<Bytes>) -> bool {
    match (begin, end) {
        (Bound::Excluded(begin), Bound::Included(end) | Bound::Excluded(end)) => begin == end,
        _ => false,
    }
}

/// Walks the rows of a view.
pub struct ViewScan {
    rows: Scan,
    overlay: Option<OverlayScan>,
}

impl ViewScan {
    /// The next row; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, IndexError> {
        let Some(overlay) = &mut self.overlay else { return self.rows.next().await };
        loop {
            let row = match overlay.row.take() {
                Some(row) => row,
                None => self.rows.next().await?,
            };
            let change = overlay.change();
            let Some((key, value)) = change else { return Ok(row) };
            match row {
                Some(row) if row.0 < key => return Ok(Some(row)),
                Some(row) if row.0 == key => {}
                row => overlay.row = Some(row),
            }
            overlay.from = Bound::Excluded(key.clone());
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
        }
    }

    /// Goes on at the first row at or after `key`. Only forward.
    pub fn seek(&mut self, key: &[u8]) {
        self.rows.seek(key);
        if let Some(overlay) = &mut self.overlay {
            let ahead = match &overlay.from {
                Bound::Included(from) | Bound::Excluded(from) => from.as_ref() < key,
                Bound::Unbounded => true,
            };
            if ahead {
                overlay.from = Bound::Included(Bytes::copy_from_slice(key));
            }
            overlay.row.take_if(|row| row.as_ref().is_some_and(|(at, _)| at.as_ref() < key));
        }
    }
}
