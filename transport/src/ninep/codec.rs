//! A bounds-checked cursor over a message, and its writing twin.
//!
//! One trait, [`Wire`], with tiny impls for the types that 9P is made of (intro(5): integers are
//! little-endian, a string is a two-byte count and its bytes). Nothing here knows a message.

use bytes::{BufMut, BytesMut};

use crate::id::{Fid, Tag};

/// Why bytes are not the message that they claim to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// A field reaches beyond the end of the message.
    #[error("message ends inside a field")]
    Short,
    /// Bytes are left after the last field.
    #[error("message has {0} bytes after its last field")]
    Long(usize),
    /// The size field is below the header's seven bytes.
    #[error("message of {0} bytes is smaller than a 9P header")]
    Undersized(u32),
    /// The size field is above the session's msize.
    #[error("message of {size} bytes is larger than msize {msize}")]
    Oversized {
        /// The size field.
        size: u32,
        /// The most that is allowed now.
        msize: u32,
    },
    /// The size field and what came do not agree.
    #[error("message says {said} bytes and has {have}")]
    SizeMismatch {
        /// The size field.
        said: u32,
        /// The bytes there are.
        have: usize,
    },
    /// `count` and the payload that follows do not agree.
    #[error("payload of {have} bytes, count says {said}")]
    CountMismatch {
        /// The count field.
        said: u32,
        /// The payload there is.
        have: usize,
    },
    /// A message type that 9P2000.L does not have, or not in this direction.
    #[error("message type {0} is not one of 9P2000.L here")]
    UnknownType(u8),
    /// More names in a walk than 9P permits.
    #[error("walk of {0} names; 9P permits 16")]
    TooManyNames(u16),
    /// A hint of what cannot be.
    #[error("hint of what cannot be")]
    Hint,
}

/// A cursor that takes fields off the front of a message.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// The next field.
    pub fn field<T: Wire<'a>>(&mut self) -> Result<T, DecodeError> {
        T::read(self)
    }

    /// What has not been taken yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Checks that all has been taken.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Long(self.0.len())) }
    }
}

/// A type with a 9P representation.
pub trait Wire<'a>: Sized {
    /// Takes one off the cursor.
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError>;
    /// Appends it to `to`.
    fn write(&self, to: &mut BytesMut);
}

macro_rules! integers {
    ($($int:ty: $put:ident),*) => {$(
        impl<'a> Wire<'a> for $int {
            fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
                const SIZE: usize = size_of::<$int>();
                let mut raw = [0; SIZE];
                raw.copy_from_slice(from.take(SIZE)?);
                Ok(<$int>::from_le_bytes(raw))
            }
            fn write(&self, to: &mut BytesMut) {
                to.$put(*self);
            }
        }
    )*};
}

integers!(u8: put_u8, u16: put_u16_le, u32: put_u32_le, u64: put_u64_le);

/// A string. One longer than 65,535 bytes cannot be sent; what is written is cut there, and every
/// caller's strings are shorter (names are at most 255 bytes, targets of links 4,095).
impl<'a> Wire<'a> for &'a [u8] {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count: u16 = from.field()?;
        from.take(usize::from(count))
    }
    fn write(&self, to: &mut BytesMut) {
        let count = u16::try_from(self.len()).unwrap_or(u16::MAX);
        to.put_u16_le(count);
        to.put_slice(&self[..usize::from(count)]);
    }
}

impl<'a> Wire<'a> for Fid {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        from.field().map(Fid)
    }
    fn write(&self, to: &mut BytesMut) {
        self.0.write(to);
    }
}

impl<'a> Wire<'a> for Tag {
    fn read(from: &mut Reader<'a>) -> Result<Self, DecodeError> {
        from.field().map(Tag)
    }
    fn write(&self, to: &mut BytesMut) {
        self.0.write(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_reaches_beyond_the_message_is_refused() {
        let mut reader = Reader::new(&[3, 0, b'a', b'b']);
        assert_eq!(reader.field::<&[u8]>(), Err(DecodeError::Short));
    }

    #[test]
    fn strings_are_bytes() {
        let mut reader = Reader::new(&[2, 0, 0xff, 0xfe, 9]);
        assert_eq!(reader.field::<&[u8]>(), Ok(&[0xff, 0xfe][..]));
        assert_eq!(reader.finish(), Err(DecodeError::Long(1)));
    }
}
