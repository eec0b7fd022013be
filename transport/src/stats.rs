//! What a stream has done, counted by the data plane and read by anyone.
//!
//! Round trips are kept as a histogram of fixed size: four buckets for each doubling from 1 µs to two
//! minutes, so that a quantile is right within an eighth, whatever the load, for 832 bytes a stream.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Buckets for each doubling, as a power of two.
const FINE: u32 = 2;
/// Buckets in all; the last takes everything from 2^26 µs, some 67 seconds, on.
const BUCKETS: usize = 25 * (1 << FINE) + 1;

/// Counters of one stream; each is written by the data plane's thread alone.
#[derive(Debug, Default)]
pub struct StreamStats {
    msize: AtomicU32,
    requests: AtomicU64,
    here: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    in_flight: AtomicU32,
    round_trips: Histogram,
}

#[derive(Debug)]
struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram([const { AtomicU64::new(0) }; BUCKETS])
    }
}

/// How long requests took that somebody waited for, from when they were passed to the channel until their
/// replies were whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoundTrips([u64; BUCKETS]);

impl Default for RoundTrips {
    fn default() -> RoundTrips {
        RoundTrips([0; BUCKETS])
    }
}

impl RoundTrips {
    /// Takes those of another stream in.
    pub fn add(&mut self, other: &RoundTrips) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that `percent` of a hundred did not exceed, within an eighth; `None` where there was none.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.count() * percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(|bucket| Duration::from_micros(middle(bucket)))
    }
}

/// The bucket of a time in microseconds.
fn bucket(micros: u64) -> usize {
    let fine = 1 << FINE;
    if micros < fine {
        return micros as usize;
    }
    let doubling = micros.ilog2();
    let within = (micros >> (doubling - FINE)) % fine;
    let bucket = u64::from(doubling - FINE + 1) * fine + within;
    (bucket as usize).min(BUCKETS - 1)
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: usize) -> u64 {
    let (fine, bucket) = (1 << FINE, bucket as u64);
    if bucket < fine {
        return bucket;
    }
    let width = 1 << (bucket / fine - 1);
    (fine + bucket % fine) * width + width / 2
}

/// A reading of [`StreamStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamReading {
    /// The msize that both ends agreed on, in bytes; 0 before they did.
    pub msize: u32,
    /// Requests passed on so far.
    pub requests: u64,
    /// Requests answered at the client end so far.
    pub here: u64,
    /// Bytes of 9P passed to the channel.
    pub sent: u64,
    /// Bytes of 9P taken from the channel.
    pub received: u64,
    /// Requests that the client waits for now.
    pub in_flight: u32,
}

impl StreamStats {
    /// The counters now. Each is right; together they may be of slightly different moments.
    pub fn read(&self) -> StreamReading {
        StreamReading {
            msize: self.msize.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            here: self.here.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// The round trips so far.
    pub fn round_trips(&self) -> RoundTrips {
        let mut reading = RoundTrips::default();
        let counts = reading.0.iter_mut().zip(&self.round_trips.0);
        counts.for_each(|(reading, count)| *reading = count.load(Ordering::Relaxed));
        reading
    }

    pub(crate) fn count_round_trip(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.round_trips.0[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_msize(&self, msize: u32) {
        self.msize.store(msize, Ordering::Relaxed);
    }

    pub(crate) fn count_request(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_here(&self) {
        self.here.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_in_flight(&self, requests: usize) {
        self.in_flight.store(u32::try_from(requests).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut last = 0;
        for micros in 0..300_000 {
            let now = bucket(micros);
            assert!(now == last || now == last + 1, "{micros} µs");
            let off = middle(now).abs_diff(micros);
            assert!(off * 8 <= micros, "{micros} µs are shown as {}", middle(now));
            last = now;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket((1 << 26) - 1), BUCKETS - 2);
        assert_eq!(bucket(1 << 26), BUCKETS - 1);
    }

    #[test]
    fn percentiles() {
        let stats = StreamStats::default();
        assert_eq!(stats.round_trips().percentile(50), None);
        for micros in 1..=1000 {
            stats.count_round_trip(Duration::from_micros(micros));
        }
        let near = |percent, micros: u64| {
            let found = stats.round_trips().percentile(percent).unwrap().as_micros() as u64;
            assert!(found.abs_diff(micros) * 8 <= micros, "{found} is not near {micros}");
        };
        near(0, 1);
        near(50, 500);
        near(99, 990);
        near(100, 1000);
        stats.count_round_trip(Duration::MAX);
        assert!(stats.round_trips().percentile(100).unwrap() > Duration::from_secs(60));
    }

    #[test]
    fn streams_add_up() {
        let (a, b) = (StreamStats::default(), StreamStats::default());
        a.count_round_trip(Duration::from_micros(3));
        b.count_round_trip(Duration::from_secs(1));
        let mut both = a.round_trips();
        both.add(&b.round_trips());
        assert_eq!(both.count(), 2);
        assert_eq!(both.percentile(50), Some(Duration::from_micros(3)));
        assert!(both.percentile(51).unwrap() > Duration::from_millis(800));
    }
}
