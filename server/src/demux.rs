//! The server end's role: each stream's messages go to its file server, the replies come back.
//!
//! The file server answers from many threads and out of order; replies come in by the mailbox. What a
//! stream may hold is bounded on both ways: a request's credit goes back only when it has been
//! answered, and `waiting` holds back what its replies would have no room for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Registry, Token, Waker};
use transport::id::{Msize, StreamId, Tag};
use transport::mux::{Authorisation, Code, Event, Opened, Reason, SendError};
use transport::ninep::framer::Assembler;
use transport::ninep::packet::Header;
use transport::ninep::{Framer, Kind, Packet};
use transport::relay::class::class;
use transport::relay::mailbox::{Mailbox, Sender};
use transport::relay::pump::{BELL, Context, Role};
use transport::relay::ready::Ready;

use crate::fs::{Export, Limits, Replies, Session, Workers};
use crate::grant::{Grant, SharedBook, open_book};
use crate::waiting::{self, Waiting};

/// A reply and its stream.
type Letter = (StreamId, Packet);

/// The streams of a channel's server end.
pub struct Demux {
    mailbox: Mailbox<Letter>,
    workers: Arc<Workers>,
    /// What the channel's own call was granted, until a stream takes it.
    own: Option<Grant>,
    book: SharedBook,
    streams: HashMap<StreamId, Stream>,
}

struct Stream {
    export: Arc<Export>,
    session: Arc<Session>,
    small: Lane,
    bulk: Lane,
    /// Requests that wait for room.
    waiting: Waiting,
    /// Requests that are being answered.
    running: HashMap<Tag, Running>,
    /// The sum of `reserved` of those.
    reserved: usize,
}

struct Running {
    /// Bytes that its reply may have.
    reserved: usize,
    /// Bytes of credit that it holds.
    credit: u32,
    /// The request that it flushes.
    flushes: Option<Tag>,
}

impl Stream {
    /// Hands a request to the file server. The error says why it is none.
    fn begin(&mut self, request: Packet) -> Result<(), String> {
        let header = request.header().map_err(|error| error.to_string())?;
        let running = Running {
            reserved: waiting::reply_size(&request),
            credit: u32::try_from(request.len()).unwrap_or(u32::MAX),
            flushes: waiting::flushed(&request),
        };
        self.reserved += running.reserved;
        if self.running.insert(header.tag, running).is_some() {
            return Err("a tag is used by two requests at a time".into());
        }
        self.waiting.running = self.running.len();
        self.session.submit(request).map_err(|error| error.to_string())
    }

    /// A request has been answered: the credit that goes back.
    fn answered(&mut self, tag: Tag, kind: Kind) -> u32 {
        let mut credit = 0;
        let mut next = Some(tag);
        while let Some(running) = next.and_then(|tag| self.running.remove(&tag)) {
            self.reserved -= running.reserved;
            credit += running.credit;
            // What was flushed has no reply of its own any more.
            next = running.flushes;
        }
        if kind == Kind::Rversion {
            // A new session: nothing of the old one is answered any more.
            credit += self.running.drain().map(|(_, running)| running.credit).sum::<u32>();
            self.reserved = 0;
        }
        self.waiting.running = self.running.len();
        credit
    }
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
        self.mailbox.send((self.stream, reply));
    }
}

impl Demux {
    /// The role of a channel whose own call was granted `own`; later ones are in `book`.
    pub fn new(registry: &Registry, own: Grant, book: SharedBook) -> std::io::Result<Demux> {
        Ok(Demux {
            mailbox: Mailbox::new(Waker::new(registry, BELL)?),
            workers: Workers::new(Limits::default()),
            own: Some(own),
            book,
            streams: HashMap::new(),
        })
    }

    /// The folder that a stream is to serve.
    fn authorize(&mut self, authorisation: Authorisation) -> Result<Arc<Export>, Reason> {
        let refused = |why: &str| Reason::new(Code::NOT_PERMITTED, why);
        let grant = match authorisation {
            Authorisation::Sibling(stream) => {
                let sibling = self.streams.get(&stream);
                let sibling = sibling.ok_or_else(|| refused("no such stream to share with"))?;
                return Ok(Arc::clone(&sibling.export));
            }
            Authorisation::Own => {
                self.own.take().ok_or_else(|| refused("the call's own folder is taken"))?
            }
            Authorisation::Token(token) => open_book(&self.book)
                .redeem(&token, Instant::now())
                .ok_or_else(|| refused("no such permission"))?,
        };
        Export::from_dir(grant.root, grant.folder.as_path(), grant.read_only)
            .map_err(|error| Reason::new(Code::FOLDER, error.to_string()))
    }

    fn open(&mut self, cx: &mut Context<'_>, id: StreamId, open: transport::mux::Open) {
        let export = match self.authorize(open.authorisation) {
            Ok(export) => export,
            Err(reason) => {
                eprintln!("{id} refused: {}", reason.text);
                cx.mux.refuse(id, reason);
                return;
            }
        };
        let Some(msize) = Msize::new(open.msize.min(Msize::MAX.bytes())) else {
            cx.mux.refuse(id, Reason::new(Code::PROTOCOL, "an msize out of range"));
            return;
        };
        let outlet = Outlet { stream: id, mailbox: self.mailbox.sender() };
        let workers = Arc::clone(&self.workers);
        let session = Session::new(Arc::clone(&export), workers, Arc::new(outlet), msize);
        cx.mux.accept(id, Opened { msize: msize.bytes() });
        let stream = Stream {
            export,
            session,
            small: Lane::new(),
            bulk: Lane::new(),
            waiting: Waiting::default(),
            running: HashMap::new(),
            reserved: 0,
        };
        self.streams.insert(id, stream);
    }

    /// Takes a piece of a stream's messages.
    fn take(&mut self, cx: &mut Context<'_>, id: StreamId, piece: bytes::Bytes, bulk: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let lane = if bulk { &mut stream.bulk } else { &mut stream.small };
        lane.framer.push(piece);
        loop {
            match lane.framer.poll() {
                Ok(None) => break,
                Ok(Some(item)) => {
                    let Some(request) = lane.assembler.push(item) else { continue };
                    cx.mux.consumed(id, stream.waiting.push(request));
                }
                Err(error) => {
                    self.end(cx, id, Reason::new(Code::NOT_9P, error.to_string()));
                    return;
                }
            }
        }
        if stream.waiting.len() > waiting::MAX {
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
            let unsent = cx.mux.queued(id) + cx.mux.queued_messages(id) * waiting::SMALL_REPLY;
            let Some(request) = stream.waiting.next(unsent + stream.reserved, streams) else {
                break;
            };
            moved = true;
            if let Err(why) = stream.begin(request) {
                self.end(cx, id, Reason::new(Code::NOT_9P, why));
            }
        }
        moved
    }

    /// Sends a reply.
    fn reply(&mut self, cx: &mut Context<'_>, id: StreamId, reply: Packet) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(Header { tag, kind, .. }) = reply.header() else { return };
        cx.mux.consumed(id, stream.answered(tag, Kind(kind)));
        let size = reply.len();
        let lane = class(Kind(kind), size);
        let mut result = cx.mux.start(id, lane, u32::try_from(size).unwrap_or(u32::MAX));
        for piece in reply.pieces() {
            result = result.and_then(|()| cx.mux.extend(id, piece.clone()));
        }
        if let Err(error) = result {
            // A stream that the client closed a moment ago needs no reply; anything else is a fault.
            if error != SendError::NotOpen {
                self.end(cx, id, Reason::new(Code::INTERNAL, error.to_string()));
            }
        }
    }

    /// Ends a stream from this side, or after the client has.
    fn end(&mut self, cx: &mut Context<'_>, id: StreamId, reason: Reason) {
        let Some(stream) = self.streams.remove(&id) else { return };
        stream.session.close();
        if reason.code != Code::DONE {
            eprintln!("{id} ended: {reason}");
        }
        cx.mux.close(id, reason);
    }
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

    fn handle_ready(&mut self, _: Token, _: Ready) {}

    fn pass(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some((stream, reply)) = self.mailbox.take() {
            self.reply(cx, stream, reply);
            moved = true;
        }
        let waiting = self.streams.iter().filter(|(_, stream)| stream.waiting.len() > 0);
        let waiting: Vec<StreamId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            moved |= self.submit(cx, id);
        }
        moved | self.mailbox.listen()
    }

    fn poll_timeout(&self) -> Option<Duration> {
        None
    }

    fn is_done(&self) -> bool {
        false
    }
}
