//! The block cache of one core, shared by all its indexes.
//!
//! What must hold:
//! - Only verified blocks are in it.
//! - The memory of the blocks it holds stays under its limit, whatever is read.
//! - Concurrent readers of one block share one read; a reader that gives up half-way hands the read to another.
//! - A long scan does not push out what is read again and again: new blocks pass a small queue first and reach
//!   the main queue only when they were asked for again (S3-FIFO).

use crate::block::Block;
use crate::error::IndexError;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Share of the small queue: one tenth.
const SMALL_SHARE: usize = 10;
/// Memory of an entry beside its block, in bytes.
const ENTRY_BYTES: usize = 128;
/// A block is cached if at least this many of its size would fit.
const BLOCKS_MIN: usize = 16;
const USES_MAX: u8 = 3;

/// A block in one table: the cache's number of the table, and the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey(u64);

impl CacheKey {
    pub(crate) fn new(table: u32, page: u32) -> CacheKey {
        CacheKey(u64::from(table) << 32 | u64::from(page))
    }
}

/// Multiplies: keys are small numbers without an enemy, and the same on every run.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

type KeyMap<V> = HashMap<CacheKey, V, BuildHasherDefault<KeyHasher>>;
type KeySet = HashSet<CacheKey, BuildHasherDefault<KeyHasher>>;

struct Entry {
    block: Rc<Block>,
    bytes: usize,
    uses: Cell<u8>,
}

#[derive(Default)]
struct Queues {
    entries: KeyMap<Entry>,
    small: VecDeque<CacheKey>,
    main: VecDeque<CacheKey>,
    small_bytes: usize,
    main_bytes: usize,
    /// Keys lately dropped from the small queue, oldest first.
    ghosts: VecDeque<CacheKey>,
    ghost_set: KeySet,
}

/// One read that others may wait for.
#[derive(Default)]
struct Read {
    outcome: RefCell<Option<Result<Rc<Block>, IndexError>>>,
    abandoned: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Read {
    fn wake_all(&self) {
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

struct Inner {
    bytes_max: usize,
    queues: RefCell<Queues>,
    reads: RefCell<KeyMap<Rc<Read>>>,
    next_table: Cell<u32>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

/// A byte-bounded cache of verified blocks; clones share it. One per core.
#[derive(Clone)]
pub struct BlockCache {
    inner: Rc<Inner>,
}

/// What a cache has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Look-ups answered from memory.
    pub hits: u64,
    /// Look-ups that had to read.
    pub misses: u64,
    /// Memory held, in bytes.
    pub bytes: usize,
    /// Blocks held.
    pub blocks: usize,
}

impl BlockCache {
    /// A cache that holds at most `bytes_max` bytes of blocks.
    pub fn new(bytes_max: usize) -> BlockCache {
        BlockCache {
            inner: Rc::new(Inner {
                bytes_max,
                queues: RefCell::default(),
                reads: RefCell::default(),
                next_table: Cell::new(0),
                hits: Cell::new(0),
                misses: Cell::new(0),
            }),
        }
    }

    /// What the cache has done and holds.
    pub fn counters(&self) -> CacheCounters {
        let queues = self.inner.queues.borrow();
        CacheCounters {
            hits: self.inner.hits.get(),
            misses: self.inner.misses.get(),
            bytes: queues.small_bytes + queues.main_bytes,
            blocks: queues.entries.len(),
        }
    }

    /// A number for one opened table, used once.
    pub(crate) fn number_table(&self) -> u32 {
        let number = self.inner.next_table.get();
        self.inner.next_table.set(number.wrapping_add(1));
        number
    }

    /// The block, if it is here.
    #[inline]
    pub(crate) fn lookup(&self, key: CacheKey) -> Option<Rc<Block>> {
        let queues = self.inner.queues.borrow();
        let entry = queues.entries.get(&key)?;
        let uses = entry.uses.get();
        if uses < USES_MAX {
            entry.uses.set(uses + 1);
        }
        self.inner.hits.set(self.inner.hits.get() + 1);
        Some(entry.block.clone())
    }

    /// The block from memory, from a read that is under way, or from `read`.
    pub(crate) async fn get_or_read<F>(
        &self,
        key: CacheKey,
        read: impl FnOnce() -> F,
    ) -> Result<Rc<Block>, IndexError>
    where
        F: Future<Output = Result<Block, IndexError>>,
    {
        let leader = loop {
            if let Some(block) = self.lookup(key) {
                return Ok(block);
            }
            let under_way = self.inner.reads.borrow().get(&key).cloned();
            match under_way {
                None => break Leader::new(self, key),
                Some(read) => {
                    if let Some(outcome) = outcome_of(&read).await {
                        return outcome;
                    }
                }
            }
        };
        self.inner.misses.set(self.inner.misses.get() + 1);
        let outcome = read().await.map(Rc::new);
        if let Ok(block) = &outcome {
            self.insert(key, block.clone());
        }
        leader.finish(outcome.clone());
        outcome
    }

    /// Puts a verified block in, dropping others for it.
    pub(crate) fn insert(&self, key: CacheKey, block: Rc<Block>) {
        let bytes = block.bytes_len().next_power_of_two() + ENTRY_BYTES;
        if bytes > self.inner.bytes_max / BLOCKS_MIN {
            return;
        }
        let queues = &mut *self.inner.queues.borrow_mut();
        if queues.entries.contains_key(&key) {
            return;
        }
        if queues.ghost_set.remove(&key) {
            queues.main.push_back(key);
            queues.main_bytes += bytes;
        } else {
            queues.small.push_back(key);
            queues.small_bytes += bytes;
        }
        queues.entries.insert(key, Entry { block, bytes, uses: Cell::new(0) });
        while queues.small_bytes + queues.main_bytes > self.inner.bytes_max {
            queues.evict_one(self.inner.bytes_max);
        }
    }
}

impl Queues {
    fn evict_one(&mut self, bytes_max: usize) {
        if self.small_bytes > bytes_max / SMALL_SHARE || self.main.is_empty() {
            let Some(key) = self.small.pop_front() else { return };
            let Some(entry) = self.entries.get(&key) else { return };
            self.small_bytes -= entry.bytes;
            if entry.uses.get() > 0 {
                entry.uses.set(0);
                self.main_bytes += entry.bytes;
                self.main.push_back(key);
            } else {
                self.entries.remove(&key);
                self.remember(key);
            }
        } else {
            let Some(key) = self.main.pop_front() else { return };
            let Some(entry) = self.entries.get(&key) else { return };
            let uses = entry.uses.get();
            if uses > 0 {
                entry.uses.set(uses - 1);
                self.main.push_back(key);
            } else {
                self.main_bytes -= entry.bytes;
                self.entries.remove(&key);
            }
        }
    }

    /// As many ghosts as there are entries.
    fn remember(&mut self, key: CacheKey) {
        if self.ghost_set.insert(key) {
            self.ghosts.push_back(key);
        }
        while self.ghosts.len() > self.entries.len().max(BLOCKS_MIN) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }
}

/// The outcome of another's read, or `None` where it was given up.
async fn outcome_of(read: &Rc<Read>) -> Option<Result<Rc<Block>, IndexError>> {
    std::future::poll_fn(|context| {
        if let Some(outcome) = &*read.outcome.borrow() {
            return Poll::Ready(Some(outcome.clone()));
        }
        if read.abandoned.get() {
            return Poll::Ready(None);
        }
        read.waiting.borrow_mut().push(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// The right to read a block; dropped without an outcome, it passes to a waiter.
struct Leader<'a> {
    cache: &'a BlockCache,
    key: CacheKey,
    read: Rc<Read>,
}

impl<'a> Leader<'a> {
    fn new(cache: &'a BlockCache, key: CacheKey) -> Leader<'a> {
        let read = Rc::new(Read::default());
        cache.inner.reads.borrow_mut().insert(key, read.clone());
        Leader { cache, key, read }
    }

    fn finish(self, outcome: Result<Rc<Block>, IndexError>) {
        *self.read.outcome.borrow_mut() = Some(outcome);
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.cache.inner.reads.borrow_mut().remove(&self.key);
        self.read.abandoned.set(true);
        self.read.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockKind, HEADER_BYTES, seal};
    use crate::checksum::FileSeed;
    use buckets_env::sim::Simulation;
    use bytes::Bytes;
    use futures::FutureExt;
    use futures::future::{join, poll_immediate};

    fn block(pages: usize) -> Block {
        let seed = FileSeed::root(&[0; 16]);
        let mut bytes = vec![0; HEADER_BYTES + (pages - 1) * 4096];
        seal(&mut bytes, 0, BlockKind::Data, seed, 0);
        Block::verify(Bytes::from(bytes), BlockKind::Data, seed, 0).unwrap()
    }

    fn read(cache: &BlockCache, page: u32) {
        let read = cache.get_or_read(CacheKey::new(0, page), async || Ok(block(4)));
        assert!(read.now_or_never().unwrap().is_ok());
    }

    #[test]
    fn memory_stays_under_the_limit() {
        let cache = BlockCache::new(1 << 20);
        for page in 0..10_000 {
            read(&cache, page * 7 % 4096);
            read(&cache, page % 32);
            assert!(cache.counters().bytes <= 1 << 20);
        }
        assert!(cache.counters().bytes > (1 << 20) * 9 / 10);
        let queues = cache.inner.queues.borrow();
        assert_eq!(queues.small.len() + queues.main.len(), queues.entries.len());
        assert!(queues.ghosts.len() <= queues.entries.len().max(BLOCKS_MIN));
    }

    #[test]
    fn a_long_scan_leaves_the_hot_blocks() {
        let cache = BlockCache::new(1 << 20);
        for _ in 0..4 {
            for page in 0..32 {
                read(&cache, page);
            }
        }
        for page in 1000..11_000 {
            read(&cache, page);
            read(&cache, page % 32);
        }
        let hot = (0..32).filter(|&page| cache.lookup(CacheKey::new(0, page)).is_some()).count();
        assert!(hot >= 30, "{hot} of 32 hot blocks are left");
    }

    #[test]
    fn concurrent_readers_share_one_read() {
        let cache = BlockCache::new(1 << 20);
        let key = CacheKey::new(1, 1);
        let reads = Cell::new(0);
        let one = || async {
            reads.set(reads.get() + 1);
            futures::pending!();
            Ok(block(1))
        };
        let (a, b) = Simulation::new(0).run_until(async {
            let mut both = Box::pin(join(cache.get_or_read(key, one), cache.get_or_read(key, one)));
            assert!(poll_immediate(&mut both).await.is_none());
            both.await
        });
        assert!(Rc::ptr_eq(&a.unwrap(), &b.unwrap()));
        assert_eq!(reads.get(), 1);
    }

    #[test]
    fn an_abandoned_read_passes_to_a_waiter() {
        let cache = BlockCache::new(1 << 20);
        let key = CacheKey::new(1, 1);
        Simulation::new(0).run_until(async {
            let mut first = Box::pin(cache.get_or_read(key, async || std::future::pending().await));
            let mut second = Box::pin(cache.get_or_read(key, async || Ok(block(1))));
            assert!(poll_immediate(&mut first).await.is_none());
            assert!(poll_immediate(&mut second).await.is_none());
            drop(first);
            assert!(second.await.is_ok());
        });
        assert!(cache.inner.reads.borrow().is_empty());
    }
}
