//! The system calls of the sandbox that rustix does not wrap: fork, waiting for signals, a mount's
//! attributes, closing what was inherited, and what [`super::check`] tries.
//!
//! Each function is as safe to call as its Rust signature and its doc say; all of them are for a
//! process with one thread.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// The errno of a libc call that returned −1.
fn check(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(raw)
    })
}

/// unshare(2). Only for namespaces: what threads share stays shared.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!namespaces.intersects(UnshareFlags::FILES));
    // SAFETY: no descriptor table is split off, which alone could make descriptors dangle.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// fork(2); nothing in the new process.
///
/// Must not be called where there is a second thread, which could hold the allocator's lock.
pub fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: there is one thread, which goes on in both processes; nothing is shared but descriptors.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Ends this process without what is done at exit: that is the other half's.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// The signals that a keeper waits for, blocked; as they were before when dropped.
#[derive(Debug)]
pub struct Blocked {
    before: libc::sigset_t,
    set: libc::sigset_t,
}

impl Blocked {
    /// Blocks those by which a process is told to end, and SIGCHLD.
    pub fn new() -> Blocked {
        // SAFETY: a `sigset_t` is plain integers; both are written by the calls before they are used,
        // and the calls fail for invalid signal numbers only.
        unsafe {
            let mut blocked = Blocked { before: std::mem::zeroed(), set: std::mem::zeroed() };
            libc::sigemptyset(&mut blocked.set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD] {
                libc::sigaddset(&mut blocked.set, signal);
            }
            // Ignored, as it may be by inheritance, it would never come, nor a child be waited for.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::sigprocmask(libc::SIG_BLOCK, &blocked.set, &mut blocked.before);
            blocked
        }
    }

    /// Waits for one of them.
    pub fn wait(&self) -> Signal {
        loop {
            // SAFETY: the set is initialised; nothing is written.
            let signal = unsafe { libc::sigwaitinfo(&self.set, std::ptr::null_mut()) };
            if let Some(signal) = Signal::from_named_raw(signal) {
                return signal;
            }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the mask is the one that the kernel gave.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn mount_setattr(mount: BorrowedFd<'_>, attributes: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the descriptor is open, the path is a C string, the structure has the size that is said.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attributes,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Adds attributes to a mount and all below it (`mount_setattr`, Linux 5.12; `ENOSYS` before).
pub fn set_mount_attributes(mount: BorrowedFd<'_>, set: MountAttrFlags) -> Result<(), Errno> {
    let set = set.bits().into();
    mount_setattr(mount, &MountAttr { set, clear: 0, propagation: 0, user_namespace: 0 })
}

/// Closes the descriptors from `from` to below `to` (`close_range`, Linux 5.9; `ENOSYS` before).
///
/// Nothing in this process may own one of them.
pub fn close_between(from: RawFd, to: RawFd) -> Result<(), Errno> {
    if from >= to {
        return Ok(());
    }
    // SAFETY: takes integers; the caller owns none of the descriptors, so none dangles.
    check(unsafe { libc::syscall(libc::SYS_close_range, from, to - 1, 0) }).map(drop)
}
