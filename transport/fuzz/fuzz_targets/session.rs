//! The client end's session between a program at its socket and a server, neither of which keeps to
//! what is sensible.
//!
//! Against an honest server, whatever order it answers in: every request gets one answer, no tag or
//! fid of the channel means two things at a time, nothing answers what was flushed, and in the end
//! nothing waits. A server that lies may end the stream, and nothing else.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use transport::id::{Fid, Msize, Tag};
use transport::ninep::message::{MAX_NAMES, OrZero, Qid, Qids, VERSION, lock};
use transport::ninep::packet::Header;
use transport::ninep::{Kind, Names, Packet, QidKind, Rmessage, Tmessage};
use transport::session::{FLUSH_TIME, Reply, Request, Session, SessionError};

/// A request of the program's.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Ask {
    Version { msize: u16 },
    Attach { fid: u8 },
    Walk { fid: u8, newfid: u8, names: u8 },
    Open { fid: u8 },
    Read { fid: u8 },
    Write { fid: u8, count: u8 },
    Lock { fid: u8, unlock: bool },
    XattrWalk { fid: u8, newfid: u8 },
    XattrCreate { fid: u8 },
    Rename { fid: u8, to: u8, length: u8 },
    Link { fid: u8, to: u8 },
    Clunk { fid: u8 },
    Remove { fid: u8 },
    Flush { oldtag: u8 },
}

#[derive(Arbitrary, Debug)]
enum Step {
    Ask {
        tag: u8,
        ask: Ask,
    },
    /// The server answers one of the requests that it has.
    Answer {
        which: u8,
        how: How,
    },
    Wait {
        ms: u16,
    },
    /// Bytes that may be no message, from either side.
    Raw {
        request: bool,
        bytes: Vec<u8>,
        body: u8,
    },
    /// A reply of any type to any tag.
    Lie {
        tag: u8,
        kind: u8,
        rest: Vec<u8>,
    },
    Fail,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum How {
    Done,
    Errno(u16),
    /// A walk that stops early.
    Half,
}

fn fid(number: u8) -> Fid {
    Fid(u32::from(number % 6))
}

fn tag(number: u8) -> Tag {
    Tag(u16::from(number % 12))
}

struct World {
    session: Session,
    now: Duration,
    /// The program's tags that wait, with what a flush among them flushes.
    waiting: BTreeMap<Tag, Option<Tag>>,
    /// What the server has to answer, as it came.
    asked: BTreeMap<Tag, Bytes>,
    /// The fids that the server knows.
    known: BTreeSet<Fid>,
    /// The server has kept to the protocol so far.
    honest: bool,
}

impl World {
    fn ask(&mut self, near: Tag, ask: Ask) -> Result<(), SessionError> {
        let name = [b'n'; 256];
        let list: Vec<&[u8]> = vec![b"x"; MAX_NAMES];
        let message = match ask {
            Ask::Version { msize } => {
                Tmessage::Tversion { msize: 4000 + u32::from(msize), version: VERSION }
            }
            Ask::Attach { fid: number } => Tmessage::Tattach {
                fid: fid(number),
                afid: Fid::NONE,
                uname: b"",
                aname: b"",
                n_uname: 0,
            },
            Ask::Walk { fid: from, newfid, names } => {
                let names = Names::new(&list[..usize::from(names) % (MAX_NAMES + 1)]);
                Tmessage::Twalk {
                    fid: fid(from),
                    newfid: fid(newfid),
                    names: names.unwrap_or_default(),
                }
            }
            Ask::Open { fid: number } => Tmessage::Tlopen { fid: fid(number), flags: 0 },
            Ask::Read { fid: number } => Tmessage::Tread { fid: fid(number), offset: 0, count: 9 },
            Ask::Write { fid: number, count } => {
                Tmessage::Twrite { fid: fid(number), offset: 0, count: u32::from(count) }
            }
            Ask::Lock { fid: number, unlock } => Tmessage::Tlock {
                fid: fid(number),
                kind: if unlock { lock::UNLCK } else { lock::WRLCK },
                flags: 0,
                start: 0,
                length: 0,
                proc_id: 1,
                client_id: b"c",
            },
            Ask::XattrWalk { fid: from, newfid } => {
                Tmessage::Txattrwalk { fid: fid(from), newfid: fid(newfid), name: b"" }
            }
            Ask::XattrCreate { fid: number } => {
                Tmessage::Txattrcreate { fid: fid(number), name: b"user.a", size: 3, flags: 0 }
            }
            Ask::Rename { fid: from, to, length } => Tmessage::Trenameat {
                olddirfid: fid(from),
                oldname: &name[..usize::from(length)],
                newdirfid: fid(to),
                newname: b"n",
            },
            Ask::Link { fid: number, to } => {
                Tmessage::Tlink { dfid: fid(to), fid: fid(number), name: b"n" }
            }
            Ask::Clunk { fid: number } => Tmessage::Tclunk { fid: fid(number) },
            Ask::Remove { fid: number } => Tmessage::Tremove { fid: fid(number) },
            Ask::Flush { oldtag } => Tmessage::Tflush { oldtag: tag(oldtag) },
        };
        let body = message.payload() as usize;
        let near = if matches!(ask, Ask::Version { .. }) { Tag::NONE } else { near };
        let payload = vec![Bytes::from(vec![0; body])];
        let head = message.with_body(near, payload).head;
        let taken = self.session.handle_request(self.now, &head, body);
        if let Err(SessionError::TagInUse(number)) = taken {
            assert!(self.waiting.contains_key(&Tag(number)), "only what waits is in use");
        }
        let taken = taken?;
        if let Tmessage::Tversion { .. } = message {
            // Nothing of the session before is waited for any more.
            self.waiting.clear();
        }
        let flushed = match message {
            Tmessage::Tflush { oldtag } => Some(oldtag),
            _ => None,
        };
        assert!(self.waiting.insert(near, flushed).is_none(), "a tag that waits is refused");
        match taken {
            Request::Forward(head) => self.tell_server(&head, body),
            Request::Answer(packet) => self.tell_program(&packet.to_vec()),
            Request::Wait => {}
        }
        self.poll();
        Ok(())
    }

    fn poll(&mut self) {
        while let Some(packet) = self.session.poll_request() {
            assert_eq!(packet.body_len(), 0);
            self.tell_server(&packet.head, 0);
        }
        while let Some(packet) = self.session.poll_reply() {
            self.tell_program(&packet.to_vec());
        }
    }

    /// The program gets a reply.
    fn tell_program(&mut self, reply: &[u8]) {
        let header = Header::read(reply).expect("a reply has a header");
        let flushed = self.waiting.remove(&header.tag);
        let flushed = flushed.unwrap_or_else(|| panic!("{:?} does not wait", header.tag));
        self.is_over(header.tag);
        // A tag that was flushed is free; its answer would be another's.
        if let Some(old) = flushed.filter(|_| Kind(header.kind) == Kind::Rflush) {
            self.waiting.remove(&old);
            self.is_over(old);
        }
    }

    /// The program may use `tag` again: flushes under way do not mean what it uses it for.
    fn is_over(&mut self, tag: Tag) {
        for (own, old) in &mut self.waiting {
            if *old == Some(tag) {
                *old = Some(*own);
            }
        }
    }

    /// The server gets a request.
    fn tell_server(&mut self, head: &Bytes, body: usize) {
        let (far, message) = Tmessage::decode_head(head, body).expect("it was understood here");
        if let Tmessage::Tversion { .. } = message {
            self.known.clear();
            self.asked.clear();
        }
        let before = self.asked.insert(far, head.clone());
        assert!(before.is_none() || !self.honest, "{far:?} means two requests");
    }

    /// The server answers honestly.
    fn answer(&mut self, which: u8, how: How) -> Result<(), SessionError> {
        let Some((&far, _)) = self.asked.iter().nth(usize::from(which) % self.asked.len().max(1))
        else {
            return Ok(());
        };
        let Some(request) = self.asked.remove(&far) else { return Ok(()) };
        let packet = Packet::whole(request);
        let body = match packet.header() {
            Ok(header) => (header.size as usize).saturating_sub(packet.head.len()),
            Err(_) => return Ok(()),
        };
        let (_, message) = Tmessage::decode_head(&packet.head, body).expect("as it came");
        let qid = Qid { kind: QidKind::FILE, version: 1, path: 1 };
        let done = matches!(how, How::Done | How::Half);
        let mut qids = Qids::default();
        let reply = match message {
            Tmessage::Tversion { msize, .. } => {
                Rmessage::Rversion { msize: msize.max(4096), version: VERSION }
            }
            Tmessage::Tflush { oldtag } => {
                self.asked.remove(&oldtag);
                Rmessage::Rflush
            }
            // The fid is gone whatever the answer (clunk(5)).
            Tmessage::Tclunk { fid } => {
                self.known.remove(&fid);
                Rmessage::Rclunk
            }
            Tmessage::Tremove { fid } => {
                self.known.remove(&fid);
                if done { Rmessage::Rremove } else { Rmessage::Rlerror { errno: 1 } }
            }
            _ if !done => match how {
                How::Errno(errno) => Rmessage::Rlerror { errno: u32::from(errno) },
                _ => Rmessage::Rlerror { errno: 5 },
            },
            Tmessage::Tattach { fid, .. } => {
                self.make(fid);
                Rmessage::Rattach { qid }
            }
            Tmessage::Twalk { fid, newfid, names } => {
                let count = names.as_slice().len();
                let walked = if matches!(how, How::Half) { count.div_ceil(2) } else { count };
                (0..walked).for_each(|_| assert!(qids.push(qid)));
                if walked == count && fid != newfid {
                    self.make(newfid);
                }
                Rmessage::Rwalk { qids }
            }
            Tmessage::Tlopen { .. } => Rmessage::Rlopen { qid, iounit: 0 },
            Tmessage::Tread { count, .. } => Rmessage::Rread { count },
            Tmessage::Twrite { count, .. } => Rmessage::Rwrite { count },
            Tmessage::Tlock { .. } => Rmessage::Rlock { status: lock::SUCCESS },
            Tmessage::Txattrwalk { newfid, .. } => {
                self.make(newfid);
                Rmessage::Rxattrwalk { size: 1 }
            }
            Tmessage::Txattrcreate { .. } => Rmessage::Rxattrcreate,
            Tmessage::Trenameat { .. } => Rmessage::Rrenameat,
            Tmessage::Tlink { .. } => Rmessage::Rlink,
            Tmessage::Tfsync { datasync: OrZero(_), .. } => Rmessage::Rfsync,
            other => panic!("{other:?} was never asked"),
        };
        let payload = vec![Bytes::from(vec![1; reply.payload() as usize])];
        let reply = reply.with_body(far, payload);
        self.reply(&reply.head, reply.body_len())
    }

    fn make(&mut self, fid: Fid) {
        assert!(self.known.insert(fid) || !self.honest, "{fid:?} means two nodes");
    }

    fn reply(&mut self, head: &Bytes, body: usize) -> Result<(), SessionError> {
        let passed = self.session.handle_reply(head, body)?;
        if let Reply::Pass(head) = passed {
            self.tell_program(&head);
        }
        self.poll();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), SessionError> {
        match *step {
            Step::Ask { tag: number, ask } => self.ask(tag(number), ask)?,
            Step::Answer { which, how } => {
                let honest = self.honest;
                self.answer(which, how).inspect_err(|error| {
                    let refused = matches!(error, SessionError::Msize(_));
                    assert!(!honest || refused, "an honest server is refused: {error}");
                })?;
            }
            Step::Wait { ms } => {
                self.now += Duration::from_millis(u64::from(ms));
                self.session.handle_timeout(self.now);
                self.poll();
            }
            Step::Raw { request: true, ref bytes, body } => {
                // What is no request ends the stream; what is one, is anything.
                let head = Bytes::copy_from_slice(bytes);
                self.session.handle_request(self.now, &head, usize::from(body))?;
                return Err(SessionError::Version);
            }
            Step::Raw { request: false, ref bytes, body } => {
                self.honest = false;
                let head = Bytes::copy_from_slice(bytes);
                self.session.handle_reply(&head, usize::from(body))?;
                return Err(SessionError::Version);
            }
            Step::Lie { tag: number, kind, ref rest } => {
                self.honest = false;
                let far = if number == 255 { Tag::NONE } else { tag(number) };
                let size = 7 + rest.len() as u32;
                let mut head = size.to_le_bytes().to_vec();
                head.push(kind);
                head.extend(far.0.to_le_bytes());
                head.extend(rest);
                self.asked.remove(&far);
                self.reply(&head.into(), 0)?;
            }
            Step::Fail => {
                self.session.fail();
                self.asked.clear();
                self.poll();
                assert!(self.waiting.is_empty(), "a lost channel leaves nobody waiting");
            }
        }
        Ok(())
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World {
        session: Session::new(Msize::MAX),
        now: Duration::ZERO,
        waiting: BTreeMap::new(),
        asked: BTreeMap::new(),
        known: BTreeSet::new(),
        honest: true,
    };
    for step in &steps {
        if world.step(step).is_err() {
            return;
        }
        assert_eq!(world.session.in_flight() == 0, world.waiting.is_empty());
    }
    // All is answered, and what the session asks for itself thereby, too.
    for _ in 0..1000 {
        if world.asked.is_empty() {
            break;
        }
        if world.step(&Step::Answer { which: 0, how: How::Done }).is_err() {
            return;
        }
    }
    assert!(world.step(&Step::Wait { ms: FLUSH_TIME.as_millis() as u16 + 1 }).is_ok());
    assert!(!world.honest || world.waiting.is_empty(), "{:?} wait for ever", world.waiting);
});
