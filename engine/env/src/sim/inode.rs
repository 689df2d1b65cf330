//! The content of one simulated file, and what of it survives a crash.
//!
//! What must hold:
//! - Reads see every completed write. A crash keeps what was flushed; of each unflushed change it keeps all,
//!   nothing, or some 512-byte sectors, so that a later write may survive where an earlier one is lost.
//! - Of two completed writes to one sector the older never survives the newer: a disk's cache holds one copy.
//! - `shadow` holds the durable content of every page that an unflushed change has altered, and of no other.

use super::rng::SimRng;
use crate::{AlignedBuf, AlignedBytes};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Unit of storage and of direct I/O, in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;
/// What a disk writes atomically, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

type Page = Box<[u8]>;

/// A change of a file's content.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// `data` is whole pages; `end` is where the file ends at least afterwards.
    Write {
        offset: u64,
        data: AlignedBytes,
        end: u64,
    },
    Allocate {
        offset: u64,
        len: u64,
    },
    Punch {
        offset: u64,
        len: u64,
    },
}

impl Change {
    /// The pages whose content changes.
    fn pages(&self) -> Range<u64> {
        match self {
            Change::Write { offset, data, .. } => {
                offset / PAGE_BYTES..(offset + data.len() as u64).div_ceil(PAGE_BYTES)
            }
            Change::Allocate { .. } => 0..0,
            Change::Punch { offset, len } => offset / PAGE_BYTES..(offset + len) / PAGE_BYTES,
        }
    }

    /// The parts of this change outside of `pages`.
    fn outside(self, pages: &Range<u64>) -> Vec<Change> {
        let own = self.pages();
        if own.end <= pages.start || pages.end <= own.start {
            return vec![self];
        }
        let part = |part: Range<u64>| match &self {
            Change::Write { offset, data, end } => {
                let first = (part.start * PAGE_BYTES - offset) as usize;
                let last = (part.end * PAGE_BYTES - offset) as usize;
                Change::Write {
                    offset: part.start * PAGE_BYTES,
                    data: data.slice(first..last),
                    end: (*end).min(part.end * PAGE_BYTES),
                }
            }
            Change::Punch { .. } | Change::Allocate { .. } => {
                Change::Punch { offset: part.start * PAGE_BYTES, len: (part.end - part.start) * PAGE_BYTES }
            }
        };
        [own.start..pages.start.max(own.start), pages.end.min(own.end)..own.end]
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(part)
            .collect()
    }
}

/// What a crash does to the unflushed changes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survival {
    /// The cache was written out just before.
    All,
    /// Nothing had left the cache.
    Nothing,
    /// Each change on its own: whole, torn or lost.
    Mixed,
}

impl Survival {
    pub(super) fn draw(rng: &mut SimRng) -> Survival {
        match rng.below(8) {
            0 => Survival::All,
            1 | 2 => Survival::Nothing,
            _ => Survival::Mixed,
        }
    }
}

/// Disjoint byte ranges, merged.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn add(&mut self, mut start: u64, mut end: u64) {
        let touching: Vec<(u64, u64)> =
            self.0.range(..=end).rev().take_while(|(_, e)| **e >= start).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in touching {
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        if start < end {
            self.0.insert(start, end);
        }
    }
    fn remove(&mut self, start: u64, end: u64) {
        let touching: Vec<(u64, u64)> =
            self.0.range(..end).rev().take_while(|(_, e)| **e > start).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in touching {
            self.0.remove(&s);
            self.add(s, start.min(e));
            if end < e {
                self.add(end, e);
            }
        }
    }
    fn contains(&self, at: u64) -> bool {
        self.0.range(..=at).next_back().is_some_and(|(_, e)| at < *e)
    }
    fn total(&self) -> u64 {
        self.0.iter().map(|(s, e)| e - s).sum()
    }
}

/// One file's content.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pages: BTreeMap<u64, Page>,
    size: u64,
    reserved: Ranges,
    shadow: BTreeMap<u64, Option<Page>>,
    durable_size: u64,
    durable_reserved: Ranges,
    /// Completed and not durable, in the order of completion, numbered.
    pending: Vec<(u64, Change)>,
    completed: u64,
    /// Pages whose reads fail until they are written again.
    unreadable: BTreeSet<u64>,
    /// The disk it is on.
    pub(super) disk: usize,
    /// Names, durable names and logged name changes that lead here.
    pub(super) names: u32,
    /// Open handles.
    pub(super) handles: u32,
    /// Pages outside of reserved ranges.
    loose_pages: u64,
}

impl Inode {
    /// An empty file that has just been created: its name and the logged change count.
    pub(super) fn new(disk: usize) -> Inode {
        Inode { disk, names: 2, ..Inode::default() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that the file takes on its disk.
    pub(super) fn used_bytes(&self) -> u64 {
        self.reserved.total() + self.loose_pages * PAGE_BYTES
    }

    /// Bytes that `change` would take in addition, at most.
    pub(super) fn growth_bytes(&self, change: &Change) -> u64 {
        match change {
            Change::Write { .. } => {
                let new = |page: &u64| {
                    !self.pages.contains_key(page) && !self.reserved.contains(*page * PAGE_BYTES)
                };
                change.pages().filter(new).count() as u64 * PAGE_BYTES
            }
            Change::Allocate { offset, len } => {
                let mut reserved = self.reserved.clone();
                reserved.add(*offset, offset + len);
                reserved.total() - self.reserved.total()
            }
            Change::Punch { .. } => 0,
        }
    }

    /// Copies `[offset, offset + buffer.len())`, which must be inside of the file, to `buffer`. Any alignment.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        let end = offset + buffer.len() as u64;
        buffer.fill(0);
        for (number, page) in self.pages.range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)) {
            let at = number * PAGE_BYTES;
            let (from, to) = (at.max(offset), (at + PAGE_BYTES).min(end));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - at) as usize..(to - at) as usize]);
        }
    }

    /// True where a page of the range cannot be read.
    pub(super) fn is_unreadable(&self, offset: u64, len: u64) -> bool {
        !self.unreadable.is_empty()
            && self
                .unreadable
                .range(offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES))
                .next()
                .is_some()
    }

    pub(super) fn set_unreadable(&mut self, page: u64) {
        self.unreadable.insert(page);
    }

    /// A completed change: visible, not durable.
    pub(super) fn change(&mut self, change: Change) {
        self.apply(&change);
        self.completed += 1;
        self.pending.push((self.completed, change));
    }

    /// A completed write that is durable at once; other unflushed changes stay unflushed.
    pub(super) fn change_durably(&mut self, change: Change) {
        self.apply(&change);
        let pages = change.pages();
        if !self.pending.is_empty() {
            // What the write covers must not come back from an older change.
            self.pending = std::mem::take(&mut self.pending)
                .into_iter()
                .flat_map(|(number, older)| older.outside(&pages).into_iter().map(move |part| (number, part)))
                .collect();
        }
        for page in pages {
            self.shadow.remove(&page);
        }
        match change {
            Change::Write { end, .. } => self.durable_size = self.durable_size.max(end),
            Change::Allocate { offset, len } => {
                self.durable_size = self.durable_size.max(offset + len);
                self.durable_reserved.add(offset, offset + len);
            }
            Change::Punch { offset, len } => self.durable_reserved.remove(offset, offset + len),
        }
    }

    /// The number of the newest completed change: what a flush that starts now covers.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// Makes all changes up to number `upto` durable.
    pub(super) fn flush(&mut self, upto: u64) {
        if self.pending.last().is_none_or(|(number, _)| *number <= upto) {
            self.pending.clear();
            self.settle_all();
            return;
        }
        let newer = self.pending.split_off(self.pending.partition_point(|(number, _)| *number <= upto));
        let flushed = std::mem::replace(&mut self.pending, newer);
        for (_, change) in flushed {
            match change {
                Change::Write { offset, data, end } => {
                    self.durable_size = self.durable_size.max(end);
                    for (page, content) in (offset / PAGE_BYTES..).zip(data.chunks(PAGE_BYTES as usize)) {
                        if let Some(durable) = self.shadow.get_mut(&page) {
                            *durable = Some(content.into());
                        }
                    }
                }
                Change::Allocate { offset, len } => {
                    self.durable_size = self.durable_size.max(offset + len);
                    self.durable_reserved.add(offset, offset + len);
                }
                Change::Punch { offset, len } => {
                    self.durable_reserved.remove(offset, offset + len);
                    for (_, durable) in
                        self.shadow.range_mut(offset / PAGE_BYTES..(offset + len) / PAGE_BYTES)
                    {
                        *durable = None;
                    }
                }
            }
        }
        let mut dirty = Ranges::default();
        for (_, change) in &self.pending {
            let pages = change.pages();
            dirty.add(pages.start, pages.end);
        }
        self.shadow.retain(|page, _| dirty.contains(*page));
    }

    /// Decides what becomes of the changes up to number `upto` and of those `in_flight`, when the cache that
    /// held them is gone. The survivors are durable; newer changes stay as they are.
    pub(super) fn lose_cache(
        &mut self,
        upto: u64,
        mut in_flight: Vec<Change>,
        survival: Survival,
        rng: &mut SimRng,
    ) {
        if self.pending.is_empty() && in_flight.is_empty() {
            return;
        }
        let newer = self.pending.split_off(self.pending.partition_point(|(number, _)| *number <= upto));
        let at_risk = std::mem::take(&mut self.pending);
        self.revert();
        for (_, change) in at_risk {
            match survival {
                Survival::All => self.apply(&change),
                Survival::Nothing => {}
                Survival::Mixed => self.apply_some(&change, rng),
            }
        }
        // The disk may do what is in flight in any order.
        rng.shuffle(&mut in_flight);
        for change in in_flight {
            self.apply_some(&change, rng);
        }
        self.settle_all();
        for (number, change) in newer {
            self.apply(&change);
            self.pending.push((number, change));
        }
    }

    /// Flips the bits of `mask` in one byte, on the disk itself: both as it is read and as a crash leaves it.
    /// False where nothing is stored there.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) -> bool {
        let (page, at) = (offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize);
        let stored = [self.pages.get_mut(&page), self.shadow.get_mut(&page).and_then(Option::as_mut)];
        let mut flipped = false;
        for content in stored.into_iter().flatten() {
            content[at] ^= mask;
            flipped = true;
        }
        flipped
    }

    /// The numbers of the pages that hold data.
    pub(super) fn stored_pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().copied()
    }

    /// Pages that hold data.
    pub(super) fn stored_page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data, end } => {
                for (page, content) in (offset / PAGE_BYTES..).zip(data.chunks(PAGE_BYTES as usize)) {
                    self.put(page, Some(content.into()));
                }
                self.size = self.size.max(*end);
            }
            Change::Allocate { offset, len } => {
                let range = offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES);
                let loose = |(page, _): &(&u64, &Page)| !self.reserved.contains(**page * PAGE_BYTES);
                self.loose_pages -= self.pages.range(range).filter(loose).count() as u64;
                self.reserved.add(*offset, offset + len);
                self.size = self.size.max(offset + len);
            }
            Change::Punch { offset, len } => {
                let present: Vec<u64> = self.pages.range(change.pages()).map(|(page, _)| *page).collect();
                for page in present {
                    self.put(page, None);
                }
                self.reserved.remove(*offset, offset + len);
            }
        }
    }

    /// A crash's share of `change`.
    fn apply_some(&mut self, change: &Change, rng: &mut SimRng) {
        match (change, rng.below(3)) {
            (_, 0) => {}
            (Change::Write { offset, data, end }, 1) => self.apply_torn(*offset, data, *end, rng),
            _ => self.apply(change),
        }
    }

    /// Writes some sectors of `data`: a prefix, a suffix, or any.
    fn apply_torn(&mut self, offset: u64, data: &AlignedBytes, end: u64, rng: &mut SimRng) {
        let sectors = data.len().div_ceil(SECTOR_BYTES) as u64;
        let cut = rng.below(sectors + 1);
        let way = rng.below(3);
        let kept = |sector: u64, rng: &mut SimRng| match way {
            0 => sector < cut,
            1 => sector >= cut,
            _ => rng.one_in(2),
        };
        let mut sector = 0;
        for (page, content) in (offset / PAGE_BYTES..).zip(data.chunks(PAGE_BYTES as usize)) {
            let mut torn = AlignedBuf::zeroed(PAGE_BYTES as usize);
            if let Some(old) = self.pages.get(&page) {
                torn.copy_from_slice(old);
            }
            let mut touched = false;
            for (at, new) in (0..).step_by(SECTOR_BYTES).zip(content.chunks(SECTOR_BYTES)) {
                if kept(sector, rng) {
                    touched = true;
                    torn[at..at + new.len()].copy_from_slice(new);
                    let sector_end = page * PAGE_BYTES + (at + new.len()) as u64;
                    self.size = self.size.max(sector_end.min(end));
                }
                sector += 1;
            }
            if touched {
                self.put(page, Some((&*torn).into()));
            }
        }
    }

    fn put(&mut self, page: u64, content: Option<Page>) {
        let loose = !self.reserved.contains(page * PAGE_BYTES);
        let old = match content {
            Some(content) => {
                self.unreadable.remove(&page);
                let old = self.pages.insert(page, content);
                self.loose_pages += u64::from(loose && old.is_none());
                old
            }
            None => {
                let old = self.pages.remove(&page);
                self.loose_pages -= u64::from(loose && old.is_some());
                old
            }
        };
        self.shadow.entry(page).or_insert(old);
    }

    /// What is visible becomes what is durable.
    fn settle_all(&mut self) {
        self.shadow.clear();
        self.durable_size = self.size;
        self.durable_reserved = self.reserved.clone();
    }

    /// What is durable becomes what is visible.
    fn revert(&mut self) {
        for (page, content) in std::mem::take(&mut self.shadow) {
            match content {
                Some(content) => self.pages.insert(page, content),
                None => self.pages.remove(&page),
            };
        }
        self.size = self.durable_size;
        self.reserved = self.durable_reserved.clone();
        self.count_loose_pages();
    }

    fn count_loose_pages(&mut self) {
        self.loose_pages =
            self.pages.keys().filter(|page| !self.reserved.contains(**page * PAGE_BYTES)).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(page: u64, value: u8, pages: u64) -> Change {
        let mut data = AlignedBuf::with_len((pages * PAGE_BYTES) as usize);
        data.fill(value);
        Change::Write { offset: page * PAGE_BYTES, data: data.freeze(), end: (page + pages) * PAGE_BYTES }
    }

    fn byte(inode: &Inode, page: u64) -> u8 {
        let mut buffer = [0];
        inode.read(page * PAGE_BYTES, &mut buffer);
        buffer[0]
    }

    #[test]
    fn a_flushed_write_stays_over_an_older_unflushed_one() {
        for seed in 0..100 {
            let mut inode = Inode::default();
            inode.change(write(0, 1, 4));
            inode.change_durably(write(1, 2, 1));
            inode.lose_cache(
                u64::MAX,
                Vec::new(),
                Survival::draw(&mut SimRng::new(seed)),
                &mut SimRng::new(seed),
            );
            assert_eq!(byte(&inode, 1), 2);
            assert!(inode.size() >= 2 * PAGE_BYTES);
        }
    }

    #[test]
    fn a_flush_covers_only_what_was_complete_when_it_began() {
        let mut inode = Inode::default();
        inode.change(write(0, 1, 2));
        let upto = inode.completed();
        inode.change(write(1, 2, 2));
        inode.flush(upto);
        assert_eq!(byte(&inode, 1), 2);
        inode.lose_cache(u64::MAX, Vec::new(), Survival::Nothing, &mut SimRng::new(0));
        assert_eq!((byte(&inode, 0), byte(&inode, 1), inode.size()), (1, 1, 2 * PAGE_BYTES));
    }

    #[test]
    fn a_failed_flush_loses_what_it_covered_and_keeps_what_came_later() {
        let mut inode = Inode::default();
        inode.change_durably(write(0, 9, 1));
        inode.change(write(0, 1, 1));
        let upto = inode.completed();
        inode.change(write(1, 2, 1));
        inode.lose_cache(upto, Vec::new(), Survival::Nothing, &mut SimRng::new(0));
        assert_eq!((byte(&inode, 0), byte(&inode, 1)), (9, 2));
        inode.flush(u64::MAX);
        inode.lose_cache(u64::MAX, Vec::new(), Survival::Nothing, &mut SimRng::new(0));
        assert_eq!((byte(&inode, 0), byte(&inode, 1)), (9, 2));
    }

    #[test]
    fn punched_pages_read_as_zeroes_and_come_back_where_the_punch_was_lost() {
        let mut inode = Inode::default();
        inode.change(Change::Allocate { offset: 0, len: 8 * PAGE_BYTES });
        inode.change(write(0, 1, 4));
        inode.flush(u64::MAX);
        assert_eq!(inode.used_bytes(), 8 * PAGE_BYTES);
        inode.change(Change::Punch { offset: PAGE_BYTES, len: 2 * PAGE_BYTES });
        assert_eq!((byte(&inode, 0), byte(&inode, 1), byte(&inode, 3)), (1, 0, 1));
        assert_eq!(inode.used_bytes(), 6 * PAGE_BYTES);
        inode.lose_cache(u64::MAX, Vec::new(), Survival::Nothing, &mut SimRng::new(0));
        assert_eq!((byte(&inode, 1), inode.used_bytes()), (1, 8 * PAGE_BYTES));
    }

    #[test]
    fn space_is_counted_once() {
        let mut inode = Inode::default();
        assert_eq!(inode.growth_bytes(&write(0, 1, 4)), 4 * PAGE_BYTES);
        inode.change(write(0, 1, 4));
        assert_eq!(inode.growth_bytes(&write(2, 1, 4)), 2 * PAGE_BYTES);
        let reserve = Change::Allocate { offset: 2 * PAGE_BYTES, len: 8 * PAGE_BYTES };
        inode.change(reserve.clone());
        assert_eq!(inode.growth_bytes(&reserve), 0);
        assert_eq!(inode.used_bytes(), 10 * PAGE_BYTES);
    }

    #[test]
    fn a_flush_amid_random_changes_is_what_a_crash_leaves() {
        for seed in 0..300 {
            let mut rng = SimRng::new(seed);
            let mut inode = Inode::default();
            // The model: one value per page, durable and visible.
            let mut visible = [0u8; 16];
            let mut durable = [0u8; 16];
            let mut log: Vec<(usize, usize, u8)> = Vec::new();
            for step in 1..=40u8 {
                let page = rng.below(14) as usize;
                let pages = 1 + rng.below(2) as usize;
                match rng.below(10) {
                    0 => {
                        inode.flush(inode.completed());
                        durable = visible;
                        log.clear();
                    }
                    1 | 2 => {
                        inode.change_durably(write(page as u64, step, pages as u64));
                        visible[page..page + pages].fill(step);
                        durable[page..page + pages].fill(step);
                    }
                    3 => {
                        inode.change(Change::Punch {
                            offset: page as u64 * PAGE_BYTES,
                            len: pages as u64 * PAGE_BYTES,
                        });
                        visible[page..page + pages].fill(0);
                        log.push((page, pages, 0));
                    }
                    _ => {
                        inode.change(write(page as u64, step, pages as u64));
                        visible[page..page + pages].fill(step);
                        log.push((page, pages, step));
                    }
                }
                for (page, value) in visible.iter().enumerate() {
                    assert_eq!(byte(&inode, page as u64), *value, "seed {seed} step {step} page {page}");
                }
            }
            inode.lose_cache(u64::MAX, Vec::new(), Survival::Nothing, &mut rng);
            for (page, value) in durable.iter().enumerate() {
                assert_eq!(byte(&inode, page as u64), *value, "seed {seed} page {page}");
            }
        }
    }
}
