//! Files on the core's ring.

use super::core::Core;
use super::faults::Victim;
use super::ring::{FileStatus, Lane, PIECE_BYTES_MAX, ReadBuffer};
use crate::{ALIGNMENT, AlignedBuf, AlignedBytes, Fault, OpenMode, WriteMode};
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a file that a killed process still writes to is waited for.
const FORMER_LIFE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at.
const FORMER_LIFE_LOOK: Duration = Duration::from_millis(2);

/// An open file on a core's ring; clones share it.
#[derive(Clone)]
pub struct RealFile {
    open: Rc<OpenFile>,
}

struct OpenFile {
    core: Rc<Core>,
    /// `None` only while it is being dropped. Operations in the kernel hold it too.
    descriptor: Option<Rc<OwnedFd>>,
    lane: Lane,
    victim: Option<Victim>,
    _life: Life,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Where an abandoned operation still holds the descriptor, that one closes it.
        if let Some(descriptor) = self.descriptor.take().and_then(Rc::into_inner) {
            self.core.ring.close(descriptor);
        }
    }
}

impl RealFile {
    pub(super) async fn open(core: &Rc<Core>, path: &Path, mode: OpenMode) -> io::Result<RealFile> {
        let name = c_path(path)?;
        let (descriptor, direct) = open_direct(core, &name, mode).await?;
        if !direct {
            tracing::warn!(path = %path.display(), "no O_DIRECT on this file system: I/O goes through the page cache");
        }
        let life = wait_for_former_life(core, &descriptor).await?;
        let descriptor = Rc::new(descriptor);
        let status = core.ring.status(Lane::NAMES, &descriptor).await?;
        let lane = core.ring.lane(status.device);
        let victim = Victim::new(core, path);
        Ok(RealFile {
            open: Rc::new(OpenFile {
                core: core.clone(),
                descriptor: Some(descriptor),
                lane,
                victim,
                _life: life,
            }),
        })
    }

    fn descriptor(&self) -> &Rc<OwnedFd> {
        match &self.open.descriptor {
            Some(descriptor) => descriptor,
            None => unreachable!("the descriptor is taken only when the last handle is dropped"),
        }
    }

    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        refuse_unaligned(offset, len as u64)?;
        let Some(victim) = &self.open.victim else { return self.read_well(offset, len).await };
        let work = async {
            victim.fails(Fault::Read)?;
            let mut buffer = self.read_well(offset, len).await?;
            if victim.strikes(Fault::BitRot) {
                buffer[len / 2] ^= 1;
            }
            Ok(buffer)
        };
        Box::pin(victim.slowed(work)).await
    }

    async fn read_well(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.open.core.look_at_doorbell();
        let buffer = ReadBuffer::new(len);
        if len <= PIECE_BYTES_MAX {
            self.read_piece(&buffer, offset, 0..len).await?;
        } else {
            try_join_all(pieces(len).map(|piece| self.read_piece(&buffer, offset, piece))).await?;
        }
        Ok(buffer.into_filled())
    }

    /// Reads `piece` of the buffer, whose start stands for `offset` in the file. A short read is continued; one
    /// that brings no whole unit any more is the end of the file.
    async fn read_piece(&self, buffer: &Rc<ReadBuffer>, offset: u64, piece: Range<usize>) -> io::Result<()> {
        let mut done = piece.start;
        while done < piece.end {
            let at = offset + done as u64;
            let ring = &self.open.core.ring;
            let read = match ring.read(self.open.lane, self.descriptor(), buffer, (done, piece.end), at).await
            {
                Err(error) if is_transient(&error) => continue,
                other => other?,
            };
            let progress = if done + read == piece.end { read } else { read - read % ALIGNMENT };
            if progress == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!(
                        "the file ends at {}, {} bytes were asked for",
                        at + read as u64,
                        piece.end - done
                    ),
                ));
            }
            done += progress;
        }
        Ok(())
    }

    pub(crate) async fn write_at(&self, offset: u64, data: AlignedBytes, mode: WriteMode) -> io::Result<()> {
        refuse_unaligned(offset, data.len() as u64)?;
        if !data.is_aligned() {
            return Err(unaligned("the address of the data"));
        }
        let Some(victim) = &self.open.victim else { return self.write_well(offset, data, mode).await };
        let work = async {
            victim.fails(Fault::Write)?;
            if mode == WriteMode::Flushed && victim.strikes(Fault::Flush) {
                self.write_well(offset, data, WriteMode::Unflushed).await?;
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            if victim.strikes(Fault::LostWrite) {
                return Ok(());
            }
            let elsewhere = if victim.strikes(Fault::MisdirectedWrite) { data.len() as u64 } else { 0 };
            self.write_well(offset + elsewhere, data, mode).await
        };
        Box::pin(victim.slowed(work)).await
    }

    async fn write_well(&self, offset: u64, data: AlignedBytes, mode: WriteMode) -> io::Result<()> {
        self.open.core.look_at_doorbell();
        if data.len() <= PIECE_BYTES_MAX {
            return self.write_piece(offset, data, mode).await;
        }
        // One flush behind all pieces costs less than one in each.
        let parts = pieces(data.len()).map(|piece| {
            self.write_piece(offset + piece.start as u64, data.slice(piece), WriteMode::Unflushed)
        });
        try_join_all(parts).await?;
        match mode {
            WriteMode::Unflushed => Ok(()),
            WriteMode::Flushed => self.flush_well().await,
        }
    }

    async fn write_piece(&self, mut offset: u64, mut data: AlignedBytes, mode: WriteMode) -> io::Result<()> {
        while !data.is_empty() {
            let ring = &self.open.core.ring;
            let written =
                match ring.write(self.open.lane, self.descriptor(), data.clone(), offset, mode).await {
                    Err(error) if is_transient(&error) => continue,
                    other => other?,
                };
            // A part of a unit is written again with the rest.
            let progress = if written == data.len() { written } else { written - written % ALIGNMENT };
            if progress == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("the kernel took {written} of {} bytes at {offset}", data.len()),
                ));
            }
            offset += progress as u64;
            data = data.slice(progress..data.len());
        }
        Ok(())
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        let Some(victim) = &self.open.victim else { return self.flush_well().await };
        let work = async {
            victim.fails(Fault::Flush)?;
            self.flush_well().await
        };
        Box::pin(victim.slowed(work)).await
    }

    async fn flush_well(&self) -> io::Result<()> {
        self.open.core.look_at_doorbell();
        // Never repeated, whatever the error: after a failed flush the kernel has forgotten what was dirty.
        self.open.core.ring.sync_data(self.open.lane, self.descriptor()).await
    }

    pub(crate) async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fallocate(offset, len, 0).await
    }

    pub(crate) async fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fallocate(offset, len, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).await
    }

    async fn fallocate(&self, offset: u64, len: u64, mode: i32) -> io::Result<()> {
        if let Some(victim) = &self.open.victim {
            victim.fails(Fault::Write)?;
        }
        self.open.core.look_at_doorbell();
        loop {
            match self.open.core.ring.fallocate(self.open.lane, self.descriptor(), offset, len, mode).await {
                Err(error) if is_transient(&error) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn size(&self) -> io::Result<u64> {
        let FileStatus { size, .. } = self.open.core.ring.status(self.open.lane, self.descriptor()).await?;
        Ok(size)
    }
}

/// Opens with O_DIRECT, or without where the file system refuses it (then `false`).
async fn open_direct(core: &Rc<Core>, name: &CString, mode: OpenMode) -> io::Result<(OwnedFd, bool)> {
    let create = match mode {
        OpenMode::Existing => 0,
        OpenMode::CreateNew => libc::O_CREAT | libc::O_EXCL,
    };
    match core.ring.open(name.clone(), libc::O_RDWR | libc::O_DIRECT | create).await {
        // The kernel looks at O_DIRECT after it has created the file, so the name is there now and it is ours.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let descriptor = core.ring.open(name.clone(), libc::O_RDWR | (create & libc::O_CREAT)).await?;
            Ok((descriptor, false))
        }
        other => Ok((other?, true)),
    }
}

/// Files that this process has open, by device and inode, with the number of handles. Shared by all cores, looked at
/// only when files are opened and closed.
static OPEN_FILES: Mutex<BTreeMap<(u64, u64), usize>> = Mutex::new(BTreeMap::new());

/// One handle in [`OPEN_FILES`].
struct Life {
    file: (u64, u64),
}

impl Life {
    fn begin(file: (u64, u64)) -> Life {
        *lock_open_files().entry(file).or_default() += 1;
        Life { file }
    }

    fn goes_on(file: (u64, u64)) -> bool {
        lock_open_files().contains_key(&file)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut open = lock_open_files();
        if let Some(handles) = open.get_mut(&self.file) {
            *handles -= 1;
            if *handles == 0 {
                open.remove(&self.file);
            }
        }
    }
}

fn lock_open_files() -> MutexGuard<'static, BTreeMap<(u64, u64), usize>> {
    // A panic on a core ends the process: nobody sees a poisoned lock.
    OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that was killed may have writes in flight for a while after it is gone; were they to land after recovery has
/// read the file, they would undo what comes then. The kernel keeps the file's description, and so the lock on it, until
/// the last of them has ended.
async fn wait_for_former_life(core: &Core, descriptor: &OwnedFd) -> io::Result<Life> {
    let status = rustix::fs::fstat(descriptor)?;
    let file = (status.st_dev, status.st_ino);
    let start = std::time::Instant::now();
    loop {
        match rustix::fs::flock(descriptor, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Life::begin(file)),
            // Its own other handle (a table that is written, and read already) is no former life.
            Err(rustix::io::Errno::WOULDBLOCK) if Life::goes_on(file) => return Ok(Life::begin(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < FORMER_LIFE_MAX => {
                core.timers.sleep(FORMER_LIFE_LOOK).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what = "another process uses this file, or one that was killed is still writing to it";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
            }
            // A file system without locks: nothing can be waited for.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(Life::begin(file)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A path as the kernel takes it.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a zero byte"))
}

fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(PIECE_BYTES_MAX).map(move |start| start..len.min(start + PIECE_BYTES_MAX))
}

/// Nothing happened: ask again. (A flush is never repeated, it has its own path.)
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

fn refuse_unaligned(offset: u64, len: u64) -> io::Result<()> {
    if !offset.is_multiple_of(ALIGNMENT as u64) {
        return Err(unaligned("the offset"));
    }
    if len == 0 || !len.is_multiple_of(ALIGNMENT as u64) {
        return Err(unaligned("the length"));
    }
    Ok(())
}

fn unaligned(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what} is not a multiple of {ALIGNMENT} (or zero)"))
}
