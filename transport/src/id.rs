//! The small numbers that everything else is keyed by, one type each.
//!
//! They exist so that a tag cannot be taken for a fid, nor a stream for either, and so that a peer's
//! number is checked once, where it is parsed. This module leaves out what the numbers mean: that is
//! [`crate::ninep`]'s and [`crate::mux`]'s.

use core::fmt;

/// One mount's 9P conversation inside a channel. Chosen by the client end, never used twice in a
/// channel. Stream 0 is the channel itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The channel itself, in frames that belong to no stream.
    pub const CHANNEL: StreamId = StreamId(0);
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// 9P's tag: pairs a reply with its request (intro(5)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u16);

impl Tag {
    /// The tag of `Tversion`, outside any session (version(5)).
    pub const NONE: Tag = Tag(0xffff);
}

/// 9P's fid: the client's name for a node (intro(5)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fid(pub u32);

impl Fid {
    /// "No fid", as `afid` of a `Tattach` without authentication (attach(5)).
    pub const NONE: Fid = Fid(0xffff_ffff);
}

/// 9P's msize: the largest message of a session in bytes, its size field included (version(5)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Msize(u32);

impl Msize {
    /// The least that Linux mounts with (`net/9p/client.c`: `p9_client_version` refuses below 4096).
    pub const MIN: Msize = Msize(4096);
    /// The most that Linux takes over file descriptors (`net/9p/trans_fd.c`: `MAX_SOCK_BUF`).
    pub const MAX: Msize = Msize(1024 * 1024);
    /// What a payload message needs besides its payload (`include/net/9p/9p.h`: `P9_IOHDRSZ`).
    pub const IO_HEADER: u32 = 24;

    /// `bytes` as an msize, if within [`Msize::MIN`]..=[`Msize::MAX`].
    pub const fn new(bytes: u32) -> Option<Msize> {
        if bytes < Self::MIN.0 || bytes > Self::MAX.0 { None } else { Some(Msize(bytes)) }
    }

    /// The msize in bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The most payload that one `Rread` or `Twrite` carries, in bytes.
    pub const fn payload(self) -> u32 {
        self.0 - Self::IO_HEADER
    }
}

impl fmt::Display for Msize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
