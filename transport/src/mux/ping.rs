//! Pings: when one is due, what its pong says of the round trip, and when a silent peer counts as
//! dead.
//!
//! A peer is given up when it sends nothing whatever after a ping for the timeout. Half of the
//! timeout must pass twice, each seen by a call of [`Pinger::handle_timeout`]: after a suspended hour
//! the first call sees an hour gone, and there is still half the timeout left to read what has been
//! waiting all the time. Leaves out the frames themselves.

use core::time::Duration;

/// A peer's pulse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinger {
    interval: Duration,
    timeout: Duration,
    /// When the next ping is due; `None` before the channel is established.
    next: Option<Duration>,
    /// The ping under way: its value, and when it left.
    under_way: Option<(u64, Option<Duration>)>,
    /// When the present half of the timeout ends, when the ping was asked for, and whether this is
    /// the second half.
    deadline: Option<(Duration, Duration, bool)>,
    value: u64,
    rtt: Option<Duration>,
}

/// What [`Pinger::handle_timeout`] wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Nothing,
    /// Send a ping of this value.
    Ping(u64),
    /// The peer has been silent for so long.
    Dead(Duration),
}

impl Pinger {
    pub fn new(interval: Duration, timeout: Duration) -> Pinger {
        Pinger {
            interval,
            timeout,
            next: None,
            under_way: None,
            deadline: None,
            value: 0,
            rtt: None,
        }
    }

    /// The channel is established: the first ping is due at once, for the sake of the RTT.
    pub fn start(&mut self, now: Duration) -> Option<u64> {
        self.ask(now)
    }

    /// A ping now, unless one is under way; its value.
    pub fn ask(&mut self, now: Duration) -> Option<u64> {
        self.next = Some(now + self.interval);
        if self.under_way.is_some() {
            return None;
        }
        self.value += 1;
        self.under_way = Some((self.value, None));
        self.deadline = Some((now + self.timeout / 2, now, false));
        Some(self.value)
    }

    /// What is queued goes out now: the round trip starts here, not where the ping was queued.
    pub fn sent(&mut self, now: Duration) {
        if let Some((_, left @ None)) = &mut self.under_way {
            *left = Some(now);
        }
    }

    /// Anything came: the peer lives.
    pub fn heard(&mut self, now: Duration) {
        if let Some((deadline, since, second)) = &mut self.deadline {
            (*deadline, *since, *second) = (now + self.timeout / 2, now, false);
        }
    }

    /// A pong came. One that answers nothing is not an error: it may be late.
    pub fn pong(&mut self, now: Duration, value: u64) {
        let Some((expected, left)) = self.under_way else { return };
        if expected != value {
            return;
        }
        self.under_way = None;
        self.deadline = None;
        if let Some(left) = left {
            // Longer than the timeout: the clock has jumped, and the sample says nothing.
            let sample = now.saturating_sub(left);
            if sample <= self.timeout {
                self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            }
        }
    }

    /// The round trip, smoothed.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// When [`Pinger::handle_timeout`] has something to do.
    pub fn timeout(&self) -> Option<Duration> {
        match (self.next, self.deadline) {
            (next, None) => next,
            (None, Some((deadline, ..))) => Some(deadline),
            (Some(next), Some((deadline, ..))) => Some(next.min(deadline)),
        }
    }

    pub fn handle_timeout(&mut self, now: Duration) -> Due {
        if let Some((deadline, since, second)) = &mut self.deadline {
            if now >= *deadline {
                if *second {
                    return Due::Dead(now.saturating_sub(*since));
                }
                *deadline = now + self.timeout / 2;
                *second = true;
            }
        }
        match self.next {
            Some(next) if now >= next => self.ask(now).map_or(Due::Nothing, Due::Ping),
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pinger() -> Pinger {
        Pinger::new(S(15), S(20))
    }

    #[test]
    fn the_round_trip_starts_when_the_ping_leaves() {
        let mut ping = pinger();
        let value = ping.start(S(1)).unwrap();
        ping.sent(S(3));
        ping.sent(S(4));
        ping.pong(S(5), value + 1);
        assert_eq!(ping.rtt(), None, "a pong that answers nothing says nothing");
        ping.pong(S(5), value);
        assert_eq!(ping.rtt(), Some(S(2)));
    }

    #[test]
    fn a_silent_peer_is_dead_after_both_halves_of_the_timeout() {
        let mut ping = pinger();
        ping.start(S(0));
        assert_eq!(ping.timeout(), Some(S(10)));
        assert_eq!(ping.handle_timeout(S(10)), Due::Nothing);
        assert_eq!(ping.handle_timeout(S(15)), Due::Nothing, "no second ping beside the first");
        assert_eq!(ping.handle_timeout(S(19)), Due::Nothing);
        assert_eq!(ping.handle_timeout(S(20)), Due::Dead(S(20)));
    }

    #[test]
    fn a_jump_of_the_clock_alone_kills_nobody() {
        let mut ping = pinger();
        let value = ping.start(S(0)).unwrap();
        assert_eq!(ping.handle_timeout(S(3600)), Due::Nothing);
        assert_eq!(ping.handle_timeout(S(3601)), Due::Nothing);
        ping.pong(S(3602), value);
        assert_eq!(ping.timeout(), Some(S(3615)));
        assert!(matches!(ping.handle_timeout(S(3615)), Due::Ping(_)));
    }

    #[test]
    fn anything_that_comes_is_a_sign_of_life() {
        let mut ping = pinger();
        ping.start(S(0));
        for second in 1..100 {
            ping.heard(S(second));
            assert_eq!(ping.handle_timeout(S(second)), Due::Nothing);
        }
    }

    #[test]
    fn a_ping_is_sent_every_interval() {
        let mut ping = pinger();
        let value = ping.start(S(0)).unwrap();
        ping.pong(S(1), value);
        assert_eq!(ping.timeout(), Some(S(15)));
        assert_eq!(ping.handle_timeout(S(14)), Due::Nothing);
        assert_eq!(ping.handle_timeout(S(15)), Due::Ping(value + 1));
    }
}
