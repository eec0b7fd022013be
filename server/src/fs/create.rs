//! `Tlcreate`, `Tmkdir`, `Tsymlink`, `Tmknod` (diod `protocol.md` § lcreate, mkdir, symlink, mknod).
//!
//! The owner of what is made is the service's user. The group is the one asked for where the
//! service may give it, as in a folder shared by local users; where it may not, the file keeps the
//! service's, which is no error. Concurrency: the file system decides who comes first; what was
//! made is then looked up by its name, and another's file that took the name is never changed more
//! than in its group.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Statx, chownat, fchmod, mkdirat, mknodat, symlinkat,
};
use transport::ninep::Rmessage;

use super::errno::{Errno, Result};
use super::fid::{Fid, OpenFile};
use super::io::{self, IOUNIT, Wanted};
use super::limits;
use super::node::{Id, Name, Node, open_beneath, stat};
use super::session::Session;
use super::tree::Found;

/// Times that a file that comes and goes is tried to be made or opened.
const TRIES: usize = 8;

/// "As it comes" for a group.
const NO_GROUP: u32 = u32::MAX;

/// Set-id bits and sticky bit with the permissions: what a mode may have besides its type.
const PERMISSIONS: u32 = 0o7777;

/// `Tlcreate`: makes a file and opens it; the fid becomes the file's. One that is there already is
/// opened, unless it must be new.
pub fn lcreate(
    s: &Session,
    fid: &Fid,
    name: &[u8],
    flags: u32,
    mode: u32,
    gid: u32,
) -> Result<Rmessage<'static>> {
    fid.unopened()?;
    let (parent, name) = place(s, fid, name)?;
    let wanted = Wanted::from_wire(flags)?;
    if wanted.flags.contains(OFlags::DIRECTORY) {
        return Err(Errno::INVAL);
    }
    let slot = io::slot(s)?;
    let made = make(s, &parent, name, wanted, mode & PERMISSIONS, gid)?;
    let qid = s.export.devices().qid(&made.1.st);
    let node = &made.1.node;
    let disk = s.export.disks().find(node.id.device, &made.0);
    io::bind(s, fid, node, OpenFile::new(made.0, &wanted, node.is_dir(), disk, slot))?;
    Ok(Rmessage::Rlcreate { qid, iounit: IOUNIT })
}

/// Where something is to be made, before anything is: it could not be taken back.
fn place<'a>(s: &Session, fid: &Fid, name: &'a [u8]) -> Result<(Arc<Node>, Name<'a>)> {
    s.writable()?;
    let (parent, name) = (fid.node(), Name::new(name)?);
    if parent.depth >= limits::DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    Ok((parent, name))
}

/// Makes the file as a new one, so that nothing that took the name is ever opened by creating it;
/// failing that, opens what is there as any other file is opened.
fn make(
    s: &Session,
    parent: &Arc<Node>,
    name: Name<'_>,
    wanted: Wanted,
    mode: u32,
    gid: u32,
) -> Result<(OwnedFd, Found)> {
    let dir = s.tree.handle(parent)?;
    let flags = wanted.flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY;
    for _ in 0..TRIES {
        match open_beneath(dir.as_fd(), name.bytes(), flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => {
                let st = give_group(s, parent, &fd, stat(&fd)?, mode, gid)?;
                let found = s.tree.look(parent, name)?;
                return if Id::of(&st).same(&found.node.id) {
                    Ok((fd, Found { node: found.node, st }))
                } else {
                    Err(Errno::STALE)
                };
            }
            Err(Errno::EXIST) if !wanted.exclusive => {}
            Err(errno) => return Err(errno),
        }
        let opened = s.tree.look(parent, name).and_then(|found| {
            if found.node.is_dir() {
                return Err(Errno::ISDIR);
            }
            let (fd, st) = io::open_node(s, &found.node, wanted)?;
            Ok((fd, Found { node: found.node, st }))
        });
        match opened {
            // Removed, or replaced, between the two: once more.
            Err(Errno::NOENT | Errno::STALE) => {}
            done => return done,
        }
    }
    Err(Errno::STALE)
}

/// Gives a new node the group that was asked for, unless its folder gives its own to what is made
/// in it. Gives its attributes after that.
fn give_group(
    s: &Session,
    parent: &Arc<Node>,
    fd: &impl AsFd,
    st: Statx,
    mode: u32,
    gid: u32,
) -> Result<Statx> {
    const SET_ID: u32 = 0o6000;
    const SET_GROUP: u16 = 0o2000;
    if gid == NO_GROUP || st.stx_gid == gid {
        return Ok(st);
    }
    if stat(s.tree.handle(parent)?)?.stx_mode & SET_GROUP != 0 {
        return Ok(st);
    }
    if chownat(fd, c"", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH).is_err() {
        return Ok(st);
    }
    let kind = FileType::from_raw_mode(st.stx_mode.into());
    if mode & SET_ID != 0 && kind == FileType::RegularFile {
        // The change of group dropped them.
        fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    stat(fd)
}

/// Looks up what has just been made, gives it its group, and its qid.
fn made(
    s: &Session,
    parent: &Arc<Node>,
    name: Name<'_>,
    gid: u32,
) -> Result<transport::ninep::Qid> {
    let found = s.tree.look(parent, name)?;
    let fd = s.tree.handle(&found.node)?;
    let st = give_group(s, parent, &fd, found.st, 0, gid)?;
    Ok(s.export.devices().qid(&st))
}

/// `Tmkdir`.
pub fn mkdir(
    s: &Session,
    fid: &Fid,
    name: &[u8],
    mode: u32,
    gid: u32,
) -> Result<Rmessage<'static>> {
    let (parent, name) = place(s, fid, name)?;
    let mode = Mode::from_raw_mode(mode & PERMISSIONS);
    mkdirat(s.tree.handle(&parent)?, name.bytes(), mode)?;
    Ok(Rmessage::Rmkdir { qid: made(s, &parent, name, gid)? })
}

/// `Tsymlink`. The target is kept as it is: it is followed by nobody on this side.
pub fn symlink(
    s: &Session,
    fid: &Fid,
    name: &[u8],
    target: &[u8],
    gid: u32,
) -> Result<Rmessage<'static>> {
    let (parent, name) = place(s, fid, name)?;
    if target.len() > limits::TARGET {
        return Err(Errno::NAMETOOLONG);
    }
    symlinkat(target, s.tree.handle(&parent)?, name.bytes())?;
    Ok(Rmessage::Rsymlink { qid: made(s, &parent, name, gid)? })
}

/// `Tmknod`: fifos, sockets and files. Device nodes are a door to the server's hardware: `EPERM`.
pub fn mknod(
    s: &Session,
    fid: &Fid,
    name: &[u8],
    mode: u32,
    gid: u32,
) -> Result<Rmessage<'static>> {
    let (parent, name) = place(s, fid, name)?;
    let kind = match FileType::from_raw_mode(mode) {
        kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => kind,
        FileType::CharacterDevice | FileType::BlockDevice => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    };
    let mode = Mode::from_raw_mode(mode & PERMISSIONS);
    mknodat(s.tree.handle(&parent)?, name.bytes(), kind, mode, 0)?;
    Ok(Rmessage::Rmknod { qid: made(s, &parent, name, gid)? })
}
