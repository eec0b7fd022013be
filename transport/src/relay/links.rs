//! The client end's role: streams are opened on request and joined to 9P sockets.
//!
//! Whoever wants a stream writes to the mailbox; what becomes of it comes back as a [`Notice`], in a
//! call on the data plane's thread that must not block.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll, Registry, Token as Readiness, Waker};
use rustix::io::Errno;

use super::buffer::Buffers;
use super::channel::{Channel, ChannelEnd, Greeting};
use super::link::{Link, LinkEnd};
use super::mailbox::{Mailbox, Sender};
use super::meter::{Measured, Meter};
use super::pump::{self, BELL, Context, EVENTS, FIRST, Role};
use super::ready::Ready;
use super::spin::Spin;
use crate::accel::{Accel, Shared};
use crate::id::{Msize, StreamId};
use crate::mux::preface::{Capabilities, ClientHello, Role as CallRole, ServerHello};
use crate::mux::{Authorisation, Code, Config, Connection, Event, Open, Reason, Side};
use crate::session::Session;
use crate::stats::StreamStats;

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

/// How a stream is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The largest msize wanted.
    pub limit: Msize,
    /// How old what is answered without the far end may be; zero: nothing is.
    pub coherence: Duration,
    /// Whether the 9P client is one that is [told](Session::telling) what it may believe for long.
    pub tells: bool,
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
        /// How it is to be.
        terms: Terms,
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
    /// A stream has ended: its 9P client has closed, or is to blame.
    Ended(LinkId, LinkEnd),
    /// A stream was ended by the far end, which chose the words, or because of it. Its 9P client gets EIO
    /// until it closes; one without has ended as well.
    Closed(LinkId, Reason),
    /// The channel has ended. The 9P clients get EIO until they close; streams without one have ended.
    Lost(ChannelEnd),
}

/// Where notices go; called on the data plane's thread.
pub type Notify = Box<dyn FnMut(Notice) + Send>;

/// A channel's client end, ready to run on a thread of its own.
pub struct Plane {
    poll: Poll,
    channel: Channel,
    links: Links,
    spin: Spin,
}

/// The streams of a channel's client end.
pub struct Links {
    mailbox: Mailbox<Command>,
    notify: Notify,
    streams: HashMap<StreamId, Stream>,
    ids: HashMap<LinkId, StreamId>,
    /// Whose socket has which readiness token, counted from [`FIRST`].
    ready: Vec<Option<StreamId>>,
    finishing: bool,
    /// What all streams may remember.
    shared: Shared,
    meter: Meter,
}

/// A stream that is open, or about to be.
struct Stream {
    id: LinkId,
    terms: Terms,
    stats: Arc<StreamStats>,
    /// The 9P socket, until the stream is open.
    fd: Option<OwnedFd>,
    link: Option<(Link, usize)>,
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
        Links::plane(poll, channel, notify)
    }

    /// The same where the prefaces have been said: by a call for a permission that the far end has made
    /// the channel instead. `hello` is the far end's, `rest` what came behind it.
    pub fn resume(
        input: OwnedFd,
        output: OwnedFd,
        hello: &ServerHello,
        rest: Bytes,
        notify: Notify,
    ) -> Result<Plane, ChannelEnd> {
        let io = |error: std::io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            ChannelEnd::Io { action: "waited for", errno }
        };
        let poll = Poll::new().map_err(io)?;
        let mut mux = Connection::new(Side::Client, Config::default());
        mux.establish(Duration::ZERO, &hello.limits);
        mux.handle_input(Duration::ZERO, rest).map_err(ChannelEnd::Broken)?;
        let channel = Channel::established(input, output, mux, poll.registry()).map_err(io)?;
        Links::plane(poll, channel, notify).map_err(io)
    }

    fn plane(poll: Poll, channel: Channel, notify: Notify) -> std::io::Result<Plane> {
        let links = Links {
            mailbox: Mailbox::new(Waker::new(poll.registry(), BELL)?),
            notify,
            streams: HashMap::new(),
            ids: HashMap::new(),
            ready: Vec::new(),
            finishing: false,
            shared: Shared::default(),
            meter: Meter::default(),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Plane { poll, channel, links, spin: Spin::new(cores > 1) })
    }

    fn notify(&mut self, notice: Notice) {
        (self.notify)(notice);
    }

    fn command(&mut self, cx: &mut Context<'_>, command: Command) {
        match command {
            Command::Open { id, right, terms, fd, stats } => {
                let authorisation = match right {
                    Right::Own => Some(Authorisation::Own),
                    Right::Token(token) => Some(Authorisation::Token(token)),
                    Right::Sibling(other) => {
                        self.ids.get(&other).map(|stream| Authorisation::Sibling(*stream))
                    }
                };
                let opened = authorisation.map(|authorisation| {
                    let flags = if terms.coherence.is_zero() { 0 } else { Open::HINTS };
                    cx.mux.open(Open { authorisation, msize: terms.limit.bytes(), flags })
                });
                match opened {
                    Some(Ok(stream)) => {
                        self.ids.insert(id, stream);
                        self.streams.insert(stream, Stream { id, terms, stats, fd, link: None });
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
                    self.forget(cx.registry, stream);
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
        let limit = Msize::new(msize.min(stream.terms.limit.bytes()))
            .ok_or_else(|| Reason::new(Code::PROTOCOL, "an msize out of range"))?;
        if let Some(fd) = stream.fd.take() {
            let at = self.ready.iter().position(Option::is_none).unwrap_or(self.ready.len());
            let stats = Arc::clone(&stream.stats);
            let mut session = Session::new(limit);
            if !stream.terms.coherence.is_zero() {
                session = session.with_accel(Accel::new(stream.terms.coherence, &self.shared));
                if stream.terms.tells {
                    session = session.telling();
                }
            }
            let link = Link::new(id, fd, session, stats, cx.registry, Readiness(FIRST + at));
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
        if link.has_failed() {
            return self.pass_failed(cx.registry, id, cx.buffers);
        }
        match work(link, cx) {
            Ok(moved) => moved,
            Err(end) => {
                let reason = match &end {
                    LinkEnd::Unmounted => Reason::done(),
                    other => Reason::new(Code::NOT_9P, other.to_string()),
                };
                if end.is_the_far_ends() {
                    cx.mux.close(id, reason.clone());
                    self.fail(id);
                    self.notify(Notice::Closed(link_id, reason));
                } else {
                    self.end(cx, id, reason, Notice::Ended(link_id, end));
                }
                true
            }
        }
    }

    fn end(&mut self, cx: &mut Context<'_>, id: StreamId, reason: Reason, notice: Notice) {
        cx.mux.close(id, reason);
        self.forget(cx.registry, id);
        self.notify(notice);
    }

    fn forget(&mut self, registry: &Registry, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.ids.remove(&stream.id);
        if let Some((link, at)) = stream.link {
            self.ready[at] = None;
            link.close(registry);
        }
    }

    /// A stream has lost its far end: its 9P client gets EIO for everything until it closes. Says
    /// whether there is such a client.
    fn fail(&mut self, id: StreamId) -> bool {
        match self.streams.get_mut(&id).and_then(|stream| stream.link.as_mut()) {
            Some((link, _)) => {
                link.fail();
                true
            }
            None => false,
        }
    }

    /// Goes on without a channel: answers the 9P clients that have lost theirs, until the last closes.
    fn outlive(&mut self, poll: &mut Poll, end: ChannelEnd) {
        let given_up = matches!(end, ChannelEnd::Done);
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in streams {
            if given_up || !self.fail(id) {
                let name = self.streams.get(&id).map(|stream| stream.id);
                self.forget(poll.registry(), id);
                name.into_iter().for_each(|id| self.notify(Notice::Ended(id, LinkEnd::FarEnd)));
            }
        }
        self.notify(Notice::Lost(end));
        let mut buffers = Buffers::new();
        let mut events = Events::with_capacity(EVENTS);
        while !self.streams.is_empty() {
            self.mailbox.mute();
            while let Some(command) = self.mailbox.take() {
                match command {
                    Command::Close(id) => {
                        if let Some(stream) = self.ids.get(&id).copied() {
                            self.forget(poll.registry(), stream);
                        }
                    }
                    // Whoever asks has not heard yet that there is no channel; the letter's end tells.
                    Command::Open { .. } => {}
                    Command::Finish => {
                        let all: Vec<StreamId> = self.streams.keys().copied().collect();
                        all.into_iter().for_each(|id| self.forget(poll.registry(), id));
                    }
                }
            }
            let mut moved = self.mailbox.listen();
            for at in 0..self.ready.len() {
                if let Some(id) = self.ready[at] {
                    moved |= self.pass_failed(poll.registry(), id, &mut buffers);
                }
            }
            let sleep = moved.then_some(Duration::ZERO);
            if self.streams.is_empty() || poll.poll(&mut events, sleep).is_err() {
                continue;
            }
            for event in &events {
                self.handle_ready(event.token(), Ready::of(event));
            }
        }
    }

    /// Answers the client of a stream that has lost its far end; says whether anything moved.
    fn pass_failed(&mut self, registry: &Registry, id: StreamId, buffers: &mut Buffers) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let name = stream.id;
        let Some((link, _)) = &mut stream.link else { return false };
        match link.pass_failed(buffers) {
            Ok(moved) => moved,
            Err(end) => {
                self.forget(registry, id);
                self.notify(Notice::Ended(name, end));
                true
            }
        }
    }
}

impl Plane {
    /// Where commands are sent to, from any thread.
    pub fn commands(&self) -> Sender<Command> {
        self.links.mailbox.sender()
    }

    /// What is measured of the channel.
    pub fn measured(&self) -> Arc<Measured> {
        self.links.meter.measured()
    }

    /// Sleeps at once where there is nothing to do, and never looks for work before.
    pub fn without_polling(self) -> Plane {
        Plane { spin: Spin::new(false), ..self }
    }

    /// Moves bytes until the channel ends, which a notice tells, and then answers EIO to whoever is left
    /// at a 9P socket, until the last has closed it.
    pub fn run(mut self) {
        let end = pump::run_spinning(&mut self.poll, self.channel, &mut self.links, self.spin);
        self.links.outlive(&mut self.poll, end);
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
                if self.meter.count(cx.now, data.len()) {
                    self.meter.round_trip(cx.mux.rtt());
                }
                self.with(cx, stream, |link, cx| link.handle_bulk(cx, data).map(|()| true));
            }
            Event::Refused { stream, reason } => {
                if let Some(id) = self.streams.get(&stream).map(|stream| stream.id) {
                    self.forget(cx.registry, stream);
                    self.notify(Notice::Refused(id, reason));
                }
            }
            Event::Closed { stream, reason, .. } => {
                if let Some(id) = self.streams.get(&stream).map(|stream| stream.id) {
                    cx.mux.close(stream, Reason::done());
                    let stays = self.fail(stream);
                    self.notify(Notice::Closed(id, reason));
                    if !stays {
                        self.forget(cx.registry, stream);
                        self.notify(Notice::Ended(id, LinkEnd::FarEnd));
                    }
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
        moved | self.mailbox.listen()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let links = self.streams.values().filter_map(|stream| stream.link.as_ref());
        links.filter_map(|(link, _)| link.poll_timeout()).min()
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
