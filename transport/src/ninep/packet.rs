//! A whole message as it is carried about: its head in one piece, its payload in the pieces in
//! which it arrived.
//!
//! The head is all that is ever parsed. The payload of `Twrite`, `Rread` and `Rreaddir` is a list of
//! slices of the buffers that the kernel filled; it is handed on to `writev(2)` or `pwritev(2)`
//! without being copied.

use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};

use super::codec::{DecodeError, Reader};
use super::pieces::Pieces;
use crate::id::Tag;

/// `size[4] type[1] tag[2]`, the head of every message (intro(5)).
pub const HEADER: usize = 7;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The message up to its payload; the whole message where it has none.
    pub head: Bytes,
    /// The payload, in pieces, none of them empty.
    pub body: Pieces,
}

/// The head of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's size in bytes, itself included.
    pub size: u32,
    /// The message's type.
    pub kind: u8,
    /// The message's tag.
    pub tag: Tag,
}

impl Header {
    /// Takes the header off the front of `bytes`. The size is not checked here.
    pub fn read(bytes: &[u8]) -> Result<Header, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Header { size: reader.field()?, kind: reader.field()?, tag: reader.field()? })
    }
}

impl Packet {
    /// A packet without a payload.
    pub fn whole(head: impl Into<Bytes>) -> Packet {
        Packet { head: head.into(), body: Pieces::new() }
    }

    /// Starts a head: room for the size, then type and tag. [`Packet::finish`] fills the size in.
    pub(crate) fn start(to: &mut BytesMut, kind: u8, tag: Tag) {
        use bytes::BufMut;
        to.put_u32_le(0);
        to.put_u8(kind);
        to.put_u16_le(tag.0);
    }

    /// Writes the size into a head that `start` began and makes it a packet with `body`.
    pub(crate) fn finish(mut head: BytesMut, body: Pieces) -> Packet {
        let payload: usize = body.iter().map(Bytes::len).sum();
        let size = u32::try_from(head.len() + payload).unwrap_or(u32::MAX);
        head[..4].copy_from_slice(&size.to_le_bytes());
        Packet { head: head.freeze(), body }
    }

    /// The message's header; an error where the head is shorter than one.
    pub fn header(&self) -> Result<Header, DecodeError> {
        Header::read(&self.head)
    }

    /// Bytes of the payload.
    pub fn body_len(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// Bytes of the whole message.
    pub fn len(&self) -> usize {
        self.head.len() + self.body_len()
    }

    /// Whether there is nothing in it; no message is.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// All its pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        core::iter::once(&self.head).chain(&self.body)
    }

    /// The message in one piece, copied: for tests and logs.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().flat_map(|piece| piece.iter().copied()).collect()
    }
}
