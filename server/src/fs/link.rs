//! `Tlink` and `Treadlink` (diod `protocol.md` § link, readlink).
//!
//! Concurrency: a hard link is made of the node itself where the kernel lets an unprivileged
//! process do so (from 6.10), otherwise of its name, and then it is checked which file it became:
//! another's that took the name is let go again.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, linkat, readlinkat_raw, unlinkat};
use transport::id::Msize;
use transport::ninep::Rmessage;
use transport::ninep::packet::HEADER;

use super::dispatch::Answer;
use super::errno::{Errno, Result};
use super::fid::Fid;
use super::limits;
use super::node::{Id, Name, Node, stat_entry};
use super::session::Session;

/// `Tlink`: another name for `fid`'s file, in `dfid`.
pub fn link(s: &Session, fid: &Fid, dfid: &Fid, name: &[u8]) -> Result<Rmessage<'static>> {
    s.writable()?;
    let (node, parent, name) = (fid.node(), dfid.node(), Name::new(name)?);
    let dir = s.tree.handle(&parent)?;
    let itself = match fid.if_open() {
        Some(file) => linkat(&file.fd, c"", &dir, name.bytes(), AtFlags::EMPTY_PATH),
        None => linkat(s.tree.handle(&node)?, c"", &dir, name.bytes(), AtFlags::EMPTY_PATH),
    };
    match itself {
        // What a kernel says to who may not; also what it says of a file whose last name is gone.
        Err(Errno::NOENT | Errno::PERM) => link_by_name(s, &node, dir.as_fd(), name)?,
        done => done?,
    }
    Ok(Rmessage::Rlink)
}

fn link_by_name(
    s: &Session,
    node: &Arc<Node>,
    dir: impl AsFd + Copy,
    name: Name<'_>,
) -> Result<()> {
    let place = node.place().ok_or(Errno::NOENT)?;
    let old = s.tree.verify(node, &place)?;
    linkat(old, &*place.name, dir, name.bytes(), AtFlags::empty())?;
    if Id::of(&stat_entry(dir, name.bytes())?).same(&node.id) {
        return Ok(());
    }
    unlinkat(dir, name.bytes(), AtFlags::empty())?;
    Err(Errno::STALE)
}

/// `Treadlink`.
pub fn readlink(s: &Session, fid: &Fid) -> Result<Answer> {
    let node = fid.node();
    if node.kind != FileType::Symlink {
        return Err(Errno::INVAL);
    }
    let mut target = vec![0; limits::TARGET + 1];
    let filled = readlinkat_raw(s.tree.handle(&node)?, c"", target.as_mut_slice())?;
    target.truncate(filled);
    // size[4] type[1] tag[2] target[s]
    if filled + HEADER + 2 > (s.payload() + Msize::IO_HEADER) as usize {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(Answer::Target(target))
}
