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

/// Whether there is a descriptor of this number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag of a number that need not be a descriptor.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// Tries calls that nothing in the sandbox may be able to make, with arguments that make them do as
/// little as can be where they are allowed; `root` is the folder, `keeper` a process outside. Gives
/// what each is for and what came of it.
pub fn forbidden(root: BorrowedFd<'_>, keeper: Pid) -> Vec<(&'static str, Result<usize, Errno>)> {
    let (none, keeper, root) = (0usize, keeper.as_raw_nonzero().get(), root.as_raw_fd());
    let words = [c"true".as_ptr(), std::ptr::null()];
    let text = |text: &'static std::ffi::CStr| text.as_ptr();
    let clone = OPEN_TREE_CLONE | libc::AT_EMPTY_PATH as libc::c_uint;
    let writable = MountAttr { set: 0, clear: 1, propagation: 0, user_namespace: 0 };
    let writable = &raw const writable;
    let size = size_of::<MountAttr>();
    let mut tried = Vec::new();
    macro_rules! try_call {
        ($what:literal, $call:expr $(, $argument:expr)*) => {
            // SAFETY: every pointer is null or to what lives until the end of this function and has the
            // size that is said; nothing of this process's memory is written or unmapped by any.
            tried.push(($what, check(unsafe { libc::syscall($call $(, $argument)*) })));
        };
    }
    let reading = libc::O_RDONLY | libc::O_CLOEXEC;
    try_call!("opening by openat", libc::SYS_openat, libc::AT_FDCWD, text(c"/"), reading);
    try_call!("opening by handle", libc::SYS_open_by_handle_at, root, none, reading);
    let empty = text(c"");
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    try_call!(
        "making the mount writable",
        libc::SYS_mount_setattr,
        root,
        empty,
        flags,
        writable,
        size
    );
    let remount = libc::MS_REMOUNT | libc::MS_BIND;
    try_call!("mounting again", libc::SYS_mount, none, text(c"/"), none, remount, none);
    try_call!("mounting", libc::SYS_mount, text(c"none"), text(c"/"), text(c"tmpfs"), none, none);
    try_call!("a new file system", libc::SYS_fsopen, text(c"tmpfs"), none);
    try_call!("copying the mount", libc::SYS_open_tree, root, empty, clone);
    try_call!("moving the mount", libc::SYS_move_mount, root, empty, libc::AT_FDCWD, text(c"/"), 4);
    try_call!("unmounting", libc::SYS_umount2, text(c"/"), libc::MNT_DETACH);
    try_call!("changing the root", libc::SYS_pivot_root, text(c"."), text(c"."));
    try_call!("chroot", libc::SYS_chroot, text(c"."));
    try_call!("a new user namespace", libc::SYS_unshare, libc::CLONE_NEWUSER);
    try_call!("a new mount namespace", libc::SYS_unshare, libc::CLONE_NEWNS);
    try_call!("another's namespace", libc::SYS_setns, root, none);
    try_call!("tracing", libc::SYS_ptrace, libc::PTRACE_SEIZE, keeper, none, none);
    try_call!("reading memory", libc::SYS_process_vm_readv, keeper, none, none, none, none, none);
    try_call!("writing memory", libc::SYS_process_vm_writev, keeper, none, none, none, none, none);
    try_call!("signalling", libc::SYS_kill, keeper, none);
    try_call!("signalling a thread", libc::SYS_tgkill, keeper, keeper, none);
    try_call!("naming a process", libc::SYS_pidfd_open, keeper, none);
    try_call!("an Internet socket", libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, none);
    try_call!("a Unix socket", libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, none);
    try_call!("a netlink socket", libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, none);
    try_call!("connecting", libc::SYS_connect, root, none, none);
    try_call!("becoming root", libc::SYS_setresuid, none, none, none);
    try_call!("setting capabilities", libc::SYS_capset, none, none);
    try_call!("io_uring", libc::SYS_io_uring_setup, none, none);
    try_call!("BPF", libc::SYS_bpf, none, none, none);
    try_call!("measuring", libc::SYS_perf_event_open, none, none, none, none, none);
    try_call!("page faults", libc::SYS_userfaultfd, none);
    try_call!("keys", libc::SYS_keyctl, none, none, none, none, none);
    try_call!("memory as a file", libc::SYS_memfd_create, text(c"check"), none);
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    try_call!("executable memory", libc::SYS_mmap, none, 4096usize, executable, private, -1, none);
    try_call!("the terminal's input", libc::SYS_ioctl, none, libc::TIOCSTI, text(c" "));
    try_call!(
        "raising limits",
        libc::SYS_prlimit64,
        none,
        libc::RLIMIT_NOFILE,
        words.as_ptr(),
        none
    );
    // SAFETY: one thread; the new process, where there is one, ends at once.
    let forked = check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) });
    if forked == Ok(0) {
        exit_now(0);
    }
    tried.push(("a new process", forked));
    try_call!("executing", libc::SYS_execve, text(c"/bin/true"), words.as_ptr(), none);
    let at_empty = libc::AT_EMPTY_PATH;
    try_call!("executing a file", libc::SYS_execveat, root, empty, words.as_ptr(), none, at_empty);
    tried
}

/// `open_tree(2)`: a copy of the mount; libc lacks it.
const OPEN_TREE_CLONE: libc::c_uint = 1;
