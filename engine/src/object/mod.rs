//! Object operations: put, get, delete, list, copy, multipart. Each is one story, told in execution order.

pub mod api;
pub(crate) mod digest;
pub mod get;
pub(crate) mod list;
pub(crate) mod md5_lanes;
mod multipart;
mod put;
pub mod status;
pub mod store;
