//! The ordered index: a log-structured merge tree over env files.
//!
//! What must hold:
//! - Keys are ordered as bytes; a read sees every change applied before it began; a scan sees one moment.
//! - There is no log in here: the owner replays everything after [`Index::flushed`] into [`Index::apply`].
//! - What is read from a disk is verified; damage is [`IndexError::Corrupt`], never a panic and never a shorter or
//!   an older answer. A failed write or flush poisons the index; nothing later is reported durable.
//! - Memory does not grow with the number of keys beyond the tails of the tables (some bytes for each thousand keys);
//!   index, filter and data blocks live in the core's [`BlockCache`].
//!
//! From the top: `index` (open, apply, get), `scan` (snapshots), `load` (replacing everything), `background` (flush,
//! compaction, root edits); below them `levels` (which tables there are, pure), `cursor` (merging), `memtable`,
//! `table` and `table_writer`, `root`, `cache`; at the bottom `block`, `filter`, `checksum`.
//! The bytes are drawn in docs/formats/index.md.

mod background;
mod block;
mod cache;
mod checksum;
mod cursor;
mod error;
mod filter;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod index;
mod levels;
mod limits;
mod load;
mod memtable;
mod output;
mod root;
mod scan;
mod signal;
mod slots;
mod table;
mod table_name;
mod table_writer;

pub use cache::{BlockCache, CacheCounters};
pub use error::IndexError;
pub use index::{Index, IndexCounters, IndexOptions, Scrub, WriteBatch};
pub use limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use load::Loader;
pub use root::Position;
pub use scan::{Scan, Snapshot};
pub use slots::CompactionSlots;
