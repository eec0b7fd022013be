//! What the multiplexer tells its caller, in the order in which it happened.
//!
//! The queue knows besides what charge is given back to the peer when an event is taken: with
//! [`Event::Closed`] the caller lets go of all that it holds of the stream.

use alloc::collections::VecDeque;

use bytes::Bytes;

use super::error::Reason;
use super::frame::{Open, Opened};
use super::input::Pieces;
use crate::id::StreamId;

/// What has happened. A stream that the caller closed is in no event any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The client asks for a stream; to be answered by `accept` or `refuse`. Server end only.
    Open {
        /// The new stream.
        stream: StreamId,
        /// What is asked.
        open: Open,
    },
    /// The stream is open. Client end only.
    Opened {
        /// The stream.
        stream: StreamId,
        /// The server's terms.
        opened: Opened,
    },
    /// The stream is over before it began. Client end only.
    Refused {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: Reason,
    },
    /// A whole message of either class. Its length goes back by `consumed`.
    Message {
        /// The stream.
        stream: StreamId,
        /// The message.
        data: Pieces,
    },
    /// A longer message begins; its bytes follow as [`Event::More`], with none of another long
    /// message of this stream in between.
    Begin {
        /// The stream.
        stream: StreamId,
        /// The message's length in bytes.
        total: u32,
    },
    /// The next bytes of the message begun last. Their length goes back by `consumed`.
    More {
        /// The stream.
        stream: StreamId,
        /// The bytes, never empty.
        data: Bytes,
    },
    /// The stream is over, perhaps inside a message. The caller lets go of all that it holds of it.
    Closed {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: Reason,
        /// Whether the peer closed it. Otherwise we did, because the peer broke a rule of the stream.
        by_peer: bool,
    },
    /// The peer takes no new streams. With any code but `DONE` it has ended the channel.
    GoAway {
        /// Why.
        reason: Reason,
    },
}

impl Event {
    /// The stream that the event is about.
    pub fn stream(&self) -> StreamId {
        match *self {
            Event::Open { stream, .. }
            | Event::Opened { stream, .. }
            | Event::Refused { stream, .. }
            | Event::Message { stream, .. }
            | Event::Begin { stream, .. }
            | Event::More { stream, .. }
            | Event::Closed { stream, .. } => stream,
            Event::GoAway { .. } => StreamId::CHANNEL,
        }
    }
}

/// Events that wait for the caller.
#[derive(Debug, Default)]
pub(crate) struct EventQueue(VecDeque<(Event, u64)>);

impl EventQueue {
    pub fn push(&mut self, event: Event) {
        self.0.push_back((event, 0));
    }

    /// The stream is over; `held` goes back when the event is taken.
    pub fn push_closed(&mut self, stream: StreamId, reason: Reason, by_peer: bool, held: u64) {
        self.0.push_back((Event::Closed { stream, reason, by_peer }, held));
    }

    /// The next event, and the charge that goes back.
    pub fn pop(&mut self) -> Option<(Event, u64)> {
        self.0.pop_front()
    }

    /// Drops the events of a stream; gives the charge that goes back.
    pub fn forget(&mut self, stream: StreamId) -> u64 {
        let mut back = 0;
        self.0.retain(|(event, held)| {
            let keep = event.stream() != stream;
            if !keep {
                back += held;
            }
            keep
        });
        back
    }
}
