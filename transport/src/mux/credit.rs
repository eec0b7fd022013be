//! Credit, the arithmetic alone: what may still be sent ([`SendCredit`]) and what may still come
//! ([`ReceiveCredit`]), for a stream and for the whole channel alike.
//!
//! Credit is counted in charges: a frame's length and [`FRAME_CHARGE`](super::config::FRAME_CHARGE).
//! All sums are of everything since the beginning, in 64 bits, so that nothing wraps in a million
//! years; what travels is the difference. What is left out: which frame belongs to which stream, and
//! when a `CREDIT` frame is sent.

use core::time::Duration;

/// What may still be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendCredit {
    granted: u64,
    used: u64,
}

impl SendCredit {
    /// The most credit that an end can have at once; more is an error of its peer.
    pub const MAX: u64 = u32::MAX as u64;

    /// The credit that the peer's preface gives.
    pub fn new(window: u32) -> SendCredit {
        SendCredit { granted: u64::from(window), used: 0 }
    }

    /// What is left.
    pub fn available(&self) -> u64 {
        self.granted - self.used
    }

    /// Takes a frame's charge; the caller has seen that it is available.
    pub fn take(&mut self, charge: u32) {
        debug_assert!(u64::from(charge) <= self.available(), "a frame is sent within its credit");
        self.used = (self.used + u64::from(charge)).min(self.granted);
    }

    /// Adds what a `CREDIT` frame gives; false where it is more than can be meant.
    #[must_use]
    pub fn add(&mut self, bytes: u32) -> bool {
        let fits = self.available() + u64::from(bytes) <= Self::MAX;
        if fits {
            self.granted += u64::from(bytes);
        }
        fits
    }
}

/// What may still come.
///
/// The invariants, asserted by the tests after every step:
/// 1. what was released has been received;
/// 2. what was received has been granted;
/// 3. what is granted and not released is at most the window: it bounds what we hold;
/// 4. the window never shrinks and never exceeds its maximum;
/// 5. when all is released, at least three quarters of the window are granted or on offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveCredit {
    window: u32,
    max: u32,
    granted: u64,
    received: u64,
    released: u64,
    /// Since when the present rate is measured, and what had been released before.
    epoch: Option<(Duration, u64)>,
}

impl ReceiveCredit {
    /// The credit that our preface gave, and how far it may grow.
    pub fn new(window: u32, max: u32) -> ReceiveCredit {
        ReceiveCredit {
            window,
            max: max.max(window),
            granted: u64::from(window),
            received: 0,
            released: 0,
            epoch: None,
        }
    }

    /// The window as it is now, in bytes.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// What has been received and not released: what we hold.
    pub fn held(&self) -> u64 {
        self.received - self.released
    }

    /// What the peer may still send.
    pub fn left(&self) -> u64 {
        self.granted - self.received
    }

    /// Counts a frame that came; false where the peer had no credit for it, and nothing is counted.
    #[must_use]
    pub fn receive(&mut self, charge: u32) -> bool {
        let within = u64::from(charge) <= self.left();
        if within {
            self.received += u64::from(charge);
        }
        within
    }

    /// Counts what was received as passed on. More than is held counts as all of it.
    pub fn release(&mut self, charge: u64) {
        self.released += charge.min(self.held());
    }

    /// Whether a `CREDIT` frame is worth sending: a quarter of the window can be given back. Not
    /// before, or every frame would be answered by one.
    pub fn is_due(&self) -> bool {
        self.due() >= u64::from(self.window / 4).max(1)
    }

    fn due(&self) -> u64 {
        (self.released + u64::from(self.window)).saturating_sub(self.granted)
    }

    /// What the `CREDIT` frame is to give now; 0 where none is due. The window doubles when what is
    /// passed on in two round trips, at the rate seen over the last half window or more, would fill
    /// it: then the sender has been waiting for credit, or is about to.
    pub fn grant(&mut self, now: Duration, rtt: Option<Duration>) -> u32 {
        if !self.is_due() {
            return 0;
        }
        let (start, before) = *self.epoch.get_or_insert((now, self.released));
        let bytes = self.released - before;
        if bytes >= u64::from(self.window / 2) {
            let elapsed = now.saturating_sub(start).as_nanos();
            let reach = rtt.map_or(0, |rtt| rtt.as_nanos()) * 2;
            if reach > 0 && u128::from(bytes) * reach >= u128::from(self.window) * elapsed {
                self.window = self.window.saturating_mul(2).min(self.max);
            }
            self.epoch = Some((now, self.released));
        }
        let due = u32::try_from(self.due()).unwrap_or(u32::MAX);
        self.granted += u64::from(due);
        due
    }
}

/// What a stream holds for its reader: payload, and the part of the charges that is no payload. The
/// reader returns payload only; the rest goes back with it in proportion, and all of it with the last
/// byte. So a charge is never lost, and a thousand unread tiny messages keep their full charge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    payload: u64,
    overhead: u64,
}

impl Held {
    /// Counts a frame: its charge, of which `payload` bytes will be returned by the reader.
    pub fn add(&mut self, charge: u32, payload: u32) {
        self.payload += u64::from(payload);
        self.overhead += u64::from(charge.saturating_sub(payload));
    }

    /// The reader has passed `payload` bytes on: the charge that goes back. More than is held counts
    /// as all of it.
    pub fn consume(&mut self, payload: u32) -> u64 {
        let payload = u64::from(payload).min(self.payload);
        let overhead = if payload == self.payload {
            self.overhead
        } else {
            // Below 2^32 each, as windows are; the quotient is at most `overhead`.
            self.overhead * payload / self.payload
        };
        self.payload -= payload;
        self.overhead -= overhead;
        payload + overhead
    }

    /// The charge of all that is held.
    pub fn total(&self) -> u64 {
        self.payload + self.overhead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assert_invariants(credit: &ReceiveCredit, before: &ReceiveCredit) {
        assert!(credit.released <= credit.received, "what was released has been received");
        assert!(credit.received <= credit.granted, "what was received has been granted");
        assert!(
            credit.granted - credit.released <= u64::from(credit.window),
            "what is granted and not released is at most the window"
        );
        assert!(
            credit.window >= before.window && credit.window <= credit.max,
            "the window never shrinks and never exceeds its maximum"
        );
        if credit.held() == 0 && !credit.is_due() {
            assert!(
                credit.left() > u64::from(credit.window) * 3 / 4 - 1,
                "when all is released, three quarters of the window are there"
            );
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Receive(u32),
        Release(u32),
        Grant { after: u32, rtt: Option<u32> },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..40_000u32).prop_map(Step::Receive),
            (0..40_000u32).prop_map(Step::Release),
            (0..200u32, proptest::option::of(0..100u32))
                .prop_map(|(after, rtt)| Step::Grant { after, rtt }),
        ]
    }

    proptest! {
        #[test]
        fn both_ends_agree_after_any_steps(
            window in 4..100_000u32,
            max in 0..1_000_000u32,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut receive = ReceiveCredit::new(window, max);
            let mut send = SendCredit::new(window);
            let mut now = Duration::ZERO;
            for step in steps {
                let before = receive;
                match step {
                    Step::Receive(charge) => {
                        let sent = u64::from(charge) <= send.available();
                        if sent {
                            send.take(charge);
                        }
                        prop_assert_eq!(receive.receive(charge), sent);
                    }
                    Step::Release(charge) => receive.release(u64::from(charge)),
                    Step::Grant { after, rtt } => {
                        now += Duration::from_millis(u64::from(after));
                        let rtt = rtt.map(|rtt| Duration::from_millis(u64::from(rtt)));
                        let given = receive.grant(now, rtt);
                        prop_assert!(send.add(given));
                    }
                }
                assert_invariants(&receive, &before);
                prop_assert_eq!(send.available(), receive.left());
            }
        }

        #[test]
        fn a_charge_is_never_lost(
            frames in proptest::collection::vec((1..70_000u32, 0..200u32), 1..50),
            parts in proptest::collection::vec(0..70_000u32, 0..100),
        ) {
            let mut held = Held::default();
            let mut charged = 0;
            for (payload, overhead) in frames {
                held.add(payload + overhead, payload);
                charged += u64::from(payload + overhead);
            }
            let mut back = 0;
            for part in parts {
                back += held.consume(part);
                prop_assert_eq!(back + held.total(), charged);
            }
            back += held.consume(u32::MAX);
            prop_assert_eq!(back, charged);
        }
    }

    #[test]
    fn credit_goes_back_in_quarters() {
        let mut credit = ReceiveCredit::new(4000, 4000);
        assert!(credit.receive(4000));
        assert!(!credit.receive(1), "the window is used up");
        credit.release(999);
        assert_eq!(credit.grant(Duration::ZERO, None), 0);
        credit.release(1);
        assert_eq!(credit.grant(Duration::ZERO, None), 1000);
    }

    #[test]
    fn the_window_doubles_where_two_round_trips_would_fill_it_up_to_the_maximum() {
        let rtt = Some(Duration::from_millis(10));
        let mut credit = ReceiveCredit::new(4000, 10_000);
        let mut now = Duration::ZERO;
        let mut turn = |credit: &mut ReceiveCredit, charge: u32, ms| {
            now += Duration::from_millis(ms);
            assert!(credit.receive(charge));
            credit.release(u64::from(charge));
            credit.grant(now, rtt);
            credit.window()
        };
        assert_eq!(turn(&mut credit, 4000, 0), 4000, "the first grant starts the clock");
        assert_eq!(turn(&mut credit, 4000, 21), 4000, "a window takes longer than two round trips");
        assert_eq!(turn(&mut credit, 1999, 1), 4000, "too little to know the rate by");
        assert_eq!(turn(&mut credit, 2001, 19), 8000, "a window in two round trips");
        assert_eq!(turn(&mut credit, 4000, 10), 10_000, "half of it in one, and no further");
        assert_eq!(turn(&mut credit, 9000, 1), 10_000);
    }

    #[test]
    fn without_a_round_trip_the_window_stays() {
        let mut credit = ReceiveCredit::new(4000, 10_000);
        for _ in 0..10 {
            assert!(credit.receive(4000));
            credit.release(4000);
            assert_eq!(credit.grant(Duration::ZERO, None), 4000);
        }
    }

    #[test]
    fn a_peer_cannot_give_more_credit_than_can_be_meant() {
        let mut credit = SendCredit::new(u32::MAX - 1);
        assert!(credit.add(1));
        assert!(!credit.add(1));
        assert_eq!(credit.available(), u64::from(u32::MAX));
    }
}
