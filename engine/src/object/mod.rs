//! Object operations: put, get, delete, list, copy, multipart. Each is one story, told in execution order.

pub mod api;
