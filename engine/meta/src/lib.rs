//! Replicated partitions: one Raft group per hash slice of a set, driven per core.
