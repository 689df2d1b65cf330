//! Ids, endpoint patterns, topology, hash ring and placement. Pure: no I/O, no clock, no randomness.

pub mod format;
pub mod id;
