//! Objects over erasure sets: metadata partitions, chunk routing, object operations.

pub mod object;
