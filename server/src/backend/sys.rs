//! What starting a confined process takes of unsafe code: the step between fork and exec, a second fork
//! there, and system calls that rustix does not wrap.
//!
//! All unsafe code of this module is here; each function is as safe to call as its signature says.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::confine::Plan;

/// The errno of a libc call that returned −1.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(Errno::from_raw_os_error(raw))
}

/// Has `plan` carried out between fork and exec of `command`.
pub(super) fn carry_out_before_exec(command: &mut Command, plan: Plan) {
    // SAFETY: `Plan::carry_out` makes system calls and nothing else: it allocates nothing, takes no lock
    // and touches no state of other threads, as its documentation promises.
    unsafe {
        command.pre_exec(move || plan.carry_out().map_err(std::io::Error::from));
    }
}

/// fork(2) in a process that is between fork and exec itself: gives the new process to the old one, and
/// nothing to the new one.
pub(super) fn fork_again() -> Result<Option<Pid>, Errno> {
    // SAFETY: a raw fork, by which no handler of the C library's runs and no lock is touched; the caller
    // is the only thread of its process.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0 as libc::c_long, 0, 0, 0)
    })?;
    Ok(Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?))
}

/// Ends the process here and now.
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes an integer and does not come back.
    unsafe { libc::_exit(status) }
}

/// unshare(2), of namespaces.
pub(super) fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: the table of descriptors is not split off, which alone could make them dangle.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Closes all descriptors from `first` on, or marks them to be closed by exec.
pub(super) fn close_from(first: u32, by_exec: bool) -> Result<(), Errno> {
    let flags = if by_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: integers; whoever owns the descriptors never comes to use them, as the process ends or
    // execs from here.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// `struct mount_attr` of the kernel (mount_setattr(2)).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Sets attributes of a mount, and of all below it (`mount_setattr`, Linux 5.12).
pub(super) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, set: u64) -> Result<(), Errno> {
    let attr = MountAttr { set, clear: 0, propagation: 0, userns: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path a C string, `attr` a whole `struct mount_attr` of the size
    // that is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
