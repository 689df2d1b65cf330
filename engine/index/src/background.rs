//! Flush, compaction and removal: everything that changes files after open.
//!
//! What must hold:
//! - Tables are durable, names included, before a root names them; a root is durable before it counts; files go
//!   only after a root without them is durable and no reader holds them.
//! - Root edits happen one after the other. An edit that was prepared for another content than the present one
//!   (see [`crate::Loader`]) is given up.
//! - Tasks run only while there is something to do, at most one flush and one compaction for each index, and give
//!   the core back between slices of work.

use crate::cursor::{Merge, RunCursor, Source};
use crate::error::IndexError;
use crate::index::{Frozen, Index, View};
use crate::levels::Compaction;
use crate::limits::{MERGE_ROWS_PER_SLICE, SWEEP_MILLIS};
use crate::memtable::{MemtableCursor, Sequence};
use crate::root::{Position, Root, RootFiles};
use crate::table::Table;
use crate::table_name;
use crate::table_writer::TableWriter;
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
    /// Files of given-up work.
    abandoned: RefCell<Vec<u64>>,
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
            abandoned: RefCell::default(),
        }
    }

    pub(crate) fn take_table_number(&self) -> u64 {
        let number = self.next_table.get();
        self.next_table.set(number + 1);
        number
    }
}

/// What one root edit changes.
pub(crate) struct Edit {
    /// The content's epoch that the edit was prepared for.
    pub(crate) epoch: u64,
    pub(crate) removed: Vec<Rc<Table>>,
    pub(crate) added: Vec<(u8, Rc<Table>)>,
    pub(crate) position: Option<Position>,
    pub(crate) scope: Scope,
}

/// What an edit does beside its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The oldest frozen memtable is in the added table.
    Flush,
    /// Nothing.
    Compaction,
    /// Everything that was there is replaced.
    Replace,
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

    pub(crate) fn start_flush(&self) {
        let background = &self.state.background;
        if self.is_stopped()
            || self.state.view.borrow().frozen.is_empty()
            || background.flushing.replace(true)
        {
            return;
        }
        let index = self.clone();
        self.state.env.spawn(async move {
            while !index.is_stopped() {
                let frozen = index.state.view.borrow().frozen.front().cloned();
                let Some(frozen) = frozen else { break };
                if let Err(error) = index.flush_one(&frozen).await {
                    index.poison(error);
                }
                index.start_compaction();
                index.sweep().await;
            }
            index.state.background.flushing.set(false);
            index.state.changed.notify();
        });
    }

    /// Writes one frozen memtable as a table of level 0.
    async fn flush_one(&self, frozen: &Frozen) -> Result<(), IndexError> {
        let state = &self.state;
        let epoch = state.background.epoch.get();
        let levels = state.view.borrow().levels.clone();
        let mut writer = None;
        let mut rows = MemtableCursor::new(frozen.memtable.clone(), Sequence::MAX);
        rows.seek(b"");
        let mut count = 0usize;
        while let Some((key, value)) = rows.row() {
            // Nothing older is left to be hidden by a tombstone without a table around it.
            if value.is_some() || !levels.is_empty_for(key) {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(self.new_table().await?),
                };
                writer.add(key, value.as_deref()).await?;
            }
            rows.advance();
            count += 1;
            if count.is_multiple_of(MERGE_ROWS_PER_SLICE) {
                state.env.yield_if_needed().await;
            }
        }
        let mut added = Vec::new();
        if let Some(writer) = writer {
            let table = self.finish_table(writer).await?;
            added.push((0, table));
        }
        let bytes: u64 = added.iter().map(|(_, table): &(u8, Rc<Table>)| table.bytes()).sum();
        let position = Some(frozen.position);
        self.edit_root(Edit { epoch, removed: Vec::new(), added, position, scope: Scope::Flush }).await?;
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
        if state.view.borrow().levels.pick(&state.options.level_shape()).is_none() {
            return;
        }
        state.background.compacting.set(true);
        let index = self.clone();
        state.env.spawn(async move {
            while !index.is_stopped() {
                let picked = index.state.view.borrow().levels.pick(&index.state.options.level_shape());
                let Some(compaction) = picked else { break };
                let outcome = index.compact(&compaction).await;
                drop(compaction);
                match outcome {
                    Ok(()) => index.sweep().await,
                    Err(error) if error.is_of_reading() => {
                        let Err(error) = index.count_damage::<()>(Err(error)) else { break };
                        *index.state.stuck.borrow_mut() = Some(error);
                        break;
                    }
                    Err(error) => index.poison(error),
                }
            }
            index.state.background.compacting.set(false);
            index.state.changed.notify();
        });
    }

    async fn compact(&self, compaction: &Compaction) -> Result<(), IndexError> {
        let state = &self.state;
        let epoch = state.background.epoch.get();
        let into = compaction.level as u8 + 1;
        let added = if compaction.is_move() {
            compaction.upper.iter().map(|table| (into, table.clone())).collect()
        } else {
            match self.merge_tables(compaction, epoch).await? {
                Some(added) => added,
                None => return Ok(()),
            }
        };
        let bytes: u64 = added.iter().map(|(_, table)| table.bytes()).sum();
        let edit =
            Edit { epoch, removed: compaction.inputs(), added, position: None, scope: Scope::Compaction };
        self.edit_root(edit).await?;
        let mut counters = state.counters.get();
        counters.compactions += 1;
        counters.compacted_bytes += if compaction.is_move() { 0 } else { bytes };
        state.counters.set(counters);
        Ok(())
    }

    /// Merges the compaction's tables into new ones. `None` where the work was given up half-way.
    async fn merge_tables(
        &self,
        compaction: &Compaction,
        epoch: u64,
    ) -> Result<Option<Vec<(u8, Rc<Table>)>>, IndexError> {
        let state = &self.state;
        let levels = state.view.borrow().levels.clone();
        let into = compaction.level + 1;
        let mut merge = Merge::new(compaction_sources(compaction), Vec::new());
        let mut output: Vec<(u8, Rc<Table>)> = Vec::new();
        let mut writer: Option<TableWriter> = None;
        let mut count = 0usize;
        while merge.advance().await? {
            let Some((key, value)) = merge.row() else { break };
            if value.is_some() || !levels.is_bottom_for(into, key) {
                if writer.as_ref().is_some_and(|writer| writer.data_bytes() >= state.options.table_bytes_max)
                    && let Some(full) = writer.take()
                {
                    output.push((into as u8, self.finish_table(full).await?));
                }
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(self.new_table().await?),
                };
                writer.add(key, value.as_deref()).await?;
            }
            count += 1;
            if count.is_multiple_of(MERGE_ROWS_PER_SLICE) {
                state.env.yield_if_needed().await;
                if self.is_stopped() || epoch != state.background.epoch.get() {
                    self.abandon(output.into_iter().map(|(_, table)| table), writer);
                    return Ok(None);
                }
            }
        }
        if let Some(writer) = writer {
            output.push((into as u8, self.finish_table(writer).await?));
        }
        Ok(Some(output))
    }

    /// Gives up tables that no root names: their files go with the next sweep.
    pub(crate) fn abandon(&self, tables: impl Iterator<Item = Rc<Table>>, writer: Option<TableWriter>) {
        let background = &self.state.background;
        background.retired.borrow_mut().extend(tables);
        background.abandoned.borrow_mut().extend(writer.map(|writer| writer.number()));
    }

    pub(crate) async fn new_table(&self) -> Result<TableWriter, IndexError> {
        let state = &self.state;
        let number = state.background.take_table_number();
        TableWriter::create(&state.env, &state.dir, state.identity, number, state.options.table_shape()).await
    }

    /// Makes the table's bytes durable and opens it for reading.
    pub(crate) async fn finish_table(&self, writer: TableWriter) -> Result<Rc<Table>, IndexError> {
        let state = &self.state;
        let entry = writer.finish().await?;
        let table = Table::open(&state.env, &state.dir, &state.identity, entry, &state.options.cache).await?;
        Ok(Rc::new(table))
    }

    /// Makes an edit durable and visible.
    pub(crate) async fn edit_root(&self, edit: Edit) -> Result<(), IndexError> {
        let state = &self.state;
        let background = &state.background;
        state.changed.until(|| (!background.editing.replace(true)).then_some(())).await;
        let outcome = self.edit_root_alone(&edit).await;
        background.editing.set(false);
        state.changed.notify();
        outcome
    }

    async fn edit_root_alone(&self, edit: &Edit) -> Result<(), IndexError> {
        let state = &self.state;
        let background = &state.background;
        if let Some(cause) = &*state.failure.borrow() {
            return Err(IndexError::Poisoned { cause: cause.clone() });
        }
        if edit.epoch != background.epoch.get() || background.closed.get() {
            // A table that only changed its level belongs to the content, or went with it.
            let moved = |table: &&Rc<Table>| edit.removed.iter().any(|removed| Rc::ptr_eq(removed, table));
            let added = edit.added.iter().map(|(_, table)| table).filter(|table| !moved(table));
            self.abandon(added.cloned(), None);
            return Ok(());
        }
        let present = state.view.borrow().levels.clone();
        let removed = match edit.scope {
            Scope::Replace => present.tables().map(|(_, table)| table.clone()).collect(),
            Scope::Flush | Scope::Compaction => edit.removed.clone(),
        };
        let levels = present.edited(&removed, edit.added.clone())?;
        drop(present);
        if !edit.added.is_empty() {
            let synced = state.env.sync_dir(&state.dir).await;
            synced.map_err(|error| IndexError::io(".", "flush of the directory", error))?;
        }
        let root = Root {
            generation: background.root_generation.get() + 1,
            position: edit.position.unwrap_or(state.flushed.get()),
            next_table: background.next_table.get(),
            tables: levels.entries(),
        };
        background.root_files.write(&root).await?;
        background.root_generation.set(root.generation);
        // From here to the end without a wait: the edit is durable, so it is visible at once and as a whole.
        let mut view = View::clone(&state.view.borrow());
        view.levels = levels;
        match edit.scope {
            Scope::Flush => {
                view.frozen.pop_front();
            }
            Scope::Compaction => {}
            Scope::Replace => {
                view.frozen.clear();
                state.active.replace(Rc::default());
                background.epoch.set(background.epoch.get() + 1);
                state.applied.set(root.position);
            }
        }
        *state.view.borrow_mut() = Rc::new(view);
        state.flushed.set(root.position);
        let kept = |table: &Rc<Table>| edit.added.iter().any(|(_, added)| Rc::ptr_eq(added, table));
        let gone = removed.into_iter().filter(|table| !kept(table));
        background.retired.borrow_mut().extend(gone);
        Ok(())
    }

    pub(crate) fn poison_on_error<T>(&self, outcome: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(error) = &outcome {
            self.poison(error.clone());
        }
        outcome
    }

    fn poison(&self, error: IndexError) {
        tracing::error!(dir = %self.state.dir.display(), %error, "the index takes no more writes");
        self.state.failure.borrow_mut().get_or_insert_with(|| Arc::new(error));
        self.state.changed.notify();
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
            let state = &index.state;
            while !index.is_stopped() && !state.background.retired.borrow().is_empty() {
                let stopped = state.changed.until(|| index.is_stopped().then_some(()));
                state.env.timeout(Duration::from_millis(SWEEP_MILLIS), stopped).await;
                index.remove_unheld().await;
            }
            state.background.sweeping.set(false);
            state.changed.notify();
        });
    }

    async fn remove_unheld(&self) {
        let state = &self.state;
        let mut numbers = state.background.abandoned.take();
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
