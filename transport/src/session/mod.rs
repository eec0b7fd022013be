//! The client end's part in a 9P conversation: between the kernel and the channel, it is nobody's
//! transparent pipe.
//!
//! ```text
//!  kernel's tags and fids ──► tags · fids ──► the channel's tags and fids
//!           replies       ◄── tags · fids ◄── replies, checked against their requests
//! ```
//!
//! Why it does not just copy:
//! - A reply that comes after its `Rflush` kills a v9fs mount, and one that meets a reused tag answers
//!   another request. So tags towards the channel are this module's own, and one is free again only
//!   once the far end has answered it.
//! - A process that was killed waits *unkillably* for its `Rflush`. So a `Tflush` is answered within
//!   [`FLUSH_TIME`], whatever the far end does.
//! - Fids of its own let it forget what a request made that nobody waits for any more, and later open
//!   lazily and reconnect.
//! - With hints ([`crate::accel`]) it answers what it knows, and the far end hears of a fid only when that is
//!   needed there.
//! - A `Tclunk` is answered at once: nothing that close(2) could tell comes with its reply, and umount(8)
//!   need not wait for a far end that has stalled. Not where an extended attribute is set: there the
//!   reply says whether it was.
//!
//! No I/O and no clock: requests and replies in, heads to pass on out, `now` an argument. Payloads
//! never come here. What a reply's *contents* may be is the guard's business; that it is the reply to
//! something is checked here. Follows version(5), flush(5), clunk(5) and the kernel's
//! `net/9p/client.c`.

mod change;
mod fids;
mod here;
mod tags;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::accel::{Accel, hint};
use crate::id::{Fid, Msize, Tag};
use crate::ninep::message::{VERSION, lock, open};
use crate::ninep::packet::{HEADER, Header};
use crate::ninep::{DecodeError, Kind, Packet, Rmessage, Tmessage};
use change::Change;
use fids::Fids;
use here::Held;
use tags::{Pending, Tags, Undo};

/// How long a `Tflush` waits for the far end before it is answered here.
pub const FLUSH_TIME: Duration = Duration::from_millis(800);

/// Clunks that the far end may have unanswered while more are answered here. Beyond it they wait for
/// their replies, as 9P has it, so that a far end that has stalled is not owed any number.
const EARLY_CLUNKS: usize = 1024;

/// errno: no such name.
const ENOENT: u32 = 2;
/// errno: not a fid.
const EBADF: u32 = 9;
/// errno: no such extended attribute.
const ENODATA: u32 = 61;
/// errno: the name leads to another node now.
const ESTALE: u32 = 116;
/// errno: no tags are left.
const EAGAIN: u32 = 11;
/// errno: the far end is gone.
const EIO: u32 = 5;

/// Why a conversation cannot go on; it ends its stream and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// The near end, which is the kernel or a program at the socket, does not speak 9P2000.L.
    #[error("the 9P client sent what is not 9P2000.L: {0}")]
    BadRequest(DecodeError),
    /// A tag was used again before its reply.
    #[error("the 9P client used tag {0} twice at once")]
    TagInUse(u16),
    /// A request before the answer to the `Tversion` that begins its session.
    #[error("the 9P client sent a message of type {0} before its Tversion was answered")]
    Early(u8),
    /// The far end does not speak 9P2000.L.
    #[error("the file server sent what is not 9P2000.L: {0}")]
    BadReply(DecodeError),
    /// A reply to nothing.
    #[error("the file server answered a request (tag {0}) that was never made")]
    Unasked(u16),
    /// A reply of another type than its request's.
    #[error("the file server answered a message of type {request} with type {reply}")]
    WrongType {
        /// The request's type.
        request: u8,
        /// The reply's type.
        reply: u8,
    },
    /// Another protocol than was asked for.
    #[error("the file server answers with another version of 9P than 9P2000.L")]
    Version,
    /// An msize that cannot be.
    #[error("the file server chose an msize of {0} bytes, which is out of range")]
    Msize(u32),
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// It goes to the channel with this head, its payload behind it.
    Forward(Bytes),
    /// It is answered here; its payload, if any, is dropped.
    Answer(Packet),
    /// Nothing now.
    Wait,
}

/// What becomes of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It goes to the kernel with this head, its payload behind it.
    Pass(Bytes),
    /// Nobody waits for it any more: it and its payload are dropped.
    Drop,
    /// Its payload goes to [`Session::keep`].
    Keep,
    /// It was waited for here, and is dropped.
    Made,
}

/// One 9P conversation, seen from between its two ends.
///
/// Call [`handle_request`](Self::handle_request) and [`handle_reply`](Self::handle_reply) with what
/// comes; after each, and after [`handle_timeout`](Self::handle_timeout), empty
/// [`poll_request`](Self::poll_request) (to the channel) and [`poll_reply`](Self::poll_reply) (to the
/// kernel), in this order.
#[derive(Debug)]
pub struct Session {
    /// The most that may be agreed on.
    limit: Msize,
    /// What has been agreed on.
    msize: Option<Msize>,
    /// The msize of a `Tversion` that waits for its reply.
    asked: Option<u32>,
    failed: bool,
    tags: Tags,
    fids: Fids,
    /// `Tflush`es waiting for the far end, oldest first.
    flushes: VecDeque<Flush>,
    requests: VecDeque<Packet>,
    replies: VecDeque<Packet>,
    /// What is known without asking; none where nothing may be answered from memory.
    accel: Option<Accel>,
    /// The block whose payload is about to come.
    keeping: Option<(Fid, u64)>,
    /// The far end has given a hint.
    hinted: bool,
    /// The 9P client is told what it may believe for long, and when no more.
    tells: bool,
    /// Requests that wait for fids to be made at the far end, oldest first.
    held: VecDeque<Held>,
    /// The latest time that was given.
    now: Duration,
    arena: BytesMut,
}

#[derive(Clone, Copy, Debug)]
struct Flush {
    /// When it is answered here.
    deadline: Duration,
    /// Its own tag in the channel, where it was passed on.
    sent: Option<Tag>,
    /// The channel's tag of the request that it flushes.
    old: Tag,
    /// The kernel's tag of the flush.
    near: Tag,
}

impl Session {
    /// A conversation whose msize will be at most `limit`.
    pub fn new(limit: Msize) -> Session {
        Session {
            limit,
            msize: None,
            asked: None,
            failed: false,
            tags: Tags::default(),
            fids: Fids::default(),
            flushes: VecDeque::new(),
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            accel: None,
            keeping: None,
            hinted: false,
            tells: false,
            held: VecDeque::new(),
            now: Duration::ZERO,
            arena: BytesMut::new(),
        }
    }

    /// The same with a memory of what the far end said and of what was read ahead.
    #[must_use]
    pub fn with_accel(self, accel: Accel) -> Session {
        Session { accel: Some(accel), ..self }
    }

    /// The same for a 9P client that remembers what it was told: an `Rgetattr` that is answered here says by
    /// [`WATCHED`](crate::accel::hint::WATCHED) what will be taken back once it is not true any more, and
    /// the far end's `Rforget` is passed on. One without records, which takes back everything, comes as
    /// well when the far end is gone.
    #[must_use]
    pub fn telling(self) -> Session {
        Session { tells: true, ..self }
    }

    /// The msize that both ends agreed on, once they did.
    pub fn msize(&self) -> Option<Msize> {
        self.msize
    }

    /// The largest message that may come from either side now, in bytes.
    pub fn max_message(&self) -> u32 {
        self.msize.unwrap_or(self.limit).bytes()
    }

    /// Requests that the kernel waits for.
    pub fn in_flight(&self) -> usize {
        let kept_here = self.flushes.iter().filter(|flush| flush.sent.is_none()).count();
        let ahead = self.accel.as_ref().map_or(0, |accel| accel.ahead.waiting().len());
        let held = kept_here + self.held.len() + ahead;
        self.tags.in_flight() + held + usize::from(self.asked.is_some())
    }

    /// Whether the kernel waits for a reply to `tag`.
    fn is_waiting(&self, tag: Tag) -> bool {
        self.tags.is_waiting(tag)
            || self.flushes.iter().any(|flush| flush.near == tag)
            || self.held.iter().any(|held| held.tag == tag)
            || self.accel.as_ref().is_some_and(|accel| accel.ahead.is_waiting(tag))
    }

    /// Takes a request's head from the kernel's side; `body` bytes of payload follow it.
    pub fn handle_request(
        &mut self,
        now: Duration,
        head: &Bytes,
        body: usize,
    ) -> Result<Request, SessionError> {
        let (tag, message) = Tmessage::decode_head(head, body).map_err(SessionError::BadRequest)?;
        self.now = now;
        match message {
            Tmessage::Tflush { .. } if self.failed => {
                return Ok(Request::Answer(Rmessage::Rflush.encode(tag)));
            }
            _ if self.failed => return Ok(Request::Answer(Rmessage::error(tag, EIO))),
            Tmessage::Tversion { msize, version } => {
                return self.version(msize, version);
            }
            Tmessage::Tflush { oldtag } => return self.flush(now, tag, oldtag),
            // Its answer could not be told from one of the session before.
            _ if self.asked.is_some() => return Err(SessionError::Early(message.kind().0)),
            _ => {}
        }
        if self.is_waiting(tag) {
            return Err(SessionError::TagInUse(tag.0));
        }
        if self.accel.is_some() {
            if let Some(request) = self.here(now, tag, &message, head, body) {
                return Ok(request);
            }
        }
        let request = self.forward(now, tag, &message, head);
        self.pump();
        Ok(request)
    }

    /// Sends a request of the kernel's to the far end.
    fn forward(
        &mut self,
        now: Duration,
        tag: Tag,
        message: &Tmessage<'_>,
        head: &Bytes,
    ) -> Request {
        let change = match &mut self.accel {
            Some(accel) => {
                let change = Change::of(message, &self.fids);
                change.apply(accel);
                change
            }
            None => Change::Nothing,
        };
        let Some(fids) = self.fids.translate(message) else {
            return Request::Answer(Rmessage::error(tag, EBADF));
        };
        let undo = match (message, fids.made, fids.ended) {
            (Tmessage::Twalk { fid, names, .. }, Some((near, far)), _) => {
                let names = names.as_slice().len();
                Undo::Make { near, far, names, from: self.fids.path(*fid) }
            }
            (_, Some((near, far)), _) => Undo::Make { near, far, names: 0, from: None },
            (_, _, Some(far)) => Undo::End(far),
            (Tmessage::Tlock { kind, .. }, ..) if *kind != lock::UNLCK => {
                Undo::Lock(self.patch(head, tag, fids.fields()))
            }
            _ => Undo::Nothing,
        };
        let early = matches!(message, Tmessage::Tclunk { .. })
            && !fids.sets_attribute
            && self.tags.unwaited() < EARLY_CLUNKS;
        let near = (!early).then_some(tag);
        let node = match *message {
            Tmessage::Tgetattr { fid, mask } if mask & here::ALL == here::ALL => {
                self.fids.path(fid)
            }
            _ => None,
        };
        let creates = match *message {
            Tmessage::Tlcreate { fid, .. } => Some(fid),
            Tmessage::Twalk { fid, newfid, .. } if fid == newfid => Some(fid),
            _ => None,
        };
        if let Some(fid) = creates {
            self.fids.set_path(fid, None);
        }
        if let Tmessage::Tlopen { fid, flags } | Tmessage::Tlcreate { fid, flags, .. } = *message {
            self.fids.set_open(fid, flags & open::DIRECT != 0);
        }
        let pending = Pending::new(near, message.kind(), undo, now, self.time_of_changes());
        let pending = Pending { change, node, creates, ..pending };
        let Some(far) = self.tags.take(pending) else {
            if let Some((near, far)) = fids.made {
                self.fids.unmake(near);
                self.fids.release(far);
            }
            return Request::Answer(Rmessage::error(tag, EAGAIN));
        };
        if early {
            self.replies.push_back(Rmessage::Rclunk.encode(tag));
        }
        Request::Forward(self.patch(head, far, fids.fields()))
    }

    /// Takes a reply's head from the channel; `body` bytes of payload follow it.
    pub fn handle_reply(&mut self, head: &Bytes, body: usize) -> Result<Reply, SessionError> {
        let header = Header::read(head).map_err(SessionError::BadReply)?;
        if Kind(header.kind).is_hint() {
            self.learn(Kind(header.kind), head)?;
            let told = self.tells && Kind(header.kind) == Kind::Rforget;
            return Ok(if told { Reply::Pass(head.clone()) } else { Reply::Drop });
        }
        if header.tag == Tag::NONE {
            return self.version_reply(head, body);
        }
        let pending = self.tags.release(header.tag).ok_or(SessionError::Unasked(header.tag.0))?;
        let kind = Kind(header.kind);
        if kind != pending.kind.reply() && kind != Kind::Rlerror {
            return Err(SessionError::WrongType { request: pending.kind.0, reply: kind.0 });
        }
        let (_, reply) = Rmessage::decode_head(head, body).map_err(SessionError::BadReply)?;
        if self.asked.is_some() {
            // Of the session before: its fids mean nothing any more, and may soon mean others.
            return Ok(Reply::Drop);
        }
        if let Undo::Flush(old) = pending.undo {
            return Ok(self.flushed(header.tag, old, pending.near, head));
        }
        let abandoned = pending.near.is_none();
        self.learn_reply(&pending, &reply);
        if let (Some(fid), Rmessage::Rlcreate { qid, .. }) = (pending.creates, &reply) {
            self.fids.set_path(fid, Some(qid.path));
        }
        let mut fetched = false;
        match (pending.undo, reply) {
            (Undo::Ahead { near, id }, Rmessage::Rread { .. }) => {
                self.keeping = Some((near, id));
                return Ok(Reply::Keep);
            }
            (Undo::Ahead { near, id }, _) => self.arrived(near, id, None),
            (Undo::Size(near), reply) => self.sized(near, &reply),
            (Undo::Fetch { near, far, names }, reply) => {
                self.fetched(near, far, names, &reply);
                fetched = true;
            }
            (Undo::Make { near, far, names, from }, reply) => {
                let made = match reply {
                    Rmessage::Rlerror { .. } => false,
                    Rmessage::Rwalk { qids } => qids.as_slice().len() == names,
                    _ => true,
                };
                let path = match reply {
                    Rmessage::Rattach { qid } => Some(qid.path),
                    Rmessage::Rwalk { qids } => qids.as_slice().last().map(|qid| qid.path).or(from),
                    _ => None,
                };
                match (made, abandoned) {
                    (true, false) => self.fids.bind(near, far, path),
                    (true, true) => self.clunk(near, far),
                    (false, _) => {
                        self.fids.unmake(near);
                        self.fids.release(far);
                    }
                }
            }
            (Undo::End(far), _) => self.fids.release(far),
            (Undo::Lock(request), Rmessage::Rlock { status: lock::SUCCESS }) if abandoned => {
                self.unlock(request);
            }
            _ => {}
        }
        // A flush that was not passed on has waited for this reply alone.
        let mut done = Vec::new();
        self.flushes.retain(|flush| {
            let waits = flush.old == header.tag && flush.sent.is_none();
            done.extend(waits.then_some(flush.near));
            !waits
        });
        let passed = match pending.near {
            Some(near) => Reply::Pass(self.patch(head, near, &[])),
            None => Reply::Drop,
        };
        self.replies.extend(done.into_iter().map(|near| Rmessage::Rflush.encode(near)));
        if fetched {
            self.carry_on()?;
        }
        self.pump();
        Ok(if fetched { Reply::Made } else { passed })
    }

    /// The far end is gone: every request that waits is answered with EIO, and so is every one that
    /// comes from now on. Without this the kernel would give those that wait ECONNRESET when its socket
    /// closes, which no program expects of a file.
    pub fn fail(&mut self) {
        if self.tells && !self.failed {
            self.replies.push_back(hint::forget([]));
        }
        self.failed = true;
        self.requests.clear();
        let waiting = self.tags.waiting().filter(|(_, kind)| *kind != Kind::Tflush);
        self.replies.extend(waiting.map(|(near, _)| Rmessage::error(near, EIO)));
        self.replies.extend(self.held.drain(..).map(|held| Rmessage::error(held.tag, EIO)));
        if let Some(accel) = self.accel.take() {
            let waiting = accel.ahead.waiting().iter();
            self.replies.extend(waiting.map(|tag| Rmessage::error(*tag, EIO)));
        }
        // Behind what they flush: an answer that comes after its Rflush kills a v9fs mount.
        let flushes = self.flushes.drain(..);
        self.replies.extend(flushes.map(|flush| Rmessage::Rflush.encode(flush.near)));
        if self.asked.take().is_some() {
            self.replies.push_back(Rmessage::error(Tag::NONE, EIO));
        }
        self.tags.abandon_all();
    }

    /// A request of this end's own, to be sent to the channel.
    pub fn poll_request(&mut self) -> Option<Packet> {
        self.requests.pop_front()
    }

    /// A reply of this end's own, to be sent to the kernel.
    pub fn poll_reply(&mut self) -> Option<Packet> {
        self.replies.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.flushes.front().map(|flush| flush.deadline)
    }

    /// Answers the `Tflush`es that have waited long enough.
    pub fn handle_timeout(&mut self, now: Duration) {
        while self.flushes.front().is_some_and(|flush| flush.deadline <= now) {
            let Some(flush) = self.flushes.pop_front() else { break };
            self.tags.abandon(flush.old);
            if let Some(sent) = flush.sent {
                self.tags.abandon(sent);
            }
            self.replies.push_back(Rmessage::Rflush.encode(flush.near));
        }
    }

    /// A session begins, or begins anew: what was outstanding is forgotten at both ends.
    fn version(&mut self, msize: u32, version: &[u8]) -> Result<Request, SessionError> {
        if self.asked.is_some() {
            return Err(SessionError::TagInUse(Tag::NONE.0));
        }
        self.tags.abandon_all();
        self.fids.clear();
        self.flushes.clear();
        self.held.clear();
        self.hinted = false;
        if let Some(accel) = &mut self.accel {
            accel.ahead.clear();
            accel.cache.change_all();
        }
        self.msize = None;
        let msize = msize.min(self.limit.bytes());
        self.asked = Some(msize);
        let request = Tmessage::Tversion { msize, version }.encode(Tag::NONE);
        Ok(Request::Forward(request.head))
    }

    fn version_reply(&mut self, head: &Bytes, body: usize) -> Result<Reply, SessionError> {
        let (_, reply) = Rmessage::decode_head(head, body).map_err(SessionError::BadReply)?;
        let asked = self.asked.take().ok_or(SessionError::Unasked(Tag::NONE.0))?;
        // What the far end had to answer before it, it has answered or dropped.
        self.tags.clear();
        self.requests.clear();
        let Rmessage::Rversion { msize, version } = reply else {
            return match reply {
                Rmessage::Rlerror { .. } => Ok(Reply::Pass(head.clone())),
                other => Err(SessionError::WrongType {
                    request: Kind::Tversion.0,
                    reply: other.kind().0,
                }),
            };
        };
        // "unknown" is how a server says no (version(5)). Anything else the kernel would take for an
        // older 9P, and go on with it.
        if version == VERSION {
            let agreed = Msize::new(msize).filter(|agreed| agreed.bytes() <= asked);
            self.msize = Some(agreed.ok_or(SessionError::Msize(msize))?);
        } else if version != b"unknown" {
            return Err(SessionError::Version);
        }
        Ok(Reply::Pass(head.clone()))
    }

    fn flush(&mut self, now: Duration, tag: Tag, oldtag: Tag) -> Result<Request, SessionError> {
        if self.is_waiting(tag) {
            return Err(SessionError::TagInUse(tag.0));
        }
        // A flush that waits here is given up here.
        self.flushes.retain(|flush| flush.near != oldtag || flush.sent.is_some());
        self.held.retain(|held| held.tag != oldtag);
        if let Some(accel) = &mut self.accel {
            accel.ahead.give_up(oldtag);
        }
        let Some((old, kind)) = self.tags.find(oldtag) else {
            return Ok(Request::Answer(Rmessage::Rflush.encode(tag)));
        };
        let deadline = now + FLUSH_TIME;
        // A fid that is being forgotten must be forgotten: its request is not given up.
        if kind == Kind::Tclunk || kind == Kind::Tremove {
            self.flushes.push_back(Flush { deadline, sent: None, old, near: tag });
            return Ok(Request::Wait);
        }
        let pending = Pending::new(Some(tag), Kind::Tflush, Undo::Flush(old), now, 0);
        let Some(sent) = self.tags.take(pending) else {
            self.tags.abandon(old);
            return Ok(Request::Answer(Rmessage::Rflush.encode(tag)));
        };
        self.tags.hold(old);
        self.flushes.push_back(Flush { deadline, sent: Some(sent), old, near: tag });
        Ok(Request::Forward(Tmessage::Tflush { oldtag: old }.encode(sent).head))
    }

    /// `Rflush` for the channel tag `sent`: what it flushed, if not answered, never will be.
    fn flushed(&mut self, sent: Tag, old: Tag, near: Option<Tag>, head: &Bytes) -> Reply {
        self.flushes.retain(|flush| flush.sent != Some(sent) && flush.sent != Some(old));
        if let Some(pending) = self.tags.unhold(old) {
            // It may have been done all the same; to clunk what is not there is harmless.
            if let Some(accel) = &mut self.accel {
                pending.change.apply(accel);
            }
            if let Undo::Make { near, far, .. } = pending.undo {
                self.clunk(near, far);
            }
        }
        match near {
            Some(near) => Reply::Pass(self.patch(head, near, &[])),
            None => Reply::Drop,
        }
    }

    /// Forgets a fid at the far end that nobody here knows.
    fn clunk(&mut self, near: Fid, far: Fid) {
        self.fids.unmake(near);
        let clunk = Tmessage::Tclunk { fid: far };
        self.own(Undo::End(far), &clunk);
    }

    /// Gives a lock back that came after its process had gone.
    fn unlock(&mut self, request: Bytes) {
        let packet = Packet::whole(request);
        if let Ok((_, Tmessage::Tlock { fid, start, length, proc_id, client_id, .. })) =
            Tmessage::decode(&packet)
        {
            let (kind, flags) = (lock::UNLCK, 0);
            let unlock = Tmessage::Tlock { fid, kind, flags, start, length, proc_id, client_id };
            self.own(Undo::Nothing, &unlock);
        }
    }

    /// Makes a request of this end's own; says whether there was a tag for it.
    fn own(&mut self, undo: Undo, request: &Tmessage<'_>) -> bool {
        let asked = self.time_of_changes();
        let pending = Pending::new(None, request.kind(), undo, self.now, asked);
        let tag = self.tags.take(pending);
        if let Some(tag) = tag {
            self.requests.push_back(request.encode(tag));
        }
        tag.is_some()
    }

    /// Lets a request of the kernel's that was kept here have what becomes of it now.
    fn resolve(&mut self, request: Request) {
        match request {
            Request::Forward(head) => self.requests.push_back(Packet::whole(head)),
            Request::Answer(reply) => self.replies.push_back(reply),
            Request::Wait => {}
        }
    }

    fn time_of_changes(&self) -> u64 {
        self.accel.as_ref().map_or(0, |accel| accel.cache.tick())
    }

    /// A copy of a head with another tag and other fids.
    fn patch(&mut self, head: &[u8], tag: Tag, fids: &[(usize, Fid)]) -> Bytes {
        if self.arena.capacity() < head.len() {
            self.arena.reserve(head.len().max(16 * 1024));
        }
        self.arena.extend_from_slice(head);
        let mut copy = self.arena.split();
        copy[HEADER - 2..HEADER].copy_from_slice(&tag.0.to_le_bytes());
        for (at, fid) in fids {
            copy[*at..*at + 4].copy_from_slice(&fid.0.to_le_bytes());
        }
        copy.freeze()
    }
}

#[cfg(test)]
mod tests;
