//! What one simulated core sees of the world.
//!
//! What must hold: an env belongs to one life of its node. After a crash nothing it is asked for happens: its
//! operations never end, its tasks are dropped; the next life begins with a new env.

use super::disk_io::{self, DiskAnswer, DiskOp, Handle};
use super::executor::{Event, Life, TaskFuture};
use super::inode::Change;
use super::stream::{SimDetached, SimListener, SimStream};
use super::world::{Trace, World};
use crate::{
    ALIGNMENT, AlignedBuf, AlignedBytes, DiskSpace, File, Instant, Listener, OpenMode, Stream, WriteMode,
};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The outside world of one core of a simulated node.
#[derive(Clone)]
pub struct SimEnv {
    pub(super) world: Rc<World>,
    pub(super) life: Life,
    pub(super) core: usize,
}

impl SimEnv {
    /// The index of the core.
    pub fn core(&self) -> usize {
        self.core
    }

    pub(crate) fn now(&self) -> Instant {
        let nodes = self.world.nodes.borrow();
        Instant(nodes[self.life.node as usize].clock.now(self.world.now()))
    }

    pub(crate) fn unix_millis(&self) -> u64 {
        self.world.unix_millis(self.life.node)
    }

    pub(crate) fn random_u64(&self) -> u64 {
        let number = self.world.nodes.borrow_mut()[self.life.node as usize].random.next_u64();
        self.world.trace(Trace::Random, number, u64::from(self.life.node));
        number
    }

    pub(crate) fn spawn(&self, task: TaskFuture) {
        self.world.spawn(self.life, task);
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            return self.yield_now().await;
        }
        let until = self.now().after(duration);
        let mut left = duration;
        // The clock may stand still meanwhile.
        while !left.is_zero() {
            let wait = self.world.nodes.borrow()[self.life.node as usize].clock.virtual_nanos(left);
            let deadline = self.world.now().saturating_add(wait);
            Sleep { world: self.world.clone(), deadline, timer: None }.await;
            left = until.since(self.now());
        }
    }

    pub(crate) async fn yield_if_needed(&self) {
        // Real slices end at any point: often enough that both ways are tried.
        let ends = self.world.nodes.borrow_mut()[self.life.node as usize].disk_rng.one_in(4);
        if ends {
            self.yield_now().await;
        }
    }

    pub(crate) async fn yield_now(&self) {
        // What is runnable now is in this round of the executor or in the next, whose order is random: a task
        // that also sits the next one out runs after all of it.
        let mut rounds_left = 2;
        std::future::poll_fn(|cx| {
            if rounds_left == 0 {
                return Poll::Ready(());
            }
            rounds_left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    async fn disk(&self, op: DiskOp) -> io::Result<DiskAnswer> {
        disk_io::run(&self.world, self.life, op).await
    }

    async fn opened(&self, op: DiskOp) -> io::Result<SimFile> {
        match self.disk(op).await? {
            DiskAnswer::Opened(handle) => {
                Ok(SimFile { open: Rc::new(OpenFile { world: self.world.clone(), life: self.life, handle }) })
            }
            _ => unreachable!("opening gives a handle"),
        }
    }

    async fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let path = path.to_path_buf();
        self.opened(match mode {
            OpenMode::Existing => DiskOp::Open { path },
            OpenMode::CreateNew => DiskOp::Create { path },
        })
        .await
    }

    pub(crate) async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        Ok(File::Sim(self.open_file(path, mode).await?))
    }

    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk(DiskOp::CreateDirectories { path: path.to_path_buf() }).await.map(drop)
    }

    pub(crate) async fn list_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        match self.disk(DiskOp::List { path: path.to_path_buf() }).await? {
            DiskAnswer::Names(names) => Ok(names),
            _ => unreachable!("listing gives names"),
        }
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk(DiskOp::Rename { from: from.to_path_buf(), to: to.to_path_buf() }).await.map(drop)
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk(DiskOp::Remove { path: path.to_path_buf() }).await.map(drop)
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk(DiskOp::SyncDirectory { path: path.to_path_buf() }).await.map(drop)
    }

    pub(crate) async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_file(path, OpenMode::Existing).await?;
        let size = file.size().await?;
        let size = usize::try_from(size).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
        Ok(file.read(0, size).await?.to_vec())
    }

    pub(crate) async fn write_file_durably(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temporary = PathBuf::from(path).into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        match self.remove_file(&temporary).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.open_file(&temporary, OpenMode::CreateNew).await?;
        if !content.is_empty() {
            let data = AlignedBuf::padded_copy(content).freeze();
            let change = Change::Write { offset: 0, data, end: content.len() as u64 };
            file.change(change, WriteMode::Unflushed).await?;
        }
        file.sync_data().await?;
        self.rename(&temporary, path).await?;
        match path.parent() {
            Some(directory) => self.sync_dir(directory).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn disk_space(&self, path: &Path) -> io::Result<DiskSpace> {
        match self.disk(DiskOp::Space { path: path.to_path_buf() }).await? {
            DiskAnswer::Space(space) => Ok(space),
            _ => unreachable!("the question was for space"),
        }
    }

    /// Connects to a listener of this or another simulated node.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        Ok(Stream::Sim(SimStream::connect(self, address).await?))
    }

    pub(crate) fn attach(&self, detached: SimDetached) -> Stream {
        Stream::Sim(SimStream::attach(self, detached))
    }

    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener::Sim(SimListener::bind(self, address)?))
    }
}

/// Ends at a point in virtual time.
struct Sleep {
    world: Rc<World>,
    deadline: u64,
    timer: Option<u32>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.deadline {
            self.timer = None;
            return Poll::Ready(());
        }
        match self.timer {
            Some(timer) => self.world.timers.borrow_mut().rearm(timer, cx.waker()),
            None => {
                let event = Event::Wake(cx.waker().clone());
                self.timer = Some(self.world.schedule(self.deadline, event));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // At its deadline the timer fires whether or not somebody waits, and its slot may be in other hands.
        if let Some(timer) = self.timer.filter(|_| self.world.now() < self.deadline) {
            let event = self.world.timers.borrow_mut().cancel(timer);
            drop(event);
        }
    }
}

struct OpenFile {
    world: Rc<World>,
    life: Life,
    handle: Handle,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.world.is_alive(self.life) {
            let nodes = &mut self.world.nodes.borrow_mut();
            nodes[self.life.node as usize].files.close_handle(self.handle.ino);
        }
    }
}

/// An open file of a simulated node; clones share it.
#[derive(Clone)]
pub struct SimFile {
    open: Rc<OpenFile>,
}

impl SimFile {
    async fn disk(&self, op: DiskOp) -> io::Result<DiskAnswer> {
        // Keeps the handle open for as long as somebody waits.
        let open = self.open.clone();
        disk_io::run(&open.world, open.life, op).await
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        match self.disk(DiskOp::Read { file: self.open.handle, offset, len }).await? {
            DiskAnswer::Data(data) => Ok(data),
            _ => unreachable!("reading gives data"),
        }
    }

    async fn change(&self, change: Change, mode: WriteMode) -> io::Result<()> {
        self.disk(DiskOp::Change { file: self.open.handle, change, mode }).await.map(drop)
    }

    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        assert_aligned(offset, len as u64);
        self.read(offset, len).await
    }

    pub(crate) async fn write_at(&self, offset: u64, data: AlignedBytes, mode: WriteMode) -> io::Result<()> {
        assert_aligned(offset, data.len() as u64);
        assert!(data.is_aligned(), "direct I/O needs data at an aligned address");
        let end = offset.checked_add(data.len() as u64).ok_or(ErrorKind::FileTooLarge)?;
        self.change(Change::Write { offset, data, end }, mode).await
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        let OpenFile { world, life, handle } = &*self.open;
        let upto = world.nodes.borrow()[life.node as usize].files.completed(handle.ino);
        self.disk(DiskOp::Flush { file: *handle, upto }).await.map(drop)
    }

    pub(crate) async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        offset.checked_add(len).ok_or(ErrorKind::FileTooLarge)?;
        self.change(Change::Allocate { offset, len }, WriteMode::Unflushed).await
    }

    pub(crate) async fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        assert_aligned(offset, len);
        offset.checked_add(len).ok_or(ErrorKind::FileTooLarge)?;
        self.change(Change::Punch { offset, len }, WriteMode::Unflushed).await
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        let OpenFile { world, life, handle } = &*self.open;
        if !world.is_alive(*life) {
            return disk_io::never(world, *life).await;
        }
        world.nodes.borrow()[life.node as usize].files.size(handle.ino, handle.pulls)
    }
}

fn assert_aligned(offset: u64, len: u64) {
    let alignment = ALIGNMENT as u64;
    assert!(
        offset.is_multiple_of(alignment) && len.is_multiple_of(alignment),
        "direct I/O needs offset {offset} and length {len} to be multiples of {alignment}"
    );
}
