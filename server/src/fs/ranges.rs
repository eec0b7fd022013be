//! Which bytes of a file one owner has locked: arithmetic only.
//!
//! The kernel keeps this for each open file description, but tells nobody; here it is kept to know
//! when an owner holds nothing any more, and which owner is in another's way.

/// A locked range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` is the end of the file, whatever it will be.
    pub last: u64,
    /// Whether nobody else may hold it.
    pub exclusive: bool,
}

impl Held {
    /// As fcntl(2) has it: bytes, 0 to the end.
    pub fn length(&self) -> u64 {
        if self.last == i64::MAX as u64 { 0 } else { self.last - self.start + 1 }
    }

    fn meets(&self, other: &Held) -> bool {
        self.start <= other.last && other.start <= self.last
    }
}

/// The ranges of one owner: ascending, none touching another that it could be joined with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges(Vec<Held>);

impl Ranges {
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ranges are held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Locks a range, as its kind says, or unlocks it.
    pub fn set(&mut self, range: Held, locked: bool) {
        let mut after = Vec::with_capacity(self.0.len() + 2);
        for held in &self.0 {
            if !held.meets(&range) {
                after.push(*held);
                continue;
            }
            if held.start < range.start {
                after.push(Held { last: range.start - 1, ..*held });
            }
            if held.last > range.last {
                after.push(Held { start: range.last + 1, ..*held });
            }
        }
        if locked {
            after.push(range);
        }
        after.sort_unstable_by_key(|held| held.start);
        after.dedup_by(|next, held| {
            let joins = held.exclusive == next.exclusive && held.last + 1 == next.start;
            if joins {
                held.last = next.last;
            }
            joins
        });
        self.0 = after;
    }

    /// A range of this owner that is in the way of another's.
    pub fn conflict(&self, wanted: &Held) -> Option<Held> {
        let in_the_way = |held: &&Held| held.meets(wanted) && (held.exclusive || wanted.exclusive);
        self.0.iter().find(in_the_way).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(start: u64, last: u64, exclusive: bool) -> Held {
        Held { start, last, exclusive }
    }

    proptest::proptest! {
        #[test]
        fn ranges_are_what_byte_by_byte_would_be(
            steps in proptest::collection::vec((0u64..24, 0u64..24, 0u8..3), 0..24)
        ) {
            let mut ranges = Ranges::default();
            let mut bytes = [None; 24];
            for (a, b, kind) in steps {
                let range = held(a.min(b), a.max(b), kind == 1);
                ranges.set(range, kind < 2);
                bytes[range.start as usize..=range.last as usize]
                    .fill((kind < 2).then_some(kind == 1));
            }
            for (at, byte) in bytes.iter().enumerate() {
                let at = at as u64;
                let found = ranges.0.iter().find(|held| held.meets(&self::held(at, at, true)));
                proptest::prop_assert_eq!(found.map(|held| held.exclusive), *byte);
            }
            for pair in ranges.0.windows(2) {
                proptest::prop_assert!(pair[0].last < pair[1].start);
            }
            proptest::prop_assert_eq!(ranges.is_empty(), bytes.iter().all(Option::is_none));
        }
    }

    #[test]
    fn shared_ranges_are_in_nobodys_way() {
        let mut ranges = Ranges::default();
        ranges.set(held(0, 9, false), true);
        assert_eq!(ranges.conflict(&held(5, 5, false)), None);
        assert_eq!(ranges.conflict(&held(5, 5, true)), Some(held(0, 9, false)));
        assert_eq!(ranges.conflict(&held(10, 20, true)), None);
    }
}
