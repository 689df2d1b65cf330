//! Verified blocks kept in memory by the core that reads them.
//!
//! What must hold: only blocks whose checksum was good, or that were rebuilt from such, are here; a part's id is never
//! used again, so that nothing ever has to be taken back; bytes are bounded. One long scan must not push out what is
//! read often: a block enters a probation queue and is protected only when it is read again.

use crate::message::{Block, ChunkName};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use xxhash_rust::xxh3::Xxh3Default;

type Key = (ChunkName, u32);

/// A bounded, scan-resistant cache (segmented, with lazy second-chance queues).
pub(crate) struct BlockCache {
    bytes_max: usize,
    probation_bytes: usize,
    protected_bytes: usize,
    entries: HashMap<Key, Entry, BuildHasherDefault<Xxh3Default>>,
    probation: VecDeque<Key>,
    protected: VecDeque<Key>,
    /// Looks that found their block.
    pub(crate) hits: u64,
    /// Looks that did not.
    pub(crate) misses: u64,
}

struct Entry {
    block: Block,
    is_protected: bool,
    was_read: bool,
}

impl BlockCache {
    pub(crate) fn new(bytes_max: usize) -> BlockCache {
        BlockCache {
            bytes_max,
            probation_bytes: 0,
            protected_bytes: 0,
            entries: HashMap::default(),
            probation: VecDeque::new(),
            protected: VecDeque::new(),
            hits: 0,
            misses: 0,
        }
    }

    pub(crate) fn get(&mut self, chunk: ChunkName, block: u32) -> Option<Block> {
        match self.entries.get_mut(&(chunk, block)) {
            Some(entry) => {
                entry.was_read = true;
                self.hits += 1;
                Some(entry.block.clone())
            }
            None => {
                self.misses += 1;
                None
            }
        }
    }

    pub(crate) fn insert(&mut self, chunk: ChunkName, number: u32, block: Block) {
        let key = (chunk, number);
        let bytes = cost(&block);
        if bytes > self.bytes_max / 8 || self.entries.contains_key(&key) {
            return;
        }
        self.entries.insert(key, Entry { block, is_protected: false, was_read: false });
        self.probation.push_back(key);
        self.probation_bytes += bytes;
        self.evict();
    }

    /// A tenth of the bytes is for newcomers; what was read again there moves over instead of leaving.
    fn evict(&mut self) {
        while self.probation_bytes + self.protected_bytes > self.bytes_max {
            let from_probation = self.probation_bytes > self.bytes_max / 10 || self.protected.is_empty();
            let queue = if from_probation { &mut self.probation } else { &mut self.protected };
            let Some(key) = queue.pop_front() else { return };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let bytes = cost(&entry.block);
            if entry.was_read {
                entry.was_read = false;
                if !entry.is_protected {
                    entry.is_protected = true;
                    self.probation_bytes -= bytes;
                    self.protected_bytes += bytes;
                }
                self.protected.push_back(key);
                continue;
            }
            match entry.is_protected {
                true => self.protected_bytes -= bytes,
                false => self.probation_bytes -= bytes,
            }
            self.entries.remove(&key);
        }
    }
}

/// A block keeps its whole buffer alive.
fn cost(block: &Block) -> usize {
    block.data.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use buckets_env::AlignedBuf;
    use buckets_ring::id::ObjectId;

    fn chunk(n: u8) -> ChunkName {
        ChunkName { object: ObjectId::from_bytes([n; 16]), number: 0 }
    }

    fn block() -> Block {
        Block { data: AlignedBuf::zeroed(4096).freeze(), len: 4096 }
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_read_often() {
        let mut cache = BlockCache::new(64 * 5000);
        for number in 0..20 {
            cache.insert(chunk(1), number, block());
        }
        for number in 0..1000 {
            for hot in 0..20 {
                cache.get(chunk(1), hot);
            }
            cache.insert(chunk(2), number, block());
        }
        assert!((0..20).all(|number| cache.get(chunk(1), number).is_some()));
        assert!(cache.probation_bytes + cache.protected_bytes <= cache.bytes_max);
        let held: usize = cache.entries.values().map(|e| cost(&e.block)).sum();
        assert_eq!(held, cache.probation_bytes + cache.protected_bytes);
    }
}
