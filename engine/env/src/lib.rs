//! The one seam to the outside: disk files, network streams, clock, randomness, tasks and
//! messages between cores.
//!
//! What must hold:
//! - Nothing else in the engine, the RPC or the S3 front end names glommio or io_uring, reads a clock,
//!   draws a random number or touches a file.
//! - Every type here exists once and dispatches to the real implementation ([`real`]) or, with the
//!   `sim` feature, to the simulated one ([`sim`]): one thread, virtual time, one seed.
//! - An [`Env`] belongs to one core and is `!Send`. What crosses cores is owned data
//!   ([`AlignedBytes`], [`bytes::Bytes`], plain structs) sent through a [`CoreSender`].

pub mod buffer;
mod core_link;
mod fault;
mod file;
mod net;
pub mod real;
#[cfg(feature = "sim")]
pub mod sim;

pub use buffer::{ALIGNMENT, AlignedBuf, AlignedBytes};
pub use core_link::{CoreReceiver, CoreSender, Overloaded, WakeCore, core_queue};
pub use fault::{DiskFaults, Fault};
pub use file::{File, OpenMode, WriteMode};
pub use net::{DetachedStream, Listener, ReadHalf, Stream, WriteHalf};

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an arbitrary start. Never compared between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Time passed since `earlier`; zero where `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
    /// This instant plus `duration`, saturating.
    pub fn after(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The outside world as one core sees it. Cheap to clone; `!Send`.
#[derive(Clone)]
pub enum Env {
    /// glommio executor, a ring of our own for disks and sockets.
    Real(real::RealEnv),
    /// Seeded simulation.
    #[cfg(feature = "sim")]
    Sim(sim::SimEnv),
}

macro_rules! dispatch {
    ($self:ident, $inner:ident => $body:expr) => {
        match $self {
            Self::Real($inner) => $body,
            #[cfg(feature = "sim")]
            Self::Sim($inner) => $body,
        }
    };
}
pub(crate) use dispatch;

impl Env {
    /// Monotonic time.
    pub fn now(&self) -> Instant {
        dispatch!(self, e => e.now())
    }

    /// Wall-clock milliseconds since the Unix epoch. For `Last-Modified` and signatures only: no order ever
    /// comes from it.
    pub fn unix_millis(&self) -> u64 {
        dispatch!(self, e => e.unix_millis())
    }

    /// A random number: from the operating system, or from the seed.
    pub fn random_u64(&self) -> u64 {
        dispatch!(self, e => e.random_u64())
    }

    /// Sixteen random bytes, for object ids and uuids.
    pub fn random_id(&self) -> [u8; 16] {
        let mut id = [0u8; 16];
        id[..8].copy_from_slice(&self.random_u64().to_le_bytes());
        id[8..].copy_from_slice(&self.random_u64().to_le_bytes());
        id
    }

    /// Runs `task` on this core until it ends; nobody waits for it. A task is not cancelled by anything but the
    /// end of the core (in the simulator: the crash of its node).
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        dispatch!(self, e => e.spawn(Box::pin(task)))
    }

    /// Ends after `duration`.
    pub async fn sleep(&self, duration: Duration) {
        dispatch!(self, e => e.sleep(duration).await)
    }

    /// Lets other tasks run if this one has used up its slice (about 200 us); call it between slices of CPU work.
    pub async fn yield_if_needed(&self) {
        dispatch!(self, e => e.yield_if_needed().await)
    }

    /// Lets every other runnable task run once.
    pub async fn yield_now(&self) {
        dispatch!(self, e => e.yield_now().await)
    }

    /// Ends with the result of `work`, or with `None` after `duration` (then `work` is dropped).
    pub async fn timeout<T>(&self, duration: Duration, work: impl Future<Output = T>) -> Option<T> {
        let work = std::pin::pin!(work);
        let limit = std::pin::pin!(self.sleep(duration));
        match futures::future::select(work, limit).await {
            futures::future::Either::Left((value, _)) => Some(value),
            futures::future::Either::Right(_) => None,
        }
    }

    /// Opens a file for direct, aligned I/O (O_DIRECT where the file system has it).
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        dispatch!(self, e => e.open(path, mode).await)
    }

    /// Creates a directory and its missing parents, durably.
    pub async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        dispatch!(self, e => e.create_dir_all(path).await)
    }

    /// Names in a directory, sorted. `NotFound` where it does not exist.
    pub async fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        dispatch!(self, e => e.list_dir(path).await)
    }

    /// Renames within one file system, replacing the target. Durable only after [`Env::sync_dir`].
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        dispatch!(self, e => e.rename(from, to).await)
    }

    /// Removes a file.
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        dispatch!(self, e => e.remove_file(path).await)
    }

    /// Flushes a directory's entries (creations, renames, removals).
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        dispatch!(self, e => e.sync_dir(path).await)
    }

    /// Reads a whole small file (buffered; for the JSON identity files).
    pub async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        dispatch!(self, e => e.read_file(path).await)
    }

    /// Replaces a small file durably: temporary file, flush, rename, flush of the directory.
    pub async fn write_file_durably(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        dispatch!(self, e => e.write_file_durably(path, content).await)
    }

    /// Bytes free and bytes in total on the file system of `path`.
    pub async fn disk_space(&self, path: &Path) -> io::Result<DiskSpace> {
        dispatch!(self, e => e.disk_space(path).await)
    }

    /// Listens on a TCP address with SO_REUSEPORT (each core has its own listener). Port 0 picks a free port.
    pub fn listen(&self, address: std::net::SocketAddr) -> io::Result<Listener> {
        dispatch!(self, e => e.listen(address))
    }

    /// Connects to a TCP address, TCP_NODELAY set. How long that may take is for the caller to say ([`Env::timeout`]): a
    /// dropped attempt is given up.
    pub async fn connect(&self, address: std::net::SocketAddr) -> io::Result<Stream> {
        dispatch!(self, e => e.connect(address).await)
    }

    /// Takes over a stream that another core of this process has detached.
    pub fn attach(&self, stream: DetachedStream) -> Stream {
        match (self, stream) {
            (Self::Real(e), DetachedStream::Real(socket)) => e.attach(socket),
            #[cfg(feature = "sim")]
            (Self::Sim(e), DetachedStream::Sim(detached)) => e.attach(detached),
            #[cfg(feature = "sim")]
            _ => unreachable!("a stream does not change worlds"),
        }
    }
}

/// Size of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
}
