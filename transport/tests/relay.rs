//! The relay over real descriptors: sockets and pipes, small buffers and large messages, with a file
//! server that answers by rule, so that every byte can be checked.
#![allow(clippy::unwrap_used)] // helpers of tests: a failure there is the test's

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use transport::id::{Fid, Msize, StreamId, Tag};
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, PrefaceReader, ServerHello, Taken,
};
use transport::mux::{Code, Config, Connection, Event, Opened, Reason, Side};
use transport::ninep::framer::Assembler;
use transport::ninep::message::{Qid, QidKind, VERSION};
use transport::ninep::{Framer, Kind, Packet, Rmessage, Tmessage};
use transport::relay::channel::{Channel, ChannelEnd};
use transport::relay::class::class;
use transport::relay::links::{Command, LinkId, Links, Notice, Right, Terms};
use transport::relay::mailbox::Sender;
use transport::relay::pump::{self, Context, Role};
use transport::relay::ready::Ready;

/// How long a step may take before the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server end: answers reads with a pattern and checks it in writes.
#[derive(Default)]
struct Rule {
    lanes: HashMap<(StreamId, bool), (Framer, Assembler)>,
}

/// The size of a reply that the server end begins and does not end.
const HALF: usize = 999_999;

fn pattern(offset: u64, count: u32) -> Vec<u8> {
    (offset..offset + u64::from(count)).map(|at| (at * 31 % 251) as u8).collect()
}

impl Rule {
    fn take(&mut self, cx: &mut Context<'_>, stream: StreamId, piece: Bytes, bulk: bool) {
        let new = || (Framer::new(Msize::MAX.bytes()), Assembler::default());
        let (framer, assembler) = self.lanes.entry((stream, bulk)).or_insert_with(new);
        framer.push(piece);
        while let Some(item) = framer.poll().unwrap() {
            let Some(request) = assembler.push(item) else { continue };
            cx.mux.consumed(stream, request.len() as u32);
            let reply = answer(&request);
            let lane = class(Kind(reply.head[4]), reply.len());
            cx.mux.start(stream, lane, reply.len() as u32).unwrap();
            for piece in reply.pieces() {
                let half = reply.len() == HALF && piece.len() > HALF / 2;
                let piece = piece.slice(..if half { HALF / 2 } else { piece.len() });
                cx.mux.extend(stream, piece).unwrap();
            }
        }
    }
}

fn answer(request: &Packet) -> Packet {
    let (tag, message) = Tmessage::decode(request).unwrap();
    match message {
        Tmessage::Tversion { msize, .. } => {
            Rmessage::Rversion { msize, version: VERSION }.encode(tag)
        }
        Tmessage::Tattach { .. } => {
            Rmessage::Rattach { qid: Qid { kind: QidKind::DIR, version: 0, path: 1 } }.encode(tag)
        }
        Tmessage::Tread { offset, count, .. } => {
            Rmessage::Rread { count }.with_body(tag, vec![pattern(offset, count).into()])
        }
        Tmessage::Twrite { offset, count, .. } => {
            let body: Vec<u8> = request.body.iter().flat_map(|piece| piece.to_vec()).collect();
            assert!(body == pattern(offset, count), "write at {offset}");
            Rmessage::Rwrite { count }.encode(tag)
        }
        _ => Rmessage::error(tag, 95),
    }
}

impl Role for Rule {
    fn handle_event(&mut self, cx: &mut Context<'_>, event: Event) {
        match event {
            Event::Open { stream, open } => cx.mux.accept(stream, Opened { msize: open.msize }),
            Event::Message { stream, data } => {
                data.into_iter().for_each(|piece| self.take(cx, stream, piece, false));
            }
            Event::More { stream, data } => self.take(cx, stream, data, true),
            Event::Closed { stream, .. } => cx.mux.close(stream, Reason::done()),
            _ => {}
        }
    }
    fn handle_ready(&mut self, _: mio::Token, _: Ready) {}
    fn pass(&mut self, _: &mut Context<'_>) -> bool {
        false
    }
    fn poll_timeout(&self) -> Option<Duration> {
        None
    }
    fn is_done(&self) -> bool {
        false
    }
}

/// Runs the server end on a thread; `noise` comes before its preface.
fn serve(input: OwnedFd, output: OwnedFd, noise: Vec<u8>) {
    std::thread::spawn(move || {
        let mut input = std::fs::File::from(input);
        let mut reader = PrefaceReader::<ClientHello>::default();
        let (hello, rest) = loop {
            let mut buffer = [0; 100];
            let count = input.read(&mut buffer).unwrap();
            assert!(count > 0);
            if let Some(read) = reader.feed(Bytes::copy_from_slice(&buffer[..count])).unwrap() {
                break read;
            }
        };
        let mut poll = mio::Poll::new().unwrap();
        let mut mux = Connection::new(Side::Server, Config::default());
        mux.establish(Duration::ZERO, &hello.limits);
        mux.handle_input(Duration::ZERO, rest).unwrap();
        let answer = Answer::Taken(ServerHello {
            capabilities: Capabilities::OURS,
            limits: mux.limits(),
            taken: Taken::Channel,
            name: b"server".to_vec(),
            nonce: Nonce([1; 16]),
        });
        rustix::io::write(&output, &noise).unwrap();
        let channel = Channel::server(input.into(), output, &answer, mux, poll.registry()).unwrap();
        pump::run(&mut poll, channel, &mut Rule::default());
    });
}

struct Client {
    commands: Sender<Command>,
    notices: mpsc::Receiver<Notice>,
    end: mpsc::Receiver<ChannelEnd>,
    next: u64,
}

impl Client {
    fn start(input: OwnedFd, output: OwnedFd) -> Client {
        let (tell, notices) = mpsc::channel();
        let (done, end) = mpsc::channel();
        let notify = Box::new(move |notice| {
            let _ = match notice {
                Notice::Lost(end) => done.send(end).is_ok(),
                notice => tell.send(notice).is_ok(),
            };
        });
        let plane = Links::prepare(input, output, notify).unwrap();
        let commands = plane.commands();
        std::thread::spawn(move || plane.run());
        Client { commands, notices, end, next: 1 }
    }

    fn notice(&self) -> Notice {
        self.notices.recv_timeout(PATIENCE).expect("a notice")
    }

    fn ask(&mut self, right: Right, fd: Option<OwnedFd>) -> LinkId {
        let id = LinkId(self.next);
        self.next += 1;
        let terms = Terms { limit: Msize::MAX, coherence: Duration::ZERO, tells: false };
        let stats = Arc::default();
        self.commands.send(Command::Open { id, right, terms, fd, stats });
        id
    }

    /// A stream's 9P socket, with a session begun.
    fn open(&mut self) -> (LinkId, UnixStream) {
        let (mut socket, far) = UnixStream::pair().unwrap();
        let id = self.ask(Right::Own, Some(far.into()));
        loop {
            match self.notice() {
                Notice::Opened(opened, Msize::MAX) if opened == id => break,
                Notice::FirstByte | Notice::Hello(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let version = Tmessage::Tversion { msize: 1 << 20, version: VERSION };
        assert_eq!(call(&mut socket, &version.encode(Tag::NONE)).head[4], 101);
        let (fid, afid) = (Fid(0), Fid::NONE);
        let attach = Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 };
        assert_eq!(call(&mut socket, &attach.encode(Tag(0))).head[4], 105);
        (id, socket)
    }
}

fn call(socket: &mut UnixStream, request: &Packet) -> Packet {
    socket.write_all(&request.to_vec()).unwrap();
    receive(socket)
}

/// The next reply, all of it in the head.
fn receive(socket: &mut UnixStream) -> Packet {
    let mut size = [0; 4];
    socket.read_exact(&mut size).unwrap();
    let mut bytes = vec![0; u32::from_le_bytes(size) as usize];
    bytes[..4].copy_from_slice(&size);
    socket.read_exact(&mut bytes[4..]).unwrap();
    Packet::whole(bytes)
}

fn read(tag: u16, offset: u64, count: u32) -> Packet {
    Tmessage::Tread { fid: Fid(0), offset, count }.encode(Tag(tag))
}

fn write(tag: u16, offset: u64, count: u32) -> Packet {
    let body = vec![pattern(offset, count).into()];
    Tmessage::Twrite { fid: Fid(0), offset, count }.with_body(Tag(tag), body)
}

/// Large and small, one at a time and many at once.
fn work(mut socket: UnixStream, rounds: u64) {
    for round in 0..rounds {
        let count = [1, 4096, 60_000, 65_497, 65_536, 300_000, 1_048_552][round as usize % 7];
        let reply = call(&mut socket, &read(3, round, count));
        assert!(reply.head[11..] == pattern(round, count), "read of {count}");
        let reply = call(&mut socket, &write(4, round, count));
        assert_eq!(reply.head[7..], count.to_le_bytes());
        // Many at once; the small ones may overtake.
        let counts = [700_000, 10, 9_000, 20, 200_000, 4_000];
        for (tag, count) in counts.iter().enumerate() {
            socket.write_all(&read(tag as u16, round, *count).to_vec()).unwrap();
        }
        let mut open: HashSet<usize> = (0..counts.len()).collect();
        while !open.is_empty() {
            let reply = receive(&mut socket);
            let tag = usize::from(u16::from_le_bytes([reply.head[5], reply.head[6]]));
            assert!(open.remove(&tag), "tag {tag} twice");
            assert!(reply.head[11..] == pattern(round, counts[tag]), "read {tag} of many");
        }
    }
}

fn conversation(client: (OwnedFd, OwnedFd), server: (OwnedFd, OwnedFd), noise: Vec<u8>) {
    serve(server.0, server.1, noise);
    let mut client = Client::start(client.0, client.1);
    let (first, socket) = client.open();
    let (second, other) = client.open();
    let threads = [socket, other].map(|socket| std::thread::spawn(move || work(socket, 21)));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Both 9P clients have closed: their streams end, the channel stays until it is given up.
    let mut ended = [client.notice(), client.notice()].map(|notice| match notice {
        Notice::Ended(id, _) => id,
        other => panic!("{other:?}"),
    });
    ended.sort();
    assert_eq!(ended, [first, second]);
    client.open();
    client.commands.send(Command::Finish);
    let end = client.end.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(end, ChannelEnd::Done), "{end:?}");
}

#[test]
fn every_byte_arrives_over_sockets() {
    let (a, b) = UnixStream::pair().unwrap();
    let (c, d) = UnixStream::pair().unwrap();
    conversation((a.into(), c.into()), (d.into(), b.into()), Vec::new());
}

#[test]
fn every_byte_arrives_over_pipes_behind_what_a_shell_printed() {
    let (client_in, server_out) = rustix::pipe::pipe().unwrap();
    let (server_in, client_out) = rustix::pipe::pipe().unwrap();
    let noise = b"welcome to \xff\xffQSF qube\r\n".to_vec();
    conversation((client_in, client_out), (server_in, server_out), noise);
}

#[test]
fn a_channel_that_ends_fails_whoever_waits() {
    let (near_in, far_out) = UnixStream::pair().unwrap();
    let (far_in, near_out) = UnixStream::pair().unwrap();
    serve(far_in.into(), far_out.try_clone().unwrap().into(), Vec::new());
    let mut client = Client::start(near_in.into(), near_out.into());
    let (_, mut socket) = client.open();
    // More than anybody has room for: it cannot all have been answered when the channel ends.
    let tags = 0..40;
    for tag in tags.clone() {
        socket.write_all(&read(tag, 0, 1_048_552).to_vec()).unwrap();
    }
    far_out.shutdown(std::net::Shutdown::Both).unwrap();
    // Every one of them is answered, whole or with EIO, before the socket closes.
    let mut failed = 0;
    let mut open: HashSet<u16> = tags.collect();
    while !open.is_empty() {
        let reply = receive(&mut socket);
        assert!(open.remove(&u16::from_le_bytes([reply.head[5], reply.head[6]])));
        match reply.head[4] {
            117 => assert!(reply.head[11..] == pattern(0, 1_048_552)),
            kind => {
                assert_eq!((kind, &reply.head[7..]), (7, &5u32.to_le_bytes()[..]));
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    let end = client.end.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(end, ChannelEnd::Closed | ChannelEnd::Cut(_)), "{end:?}");
    // And so it goes on until the client closes.
    assert_eq!(call(&mut socket, &read(9, 0, 1)).head[4..], [7, 9, 0, 5, 0, 0, 0]);
}

#[test]
fn a_far_end_that_gives_up_and_closes_nothing_fails_whoever_waits() {
    let (near_in, far_out) = UnixStream::pair().unwrap();
    let (far_in, near_out) = UnixStream::pair().unwrap();
    let mut far = far_out.try_clone().unwrap();
    serve(far_in.into(), far_out.into(), Vec::new());
    let mut client = Client::start(near_in.into(), near_out.into());
    let (_, mut socket) = client.open();
    let mut server = Connection::new(Side::Server, Config::default());
    server.go_away(Reason::new(Code::INTERNAL, "no more"));
    let mut frames = Vec::new();
    server.poll_transmit(Duration::ZERO, 1000, &mut frames);
    far.write_all(&frames.concat()).unwrap();
    let end = client.end.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(end, ChannelEnd::Left(_)), "{end:?}");
    // And so it goes on until the client closes.
    assert_eq!(call(&mut socket, &read(9, 0, 1)).head[4..], [7, 9, 0, 5, 0, 0, 0]);
}

#[test]
fn a_reply_that_is_cut_off_is_an_io_error() {
    let (near_in, far_out) = UnixStream::pair().unwrap();
    let (far_in, near_out) = UnixStream::pair().unwrap();
    serve(far_in.into(), far_out.try_clone().unwrap().into(), Vec::new());
    let mut client = Client::start(near_in.into(), near_out.into());
    let (_, mut socket) = client.open();
    socket.write_all(&read(7, 0, HALF as u32 - 11).to_vec()).unwrap();
    // Time for the half to be taken in. Without it the answer is the same, for a simpler reason.
    std::thread::sleep(Duration::from_millis(300));
    far_out.shutdown(std::net::Shutdown::Both).unwrap();
    let reply = receive(&mut socket);
    assert_eq!(reply.head[4..], [7, 7, 0, 5, 0, 0, 0]);
    // And so it goes on until the client closes.
    assert_eq!(call(&mut socket, &read(9, 0, 1)).head[4..], [7, 9, 0, 5, 0, 0, 0]);
}

#[test]
fn a_client_that_speaks_no_9p_loses_its_own_stream_only() {
    let (a, b) = UnixStream::pair().unwrap();
    let (c, d) = UnixStream::pair().unwrap();
    serve(d.into(), b.into(), Vec::new());
    let mut client = Client::start(a.into(), c.into());
    let (bad, mut socket) = client.open();
    let (_, other) = client.open();
    socket.write_all(&[255; 64]).unwrap();
    assert!(matches!(client.notice(), Notice::Ended(id, _) if id == bad));
    assert_eq!(socket.read(&mut [0; 10]).unwrap_or(0), 0);
    work(other, 7);
    assert!(matches!(client.notice(), Notice::Ended(..)));
    let late = client.ask(Right::Sibling(bad), None);
    assert!(matches!(client.notice(), Notice::Refused(id, _) if id == late));
}

#[test]
fn small_replies_that_wait_behind_a_large_one_do_not_hold_it_up() {
    let (a, b) = UnixStream::pair().unwrap();
    let (c, d) = UnixStream::pair().unwrap();
    serve(d.into(), b.into(), Vec::new());
    let mut client = Client::start(a.into(), c.into());
    let (_, mut socket) = client.open();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    const SMALL: u16 = 1000;
    for round in 0..20 {
        let mut requests = read(SMALL, round, 1_048_552).to_vec();
        (0..SMALL).for_each(|tag| requests.extend(read(tag, round, 8000).to_vec()));
        socket.write_all(&requests).unwrap();
        for _ in 0..=SMALL {
            let reply = receive(&mut socket);
            let count = reply.head.len() as u32 - 11;
            assert!(reply.head[11..] == pattern(round, count), "read of {count}");
        }
    }
}
