//! What a stream has done, counted by the data plane and read by anyone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counters of one stream; each is written by the data plane's thread alone.
#[derive(Debug, Default)]
pub struct StreamStats {
    msize: AtomicU32,
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    in_flight: AtomicU32,
}

/// A reading of [`StreamStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamReading {
    /// The msize that both ends agreed on, in bytes; 0 before they did.
    pub msize: u32,
    /// Requests passed on so far.
    pub requests: u64,
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
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_msize(&self, msize: u32) {
        self.msize.store(msize, Ordering::Relaxed);
    }

    pub(crate) fn count_request(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_in_flight(&self, requests: usize) {
        self.in_flight.store(u32::try_from(requests).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}
