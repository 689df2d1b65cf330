//! The server from outside: HTTP over a simulated network, an in-memory model as the store.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]
#![expect(unreachable_pub, reason = "the modules of a test have no outside")]

mod admin;
mod auth;
mod bodies;
mod buckets;
mod client;
mod connections;
mod listings;
mod model;
mod multipart;
mod objects;
mod world;
