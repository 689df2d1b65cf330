//! The system calls that std has no name for.
//!
//! What must hold: nothing but the call and its error handling is here; every pointer passed lives on the stack
//! or in the borrowed arguments for the length of the call.
#![expect(unsafe_code, reason = "system calls without a safe wrapper in std")]

use crate::DiskSpace;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// A counter that a ring can watch.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?)
}

/// Space of the file system of `path`.
pub(super) fn space(path: &CStr) -> io::Result<DiskSpace> {
    let mut space = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: both pointers live for the call.
    check(unsafe { libc::statvfs(path.as_ptr(), space.as_mut_ptr()) })?;
    // SAFETY: zeroed integers to begin with, filled by the call.
    let space = unsafe { space.assume_init() };
    Ok(DiskSpace {
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
    })
}

/// A process limit (`libc::RLIMIT_*`): the soft value after it was raised to the hard one.
pub(super) fn raise_limit(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer lives for the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
