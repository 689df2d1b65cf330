//! The binary protocol between nodes. Pure: bytes in, frames out; sockets, clocks and storage are elsewhere.
//!
//! Today the rooms above run on one node and pass their questions between cores by pointer; this crate holds the framing
//! that carries the same questions between nodes.

pub mod frame;
