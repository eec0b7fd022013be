//! The message table of 9P2000.L: every message that Linux's v9fs sends, and every reply.
//!
//! One row a message: type number, name, fields in wire order (diod `protocol.md`; kernel
//! `include/net/9p/9p.h`, `net/9p/client.c`). Decoding looks at the head alone: the payload of
//! `Twrite`, `Rread` and `Rreaddir` is only counted, and stays in the [`Packet`]'s pieces.

use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};

use super::codec::{DecodeError, Reader, Wire};
use super::packet::{HEADER, Header, Packet};
use super::pieces::Pieces;
use crate::id::{Fid, Tag};

/// The one protocol version that both ends speak (version(5)).
pub const VERSION: &[u8] = b"9P2000.L";

/// The most names in one `Twalk` (walk(5), MAXWELEM).
pub const MAX_NAMES: usize = 16;

/// What a qid's type byte says (open(5); kernel `P9_QTDIR` and following).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QidKind(pub u8);

impl QidKind {
    /// A directory.
    pub const DIR: QidKind = QidKind(0x80);
    /// A symbolic link.
    pub const SYMLINK: QidKind = QidKind(0x02);
    /// Anything else.
    pub const FILE: QidKind = QidKind(0x00);
}

/// A server's identity of a node: kind, version, path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Qid {
    /// Directory, symbolic link or other.
    pub kind: QidKind,
    /// Changes whenever the node's contents do; Linux caches nothing of version 0.
    pub version: u32,
    /// Unique among the nodes of one attach.
    pub path: u64,
}

impl Qid {
    /// Bytes of a qid on the wire.
    pub const SIZE: usize = 13;
}

impl<'a> Wire<'a> for Qid {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Qid { kind: QidKind(from.field()?), version: from.field()?, path: from.field()? })
    }
    fn write(&self, to: &mut BytesMut) {
        self.kind.0.write(to);
        self.version.write(to);
        self.path.write(to);
    }
}

/// The names of a `Twalk`: sixteen at most, held without allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Names<'a> {
    names: [&'a [u8]; MAX_NAMES],
    count: usize,
}

impl<'a> Names<'a> {
    /// The names as a slice.
    pub fn as_slice(&self) -> &[&'a [u8]] {
        &self.names[..self.count]
    }

    /// Names for a walk; `None` above sixteen.
    pub fn new(from: &[&'a [u8]]) -> Option<Self> {
        let mut names = Names { count: from.len(), ..Names::default() };
        names.names.get_mut(..from.len())?.copy_from_slice(from);
        Some(names)
    }
}

impl<'a> Wire<'a> for Names<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count: u16 = from.field()?;
        let mut names = Names { count: usize::from(count), ..Names::default() };
        for slot in
            names.names.get_mut(..names.count).ok_or(DecodeError::TooManyNames(count))?.iter_mut()
        {
            *slot = from.field()?;
        }
        Ok(names)
    }
    fn write(&self, to: &mut BytesMut) {
        (self.count as u16).write(to);
        self.as_slice().iter().for_each(|name| name.write(to));
    }
}

/// The qids of an `Rwalk`: sixteen at most, held without allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Qids {
    qids: [Qid; MAX_NAMES],
    count: usize,
}

impl Default for Qids {
    fn default() -> Self {
        Qids { qids: [Qid { kind: QidKind::FILE, version: 0, path: 0 }; MAX_NAMES], count: 0 }
    }
}

impl Qids {
    /// The qids as a slice.
    pub fn as_slice(&self) -> &[Qid] {
        &self.qids[..self.count]
    }

    /// Adds one; false where there are sixteen already.
    pub fn push(&mut self, qid: Qid) -> bool {
        let Some(slot) = self.qids.get_mut(self.count) else { return false };
        *slot = qid;
        self.count += 1;
        true
    }
}

impl<'a> Wire<'a> for Qids {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count: u16 = from.field()?;
        let mut qids = Qids { count: usize::from(count), ..Qids::default() };
        for slot in
            qids.qids.get_mut(..qids.count).ok_or(DecodeError::TooManyNames(count))?.iter_mut()
        {
            *slot = from.field()?;
        }
        Ok(qids)
    }
    fn write(&self, to: &mut BytesMut) {
        (self.count as u16).write(to);
        self.as_slice().iter().for_each(|qid| qid.write(to));
    }
}

/// A last field that older kernels leave out (`datasync` of `Tfsync`); absent reads as 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OrZero(pub u32);

impl<'a> Wire<'a> for OrZero {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if from.rest().is_empty() { Ok(OrZero(0)) } else { from.field().map(OrZero) }
    }
    fn write(&self, to: &mut BytesMut) {
        self.0.write(to);
    }
}

/// A node's attributes, as `Rgetattr` carries them behind its qid; kernel `struct p9_stat_dotl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// File type and permission bits (inode(7)).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred transfer size in bytes.
    pub blksize: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access: seconds and nanoseconds.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the node.
    pub ctime: Time,
    /// Birth; not in [`attr::BASIC`].
    pub btime: Time,
    /// Generation; not in [`attr::BASIC`].
    pub generation: u64,
    /// Data version; not in [`attr::BASIC`].
    pub data_version: u64,
}

/// Seconds and nanoseconds since the epoch, each as 64 bits on the wire; seconds before 1970 wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Time {
    /// Whole seconds, two's complement.
    pub sec: u64,
    /// Nanoseconds, 0..1,000,000,000.
    pub nsec: u64,
}

impl<'a> Wire<'a> for Time {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Time { sec: from.field()?, nsec: from.field()? })
    }
    fn write(&self, to: &mut BytesMut) {
        self.sec.write(to);
        self.nsec.write(to);
    }
}

macro_rules! wire_struct {
    ($name:ident { $($field:ident),* }) => {
        impl<'a> Wire<'a> for $name {
            fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
                Ok($name { $($field: from.field()?),* })
            }
            fn write(&self, to: &mut BytesMut) {
                $(self.$field.write(to);)*
            }
        }
    };
}

wire_struct!(Attributes {
    mode,
    uid,
    gid,
    nlink,
    rdev,
    size,
    blksize,
    blocks,
    atime,
    mtime,
    ctime,
    btime,
    generation,
    data_version
});

/// What `Tsetattr` may change, and to what; kernel `struct p9_iattr_dotl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Which of the fields to set: [`setattr`].
    pub valid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
}

wire_struct!(SetAttributes { valid, mode, uid, gid, size, atime, mtime });

/// The file system's numbers; kernel `struct p9_rstatfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statfs {
    /// The file system's magic number (statfs(2)).
    pub kind: u32,
    /// Block size in bytes.
    pub bsize: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub bfree: u64,
    /// Blocks free to an unprivileged user.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub ffree: u64,
    /// The file system's id.
    pub fsid: u64,
    /// The longest name in bytes.
    pub namelen: u32,
}

wire_struct!(Statfs { kind, bsize, blocks, bfree, bavail, files, ffree, fsid, namelen });

/// `request_mask` and `valid` of getattr (kernel `P9_STATS_*`).
pub mod attr {
    /// Everything that stat(2) has.
    pub const BASIC: u64 = 0x0000_07ff;
    /// The birth time.
    pub const BTIME: u64 = 0x0000_0800;
    /// The generation.
    pub const GEN: u64 = 0x0000_1000;
    /// The data version.
    pub const DATA_VERSION: u64 = 0x0000_2000;
}

/// `valid` of setattr (kernel `P9_ATTR_*`).
pub mod setattr {
    /// Set the mode.
    pub const MODE: u32 = 1;
    /// Set the owner.
    pub const UID: u32 = 1 << 1;
    /// Set the group.
    pub const GID: u32 = 1 << 2;
    /// Set the size.
    pub const SIZE: u32 = 1 << 3;
    /// Set the access time: to now, unless [`ATIME_SET`].
    pub const ATIME: u32 = 1 << 4;
    /// Set the modification time: to now, unless [`MTIME_SET`].
    pub const MTIME: u32 = 1 << 5;
    /// The change time is touched (it always is).
    pub const CTIME: u32 = 1 << 6;
    /// The access time is the message's.
    pub const ATIME_SET: u32 = 1 << 7;
    /// The modification time is the message's.
    pub const MTIME_SET: u32 = 1 << 8;
}

/// `type` and `flags` of locks, `status` of their replies (kernel `P9_LOCK_*`).
pub mod lock {
    /// A shared lock.
    pub const RDLCK: u8 = 0;
    /// An exclusive lock.
    pub const WRLCK: u8 = 1;
    /// No lock.
    pub const UNLCK: u8 = 2;
    /// Flag: wait for it.
    pub const FLAG_BLOCK: u32 = 1;
    /// Flag: reclaim after a restart.
    pub const FLAG_RECLAIM: u32 = 2;
    /// Granted.
    pub const SUCCESS: u8 = 0;
    /// Held by another; ask again.
    pub const BLOCKED: u8 = 1;
    /// Failed.
    pub const ERROR: u8 = 2;
    /// The server is in its grace period.
    pub const GRACE: u8 = 3;
}

/// `flags` of `Tlopen` and `Tlcreate` (kernel `P9_DOTL_*`): the values of x86's open(2), whatever
/// the machine.
pub mod open {
    /// The access mode's two bits: 0 read, 1 write, 2 both.
    pub const ACCMODE: u32 = 0o3;
    /// O_WRONLY.
    pub const WRONLY: u32 = 0o1;
    /// O_RDWR.
    pub const RDWR: u32 = 0o2;
    /// O_CREAT.
    pub const CREATE: u32 = 0o100;
    /// O_EXCL.
    pub const EXCL: u32 = 0o200;
    /// O_NOCTTY.
    pub const NOCTTY: u32 = 0o400;
    /// O_TRUNC.
    pub const TRUNC: u32 = 0o1000;
    /// O_APPEND.
    pub const APPEND: u32 = 0o2000;
    /// O_NONBLOCK.
    pub const NONBLOCK: u32 = 0o4000;
    /// O_DSYNC.
    pub const DSYNC: u32 = 0o10000;
    /// FASYNC.
    pub const FASYNC: u32 = 0o20000;
    /// O_DIRECT.
    pub const DIRECT: u32 = 0o40000;
    /// O_LARGEFILE.
    pub const LARGEFILE: u32 = 0o100000;
    /// O_DIRECTORY.
    pub const DIRECTORY: u32 = 0o200000;
    /// O_NOFOLLOW.
    pub const NOFOLLOW: u32 = 0o400000;
    /// O_NOATIME.
    pub const NOATIME: u32 = 0o1000000;
    /// O_CLOEXEC.
    pub const CLOEXEC: u32 = 0o2000000;
    /// O_SYNC.
    pub const SYNC: u32 = 0o4000000;
}

/// `flags` of `Tunlinkat` (kernel `P9_DOTL_AT_REMOVEDIR`).
pub const AT_REMOVEDIR: u32 = 0x200;

/// Declares message types, the enum of one direction, its decoding and its encoding.
macro_rules! messages {
    (
        $(#[$meta:meta])* $enum:ident;
        $( $(#[$doc:meta])* $number:literal $name:ident $({ $($field:ident: $type:ty),* $(,)? })? ),* $(,)?
    ) => {
        /// The type numbers of this direction's messages.
        #[allow(non_upper_case_globals)]
        impl Kind {
            $( $(#[$doc])* pub const $name: Kind = Kind($number); )*
        }

        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        // Sixteen names or qids inline: a message lives on the stack and costs no allocation.
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum $enum<'a> {
            $( $(#[$doc])* $name $({ $($field: $type),* })?, )*
            /// Never made: it lets messages without borrowed fields share the lifetime.
            #[doc(hidden)]
            Never(core::convert::Infallible, core::marker::PhantomData<&'a ()>),
        }

        impl<'a> $enum<'a> {
            /// The types of this direction, in ascending order.
            pub const KINDS: &'static [Kind] = &[$(Kind($number)),*];

            fn fields(kind: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                match kind {
                    $( $number => Ok($enum::$name $({ $($field: reader.field()?),* })?), )*
                    other => Err(DecodeError::UnknownType(other)),
                }
            }

            /// The message's type.
            pub fn kind(&self) -> Kind {
                match self {
                    $( $enum::$name { .. } => Kind($number), )*
                    $enum::Never(never, _) => match *never {},
                }
            }

            fn write_fields(&self, to: &mut BytesMut) {
                let _ = &to;
                match self {
                    $( $enum::$name $({ $($field),* })? => { $($($field.write(to);)*)? } )*
                    $enum::Never(never, _) => match *never {},
                }
            }

            /// Takes the message apart. The head must hold all its fields and nothing else; the
            /// payload must be as long as `count` says, and empty for messages that have none.
            pub fn decode(packet: &'a Packet) -> Result<(Tag, Self), DecodeError> {
                Self::decode_head(&packet.head, packet.body_len())
            }

            /// As [`decode`](Self::decode), where the payload's `body` bytes are elsewhere or still
            /// to come.
            pub fn decode_head(head: &'a [u8], body: usize) -> Result<(Tag, Self), DecodeError> {
                let header = Header::read(head)?;
                let have = head.len() + body;
                if header.size as usize != have {
                    return Err(DecodeError::SizeMismatch { said: header.size, have });
                }
                let mut reader = Reader::new(&head[HEADER..]);
                let message = Self::fields(header.kind, &mut reader)?;
                reader.finish()?;
                let said = message.payload();
                if said as usize != body {
                    return Err(DecodeError::CountMismatch { said, have: body });
                }
                Ok((header.tag, message))
            }

            /// The message as a packet, with `body` as its payload.
            pub fn with_body(&self, tag: Tag, body: Vec<Bytes>) -> Packet {
                self.write_to(&mut BytesMut::with_capacity(64), tag, body.into())
            }

            /// As [`with_body`](Self::with_body), with the head written to `slab`, which is empty: its
            /// front leaves with the packet, and the rest of its room is there for the next.
            pub fn write_to(&self, slab: &mut BytesMut, tag: Tag, body: Pieces) -> Packet {
                Packet::start(slab, self.kind().0, tag);
                self.write_fields(slab);
                Packet::finish(slab.split(), body)
            }

            /// The message as a packet; for messages without payload.
            pub fn encode(&self, tag: Tag) -> Packet {
                self.with_body(tag, Vec::new())
            }
        }
    };
}

/// A message's type byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Kind(pub u8);

impl Kind {
    /// The type of this request's reply.
    pub fn reply(self) -> Kind {
        Kind(self.0.wrapping_add(1))
    }

    /// Bytes of the head of a message whose payload is kept apart; `None` where all is head.
    pub fn payload_head(self) -> Option<usize> {
        match self {
            Kind::Twrite => Some(HEADER + 4 + 8 + 4),
            Kind::Rread | Kind::Rreaddir => Some(HEADER + 4),
            _ => None,
        }
    }
}

messages! {
    /// What a client sends.
    Tmessage;
    /// The file system's numbers.
    8 Tstatfs { fid: Fid },
    /// Opens a fid for I/O.
    12 Tlopen { fid: Fid, flags: u32 },
    /// Creates a file and opens it; the fid becomes the file's.
    14 Tlcreate { fid: Fid, name: &'a [u8], flags: u32, mode: u32, gid: u32 },
    /// Creates a symbolic link.
    16 Tsymlink { dfid: Fid, name: &'a [u8], target: &'a [u8], gid: u32 },
    /// Creates a device node, fifo or socket.
    18 Tmknod { dfid: Fid, name: &'a [u8], mode: u32, major: u32, minor: u32, gid: u32 },
    /// Renames by fid.
    20 Trename { fid: Fid, dfid: Fid, name: &'a [u8] },
    /// A symbolic link's target.
    22 Treadlink { fid: Fid },
    /// A node's attributes.
    24 Tgetattr { fid: Fid, mask: u64 },
    /// Changes attributes.
    26 Tsetattr { fid: Fid, set: SetAttributes },
    /// Makes `newfid` read an extended attribute; the list of them where `name` is empty.
    30 Txattrwalk { fid: Fid, newfid: Fid, name: &'a [u8] },
    /// Makes the fid take an extended attribute's value; the clunk sets it.
    32 Txattrcreate { fid: Fid, name: &'a [u8], size: u64, flags: u32 },
    /// Entries of an open directory.
    40 Treaddir { fid: Fid, offset: u64, count: u32 },
    /// Flushes a file to its disk.
    50 Tfsync { fid: Fid, datasync: OrZero },
    /// Takes or releases a byte-range lock.
    52 Tlock { fid: Fid, kind: u8, flags: u32, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] },
    /// Asks who holds a lock.
    54 Tgetlock { fid: Fid, kind: u8, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] },
    /// Creates a hard link.
    70 Tlink { dfid: Fid, fid: Fid, name: &'a [u8] },
    /// Creates a directory.
    72 Tmkdir { dfid: Fid, name: &'a [u8], mode: u32, gid: u32 },
    /// Renames by name.
    74 Trenameat { olddirfid: Fid, oldname: &'a [u8], newdirfid: Fid, newname: &'a [u8] },
    /// Removes a name.
    76 Tunlinkat { dirfid: Fid, name: &'a [u8], flags: u32 },
    /// Begins a session.
    100 Tversion { msize: u32, version: &'a [u8] },
    /// Asks for authentication; refused.
    102 Tauth { afid: Fid, uname: &'a [u8], aname: &'a [u8], n_uname: u32 },
    /// Makes a fid of the root.
    104 Tattach { fid: Fid, afid: Fid, uname: &'a [u8], aname: &'a [u8], n_uname: u32 },
    /// Gives a request up.
    108 Tflush { oldtag: Tag },
    /// Makes `newfid` from `fid` by up to sixteen names.
    110 Twalk { fid: Fid, newfid: Fid, names: Names<'a> },
    /// Reads.
    116 Tread { fid: Fid, offset: u64, count: u32 },
    /// Writes; the payload is in the packet's body.
    118 Twrite { fid: Fid, offset: u64, count: u32 },
    /// Forgets a fid.
    120 Tclunk { fid: Fid },
    /// Removes the fid's node and forgets the fid.
    122 Tremove { fid: Fid },
}

messages! {
    /// What a server answers.
    Rmessage;
    /// Failure: an errno of Linux.
    7 Rlerror { errno: u32 },
    /// The file system's numbers.
    9 Rstatfs { statfs: Statfs },
    /// Opened.
    13 Rlopen { qid: Qid, iounit: u32 },
    /// Created and opened.
    15 Rlcreate { qid: Qid, iounit: u32 },
    /// Created.
    17 Rsymlink { qid: Qid },
    /// Created.
    19 Rmknod { qid: Qid },
    /// Renamed.
    21 Rrename,
    /// The target.
    23 Rreadlink { target: &'a [u8] },
    /// The attributes that `valid` names.
    25 Rgetattr { valid: u64, qid: Qid, attributes: Attributes },
    /// Changed.
    27 Rsetattr,
    /// The value's size in bytes.
    31 Rxattrwalk { size: u64 },
    /// Ready for the value.
    33 Rxattrcreate,
    /// Entries, in the packet's body: [`Entry`] after [`Entry`].
    41 Rreaddir { count: u32 },
    /// On the disk.
    51 Rfsync,
    /// [`lock::SUCCESS`] and following.
    53 Rlock { status: u8 },
    /// The lock in the way, or [`lock::UNLCK`].
    55 Rgetlock { kind: u8, start: u64, length: u64, proc_id: u32, client_id: &'a [u8] },
    /// Linked.
    71 Rlink,
    /// Created.
    73 Rmkdir { qid: Qid },
    /// Renamed.
    75 Rrenameat,
    /// Removed.
    77 Runlinkat,
    /// The session's msize and version.
    101 Rversion { msize: u32, version: &'a [u8] },
    /// Never sent.
    103 Rauth { aqid: Qid },
    /// The root.
    105 Rattach { qid: Qid },
    /// The flushed request will have no reply after this.
    109 Rflush,
    /// A qid for each name walked.
    111 Rwalk { qids: Qids },
    /// The payload is in the packet's body.
    117 Rread { count: u32 },
    /// Bytes written.
    119 Rwrite { count: u32 },
    /// Forgotten.
    121 Rclunk,
    /// Removed and forgotten.
    123 Rremove,
}

impl Tmessage<'_> {
    /// Bytes of payload that belong to the message.
    pub fn payload(&self) -> u32 {
        match *self {
            Tmessage::Twrite { count, .. } => count,
            _ => 0,
        }
    }
}

impl Tmessage<'_> {
    /// The fids that the message names, in wire order, but for those that it makes.
    pub fn fids(&self) -> [Option<Fid>; 2] {
        match *self {
            Tmessage::Tversion { .. }
            | Tmessage::Tflush { .. }
            | Tmessage::Tauth { .. }
            | Tmessage::Tattach { .. }
            | Tmessage::Never(..) => [None, None],
            Tmessage::Trename { fid, dfid, .. } => [Some(fid), Some(dfid)],
            Tmessage::Tlink { dfid, fid, .. } => [Some(dfid), Some(fid)],
            Tmessage::Trenameat { olddirfid, newdirfid, .. } => [Some(olddirfid), Some(newdirfid)],
            Tmessage::Tstatfs { fid }
            | Tmessage::Tlopen { fid, .. }
            | Tmessage::Tlcreate { fid, .. }
            | Tmessage::Tsymlink { dfid: fid, .. }
            | Tmessage::Tmknod { dfid: fid, .. }
            | Tmessage::Treadlink { fid }
            | Tmessage::Tgetattr { fid, .. }
            | Tmessage::Tsetattr { fid, .. }
            | Tmessage::Txattrwalk { fid, .. }
            | Tmessage::Txattrcreate { fid, .. }
            | Tmessage::Treaddir { fid, .. }
            | Tmessage::Tfsync { fid, .. }
            | Tmessage::Tlock { fid, .. }
            | Tmessage::Tgetlock { fid, .. }
            | Tmessage::Tmkdir { dfid: fid, .. }
            | Tmessage::Tunlinkat { dirfid: fid, .. }
            | Tmessage::Twalk { fid, .. }
            | Tmessage::Tread { fid, .. }
            | Tmessage::Twrite { fid, .. }
            | Tmessage::Tclunk { fid }
            | Tmessage::Tremove { fid } => [Some(fid), None],
        }
    }
}

impl Rmessage<'_> {
    /// Bytes of payload that belong to the message.
    pub fn payload(&self) -> u32 {
        match *self {
            Rmessage::Rread { count } | Rmessage::Rreaddir { count } => count,
            _ => 0,
        }
    }

    /// A failure as a packet.
    pub fn error(tag: Tag, errno: u32) -> Packet {
        Rmessage::Rlerror { errno }.encode(tag)
    }
}

/// One entry of an `Rreaddir`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The entry's node.
    pub qid: Qid,
    /// Where the next `Treaddir` goes on.
    pub offset: u64,
    /// `DT_*` of readdir(3).
    pub kind: u8,
    /// The name.
    pub name: &'a [u8],
}

impl Entry<'_> {
    /// Bytes of an entry with a name of `name` bytes.
    pub const fn size(name: usize) -> usize {
        Qid::SIZE + 8 + 1 + 2 + name
    }
}

impl<'a> Wire<'a> for Entry<'a> {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Entry {
            qid: from.field()?,
            offset: from.field()?,
            kind: from.field()?,
            name: from.field()?,
        })
    }
    fn write(&self, to: &mut BytesMut) {
        self.qid.write(to);
        self.offset.write(to);
        self.kind.write(to);
        self.name.write(to);
    }
}

/// The size a packet's header says, and the packet's bytes.
#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_walk_is_what_the_kernel_sends() {
        // Twalk tag 1, fid 1, newfid 2, one name "a".
        let bytes = vec![20, 0, 0, 0, 110, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0, b'a'];
        let packet = Packet::whole(bytes.clone());
        let (tag, message) = Tmessage::decode(&packet).unwrap();
        let names = Names::new(&[b"a"]).unwrap();
        assert_eq!(tag, Tag(1));
        assert_eq!(message, Tmessage::Twalk { fid: Fid(1), newfid: Fid(2), names });
        assert_eq!(message.encode(tag).to_vec(), bytes);
    }

    #[test]
    fn a_count_that_is_not_the_payloads_is_refused() {
        let mut packet = Rmessage::Rread { count: 5 }.with_body(Tag(1), vec![Bytes::from("hello")]);
        assert!(Rmessage::decode(&packet).is_ok());
        packet.body.push(Bytes::from("x"));
        assert!(matches!(Rmessage::decode(&packet), Err(DecodeError::SizeMismatch { .. })));
    }

    #[test]
    fn a_walk_of_seventeen_names_is_refused() {
        let mut bytes = vec![0, 0, 0, 0, 110, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 17, 0];
        bytes.extend([1, 0, b'a'].repeat(17));
        bytes[0] = bytes.len() as u8;
        let packet = Packet::whole(bytes);
        assert_eq!(Tmessage::decode(&packet), Err(DecodeError::TooManyNames(17)));
    }

    #[test]
    fn an_old_fsync_without_datasync_is_understood() {
        let packet = Packet::whole(vec![11, 0, 0, 0, 50, 1, 0, 7, 0, 0, 0]);
        let (_, message) = Tmessage::decode(&packet).unwrap();
        assert_eq!(message, Tmessage::Tfsync { fid: Fid(7), datasync: OrZero(0) });
    }
}
