//! The server end's role: each stream's messages go to its file server, the replies come back.
//!
//! The file server answers from many threads and out of order; replies come in by the mailbox. What a
//! stream may hold is bounded on both ways: a request's credit goes back only when it has been
//! answered, and `waiting` holds back what its replies would have no room for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
use crate::grant::{Grant, SharedBook, Source, open_book};
use crate::stderr;
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
    /// Requests begun so far.
    begun: u64,
}

struct Running {
    /// Bytes that its reply may have.
    reserved: usize,
    /// Bytes of credit that it holds.
    credit: u32,
    /// It is for a lock that is waited for.
    parks: bool,
    /// Which it is of all that have begun: its tag may be another's by the time that it is looked for.
    serial: u64,
    /// The request that it flushes.
    flushes: Option<(Tag, u64)>,
    /// Whether all that began before it have no answer once it has.
    resets: bool,
}

impl Stream {
    fn new(export: Arc<Export>, session: Arc<Session>) -> Stream {
        Stream {
            export,
            session,
            small: Lane::new(),
            bulk: Lane::new(),
            waiting: Waiting::default(),
            running: HashMap::new(),
            reserved: 0,
            begun: 0,
        }
    }

    /// Hands a request to the file server; gives the credit that goes back at once. The error says why
    /// it is none.
    fn begin(&mut self, request: Packet) -> Result<u32, String> {
        let header = request.header().map_err(|error| error.to_string())?;
        let flushed = waiting::flushed(&request);
        let parks = waiting::may_park(&request);
        let credit = u32::try_from(request.len()).unwrap_or(u32::MAX);
        self.begun += 1;
        let running = Running {
            // What stays for long leaves all room to others, and is little.
            reserved: if parks { 0 } else { waiting::reply_size(&request) },
            credit: if parks { 0 } else { credit },
            parks,
            serial: self.begun,
            flushes: flushed.and_then(|tag| Some((tag, self.running.get(&tag)?.serial))),
            resets: Kind(header.kind) == Kind::Tversion,
        };
        self.reserved += running.reserved;
        if self.running.insert(header.tag, running).is_some() {
            return Err("a tag is used by two requests at a time".into());
        }
        self.waiting.count(parks, 1);
        self.session.submit(request).map_err(|error| error.to_string())?;
        Ok(if parks { credit } else { 0 })
    }

    /// A request has been answered: the credit that goes back.
    fn answered(&mut self, tag: Tag) -> u32 {
        let mut credit = 0;
        let mut next = self.running.get(&tag).map(|running| (tag, running.serial));
        while let Some((tag, serial)) = next {
            let Entry::Occupied(at) = self.running.entry(tag) else { break };
            if at.get().serial != serial {
                break;
            }
            let running = at.remove();
            self.waiting.count(running.parks, -1);
            self.reserved -= running.reserved;
            credit += running.credit;
            // What was flushed has no reply of its own any more.
            next = running.flushes;
            if running.resets {
                // A new session: nothing of the old one is answered any more.
                self.running.retain(|_, running| {
                    let old = running.serial < serial;
                    if old {
                        self.waiting.count(running.parks, -1);
                        self.reserved -= running.reserved;
                        credit += running.credit;
                    }
                    !old
                });
            }
        }
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
        let Source::Folder(root) = grant.source else {
            return Err(refused("no other server than the embedded one"));
        };
        Export::from_dir(root, grant.folder.as_path(), grant.read_only)
            .map_err(|error| Reason::new(Code::FOLDER, error.to_string()))
    }

    fn open(&mut self, cx: &mut Context<'_>, id: StreamId, open: transport::mux::Open) {
        let export = match self.authorize(open.authorisation) {
            Ok(export) => export,
            Err(reason) => {
                stderr::say(format_args!("{id} refused: {}", reason.text));
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
        self.streams.insert(id, Stream::new(export, session));
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
            match stream.begin(request) {
                Ok(credit) => cx.mux.consumed(id, credit),
                Err(why) => self.end(cx, id, Reason::new(Code::NOT_9P, why)),
            }
        }
        moved
    }

    /// Sends a reply.
    fn reply(&mut self, cx: &mut Context<'_>, id: StreamId, reply: Packet) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(Header { tag, kind, .. }) = reply.header() else { return };
        cx.mux.consumed(id, stream.answered(tag));
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
            stderr::say(format_args!("{id} ended: {reason}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use transport::id::Fid;
    use transport::ninep::Tmessage;
    use transport::ninep::message::VERSION;

    struct Nobody;

    impl Replies for Nobody {
        fn reply(&self, _: Packet) {}
    }

    fn stream() -> Stream {
        let folder = tempfile::tempdir().unwrap();
        let export = Export::open(&folder.path().canonicalize().unwrap(), false).unwrap();
        let workers = Workers::new(Limits::default());
        let session = Session::new(Arc::clone(&export), workers, Arc::new(Nobody), Msize::MAX);
        let mut stream = Stream::new(export, session);
        begin(&mut stream, &version(Msize::MAX.bytes()));
        stream.answered(Tag::NONE);
        stream
    }

    /// Begins a request; gives the credit that it holds.
    fn begin(stream: &mut Stream, request: &Packet) -> u32 {
        assert_eq!(stream.begin(request.clone()), Ok(0));
        request.len() as u32
    }

    /// Notes a request that the file server is not asked for.
    fn note(stream: &mut Stream, tag: u16) -> u32 {
        stream.begun += 1;
        let (serial, credit) = (stream.begun, u32::from(tag) * 100);
        let (flushes, parks, resets) = (None, false, false);
        let running = Running { reserved: 10, credit, parks, serial, flushes, resets };
        stream.running.insert(Tag(tag), running);
        stream.waiting.count(parks, 1);
        stream.reserved += 10;
        credit
    }

    fn version(msize: u32) -> Packet {
        Tmessage::Tversion { msize, version: VERSION }.encode(Tag::NONE)
    }

    fn read(tag: u16) -> Packet {
        Tmessage::Tread { fid: Fid(1), offset: 0, count: 1 << 20 }.encode(Tag(tag))
    }

    #[test]
    fn a_flush_gives_back_what_it_flushes_and_not_a_later_one_of_that_tag() {
        let mut stream = stream();
        let old = begin(&mut stream, &read(1));
        let flush = Tmessage::Tflush { oldtag: Tag(1) };
        let first = begin(&mut stream, &flush.encode(Tag(2)));
        assert_eq!(stream.answered(Tag(2)), first + old);
        let early = begin(&mut stream, &flush.encode(Tag(3)));
        let later = begin(&mut stream, &read(1));
        assert_eq!(stream.answered(Tag(3)), early);
        assert_eq!(stream.reserved, waiting::reply_size(&read(1)));
        assert_eq!(stream.answered(Tag(1)), later);
        assert_eq!((stream.reserved, stream.running.len()), (0, 0));
    }

    #[test]
    fn a_version_gives_back_what_came_before_it_and_nothing_else() {
        for msize in [Msize::MAX.bytes(), 1] {
            let mut stream = stream();
            let old = note(&mut stream, 1);
            let reset = begin(&mut stream, &version(msize));
            let new = note(&mut stream, 2);
            assert_eq!(stream.answered(Tag::NONE), reset + old);
            assert_eq!(stream.reserved, 10);
            assert_eq!(stream.answered(Tag(2)), new);
        }
    }
}
