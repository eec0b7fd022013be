//! The line behind a ring: bytes that have left the ring and have not arrived yet.
//!
//! It exists for the added delay and the rate limit of a modelled channel, and holds nothing
//! otherwise. It leaves out where bytes come from and go to: the relay asks it when the next are due.

use super::{MAX_CHUNK, Shape};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a line holds at most when only its delay bounds it: enough for 5 GiB/s at 10 ms.
const MOST_IN_FLIGHT: usize = 64 << 20;

/// Bytes on their way, in order.
pub(super) struct Line {
    delay: Duration,
    rate: Option<u64>,
    chunks: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    free_at: Option<Instant>,
}

impl Line {
    pub(super) fn new(shape: &Shape) -> Line {
        Line {
            delay: shape.delay,
            rate: shape.rate.filter(|&rate| rate > 0),
            chunks: VecDeque::new(),
            held: 0,
            free_at: None,
        }
    }

    /// Whether bytes have to go through it at all.
    pub(super) fn is_used(&self) -> bool {
        self.rate.is_some() || !self.delay.is_zero()
    }

    /// Whether it takes more bytes now.
    pub(super) fn has_room(&self) -> bool {
        let room = match self.rate {
            // What a line of this rate holds at once, and one chunk in the making.
            Some(rate) => (self.delay.as_secs_f64() * rate as f64) as usize + MAX_CHUNK,
            None => MOST_IN_FLIGHT,
        };
        self.held < room.min(MOST_IN_FLIGHT)
    }

    /// Takes bytes that enter at `now`.
    pub(super) fn push(&mut self, now: Instant, bytes: &[u8]) {
        let start = self.free_at.map_or(now, |free| free.max(now));
        let sent = match self.rate {
            Some(rate) => start + Duration::from_secs_f64(bytes.len() as f64 / rate as f64),
            None => start,
        };
        self.free_at = Some(sent);
        self.held += bytes.len();
        self.chunks.push_back((sent + self.delay, bytes.to_vec()));
    }

    /// When the next bytes arrive, if any are on their way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.chunks.front().map(|chunk| chunk.0)
    }

    /// The next bytes, if they have arrived by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.due()? > now {
            return None;
        }
        let (_, bytes) = self.chunks.pop_front()?;
        self.held -= bytes.len();
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(delay_ms: u64, rate: Option<u64>) -> Line {
        Line::new(&Shape { delay: Duration::from_millis(delay_ms), rate, ..Shape::default() })
    }

    #[test]
    fn a_delay_moves_every_chunk_by_the_same_time_and_keeps_their_order() {
        let (mut line, start) = (line(5, None), Instant::now());
        line.push(start, b"one");
        line.push(start + Duration::from_millis(1), b"two");
        assert_eq!(line.pop(start + Duration::from_millis(4)), None);
        assert_eq!(line.pop(start + Duration::from_millis(5)), Some(b"one".to_vec()));
        assert_eq!(line.pop(start + Duration::from_millis(5)), None);
        assert_eq!(line.pop(start + Duration::from_millis(6)), Some(b"two".to_vec()));
    }

    #[test]
    fn a_rate_spaces_chunks_and_bounds_what_is_in_flight() {
        let (mut line, start) = (line(0, Some(1_000_000)), Instant::now());
        line.push(start, &[0; 50_000]);
        assert!(line.has_room());
        line.push(start, &[0; 50_000]);
        assert!(!line.has_room());
        assert_eq!(line.due(), Some(start + Duration::from_millis(50)));
        assert!(line.pop(start + Duration::from_millis(50)).is_some());
        assert_eq!(line.due(), Some(start + Duration::from_millis(100)));
        assert!(line.has_room());
    }
}
