//! Flush, compaction and removal: everything that changes files after open.
//!
//! What must hold:
//! - Tables are durable, names included, before a root names them; a root is durable before it counts; files go
//!   only after a root without them is durable and no reader holds them.
//! - Root edits happen one after the other. An edit that was prepared for another content than the present one
//!   (see [`crate::Loader`]) is given up.
//! - A failed flush, or a failed write of a root, is never tried again: the index is poisoned. A full disk is no
//!   failure: a table that did not fit is written anew, from its source, until there is space.
//! - Tasks run only while there is something to do, at most one flush and one compaction for each index, and give
//!   the core back between slices of work.

use crate::cursor::{Merge, RunCursor, Source};
use crate::error::IndexError;
use crate::index::{Frozen, Index, View};
use crate::levels::Compaction;
use crate::limits::{FULL_DISK_RETRY_MILLIS, MERGE_BYTES_PER_SLICE, MERGE_ROWS_PER_SLICE, SWEEP_MILLIS};
use crate::memtable::{MemtableCursor, Sequence};
use crate::output::Output;
use crate::root::{Position, Root, RootFiles};
use crate::slots::Slot;
use crate::table::Table;
use crate::table_name;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// State of the background work of one index.
pub(crate) struct Background {
    root_files: RootFiles,
    root_generation: Cell<u64>,
    next_table: Cell<u64>,
    /// Counts whole-content replacements: work that was begun before one is given up.
    pub(crate) epoch: Cell<u64>,
    editing: Cell<bool>,
    flushing: Cell<bool>,
    compacting: Cell<bool>,
    sweeping: Cell<bool>,
    closed: Cell<bool>,
    /// Tables that no root names any more, until no reader holds them.
    retired: RefCell<Vec<Rc<Table>>>,
    /// Numbers of tables that were not written to their end.
    unfinished: RefCell<Vec<u64>>,
}

impl Background {
    pub(crate) fn new(root_files: RootFiles, root_generation: u64, next_table: u64) -> Background {
        Background {
            root_files,
            root_generation: Cell::new(root_generation),
            next_table: Cell::new(next_table),
            epoch: Cell::new(0),
            editing: Cell::new(false),
            flushing: Cell::new(false),
            compacting: Cell::new(false),
            sweeping: Cell::new(false),
            closed: Cell::new(false),
            retired: RefCell::default(),
            unfinished: RefCell::default(),
        }
    }

    pub(crate) fn take_table_number(&self) -> u64 {
        let number = self.next_table.get();
        self.next_table.set(number + 1);
        number
    }

    /// Tables that no root names: their files go with the next sweep.
    pub(crate) fn give_up(&self, tables: impl Iterator<Item = Rc<Table>>, unfinished: Option<u64>) {
        self.retired.borrow_mut().extend(tables);
        self.unfinished.borrow_mut().extend(unfinished);
    }
}

/// What one root edit changes.
pub(crate) struct Edit {
    /// The content's epoch that the edit was prepared for.
    pub(crate) epoch: u64,
    pub(crate) added: Vec<(u8, Rc<Table>)>,
    pub(crate) change: Change,
}

/// What an edit does beside adding tables.
pub(crate) enum Change {
    /// The oldest frozen memtable is in the added table: everything up to the position is in tables.
    Flushed(Position),
    /// The added tables hold what these held.
    Compacted(Vec<Rc<Table>>),
    /// The added tables are everything, at the position.
    Replaced(Position),
}

/// Ends a root edit, even one that is dropped half-way.
struct Editing<'a>(&'a Index);

impl Drop for Editing<'_> {
    fn drop(&mut self) {
        self.0.state.background.editing.set(false);
        self.0.state.changed.notify();
    }
}

impl Index {
    /// Freezes the active memtable where there is something to flush, and starts the flush.
    pub(crate) fn freeze(&self) {
        let state = &self.state;
        let position = state.applied.get();
        let waiting = state.view.borrow().frozen.back().map_or(state.flushed.get(), |frozen| frozen.position);
        let empty = state.active.borrow().is_empty();
        if !empty || position != waiting {
            let memtable = state.active.replace(Rc::default());
            let mut view = View::clone(&state.view.borrow());
            view.frozen.push_back(Frozen { memtable, position });
            *state.view.borrow_mut() = Rc::new(view);
        }
        self.start_flush();
    }

    fn is_stopped(&self) -> bool {
        self.state.background.closed.get() || self.state.failure.borrow().is_some()
    }

    fn start_flush(&self) {
        let background = &self.state.background;
        if self.is_stopped()
            || self.state.view.borrow().frozen.is_empty()
            || background.flushing.replace(true)
        {
            return;
        }
        let index = self.clone();
        self.state.env.spawn(async move {
            index.flush_frozen().await;
            index.state.background.flushing.set(false);
            index.state.changed.notify();
        });
    }

    async fn flush_frozen(&self) {
        while !self.is_stopped() {
            let frozen = self.state.view.borrow().frozen.front().cloned();
            let Some(frozen) = frozen else { return };
            match self.flush_one(&frozen).await {
                Ok(()) => *self.state.full.borrow_mut() = None,
                Err(error) if error.is_full_disk() => {
                    *self.state.full.borrow_mut() = Some(error);
                    self.state.changed.notify();
                    self.wait_for_space().await;
                }
                Err(error) => self.poison(error),
            }
            self.start_compaction();
            self.sweep().await;
        }
    }

    /// Writes one frozen memtable as a table of level 0.
    async fn flush_one(&self, frozen: &Frozen) -> Result<(), IndexError> {
        let state = &self.state;
        let epoch = state.background.epoch.get();
        let levels = state.view.borrow().levels.clone();
        let mut output = Output::new(self, 0, u64::MAX);
        let mut rows = MemtableCursor::new(frozen.memtable.clone(), Sequence::MAX);
        rows.seek(b"");
        let mut count = 0usize;
        while let Some((key, value)) = rows.row() {
            // A tombstone that has nothing older to hide need not be kept.
            if value.is_some() || !levels.is_empty_for(key) {
                output.add(key, value.as_deref()).await?;
            }
            rows.advance();
            count += 1;
            if count.is_multiple_of(MERGE_ROWS_PER_SLICE) {
                state.env.yield_if_needed().await;
            }
        }
        output.end().await?;
        let added = output.take();
        let bytes: u64 = added.iter().map(|(_, table)| table.bytes()).sum();
        self.edit_root(Edit { epoch, added, change: Change::Flushed(frozen.position) }).await?;
        let mut counters = state.counters.get();
        counters.flushes += 1;
        counters.flushed_bytes += bytes;
        state.counters.set(counters);
        Ok(())
    }

    pub(crate) fn start_compaction(&self) {
        let state = &self.state;
        if self.is_stopped() || state.stuck.borrow().is_some() || state.background.compacting.get() {
            return;
        }
        if self.pick().is_none() {
            return;
        }
        state.background.compacting.set(true);
        let index = self.clone();
        state.env.spawn(async move {
            index.compact_levels().await;
            index.state.background.compacting.set(false);
            index.state.changed.notify();
        });
    }

    fn pick(&self) -> Option<Compaction> {
        let state = &self.state;
        state.view.borrow().levels.pick(&state.options.level_shape(), state.space_is_short.get())
    }

    async fn compact_levels(&self) {
        let state = &self.state;
        while !self.is_stopped() {
            let slot = state.options.compactions.take().await;
            let Some(compaction) = self.pick() else { return };
            if self.is_stopped() {
                return;
            }
            let outcome = self.compact(compaction, &slot).await;
            drop(slot);
            match outcome {
                Ok(()) => self.sweep().await,
                Err(error) if error.is_full_disk() => {
                    tracing::warn!(dir = %state.dir.display(), %error, "no space for a compaction");
                    self.wait_for_space().await;
                }
                Err(error) if error.is_of_reading() => {
                    if let Err(error) = self.count_damage::<()>(Err(error)) {
                        *state.stuck.borrow_mut() = Some(error);
                    }
                    return;
                }
                Err(error) => self.poison(error),
            }
        }
    }

    async fn compact(&self, compaction: Compaction, slot: &Slot) -> Result<(), IndexError> {
        let state = &self.state;
        let epoch = state.background.epoch.get();
        let into = compaction.target_level();
        let moved = compaction.is_move();
        let added = if moved {
            compaction.upper.iter().map(|table| (into, table.clone())).collect()
        } else {
            let mut output = Output::new(self, into, state.options.table_bytes_max);
            if !self.merge_tables(&compaction, epoch, &mut output, slot).await? {
                return Ok(());
            }
            output.take()
        };
        let bytes: u64 = added.iter().map(|(_, table)| table.bytes()).sum();
        self.edit_root(Edit { epoch, added, change: Change::Compacted(compaction.inputs()) }).await?;
        let mut counters = state.counters.get();
        counters.compactions += 1;
        counters.compacted_bytes += if moved { 0 } else { bytes };
        state.counters.set(counters);
        Ok(())
    }

    /// Merges the compaction's tables into new ones. False where the work was given up half-way.
    async fn merge_tables(
        &self,
        compaction: &Compaction,
        epoch: u64,
        output: &mut Output,
        slot: &Slot,
    ) -> Result<bool, IndexError> {
        let state = &self.state;
        let levels = state.view.borrow().levels.clone();
        let mut merge = Merge::new(compaction_sources(compaction), Vec::new());
        let (mut count, mut bytes) = (0usize, 0u64);
        while merge.advance().await? {
            let Some((key, value)) = merge.row() else { break };
            bytes += (key.len() + value.as_ref().map_or(0, |value| value.len())) as u64;
            if value.is_some() || !compaction.drops_tombstone(&levels, key) {
                output.add(key, value.as_deref()).await?;
            }
            count += 1;
            if count.is_multiple_of(MERGE_ROWS_PER_SLICE) || bytes >= MERGE_BYTES_PER_SLICE {
                state.env.yield_if_needed().await;
                slot.pace(&state.env, std::mem::take(&mut bytes)).await;
                if self.is_stopped() || epoch != state.background.epoch.get() {
                    return Ok(false);
                }
            }
        }
        output.end().await?;
        Ok(true)
    }

    /// Makes an edit durable and visible.
    pub(crate) async fn edit_root(&self, edit: Edit) -> Result<(), IndexError> {
        let state = &self.state;
        let background = &state.background;
        state.changed.until(|| (!background.editing.replace(true)).then_some(())).await;
        let _editing = Editing(self);
        if let Some(cause) = &*state.failure.borrow() {
            return Err(IndexError::Poisoned { cause: cause.clone() });
        }
        if edit.epoch != background.epoch.get() || background.closed.get() {
            self.give_up(edit);
            return Ok(());
        }
        let present = state.view.borrow().levels.clone();
        let (removed, position) = match &edit.change {
            Change::Flushed(position) => (Vec::new(), *position),
            Change::Compacted(inputs) => (inputs.clone(), state.flushed.get()),
            Change::Replaced(position) => {
                (present.tables().map(|(_, table)| table.clone()).collect(), *position)
            }
        };
        let levels = present.edited(&removed, edit.added.clone())?;
        drop(present);
        if !edit.added.is_empty() {
            let synced = state.env.sync_dir(&state.dir).await;
            synced.map_err(|error| IndexError::io(".", "flush of the directory", error))?;
        }
        let root = Root {
            generation: background.root_generation.get() + 1,
            position,
            next_table: background.next_table.get(),
            tables: levels.entries(),
        };
        background.root_files.write(&root).await?;
        background.root_generation.set(root.generation);
        // From here to the end without a wait: the edit is durable, so it is visible at once and as a whole.
        let mut view = View::clone(&state.view.borrow());
        view.levels = levels;
        match edit.change {
            Change::Flushed(_) => {
                view.frozen.pop_front();
            }
            Change::Compacted(_) => {}
            Change::Replaced(_) => {
                view.frozen.clear();
                state.active.replace(Rc::default());
                background.epoch.set(background.epoch.get() + 1);
                state.applied.set(position);
            }
        }
        *state.view.borrow_mut() = Rc::new(view);
        self.note_behind();
        state.flushed.set(position);
        let kept = |table: &Rc<Table>| edit.added.iter().any(|(_, added)| Rc::ptr_eq(added, table));
        background.give_up(removed.into_iter().filter(|table| !kept(table)), None);
        Ok(())
    }

    /// Tells the disk's compactions how far this index is behind.
    pub(crate) fn note_behind(&self) {
        let state = &self.state;
        let (trigger, max) = (state.options.level0_tables_trigger, state.options.level0_tables_max);
        let tables = state.view.borrow().levels.level0().len();
        // Well before anybody has to wait.
        let room = (max.saturating_sub(trigger) * 2 / 3).max(1);
        state.behind.set(tables.saturating_sub(trigger) as f64 / room as f64);
    }

    fn give_up(&self, edit: Edit) {
        // A table that only changed its level belongs to the content, or went with it.
        let removed = match &edit.change {
            Change::Compacted(inputs) => inputs.as_slice(),
            Change::Flushed(_) | Change::Replaced(_) => &[],
        };
        let moved = |table: &Rc<Table>| removed.iter().any(|removed| Rc::ptr_eq(removed, table));
        let added = edit.added.iter().map(|(_, table)| table.clone()).filter(|table| !moved(table));
        self.state.background.give_up(added, None);
    }

    pub(crate) fn poison(&self, error: IndexError) {
        tracing::error!(dir = %self.state.dir.display(), %error, "the index takes no more writes");
        self.state.failure.borrow_mut().get_or_insert_with(|| Arc::new(error));
        self.state.changed.notify();
    }

    /// Sleeps, but not past the end of the background work.
    async fn pause(&self, duration: Duration) {
        let stopped = self.state.changed.until(|| self.is_stopped().then_some(()));
        self.state.env.timeout(duration, stopped).await;
    }

    async fn wait_for_space(&self) {
        self.sweep().await;
        self.pause(Duration::from_millis(FULL_DISK_RETRY_MILLIS)).await;
    }

    /// Removes the files of retired tables that no reader holds; looks again later while there are others.
    pub(crate) async fn sweep(&self) {
        self.remove_unheld().await;
        let background = &self.state.background;
        if background.retired.borrow().is_empty() || self.is_stopped() || background.sweeping.replace(true) {
            return;
        }
        let index = self.clone();
        self.state.env.spawn(async move {
            let background = &index.state.background;
            while !index.is_stopped() && !background.retired.borrow().is_empty() {
                index.pause(Duration::from_millis(SWEEP_MILLIS)).await;
                index.remove_unheld().await;
            }
            background.sweeping.set(false);
            index.state.changed.notify();
        });
    }

    async fn remove_unheld(&self) {
        let state = &self.state;
        let mut numbers = state.background.unfinished.take();
        state.background.retired.borrow_mut().retain(|table| {
            let held = Rc::strong_count(table) > 1;
            if !held {
                numbers.push(table.number());
            }
            held
        });
        for number in numbers {
            let name = table_name::of(number);
            match state.env.remove_file(&state.dir.join(&name)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // It holds space and nothing else: the next open removes it.
                    tracing::warn!(dir = %state.dir.display(), name, %error, "cannot remove a retired table");
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn stop_background(&self) {
        let state = &self.state;
        let background = &state.background;
        background.closed.set(true);
        state.changed.notify();
        let busy = || {
            let tasks =
                [&background.flushing, &background.compacting, &background.sweeping, &background.editing];
            tasks.into_iter().any(Cell::get)
        };
        state.changed.until(|| (!busy()).then_some(())).await;
    }
}

fn compaction_sources(compaction: &Compaction) -> Vec<Source> {
    let run = |tables: Rc<[Rc<Table>]>| Source::Run(Box::new(RunCursor::streaming(tables)));
    let mut sources: Vec<Source> = compaction.upper.iter().map(|table| run([table.clone()].into())).collect();
    if !compaction.lower.is_empty() {
        sources.push(run(compaction.lower.clone().into()));
    }
    sources
}
