//! `Trenameat`, `Trename`, `Tunlinkat`, `Tremove` (diod `protocol.md` § renameat, rename, unlinkat,
//! remove).
//!
//! Concurrency: renames of one session go one after the other, so that the nodes move in the order
//! in which the files did; a live node and all below it then are where the file is. Removals need
//! no order: a node whose name is gone is reached by nobody new.

use std::sync::Arc;

use rustix::fs::{AtFlags, renameat as rename_entry, unlinkat as unlink_entry};
use transport::ninep::Rmessage;
use transport::ninep::message::AT_REMOVEDIR;

use super::errno::{Errno, Result};
use super::fid::Fid;
use super::node::{Name, Node, Place};
use super::session::Session;

/// `Trenameat`.
pub fn renameat(s: &Session, from: (&Fid, &[u8]), to: (&Fid, &[u8])) -> Result<Rmessage<'static>> {
    s.writable()?;
    let (old, new) = ((from.0.node(), Name::new(from.1)?), (to.0.node(), Name::new(to.1)?));
    let _turn = s.tree.renaming();
    relocate(s, (&old.0, old.1), (&new.0, new.1))?;
    Ok(Rmessage::Rrenameat)
}

/// `Trename`: by fid, for clients older than `Trenameat`.
pub fn rename(s: &Session, fid: &Fid, dfid: &Fid, name: &[u8]) -> Result<Rmessage<'static>> {
    s.writable()?;
    let (node, to, name) = (fid.node(), dfid.node(), Name::new(name)?);
    let _turn = s.tree.renaming();
    let place = place(s, &node)?;
    s.tree.verify(&node, &place)?;
    relocate(s, (&place.parent, Name::new(&place.name)?), (&to, name))?;
    Ok(Rmessage::Rrename)
}

fn relocate(s: &Session, from: (&Arc<Node>, Name<'_>), to: (&Arc<Node>, Name<'_>)) -> Result<()> {
    let (old, new) = (s.tree.handle(from.0)?, s.tree.handle(to.0)?);
    rename_entry(old, from.1.bytes(), new, to.1.bytes())?;
    s.tree.moved(from, to);
    Ok(())
}

/// `Tunlinkat`.
pub fn unlinkat(s: &Session, fid: &Fid, name: &[u8], flags: u32) -> Result<Rmessage<'static>> {
    s.writable()?;
    let (parent, name) = (fid.node(), Name::new(name)?);
    let how = match flags {
        0 => AtFlags::empty(),
        AT_REMOVEDIR => AtFlags::REMOVEDIR,
        _ => return Err(Errno::INVAL),
    };
    unlink_entry(s.tree.handle(&parent)?, name.bytes(), how)?;
    s.tree.removed(&parent, name);
    Ok(Rmessage::Runlinkat)
}

/// `Tremove`: the fid is gone whatever comes of it (remove(5)).
pub fn remove(s: &Session, fid: &Fid) -> Result<Rmessage<'static>> {
    let node = fid.node();
    let removed = s.writable().and_then(|()| {
        let place = place(s, &node)?;
        let dir = s.tree.verify(&node, &place)?;
        let how = if node.is_dir() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlink_entry(dir, &*place.name, how)?;
        s.tree.removed(&place.parent, Name::new(&place.name)?);
        Ok(())
    });
    let retired = s.retire(fid);
    removed.and(retired).map(|()| Rmessage::Rremove)
}

/// Where a node is, to do something to it by name. The granted folder itself stays.
fn place(s: &Session, node: &Node) -> Result<Place> {
    node.place().ok_or(if s.tree.is_root(node) { Errno::BUSY } else { Errno::STALE })
}
