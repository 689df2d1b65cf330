//! The directories of this machine's disks, before any core runs: what is in them, and who uses them.
//!
//! What must hold: looking changes nothing; a disk is used by one process at a time ([`DiskLock`]).

use buckets_ring::Endpoint;
use buckets_ring::assembly::{FoundDisk, FoundFile};
use buckets_ring::format::{FORMAT_FILE, FormatError, FormatJson, SYSTEM_DIR};
use buckets_ring::topology::TOPOLOGY_FILE;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest identity file that is read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 64 << 20;
/// Names that make no directory foreign: what mkfs leaves behind.
const HARMLESS_NAME: &str = "lost+found";
/// What an interrupted check of direct I/O leaves behind.
const PREFLIGHT_PREFIX: &str = ".buckets-preflight-";
/// Foreign names that a refusal shows.
const EXAMPLES_MAX: usize = 3;

/// The system directory of a disk.
pub fn system_dir(disk: &Endpoint) -> PathBuf {
    Path::new(disk.path()).join(SYSTEM_DIR)
}

/// Reads the identity files of a disk.
pub fn identify(disk: &Endpoint) -> FoundDisk {
    let system = system_dir(disk);
    let (format, topology) = match fs::read_dir(disk.path()) {
        Ok(_) => (identity_file(&system.join(FORMAT_FILE)), identity_file(&system.join(TOPOLOGY_FILE))),
        Err(error) => (FoundFile::Unreadable(error.to_string()), FoundFile::Unreadable(error.to_string())),
    };
    FoundDisk { endpoint: disk.clone(), format, topology }
}

fn identity_file(path: &Path) -> FoundFile {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(IDENTITY_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => FoundFile::Bytes(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => FoundFile::Absent,
        Err(error) => FoundFile::Unreadable(error.to_string()),
    }
}

/// What a directory holds, in the eyes of somebody who wants to format it.
#[derive(Debug)]
pub enum DirectoryState {
    /// Not there, but its parent is.
    Missing,
    /// Empty but for what mkfs leaves.
    Empty,
    /// A formatted disk.
    Formatted {
        /// Its identity, or why it cannot be read.
        format: Result<FormatJson, FormatError>,
        /// Bytes stored in it.
        stored_bytes: u64,
    },
    /// Our directory without an identity: a format that did not finish, or a lost file.
    Unfinished {
        /// Bytes stored in it.
        stored_bytes: u64,
    },
    /// Somebody else's files.
    Foreign {
        /// Some of their names.
        examples: Vec<String>,
        /// How many there are.
        names: usize,
    },
    /// Cannot be looked into.
    Unreadable(io::Error),
}

/// Looks into a directory.
pub fn inspect(disk: &Endpoint) -> DirectoryState {
    match try_inspect(disk) {
        Ok(state) => state,
        Err(error) => DirectoryState::Unreadable(error),
    }
}

fn try_inspect(disk: &Endpoint) -> io::Result<DirectoryState> {
    let path = Path::new(disk.path());
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
            return Ok(DirectoryState::Missing);
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let ours = names.iter().any(|name| name == SYSTEM_DIR);
    let mut foreign: Vec<String> =
        names.into_iter().filter(|name| !is_harmless(name) && name != SYSTEM_DIR).collect();
    if !foreign.is_empty() {
        foreign.sort();
        let names = foreign.len();
        foreign.truncate(EXAMPLES_MAX);
        return Ok(DirectoryState::Foreign { examples: foreign, names });
    }
    if !ours {
        return Ok(DirectoryState::Empty);
    }
    let system = system_dir(disk);
    let stored_bytes = allocated_bytes(&system)?;
    match identity_file(&system.join(FORMAT_FILE)) {
        FoundFile::Bytes(bytes) => {
            Ok(DirectoryState::Formatted { format: FormatJson::parse(&bytes), stored_bytes })
        }
        FoundFile::Absent => Ok(DirectoryState::Unfinished { stored_bytes }),
        FoundFile::Unreadable(why) => Err(io::Error::other(why)),
    }
}

fn is_harmless(name: &str) -> bool {
    name == HARMLESS_NAME || name.starts_with(PREFLIGHT_PREFIX)
}

/// Bytes that the files below a directory occupy.
fn allocated_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

/// Size of the file system of a directory, in bytes.
pub fn capacity_bytes(disk: &Endpoint) -> io::Result<u64> {
    let stats = rustix::fs::statvfs(disk.path())?;
    Ok(stats.f_blocks.saturating_mul(stats.f_frsize))
}

/// The claim of this process on a disk: no other process that asks gets one. Ends with the value, and with the process.
#[derive(Debug)]
pub struct DiskLock {
    // The kernel's lock is the descriptor's.
    _locked: File,
    /// The file that is locked instead of the directory.
    stand_in: Option<PathBuf>,
}

/// Why a disk could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{0} is in use by another process; stop the bucketsd that serves it first")]
    InUse(Endpoint),
    /// It cannot be opened.
    #[error("{disk} cannot be opened: {error}")]
    Io {
        /// The disk.
        disk: Endpoint,
        /// What failed.
        error: io::Error,
    },
}

impl DiskLock {
    /// Claims a disk, without waiting.
    pub fn acquire(disk: &Endpoint) -> Result<DiskLock, LockError> {
        let directory = File::open(disk.path()).map_err(|error| not_opened(disk, error))?;
        DiskLock::of(disk, directory, None)
    }

    /// Claims an empty directory that a server claims too, because the disk that it serves was there: only against others
    /// that do the same.
    pub fn acquire_beside_server(disk: &Endpoint) -> Result<DiskLock, LockError> {
        let stand_in = Path::new(disk.path()).join(format!("{PREFLIGHT_PREFIX}replace"));
        let file = File::create(&stand_in).map_err(|error| not_opened(disk, error))?;
        DiskLock::of(disk, file, Some(stand_in))
    }

    fn of(disk: &Endpoint, file: File, stand_in: Option<PathBuf>) -> Result<DiskLock, LockError> {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DiskLock { _locked: file, stand_in }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::InUse(disk.clone())),
            Err(error) => Err(not_opened(disk, error.into())),
        }
    }
}

impl Drop for DiskLock {
    fn drop(&mut self) {
        if let Some(stand_in) = &self.stand_in {
            // Left behind it disturbs nobody.
            let _ = fs::remove_file(stand_in);
        }
    }
}

fn not_opened(disk: &Endpoint, error: io::Error) -> LockError {
    LockError::Io { disk: disk.clone(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(directory: &tempfile::TempDir, name: &str) -> Endpoint {
        directory.path().join(name).display().to_string().parse().unwrap()
    }

    #[test]
    fn directories_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir_all(directory.path().join(name)).unwrap();
            disk(&directory, name)
        };
        assert!(matches!(inspect(&disk(&directory, "absent")), DirectoryState::Missing));
        assert!(matches!(inspect(&disk(&directory, "absent/deeper")), DirectoryState::Unreadable(_)));
        assert!(matches!(inspect(&make("empty")), DirectoryState::Empty));
        make("fresh/lost+found");
        fs::write(directory.path().join("fresh/.buckets-preflight-7"), "").unwrap();
        assert!(matches!(inspect(&disk(&directory, "fresh")), DirectoryState::Empty));
        make("not-ours/wal");
        assert!(matches!(inspect(&disk(&directory, "not-ours")), DirectoryState::Foreign { names: 1, .. }));
        make("unfinished/.buckets.sys/wal");
        fs::write(directory.path().join("unfinished/.buckets.sys/wal/00000000.wal"), [1; 5000]).unwrap();
        let state = inspect(&disk(&directory, "unfinished"));
        assert!(matches!(state, DirectoryState::Unfinished { stored_bytes: 5000.. }), "{state:?}");
        fs::write(directory.path().join("unfinished/.buckets.sys/format.json"), "{}").unwrap();
        let state = inspect(&disk(&directory, "unfinished"));
        assert!(matches!(state, DirectoryState::Formatted { format: Err(_), .. }), "{state:?}");
        make("photos/2024");
        make("photos/.buckets.sys");
        let state = inspect(&disk(&directory, "photos"));
        assert!(matches!(state, DirectoryState::Foreign { names: 1, .. }), "{state:?}");
        fs::write(directory.path().join("file"), "x").unwrap();
        assert!(matches!(inspect(&disk(&directory, "file")), DirectoryState::Unreadable(_)));
    }

    #[test]
    fn a_disk_is_claimed_once() {
        let directory = tempfile::tempdir().unwrap();
        let disk: Endpoint = directory.path().display().to_string().parse().unwrap();
        let lock = DiskLock::acquire(&disk).unwrap();
        assert!(matches!(DiskLock::acquire(&disk), Err(LockError::InUse(_))));
        drop(lock);
        assert!(DiskLock::acquire(&disk).is_ok());
    }

    #[test]
    fn identity_files_are_found_absent_or_unreadable() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/.buckets.sys/topology.json")).unwrap();
        fs::write(directory.path().join("d/.buckets.sys/format.json"), "text").unwrap();
        let found = identify(&disk(&directory, "d"));
        assert_eq!(found.format, FoundFile::Bytes(b"text".to_vec()));
        assert!(matches!(found.topology, FoundFile::Unreadable(_)));
        assert!(matches!(identify(&disk(&directory, "absent")).format, FoundFile::Unreadable(_)));
        fs::create_dir(directory.path().join("e")).unwrap();
        assert_eq!(identify(&disk(&directory, "e")).format, FoundFile::Absent);
    }
}
