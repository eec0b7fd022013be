//! What of a stream waits to be sent: messages in two lanes, their bytes as they come, cut into
//! frames.
//!
//! A frame is there when a full chunk of its message is, or the message's end. What is left out:
//! whose turn it is ([`super::scheduler`]), and the channel's credit; the stream's own credit and the
//! order of the two lanes within the stream are here.

use alloc::collections::VecDeque;

use bytes::Bytes;

use super::config::FRAME_CHARGE;
use super::credit::SendCredit;
use super::error::SendError;
use super::frame::{HEADER, Header, Kind, TOTAL};
use super::output::Gather;
use super::scheduler::{Class, Offer};
use crate::id::StreamId;

/// A message that waits.
#[derive(Debug)]
struct Outgoing {
    total: u32,
    sent: u32,
    /// Bytes that the caller has not given yet.
    missing: u32,
    /// Bytes that were given and not sent.
    pieces: VecDeque<Bytes>,
    have: u32,
}

impl Outgoing {
    /// The next frame's kind and bytes of the message in it, if they are there.
    fn next(&self, chunk: u32) -> Option<(Kind, u32)> {
        let (kind, bytes) = if self.total <= chunk {
            (Kind::Message, self.total)
        } else if self.sent == 0 {
            (Kind::Begin, chunk - TOTAL)
        } else {
            (Kind::More, chunk.min(self.total - self.sent))
        };
        (self.have >= bytes).then_some((kind, bytes))
    }
}

fn length(kind: Kind, bytes: u32) -> u32 {
    if kind == Kind::Begin { bytes + TOTAL } else { bytes }
}

/// What a frame that was sent was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    /// Its charge.
    pub charge: u32,
}

/// The sending half of a stream.
#[derive(Debug)]
pub(crate) struct SendHalf {
    credit: SendCredit,
    chunk: u32,
    burst: u32,
    small: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
    /// The lane of the message begun last.
    last: Class,
    queued: usize,
    /// Charges of small messages sent in a row while bulk waited.
    run: u32,
}

impl SendHalf {
    pub fn new(window: u32, chunk: u32, burst: u32) -> SendHalf {
        SendHalf {
            credit: SendCredit::new(window),
            chunk,
            burst,
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            last: Class::Small,
            queued: 0,
            run: 0,
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Messages that wait to be sent.
    pub fn messages(&self) -> usize {
        self.small.len() + self.bulk.len()
    }

    /// Adds what a `CREDIT` frame gives; false where it is more than can be meant.
    #[must_use]
    pub fn add_credit(&mut self, bytes: u32) -> bool {
        self.credit.add(bytes)
    }

    /// Begins a message.
    pub fn start(&mut self, class: Class, total: u32) -> Result<(), SendError> {
        if total == 0 {
            return Err(SendError::Empty);
        }
        match self.lane(self.last).back() {
            Some(message) if message.missing > 0 => {
                return Err(SendError::Unfinished(message.missing));
            }
            _ => {}
        }
        self.last = if total > self.chunk { Class::Bulk } else { class };
        let pieces = VecDeque::new();
        let message = Outgoing { total, sent: 0, missing: total, pieces, have: 0 };
        self.lane(self.last).push_back(message);
        Ok(())
    }

    /// Adds bytes to the message begun last.
    pub fn extend(&mut self, bytes: Bytes) -> Result<(), SendError> {
        let missing = self.lane(self.last).back().map_or(0, |message| message.missing);
        let here = match u32::try_from(bytes.len()) {
            Ok(here) if here <= missing => here,
            _ => return Err(SendError::Overrun { extra: bytes.len() - missing as usize }),
        };
        if let (Some(message), true) = (self.lane(self.last).back_mut(), here > 0) {
            message.missing -= here;
            message.have += here;
            message.pieces.push_back(bytes);
            self.queued += here as usize;
        }
        Ok(())
    }

    fn lane(&mut self, class: Class) -> &mut VecDeque<Outgoing> {
        match class {
            Class::Small => &mut self.small,
            Class::Bulk => &mut self.bulk,
        }
    }

    /// What could be sent now. Within the stream, too, bulk leaves credit for small messages, and
    /// gets its turn when a burst of them has gone while it waited.
    pub fn offer(&self) -> Offer {
        let charge = |lane: &VecDeque<Outgoing>| {
            let (kind, bytes) = lane.front()?.next(self.chunk)?;
            Some(length(kind, bytes) + FRAME_CHARGE)
        };
        let (small, bulk) = (charge(&self.small), charge(&self.bulk));
        let bulk_is_owed = bulk.is_some() && self.run >= self.burst;
        let credit = self.credit.available();
        let reserve = if bulk_is_owed { 0 } else { u64::from(self.chunk + FRAME_CHARGE) };
        Offer {
            small: small.filter(|&c| u64::from(c) <= credit && !bulk_is_owed),
            bulk: bulk.filter(|&c| u64::from(c) + reserve <= credit),
        }
    }

    /// Sends the next frame of a lane, which [`SendHalf::offer`] has offered.
    pub fn send(&mut self, stream: StreamId, class: Class, to: &mut Gather<'_>) -> Option<Sent> {
        let chunk = self.chunk;
        let bulk_waits = self.bulk.front().is_some_and(|message| message.next(chunk).is_some());
        let lane = self.lane(class);
        let message = lane.front_mut()?;
        let (kind, bytes) = message.next(chunk)?;
        let length = length(kind, bytes);
        to.copy(&Header { length, kind, stream }.write());
        if kind == Kind::Begin {
            to.copy(&message.total.to_le_bytes());
        }
        let mut left = bytes as usize;
        while left > 0 {
            let Some(front) = message.pieces.front_mut() else { break };
            let piece = front.split_to(left.min(front.len()));
            if front.is_empty() {
                message.pieces.pop_front();
            }
            left -= piece.len();
            to.slice(piece);
        }
        message.have -= bytes;
        message.sent += bytes;
        if message.sent == message.total {
            lane.pop_front();
        }
        self.queued -= bytes as usize;
        let charge = length + FRAME_CHARGE;
        self.credit.take(charge);
        self.run = match class {
            Class::Small if bulk_waits => self.run.saturating_add(charge),
            _ => 0,
        };
        debug_assert!(charge as usize <= HEADER + chunk as usize + FRAME_CHARGE as usize);
        Some(Sent { charge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use bytes::BytesMut;

    const CHUNK: u32 = 1024;
    const FULL: u32 = CHUNK + FRAME_CHARGE;
    const S: StreamId = StreamId(1);

    fn half(window: u32) -> SendHalf {
        SendHalf::new(window, CHUNK, 2 * FULL)
    }

    fn queue(half: &mut SendHalf, class: Class, total: u32) {
        half.start(class, total).unwrap();
        half.extend(Bytes::from(alloc::vec![total as u8; total as usize])).unwrap();
    }

    fn send(half: &mut SendHalf, class: Class) -> Vec<u8> {
        let (mut own, mut out) = (BytesMut::new(), Vec::new());
        let mut to = Gather::new(&mut own, &mut out);
        half.send(S, class, &mut to).unwrap();
        to.finish();
        out.concat()
    }

    #[test]
    fn a_frame_waits_for_a_full_chunk_or_the_messages_end() {
        let mut half = half(1 << 20);
        half.start(Class::Bulk, CHUNK + 10).unwrap();
        half.extend(Bytes::from(alloc::vec![1; CHUNK as usize - 5])).unwrap();
        assert_eq!(half.offer(), Offer::default());
        half.extend(Bytes::from_static(&[1])).unwrap();
        assert_eq!(half.offer().bulk, Some(FULL));
        assert_eq!(send(&mut half, Class::Bulk).len(), HEADER + CHUNK as usize);
        half.extend(Bytes::from_static(&[1; 13])).unwrap();
        assert_eq!(half.offer(), Offer::default());
        half.extend(Bytes::from_static(&[1; 1])).unwrap();
        assert_eq!(half.offer().bulk, Some(14 + FRAME_CHARGE));
        assert_eq!(send(&mut half, Class::Bulk)[..8], [14, 0, 0, Kind::More as u8, 1, 0, 0, 0]);
        assert_eq!(half.queued(), 0);
    }

    #[test]
    fn a_message_of_one_chunk_goes_in_one_frame_whatever_its_class() {
        let mut half = half(1 << 20);
        queue(&mut half, Class::Bulk, CHUNK);
        assert_eq!(send(&mut half, Class::Bulk)[3], Kind::Message as u8);
        queue(&mut half, Class::Small, CHUNK + 1);
        assert_eq!(half.offer().small, None, "one longer is bulk whatever its class");
        assert_eq!(send(&mut half, Class::Bulk)[3], Kind::Begin as u8);
    }

    #[test]
    fn a_small_message_passes_between_the_frames_of_a_long_one() {
        let mut half = half(1 << 20);
        queue(&mut half, Class::Bulk, 3 * CHUNK);
        send(&mut half, Class::Bulk);
        queue(&mut half, Class::Small, 20);
        assert!(half.offer().small.is_some());
    }

    #[test]
    fn bulk_leaves_credit_for_small_messages_of_its_stream() {
        let mut half = half(2 * FULL + 1);
        queue(&mut half, Class::Bulk, 3 * CHUNK);
        send(&mut half, Class::Bulk);
        assert_eq!(half.offer(), Offer::default());
        queue(&mut half, Class::Small, 20);
        assert!(half.offer().small.is_some());
    }

    #[test]
    fn bulk_is_not_starved_of_its_streams_credit_by_small_messages() {
        let mut half = half(4 * FULL);
        queue(&mut half, Class::Bulk, 2 * CHUNK);
        for _ in 0..2 {
            queue(&mut half, Class::Small, CHUNK);
            send(&mut half, Class::Small);
        }
        queue(&mut half, Class::Small, CHUNK);
        assert_eq!(half.offer(), Offer { small: None, bulk: Some(FULL) });
        send(&mut half, Class::Bulk);
        assert_eq!(half.offer(), Offer { small: Some(FULL), bulk: None });
    }

    #[test]
    fn the_callers_mistakes_are_named() {
        let mut half = half(1 << 20);
        assert_eq!(half.start(Class::Small, 0), Err(SendError::Empty));
        assert_eq!(half.extend(Bytes::from("x")), Err(SendError::Overrun { extra: 1 }));
        half.start(Class::Small, 3).unwrap();
        half.extend(Bytes::from("x")).unwrap();
        assert_eq!(half.start(Class::Bulk, 1), Err(SendError::Unfinished(2)));
        assert_eq!(half.extend(Bytes::from("xyz")), Err(SendError::Overrun { extra: 1 }));
        half.extend(Bytes::from("yz")).unwrap();
        half.start(Class::Bulk, 1).unwrap();
    }
}
