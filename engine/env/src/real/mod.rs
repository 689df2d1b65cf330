//! The real outside world: glommio executors, a disk ring of our own beside them, TCP.
