//! What must be so before any core is started: found out here, because glommio panics or exits where it is not.
//!
//! What must hold: every [`StartError`] is one sentence that says what is wrong and what to do.

use super::kernel;
use crate::{ALIGNMENT, AlignedBuf};
use io_uring::{IoUring, Probe, opcode};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// glommio refuses to start below this (bytes).
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Below this a busy node runs out of descriptors: a warning.
const OPEN_FILES_ADVISED_MIN: u64 = 16_384;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A seccomp filter (containers) or the kernel's configuration.
    #[error(
        "io_uring is forbidden here ({error}): in a container allow the io_uring_setup, io_uring_enter and io_uring_register \
         system calls in its seccomp profile, on a host look for a security policy that denies them"
    )]
    IoUringForbidden {
        /// What the kernel said.
        error: io::Error,
    },
    /// `kernel.io_uring_disabled` is set.
    #[error("io_uring is switched off on this machine: run `sysctl -w kernel.io_uring_disabled=0`")]
    IoUringDisabled,
    /// A kernel without what is needed.
    #[error("this kernel is too old ({missing} is missing from its io_uring): Linux 5.15 or newer is needed")]
    KernelTooOld {
        /// The operation it lacks.
        missing: &'static str,
    },
    /// io_uring failed otherwise.
    #[error("io_uring cannot be set up ({error}): see the kernel's log for the reason")]
    IoUring {
        /// What the kernel said.
        error: io::Error,
    },
    /// RLIMIT_MEMLOCK, even after it was raised as far as allowed.
    #[error(
        "only {bytes} bytes of memory may be locked and {MEMLOCK_BYTES_MIN} are needed: set LimitMEMLOCK=infinity in the \
         systemd unit, or run `ulimit -l unlimited` before the start"
    )]
    MemoryLock {
        /// The limit found.
        bytes: u64,
    },
    /// A process limit could not be read or raised.
    #[error("the process limit {limit} cannot be raised ({error}): set it in the systemd unit")]
    Limit {
        /// Its name as systemd spells it.
        limit: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// A disk's directory cannot be written.
    #[error("the disk {} cannot be used ({error}): check that it is mounted there and writable by this user", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Direct I/O needs a coarser alignment than ours.
    #[error(
        "the disk {} does not take direct I/O in units of 4096 bytes: use a file system with a block size of at most 4096 bytes",
        path.display()
    )]
    DirectIoUnit {
        /// The directory.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error(
        "the address {address} cannot be listened on ({error}): stop the other process there or choose another one"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What is worth a line in the log: the node starts, but not at its best.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    /// The file system has no O_DIRECT.
    #[error(
        "the disk {} has no direct I/O: everything goes through the page cache, slower and at the cost of its memory",
        path.display()
    )]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
    },
    /// Few file descriptors.
    #[error("only {limit} open files are allowed: set LimitNOFILE=1048576 in the systemd unit")]
    FewOpenFiles {
        /// The limit found.
        limit: u64,
    },
}

/// Checks the machine and raises the process's limits. `disks`: the directories of the disks, which must exist.
pub fn preflight(disks: &[&Path]) -> Result<Vec<Warning>, StartError> {
    let mut warnings = Vec::new();
    let memlock = kernel::raise_limit(libc::RLIMIT_MEMLOCK)
        .map_err(|error| StartError::Limit { limit: "LimitMEMLOCK", error })?;
    if memlock < MEMLOCK_BYTES_MIN {
        return Err(StartError::MemoryLock { bytes: memlock });
    }
    let open_files = kernel::raise_limit(libc::RLIMIT_NOFILE)
        .map_err(|error| StartError::Limit { limit: "LimitNOFILE", error })?;
    if open_files < OPEN_FILES_ADVISED_MIN {
        warnings.push(Warning::FewOpenFiles { limit: open_files });
    }
    check_io_uring(io_uring_disabled())?;
    for disk in disks {
        if !takes_direct_io(disk)? {
            warnings.push(Warning::NoDirectIo { path: disk.to_path_buf() });
        }
    }
    Ok(warnings)
}

/// Checks that nobody listens on `address` yet. The cores' own listeners share their port among each other
/// (SO_REUSEPORT) and would share it with a second node of the same user just as silently.
pub fn preflight_listen(address: SocketAddr) -> Result<(), StartError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(StartError::Listen { address, error }),
    }
}

fn io_uring_disabled() -> bool {
    // 0 or not there: allowed; 1: only for one group; 2: for nobody.
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0")
}

fn check_io_uring(disabled: bool) -> Result<(), StartError> {
    let ring = IoUring::new(8).map_err(|error| explain(error, disabled))?;
    if !ring.params().is_feature_ext_arg() {
        return Err(StartError::KernelTooOld { missing: "a limit on waiting" });
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| explain(error, disabled))?;
    let needed = [
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::OpenAt::CODE, "openat"),
        (opcode::Close::CODE, "close"),
        (opcode::Statx::CODE, "statx"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::UnlinkAt::CODE, "unlinkat"),
        (opcode::MkDirAt::CODE, "mkdirat"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, missing)) => Err(StartError::KernelTooOld { missing }),
        None => Ok(()),
    }
}

fn explain(error: io::Error, disabled: bool) -> StartError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled => StartError::IoUringDisabled,
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => StartError::IoUringForbidden { error },
        _ => StartError::IoUring { error },
    }
}

/// Writes one unit with O_DIRECT into a new file. False where the file system has no direct I/O.
fn takes_direct_io(disk: &Path) -> Result<bool, StartError> {
    let failed = |error| StartError::Disk { path: disk.to_owned(), error };
    let name = disk.join(format!(".buckets-preflight-{}", std::process::id()));
    let create = |flags| {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(&name)
    };
    let direct = create(libc::O_DIRECT).and_then(|file| {
        file.write_at(&AlignedBuf::zeroed(ALIGNMENT), 0).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => io::ErrorKind::Unsupported.into(),
            _ => error,
        })
    });
    let result = match direct {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Unsupported && error.raw_os_error().is_none() => {
            Err(StartError::DirectIoUnit { path: disk.to_owned() })
        }
        // The file system knows no O_DIRECT, or something else is wrong: the second attempt tells.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(0).map(|_| false).map_err(failed),
        Err(error) => Err(failed(error)),
    };
    // Not there where it could not be created.
    let _ = std::fs::remove_file(&name);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_forbidding_io_uring_has_its_remedy() {
        let said = |errno, disabled| explain(io::Error::from_raw_os_error(errno), disabled).to_string();
        assert!(said(libc::EPERM, true).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(said(libc::EPERM, false).contains("seccomp"));
        assert!(said(libc::ENOSYS, false).contains("seccomp"));
        assert!(said(libc::ENOMEM, false).contains("cannot be set up"));
        assert!(check_io_uring(false).is_ok());
    }
}
