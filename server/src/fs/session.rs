//! One mount's conversation: takes messages in, answers each once.
//!
//! ```text
//! submit ─► decode ─► fids found, tag noted ─┬─► answered on the spot, if no disk is in it
//!                                            └─► queue ─► worker ─► dispatch ─► answer
//! ```
//!
//! What is on the spot: `Tversion`, `Tflush`, clunks of fids that are not open, walks of no names;
//! and, where the file system is known to have them in memory, attributes and walks.
//! Leaves out the transport: packets come in whole, in the order in which the client sent them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use transport::id::{Msize, Tag};
use transport::ninep::message::VERSION;
use transport::ninep::{DecodeError, Packet, Rmessage, Tmessage};

use super::dispatch::{self, Answer};
use super::errno::{Errno, Result, wire};
use super::export::Export;
use super::fid::{Fid, Fids, Role};
use super::inflight::{Admission, Flush, InFlight, Park, Request};
use super::lock::{Locks, Owners};
use super::node::lock;
use super::tree::Tree;
use super::workers::{Job, Workers};
use super::xattr;

/// Takes the answers. May be called from any thread, also from within [`Session::submit`].
pub trait Replies: Send + Sync {
    /// Takes one answer; must not wait for long, and not submit.
    fn reply(&self, reply: Packet);
}

/// Why what a client sent is no 9P: the stream is to be ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// The message cannot be taken apart.
    #[error("not a 9P message: {0}")]
    Malformed(#[from] DecodeError),
    /// A message before the version was agreed.
    #[error("message of type {0} before Tversion was answered")]
    NoVersion(u8),
    /// A tag was used again before its answer.
    #[error("tag {} is used by two requests at a time", .0.0)]
    TagInUse(Tag),
    /// The session has been closed.
    #[error("the session has been closed")]
    Closed,
}

/// The server's side of one 9P conversation.
pub struct Session {
    pub(super) export: Arc<Export>,
    pub(super) workers: Arc<Workers>,
    pub(super) fids: Fids,
    pub(super) tree: Tree,
    pub(super) locks: Locks,
    replies: Arc<dyn Replies>,
    max_msize: Msize,
    /// The agreed msize; 0 before.
    msize: AtomicU32,
    requests: InFlight,
    lane: Mutex<Lane>,
    closed: AtomicBool,
}

/// The session's share of the workers.
#[derive(Debug, Default)]
struct Lane {
    working: usize,
    backlog: VecDeque<Arc<Request>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("export", &self.export).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that waits for its `Tversion` and agrees to at most `max_msize`.
    pub fn new(
        export: Arc<Export>,
        workers: Arc<Workers>,
        replies: Arc<dyn Replies>,
        max_msize: Msize,
    ) -> Arc<Session> {
        let tree = Tree::new(&export, workers.handles.clone(), workers.nodes.clone());
        let fids = Fids::new(workers.fids.clone());
        let locks = Locks::new(workers.lock_owners.clone(), workers.lock_ranges.clone());
        Arc::new(Session {
            export,
            workers,
            fids,
            tree,
            locks,
            replies,
            max_msize,
            msize: AtomicU32::new(0),
            requests: InFlight::default(),
            lane: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Takes a message in. Never waits. There will be exactly one answer to it, unless it is
    /// flushed; an error means that it is not 9P and the stream is to be ended for that reason.
    pub fn submit(self: &Arc<Session>, packet: Packet) -> Result<(), SessionError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SessionError::Closed);
        }
        let header = packet.header()?;
        let msize = self.msize.load(Ordering::Acquire);
        let most = if msize == 0 { self.max_msize.bytes() } else { msize };
        if header.size > most {
            return Err(DecodeError::Oversized { size: header.size, msize: most }.into());
        }
        let (tag, message) = Tmessage::decode(&packet)?;
        match message {
            Tmessage::Tversion { msize, version } => {
                self.version(tag, msize, version);
                return Ok(());
            }
            _ if msize == 0 => return Err(SessionError::NoVersion(header.kind)),
            Tmessage::Tflush { oldtag } => return self.flush(tag, oldtag),
            _ => {}
        }
        let found = dispatch::fids(&self.fids, &message);
        let missing = found.as_ref().err().copied();
        let cancellable = !matches!(message, Tmessage::Tclunk { .. } | Tmessage::Tremove { .. });
        let request = Request::new(tag, packet, found.unwrap_or_default(), cancellable);
        match self.requests.admit(&request) {
            Admission::Taken => {}
            Admission::Busy if cancellable => {
                self.send(Rmessage::error(tag, wire(Errno::AGAIN)));
                return Ok(());
            }
            // Over the limit or not: its fid is gone already.
            Admission::Busy => self.requests.admit_anyway(&request),
            Admission::TagInUse => return Err(SessionError::TagInUse(tag)),
            Admission::Resetting => return Err(SessionError::NoVersion(header.kind)),
        }
        let at_once = match missing {
            Some(errno) => Some(Err(errno)),
            None => dispatch::at_once(self, &request),
        };
        match at_once {
            Some(answer) => self.answer(&request, Some(reply(tag, answer))),
            None => self.enqueue(request),
        }
        Ok(())
    }

    /// Requests that have no answer yet, and their bytes: for the transport's back-pressure.
    pub fn load(&self) -> (usize, usize) {
        self.requests.load()
    }

    /// Ends the session: waiting requests are cancelled, fids and locks go as soon as a worker has
    /// time. Answers of what still runs are thrown away; one that another thread is handing over at
    /// this moment still arrives.
    pub fn close(self: &Arc<Session>) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.requests.close();
        self.forget_cancelled();
        let (fids, owners) = (self.fids.drain(true), self.locks.take_owners());
        self.workers.push(Job::Retire(self.clone(), fids, owners));
    }

    /// The most bytes of payload in one message.
    pub(super) fn payload(&self) -> u32 {
        self.msize.load(Ordering::Acquire).saturating_sub(Msize::IO_HEADER)
    }

    /// `EROFS` where the folder was granted for reading only.
    pub(super) fn writable(&self) -> Result<()> {
        if self.export.read_only() { Err(Errno::ROFS) } else { Ok(()) }
    }

    fn version(self: &Arc<Session>, tag: Tag, msize: u32, version: &[u8]) {
        let known = version == VERSION;
        let reply = if msize < Msize::MIN.bytes() {
            self.msize.store(0, Ordering::Release);
            Rmessage::error(tag, wire(Errno::INVAL))
        } else {
            let agreed = msize.min(self.max_msize.bytes());
            self.msize.store(if known { agreed } else { 0 }, Ordering::Release);
            let version = if known { VERSION } else { b"unknown" };
            Rmessage::Rversion { msize: agreed, version }.encode(tag)
        };
        let reply = self.requests.reset(reply);
        self.forget_cancelled();
        if let Some(reply) = reply {
            self.begin(reply);
        }
    }

    /// Begins anew: nothing of the session before runs any more.
    fn begin(self: &Arc<Session>, version: Packet) {
        let (fids, owners) = (self.fids.drain(false), self.locks.take_owners());
        if !fids.is_empty() || !owners.is_empty() {
            self.workers.push(Job::Retire(self.clone(), fids, owners));
        }
        self.send(version);
    }

    /// Lets go of what was cancelled before a worker came to it: it may hold a large write.
    fn forget_cancelled(&self) {
        lock(&self.lane).backlog.retain(|request| !request.is_cancelled());
    }

    fn flush(self: &Arc<Session>, tag: Tag, old: Tag) -> Result<(), SessionError> {
        match self.requests.flush(tag, old) {
            Ok(Flush::Now) => {
                self.forget_cancelled();
                if let Some(version) = self.requests.flushed(tag, |packet| self.send(packet)) {
                    self.begin(version);
                }
                Ok(())
            }
            Ok(Flush::Later) => Ok(()),
            Err(Admission::Resetting) => Err(SessionError::NoVersion(108)),
            Err(_) => Err(SessionError::TagInUse(tag)),
        }
    }

    fn send(&self, packet: Packet) {
        if !self.closed.load(Ordering::Acquire) {
            self.replies.reply(packet);
        }
    }

    fn answer(self: &Arc<Session>, request: &Request, reply: Option<Packet>) {
        let version = self.requests.answer(request, reply, |packet| self.send(packet));
        if let Some(version) = version {
            self.begin(version);
        }
    }

    /// Has `request` carried out by a worker, when it is this session's turn.
    pub(super) fn enqueue(self: &Arc<Session>, request: Arc<Request>) {
        {
            let mut lane = lock(&self.lane);
            if lane.working >= self.workers.share() {
                lane.backlog.push_back(request);
                return;
            }
            lane.working += 1;
        }
        self.workers.push(Job::Request(self.clone(), request));
    }

    /// Carries `request` out, on a worker.
    pub(super) fn carry_out(self: &Arc<Session>, request: &Arc<Request>) {
        if request.start() {
            // A mistake in one operation must not cost the others their worker, nor the client a
            // task that waits for ever.
            let answer = catch_unwind(AssertUnwindSafe(|| dispatch::carry_out(self, request)))
                .unwrap_or(Err(Errno::IO));
            match answer {
                Ok(Answer::Wait) => match self.requests.park(request) {
                    Park::Parked => self.workers.waiting.wait_for(self, request),
                    Park::GivenUp | Park::Ended => self.answer(request, None),
                },
                answer => self.answer(request, Some(reply(request.tag, answer))),
            }
        }
        let next = {
            let mut lane = lock(&self.lane);
            let next = lane.backlog.pop_front();
            lane.working -= usize::from(next.is_none());
            next
        };
        if let Some(next) = next {
            self.workers.push(Job::Request(self.clone(), next));
        }
    }

    /// Ends a fid that is in no table any more: what it had open is closed, and locks go with the
    /// last fid that has the file open. Gives the error of an extended attribute that was not set.
    pub(super) fn retire(&self, fid: &Fid) -> Result<()> {
        let (node, role) = fid.retire();
        match role {
            Role::Path | Role::Value(_) => Ok(()),
            Role::Open(file) => {
                drop(file);
                if self.locks.closed(&node.id) {
                    self.workers.waiting.hurry(&node.id);
                }
                Ok(())
            }
            Role::Sink(sink) => xattr::finish(&sink),
        }
    }

    pub(super) fn retire_all(&self, fids: Vec<Arc<Fid>>, owners: Owners) {
        owners.end(&self.workers.waiting);
        for fid in fids {
            // Nobody waits for an answer.
            let _ = self.retire(&fid);
        }
    }
}

/// An operation's outcome as a packet.
fn reply(tag: Tag, answer: Result<Answer>) -> Packet {
    match answer {
        Ok(Answer::Message(message)) => message.encode(tag),
        Ok(Answer::Payload(message, body)) if body.is_empty() => message.encode(tag),
        Ok(Answer::Payload(message, body)) => message.with_body(tag, vec![body]),
        Ok(Answer::Target(target)) => Rmessage::Rreadlink { target: &target }.encode(tag),
        Ok(Answer::Lock { kind, start, length, proc_id, client_id }) => {
            let client_id = &client_id;
            Rmessage::Rgetlock { kind, start, length, proc_id, client_id }.encode(tag)
        }
        // Only what is carried out by a worker may wait.
        Ok(Answer::Wait) => Rmessage::error(tag, wire(Errno::IO)),
        Err(errno) => Rmessage::error(tag, wire(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Limits;
    use bytes::Bytes;
    use transport::id;

    struct Nobody;

    impl Replies for Nobody {
        fn reply(&self, _: Packet) {}
    }

    #[test]
    fn what_is_given_up_holds_no_memory_while_workers_are_busy() {
        let dir = tempfile::tempdir().unwrap();
        let export = Export::open(&dir.path().canonicalize().unwrap(), false).unwrap();
        let s = Session::new(export, Workers::new(Limits::default()), Arc::new(Nobody), Msize::MAX);
        let send = |tag, message: Tmessage<'_>, body: &Bytes| {
            s.submit(message.with_body(Tag(tag), vec![body.clone()])).unwrap();
        };
        let (none, body) = (Bytes::new(), Bytes::from(vec![0; 1000]));
        send(0, Tmessage::Tversion { msize: 8192, version: VERSION }, &none);
        s.fids.put(id::Fid(1), Fid::new(s.tree.root().clone(), Role::Path)).unwrap();
        // As if as many as may were at work.
        lock(&s.lane).working = s.workers.share();
        let write = Tmessage::Twrite { fid: id::Fid(1), offset: 0, count: 1000 };
        for _ in 0..100 {
            send(1, write, &body);
            send(2, Tmessage::Tflush { oldtag: Tag(1) }, &none);
        }
        assert_eq!(lock(&s.lane).backlog.len(), 0, "flushed");
        send(1, write, &body);
        assert_eq!(lock(&s.lane).backlog.len(), 1);
        send(0, Tmessage::Tversion { msize: 8192, version: VERSION }, &none);
        assert_eq!(lock(&s.lane).backlog.len(), 0, "of the session before");
        s.fids.put(id::Fid(1), Fid::new(s.tree.root().clone(), Role::Path)).unwrap();
        send(1, write, &body);
        s.close();
        assert_eq!(lock(&s.lane).backlog.len(), 0, "closed");
    }
}
