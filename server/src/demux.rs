//! The server end's role: each stream's messages go to its file server, the replies come back.
//!
//! The file server answers out of order: the embedded one from many threads, by the mailbox; one in a
//! process of its own over a socket, which is read here. What a stream may hold is bounded on both
//! ways: a request's credit goes back only when it has been answered, and `waiting` holds back what its
//! replies would have no room for.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, Waker};
use policy::{FolderPath, QubeName};
use transport::id::{Msize, StreamId, Tag};
use transport::mux::{Authorisation, Class, Code, Event, Open, Opened, Reason, SendError};
use transport::ninep::framer::Assembler;
use transport::ninep::packet::Header;
use transport::ninep::{Framer, Kind, Packet, Rmessage, Tmessage};
use transport::relay::class::class;
use transport::relay::mailbox::{Mailbox, Sender};
use transport::relay::pump::{BELL, Context, FIRST, Role};
use transport::relay::ready::Ready;

use crate::backend::{Asked, Backend, Dialect, Remote, RemoteError, Submitted};
use crate::desk::End;
use crate::fs::{Export, Limits, Replies, Session, Workers};
use crate::grant::{Grant, SharedBook, Source, Used, is_meant, open_book};
use crate::log;
use crate::requests::{self, Requests};

/// Bytes read from a stream's server before the others have their turn.
const TURN: usize = 512 * 1024;
/// Bytes of a stream that may wait for the channel before its server's replies are left in the socket.
const QUEUE: usize = 4 * 1024 * 1024;

/// The token of the watched folders, none of a stream's.
const WATCHES: Token = Token(usize::MAX - 1);

/// Why a folder cannot be shared by streams.
const NO_SIBLING: &str = "a folder that a process of its own serves is served to one connection only; \
                          the socket front end needs the embedded file server";

/// What comes to the data plane from other threads.
enum Letter {
    /// A reply and its stream.
    Reply(StreamId, Packet),
    /// The owner's order: the end of a folder's streams, or of the channel.
    End(Option<FolderPath>),
}

/// The streams of a channel's server end.
pub struct Demux {
    mailbox: Mailbox<Letter>,
    workers: Arc<Workers>,
    /// Whose channel it is, for the log.
    client: QubeName,
    /// What the channel's own call was granted, until a stream takes it.
    own: Option<Grant>,
    book: SharedBook,
    streams: HashMap<StreamId, Stream>,
    /// Whose server's socket has which readiness token, counted from [`FIRST`].
    sockets: Vec<Option<StreamId>>,
    /// The owner has ended the channel.
    ended: bool,
    /// The loop is woken when a watched folder changes.
    watching: bool,
}

/// By what right a stream is there: what it is to be like, whatever serves it.
#[derive(Clone)]
struct Right {
    folder: FolderPath,
    read_only: bool,
    max_msize: Msize,
}

/// What a stream is to serve.
enum Served {
    /// A folder, by a session of the embedded file server.
    Folder(Arc<Export>),
    /// What the server at this socket serves.
    Socket(OwnedFd, Dialect),
}

struct Stream {
    right: Right,
    used: Arc<Used>,
    backend: Backend,
    small: Lane,
    bulk: Lane,
    requests: Requests,
    /// The request to which hints have gone as bulk, until it is answered.
    hinted: Option<Tag>,
}

impl Stream {
    fn new(right: Right, backend: Backend) -> Stream {
        let requests = Requests::new(backend.manners());
        let used = Arc::new(Used::new(right.folder.clone(), right.read_only));
        Stream {
            right,
            used,
            backend,
            small: Lane::new(),
            bulk: Lane::new(),
            requests,
            hinted: None,
        }
    }

    /// Hands a request to the file server; gives the credit that goes back at once, and the reply where
    /// no server is needed. The error says why it is none.
    fn begin(&mut self, request: Packet) -> Result<(u32, Option<Packet>), String> {
        match &mut self.backend {
            Backend::Embedded { session, .. } => {
                let credit = self.requests.begin(&request, None)?;
                session.submit(request).map_err(|error| error.to_string())?;
                Ok((credit, None))
            }
            Backend::Remote(remote, _) => {
                let (_, message) = Tmessage::decode(&request).map_err(|error| error.to_string())?;
                let credit = self.requests.begin(&request, Some(Asked::of(&message)))?;
                match remote.submit(request)? {
                    Submitted::Sent => Ok((credit, None)),
                    Submitted::Answered(reply) => Ok((credit, Some(reply))),
                }
            }
        }
    }

    /// The next reply of a server at a socket, if it has come.
    fn poll(&mut self) -> Result<Option<Packet>, Reason> {
        let Backend::Remote(remote, _) = &mut self.backend else { return Ok(None) };
        remote.poll(|tag| self.requests.asked(tag)).map_err(|error| failed(&error))
    }
}

/// A server that cannot go on, as a reason for the client.
fn failed(error: &RemoteError) -> Reason {
    Reason::new(Code::BACKEND, error.to_string())
}

struct Lane {
    framer: Framer,
    assembler: Assembler,
}

impl Lane {
    fn new() -> Lane {
        Lane { framer: Framer::new(Msize::MAX.bytes()), assembler: Assembler::default() }
    }
}

/// The way back of one stream's replies.
struct Outlet {
    stream: StreamId,
    mailbox: Sender<Letter>,
}

impl Replies for Outlet {
    fn reply(&self, reply: Packet) {
        self.mailbox.send(Letter::Reply(self.stream, reply));
    }
}

impl Demux {
    /// The role of a channel of `client` whose own call was granted `own`; later ones are in `book`.
    pub fn new(
        registry: &Registry,
        client: &QubeName,
        own: Grant,
        book: SharedBook,
    ) -> std::io::Result<Demux> {
        Ok(Demux {
            client: client.clone(),
            mailbox: Mailbox::new(Waker::new(registry, BELL)?),
            workers: Workers::new(Limits::default()),
            own: Some(own),
            book,
            streams: HashMap::new(),
            sockets: Vec::new(),
            ended: false,
            watching: false,
        })
    }

    /// The way of the owner's orders to here.
    pub fn ender(&self) -> End {
        let mailbox = self.mailbox.sender();
        Box::new(move |folder| mailbox.send(Letter::End(folder)))
    }

    /// What a stream is to serve, and by what right.
    fn authorize(&mut self, authorisation: Authorisation) -> Result<(Right, Served), Reason> {
        let refused = |why: &str| Reason::new(Code::NOT_PERMITTED, why);
        let grant = match authorisation {
            Authorisation::Sibling(stream) => {
                let sibling = self.streams.get(&stream);
                let sibling = sibling.ok_or_else(|| refused("no such stream to share with"))?;
                return match &sibling.backend {
                    Backend::Embedded { export, .. } => {
                        Ok((sibling.right.clone(), Served::Folder(Arc::clone(export))))
                    }
                    Backend::Remote(..) => Err(Reason::new(Code::UNSUPPORTED, NO_SIBLING)),
                };
            }
            Authorisation::Own => {
                self.own.take().ok_or_else(|| refused("the call's own folder is taken"))?
            }
            Authorisation::Token(token) => open_book(&self.book)
                .redeem(&token, Instant::now())
                .ok_or_else(|| refused("no such permission"))?,
        };
        let Grant { folder, read_only, max_msize, source } = grant;
        let served = match source {
            Source::Folder(root) => Export::from_dir(root, folder.as_path(), read_only)
                .map(Served::Folder)
                .map_err(|error| Reason::new(Code::FOLDER, error.to_string()))?,
            Source::Server(socket) => Served::Socket(socket, Dialect::Ours),
            Source::Diod(socket) => {
                let folder = folder.as_bytes().to_vec();
                let user = rustix::process::geteuid().as_raw();
                Served::Socket(socket, Dialect::Diod { folder, user })
            }
        };
        Ok((Right { folder, read_only, max_msize }, served))
    }

    /// Joins a stream to what serves it; gives the msize to offer.
    fn join(
        &mut self,
        registry: &Registry,
        id: StreamId,
        served: Served,
        wanted: Msize,
        hinting: bool,
    ) -> std::io::Result<(Backend, Msize)> {
        match served {
            Served::Folder(export) => {
                let outlet = Outlet { stream: id, mailbox: self.mailbox.sender() };
                let (workers, outlet) = (Arc::clone(&self.workers), Arc::new(outlet));
                let make = if hinting { Session::with_hints } else { Session::new };
                let session = make(Arc::clone(&export), workers, outlet, wanted);
                Ok((Backend::Embedded { export, session }, wanted))
            }
            Served::Socket(socket, dialect) => {
                let msize = dialect.msize(wanted);
                let free = self.sockets.iter().position(Option::is_none);
                let at = free.unwrap_or(self.sockets.len());
                let remote = Remote::new(socket, dialect, msize, registry, Token(FIRST + at))?;
                if at == self.sockets.len() {
                    self.sockets.push(None);
                }
                self.sockets[at] = Some(id);
                Ok((Backend::Remote(Box::new(remote), at), msize))
            }
        }
    }

    fn open(&mut self, cx: &mut Context<'_>, id: StreamId, open: transport::mux::Open) {
        let (right, served) = match self.authorize(open.authorisation) {
            Ok(authorized) => authorized,
            Err(reason) => {
                let by = match open.authorisation {
                    Authorisation::Own => "the channel's own right",
                    Authorisation::Token(_) => "a token",
                    Authorisation::Sibling(_) => "another stream's right",
                };
                log::say(format_args!("{}: {id} by {by} refused: {}", self.client, reason.text));
                cx.mux.refuse(id, reason);
                return;
            }
        };
        let Some(msize) = Msize::new(open.msize.min(right.max_msize.bytes())) else {
            cx.mux.refuse(id, Reason::new(Code::PROTOCOL, "an msize out of range"));
            return;
        };
        let hinting = open.flags & Open::HINTS != 0;
        match self.join(cx.registry, id, served, msize, hinting) {
            Ok((backend, msize)) => {
                cx.mux.accept(id, Opened { msize: msize.bytes() });
                let stream = Stream::new(right, backend);
                open_book(&self.book).begin(id, Arc::clone(&stream.used));
                self.streams.insert(id, stream);
            }
            Err(error) => {
                log::say(format_args!("{}: {id} refused: {error}", self.client));
                cx.mux.refuse(id, Reason::new(Code::RESOURCES, "no room for its file server"));
            }
        }
    }

    /// Takes a piece of a stream's messages.
    fn take(&mut self, cx: &mut Context<'_>, id: StreamId, piece: bytes::Bytes, bulk: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.used.count_received(piece.len());
        let lane = if bulk { &mut stream.bulk } else { &mut stream.small };
        lane.framer.push(piece);
        loop {
            match lane.framer.poll() {
                Ok(None) => break,
                Ok(Some(item)) => {
                    let Some(request) = lane.assembler.push(item) else { continue };
                    cx.mux.consumed(id, stream.requests.push(request));
                }
                Err(error) => {
                    self.end(cx, id, Reason::new(Code::NOT_9P, error.to_string()));
                    return;
                }
            }
        }
        if stream.requests.waiting() > requests::MAX {
            self.end(cx, id, Reason::new(Code::NOT_9P, "too many requests at once"));
            return;
        }
        self.submit(cx, id);
    }

    /// The channel's messages and 9P's are the same, or somebody lies about a length.
    fn whole(&mut self, cx: &mut Context<'_>, id: StreamId, bulk: bool) {
        let Some(stream) = self.streams.get(&id) else { return };
        let lane = if bulk { &stream.bulk } else { &stream.small };
        if !lane.framer.is_between() {
            self.end(cx, id, Reason::new(Code::NOT_9P, "a message is shorter than it says"));
        }
    }

    /// Begins the requests that there is room for.
    fn submit(&mut self, cx: &mut Context<'_>, id: StreamId) -> bool {
        let mut moved = false;
        let streams = self.streams.len();
        while let Some(stream) = self.streams.get_mut(&id) {
            let unsent = cx.mux.queued(id) + cx.mux.queued_messages(id) * requests::SMALL_REPLY;
            let Some(request) = stream.requests.next(unsent, streams) else { break };
            moved = true;
            match stream.begin(request) {
                Ok((credit, answer)) => {
                    cx.mux.consumed(id, credit);
                    if let Some(answer) = answer {
                        self.reply(cx, id, answer);
                    }
                }
                Err(why) => self.end(cx, id, Reason::new(Code::NOT_9P, why)),
            }
        }
        moved
    }

    /// Sends a reply.
    fn reply(&mut self, cx: &mut Context<'_>, id: StreamId, reply: Packet) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(Header { tag, kind, .. }) = reply.header() else { return };
        if Kind(kind).is_hint() {
            self.tell(cx, id, &reply);
            return;
        }
        // What belongs to the reply is not to come behind it.
        let lane = match stream.hinted.take_if(|of| *of == tag) {
            Some(_) => Class::Bulk,
            None => class(Kind(kind), reply.len()),
        };
        let answered = stream.requests.answered(tag);
        stream.used.count_sent(reply.len());
        cx.mux.consumed(id, answered.credit);
        let flushes = answered.flushes.into_iter().map(|tag| Rmessage::Rflush.encode(tag));
        let flushes = flushes.map(|flush| (flush, Class::Bulk));
        let mut replies = flushes.chain([(reply, lane)]);
        let sent = replies.try_for_each(|(reply, lane)| send(cx, id, &reply, lane));
        self.sent(cx, id, sent);
    }

    /// Takes hints back whose folders have changed; says whether any were.
    fn take_back(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(fd) = self.workers.watches().fd() else { return false };
        if !self.watching {
            let fd = &mut SourceFd(&fd.as_raw_fd());
            self.watching = cx.registry.register(fd, WATCHES, Interest::READABLE).is_ok();
        }
        let changed = self.workers.watches().drain();
        let any = !changed.is_empty();
        for (owner, forget) in changed {
            let of = self.streams.iter().find(|(_, stream)| match &stream.backend {
                Backend::Embedded { session, .. } => session.owner() == owner,
                Backend::Remote(..) => false,
            });
            if let Some(id) = of.map(|(id, _)| *id) {
                self.tell(cx, id, &forget);
            }
        }
        any
    }

    /// Sends what was not asked for.
    fn tell(&mut self, cx: &mut Context<'_>, id: StreamId, hint: &Packet) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(Header { tag, kind, .. }) = hint.header() else { return };
        let lane = class(Kind(kind), hint.len());
        if lane == Class::Bulk {
            stream.hinted = Some(tag);
        }
        stream.used.count_sent(hint.len());
        let sent = send(cx, id, hint, lane);
        self.sent(cx, id, sent);
    }

    /// Ends a stream on which something could not be sent. One that the client closed a moment ago needs
    /// none of it; anything else is a fault.
    fn sent(&mut self, cx: &mut Context<'_>, id: StreamId, sent: Result<(), SendError>) {
        match sent {
            Ok(()) | Err(SendError::NotOpen) => {}
            Err(error) => self.end(cx, id, Reason::new(Code::INTERNAL, error.to_string())),
        }
    }

    /// Moves what the server at a stream's socket takes and gives; says whether anything moved.
    fn exchange(&mut self, cx: &mut Context<'_>, id: StreamId) -> bool {
        match self.try_exchange(cx, id) {
            Ok(moved) => moved,
            Err(reason) => {
                self.end(cx, id, reason);
                true
            }
        }
    }

    fn try_exchange(&mut self, cx: &mut Context<'_>, id: StreamId) -> Result<bool, Reason> {
        let mut taken = 0;
        while taken < TURN && cx.mux.queued(id) < QUEUE {
            let Some(stream) = self.streams.get_mut(&id) else { return Ok(true) };
            let Backend::Remote(remote, _) = &mut stream.backend else { return Ok(false) };
            let count = remote.read(cx.buffers).map_err(|error| failed(&error))?;
            if count == 0 {
                break;
            }
            taken += count;
            while let Some(stream) = self.streams.get_mut(&id) {
                let Some(reply) = stream.poll()? else { break };
                self.reply(cx, id, reply);
            }
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(true) };
        let Backend::Remote(remote, _) = &mut stream.backend else { return Ok(false) };
        let written = remote.write().map_err(|error| failed(&error))?;
        Ok(written || taken > 0)
    }

    /// Ends a stream from this side, or after the client has.
    fn end(&mut self, cx: &mut Context<'_>, id: StreamId, reason: Reason) {
        let Some(stream) = self.streams.remove(&id) else { return };
        open_book(&self.book).end(id);
        match stream.backend {
            Backend::Embedded { session, .. } => session.close(),
            Backend::Remote(remote, at) => {
                self.sockets[at] = None;
                remote.close(cx.registry);
            }
        }
        if reason.code != Code::DONE {
            let (client, folder) = (&self.client, &stream.right.folder);
            log::say(format_args!("{client}: {id}, {folder}, ended: {reason}"));
        }
        cx.mux.close(id, reason);
    }

    /// Carries out the owner's order.
    fn obey(&mut self, cx: &mut Context<'_>, folder: Option<&FolderPath>) {
        let reason = Reason::new(Code::DISCONNECTED, "the owner of the folder ended it");
        if self.own.as_ref().is_some_and(|own| is_meant(&own.folder, folder)) {
            self.own = None;
        }
        if folder.is_none() {
            log::say(format_args!("{}: the channel ended by its owner's order", self.client));
            cx.mux.go_away(reason);
            self.ended = true;
            return;
        }
        let meant =
            self.streams.iter().filter(|(_, stream)| is_meant(&stream.right.folder, folder));
        let meant: Vec<StreamId> = meant.map(|(id, _)| *id).collect();
        meant.into_iter().for_each(|id| self.end(cx, id, reason.clone()));
    }
}

/// Gives a whole reply to the channel.
fn send(cx: &mut Context<'_>, id: StreamId, reply: &Packet, lane: Class) -> Result<(), SendError> {
    cx.mux.start(id, lane, u32::try_from(reply.len()).unwrap_or(u32::MAX))?;
    reply.pieces().try_for_each(|piece| cx.mux.extend(id, piece.clone()))
}

impl Role for Demux {
    fn handle_event(&mut self, cx: &mut Context<'_>, event: Event) {
        // Replies made on the spot are taken in the pass that follows.
        self.mailbox.mute();
        match event {
            Event::Open { stream, open } => self.open(cx, stream, open),
            Event::Message { stream, data } => {
                data.into_iter().for_each(|piece| self.take(cx, stream, piece, false));
                self.whole(cx, stream, false);
            }
            Event::Begin { stream, .. } => self.whole(cx, stream, true),
            Event::More { stream, data } => self.take(cx, stream, data, true),
            Event::Closed { stream, .. } => self.end(cx, stream, Reason::done()),
            // The server end hears no answers, and an end that is going closes the channel.
            Event::Opened { .. } | Event::Refused { .. } | Event::GoAway { .. } => {}
        }
    }

    fn handle_ready(&mut self, token: Token, ready: Ready) {
        let stream = token.0.checked_sub(FIRST).and_then(|at| *self.sockets.get(at)?);
        let stream = stream.and_then(|stream| self.streams.get_mut(&stream));
        if let Some(Backend::Remote(remote, _)) = stream.map(|stream| &mut stream.backend) {
            remote.handle_ready(ready);
        }
    }

    fn pass(&mut self, cx: &mut Context<'_>) -> bool {
        self.workers.turn();
        // Before any reply: what changed before its request came is not true any more.
        let mut moved = self.take_back(cx);
        while let Some(letter) = self.mailbox.take() {
            match letter {
                Letter::Reply(stream, reply) => self.reply(cx, stream, reply),
                Letter::End(folder) => self.obey(cx, folder.as_ref()),
            }
            moved = true;
        }
        let waiting = self.streams.iter().filter(|(_, stream)| stream.requests.waiting() > 0);
        let waiting: Vec<StreamId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            moved |= self.submit(cx, id);
        }
        for at in 0..self.sockets.len() {
            if let Some(id) = self.sockets[at] {
                moved |= self.exchange(cx, id);
            }
        }
        moved | self.mailbox.listen()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    fn is_done(&self) -> bool {
        self.ended
    }
}
