//! Attributes: a server's checked, a kernel's made of them, and FUSE's changes turned into 9P's.
//!
//! A server may lie about what it pleases but not about what kind of thing a node is: the qid and the
//! mode must agree, or the kernel would take a file for a folder.

use polyfuse_kernel::{
    FATTR_ATIME, FATTR_ATIME_NOW, FATTR_FH, FATTR_GID, FATTR_MODE, FATTR_MTIME, FATTR_MTIME_NOW,
    FATTR_SIZE, FATTR_UID, FUSE_GETATTR_FH, fuse_attr, fuse_attr_out, fuse_getattr_in,
    fuse_setattr_in,
};
use rustix::fs::FileType;
use rustix::io::Errno;
use transport::accel::hint;
use transport::ninep::message::{Attributes, SetAttributes, Time, attr, setattr};
use transport::ninep::{Pieces, Qid, QidKind, Rmessage, Tmessage};

use super::abi::{FATTR_KILL_SUIDGID, Reply, Request};
use super::interrupt::Cancel;
use super::mount::Mount;
use super::node::Node;

/// What st_blksize says: what the page cache works in.
const BLOCK: u32 = 4096;
/// Set-id bits (inode(7)).
const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

/// A node's attributes with a type that its qid agrees to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// As the server has them.
    pub attributes: Attributes,
    /// When the node was born, where the server knows; tells two nodes apart that had the same inode
    /// number one after the other.
    pub born: Option<(u64, u64)>,
    /// Whether it will be said when they are not true any more.
    pub watched: bool,
    /// Whether it is known to have no extended attributes.
    pub no_xattrs: bool,
    /// How often something had been taken back when they were asked for.
    pub at: u64,
}

impl Attr {
    /// `attributes` of the node of `qid`; EIO where the two do not agree on what it is.
    pub fn checked(valid: u64, qid: Qid, attributes: Attributes) -> Result<Attr, Errno> {
        let kind = match FileType::from_raw_mode(attributes.mode) {
            FileType::Directory => QidKind::DIR,
            FileType::Symlink => QidKind::SYMLINK,
            FileType::Unknown => return Err(Errno::IO),
            _ => QidKind::FILE,
        };
        // Other bits of a qid's type say nothing of this: append-only, exclusive, temporary.
        let told = QidKind(qid.kind.0 & (QidKind::DIR.0 | QidKind::SYMLINK.0));
        if kind != told || valid & attr::BASIC != attr::BASIC {
            return Err(Errno::IO);
        }
        let born = valid & attr::BTIME != 0;
        let born = born.then_some((attributes.btime.sec, attributes.btime.nsec));
        let (watched, no_xattrs) = (valid & hint::WATCHED != 0, valid & hint::NO_XATTRS != 0);
        Ok(Attr { attributes, born, watched, no_xattrs, at: 0 })
    }

    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.attributes.mode) == FileType::Directory
    }
}

/// The mode that is left when set-id bits go, where there are any (kernel `setattr_should_drop_suidgid`).
pub fn without_set_id(mode: u32) -> Option<u32> {
    let is_file = FileType::from_raw_mode(mode) == FileType::RegularFile;
    let drop = (mode & SUID) | if mode & GROUP_EXEC != 0 { mode & SGID } else { 0 };
    (is_file && drop != 0).then_some(mode & 0o7777 & !drop)
}

/// A device number as the kernel wants it of FUSE (`new_encode_dev`).
fn encode_device(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}

/// A device number as the kernel tells it: major and minor.
pub fn decode_device(rdev: u32) -> (u32, u32) {
    ((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00))
}

fn nanoseconds(time: Time) -> u32 {
    time.nsec.min(999_999_999) as u32
}

impl Mount {
    /// The kernel's attributes of a node.
    pub fn fuse_attr(&self, qid: Qid, attr: &Attr) -> fuse_attr {
        let attributes = &attr.attributes;
        let (uid, gid) = self.idmap.shown(attributes.uid, attributes.gid);
        fuse_attr {
            ino: qid.path,
            size: attributes.size,
            blocks: attributes.blocks,
            atime: attributes.atime.sec,
            mtime: attributes.mtime.sec,
            ctime: attributes.ctime.sec,
            atimensec: nanoseconds(attributes.atime),
            mtimensec: nanoseconds(attributes.mtime),
            ctimensec: nanoseconds(attributes.ctime),
            mode: attributes.mode,
            nlink: u32::try_from(attributes.nlink).unwrap_or(u32::MAX),
            uid,
            gid,
            rdev: encode_device(attributes.rdev),
            blksize: BLOCK,
            padding: 0,
        }
    }

    fn attr_out(&self, node: &Node, qid: Qid, attr: &Attr) -> Result<Reply, Errno> {
        // Another node has taken the server's name for this one.
        if qid.path != node.identity.path || attr.is_dir() != node.is_dir() {
            return Err(Errno::STALE);
        }
        self.saw(node, attr);
        let lifetime = self.lifetime_of(attr);
        Ok(Reply::of(&fuse_attr_out {
            attr_valid: lifetime.as_secs(),
            attr_valid_nsec: lifetime.subsec_nanos(),
            dummy: 0,
            attr: self.fuse_attr(qid, attr),
        }))
    }

    /// GETATTR.
    pub async fn getattr(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_getattr_in = request.arg()?;
        let node = self.nodes.get(request.header.nodeid)?;
        let opened = (arg.getattr_flags & FUSE_GETATTR_FH != 0).then(|| self.handles.fid(arg.fh));
        let fid = opened.transpose()?.unwrap_or_else(|| node.subject());
        let (qid, attr) = self.client.getattr(cancel, fid.number()).await?;
        self.attr_out(&node, qid, &attr)
    }

    /// SETATTR: what is to be changed, then what came of it.
    pub async fn setattr(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_setattr_in = request.arg()?;
        let node = self.nodes.get(request.header.nodeid)?;
        let opened = (arg.valid & FATTR_FH != 0).then(|| self.handles.fid(arg.fh));
        let fid = opened.transpose()?.unwrap_or_else(|| node.subject());
        let mut set = self.changes(&arg);
        if arg.valid & FATTR_KILL_SUIDGID != 0 && set.valid & setattr::MODE == 0 {
            if let Some(mode) = without_set_id(node.mode.get()) {
                set.valid |= setattr::MODE;
                set.mode = mode;
            }
        }
        let packet =
            self.client.call(cancel, &Tmessage::Tsetattr { fid: fid.number(), set }).await?;
        match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rsetattr)) => {}
            _ => return Err(Errno::IO),
        }
        let (qid, attr) = self.client.getattr(cancel, fid.number()).await?;
        self.attr_out(&node, qid, &attr)
    }

    fn changes(&self, arg: &fuse_setattr_in) -> SetAttributes {
        let mut valid = 0;
        for (fuse, ninep) in [
            (FATTR_MODE, setattr::MODE),
            (FATTR_UID, setattr::UID),
            (FATTR_GID, setattr::GID),
            (FATTR_SIZE, setattr::SIZE),
            (FATTR_ATIME, setattr::ATIME | setattr::ATIME_SET),
            (FATTR_MTIME, setattr::MTIME | setattr::MTIME_SET),
        ] {
            if arg.valid & fuse != 0 {
                valid |= ninep;
            }
        }
        for (now, set) in
            [(FATTR_ATIME_NOW, setattr::ATIME_SET), (FATTR_MTIME_NOW, setattr::MTIME_SET)]
        {
            if arg.valid & now != 0 {
                valid &= !set;
            }
        }
        let (uid, gid) = self.idmap.meant(arg.uid, arg.gid);
        SetAttributes {
            valid,
            mode: arg.mode & 0o7777,
            uid,
            gid,
            size: arg.size,
            atime: Time { sec: arg.atime, nsec: arg.atimensec.into() },
            mtime: Time { sec: arg.mtime, nsec: arg.mtimensec.into() },
        }
    }

    /// Takes set-id bits off a file that is about to be written, where it has any: the far end's
    /// kernel does it too, unless its file server may keep them.
    pub async fn kill_set_id(&self, cancel: &Cancel, node: &Node) -> Result<(), Errno> {
        let Some(mode) = without_set_id(node.mode.get()) else { return Ok(()) };
        let set = SetAttributes { valid: setattr::MODE, mode, ..SetAttributes::default() };
        let fid = node.subject();
        let request = Tmessage::Tsetattr { fid: fid.number(), set };
        let asked = self.client.ask(&request, Pieces::new())?;
        self.client.reply(cancel, asked).await?;
        node.mode.set(node.mode.get() & !0o7777 | mode);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qid(kind: QidKind) -> Qid {
        Qid { kind, version: 1, path: 1 }
    }

    #[test]
    fn a_qid_and_a_mode_have_to_agree() {
        let with = |mode| Attributes { mode, ..Attributes::default() };
        for (kind, mode, agree) in [
            (QidKind::DIR, 0o040755, true),
            (QidKind::FILE, 0o100644, true),
            (QidKind::FILE, 0o010644, true),
            (QidKind::SYMLINK, 0o120777, true),
            (QidKind(0x40), 0o100644, true),
            (QidKind::FILE, 0o040755, false),
            (QidKind::DIR, 0o100644, false),
            (QidKind::DIR, 0o120777, false),
            (QidKind::FILE, 0o120777, false),
            (QidKind::FILE, 0o644, false),
            (QidKind::FILE, 0o170644, false),
        ] {
            let got = Attr::checked(attr::BASIC, qid(kind), with(mode));
            assert_eq!(got.is_ok(), agree, "{kind:?} {mode:o}");
        }
        assert!(Attr::checked(attr::BASIC >> 1, qid(QidKind::FILE), with(0o100644)).is_err());
    }

    #[test]
    fn device_numbers_come_back_as_they_went() {
        for (major, minor) in [(1, 3), (8, 257), (4095, 0xfffff)] {
            let encoded = encode_device(rustix::fs::makedev(major, minor));
            assert_eq!(decode_device(encoded), (major, minor));
        }
    }

    #[test]
    fn set_id_bits_go_where_the_kernel_says_so() {
        assert_eq!(without_set_id(0o104755), Some(0o755));
        assert_eq!(without_set_id(0o102755), Some(0o755));
        // Without the group's x bit it once meant mandatory locking.
        assert_eq!(without_set_id(0o102745), None);
        assert_eq!(without_set_id(0o106745), Some(0o2745));
        assert_eq!(without_set_id(0o100755), None);
        assert_eq!(without_set_id(0o042755), None);
    }
}
