//! The system calls that std has no name for.
//!
//! What must hold: nothing but the call and its error handling is here; every pointer passed lives on the stack
//! or in the borrowed arguments for the length of the call.
#![expect(unsafe_code, reason = "system calls without a safe wrapper in std")]

use crate::DiskSpace;
use glommio::io::BufferedFile;
use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

/// A counter that the kernel can wake readers with. Blocking, so that a ring waits on it instead of being told
/// EAGAIN.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let descriptor = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Hands a descriptor to glommio, to be read through its ring. For the current executor only.
pub(super) fn into_glommio_file(descriptor: OwnedFd) -> BufferedFile {
    // SAFETY: ownership passes on with the number.
    unsafe { BufferedFile::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Sends what the socket takes at once; `WouldBlock` where it takes nothing.
pub(super) fn send_now(socket: &impl AsRawFd, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: `msghdr` is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: `IoSlice` has the layout of `iovec`; parts and their bytes are borrowed for the call, which only
    // reads them.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
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

/// Lets another socket bind to this one's address once nobody listens there (SO_REUSEADDR): what is left of the
/// connections of a killed process must not keep its successor from its port.
pub(super) fn reuse_address(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that lives through the call, and its size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const on).cast(),
            size,
        )
    })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
