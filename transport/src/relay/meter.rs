//! What a channel has been seen to carry: its best rate over a tenth of a second, and its round trip.
//!
//! For choosing sizes, not for billing: a channel that nobody has asked for much looks slow, so only the
//! best counts, and nothing is known before a tenth of a second was busy throughout.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a window is, at least.
const WINDOW: Duration = Duration::from_millis(100);
/// A window with a pause as long as this says nothing of what could have been carried.
const PAUSE: Duration = Duration::from_millis(20);

/// What has been measured of a channel; read by anyone.
#[derive(Debug, Default)]
pub struct Measured {
    /// Bytes a second; 0 before it is known.
    rate: AtomicU64,
    /// Nanoseconds; 0 before it is known.
    rtt: AtomicU64,
}

impl Measured {
    /// The best rate in bytes a second, once it is known.
    pub fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|&rate| rate > 0)
    }

    /// The round trip, once it is known.
    pub fn rtt(&self) -> Option<Duration> {
        let nanos = Some(self.rtt.load(Ordering::Relaxed)).filter(|&nanos| nanos > 0);
        nanos.map(Duration::from_nanos)
    }
}

/// Measures; driven by the data plane.
#[derive(Debug, Default)]
pub struct Meter {
    measured: Arc<Measured>,
    since: Duration,
    last: Duration,
    bytes: u64,
}

impl Meter {
    /// Where the results are.
    pub fn measured(&self) -> Arc<Measured> {
        Arc::clone(&self.measured)
    }

    /// So many bytes have been carried. Says whether a rate came of it.
    pub fn count(&mut self, now: Duration, bytes: usize) -> bool {
        if now.saturating_sub(self.last) > PAUSE {
            (self.since, self.bytes) = (now, 0);
        }
        self.last = now;
        self.bytes += bytes as u64;
        let took = now.saturating_sub(self.since);
        let whole = took >= WINDOW;
        if whole {
            let rate = self.bytes.saturating_mul(1_000_000) / (took.as_micros() as u64).max(1);
            self.measured.rate.fetch_max(rate, Ordering::Relaxed);
            (self.since, self.bytes) = (now, 0);
        }
        whole
    }

    /// The round trip, as the channel has it.
    pub fn round_trip(&self, rtt: Option<Duration>) {
        let nanos = rtt.map_or(0, |rtt| u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
        self.measured.rtt.store(nanos, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(meter: &mut Meter, from: u64, steps: u64, bytes: usize) {
        for at in from..from + steps {
            meter.count(Duration::from_millis(at), bytes);
        }
    }

    #[test]
    fn the_best_busy_tenth_of_a_second_counts() {
        let mut meter = Meter::default();
        let measured = meter.measured();
        run(&mut meter, 1000, 50, 10_000);
        assert_eq!(measured.rate(), None, "not long enough");
        run(&mut meter, 1050, 60, 10_000);
        let best = measured.rate().unwrap();
        assert!((9_900_000..=10_200_000).contains(&best), "{best}");
        run(&mut meter, 1110, 500, 100);
        assert_eq!(measured.rate(), Some(best));
        run(&mut meter, 2000, 150, 50_000);
        assert!(measured.rate().unwrap() > 4 * best);
    }

    #[test]
    fn a_window_with_a_pause_says_nothing() {
        let mut meter = Meter::default();
        for at in [0, 30, 60, 90, 120, 150, 1000, 3000] {
            meter.count(Duration::from_millis(at), 1 << 20);
        }
        assert_eq!(meter.measured().rate(), None);
    }

    #[test]
    fn round_trips() {
        let meter = Meter::default();
        assert_eq!(meter.measured().rtt(), None);
        meter.round_trip(Some(Duration::from_millis(5)));
        assert_eq!(meter.measured().rtt(), Some(Duration::from_millis(5)));
    }
}
