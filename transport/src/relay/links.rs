//! The client end's role: streams are opened on request and joined to 9P sockets.
//!
//! Whoever wants a stream writes to the mailbox; what becomes of it comes back as a [`Notice`], in a
//! call on the data plane's thread that must not block.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use mio::{Poll, Registry, Token as Readiness, Waker};

use super::buffer::Buffers;
use super::channel::{Channel, ChannelEnd, Greeting};
use super::link::{Link, LinkEnd, Told};
use super::mailbox::{Mailbox, Sender};
use super::pump::{self, BELL, Context, FIRST, Role};
use super::ready::Ready;
use crate::id::{Msize, StreamId};
use crate::mux::preface::{Capabilities, ClientHello, Role as CallRole, ServerHello};
use crate::mux::{Authorisation, Code, Config, Connection, Event, Open, Reason, Side};
use crate::stats::StreamStats;

/// How long the client of a stream that has lost its far end is told so before its socket closes, at
/// the most: a closed socket would overtake replies that the kernel has not read.
const FAREWELL: Duration = Duration::from_millis(800);
/// How long such a client asks nothing more before its socket closes.
const QUIET: Duration = Duration::from_millis(60);
/// How often is looked what such a client asks meanwhile.
const STEP: Duration = Duration::from_millis(10);

/// A stream's name between the data plane and its owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u64);

/// By what right a stream is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// The folder that the channel's own call named.
    Own,
    /// A later call's token.
    Token([u8; 16]),
    /// The same folder as another stream that is open now.
    Sibling(LinkId),
}

/// What the owner wants.
#[derive(Debug)]
pub enum Command {
    /// A stream.
    Open {
        /// What notices will call it.
        id: LinkId,
        /// By what right.
        right: Right,
        /// The largest msize wanted.
        limit: Msize,
        /// The 9P socket to join; none for a stream that only keeps its right.
        fd: Option<OwnedFd>,
        /// Where it is counted.
        stats: Arc<StreamStats>,
    },
    /// An end of a stream.
    Close(LinkId),
    /// An end of the channel, once all streams have had theirs.
    Finish,
}

/// What has become of it.
#[derive(Debug)]
pub enum Notice {
    /// The far end has said its first byte.
    FirstByte,
    /// The far end has introduced itself.
    Hello(ServerHello),
    /// A stream is open; its msize is at most this.
    Opened(LinkId, Msize),
    /// A stream was refused; the far end chose the words.
    Refused(LinkId, Reason),
    /// A stream has ended here.
    Ended(LinkId, LinkEnd),
    /// A stream was ended by the far end, which chose the words.
    Closed(LinkId, Reason),
}

/// Where notices go; called on the data plane's thread.
pub type Notify = Box<dyn FnMut(Notice) + Send>;

/// A channel's client end, ready to run on a thread of its own.
pub struct Plane {
    poll: Poll,
    channel: Channel,
    links: Links,
}

/// The streams of a channel's client end.
pub struct Links {
    mailbox: Mailbox<Command>,
    notify: Notify,
    streams: HashMap<StreamId, Stream>,
    ids: HashMap<LinkId, StreamId>,
    /// Whose socket has which readiness token, counted from [`FIRST`].
    ready: Vec<Option<StreamId>>,
    /// Links that have lost their far end.
    failed: Vec<Failed>,
    /// When those are looked at again.
    look: Duration,
    finishing: bool,
}

/// A stream that is open, or about to be.
struct Stream {
    id: LinkId,
    limit: Msize,
    stats: Arc<StreamStats>,
    /// The 9P socket, until the stream is open.
    fd: Option<OwnedFd>,
    link: Option<(Link, usize)>,
}

/// A link that has lost its far end and tells its client so.
struct Failed {
    link: Link,
    /// When its socket closes at the latest.
    until: Duration,
    /// When it closes if nothing more is asked.
    quiet: Duration,
}

impl Links {
    /// Prepares the client end of a channel over two descriptors; `notify` will hear of everything.
    pub fn prepare(input: OwnedFd, output: OwnedFd, notify: Notify) -> std::io::Result<Plane> {
        let poll = Poll::new()?;
        let config = Config::default();
        let hello = ClientHello {
            capabilities: Capabilities::OURS,
            limits: config.limits(),
            role: CallRole::Channel,
        };
        let mux = Connection::new(Side::Client, config);
        let channel = Channel::client(input, output, hello, mux, poll.registry())?;
        let links = Links {
            mailbox: Mailbox::new(Waker::new(poll.registry(), BELL)?),
            notify,
            streams: HashMap::new(),
            ids: HashMap::new(),
            ready: Vec::new(),
            failed: Vec::new(),
            look: Duration::ZERO,
            finishing: false,
        };
        Ok(Plane { poll, channel, links })
    }

    fn notify(&mut self, notice: Notice) {
        (self.notify)(notice);
    }

    fn command(&mut self, cx: &mut Context<'_>, command: Command) {
        match command {
            Command::Open { id, right, limit, fd, stats } => {
                let authorisation = match right {
                    Right::Own => Some(Authorisation::Own),
                    Right::Token(token) => Some(Authorisation::Token(token)),
                    Right::Sibling(other) => {
                        self.ids.get(&other).map(|stream| Authorisation::Sibling(*stream))
                    }
                };
                let opened = authorisation.map(|authorisation| {
                    cx.mux.open(Open { authorisation, msize: limit.bytes(), flags: 0 })
                });
                match opened {
                    Some(Ok(stream)) => {
                        self.ids.insert(id, stream);
                        self.streams.insert(stream, Stream { id, limit, stats, fd, link: None });
                    }
                    Some(Err(error)) => {
                        let reason = Reason::new(Code::GOING_AWAY, error.to_string());
                        self.notify(Notice::Refused(id, reason));
                    }
                    None => {
                        let reason = Reason::new(Code::DONE, "the other stream has ended");
                        self.notify(Notice::Refused(id, reason));
                    }
                }
            }
            Command::Close(id) => {
                if let Some(stream) = self.ids.get(&id).copied() {
                    cx.mux.close(stream, Reason::done());
                    self.forget(cx, stream);
                }
            }
            Command::Finish => self.finishing = true,
        }
    }

    /// A stream was granted: its socket is joined to it.
    fn opened(&mut self, cx: &mut Context<'_>, id: StreamId, msize: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        let name = stream.id;
        match self.join(cx, id, msize) {
            Ok(limit) => self.notify(Notice::Opened(name, limit)),
            Err(reason) => {
                let notice = Notice::Refused(name, reason.clone());
                self.end(cx, id, reason, notice);
            }
        }
    }

    fn join(&mut self, cx: &mut Context<'_>, id: StreamId, msize: u32) -> Result<Msize, Reason> {
        let gone = || Reason::new(Code::INTERNAL, "no such stream");
        let stream = self.streams.get_mut(&id).ok_or_else(gone)?;
        let limit = Msize::new(msize.min(stream.limit.bytes()))
            .ok_or_else(|| Reason::new(Code::PROTOCOL, "an msize out of range"))?;
        if let Some(fd) = stream.fd.take() {
            let at = self.ready.iter().position(Option::is_none).unwrap_or(self.ready.len());
            let stats = Arc::clone(&stream.stats);
            let link = Link::new(id, fd, limit, stats, cx.registry, Readiness(FIRST + at));
            let link = link.map_err(|error| Reason::new(Code::RESOURCES, error.to_string()))?;
            stream.link = Some((link, at));
            if at == self.ready.len() {
                self.ready.push(None);
            }
            self.ready[at] = Some(id);
        }
        Ok(limit)
    }

    /// Does something with a link; one that fails ends its stream.
    fn with(
        &mut self,
        cx: &mut Context<'_>,
        id: StreamId,
        work: impl FnOnce(&mut Link, &mut Context<'_>) -> Result<bool, LinkEnd>,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let link_id = stream.id;
        let Some((link, _)) = &mut stream.link else { return false };
        match work(link, cx) {
            Ok(moved) => moved,
            Err(end) => {
                let reason = match &end {
                    LinkEnd::Unmounted => Reason::done(),
                    other => Reason::new(Code::NOT_9P, other.to_string()),
                };
                if end.is_the_far_ends() {
                    cx.mux.close(id, reason);
                    self.fail(cx.now, id);
                    self.notify(Notice::Ended(link_id, end));
                } else {
                    self.end(cx, id, reason, Notice::Ended(link_id, end));
                }
                true
            }
        }
    }

    fn end(&mut self, cx: &mut Context<'_>, id: StreamId, reason: Reason, notice: Notice) {
        cx.mux.close(id, reason);
        self.forget(cx, id);
        self.notify(notice);
    }

    fn forget(&mut self, cx: &mut Context<'_>, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.ids.remove(&stream.id);
        if let Some((link, at)) = stream.link {
            self.ready[at] = None;
            link.close(cx.registry);
        }
    }

    /// Ends a stream whose far end is gone: its 9P client is told so before its socket closes.
    fn fail(&mut self, now: Duration, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.ids.remove(&stream.id);
        if let Some((mut link, at)) = stream.link {
            self.ready[at] = None;
            link.fail();
            self.failed.push(Failed { link, until: now + FAREWELL, quiet: now + QUIET });
        }
    }

    /// Tells the clients of streams that have lost their far end; closes those that know.
    fn pass_failed(&mut self, registry: &Registry, now: Duration, buffers: &mut Buffers) {
        self.look = now + STEP;
        let links = std::mem::take(&mut self.failed);
        for mut failed in links {
            match failed.link.pass_failed(buffers) {
                Told::NotAll => failed.quiet = now + QUIET,
                Told::All => {}
                Told::Gone => failed.until = now,
            }
            if now < failed.until && now < failed.quiet {
                self.failed.push(failed);
            } else {
                failed.link.close(registry);
            }
        }
    }
}

impl Plane {
    /// Where commands are sent to, from any thread.
    pub fn commands(&self) -> Sender<Command> {
        self.links.mailbox.sender()
    }

    /// Moves bytes until the channel ends, and says why it did. Whatever waits at a 9P socket has failed
    /// with EIO then, and all of them are closed.
    pub fn run(mut self) -> ChannelEnd {
        let end = pump::run(&mut self.poll, self.channel, &mut self.links);
        let streams: Vec<StreamId> = self.links.streams.keys().copied().collect();
        let mut now = Duration::ZERO;
        streams.into_iter().for_each(|stream| self.links.fail(now, stream));
        let mut buffers = Buffers::new();
        while !self.links.failed.is_empty() {
            self.links.pass_failed(self.poll.registry(), now, &mut buffers);
            std::thread::sleep(STEP);
            now += STEP;
        }
        end
    }
}

impl Role for Links {
    fn handle_greeting(&mut self, greeting: Greeting) {
        self.notify(match greeting {
            Greeting::FirstByte => Notice::FirstByte,
            Greeting::Hello(hello) => Notice::Hello(hello),
        });
    }

    fn handle_event(&mut self, cx: &mut Context<'_>, event: Event) {
        match event {
            Event::Opened { stream, opened } => self.opened(cx, stream, opened.msize),
            Event::Message { stream, data } => {
                self.with(cx, stream, |link, cx| link.handle_message(cx, data).map(|()| true));
            }
            Event::Begin { stream, .. } => {
                self.with(cx, stream, |link, _| link.handle_begin().map(|()| true));
            }
            Event::More { stream, data } => {
                self.with(cx, stream, |link, cx| link.handle_bulk(cx, data).map(|()| true));
            }
            Event::Refused { stream, reason } => {
                if let Some(id) = self.streams.get(&stream).map(|stream| stream.id) {
                    self.forget(cx, stream);
                    self.notify(Notice::Refused(id, reason));
                }
            }
            Event::Closed { stream, reason, .. } => {
                if let Some(id) = self.streams.get(&stream).map(|stream| stream.id) {
                    cx.mux.close(stream, Reason::done());
                    self.fail(cx.now, stream);
                    self.notify(Notice::Closed(id, reason));
                }
            }
            // The client end is not asked for streams; an end that is going closes the channel.
            Event::Open { .. } | Event::GoAway { .. } => {}
        }
    }

    fn handle_ready(&mut self, token: Readiness, ready: Ready) {
        let stream = token.0.checked_sub(FIRST).and_then(|at| *self.ready.get(at)?);
        let stream = stream.and_then(|stream| self.streams.get_mut(&stream));
        if let Some((link, _)) = stream.and_then(|stream| stream.link.as_mut()) {
            link.handle_ready(ready);
        }
    }

    fn pass(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        self.mailbox.mute();
        while let Some(command) = self.mailbox.take() {
            self.command(cx, command);
            moved = true;
        }
        for at in 0..self.ready.len() {
            if let Some(stream) = self.ready[at] {
                moved |= self.with(cx, stream, Link::pass);
            }
        }
        self.pass_failed(cx.registry, cx.now, cx.buffers);
        moved | self.mailbox.listen()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let links = self.streams.values().filter_map(|stream| stream.link.as_ref());
        let due = links.filter_map(|(link, _)| link.poll_timeout()).min();
        let look = (!self.failed.is_empty()).then_some(self.look);
        due.into_iter().chain(look).min()
    }

    fn is_done(&self) -> bool {
        self.finishing
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("streams", &self.ids).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane").field("links", &self.links).finish_non_exhaustive()
    }
}
