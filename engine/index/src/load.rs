//! Replaces the whole content of an index (a snapshot from another replica).
//!
//! What must hold: until [`Loader::finish`] returns, readers see the old content, and a crash leaves the old content
//! or the new one, whole. Everything applied to the index between the start of a load and its end is replaced too.

use crate::background::{Edit, Scope};
use crate::error::IndexError;
use crate::index::Index;
use crate::limits::LEVELS;
use crate::root::Position;
use crate::table::Table;
use crate::table_writer::TableWriter;
use std::rc::Rc;

/// Loaded tables go to the last level: nothing is below them, and later changes come above them.
const LOAD_LEVEL: u8 = LEVELS as u8 - 1;

/// New content on its way in. Dropped unfinished, it leaves nothing behind.
pub struct Loader {
    index: Index,
    tables: Vec<Rc<Table>>,
    writer: Option<TableWriter>,
    last_key: Vec<u8>,
}

impl Index {
    /// Begins to replace everything.
    pub fn load(&self) -> Loader {
        Loader { index: self.clone(), tables: Vec::new(), writer: None, last_key: Vec::new() }
    }
}

impl Loader {
    /// Adds a row. Keys come in strictly ascending order; panics where they do not.
    pub async fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        assert!(
            (self.tables.is_empty() && self.writer.is_none()) || self.last_key.as_slice() < key,
            "loaded keys ascend"
        );
        let table_bytes_max = self.index.state.options.table_bytes_max;
        if self.writer.as_ref().is_some_and(|writer| writer.data_bytes() >= table_bytes_max) {
            self.end_table().await?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.index.new_table().await?),
        };
        writer.add(key, Some(value)).await?;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.index.state.env.yield_if_needed().await;
        Ok(())
    }

    /// Makes the loaded rows the content of the index, at `position`, durably.
    pub async fn finish(mut self, position: Position) -> Result<(), IndexError> {
        self.end_table().await?;
        let index = self.index.clone();
        let tables = std::mem::take(&mut self.tables);
        drop(self);
        let added = tables.into_iter().map(|table| (LOAD_LEVEL, table)).collect();
        index.replace(added, position).await?;
        index.sweep().await;
        Ok(())
    }

    async fn end_table(&mut self) -> Result<(), IndexError> {
        if let Some(writer) = self.writer.take() {
            self.tables.push(self.index.finish_table(writer).await?);
        }
        Ok(())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.index.abandon(self.tables.drain(..), self.writer.take());
    }
}

impl Index {
    async fn replace(&self, added: Vec<(u8, Rc<Table>)>, position: Position) -> Result<(), IndexError> {
        let epoch = self.state.background.epoch.get();
        let edit =
            Edit { epoch, removed: Vec::new(), added, position: Some(position), scope: Scope::Replace };
        let outcome = self.edit_root(edit).await;
        self.poison_on_error(outcome)
    }
}
