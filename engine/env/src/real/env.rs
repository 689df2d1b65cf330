//! What a core sees of the real world.

use crate::{DiskSpace, File, Instant, Listener, OpenMode};
use futures::future::LocalBoxFuture;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The real world as one core sees it.
#[derive(Clone)]
pub struct RealEnv {
    start: std::time::Instant,
    _one_core: Rc<()>,
}

impl RealEnv {
    pub(crate) fn now(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn unix_millis(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn random_u64(&self) -> u64 {
        getrandom::u64()
            .unwrap_or_else(|error| panic!("the operating system gives no random numbers: {error}"))
    }

    pub(crate) fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        glommio::spawn_local(task).detach();
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    pub(crate) async fn yield_if_needed(&self) {
        glommio::yield_if_needed().await;
    }

    pub(crate) async fn yield_now(&self) {
        glommio::executor().yield_now().await;
    }

    pub(crate) async fn open(&self, _path: &Path, _mode: OpenMode) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    pub(crate) async fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    pub(crate) async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    pub(crate) async fn write_file_durably(&self, _path: &Path, _content: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) async fn disk_space(&self, _path: &Path) -> io::Result<DiskSpace> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn listen(&self, _address: SocketAddr) -> io::Result<Listener> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
