//! The one place of this crate with unsafe code: reading into memory that nobody has cleared first, and
//! an ioctl that rustix does not wrap.
//!
//! Clearing a 256 KiB buffer before each read(2) would cost as much as a tenth of the copy itself.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use bytes::{BufMut, BytesMut};
use rustix::io::Errno;
use rustix::ioctl;

/// Reads once into the spare capacity of `buffer`; gives the bytes read, 0 at end-of-file. Errors are
/// those of read(2).
pub fn read_into(fd: impl AsFd, buffer: &mut BytesMut) -> Result<usize, Errno> {
    let (filled, _) = rustix::io::read(fd, buffer.spare_capacity_mut())?;
    let count = filled.len();
    // SAFETY: read(2) has initialised the first `count` bytes of the spare capacity, and
    // there is no more of it than that.
    unsafe { buffer.advance_mut(count) };
    Ok(count)
}

/// SIOCOUTQ of unix(7), which is TIOCOUTQ in the kernel's `include/uapi/asm-generic`.
const SIOCOUTQ: ioctl::Opcode = 0x5411;

/// Bytes, and some more for the kernel's own use, that the other end of a Unix socket has not read.
pub fn unread_by_peer(fd: impl AsFd) -> Result<i32, Errno> {
    // SAFETY: SIOCOUTQ writes one int to where its argument points, and takes nothing from there.
    unsafe { ioctl::ioctl(fd, ioctl::Getter::<SIOCOUTQ, i32>::new()) }
}
