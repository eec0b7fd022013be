//! What FUSE's header has and the crate with its structures has not, and how requests are taken apart.
//!
//! Follows the kernel's `include/uapi/linux/fuse.h` and `fs/fuse/dev.c`. The kernel is trusted: what
//! does not fit its own header is answered with an errno, and no more is made of it.

use bytes::Bytes;
use polyfuse_kernel::fuse_in_header;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

/// The root's node (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// `FUSE_HANDLE_KILLPRIV_V2` (7.33): set-id bits are cleared here, when the kernel says so.
pub const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
/// `FUSE_INIT_EXT` (7.36): there are flags beyond the first 32.
pub const INIT_EXT: u32 = 1 << 30;
/// `FUSE_DIRECT_IO_ALLOW_MMAP` (7.39), of the flags beyond the first 32.
pub const DIRECT_IO_ALLOW_MMAP: u32 = 1 << (36 - 32);
/// `FATTR_KILL_SUIDGID`.
pub const FATTR_KILL_SUIDGID: u32 = 1 << 11;
/// `FUSE_OPEN_KILL_SUIDGID`, of the open flags behind open(2)'s.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;

/// The kernel's `FUSE_NAME_OFFSET`-sized records are padded to this.
pub const DIRENT_ALIGN: usize = 8;

/// A request.
#[derive(Clone)]
pub struct Request {
    /// Its head.
    pub header: fuse_in_header,
    /// What follows.
    pub body: Bytes,
}

impl Request {
    /// The structure that the body begins with, and the rest.
    pub fn take<T: FromBytes>(&self) -> Result<(T, &[u8]), Errno> {
        T::read_from_prefix(&self.body).map_err(|_| Errno::INVAL)
    }

    /// The structure that the body begins with.
    pub fn arg<T: FromBytes>(&self) -> Result<T, Errno> {
        self.take().map(|(arg, _)| arg)
    }

    /// The name that the body is.
    pub fn name(&self) -> Result<&[u8], Errno> {
        name(&self.body).map(|(name, _)| name)
    }
}

/// The name at the front of `bytes`, which ends with a NUL, and the rest.
pub fn name(bytes: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(Errno::INVAL)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// What a request is answered with.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Structures of the header.
    pub head: Vec<u8>,
    /// A payload, in the pieces in which it came.
    pub pieces: Vec<Bytes>,
}

impl Reply {
    /// Success and nothing else.
    pub fn empty() -> Reply {
        Reply::default()
    }

    /// A structure.
    pub fn of<T: IntoBytes + zerocopy::Immutable>(value: &T) -> Reply {
        Reply { head: value.as_bytes().to_vec(), pieces: Vec::new() }
    }

    /// A payload.
    pub fn payload(pieces: Vec<Bytes>) -> Reply {
        Reply { head: Vec::new(), pieces }
    }

    /// Bytes of it, the reply's own header left out.
    pub fn len(&self) -> usize {
        self.head.len() + self.pieces.iter().map(Bytes::len).sum::<usize>()
    }
}
