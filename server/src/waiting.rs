//! Requests of a stream that have come and not begun: who goes next, and what has to wait.
//!
//! Reads wait while the replies that may come of those before them would not fit; other requests have
//! room of their own besides, so that a folder can still be listed while large reads queue up. Where a
//! client takes no replies at all, nothing begins any more: what waits holds its credit, and so the
//! client can ask for no more than that. A flush waits for nothing else: what it flushes is taken out
//! of the queue, or is with the file server already. 9P gives requests no order but this (flush(5)).

use std::collections::VecDeque;

use transport::id::{Msize, Tag};
use transport::ninep::message::lock::FLAG_BLOCK;
use transport::ninep::packet::HEADER;
use transport::ninep::{Kind, Packet};

/// Bytes of replies that a stream may have made and not sent, or be making, before its reads wait: four
/// of the largest.
const BUDGET: usize = 4 * 1024 * 1024;
/// The same for all streams together, each of which may always have one read under way.
const CHANNEL_BUDGET: usize = 64 * 1024 * 1024;
/// What is left to other requests when reads have used theirs up, and the last of them gone beyond it.
const EXTRA: usize = Msize::MAX.bytes() as usize + RUNNING * SMALL_REPLY;
/// Requests that the file server works on at a time for one stream; it takes some more.
const RUNNING: usize = 256;
/// Locks that may be waited for at a time for one stream: half of what the file server takes.
const PARKED: usize = 2048;
/// Requests that may wait. The kernel has one for each task that waits; nobody has so many tasks.
pub const MAX: usize = 4096;
/// What a reply costs besides its payload, in bytes, and one without payload in all.
pub const SMALL_REPLY: usize = 1024;

/// The queue.
#[derive(Debug, Default)]
pub struct Waiting {
    flushes: VecDeque<Packet>,
    reads: VecDeque<Packet>,
    others: VecDeque<Packet>,
    locks: VecDeque<Packet>,
    /// Requests that the file server works on, but for locks that are waited for.
    running: usize,
    /// Those: they may stay for long, and nothing may wait for them that could end them.
    parked: usize,
    /// Reads and others take turns.
    read_next: bool,
}

impl Waiting {
    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.flushes.len() + self.reads.len() + self.others.len() + self.locks.len()
    }

    /// Counts one that has begun or ended.
    pub fn count(&mut self, parks: bool, by: isize) {
        let count = if parks { &mut self.parked } else { &mut self.running };
        *count = count.saturating_add_signed(by);
    }

    /// Adds a request. Where it flushes one that waits, that is dropped, and all that wait where it
    /// begins a new session: the bytes of credit which go back for them, else 0.
    pub fn push(&mut self, request: Packet) -> u32 {
        if Kind(request.head[4]) == Kind::Tversion {
            let queues = [&mut self.flushes, &mut self.reads, &mut self.others, &mut self.locks];
            let old = queues.into_iter().flat_map(|queue| queue.drain(..));
            let dropped = old.map(|old| old.len() as u32).sum();
            self.others.push_back(request);
            return dropped;
        }
        let Some(old) = flushed(&request) else {
            let queue = if is_read(&request) {
                &mut self.reads
            } else if may_park(&request) {
                &mut self.locks
            } else {
                &mut self.others
            };
            queue.push_back(request);
            return 0;
        };
        let is_old = |waiting: &Packet| waiting.header().is_ok_and(|header| header.tag == old);
        if self.others.iter().any(|waiting| is_old(waiting) && is_clunk(waiting)) {
            // A fid that is being forgotten must be forgotten: the flush waits behind that.
            self.others.push_back(request);
            return 0;
        }
        self.flushes.push_back(request);
        for queue in [&mut self.reads, &mut self.others, &mut self.locks] {
            if let Some(dropped) = queue.iter().position(is_old).and_then(|at| queue.remove(at)) {
                return u32::try_from(dropped.len()).unwrap_or(u32::MAX);
            }
        }
        0
    }

    /// The next request that may begin, while replies may take up `made` bytes already, on a channel of
    /// so many `streams`.
    pub fn next(&mut self, made: usize, streams: usize) -> Option<Packet> {
        let budget = (CHANNEL_BUDGET / streams.max(1)).min(BUDGET);
        if made >= budget + EXTRA {
            return None;
        }
        if let Some(flush) = self.flushes.pop_front() {
            return Some(flush);
        }
        if self.parked < PARKED {
            if let Some(lock) = self.locks.pop_front() {
                return Some(lock);
            }
        }
        if self.running >= RUNNING {
            return None;
        }
        self.read_next = !self.read_next;
        let reads = if made < budget { Some(&mut self.reads) } else { None };
        let (first, second) = if self.read_next {
            (reads, Some(&mut self.others))
        } else {
            (Some(&mut self.others), reads)
        };
        first.and_then(VecDeque::pop_front).or_else(|| second?.pop_front())
    }
}

fn is_read(request: &Packet) -> bool {
    matches!(Kind(request.head[4]), Kind::Tread | Kind::Treaddir)
}

fn is_clunk(request: &Packet) -> bool {
    matches!(Kind(request.head[4]), Kind::Tclunk | Kind::Tremove)
}

/// Whether a request is for a lock that is to be waited for.
pub fn may_park(request: &Packet) -> bool {
    // fid[4] type[1] flags[4]
    let flags = field(&request.head, HEADER + 5).map_or(0, u32::from_le_bytes);
    Kind(request.head[4]) == Kind::Tlock && flags & FLAG_BLOCK != 0
}

/// The most bytes that a request's reply can have, or nearly.
pub fn reply_size(request: &Packet) -> usize {
    if !is_read(request) {
        return SMALL_REPLY;
    }
    // fid[4] offset[8] count[4]
    let count = field(&request.head, HEADER + 12).map_or(0, u32::from_le_bytes);
    count.min(Msize::MAX.bytes()) as usize + SMALL_REPLY
}

/// The tag that a request flushes, if it is a `Tflush`.
pub fn flushed(request: &Packet) -> Option<Tag> {
    let tag = field(&request.head, HEADER)?;
    (Kind(request.head[4]) == Kind::Tflush).then(|| Tag(u16::from_le_bytes(tag)))
}

fn field<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::id::Fid;
    use transport::ninep::Tmessage;

    fn read(tag: u16, count: u32) -> Packet {
        Tmessage::Tread { fid: Fid(1), offset: 0, count }.encode(Tag(tag))
    }

    fn stat(tag: u16) -> Packet {
        Tmessage::Tgetattr { fid: Fid(1), mask: 0 }.encode(Tag(tag))
    }

    #[test]
    fn reads_without_room_let_others_pass() {
        let mut waiting = Waiting::default();
        waiting.push(read(1, 1 << 20));
        waiting.push(stat(2));
        assert_eq!(waiting.next(BUDGET, 1), Some(stat(2)));
        assert_eq!(waiting.next(BUDGET, 1), None);
        assert_eq!(waiting.next(BUDGET / 2, 32), None, "what 32 streams share is less for each");
        assert_eq!(waiting.next(BUDGET - 1, 1), Some(read(1, 1 << 20)));
    }

    #[test]
    fn without_any_room_nothing_begins() {
        let mut waiting = Waiting::default();
        let flush = Tmessage::Tflush { oldtag: Tag(1) }.encode(Tag(3));
        waiting.push(flush.clone());
        waiting.push(stat(2));
        assert_eq!(waiting.next(BUDGET + EXTRA, 1), None);
        assert_eq!(waiting.next(BUDGET + EXTRA - 1, 1), Some(flush));
        assert_eq!(waiting.next(BUDGET + EXTRA - 1, 1), Some(stat(2)));
    }

    #[test]
    fn a_flush_takes_what_it_flushes_out_of_the_queue_and_goes_first() {
        let mut waiting = Waiting { running: RUNNING, ..Waiting::default() };
        waiting.push(read(1, 10));
        waiting.push(stat(2));
        let flush = Tmessage::Tflush { oldtag: Tag(1) }.encode(Tag(3));
        assert_eq!(waiting.push(flush.clone()) as usize, read(1, 10).len());
        assert_eq!(waiting.next(0, 1), Some(flush));
        assert_eq!(waiting.next(0, 1), None);
        waiting.running = 0;
        assert_eq!(waiting.next(0, 1), Some(stat(2)));
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn a_clunk_is_not_flushed() {
        let clunk = Tmessage::Tclunk { fid: Fid(1) }.encode(Tag(1));
        let flush = Tmessage::Tflush { oldtag: Tag(1) }.encode(Tag(2));
        let mut waiting = Waiting::default();
        waiting.push(clunk.clone());
        assert_eq!(waiting.push(flush.clone()), 0);
        assert_eq!([waiting.next(0, 1), waiting.next(0, 1)], [Some(clunk), Some(flush)]);
    }

    #[test]
    fn nothing_that_waits_outlives_its_session() {
        let version = Tmessage::Tversion { msize: 8192, version: b"9P2000.L" }.encode(Tag::NONE);
        let flush = Tmessage::Tflush { oldtag: Tag(9) }.encode(Tag(3));
        let mut waiting = Waiting::default();
        let old = [read(1, 10), stat(2), flush];
        for request in &old {
            waiting.push(request.clone());
        }
        let bytes: usize = old.iter().map(Packet::len).sum();
        assert_eq!(waiting.push(version.clone()) as usize, bytes);
        assert_eq!((waiting.next(0, 1), waiting.len()), (Some(version), 0));
    }

    #[test]
    fn reads_and_others_take_turns() {
        let mut waiting = Waiting::default();
        for tag in 0..3 {
            waiting.push(read(tag, 10));
            waiting.push(stat(10 + tag));
        }
        let order: Vec<u16> = std::iter::from_fn(|| waiting.next(0, 1))
            .map(|request| request.header().unwrap().tag.0)
            .collect();
        assert_eq!(order, [0, 10, 1, 11, 2, 12]);
    }

    #[test]
    fn a_reply_is_reserved_as_it_may_come() {
        assert_eq!(reply_size(&read(1, 5000)), 5000 + SMALL_REPLY);
        assert_eq!(reply_size(&read(1, u32::MAX)), Msize::MAX.bytes() as usize + SMALL_REPLY);
        assert_eq!(reply_size(&stat(1)), SMALL_REPLY);
    }
}
