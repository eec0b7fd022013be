//! The near end of a socket at whose far end another process serves a stream.
//!
//! ```text
//!  demux ── request ─► decoded, translated ─► outbox ═► writev ══► the process
//!        ◄─ reply ──── checked ◄── framer, assembler ◄═ read ════◄
//! ```
//!
//! On the pump's thread, never blocking, payloads never copied. What waits in the outbox holds the
//! client's credit, so that is its bound; replies are read only while the channel takes them. A request
//! is decoded before it goes out: what is no 9P is no parser's business but ours. A reply is checked
//! against its request when it is whole: the process may have been taken over by what it has parsed.

use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use transport::id::{Msize, Tag};
use transport::ninep::framer::Assembler;
use transport::ninep::message::VERSION;
use transport::ninep::{DecodeError, Framer, Kind, Packet, Rmessage, Tmessage};
use transport::relay::buffer::Buffers;
use transport::relay::outbox::Outbox;
use transport::relay::ready::Ready;

use super::dialect::{Dialect, Translated};

/// The largest errno of Linux (`include/linux/err.h`, `MAX_ERRNO`): above it the client's kernel would
/// take an errno for a pointer.
const MAX_ERRNO: u32 = 4095;

/// Why a stream cannot go on with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The process has ended, or closed its end.
    #[error("the file server's process has ended")]
    Ended,
    /// The socket failed.
    #[error("the file server's socket failed: {0}")]
    Io(Errno),
    /// What it sent is no message.
    #[error("the file server sent what is not 9P2000.L: {0}")]
    Malformed(#[from] DecodeError),
    /// A reply to nothing.
    #[error("the file server answered a request (tag {0}) that was never made")]
    Unasked(u16),
    /// A reply of another type than its request's.
    #[error("the file server answered a message of type {request} with type {reply}")]
    WrongType {
        /// The request's type.
        request: u8,
        /// The reply's type.
        reply: u8,
    },
    /// More bytes than were asked for.
    #[error("the file server sent {sent} bytes where {asked} were asked for")]
    TooMuch {
        /// Bytes of payload.
        sent: u32,
        /// The count of the request.
        asked: u32,
    },
    /// Another protocol, or an msize that was not offered.
    #[error("the file server chose a version or an msize that it was not offered")]
    Version,
    /// A failure without an errno.
    #[error("the file server failed with {0}, which is no errno")]
    Errno(u32),
}

/// What is kept of a request, to check its reply by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its type.
    pub kind: Kind,
    /// The most bytes of payload that it asks for; the msize, for a version.
    pub count: u32,
}

impl Asked {
    /// What there is to keep of `message`.
    pub fn of(message: &Tmessage<'_>) -> Asked {
        let count = match *message {
            Tmessage::Tread { count, .. } | Tmessage::Treaddir { count, .. } => count,
            Tmessage::Tversion { msize, .. } => msize,
            _ => 0,
        };
        Asked { kind: message.kind(), count }
    }

    /// Checks a whole reply against the request.
    fn check(self, reply: &Rmessage<'_>, limit: Msize) -> Result<(), RemoteError> {
        let kind = reply.kind();
        if let Rmessage::Rlerror { errno } = *reply {
            let known = (1..=MAX_ERRNO).contains(&errno);
            return if known { Ok(()) } else { Err(RemoteError::Errno(errno)) };
        }
        if kind != self.kind.reply() {
            return Err(RemoteError::WrongType { request: self.kind.0, reply: kind.0 });
        }
        match *reply {
            Rmessage::Rread { count } | Rmessage::Rreaddir { count } if count > self.count => {
                Err(RemoteError::TooMuch { sent: count, asked: self.count })
            }
            Rmessage::Rversion { msize, version } => {
                let possible = Msize::new(msize).is_some_and(|msize| msize <= limit);
                let agreed = version == VERSION && possible && msize <= self.count;
                let ok = agreed || version == b"unknown";
                if ok { Ok(()) } else { Err(RemoteError::Version) }
            }
            _ => Ok(()),
        }
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Submitted {
    /// It is on its way.
    Sent,
    /// It has been answered without the server.
    Answered(Packet),
}

/// A server at the far end of a socket.
#[derive(Debug)]
pub struct Remote {
    fd: OwnedFd,
    dialect: Dialect,
    limit: Msize,
    /// The agreed msize; 0 before.
    msize: u32,
    outbox: Outbox,
    framer: Framer,
    assembler: Assembler,
    ready: Ready,
}

impl Remote {
    /// Takes the near end of a stream socket. Messages will be of at most `limit` bytes.
    pub fn new(
        fd: OwnedFd,
        dialect: Dialect,
        limit: Msize,
        registry: &Registry,
        token: Token,
    ) -> std::io::Result<Remote> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, interest)?;
        Ok(Remote {
            fd,
            dialect,
            limit,
            msize: 0,
            outbox: Outbox::default(),
            framer: Framer::new(limit.bytes()),
            assembler: Assembler::default(),
            ready: Ready::UNKNOWN,
        })
    }

    /// Which server it is.
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// Takes readiness of the socket.
    pub fn handle_ready(&mut self, ready: Ready) {
        self.ready.add(ready);
    }

    /// Takes a request of the client's in. The error says why it is none.
    pub fn submit(&mut self, request: Packet) -> Result<Submitted, String> {
        let (tag, message) = Tmessage::decode(&request).map_err(|error| error.to_string())?;
        let size = u32::try_from(request.len()).unwrap_or(u32::MAX);
        let most = if self.msize == 0 { self.limit.bytes() } else { self.msize };
        if size > most {
            return Err(DecodeError::Oversized { size, msize: most }.to_string());
        }
        match message {
            Tmessage::Tversion { .. } if self.msize == 0 || self.dialect.begins_anew() => {
                self.msize = 0;
            }
            Tmessage::Tversion { .. } => return Err("diod does not begin a session anew".into()),
            _ if self.msize == 0 => {
                let kind = message.kind().0;
                return Err(format!("message of type {kind} before Tversion was answered"));
            }
            _ => {}
        }
        match self.dialect.translate(tag, &message, request.clone()) {
            Translated::Ask(request) => {
                self.outbox.push_packet(request);
                Ok(Submitted::Sent)
            }
            Translated::Answer(reply) => Ok(Submitted::Answered(reply)),
        }
    }

    /// Writes what the socket takes now; says whether anything moved.
    pub fn write(&mut self) -> Result<bool, RemoteError> {
        if !self.ready.writable || self.outbox.is_empty() {
            return Ok(false);
        }
        let written = match self.outbox.write(&self.fd) {
            Ok(written) => written,
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(RemoteError::Ended),
            Err(errno) => return Err(RemoteError::Io(errno)),
        };
        self.ready.writable = !written.full;
        Ok(written.bytes > 0)
    }

    /// Reads once, where there may be something; gives the number of bytes that came, 0 where none did.
    pub fn read(&mut self, buffers: &mut Buffers) -> Result<usize, RemoteError> {
        while self.ready.readable {
            match buffers.read(&self.fd) {
                Ok(Some(read)) => {
                    let count = read.bytes.len();
                    self.ready.has_read(&read);
                    self.framer.push(read.bytes);
                    return Ok(count);
                }
                Ok(None) | Err(Errno::CONNRESET) => return Err(RemoteError::Ended),
                Err(Errno::AGAIN) => self.ready.readable = false,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(RemoteError::Io(errno)),
            }
        }
        Ok(0)
    }

    /// The next whole reply, if it has come, after its check against what `asked` says of its tag.
    pub fn poll(
        &mut self,
        asked: impl Fn(Tag) -> Option<Asked>,
    ) -> Result<Option<Packet>, RemoteError> {
        while let Some(item) = self.framer.poll()? {
            let Some(reply) = self.assembler.push(item) else { continue };
            let (tag, message) = Rmessage::decode(&reply)?;
            asked(tag).ok_or(RemoteError::Unasked(tag.0))?.check(&message, self.limit)?;
            if let Rmessage::Rversion { msize, version } = message {
                self.msize = if version == VERSION { msize } else { 0 };
                self.framer.set_max(if self.msize == 0 { self.limit.bytes() } else { msize });
            }
            return Ok(Some(reply));
        }
        Ok(None)
    }

    /// Closes the socket, which the process ends by.
    pub fn close(self, registry: &Registry) {
        let _ = registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()));
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }
}
