//! One relaying process of a modelled channel, either end's: local descriptors on one side, the ring
//! on the other.
//!
//! The messages in the ring are those of qrexec: a type, a length, data; data of no length is
//! end-of-file; the service's exit code is the last. This follows what is known of the real relays'
//! behaviour at the ends: a program that is gone does not stop the service's output, it is thrown
//! away; a service's first process that is gone loses its stdin, but whoever inherited its stdout
//! keeps the call open.

use super::line::Line;
use super::{MAX_CHUNK, Shape};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::Instant;

/// What a message in the ring carries, by qrexec's own numbers (`qrexec.h`, `MSG_DATA_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Data for the service's stdin.
    Stdin = 0x190,
    /// Data of the service's stdout.
    Stdout = 0x191,
    /// Data of the service's stderr.
    Stderr = 0x192,
    /// The service's exit code, as four bytes.
    ExitCode = 0x193,
}

const HEADER: usize = 8;

/// A local descriptor whose bytes go into the ring.
#[derive(Debug)]
pub struct Source {
    /// Read until its end, and closed then.
    pub fd: Option<OwnedFd>,
    /// As what its bytes go into the ring.
    pub kind: Kind,
}

/// How a relay's work ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The service has ended with this code, and everything before it has been passed on.
    Exit(u8),
    /// The relay at the ring's other end is gone.
    PeerGone,
}

/// A relay. Made of descriptors, then [`Relay::run`].
pub struct Relay {
    ring_in: OwnedFd,
    ring_out: Option<OwnedFd>,
    sources: Vec<Source>,
    next: usize,
    /// Where the other end's data goes; `None`: it is thrown away.
    sink: Option<OwnedFd>,
    /// The service, at the end where it runs.
    service: Option<Service>,
    /// Whether this end says that the call has ended, and with which code.
    is_agent: bool,
    exit_queued: Option<u8>,
    outgoing: Buffer,
    incoming: Incoming,
    line: Line,
    scratch: Vec<u8>,
}

struct Service {
    child: Child,
    pidfd: OwnedFd,
    code: Option<u8>,
}

/// Bytes that the next stage has not taken yet: `bytes[start..end]`.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// What has come out of the ring, and where in its messages it is.
struct Incoming {
    bytes: Buffer,
    header: [u8; HEADER],
    have: usize,
    kind: u32,
    left: usize,
    code: [u8; 4],
    ended: bool,
}

impl Relay {
    /// The relay at the client's end: `input` and `output` are the calling program's.
    pub fn client(
        input: OwnedFd,
        output: OwnedFd,
        ring_in: OwnedFd,
        ring_out: OwnedFd,
        shape: &Shape,
    ) -> io::Result<Relay> {
        let sources = vec![Source { fd: Some(input), kind: Kind::Stdin }];
        Relay::new(sources, output, None, false, ring_in, ring_out, shape)
    }

    /// The relay at the service's end. Without a `service` the call ends with code 0 when all
    /// `sources` have.
    pub fn agent(
        sources: Vec<Source>,
        sink: OwnedFd,
        service: Option<Child>,
        ring_in: OwnedFd,
        ring_out: OwnedFd,
        shape: &Shape,
    ) -> io::Result<Relay> {
        let service = match service {
            Some(child) => {
                let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
                Some(Service { child, pidfd, code: None })
            }
            None => None,
        };
        Relay::new(sources, sink, service, true, ring_in, ring_out, shape)
    }

    fn new(
        sources: Vec<Source>,
        sink: OwnedFd,
        service: Option<Service>,
        is_agent: bool,
        ring_in: OwnedFd,
        ring_out: OwnedFd,
        shape: &Shape,
    ) -> io::Result<Relay> {
        for fd in sources.iter().filter_map(|source| source.fd.as_ref()) {
            set_nonblocking(fd)?;
        }
        for fd in [&sink, &ring_in, &ring_out] {
            set_nonblocking(fd)?;
        }
        Ok(Relay {
            ring_in,
            ring_out: Some(ring_out),
            sources,
            next: 0,
            sink: Some(sink),
            service,
            is_agent,
            exit_queued: None,
            outgoing: Buffer { bytes: vec![0; HEADER + MAX_CHUNK], start: 0, end: 0 },
            incoming: Incoming {
                bytes: Buffer { bytes: Vec::new(), start: 0, end: 0 },
                header: [0; HEADER],
                have: 0,
                kind: 0,
                left: 0,
                code: [0; 4],
                ended: false,
            },
            line: Line::new(shape),
            scratch: vec![0; HEADER + MAX_CHUNK],
        })
    }

    /// Relays until the call has ended.
    pub fn run(mut self) -> io::Result<Ended> {
        loop {
            if let Some(ended) = self.deliver()? {
                return Ok(ended);
            }
            self.send()?;
            if self.incoming.ended && self.incoming.bytes.is_empty() && self.line.due().is_none() {
                return Ok(Ended::PeerGone);
            }
            if self.is_agent && self.ring_out.is_none() {
                return Ok(Ended::PeerGone);
            }
            if self.outgoing.is_empty() {
                if let Some(code) = self.exit_queued {
                    return Ok(Ended::Exit(code));
                }
                if let Some(code) = self.finished() {
                    self.queue(Kind::ExitCode, &i32::from(code).to_le_bytes());
                    self.exit_queued = Some(code);
                    continue;
                }
            }
            self.wait()?;
        }
    }

    /// The code to end the call with, once nothing can come from this end any more.
    fn finished(&self) -> Option<u8> {
        if !self.is_agent || self.sources.iter().any(|source| source.fd.is_some()) {
            return None;
        }
        match &self.service {
            Some(service) => service.code,
            None => Some(0),
        }
    }

    /// Waits until something can be moved, and takes in what is there.
    fn wait(&mut self) -> io::Result<()> {
        #[derive(Clone, Copy)]
        enum What {
            RingIn,
            RingOut,
            Sink,
            Service,
            Source(usize),
        }
        let now = Instant::now();
        let timeout = match self.line.due() {
            Some(due) if self.incoming.bytes.is_empty() => {
                let left = due.saturating_duration_since(now);
                Some(left.try_into().map_err(io::Error::other)?)
            }
            _ => None,
        };
        let mut whats = Vec::with_capacity(6);
        let mut fds = Vec::with_capacity(6);
        let takes_more =
            if self.line.is_used() { self.line.has_room() } else { self.incoming.bytes.is_empty() };
        if takes_more && !self.incoming.ended {
            whats.push(What::RingIn);
            fds.push(PollFd::new(&self.ring_in, PollFlags::IN));
        }
        if let Some(ring) = &self.ring_out {
            let flags = if self.outgoing.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            whats.push(What::RingOut);
            fds.push(PollFd::new(ring, flags));
        }
        if let (Some(sink), false) = (&self.sink, self.incoming.bytes.is_empty()) {
            whats.push(What::Sink);
            fds.push(PollFd::new(sink, PollFlags::OUT));
        }
        if let Some(service) = self.service.as_ref().filter(|service| service.code.is_none()) {
            whats.push(What::Service);
            fds.push(PollFd::new(&service.pidfd, PollFlags::IN));
        }
        if self.outgoing.is_empty() {
            for (index, source) in self.sources.iter().enumerate() {
                if let Some(fd) = &source.fd {
                    whats.push(What::Source(index));
                    fds.push(PollFd::new(fd, PollFlags::IN));
                }
            }
        }
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(()),
            other => other?,
        };
        let ready: Vec<(What, PollFlags)> = whats
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, events)| !events.is_empty())
            .collect();
        drop(fds);
        let mut readable = Vec::new();
        for (what, events) in ready {
            match what {
                What::RingIn => self.receive()?,
                What::RingOut if events.contains(PollFlags::ERR) => self.peer_gone(),
                What::RingOut | What::Sink => {} // run() tries them in any case
                What::Service => self.reap()?,
                What::Source(index) => readable.push(index),
            }
        }
        // Stdout and stderr take turns.
        let next = self.next;
        readable.sort_by_key(|&index| index < next);
        if let Some(&index) = readable.first() {
            self.next = index + 1;
            self.fill(index)?;
        }
        Ok(())
    }

    /// Nobody reads the ring any more: what this end has to say goes nowhere.
    fn peer_gone(&mut self) {
        self.ring_out = None;
        self.sources.clear();
        self.outgoing.start = self.outgoing.end;
    }

    fn reap(&mut self) -> io::Result<()> {
        let Some(service) = &mut self.service else { return Ok(()) };
        if let Some(status) = service.child.try_wait()? {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            service.code = Some(code as u8);
            self.sink = None;
        }
        Ok(())
    }

    /// Takes one message from a local descriptor.
    fn fill(&mut self, index: usize) -> io::Result<()> {
        let Some(source) = self.sources.get_mut(index) else { return Ok(()) };
        let Some(fd) = &source.fd else { return Ok(()) };
        let count = match read(fd, &mut self.outgoing.bytes[HEADER..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            // A socket whose peer died with unread data says this instead of end-of-file.
            Err(Errno::CONNRESET | Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            source.fd = None;
        }
        let kind = source.kind;
        self.seal(kind, count);
        self.send()
    }

    fn queue(&mut self, kind: Kind, data: &[u8]) {
        self.outgoing.bytes[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.seal(kind, data.len());
    }

    /// Makes the outgoing bytes after the header a message.
    fn seal(&mut self, kind: Kind, count: usize) {
        self.outgoing.bytes[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        self.outgoing.bytes[4..HEADER].copy_from_slice(&(count as u32).to_le_bytes());
        self.outgoing.start = 0;
        self.outgoing.end = HEADER + count;
    }

    /// Puts into the ring what it takes.
    fn send(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            let Some(ring) = &self.ring_out else { return Ok(()) };
            match write(ring, &self.outgoing.bytes[self.outgoing.start..self.outgoing.end]) {
                Ok(count) => self.outgoing.start += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => self.peer_gone(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes out of the ring what is there, at most one chunk.
    fn receive(&mut self) -> io::Result<()> {
        let count = match read(&self.ring_in, &mut self.scratch[..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            self.incoming.ended = true;
        } else if self.line.is_used() {
            self.line.push(Instant::now(), &self.scratch[..count]);
        } else {
            let spare = std::mem::take(&mut self.incoming.bytes.bytes);
            let bytes = std::mem::replace(&mut self.scratch, spare);
            if self.scratch.is_empty() {
                self.scratch = vec![0; HEADER + MAX_CHUNK];
            }
            self.incoming.bytes = Buffer { bytes, start: 0, end: count };
        }
        Ok(())
    }

    /// Passes on what came out of the ring, as far as the local side takes it.
    fn deliver(&mut self) -> io::Result<Option<Ended>> {
        loop {
            if self.incoming.bytes.is_empty() {
                match self.line.pop(Instant::now()) {
                    Some(bytes) => {
                        let end = bytes.len();
                        self.incoming.bytes = Buffer { bytes, start: 0, end };
                    }
                    None => return Ok(None),
                }
            }
            let Incoming { bytes, header, have, kind, left, code, .. } = &mut self.incoming;
            let data = &bytes.bytes[bytes.start..bytes.end];
            if *have < HEADER {
                let count = data.len().min(HEADER - *have);
                header[*have..*have + count].copy_from_slice(&data[..count]);
                *have += count;
                bytes.start += count;
                if *have == HEADER {
                    let [k0, k1, k2, k3, l0, l1, l2, l3] = *header;
                    *kind = u32::from_le_bytes([k0, k1, k2, k3]);
                    *left = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
                    if *left == 0 {
                        *have = 0;
                        if *kind != Kind::Stderr as u32 {
                            self.sink = None;
                        }
                    }
                }
                continue;
            }
            let data = &data[..data.len().min(*left)];
            let count = if *kind == Kind::ExitCode as u32 {
                let at = 4_usize.saturating_sub(*left);
                let count = data.len().min(4 - at);
                code[at..at + count].copy_from_slice(&data[..count]);
                data.len()
            } else if *kind == Kind::Stderr as u32 {
                // As the real client: blocking, so that a stuck terminal holds up the call.
                let _ = io::Write::write_all(&mut io::stderr(), data);
                data.len()
            } else {
                match self.sink.as_ref().map(|sink| write(sink, data)) {
                    Some(Ok(count)) => count,
                    Some(Err(Errno::AGAIN)) => return Ok(None),
                    Some(Err(Errno::INTR)) => continue,
                    Some(Err(_)) | None => {
                        self.sink = None;
                        data.len()
                    }
                }
            };
            bytes.start += count;
            *left -= count;
            if *left == 0 {
                *have = 0;
                if *kind == Kind::ExitCode as u32 {
                    return Ok(Some(Ended::Exit(code[0])));
                }
            }
        }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd.as_fd())?;
    Ok(fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?)
}
