//! Space files: large, reserved in steps, written and read in units.
//!
//! What must hold: units are counted over all files, one file after the other, so that a unit's place never changes; all
//! files but the last have their full size. A flush that a chunk waits for starts after the chunk's last write came
//! back; all who wait share the next one. A failed flush fences the disk.

use super::entry::Extent;
use super::free::{FreeMap, bytes_of};
use crate::counters::{Counters, add};
use crate::error::{ChunkWriteError, DiskError};
use crate::fence::Fence;
use crate::limits::{DiskOptions, IO_BYTES_MAX, SPACE_FILES_MAX, UNIT_BYTES};
use crate::wait::WaitList;
use buckets_env::{AlignedBuf, AlignedBytes, Env, File, OpenMode, WriteMode};
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The smallest reservation worth making, in units.
const STEP_UNITS_MIN: u64 = 64;

/// One step takes at most this part of what may still be taken. Disks that share a file system (a trial on one machine)
/// would otherwise leave the last of them nothing, each with most of its own step unused.
const STEP_SHARE: u64 = 32;

struct SpaceFile {
    file: File,
    flushes: Rc<Flushes>,
}

/// The flushes of one file, numbered from 1.
struct Flushes {
    started: Cell<u64>,
    done: Cell<u64>,
    /// The last flush that somebody waits for.
    wanted: Cell<u64>,
    running: Cell<bool>,
}

/// A flush of one file that starts after the ticket was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushTicket {
    file: usize,
    number: u64,
}

/// A run inside one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// All chunk space of a disk.
pub(crate) struct Space {
    env: Env,
    dir: PathBuf,
    fence: Fence,
    counters: Counters,
    units_per_file: u64,
    step_units: u64,
    reserve_bytes: u64,
    files: RefCell<Vec<SpaceFile>>,
    pub(crate) free: RefCell<FreeMap>,
    growing: Cell<bool>,
    grown_wait: Rc<WaitList>,
}

impl Space {
    /// Opens the files in `dir`; there must be at least `units_needed` units afterwards.
    pub(crate) async fn open(
        env: &Env,
        dir: &Path,
        fence: Fence,
        counters: Counters,
        options: &DiskOptions,
        file_bytes: u64,
        units_needed: u64,
    ) -> io::Result<Space> {
        let units_per_file = file_bytes / UNIT_BYTES;
        let grown_wait = Rc::new(WaitList::default());
        fence.notifies(&grown_wait);
        let space = Space {
            env: env.clone(),
            dir: dir.to_owned(),
            fence,
            counters,
            units_per_file,
            step_units: options.space_step_bytes / UNIT_BYTES,
            reserve_bytes: options.space_reserve_bytes,
            files: RefCell::new(Vec::new()),
            free: RefCell::new(FreeMap::new()),
            growing: Cell::new(false),
            grown_wait,
        };
        let names = env.list_dir(dir).await?;
        let last = names.iter().filter_map(|name| number_of(name)).max();
        let count = u64::from(last.map_or(0, |last| last + 1)).max(units_needed.div_ceil(units_per_file));
        let mut units = 0;
        for number in 0..count {
            let path = path_of(dir, number as u32);
            let is_last = number + 1 == count;
            // A file that is gone, or shorter than it was, leaves its chunks damaged but not the others misplaced.
            let full = if is_last { units_needed.saturating_sub(units) } else { units_per_file };
            let file = match env.open(&path, OpenMode::Existing).await {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    tracing::error!(path = %path.display(), "space file is missing");
                    let file = env.open(&path, OpenMode::CreateNew).await?;
                    env.sync_dir(dir).await?;
                    file
                }
                Err(error) => return Err(error),
            };
            let mut size_units = (file.size().await? / UNIT_BYTES).min(units_per_file);
            if size_units < full {
                tracing::error!(path = %path.display(), size_units, full, "space file is too short");
                file.allocate(0, bytes_of(full)).await?;
                file.sync_data().await?;
                size_units = full;
            }
            space.push_file(file);
            units += size_units;
        }
        space.free.borrow_mut().grow(units);
        Ok(space)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn push_file(&self, file: File) {
        let flushes = Rc::new(Flushes {
            started: Cell::new(0),
            done: Cell::new(0),
            wanted: Cell::new(0),
            running: Cell::new(false),
        });
        self.files.borrow_mut().push(SpaceFile { file, flushes });
    }

    /// Takes `units` units, at `goal` if it is free; reserves more space where none is left.
    pub(crate) async fn allocate(
        &self,
        units: u32,
        goal: Option<u64>,
    ) -> Result<Vec<Extent>, ChunkWriteError> {
        loop {
            if let Some(extents) = self.free.borrow_mut().allocate(units, goal) {
                return Ok(extents);
            }
            self.grow(u64::from(units)).await?;
        }
    }

    /// Takes `units` units if that needs no new reservation.
    pub(crate) fn allocate_now(&self, units: u32, goal: Option<u64>) -> Option<Vec<Extent>> {
        self.free.borrow_mut().allocate(units, goal)
    }

    /// Reserves the next step, or waits for the one that is being reserved.
    async fn grow(&self, units: u64) -> Result<(), ChunkWriteError> {
        self.fence.check()?;
        if self.growing.replace(true) {
            return self
                .grown_wait
                .wait(0, || match self.fence.check() {
                    Err(error) => Some(Err(error.into())),
                    Ok(()) => (!self.growing.get()).then_some(Ok(())),
                })
                .await;
        }
        // Without this, a caller that is dropped in the middle would leave everyone else waiting.
        let _ended = Growing { space: self };
        let grown = self.grow_alone(units).await;
        match grown {
            Ok(()) => Ok(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                add(&self.counters.refused_no_space, 1);
                Err(ChunkWriteError::NoSpace)
            }
            Err(error) => {
                self.fence.close_for("reservation of chunk space", &error);
                Err(self.fence.check().err().unwrap_or(DiskError::Closed).into())
            }
        }
    }

    async fn grow_alone(&self, units: u64) -> io::Result<()> {
        let available = self.env.disk_space(&self.dir).await?.free_bytes.saturating_sub(self.reserve_bytes);
        let available = available / UNIT_BYTES;
        let step =
            self.step_units.min((available / STEP_SHARE).max(STEP_UNITS_MIN)).max(units).min(available);
        if step < STEP_UNITS_MIN.min(self.step_units) || self.free.borrow().free() + step < units {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let have = self.free.borrow().units();
        let number = have / self.units_per_file;
        if number >= u64::from(SPACE_FILES_MAX) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inside = have % self.units_per_file;
        let known = self.files.borrow().get(number as usize).map(|file| file.file.clone());
        let file = match known {
            Some(file) => file,
            None => {
                let file = self.create_file(number as u32).await?;
                self.push_file(file.clone());
                file
            }
        };
        let step = step.min(self.units_per_file - inside);
        file.allocate(bytes_of(inside), bytes_of(step)).await?;
        // The file's size must be known after a crash: chunks lie behind it.
        file.sync_data().await?;
        self.free.borrow_mut().grow(have + step);
        Ok(())
    }

    async fn create_file(&self, number: u32) -> io::Result<File> {
        let path = path_of(&self.dir, number);
        let file = match self.env.open(&path, OpenMode::CreateNew).await {
            // Left from a reservation that failed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.env.open(&path, OpenMode::Existing).await?
            }
            other => other?,
        };
        self.env.sync_dir(&self.dir).await?;
        Ok(file)
    }

    /// The places of extents, one after the other; none where a unit does not exist.
    pub(crate) fn parts(&self, extents: &[Extent]) -> Option<Vec<Part>> {
        let units = self.free.borrow().units();
        let mut parts: Vec<Part> = Vec::with_capacity(extents.len());
        for extent in extents {
            if extent.end() > units {
                return None;
            }
            let mut start = extent.start;
            while start < extent.end() {
                let file = start / self.units_per_file;
                let end = extent.end().min((file + 1) * self.units_per_file);
                let part = Part {
                    file: file as usize,
                    offset: bytes_of(start % self.units_per_file),
                    bytes: bytes_of(end - start) as usize,
                };
                match parts.last_mut() {
                    Some(last)
                        if last.file == part.file && last.offset + last.bytes as u64 == part.offset =>
                    {
                        last.bytes += part.bytes;
                    }
                    _ => parts.push(part),
                }
                start = end;
            }
        }
        Some(parts)
    }

    fn file(&self, number: usize) -> io::Result<File> {
        self.files
            .borrow()
            .get(number)
            .map(|file| file.file.clone())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes `data` over `parts`, without a copy.
    pub(crate) async fn write(&self, parts: &[Part], data: &AlignedBytes, mode: WriteMode) -> io::Result<()> {
        let mut at = 0;
        for part in parts {
            let file = self.file(part.file)?;
            file.write_at(part.offset, data.slice(at..at + part.bytes), mode).await?;
            at += part.bytes;
        }
        assert_eq!(at, data.len());
        Ok(())
    }

    /// Reads one part, at most [`IO_BYTES_MAX`] long.
    pub(crate) async fn read(&self, part: Part) -> io::Result<AlignedBuf> {
        assert!(part.bytes <= IO_BYTES_MAX);
        self.file(part.file)?.read_at(part.offset, part.bytes).await
    }

    /// A ticket for the next flush of a file; starts it where none is running. `flushed` is called after each.
    pub(crate) fn flush(self: &Rc<Self>, file: usize, flushed: impl Fn() + 'static) -> FlushTicket {
        let flushes = self.files.borrow()[file].flushes.clone();
        let number = flushes.started.get() + 1;
        flushes.wanted.set(number);
        add(&self.counters.data_flush_waits, 1);
        if !flushes.running.replace(true) {
            let space = self.clone();
            self.env.spawn(async move { space.run_flushes(file, &flushes, flushed).await });
        }
        FlushTicket { file, number }
    }

    async fn run_flushes(&self, file: usize, flushes: &Flushes, flushed: impl Fn()) {
        while flushes.wanted.get() > flushes.started.get() && !self.fence.is_closed() {
            flushes.started.set(flushes.started.get() + 1);
            let outcome = match self.file(file) {
                Ok(file) => file.sync_data().await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.fence.close_for("flush of chunk space", &error);
            }
            if self.fence.is_closed() {
                break;
            }
            add(&self.counters.data_flushes, 1);
            flushes.done.set(flushes.started.get());
            flushed();
        }
        flushes.running.set(false);
    }

    /// True where the flush of the ticket is done.
    pub(crate) fn is_flushed(&self, ticket: FlushTicket) -> bool {
        self.files.borrow()[ticket.file].flushes.done.get() >= ticket.number
    }
}

struct Growing<'a> {
    space: &'a Space,
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        self.space.growing.set(false);
        self.space.grown_wait.reach_all();
    }
}

fn path_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.space"))
}

fn number_of(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(".space")?;
    let number = u32::from_str_radix(stem, 16).ok()?;
    (stem.len() == 8 && number < SPACE_FILES_MAX).then_some(number)
}
