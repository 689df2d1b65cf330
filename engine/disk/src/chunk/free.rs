//! Which units of chunk space are in use.
//!
//! What must hold: a unit is given out once until it is released. What is stored is the *settled* state: what the rows of
//! the chunk table use; units of chunks that are still being written, and of deleted ones that are still being read,
//! are in use here but free in what is stored, so that a crash gives them back.
//!
//! Pure: no I/O.

use super::entry::Extent;
use crate::limits::UNIT_BYTES;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Units of one stored page of the map.
pub(crate) const PAGE_UNITS: u32 = 4096;
const PAGE_WORDS: usize = PAGE_UNITS as usize / 64;
const ROW_VERSION: u8 = 1;
const ALL_USED: u8 = 1;
const BITMAP: u8 = 2;
/// Pages with free units that one search visits before it takes what it has seen.
const SEARCH_PAGES_MAX: usize = 512;
/// Requests up to this many units search from their own place, so that they fill gaps and do not cut up long runs.
const SMALL_UNITS_MAX: u32 = 16;

/// The map: one bit a unit, 1 = in use.
pub(crate) struct FreeMap {
    words: Vec<u64>,
    free_in_page: Vec<u16>,
    units: u64,
    free: u64,
    /// Pages whose settled state is not stored.
    dirty: BTreeSet<u32>,
    small_cursor: u64,
    large_cursor: u64,
}

impl FreeMap {
    pub(crate) fn new() -> FreeMap {
        FreeMap {
            words: Vec::new(),
            free_in_page: Vec::new(),
            units: 0,
            free: 0,
            dirty: BTreeSet::new(),
            small_cursor: 0,
            large_cursor: 0,
        }
    }

    /// Units there are.
    pub(crate) fn units(&self) -> u64 {
        self.units
    }

    /// Units not in use.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Adds free units at the end.
    pub(crate) fn grow(&mut self, units: u64) {
        assert!(units >= self.units);
        self.words.resize(units.div_ceil(64) as usize, 0);
        self.free_in_page.resize(units.div_ceil(u64::from(PAGE_UNITS)) as usize, 0);
        let mut unit = self.units;
        while unit < units {
            let page = unit / u64::from(PAGE_UNITS);
            let end = units.min((page + 1) * u64::from(PAGE_UNITS));
            self.free_in_page[page as usize] += (end - unit) as u16;
            unit = end;
        }
        self.free += units - self.units;
        self.units = units;
    }

    /// Takes `extent`. Returns how many of its units were in use already or do not exist.
    pub(crate) fn take(&mut self, extent: Extent) -> u64 {
        u64::from(extent.units) - self.change(extent, true)
    }

    /// Gives `extent` back. Returns how many of its units were free already or do not exist.
    pub(crate) fn release(&mut self, extent: Extent) -> u64 {
        u64::from(extent.units) - self.change(extent, false)
    }

    /// Takes every unit there is.
    pub(crate) fn take_all(&mut self) {
        for start in (0..self.units).step_by(PAGE_UNITS as usize) {
            self.take(Extent { start, units: PAGE_UNITS });
        }
    }

    /// The settled use of `extent` changed: its pages must be stored again.
    pub(crate) fn mark_dirty(&mut self, extent: Extent) {
        if extent.units == 0 || extent.end() > self.units {
            return;
        }
        let (first, last) = (page_of(extent.start), page_of(extent.end() - 1));
        self.dirty.extend(first..=last);
    }

    /// All pages must be stored again.
    pub(crate) fn mark_all_dirty(&mut self) {
        self.dirty.extend(0..self.free_in_page.len() as u32);
    }

    fn change(&mut self, extent: Extent, used: bool) -> u64 {
        let end = extent.end().min(self.units);
        let mut unit = extent.start;
        let mut changed = 0u64;
        while unit < end {
            let word = (unit / 64) as usize;
            let bit = unit % 64;
            let count = (64 - bit).min(end - unit);
            let mask = (u64::MAX >> (64 - count)) << bit;
            let flips = mask & if used { !self.words[word] } else { self.words[word] };
            self.words[word] ^= flips;
            let flipped = flips.count_ones();
            let page = page_of(unit) as usize;
            if used {
                self.free_in_page[page] -= flipped as u16;
            } else {
                self.free_in_page[page] += flipped as u16;
            }
            changed += u64::from(flipped);
            unit += count;
        }
        if used {
            self.free -= changed;
        } else {
            self.free += changed;
        }
        changed
    }

    /// Takes `units` units, if there are so many: at `goal` as far as it is free, else one run, else several.
    pub(crate) fn allocate(&mut self, units: u32, goal: Option<u64>) -> Option<Vec<Extent>> {
        assert!(units > 0);
        if u64::from(units) > self.free {
            return None;
        }
        let mut taken = Vec::with_capacity(1);
        let mut left = units;
        if let Some(goal) = goal {
            let run = self.run_at(goal, units);
            if run.units > 0 {
                self.take(run);
                taken.push(run);
                left -= run.units;
            }
        }
        while left > 0 {
            let run = self.search(left);
            assert!(run.units > 0, "free units are counted");
            self.take(run);
            taken.push(run);
            left -= run.units;
        }
        Some(taken)
    }

    /// The first free run of `want` units from the cursor on, or the longest seen within the search limit.
    fn search(&mut self, want: u32) -> Extent {
        let small = want <= SMALL_UNITS_MAX;
        let start = if small { self.small_cursor } else { self.large_cursor };
        let start = if start < self.units { start } else { 0 };
        let pages = self.free_in_page.len() as u64;
        let first_page = u64::from(page_of(start));
        let mut longest = Extent { start: 0, units: 0 };
        let mut visited = 0;
        // One page more than there are: the part of the first page before the cursor.
        'pages: for step in 0..=pages {
            let page = (first_page + step) % pages;
            if self.free_in_page[page as usize] == 0 {
                continue;
            }
            visited += 1;
            if visited > SEARCH_PAGES_MAX && longest.units > 0 {
                break;
            }
            let page_start = page * u64::from(PAGE_UNITS);
            let end = self.units.min(page_start + u64::from(PAGE_UNITS));
            let mut unit = if step == 0 { start } else { page_start };
            while unit < end {
                unit = self.next_free(unit, end);
                if unit >= end {
                    break;
                }
                let run = self.run_at(unit, want);
                if run.units > longest.units {
                    longest = run;
                    if run.units == want {
                        break 'pages;
                    }
                }
                unit = run.end();
            }
        }
        if small {
            self.small_cursor = longest.end();
        } else {
            self.large_cursor = longest.end();
        }
        longest
    }

    /// The first free unit in `[unit, end)`, or `end`.
    fn next_free(&self, mut unit: u64, end: u64) -> u64 {
        while unit < end {
            let free = !self.words[(unit / 64) as usize] >> (unit % 64);
            if free != 0 {
                return end.min(unit + u64::from(free.trailing_zeros()));
            }
            unit = (unit / 64 + 1) * 64;
        }
        end
    }

    /// The free run that starts at `unit`, at most `max` long; empty where the unit is in use.
    fn run_at(&self, unit: u64, max: u32) -> Extent {
        let end = self.units.min(unit.saturating_add(u64::from(max)));
        let mut at = unit;
        while at < end {
            let used = self.words[(at / 64) as usize] >> (at % 64);
            if used != 0 {
                at = end.min(at + u64::from(used.trailing_zeros()));
                break;
            }
            at = end.min((at / 64 + 1) * 64);
        }
        Extent { start: unit, units: at.saturating_sub(unit) as u32 }
    }

    /// The rows of all dirty pages, without the units in `transient`; `None`: no row. They count as stored.
    pub(crate) fn take_dirty_rows(
        &mut self,
        transient: impl Iterator<Item = Extent>,
    ) -> Vec<(u32, Option<Bytes>)> {
        let mut pages: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for page in std::mem::take(&mut self.dirty) {
            let from = page as usize * PAGE_WORDS;
            let mut words = vec![0u64; PAGE_WORDS];
            let to = self.words.len().min(from + PAGE_WORDS);
            words[..to - from].copy_from_slice(&self.words[from..to]);
            pages.insert(page, words);
        }
        for extent in transient {
            for unit in extent.start..extent.end() {
                if let Some(words) = pages.get_mut(&page_of(unit)) {
                    let at = unit % u64::from(PAGE_UNITS);
                    words[(at / 64) as usize] &= !(1 << (at % 64));
                }
            }
        }
        pages.into_iter().map(|(page, words)| (page, encode_page(&words))).collect()
    }

    /// Takes what a stored row says is in use. False where the row cannot be understood.
    pub(crate) fn load_row(&mut self, page: u32, value: &[u8]) -> bool {
        let first = u64::from(page) * u64::from(PAGE_UNITS);
        match value {
            [ROW_VERSION, ALL_USED] => {
                self.take(Extent { start: first, units: PAGE_UNITS });
                true
            }
            [ROW_VERSION, BITMAP, bits @ ..] if bits.len() == PAGE_WORDS * 8 => {
                for (i, bytes) in bits.chunks_exact(8).enumerate() {
                    let word = bytes.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
                    self.take_word(first + i as u64 * 64, word);
                }
                true
            }
            _ => false,
        }
    }

    /// Takes the units whose bits are set in `word`, counted from `first`; those that do not exist are left out.
    fn take_word(&mut self, first: u64, word: u64) {
        let existing = match self.units.saturating_sub(first) {
            0 => return,
            count if count < 64 => word & (u64::MAX >> (64 - count)),
            _ => word,
        };
        let at = (first / 64) as usize;
        let flips = existing & !self.words[at];
        self.words[at] |= flips;
        self.free_in_page[page_of(first) as usize] -= flips.count_ones() as u16;
        self.free -= u64::from(flips.count_ones());
    }

    /// The unit behind the last one in use.
    pub(crate) fn end_of_used(&self) -> u64 {
        let last = self.words.iter().rposition(|&word| word != 0);
        last.map_or(0, |at| at as u64 * 64 + 64 - u64::from(self.words[at].leading_zeros()))
    }

    /// True where every unit of `extent` exists and is in use.
    pub(crate) fn is_used(&self, extent: Extent) -> bool {
        extent.end() <= self.units
            && (extent.start..extent.end())
                .all(|unit| self.words[(unit / 64) as usize] >> (unit % 64) & 1 == 1)
    }
}

/// Units that a stored row may speak of, counted from the start: what space files must hold.
pub(crate) fn units_through(page: u32) -> u64 {
    (u64::from(page) + 1) * u64::from(PAGE_UNITS)
}

/// Bytes of `units`.
pub(crate) fn bytes_of(units: u64) -> u64 {
    units * UNIT_BYTES
}

fn page_of(unit: u64) -> u32 {
    (unit / u64::from(PAGE_UNITS)) as u32
}

fn encode_page(words: &[u64]) -> Option<Bytes> {
    if words.iter().all(|&word| word == 0) {
        return None;
    }
    if words.iter().all(|&word| word == u64::MAX) {
        return Some(Bytes::from_static(&[ROW_VERSION, ALL_USED]));
    }
    let mut row = Vec::with_capacity(2 + PAGE_WORDS * 8);
    row.extend([ROW_VERSION, BITMAP]);
    row.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    Some(Bytes::from(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(map: &FreeMap) -> Vec<u64> {
        (0..map.units()).filter(|&unit| map.is_used(Extent { start: unit, units: 1 })).collect()
    }

    fn lcg(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *state >> 33
    }

    #[test]
    fn nothing_is_given_out_twice_and_everything_can_be() {
        for seed in 0..50 {
            let mut state = seed;
            let mut map = FreeMap::new();
            map.grow(10_000);
            let mut held: Vec<Extent> = Vec::new();
            let mut in_use = BTreeSet::new();
            for _ in 0..400 {
                if lcg(&mut state).is_multiple_of(3) && !held.is_empty() {
                    let extent = held.swap_remove(lcg(&mut state) as usize % held.len());
                    assert_eq!(map.release(extent), 0);
                    (extent.start..extent.end()).for_each(|unit| assert!(in_use.remove(&unit)));
                    continue;
                }
                let want = 1 + (lcg(&mut state) % 200) as u32;
                let goal = held.last().map(Extent::end).filter(|_| lcg(&mut state).is_multiple_of(2));
                match map.allocate(want, goal) {
                    Some(extents) => {
                        assert_eq!(extents.iter().map(|e| e.units).sum::<u32>(), want);
                        for extent in extents {
                            (extent.start..extent.end()).for_each(|unit| assert!(in_use.insert(unit)));
                            held.push(extent);
                        }
                    }
                    None => assert!(10_000 - in_use.len() < want as usize),
                }
                assert_eq!(map.free(), 10_000 - in_use.len() as u64);
            }
            let rest = map.free() as u32;
            if rest > 0 {
                assert!(map.allocate(rest, None).is_some());
            }
            assert_eq!(used(&map).len(), 10_000);
        }
    }

    #[test]
    fn a_goal_makes_chunks_contiguous() {
        let mut map = FreeMap::new();
        map.grow(5000);
        let first = map.allocate(100, None).unwrap();
        assert_eq!(first.len(), 1);
        let next = map.allocate(200, Some(first[0].end())).unwrap();
        assert_eq!(next, [Extent { start: first[0].end(), units: 200 }]);
    }

    #[test]
    fn stored_rows_hold_the_settled_state_only() {
        let mut map = FreeMap::new();
        map.grow(3 * u64::from(PAGE_UNITS) - 100);
        let settled = Extent { start: 4000, units: 200 };
        let transient = Extent { start: 4200, units: 50 };
        let whole_page = Extent { start: 2 * u64::from(PAGE_UNITS), units: PAGE_UNITS - 100 };
        for extent in [settled, transient, whole_page] {
            assert_eq!(map.take(extent), 0);
        }
        map.mark_dirty(settled);
        map.mark_dirty(whole_page);
        let rows = map.take_dirty_rows([transient].into_iter());
        assert_eq!(rows.len(), 3);
        let mut loaded = FreeMap::new();
        loaded.grow(map.units());
        for (page, value) in rows {
            assert!(value.is_none_or(|value| loaded.load_row(page, &value)));
        }
        assert_eq!(map.release(transient), 0);
        assert_eq!(used(&loaded), used(&map));
        assert_eq!(loaded.free(), map.free());
        assert!(map.take_dirty_rows(std::iter::empty()).is_empty());
        assert!(!loaded.load_row(0, b"\x01\x02short"));
    }

    #[test]
    fn double_use_and_double_release_are_counted_not_hidden() {
        let mut map = FreeMap::new();
        map.grow(100);
        assert_eq!(map.take(Extent { start: 10, units: 10 }), 0);
        assert_eq!(map.take(Extent { start: 15, units: 10 }), 5);
        assert_eq!(map.release(Extent { start: 0, units: 12 }), 10);
        assert_eq!(map.take(Extent { start: 95, units: 10 }), 5);
    }
}
