use alloc::vec;

use super::*;
use crate::accel::hint::{self, Entry, Node, Writer, Xattrs};
use crate::accel::{Accel, Shared};
use crate::id::Msize;
use crate::ninep::message::{Attributes, VERSION};
use crate::ninep::packet::Header;
use crate::ninep::{Qid, QidKind};
use crate::session::Reply;

const SECOND: Duration = Duration::from_secs(1);
const ROOT: Qid = Qid { kind: QidKind::DIR, version: 1, path: 1 };

/// Both ends of a conversation with hints.
struct Talk {
    session: Session,
    now: Duration,
}

impl Talk {
    /// The kernel has attached fid 0.
    fn new() -> Talk {
        let accel = Accel::new(SECOND, &Shared::default());
        let session = Session::new(Msize::MAX).with_accel(accel);
        let mut talk = Talk { session, now: Duration::ZERO };
        talk.passes(0xffff, Tmessage::Tversion { msize: 65536, version: VERSION });
        talk.hears(0xffff, Rmessage::Rversion { msize: 8192, version: VERSION });
        let (fid, afid) = (Fid(0), Fid::NONE);
        let attach = Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 };
        let (tag, _) = talk.passes(1, attach);
        talk.hears(tag, Rmessage::Rattach { qid: ROOT });
        talk
    }

    /// The same, with hints about a folder `d`, the file `f` in it and no `gone`.
    fn hinted() -> Talk {
        let mut talk = Talk::new();
        let (tag, _) = talk.passes(1, walk(0, 100, &[b"d"]));
        talk.hint(tag, 1, &[(b"d", Some(node(2, QidKind::DIR)))]);
        talk.hint(tag, 2, &[(b"f", Some(node(3, QidKind::FILE))), (b"gone", None)]);
        talk.hears(tag, walked(&[(2, QidKind::DIR)]));
        let (tag, _) = talk.passes(1, Tmessage::Tclunk { fid: Fid(100) });
        assert_eq!(talk.hears(tag, Rmessage::Rclunk), None);
        assert_eq!(talk.replies(), 1);
        talk
    }

    fn asks(&mut self, tag: u16, message: Tmessage<'_>) -> Request {
        self.session.handle_request(self.now, &message.encode(Tag(tag)).head, 0).unwrap()
    }

    /// A request that goes to the far end: its tag there, and all of it.
    fn passes(&mut self, tag: u16, message: Tmessage<'_>) -> (u16, Packet) {
        match self.asks(tag, message) {
            Request::Forward(head) => (Header::read(&head).unwrap().tag.0, Packet::whole(head)),
            other => panic!("{message:?} is not passed on: {other:?}"),
        }
    }

    /// A request that is answered here.
    fn answered(&mut self, message: Tmessage<'_>) -> Packet {
        match self.asks(9, message) {
            Request::Answer(reply) => reply,
            other => panic!("{message:?} is not answered here: {other:?}"),
        }
    }

    /// A request that waits for fids to be fetched: the first request for one, and its tag.
    fn waits(&mut self, tag: u16, message: Tmessage<'_>) -> (u16, Packet) {
        assert_eq!(self.asks(tag, message), Request::Wait, "{message:?}");
        self.own()
    }

    /// A request of this end's own.
    fn own(&mut self) -> (u16, Packet) {
        let packet = self.session.poll_request().unwrap();
        (packet.header().unwrap().tag.0, packet)
    }

    fn hears(&mut self, tag: u16, message: Rmessage<'_>) -> Option<u16> {
        match self.session.handle_reply(&message.encode(Tag(tag)).head, 0).unwrap() {
            Reply::Pass(head) => Some(Header::read(&head).unwrap().tag.0),
            Reply::Drop | Reply::Keep | Reply::Made => None,
        }
    }

    fn hint(&mut self, tag: u16, dir: u64, entries: &[(&[u8], Option<Node<'_>>)]) {
        let mut writer = Writer::new(Tag(tag), dir, false);
        entries.iter().for_each(|&(name, node)| writer.push(&Entry { name, node }));
        let reply = self.session.handle_reply(&writer.finish().head, 0).unwrap();
        assert_eq!(reply, Reply::Drop);
    }

    fn forgets(&mut self, records: &[(u64, &[u8])]) {
        let forget = hint::forget(records.iter().copied());
        assert_eq!(self.session.handle_reply(&forget.head, 0).unwrap(), Reply::Drop);
    }

    /// How many replies of this end's own there are.
    fn replies(&mut self) -> usize {
        core::iter::from_fn(|| self.session.poll_reply()).count()
    }
}

fn node(path: u64, kind: QidKind) -> Node<'static> {
    let mode = if kind == QidKind::DIR { 0o040_755 } else { 0o100_644 };
    let attributes = Attributes { mode, nlink: 1, size: path, ..Default::default() };
    let qid = Qid { kind, version: 1, path };
    Node { valid: 0x7ff, qid, attributes, watched: false, xattrs: Some(Xattrs::NONE) }
}

fn walk<'a>(fid: u32, newfid: u32, names: &[&'a [u8]]) -> Tmessage<'a> {
    let names = Names::new(names).unwrap();
    Tmessage::Twalk { fid: Fid(fid), newfid: Fid(newfid), names }
}

fn walked(nodes: &[(u64, QidKind)]) -> Rmessage<'static> {
    let mut qids = Qids::default();
    nodes.iter().for_each(|&(path, kind)| assert!(qids.push(Qid { kind, version: 1, path })));
    Rmessage::Rwalk { qids }
}

fn stat(fid: u32) -> Tmessage<'static> {
    Tmessage::Tgetattr { fid: Fid(fid), mask: 0x3fff }
}

fn open(fid: u32) -> Tmessage<'static> {
    Tmessage::Tlopen { fid: Fid(fid), flags: 0 }
}

const OPENED: Rmessage<'static> =
    Rmessage::Rlopen { qid: Qid { kind: QidKind::FILE, version: 1, path: 3 }, iounit: 0 };

fn decoded(packet: &Packet) -> Tmessage<'_> {
    Tmessage::decode(packet).unwrap().1
}

#[test]
fn names_and_attributes_that_are_known_cost_no_round_trip() {
    let mut talk = Talk::hinted();
    let reply = talk.answered(walk(0, 1, &[b"d", b"f"]));
    let expected = walked(&[(2, QidKind::DIR), (3, QidKind::FILE)]);
    assert_eq!(Rmessage::decode(&reply).unwrap(), (Tag(9), expected));
    let reply = talk.answered(stat(1));
    let Rmessage::Rgetattr { qid, attributes, valid: 0x7ff } = Rmessage::decode(&reply).unwrap().1
    else {
        panic!("{reply:?}")
    };
    assert_eq!((qid.path, attributes.size), (3, 3));
    talk.answered(Tmessage::Tclunk { fid: Fid(1) });
    let reply = talk.answered(walk(0, 1, &[b"d", b"gone"]));
    assert_eq!(Rmessage::decode(&reply).unwrap().1, walked(&[(2, QidKind::DIR)]), "not to its end");
    let reply = talk.answered(walk(0, 1, &[b"d"]));
    assert_eq!(Rmessage::decode(&reply).unwrap().1, walked(&[(2, QidKind::DIR)]));
    let reply = talk.answered(walk(1, 2, &[b"gone"]));
    assert_eq!(reply, Rmessage::error(Tag(9), ENOENT));
    assert_eq!(talk.session.in_flight(), 0);
    assert_eq!(talk.session.poll_request(), None);
}

#[test]
fn what_is_not_known_is_asked() {
    let mut talk = Talk::hinted();
    talk.passes(1, walk(0, 1, &[b"other"]));
    talk.passes(2, walk(0, 2, &[b"d", b"other"]));
    talk.now = 2 * SECOND;
    talk.passes(3, walk(0, 3, &[b"d"]));
    talk.passes(4, stat(0));
}

#[test]
fn extended_attributes_that_are_not_there_cost_no_round_trip() {
    let mut talk = Talk::new();
    let list = hint::xattrs_of_list(b"user.a\0user.b\0").unwrap();
    let mut with = node(2, QidKind::FILE);
    with.xattrs = Some(Xattrs::from_bytes(&list));
    let mut unknown = node(3, QidKind::FILE);
    unknown.xattrs = None;
    let (tag, _) = talk.passes(1, walk(0, 9, &[b"x"]));
    talk.hint(tag, 1, &[(b"a", Some(with)), (b"b", Some(unknown))]);
    talk.hears(tag, walked(&[]));
    talk.answered(walk(0, 1, &[b"a"]));
    talk.answered(walk(0, 2, &[b"b"]));
    let ask = |fid, name| Tmessage::Txattrwalk { fid: Fid(fid), newfid: Fid(7), name };
    assert_eq!(talk.answered(ask(1, b"user.c")), Rmessage::error(Tag(9), ENODATA));
    let reply = talk.answered(ask(1, b""));
    assert_eq!(Rmessage::decode(&reply).unwrap().1, Rmessage::Rxattrwalk { size: 14 });
    let read = |offset| Tmessage::Tread { fid: Fid(7), offset, count: 8 };
    assert_eq!(talk.answered(read(0)).body.concat(), b"user.a\0u");
    assert_eq!(talk.answered(read(8)).body.concat(), b"ser.b\0");
    for end in [14, 15, u64::MAX] {
        assert_eq!(talk.answered(read(end)).body.len(), 0);
    }
    assert_eq!(talk.answered(stat(7)), Rmessage::error(Tag(9), EBADF));
    talk.answered(Tmessage::Tclunk { fid: Fid(7) });
    // One that is there has a value, and of the other node nothing is known.
    talk.waits(1, ask(1, b"user.a"));
    talk.waits(2, ask(2, b"user.c"));
}

#[test]
fn a_fid_is_made_at_the_far_end_when_it_is_needed_there() {
    let mut talk = Talk::hinted();
    talk.answered(walk(0, 1, &[b"d", b"f"]));
    let (fetch, request) = talk.waits(5, open(1));
    let Tmessage::Twalk { newfid, names, .. } = decoded(&request) else { panic!("{request:?}") };
    assert_eq!(names.as_slice(), [b"d", b"f"]);
    assert_eq!(talk.asks(6, Tmessage::Tstatfs { fid: Fid(1) }), Request::Wait, "behind it");
    assert_eq!(talk.session.in_flight(), 2);
    assert_eq!(talk.hears(fetch, walked(&[(2, QidKind::DIR), (3, QidKind::FILE)])), None);
    let (tag, opening) = talk.own();
    assert_eq!(decoded(&opening), Tmessage::Tlopen { fid: newfid, flags: 0 });
    assert_eq!(talk.hears(tag, OPENED), Some(5));
    let (tag, _) = talk.own();
    assert_eq!(talk.hears(tag, Rmessage::Rlerror { errno: 5 }), Some(6));
    // From here on it is as any other.
    let (_, clunk) = talk.passes(1, Tmessage::Tclunk { fid: Fid(1) });
    assert_eq!(decoded(&clunk), Tmessage::Tclunk { fid: newfid });
}

#[test]
fn a_fid_that_the_far_end_cannot_make_any_more_gives_its_error() {
    let reply = [
        (Rmessage::Rlerror { errno: 13 }, 13, 0),
        (walked(&[(2, QidKind::DIR)]), ENOENT, 0),
        (walked(&[(2, QidKind::DIR), (99, QidKind::FILE)]), ESTALE, 1),
    ];
    for (reply, errno, clunks) in reply {
        let mut talk = Talk::hinted();
        talk.answered(walk(0, 1, &[b"d", b"f"]));
        let (fetch, _) = talk.waits(5, open(1));
        assert_eq!(talk.hears(fetch, reply), None);
        let replies: Vec<Packet> = core::iter::from_fn(|| talk.session.poll_reply()).collect();
        assert_eq!(replies, [Rmessage::error(Tag(5), errno)]);
        let own = core::iter::from_fn(|| talk.session.poll_request()).count();
        assert_eq!(own, clunks, "another node's fid is forgotten there");
        assert_eq!(talk.answered(open(1)), Rmessage::error(Tag(9), errno));
        talk.answered(Tmessage::Tclunk { fid: Fid(1) });
        // The names are asked for anew.
        talk.passes(7, walk(0, 1, &[b"d", b"f"]));
    }
}

#[test]
fn a_base_stays_at_the_far_end_as_long_as_it_is_one() {
    let mut talk = Talk::hinted();
    let (tag, _) = talk.passes(1, walk(0, 1, &[b"e"]));
    talk.hint(tag, 5, &[(b"x", Some(node(6, QidKind::FILE)))]);
    talk.hears(tag, walked(&[(5, QidKind::DIR)]));
    talk.answered(walk(1, 2, &[b"x"]));
    talk.answered(walk(2, 3, &[]));
    talk.answered(Tmessage::Tclunk { fid: Fid(1) });
    assert_eq!(talk.session.poll_request(), None);
    talk.answered(Tmessage::Tclunk { fid: Fid(2) });
    assert_eq!(talk.session.poll_request(), None);
    talk.answered(Tmessage::Tclunk { fid: Fid(3) });
    let (tag, clunk) = talk.own();
    assert!(matches!(decoded(&clunk), Tmessage::Tclunk { .. }));
    assert_eq!(talk.hears(tag, Rmessage::Rclunk), None);
    assert_eq!(talk.answered(stat(1)), Rmessage::error(Tag(9), EBADF));
}

#[test]
fn names_that_are_about_to_change_are_walked_first() {
    for change in [
        Tmessage::Tunlinkat { dirfid: Fid(1), name: b"f", flags: 0 },
        Tmessage::Trenameat { olddirfid: Fid(1), oldname: b"f", newdirfid: Fid(1), newname: b"g" },
        Tmessage::Trenameat { olddirfid: Fid(1), oldname: b"g", newdirfid: Fid(1), newname: b"f" },
    ] {
        let mut talk = Talk::hinted();
        let (tag, _) = talk.passes(1, walk(0, 1, &[b"e"]));
        talk.hint(tag, 1, &[(b"e", Some(node(2, QidKind::DIR)))]);
        talk.hears(tag, walked(&[(2, QidKind::DIR)]));
        talk.answered(walk(1, 2, &[b"f"]));
        let (fetch, _) = talk.waits(5, change);
        assert_eq!(talk.session.poll_request(), None, "only once it is there");
        talk.hears(fetch, walked(&[(3, QidKind::FILE)]));
        let (_, request) = talk.own();
        assert_eq!(request.header().unwrap().kind, change.kind().0);
        assert!(talk.session.poll_request().is_none());
        talk.passes(6, stat(2));
    }
}

#[test]
fn a_change_takes_away_what_is_known() {
    // The name is of the folder 2, which is fid 1; fid 2 is the file.
    let changes: [(Tmessage<'_>, bool, bool); 6] = [
        (Tmessage::Tmkdir { dfid: Fid(1), name: b"new", mode: 0, gid: 0 }, true, false),
        (Tmessage::Tmkdir { dfid: Fid(1), name: b"gone", mode: 0, gid: 0 }, true, false),
        (Tmessage::Tsetattr { fid: Fid(2), set: Default::default() }, false, true),
        (Tmessage::Tlink { dfid: Fid(1), fid: Fid(2), name: b"new" }, true, true),
        (Tmessage::Tlopen { fid: Fid(2), flags: 0o1000 }, false, true),
        (Tmessage::Txattrcreate { fid: Fid(2), name: b"user.a", size: 0, flags: 0 }, false, true),
    ];
    for (change, folder, file) in changes {
        let mut talk = Talk::new();
        let (tag, _) = talk.passes(1, walk(0, 1, &[b"d"]));
        talk.hint(tag, 1, &[(b"d", Some(node(2, QidKind::DIR)))]);
        talk.hint(tag, 2, &[(b"f", Some(node(3, QidKind::FILE))), (b"gone", None)]);
        talk.hears(tag, walked(&[(2, QidKind::DIR)]));
        let (tag, _) = talk.passes(1, walk(1, 2, &[b"new"]));
        talk.hears(tag, walked(&[(3, QidKind::FILE)]));
        talk.answered(stat(1));
        talk.answered(stat(2));
        let (tag, _) = talk.passes(1, change);
        let known = |talk: &mut Talk, fid| {
            matches!(talk.asks(10 + fid as u16, stat(fid)), Request::Answer(_))
        };
        let now = (known(&mut talk, 1), known(&mut talk, 2));
        assert_eq!(now, (!folder, !file), "{change:?} under way");
        talk.hears(tag, Rmessage::Rlerror { errno: 5 });
        let gone = matches!(change, Tmessage::Tmkdir { name: b"gone", .. });
        let asked = matches!(talk.asks(7, walk(1, 3, &[b"gone"])), Request::Forward(_));
        assert_eq!(asked, gone, "{change:?}");
    }
}

#[test]
fn a_hint_from_before_a_change_says_nothing() {
    let mut talk = Talk::hinted();
    let (asked, _) = talk.passes(1, walk(0, 1, &[b"x"]));
    talk.answered(walk(0, 2, &[b"d"]));
    let made = Tmessage::Tmkdir { dfid: Fid(2), name: b"gone", mode: 0, gid: 0 };
    let (fetch, _) = talk.waits(2, made);
    talk.hears(fetch, walked(&[(2, QidKind::DIR)]));
    let (tag, _) = talk.own();
    let qid = Qid { kind: QidKind::DIR, version: 1, path: 8 };
    assert_eq!(talk.hears(tag, Rmessage::Rmkdir { qid }), Some(2));
    // Made here a moment ago: known.
    talk.answered(walk(2, 3, &[b"gone"]));
    talk.hint(asked, 2, &[(b"gone", None)]);
    let reply = talk.answered(walk(2, 4, &[b"gone"]));
    assert_eq!(Rmessage::decode(&reply).unwrap().1, walked(&[(8, QidKind::DIR)]));
}

#[test]
fn what_the_far_end_takes_back_is_asked_for_again() {
    let mut talk = Talk::hinted();
    talk.answered(walk(0, 1, &[b"d", b"f"]));
    talk.forgets(&[(2, b"f")]);
    talk.waits(1, stat(1));
    talk.answered(walk(0, 2, &[b"d"]));
    talk.passes(3, walk(0, 3, &[b"d", b"f"]));
    talk.forgets(&[(1, b"")]);
    talk.passes(4, walk(0, 4, &[b"d"]));
    let mut talk = Talk::hinted();
    talk.forgets(&[]);
    talk.passes(4, walk(0, 4, &[b"d"]));
}

#[test]
fn attributes_that_were_asked_for_are_known() {
    let mut talk = Talk::hinted();
    let (tag, _) = talk.passes(1, walk(0, 1, &[b"x"]));
    talk.hears(tag, walked(&[(7, QidKind::FILE)]));
    let (tag, _) = talk.passes(2, stat(1));
    let Node { valid, qid, attributes, .. } = node(7, QidKind::FILE);
    talk.hears(tag, Rmessage::Rgetattr { valid, qid, attributes });
    talk.answered(stat(1));
    let (tag, _) = talk.passes(
        3,
        Tmessage::Tlock {
            fid: Fid(1),
            kind: 1,
            flags: 0,
            start: 0,
            length: 0,
            proc_id: 1,
            client_id: b"",
        },
    );
    talk.hears(tag, Rmessage::Rlock { status: 0 });
    talk.passes(4, stat(1));
}

#[test]
fn a_request_that_waits_can_be_flushed_and_fails_with_the_channel() {
    let mut talk = Talk::hinted();
    talk.answered(walk(0, 1, &[b"d", b"f"]));
    let (fetch, _) = talk.waits(5, open(1));
    let again = open(1).encode(Tag(5));
    let refused = talk.session.handle_request(talk.now, &again.head, 0);
    assert_eq!(refused, Err(SessionError::TagInUse(5)));
    let reply = talk.asks(6, Tmessage::Tflush { oldtag: Tag(5) });
    assert_eq!(reply, Request::Answer(Rmessage::Rflush.encode(Tag(6))));
    talk.hears(fetch, walked(&[(2, QidKind::DIR), (3, QidKind::FILE)]));
    assert_eq!((talk.session.poll_request(), talk.replies()), (None, 0));

    talk.answered(walk(0, 2, &[b"d", b"f"]));
    talk.waits(5, open(2));
    talk.session.fail();
    assert_eq!(talk.session.poll_reply(), Some(Rmessage::error(Tag(5), 5)));
}

#[test]
fn a_new_session_knows_nothing() {
    let mut talk = Talk::hinted();
    talk.answered(walk(0, 1, &[b"d"]));
    talk.waits(5, open(1));
    talk.passes(0xffff, Tmessage::Tversion { msize: 65536, version: VERSION });
    talk.hears(0xffff, Rmessage::Rversion { msize: 8192, version: VERSION });
    assert_eq!((talk.session.in_flight(), talk.session.poll_request()), (0, None));
    assert_eq!(talk.answered(stat(1)), Rmessage::error(Tag(9), EBADF));
}

#[test]
fn without_hints_nothing_is_remembered_and_with_strict_coherence_they_are_refused() {
    let mut talk = Talk::new();
    let (tag, _) = talk.passes(1, stat(0));
    let Node { valid, qid, attributes, .. } = node(1, QidKind::DIR);
    talk.hears(tag, Rmessage::Rgetattr { valid, qid, attributes });
    talk.passes(2, stat(0));
    let mut strict = Session::new(Msize::MAX);
    let hint = Writer::new(Tag(1), 1, false).finish();
    assert!(strict.handle_reply(&hint.head, 0).is_err());
    let broken = vec![11, 0, 0, 0, 3, 1, 0, 1, 2, 3, 4];
    assert!(talk.session.handle_reply(&broken.into(), 0).is_err());
}

#[test]
fn what_is_open_is_not_kept_open_to_walk_from() {
    let mut talk = Talk::hinted();
    let (tag, _) = talk.passes(1, walk(0, 1, &[b"e"]));
    talk.hears(tag, walked(&[(2, QidKind::DIR)]));
    talk.answered(walk(1, 2, &[b"f"]));
    let (fetch, _) = talk.waits(2, open(1));
    talk.hears(fetch, walked(&[(3, QidKind::FILE)]));
    let (tag, _) = talk.own();
    talk.hears(tag, OPENED);
    talk.passes(3, walk(1, 3, &[b"f"]));
    talk.passes(4, Tmessage::Tclunk { fid: Fid(1) });
}

/// A stream that reads a file of a megabyte, which fid 1 is open on, in steps of 128 KiB.
fn reader() -> (Talk, Vec<u8>) {
    let mut talk = Talk::new();
    let (tag, _) = talk.passes(0xffff, Tmessage::Tversion { msize: 1 << 20, version: VERSION });
    talk.hears(tag, Rmessage::Rversion { msize: 1 << 20, version: VERSION });
    let (fid, afid) = (Fid(0), Fid::NONE);
    let attach = Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 };
    let (tag, _) = talk.passes(1, attach);
    talk.hears(tag, Rmessage::Rattach { qid: ROOT });
    let (tag, _) = talk.passes(1, walk(0, 1, &[b"f"]));
    talk.hint(tag, 9, &[(b"other", None)]);
    talk.hears(tag, walked(&[(3, QidKind::FILE)]));
    let (tag, _) = talk.passes(1, open(1));
    talk.hears(tag, OPENED);
    (talk, (0..1 << 20).map(|at| (at / 1000) as u8).collect())
}

const STEP: u32 = 128 << 10;

fn step(n: u32) -> Tmessage<'static> {
    Tmessage::Tread { fid: Fid(1), offset: u64::from(n * STEP), count: STEP }
}

impl Talk {
    /// Answers a read of the channel's.
    fn gives(&mut self, tag: u16, request: &Packet, content: &[u8]) -> Reply {
        let Tmessage::Tread { offset, count, .. } = decoded(request) else { panic!("{request:?}") };
        let from = (offset as usize).min(content.len());
        let data = content[from..(from + count as usize).min(content.len())].to_vec();
        let head = Rmessage::Rread { count: data.len() as u32 };
        let packet = head.with_body(Tag(tag), vec![data.clone().into()]);
        let reply = self.session.handle_reply(&packet.head, data.len()).unwrap();
        if reply == Reply::Keep {
            self.session.keep(vec![data.into()]);
        }
        reply
    }

    /// Reads a third time, and asks for more.
    fn waits_for_a_block(&mut self) {
        assert_eq!(self.asks(6, step(2)), Request::Wait);
        while self.session.poll_request().is_some() {}
    }

    /// Reads twice, so that what follows is asked for: those questions.
    fn two_steps(&mut self, content: &[u8]) -> Vec<(u16, Packet)> {
        for n in 0..2 {
            let (tag, request) = self.passes(5, step(n));
            assert!(matches!(self.gives(tag, &request, content), Reply::Pass(_)));
        }
        let (tag, request) = self.own();
        assert!(matches!(decoded(&request), Tmessage::Tgetattr { .. }));
        let Node { valid, qid, mut attributes, .. } = node(3, QidKind::FILE);
        attributes.size = content.len() as u64;
        assert_eq!(self.hears(tag, Rmessage::Rgetattr { valid, qid, attributes }), None);
        core::iter::from_fn(|| self.session.poll_request())
            .map(|packet| (packet.header().unwrap().tag.0, packet))
            .collect()
    }
}

#[test]
fn a_sequential_reader_is_answered_from_what_was_read_ahead() {
    let (mut talk, content) = reader();
    let blocks = talk.two_steps(&content);
    assert_eq!(blocks.len(), 2, "a window of two steps");
    assert_eq!(talk.asks(6, step(2)), Request::Wait);
    assert_eq!(talk.session.in_flight(), 1);
    assert_eq!(talk.gives(blocks[0].0, &blocks[0].1, &content), Reply::Keep);
    let reply = talk.session.poll_reply().unwrap();
    assert_eq!(reply.header().unwrap().tag, Tag(6));
    assert_eq!(reply.body.concat(), content[2 * STEP as usize..3 * STEP as usize]);
    assert_eq!(talk.gives(blocks[1].0, &blocks[1].1, &content), Reply::Keep);
    let reply = talk.answered(step(3));
    assert_eq!(reply.body.concat(), content[3 * STEP as usize..4 * STEP as usize]);
    // The window has grown while it waited.
    let more = core::iter::from_fn(|| talk.session.poll_request()).count();
    assert!(more >= 2, "{more}");
}

#[test]
fn a_write_through_the_same_mount_is_read() {
    let (mut talk, content) = reader();
    let blocks = talk.two_steps(&content);
    talk.waits_for_a_block();
    let (fid, offset, count) = (Fid(1), 0, 5);
    let write =
        Tmessage::Twrite { fid, offset, count }.with_body(Tag(7), vec![Bytes::from("12345")]);
    let written = talk.session.handle_request(talk.now, &write.head, 5).unwrap();
    assert!(matches!(written, Request::Forward(_)));
    // Who waited asks the file server, and what was on its way is dropped.
    let (tag, request) = talk.own();
    assert_eq!(talk.gives(blocks[0].0, &blocks[0].1, &content), Reply::Keep);
    assert_eq!(talk.replies(), 0);
    assert!(matches!(talk.gives(tag, &request, &content), Reply::Pass(_)));
    talk.passes(8, step(3));
}

#[test]
fn a_read_that_waits_is_flushed_or_fails_like_any_other() {
    let (mut talk, content) = reader();
    let blocks = talk.two_steps(&content);
    talk.waits_for_a_block();
    let again = step(2).encode(Tag(6));
    let refused = talk.session.handle_request(talk.now, &again.head, 0);
    assert_eq!(refused, Err(SessionError::TagInUse(6)));
    let reply = talk.asks(7, Tmessage::Tflush { oldtag: Tag(6) });
    assert_eq!(reply, Request::Answer(Rmessage::Rflush.encode(Tag(7))));
    assert_eq!(talk.gives(blocks[0].0, &blocks[0].1, &content), Reply::Keep);
    assert_eq!((talk.replies(), talk.session.in_flight()), (0, 0));

    let (mut talk, content) = reader();
    let blocks = talk.two_steps(&content);
    talk.waits_for_a_block();
    // An error of a block is nobody's: the read itself is made.
    assert_eq!(talk.hears(blocks[0].0, Rmessage::Rlerror { errno: 5 }), None);
    let (tag, _) = talk.own();
    assert_eq!(talk.hears(tag, Rmessage::Rlerror { errno: 116 }), Some(6));

    let (mut talk, content) = reader();
    talk.two_steps(&content);
    talk.waits_for_a_block();
    talk.session.fail();
    assert_eq!(talk.session.poll_reply(), Some(Rmessage::error(Tag(6), 5)));
    assert_eq!(talk.session.poll_reply(), None);
}

#[test]
fn what_is_opened_for_direct_reading_is_not_read_ahead() {
    let (mut talk, content) = reader();
    let (tag, _) = talk.passes(1, walk(0, 2, &[b"f"]));
    talk.hears(tag, walked(&[(3, QidKind::FILE)]));
    let (tag, _) = talk.passes(1, Tmessage::Tlopen { fid: Fid(2), flags: 0o40000 });
    talk.hears(tag, OPENED);
    for n in 0..4 {
        let offset = u64::from(n * STEP);
        let read = Tmessage::Tread { fid: Fid(2), offset, count: STEP };
        let (tag, request) = talk.passes(5, read);
        talk.gives(tag, &request, &content);
        assert_eq!(talk.session.poll_request(), None);
    }
}

#[test]
fn whoever_is_killed_while_a_fid_comes_waits_for_nothing() {
    for reply in [
        walked(&[(2, QidKind::DIR), (3, QidKind::FILE)]),
        walked(&[(2, QidKind::DIR), (4, QidKind::FILE)]),
        Rmessage::Rlerror { errno: 2 },
    ] {
        let mut talk = Talk::hinted();
        talk.answered(walk(0, 1, &[b"d", b"f"]));
        let (fetch, request) = talk.waits(5, open(1));
        let Tmessage::Twalk { newfid, .. } = decoded(&request) else { panic!("{request:?}") };
        let flushed = talk.asks(6, Tmessage::Tflush { oldtag: Tag(5) });
        assert_eq!(flushed, Request::Answer(Rmessage::Rflush.encode(Tag(6))));
        talk.answered(Tmessage::Tclunk { fid: Fid(1) });
        // The number is used again, for another node, before the far end has answered.
        talk.answered(walk(0, 1, &[b"d"]));
        talk.hears(fetch, reply);
        if matches!(reply, Rmessage::Rwalk { .. }) {
            let (_, clunk) = talk.own();
            assert_eq!(decoded(&clunk), Tmessage::Tclunk { fid: newfid });
        }
        assert_eq!((talk.session.poll_request(), talk.replies()), (None, 0));
        talk.answered(stat(1));
    }
}

#[test]
fn a_server_that_gives_no_hints_is_not_read_ahead_from() {
    let (mut talk, content) = reader();
    talk.session.hinted = false;
    for n in 0..4 {
        let (tag, request) = talk.passes(5, step(n));
        talk.gives(tag, &request, &content);
        assert_eq!(talk.session.poll_request(), None);
    }
}

#[test]
fn a_client_that_is_told_hears_what_is_watched_and_what_is_taken_back() {
    let mut talk = Talk::new();
    talk.session = talk.session.telling();
    let (tag, _) = talk.passes(1, walk(0, 100, &[b"f"]));
    let mut writer = Writer::new(Tag(tag), 1, true);
    let file = Node { watched: true, ..node(3, QidKind::FILE) };
    writer.push(&Entry { name: b"f", node: Some(file) });
    talk.session.handle_reply(&writer.finish().head, 0).unwrap();
    talk.hears(tag, walked(&[(3, QidKind::FILE)]));
    let valid = |reply: &Packet| match Rmessage::decode(reply) {
        Ok((_, Rmessage::Rgetattr { valid, .. })) => valid,
        other => panic!("{other:?}"),
    };
    let told = valid(&talk.answered(stat(100)));
    assert_eq!(told & !0x7ff, hint::WATCHED | hint::NO_XATTRS);
    // It goes the way of replies, and holds the far end's credit until it has been read: a far end that
    // takes back without an end must not fill memory here.
    let forget = hint::forget([(1, &b"f"[..])]).head;
    assert_eq!(talk.session.handle_reply(&forget, 0).unwrap(), Reply::Pass(forget));
    assert_eq!(talk.replies(), 0);
    talk.passes(2, stat(100));
    talk.session.fail();
    let all = talk.session.poll_reply().unwrap();
    assert_eq!(all, hint::forget([]));
    talk.session.fail();
    assert_eq!(talk.replies(), 1, "of the request, and nothing is taken back twice");
}
