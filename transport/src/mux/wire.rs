//! A bounds-checked cursor for the channel's own fields, and their writing twins.
//!
//! Integers are little-endian and a text is a two-byte count and its bytes, as in 9P (intro(5)). It
//! is small enough to stand on its own, so that the multiplexer does not depend on the 9P codec.

use alloc::string::String;

use bytes::{BufMut, BytesMut};

use super::error::Reason;

/// Takes fields off the front of a payload; `None` where one reaches beyond its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A counted string of at most `max` bytes.
    pub fn counted(&mut self, max: usize) -> Option<&'a [u8]> {
        let count = usize::from(self.u16()?);
        if count > max { None } else { self.bytes(count) }
    }

    /// code[4] text[s].
    pub fn reason(&mut self) -> Option<Reason> {
        let code = super::error::Code(self.u32()?);
        let text = self.counted(Reason::MAX_TEXT)?;
        Some(Reason { code, text: String::from_utf8_lossy(text).into_owned() })
    }

    /// Whether all has been taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a counted string; what is above `max` bytes is cut off.
pub(crate) fn put_counted(to: &mut BytesMut, bytes: &[u8], max: usize) {
    let count = bytes.len().min(max).min(usize::from(u16::MAX));
    to.put_u16_le(count as u16);
    to.put_slice(&bytes[..count]);
}

/// Writes code[4] text[s]; the text is cut at a character's boundary.
pub(crate) fn put_reason(to: &mut BytesMut, reason: &Reason) {
    let mut end = reason.text.len().min(Reason::MAX_TEXT);
    while !reason.text.is_char_boundary(end) {
        end -= 1;
    }
    to.put_u32_le(reason.code.0);
    put_counted(to, &reason.text.as_bytes()[..end], Reason::MAX_TEXT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::error::Code;

    #[test]
    fn a_count_beyond_the_end_or_the_bound_is_refused() {
        assert_eq!(Fields(&[3, 0, b'a', b'b']).counted(9), None);
        assert_eq!(Fields(&[2, 0, b'a', b'b']).counted(1), None);
        assert_eq!(Fields(&[2, 0, b'a', b'b']).counted(2), Some(&b"ab"[..]));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut bytes = BytesMut::new();
        let text = "ä".repeat(600);
        put_reason(&mut bytes, &Reason { code: Code::PROTOCOL, text: alloc::format!("a{text}") });
        let mut fields = Fields(&bytes);
        let back = fields.reason().unwrap();
        assert_eq!(back.text.len(), 1023);
        assert!(back.text.ends_with('ä') && fields.is_empty());
    }
}
