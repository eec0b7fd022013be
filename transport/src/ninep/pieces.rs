//! A payload's pieces: mostly none or one, which need no list of their own.
//!
//! A list is an allocation for each message with a payload; one slice fits where the list's head
//! would stand. Reads as a slice of pieces, whichever it is.

use alloc::vec::{self, Vec};
use core::ops::Deref;
use core::option;

use bytes::Bytes;

/// Pieces in order.
#[derive(Clone, Debug, Default)]
pub struct Pieces(Kept);

#[derive(Clone, Debug, Default)]
enum Kept {
    #[default]
    None,
    One([Bytes; 1]),
    More(Vec<Bytes>),
}

impl Pieces {
    /// No pieces.
    pub const fn new() -> Pieces {
        Pieces(Kept::None)
    }

    /// Adds one at the end.
    pub fn push(&mut self, piece: Bytes) {
        self.0 = match core::mem::take(&mut self.0) {
            Kept::None => Kept::One([piece]),
            Kept::One([first]) => {
                let mut more = Vec::with_capacity(4);
                more.extend([first, piece]);
                Kept::More(more)
            }
            Kept::More(mut more) => {
                more.push(piece);
                Kept::More(more)
            }
        };
    }
}

impl Deref for Pieces {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        match &self.0 {
            Kept::None => &[],
            Kept::One(one) => one,
            Kept::More(more) => more,
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(one: Bytes) -> Pieces {
        Pieces(Kept::One([one]))
    }
}

impl From<Vec<Bytes>> for Pieces {
    fn from(more: Vec<Bytes>) -> Pieces {
        if more.len() > 1 { Pieces(Kept::More(more)) } else { more.into_iter().collect() }
    }
}

impl FromIterator<Bytes> for Pieces {
    fn from_iter<I: IntoIterator<Item = Bytes>>(from: I) -> Pieces {
        let mut pieces = Pieces::new();
        from.into_iter().for_each(|piece| pieces.push(piece));
        pieces
    }
}

impl<'a> IntoIterator for &'a Pieces {
    type Item = &'a Bytes;
    type IntoIter = core::slice::Iter<'a, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = core::iter::Chain<option::IntoIter<Bytes>, vec::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, more) = match self.0 {
            Kept::None => (None, Vec::new()),
            Kept::One([one]) => (Some(one), Vec::new()),
            Kept::More(more) => (None, more),
        };
        one.into_iter().chain(more)
    }
}

impl PartialEq for Pieces {
    fn eq(&self, other: &Pieces) -> bool {
        **self == **other
    }
}

impl Eq for Pieces {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn pieces_are_the_same_however_they_came_together() {
        let list: Vec<Bytes> = (0..5u8).map(|byte| vec![byte; 3].into()).collect();
        for count in 0..=list.len() {
            let mut pushed = Pieces::new();
            list[..count].iter().for_each(|piece| pushed.push(piece.clone()));
            assert_eq!(*pushed, list[..count]);
            assert_eq!(pushed, Pieces::from(list[..count].to_vec()));
            assert_eq!((&pushed).into_iter().count(), count);
            assert!(pushed.into_iter().eq(list[..count].iter().cloned()));
        }
        assert_eq!(*Pieces::from(list[0].clone()), list[..1]);
    }
}
