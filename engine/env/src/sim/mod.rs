//! The simulated outside world: one thread, virtual time, one seed.
