//! The one place of this crate with unsafe code: reading into memory that nobody has cleared first.
//!
//! Clearing a 256 KiB buffer before each read(2) would cost as much as a tenth of the copy itself.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use bytes::{BufMut, BytesMut};
use rustix::io::Errno;

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
