//! The frame: the channel's unit. A header of eight bytes, `length[3] kind[1] stream[4]`, and
//! `length` bytes of payload.
//!
//! One table says which kinds there are and what they carry ([`Frame`]); PROTOCOL.md shows the bytes
//! of each. The codec knows no state: what may be sent when is [`super::connection`]'s.

use core::fmt;

use bytes::{BufMut, BytesMut};

use super::error::Reason;
use super::wire::{Fields, put_reason};
use crate::id::StreamId;

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

/// Bytes of `BEGIN`'s `total[4]`, which precedes its piece.
pub const TOTAL: u32 = 4;

/// The longest payload that the header can say.
pub const MAX_LENGTH: u32 = (1 << 24) - 1;

/// Why bytes are not a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not have.
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    /// A kind of a capability that was not agreed.
    #[error("a frame of kind {0} without the capability for it")]
    NotAgreed(Kind),
    /// A payload longer than the channel's chunk.
    #[error("a frame of {length} bytes where {chunk} are the most")]
    TooLong {
        /// The header's length.
        length: u32,
        /// The channel's chunk.
        chunk: u32,
    },
    /// A payload that does not have its kind's fields.
    #[error("a malformed {0} frame")]
    Malformed(Kind),
    /// A stream's frame without a stream, or the channel's with one.
    #[error("a frame of kind {0} with a stream number that it cannot have")]
    StreamNumber(Kind),
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $word:literal;)*) => {
        /// What a frame is.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Kind { $( $(#[$doc])* $name = $number, )* }

        impl Kind {
            /// All kinds in ascending order.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The kind of a number.
            pub fn from_number(number: u8) -> Option<Kind> {
                match number { $( $number => Some(Kind::$name), )* _ => None }
            }

            /// The kind's name in PROTOCOL.md.
            pub fn name(self) -> &'static str {
                match self { $( Kind::$name => $word, )* }
            }
        }
    };
}

kinds! {
    /// Asks for a stream. Client to server.
    Open = 1 "OPEN";
    /// Grants it.
    Opened = 2 "OPENED";
    /// Does not.
    Refused = 3 "REFUSED";
    /// A whole message.
    Message = 4 "MESSAGE";
    /// A longer message begins.
    Begin = 5 "BEGIN";
    /// Its next piece.
    More = 6 "MORE";
    /// Credit for a stream, or for the channel.
    Credit = 7 "CREDIT";
    /// The sender's last frame of a stream.
    Close = 8 "CLOSE";
    /// Asks for a `PONG`.
    Ping = 9 "PING";
    /// Answers it.
    Pong = 10 "PONG";
    /// The sender takes no new streams, or ends the channel.
    GoAway = 11 "GOAWAY";
    /// Reserved: what the peer may want to know before it asks.
    Hint = 12 "HINT";
    /// Reserved: takes hints back.
    Invalidate = 13 "INVALIDATE";
}

impl Kind {
    /// Whether its payload is part of a message and costs credit.
    pub fn is_data(self) -> bool {
        matches!(self, Kind::Message | Kind::Begin | Kind::More)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of payload that follow, at most [`MAX_LENGTH`].
    pub length: u32,
    /// What the payload is.
    pub kind: Kind,
    /// Whose it is; [`StreamId::CHANNEL`] for the channel's own.
    pub stream: StreamId,
}

impl Header {
    /// Reads a header. The kind must be known and its stream number possible; the length is checked
    /// against the kind only, not against the chunk.
    pub fn read(raw: &[u8; HEADER]) -> Result<Header, FrameError> {
        let length = u32::from_le_bytes([raw[0], raw[1], raw[2], 0]);
        let kind = Kind::from_number(raw[3]).ok_or(FrameError::UnknownKind(raw[3]))?;
        let stream = StreamId(u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]));
        let (lengths, of_channel) = match kind {
            Kind::Open => (9..=25, Some(false)),
            Kind::Opened => (4..=4, Some(false)),
            Kind::Refused | Kind::Close => (6..=6 + Reason::MAX_TEXT as u32, Some(false)),
            Kind::Message => (1..=MAX_LENGTH, Some(false)),
            Kind::Begin => (TOTAL + 1..=MAX_LENGTH, Some(false)),
            Kind::More => (1..=MAX_LENGTH, Some(false)),
            Kind::Credit => (4..=4, None),
            Kind::Ping | Kind::Pong => (8..=8, Some(true)),
            Kind::GoAway => (6..=6 + Reason::MAX_TEXT as u32, Some(true)),
            Kind::Hint | Kind::Invalidate => return Err(FrameError::NotAgreed(kind)),
        };
        if of_channel.is_some_and(|channel| channel != (stream == StreamId::CHANNEL)) {
            return Err(FrameError::StreamNumber(kind));
        }
        if !lengths.contains(&length) {
            return Err(FrameError::Malformed(kind));
        }
        Ok(Header { length, kind, stream })
    }

    /// The header's bytes.
    pub fn write(self) -> [u8; HEADER] {
        let [a, b, c, _] = self.length.to_le_bytes();
        let [w, x, y, z] = self.stream.0.to_le_bytes();
        [a, b, c, self.kind as u8, w, x, y, z]
    }
}

/// With what right a stream is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authorisation {
    /// The folder that this channel's own call named. Once in a channel.
    Own,
    /// A permission that a grant call was given.
    Token([u8; 16]),
    /// The same folder with the same rights as a live stream.
    Sibling(StreamId),
}

/// What `OPEN` carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    /// The right to it.
    pub authorisation: Authorisation,
    /// The largest message that the client would like to use, in bytes; a hint to the backend.
    pub msize: u32,
    /// [`Open::HINTS`] or zero.
    pub flags: u32,
}

impl Open {
    /// The client end takes hints on the stream ([`crate::accel::hint`]).
    pub const HINTS: u32 = 1;
}

/// What `OPENED` carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The largest message that the backend takes, in bytes.
    pub msize: u32,
}

/// A whole frame, its payload taken apart. Payloads of messages stay where they are.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields are PROTOCOL.md's
pub enum Frame<'a> {
    Open { stream: StreamId, open: Open },
    Opened { stream: StreamId, opened: Opened },
    Refused { stream: StreamId, reason: Reason },
    Message { stream: StreamId, data: &'a [u8] },
    Begin { stream: StreamId, total: u32, piece: &'a [u8] },
    More { stream: StreamId, piece: &'a [u8] },
    Credit { stream: StreamId, bytes: u32 },
    Close { stream: StreamId, reason: Reason },
    Ping { value: u64 },
    Pong { value: u64 },
    GoAway { reason: Reason },
}

impl<'a> Frame<'a> {
    /// Takes a frame's payload apart; all of it must be there and be used.
    pub fn decode(header: Header, payload: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let malformed = FrameError::Malformed(header.kind);
        if payload.len() != header.length as usize {
            return Err(malformed);
        }
        let mut fields = Fields(payload);
        let frame = Self::fields(header, &mut fields).ok_or(malformed)?;
        if fields.is_empty() { Ok(frame) } else { Err(malformed) }
    }

    fn fields(header: Header, from: &mut Fields<'a>) -> Option<Frame<'a>> {
        let stream = header.stream;
        Some(match header.kind {
            Kind::Open => {
                let (msize, flags) = (from.u32()?, from.u32()?);
                let authorisation = match from.u8()? {
                    0 => Authorisation::Own,
                    1 => Authorisation::Token(from.array()?),
                    2 => Authorisation::Sibling(StreamId(from.u32()?)),
                    _ => return None,
                };
                Frame::Open { stream, open: Open { authorisation, msize, flags } }
            }
            Kind::Opened => Frame::Opened { stream, opened: Opened { msize: from.u32()? } },
            Kind::Refused => Frame::Refused { stream, reason: from.reason()? },
            Kind::Message => Frame::Message { stream, data: from.bytes(from.0.len())? },
            Kind::Begin => {
                let total = from.u32()?;
                Frame::Begin { stream, total, piece: from.bytes(from.0.len())? }
            }
            Kind::More => Frame::More { stream, piece: from.bytes(from.0.len())? },
            Kind::Credit => Frame::Credit { stream, bytes: from.u32()? },
            Kind::Close => Frame::Close { stream, reason: from.reason()? },
            Kind::Ping => Frame::Ping { value: from.u64()? },
            Kind::Pong => Frame::Pong { value: from.u64()? },
            Kind::GoAway => Frame::GoAway { reason: from.reason()? },
            Kind::Hint | Kind::Invalidate => return None,
        })
    }

    /// The frame's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Frame::Open { .. } => Kind::Open,
            Frame::Opened { .. } => Kind::Opened,
            Frame::Refused { .. } => Kind::Refused,
            Frame::Message { .. } => Kind::Message,
            Frame::Begin { .. } => Kind::Begin,
            Frame::More { .. } => Kind::More,
            Frame::Credit { .. } => Kind::Credit,
            Frame::Close { .. } => Kind::Close,
            Frame::Ping { .. } => Kind::Ping,
            Frame::Pong { .. } => Kind::Pong,
            Frame::GoAway { .. } => Kind::GoAway,
        }
    }

    /// The frame's stream; the channel for those that have none.
    pub fn stream(&self) -> StreamId {
        match *self {
            Frame::Open { stream, .. }
            | Frame::Opened { stream, .. }
            | Frame::Refused { stream, .. }
            | Frame::Message { stream, .. }
            | Frame::Begin { stream, .. }
            | Frame::More { stream, .. }
            | Frame::Credit { stream, .. }
            | Frame::Close { stream, .. } => stream,
            Frame::Ping { .. } | Frame::Pong { .. } | Frame::GoAway { .. } => StreamId::CHANNEL,
        }
    }

    /// Appends the frame to `to`; gives its length, header included.
    pub fn encode(&self, to: &mut BytesMut) -> usize {
        let start = to.len();
        to.put_slice(&[0; HEADER]);
        match self {
            Frame::Open { open, .. } => {
                to.put_u32_le(open.msize);
                to.put_u32_le(open.flags);
                match open.authorisation {
                    Authorisation::Own => to.put_u8(0),
                    Authorisation::Token(token) => {
                        to.put_u8(1);
                        to.put_slice(&token);
                    }
                    Authorisation::Sibling(of) => {
                        to.put_u8(2);
                        to.put_u32_le(of.0);
                    }
                }
            }
            Frame::Opened { opened, .. } => to.put_u32_le(opened.msize),
            Frame::Refused { reason, .. }
            | Frame::Close { reason, .. }
            | Frame::GoAway { reason } => put_reason(to, reason),
            Frame::Message { data, .. } => to.put_slice(data),
            Frame::Begin { total, piece, .. } => {
                to.put_u32_le(*total);
                to.put_slice(piece);
            }
            Frame::More { piece, .. } => to.put_slice(piece),
            Frame::Credit { bytes, .. } => to.put_u32_le(*bytes),
            Frame::Ping { value } | Frame::Pong { value } => to.put_u64_le(*value),
        }
        let length = (to.len() - start - HEADER) as u32;
        debug_assert!(length <= MAX_LENGTH, "a frame's length fits its header");
        let header = Header { length, kind: self.kind(), stream: self.stream() };
        to[start..start + HEADER].copy_from_slice(&header.write());
        to.len() - start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::error::Code;
    use alloc::vec::Vec;

    fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
        let (raw, payload) = bytes.split_at(HEADER);
        Frame::decode(Header::read(raw.try_into().unwrap())?, payload)
    }

    /// The vector table: bytes and what they are.
    fn vectors() -> Vec<(&'static [u8], Frame<'static>)> {
        let stream = StreamId(0x0102_0304);
        let reason = Reason::new(Code::DONE, "ok");
        let open = Open { authorisation: Authorisation::Own, msize: 0x0010_0000, flags: 0 };
        let token = Open { authorisation: Authorisation::Token([7; 16]), ..open };
        let sibling = Open { authorisation: Authorisation::Sibling(StreamId(1)), ..open };
        alloc::vec![
            (b"\x09\0\0\x01\x04\x03\x02\x01\0\0\x10\0\0\0\0\0\0", Frame::Open { stream, open }),
            (
                b"\x19\0\0\x01\x04\x03\x02\x01\0\0\x10\0\0\0\0\0\x01\
                  \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07",
                Frame::Open { stream, open: token },
            ),
            (
                b"\x0d\0\0\x01\x04\x03\x02\x01\0\0\x10\0\0\0\0\0\x02\x01\0\0\0",
                Frame::Open { stream, open: sibling },
            ),
            (
                b"\x04\0\0\x02\x04\x03\x02\x01\0\0\x10\0",
                Frame::Opened { stream, opened: Opened { msize: 0x0010_0000 } },
            ),
            (
                b"\x08\0\0\x03\x04\x03\x02\x01\0\0\0\0\x02\0ok",
                Frame::Refused { stream, reason: reason.clone() },
            ),
            (b"\x02\0\0\x04\x04\x03\x02\x01hi", Frame::Message { stream, data: b"hi" }),
            (
                b"\x06\0\0\x05\x04\x03\x02\x01\0\0\x01\0hi",
                Frame::Begin { stream, total: 65_536, piece: b"hi" },
            ),
            (b"\x02\0\0\x06\x04\x03\x02\x01hi", Frame::More { stream, piece: b"hi" }),
            (b"\x04\0\0\x07\x04\x03\x02\x01\0\0\x08\0", Frame::Credit { stream, bytes: 512 << 10 },),
            (
                b"\x04\0\0\x07\0\0\0\0\0\0\x08\0",
                Frame::Credit { stream: StreamId::CHANNEL, bytes: 512 << 10 },
            ),
            (
                b"\x08\0\0\x08\x04\x03\x02\x01\0\0\0\0\x02\0ok",
                Frame::Close { stream, reason: reason.clone() },
            ),
            (b"\x08\0\0\x09\0\0\0\0\x01\0\0\0\0\0\0\0", Frame::Ping { value: 1 }),
            (b"\x08\0\0\x0a\0\0\0\0\x01\0\0\0\0\0\0\0", Frame::Pong { value: 1 }),
            (b"\x08\0\0\x0b\0\0\0\0\0\0\0\0\x02\0ok", Frame::GoAway { reason }),
        ]
    }

    #[test]
    fn the_vector_table_reads_and_writes() {
        for (bytes, frame) in vectors() {
            assert_eq!(decode(bytes).as_ref(), Ok(&frame), "{bytes:?}");
            let mut back = BytesMut::new();
            assert_eq!(frame.encode(&mut back), bytes.len());
            assert_eq!(&back[..], bytes);
        }
    }

    #[test]
    fn every_kind_is_in_the_vector_table_or_reserved() {
        for &kind in Kind::ALL {
            let reserved = matches!(kind, Kind::Hint | Kind::Invalidate);
            assert_ne!(vectors().iter().any(|(_, frame)| frame.kind() == kind), reserved, "{kind}");
        }
    }

    #[test]
    fn what_is_no_frame_is_named() {
        let table: &[(&[u8], FrameError)] = &[
            (b"\0\0\0\0\0\0\0\0", FrameError::UnknownKind(0)),
            (b"\0\0\0\x0e\0\0\0\0", FrameError::UnknownKind(14)),
            (b"\x01\0\0\x0c\x01\0\0\0x", FrameError::NotAgreed(Kind::Hint)),
            (b"\x01\0\0\x0d\x01\0\0\0x", FrameError::NotAgreed(Kind::Invalidate)),
            (b"\x02\0\0\x04\0\0\0\0hi", FrameError::StreamNumber(Kind::Message)),
            (b"\x08\0\0\x09\x01\0\0\0\x01\0\0\0\0\0\0\0", FrameError::StreamNumber(Kind::Ping)),
            (b"\0\0\0\x04\x01\0\0\0", FrameError::Malformed(Kind::Message)),
            (b"\x04\0\0\x05\x01\0\0\0\0\0\x01\0", FrameError::Malformed(Kind::Begin)),
            (b"\x05\0\0\x07\x01\0\0\0\0\0\0\0\0", FrameError::Malformed(Kind::Credit)),
            // A text longer than its frame, shorter than its frame, an authorisation that is none.
            (b"\x06\0\0\x08\x01\0\0\0\0\0\0\0\x01\0", FrameError::Malformed(Kind::Close)),
            (b"\x07\0\0\x08\x01\0\0\0\0\0\0\0\0\0x", FrameError::Malformed(Kind::Close)),
            (b"\x09\0\0\x01\x01\0\0\0\0\0\x10\0\0\0\0\0\x03", FrameError::Malformed(Kind::Open)),
            (b"\x0a\0\0\x01\x01\0\0\0\0\0\x10\0\0\0\0\0\0\0", FrameError::Malformed(Kind::Open)),
        ];
        for (bytes, error) in table {
            assert_eq!(decode(bytes), Err(*error), "{bytes:?}");
        }
    }
}
