//! Which tables there are, by level, and what to compact next. Pure.
//!
//! What must hold:
//! - Level 0 holds flushed memtables, newest first; they may overlap. On every deeper level tables are sorted and
//!   do not overlap, and everything there is older than anything above it for the same key.
//! - A compaction takes whole tables of one level and all tables of the next level that they overlap.
//!
//! Level sizes grow by [`Shape::level_ratio`]: a row is rewritten a few times on its way down, and a look-up asks
//! one table for each level, the filters sparing it nearly all of the reads that find nothing.

use crate::error::IndexError;
use crate::limits::LEVELS;
use crate::root::TableEntry;
use crate::table::Table;
use bytes::Bytes;
use std::rc::Rc;

/// When a level is too large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) level0_tables_trigger: usize,
    pub(crate) level1_bytes: u64,
    pub(crate) level_ratio: u64,
}

/// An immutable set of tables.
#[derive(Clone)]
pub(crate) struct Levels {
    levels: [Rc<[Rc<Table>]>; LEVELS],
}

impl Levels {
    /// Sorts open tables into their levels. Tables that overlap where they must not are damage.
    pub(crate) fn new(tables: Vec<(u8, Rc<Table>)>) -> Result<Levels, IndexError> {
        let mut sorted: [Vec<Rc<Table>>; LEVELS] = Default::default();
        for (level, table) in tables {
            sorted[usize::from(level)].push(table);
        }
        sorted[0].sort_by_key(|table| std::cmp::Reverse(table.number()));
        for level in &mut sorted[1..] {
            level.sort_by(|a, b| a.first_key().cmp(b.first_key()));
            for pair in level.windows(2) {
                if pair[0].last_key() >= pair[1].first_key() {
                    return Err(IndexError::corrupt(
                        pair[1].name(),
                        0,
                        "it overlaps another table of its level",
                    ));
                }
            }
        }
        Ok(Levels { levels: sorted.map(Rc::from) })
    }

    pub(crate) fn level0(&self) -> &[Rc<Table>] {
        &self.levels[0]
    }

    /// The sorted levels below level 0, the newest first.
    pub(crate) fn deeper(&self) -> &[Rc<[Rc<Table>]>] {
        &self.levels[1..]
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = (u8, &Rc<Table>)> {
        (0u8..).zip(&self.levels).flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
    }

    pub(crate) fn entries(&self) -> Vec<TableEntry> {
        self.tables().map(|(level, table)| TableEntry { level, ..table.entry() }).collect()
    }

    /// What the tables say of `key`: a value, a deletion, or nothing.
    pub(crate) async fn get(&self, key: &[u8], hash: u64) -> Result<Option<Option<Bytes>>, IndexError> {
        for table in self.level0().iter().filter(|table| table.overlaps(key, key)) {
            if let Some(change) = table.get(key, hash).await? {
                return Ok(Some(change));
            }
        }
        for level in self.deeper() {
            let at = level.partition_point(|table| table.last_key() < key);
            if let Some(table) = level.get(at).filter(|table| table.first_key() <= key)
                && let Some(change) = table.get(key, hash).await?
            {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    /// This set without `removed` and with `added`.
    pub(crate) fn edited(
        &self,
        removed: &[Rc<Table>],
        added: Vec<(u8, Rc<Table>)>,
    ) -> Result<Levels, IndexError> {
        let kept = self.tables().filter(|(_, table)| !removed.iter().any(|gone| Rc::ptr_eq(gone, table)));
        let mut tables: Vec<(u8, Rc<Table>)> = kept.map(|(level, table)| (level, table.clone())).collect();
        tables.extend(added);
        Levels::new(tables)
    }

    /// True where no table below `level` can hold `key`: a tombstone there has nothing left to hide.
    pub(crate) fn is_bottom_for(&self, level: usize, key: &[u8]) -> bool {
        self.levels[level + 1..].iter().all(|tables| {
            let at = tables.partition_point(|table| table.last_key() < key);
            tables.get(at).is_none_or(|table| table.first_key() > key)
        })
    }

    /// True where no table at all can hold `key`.
    pub(crate) fn is_empty_for(&self, key: &[u8]) -> bool {
        self.is_bottom_for(0, key) && self.levels[0].iter().all(|table| !table.overlaps(key, key))
    }

    fn level_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|table| table.bytes()).sum()
    }

    fn overlapping(&self, level: usize, first: &[u8], last: &[u8]) -> Vec<Rc<Table>> {
        self.levels[level].iter().filter(|table| table.overlaps(first, last)).cloned().collect()
    }

    /// The most useful compaction, if a level is over its size or full of tombstones.
    pub(crate) fn pick(&self, shape: &Shape) -> Option<Compaction> {
        let mut urgent = (1.0, None);
        let mut limit = shape.level1_bytes;
        for level in 0..LEVELS - 1 {
            let score = if level == 0 {
                self.levels[0].len() as f64 / shape.level0_tables_trigger as f64
            } else {
                let score = self.level_bytes(level) as f64 / limit as f64;
                limit = limit.saturating_mul(shape.level_ratio);
                score
            };
            if score >= urgent.0 {
                urgent = (score, Some(level));
            }
        }
        match urgent.1 {
            Some(0) => Some(self.compact_level0()),
            Some(level) => self.cheapest(level),
            None => self.fullest_of_tombstones(),
        }
    }

    fn compact_level0(&self) -> Compaction {
        let upper = self.levels[0].to_vec();
        let first = upper.iter().map(|table| table.first_key()).min().unwrap_or_default();
        let last = upper.iter().map(|table| table.last_key()).max().unwrap_or_default();
        let lower = self.overlapping(1, first, last);
        Compaction { level: 0, upper, lower }
    }

    /// The table whose move down rewrites the least for each of its own bytes.
    fn cheapest(&self, level: usize) -> Option<Compaction> {
        self.levels[level]
            .iter()
            .map(|table| self.compact_table(level, table))
            .min_by(|a, b| a.cost().total_cmp(&b.cost()))
    }

    fn compact_table(&self, level: usize, table: &Rc<Table>) -> Compaction {
        let lower = self.overlapping(level + 1, table.first_key(), table.last_key());
        Compaction { level, upper: vec![table.clone()], lower }
    }

    /// A table that is mostly tombstones, so that scans need not wade through them for ever. (Those of level 0 are
    /// few, and go down by the trigger.)
    fn fullest_of_tombstones(&self) -> Option<Compaction> {
        let mostly_gone = |table: &&Rc<Table>| table.tombstones() * 2 >= table.entries();
        (1..LEVELS - 1).find_map(|level| {
            self.levels[level].iter().find(mostly_gone).map(|table| self.compact_table(level, table))
        })
    }
}

/// Tables to merge into the level below.
pub(crate) struct Compaction {
    pub(crate) level: usize,
    /// Of `level`, newest first.
    pub(crate) upper: Vec<Rc<Table>>,
    /// Of the next level, in key order.
    pub(crate) lower: Vec<Rc<Table>>,
}

impl Compaction {
    /// Bytes rewritten for each byte moved down.
    fn cost(&self) -> f64 {
        let bytes = |tables: &[Rc<Table>]| tables.iter().map(|table| table.bytes()).sum::<u64>() as f64;
        bytes(&self.lower) / bytes(&self.upper).max(1.0)
    }

    /// True where the tables can change their level without being rewritten: nothing below overlaps them, nor
    /// they each other, and no tombstone could be dropped.
    pub(crate) fn is_move(&self) -> bool {
        let mut upper = self.upper.clone();
        upper.sort_by(|a, b| a.first_key().cmp(b.first_key()));
        self.lower.is_empty()
            && upper.windows(2).all(|pair| pair[0].last_key() < pair[1].first_key())
            && upper.iter().all(|table| table.tombstones() == 0)
    }

    pub(crate) fn inputs(&self) -> Vec<Rc<Table>> {
        self.upper.iter().chain(&self.lower).cloned().collect()
    }
}
