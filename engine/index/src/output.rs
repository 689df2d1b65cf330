//! Tables on their way in: written, flushed and open, but not named by any root yet.
//!
//! What must hold: rows come in strictly ascending key order; tables end at their size limit; whatever is not taken
//! over by a root edit is given up when the output is dropped, and its files go with the next sweep.

use crate::error::IndexError;
use crate::index::Index;
use crate::table::Table;
use crate::table_writer::TableWriter;
use std::rc::Rc;

/// New tables of one level.
pub(crate) struct Output {
    index: Index,
    level: u8,
    table_bytes_max: u64,
    tables: Vec<Rc<Table>>,
    writer: Option<TableWriter>,
}

impl Output {
    pub(crate) fn new(index: &Index, level: u8, table_bytes_max: u64) -> Output {
        Output { index: index.clone(), level, table_bytes_max, tables: Vec::new(), writer: None }
    }

    /// Adds a row; `None` is a tombstone.
    pub(crate) async fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), IndexError> {
        if self.writer.as_ref().is_some_and(|writer| writer.data_bytes() >= self.table_bytes_max) {
            self.end_table().await?;
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let state = &self.index.state;
                let number = state.background.take_table_number();
                let shape = state.options.table_shape();
                let writer =
                    TableWriter::create(&state.env, &state.dir, state.identity, number, shape).await?;
                self.writer.insert(writer)
            }
        };
        writer.add(key, value).await
    }

    /// Ends the last table: the bytes of all are durable.
    pub(crate) async fn end(&mut self) -> Result<(), IndexError> {
        self.end_table().await
    }

    /// Hands the tables to a root edit.
    pub(crate) fn take(&mut self) -> Vec<(u8, Rc<Table>)> {
        std::mem::take(&mut self.tables).into_iter().map(|table| (self.level, table)).collect()
    }

    async fn end_table(&mut self) -> Result<(), IndexError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let entry = writer.finish().await?;
        let state = &self.index.state;
        let table = Table::open(&state.env, &state.dir, &state.identity, entry, &state.options.cache).await?;
        self.tables.push(Rc::new(table));
        self.writer = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let unfinished = self.writer.take().map(|writer| writer.number());
        self.index.state.background.give_up(self.tables.drain(..), unfinished);
    }
}
