//! How long a kind of operation has taken of late, and whether it may therefore be carried out by the
//! thread that takes messages in.
//!
//! For operations of which the kernel cannot be asked not to wait. Waking a worker, and being woken by
//! it, costs some tens of microseconds; an operation that takes less than that is better done at once,
//! and one that waits for a disk must not be, as all other streams wait with it. Nobody says beforehand
//! which it will be. So each class of operations (kind and size) is measured wherever it is carried out:
//!
//! ```text
//! on workers ── a few were short, and their mean is ──► on the spot
//!     ▲                                                    │
//!     └── back-off: LEAST, 2 LEAST, .. MOST ◄── one was slow ──┘
//! ```
//!
//! One slow operation sends its class back to the workers at once; it returns when the back-off is over
//! and what the workers did meanwhile was short. So a disk that begins to throttle delays others once,
//! and one that goes on doing so once in [`MOST`]. No clock in here: times are arguments.

use std::sync::Mutex;
use std::time::Duration;

use super::node::lock;

/// The mean up to which an operation is better done on the spot: below what waking a worker costs.
const SHORT: Duration = Duration::from_micros(25);
/// One that takes as long as this has waited for something. A thread that was preempted, too; that is
/// what the least back-off is short for.
const SLOW: Duration = Duration::from_micros(300);
/// What a single one counts at most in the mean: a stall is not to be remembered for hundreds of others.
const STALL: Duration = Duration::from_micros(1000);
/// Measurements before anything is concluded from them.
const SAMPLES: u32 = 4;
/// One more counts this part in the mean.
const WEIGHT: u32 = 8;
/// The first back-off, and the longest.
const LEAST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(10);
/// So many in a row without a slow one, and the next back-off is the first again.
const FORGIVEN: u32 = 1000;

/// What kind of operation, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// One name looked up, attributes asked for, or the like.
    Look,
    /// A file opened.
    Open,
    /// A file closed that may have been written to, or not.
    Close {
        /// Whether it may.
        writable: bool,
    },
    /// So many bytes of a folder read.
    Dir(usize),
    /// So many bytes read.
    Read(usize),
    /// So many bytes written.
    Write(usize),
    /// So many bytes written at a file's end.
    Append(usize),
}

/// Sizes that are told apart: what a page, 16 KiB, 64 KiB hold, and more.
const SIZES: usize = 4;
const CLASSES: usize = 4 + 4 * SIZES;

impl What {
    fn class(self) -> usize {
        let size = |bytes: usize| match bytes {
            0..=0x1000 => 0,
            0x1001..=0x4000 => 1,
            0x4001..=0x1_0000 => 2,
            _ => 3,
        };
        match self {
            What::Look => 0,
            What::Open => 1,
            What::Close { writable } => 2 + usize::from(writable),
            What::Dir(bytes) => 4 + size(bytes),
            What::Read(bytes) => 4 + SIZES + size(bytes),
            What::Write(bytes) => 4 + 2 * SIZES + size(bytes),
            What::Append(bytes) => 4 + 3 * SIZES + size(bytes),
        }
    }
}

/// The classes of one file system.
#[derive(Debug, Default)]
pub struct Rule([Mutex<Class>; CLASSES]);

impl Rule {
    /// Whether an operation may be carried out on the spot, at the time `now` (since any fixed
    /// moment).
    pub fn may(&self, what: What, now: Duration) -> bool {
        lock(&self.0[what.class()]).may(now)
    }

    /// As [`Rule::may`], for what is known not to wait as a rule: it needs no measurement before, but
    /// is sent back like others.
    pub fn may_still(&self, what: What, now: Duration) -> bool {
        now >= lock(&self.0[what.class()]).until
    }

    /// Notes that one took so long, wherever it was carried out, and ended at `now`.
    pub fn note(&self, what: What, took: Duration, now: Duration) {
        lock(&self.0[what.class()]).note(took, now);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    mean: Duration,
    samples: u32,
    /// Until when it is sent back.
    until: Duration,
    back_off: Duration,
    /// Without a slow one, in a row.
    quick: u32,
}

impl Class {
    fn may(&self, now: Duration) -> bool {
        self.samples >= SAMPLES && self.mean <= SHORT && now >= self.until
    }

    fn note(&mut self, took: Duration, now: Duration) {
        let counts = took.min(STALL);
        self.mean = match self.samples {
            0 => counts,
            _ => (self.mean * (WEIGHT - 1) + counts) / WEIGHT,
        };
        self.samples = self.samples.saturating_add(1);
        if took < SLOW {
            self.quick = self.quick.saturating_add(1);
            return;
        }
        // Several that a single stall held up count once: those that end during the back-off only
        // begin it anew.
        if now >= self.until {
            let grown = if self.quick >= FORGIVEN { LEAST } else { self.back_off * 2 };
            self.back_off = grown.clamp(LEAST, MOST);
        }
        self.quick = 0;
        self.until = now + self.back_off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(5);
    const STALLED: Duration = Duration::from_millis(80);
    const WHAT: What = What::Write(4096);

    /// Notes quick ones, a microsecond apart.
    fn quick(rule: &Rule, count: u32, now: &mut Duration) {
        for _ in 0..count {
            *now += Duration::from_micros(1);
            rule.note(WHAT, QUICK, *now);
        }
    }

    #[test]
    fn a_few_short_ones_on_workers_come_first() {
        let (rule, mut now) = (Rule::default(), Duration::ZERO);
        for _ in 0..SAMPLES {
            assert!(!rule.may(WHAT, now));
            quick(&rule, 1, &mut now);
        }
        assert!(rule.may(WHAT, now));
        for other in [What::Write(5000), What::Write(1 << 20), What::Read(4096), What::Look] {
            assert!(!rule.may(other, now), "{other:?} has not been measured");
        }
        assert!(rule.may(What::Write(1), now), "of the same class");
    }

    #[test]
    fn what_takes_longer_than_waking_a_worker_stays_there() {
        let (rule, mut now) = (Rule::default(), Duration::ZERO);
        for _ in 0..1000 {
            now += SHORT * 2;
            rule.note(WHAT, SHORT + QUICK, now);
            assert!(!rule.may(WHAT, now));
        }
        // It becomes faster.
        let turns = (1..100).find(|_| {
            quick(&rule, 1, &mut now);
            rule.may(WHAT, now)
        });
        assert!(turns.is_some_and(|turns| turns < 10), "{turns:?}");
    }

    #[test]
    fn one_slow_one_sends_its_class_back_and_no_other() {
        let (rule, mut now) = (Rule::default(), Duration::ZERO);
        quick(&rule, 2000, &mut now);
        for _ in 0..SAMPLES {
            rule.note(What::Look, QUICK, now);
        }
        rule.note(WHAT, SLOW, now);
        assert!(!rule.may(WHAT, now));
        assert!(rule.may(What::Look, now));
        quick(&rule, 100, &mut now);
        assert!(!rule.may(WHAT, now), "short again, but the back-off is not over");
        assert!(rule.may(WHAT, now + LEAST));
    }

    #[test]
    fn the_back_off_doubles_up_to_its_bound_and_is_forgotten_after_many_quick_ones() {
        let (rule, mut now) = (Rule::default(), Duration::ZERO);
        quick(&rule, SAMPLES, &mut now);
        let mut expected = LEAST;
        for _ in 0..20 {
            rule.note(WHAT, STALLED, now);
            // Others that the same stall held up.
            rule.note(WHAT, STALLED, now);
            rule.note(WHAT, STALLED, now);
            quick(&rule, 50, &mut now);
            let left = (1..=MOST.as_millis() as u32 + 1)
                .map(|ms| now + Duration::from_millis(1) * ms)
                .find(|&later| rule.may(WHAT, later))
                .unwrap();
            let waited = left - now;
            assert!(waited.abs_diff(expected) <= Duration::from_millis(1), "{waited:?}");
            expected = (expected * 2).min(MOST);
            now = left;
        }
        quick(&rule, FORGIVEN, &mut now);
        rule.note(WHAT, STALLED, now);
        quick(&rule, 50, &mut now);
        assert!(rule.may(WHAT, now + LEAST));
    }

    #[test]
    fn a_disk_that_goes_on_stalling_delays_others_seldom() {
        // Every hundredth takes 80 ms, wherever it is carried out; the others 5 µs.
        let (rule, mut now) = (Rule::default(), Duration::ZERO);
        let (mut delayed, mut turns) = (0, 0);
        while now < Duration::from_secs(600) {
            turns += 1;
            let took = if turns % 100 == 0 { STALLED } else { QUICK };
            delayed += u32::from(rule.may(WHAT, now) && took == STALLED);
            now += took + Duration::from_micros(100);
            rule.note(WHAT, took, now);
        }
        assert!(delayed <= 80, "{delayed} of {turns}");
    }

    #[test]
    fn what_is_known_to_be_quick_needs_no_measurement_and_is_sent_back_all_the_same() {
        let (rule, now) = (Rule::default(), Duration::from_secs(1));
        assert!(rule.may_still(What::Open, now));
        rule.note(What::Open, STALLED, now);
        assert!(!rule.may_still(What::Open, now));
        assert!(rule.may_still(What::Open, now + LEAST));
    }
}
