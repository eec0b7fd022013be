//! One 9P socket joined to one stream of the channel.
//!
//! Requests go out as they come, a large one before its end has been read. Replies go in when they are
//! whole: so small ones pass large ones that are still coming, and a channel that breaks in the middle
//! of a reply leaves a socket at which everybody who waits can still be told so. Bytes are buffered in
//! one direction only: what the channel brought and the socket has not taken yet, bounded by the
//! stream's credit.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

use super::buffer::Buffers;
use super::class::class;
use super::outbox::{Outbox, Written};
use super::pump::Context;
use super::ready::Ready;
use crate::id::{StreamId, Tag};
use crate::mux::{Pieces, SendError};
use crate::ninep::packet::Header;
use crate::ninep::{DecodeError, Framer, Item, Kind, Packet};
use crate::session::{Reply, Request, Session, SessionError};
use crate::stats::StreamStats;

/// Bytes of one stream that may wait for the channel: enough to keep it busy, little enough that a
/// stuck channel holds the client back instead of filling memory.
const QUEUE: usize = 2 * 1024 * 1024;
/// Bytes of replies that may wait for the socket before no more requests are taken.
const BACKLOG: usize = 4 * 1024 * 1024;
/// Bytes read before the other streams have their turn.
const TURN: usize = 128 * 1024;

/// Why a link ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The 9P client closed its socket, as the kernel does on umount(2).
    #[error("unmounted")]
    Unmounted,
    /// The 9P client closed its socket in the middle of a message.
    #[error("the 9P client stopped in the middle of a message")]
    Cut,
    /// One of the two ends does not keep to 9P2000.L.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The far end ended it.
    #[error("the other qube ended it")]
    FarEnd,
    /// The socket failed.
    #[error("the 9P socket failed: {0}")]
    Io(Errno),
    /// The channel does not take a message.
    #[error("the channel does not take a message: {0}")]
    Send(#[from] SendError),
}

impl LinkEnd {
    /// Whether the 9P client is blameless, and to be told EIO rather than cut off.
    pub fn is_the_far_ends(&self) -> bool {
        match self {
            LinkEnd::Session(error) => {
                !matches!(error, SessionError::BadRequest(_) | SessionError::TagInUse(_))
            }
            LinkEnd::Send(_) => true,
            LinkEnd::Unmounted | LinkEnd::Cut | LinkEnd::FarEnd | LinkEnd::Io(_) => false,
        }
    }
}

/// A link under way.
#[derive(Debug)]
pub struct Link {
    stream: StreamId,
    fd: OwnedFd,
    session: Session,
    stats: Arc<StreamStats>,
    /// When the request of each of the channel's tags was passed on.
    since: Vec<Option<Duration>>,
    requests: Framer,
    /// The current request's payload goes nowhere.
    dropping: bool,
    /// Payload of the current request that has not come yet.
    unread: usize,
    small: Incoming,
    bulk: Incoming,
    outbox: Outbox,
    ready: Ready,
    failed: bool,
}

/// A lane of the channel, on its way in.
#[derive(Debug)]
struct Incoming {
    framer: Framer,
    /// The current reply's head, and the payload that belongs to it. The session hears of it when all of
    /// it is here: until then its request is one that can be flushed, or fail.
    head: Option<(Bytes, usize)>,
    /// Payload of the current reply that has not come yet.
    unread: usize,
    /// The current reply's payload so far, each piece with the credit that it holds.
    payload: Vec<(Bytes, u32)>,
}

impl Incoming {
    fn new(max: u32) -> Incoming {
        Incoming { framer: Framer::new(max), head: None, unread: 0, payload: Vec::new() }
    }
}

impl Link {
    /// Joins `fd`, an end of a stream socket or the like, to `stream`, with `session` in between.
    pub fn new(
        stream: StreamId,
        fd: OwnedFd,
        session: Session,
        stats: Arc<StreamStats>,
        registry: &Registry,
        token: Token,
    ) -> std::io::Result<Link> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, interest)?;
        let max = session.max_message();
        Ok(Link {
            stream,
            fd,
            session,
            stats,
            since: Vec::new(),
            requests: Framer::new(max),
            dropping: false,
            unread: 0,
            small: Incoming::new(max),
            bulk: Incoming::new(max),
            outbox: Outbox::default(),
            ready: Ready::UNKNOWN,
            failed: false,
        })
    }

    /// Takes readiness of the socket.
    pub fn handle_ready(&mut self, ready: Ready) {
        self.ready.add(ready);
    }

    /// When [`pass`](Self::pass) is due although nothing has come.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.session.poll_timeout()
    }

    /// Takes a message from the channel that came in one frame.
    pub fn handle_message(&mut self, cx: &mut Context<'_>, pieces: Pieces) -> Result<(), LinkEnd> {
        for piece in pieces {
            self.incoming(cx, piece, false)?;
        }
        self.whole(false)
    }

    /// A large message begins: the one before must have been whole.
    pub fn handle_begin(&mut self) -> Result<(), LinkEnd> {
        self.whole(true)
    }

    /// The channel's messages and 9P's are the same, or somebody lies about a length.
    fn whole(&self, bulk: bool) -> Result<(), LinkEnd> {
        let lane = if bulk { &self.bulk } else { &self.small };
        if lane.framer.is_between() {
            Ok(())
        } else {
            Err(SessionError::BadReply(DecodeError::Short).into())
        }
    }

    /// Takes the next piece of a large message from the channel.
    pub fn handle_bulk(&mut self, cx: &mut Context<'_>, piece: Bytes) -> Result<(), LinkEnd> {
        self.incoming(cx, piece, true)
    }

    /// Reads, answers and writes as far as it goes; says whether anything moved.
    pub fn pass(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        self.session.handle_timeout(cx.now);
        self.own_messages(cx)?;
        let read = self.read(cx);
        let written = self.write(cx)?;
        self.stats.set_in_flight(self.session.in_flight());
        Ok(read? || written)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut taken = 0;
        while self.ready.readable
            && taken < TURN
            && cx.mux.queued(self.stream) < QUEUE
            && self.outbox.len() < BACKLOG
        {
            match cx.buffers.read(&self.fd) {
                Ok(Some(read)) => {
                    taken += read.bytes.len();
                    self.ready.has_read(&read);
                    self.requests.push(read.bytes);
                    self.take_requests(cx)?;
                }
                Ok(None) if self.requests.is_between() => return Err(LinkEnd::Unmounted),
                Ok(None) => return Err(LinkEnd::Cut),
                Err(Errno::AGAIN) => self.ready.readable = false,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(LinkEnd::Unmounted),
                Err(errno) => return Err(LinkEnd::Io(errno)),
            }
        }
        Ok(taken > 0)
    }

    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        while let Some(item) = self.requests.poll().map_err(SessionError::BadRequest)? {
            match item {
                Item::Head { head, body } => {
                    self.unread = body;
                    self.dropping = true;
                    match self.session.handle_request(cx.now, &head, body)? {
                        Request::Forward(head) => {
                            self.dropping = false;
                            self.stats.count_request(head.len() + body);
                            self.time(&head, Some(cx.now));
                            self.send(cx, head, body)?;
                        }
                        Request::Answer(reply) => {
                            self.stats.count_here();
                            self.answer(reply);
                        }
                        Request::Wait => {}
                    }
                    self.limits();
                }
                Item::Body(piece) => {
                    self.unread -= piece.len();
                    if !self.dropping {
                        cx.mux.extend(self.stream, piece)?;
                    }
                }
            }
        }
        self.own_messages(cx)
    }

    /// Begins a message towards the channel.
    fn send(&mut self, cx: &mut Context<'_>, head: Bytes, body: usize) -> Result<(), SendError> {
        let size = head.len() + body;
        let class = class(Kind(head[4]), size);
        cx.mux.start(self.stream, class, u32::try_from(size).unwrap_or(u32::MAX))?;
        cx.mux.extend(self.stream, head)
    }

    /// Sends what the session has to say itself, where no other message is half said.
    fn own_messages(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        while self.unread == 0 {
            let Some(packet) = self.session.poll_request() else { break };
            self.time(&packet.head, Some(cx.now));
            self.send(cx, packet.head, 0)?;
        }
        while let Some(packet) = self.session.poll_reply() {
            self.answer(packet);
        }
        Ok(())
    }

    /// Begins to time a request, or not: its tag may have been that of one that was given up.
    fn time(&mut self, head: &[u8], now: Option<Duration>) {
        let Ok(header) = Header::read(head) else { return };
        // A lock is waited for, and a version comes before there are tags.
        let timed = Kind(header.kind) != Kind::Tlock && header.tag != Tag::NONE;
        let at = usize::from(header.tag.0);
        if timed && at >= self.since.len() {
            self.since.resize(at + 1, None);
        }
        if let Some(since) = self.since.get_mut(at) {
            *since = now.filter(|_| timed);
        }
    }

    /// How long the request of a reply took, if it was timed.
    fn took(&mut self, now: Duration, head: &[u8]) -> Option<Duration> {
        let header = Header::read(head).ok()?;
        if Kind(header.kind).is_hint() {
            return None;
        }
        let since = self.since.get_mut(usize::from(header.tag.0)).and_then(Option::take)?;
        Some(now.saturating_sub(since))
    }

    /// A reply of this end's own; it has used no credit.
    fn answer(&mut self, reply: Packet) {
        self.outbox.push(reply.head, 0);
        reply.body.into_iter().for_each(|piece| self.outbox.push(piece, 0));
    }

    fn incoming(&mut self, cx: &mut Context<'_>, piece: Bytes, bulk: bool) -> Result<(), LinkEnd> {
        self.stats.count_received(piece.len());
        let lane = if bulk { &mut self.bulk } else { &mut self.small };
        lane.framer.push(piece);
        loop {
            let lane = if bulk { &mut self.bulk } else { &mut self.small };
            let item = lane.framer.poll().map_err(SessionError::BadReply)?;
            match item {
                None => return Ok(()),
                Some(Item::Head { head, body }) => {
                    lane.unread = body;
                    lane.head = Some((head, body));
                }
                Some(Item::Body(piece)) => {
                    lane.unread -= piece.len();
                    let worth = piece.len() as u32;
                    lane.payload.push((piece, worth));
                }
            }
            if lane.unread == 0 {
                if let Some((head, body)) = lane.head.take() {
                    let payload = std::mem::take(&mut lane.payload);
                    self.reply(cx, &head, body, payload)?;
                }
            }
        }
    }

    /// A whole reply from the channel.
    fn reply(
        &mut self,
        cx: &mut Context<'_>,
        head: &Bytes,
        body: usize,
        payload: Vec<(Bytes, u32)>,
    ) -> Result<(), LinkEnd> {
        let worth = head.len() as u32;
        let took = self.took(cx.now, head);
        let reply = self.session.handle_reply(head, body)?;
        if matches!(reply, Reply::Pass(_) | Reply::Made) {
            took.into_iter().for_each(|took| self.stats.count_round_trip(took));
        }
        match reply {
            Reply::Pass(head) => {
                self.outbox.push(head, worth);
                payload.into_iter().for_each(|(piece, worth)| self.outbox.push(piece, worth));
            }
            Reply::Drop | Reply::Made => cx.mux.consumed(self.stream, worth + body as u32),
            Reply::Keep => {
                cx.mux.consumed(self.stream, worth + body as u32);
                self.session.keep(payload.into_iter().map(|(piece, _)| piece).collect());
            }
        }
        self.limits();
        // What the session has to add comes behind the reply that made it.
        self.own_messages(cx)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let written = self.flush()?;
        if written.worth > 0 {
            cx.mux.consumed(self.stream, written.worth);
        }
        Ok(written.bytes > 0)
    }

    /// Writes what the socket takes now.
    fn flush(&mut self) -> Result<Written, LinkEnd> {
        if !self.ready.writable || self.outbox.is_empty() {
            return Ok(Written::default());
        }
        let written = match self.outbox.write(&self.fd) {
            Ok(written) => written,
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(LinkEnd::Unmounted),
            Err(errno) => return Err(LinkEnd::Io(errno)),
        };
        self.ready.writable = !written.full;
        Ok(written)
    }

    /// Follows the session's msize.
    fn limits(&mut self) {
        let max = self.session.max_message();
        self.requests.set_max(max);
        self.small.framer.set_max(max);
        self.bulk.framer.set_max(max);
        if let Some(msize) = self.session.msize() {
            self.stats.set_msize(msize.bytes());
        }
    }

    /// The far end is gone: whoever waits gets EIO, and whoever comes gets it from
    /// [`pass_failed`](Self::pass_failed), until the 9P client closes. A socket that closed first would
    /// give the kernel's next request ECONNRESET, which no program expects of a file.
    pub fn fail(&mut self) {
        self.session.fail();
        self.dropping = true;
        self.failed = true;
        self.stats.set_in_flight(0);
    }

    /// As [`pass`](Self::pass), after [`fail`](Self::fail).
    pub fn pass_failed(&mut self, buffers: &mut Buffers) -> Result<bool, LinkEnd> {
        let asked = self.refuse(buffers)?;
        let written = self.flush()?;
        Ok(asked || written.bytes > 0)
    }

    /// Whether it has lost its far end.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Answers what comes; says whether anything did.
    fn refuse(&mut self, buffers: &mut Buffers) -> Result<bool, LinkEnd> {
        let mut asked = false;
        while self.ready.readable && self.outbox.len() < BACKLOG {
            match buffers.read(&self.fd) {
                Ok(Some(read)) => {
                    self.ready.has_read(&read);
                    self.requests.push(read.bytes);
                }
                Ok(None) => return Err(LinkEnd::Unmounted),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.ready.readable = false;
                    break;
                }
                Err(errno) => return Err(LinkEnd::Io(errno)),
            }
            while let Some(item) = self.requests.poll().map_err(SessionError::BadRequest)? {
                asked = true;
                let Item::Head { head, body } = item else { continue };
                let request = self.session.handle_request(Duration::ZERO, &head, body)?;
                if let Request::Answer(reply) = request {
                    self.answer(reply);
                }
            }
        }
        while let Some(reply) = self.session.poll_reply() {
            asked = true;
            self.answer(reply);
        }
        Ok(asked)
    }

    /// Ends it: the 9P client finds its socket closed, which fails everything that waits.
    pub fn close(self, registry: &Registry) {
        // A descriptor that is closed leaves epoll by itself, unless it is open elsewhere too.
        let _ = registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()));
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }
}
