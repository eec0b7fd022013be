//! `Tattach` and `Twalk`: from names to nodes (diod `protocol.md` § attach, walk; walk(5)).
//!
//! Concurrency: a walk takes no lock over its system calls. Each component is opened in the folder
//! that the one before gave, whatever others do meanwhile: what is reached was beneath the granted
//! folder when it was opened. A rename of this session that finishes in between makes the last step
//! be done again ([`super::tree`]).

use std::os::fd::AsFd;
use std::sync::Arc;

use transport::id;
use transport::ninep::Rmessage;
use transport::ninep::message::Qids;

use super::errno::{Errno, Result};
use super::fid::{Fid, Role};
use super::hints::{Folder, Hints};
use super::node::{Name, Node, stat};
use super::session::Session;
use super::tree::Found;

/// `Tattach`: the granted folder by its own name, or by none.
pub fn attach(
    s: &Session,
    fid: id::Fid,
    afid: id::Fid,
    aname: &[u8],
    hints: &mut Hints,
) -> Result<Rmessage<'static>> {
    if afid != id::Fid::NONE {
        return Err(Errno::BADF);
    }
    if !s.export.is_called(aname) {
        return Err(Errno::NOENT);
    }
    let root = s.tree.root().clone();
    let handle = s.tree.handle(&root)?;
    let folder = hints.are_on().then(|| Folder::new(s, &root, handle.as_fd()));
    let st = stat(&handle)?;
    let qid = s.export.devices().qid(&st);
    if let Some(folder) = folder {
        hints.tell(&folder, b"", Some(&st));
    }
    s.fids.put(fid, Fid::new(root, Role::Path))?;
    Ok(Rmessage::Rattach { qid })
}

/// `Twalk` of no names: another fid for the same node.
pub fn clone(s: &Session, fid: &Arc<Fid>, newfid: id::Fid) -> Result<Rmessage<'static>> {
    s.fids.put(newfid, Fid::new(fid.node(), Role::Path))?;
    Ok(Rmessage::Rwalk { qids: Qids::default() })
}

/// `Twalk`. The first name that is not found is an error; a later one ends the walk, with fewer
/// qids than names, and `newfid` is not made.
pub fn walk(
    s: &Session,
    fid: &Arc<Fid>,
    number: id::Fid,
    newfid: id::Fid,
    names: &[&[u8]],
    hints: &mut Hints,
) -> Result<Rmessage<'static>> {
    let step = |node: &Arc<Node>, name: &[u8]| Some(step(s, node, name));
    let answer = walk_by(s, fid, (number, newfid), names, hints, step);
    answer.unwrap_or(Err(Errno::IO))
}

/// `Twalk`, where nothing of it waits; nothing where it might have to.
pub fn walk_in_memory(
    s: &Session,
    fid: &Arc<Fid>,
    numbers: (id::Fid, id::Fid),
    names: &[&[u8]],
    hints: &mut Hints,
) -> Option<Result<Rmessage<'static>>> {
    walk_by(s, fid, numbers, names, hints, |node, name| {
        let disk = s.export.disks().root(node.id.device);
        let known = disk.is_some_and(|disk| disk.has_attributes()) && name != b"..";
        let name = known.then(|| Name::new(name));
        name?.map_or_else(|errno| Some(Err(errno)), |name| s.tree.look_in_memory(node, name))
    })
}

fn walk_by(
    s: &Session,
    fid: &Arc<Fid>,
    (number, newfid): (id::Fid, id::Fid),
    names: &[&[u8]],
    hints: &mut Hints,
    step: impl Fn(&Arc<Node>, &[u8]) -> Option<Result<Found>>,
) -> Option<Result<Rmessage<'static>>> {
    if number != newfid {
        if let Err(errno) = s.fids.is_free(newfid) {
            return Some(Err(errno));
        }
    }
    let mut node = fid.node();
    let mut qids = Qids::default();
    for (at, name) in names.iter().enumerate() {
        let handle = node.cached().filter(|_| hints.are_on() && *name != b"..");
        let folder = handle.as_ref().map(|fd| Folder::new(s, &node, fd.as_fd()));
        let found = step(&node, name)?;
        if let Some(folder) = folder {
            match &found {
                Ok(found) => hints.tell(&folder, name, Some(&found.st)),
                Err(Errno::NOENT) => hints.tell(&folder, name, None),
                Err(_) => {}
            }
            folder.watch_from_here(&node, name);
        }
        match found {
            Ok(found) => {
                qids.push(s.export.devices().qid(&found.st));
                node = found.node;
            }
            Err(errno) if at == 0 => return Some(Err(errno)),
            Err(_) => return Some(Ok(Rmessage::Rwalk { qids })),
        }
    }
    Some(arrive(s, fid, (number, newfid), node, qids))
}

/// Makes the fid at a walk's end.
fn arrive(
    s: &Session,
    fid: &Arc<Fid>,
    (number, newfid): (id::Fid, id::Fid),
    node: Arc<Node>,
    qids: Qids,
) -> Result<Rmessage<'static>> {
    let made = Fid::new(node, Role::Path);
    if number == newfid {
        let old = s.fids.replace(number, fid, made)?;
        s.retire(&old)?;
    } else {
        s.fids.put(newfid, made)?;
    }
    Ok(Rmessage::Rwalk { qids })
}

/// One step. `..` goes up what is known of the node's place, and stays at the granted folder.
fn step(s: &Session, node: &Arc<Node>, name: &[u8]) -> Result<Found> {
    if name != b".." {
        return s.tree.look(node, Name::new(name)?);
    }
    if !node.is_dir() {
        return Err(Errno::NOTDIR);
    }
    let up = match node.place() {
        Some(place) => place.parent,
        None if s.tree.is_root(node) => node.clone(),
        None => return Err(Errno::NOENT),
    };
    let st = stat(s.tree.handle(&up)?)?;
    Ok(Found { node: up, st })
}
