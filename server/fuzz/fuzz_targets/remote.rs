//! A stream that a process at a socket serves, which may have been taken over: what it answers, in any
//! cut, and what it is asked.
//!
//! A reply that goes to the channel answers a request that waits, with its type or an errno, within
//! the sizes that it named. To diod goes no name that is more than one component.
#![no_main]

#[allow(dead_code)] // It serves the target of requests as well.
#[path = "requests/ask.rs"]
mod ask;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mio::{Poll, Token};
use server::backend::{Asked, Dialect, Remote, RemoteError, Submitted};
use transport::id::{Msize, Tag};
use transport::ninep::framer::Assembler;
use transport::ninep::message::{MAX_NAMES, VERSION};
use transport::ninep::{Framer, Kind, Names, Packet, Qid, QidKind, Qids, Rmessage, Tmessage};
use transport::relay::buffer::Buffers;
use transport::relay::ready::Ready;

use ask::Ask;

const LIMIT: u32 = 8192;
const FOLDER: &[u8] = b"/srv/folder";

#[derive(Arbitrary, Debug)]
struct Run {
    diod: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Version {
        msize: u16,
        known: bool,
    },
    Ask {
        tag: u8,
        ask: Ask,
    },
    /// The process sends a reply, the last `back` bytes of it later.
    Reply {
        tag: u8,
        reply: Answer,
        back: u8,
    },
    /// Bytes that may be none.
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Answer {
    Error(u32),
    Version {
        msize: u32,
        version: bool,
    },
    Read(u16),
    ReadDir(u16),
    Walk(u8),
    Link(u8),
    /// Of any type, with what follows the header.
    Any {
        kind: u8,
        rest: Vec<u8>,
    },
}

impl Answer {
    fn packet(&self, tag: Tag) -> Packet {
        let qid = Qid { kind: QidKind::FILE, version: 1, path: 1 };
        let text = [b't'; 256];
        let message = match *self {
            Answer::Error(errno) => Rmessage::Rlerror { errno },
            Answer::Version { msize, version } => {
                Rmessage::Rversion { msize, version: if version { VERSION } else { b"unknown" } }
            }
            Answer::Read(count) => Rmessage::Rread { count: u32::from(count) },
            Answer::ReadDir(count) => Rmessage::Rreaddir { count: u32::from(count) },
            Answer::Walk(count) => {
                let mut qids = Qids::default();
                (0..usize::from(count) % (MAX_NAMES + 1)).for_each(|_| assert!(qids.push(qid)));
                Rmessage::Rwalk { qids }
            }
            Answer::Link(length) => Rmessage::Rreadlink { target: &text[..usize::from(length)] },
            Answer::Any { kind, ref rest } => {
                let size = (7 + rest.len()) as u32;
                let head = [&size.to_le_bytes()[..], &[kind], &tag.0.to_le_bytes(), rest].concat();
                return Packet::whole(head);
            }
        };
        message.with_body(tag, vec![Bytes::from(vec![b'p'; message.payload() as usize])])
    }
}

struct World {
    remote: Remote,
    far: UnixStream,
    asked: HashMap<Tag, Asked>,
    /// The process's side.
    framer: Framer,
    assembler: Assembler,
    diod: bool,
}

fn tag(number: u8) -> Tag {
    if number == 255 { Tag::NONE } else { Tag(u16::from(number % 6)) }
}

impl World {
    /// Asks, as the demux does: one request of a tag at a time.
    fn ask(&mut self, packet: Packet) {
        let (tag, message) = Tmessage::decode(&packet).expect("the client's own");
        let asked = Asked::of(&message);
        if self.asked.contains_key(&tag) {
            return;
        }
        match self.remote.submit(packet) {
            Ok(Submitted::Sent) => {
                self.asked.insert(tag, asked);
            }
            Ok(Submitted::Answered(reply)) => assert_eq!(reply.header().unwrap().tag, tag),
            Err(_) => {}
        }
        // The process takes all that comes.
        while self.remote.write().expect("the process is there") {
            self.take();
            self.remote.handle_ready(Ready::UNKNOWN);
        }
        self.take();
    }

    fn take(&mut self) {
        let mut buffer = [0; 16_384];
        loop {
            match self.far.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => self.framer.push(Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        while let Some(item) = self.framer.poll().expect("only 9P goes out") {
            let Some(packet) = self.assembler.push(item) else { continue };
            let (_, message) = Tmessage::decode(&packet).expect("only 9P goes out");
            if self.diod {
                check_names(&message);
            }
        }
    }

    /// The process sends bytes; what of them goes to the channel is checked.
    fn send(&mut self, bytes: &[u8], buffers: &mut Buffers) -> Result<(), RemoteError> {
        if self.far.write_all(bytes).is_err() {
            return Ok(());
        }
        self.remote.handle_ready(Ready::UNKNOWN);
        while self.remote.read(buffers)? > 0 {
            let asked = &self.asked;
            let Some(reply) = self.remote.poll(|tag| asked.get(&tag).copied())? else { continue };
            self.passed(&reply);
            loop {
                let asked = &self.asked;
                let Some(reply) = self.remote.poll(|tag| asked.get(&tag).copied())? else { break };
                self.passed(&reply);
            }
        }
        Ok(())
    }

    fn passed(&mut self, reply: &Packet) {
        let (tag, message) = Rmessage::decode(reply).expect("only 9P is passed on");
        let asked = self.asked.remove(&tag).expect("an answer to nothing");
        assert!(reply.len() <= LIMIT as usize);
        match message {
            Rmessage::Rlerror { errno } => assert!((1..=4095).contains(&errno)),
            _ => assert_eq!(message.kind(), asked.kind.reply()),
        }
        match message {
            Rmessage::Rread { count } | Rmessage::Rreaddir { count } => {
                assert!(count <= asked.count);
            }
            Rmessage::Rversion { msize, version } if version == VERSION => {
                assert!(msize <= asked.count && msize <= LIMIT && msize >= Msize::MIN.bytes());
            }
            Rmessage::Rversion { version, .. } => assert_eq!(version, b"unknown"),
            _ => {}
        }
        if asked.kind == Kind::Tversion {
            self.asked.clear();
        }
    }
}

/// What diod would put behind its own path.
fn check_names(message: &Tmessage<'_>) {
    let check = |name: &[u8]| {
        assert!(!matches!(name, b"" | b"." | b".."), "{message:?}");
        assert!(!name.iter().any(|byte| matches!(byte, b'/' | 0)), "{message:?}");
    };
    let list = |names: &Names<'_>| names.as_slice().iter().for_each(|name| check(name));
    match message {
        Tmessage::Tattach { aname, .. } => assert_eq!(*aname, FOLDER),
        Tmessage::Twalk { names, .. } => list(names),
        Tmessage::Tlcreate { name, .. }
        | Tmessage::Tmkdir { name, .. }
        | Tmessage::Tmknod { name, .. }
        | Tmessage::Tsymlink { name, .. }
        | Tmessage::Tlink { name, .. }
        | Tmessage::Trename { name, .. }
        | Tmessage::Tunlinkat { name, .. } => check(name),
        Tmessage::Trenameat { oldname, newname, .. } => {
            check(oldname);
            check(newname);
        }
        _ => {}
    }
}

static POLL: LazyLock<Poll> = LazyLock::new(|| Poll::new().expect("a poll"));

fuzz_target!(|run: Run| {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let dialect = match run.diod {
        true => Dialect::Diod { folder: FOLDER.to_vec(), user: 1000 },
        false => Dialect::Ours,
    };
    let limit = Msize::new(LIMIT).unwrap();
    let remote = Remote::new(near.into(), dialect, limit, POLL.registry(), Token(0)).unwrap();
    let mut world = World {
        remote,
        far,
        asked: HashMap::new(),
        framer: Framer::new(LIMIT),
        assembler: Assembler::default(),
        diod: run.diod,
    };
    let mut buffers = Buffers::new();
    for step in run.steps.iter().take(100) {
        let sent = match step {
            Step::Version { msize, known } => {
                let version: &[u8] = if *known { VERSION } else { b"9P2000.u" };
                let msize = 4000 + u32::from(*msize);
                world.ask(Tmessage::Tversion { msize, version }.encode(Tag::NONE));
                Ok(())
            }
            Step::Ask { tag: number, ask } => {
                world.ask(ask.packet(tag(*number)));
                Ok(())
            }
            Step::Reply { tag: number, reply, back } => {
                let bytes = reply.packet(tag(*number)).to_vec();
                let (now, later) = bytes.split_at(bytes.len().saturating_sub((*back).into()));
                world.send(now, &mut buffers).and_then(|()| world.send(later, &mut buffers))
            }
            Step::Raw(bytes) => world.send(bytes, &mut buffers),
        };
        if let Err(error) = sent {
            assert!(!error.to_string().is_empty());
            break;
        }
    }
    world.remote.close(POLL.registry());
});
