//! What is known of a descriptor's readiness between two events of epoll's, which is edge-triggered:
//! an event comes once, and what it said holds until a call says otherwise.

use mio::event::Event;

use super::buffer::Read;

/// What can be done without waiting, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// A read may give something.
    pub readable: bool,
    /// A write may take something.
    pub writable: bool,
    /// The other end has closed: reads go on until they say so.
    pub closed: bool,
}

impl Ready {
    /// Nothing has been tried yet.
    pub const UNKNOWN: Ready = Ready { readable: true, writable: true, closed: false };

    /// What an event says.
    pub fn of(event: &Event) -> Ready {
        let closed = event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_write_closed();
        Ready { readable: event.is_readable() || closed, writable, closed }
    }

    /// Adds what another event says.
    pub fn add(&mut self, other: Ready) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.closed |= other.closed;
    }

    /// A read that took all there was needs no second one to find nothing (epoll(7)); unless an end
    /// was announced, which comes behind the bytes and announces itself but once.
    pub fn has_read(&mut self, read: &Read) {
        self.readable = self.closed || !read.all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn an_end_that_came_with_the_last_bytes_is_not_missed() {
        let read = Read { bytes: Bytes::from_static(b"last"), all: true };
        let mut ready = Ready::UNKNOWN;
        ready.has_read(&read);
        assert!(!ready.readable);
        ready.add(Ready { readable: true, writable: false, closed: true });
        ready.has_read(&read);
        assert!(ready.readable);
    }
}
