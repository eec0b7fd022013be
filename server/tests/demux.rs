//! The server end of a channel without the descriptors: a client end that the test plays, message by
//! message, and what it can make the server end hold or forget.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Events, Poll};
use policy::FolderPath;
use rustix::fs::{Mode, OFlags};
use server::demux::Demux;
use server::grant::{Grant, SharedBook, Source};
use transport::id::{Fid, Msize, StreamId, Tag};
use transport::mux::{Authorisation, Config, Connection, Event, Open, Side};
use transport::ninep::framer::Assembler;
use transport::ninep::message::VERSION;
use transport::ninep::message::lock::{FLAG_BLOCK, RDLCK, UNLCK, WRLCK};
use transport::ninep::{Framer, Kind, Packet, Qid, QidKind, Rmessage, Tmessage};
use transport::relay::buffer::Buffers;
use transport::relay::class::class;
use transport::relay::pump::{Context, Role};
use transport::relay::ready::Ready;

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
        let mut pair = Pair::served(&folder, Source::Folder(root.unwrap()));
        pair.begin();
        pair
    }

    /// A pair whose stream has said nothing yet.
    fn served(folder: &Path, source: Source) -> Pair {
        let folder = FolderPath::parse(folder.as_os_str()).unwrap();
        let grant = Grant { folder, read_only: false, max_msize: Msize::MAX, source };
        let poll = Poll::new().unwrap();
        let client = "work".parse().unwrap();
        let demux = Demux::new(poll.registry(), &client, grant, SharedBook::default()).unwrap();
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
        pair
    }

    fn begin(&mut self) {
        let msize = Msize::MAX.bytes();
        self.ask(Tag::NONE, Tmessage::Tversion { msize, version: VERSION });
        let attach =
            Tmessage::Tattach { fid: ROOT, afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 };
        self.ask(Tag(0), attach);
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
            Event::Closed { reason, .. } | Event::Refused { reason, .. } => {
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
            for event in &events {
                self.demux.handle_ready(event.token(), Ready::of(event));
            }
        }
    }

    /// Takes turns until the stream has ended; gives the reason.
    fn wait_for_end(&mut self) -> String {
        let until = Instant::now() + PATIENCE;
        while self.ended.is_none() {
            assert!(Instant::now() < until, "the stream goes on");
            self.rest();
        }
        self.ended.clone().unwrap()
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

/// A server that answers a message with these bytes, if with any; it ends with its socket.
fn server(answer: impl Fn(Tag, Tmessage<'_>) -> Option<Vec<u8>> + Send + 'static) -> OwnedFd {
    let (ours, mut its) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut framer = Framer::new(u32::MAX);
        let mut assembler = Assembler::default();
        let mut buffer = vec![0; 70_000];
        while let Ok(count @ 1..) = its.read(&mut buffer) {
            framer.push(Bytes::copy_from_slice(&buffer[..count]));
            while let Some(item) = framer.poll().unwrap() {
                let Some(request) = assembler.push(item) else { continue };
                let (tag, message) = Tmessage::decode(&request).unwrap();
                let Some(reply) = answer(tag, message) else { return };
                if its.write_all(&reply).is_err() {
                    return;
                }
            }
        }
    });
    ours.into()
}

/// What every server answers.
fn good(tag: Tag, message: &Tmessage<'_>) -> Option<Vec<u8>> {
    let qid = Qid { kind: QidKind::DIR, version: 0, path: 1 };
    let reply = match *message {
        Tmessage::Tversion { msize, version } => Rmessage::Rversion { msize, version },
        Tmessage::Tattach { .. } => Rmessage::Rattach { qid },
        Tmessage::Tflush { .. } => Rmessage::Rflush,
        Tmessage::Tstatfs { .. } => return None,
        Tmessage::Tread { count, .. } => {
            let body = vec![7; count as usize].into();
            return Some(Rmessage::Rread { count }.with_body(tag, vec![body]).to_vec());
        }
        _ => Rmessage::Rclunk,
    };
    Some(reply.encode(tag).to_vec())
}

#[test]
fn a_server_that_breaks_a_rule_ends_its_stream_and_nothing_else() {
    type Bad = fn(Tag) -> Vec<u8>;
    let bad: [(&str, Bad); 9] = [
        ("was never made", |tag| Rmessage::Rclunk.encode(Tag(tag.0 + 1)).to_vec()),
        ("was never made", |tag| {
            [Rmessage::Rclunk.encode(tag).to_vec(), Rmessage::Rclunk.encode(tag).to_vec()].concat()
        }),
        ("with type 77", |tag| Rmessage::Runlinkat.encode(tag).to_vec()),
        ("is no errno", |tag| Rmessage::error(tag, 0).to_vec()),
        ("is no errno", |tag| Rmessage::error(tag, 4096).to_vec()),
        ("after its last field", |tag| {
            let mut reply = Rmessage::Rclunk.encode(tag).to_vec();
            reply.push(0);
            reply[0] += 1;
            reply
        }),
        ("larger than msize", |_| vec![0, 0, 17, 0, 121, 0, 0]),
        ("smaller than a 9P header", |_| vec![6, 0, 0, 0, 121, 0, 0]),
        ("is not one of 9P2000.L", |tag| {
            let tag = tag.0.to_le_bytes();
            vec![7, 0, 0, 0, 120, tag[0], tag[1]]
        }),
    ];
    for (words, bad) in bad {
        let server = server(move |tag, message| match message {
            Tmessage::Tclunk { .. } => Some(bad(tag)),
            message => good(tag, &message),
        });
        let mut pair = Pair::served(Path::new("/srv"), Source::Server(server));
        pair.begin();
        pair.send(&Tmessage::Tclunk { fid: ROOT }.encode(Tag(5)));
        let reason = pair.wait_for_end();
        assert!(reason.contains("backend failed") && reason.contains(words), "{reason}");
    }
}

#[test]
fn a_server_gives_no_more_than_was_asked_for() {
    let server = server(|tag, message| match message {
        Tmessage::Tread { .. } => {
            let body = vec![7; 101].into();
            Some(Rmessage::Rread { count: 101 }.with_body(tag, vec![body]).to_vec())
        }
        message => good(tag, &message),
    });
    let mut pair = Pair::served(Path::new("/srv"), Source::Server(server));
    pair.begin();
    pair.ask(Tag(5), Tmessage::Tread { fid: ROOT, offset: 0, count: 101 });
    pair.send(&Tmessage::Tread { fid: ROOT, offset: 0, count: 100 }.encode(Tag(5)));
    assert!(pair.wait_for_end().contains("101 bytes where 100 were asked for"));
}

#[test]
fn a_server_chooses_no_version_and_no_msize_of_its_own() {
    let version = |msize, version: &'static [u8]| {
        let server =
            server(move |tag, _| Some(Rmessage::Rversion { msize, version }.encode(tag).to_vec()));
        let mut pair = Pair::served(Path::new("/srv"), Source::Server(server));
        let asked = Tmessage::Tversion { msize: 8192, version: VERSION };
        pair.send(&asked.encode(Tag::NONE));
        pair.wait_for_end()
    };
    for (msize, words) in [(8193, VERSION), (100, VERSION), (8192, b"9P2000")] {
        assert!(version(msize, words).contains("was not offered"), "{msize}");
    }
}

#[test]
fn a_server_that_ends_ends_its_stream() {
    let mut pair = Pair::served(Path::new("/srv"), Source::Server(server(|t, m| good(t, &m))));
    pair.begin();
    pair.send(&Tmessage::Tstatfs { fid: ROOT }.encode(Tag(5)));
    assert!(pair.wait_for_end().contains("process has ended"));
}

#[test]
fn what_a_client_sends_is_9p_before_another_process_sees_it() {
    let mut pair = Pair::served(Path::new("/srv"), Source::Server(server(|t, m| good(t, &m))));
    pair.send(&Tmessage::Tclunk { fid: ROOT }.encode(Tag(5)));
    assert!(pair.wait_for_end().contains("before Tversion"));
    let mut pair = Pair::served(Path::new("/srv"), Source::Server(server(|t, m| good(t, &m))));
    pair.begin();
    pair.send(&Packet::whole(vec![7, 0, 0, 0, 121, 5, 0]));
    assert!(pair.wait_for_end().contains("not one of 9P2000.L here"));
}

#[test]
fn a_folder_of_another_process_has_one_stream() {
    let mut pair = Pair::served(Path::new("/srv"), Source::Server(server(|t, m| good(t, &m))));
    pair.begin();
    let authorisation = Authorisation::Sibling(pair.stream);
    let (msize, flags) = (Msize::MAX.bytes(), 0);
    pair.client.open(Open { msize, flags, authorisation }).unwrap();
    assert!(pair.wait_for_end().contains("one connection only"));
    pair.ended = None;
    pair.ask(Tag(5), Tmessage::Tclunk { fid: ROOT });
}

#[test]
fn replies_that_nobody_takes_stay_where_they_are() {
    let server = server(|tag, message| good(tag, &message));
    let mut pair = Pair::served(Path::new("/srv"), Source::Server(server));
    pair.begin();
    pair.giving = false;
    let count = Msize::MAX.payload();
    for tag in 0..500 {
        pair.send(&Tmessage::Tread { fid: ROOT, offset: 0, count }.encode(Tag(tag)));
    }
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        pair.rest();
    }
    let queued = pair.server.queued(pair.stream);
    assert!(queued < 10 << 20, "{queued} bytes");
    pair.giving = true;
    pair.client.consumed(pair.stream, u32::MAX);
    pair.wait(0..500);
}

#[test]
fn diod_is_asked_with_its_own_folder_and_user_and_every_flush_is_answered() {
    let (sender, asked) = std::sync::mpsc::channel();
    // As diod does it: of the flushes of one request the last alone is answered.
    let flushes = AtomicUsize::new(0);
    let server = server(move |tag, message| match message {
        Tmessage::Tattach { aname, n_uname, .. } => {
            sender.send((aname.to_vec(), n_uname)).unwrap();
            good(tag, &message)
        }
        Tmessage::Tread { .. } => Some(Vec::new()),
        Tmessage::Tflush { .. } if flushes.fetch_add(1, Ordering::Relaxed) < 2 => Some(Vec::new()),
        message => good(tag, &message),
    });
    let mut pair = Pair::served(Path::new("/srv/a b"), Source::Diod(server));
    pair.begin();
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(asked.recv().unwrap(), (b"/srv/a b".to_vec(), user));
    let attach =
        |aname| Tmessage::Tattach { fid: FILE, afid: Fid::NONE, uname: b"", aname, n_uname: 5 };
    pair.ask(Tag(1), attach(b"/etc"));
    assert!(asked.try_recv().is_err(), "it was answered without diod");
    pair.send(&Tmessage::Tread { fid: ROOT, offset: 0, count: 5 }.encode(Tag(1)));
    for tag in 2..5 {
        pair.send(&Tmessage::Tflush { oldtag: Tag(1) }.encode(Tag(tag)));
    }
    pair.wait([2, 3, 4]);
    // The tags are free again.
    pair.ask(Tag(1), Tmessage::Tclunk { fid: FILE });
}
