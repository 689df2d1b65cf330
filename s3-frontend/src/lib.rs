//! HTTP and S3 over the engine.
//!
//! What must hold:
//! - A request body goes one way: socket, HTTP framing, aws-chunked framing, the engine's buffer. It is never held whole, and on
//!   the plain path no byte of it is copied in user space.
//! - Everything under `http` and everything in `s3` but its operations is a decision without I/O: bytes in, values out.
//! - An S3 error code, its status and its message exist once, in the table of `s3::error`.
//! - Every queue, table and text has a limit, and it is in `limits` or in [`server::Limits`].

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod date;
mod engine_store;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod http;
mod limits;
mod s3;
pub mod server;
pub mod store;
