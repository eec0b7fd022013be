//! The server end of a channel without the descriptors: a client end that the test plays, message by
//! message, and what it can make the server end hold or forget.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use policy::FolderPath;
use rustix::fs::{Mode, OFlags};
use server::demux::Demux;
use server::grant::{Grant, SharedBook, Source};
use transport::id::{Fid, Msize, StreamId, Tag};
use transport::mux::{Authorisation, Config, Connection, Event, Open, Side};
use transport::ninep::message::VERSION;
use transport::ninep::message::lock::{FLAG_BLOCK, RDLCK, UNLCK, WRLCK};
use transport::ninep::{Kind, Packet, Tmessage};
use transport::relay::buffer::Buffers;
use transport::relay::class::class;
use transport::relay::pump::{Context, Role};

/// How long a reply may take before a test fails: a bound on hangs, never part of a verdict.
const PATIENCE: Duration = Duration::from_secs(20);

const ROOT: Fid = Fid(0);
const FILE: Fid = Fid(1);

/// Both ends of a channel, and one stream of it.
struct Pair {
    client: Connection,
    server: Connection,
    demux: Demux,
    poll: Poll,
    buffers: Buffers,
    start: Instant,
    stream: StreamId,
    /// Whether the client end gives credit for what it takes in.
    giving: bool,
    /// Replies: what has come of a long one, and those that are whole, by tag.
    long: Vec<u8>,
    replies: HashMap<u16, Vec<u8>>,
    /// Why the stream was ended, if it was.
    ended: Option<String>,
}

impl Pair {
    fn of(folder: &Path) -> Pair {
        let folder = folder.canonicalize().unwrap();
        let root = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let grant = Grant {
            folder: FolderPath::parse(folder.as_os_str()).unwrap(),
            read_only: false,
            source: Source::Folder(root.unwrap()),
        };
        let poll = Poll::new().unwrap();
        let demux = Demux::new(poll.registry(), grant, SharedBook::default()).unwrap();
        let mut client = Connection::new(Side::Client, Config::default());
        let mut server = Connection::new(Side::Server, Config::default());
        client.establish(Duration::ZERO, &server.limits());
        server.establish(Duration::ZERO, &client.limits());
        let msize = Msize::MAX.bytes();
        let stream = client.open(Open { msize, flags: 0, authorisation: Authorisation::Own });
        let mut pair = Pair {
            stream: stream.unwrap(),
            client,
            server,
            demux,
            poll,
            buffers: Buffers::new(),
            start: Instant::now(),
            giving: true,
            long: Vec::new(),
            replies: HashMap::new(),
            ended: None,
        };
        pair.turn();
        pair.ask(Tag::NONE, Tmessage::Tversion { msize, version: VERSION });
        let attach =
            Tmessage::Tattach { fid: ROOT, afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 };
        pair.ask(Tag(0), attach);
        pair
    }

    /// A pair whose root is open as [`FILE`] at a file of that name.
    fn with_file(folder: &Path, name: &[u8]) -> Pair {
        let mut pair = Pair::of(folder);
        let names = transport::ninep::message::Names::new(&[name]).unwrap();
        pair.ask(Tag(0), Tmessage::Twalk { fid: ROOT, newfid: FILE, names });
        pair.ask(Tag(0), Tmessage::Tlopen { fid: FILE, flags: 2 });
        pair
    }

    /// Moves what can be moved now; says whether anything was.
    fn turn(&mut self) -> bool {
        let now = self.start.elapsed();
        let mut pieces = Vec::new();
        let mut moved = self.client.poll_transmit(now, usize::MAX, &mut pieces) > 0;
        for piece in pieces.drain(..) {
            self.server.handle_input(now, piece).unwrap();
        }
        let registry = self.poll.registry();
        let mut cx = Context { mux: &mut self.server, registry, now, buffers: &mut self.buffers };
        while let Some(event) = cx.mux.poll_event() {
            self.demux.handle_event(&mut cx, event);
        }
        moved |= self.demux.pass(&mut cx);
        moved |= self.server.poll_transmit(now, usize::MAX, &mut pieces) > 0;
        for piece in pieces {
            self.client.handle_input(now, piece).unwrap();
        }
        while let Some(event) = self.client.poll_event() {
            self.hear(event);
        }
        moved
    }

    fn hear(&mut self, event: Event) {
        let bytes = match event {
            Event::Message { data, .. } => {
                let whole: Vec<u8> = data.into_iter().flat_map(|piece| piece.to_vec()).collect();
                self.replies.insert(u16::from_le_bytes([whole[5], whole[6]]), whole.clone());
                whole.len()
            }
            Event::More { data, .. } => {
                self.long.extend_from_slice(&data);
                let size = u32::from_le_bytes(self.long[..4].try_into().unwrap()) as usize;
                if self.long.len() == size {
                    let whole = std::mem::take(&mut self.long);
                    self.replies.insert(u16::from_le_bytes([whole[5], whole[6]]), whole);
                }
                data.len()
            }
            Event::Closed { reason, .. } => {
                self.ended = Some(reason.to_string());
                0
            }
            _ => 0,
        };
        if self.giving {
            self.client.consumed(self.stream, bytes as u32);
        }
    }

    fn send(&mut self, packet: &Packet) {
        let size = packet.len();
        let lane = class(Kind(packet.head[4]), size);
        self.client.start(self.stream, lane, size as u32).unwrap();
        for piece in packet.pieces() {
            self.client.extend(self.stream, piece.clone()).unwrap();
        }
    }

    /// Takes turns until there is a reply for each of `tags`.
    fn wait(&mut self, tags: impl IntoIterator<Item = u16>) {
        let until = Instant::now() + PATIENCE;
        let mut tags: VecDeque<u16> = tags.into_iter().collect();
        while let Some(&tag) = tags.front() {
            if self.replies.remove(&tag).is_some() {
                tags.pop_front();
                continue;
            }
            assert!(Instant::now() < until, "no reply for tag {tag}; ended: {:?}", self.ended);
            self.rest();
        }
    }

    /// Takes a turn, and sleeps where there was nothing to do.
    fn rest(&mut self) {
        if !self.turn() {
            let mut events = Events::with_capacity(8);
            self.poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
        }
    }

    fn ask(&mut self, tag: Tag, message: Tmessage<'_>) {
        self.send(&message.encode(tag));
        self.wait([tag.0]);
    }
}

#[test]
fn a_client_that_takes_no_replies_can_only_ask_for_so_much() {
    let dir = tempfile::tempdir().unwrap();
    for message in [
        Tmessage::Tgetattr { fid: ROOT, mask: 0 },
        Tmessage::Tclunk { fid: Fid(9) },
        Tmessage::Tflush { oldtag: Tag(50_000) },
    ] {
        let mut pair = Pair::of(dir.path());
        pair.giving = false;
        // All but a few have been answered before the next are sent.
        for tag in 0..60_000u16 {
            // Ended for asking on and on, or without credit to ask with: both are a bound.
            if pair.ended.is_some() {
                break;
            }
            pair.send(&message.encode(Tag(tag)));
            if tag % 100 == 99 {
                for _ in 0..4 {
                    pair.turn();
                }
            }
        }
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            pair.rest();
        }
        let sent = pair.server.stats().messages_in;
        assert!(sent < 30_000, "{message:?}: {sent} were taken in");
    }
}

#[test]
fn what_was_held_back_goes_on_as_soon_as_replies_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::of(dir.path());
    pair.giving = false;
    for tag in 0..8000 {
        pair.send(&Tmessage::Tgetattr { fid: ROOT, mask: 0 }.encode(Tag(tag)));
        pair.turn();
    }
    assert!(pair.replies.len() < 8000);
    pair.giving = true;
    pair.client.consumed(pair.stream, u32::MAX);
    pair.wait(0..8000);
}

#[test]
fn a_lock_can_be_let_go_however_many_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("f")).unwrap();
    let mut pair = Pair::with_file(dir.path(), b"f");
    let lock = |kind, flags, proc_id| Tmessage::Tlock {
        fid: FILE,
        kind,
        flags,
        start: 0,
        length: 0,
        proc_id,
        client_id: b"client",
    };
    pair.ask(Tag(0), lock(WRLCK, 0, 0));
    for waiter in 1..=600 {
        pair.send(&lock(RDLCK, FLAG_BLOCK, waiter).encode(Tag(waiter as u16)));
    }
    // Nor does a large write wait for them.
    let count = Msize::MAX.payload();
    let body = vec![vec![7; count as usize].into()];
    pair.send(&Tmessage::Twrite { fid: FILE, offset: 0, count }.with_body(Tag(1000), body));
    pair.wait([1000]);
    pair.ask(Tag(0), lock(UNLCK, 0, 0));
    pair.wait(1..=600);
}

#[test]
fn requests_that_had_to_wait_for_room_are_answered_although_no_other_comes() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("f")).unwrap().set_len(1 << 30).unwrap();
    let mut pair = Pair::with_file(dir.path(), b"f");
    let count = Msize::MAX.payload();
    for tag in 1..=12 {
        pair.send(&Tmessage::Tread { fid: FILE, offset: 0, count }.encode(Tag(tag)));
    }
    pair.wait(1..=12);
    // Also more than are begun at a time.
    for tag in 1..=1000 {
        pair.send(&Tmessage::Tgetattr { fid: ROOT, mask: 0 }.encode(Tag(tag)));
        pair.send(&Tmessage::Tread { fid: FILE, offset: 0, count: 10 }.encode(Tag(tag + 1000)));
    }
    pair.wait(1..=2000);
}
