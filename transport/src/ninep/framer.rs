//! Bytes to messages: heads in one piece, payloads in the pieces in which they came.
//!
//! Fed with whatever a descriptor gave, in any cut; gives back heads as soon as they are whole and
//! payload as it comes, so that a megabyte of `Twrite` is on its way before its end has been read.
//! Lengths are checked before anything is kept: a head is at most msize bytes, and only as much is
//! held of it as has really come.

use alloc::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::codec::DecodeError;
use super::message::Kind;
use super::packet::{HEADER, Header, Packet};

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message begins; `body` bytes of payload follow.
    Head {
        /// All of the message but its payload.
        head: Bytes,
        /// Bytes of payload that follow as [`Item::Body`].
        body: usize,
    },
    /// Payload of the message begun last, never empty.
    Body(Bytes),
}

/// Cuts a byte stream into messages. Feed with [`push`](Framer::push), then call
/// [`poll`](Framer::poll) until it gives nothing.
#[derive(Debug)]
pub struct Framer {
    max: u32,
    input: VecDeque<Bytes>,
    have: usize,
    /// Payload still to come of the message begun last.
    body: usize,
    /// Once broken, always broken: what follows a bad size means nothing.
    broken: Option<DecodeError>,
}

impl Framer {
    /// A framer that takes messages of at most `max` bytes.
    pub fn new(max: u32) -> Framer {
        Framer { max, input: VecDeque::new(), have: 0, body: 0, broken: None }
    }

    /// Changes the largest message that is taken, from the next one on: msize has been agreed.
    pub fn set_max(&mut self, max: u32) {
        self.max = max;
    }

    /// Takes bytes in.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.have += bytes.len();
            self.input.push_back(bytes);
        }
    }

    /// Bytes taken in and not given out.
    pub fn buffered(&self) -> usize {
        self.have
    }

    /// Whether the stream may end here: between two messages.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.body == 0
    }

    /// The next piece, if it has come.
    pub fn poll(&mut self) -> Result<Option<Item>, DecodeError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.advance().inspect_err(|&error| self.broken = Some(error))
    }

    fn advance(&mut self) -> Result<Option<Item>, DecodeError> {
        if self.body > 0 {
            let Some(front) = self.input.front_mut() else { return Ok(None) };
            let piece = front.split_to(front.len().min(self.body));
            if front.is_empty() {
                self.input.pop_front();
            }
            self.have -= piece.len();
            self.body -= piece.len();
            return Ok(Some(Item::Body(piece)));
        }
        if self.have < HEADER {
            return Ok(None);
        }
        let mut raw = [0; HEADER];
        self.peek(&mut raw);
        let header = Header::read(&raw)?;
        if (header.size as usize) < HEADER {
            return Err(DecodeError::Undersized(header.size));
        }
        if header.size > self.max {
            return Err(DecodeError::Oversized { size: header.size, msize: self.max });
        }
        let size = header.size as usize;
        let head = Kind(header.kind).payload_head().unwrap_or(size).min(size);
        if self.have < head {
            return Ok(None);
        }
        self.body = size - head;
        Ok(Some(Item::Head { head: self.take(head), body: self.body }))
    }

    /// Copies the first bytes out without taking them; there are enough.
    fn peek(&self, to: &mut [u8]) {
        let mut filled = 0;
        for piece in &self.input {
            let n = piece.len().min(to.len() - filled);
            to[filled..filled + n].copy_from_slice(&piece[..n]);
            filled += n;
            if filled == to.len() {
                break;
            }
        }
    }

    /// Takes `n` bytes in one piece: a slice where they came in one, a copy where they did not.
    fn take(&mut self, n: usize) -> Bytes {
        self.have -= n;
        if let Some(front) = self.input.front_mut() {
            if front.len() > n {
                return front.split_to(n);
            }
            if front.len() == n {
                return self.input.pop_front().unwrap_or_default();
            }
        }
        let mut copy = BytesMut::with_capacity(n);
        while copy.len() < n {
            let Some(front) = self.input.front_mut() else { break };
            let piece = front.len().min(n - copy.len());
            copy.extend_from_slice(&front[..piece]);
            front.advance(piece);
            if front.is_empty() {
                self.input.pop_front();
            }
        }
        copy.freeze()
    }
}

/// Puts a framer's items together to whole packets.
#[derive(Debug, Default)]
pub struct Assembler {
    packet: Option<(Packet, usize)>,
}

impl Assembler {
    /// Takes the next item; gives the packet that it completes.
    pub fn push(&mut self, item: Item) -> Option<Packet> {
        match item {
            Item::Head { head, body } => self.packet = Some((Packet::whole(head), body)),
            Item::Body(piece) => {
                let (packet, left) = self.packet.as_mut()?;
                *left = left.saturating_sub(piece.len());
                packet.body.push(piece);
            }
        }
        match self.packet {
            Some((_, 0)) => self.packet.take().map(|(packet, _)| packet),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Fid, Tag};
    use crate::ninep::Tmessage;
    use alloc::vec;
    use alloc::vec::Vec;

    fn conversation() -> Vec<Packet> {
        vec![
            Tmessage::Tclunk { fid: Fid(3) }.encode(Tag(1)),
            Tmessage::Twrite { fid: Fid(1), offset: 9, count: 11 }
                .with_body(Tag(2), vec![Bytes::from_static(b"hello world")]),
            Tmessage::Twrite { fid: Fid(1), offset: 9, count: 0 }.encode(Tag(4)),
            Tmessage::Tstatfs { fid: Fid(1) }.encode(Tag(3)),
        ]
    }

    #[test]
    fn every_cut_gives_the_same_messages() {
        let packets = conversation();
        let bytes: Vec<u8> = packets.iter().flat_map(Packet::to_vec).collect();
        for step in 1..=bytes.len() {
            let mut framer = Framer::new(8192);
            let mut assembler = Assembler::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                framer.push(Bytes::copy_from_slice(piece));
                while let Some(item) = framer.poll().unwrap() {
                    got.extend(assembler.push(item).map(|packet| packet.to_vec()));
                }
            }
            assert_eq!(got, packets.iter().map(Packet::to_vec).collect::<Vec<_>>(), "step {step}");
            assert!(framer.is_between());
        }
    }

    #[test]
    fn a_size_above_msize_breaks_the_stream_for_good() {
        let mut framer = Framer::new(4096);
        framer.push(Bytes::from_static(&[1, 16, 0, 0, 120, 0, 0]));
        let error = Err(DecodeError::Oversized { size: 4097, msize: 4096 });
        assert_eq!(framer.poll(), error);
        framer.push(Bytes::from_static(&[11, 0, 0, 0, 120, 0, 0, 1, 0, 0, 0]));
        assert_eq!(framer.poll(), error);
    }

    #[test]
    fn a_size_below_a_header_breaks_the_stream() {
        let mut framer = Framer::new(4096);
        framer.push(Bytes::from_static(&[6, 0, 0, 0, 120, 0, 0]));
        assert_eq!(framer.poll(), Err(DecodeError::Undersized(6)));
    }

    #[test]
    fn a_write_shorter_than_its_own_head_is_all_head() {
        // 4+1+2+2 bytes: no room for fid, offset and count. The decoder refuses it.
        let mut framer = Framer::new(4096);
        framer.push(Bytes::from_static(&[9, 0, 0, 0, 118, 1, 0, 0, 0]));
        let Some(Item::Head { head, body: 0 }) = framer.poll().unwrap() else { panic!() };
        assert_eq!(Tmessage::decode(&Packet::whole(head)), Err(DecodeError::Short));
    }
}
