//! The real outside world: glommio executors, and in each of them a ring of our own for disks, sockets and sleep.
//!
//! glommio 0.9 runs the tasks. Its faults are met in one place each:
//!
//! | fault | met in |
//! |---|---|
//! | every turn of its reactor sets two timers: three system calls; a sleep and a wake-up, eight | `core::drive`: tasks run without turns |
//! | looks at no socket or timer while tasks are runnable | `core::drive` |
//! | parks while tasks are runnable | `core`: a long preempt timer; `watchdog` kicks from outside |
//! | reads online CPUs, not affinity; panics on odd topologies | `core`: pins the thread itself |
//! | `spawn_local` runs the task inside its caller | `core::spawn` |
//! | wakes a foreign core only if that sleeps | `waker`: a bell of our own, and every pass through `Env` looks |
//! | panics or exits where io_uring is blocked; needs 512 KiB of memlock | `preflight`, before any executor |
//! | a dropped `accept` leaks the socket; a listener shared by executors blocks | not used: `tcp` |
//! | its disk files (see below) | not used |
//!
//! Disk I/O has gone through our own ring (`ring`, with the `io-uring` crate) from the start, because glommio's files
//! - tie a buffer to the core that made it (`DmaBuffer` is `!Send`): a stripe filled on one core and written by
//!   another would have to be copied;
//! - have no RWF_DSYNC: every small durable write would be a write and a flush, two round trips;
//! - judge "can be polled" from the first file opened on a device, wrongly where that is empty: then every read
//!   of that device fails with EOPNOTSUPP;
//! - look up the device in sysfs at open, synchronously, always as minor 0, and panic where that is a partition;
//! - report short writes as success in places, stat by path, and rename and remove in a pool of one thread.

mod core;
mod env;
mod faults;
mod file;
mod kernel;
mod preflight;
mod ring;
mod tcp;
mod timers;
mod waker;
mod watchdog;

pub use self::core::{CoreHandle, CoreOptions, run_core, usable_cpus};
pub use env::RealEnv;
pub use faults::set_disk_faults;
pub use file::RealFile;
pub use preflight::{StartError, Warning, preflight, preflight_listen};
pub use tcp::{RealListener, RealReadHalf, RealStream, RealWriteHalf};
pub use waker::CoreWaker;
pub use watchdog::on_standstill;
