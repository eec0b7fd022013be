//! What an end writes, against the rules of whose turn it is, as far as they show in its frames.
//!
//! 1. No frame without credit for it, its stream's and the channel's.
//! 2. Small messages go before bulk of other streams, but for a burst's worth of them.
//! 3. While a bulk frame could go, small messages take no more than a burst in a row.
//! 4. Streams whose bulk could go all the while get the same, but for three frames.
//!
//! It knows what was given to the connection and what credit came, and takes a frame for one that could
//! go only where nothing in its own stream stands in its way: so what it asserts is less than what the
//! scheduler promises, and never more.

use std::collections::{BTreeMap, VecDeque};

use transport::id::StreamId;
use transport::mux::config;
use transport::mux::frame::{HEADER, Header, Kind};

use super::CHUNK;

const CHARGE: u64 = config::FRAME_CHARGE as u64;
/// The charge of a full frame.
const FULL: u64 = CHUNK as u64 + CHARGE;

/// A message that was begun.
struct Message {
    total: u32,
    given: u32,
    sent: u32,
}

impl Message {
    /// The charge of the next frame, if its bytes are there.
    fn next(&self) -> Option<u64> {
        let bytes = match self.total {
            total if total <= CHUNK => total,
            _ if self.sent == 0 => CHUNK - 4,
            total => CHUNK.min(total - self.sent),
        };
        let total = if self.total > CHUNK && self.sent == 0 { 4 } else { 0 };
        (self.given - self.sent >= bytes).then_some(u64::from(bytes + total) + CHARGE)
    }
}

/// A stream's messages, small and bulk, and its credit.
struct Stream {
    lanes: [VecDeque<Message>; 2],
    last: usize,
    credit: u64,
}

impl Stream {
    fn next(&self, lane: usize) -> Option<u64> {
        self.lanes[lane].front()?.next()
    }

    fn small_could_go(&self) -> bool {
        self.next(1).is_none() && self.next(0).is_some_and(|charge| charge <= self.credit)
    }

    fn bulk_could_go(&self) -> bool {
        self.next(0).is_none() && self.next(1).is_some_and(|charge| charge + FULL <= self.credit)
    }
}

/// One end's writing.
pub struct Watch {
    streams: BTreeMap<StreamId, Stream>,
    credit: u64,
    coming: Vec<u8>,
    /// Charges of small messages since the last bulk frame.
    small: u64,
    /// Those of them that went while a bulk frame could have.
    starved: u64,
    /// Charges of bulk since the same streams could go.
    shares: BTreeMap<StreamId, u64>,
}

impl Watch {
    /// An end that has written nothing.
    pub fn new() -> Watch {
        let credit = u64::from(super::config().channel_window);
        let (streams, shares, coming) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Watch { streams, credit, coming, small: 0, starved: 0, shares }
    }

    /// A message is begun.
    pub fn start(&mut self, stream: StreamId, lane: usize, total: u32) {
        let credit = u64::from(super::config().stream_window);
        let new = || Stream { lanes: Default::default(), last: lane, credit };
        let stream = self.streams.entry(stream).or_insert_with(new);
        stream.last = lane;
        stream.lanes[lane].push_back(Message { total, given: 0, sent: 0 });
    }

    /// Bytes of the message begun last are given.
    pub fn extend(&mut self, stream: StreamId, bytes: u32) {
        let stream = self.streams.get_mut(&stream);
        if let Some(message) = stream.and_then(|stream| stream.lanes[stream.last].back_mut()) {
            message.given += bytes;
        }
    }

    /// The stream is over.
    pub fn forget(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Bytes come from the other end: credit is among them.
    pub fn came(&mut self, bytes: &[u8]) {
        self.coming.extend(bytes);
        let coming = std::mem::take(&mut self.coming);
        let rest = frames(&coming, |header, payload| {
            if header.kind == Kind::Credit {
                let bytes = u64::from(u32::from_le_bytes(payload.try_into().unwrap()));
                match self.streams.get_mut(&header.stream) {
                    _ if header.stream == StreamId::CHANNEL => self.credit += bytes,
                    Some(stream) => stream.credit += bytes,
                    // Closed here meanwhile.
                    None => {}
                }
            }
        });
        self.coming = rest.to_vec();
    }

    /// The end writes frames.
    pub fn sent(&mut self, bytes: &[u8]) {
        let rest = frames(bytes, |header, payload| match header.kind {
            // Every byte of a message says its lane.
            Kind::Message => self.frame(header, usize::from(payload[0] & 1)),
            Kind::Begin | Kind::More => self.frame(header, 1),
            _ => {}
        });
        assert!(rest.is_empty(), "only whole frames are written");
    }

    fn frame(&mut self, header: Header, lane: usize) {
        let charge = u64::from(header.length) + CHARGE;
        let burst = u64::from(super::config().small_burst);
        let could: Vec<StreamId> =
            self.streams.iter().filter(|(_, one)| one.bulk_could_go()).map(|(id, _)| *id).collect();
        if lane == 0 {
            self.small += charge;
            self.starved = if could.is_empty() { 0 } else { self.starved + charge };
            assert!(self.starved <= burst + FULL, "small messages starve bulk");
        } else {
            let mut others = self.streams.iter().filter(|(id, _)| **id != header.stream);
            let small_could = others.any(|(_, one)| one.small_could_go());
            assert!(!small_could || self.small >= burst, "bulk before small messages");
            (self.small, self.starved) = (0, 0);
            if !self.shares.keys().eq(&could) {
                self.shares = could.iter().map(|id| (*id, 0)).collect();
            }
            if let Some(share) = self.shares.get_mut(&header.stream) {
                *share += charge;
            }
            let shares = self.shares.values();
            let spread = shares.clone().max().unwrap_or(&0) - shares.min().unwrap_or(&0);
            assert!(spread <= 3 * FULL, "bulk is not shared: {:?}", self.shares);
        }
        self.take(header, lane, charge);
    }

    fn take(&mut self, header: Header, lane: usize, charge: u64) {
        let stream = self.streams.get_mut(&header.stream).unwrap();
        assert_eq!(stream.next(lane), Some(charge), "a frame that was not there");
        assert!(charge <= stream.credit && charge <= self.credit, "a frame without credit");
        stream.credit -= charge;
        self.credit -= charge;
        let message = stream.lanes[lane].front_mut().unwrap();
        message.sent += header.length - if header.kind == Kind::Begin { 4 } else { 0 };
        if message.sent == message.total {
            stream.lanes[lane].pop_front();
        }
    }
}

/// Gives the whole frames in `bytes`, and what is left behind them.
fn frames(mut bytes: &[u8], mut each: impl FnMut(Header, &[u8])) -> &[u8] {
    while let Some((raw, rest)) = bytes.split_first_chunk::<HEADER>() {
        let header = Header::read(raw).unwrap();
        let Some((payload, rest)) = rest.split_at_checked(header.length as usize) else { break };
        each(header, payload);
        bytes = rest;
    }
    bytes
}
