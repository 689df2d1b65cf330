//! Where objects are: the manifests that were asked for lately, decoded, on the core whose replica they were read from.
//!
//! What must hold:
//! - What is here is what the replica's rows say now, so that looking here is reading them: it takes the same read barrier
//!   before. Each batch that the replica applies takes what it changes out of here before anybody can read the change; rows that
//!   are replaced as a whole (a snapshot, a disk that is opened again) have another [`RowsId`], of which nothing is known here.
//! - What was read while a batch was applied is not taken in: nobody knows on which side of it it was read.
//! - That a key is not there is not remembered.
//! - Bounded three ways: bytes, entries, and the age of each entry.
//!
//! What was asked for again since the hand came by last is passed over once when room is needed: nearly the order of last
//! use, and a hit writes one flag.

use crate::manifest::{Body, Manifest, Part};
use buckets_env::Instant;
use buckets_index::WriteBatch;
use buckets_meta::{RowsId, View};
use buckets_ring::KeyHash;
use buckets_ring::id::BucketId;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Entries of one core.
const ENTRIES_MAX: usize = 1_000_000;
/// An entry is read again from the rows after so long: an upper bound for what nobody has thought of.
const AGE_MAX: Duration = Duration::from_secs(300);
/// An entry larger than this share of all bytes is not worth its place: a manifest of ten thousand parts.
const ENTRY_SHARE_MAX: usize = 64;
/// What an allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// The locations that one core remembers. Clones share them.
#[derive(Clone)]
pub(crate) struct Locations {
    cache: Rc<RefCell<Cache>>,
}

impl Locations {
    pub(crate) fn new(bytes_max: usize) -> Locations {
        Locations { cache: Rc::new(RefCell::new(Cache::new(bytes_max, ENTRIES_MAX))) }
    }

    /// What the rows of `view` say of a key, where that is remembered.
    pub(crate) fn get(
        &self,
        view: &View,
        bucket: BucketId,
        key: &str,
        now: Instant,
    ) -> Option<Arc<Manifest>> {
        self.of_rows(view.rows_id()?, bucket, key, now)
    }

    #[inline]
    pub(crate) fn of_rows(
        &self,
        rows: RowsId,
        bucket: BucketId,
        key: &str,
        now: Instant,
    ) -> Option<Arc<Manifest>> {
        self.cache.borrow_mut().get(rows, bucket, key.as_bytes(), now)
    }

    /// Remembers what was read from `view` at the object's `row`, nothing having been applied since before.
    pub(crate) fn insert(&self, view: &View, row: Bytes, manifest: Arc<Manifest>, now: Instant) {
        if let Some(rows) = view.rows_id() {
            self.insert_of_rows(rows, row, manifest, now);
        }
    }

    pub(crate) fn insert_of_rows(&self, rows: RowsId, row: Bytes, manifest: Arc<Manifest>, now: Instant) {
        self.cache.borrow_mut().insert(rows, row, manifest, now);
    }

    /// A replica is about to apply `batch` to these rows.
    pub(crate) fn apply(&self, rows: RowsId, batch: &WriteBatch) {
        let mut cache = self.cache.borrow_mut();
        batch.iter().for_each(|(row, _)| cache.forget(rows, row));
    }
}

/// An object's row: its kind, the bucket, the key (see [`crate::rows`]).
fn parse_row(row: &[u8]) -> Option<(BucketId, &[u8])> {
    let (kind, rest) = row.split_first()?;
    let (bucket, key) = rest.split_at_checked(16)?;
    (*kind == b'o').then_some((BucketId::from_bytes(bucket.try_into().ok()?), key))
}

struct Entry {
    hash: u64,
    rows: RowsId,
    row: Bytes,
    manifest: Arc<Manifest>,
    since: Instant,
    bytes: usize,
    was_asked: bool,
}

struct Cache {
    bytes_max: usize,
    entries_max: usize,
    bytes: usize,
    /// By hash; of two keys with the same hash the later one is here.
    places: HashMap<u64, u32, BuildHasherDefault<IsHash>>,
    /// The hand goes round through them.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    hand: usize,
}

impl Cache {
    fn new(bytes_max: usize, entries_max: usize) -> Cache {
        Cache {
            bytes_max,
            entries_max,
            bytes: 0,
            places: HashMap::default(),
            entries: Vec::new(),
            free: Vec::new(),
            hand: 0,
        }
    }

    fn get(&mut self, rows: RowsId, bucket: BucketId, key: &[u8], now: Instant) -> Option<Arc<Manifest>> {
        let place = *self.places.get(&hash(rows, bucket, key))?;
        let entry = self.entries[place as usize].as_mut()?;
        if entry.rows != rows || parse_row(&entry.row) != Some((bucket, key)) {
            return None;
        }
        if now.since(entry.since) >= AGE_MAX {
            self.remove(place);
            return None;
        }
        entry.was_asked = true;
        Some(entry.manifest.clone())
    }

    fn insert(&mut self, rows: RowsId, row: Bytes, manifest: Arc<Manifest>, since: Instant) {
        let Some((bucket, key)) = parse_row(&row) else { return };
        let bytes = cost(&row, &manifest);
        if bytes > self.bytes_max / ENTRY_SHARE_MAX {
            return;
        }
        let hash = hash(rows, bucket, key);
        if let Some(place) = self.places.get(&hash) {
            self.remove(*place);
        }
        while self.bytes + bytes > self.bytes_max || self.places.len() >= self.entries_max {
            self.evict();
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // There are never more than `entries_max`.
            (self.entries.len() - 1) as u32
        });
        self.entries[place as usize] =
            Some(Entry { hash, rows, row, manifest, since, bytes, was_asked: false });
        self.places.insert(hash, place);
        self.bytes += bytes;
    }

    /// Another key with the same hash goes as well: it is only read again.
    fn forget(&mut self, rows: RowsId, row: &[u8]) {
        if let Some((bucket, key)) = parse_row(row)
            && let Some(place) = self.places.get(&hash(rows, bucket, key))
        {
            self.remove(*place);
        }
    }

    fn evict(&mut self) {
        assert!(!self.places.is_empty(), "an entry has room where there is no other");
        loop {
            self.hand = (self.hand + 1) % self.entries.len();
            match &mut self.entries[self.hand] {
                Some(entry) if entry.was_asked => entry.was_asked = false,
                Some(_) => return self.remove(self.hand as u32),
                None => {}
            }
        }
    }

    fn remove(&mut self, place: u32) {
        if let Some(entry) = self.entries[place as usize].take() {
            self.places.remove(&entry.hash);
            self.bytes -= entry.bytes;
            self.free.push(place);
        }
    }
}

fn hash(rows: RowsId, bucket: BucketId, key: &[u8]) -> u64 {
    KeyHash::new(bucket, key).0 ^ rows.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What an entry keeps in memory, with its part of the tables, in bytes.
fn cost(row: &Bytes, manifest: &Manifest) -> usize {
    let text = |text: &String| size_of::<String>() + text.len() + ALLOCATION_BYTES;
    let headers: usize = manifest.headers.iter().map(|(name, value)| text(name) + text(value)).sum();
    let parts = match &manifest.body {
        Body::Inline => 0,
        Body::Chunked(parts) => {
            let part = |part: &Part| size_of::<Part>() + part.placement.disks.len() + ALLOCATION_BYTES;
            parts.iter().map(part).sum()
        }
    };
    let tables = size_of::<Option<Entry>>() + 2 * size_of::<(u64, u32)>();
    tables + row.len() + size_of::<Manifest>() + headers + parts + 4 * ALLOCATION_BYTES
}

/// The keys are hashes already.
#[derive(Default)]
struct IsHash(u64);

impl Hasher for IsHash {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed");
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ETag;
    use crate::rows;
    use buckets_ring::id::ObjectId;

    const ROWS: RowsId = RowsId(1);
    const NOW: Instant = Instant(0);
    const BYTES_MAX: usize = 64 << 10;

    fn bucket() -> BucketId {
        BucketId::from_bytes([7; 16])
    }

    fn manifest(version: u8) -> Arc<Manifest> {
        Arc::new(Manifest {
            object: ObjectId::from_bytes([version; 16]),
            size: 5,
            etag: ETag { md5: [version; 16], parts: 0 },
            modified_unix_ms: 1,
            headers: vec![("content-type".into(), "text/plain".into())],
            checksum: None,
            body: Body::Inline,
        })
    }

    fn row(key: &str) -> Bytes {
        rows::object(bucket(), key.as_bytes())
    }

    impl Cache {
        fn put(&mut self, key: &str, version: u8) {
            self.insert(ROWS, row(key), manifest(version), NOW);
        }

        fn version(&mut self, key: &str) -> Option<u8> {
            self.get(ROWS, bucket(), key.as_bytes(), NOW).map(|manifest| manifest.object.as_bytes()[0])
        }

        fn check(&self) {
            let there = self.entries.iter().flatten();
            assert_eq!(there.clone().map(|entry| entry.bytes).sum::<usize>(), self.bytes);
            assert_eq!(there.count(), self.places.len());
            assert_eq!(self.entries.len(), self.places.len() + self.free.len());
            assert!(self.bytes <= self.bytes_max && self.places.len() <= self.entries_max);
        }
    }

    #[test]
    fn what_was_read_is_remembered_until_a_batch_changes_it() {
        let locations = Locations::new(BYTES_MAX);
        let version = |key: &str| locations.cache.borrow_mut().version(key);
        for key in ["a", "b", "c"] {
            locations.cache.borrow_mut().put(key, 1);
        }
        let mut batch = WriteBatch::new();
        batch.put(row("a"), manifest(2).encode());
        batch.delete(row("b"));
        batch.put(rows::inline_body(bucket(), b"c"), Bytes::from_static(b"another row"));
        batch.put(Bytes::from_static(b"o"), Bytes::new());
        locations.apply(RowsId(2), &batch);
        assert_eq!((version("a"), version("b"), version("c")), (Some(1), Some(1), Some(1)));
        locations.apply(ROWS, &batch);
        assert_eq!((version("a"), version("b"), version("c")), (None, None, Some(1)));
        locations.cache.borrow_mut().put("a", 2);
        assert_eq!(version("a"), Some(2));
        locations.cache.borrow().check();
    }

    #[test]
    fn the_rows_of_another_replica_or_bucket_are_not_known() {
        let mut cache = Cache::new(BYTES_MAX, 10);
        cache.put("a", 1);
        assert_eq!(cache.get(RowsId(2), bucket(), b"a", NOW), None);
        assert_eq!(cache.get(ROWS, BucketId::from_bytes([8; 16]), b"a", NOW), None);
        assert_eq!(cache.version("a"), Some(1));
    }

    #[test]
    fn keys_with_the_same_hash_are_told_apart() {
        let mut cache = Cache::new(BYTES_MAX, 10);
        cache.put("a", 1);
        // As if both had it.
        let place = cache.places.remove(&hash(ROWS, bucket(), b"a")).unwrap();
        cache.places.insert(hash(ROWS, bucket(), b"b"), place);
        assert_eq!(cache.version("b"), None);
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        for (bytes_max, entries_max) in [(BYTES_MAX, 10), (8 << 10, 1000)] {
            let mut cache = Cache::new(bytes_max, entries_max);
            for number in 0..500 {
                // Large enough that some do not fit at all.
                cache.put(&format!("{number}{}", "k".repeat(number)), 1);
                if number % 3 == 0 {
                    cache.forget(ROWS, &row(&format!("{}{}", number / 2, "k".repeat(number / 2))));
                }
                cache.check();
            }
        }
        let mut small = Cache::new(1000, 10);
        small.put("a", 1);
        assert_eq!((small.version("a"), small.bytes), (None, 0));
    }

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let mut cache = Cache::new(1 << 20, 100);
        cache.put("hot", 1);
        for number in 0..1000 {
            assert_eq!(cache.version("hot"), Some(1));
            cache.put(&number.to_string(), 1);
        }
        assert_eq!(cache.places.len(), 100);
        assert!((910..1000).all(|number| cache.version(&number.to_string()).is_some()));
    }

    #[test]
    fn nothing_is_remembered_longer_than_its_time() {
        let mut cache = Cache::new(BYTES_MAX, 10);
        cache.put("a", 1);
        let at = |age: Duration| NOW.after(age);
        assert!(cache.get(ROWS, bucket(), b"a", at(AGE_MAX - Duration::from_nanos(1))).is_some());
        assert!(cache.get(ROWS, bucket(), b"a", at(AGE_MAX)).is_none());
        assert_eq!(cache.bytes, 0);
        cache.check();
    }
}
