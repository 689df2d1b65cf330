//! The index itself: open, apply, get, flush.
//!
//! What must hold:
//! - A change is visible to every read that starts after [`Index::apply`] has returned.
//! - [`Index::flushed`] moves only after everything up to it is in tables that are durable, under a root that is
//!   durable. The index keeps no log: its owner replays everything after `flushed()`, in order.
//! - After a failed write or flush the index is poisoned: `flushed()` stays where it is for good, reads go on.
//! - Memory: at most [`IndexOptions::frozen_memtables_max`] + 1 memtables where the owner waits for
//!   [`Index::back_pressure`], one tail for each table, and the shared cache.

use crate::background::Background;
use crate::cache::BlockCache;
use crate::checksum::key_hash;
use crate::error::IndexError;
use crate::levels::{Levels, Shape};
use crate::limits::{COMPACTIONS_AT_ONCE, KEY_BYTES_MAX, OPENS_AT_ONCE, RECLAIM_BYTES_MIN, VALUE_BYTES_MAX};
use crate::memtable::{Memtable, Sequence};
use crate::root::{OpenedRoot, Position, RootFiles, TableEntry, is_root_name};
use crate::signal::Signal;
use crate::slots::{Behind, CompactionSlots};
use crate::table::{Table, verify_all};
use crate::table_name;
use crate::table_writer::TableShape;
use buckets_env::Env;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Limits of one index. The defaults suit a disk's partition; tests shrink them.
#[derive(Clone)]
pub struct IndexOptions {
    /// The core's block cache, shared by all its indexes.
    pub cache: BlockCache,
    /// A memtable over this is frozen and flushed.
    pub memtable_bytes_max: usize,
    /// Frozen memtables that may wait for their flush before [`Index::back_pressure`] waits.
    pub frozen_memtables_max: usize,
    /// Size of data, index and filter blocks; a larger row gets a block of its own.
    pub block_bytes: usize,
    /// Size of the filters: 10 bits let one in a hundred foreign keys through.
    pub filter_bits_per_key: usize,
    /// A table written by a compaction ends at this size.
    pub table_bytes_max: u64,
    /// So many flushed tables are merged into level 1.
    pub level0_tables_trigger: usize,
    /// So many flushed tables make [`Index::back_pressure`] wait for the compaction.
    pub level0_tables_max: usize,
    /// Size of level 1.
    pub level1_bytes: u64,
    /// Size of each level relative to the one above it.
    pub level_ratio: u64,
    /// How many of the disk's indexes compact at once, and how fast; shared by them.
    pub compactions: CompactionSlots,
}

impl IndexOptions {
    /// The defaults with this cache. Make them once for each core, and clone them for its indexes.
    pub fn new(cache: BlockCache) -> IndexOptions {
        IndexOptions {
            cache,
            memtable_bytes_max: 8 << 20,
            frozen_memtables_max: 2,
            block_bytes: 16 << 10,
            filter_bits_per_key: 10,
            table_bytes_max: 32 << 20,
            level0_tables_trigger: 4,
            level0_tables_max: 16,
            level1_bytes: 64 << 20,
            level_ratio: 10,
            compactions: CompactionSlots::new(COMPACTIONS_AT_ONCE),
        }
    }

    pub(crate) fn table_shape(&self) -> TableShape {
        TableShape { block_bytes: self.block_bytes, filter_bits_per_key: self.filter_bits_per_key }
    }

    pub(crate) fn level_shape(&self) -> Shape {
        Shape {
            level0_tables_trigger: self.level0_tables_trigger,
            level0_tables_max: self.level0_tables_max,
            level1_bytes: self.level1_bytes,
            level_ratio: self.level_ratio,
        }
    }
}

/// Changes that become visible together, in order. A value shares its memory with whoever made it.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    changes: Vec<(Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl WriteBatch {
    /// No changes.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Sets `key` to `value`. Panics over [`KEY_BYTES_MAX`] or [`VALUE_BYTES_MAX`].
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        self.bytes += key.len() + value.len();
        self.changes.push((key, Some(value)));
    }

    /// Removes `key`, whether it is there or not. Panics over [`KEY_BYTES_MAX`].
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        let key = key.into();
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        self.bytes += key.len();
        self.changes.push((key, None));
    }

    /// The changes in order: each key with its new value, or `None` where it is removed.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.changes.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What an index holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexCounters {
    /// Damaged blocks and files seen since open.
    pub corruptions: u64,
    /// Tables of the current root.
    pub tables: u64,
    /// Their bytes.
    pub table_bytes: u64,
    /// Their rows, tombstones and hidden rows included.
    pub table_rows: u64,
    /// Memtables flushed since open.
    pub flushes: u64,
    /// Compactions done since open.
    pub compactions: u64,
    /// Bytes written by flushes since open.
    pub flushed_bytes: u64,
    /// Bytes written by compactions since open.
    pub compacted_bytes: u64,
}

/// A frozen memtable and the position that its flush makes durable.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) memtable: Rc<Memtable>,
    pub(crate) position: Position,
}

/// What readers see behind the active memtable.
#[derive(Clone)]
pub(crate) struct View {
    /// Oldest first.
    pub(crate) frozen: VecDeque<Frozen>,
    pub(crate) levels: Levels,
}

pub(crate) struct State {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) identity: [u8; 16],
    pub(crate) options: IndexOptions,
    pub(crate) active: RefCell<Rc<Memtable>>,
    pub(crate) view: RefCell<Rc<View>>,
    pub(crate) sequence: Cell<Sequence>,
    /// Sequence numbers that snapshots hold, and how many each.
    pub(crate) pins: RefCell<BTreeMap<Sequence, usize>>,
    pub(crate) newest_pin: Cell<Option<Sequence>>,
    pub(crate) applied: Cell<Position>,
    pub(crate) flushed: Cell<Position>,
    pub(crate) failure: RefCell<Option<Arc<IndexError>>>,
    /// Why the oldest frozen memtable could not be written yet: the disk is full.
    pub(crate) full: RefCell<Option<IndexError>>,
    /// A table that cannot be read: it keeps compactions from going on.
    pub(crate) stuck: RefCell<Option<IndexError>>,
    pub(crate) counters: Cell<IndexCounters>,
    pub(crate) behind: Behind,
    /// Deleted rows are to give their space back as soon as can be.
    pub(crate) space_is_short: Cell<bool>,
    pub(crate) changed: Signal,
    pub(crate) background: Background,
    created: bool,
}

/// A handle of an open index; clones share it. Belongs to one core.
#[derive(Clone)]
pub struct Index {
    pub(crate) state: Rc<State>,
}

impl Index {
    /// Opens the index in `dir`, or makes a new one where there is none ([`Index::was_created`]). Checks the root and
    /// every table's tail and size, and removes what a crash has left over. `identity` is bound into every checksum.
    ///
    /// Only one handle family of a directory may be open at a time: [`Index::close`] the old one first.
    pub async fn open(
        env: &Env,
        dir: PathBuf,
        identity: [u8; 16],
        options: IndexOptions,
    ) -> Result<Index, IndexError> {
        let directory = |error| IndexError::io(".", "open of the directory", error);
        let names = match env.list_dir(&dir).await {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                env.create_dir_all(&dir).await.map_err(directory)?;
                Vec::new()
            }
            Err(error) => return Err(directory(error)),
        };
        let OpenedRoot { files, root, created, repaired } =
            RootFiles::open(env, &dir, identity, &names).await?;
        let tables = open_tables(env, &dir, &identity, &root.tables, &options.cache).await?;
        let levels = Levels::new(tables)?;
        let next_table = remove_leftovers(env, &dir, &names, &root.tables).await?.max(root.next_table);
        let counters = IndexCounters { corruptions: repaired, ..IndexCounters::default() };
        let state = State {
            env: env.clone(),
            dir,
            identity,
            background: Background::new(files, root.generation, next_table),
            active: RefCell::default(),
            view: RefCell::new(Rc::new(View { frozen: VecDeque::new(), levels })),
            sequence: Cell::new(0),
            pins: RefCell::default(),
            newest_pin: Cell::new(None),
            applied: Cell::new(root.position),
            flushed: Cell::new(root.position),
            failure: RefCell::new(None),
            full: RefCell::new(None),
            stuck: RefCell::new(None),
            counters: Cell::new(counters),
            changed: Signal::default(),
            created,
            behind: options.compactions.join(),
            space_is_short: Cell::new(false),
            options,
        };
        let index = Index { state: Rc::new(state) };
        index.note_behind();
        index.start_compaction();
        Ok(index)
    }

    /// True where there was no index in the directory: the owner knows whether there should have been one.
    pub fn was_created(&self) -> bool {
        self.state.created
    }

    /// Everything up to here is durable in tables; the owner replays what comes after it, and may drop its log up
    /// to here.
    pub fn flushed(&self) -> Position {
        self.state.flushed.get()
    }

    /// The position of the last [`Index::apply`].
    pub fn applied(&self) -> Position {
        self.state.applied.get()
    }

    /// Makes the changes of `batch` visible. `position` is where the owner's log is afterwards; it never goes back.
    /// An empty batch only moves the position.
    pub fn apply(&self, batch: WriteBatch, position: Position) {
        let state = &self.state;
        assert!(position.index >= state.applied.get().index, "positions never go back");
        let sequence = state.sequence.get() + 1;
        state.sequence.set(sequence);
        state.applied.set(position);
        let bytes = {
            let active = state.active.borrow();
            let newest_pin = state.newest_pin.get();
            for (key, value) in batch.changes {
                active.apply(key, value, sequence, newest_pin);
            }
            active.bytes()
        };
        if bytes > state.options.memtable_bytes_max {
            self.freeze();
        }
    }

    /// The value of `key`.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        if let Some(change) = self.state.active.borrow().get(key) {
            return Ok(change);
        }
        let view = self.state.view.borrow().clone();
        for frozen in view.frozen.iter().rev() {
            if let Some(change) = frozen.memtable.get(key) {
                return Ok(change);
            }
        }
        let found = view.levels.get(key, key_hash(key)).await;
        Ok(self.count_damage(found)?.flatten())
    }

    /// Memory of all memtables, in bytes.
    pub fn memtable_bytes(&self) -> usize {
        let frozen: usize =
            self.state.view.borrow().frozen.iter().map(|frozen| frozen.memtable.bytes()).sum();
        self.state.active.borrow().bytes() + frozen
    }

    /// While the disk has little space left, deletions are carried down to the rows that they hide, and both go; otherwise
    /// that waits until a level is too large. To be called again from time to time while it is so.
    pub fn note_space(&self, is_short: bool) {
        self.state.space_is_short.set(is_short);
        if is_short {
            if self.state.active.borrow().bytes() >= RECLAIM_BYTES_MIN {
                self.freeze();
            }
            self.start_compaction();
        }
    }

    /// True where something was applied that is not durable in tables.
    pub fn needs_flush(&self) -> bool {
        self.state.applied.get() != self.state.flushed.get()
    }

    /// Makes everything applied so far durable in tables; what that is, is decided when this is first polled. Errors:
    /// the index is poisoned, or the disk is full ([`IndexError::is_full_disk`]: it is tried again by itself).
    pub async fn flush(&self) -> Result<(), IndexError> {
        self.freeze();
        let state = &self.state;
        let target = state.applied.get();
        let epoch = state.background.epoch.get();
        state
            .changed
            .until(|| match &*state.failure.borrow() {
                Some(cause) => Some(Err(IndexError::Poisoned { cause: cause.clone() })),
                None => {
                    let replaced = state.background.epoch.get() != epoch;
                    if replaced || state.flushed.get() >= target {
                        return Some(Ok(()));
                    }
                    state.full.borrow().as_ref().map(|full| Err(full.clone()))
                }
            })
            .await
    }

    /// Waits until [`Index::flushed`] is another position than `known`, and returns it.
    pub async fn flushed_beyond(&self, known: Position) -> Result<Position, IndexError> {
        let state = &self.state;
        state
            .changed
            .until(|| match &*state.failure.borrow() {
                Some(cause) => Some(Err(IndexError::Poisoned { cause: cause.clone() })),
                None => (state.flushed.get() != known).then(|| Ok(state.flushed.get())),
            })
            .await
    }

    /// Waits while flushes or compactions are too far behind (on a full disk: until there is space). Whoever applies
    /// much calls it before each batch: this is what keeps memory bounded. Errors: nothing will ever be flushed again.
    pub async fn back_pressure(&self) -> Result<(), IndexError> {
        let state = &self.state;
        state
            .changed
            .until(|| {
                if let Some(cause) = &*state.failure.borrow() {
                    return Some(Err(IndexError::Poisoned { cause: cause.clone() }));
                }
                let view = state.view.borrow();
                let behind = view.frozen.len() >= state.options.frozen_memtables_max.max(1)
                    || view.levels.level0().len() >= state.options.level0_tables_max;
                match (&*state.stuck.borrow(), behind) {
                    (_, false) => Some(Ok(())),
                    (Some(damage), true) => Some(Err(damage.clone())),
                    (None, true) => None,
                }
            })
            .await
    }

    /// The first failure of a write or a flush, after which nothing more becomes durable.
    pub fn failure(&self) -> Option<IndexError> {
        self.state.failure.borrow().as_ref().map(|cause| IndexError::Poisoned { cause: cause.clone() })
    }

    /// What the index holds and has done.
    pub fn counters(&self) -> IndexCounters {
        let mut counters = self.state.counters.get();
        for (_, table) in self.state.view.borrow().levels.tables() {
            counters.tables += 1;
            counters.table_bytes += table.bytes();
            counters.table_rows += table.entries();
        }
        counters
    }

    /// Reads and checks every byte of every table, past the cache; returns the bytes read. Damage ends it.
    pub async fn verify(&self) -> Result<u64, IndexError> {
        let mut scrub = self.scrub();
        let mut bytes = 0;
        while let Some(read) = scrub.next().await {
            bytes += read?;
        }
        Ok(bytes)
    }

    /// Checks the present tables one by one, at the caller's pace.
    pub fn scrub(&self) -> Scrub {
        let tables =
            self.state.view.borrow().levels.tables().map(|(_, table)| Rc::downgrade(table)).collect();
        Scrub { index: self.clone(), tables }
    }

    /// Ends the background work; nothing in the directory changes afterwards. What was not flushed is lost to this
    /// index: call [`Index::flush`] first where that matters.
    pub async fn close(self) {
        self.stop_background().await;
    }

    pub(crate) fn count_damage<T>(&self, outcome: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(error) = &outcome
            && error.is_corrupt()
        {
            let mut counters = self.state.counters.get();
            counters.corruptions += 1;
            self.state.counters.set(counters);
            tracing::error!(dir = %self.state.dir.display(), %error, "damage in an index");
        }
        outcome
    }
}

/// Reads and checks tables, past the cache. Tables that a compaction replaces meanwhile are passed over: their
/// successors were checked when they were written.
pub struct Scrub {
    index: Index,
    tables: Vec<Weak<Table>>,
}

impl Scrub {
    /// Checks the next table: the bytes read (a table has some tens of megabytes), or the damage, after which the next
    /// call goes on with the table behind it. `None` at the end.
    pub async fn next(&mut self) -> Option<Result<u64, IndexError>> {
        loop {
            let table = self.tables.pop()?.upgrade();
            if let Some(table) = table {
                return Some(self.index.count_damage(verify_all(&table, &self.index.state.env).await));
            }
        }
    }
}

async fn open_tables(
    env: &Env,
    dir: &Path,
    identity: &[u8; 16],
    entries: &[TableEntry],
    cache: &BlockCache,
) -> Result<Vec<(u8, Rc<Table>)>, IndexError> {
    stream::iter(entries)
        .map(|&entry| async move {
            let table = Table::open(env, dir, identity, entry, cache).await?;
            Ok((entry.level, Rc::new(table)))
        })
        .buffered(OPENS_AT_ONCE)
        .try_collect()
        .await
}

/// Removes tables that no root knows (a crash came before their root, or before their removal) and half-made roots.
/// Returns a number above those of all removed tables: a number is never used twice.
async fn remove_leftovers(
    env: &Env,
    dir: &Path,
    names: &[String],
    known: &[TableEntry],
) -> Result<u64, IndexError> {
    let mut above = 0;
    for name in names {
        let leftover = match table_name::parse(name) {
            Some(number) => {
                above = above.max(number + 1);
                !known.iter().any(|entry| entry.number == number)
            }
            None => is_root_name(name) && name.ends_with(".new"),
        };
        if leftover {
            match env.remove_file(&dir.join(name)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(IndexError::io(name, "remove", error));
                }
                _ => {}
            }
        }
    }
    Ok(above)
}
