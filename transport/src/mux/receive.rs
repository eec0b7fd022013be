//! What of a stream comes in: the order of its frames, its credit, and what its reader has not passed
//! on. Arithmetic only; the payload itself goes straight to the events.

use core::time::Duration;

use super::config::FRAME_CHARGE;
use super::credit::{Held, ReceiveCredit};
use super::error::{Code, Reason};
use super::frame::{Kind, TOTAL};
use super::input::Head;

/// The charge of a data frame.
pub(crate) fn charge(head: Head) -> u32 {
    head.header.length.saturating_add(FRAME_CHARGE)
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    credit: ReceiveCredit,
    held: Held,
    /// Bytes of the long message under way that have not begun to come.
    lacks: Option<u32>,
}

impl ReceiveHalf {
    pub fn new(window: u32, max: u32) -> ReceiveHalf {
        ReceiveHalf { credit: ReceiveCredit::new(window, max), held: Held::default(), lacks: None }
    }

    /// What the peer may still send.
    pub fn left(&self) -> u64 {
        self.credit.left()
    }

    /// The charge of what the reader has not passed on.
    pub fn held(&self) -> u64 {
        self.held.total()
    }

    /// Counts a frame's charge; false where the peer has no credit for it.
    #[must_use]
    pub fn receive(&mut self, head: Head) -> bool {
        let prefix = if head.header.kind == Kind::Begin { TOTAL } else { 0 };
        let within = self.credit.receive(charge(head));
        if within {
            self.held.add(charge(head), head.header.length - prefix);
        }
        within
    }

    /// Checks that the frame is the one that must follow. An error ends the stream.
    pub fn follow(&mut self, head: Head, chunk: u32, max_message: u32) -> Result<(), Reason> {
        let broken = |text: &str| Err(Reason::new(Code::PROTOCOL, text));
        let length = head.header.length;
        match (head.header.kind, self.lacks) {
            (Kind::Message, _) if length > max_message => too_long(length, max_message),
            (Kind::Begin, Some(_)) => broken("a message began inside another"),
            (Kind::Begin, None) if head.total > max_message => too_long(head.total, max_message),
            (Kind::Begin, None) if head.total <= chunk => {
                broken("a message that fits one frame was cut")
            }
            (Kind::Begin, None) if length != chunk => broken("a message's first frame is not full"),
            (Kind::Begin, None) => {
                self.lacks = Some(head.total - (chunk - TOTAL));
                Ok(())
            }
            (Kind::More, None) => broken("a message went on that had not begun"),
            (Kind::More, Some(lacks)) if length != lacks.min(chunk) => {
                broken("a message's frame is neither full nor its last")
            }
            (Kind::More, Some(lacks)) => {
                self.lacks = Some(lacks - length).filter(|&lacks| lacks > 0);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The reader has passed payload on: the charge that goes back.
    pub fn consume(&mut self, payload: u32) -> u64 {
        let charge = self.held.consume(payload);
        self.credit.release(charge);
        charge
    }

    /// Whether a `CREDIT` frame is worth sending.
    pub fn is_due(&self) -> bool {
        self.credit.is_due()
    }

    /// What the `CREDIT` frame is to give; 0 where none is due.
    pub fn grant(&mut self, now: Duration, rtt: Option<Duration>) -> u32 {
        self.credit.grant(now, rtt)
    }
}

fn too_long(total: u32, max: u32) -> Result<(), Reason> {
    let text = alloc::format!("a message of {total} bytes where {max} are the most");
    Err(Reason::new(Code::MESSAGE_TOO_LONG, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StreamId;
    use crate::mux::frame::Header;

    const CHUNK: u32 = 1024;

    fn head(kind: Kind, length: u32, total: u32) -> Head {
        Head { header: Header { length, kind, stream: StreamId(1) }, total }
    }

    fn follow(half: &mut ReceiveHalf, kind: Kind, length: u32, total: u32) -> Result<(), Code> {
        half.follow(head(kind, length, total), CHUNK, 4000).map_err(|reason| reason.code)
    }

    #[test]
    fn the_frames_of_a_message_are_full_but_the_last() {
        let mut half = ReceiveHalf::new(1 << 20, 1 << 20);
        for _ in 0..2 {
            assert_eq!(follow(&mut half, Kind::Begin, CHUNK, 3 * CHUNK), Ok(()));
            assert_eq!(follow(&mut half, Kind::More, CHUNK, 0), Ok(()));
            assert_eq!(follow(&mut half, Kind::Message, 5, 0), Ok(()), "another may pass between");
            assert_eq!(follow(&mut half, Kind::More, CHUNK, 0), Ok(()));
            assert_eq!(follow(&mut half, Kind::More, 4, 0), Ok(()));
        }
    }

    #[test]
    fn what_cannot_follow_is_refused() {
        let fresh = || ReceiveHalf::new(1 << 20, 1 << 20);
        let begun = || {
            let mut half = fresh();
            follow(&mut half, Kind::Begin, CHUNK, CHUNK + 10).unwrap();
            half
        };
        let table = [
            (fresh(), Kind::More, CHUNK, 0, Code::PROTOCOL),
            (fresh(), Kind::Begin, CHUNK - 1, 3000, Code::PROTOCOL),
            (fresh(), Kind::Begin, CHUNK, CHUNK, Code::PROTOCOL),
            (fresh(), Kind::Begin, CHUNK, 4001, Code::MESSAGE_TOO_LONG),
            (begun(), Kind::Begin, CHUNK, 3000, Code::PROTOCOL),
            (begun(), Kind::More, 13, 0, Code::PROTOCOL),
            (begun(), Kind::More, 15, 0, Code::PROTOCOL),
        ];
        for (i, (mut half, kind, length, total, code)) in table.into_iter().enumerate() {
            assert_eq!(follow(&mut half, kind, length, total), Err(code), "row {i}");
        }
    }
}
