//! The client's side of the answers: each checked against its request as it comes, on whatever thread.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use server::fs::Replies;
use transport::id::Tag;
use transport::ninep::codec::Reader;
use transport::ninep::message::Entry;
use transport::ninep::{Kind, Packet, Rmessage, Tmessage};

/// How long an answer may take: a bound on hangs alone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest message, small so that folders need several.
pub const MSIZE: u32 = 8192;

/// In everything outside the folder, and nowhere else.
pub const SENTINEL: &[u8] = b"QSF-SENTINEL";

/// What is kept of a request.
#[derive(Clone, Copy, Debug)]
struct Asked {
    kind: Kind,
    count: u32,
    flushes: Option<Tag>,
    waits: bool,
}

/// Requests without an answer.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<HashMap<Tag, Asked>>,
    came: Condvar,
}

impl Inbox {
    /// Notes a request that is about to be made.
    pub fn expect(&self, packet: &Packet) {
        let (tag, message) = Tmessage::decode(packet).expect("the client's own");
        let flushes = match message {
            Tmessage::Tflush { oldtag } => Some(oldtag),
            _ => None,
        };
        let count = match message {
            Tmessage::Tread { count, .. }
            | Tmessage::Treaddir { count, .. }
            | Tmessage::Twrite { count, .. } => count,
            Tmessage::Twalk { names, .. } => names.as_slice().len() as u32,
            _ => 0,
        };
        let waits = matches!(message, Tmessage::Tlock { flags, .. } if flags & 1 != 0);
        let asked = Asked { kind: message.kind(), count, flushes, waits };
        let before = self.waiting.lock().unwrap().insert(tag, asked);
        assert!(before.is_none(), "the client uses {tag:?} twice");
    }

    /// Whether a request of that tag has no answer yet.
    pub fn waits_for(&self, tag: Tag) -> bool {
        self.waiting.lock().unwrap().contains_key(&tag)
    }

    /// Requests that may wait for others: for locks.
    pub fn held_up(&self) -> Vec<Tag> {
        let waiting = self.waiting.lock().unwrap();
        waiting.iter().filter(|(_, asked)| asked.waits).map(|(tag, _)| *tag).collect()
    }

    /// Waits until a request has its answer; not for one that may wait for a lock.
    pub fn wait_for(&self, tag: Tag) {
        let waits =
            |waiting: &mut HashMap<Tag, Asked>| waiting.get(&tag).is_some_and(|asked| !asked.waits);
        let waiting = self.waiting.lock().unwrap();
        let (waiting, hang) = self.came.wait_timeout_while(waiting, PATIENCE, waits).unwrap();
        assert!(!hang.timed_out(), "no answer to {:?}", waiting.get(&tag));
    }

    /// Waits until there is nothing to wait for.
    pub fn wait_for_all(&self) {
        let waits = |waiting: &mut HashMap<Tag, Asked>| !waiting.is_empty();
        let waiting = self.waiting.lock().unwrap();
        let (waiting, hang) = self.came.wait_timeout_while(waiting, PATIENCE, waits).unwrap();
        assert!(!hang.timed_out(), "no answers to {waiting:?}");
    }
}

impl Replies for Inbox {
    fn reply(&self, reply: Packet) {
        let (tag, message) = Rmessage::decode(&reply).expect("what the server sends is 9P");
        let mut waiting = self.waiting.lock().unwrap();
        let asked = waiting.remove(&tag);
        let asked = asked.unwrap_or_else(|| panic!("an answer to nothing: {tag:?} {message:?}"));
        check(asked, &message, &reply);
        if let Some(old) = asked.flushes {
            // Nothing may come of it any more.
            waiting.remove(&old);
        }
        if asked.kind == Kind::Tversion {
            waiting.clear();
        }
        self.came.notify_all();
    }
}

fn check(asked: Asked, reply: &Rmessage<'_>, packet: &Packet) {
    let bytes = packet.to_vec();
    assert!(bytes.len() <= MSIZE as usize, "a reply above msize");
    assert!(packet.body.iter().all(|piece| !piece.is_empty()));
    assert!(
        !bytes.windows(SENTINEL.len()).any(|window| window == SENTINEL),
        "{asked:?} reads outside: {reply:?}"
    );
    if let Rmessage::Rlerror { errno } = *reply {
        assert!((1..=133).contains(&errno), "{asked:?} fails with {errno}");
        return;
    }
    assert_eq!(reply.kind(), asked.kind.reply(), "{asked:?}");
    match reply {
        Rmessage::Rread { count } | Rmessage::Rwrite { count } => assert!(*count <= asked.count),
        Rmessage::Rreaddir { count } => {
            assert!(*count <= asked.count);
            let mut reader = Reader::new(packet.body.first().map_or(&[], |piece| piece));
            while !reader.rest().is_empty() {
                let entry: Entry<'_> = reader.field().expect("whole entries");
                let name = entry.name;
                assert!(!name.is_empty() && !name.iter().any(|byte| matches!(byte, b'/' | 0)));
            }
        }
        Rmessage::Rwalk { qids } => assert!(qids.as_slice().len() <= asked.count as usize),
        Rmessage::Rgetattr { qid, attributes, .. } => {
            let folder = attributes.mode & 0o170_000 == 0o040_000;
            assert_eq!(qid.kind.0 & 0x80 != 0, folder);
            assert!(qid.version != 0 || attributes.mode & 0o170_000 != 0o100_000);
        }
        _ => {}
    }
}
