//! One mount's conversation: takes messages in, answers each once.
//!
//! ```text
//! submit ─► decode ─► fids found, tag noted ─┬─► answered on the spot, if it need not wait
//!                                            └─► queue ─► worker ─► dispatch ─► answer
//! ```
//!
//! What is on the spot is [`super::spot`]'s to say, besides `Tversion` and `Tflush`. Leaves out the transport: packets come in whole, in the order in which the client sent them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use transport::id::{Msize, Tag};
use transport::ninep::message::VERSION;
use transport::ninep::{DecodeError, Packet, Pieces, Rmessage, Tmessage};

use super::dispatch::{self, Answer};
use super::errno::{Errno, Result, wire};
use super::export::Export;
use super::fid::{Fid, Fids, Role};
use super::hints::Hints;
use super::inflight::{Admission, Flush, InFlight, Park, Request};
use super::lock::{Locks, Owners};
use super::node::lock;
use super::spot::{self, Spot};
use super::tree::Tree;
use super::watch::Owner;
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

/// Numbers sessions.
static OWNERS: AtomicU64 = AtomicU64::new(0);

/// The server's side of one 9P conversation.
pub struct Session {
    pub(super) export: Arc<Export>,
    pub(super) workers: Arc<Workers>,
    pub(super) fids: Fids,
    pub(super) tree: Tree,
    pub(super) locks: Locks,
    replies: Arc<dyn Replies>,
    max_msize: Msize,
    /// Whether the client takes hints.
    pub(super) hinting: bool,
    /// Whose the watches are.
    pub(super) owner: Owner,
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
        Session::build(export, workers, replies, max_msize, false)
    }

    /// The same, of a client that takes hints: they come as replies do, before that which they belong to.
    pub fn with_hints(
        export: Arc<Export>,
        workers: Arc<Workers>,
        replies: Arc<dyn Replies>,
        max_msize: Msize,
    ) -> Arc<Session> {
        Session::build(export, workers, replies, max_msize, true)
    }

    fn build(
        export: Arc<Export>,
        workers: Arc<Workers>,
        replies: Arc<dyn Replies>,
        max_msize: Msize,
        hinting: bool,
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
            hinting,
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            msize: AtomicU32::new(0),
            requests: InFlight::default(),
            lane: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Takes a message in; one at a time, in the order in which they came. Never waits. There will be exactly one answer to it, unless it is
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
        let ends = matches!(message, Tmessage::Tclunk { .. } | Tmessage::Tremove { .. });
        let busy = match self.requests.look(tag, packet.len()) {
            Admission::Taken => false,
            Admission::Busy if !ends => {
                self.send(self.error(tag, Errno::AGAIN));
                return Ok(());
            }
            // Over the limit or not: its fid is gone already.
            Admission::Busy => true,
            Admission::TagInUse => return Err(SessionError::TagInUse(tag)),
            Admission::Resetting => return Err(SessionError::NoVersion(header.kind)),
        };
        let mut hints = Hints::new(self.hinting, msize);
        let spot = match &found {
            Ok(subjects) => spot::at_once(self, &message, subjects, &packet, &mut hints),
            Err(errno) => Spot::Answer(Err(*errno)),
        };
        let done = match spot {
            Spot::Answer(answer) => {
                // Nobody else knew of it: it needs no place among those that wait.
                hints.take(tag).for_each(|hint| self.send(hint));
                self.send(self.reply(tag, answer));
                return Ok(());
            }
            Spot::Worker { done } => done,
        };
        let cancellable = !ends && done == 0;
        let request = Request::new(tag, packet, found.unwrap_or_default(), cancellable, done);
        let request = self.workers.spare.make(request);
        if busy {
            self.requests.admit_anyway(&request);
        } else if self.requests.admit(&request) != Admission::Taken {
            // Taken meanwhile, by a message that another thread hands in: there must not be one.
            return Err(SessionError::TagInUse(tag));
        }
        self.enqueue(request);
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
        self.workers.watches.end(self.owner);
        self.requests.close();
        self.forget_cancelled();
        let (fids, owners) = (self.fids.drain(true), self.locks.take_owners());
        self.workers.push(Job::Retire(self.clone(), fids, owners));
    }

    /// Who is to hear of what its hints said and is true no longer.
    pub fn owner(&self) -> Owner {
        self.owner
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

    fn answer(self: &Arc<Session>, request: &Request, reply: Option<Packet>, mut hints: Hints) {
        let version = self.requests.answer(request, reply, |packet| {
            // The first is the reply; nothing is told to a client that has given the request up.
            hints.take(request.tag).for_each(|hint| self.send(hint));
            self.send(packet);
        });
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
    pub(super) fn carry_out(self: &Arc<Session>, request: Arc<Request>) {
        self.work(&request);
        self.workers.spare.give(request);
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

    fn work(self: &Arc<Session>, request: &Arc<Request>) {
        if request.start() {
            // A mistake in one operation must not cost the others their worker, nor the client a
            // task that waits for ever.
            let mut hints = Hints::new(self.hinting, self.msize.load(Ordering::Acquire));
            let work = AssertUnwindSafe(|| dispatch::work(self, request, &mut hints));
            let answer = catch_unwind(work).unwrap_or(Err(Errno::IO));
            match answer {
                Ok(Answer::Wait) => match self.requests.park(request) {
                    Park::Parked => self.workers.waiting.wait_for(self, request),
                    Park::GivenUp | Park::Ended => self.answer(request, None, Hints::default()),
                },
                answer => self.answer(request, Some(self.reply(request.tag, answer)), hints),
            }
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

    /// An operation's outcome as a packet.
    fn reply(&self, tag: Tag, answer: Result<Answer>) -> Packet {
        let (message, body) = match &answer {
            Ok(Answer::Message(message)) => (*message, Pieces::new()),
            Ok(Answer::Payload(message, body)) if body.is_empty() => (*message, Pieces::new()),
            Ok(Answer::Payload(message, body)) => (*message, body.clone().into()),
            Ok(Answer::Target(target)) => (Rmessage::Rreadlink { target }, Pieces::new()),
            Ok(Answer::Lock { kind, start, length, proc_id, client_id }) => {
                let (kind, start, length, proc_id) = (*kind, *start, *length, *proc_id);
                let message = Rmessage::Rgetlock { kind, start, length, proc_id, client_id };
                (message, Pieces::new())
            }
            // Only what is carried out by a worker may wait.
            Ok(Answer::Wait) => return self.error(tag, Errno::IO),
            Err(errno) => return self.error(tag, *errno),
        };
        self.workers.buffers.head(|slab| message.write_to(slab, tag, body))
    }

    fn error(&self, tag: Tag, errno: Errno) -> Packet {
        let message = Rmessage::Rlerror { errno: wire(errno) };
        self.workers.buffers.head(|slab| message.write_to(slab, tag, Pieces::new()))
    }

    pub(super) fn retire_all(&self, fids: Vec<Arc<Fid>>, owners: Owners) {
        owners.end(&self.workers.waiting);
        for fid in fids {
            // Nobody waits for an answer.
            let _ = self.retire(&fid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Limits;
    use bytes::Bytes;
    use std::path::Path;
    use std::sync::mpsc;
    use std::time::Duration;
    use transport::id;
    use transport::ninep::message::{Names, OrZero};

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

    /// Hands replies to a test.
    struct Inbox(Mutex<mpsc::Sender<Packet>>);

    impl Replies for Inbox {
        fn reply(&self, reply: Packet) {
            lock(&self.0).send(reply).unwrap();
        }
    }

    struct Client {
        session: Arc<Session>,
        replies: mpsc::Receiver<Packet>,
    }

    impl Client {
        /// A client that has attached fid 0.
        fn new(folder: &Path, workers: &Arc<Workers>) -> Client {
            let export = Export::open(&folder.canonicalize().unwrap(), false).unwrap();
            let (sender, replies) = mpsc::channel();
            let inbox = Arc::new(Inbox(Mutex::new(sender)));
            let session = Session::new(export, workers.clone(), inbox, Msize::MAX);
            let client = Client { session, replies };
            client.call(Tmessage::Tversion { msize: 8192, version: VERSION });
            let (fid, afid) = (id::Fid(0), id::Fid::NONE);
            client.call(Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 });
            client
        }

        fn send(&self, tag: u16, message: Tmessage<'_>) {
            self.session.submit(message.encode(Tag(tag))).unwrap();
        }

        /// The next reply's tag and type. Waiting is bounded, and no part of a verdict but on hangs.
        fn next(&self) -> (u16, u8) {
            let reply = self.replies.recv_timeout(Duration::from_secs(60)).unwrap();
            let header = reply.header().unwrap();
            (header.tag.0, header.kind)
        }

        fn call(&self, message: Tmessage<'_>) {
            self.send(1, message);
            assert_eq!(self.next(), (1, message.kind().reply().0), "{message:?}");
        }

        /// Walks to a name, or to the root itself, and opens it.
        fn open(&self, fid: u32, name: &[&[u8]]) {
            let (newfid, names) = (id::Fid(fid), Names::new(name).unwrap());
            self.call(Tmessage::Twalk { fid: id::Fid(0), newfid, names });
            self.call(Tmessage::Tlopen { fid: newfid, flags: 0 });
        }
    }

    #[test]
    fn what_waits_for_a_disk_delays_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"12345").unwrap();
        let workers = Workers::new(Limits::default());
        let (one, two) = (Client::new(dir.path(), &workers), Client::new(dir.path(), &workers));
        for client in [&one, &two] {
            client.open(2, &[]);
            client.open(3, &[]);
            client.open(4, &[b"file"]);
        }
        let readdir = |fid| Tmessage::Treaddir { fid: id::Fid(fid), offset: 0, count: 4096 };
        let read = Tmessage::Tread { fid: id::Fid(4), offset: 0, count: 100 };
        let getattr = Tmessage::Tgetattr { fid: id::Fid(4), mask: 0 };
        let fsync = Tmessage::Tfsync { fid: id::Fid(4), datasync: OrZero(1) };
        // As a disk that does not answer: who reads this folder waits until it is let go.
        let slow = one.session.fids.find(id::Fid(2)).unwrap().open_file().unwrap();
        let disk = lock(&slow.position);
        let share = workers.share() as u16;
        for tag in 100..100 + share - 1 {
            one.send(tag, readdir(2));
        }
        for message in [getattr, read, fsync, readdir(3), read, getattr] {
            one.call(message);
        }
        // Now all that one session may have waits for it; what needs none of them does not.
        one.send(99, readdir(2));
        one.send(98, fsync);
        let names = Names::default();
        one.call(Tmessage::Twalk { fid: id::Fid(0), newfid: id::Fid(9), names });
        for message in [getattr, read, fsync, readdir(3)] {
            two.call(message);
        }
        drop(disk);
        let mut late: Vec<u16> = (0..=share).map(|_| one.next().0).collect();
        late.sort_unstable();
        assert_eq!(late, (98..100 + share - 1).collect::<Vec<_>>());
        assert_eq!(one.session.load(), (0, 0));
        one.session.close();
        two.session.close();
    }
}
