//! What a core sees of the real world.

use super::core::Core;
use super::file::{RealFile, c_path};
use super::kernel;
use super::ring::Lane;
use super::tcp::{RealListener, RealStream};
use crate::{AlignedBuf, DiskSpace, File, Instant, Listener, OpenMode, Stream, WriteMode};
use futures::future::LocalBoxFuture;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The real world as one core sees it.
#[derive(Clone)]
pub struct RealEnv {
    core: Rc<Core>,
}

impl RealEnv {
    pub(super) fn new(core: Rc<Core>) -> RealEnv {
        RealEnv { core }
    }

    pub(crate) fn now(&self) -> Instant {
        // One start for all cores of the process: their instants compare.
        static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        Instant(u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn unix_millis(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.core.random_u64()
    }

    pub(crate) fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.core.spawn(task);
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        self.core.look_at_doorbell();
        self.core.timers.sleep(duration).await;
    }

    pub(crate) async fn yield_if_needed(&self) {
        self.core.yield_if_needed().await;
    }

    pub(crate) async fn yield_now(&self) {
        self.core.yield_now().await;
    }

    pub(crate) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        Ok(File::Real(RealFile::open(&self.core, path, mode).await?))
    }

    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // From the path upwards to the first parent that is there, then down again.
        let mut missing: Vec<PathBuf> = vec![path.to_owned()];
        while let Some(next) = missing.last() {
            match self.core.ring.make_dir(c_path(next)?).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && next.is_dir() => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => match next.parent() {
                    Some(parent) if parent != Path::new("") => {
                        let parent = parent.to_owned();
                        missing.push(parent);
                        continue;
                    }
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            }
            // Also where it was there already: who made it may not have come to flush it.
            self.sync_dir(parent_of(next)).await?;
            missing.pop();
        }
        Ok(())
    }

    /// Blocks the core: for start-up.
    pub(crate) async fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.core.ring.rename(c_path(from)?, c_path(to)?).await
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.core.ring.unlink(c_path(path)?).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let directory = self.core.ring.open(c_path(path)?, libc::O_RDONLY | libc::O_DIRECTORY).await?;
        self.core.ring.sync_all(Lane::NAMES, &Rc::new(directory)).await
    }

    /// Blocks the core: for start-up.
    pub(crate) async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    pub(crate) async fn write_file_durably(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"));
        };
        // A fixed name: what a crash leaves is overwritten by the next attempt.
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(".new");
        let temporary = path.with_file_name(temporary);
        let written = async {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
            let file = Rc::new(self.core.ring.open(c_path(&temporary)?, flags).await?);
            let content = AlignedBuf::padded_copy(content).freeze().slice(0..content.len());
            let mut done = 0;
            while done < content.len() {
                let rest = content.slice(done..content.len());
                let mode = WriteMode::Unflushed;
                let written = self.core.ring.write(Lane::NAMES, &file, rest, done as u64, mode).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                done += written;
            }
            self.core.ring.sync_all(Lane::NAMES, &file).await?;
            self.rename(&temporary, path).await
        }
        .await;
        if let Err(error) = written {
            // The error above is what counts; the file is overwritten next time anyway.
            let _ = self.remove_file(&temporary).await;
            return Err(error);
        }
        self.sync_dir(parent_of(path)).await
    }

    /// Blocks the core for as long as the file system takes to count: microseconds.
    pub(crate) async fn disk_space(&self, path: &Path) -> io::Result<DiskSpace> {
        kernel::space(&c_path(path)?)
    }

    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener::Real(RealListener::bind(&self.core, address)?))
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        Ok(Stream::Real(RealStream::connect(&self.core, address).await?))
    }

    pub(crate) fn attach(&self, socket: OwnedFd) -> Stream {
        Stream::Real(RealStream::new(&self.core, socket))
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
