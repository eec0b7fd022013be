//! The channel's two descriptors, the prefaces, and the multiplexer behind them.
//!
//! qrexec gives a program two AF_UNIX sockets, one each way; pipes do as well. Reading stops while
//! the multiplexer cannot take more, writing takes only what the kernel takes now, so that what
//! waits can still be overtaken by what is more urgent.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

use super::buffer::Buffers;
use super::outbox::Outbox;
use super::ready::Ready;
use super::unsent::{self, Unsent};
use crate::mux::preface::{Answer, ClientHello, Preface, PrefaceError, PrefaceReader, ServerHello};
use crate::mux::{ChannelError, Connection, Reason};

/// Bytes read or written before the other work of the thread has its turn.
const TURN: usize = 128 * 1024;
/// Bytes taken from the multiplexer at a time: what has been taken cannot be overtaken any more.
const TAKE: usize = 64 * 1024;

/// Why a channel ended.
#[derive(Debug, thiserror::Error)]
pub enum ChannelEnd {
    /// The far end closed it.
    #[error("the far end closed the channel")]
    Closed,
    /// The far end closed it in the middle of something.
    #[error("the channel was cut off")]
    Cut(#[source] ChannelError),
    /// What came first is no preface of an end that can be talked to.
    #[error("{0}")]
    Preface(#[source] PrefaceError),
    /// The far end did not take the call.
    #[error("the far end refused: {0}")]
    Refused(Reason),
    /// The far end gave the channel up; it chose the words, which are not shown here.
    #[error("the far end gave the channel up: {}", .0.code)]
    Left(Reason),
    /// The far end broke the channel's rules.
    #[error("{0}")]
    Broken(#[source] ChannelError),
    /// Its descriptors failed.
    #[error("the channel cannot be {action}: {errno}")]
    Io {
        /// "read" or "written".
        action: &'static str,
        /// Why.
        errno: Errno,
    },
    /// This end has nothing to do any more.
    #[error("the channel was given up")]
    Done,
}

/// What the client end learns before the first frame.
#[derive(Debug)]
pub enum Greeting {
    /// The far end has said its first byte.
    FirstByte,
    /// The far end has introduced itself.
    Hello(ServerHello),
}

/// A channel under way.
#[derive(Debug)]
pub struct Channel {
    input: OwnedFd,
    output: OwnedFd,
    /// The far end's preface, while it is awaited, and what it must answer.
    awaited: Option<(PrefaceReader<Answer>, ClientHello)>,
    greetings: Vec<Greeting>,
    /// The protocol's state.
    pub mux: Connection,
    outbox: Outbox,
    pieces: Vec<Bytes>,
    ready: Ready,
    writable: bool,
    /// The multiplexer had nothing more to send when it was asked last.
    drained: bool,
    unsent: Unsent,
}

/// Bounds what `output` may hold. Fails where it is no socket: a pipe has a small buffer by itself.
fn hold(output: &OwnedFd, bytes: usize) {
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(output, bytes);
}

impl Channel {
    /// The token of the reading descriptor.
    pub const INPUT: Token = Token(0);
    /// The token of the writing descriptor.
    pub const OUTPUT: Token = Token(1);

    /// The client end: says `hello`, and expects the far end's answer before anything else.
    pub fn client(
        input: OwnedFd,
        output: OwnedFd,
        hello: ClientHello,
        mux: Connection,
        registry: &Registry,
    ) -> std::io::Result<Channel> {
        let mut channel = Self::new(input, output, mux, registry)?;
        channel.outbox.push(hello.encode(), 0);
        channel.awaited = Some((PrefaceReader::default(), hello));
        Ok(channel)
    }

    /// A client end whose prefaces have been said: `mux` has been told the far end's limits, and given
    /// what followed them.
    pub fn established(
        input: OwnedFd,
        output: OwnedFd,
        mux: Connection,
        registry: &Registry,
    ) -> std::io::Result<Channel> {
        Self::new(input, output, mux, registry)
    }

    /// The server end: says `answer`. The client's preface has been read, and `mux` told its limits
    /// and given what followed it.
    pub fn server(
        input: OwnedFd,
        output: OwnedFd,
        answer: &Answer,
        mux: Connection,
        registry: &Registry,
    ) -> std::io::Result<Channel> {
        let mut channel = Self::new(input, output, mux, registry)?;
        channel.outbox.push(answer.encode(), 0);
        Ok(channel)
    }

    /// Makes the descriptors non-blocking and registers them.
    fn new(
        input: OwnedFd,
        output: OwnedFd,
        mux: Connection,
        registry: &Registry,
    ) -> std::io::Result<Channel> {
        for fd in [&input, &output] {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        hold(&output, unsent::ALONE);
        registry.register(&mut SourceFd(&input.as_raw_fd()), Self::INPUT, Interest::READABLE)?;
        registry.register(&mut SourceFd(&output.as_raw_fd()), Self::OUTPUT, Interest::WRITABLE)?;
        Ok(Channel {
            input,
            output,
            awaited: None,
            greetings: Vec::new(),
            mux,
            outbox: Outbox::default(),
            pieces: Vec::new(),
            ready: Ready::UNKNOWN,
            writable: true,
            drained: false,
            unsent: Unsent::default(),
        })
    }

    /// Takes a readiness event; false where it is not this channel's.
    pub(super) fn handle_ready(&mut self, token: Token, ready: Ready) -> bool {
        match token {
            Self::INPUT => self.ready.add(ready),
            Self::OUTPUT => self.writable = true,
            _ => return false,
        }
        true
    }

    /// Reads what has come, up to a turn's worth; says whether anything had.
    pub(super) fn read(
        &mut self,
        now: Duration,
        buffers: &mut Buffers,
    ) -> Result<bool, ChannelEnd> {
        let mut taken = 0;
        while self.ready.readable && taken < TURN && self.mux.wants_input() {
            match buffers.read(&self.input) {
                Ok(Some(read)) => {
                    taken += read.bytes.len();
                    self.ready.has_read(&read);
                    self.take(now, read.bytes)?;
                }
                Ok(None) => {
                    if let Some((reader, _)) = &self.awaited {
                        return Err(ChannelEnd::Preface(reader.ended()));
                    }
                    self.mux.handle_eof().map_err(ChannelEnd::Cut)?;
                    return Err(ChannelEnd::Closed);
                }
                Err(Errno::AGAIN) => self.ready.readable = false,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ChannelEnd::Io { action: "read", errno }),
            }
        }
        Ok(taken > 0)
    }

    /// The preface where it is awaited, frames after it.
    fn take(&mut self, now: Duration, mut bytes: Bytes) -> Result<(), ChannelEnd> {
        if let Some((reader, asked)) = &mut self.awaited {
            if !reader.has_begun() {
                self.greetings.push(Greeting::FirstByte);
            }
            let Some((answer, rest)) = reader.feed(bytes).map_err(ChannelEnd::Preface)? else {
                return Ok(());
            };
            let hello = match answer {
                Answer::Refused(reason) => return Err(ChannelEnd::Refused(reason)),
                Answer::Taken(hello) => hello,
            };
            hello.check(asked).map_err(ChannelEnd::Preface)?;
            self.mux.establish(now, &hello.limits);
            self.greetings.push(Greeting::Hello(hello));
            self.awaited = None;
            bytes = rest;
        }
        self.mux.handle_input(now, bytes).map_err(ChannelEnd::Broken)
    }

    /// What the far end's preface told, once.
    pub(super) fn take_greetings(&mut self) -> Vec<Greeting> {
        std::mem::take(&mut self.greetings)
    }

    /// Writes what waits, as far as the kernel takes it now; says whether anything went.
    pub(super) fn write(&mut self, now: Duration) -> Result<bool, ChannelEnd> {
        let mut given = 0;
        while self.writable && given < TURN {
            if self.outbox.is_empty() {
                self.mux.poll_transmit(now, TAKE, &mut self.pieces);
                self.pieces.drain(..).for_each(|piece| self.outbox.push(piece, 0));
                self.drained = self.outbox.is_empty();
                if self.drained {
                    break;
                }
            }
            let written = match self.outbox.write(&self.output) {
                Ok(written) => written,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelEnd::Closed),
                Err(errno) => return Err(ChannelEnd::Io { action: "written", errno }),
            };
            given += written.bytes;
            self.writable = !written.full;
            let stats = self.mux.stats();
            if let Some(bytes) = self.unsent.sent(now, stats.small_out, stats.bulk_out) {
                hold(&self.output, bytes);
            }
        }
        Ok(given > 0)
    }

    /// Whether everything that was to be said has been said.
    pub(super) fn is_idle(&self) -> bool {
        self.outbox.is_empty() && self.drained
    }
}
