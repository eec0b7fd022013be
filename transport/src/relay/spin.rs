//! How long the data plane looks for work before it sleeps.
//!
//! A wake-up across cores costs more than all that the client end does with a small message, so it is
//! worth looking again for some [`LONGEST`] before sleeping: where the answer mostly comes within that
//! time, where there is a second core, and while nobody else wants this one. All three are found out by
//! what happened, not by asking: how long the waits before were, and whether two looks lay further
//! apart than a look takes, which means that somebody else had the core in between.
//!
//! Only decides; the looking is the [pump](super::pump)'s. Reads no clock.

use std::time::Duration;

/// How long to look at most: about what the wake-up costs that it saves.
pub const LONGEST: Duration = Duration::from_micros(50);
/// A sleep no longer than this would have been saved by looking: it contains the wake-up itself.
const SHORT_SLEEP: Duration = Duration::from_micros(100);
/// Two looks further apart than this had somebody else between them.
const PREEMPTED: Duration = Duration::from_micros(40);
/// How long to leave the core to others then.
const RESPITE: Duration = Duration::from_millis(20);
/// The score is from 0 to this, and looking pays from half of it on.
const BEST: u8 = 16;

/// Whether to look, decided from wait to wait.
#[derive(Debug)]
pub struct Spin {
    /// How many of the last waits were short, roughly.
    score: u8,
    /// Until when the core is left to others.
    respite: Duration,
    allowed: bool,
}

impl Spin {
    /// `allowed`: whether to look at all. A machine with one core never gains by it.
    pub fn new(allowed: bool) -> Spin {
        Spin { score: 0, respite: Duration::ZERO, allowed }
    }

    /// Whether looking is worth it in a wait that begins at `now`.
    pub fn is_worth_it(&self, now: Duration) -> bool {
        self.allowed && self.score >= BEST / 2 && now >= self.respite
    }

    /// A look found nothing at `now`, after one at `last` in a wait that began at `began`. Says whether to
    /// look again.
    pub fn goes_on(&mut self, began: Duration, last: Duration, now: Duration) -> bool {
        if now.saturating_sub(last) > PREEMPTED {
            self.respite = now + RESPITE;
            return false;
        }
        now.saturating_sub(began) < LONGEST
    }

    /// A wait is over that began at `began`, with or without sleep.
    pub fn waited(&mut self, began: Duration, now: Duration, slept: bool) {
        let limit = if slept { SHORT_SLEEP } else { LONGEST };
        if now.saturating_sub(began) <= limit {
            self.score = (self.score + 1).min(BEST);
        } else {
            // One long wait is a pause between two askings; several are another kind of work.
            self.score = self.score.saturating_sub(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn waits(spin: &mut Spin, count: u32, time: Duration, slept: bool) {
        (0..count).for_each(|_| spin.waited(us(0), time, slept));
    }

    #[test]
    fn it_begins_where_waits_are_short_and_ends_where_they_are_not() {
        let mut spin = Spin::new(true);
        assert!(!spin.is_worth_it(us(0)));
        waits(&mut spin, 8, us(80), true);
        assert!(spin.is_worth_it(us(0)));
        waits(&mut spin, 100, us(20), false);
        assert!(spin.is_worth_it(us(0)));
        // A look that ran its whole time and then slept was in vain.
        waits(&mut spin, 5, us(500), true);
        assert!(!spin.is_worth_it(us(0)));
    }

    #[test]
    fn pauses_between_bursts_do_not_end_it() {
        let mut spin = Spin::new(true);
        for _ in 0..50 {
            waits(&mut spin, 10, us(30), false);
            waits(&mut spin, 1, us(5000), true);
            assert!(spin.is_worth_it(us(0)));
        }
    }

    #[test]
    fn it_leaves_the_core_to_whoever_takes_it() {
        let mut spin = Spin::new(true);
        waits(&mut spin, 16, us(20), false);
        assert!(spin.goes_on(us(0), us(10), us(11)));
        assert!(!spin.goes_on(us(0), us(11), us(4011)));
        assert!(!spin.is_worth_it(us(10_000)));
        assert!(spin.is_worth_it(us(24_011)));
    }

    #[test]
    fn it_looks_no_longer_than_a_wake_up_costs() {
        let mut spin = Spin::new(true);
        assert!(spin.goes_on(us(0), us(48), us(49)));
        assert!(!spin.goes_on(us(0), us(49), us(50)));
    }

    #[test]
    fn it_never_begins_where_it_is_not_allowed() {
        let mut spin = Spin::new(false);
        waits(&mut spin, 100, us(20), true);
        assert!(!spin.is_worth_it(us(0)));
    }
}
