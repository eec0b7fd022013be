//! Requests that have no answer yet, by tag, and `Tflush`.
//!
//! ```text
//!            take in ─► queued ──► running ──► answered
//!                         │  ▲        │
//!                 cancel  │  └ retry ─┴─► parked (a lock that is waited for) ─ cancel ─┐
//!                         └──────────────────────────────────────────────────────────► gone
//! ```
//!
//! flush(5): what is queued or parked is cancelled, what runs is waited for, and `Rflush` comes
//! after the answer, never before it. An answer leaves in two steps for that: its tag is free before
//! it is handed over, as the client may use it again at once, but until it has been handed over a
//! `Tflush` for it waits.
//!
//! Concurrency: one lock, never held while an answer is handed over.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use transport::id::Tag;
use transport::ninep::{Packet, Rmessage};

use super::dispatch::Subjects;
use super::limits;
use super::node::lock;

const QUEUED: u8 = 0;
const RUNNING: u8 = 1;
const PARKED: u8 = 2;
const CANCELLED: u8 = 3;

/// A request from when it is taken in until it is answered.
#[derive(Debug)]
pub struct Request {
    /// Its tag.
    pub tag: Tag,
    /// The message; it has been decoded once without error.
    pub packet: Packet,
    /// The fids that it names first and second, as they were when it came.
    pub fids: Subjects,
    /// Bytes of a `Twrite` that have been written already.
    pub done: u32,
    /// Times that it has been parked.
    pub parked: AtomicU32,
    epoch: AtomicU64,
    state: AtomicU8,
}

impl Request {
    /// A request that nothing knows of yet. One that is not `cancellable` is carried out even if
    /// the client gives it up: a part of it is done already, as its fid is gone from the table.
    pub fn new(tag: Tag, packet: Packet, fids: Subjects, cancellable: bool, done: u32) -> Request {
        Request {
            tag,
            packet,
            fids,
            done,
            parked: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
            state: AtomicU8::new(if cancellable { QUEUED } else { RUNNING }),
        }
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether it is to be carried out now: it has not been cancelled.
    pub fn start(&self) -> bool {
        self.change(QUEUED, RUNNING) || self.state.load(Ordering::Acquire) == RUNNING
    }

    /// Whether it is to be tried again: it is parked, and not cancelled.
    pub fn retry(&self) -> bool {
        self.change(PARKED, QUEUED)
    }

    /// Whether it is still waiting to be tried again.
    pub fn is_parked(&self) -> bool {
        self.state.load(Ordering::Acquire) == PARKED
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    fn cancel(&self) -> bool {
        self.change(QUEUED, CANCELLED) || self.change(PARKED, CANCELLED)
    }
}

/// Requests that are done, and whose memory serves others.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<Arc<Request>>>);

impl Spare {
    /// Kept at most: as many as the transport has under way for one stream.
    const MOST: usize = 256;

    /// `request` in memory that is shared.
    pub fn make(&self, request: Request) -> Arc<Request> {
        let Some(mut used) = lock(&self.0).pop() else { return Arc::new(request) };
        match Arc::get_mut(&mut used) {
            Some(memory) => {
                *memory = request;
                used
            }
            None => Arc::new(request),
        }
    }

    /// Takes back what `make` gave, once it is done. What it held is let go.
    pub fn give(&self, mut request: Arc<Request>) {
        let Some(done) = Arc::get_mut(&mut request) else { return };
        done.packet = Packet::default();
        done.fids = [None, None];
        let mut spare = lock(&self.0);
        if spare.len() < Spare::MOST {
            spare.push(request);
        }
    }
}

/// What became of a new request.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is in the table.
    Taken,
    /// There are too many; it is not in the table.
    Busy,
    /// Its tag belongs to another that has no answer yet.
    TagInUse,
    /// A `Tversion` has not been answered yet.
    Resetting,
}

/// What became of a `Tflush`.
#[derive(Debug, PartialEq, Eq)]
pub enum Flush {
    /// Its `Rflush` is due now.
    Now,
    /// Its `Rflush` follows the other request's answer.
    Later,
}

/// The requests of one session.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    active: HashMap<u16, Active>,
    leaving: Vec<Leaving>,
    bytes: usize,
    /// Of which session, as each `Tversion` begins another, requests are.
    epoch: u64,
    /// Requests of earlier epochs that still run.
    draining: usize,
    /// The answer that waits for them.
    version: Option<Packet>,
    serial: u64,
    closed: bool,
}

#[derive(Debug)]
struct Active {
    /// Nothing for a `Tflush` that waits.
    request: Option<Arc<Request>>,
    bytes: usize,
    flushes: Vec<Tag>,
}

#[derive(Debug)]
struct Leaving {
    serial: u64,
    epoch: u64,
    tag: Tag,
    flushes: Vec<Tag>,
}

impl Table {
    /// What would become of a request.
    fn look(&self, tag: Tag, bytes: usize) -> Admission {
        if self.version.is_some() {
            Admission::Resetting
        } else if self.active.contains_key(&tag.0) {
            Admission::TagInUse
        } else if self.active.len() >= limits::REQUESTS
            || self.bytes + bytes > limits::REQUEST_BYTES
        {
            Admission::Busy
        } else {
            Admission::Taken
        }
    }

    fn admit(&mut self, tag: Tag, request: Option<Arc<Request>>, bytes: usize) -> Admission {
        let admission = self.look(tag, bytes);
        if admission != Admission::Taken {
            return admission;
        }
        if let Some(request) = &request {
            request.epoch.store(self.epoch, Ordering::Release);
        }
        self.bytes += bytes;
        self.active.insert(tag.0, Active { request, bytes, flushes: Vec::new() });
        Admission::Taken
    }

    fn remove(&mut self, tag: Tag) -> Option<Active> {
        let active = self.active.remove(&tag.0)?;
        self.bytes -= active.bytes;
        Some(active)
    }

    /// Ends every request of this epoch.
    fn end_epoch(&mut self) {
        self.epoch += 1;
        self.bytes = 0;
        for (_, active) in std::mem::take(&mut self.active) {
            if active.request.is_some_and(|request| !request.cancel()) {
                self.draining += 1;
            }
        }
        // An answer that is leaving has to be out before the `Rversion`, too.
        self.draining += self.leaving.len();
        self.leaving.iter_mut().for_each(|leaving| leaving.flushes.clear());
    }

    /// Frees a tag whose answer is about to be handed over.
    fn leave(&mut self, tag: Tag) -> u64 {
        self.serial += 1;
        let flushes = self.remove(tag).map(|active| active.flushes).unwrap_or_default();
        self.leaving.push(Leaving { serial: self.serial, epoch: self.epoch, tag, flushes });
        self.serial
    }

    /// One of an earlier epoch is done. Gives the `Rversion` that waited for it, if it was the last.
    fn drained(&mut self) -> Option<Packet> {
        self.draining = self.draining.saturating_sub(1);
        if self.draining == 0 { self.version.take() } else { None }
    }
}

impl InFlight {
    /// What would become of a request. Enough for one that is answered before the next is looked at:
    /// nothing can be about it, nor happen to it.
    pub fn look(&self, tag: Tag, bytes: usize) -> Admission {
        lock(&self.0).look(tag, bytes)
    }

    /// Takes a request in.
    pub fn admit(&self, request: &Arc<Request>) -> Admission {
        let bytes = request.packet.len();
        lock(&self.0).admit(request.tag, Some(request.clone()), bytes)
    }

    /// Takes a request in that cannot be refused: one that ends something. Its tag is free.
    pub fn admit_anyway(&self, request: &Arc<Request>) {
        let mut table = lock(&self.0);
        request.epoch.store(table.epoch, Ordering::Release);
        let active = Active { request: Some(request.clone()), bytes: 0, flushes: Vec::new() };
        table.active.insert(request.tag.0, active);
    }

    /// Requests and their bytes that have no answer yet.
    pub fn load(&self) -> (usize, usize) {
        let table = lock(&self.0);
        (table.active.len(), table.bytes)
    }

    /// Gives `old` up for `tag`, which is the `Tflush`'s own.
    pub fn flush(&self, tag: Tag, old: Tag) -> Result<Flush, Admission> {
        let mut table = lock(&self.0);
        match table.admit(tag, None, 0) {
            // A flush ends requests: it is never one too many.
            Admission::Busy => {
                let active = Active { request: None, bytes: 0, flushes: Vec::new() };
                table.active.insert(tag.0, active);
            }
            Admission::Taken => {}
            other => return Err(other),
        }
        if old == tag {
            return Ok(Flush::Now);
        }
        if let Some(active) = table.active.get_mut(&old.0) {
            if active.request.as_ref().is_some_and(|request| request.cancel()) {
                table.remove(old);
                return Ok(Flush::Now);
            }
            active.flushes.push(tag);
            return Ok(Flush::Later);
        }
        // Of several that leave under one tag the last is meant.
        if let Some(leaving) = table.leaving.iter_mut().rev().find(|one| one.tag == old) {
            leaving.flushes.push(tag);
            return Ok(Flush::Later);
        }
        Ok(Flush::Now)
    }

    /// Lets a running request wait to be tried again. Gives the flushes that are due instead, where
    /// the client has given it up meanwhile: it is cancelled then. False and none: it is no longer
    /// of this session.
    pub fn park(&self, request: &Request) -> Park {
        let table = lock(&self.0);
        if request.epoch.load(Ordering::Acquire) != table.epoch || table.closed {
            return Park::Ended;
        }
        let given_up =
            table.active.get(&request.tag.0).is_some_and(|active| !active.flushes.is_empty());
        if given_up {
            return Park::GivenUp;
        }
        request.state.store(PARKED, Ordering::Release);
        Park::Parked
    }

    /// Hands the answer to `request` over by `send`, or throws it away where the request is not
    /// this session's any more; then the `Rflush`es that waited for it. Without an answer only
    /// those. Gives the `Rversion` that waited for the last such request.
    pub fn answer(
        &self,
        request: &Request,
        reply: Option<Packet>,
        mut send: impl FnMut(Packet),
    ) -> Option<Packet> {
        let serial = {
            let mut table = lock(&self.0);
            if request.epoch.load(Ordering::Acquire) != table.epoch {
                return table.drained();
            }
            table.leave(request.tag)
        };
        self.hand_over(serial, reply, &mut send)
    }

    /// Hands over an `Rflush` that is due. Gives what [`InFlight::answer`] gives.
    pub fn flushed(&self, tag: Tag, mut send: impl FnMut(Packet)) -> Option<Packet> {
        let serial = lock(&self.0).leave(tag);
        self.hand_over(serial, Some(Rmessage::Rflush.encode(tag)), &mut send)
    }

    fn hand_over(
        &self,
        serial: u64,
        reply: Option<Packet>,
        send: &mut impl FnMut(Packet),
    ) -> Option<Packet> {
        let mut version = None;
        let mut next = Some((serial, reply));
        // Mostly nothing is: then it costs no allocation.
        let mut due = VecDeque::new();
        while let Some((serial, reply)) = next.take().or_else(|| due.pop_front()) {
            if let Some(reply) = reply {
                send(reply);
            }
            let mut table = lock(&self.0);
            let Some(at) = table.leaving.iter().position(|one| one.serial == serial) else {
                continue;
            };
            let left = table.leaving.remove(at);
            if left.epoch != table.epoch {
                version = table.drained();
                continue;
            }
            for tag in left.flushes {
                let serial = table.leave(tag);
                due.push_back((serial, Some(Rmessage::Rflush.encode(tag))));
            }
        }
        version
    }

    /// Ends all requests for a `Tversion`. Gives its answer back where nothing is left to wait for;
    /// otherwise the last request that still runs gives it ([`InFlight::answer`]).
    pub fn reset(&self, version: Packet) -> Option<Packet> {
        let mut table = lock(&self.0);
        table.end_epoch();
        if table.draining == 0 {
            return Some(version);
        }
        table.version = Some(version);
        None
    }

    /// Ends all requests for good.
    pub fn close(&self) {
        let mut table = lock(&self.0);
        table.closed = true;
        table.end_epoch();
        table.version = None;
    }
}

/// What became of a request that was to be parked.
#[derive(Debug, PartialEq, Eq)]
pub enum Park {
    /// It is parked.
    Parked,
    /// A `Tflush` for it came: it is to be ended without an answer.
    GivenUp,
    /// Its session was reset or closed.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tag: u16) -> Arc<Request> {
        Arc::new(Request::new(Tag(tag), Packet::default(), [None, None], true, 0))
    }

    fn reply(tag: u16) -> Option<Packet> {
        Some(Rmessage::Rclunk.encode(Tag(tag)))
    }

    #[test]
    fn a_queued_request_is_cancelled_at_once() {
        let inflight = InFlight::default();
        let one = request(1);
        assert_eq!(inflight.admit(&one), Admission::Taken);
        assert_eq!(inflight.flush(Tag(2), Tag(1)), Ok(Flush::Now));
        assert!(!one.start());
        assert_eq!(inflight.admit(&request(1)), Admission::Taken, "the tag is free again");
    }

    #[test]
    fn a_running_request_is_waited_for_and_flushes_follow_in_order() {
        let inflight = InFlight::default();
        let one = request(1);
        inflight.admit(&one);
        assert!(one.start());
        assert_eq!(inflight.flush(Tag(2), Tag(1)), Ok(Flush::Later));
        assert_eq!(inflight.flush(Tag(3), Tag(1)), Ok(Flush::Later));
        assert_eq!(inflight.flush(Tag(4), Tag(2)), Ok(Flush::Later));
        let mut sent = Vec::new();
        inflight.answer(&one, reply(1), |packet| sent.push(packet.header().unwrap().tag.0));
        assert_eq!(sent, [1, 2, 3, 4]);
        assert_eq!(inflight.load(), (0, 0));
    }

    #[test]
    fn a_flush_that_comes_while_the_answer_leaves_waits_for_it() {
        let inflight = InFlight::default();
        let one = request(1);
        inflight.admit(&one);
        assert!(one.start());
        let mut sent = Vec::new();
        inflight.answer(&one, reply(1), |packet| {
            let tag = packet.header().unwrap().tag.0;
            if tag == 1 {
                assert_eq!(inflight.flush(Tag(2), Tag(1)), Ok(Flush::Later));
            }
            sent.push(tag);
        });
        assert_eq!(sent, [1, 2]);
    }

    #[test]
    fn a_reset_waits_for_what_runs_and_swallows_it() {
        let inflight = InFlight::default();
        let (one, two) = (request(1), request(2));
        inflight.admit(&one);
        inflight.admit(&two);
        assert!(one.start());
        assert!(inflight.reset(Packet::default()).is_none());
        assert!(!two.start());
        assert_eq!(inflight.admit(&request(3)), Admission::Resetting);
        let version = inflight.answer(&one, reply(1), |_| panic!("of the session before"));
        assert!(version.is_some());
        assert_eq!(inflight.admit(&request(1)), Admission::Taken);
    }

    #[test]
    fn memory_of_a_request_is_used_again_once_nobody_holds_it() {
        let spare = Spare::default();
        let make = |tag| {
            let packet = Packet::whole(vec![7; 100]);
            spare.make(Request::new(Tag(tag), packet, [None, None], true, 0))
        };
        let one = make(1);
        let (memory, other) = (Arc::as_ptr(&one), one.clone());
        spare.give(one);
        let two = make(2);
        assert_ne!(Arc::as_ptr(&two), memory, "it is held");
        spare.give(other);
        let three = make(3);
        assert_eq!((Arc::as_ptr(&three), three.tag), (memory, Tag(3)));
    }

    #[test]
    fn a_tag_in_use_is_noticed() {
        let inflight = InFlight::default();
        inflight.admit(&request(1));
        assert_eq!(inflight.admit(&request(1)), Admission::TagInUse);
        assert_eq!(inflight.flush(Tag(1), Tag(9)), Err(Admission::TagInUse));
    }
}
