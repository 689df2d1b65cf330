//! HTTP/1.1 as values: request heads, body framing, ranges, conditions, response heads. No I/O happens here.

pub(crate) mod body;
pub(crate) mod conditions;
pub(crate) mod head;
pub(crate) mod range;
pub(crate) mod response;
pub(crate) mod target;
