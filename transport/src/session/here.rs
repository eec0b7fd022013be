//! What is answered without the far end, and what waits until the far end knows of it.
//!
//! A walk of names that are known makes a fid that is only here. Its attributes are known as well, and
//! most such fids end before anybody needs them at the far end. One that is needed is *fetched*: the far
//! end is asked to walk to it, and the request that names it is held until it has.
//!
//! A name that is about to change is on the way of fids that are only here: those are fetched first, since
//! the far end would not find them any more.

use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::change::Change;
use super::fids::{Place, Step, Walk};
use super::tags::{Pending, Undo};
use super::{EAGAIN, EBADF, ENODATA, ENOENT, ESTALE, Request, Session, SessionError};
use crate::accel::ahead::{Ask, Done, Read, Wanted};
use crate::accel::cache::{Stat, regular_size};
use crate::accel::hint::{self, Hint};
use crate::id::{Fid, Msize, Tag};
use crate::ninep::message::{Names, Qids, attr};
use crate::ninep::{Kind, Packet, Rmessage, Tmessage};

/// A request that waits for fids to come.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) tag: Tag,
    /// The whole request.
    head: Bytes,
    /// The fids that it waits for.
    fids: Vec<Fid>,
}

impl Session {
    /// Answers a request here, or holds it; nothing where it goes to the far end.
    pub(super) fn here(
        &mut self,
        now: Duration,
        tag: Tag,
        message: &Tmessage<'_>,
        head: &Bytes,
        body: usize,
    ) -> Option<Request> {
        if let (Tmessage::Tclunk { fid } | Tmessage::Tremove { fid }, Some(accel)) =
            (message, &mut self.accel)
        {
            accel.ahead.end(*fid);
        }
        let answer = match *message {
            Tmessage::Twalk { fid, newfid, ref names } if fid != newfid => {
                self.walk_here(now, fid, newfid, names).map(|reply| reply.encode(tag))
            }
            Tmessage::Tgetattr { fid, .. } => self.stat_here(now, fid).map(|stat| {
                let Stat { valid, qid, attributes } = *stat;
                let valid = valid | self.told(now, fid);
                Rmessage::Rgetattr { valid, qid, attributes }.encode(tag)
            }),
            Tmessage::Txattrwalk { fid, newfid, name } => {
                self.xattr_here(now, fid, newfid, name).map(|reply| reply.encode(tag))
            }
            Tmessage::Tread { fid, offset, count } => match self.value(fid, offset, count) {
                Some(part) => Some(read(tag, [part].into())),
                None => match self.read_here(now, Wanted { tag, fid, offset, count }) {
                    Some(request) => return Some(request),
                    None => None,
                },
            },
            Tmessage::Tclunk { fid } => self.fids.end_here(fid).map(|unused| {
                self.unused(unused);
                Rmessage::Rclunk.encode(tag)
            }),
            _ => None,
        };
        if let Some(answer) = answer {
            return Some(Request::Answer(answer));
        }
        self.hold(tag, message, head, body)
    }

    /// A walk of names that are known, or of none.
    fn walk_here(
        &mut self,
        now: Duration,
        fid: Fid,
        newfid: Fid,
        names: &Names<'_>,
    ) -> Option<Rmessage<'static>> {
        let cache = &self.accel.as_ref()?.cache;
        let mut path = self.fids.path(fid)?;
        if !self.fids.is_free(newfid) {
            return None;
        }
        let (mut qids, mut steps) = (Qids::default(), Vec::new());
        for &name in names.as_slice() {
            let Some(qid) = cache.child(now, path, name)? else {
                let none = qids.as_slice().is_empty();
                return Some(if none {
                    Rmessage::Rlerror { errno: ENOENT }
                } else {
                    Rmessage::Rwalk { qids }
                });
            };
            qids.push(qid);
            steps.push(Step { dir: path, name: name.into() });
            path = qid.path;
        }
        let walk = self.fids.walk(fid, steps)?;
        self.fids.bind_here(newfid, walk, path);
        Some(Rmessage::Rwalk { qids })
    }

    fn stat_here(&self, now: Duration, fid: Fid) -> Option<&Stat> {
        self.accel.as_ref()?.cache.stat(now, self.fids.path(fid)?)
    }

    /// What a client that is told more learns of a node beyond its attributes.
    fn told(&self, now: Duration, fid: Fid) -> u64 {
        match (&self.accel, self.fids.path(fid)) {
            (Some(accel), Some(path)) if self.tells => accel.cache.told(now, path),
            _ => 0,
        }
    }

    /// An extended attribute that is not there, or the list of those that are.
    fn xattr_here(
        &mut self,
        now: Duration,
        fid: Fid,
        newfid: Fid,
        name: &[u8],
    ) -> Option<Rmessage<'static>> {
        let known = self.accel.as_ref()?.cache.xattrs(now, self.fids.path(fid)?)?;
        if !name.is_empty() {
            let there = known.iter().any(|known| known == name);
            return (!there).then_some(Rmessage::Rlerror { errno: ENODATA });
        }
        if !self.fids.is_free(newfid) {
            return None;
        }
        // As listxattr(2) gives them.
        let list: Vec<u8> =
            known.iter().flat_map(|name| [name, b"\0"]).flatten().copied().collect();
        let size = list.len() as u64;
        self.fids.bind_value(newfid, list.into());
        Some(Rmessage::Rxattrwalk { size })
    }

    /// A part of a value that is held here.
    fn value(&self, fid: Fid, offset: u64, count: u32) -> Option<Bytes> {
        let Some(Place::Value(value)) = self.fids.place(fid) else { return None };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(value.len());
        let to = from.saturating_add(count as usize).min(value.len());
        Some(value.slice(from..to))
    }

    /// Holds a request that needs fids at the far end which are only here.
    fn hold(
        &mut self,
        tag: Tag,
        message: &Tmessage<'_>,
        head: &Bytes,
        body: usize,
    ) -> Option<Request> {
        let error = |errno| Some(Request::Answer(Rmessage::error(tag, errno)));
        let mut fids = Vec::new();
        for fid in message.fids().into_iter().flatten() {
            match self.fids.place(fid) {
                Some(Place::Here(_) | Place::Coming(..)) => fids.push(fid),
                Some(Place::Lost(errno)) => return error(*errno),
                Some(Place::Value(_)) => return error(EBADF),
                Some(Place::Far(_)) | None => {}
            }
        }
        let renames = match *message {
            Tmessage::Tunlinkat { dirfid, name, .. } => [Some((dirfid, name)), None],
            Tmessage::Trenameat { olddirfid, oldname, newdirfid, newname } => {
                [Some((olddirfid, oldname)), Some((newdirfid, newname))]
            }
            _ => [None, None],
        };
        for (dir, name) in renames.into_iter().flatten() {
            fids.extend(self.fids.on_the_way(self.fids.path(dir), name));
        }
        match *message {
            // What these are done to is another node after it, or none to walk from.
            Tmessage::Tlopen { fid, .. }
            | Tmessage::Tlcreate { fid, .. }
            | Tmessage::Txattrcreate { fid, .. }
            | Tmessage::Tclunk { fid } => fids.extend(self.fids.walked_from(fid)),
            Tmessage::Twalk { fid, newfid, .. } if fid == newfid => {
                fids.extend(self.fids.walked_from(fid));
            }
            Tmessage::Tremove { .. } | Tmessage::Trename { .. } => {
                fids.extend(self.fids.on_the_way(None, b""));
            }
            _ => {}
        }
        if fids.is_empty() {
            return None;
        }
        if body > 0 {
            // Nobody can have opened it.
            return error(EBADF);
        }
        for fid in &fids {
            if !self.fetch(*fid) {
                return error(EAGAIN);
            }
        }
        self.held.push_back(Held { tag, head: head.clone(), fids });
        Some(Request::Wait)
    }

    /// Asks the far end to make what is only here.
    fn fetch(&mut self, near: Fid) -> bool {
        let Some((far, Walk { base, steps })) = self.fids.fetch(near) else { return true };
        let names: Vec<&[u8]> = steps.iter().map(|step| &*step.name).collect();
        let Some(names) = Names::new(&names) else { return false };
        let request = Tmessage::Twalk { fid: base, newfid: far, names };
        let sent = self.own(Undo::Fetch { near, far, names: steps.len() }, &request);
        if !sent {
            self.fids.release(far);
            if let Some((_, unused)) = self.fids.fetched(near, far, Err(EAGAIN)) {
                self.unused(unused);
            }
        }
        sent
    }

    /// What became of it.
    pub(super) fn fetched(&mut self, near: Fid, far: Fid, names: usize, reply: &Rmessage<'_>) {
        let made = match reply {
            Rmessage::Rlerror { errno } => Err(*errno),
            Rmessage::Rwalk { qids } if qids.as_slice().len() < names => Err(ENOENT),
            Rmessage::Rwalk { .. } => Ok(()),
            _ => Err(EBADF),
        };
        if made.is_err() {
            self.fids.release(far);
        }
        // Another node may have the name by now. The kernel looks again (path_resolution(7)).
        let found = match reply {
            Rmessage::Rwalk { qids } => qids.as_slice().last().map(|qid| qid.path),
            _ => None,
        };
        let another = found.is_some() && found != self.fids.path(near);
        let outcome = made.and(if another { Err(ESTALE) } else { Ok(()) });
        let fetched = self.fids.fetched(near, far, outcome);
        if made.is_ok() && (another || fetched.is_none()) {
            self.own(Undo::End(far), &Tmessage::Tclunk { fid: far });
        }
        let Some((walk, unused)) = fetched else { return };
        self.unused(unused);
        if let Some(accel) = self.accel.as_mut().filter(|_| outcome.is_err()) {
            for step in &walk.steps {
                accel.forget(step.dir, &step.name);
            }
        }
    }

    /// Carries on with what waits for nothing any more.
    pub(super) fn carry_on(&mut self) -> Result<(), SessionError> {
        let mut at = 0;
        while let Some(held) = self.held.get(at) {
            let waits = held.fids.iter().any(|fid| {
                matches!(self.fids.place(*fid), Some(Place::Here(_) | Place::Coming(..)))
            });
            if waits {
                at += 1;
                continue;
            }
            let Some(held) = self.held.remove(at) else { break };
            let request = self.handle_request(self.now, &held.head, 0)?;
            self.resolve(request);
        }
        Ok(())
    }

    /// A fid of the far end's that nothing here needs any more, if there is one.
    fn unused(&mut self, far: Option<Fid>) {
        if let Some(fid) = far {
            self.own(Undo::End(fid), &Tmessage::Tclunk { fid });
        }
    }

    /// Takes what the far end says beyond 9P.
    pub(super) fn learn(&mut self, kind: Kind, message: &[u8]) -> Result<(), SessionError> {
        let Some(accel) = self.accel.as_mut() else {
            return Err(SessionError::BadReply(crate::ninep::DecodeError::UnknownType(kind.0)));
        };
        if kind == Kind::Rforget {
            let records = hint::decode_forget(message).map_err(SessionError::BadReply)?;
            if records.is_empty() {
                accel.change_all();
            }
            for (dir, name) in records {
                match name {
                    b"" => accel.forget_folder(dir),
                    name => accel.forget(dir, name),
                }
            }
            self.pump();
            return Ok(());
        }
        let hint = Hint::decode(message).map_err(SessionError::BadReply)?;
        // Of a request that has been given up, or of the session before, it says nothing.
        if let Some(pending) = self.tags.get(hint.tag).filter(|_| self.asked.is_none()) {
            accel.cache.learn(pending.sent, pending.asked, &hint);
            for node in hint.entries.iter().filter_map(|entry| entry.node) {
                if let Some(size) = regular_size(&node.attributes) {
                    accel.ahead.set_size(node.qid.path, size);
                }
            }
            self.hinted = true;
        }
        Ok(())
    }

    /// Learns from a reply.
    pub(super) fn learn_reply(&mut self, pending: &Pending, reply: &Rmessage<'_>) {
        let Some(accel) = self.accel.as_mut() else { return };
        accel.cache.heard(pending.sent);
        // Before the change is taken out again, which would take out what is learned: nothing else may
        // have changed the folder meanwhile.
        let made = match reply {
            Rmessage::Rlcreate { qid, .. }
            | Rmessage::Rmkdir { qid }
            | Rmessage::Rsymlink { qid }
            | Rmessage::Rmknod { qid } => Some(*qid),
            _ => None,
        };
        let name = match &pending.change {
            Change::Make(name, None) => {
                Some(name).filter(|name| accel.cache.may_learn(name.0, pending.asked))
            }
            _ => None,
        };
        pending.change.apply(accel);
        if matches!(reply, Rmessage::Rlerror { errno: ESTALE }) {
            // The other qube has changed something that is believed here. The kernel looks again, once.
            accel.change_all();
        }
        if let Some(qid) = made {
            // What was known by the same inode number is of a node that is no more.
            accel.change_node(qid.path);
        }
        if let (Some(qid), Some(name), true) = (made, name, self.hinted) {
            accel.cache.learn_name(pending.sent, name.0, &name.1, qid);
        }
        // Without hints a server's qids may not be unique.
        let (&Rmessage::Rgetattr { valid, qid, attributes }, Some(path)) = (reply, pending.node)
        else {
            return;
        };
        if let Some(size) = regular_size(&attributes) {
            accel.ahead.set_size(path, size);
        }
        if self.hinted {
            let stat = Stat { valid, qid, attributes };
            accel.cache.learn_stat(pending.sent, pending.asked, path, stat);
        }
    }

    /// A read that may have been asked for already.
    fn read_here(&mut self, now: Duration, wanted: Wanted) -> Option<Request> {
        let payload = self.msize?.bytes().saturating_sub(Msize::IO_HEADER);
        // Other servers do not bear a clunk before the replies to what was read (diod ends over it).
        if !self.hinted || !self.fids.may_be_read_ahead(wanted.fid) {
            return None;
        }
        let path = self.fids.path(wanted.fid);
        let accel = self.accel.as_mut()?;
        let size = path.and_then(|path| accel.cache.size(path));
        let done = accel.ahead.read(now, wanted, path, size, payload);
        self.pump();
        match done {
            Read::Forward => None,
            Read::Answer(data) => Some(Request::Answer(read(wanted.tag, data))),
            Read::Wait => Some(Request::Wait),
        }
    }

    /// Takes the payload of a reply that [`handle_reply`](Session::handle_reply) said to keep.
    pub fn keep(&mut self, payload: Vec<Bytes>) {
        if let Some((near, id)) = self.keeping.take() {
            self.arrived(near, id, Some(payload));
            self.pump();
        }
    }

    /// A block that was read ahead has come, or could not be read.
    pub(super) fn arrived(&mut self, near: Fid, id: u64, data: Option<Vec<Bytes>>) {
        if let Some(accel) = &mut self.accel {
            accel.ahead.arrived(near, id, data);
        }
    }

    /// The size of a file that is read has come.
    pub(super) fn sized(&mut self, near: Fid, reply: &Rmessage<'_>) {
        let size = match reply {
            Rmessage::Rgetattr { attributes, .. } => regular_size(attributes),
            _ => None,
        };
        if let Some(accel) = &mut self.accel {
            accel.ahead.sized(near, size);
        }
    }

    /// Asks what is to be asked ahead, and goes on with who waited for it.
    pub(super) fn pump(&mut self) {
        while let Some(ask) = self.accel.as_mut().and_then(|accel| accel.ahead.poll_ask()) {
            let (Ask::Size(near) | Ask::Block { fid: near, .. }) = ask;
            let far = match self.fids.place(near) {
                Some(Place::Far(far)) => Some(*far),
                _ => None,
            };
            let sent = far.is_some_and(|fid| match ask {
                Ask::Size(near) => {
                    self.own(Undo::Size(near), &Tmessage::Tgetattr { fid, mask: ALL })
                }
                Ask::Block { id, offset, count, .. } => {
                    self.own(Undo::Ahead { near, id }, &Tmessage::Tread { fid, offset, count })
                }
            });
            match (ask, &mut self.accel) {
                (Ask::Size(near), Some(accel)) if !sent => accel.ahead.sized(near, None),
                (Ask::Block { id, .. }, Some(accel)) if !sent => {
                    accel.ahead.arrived(near, id, None);
                }
                _ => {}
            }
        }
        while let Some(done) = self.accel.as_mut().and_then(|accel| accel.ahead.poll_done()) {
            match done {
                Done::Answer(tag, data) => self.replies.push_back(read(tag, data)),
                Done::Forward(Wanted { tag, fid, offset, count }) => {
                    let message = Tmessage::Tread { fid, offset, count };
                    let head = message.encode(tag).head;
                    let request = self.forward(self.now, tag, &message, &head);
                    self.resolve(request);
                }
            }
        }
    }
}

/// An `Rread`.
fn read(tag: Tag, mut data: Vec<Bytes>) -> Packet {
    data.retain(|piece| !piece.is_empty());
    let count = data.iter().map(Bytes::len).sum::<usize>() as u32;
    Rmessage::Rread { count }.with_body(tag, data)
}

/// All that there is to ask for of a node's attributes.
pub(super) const ALL: u64 = attr::BASIC | attr::BTIME;

#[cfg(test)]
mod tests;
