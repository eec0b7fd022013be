//! `/dev/fuse`: requests in, replies out, neither copied in user space where they carry a payload.
//!
//! A read(2) gives one whole request and must have room for the largest; a reply is one writev(2), of
//! its header and the pieces of its payload (kernel `fs/fuse/dev.c`).

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use polyfuse_kernel::{FUSE_WRITE, fuse_in_header, fuse_out_header, fuse_write_in};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use transport::relay::buffer::Buffers;
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{Reply, Request};
use crate::sys;

/// The most that one WRITE carries. More than 256 pages the kernel does not put into a request unless
/// its administrator has raised `fs.fuse.max_pages_limit`.
pub const MAX_WRITE: u32 = 1 << 20;
/// Room for the largest request: a WRITE with its two headers.
const ROOM: usize = MAX_WRITE as usize + size_of::<fuse_in_header>() + size_of::<fuse_write_in>();
/// Pieces in one writev(2), the header among them; the kernel takes 1,024.
const PIECES: usize = 1000;

/// A request, or the mount's end, which poll(2) shows as an error and nothing else.
const WAITED_FOR: Interest = Interest::READABLE.add(Interest::ERROR);

/// An open `/dev/fuse` that belongs to a mount.
pub struct Device {
    fd: AsyncFd<OwnedFd>,
}

impl Device {
    /// Takes it into the current runtime's reactor.
    pub fn new(fd: OwnedFd) -> std::io::Result<Device> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Device { fd: sys::register_descriptor(fd, WAITED_FOR)? })
    }

    /// The descriptor once more, for who writes what was not asked for.
    pub fn again(&self) -> std::io::Result<OwnedFd> {
        self.fd.get_ref().try_clone()
    }

    /// The next request; nothing once the mount has gone.
    pub async fn next(&self, buffers: &mut Buffers) -> std::io::Result<Option<Request>> {
        loop {
            let mut ready = self.fd.ready(WAITED_FOR).await?;
            match ready.try_io(|fd| buffers.read(fd.get_ref()).map_err(Errno::into)) {
                Err(_not_yet) => continue,
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(read))) => {
                    if let Some(request) = request(read.bytes) {
                        return Ok(Some(request));
                    }
                }
                Ok(Err(error)) => match Errno::from_io_error(&error) {
                    // Unmounted; or ended through /sys/fs/fuse/connections.
                    Some(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
                    // ENOENT: it was interrupted before it was read.
                    Some(Errno::INTR | Errno::NOENT) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Buffers that [`next`](Self::next) can read into.
    pub fn buffers() -> Buffers {
        Buffers::of(ROOM, ROOM)
    }

    /// Answers the request `unique`. One that the kernel has given up meanwhile is no error, and a
    /// mount that has gone shows in the next read.
    pub fn answer(&self, unique: u64, result: Result<Reply, Errno>) {
        let (reply, error) = match result {
            Ok(reply) => (reply, 0),
            Err(errno) => (Reply::empty(), -errno.raw_os_error()),
        };
        let len = u32::try_from(size_of::<fuse_out_header>() + reply.len()).unwrap_or(u32::MAX);
        let header = fuse_out_header { len, error, unique };
        let mut pieces = reply.pieces;
        if pieces.len() > PIECES {
            pieces = vec![joined(&pieces)];
        }
        let mut vector = Vec::with_capacity(2 + pieces.len());
        vector.push(IoSlice::new(header.as_bytes()));
        vector.push(IoSlice::new(&reply.head));
        vector.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
        while rustix::io::writev(self.fd.get_ref(), &vector) == Err(Errno::INTR) {}
    }
}

/// A whole request. The body of a WRITE stays where the kernel put it; others are small, and copied, so
/// that one that waits for long holds no large buffer.
fn request(bytes: Bytes) -> Option<Request> {
    let (header, _) = fuse_in_header::read_from_prefix(&bytes).ok()?;
    let body = bytes.slice(size_of::<fuse_in_header>()..);
    let body = if header.opcode == FUSE_WRITE { body } else { Bytes::copy_from_slice(&body) };
    Some(Request { header, body })
}

/// In one piece, for a payload that a far end has cut into crumbs.
fn joined(pieces: &[Bytes]) -> Bytes {
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}
