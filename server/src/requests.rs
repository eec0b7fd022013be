//! A stream's requests, from when they have come until they are answered: what waits, what the file server
//! works on, what its replies may take up, and the credit that goes back to the client.
//!
//! A request's credit goes back when it has been answered. What a flush flushes has no answer of its own
//! any more once the flush has one, nor has anything that began before a new session.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use transport::id::Tag;
use transport::ninep::{Kind, Packet};

use crate::backend::Asked;
use crate::waiting::{self, Waiting};
pub use crate::waiting::{MAX, SMALL_REPLY};

/// How a file server treats its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manners {
    /// A lock that is waited for stays unanswered for as long, and what it holds is little.
    pub parks: bool,
    /// The credit of such a lock goes back at once: it is held in this process, where its bytes are bounded.
    pub keeps_locks_here: bool,
    /// Of two flushes of one request the earlier has no answer.
    pub answers_last_flush_only: bool,
}

/// What comes of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Bytes of credit that go back.
    pub credit: u32,
    /// Flushes which the file server has forgotten over it: they are to be answered before it.
    pub flushes: Vec<Tag>,
}

/// The requests of a stream.
#[derive(Debug)]
pub struct Requests {
    manners: Manners,
    /// Those that wait for room.
    waiting: Waiting,
    /// Those that are being answered.
    running: HashMap<Tag, Running>,
    /// The sum of `reserved` of those.
    reserved: usize,
    /// Requests begun so far.
    begun: u64,
}

#[derive(Debug)]
struct Running {
    /// What its reply is checked by, where it goes to another process.
    asked: Option<Asked>,
    /// Bytes that its reply may have.
    reserved: usize,
    /// Bytes of credit that it holds.
    credit: u32,
    /// It is for a lock that is waited for.
    parks: bool,
    /// Which it is of all that have begun: its tag may be another's by the time that it is looked for.
    serial: u64,
    /// The request that it flushes, or the earlier flush of that, by tag and serial.
    flushes: Option<(Tag, u64)>,
    kind: Kind,
}

impl Requests {
    /// None yet.
    pub fn new(manners: Manners) -> Requests {
        Requests {
            manners,
            waiting: Waiting::default(),
            running: HashMap::new(),
            reserved: 0,
            begun: 0,
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a request that has come; gives the credit of what is dropped for it.
    pub fn push(&mut self, request: Packet) -> u32 {
        self.waiting.push(request)
    }

    /// The next one that may begin, while `unsent` bytes of replies are on their way, on a channel of so
    /// many `streams`.
    pub fn next(&mut self, unsent: usize, streams: usize) -> Option<Packet> {
        self.waiting.next(unsent + self.reserved, streams)
    }

    /// What the reply to `tag` is to be checked by.
    pub fn asked(&self, tag: Tag) -> Option<Asked> {
        self.running.get(&tag)?.asked
    }

    /// A request goes to the file server; gives the credit that goes back at once. The error says why it
    /// may not go.
    pub fn begin(&mut self, request: &Packet, asked: Option<Asked>) -> Result<u32, String> {
        let header = request.header().map_err(|error| error.to_string())?;
        let parks = waiting::may_park(request) && self.manners.parks;
        let size = u32::try_from(request.len()).unwrap_or(u32::MAX);
        let early = if parks && self.manners.keeps_locks_here { size } else { 0 };
        self.begun += 1;
        let running = Running {
            asked,
            // What stays for long leaves all room to others, and is little.
            reserved: if parks { 0 } else { waiting::reply_size(request) },
            credit: size - early,
            parks,
            serial: self.begun,
            flushes: waiting::flushed(request).and_then(|tag| self.to_flush(tag)),
            kind: Kind(header.kind),
        };
        self.reserved += running.reserved;
        if self.running.insert(header.tag, running).is_some() {
            return Err("a tag is used by two requests at a time".into());
        }
        self.waiting.count(parks, 1);
        Ok(early)
    }

    /// What has no answer of its own any more once a flush of `tag` has one.
    fn to_flush(&self, tag: Tag) -> Option<(Tag, u64)> {
        let old = self.running.get(&tag)?;
        let target = Some((tag, old.serial));
        if !self.manners.answers_last_flush_only {
            return target;
        }
        if old.kind == Kind::Tflush {
            // It is answered all the same.
            return None;
        }
        let earlier = self.running.iter().filter(|(_, running)| running.flushes == target);
        let earlier = earlier.map(|(tag, running)| (*tag, running.serial)).next();
        earlier.map(|first| self.last_behind(first)).or(target)
    }

    /// The last of the flushes that follow `first`, each of which takes the one before it along.
    fn last_behind(&self, first: (Tag, u64)) -> (Tag, u64) {
        let behind = self.running.iter().find(|(_, running)| running.flushes == Some(first));
        behind.map_or(first, |(tag, running)| self.last_behind((*tag, running.serial)))
    }

    /// A request has been answered.
    pub fn answered(&mut self, tag: Tag) -> Answered {
        let mut answered = Answered::default();
        let mut next = self.running.get(&tag).map(|running| (tag, running.serial));
        while let Some((at, serial)) = next {
            let Entry::Occupied(entry) = self.running.entry(at) else { break };
            if entry.get().serial != serial {
                break;
            }
            let running = entry.remove();
            self.ended(&running, &mut answered);
            if at != tag && running.kind == Kind::Tflush && self.manners.answers_last_flush_only {
                answered.flushes.push(at);
            }
            // What was flushed has no reply of its own any more.
            next = running.flushes;
            if running.kind == Kind::Tversion {
                // A new session: nothing of the old one is answered any more.
                let all = std::mem::take(&mut self.running);
                let (old, new): (HashMap<_, _>, _) =
                    all.into_iter().partition(|(_, running)| running.serial < serial);
                self.running = new;
                old.values().for_each(|running| self.ended(running, &mut answered));
            }
        }
        answered
    }

    fn ended(&mut self, running: &Running, answered: &mut Answered) {
        self.waiting.count(running.parks, -1);
        self.reserved -= running.reserved;
        answered.credit += running.credit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::id::{Fid, Msize};
    use transport::ninep::Tmessage;
    use transport::ninep::message::VERSION;

    const EMBEDDED: Manners =
        Manners { parks: true, keeps_locks_here: true, answers_last_flush_only: false };
    const DIOD: Manners =
        Manners { parks: false, keeps_locks_here: false, answers_last_flush_only: true };

    /// Begins a request; gives the credit that it holds.
    fn begin(requests: &mut Requests, request: &Packet) -> u32 {
        assert_eq!(requests.begin(request, None), Ok(0));
        request.len() as u32
    }

    fn credit(requests: &mut Requests, tag: Tag) -> u32 {
        let answered = requests.answered(tag);
        assert_eq!(answered.flushes, []);
        answered.credit
    }

    fn version(msize: u32) -> Packet {
        Tmessage::Tversion { msize, version: VERSION }.encode(Tag::NONE)
    }

    fn read(tag: u16) -> Packet {
        Tmessage::Tread { fid: Fid(1), offset: 0, count: 1 << 20 }.encode(Tag(tag))
    }

    fn flush(tag: u16, oldtag: u16) -> Packet {
        Tmessage::Tflush { oldtag: Tag(oldtag) }.encode(Tag(tag))
    }

    #[test]
    fn a_flush_gives_back_what_it_flushes_and_not_a_later_one_of_that_tag() {
        for manners in [EMBEDDED, DIOD] {
            let mut requests = Requests::new(manners);
            let old = begin(&mut requests, &read(1));
            let first = begin(&mut requests, &flush(2, 1));
            assert_eq!(credit(&mut requests, Tag(2)), first + old);
            let early = begin(&mut requests, &flush(3, 1));
            let later = begin(&mut requests, &read(1));
            assert_eq!(credit(&mut requests, Tag(3)), early);
            assert_eq!(requests.reserved, waiting::reply_size(&read(1)));
            assert_eq!(credit(&mut requests, Tag(1)), later);
            assert_eq!((requests.reserved, requests.running.len()), (0, 0));
        }
    }

    #[test]
    fn a_version_gives_back_what_came_before_it_and_nothing_else() {
        for msize in [Msize::MAX.bytes(), 1] {
            let mut requests = Requests::new(EMBEDDED);
            let old = begin(&mut requests, &read(1)) + begin(&mut requests, &read(3));
            let reset = begin(&mut requests, &version(msize));
            let new = begin(&mut requests, &read(2));
            assert_eq!(credit(&mut requests, Tag::NONE), reset + old);
            assert_eq!(requests.reserved, waiting::reply_size(&read(2)));
            assert_eq!(credit(&mut requests, Tag(2)), new);
        }
    }

    #[test]
    fn flushes_that_a_server_forgets_over_a_later_one_are_answered_with_it() {
        let mut requests = Requests::new(DIOD);
        let mut held = begin(&mut requests, &read(1));
        for tag in 2..6 {
            held += begin(&mut requests, &flush(tag, 1));
        }
        // Of a flush: that is answered for itself.
        let other = begin(&mut requests, &flush(9, 3));
        assert_eq!(credit(&mut requests, Tag(9)), other);
        let answered = requests.answered(Tag(5));
        assert_eq!(answered, Answered { credit: held, flushes: vec![Tag(4), Tag(3), Tag(2)] });
        assert_eq!((requests.reserved, requests.running.len()), (0, 0));
        // Where the request has its answer before the flush has, they all have.
        held = begin(&mut requests, &flush(3, 1));
        assert_eq!(credit(&mut requests, Tag(3)), held);
    }

    #[test]
    fn a_tag_is_not_used_twice_at_a_time() {
        let mut requests = Requests::new(DIOD);
        begin(&mut requests, &read(1));
        assert!(requests.begin(&read(1), None).is_err());
    }
}
