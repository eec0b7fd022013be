//! Buffers that descriptors are read into, and their second life.
//!
//! A read fills the front of a buffer; what came is split off and travels on as slices, the rest
//! takes the next read. When too little is left, the buffer is put aside and used again once nothing
//! points into it any more. So a payload lies where the kernel put it until the kernel takes it again.

use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::sys;

/// Bytes of a buffer: what a socketpair of qrexec's holds (212,992 bytes) comes in one read.
pub const BUFFER: usize = 256 * 1024;
/// With less than this left a buffer is put aside: reads should not become small.
const LEAST: usize = 64 * 1024;
/// Buffers put aside that are looked at again; more are given back to the allocator.
const ASIDE: usize = 32;

/// What one read(2) gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The bytes.
    pub bytes: Bytes,
    /// There was room for more: a socket or pipe had no more at that moment (epoll(7)).
    pub all: bool,
}

/// A source of buffers for one thread.
#[derive(Debug)]
pub struct Buffers {
    size: usize,
    least: usize,
    current: BytesMut,
    aside: Vec<BytesMut>,
    /// Reads that took a fresh allocation.
    fresh: u64,
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers::of(BUFFER, LEAST)
    }
}

impl Buffers {
    /// An empty source.
    pub fn new() -> Buffers {
        Buffers::default()
    }

    /// An empty source of buffers of `size` bytes, each read into while it has room for `least`.
    pub fn of(size: usize, least: usize) -> Buffers {
        Buffers { size, least, current: BytesMut::new(), aside: Vec::new(), fresh: 0 }
    }

    /// Reads once from `fd`; `None` at end-of-file. Errors are those of read(2).
    pub fn read(&mut self, fd: impl AsFd) -> Result<Option<Read>, Errno> {
        if self.current.capacity() < self.least {
            self.replace();
        }
        let room = self.current.capacity();
        match sys::read_into(fd, &mut self.current)? {
            0 => Ok(None),
            count => Ok(Some(Read { bytes: self.current.split().freeze(), all: count < room })),
        }
    }

    /// Allocations made so far.
    pub fn fresh(&self) -> u64 {
        self.fresh
    }

    fn replace(&mut self) {
        let used = std::mem::take(&mut self.current);
        if used.capacity() > 0 {
            self.aside.push(used);
        }
        let free = (0..self.aside.len()).find(|&at| self.aside[at].try_reclaim(self.size));
        self.current = match free {
            Some(at) => self.aside.swap_remove(at),
            None => {
                self.fresh += 1;
                BytesMut::with_capacity(self.size)
            }
        };
        if self.aside.len() > ASIDE {
            self.aside.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nothing_points_into_it() {
        let (near, far) = rustix::pipe::pipe().unwrap();
        let mut buffers = Buffers::new();
        let block = vec![7; 60_000];
        for _ in 0..100 {
            rustix::io::write(&far, &block).unwrap();
            let mut left = block.len();
            while left > 0 {
                left -= buffers.read(&near).unwrap().unwrap().bytes.len();
            }
        }
        assert!(buffers.fresh() <= 2, "{} allocations", buffers.fresh());
    }

    #[test]
    fn what_was_read_stays_as_it_was() {
        let (near, far) = rustix::pipe::pipe().unwrap();
        let mut buffers = Buffers::new();
        let mut kept = Vec::new();
        for round in 0..200u8 {
            rustix::io::write(&far, &[round; 4000]).unwrap();
            let read = buffers.read(&near).unwrap().unwrap();
            assert!(read.all);
            kept.push(read.bytes);
        }
        for (round, piece) in kept.iter().enumerate() {
            assert!(piece.iter().all(|&byte| usize::from(byte) == round));
        }
    }

    #[test]
    fn end_of_file_is_told_from_nothing_yet() {
        let (near, far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut buffers = Buffers::new();
        assert_eq!(buffers.read(&near), Err(Errno::AGAIN));
        drop(far);
        assert_eq!(buffers.read(&near), Ok(None));
    }
}
