//! Walks runs (tables that do not overlap) in key order, and merges several of them with memtables.
//!
//! What must hold:
//! - Of rows with equal keys the merge shows the one of the newest source, tombstones included.
//! - Every `async` step may be dropped half-way and called again: a cursor changes only after its read has ended.
//! - Keys come in strictly ascending order; a table where they do not is damaged.

use crate::block::{Block, BlockIter, BlockKind, Malformed, Place, claimed_pages};
use crate::error::IndexError;
use crate::limits::{BLOCK_PAGES_MAX, PAGE_BYTES, STREAM_BYTES};
use crate::memtable::MemtableCursor;
use crate::table::Table;
use bytes::Bytes;
use futures::future::join_all;
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not positioned yet.
    Nowhere,
    /// At a row of the current data block.
    AtRow,
    /// The current data block has ended; the next one is not read yet.
    NeedsBlock,
    /// Behind the last row.
    Done,
}

/// Where the next data block comes from.
enum Blocks {
    /// Through the index blocks and the cache, reading ahead where one block after the other is missing there.
    Cached { partition: usize, index: Option<BlockIter>, pending: Option<Place>, ahead: Ahead },
    /// In large sequential reads past the cache.
    Streaming { next_page: u32, chunk: Bytes, chunk_page: u32 },
}

/// Pages read before they were asked for.
#[derive(Default)]
struct Ahead {
    chunk: Bytes,
    chunk_page: u32,
    /// Blocks in a row that were not in the cache.
    misses: u32,
}

/// So many blocks in a row are read one by one: many scans end within them.
const SINGLE_READS: u32 = 2;
/// A scan longer than this many blocks reads in bulk: its blocks would only push others out of the cache.
const CACHED_MISSES_MAX: u32 = 128;

impl Blocks {
    fn start(streaming: bool) -> Blocks {
        if streaming {
            Blocks::Streaming { next_page: 0, chunk: Bytes::new(), chunk_page: 0 }
        } else {
            Blocks::Cached { partition: 0, index: None, pending: None, ahead: Ahead::default() }
        }
    }

    fn misses(&self) -> u32 {
        match self {
            Blocks::Cached { ahead, .. } => ahead.misses,
            Blocks::Streaming { .. } => 0,
        }
    }
}

/// Walks tables that follow each other without overlap.
pub(crate) struct RunCursor {
    tables: Rc<[Rc<Table>]>,
    table: usize,
    state: State,
    blocks: Blocks,
    data: Option<BlockIter>,
}

impl RunCursor {
    /// For readers that look at a part: blocks come from the cache.
    pub(crate) fn cached(tables: Rc<[Rc<Table>]>) -> RunCursor {
        RunCursor { tables, table: 0, state: State::Nowhere, blocks: Blocks::start(false), data: None }
    }

    /// For readers that walk everything from the first row.
    pub(crate) fn streaming(tables: Rc<[Rc<Table>]>) -> RunCursor {
        RunCursor { tables, table: 0, state: State::Nowhere, blocks: Blocks::start(true), data: None }
    }

    /// The current key; `None` at the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match (&self.data, self.state) {
            (Some(data), State::AtRow) => Some(data.key()),
            _ => None,
        }
    }

    /// The current value; `None` is a tombstone.
    #[inline]
    pub(crate) fn value(&self) -> Option<Bytes> {
        self.data.as_ref().and_then(BlockIter::value_bytes)
    }

    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.state != State::NeedsBlock
    }

    /// Moves to the next row or the end. False where [`RunCursor::load`] must come first.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<bool, IndexError> {
        if self.state != State::AtRow {
            return Ok(self.is_ready());
        }
        let Some(data) = &mut self.data else { return Ok(true) };
        match data.advance() {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.state = State::NeedsBlock;
                Ok(false)
            }
            Err(malformed) => Err(self.malformed(malformed)),
        }
    }

    /// Reads the next data block and moves to its first row, or to the end.
    pub(crate) async fn load(&mut self) -> Result<(), IndexError> {
        while self.state == State::NeedsBlock {
            let Some(table) = self.tables.get(self.table).cloned() else {
                self.state = State::Done;
                self.data = None;
                return Ok(());
            };
            let block = match &mut self.blocks {
                Blocks::Cached { partition, index, pending, ahead } => {
                    next_cached(&table, partition, index, pending, ahead).await?
                }
                Blocks::Streaming { next_page, chunk, chunk_page } => {
                    next_streamed(&table, next_page, chunk, chunk_page).await?
                }
            };
            match block {
                Some(block) => {
                    self.set_block(block);
                    if !self.data_step(BlockIter::advance)? {
                        return Err(self.malformed(Malformed));
                    }
                    self.state = State::AtRow;
                }
                None => {
                    self.table += 1;
                    let misses = self.blocks.misses();
                    self.blocks = Blocks::start(matches!(self.blocks, Blocks::Streaming { .. }));
                    if let Blocks::Cached { ahead, .. } = &mut self.blocks {
                        ahead.misses = misses;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves forward to the first row at or after `target`. A streaming cursor knows only the way to the first row.
    pub(crate) async fn seek(&mut self, target: &[u8]) -> Result<(), IndexError> {
        match self.state {
            State::Done => return Ok(()),
            State::AtRow => {
                if self.key().is_some_and(|key| key >= target) || self.data_step(|data| data.seek(target))? {
                    return Ok(());
                }
            }
            State::Nowhere | State::NeedsBlock => {}
        }
        self.state = State::Nowhere;
        if let Blocks::Streaming { .. } = self.blocks {
            assert!(target.is_empty() && self.table == 0, "streams start at the first row");
            self.blocks = Blocks::start(true);
            self.state = State::NeedsBlock;
            return self.load().await;
        }
        self.table = self.tables.partition_point(|table| table.last_key() < target);
        self.blocks = Blocks::start(false);
        let Some(table) = self.tables.get(self.table).cloned() else {
            self.state = State::Done;
            return Ok(());
        };
        let partition = table.partition_at(target);
        if let Some(place) = table.partitions().get(partition).map(|partition| partition.index) {
            let index = table.block(place, BlockKind::Index).await?;
            let mut index = BlockIter::new(index);
            let found = index.seek(target).map_err(|malformed| table.malformed(place, malformed))?;
            let pending = if found { Some(table.data_place(index.value(), place)?) } else { None };
            if let Some(data) = pending {
                let block = table.block(data, BlockKind::Data).await?;
                self.blocks =
                    Blocks::Cached { partition, index: Some(index), pending: None, ahead: Ahead::default() };
                self.set_block(block);
                if self.data_step(|data| data.seek(target))? {
                    self.state = State::AtRow;
                    return Ok(());
                }
            }
        }
        // All rows of that block are before the target: the next block starts behind it.
        self.state = State::NeedsBlock;
        self.load().await
    }

    fn set_block(&mut self, block: Rc<Block>) {
        match &mut self.data {
            Some(data) => data.restart(block),
            None => self.data = Some(BlockIter::new(block)),
        }
    }

    fn data_step(
        &mut self,
        step: impl FnOnce(&mut BlockIter) -> Result<bool, Malformed>,
    ) -> Result<bool, IndexError> {
        let stepped = self.data.as_mut().map_or(Ok(false), step);
        stepped.map_err(|malformed| self.malformed(malformed))
    }

    fn malformed(&self, malformed: Malformed) -> IndexError {
        match self.tables.get(self.table) {
            Some(table) => table.malformed(Place { page: 0, pages: 1 }, malformed),
            None => unreachable!("blocks come from tables"),
        }
    }
}

/// The next data block of `table` by its index blocks; `None` behind the last.
async fn next_cached(
    table: &Rc<Table>,
    partition: &mut usize,
    index: &mut Option<BlockIter>,
    pending: &mut Option<Place>,
    ahead: &mut Ahead,
) -> Result<Option<Rc<Block>>, IndexError> {
    loop {
        if let Some(place) = *pending {
            let block = match table.cached(place) {
                Some(block) => {
                    ahead.misses = 0;
                    block
                }
                None => read_ahead(table, place, ahead).await?,
            };
            *pending = None;
            return Ok(Some(block));
        }
        let Some(place) = table.partitions().get(*partition).map(|partition| partition.index) else {
            return Ok(None);
        };
        match index {
            None => *index = Some(BlockIter::new(table.block(place, BlockKind::Index).await?)),
            Some(blocks) => {
                if blocks.advance().map_err(|malformed| table.malformed(place, malformed))? {
                    *pending = Some(table.data_place(blocks.value(), place)?);
                } else {
                    *index = None;
                    *partition += 1;
                }
            }
        }
    }
}

/// A data block that is not in the cache.
async fn read_ahead(table: &Rc<Table>, place: Place, ahead: &mut Ahead) -> Result<Rc<Block>, IndexError> {
    const STREAM_PAGES: u32 = (STREAM_BYTES / PAGE_BYTES) as u32;
    if ahead.misses < SINGLE_READS {
        let block = table.block(place, BlockKind::Data).await?;
        ahead.misses += 1;
        return Ok(block);
    }
    let held = |ahead: &Ahead| {
        let at = place.page.checked_sub(ahead.chunk_page)? as usize * PAGE_BYTES;
        (at + place.bytes() <= ahead.chunk.len()).then(|| ahead.chunk.slice(at..at + place.bytes()))
    };
    let bytes = match held(ahead) {
        Some(bytes) => bytes,
        None => {
            // The longer the scan has gone on, the more of what follows will be asked for.
            let wanted = (place.pages * ahead.misses).min(STREAM_PAGES).max(place.pages);
            let pages = wanted.min(table.data_pages() - place.page);
            ahead.chunk = table.read_pages(Place { page: place.page, pages }).await?;
            ahead.chunk_page = place.page;
            ahead.chunk.slice(..place.bytes())
        }
    };
    if ahead.misses < CACHED_MISSES_MAX {
        ahead.misses += 1;
        table.insert_data(place, &bytes)
    } else {
        Ok(Rc::new(table.verify_data(bytes, place.page)?))
    }
}

/// The next data block of `table` in file order; `None` behind the last.
async fn next_streamed(
    table: &Rc<Table>,
    next_page: &mut u32,
    chunk: &mut Bytes,
    chunk_page: &mut u32,
) -> Result<Option<Rc<Block>>, IndexError> {
    const STREAM_PAGES: u32 = (STREAM_BYTES / PAGE_BYTES) as u32;
    let rest_pages = table.data_pages() - *next_page;
    if rest_pages == 0 {
        return Ok(None);
    }
    let mut wanted = 1;
    loop {
        let at = (*next_page - *chunk_page) as usize * PAGE_BYTES;
        let held = chunk.get(at..).unwrap_or_default();
        if held.len() >= PAGE_BYTES {
            wanted = claimed_pages(held).unwrap_or(0);
            if wanted == 0 || wanted > rest_pages || wanted as usize > BLOCK_PAGES_MAX {
                let place = Place { page: *next_page, pages: 1 };
                return Err(table.damage(place, "the block's size is impossible"));
            }
        }
        let bytes = wanted as usize * PAGE_BYTES;
        if held.len() >= bytes {
            let block = table.verify_data(chunk.slice(at..at + bytes), *next_page)?;
            *next_page += wanted;
            return Ok(Some(Rc::new(block)));
        }
        let place = Place { page: *next_page, pages: wanted.max(STREAM_PAGES.min(rest_pages)) };
        *chunk = table.read_pages(place).await?;
        *chunk_page = place.page;
    }
}

/// One input of a merge.
pub(crate) enum Source {
    Memtable(MemtableCursor),
    Run(Box<RunCursor>),
}

impl Source {
    #[inline]
    fn key(&self) -> Option<&[u8]> {
        match self {
            Source::Memtable(cursor) => cursor.row().map(|(key, _)| key.as_ref()),
            Source::Run(cursor) => cursor.key(),
        }
    }

    fn value(&self) -> Option<Bytes> {
        match self {
            Source::Memtable(cursor) => cursor.row().and_then(|(_, value)| value.clone()),
            Source::Run(cursor) => cursor.value(),
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<bool, IndexError> {
        match self {
            Source::Memtable(cursor) => {
                cursor.advance();
                Ok(true)
            }
            Source::Run(cursor) => cursor.advance(),
        }
    }

    async fn load(&mut self) -> Result<(), IndexError> {
        match self {
            Source::Memtable(_) => Ok(()),
            Source::Run(cursor) => cursor.load().await,
        }
    }

    async fn seek(&mut self, target: &[u8]) -> Result<(), IndexError> {
        match self {
            Source::Memtable(cursor) => {
                cursor.seek(target);
                Ok(())
            }
            Source::Run(cursor) => cursor.seek(target).await,
        }
    }
}

enum Phase {
    /// The next step goes to the first row at or after this key.
    Seeking(Vec<u8>),
    /// At a row, or at the end.
    AtRow,
    /// Sources are still being moved past the row that was left.
    Passing,
}

/// Merges sources by key.
pub(crate) struct Merge {
    /// Newest first.
    sources: Vec<Source>,
    /// Numbers of the sources that are at a row, the smallest key (then the newest source) at the top.
    heap: Vec<usize>,
    /// The top source has moved: its place in the heap is not right yet.
    unsettled: bool,
    phase: Phase,
    passed: Vec<u8>,
}

impl Merge {
    /// Before the first row at or after `start`. `sources` come newest first.
    pub(crate) fn new(sources: Vec<Source>, start: Vec<u8>) -> Merge {
        Merge {
            sources,
            heap: Vec::new(),
            unsettled: false,
            phase: Phase::Seeking(start),
            passed: Vec::new(),
        }
    }

    /// The current key and value (`None` is a tombstone); `None` at the end.
    #[inline]
    pub(crate) fn row(&self) -> Option<(&[u8], Option<Bytes>)> {
        let source = &self.sources[*self.heap.first()?];
        Some((source.key()?, source.value()))
    }

    /// The current key; `None` at the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.sources[*self.heap.first()?].key()
    }

    /// Makes the next [`Merge::advance`] go to the first row at or after `target` that was not passed yet.
    pub(crate) fn seek(&mut self, target: &[u8]) {
        let forward = match &self.phase {
            Phase::Seeking(earlier) => earlier.as_slice() < target,
            Phase::AtRow => self.key().is_some_and(|key| key < target),
            Phase::Passing => self.passed.as_slice() < target,
        };
        if forward {
            self.phase = Phase::Seeking(target.to_vec());
        }
    }

    /// Goes behind the last row for good.
    pub(crate) fn end(&mut self) {
        self.sources.clear();
        self.heap.clear();
        self.phase = Phase::AtRow;
    }

    /// Moves to the next key; false at the end.
    pub(crate) async fn advance(&mut self) -> Result<bool, IndexError> {
        match &self.phase {
            Phase::Seeking(_) => {
                self.position().await?;
                return Ok(!self.heap.is_empty());
            }
            Phase::AtRow => {
                let Some(&top) = self.heap.first() else { return Ok(false) };
                self.passed.clear();
                self.passed.extend_from_slice(self.sources[top].key().unwrap_or_default());
                self.phase = Phase::Passing;
                self.sources[top].advance()?;
                self.unsettled = true;
            }
            Phase::Passing => {}
        }
        loop {
            let Some(&top) = self.heap.first() else {
                self.phase = Phase::AtRow;
                return Ok(false);
            };
            let source = &mut self.sources[top];
            if self.unsettled {
                if let Source::Run(run) = source
                    && !run.is_ready()
                {
                    source.load().await?;
                }
                if source.key().is_none() {
                    self.heap.swap_remove(0);
                }
                self.sift_down(0);
                self.unsettled = false;
            } else if source.key() == Some(&self.passed) {
                source.advance()?;
                self.unsettled = true;
            } else {
                self.phase = Phase::AtRow;
                return Ok(true);
            }
        }
    }

    async fn position(&mut self) -> Result<(), IndexError> {
        let Phase::Seeking(target) = &self.phase else { return Ok(()) };
        let seeks = self.sources.iter_mut().map(|source| source.seek(target));
        join_all(seeks).await.into_iter().collect::<Result<(), IndexError>>()?;
        self.heap = (0..self.sources.len()).filter(|&source| self.sources[source].key().is_some()).collect();
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
        self.unsettled = false;
        self.phase = Phase::AtRow;
        Ok(())
    }

    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        match self.sources[a].key().cmp(&self.sources[b].key()) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => a < b,
            std::cmp::Ordering::Greater => false,
        }
    }

    fn sift_down(&mut self, at: usize) {
        let mut at = at;
        loop {
            let mut child = at * 2 + 1;
            if child >= self.heap.len() {
                return;
            }
            if child + 1 < self.heap.len() && self.before(self.heap[child + 1], self.heap[child]) {
                child += 1;
            }
            if !self.before(self.heap[child], self.heap[at]) {
                return;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }
}
