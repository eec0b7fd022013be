//! How much unsent data the channel's output may hold.
//!
//! What the kernel has taken cannot be overtaken any more: a small message waits for all of it. So the
//! output's own buffer is to be small where small messages go beside bulk, and large where bulk goes
//! alone, which then needs fewer wake-ups. Only decides; reads no clock.

use std::time::Duration;

/// Bytes of the output's buffer while bulk goes alone, as setsockopt(2) takes them (`SO_SNDBUF`).
pub const ALONE: usize = 64 * 1024;
/// While small messages go beside it.
pub const BESIDE: usize = 24 * 1024;
/// Both kinds went within this time: they go beside each other.
const TOGETHER: Duration = Duration::from_millis(5);
/// And do so no longer when they have not for this time.
const APART: Duration = Duration::from_millis(200);

/// What has gone lately.
#[derive(Debug, Default)]
pub struct Unsent {
    small: Last,
    bulk: Last,
    /// When both had last gone within [`TOGETHER`], while that is not [`APART`] ago.
    together: Option<Duration>,
}

/// A counter, and when it had last changed.
#[derive(Debug, Default)]
struct Last {
    count: u64,
    at: Option<Duration>,
}

impl Last {
    fn see(&mut self, now: Duration, count: u64) {
        if self.count != count {
            *self = Last { count, at: Some(now) };
        }
    }

    fn is_within(&self, now: Duration, time: Duration) -> bool {
        self.at.is_some_and(|at| now.saturating_sub(at) <= time)
    }
}

impl Unsent {
    /// So many small messages and frames of bulk have gone by `now`. Gives the buffer's new size where
    /// it changes.
    pub fn sent(&mut self, now: Duration, small: u64, bulk: u64) -> Option<usize> {
        self.small.see(now, small);
        self.bulk.see(now, bulk);
        let before = self.together;
        if self.small.is_within(now, TOGETHER) && self.bulk.is_within(now, TOGETHER) {
            self.together = Some(now);
        } else {
            self.together = before.filter(|&at| now.saturating_sub(at) <= APART);
        }
        match (before, self.together) {
            (None, Some(_)) => Some(BESIDE),
            (Some(_), None) => Some(ALONE),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_kind_alone_changes_nothing() {
        let mut unsent = Unsent::default();
        for n in 1..1000 {
            assert_eq!(unsent.sent(ms(n), 0, n), None);
        }
        let mut unsent = Unsent::default();
        for n in 1..1000 {
            assert_eq!(unsent.sent(ms(n), n, 0), None);
        }
    }

    #[test]
    fn a_small_message_beside_bulk_makes_it_small_and_a_while_without_large() {
        let mut unsent = Unsent::default();
        assert_eq!(unsent.sent(ms(1), 0, 1), None);
        assert_eq!(unsent.sent(ms(3), 1, 2), Some(BESIDE));
        let mut small = 1;
        for n in 4..400 {
            small += u64::from(n % 150 == 0);
            assert_eq!(unsent.sent(ms(n), small, n), None, "{n} ms");
        }
        let large: Vec<u64> =
            (400..800).filter(|&n| unsent.sent(ms(n), small, n) == Some(ALONE)).collect();
        assert_eq!(large, [506]);
    }

    #[test]
    fn one_kind_after_the_other_is_not_together() {
        let mut unsent = Unsent::default();
        for n in 1..10 {
            assert_eq!(unsent.sent(ms(10 * n), n / 2, n.div_ceil(2)), None);
        }
    }
}
