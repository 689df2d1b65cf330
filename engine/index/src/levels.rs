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

/// Level 0 goes down where no more than this is rewritten in level 1 for each of its bytes.
const LEVEL0_COST_MAX: f64 = 5.0;

/// Where space is short, tables with at least this share of tombstones are compacted for it.
const RECLAIM_SHARE: u64 = 32;

/// When a level is too large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) level0_tables_trigger: usize,
    pub(crate) level0_tables_max: usize,
    pub(crate) level1_bytes: u64,
    pub(crate) level_ratio: u64,
}

/// An immutable set of tables.
#[derive(Clone)]
pub(crate) struct Levels {
    levels: [Rc<[Rc<Table>]>; LEVELS],
}

impl Levels {
    /// Sorts open tables into their levels; those of level 0 come newest first. Tables that overlap where they must not
    /// are damage.
    pub(crate) fn new(tables: Vec<(u8, Rc<Table>)>) -> Result<Levels, IndexError> {
        let mut sorted: [Vec<Rc<Table>>; LEVELS] = Default::default();
        for (level, table) in tables {
            sorted[usize::from(level)].push(table);
        }
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

    /// This set without `removed` and with `added`. Tables added to level 0 take the place of the first one removed
    /// there; where none is removed they are the newest.
    pub(crate) fn edited(
        &self,
        removed: &[Rc<Table>],
        added: Vec<(u8, Rc<Table>)>,
    ) -> Result<Levels, IndexError> {
        let is_removed = |table: &Rc<Table>| removed.iter().any(|gone| Rc::ptr_eq(gone, table));
        let place = self.level0().iter().position(is_removed).unwrap_or(0);
        let mut tables = added;
        // The sort is stable: added tables come before the kept ones that they are newer than.
        let newer = self.level0()[..place].iter().map(|table| (0, table.clone()));
        tables.splice(0..0, newer);
        let rest = self.tables().skip(place).filter(|(_, table)| !is_removed(table));
        tables.extend(rest.map(|(level, table)| (level, table.clone())));
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
        bytes_of(&self.levels[level])
    }

    /// The tables of a sorted level that overlap a range.
    fn overlapping(&self, level: usize, first: &[u8], last: &[u8]) -> &[Rc<Table>] {
        let tables = &self.levels[level];
        let start = tables.partition_point(|table| table.last_key() < first);
        let count = tables[start..].partition_point(|table| table.first_key() <= last);
        &tables[start..start + count]
    }

    /// The most useful compaction, if a level is over its size or full of tombstones; where `space_is_short`, also one that
    /// brings tombstones down to what they hide.
    pub(crate) fn pick(&self, shape: &Shape, space_is_short: bool) -> Option<Compaction> {
        let level0_score = self.levels[0].len() as f64 / shape.level0_tables_trigger as f64;
        let mut limit = shape.level1_bytes as f64;
        let mut fullest = (1.0, None);
        for level in 1..LEVELS - 1 {
            let score = self.level_bytes(level) as f64 / limit;
            limit *= shape.level_ratio as f64;
            if score >= fullest.0 {
                fullest = (score, Some(level));
            }
        }
        if level0_score >= fullest.0
            && let Some(compaction) = self.compact_level0(shape)
        {
            return Some(compaction);
        }
        match fullest.1 {
            Some(level) => self.cheapest(level),
            None if space_is_short => self.reclaim(),
            None => self.fullest_of_tombstones(),
        }
    }

    /// The compaction that carries most tombstones down for the bytes that it rewrites. It ends: at the bottom none is left.
    fn reclaim(&self) -> Option<Compaction> {
        let has_some = |tables: &[Rc<Table>]| {
            let tombstones: u64 = tables.iter().map(|table| table.tombstones()).sum();
            let entries: u64 = tables.iter().map(|table| table.entries()).sum();
            tombstones > 0 && tombstones * RECLAIM_SHARE >= entries
        };
        let level0 = has_some(self.level0()).then(|| self.level0_downward());
        let deeper = (1..LEVELS - 1).flat_map(|level| {
            let tables =
                self.levels[level].iter().filter(move |table| has_some(std::slice::from_ref(*table)));
            tables.map(move |table| self.compact_table(level, table))
        });
        level0
            .into_iter()
            .chain(deeper)
            .max_by(|a, b| a.tombstones_per_byte().total_cmp(&b.tombstones_per_byte()))
    }

    /// All of level 0, with what it overlaps.
    fn level0_downward(&self) -> Compaction {
        let upper = self.levels[0].to_vec();
        let first = upper.iter().map(|table| table.first_key()).min().unwrap_or_default();
        let last = upper.iter().map(|table| table.last_key()).max().unwrap_or_default();
        let lower = self.overlapping(1, first, last).to_vec();
        Compaction { level: 0, within: false, upper, lower }
    }

    /// Level 0 moves into level 1 as a whole, where it is large enough to be worth the rewriting; small tables (an owner
    /// that flushes often) are merged among themselves first, those of like size together. `None`: sizes differ so much
    /// that neither is worth it yet.
    fn compact_level0(&self, shape: &Shape) -> Option<Compaction> {
        let downward = self.level0_downward();
        if downward.cost() <= LEVEL0_COST_MAX {
            return Some(downward);
        }
        let mut bytes = 0;
        let like = self.levels[0].iter().take_while(|table| {
            let alike = bytes == 0 || table.bytes() <= bytes * 2;
            bytes += table.bytes();
            alike
        });
        let newest: Vec<Rc<Table>> = like.cloned().collect();
        if newest.len() >= 2 {
            return Some(Compaction { level: 0, within: true, upper: newest, lower: Vec::new() });
        }
        (self.levels[0].len() * 2 >= shape.level0_tables_max).then_some(downward)
    }

    /// The table whose move down rewrites the least for each of its own bytes.
    fn cheapest(&self, level: usize) -> Option<Compaction> {
        let cost = |table: &Rc<Table>| {
            let below = self.overlapping(level + 1, table.first_key(), table.last_key());
            bytes_of(below) as f64 / table.bytes() as f64
        };
        let cheapest = self.levels[level].iter().min_by(|a, b| cost(a).total_cmp(&cost(b)))?;
        Some(self.compact_table(level, cheapest))
    }

    fn compact_table(&self, level: usize, table: &Rc<Table>) -> Compaction {
        let lower = self.overlapping(level + 1, table.first_key(), table.last_key()).to_vec();
        Compaction { level, within: false, upper: vec![table.clone()], lower }
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

fn bytes_of(tables: &[Rc<Table>]) -> u64 {
    tables.iter().map(|table| table.bytes()).sum()
}

/// Tables to merge.
pub(crate) struct Compaction {
    level: usize,
    /// The result stays in level 0; otherwise it goes to the level below.
    within: bool,
    /// Of `level`, newest first.
    pub(crate) upper: Vec<Rc<Table>>,
    /// Of the next level, in key order.
    pub(crate) lower: Vec<Rc<Table>>,
}

impl Compaction {
    pub(crate) fn target_level(&self) -> u8 {
        if self.within { 0 } else { self.level as u8 + 1 }
    }

    /// Bytes rewritten for each byte moved down.
    fn cost(&self) -> f64 {
        bytes_of(&self.lower) as f64 / (bytes_of(&self.upper) as f64).max(1.0)
    }

    fn tombstones_per_byte(&self) -> f64 {
        let tombstones: u64 = self.upper.iter().map(|table| table.tombstones()).sum();
        tombstones as f64 / ((bytes_of(&self.upper) + bytes_of(&self.lower)) as f64).max(1.0)
    }

    /// True where the tables can change their level without being rewritten: nothing below overlaps them, nor
    /// they each other, and no tombstone could be dropped.
    pub(crate) fn is_move(&self) -> bool {
        let mut upper = self.upper.clone();
        upper.sort_by(|a, b| a.first_key().cmp(b.first_key()));
        !self.within
            && self.lower.is_empty()
            && upper.windows(2).all(|pair| pair[0].last_key() < pair[1].first_key())
            && upper.iter().all(|table| table.tombstones() == 0)
    }

    /// True where a tombstone of `key` has nothing left to hide. `levels` is where the compaction was picked.
    pub(crate) fn drops_tombstone(&self, levels: &Levels, key: &[u8]) -> bool {
        !self.within && levels.is_bottom_for(self.level + 1, key)
    }

    pub(crate) fn inputs(&self) -> Vec<Rc<Table>> {
        self.upper.iter().chain(&self.lower).cloned().collect()
    }
}
