//! The channel's limits, each with its reason: what this end wants ([`Config`]) and what an end has
//! told the other in its preface ([`Limits`], checked where it is parsed).

use core::time::Duration;

use bytes::{BufMut, BytesMut};

use super::wire::Fields;
use crate::id::Msize;

/// What a frame with payload costs in credit besides its length: its header and what a receiver
/// keeps for it. Without it a flood of one-byte messages would cost a receiver a hundred times the
/// memory that it gave credit for.
pub const FRAME_CHARGE: u32 = 128;

/// What this end wants. Values out of range are brought into it by [`Config::sane`], which
/// [`Connection::new`](super::Connection::new) calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Streams that the peer may have open at once. Each costs some 500 bytes and a table entry.
    pub max_streams: u32,
    /// The longest payload of a frame in bytes. 65,520 and the header of 8 make 65,528: one message
    /// of qrexec's with its default ring, so that a frame is not split once more on its way.
    pub chunk: u32,
    /// What a stream may have on its way to us unread, in bytes, at first. Two messages of the
    /// largest msize: one travels while the other is taken in.
    pub stream_window: u32,
    /// The same for all streams together. Both ends hold a message back until it is whole, so a
    /// message of every stream must fit, and as much again: with less, streams with half a message
    /// each could wait for one another's credit for ever. It is what a hostile peer can make us hold.
    pub channel_window: u32,
    /// How far `stream_window` may grow where RTT × rate asks for it: 7.5 MB are on their way at
    /// 1.5 GB/s and 5 ms, and a window is to hold two round trips' worth.
    pub stream_window_max: u32,
    /// How far `channel_window` may grow.
    pub channel_window_max: u32,
    /// The longest message that we take, in bytes: the largest msize and 9P's own header, for a
    /// backend that counts msize without it.
    pub max_message: u32,
    /// Small messages, in bytes, that may go in a row while a bulk frame waits. Two frames' worth: bulk
    /// keeps at least a third of the channel, and a burst of metadata still passes in one go.
    pub small_burst: u32,
    /// How often a ping is sent. It finds a peer that is gone without an end of file (a destroyed qube
    /// can take 10 s), and keeps the RTT fresh.
    pub ping_interval: Duration,
    /// How long a peer may send nothing at all after a ping. Half of it must pass twice, seen by two
    /// calls of [`Connection::handle_timeout`](super::Connection::handle_timeout), so that a clock that
    /// jumps over a suspended hour ends nothing.
    pub ping_timeout: Duration,
    /// Unsent control frames in bytes above which
    /// [`Connection::wants_input`](super::Connection::wants_input) says no: a peer that floods us with
    /// pings and reads no pongs must not fill our memory.
    pub control_limit: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_streams: 96,
            chunk: 65_520,
            stream_window: 2 << 20,
            channel_window: 128 << 20,
            stream_window_max: 16 << 20,
            channel_window_max: 128 << 20,
            max_message: Msize::MAX.bytes() + Msize::IO_HEADER,
            small_burst: 128 << 10,
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(20),
            control_limit: 64 << 10,
        }
    }
}

impl Config {
    /// Brings every value into the range in which the channel works.
    #[must_use]
    pub fn sane(mut self) -> Config {
        self.chunk = self.chunk.clamp(Limits::MIN_CHUNK, Limits::MAX_CHUNK);
        let least = Limits::least_window(self.chunk);
        self.stream_window = self.stream_window.clamp(least, Limits::MAX_WINDOW);
        self.channel_window = self.channel_window.clamp(least, Limits::MAX_WINDOW);
        self.stream_window_max =
            self.stream_window_max.clamp(self.stream_window, Limits::MAX_WINDOW);
        self.channel_window_max =
            self.channel_window_max.clamp(self.channel_window, Limits::MAX_WINDOW);
        self.max_streams = self.max_streams.max(1);
        self.max_message = self.max_message.max(Limits::MIN_MESSAGE);
        self.ping_interval = self.ping_interval.max(Duration::from_millis(10));
        self.ping_timeout = self.ping_timeout.max(Duration::from_millis(10));
        self.control_limit = self.control_limit.max(4096);
        self
    }

    /// What the peer is told in the preface.
    pub fn limits(&self) -> Limits {
        let sane = self.clone().sane();
        Limits {
            chunk: sane.chunk,
            stream_window: sane.stream_window,
            channel_window: sane.channel_window,
            max_streams: sane.max_streams,
            max_message: sane.max_message,
        }
    }
}

/// What an end has told the other in its preface. Always within the protocol's ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    chunk: u32,
    stream_window: u32,
    channel_window: u32,
    max_streams: u32,
    max_message: u32,
}

/// A limit out of range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("its {what} is {value}, which is not within {least}..={most}")]
pub struct LimitError {
    /// The field.
    pub what: &'static str,
    /// What it says.
    pub value: u32,
    /// The least permitted.
    pub least: u32,
    /// The most permitted.
    pub most: u32,
}

impl Limits {
    /// Below this, headers would be a notable part of the channel.
    pub const MIN_CHUNK: u32 = 1024;
    /// Above this, a small message would wait too long behind a frame. Fits the header's 24 bits.
    pub const MAX_CHUNK: u32 = 1 << 20;
    /// Credit is added up in 32 bits with room to spare.
    pub const MAX_WINDOW: u32 = 1 << 30;
    /// The least msize.
    pub const MIN_MESSAGE: u32 = 4096;
    /// Bytes of the limits on the wire.
    pub const SIZE: usize = 20;

    /// The least window for a chunk: four frames. Credit comes back in quarters of the window, so three
    /// quarters of it are there when all has been taken in; that must cover one bulk frame and the
    /// room that bulk leaves for small messages.
    pub const fn least_window(chunk: u32) -> u32 {
        4 * (chunk + FRAME_CHARGE)
    }

    /// The longest payload of a frame, in bytes. The channel's chunk is the lesser of both ends'.
    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Credit that every stream starts with.
    pub fn stream_window(&self) -> u32 {
        self.stream_window
    }

    /// Credit that the channel starts with.
    pub fn channel_window(&self) -> u32 {
        self.channel_window
    }

    /// Streams that the other end may have open at once.
    pub fn max_streams(&self) -> u32 {
        self.max_streams
    }

    /// The longest message that is taken, in bytes.
    pub fn max_message(&self) -> u32 {
        self.max_message
    }

    pub(crate) fn put(&self, to: &mut BytesMut) {
        to.put_u32_le(self.chunk);
        to.put_u32_le(self.stream_window);
        to.put_u32_le(self.channel_window);
        to.put_u32_le(self.max_streams);
        to.put_u32_le(self.max_message);
    }

    /// `None` where the fields are not all there.
    pub(crate) fn take(from: &mut Fields<'_>) -> Option<Result<Limits, LimitError>> {
        let limits = Limits {
            chunk: from.u32()?,
            stream_window: from.u32()?,
            channel_window: from.u32()?,
            max_streams: from.u32()?,
            max_message: from.u32()?,
        };
        Some(limits.check())
    }

    fn check(self) -> Result<Limits, LimitError> {
        let within = |what, value, least, most| {
            if value < least || value > most {
                Err(LimitError { what, value, least, most })
            } else {
                Ok(())
            }
        };
        within("chunk", self.chunk, Self::MIN_CHUNK, Self::MAX_CHUNK)?;
        let least = Self::least_window(self.chunk);
        within("stream window", self.stream_window, least, Self::MAX_WINDOW)?;
        within("channel window", self.channel_window, least, Self::MAX_WINDOW)?;
        within("stream limit", self.max_streams, 1, u32::MAX)?;
        within("message limit", self.max_message, Self::MIN_MESSAGE, u32::MAX)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_messages_of_all_streams_never_wait_for_one_another() {
        let config = Config::default();
        let halves = config.max_streams * (config.max_message + config.max_message / 8);
        assert!(config.channel_window > halves);
    }

    #[test]
    fn the_default_is_sane_and_its_limits_travel() {
        let config = Config::default();
        assert_eq!(config.clone().sane(), config);
        let mut bytes = BytesMut::new();
        config.limits().put(&mut bytes);
        assert_eq!(bytes.len(), Limits::SIZE);
        assert_eq!(Limits::take(&mut Fields(&bytes)), Some(Ok(config.limits())));
    }

    #[test]
    fn a_window_that_could_stall_is_refused_from_a_peer_and_raised_in_a_config() {
        let config = Config { chunk: 4096, stream_window: 4096, ..Config::default() };
        assert_eq!(config.limits().stream_window(), 4 * (4096 + 128));
        let bad = Limits { stream_window: 4 * (4096 + 128) - 1, ..config.limits() };
        assert_eq!(bad.check().map_err(|e| e.what), Err("stream window"));
    }

    #[test]
    fn any_config_becomes_limits_that_a_peer_takes() {
        for value in [0, 1, 1000, 1 << 20, u32::MAX] {
            let config = Config {
                max_streams: value,
                chunk: value,
                stream_window: value,
                channel_window: value,
                stream_window_max: value,
                channel_window_max: value,
                max_message: value,
                ..Config::default()
            };
            assert!(config.limits().check().is_ok(), "{value}");
        }
    }
}
