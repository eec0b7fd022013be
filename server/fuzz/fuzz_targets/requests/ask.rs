//! What a hostile client may ask for: every request, with few fids, few names and any numbers, so that
//! requests meet. Leaves out tags, and what becomes of it.

use arbitrary::Arbitrary;
use bytes::Bytes;
use transport::id::{Fid, Tag};
use transport::ninep::message::{OrZero, SetAttributes, Time};
use transport::ninep::{Names, Packet, Tmessage};

/// A name out of few: what is in the folder, what leads out of it, and what is none.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Name(u8);

const LONG: [u8; 300] = [b'l'; 300];

impl Name {
    pub fn bytes(self) -> &'static [u8] {
        const NAMES: &[&[u8]] = &[
            b"a",
            b"b",
            b"c",
            b"d",
            b"dir",
            b"file",
            b"out",
            b"outdir",
            b"rootdir",
            b"magic",
            b".",
            b"..",
            b"",
            b"/",
            b"a/b",
            b"../outside",
            b"n\0l",
            b"\xff\n",
        ];
        match usize::from(self.0) {
            254 => &LONG[..255],
            255 => &LONG,
            n => NAMES[n % NAMES.len()],
        }
    }
}

/// The target of a symbolic link.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Target {
    Secret,
    Outside,
    Root,
    Magic,
    Name(Name),
}

impl Target {
    fn bytes(self) -> &'static [u8] {
        match self {
            Target::Secret => b"../outside/secret",
            Target::Outside => b"../outside",
            Target::Root => b"/",
            Target::Magic => b"/proc/self/root",
            Target::Name(name) => name.bytes(),
        }
    }
}

/// The name of an extended attribute.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Attribute {
    List,
    User(bool),
    Acl,
    Trusted,
    Bad(Name),
}

impl Attribute {
    fn bytes(self) -> &'static [u8] {
        match self {
            Attribute::List => b"",
            Attribute::User(false) => b"user.a",
            Attribute::User(true) => b"user.b",
            Attribute::Acl => b"system.posix_acl_access",
            Attribute::Trusted => b"trusted.overlay.opaque",
            Attribute::Bad(name) => name.bytes(),
        }
    }
}

/// A fid out of few; 0 is attached to the root when a run begins.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Number(u8);

impl Number {
    pub fn fid(self) -> Fid {
        if self.0 == 255 { Fid::NONE } else { Fid(u32::from(self.0 % 8)) }
    }
}

/// A number near those that matter, or any.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Size {
    Small(u16),
    Large(i8),
    Any(u64),
}

impl Size {
    pub fn value(self) -> u64 {
        match self {
            Size::Small(small) => u64::from(small),
            Size::Large(near) => i64::MAX.wrapping_add(i64::from(near)) as u64,
            Size::Any(any) => any,
        }
    }
}

/// A request.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Ask {
    Attach { fid: Number, aname: Name },
    Auth { fid: Number },
    Walk { fid: Number, newfid: Number, names: [Name; 3], count: u8 },
    Deep { fid: Number, newfid: Number, name: Name, count: u8 },
    Clunk { fid: Number },
    Remove { fid: Number },
    Open { fid: Number, flags: u32 },
    Create { fid: Number, name: Name, flags: u32, mode: u32 },
    Read { fid: Number, offset: Size, count: Size },
    Write { fid: Number, offset: Size, count: u16, cut: u16 },
    ReadDir { fid: Number, offset: Size, count: Size },
    GetAttr { fid: Number, mask: u64 },
    SetAttr { fid: Number, valid: u16, mode: u32, owner: u32, size: Size, sec: u64, nsec: u64 },
    StatFs { fid: Number },
    Fsync { fid: Number, datasync: u32 },
    MkDir { fid: Number, name: Name, mode: u32 },
    Symlink { fid: Number, name: Name, target: Target },
    MkNod { fid: Number, name: Name, mode: u32, major: u32 },
    Link { fid: Number, to: Number, name: Name },
    ReadLink { fid: Number },
    Rename { fid: Number, to: Number, name: Name },
    RenameAt { from: Number, old: Name, to: Number, new: Name },
    UnlinkAt { fid: Number, name: Name, flags: u32 },
    XattrWalk { fid: Number, newfid: Number, name: Attribute },
    XattrCreate { fid: Number, name: Attribute, size: Size, flags: u32 },
    Lock { fid: Number, kind: u8, flags: u32, start: Size, length: Size, owner: u8 },
    GetLock { fid: Number, kind: u8, start: Size, length: Size, owner: u8 },
}

impl Ask {
    /// The request as it travels, its payload cut in two.
    pub fn packet(self, tag: Tag) -> Packet {
        let mut pieces = Vec::new();
        if let Ask::Write { count, cut, .. } = self {
            let data = Bytes::from(vec![b'w'; usize::from(count % 8000)]);
            let cut = usize::from(cut).min(data.len());
            pieces.extend([data.slice(..cut), data.slice(cut..)]);
            pieces.retain(|piece| !piece.is_empty());
        }
        let list = match self {
            Ask::Walk { names, .. } => names.map(Name::bytes).to_vec(),
            Ask::Deep { name, count, .. } => vec![name.bytes(); usize::from(count % 17)],
            _ => Vec::new(),
        };
        self.message(&list).with_body(tag, pieces)
    }

    fn message<'a>(self, list: &'a [&'a [u8]]) -> Tmessage<'a> {
        let gid = 0;
        let count = |size: Size| size.value() as u32;
        let client = |owner: u8| if owner & 1 == 0 { &b"one"[..] } else { &LONG[..256] };
        match self {
            Ask::Attach { fid, aname } => Tmessage::Tattach {
                fid: fid.fid(),
                afid: Fid::NONE,
                uname: b"nobody",
                aname: aname.bytes(),
                n_uname: 0,
            },
            Ask::Auth { fid } => {
                Tmessage::Tauth { afid: fid.fid(), uname: b"", aname: b"", n_uname: 0 }
            }
            Ask::Walk { fid, newfid, count, .. } => {
                let names = Names::new(&list[..usize::from(count % 4)]).unwrap_or_default();
                Tmessage::Twalk { fid: fid.fid(), newfid: newfid.fid(), names }
            }
            Ask::Deep { fid, newfid, .. } => {
                let names = Names::new(list).unwrap_or_default();
                Tmessage::Twalk { fid: fid.fid(), newfid: newfid.fid(), names }
            }
            Ask::Clunk { fid } => Tmessage::Tclunk { fid: fid.fid() },
            Ask::Remove { fid } => Tmessage::Tremove { fid: fid.fid() },
            Ask::Open { fid, flags } => Tmessage::Tlopen { fid: fid.fid(), flags },
            Ask::Create { fid, name, flags, mode } => {
                Tmessage::Tlcreate { fid: fid.fid(), name: name.bytes(), flags, mode, gid }
            }
            Ask::Read { fid, offset, count: size } => {
                Tmessage::Tread { fid: fid.fid(), offset: offset.value(), count: count(size) }
            }
            Ask::Write { fid, offset, count, .. } => Tmessage::Twrite {
                fid: fid.fid(),
                offset: offset.value(),
                count: u32::from(count % 8000),
            },
            Ask::ReadDir { fid, offset, count: size } => {
                Tmessage::Treaddir { fid: fid.fid(), offset: offset.value(), count: count(size) }
            }
            Ask::GetAttr { fid, mask } => Tmessage::Tgetattr { fid: fid.fid(), mask },
            Ask::SetAttr { fid, valid, mode, owner, size, sec, nsec } => {
                let time = Time { sec, nsec };
                let set = SetAttributes {
                    valid: u32::from(valid),
                    mode,
                    uid: owner,
                    gid: owner,
                    size: size.value(),
                    atime: time,
                    mtime: time,
                };
                Tmessage::Tsetattr { fid: fid.fid(), set }
            }
            Ask::StatFs { fid } => Tmessage::Tstatfs { fid: fid.fid() },
            Ask::Fsync { fid, datasync } => {
                Tmessage::Tfsync { fid: fid.fid(), datasync: OrZero(datasync) }
            }
            Ask::MkDir { fid, name, mode } => {
                Tmessage::Tmkdir { dfid: fid.fid(), name: name.bytes(), mode, gid }
            }
            Ask::Symlink { fid, name, target } => Tmessage::Tsymlink {
                dfid: fid.fid(),
                name: name.bytes(),
                target: target.bytes(),
                gid,
            },
            Ask::MkNod { fid, name, mode, major } => {
                Tmessage::Tmknod { dfid: fid.fid(), name: name.bytes(), mode, major, minor: 3, gid }
            }
            Ask::Link { fid, to, name } => {
                Tmessage::Tlink { dfid: to.fid(), fid: fid.fid(), name: name.bytes() }
            }
            Ask::ReadLink { fid } => Tmessage::Treadlink { fid: fid.fid() },
            Ask::Rename { fid, to, name } => {
                Tmessage::Trename { fid: fid.fid(), dfid: to.fid(), name: name.bytes() }
            }
            Ask::RenameAt { from, old, to, new } => Tmessage::Trenameat {
                olddirfid: from.fid(),
                oldname: old.bytes(),
                newdirfid: to.fid(),
                newname: new.bytes(),
            },
            Ask::UnlinkAt { fid, name, flags } => {
                Tmessage::Tunlinkat { dirfid: fid.fid(), name: name.bytes(), flags }
            }
            Ask::XattrWalk { fid, newfid, name } => {
                Tmessage::Txattrwalk { fid: fid.fid(), newfid: newfid.fid(), name: name.bytes() }
            }
            Ask::XattrCreate { fid, name, size, flags } => Tmessage::Txattrcreate {
                fid: fid.fid(),
                name: name.bytes(),
                size: size.value(),
                flags,
            },
            Ask::Lock { fid, kind, flags, start, length, owner } => Tmessage::Tlock {
                fid: fid.fid(),
                kind,
                flags,
                start: start.value(),
                length: length.value(),
                proc_id: u32::from(owner / 2 % 3),
                client_id: client(owner),
            },
            Ask::GetLock { fid, kind, start, length, owner } => Tmessage::Tgetlock {
                fid: fid.fid(),
                kind,
                start: start.value(),
                length: length.value(),
                proc_id: u32::from(owner / 2 % 3),
                client_id: client(owner),
            },
        }
    }
}
