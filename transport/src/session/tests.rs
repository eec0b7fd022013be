use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::ninep::message::{Names, Qid, QidKind, Qids};

const NOW: Duration = Duration::ZERO;
const QID: Qid = Qid { kind: QidKind::FILE, version: 1, path: 1 };

/// Both ends of a conversation, written as they would speak.
struct Talk(Session);

impl Talk {
    fn new() -> Talk {
        let mut talk = Talk(Session::new(Msize::MAX));
        let version = Tmessage::Tversion { msize: 65536, version: VERSION };
        assert!(matches!(talk.asks(0xffff, version), Request::Forward(_)));
        talk.hears(0xffff, Rmessage::Rversion { msize: 8192, version: VERSION });
        assert_eq!(talk.0.max_message(), 8192);
        talk.passes(1, attach(0));
        talk.hears(0, Rmessage::Rattach { qid: QID });
        talk
    }

    /// The kernel sends a request.
    fn asks(&mut self, tag: u16, message: Tmessage<'_>) -> Request {
        self.0.handle_request(NOW, &message.encode(Tag(tag)).head, 0).unwrap()
    }

    /// The kernel sends a request that goes to the channel: its tag there.
    fn passes(&mut self, tag: u16, message: Tmessage<'_>) -> (u16, Vec<u8>) {
        match self.asks(tag, message) {
            Request::Forward(head) => (Header::read(&head).unwrap().tag.0, head.to_vec()),
            other => panic!("not passed on: {other:?}"),
        }
    }

    /// The far end answers; the kernel's tag, if it hears of it.
    fn hears(&mut self, tag: u16, message: Rmessage<'_>) -> Option<u16> {
        match self.0.handle_reply(&message.encode(Tag(tag)).head, 0).unwrap() {
            Reply::Pass(head) => Some(Header::read(&head).unwrap().tag.0),
            Reply::Drop | Reply::Keep | Reply::Made => None,
        }
    }
}

fn attach(fid: u32) -> Tmessage<'static> {
    Tmessage::Tattach { fid: Fid(fid), afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 }
}

fn walk(fid: u32, newfid: u32) -> Tmessage<'static> {
    Tmessage::Twalk { fid: Fid(fid), newfid: Fid(newfid), names: Names::new(&[b"a"]).unwrap() }
}

fn walked(count: usize) -> Rmessage<'static> {
    let mut qids = Qids::default();
    (0..count).for_each(|_| assert!(qids.push(QID)));
    Rmessage::Rwalk { qids }
}

fn clunk(fid: u32) -> Tmessage<'static> {
    Tmessage::Tclunk { fid: Fid(fid) }
}

#[test]
fn replies_find_their_requests_in_any_order() {
    let mut talk = Talk::new();
    let (a, _) = talk.passes(7, walk(0, 1));
    let (b, _) = talk.passes(8, walk(0, 2));
    assert_ne!(a, b);
    assert_eq!(talk.hears(b, walked(1)), Some(8));
    assert_eq!(talk.hears(a, walked(1)), Some(7));
    assert_eq!(talk.0.in_flight(), 0);
}

#[test]
fn a_fid_that_was_never_made_is_answered_here() {
    let mut talk = Talk::new();
    assert_eq!(talk.asks(1, clunk(5)), Request::Answer(Rmessage::error(Tag(1), EBADF)));
    let (a, _) = talk.passes(2, walk(0, 5));
    // Made by a request that is not answered yet: neither used nor made again.
    assert_eq!(talk.asks(1, clunk(5)), Request::Answer(Rmessage::error(Tag(1), EBADF)));
    assert_eq!(talk.asks(1, walk(0, 5)), Request::Answer(Rmessage::error(Tag(1), EBADF)));
    talk.hears(a, walked(0));
    assert_eq!(talk.asks(1, clunk(5)), Request::Answer(Rmessage::error(Tag(1), EBADF)));
}

#[test]
fn fid_numbers_are_used_again_only_after_their_clunk_is_answered() {
    let mut talk = Talk::new();
    let (a, _) = talk.passes(1, walk(0, 5));
    talk.hears(a, walked(1));
    let (c, first) = talk.passes(1, clunk(5));
    let (b, second) = talk.passes(2, walk(0, 5));
    assert_ne!(first[7..11], second[11..15]);
    talk.hears(c, Rmessage::Rclunk);
    talk.hears(b, walked(1));
    let (_, third) = talk.passes(3, walk(0, 6));
    assert_eq!(first[7..11], third[11..15]);
}

#[test]
fn every_fid_of_a_renameat_is_translated() {
    let mut talk = Talk::new();
    for near in [100, 200] {
        let (tag, _) = talk.passes(1, walk(0, near));
        talk.hears(tag, walked(1));
    }
    let rename = Tmessage::Trenameat {
        olddirfid: Fid(200),
        oldname: b"old",
        newdirfid: Fid(100),
        newname: b"new",
    };
    let (_, head) = talk.passes(1, rename);
    let packet = Packet::whole(head);
    let (_, far) = Tmessage::decode(&packet).unwrap();
    let expected = Tmessage::Trenameat {
        olddirfid: Fid(2),
        oldname: b"old",
        newdirfid: Fid(1),
        newname: b"new",
    };
    assert_eq!(far, expected);
}

#[test]
fn a_flush_is_answered_by_the_far_end_in_time() {
    let mut talk = Talk::new();
    let (read, _) = talk.passes(1, Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 });
    let (flush, head) = talk.passes(2, Tmessage::Tflush { oldtag: Tag(1) });
    assert_eq!(head[7..9], read.to_le_bytes());
    assert_eq!(talk.hears(flush, Rmessage::Rflush), Some(2));
    assert_eq!(talk.0.poll_timeout(), None);
    assert_eq!(talk.0.in_flight(), 0);
    // Nothing may follow it.
    let late = Rmessage::Rlerror { errno: 4 }.encode(Tag(read));
    assert_eq!(talk.0.handle_reply(&late.head, 0), Err(SessionError::Unasked(read)));
}

#[test]
fn a_flush_that_the_far_end_does_not_answer_is_answered_here() {
    let mut talk = Talk::new();
    let (read, _) = talk.passes(1, Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 });
    let (flush, _) = talk.passes(2, Tmessage::Tflush { oldtag: Tag(1) });
    assert_eq!(talk.0.poll_timeout(), Some(FLUSH_TIME));
    talk.0.handle_timeout(FLUSH_TIME);
    assert_eq!(talk.0.poll_reply(), Some(Rmessage::Rflush.encode(Tag(2))));
    // Both tags are the kernel's again; the channel's stay taken, and late replies are dropped.
    let (again, _) = talk.passes(1, Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 });
    assert!(again != read && again != flush);
    assert_eq!(talk.hears(read, Rmessage::Rlerror { errno: 4 }), None);
    // Answered, but still named by a flush: not to be used again yet.
    let (next, _) = talk.passes(3, Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 });
    assert_ne!(next, read);
    assert_eq!(talk.hears(flush, Rmessage::Rflush), None);
    assert_eq!(talk.hears(again, Rmessage::Rlerror { errno: 4 }), Some(1));
}

#[test]
fn a_fid_made_too_late_is_forgotten_at_the_far_end() {
    let mut talk = Talk::new();
    let (late, head) = talk.passes(1, walk(0, 9));
    let (flush, _) = talk.passes(2, Tmessage::Tflush { oldtag: Tag(1) });
    talk.0.handle_timeout(FLUSH_TIME);
    assert_eq!(talk.hears(late, walked(1)), None);
    let own = talk.0.poll_request().unwrap();
    assert_eq!(own.head[4], 120);
    assert_eq!(own.head[7..11], head[11..15]);
    assert_eq!(talk.hears(flush, Rmessage::Rflush), None);
    // The number is free for the kernel at once.
    talk.passes(3, walk(0, 9));
}

#[test]
fn a_lock_granted_too_late_is_given_back() {
    let mut talk = Talk::new();
    let lock = Tmessage::Tlock {
        fid: Fid(0),
        kind: lock::WRLCK,
        flags: lock::FLAG_BLOCK,
        start: 3,
        length: 4,
        proc_id: 5,
        client_id: b"c",
    };
    let (tag, _) = talk.passes(1, lock);
    talk.passes(2, Tmessage::Tflush { oldtag: Tag(1) });
    talk.0.handle_timeout(FLUSH_TIME);
    assert_eq!(talk.hears(tag, Rmessage::Rlock { status: lock::SUCCESS }), None);
    let own = talk.0.poll_request().unwrap();
    let (_, unlock) = Tmessage::decode(&own).unwrap();
    let Tmessage::Tlock { kind: lock::UNLCK, start: 3, length: 4, proc_id: 5, .. } = unlock else {
        panic!("{unlock:?}")
    };
}

#[test]
fn a_clunk_is_answered_at_once_and_its_fid_may_be_made_again() {
    let mut talk = Talk::new();
    let (tag, _) = talk.passes(1, clunk(0));
    assert_eq!(talk.0.poll_reply(), Some(Rmessage::Rclunk.encode(Tag(1))));
    assert_eq!(talk.0.in_flight(), 0);
    let (again, _) = talk.passes(1, attach(0));
    // The far end's own answer, good or bad, is nobody's.
    assert_eq!(talk.hears(tag, Rmessage::Rlerror { errno: EIO }), None);
    assert_eq!(talk.hears(again, Rmessage::Rattach { qid: QID }), Some(1));
    assert_eq!(talk.0.poll_reply(), None);
}

#[test]
fn a_clunk_that_sets_an_attribute_is_waited_for() {
    let mut talk = Talk::new();
    let name = b"user.a";
    let create = Tmessage::Txattrcreate { fid: Fid(0), name, size: 1, flags: 0 };
    let (tag, _) = talk.passes(1, create);
    talk.hears(tag, Rmessage::Rxattrcreate);
    let (tag, _) = talk.passes(1, clunk(0));
    assert_eq!(talk.0.poll_reply(), None);
    assert_eq!(talk.hears(tag, Rmessage::Rlerror { errno: EIO }), Some(1));
}

#[test]
fn clunks_that_a_stalled_far_end_owes_are_bounded() {
    let mut talk = Talk::new();
    for fid in 1..=EARLY_CLUNKS as u32 + 1 {
        let (tag, _) = talk.passes(1, walk(0, fid));
        talk.hears(tag, walked(1));
    }
    for fid in 1..=EARLY_CLUNKS as u32 {
        talk.passes(1, clunk(fid));
        assert_eq!(talk.0.poll_reply(), Some(Rmessage::Rclunk.encode(Tag(1))));
    }
    let (tag, _) = talk.passes(1, clunk(EARLY_CLUNKS as u32 + 1));
    assert_eq!(talk.0.poll_reply(), None);
    assert_eq!(talk.hears(tag, Rmessage::Rclunk), Some(1));
}

#[test]
fn what_ends_a_fid_is_never_given_up() {
    let mut talk = Talk::new();
    let (tag, _) = talk.passes(1, Tmessage::Tremove { fid: Fid(0) });
    assert_eq!(talk.asks(2, Tmessage::Tflush { oldtag: Tag(1) }), Request::Wait);
    assert_eq!(talk.hears(tag, Rmessage::Rremove), Some(1));
    assert_eq!(talk.0.poll_reply(), Some(Rmessage::Rflush.encode(Tag(2))));
    assert_eq!(talk.0.poll_timeout(), None);
}

#[test]
fn a_reply_of_the_wrong_type_or_to_nothing_ends_the_stream() {
    let mut talk = Talk::new();
    let (tag, _) = talk.passes(1, walk(0, 1));
    let wrong = Rmessage::Rclunk.encode(Tag(tag));
    assert_eq!(
        talk.0.handle_reply(&wrong.head, 0),
        Err(SessionError::WrongType { request: 110, reply: 121 })
    );
    let unasked = Rmessage::Rclunk.encode(Tag(77));
    assert_eq!(talk.0.handle_reply(&unasked.head, 0), Err(SessionError::Unasked(77)));
}

#[test]
fn a_tag_used_twice_at_once_ends_the_stream() {
    let mut talk = Talk::new();
    talk.passes(1, walk(0, 1));
    let again = walk(0, 2).encode(Tag(1));
    assert_eq!(talk.0.handle_request(NOW, &again.head, 0), Err(SessionError::TagInUse(1)));
}

#[test]
fn a_version_begins_anew() {
    let mut talk = Talk::new();
    let (old, _) = talk.passes(1, walk(0, 1));
    talk.asks(0xffff, Tmessage::Tversion { msize: 4096, version: VERSION });
    assert_eq!(talk.hears(old, walked(1)), None);
    talk.hears(0xffff, Rmessage::Rversion { msize: 4096, version: VERSION });
    assert_eq!(talk.asks(1, clunk(0)), Request::Answer(Rmessage::error(Tag(1), EBADF)));
    talk.passes(1, attach(0));
}

#[test]
fn what_the_session_before_left_behind_ends_with_it() {
    let mut talk = Talk::new();
    let (walk, _) = talk.passes(1, walk(0, 1));
    talk.hears(walk, walked(1));
    let (clunk, _) = talk.passes(2, clunk(1));
    talk.asks(0xffff, Tmessage::Tversion { msize: 4096, version: VERSION });
    // Its number must not be free in the new session, where it was never taken.
    assert_eq!(talk.hears(clunk, Rmessage::Rclunk), None);
    talk.hears(0xffff, Rmessage::Rversion { msize: 4096, version: VERSION });
    let fids: Vec<_> = (0..3).map(|fid| talk.passes(fid, attach(fid.into())).1).collect();
    let numbers: alloc::collections::BTreeSet<_> = fids.iter().map(|head| &head[7..11]).collect();
    assert_eq!(numbers.len(), 3);
}

#[test]
fn a_request_sent_behind_an_unanswered_version_does_not_wait_for_ever() {
    let mut talk = Talk::new();
    talk.passes(0xffff, Tmessage::Tversion { msize: 8192, version: VERSION });
    let early = talk.0.handle_request(NOW, &attach(1).encode(Tag(3)).head, 0);
    assert_eq!(early, Err(SessionError::Early(104)));
}

#[test]
fn a_version_that_the_far_end_refuses_leaves_no_tags_taken() {
    let mut talk = Talk::new();
    talk.passes(1, walk(0, 1));
    talk.passes(0xffff, Tmessage::Tversion { msize: 8192, version: VERSION });
    talk.hears(0xffff, Rmessage::Rlerror { errno: EIO });
    assert_eq!(talk.passes(1, attach(0)).0, 0, "the first tag");
}

#[test]
fn a_version_is_waited_for_like_any_request() {
    let mut session = Session::new(Msize::MAX);
    let reply = Rmessage::Rversion { msize: 8192, version: VERSION }.encode(Tag::NONE);
    let unasked = Err(SessionError::Unasked(0xffff));
    assert_eq!(session.handle_reply(&reply.head, 0), unasked);
    let version = Tmessage::Tversion { msize: 65536, version: VERSION }.encode(Tag::NONE);
    assert!(session.handle_request(NOW, &version.head, 0).is_ok());
    assert_eq!(session.in_flight(), 1);
    let twice = session.handle_request(NOW, &version.head, 0);
    assert_eq!(twice, Err(SessionError::TagInUse(0xffff)));
    assert!(session.handle_reply(&reply.head, 0).is_ok());
    assert_eq!(session.in_flight(), 0);
    assert_eq!(session.handle_reply(&reply.head, 0), unasked);
}

#[test]
fn every_flush_of_what_ends_a_fid_is_answered() {
    let mut talk = Talk::new();
    let (remove, _) = talk.passes(1, Tmessage::Tremove { fid: Fid(0) });
    for tag in [2, 3] {
        assert_eq!(talk.asks(tag, Tmessage::Tflush { oldtag: Tag(1) }), Request::Wait);
    }
    assert_eq!(talk.hears(remove, Rmessage::Rremove), Some(1));
    assert_eq!(talk.0.poll_reply(), Some(Rmessage::Rflush.encode(Tag(2))));
    assert_eq!(talk.0.poll_reply(), Some(Rmessage::Rflush.encode(Tag(3))));
}

#[test]
fn an_msize_above_what_was_offered_is_refused() {
    let mut session = Session::new(Msize::new(8192).unwrap());
    let version = Tmessage::Tversion { msize: 65536, version: VERSION }.encode(Tag::NONE);
    let Ok(Request::Forward(head)) = session.handle_request(NOW, &version.head, 0) else {
        panic!()
    };
    assert_eq!(head[7..11], 8192u32.to_le_bytes());
    let reply = Rmessage::Rversion { msize: 8193, version: VERSION }.encode(Tag::NONE);
    assert_eq!(session.handle_reply(&reply.head, 0), Err(SessionError::Msize(8193)));
}

#[test]
fn an_older_9p_is_refused_and_no_is_passed_on() {
    let version = Tmessage::Tversion { msize: 65536, version: VERSION }.encode(Tag::NONE);
    let mut session = Session::new(Msize::MAX);
    session.handle_request(NOW, &version.head, 0).unwrap();
    let old = Rmessage::Rversion { msize: 8192, version: b"9P2000" }.encode(Tag::NONE);
    assert_eq!(session.handle_reply(&old.head, 0), Err(SessionError::Version));
    let mut session = Session::new(Msize::MAX);
    session.handle_request(NOW, &version.head, 0).unwrap();
    let no = Rmessage::Rversion { msize: 8192, version: b"unknown" }.encode(Tag::NONE);
    assert_eq!(session.handle_reply(&no.head, 0), Ok(Reply::Pass(no.head.clone())));
    assert_eq!(session.msize(), None);
}

#[test]
fn a_far_end_that_is_gone_is_an_io_error_to_everybody() {
    let mut talk = Talk::new();
    talk.passes(1, Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 });
    talk.passes(2, Tmessage::Tflush { oldtag: Tag(1) });
    talk.0.fail();
    let replies: Vec<_> = core::iter::from_fn(|| talk.0.poll_reply()).collect();
    assert_eq!(replies, [Rmessage::error(Tag(1), EIO), Rmessage::Rflush.encode(Tag(2))]);
    assert_eq!(talk.0.in_flight(), 0);
    assert_eq!(talk.asks(1, clunk(0)), Request::Answer(Rmessage::error(Tag(1), EIO)));
    let version = Tmessage::Tversion { msize: 8192, version: VERSION };
    assert_eq!(talk.asks(0xffff, version), Request::Answer(Rmessage::error(Tag::NONE, EIO)));
}

#[test]
fn a_far_end_that_is_gone_answers_nothing_behind_its_flush() {
    let mut talk = Talk::new();
    let read = Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 };
    talk.passes(9, read);
    talk.passes(8, Tmessage::Tflush { oldtag: Tag(9) });
    talk.passes(7, Tmessage::Tremove { fid: Fid(0) });
    assert_eq!(talk.asks(6, Tmessage::Tflush { oldtag: Tag(7) }), Request::Wait);
    assert_eq!(talk.0.in_flight(), 4);
    talk.0.fail();
    let replies = core::iter::from_fn(|| talk.0.poll_reply());
    let tags: Vec<u16> = replies.map(|reply| reply.header().unwrap().tag.0).collect();
    assert_eq!(tags, [7, 9, 8, 6], "everybody has an answer, flushes after what they flush");
    assert_eq!(talk.0.in_flight(), 0);
}

#[test]
fn the_tag_of_a_flush_that_waits_here_is_in_use() {
    let mut talk = Talk::new();
    talk.passes(1, Tmessage::Tremove { fid: Fid(0) });
    assert_eq!(talk.asks(2, Tmessage::Tflush { oldtag: Tag(1) }), Request::Wait);
    let again = talk.0.handle_request(NOW, &attach(1).encode(Tag(2)).head, 0);
    assert_eq!(again, Err(SessionError::TagInUse(2)));
}

#[test]
fn a_flush_that_was_flushed_is_not_answered() {
    let mut talk = Talk::new();
    let late = NOW + FLUSH_TIME;
    let flush = |oldtag| Tmessage::Tflush { oldtag: Tag(oldtag) };
    talk.passes(1, Tmessage::Tread { fid: Fid(0), offset: 0, count: 1 });
    talk.passes(2, flush(1));
    let (tag, _) = talk.passes(3, flush(2));
    assert_eq!(talk.hears(tag, Rmessage::Rflush), Some(3));
    talk.passes(4, Tmessage::Tremove { fid: Fid(0) });
    assert_eq!(talk.asks(5, flush(4)), Request::Wait);
    assert_eq!(talk.asks(6, flush(5)), Request::Answer(Rmessage::Rflush.encode(Tag(6))));
    talk.0.handle_timeout(late);
    assert_eq!(talk.0.poll_reply(), None);
}

#[test]
fn payloads_are_never_needed() {
    let mut talk = Talk::new();
    let write = Tmessage::Twrite { fid: Fid(0), offset: 0, count: 5 }
        .with_body(Tag(1), vec![Bytes::from_static(b"hello")]);
    assert!(matches!(talk.0.handle_request(NOW, &write.head, 5), Ok(Request::Forward(_))));
}
