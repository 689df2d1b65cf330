//! Ids, endpoint patterns, topology, hash ring and placement. Pure: no I/O, no clock, no randomness.
//!
//! What must hold: every node, and every later version, computes the same answers from the same bytes. What decides where
//! stored data lies (key hash, ring points, rotation, voters) is pinned by tests and never changes.

pub mod assembly;
pub mod coding;
pub mod diff;
pub mod endpoint;
pub mod format;
pub mod hash_ring;
pub mod id;
pub mod key;
pub mod placement;
pub mod rebuild;
mod sealed_json;
pub mod topology;

pub use coding::Coding;
pub use endpoint::Endpoint;
pub use format::{BlockChecksum, FormatJson};
pub use hash_ring::{HashRing, jump_hash};
pub use key::{KeyHash, partition_of};
pub use placement::{Slots, place, preferred_leader, voters};
pub use sealed_json::SealError;
pub use topology::{SetState, TopologyJson};
