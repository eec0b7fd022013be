//! Bytes to frames, in any cut: headers and control frames whole, payloads of messages as slices of
//! the buffers that they came in.
//!
//! What is copied, and why: small frames and small pieces. A slice keeps the whole input buffer
//! alive; a ten-byte message that waits for its reader must not keep a read buffer of 256 KiB. So the
//! payload of a frame of at most [`COPY_SMALL`] is copied, a message among them into one buffer of its
//! own size; and a piece below [`COPY_PIECE`] is put together with those that follow it in its frame.
//! Above these bounds nothing is copied. The peer chooses the sizes of frames, which is why the last
//! piece of a long message, and all pieces where it asked for a tiny chunk, are no exception.
//!
//! What a header means, and whether its payload is wanted, is decided by the caller (`Wanted`).

use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{FrameError, HEADER, Header, Kind, TOTAL};

/// The payload of a frame up to this length is copied.
pub const COPY_SMALL: usize = 16 << 10;

/// A piece below this length is put together with what follows it in its frame.
pub const COPY_PIECE: usize = 4 << 10;

/// A whole message in the pieces in which it came: one if it is at most [`COPY_SMALL`] long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pieces {
    first: Bytes,
    more: Vec<Bytes>,
}

impl Pieces {
    /// All bytes.
    pub fn len(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        core::iter::once(&self.first).chain(&self.more)
    }

    fn push(&mut self, piece: Bytes) {
        if self.first.is_empty() { self.first = piece } else { self.more.push(piece) }
    }
}

impl From<Bytes> for Pieces {
    fn from(first: Bytes) -> Self {
        Pieces { first, more: Vec::new() }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = core::iter::Chain<core::iter::Once<Bytes>, alloc::vec::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        core::iter::once(self.first).chain(self.more)
    }
}

/// A frame's beginning: its header, and `BEGIN`'s total.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub header: Header,
    pub total: u32,
}

/// What to do with a frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// Give it whole.
    Whole,
    /// Give it in pieces, as they come.
    AsItComes,
    /// Throw it away.
    Nothing,
}

/// What has come.
#[derive(Debug)]
pub(crate) enum Item {
    /// A frame begins; [`Input::want`] must be called before the next item is asked for.
    Head(Head),
    /// A whole payload.
    Whole(Head, Pieces),
    /// A piece of one.
    Piece(Head, Bytes),
}

#[derive(Debug)]
enum Stage {
    Header,
    /// The header is out, and nobody has said what to do.
    Asked(Head),
    Payload {
        head: Head,
        wanted: Wanted,
        left: usize,
    },
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub(crate) struct Input {
    stage: Stage,
    raw: [u8; HEADER + TOTAL as usize],
    filled: usize,
    /// Bytes that are copied: a small payload, or small pieces in a row.
    copy: BytesMut,
    pieces: Pieces,
}

impl Input {
    pub fn new() -> Input {
        Input {
            stage: Stage::Header,
            raw: [0; HEADER + TOTAL as usize],
            filled: 0,
            copy: BytesMut::new(),
            pieces: Pieces::default(),
        }
    }

    /// Whether all frames that began are complete.
    pub fn is_between(&self) -> bool {
        matches!(self.stage, Stage::Header) && self.filled == 0
    }

    /// The next item that `from` completes; its bytes are taken off `from`. `chunk` is the longest
    /// payload that a frame may have.
    pub fn next(&mut self, from: &mut Bytes, chunk: u32) -> Result<Option<Item>, FrameError> {
        loop {
            match self.stage {
                Stage::Header => return self.head(from, chunk),
                Stage::Asked(_) => {
                    debug_assert!(false, "what is wanted is said after each head");
                    self.want(Wanted::Nothing);
                }
                Stage::Payload { .. } if from.is_empty() => return Ok(None),
                Stage::Payload { head, wanted, left } => {
                    let before = from.len();
                    let item = match wanted {
                        Wanted::Nothing => {
                            from.advance(left.min(from.len()));
                            None
                        }
                        Wanted::AsItComes => self
                            .piece(from, head.header.length as usize, left)
                            .map(|piece| Item::Piece(head, piece)),
                        Wanted::Whole => self.whole(from, head, left),
                    };
                    let left = left - (before - from.len());
                    self.stage = match left {
                        0 => Stage::Header,
                        left => Stage::Payload { head, wanted, left },
                    };
                    if item.is_some() {
                        return Ok(item);
                    }
                }
            }
        }
    }

    /// Says what to do with the payload of the frame whose head was given.
    pub fn want(&mut self, wanted: Wanted) {
        if let Stage::Asked(head) = self.stage {
            let prefix = if head.header.kind == Kind::Begin { TOTAL } else { 0 };
            // Never zero: the header's check refuses frames without payload.
            let left = (head.header.length - prefix) as usize;
            self.stage = Stage::Payload { head, wanted, left };
        }
    }

    fn head(&mut self, from: &mut Bytes, chunk: u32) -> Result<Option<Item>, FrameError> {
        if !self.fill(from, HEADER) {
            return Ok(None);
        }
        let mut raw = [0; HEADER];
        raw.copy_from_slice(&self.raw[..HEADER]);
        let header = Header::read(&raw)?;
        // Control frames have bounds of their own, checked with their kind.
        if header.kind.is_data() && header.length > chunk {
            return Err(FrameError::TooLong { length: header.length, chunk });
        }
        let mut total = 0;
        if header.kind == Kind::Begin {
            if !self.fill(from, HEADER + TOTAL as usize) {
                return Ok(None);
            }
            let mut raw = [0; TOTAL as usize];
            raw.copy_from_slice(&self.raw[HEADER..]);
            total = u32::from_le_bytes(raw);
        }
        self.filled = 0;
        let head = Head { header, total };
        self.stage = Stage::Asked(head);
        Ok(Some(Item::Head(head)))
    }

    /// Takes from the input until `want` bytes of the head are there; whether they are.
    fn fill(&mut self, from: &mut Bytes, want: usize) -> bool {
        let here = want.saturating_sub(self.filled).min(from.len());
        from.copy_to_slice(&mut self.raw[self.filled..self.filled + here]);
        self.filled += here;
        self.filled >= want
    }

    /// The next piece of a payload of which `left` bytes are to come: a slice, or small pieces put
    /// together. `from` is not empty.
    fn piece(&mut self, from: &mut Bytes, length: usize, left: usize) -> Option<Bytes> {
        let here = left.min(from.len());
        let large = here >= COPY_PIECE && length > COPY_SMALL;
        if self.copy.is_empty() {
            if large {
                return Some(from.split_to(here));
            }
            if here == left || here >= COPY_PIECE {
                return Some(Bytes::copy_from_slice(&from.split_to(here)));
            }
        }
        if !large {
            self.copy.extend_from_slice(&from.split_to(here));
            if here < left && self.copy.len() < COPY_PIECE {
                return None;
            }
        }
        let copy = Bytes::copy_from_slice(&self.copy);
        self.copy.clear();
        Some(copy)
    }

    /// The whole payload, once its last byte is here.
    fn whole(&mut self, from: &mut Bytes, head: Head, left: usize) -> Option<Item> {
        let length = head.header.length as usize;
        if length <= COPY_SMALL {
            let here = from.split_to(left.min(from.len()));
            let last = here.len() == left;
            if last && here.len() == length {
                return Some(Item::Whole(head, Bytes::copy_from_slice(&here).into()));
            }
            self.copy.extend_from_slice(&here);
            last.then(|| {
                let copy = Bytes::copy_from_slice(&self.copy);
                self.copy.clear();
                Item::Whole(head, copy.into())
            })
        } else {
            let before = from.len();
            let piece = self.piece(from, length, left)?;
            self.pieces.push(piece);
            let last = before - from.len() == left;
            last.then(|| Item::Whole(head, core::mem::take(&mut self.pieces)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StreamId;
    use crate::mux::frame::Frame;

    const CHUNK: u32 = 40_000;

    /// Frames of every size class, one of which is not wanted, and a control frame.
    fn conversation() -> (Vec<u8>, Vec<Vec<u8>>) {
        let data: Vec<u8> = (0..40_000u32).map(|i| (i * 7 / 5) as u8).collect();
        let stream = StreamId(1);
        let (small, middle) = (&data[..100], &data[..COPY_SMALL]);
        let frames = [
            Frame::Message { stream, data: small },
            Frame::Begin { stream, total: 90_000, piece: &data[4..] },
            Frame::Message { stream, data: middle },
            Frame::Message { stream: StreamId(9), data: &data[..30_000] },
            Frame::Ping { value: 7 },
            Frame::More { stream, piece: &data },
            Frame::Message { stream, data: &data[..COPY_SMALL + 1] },
            Frame::More { stream, piece: small },
        ];
        let mut bytes = BytesMut::new();
        let mut payloads = Vec::new();
        for frame in &frames {
            let length = frame.encode(&mut bytes);
            let skip = if frame.kind() == Kind::Begin { HEADER + 4 } else { HEADER };
            let payload = bytes[bytes.len() - length + skip..].to_vec();
            payloads.push(if frame.stream() == StreamId(9) { Vec::new() } else { payload });
        }
        (bytes.to_vec(), payloads)
    }

    fn cut(bytes: &Bytes, step: usize) -> (Vec<Vec<u8>>, Vec<Vec<Bytes>>) {
        let mut input = Input::new();
        let mut payloads = Vec::new();
        let mut pieces: Vec<Vec<Bytes>> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let mut from = bytes.slice(at..bytes.len().min(at + step));
            at += from.len();
            while let Some(item) = input.next(&mut from, CHUNK).unwrap() {
                match item {
                    Item::Head(head) => {
                        pieces.push(Vec::new());
                        input.want(match head.header.kind {
                            _ if head.header.stream == StreamId(9) => Wanted::Nothing,
                            Kind::Begin | Kind::More => Wanted::AsItComes,
                            _ => Wanted::Whole,
                        });
                    }
                    Item::Whole(_, whole) => pieces.last_mut().unwrap().extend(whole),
                    Item::Piece(_, piece) => pieces.last_mut().unwrap().push(piece),
                }
            }
            assert!(from.is_empty());
        }
        assert!(input.is_between());
        payloads.extend(pieces.iter().map(|pieces| pieces.concat()));
        (payloads, pieces)
    }

    #[test]
    fn every_cut_gives_the_same_payloads_in_few_pieces() {
        let (bytes, payloads) = conversation();
        let bytes = Bytes::from(bytes);
        for step in (1..20).chain([997, 4095, 4096, 4097, 16_384, 50_000, bytes.len()]) {
            let (got, pieces) = cut(&bytes, step);
            assert!(got == payloads, "step {step}");
            let most = pieces.iter().map(Vec::len).max().unwrap();
            assert!(most <= 2 * (CHUNK as usize).div_ceil(COPY_PIECE) + 1, "step {step}: {most}");
        }
    }

    #[test]
    fn large_payloads_are_slices_of_the_input_and_small_ones_are_not() {
        let (bytes, _) = conversation();
        let bytes = Bytes::from(bytes);
        let within = |piece: &Bytes| bytes.as_ptr_range().contains(&piece.as_ptr());
        let (_, pieces) = cut(&bytes, bytes.len());
        let shared: Vec<bool> = pieces.iter().map(|pieces| pieces.iter().any(within)).collect();
        assert_eq!(shared, [false, true, false, false, false, true, true, false]);
        assert!(pieces.iter().all(|pieces| pieces.len() <= 1), "and nothing was cut");
    }

    #[test]
    fn a_peer_that_cuts_small_frames_keeps_no_input_buffer_alive() {
        for (length, sliced) in [(COPY_SMALL, false), (COPY_SMALL + 1, true)] {
            let mut bytes = BytesMut::new();
            Frame::More { stream: StreamId(1), piece: &alloc::vec![7; length] }.encode(&mut bytes);
            let bytes = bytes.freeze();
            let (_, pieces) = cut(&bytes, bytes.len());
            assert_eq!(bytes.as_ptr_range().contains(&pieces[0][0].as_ptr()), sliced, "{length}");
        }
    }

    #[test]
    fn small_inputs_are_put_together_but_not_held_back_for_long() {
        let mut bytes = BytesMut::new();
        Frame::More { stream: StreamId(1), piece: &[7; 40_000] }.encode(&mut bytes);
        let (_, pieces) = cut(&bytes.freeze(), 1000);
        let lengths: Vec<usize> = pieces[0].iter().map(Bytes::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 40_000);
        let (last, full) = lengths.split_last().unwrap();
        assert!(full.iter().all(|length| (COPY_PIECE..COPY_PIECE + 1000).contains(length)));
        assert!(*last < COPY_PIECE);
    }

    #[test]
    fn a_frame_longer_than_the_chunk_is_refused_at_its_header() {
        let header = Header { length: CHUNK + 1, kind: Kind::Message, stream: StreamId(1) }.write();
        let error = Input::new().next(&mut Bytes::copy_from_slice(&header), CHUNK).unwrap_err();
        assert_eq!(error, FrameError::TooLong { length: CHUNK + 1, chunk: CHUNK });
    }
}
