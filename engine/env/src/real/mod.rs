//! The real outside world: glommio executors, a disk ring of our own beside them, TCP.

mod env;
mod file;
mod tcp;

pub use env::RealEnv;
pub use file::RealFile;
pub use tcp::{RealListener, RealStream};
