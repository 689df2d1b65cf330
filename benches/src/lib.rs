//! Micro-benchmarks of the parts that every request passes: see `benches/`.
//!
//! What must hold: they run in two ways. `cargo bench -p buckets-benches` measures; `cargo test -p buckets-benches` runs each
//! once, with its result checked, so that they never rot.
//!
//! Deliberately absent: anything with a disk or a socket. Those are measured against the release binary.
