//! The binary protocol between nodes. Pure: bytes, times and random numbers come in, frames and decisions go out;
//! sockets, clocks and storage are elsewhere.
//!
//! A connection begins with the [`handshake`], in which both sides prove that they hold the deployment's secret. It gives
//! each side a [`session`]: the keys that tie every [`frame`] to this connection, direction and place. [`connection`] is what
//! one end knows of questions and answers under way, [`health`] what is thought of a peer.
//!
//! What the protocol does not do: it keeps nothing secret. Heads and payloads travel in the clear, over a network that the
//! operator trusts not to read along; changing, repeating or inserting frames is noticed.

pub mod connection;
pub mod frame;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod handshake;
pub mod health;
pub mod limits;
pub mod session;
