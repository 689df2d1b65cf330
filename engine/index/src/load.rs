//! Replaces the whole content of an index (a snapshot from another replica).
//!
//! What must hold: until [`Loader::finish`] returns, readers see the old content, and a crash leaves the old content
//! or the new one, whole. Everything applied to the index between the start of a load and its end is replaced too.

use crate::background::{Change, Edit};
use crate::error::IndexError;
use crate::index::Index;
use crate::limits::LEVELS;
use crate::output::Output;
use crate::root::Position;

/// Loaded tables go to the last level: nothing is below them, and later changes come above them.
const LOAD_LEVEL: u8 = LEVELS as u8 - 1;

/// New content on its way in. Dropped unfinished, it leaves nothing behind.
pub struct Loader {
    index: Index,
    output: Output,
    last_key: Option<Vec<u8>>,
}

impl Index {
    /// Begins to replace everything.
    pub fn load(&self) -> Loader {
        let output = Output::new(self, LOAD_LEVEL, self.state.options.table_bytes_max);
        Loader { index: self.clone(), output, last_key: None }
    }
}

impl Loader {
    /// Adds a row. Keys come in strictly ascending order; panics where they do not.
    pub async fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        assert!(self.last_key.as_ref().is_none_or(|last| last.as_slice() < key), "loaded keys ascend");
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(key);
        self.output.add(key, Some(value)).await?;
        self.index.state.env.yield_if_needed().await;
        Ok(())
    }

    /// Makes the loaded rows the content of the index, at `position`, durably. Where the caller does not wait for the
    /// end, the content is either.
    pub async fn finish(self, position: Position) -> Result<(), IndexError> {
        let Loader { index, mut output, .. } = self;
        output.end().await?;
        let epoch = index.state.background.epoch.get();
        let added = output.take();
        drop(output);
        let replaced = index.edit_root(Edit { epoch, added, change: Change::Replaced(position) }).await;
        if let Err(error) = &replaced {
            index.poison(error.clone());
        }
        replaced?;
        index.sweep().await;
        Ok(())
    }
}
