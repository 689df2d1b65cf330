//! Chunks: a body becomes blocks on the disks of a set, and comes back from any K good ones.

mod cache;
mod read;
mod rebuild;
mod write;

pub(crate) use cache::BlockCache;
pub(crate) use read::{Hedges, PartStream};
pub(crate) use rebuild::rebuild;
pub(crate) use write::{drop_part, write_part};
