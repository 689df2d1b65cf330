//! Objects over erasure sets: metadata partitions, chunk routing, object operations.
//!
//! A PUT's way down: `object::put` reads the body, `chunk::write` codes and spreads it, `partition` decides and
//! replicates the manifest; `core` knows which core owns what, `exchange` carries questions between cores.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod budget;
mod chunk;
pub mod core;
pub mod counters;
mod distance;
pub mod exchange;
pub mod facts;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod guests;
mod latency;
mod location;
pub mod manifest;
pub mod map;
pub mod message;
pub mod node;
pub mod nodes;
pub mod object;
mod partition;
pub mod rebuild;
mod root;
pub mod rows;
pub mod wire;
