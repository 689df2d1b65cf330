//! The disks of one simulated node: names, files and what of both survives a crash.
//!
//! What must hold:
//! - A created, renamed or removed name is durable after a flush of its directory. A crash keeps a prefix of
//!   the unflushed name changes of each directory (file systems log them in order); a rename is kept or lost
//!   as a whole. Directories are durable when they are made.
//! - A *disk* is a path prefix. It has its own capacity, faults and latency, and can be pulled, emptied and put
//!   back. What no disk was declared for lies on the node's root disk.
//! - Nothing here knows time or tasks: operations happen when they are called.

use super::fault::{DiskIoCounts, OneShot};
use super::inode::{Change, Inode, PAGE_BYTES, Survival};
use super::rng::SimRng;
use crate::{AlignedBuf, DiskSpace, WriteMode};
use crate::{DiskFaults, Fault};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::path::{Path, PathBuf};

pub(super) type Ino = u32;

/// Capacity of a disk where none was set, in bytes.
const DEFAULT_CAPACITY_BYTES: u64 = 1 << 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(Ino),
}

#[derive(Debug)]
enum NameChange {
    Create { path: PathBuf, ino: Ino },
    Rename { from: PathBuf, to: PathBuf, ino: Ino },
    Remove { path: PathBuf, ino: Ino },
}

impl NameChange {
    fn ino(&self) -> Ino {
        match self {
            NameChange::Create { ino, .. }
            | NameChange::Rename { ino, .. }
            | NameChange::Remove { ino, .. } => *ino,
        }
    }
    fn directories(&self) -> [&Path; 2] {
        match self {
            NameChange::Create { path, .. } | NameChange::Remove { path, .. } => [parent(path), parent(path)],
            NameChange::Rename { from, to, .. } => [parent(from), parent(to)],
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// One disk of a node.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) prefix: PathBuf,
    pub(super) capacity_bytes: u64,
    used_bytes: u64,
    pub(super) faults: DiskFaults,
    pub(super) planned: Vec<OneShot>,
    pub(super) counts: DiskIoCounts,
    pub(super) removed: bool,
    /// Times that the disk was pulled: older handles are dead.
    pub(super) pulls: u32,
}

impl Disk {
    fn new(prefix: PathBuf) -> Disk {
        Disk {
            prefix,
            capacity_bytes: DEFAULT_CAPACITY_BYTES,
            used_bytes: 0,
            faults: DiskFaults::default(),
            planned: Vec::new(),
            counts: DiskIoCounts::default(),
            removed: false,
            pulls: 0,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// True where `fault` strikes now: planned for this operation, or by chance.
    fn strikes(&mut self, fault: Fault, rng: &mut SimRng) -> bool {
        let mut planned = false;
        self.planned.retain_mut(|shot| {
            if shot.fault != fault {
                return true;
            }
            if shot.skip > 0 {
                shot.skip -= 1;
                return true;
            }
            planned = true;
            false
        });
        let struck = planned || rng.per_million(self.faults.per_million(fault));
        if struck {
            self.counts.faults += 1;
        }
        struck
    }
}

/// A failure of the medium.
pub(super) fn device_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn no_entry(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

/// All disks of a node.
#[derive(Debug)]
pub(super) struct FileSystem {
    visible: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    log: Vec<NameChange>,
    inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    pub(super) disks: Vec<Disk>,
}

impl FileSystem {
    pub(super) fn new() -> FileSystem {
        FileSystem {
            visible: BTreeMap::new(),
            durable: BTreeMap::new(),
            log: Vec::new(),
            inodes: BTreeMap::new(),
            next_ino: 1,
            disks: vec![Disk::new(PathBuf::from("/"))],
        }
    }

    // Disks.

    /// The disk with exactly this prefix, declared now if it was not. Files below it move to it.
    pub(super) fn declare_disk(&mut self, prefix: &Path) -> usize {
        if let Some(disk) = self.disks.iter().position(|disk| disk.prefix == prefix) {
            return disk;
        }
        self.disks.push(Disk::new(prefix.to_path_buf()));
        let files: Vec<(PathBuf, Ino)> =
            [&self.visible, &self.durable].into_iter().flatten().filter_map(file_of).collect();
        for (path, ino) in files {
            let disk = self.disk_of(&path);
            self.inode(ino).disk = disk;
        }
        for disk in 0..self.disks.len() {
            self.count_used_bytes(disk);
        }
        self.disks.len() - 1
    }

    /// The disk that `path` lies on.
    pub(super) fn disk_of(&self, path: &Path) -> usize {
        let depth = |disk: &Disk| disk.prefix.components().count();
        (1..self.disks.len())
            .filter(|disk| path.starts_with(&self.disks[*disk].prefix))
            .max_by_key(|disk| depth(&self.disks[*disk]))
            .unwrap_or(0)
    }

    pub(super) fn disk_of_file(&self, ino: Ino) -> usize {
        self.inodes.get(&ino).map_or(0, |inode| inode.disk)
    }

    fn present_disk_of(&self, path: &Path) -> io::Result<usize> {
        let disk = self.disk_of(path);
        if self.disks[disk].removed { Err(no_entry(path)) } else { Ok(disk) }
    }

    fn count_used_bytes(&mut self, disk: usize) {
        self.disks[disk].used_bytes =
            self.inodes.values().filter(|inode| inode.disk == disk).map(Inode::used_bytes).sum();
    }

    pub(super) fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let disk = &self.disks[self.present_disk_of(path)?];
        Ok(DiskSpace {
            free_bytes: disk.capacity_bytes.saturating_sub(disk.used_bytes),
            total_bytes: disk.capacity_bytes,
        })
    }

    /// Pulls a disk out: its cache is lost, its names are not found, its handles fail.
    pub(super) fn pull(&mut self, disk: usize, rng: &mut SimRng) {
        if self.disks[disk].removed {
            return;
        }
        self.lose_caches(&|fs, path| fs.disk_of(path) == disk, Some(disk), Vec::new(), rng);
        self.disks[disk].removed = true;
        self.disks[disk].pulls += 1;
    }

    /// Empties a disk, durably, as `rm -rf` of its content does: open handles go on with the removed files.
    pub(super) fn empty(&mut self, disk: usize) {
        let prefix = self.disks[disk].prefix.clone();
        let below = |fs: &FileSystem, path: &Path| fs.disk_of(path) == disk && path != prefix;
        let log = std::mem::take(&mut self.log);
        for change in log {
            if change.directories().iter().any(|directory| self.disk_of(directory) == disk) {
                self.unlink(change.ino());
            } else {
                self.log.push(change);
            }
        }
        for names in [true, false] {
            let map = if names { &self.visible } else { &self.durable };
            let doomed: Vec<(PathBuf, Entry)> =
                map.iter().filter(|(path, _)| below(self, path)).map(|(p, e)| (p.clone(), *e)).collect();
            for (path, entry) in doomed {
                if names {
                    self.visible.remove(&path)
                } else {
                    self.durable.remove(&path)
                };
                if let Entry::File(ino) = entry {
                    self.unlink(ino);
                }
            }
        }
    }

    // Names.

    pub(super) fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        self.present_disk_of(path)?;
        for directory in path.ancestors() {
            match self.visible.get(directory) {
                Some(Entry::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                Some(Entry::Directory) => {}
                None => {
                    self.visible.insert(directory.to_path_buf(), Entry::Directory);
                }
            }
            self.durable.insert(directory.to_path_buf(), Entry::Directory);
        }
        Ok(())
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.parent().is_none()
            || path.as_os_str().is_empty()
            || self.visible.get(path) == Some(&Entry::Directory)
    }

    fn file(&self, path: &Path) -> io::Result<Ino> {
        match self.visible.get(path) {
            Some(Entry::File(ino)) => Ok(*ino),
            Some(Entry::Directory) => Err(ErrorKind::IsADirectory.into()),
            None => Err(no_entry(path)),
        }
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<Ino> {
        self.present_disk_of(path)?;
        self.file(path)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Ino> {
        let disk = self.present_disk_of(path)?;
        if self.visible.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !self.is_directory(parent(path)) {
            return Err(no_entry(parent(path)));
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, Inode::new(disk));
        self.visible.insert(path.to_path_buf(), Entry::File(ino));
        self.log.push(NameChange::Create { path: path.to_path_buf(), ino });
        Ok(ino)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.present_disk_of(from)? != self.present_disk_of(to)? {
            return Err(ErrorKind::CrossesDevices.into());
        }
        let ino = self.file(from)?;
        if !self.is_directory(parent(to)) {
            return Err(no_entry(parent(to)));
        }
        let replaced = match self.visible.get(to) {
            Some(Entry::Directory) => return Err(ErrorKind::IsADirectory.into()),
            Some(Entry::File(other)) => Some(*other),
            None => None,
        };
        if replaced == Some(ino) {
            return Ok(());
        }
        self.visible.remove(from);
        self.visible.insert(to.to_path_buf(), Entry::File(ino));
        self.inode(ino).names += 1;
        self.log.push(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), ino });
        if let Some(replaced) = replaced {
            self.unlink(replaced);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.present_disk_of(path)?;
        let ino = self.file(path)?;
        self.visible.remove(path);
        // The name's count goes over to the log entry.
        self.log.push(NameChange::Remove { path: path.to_path_buf(), ino });
        Ok(())
    }

    /// Names in a directory, sorted.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.present_disk_of(path)?;
        if !self.is_directory(path) {
            return Err(no_entry(path));
        }
        let below = (Bound::Excluded(path), Bound::Unbounded);
        let mut names: Vec<String> = self
            .visible
            .range::<Path, _>(below)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(path))
            .filter(|name| name.parent() == Some(path))
            .filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Makes the name changes of a directory durable, and those that they follow in other directories.
    pub(super) fn sync_directory(&mut self, path: &Path, rng: &mut SimRng) -> io::Result<()> {
        let disk = self.present_disk_of(path)?;
        if !self.is_directory(path) {
            return Err(no_entry(path));
        }
        if self.disks[disk].strikes(Fault::Flush, rng) {
            return Err(device_error());
        }
        let mut directories = vec![path.to_path_buf()];
        let mut flushed = Vec::new();
        for change in std::mem::take(&mut self.log).into_iter().rev() {
            if change.directories().iter().any(|touched| directories.iter().any(|d| d == touched)) {
                directories.extend(change.directories().iter().map(|touched| touched.to_path_buf()));
                flushed.push(change);
            } else {
                self.log.push(change);
            }
        }
        self.log.reverse();
        for change in flushed.into_iter().rev() {
            self.make_durable(change);
        }
        Ok(())
    }

    fn make_durable(&mut self, change: NameChange) {
        match change {
            NameChange::Create { path, ino } => self.set_durable(path, ino),
            NameChange::Rename { from, to, ino } => {
                if self.durable.get(&from) == Some(&Entry::File(ino)) {
                    self.durable.remove(&from);
                    self.unlink(ino);
                }
                self.set_durable(to, ino);
            }
            NameChange::Remove { path, ino } => {
                if self.durable.get(&path) == Some(&Entry::File(ino)) {
                    self.durable.remove(&path);
                    self.unlink(ino);
                }
                self.unlink(ino);
            }
        }
    }

    /// The count of the log entry goes over to the durable name.
    fn set_durable(&mut self, path: PathBuf, ino: Ino) {
        if let Some(Entry::File(replaced)) = self.durable.insert(path, Entry::File(ino)) {
            self.unlink(replaced);
        }
    }

    /// Removes one count of a name; a file without names and handles is gone.
    fn unlink(&mut self, ino: Ino) {
        let inode = self.inode(ino);
        inode.names -= 1;
        self.drop_if_unused(ino);
    }

    fn drop_if_unused(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get(&ino) else { return };
        if inode.names == 0 && inode.handles == 0 {
            // Amid a crash the sum lags behind; it is counted anew at its end.
            let disk = &mut self.disks[inode.disk];
            disk.used_bytes = disk.used_bytes.saturating_sub(inode.used_bytes());
            self.inodes.remove(&ino);
        }
    }

    fn inode(&mut self, ino: Ino) -> &mut Inode {
        match self.inodes.get_mut(&ino) {
            Some(inode) => inode,
            None => unreachable!("file {ino} has a name or a handle"),
        }
    }

    // Content.

    /// Counts a handle. The result dates it: a handle from before a pull is dead.
    pub(super) fn open_handle(&mut self, ino: Ino) -> u32 {
        self.inode(ino).handles += 1;
        self.disks[self.disk_of_file(ino)].pulls
    }

    pub(super) fn close_handle(&mut self, ino: Ino) {
        self.inode(ino).handles -= 1;
        self.drop_if_unused(ino);
    }

    /// The disk of an open file, if the handle is alive.
    fn disk_of_handle(&self, ino: Ino, pulls: u32) -> io::Result<usize> {
        let disk = self.disk_of_file(ino);
        if self.disks[disk].removed || self.disks[disk].pulls != pulls {
            Err(device_error())
        } else {
            Ok(disk)
        }
    }

    pub(super) fn size(&self, ino: Ino, pulls: u32) -> io::Result<u64> {
        self.disk_of_handle(ino, pulls)?;
        Ok(self.inodes.get(&ino).map_or(0, Inode::size))
    }

    /// The number of the newest change that a flush starting now covers.
    pub(super) fn completed(&self, ino: Ino) -> u64 {
        self.inodes.get(&ino).map_or(0, Inode::completed)
    }

    pub(super) fn read(
        &mut self,
        ino: Ino,
        pulls: u32,
        offset: u64,
        len: usize,
        rng: &mut SimRng,
    ) -> io::Result<AlignedBuf> {
        let disk = self.disk_of_handle(ino, pulls)?;
        self.disks[disk].counts.reads += 1;
        self.disks[disk].counts.bytes_read += len as u64;
        if self.disks[disk].strikes(Fault::Read, rng) {
            return Err(device_error());
        }
        let rots = len > 0 && self.disks[disk].strikes(Fault::BitRot, rng);
        let inode = self.inode(ino);
        if offset.checked_add(len as u64).is_none_or(|end| end > inode.size()) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if inode.is_unreadable(offset, len as u64) {
            return Err(device_error());
        }
        if rots {
            inode.flip(offset + rng.below(len as u64), 1 << rng.below(8));
        }
        let mut buffer = AlignedBuf::with_len(len);
        inode.read(offset, &mut buffer);
        Ok(buffer)
    }

    /// A write, reservation or hole takes effect.
    pub(super) fn change(
        &mut self,
        ino: Ino,
        pulls: u32,
        change: Change,
        mode: WriteMode,
        rng: &mut SimRng,
    ) -> io::Result<()> {
        let disk = self.disk_of_handle(ino, pulls)?;
        let mut change = change;
        if let Change::Write { offset, data, end } = &mut change {
            self.disks[disk].counts.writes += 1;
            self.disks[disk].counts.bytes_written += data.len() as u64;
            if self.disks[disk].strikes(Fault::Write, rng) {
                // Some of it may be there.
                let inode = self.inode(ino);
                inode.lose_cache(0, vec![change], Survival::Mixed, rng);
                self.count_used_bytes(disk);
                return Err(device_error());
            }
            if mode == WriteMode::Flushed && self.disks[disk].strikes(Fault::Flush, rng) {
                self.inode(ino).lose_cache(0, vec![change], Survival::Mixed, rng);
                self.count_used_bytes(disk);
                return Err(device_error());
            }
            if self.disks[disk].strikes(Fault::LostWrite, rng) {
                // The disk lost the data; the file system knows the new size.
                change = Change::Allocate { offset: *offset, len: *end - *offset };
            } else if self.disks[disk].strikes(Fault::MisdirectedWrite, rng) {
                let pages = (self.inodes.get(&ino).map_or(0, Inode::size) / PAGE_BYTES).max(1);
                let elsewhere = rng.below(pages) * PAGE_BYTES;
                *end = elsewhere + (*end - *offset);
                *offset = elsewhere;
            }
        } else {
            self.disks[disk].counts.writes += 1;
            if self.disks[disk].strikes(Fault::Write, rng) {
                return Err(device_error());
            }
        }
        let inode = self.inode(ino);
        let (before, growth) = (inode.used_bytes(), inode.growth_bytes(&change));
        let disk = &self.disks[disk];
        if growth > 0 && disk.used_bytes + growth > disk.capacity_bytes {
            return Err(ErrorKind::StorageFull.into());
        }
        let inode = self.inode(ino);
        match mode {
            WriteMode::Unflushed => inode.change(change),
            WriteMode::Flushed => inode.change_durably(change),
        }
        let (after, disk) = (inode.used_bytes(), inode.disk);
        self.disks[disk].used_bytes = self.disks[disk].used_bytes + after - before;
        Ok(())
    }

    /// Makes the changes of a file up to number `upto` durable. Where it fails, they may be gone.
    pub(super) fn flush(&mut self, ino: Ino, pulls: u32, upto: u64, rng: &mut SimRng) -> io::Result<()> {
        let disk = self.disk_of_handle(ino, pulls)?;
        self.disks[disk].counts.flushes += 1;
        if self.disks[disk].strikes(Fault::Flush, rng) {
            let survival = Survival::draw(rng);
            self.inode(ino).lose_cache(upto, Vec::new(), survival, rng);
            self.count_used_bytes(disk);
            return Err(device_error());
        }
        self.inode(ino).flush(upto);
        Ok(())
    }

    // Damage.

    /// The power fails: what was not flushed is kept, lost or torn.
    pub(super) fn lose_unflushed(&mut self, in_flight: Vec<(Ino, Change)>, rng: &mut SimRng) {
        self.lose_caches(&|_, _| true, None, in_flight, rng);
    }

    /// Who held the handles is gone.
    pub(super) fn close_all_handles(&mut self) {
        let open: Vec<Ino> =
            self.inodes.iter().filter(|(_, inode)| inode.handles > 0).map(|(ino, _)| *ino).collect();
        for ino in open {
            self.inode(ino).handles = 0;
            self.drop_if_unused(ino);
        }
    }

    /// Decides what becomes of everything unflushed on one disk, or on all.
    fn lose_caches(
        &mut self,
        on_disk: &dyn Fn(&FileSystem, &Path) -> bool,
        disk: Option<usize>,
        mut in_flight: Vec<(Ino, Change)>,
        rng: &mut SimRng,
    ) {
        let survival = Survival::draw(rng);
        for (ino, inode) in &mut self.inodes {
            if disk.is_none_or(|disk| inode.disk == disk) {
                let (own, others) = in_flight.into_iter().partition(|(target, _)| target == ino);
                in_flight = others;
                let own: Vec<(Ino, Change)> = own;
                inode.lose_cache(u64::MAX, own.into_iter().map(|(_, c)| c).collect(), survival, rng);
            }
        }
        self.lose_names(on_disk, survival, rng);
        for disk in 0..self.disks.len() {
            self.count_used_bytes(disk);
        }
    }

    fn lose_names(
        &mut self,
        on_disk: &dyn Fn(&FileSystem, &Path) -> bool,
        survival: Survival,
        rng: &mut SimRng,
    ) {
        let mut cut: Vec<PathBuf> = Vec::new();
        let mut lost = false;
        for change in std::mem::take(&mut self.log) {
            let directories = change.directories();
            if !directories.iter().any(|directory| on_disk(self, directory)) {
                self.log.push(change);
                continue;
            }
            let follows_a_cut = directories.iter().any(|directory| cut.iter().any(|d| d == directory));
            let kept = match survival {
                Survival::All => true,
                Survival::Nothing => false,
                Survival::Mixed => !follows_a_cut && !rng.one_in(3),
            };
            if kept {
                self.make_durable(change);
            } else {
                cut.extend(directories.iter().map(|directory| directory.to_path_buf()));
                lost = true;
                self.unlink(change.ino());
            }
        }
        if lost {
            self.show_durable_names(on_disk);
        }
    }

    /// What is durable becomes what is visible.
    fn show_durable_names(&mut self, on_disk: &dyn Fn(&FileSystem, &Path) -> bool) {
        let gone: Vec<(PathBuf, Ino)> =
            self.visible.iter().filter_map(file_of).filter(|(path, _)| on_disk(self, path)).collect();
        let back: Vec<(PathBuf, Ino)> =
            self.durable.iter().filter_map(file_of).filter(|(path, _)| on_disk(self, path)).collect();
        for (path, ino) in back {
            self.inode(ino).names += 1;
            if let Some(Entry::File(replaced)) = self.visible.insert(path, Entry::File(ino)) {
                self.unlink(replaced);
            }
        }
        for (path, ino) in gone {
            if self.durable.get(&path) != Some(&Entry::File(ino)) && !self.durable.contains_key(&path) {
                self.visible.remove(&path);
                self.unlink(ino);
            }
        }
    }

    /// Flips the bits of `mask` in one stored byte of a file. False where nothing is stored there.
    pub(super) fn flip(&mut self, path: &Path, offset: u64, mask: u8) -> bool {
        self.file(path).is_ok_and(|ino| self.inode(ino).flip(offset, mask))
    }

    /// Makes reads of one page of a file fail until it is written again. False where there is no such file.
    pub(super) fn make_unreadable(&mut self, path: &Path, offset: u64) -> bool {
        self.file(path).map(|ino| self.inode(ino).set_unreadable(offset / PAGE_BYTES)).is_ok()
    }

    /// A random stored byte of a disk, each page equally likely.
    pub(super) fn random_place(&self, disk: usize, rng: &mut SimRng) -> Option<(PathBuf, u64)> {
        let files = || {
            self.visible.iter().filter_map(file_of).filter_map(|(path, ino)| {
                let inode = self.inodes.get(&ino).filter(|inode| inode.disk == disk)?;
                Some((path, inode))
            })
        };
        let stored: u64 = files().map(|(_, inode)| inode.stored_page_count()).sum();
        if stored == 0 {
            return None;
        }
        let mut left = rng.below(stored);
        for (path, inode) in files() {
            if left < inode.stored_page_count() {
                let page = inode.stored_pages().nth(left as usize)?;
                return Some((path, page * PAGE_BYTES + rng.below(PAGE_BYTES)));
            }
            left -= inode.stored_page_count();
        }
        None
    }

    /// A visible file's content, without I/O: for checks.
    pub(super) fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let ino = self.file(path)?;
        let inode = self.inodes.get(&ino).ok_or_else(|| no_entry(path))?;
        let mut content = vec![0; inode.size() as usize];
        inode.read(0, &mut content);
        Ok(content)
    }

    /// All visible files below `prefix`, sorted by path.
    pub(super) fn files_below(&self, prefix: &Path) -> Vec<PathBuf> {
        let below = self.visible.iter().filter_map(file_of);
        below.map(|(path, _)| path).filter(|path| path.starts_with(prefix)).collect()
    }
}

fn file_of((path, entry): (&PathBuf, &Entry)) -> Option<(PathBuf, Ino)> {
    match entry {
        Entry::File(ino) => Some((path.clone(), *ino)),
        Entry::Directory => None,
    }
}
