//! Who writes next. Arithmetic and order alone: the scheduler knows streams by number and their next
//! frames by charge, not their bytes. What it decides, and the tests named for each rule:
//!
//! 1. Small messages go before bulk, those of every stream in turn, one message each.
//! 2. Bulk is shared among streams by bytes: deficit round robin (Shreedhar and Varghese, 1995) with
//!    a quantum of one full frame, so that a stream of short frames gets as much as one of long ones.
//! 3. Nothing starves. While a bulk frame waits, at most `burst` bytes of small messages go in a row;
//!    then one bulk frame goes, and if the channel's credit does not cover it yet, all wait for that.
//! 4. Bulk leaves room in the channel's credit for one full frame of small messages, except when
//!    rule 3 gives it its turn: else bulk would use all credit up, and small messages would wait a
//!    round trip for more.
//!
//! Control frames are none of its business: they go first. Within a stream the same two lanes and
//! the same rules 3 and 4 hold for the stream's credit (`send.rs`); what a stream offers here
//! is there, whole, and covered by the stream's credit.

use alloc::collections::{BTreeMap, VecDeque};

use super::config::FRAME_CHARGE;
use crate::id::StreamId;

/// How a message is scheduled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Overtakes bulk, that of its own stream too. Messages longer than a chunk are bulk whatever
    /// their class.
    Small,
    /// First in, first out within its stream.
    Bulk,
}

/// What a stream could send now: the charge of its next frame in each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Offer {
    pub small: Option<u32>,
    pub bulk: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    offer: Offer,
    in_small: bool,
    in_bulk: bool,
    /// What the stream may still send in its turn.
    deficit: u32,
}

/// Decides whose frame is next.
#[derive(Debug)]
pub(crate) struct Scheduler {
    entries: BTreeMap<StreamId, Entry>,
    /// Streams in turn. Each at most once; one whose offer is gone is dropped when it comes to the
    /// front, so that a short gap does not cost a stream its place.
    small: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    /// Whether the stream at the front of `bulk` has had its quantum.
    in_turn: bool,
    /// Bytes of small messages sent in a row while bulk waited.
    run: u32,
    burst: u32,
    /// The charge of a full frame: quantum and reserve.
    full: u32,
}

impl Scheduler {
    pub fn new(chunk: u32, burst: u32) -> Scheduler {
        Scheduler {
            entries: BTreeMap::new(),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            in_turn: false,
            run: 0,
            burst,
            full: chunk + FRAME_CHARGE,
        }
    }

    /// Says what a stream could send now, in place of what was said before.
    pub fn offer(&mut self, stream: StreamId, offer: Offer) {
        if offer == Offer::default() && !self.entries.contains_key(&stream) {
            return;
        }
        let entry = self.entries.entry(stream).or_default();
        entry.offer = offer;
        if offer.small.is_some() && !entry.in_small {
            entry.in_small = true;
            self.small.push_back(stream);
        }
        if offer.bulk.is_some() && !entry.in_bulk {
            entry.in_bulk = true;
            self.bulk.push_back(stream);
        }
    }

    /// Forgets a stream.
    pub fn remove(&mut self, stream: StreamId) {
        if self.entries.remove(&stream).is_some() {
            if self.bulk.front() == Some(&stream) {
                self.in_turn = false;
            }
            self.small.retain(|&id| id != stream);
            self.bulk.retain(|&id| id != stream);
        }
    }

    /// Whether no stream is known, for tests.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.small.is_empty() && self.bulk.is_empty()
    }

    /// The frame that is next, if `credit` of the channel covers it. It counts as sent: the caller
    /// sends it and makes the stream's next offer.
    pub fn next(&mut self, credit: u64) -> Option<(StreamId, Class)> {
        self.drop_idle();
        let bulk_waits = !self.bulk.is_empty();
        if !bulk_waits {
            self.run = 0;
        }
        let bulk_is_owed = bulk_waits && self.run >= self.burst;
        if !bulk_is_owed {
            if let Some((stream, charge)) = self.front_of_small() {
                if u64::from(charge) > credit {
                    return None;
                }
                self.small.rotate_left(1);
                self.spend(stream, Class::Small);
                if bulk_waits {
                    self.run = self.run.saturating_add(charge);
                }
                return Some((stream, Class::Small));
            }
        }
        let (stream, charge) = self.front_of_bulk()?;
        let reserve = if bulk_is_owed { 0 } else { self.full };
        if u64::from(charge) + u64::from(reserve) > credit {
            return None;
        }
        self.run = 0;
        self.spend(stream, Class::Bulk);
        Some((stream, Class::Bulk))
    }

    /// The stream whose turn it is in the small lane.
    fn front_of_small(&self) -> Option<(StreamId, u32)> {
        let &stream = self.small.front()?;
        Some((stream, self.entries.get(&stream)?.offer.small?))
    }

    /// The stream whose turn it is in the bulk lane: turns pass on until the one in front may send.
    fn front_of_bulk(&mut self) -> Option<(StreamId, u32)> {
        loop {
            let &stream = self.bulk.front()?;
            let entry = self.entries.get_mut(&stream)?;
            let charge = entry.offer.bulk?;
            if charge <= entry.deficit {
                return Some((stream, charge));
            }
            if self.in_turn {
                self.bulk.rotate_left(1);
                self.in_turn = false;
                self.drop_idle();
            } else {
                // No frame's charge is above the quantum, so that every turn sends at least one.
                entry.deficit += self.full.max(charge);
                self.in_turn = true;
            }
        }
    }

    fn spend(&mut self, stream: StreamId, class: Class) {
        if let Some(entry) = self.entries.get_mut(&stream) {
            match class {
                Class::Small => entry.offer.small = None,
                Class::Bulk => {
                    let charge = entry.offer.bulk.take().unwrap_or(0);
                    entry.deficit = entry.deficit.saturating_sub(charge);
                }
            }
        }
    }

    /// Takes streams that offer nothing off the fronts. A stream that has nothing to send does not
    /// save its deficit up.
    fn drop_idle(&mut self) {
        while let Some(entry) = self.small.front().and_then(|id| self.entries.get_mut(id)) {
            if entry.offer.small.is_some() {
                break;
            }
            entry.in_small = false;
            self.small.pop_front();
        }
        while let Some(entry) = self.bulk.front().and_then(|id| self.entries.get_mut(id)) {
            if entry.offer.bulk.is_some() {
                break;
            }
            entry.in_bulk = false;
            entry.deficit = 0;
            self.in_turn = false;
            self.bulk.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const CHUNK: u32 = 1000;
    const FULL: u32 = CHUNK + FRAME_CHARGE;
    const PLENTY: u64 = 1 << 30;
    const NONE: Offer = Offer { small: None, bulk: None };
    use Class::{Bulk, Small};

    fn scheduler() -> Scheduler {
        Scheduler::new(CHUNK, 2 * FULL)
    }

    fn small(charge: u32) -> Offer {
        Offer { small: Some(charge), bulk: None }
    }

    fn bulk(charge: u32) -> Offer {
        Offer { small: None, bulk: Some(charge) }
    }

    fn both(small: u32, bulk: u32) -> Offer {
        Offer { small: Some(small), bulk: Some(bulk) }
    }

    /// Lets streams that always offer the same send `n` frames.
    fn run(s: &mut Scheduler, offers: &[(u32, Offer)], n: usize) -> Vec<(u32, Class)> {
        for &(id, offer) in offers {
            s.offer(StreamId(id), offer);
        }
        (0..n)
            .map(|_| {
                let (stream, class) = s.next(PLENTY).unwrap();
                let offer = offers.iter().find(|(id, _)| *id == stream.0).unwrap().1;
                s.offer(stream, offer);
                (stream.0, class)
            })
            .collect()
    }

    #[test]
    fn small_goes_before_bulk_of_any_stream() {
        let mut s = scheduler();
        s.offer(StreamId(1), bulk(FULL));
        s.offer(StreamId(2), both(200, FULL));
        assert_eq!(s.next(PLENTY), Some((StreamId(2), Small)));
        assert_eq!(s.next(PLENTY), Some((StreamId(1), Bulk)));
    }

    #[test]
    fn small_messages_go_round_the_streams_one_each() {
        let offers = [(1, small(200)), (2, small(900)), (3, small(150))];
        let order: Vec<u32> = run(&mut scheduler(), &offers, 6).iter().map(|x| x.0).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn full_bulk_frames_go_round_the_streams_one_each() {
        let offers = [(1, bulk(FULL)), (2, bulk(FULL)), (3, bulk(FULL))];
        let order: Vec<u32> = run(&mut scheduler(), &offers, 6).iter().map(|x| x.0).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn bulk_is_shared_by_bytes_not_by_frames() {
        let offers = [(1, bulk(FULL)), (2, bulk(FULL / 5)), (3, bulk(FULL / 2 + 1))];
        let order = run(&mut scheduler(), &offers, 4000);
        let sent = |id: u32| {
            let frames = order.iter().filter(|x| x.0 == id).count() as u32;
            frames * offers[id as usize - 1].1.bulk.unwrap()
        };
        for id in [2, 3] {
            assert!(sent(1).abs_diff(sent(id)) <= 2 * FULL, "{} and {}", sent(1), sent(id));
        }
    }

    #[test]
    fn bulk_is_not_starved_by_a_flood_of_small_messages() {
        let offers = [(1, small(200)), (2, small(200)), (3, bulk(FULL))];
        let mut since = 0;
        for (_, class) in run(&mut scheduler(), &offers, 1000) {
            if class == Bulk {
                assert!(since >= 2 * FULL, "only {since} bytes of small messages in a row");
                since = 0;
            } else {
                since += 200;
                assert!(since < 2 * FULL + 200, "{since} bytes of small messages in a row");
            }
        }
    }

    #[test]
    fn small_messages_are_not_held_back_where_no_bulk_waits() {
        let mut s = scheduler();
        assert!(run(&mut s, &[(1, small(FULL))], 100).iter().all(|x| x.1 == Small));
    }

    #[test]
    fn the_burst_is_counted_afresh_when_bulk_has_been_away() {
        let mut s = scheduler();
        let offers = [(1, small(FULL)), (2, bulk(FULL))];
        assert!(run(&mut s, &offers, 2).iter().all(|x| x.1 == Small), "bulk is owed its turn");
        s.offer(StreamId(2), NONE);
        assert_eq!(s.next(PLENTY), Some((StreamId(1), Small)));
        assert!(run(&mut s, &offers, 2).iter().all(|x| x.1 == Small));
        assert_eq!(s.next(PLENTY), Some((StreamId(2), Bulk)));
    }

    #[test]
    fn bulk_leaves_credit_for_small_messages() {
        let mut s = scheduler();
        s.offer(StreamId(1), bulk(FULL));
        assert_eq!(s.next(u64::from(2 * FULL - 1)), None);
        s.offer(StreamId(2), small(300));
        assert_eq!(s.next(300), Some((StreamId(2), Small)));
        assert_eq!(s.next(u64::from(2 * FULL)), Some((StreamId(1), Bulk)));
    }

    #[test]
    fn bulk_that_is_owed_its_turn_waits_for_credit_and_all_wait_for_it() {
        let mut s = scheduler();
        let offers = [(1, small(FULL)), (2, bulk(FULL))];
        assert!(run(&mut s, &offers, 2).iter().all(|x| x.1 == Small));
        assert_eq!(s.next(u64::from(FULL - 1)), None);
        assert_eq!(s.next(u64::from(FULL)), Some((StreamId(2), Bulk)), "the reserve is not kept");
        assert_eq!(s.next(u64::from(FULL)), Some((StreamId(1), Small)));
    }

    #[test]
    fn a_small_message_without_credit_waits_in_its_place() {
        let mut s = scheduler();
        s.offer(StreamId(1), small(500));
        s.offer(StreamId(2), small(100));
        assert_eq!(s.next(499), None, "the second does not overtake, or the first might starve");
        assert_eq!(s.next(500), Some((StreamId(1), Small)));
    }

    #[test]
    fn a_withdrawn_offer_is_not_taken_and_a_stream_that_is_gone_neither() {
        let mut s = scheduler();
        s.offer(StreamId(1), both(100, FULL));
        s.offer(StreamId(2), both(100, FULL));
        s.offer(StreamId(1), NONE);
        s.remove(StreamId(2));
        assert_eq!(s.next(PLENTY), None);
        assert!(s.small.is_empty() && s.bulk.is_empty());
        s.offer(StreamId(1), bulk(FULL));
        assert_eq!(s.next(PLENTY), Some((StreamId(1), Bulk)));
    }

    #[test]
    fn an_idle_stream_saves_nothing_up() {
        let mut s = scheduler();
        run(&mut s, &[(1, bulk(FULL / 4))], 2);
        s.offer(StreamId(1), NONE);
        assert_eq!(s.next(PLENTY), None);
        assert_eq!(s.entries[&StreamId(1)].deficit, 0);
    }
}
