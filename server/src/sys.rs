//! The few system calls that rustix does not wrap safely: open file description locks, the newest
//! `*at` calls by number, a private working folder for one thread, and reading into spare room.
//!
//! All unsafe code of this crate is here; each function is as safe to call as its Rust signature says.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::{BufMut, BytesMut};
use rustix::io::Errno;

/// The errno of a libc call that returned −1.
fn check(result: libc::c_long) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        let raw = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(raw)
    })
}

/// What an open file description lock is: fcntl(2), `struct flock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flock {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
    /// First byte.
    pub start: i64,
    /// Bytes; 0 is to the end of the file, whatever it will be.
    pub length: i64,
    /// Process of a lock in the way; −1 where it belongs to an open file description.
    pub pid: i32,
}

impl Flock {
    fn raw(self) -> libc::flock {
        // SAFETY: `struct flock` is plain integers; all zeros is a value of it.
        let mut raw: libc::flock = unsafe { std::mem::zeroed() };
        raw.l_type = self.kind as _;
        raw.l_whence = libc::SEEK_SET as _;
        raw.l_start = self.start;
        raw.l_len = self.length;
        raw
    }
}

/// Takes or releases a lock of `fd`'s open file description, without waiting (`F_OFD_SETLK`).
pub(crate) fn ofd_lock(fd: BorrowedFd<'_>, lock: Flock) -> Result<(), Errno> {
    let raw = lock.raw();
    // SAFETY: the descriptor is open for the call's length, and `raw` is a whole `struct flock`.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw) }.into()).map(drop)
}

/// A lock that is in the way of `lock`, if there is one (`F_OFD_GETLK`).
pub(crate) fn ofd_test(fd: BorrowedFd<'_>, lock: Flock) -> Result<Option<Flock>, Errno> {
    let mut raw = lock.raw();
    // SAFETY: the descriptor is open, and `raw` is a whole, writable `struct flock`.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &mut raw) }.into())?;
    let found =
        Flock { kind: raw.l_type.into(), start: raw.l_start, length: raw.l_len, pid: raw.l_pid };
    Ok((found.kind != libc::F_UNLCK).then_some(found))
}

/// chmod of what `fd` is open on, `O_PATH` or not (`fchmodat2`, Linux 6.6; `ENOSYS` before).
pub(crate) fn fchmodat2_empty(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    /// The call's number on every architecture that Rust has.
    const FCHMODAT2: libc::c_long = 452;
    // SAFETY: the descriptor is open, the path is a C string, the rest are integers.
    let result = unsafe {
        libc::syscall(FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    };
    check(result).map(drop)
}

/// `struct xattr_args` of the kernel.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// getxattr(2) of a folder's entry, not following it (`getxattrat`, Linux 6.13; `ENOSYS` before).
pub(crate) fn getxattrat(
    dir: BorrowedFd<'_>,
    entry: &CStr,
    name: &CStr,
    value: &mut [u8],
) -> Result<usize, Errno> {
    let args = XattrArgs { value: value.as_mut_ptr() as u64, size: value.len() as u32, flags: 0 };
    // SAFETY: descriptor open, both strings end in NUL, `args` names `value`'s own memory and size.
    check(unsafe {
        libc::syscall(
            464,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            name.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    })
}

/// setxattr(2) of a folder's entry, not following it (`setxattrat`, Linux 6.13; `ENOSYS` before).
pub(crate) fn setxattrat(
    dir: BorrowedFd<'_>,
    entry: &CStr,
    name: &CStr,
    value: &[u8],
    flags: u32,
) -> Result<(), Errno> {
    let args = XattrArgs { value: value.as_ptr() as u64, size: value.len() as u32, flags };
    // SAFETY: as for `getxattrat`; the kernel only reads `value`.
    check(unsafe {
        libc::syscall(
            463,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            name.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    })
    .map(drop)
}

/// listxattr(2) of a folder's entry, not following it (`listxattrat`, Linux 6.13; `ENOSYS` before).
pub(crate) fn listxattrat(
    dir: BorrowedFd<'_>,
    entry: &CStr,
    list: &mut [u8],
) -> Result<usize, Errno> {
    // SAFETY: descriptor open, string ends in NUL, `list`'s own memory and size.
    check(unsafe {
        libc::syscall(
            465,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            list.as_mut_ptr(),
            list.len(),
        )
    })
}

/// removexattr(2) of a folder's entry, not following it (`removexattrat`, Linux 6.13; `ENOSYS` before).
pub(crate) fn removexattrat(dir: BorrowedFd<'_>, entry: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: descriptor open, both strings end in NUL.
    check(unsafe {
        libc::syscall(
            466,
            dir.as_raw_fd(),
            entry.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            name.as_ptr(),
        )
    })
    .map(drop)
}

/// Gives the calling thread a working folder of its own (`unshare(CLONE_FS)`; needs no privilege).
pub(crate) fn own_working_folder() -> Result<(), Errno> {
    // SAFETY: only the working folder, root and umask stop being shared with the other threads;
    // no memory and no descriptor is affected.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}

/// pread(2) of at most `count` bytes behind what `to` holds. Returns how many came.
pub(crate) fn pread_into(
    fd: BorrowedFd<'_>,
    to: &mut BytesMut,
    count: usize,
    offset: u64,
) -> Result<usize, Errno> {
    preadv2_into(fd, to, count, offset, 0)
}

/// The same from the page cache alone (`RWF_NOWAIT`): `EAGAIN` where it would have to wait.
pub(crate) fn pread_now(
    fd: BorrowedFd<'_>,
    to: &mut BytesMut,
    count: usize,
    offset: u64,
) -> Result<usize, Errno> {
    preadv2_into(fd, to, count, offset, libc::RWF_NOWAIT)
}

fn preadv2_into(
    fd: BorrowedFd<'_>,
    to: &mut BytesMut,
    count: usize,
    offset: u64,
    flags: libc::c_int,
) -> Result<usize, Errno> {
    // −1 would be "from the position", and what is beyond has no file.
    let offset = libc::off64_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    to.reserve(count);
    // SAFETY: uninitialised bytes are only handed to the kernel, to be written.
    let spare = unsafe { to.chunk_mut().as_uninit_slice_mut() };
    let room = spare.len().min(count);
    let piece = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: room };
    // SAFETY: the descriptor is open, and `piece` names memory of ours that nobody else uses.
    let filled =
        check(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const piece, 1, offset, flags) } as _)?;
    // SAFETY: the kernel wrote the first `filled` bytes of the spare room.
    unsafe { to.advance_mut(filled) };
    Ok(filled)
}
