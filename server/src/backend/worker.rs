//! A session of the embedded file server in a process of its own, for the process that holds the channel:
//! one folder, served over a stream socket until that is closed.
//!
//! ```text
//!  socket ═► framer ─► requests ─► fs::Session ─► workers
//!         ◄═ outbox ◄───────────── replies ◄──────┘
//! ```
//!
//! One loop, which sleeps in poll(2) and stops reading where replies are not taken, or where those that
//! may come of what it has read would be too many: what the process holds is bounded whatever the other
//! end does. Leaves out where the process runs, which is the sandbox's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use transport::id::Msize;
use transport::ninep::framer::Assembler;
use transport::ninep::{DecodeError, Framer, Packet};
use transport::relay::buffer::Buffers;
use transport::relay::mailbox::{Mailbox, Sender};
use transport::relay::outbox::Outbox;
use transport::relay::ready::Ready;

use super::Dialect;
use crate::fs::{Export, ExportError, Limits, Replies, Session, Workers};
use crate::requests::Requests;

const SOCKET: Token = Token(0);
const BELL: Token = Token(1);

/// Bytes of replies that wait for the socket before no more requests are read.
const BACKLOG: usize = 4 * 1024 * 1024;

/// Why a worker ended otherwise than by the other end's close.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The folder cannot be served.
    #[error(transparent)]
    Folder(#[from] ExportError),
    /// The socket failed, or what is needed to wait for it.
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    /// What came is no 9P.
    #[error("{0}")]
    NotNinep(String),
}

impl From<Errno> for WorkerError {
    fn from(errno: Errno) -> WorkerError {
        WorkerError::Io(errno.into())
    }
}

impl From<DecodeError> for WorkerError {
    fn from(error: DecodeError) -> WorkerError {
        WorkerError::NotNinep(error.to_string())
    }
}

/// Serves the folder that `root` is open on, which a client may call `folder`, over `socket`, until its
/// other end is closed.
pub fn run(
    root: OwnedFd,
    folder: &Path,
    read_only: bool,
    socket: OwnedFd,
) -> Result<(), WorkerError> {
    let export = Export::from_dir(root, folder, read_only)?;
    let mut poll = Poll::new()?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), SOCKET, interest)?;
    let mailbox = Mailbox::new(Waker::new(poll.registry(), BELL)?);
    let outlet = Arc::new(Outlet(mailbox.sender()));
    let session = Session::new(export, Workers::new(Limits::default()), outlet, Msize::MAX);
    let mut worker = Worker {
        socket,
        session,
        mailbox,
        requests: Requests::new(Dialect::Ours.manners()),
        framer: Framer::new(Msize::MAX.bytes()),
        assembler: Assembler::default(),
        outbox: Outbox::default(),
        buffers: Buffers::new(),
        ready: Ready::UNKNOWN,
    };
    let ended = worker.serve(&mut poll);
    worker.session.close();
    ended
}

struct Outlet(Sender<Packet>);

impl Replies for Outlet {
    fn reply(&self, reply: Packet) {
        self.0.send(reply);
    }
}

struct Worker {
    socket: OwnedFd,
    session: Arc<Session>,
    mailbox: Mailbox<Packet>,
    requests: Requests,
    framer: Framer,
    assembler: Assembler,
    outbox: Outbox,
    buffers: Buffers,
    ready: Ready,
}

impl Worker {
    fn serve(&mut self, poll: &mut Poll) -> Result<(), WorkerError> {
        let mut events = Events::with_capacity(8);
        loop {
            self.mailbox.mute();
            let read = match self.read() {
                Ok(Some(read)) => read,
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            };
            let begun = self.begin()?;
            let answered = self.take_replies();
            let Some(written) = self.write()? else { return Ok(()) };
            if read | begun | answered | written | self.mailbox.listen() {
                continue;
            }
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => {}
            }
            for event in events.iter().filter(|event| event.token() == SOCKET) {
                self.ready.add(Ready::of(event));
            }
        }
    }

    /// Reads once, if there is room; nothing at the end. Says whether anything came. The process with the
    /// channel counts as this one does and sees replies later, so that what it sends does not wait here.
    fn read(&mut self) -> Result<Option<bool>, WorkerError> {
        if !self.ready.readable || self.requests.waiting() > 0 || self.outbox.len() >= BACKLOG {
            return Ok(Some(false));
        }
        match self.buffers.read(&self.socket) {
            Ok(Some(read)) => {
                self.ready.has_read(&read);
                self.framer.push(read.bytes);
                while let Some(item) = self.framer.poll()? {
                    if let Some(request) = self.assembler.push(item) {
                        self.requests.push(request);
                    }
                }
                Ok(Some(true))
            }
            Ok(None) | Err(Errno::CONNRESET) => Ok(None),
            Err(Errno::AGAIN) => {
                self.ready.readable = false;
                Ok(Some(false))
            }
            Err(Errno::INTR) => Ok(Some(true)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Begins the requests that there is room for; says whether there were any.
    fn begin(&mut self) -> Result<bool, WorkerError> {
        let mut any = false;
        while let Some(request) = self.requests.next(self.outbox.len(), 1) {
            self.requests.begin(&request, None).map_err(WorkerError::NotNinep)?;
            let submitted = self.session.submit(request);
            submitted.map_err(|error| WorkerError::NotNinep(error.to_string()))?;
            any = true;
        }
        Ok(any)
    }

    fn take_replies(&mut self) -> bool {
        let mut any = false;
        while let Some(reply) = self.mailbox.take() {
            if let Ok(header) = reply.header() {
                self.requests.answered(header.tag);
            }
            self.outbox.push_packet(reply);
            any = true;
        }
        any
    }

    /// Writes what the socket takes; says whether it took anything, and nothing where it is closed.
    fn write(&mut self) -> Result<Option<bool>, WorkerError> {
        if !self.ready.writable || self.outbox.is_empty() {
            return Ok(Some(false));
        }
        match self.outbox.write(&self.socket) {
            Ok(written) => {
                self.ready.writable = !written.full;
                Ok(Some(written.bytes > 0))
            }
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;
    use transport::id::{Fid, Tag};
    use transport::ninep::message::VERSION;
    use transport::ninep::{Names, Tmessage};

    const ROOT: Fid = Fid(0);
    const FILE: Fid = Fid(1);

    /// A worker for a folder with a file of so many bytes, and what it ends with.
    fn worker(size: u64) -> (UnixStream, std::thread::JoinHandle<Result<(), WorkerError>>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("f")).unwrap().set_len(size).unwrap();
        let (ours, its) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let thread = std::thread::spawn(move || {
            let path = folder.path().canonicalize().unwrap();
            let root = std::fs::File::open(&path).unwrap();
            run(root.into(), &path, false, its.into())
        });
        (ours, thread)
    }

    fn ask(socket: &mut UnixStream, tag: u16, message: Tmessage<'_>) {
        socket.write_all(&message.encode(Tag(tag)).to_vec()).unwrap();
    }

    /// The next reply: its type, tag and size.
    fn reply(socket: &mut UnixStream) -> (u8, u16, usize) {
        let mut head = [0; 7];
        socket.read_exact(&mut head).unwrap();
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        socket.read_exact(&mut vec![0; size - 7]).unwrap();
        (head[4], u16::from_le_bytes([head[5], head[6]]), size)
    }

    fn attach(socket: &mut UnixStream) {
        ask(socket, 0xffff, Tmessage::Tversion { msize: Msize::MAX.bytes(), version: VERSION });
        assert_eq!(reply(socket), (101, 0xffff, 21));
        let (afid, n_uname) = (Fid::NONE, u32::MAX);
        let names = Names::new(&[b"f"]).unwrap();
        // One after the other: each needs the fid of the one before.
        for (message, kind) in [
            (Tmessage::Tattach { fid: ROOT, afid, uname: b"", aname: b"", n_uname }, 105),
            (Tmessage::Twalk { fid: ROOT, newfid: FILE, names }, 111),
            (Tmessage::Tlopen { fid: FILE, flags: 0 }, 13),
        ] {
            ask(socket, 1, message);
            assert_eq!(reply(socket).0, kind);
        }
    }

    #[test]
    fn it_ends_when_the_other_end_is_closed() {
        let (mut socket, thread) = worker(10);
        attach(&mut socket);
        drop(socket);
        assert!(thread.join().unwrap().is_ok());
    }

    #[test]
    fn what_is_no_9p_ends_it_in_words() {
        let (mut socket, thread) = worker(10);
        socket.write_all(&[3, 0, 0, 0, 100, 0, 0]).unwrap();
        let error = thread.join().unwrap().unwrap_err().to_string();
        assert_eq!(error, "message of 3 bytes is smaller than a 9P header");
        assert_eq!(socket.read(&mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn one_that_takes_no_replies_is_asked_for_no_more() {
        let (mut socket, thread) = worker(1 << 30);
        attach(&mut socket);
        // Each is 23 bytes, and asks for a megabyte.
        socket.set_nonblocking(true).unwrap();
        let count = Msize::MAX.payload();
        let mut bytes = Vec::new();
        for tag in 0..60_000 {
            let read = Tmessage::Tread { fid: FILE, offset: 0, count };
            bytes.extend(read.encode(Tag(tag)).to_vec());
        }
        let mut sent = 0;
        let until = std::time::Instant::now() + Duration::from_secs(2);
        while std::time::Instant::now() < until && sent < bytes.len() {
            match socket.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 200_000, "{peak} kB for {} reads", sent / 23);
        // They are answered as soon as somebody listens.
        socket.set_nonblocking(false).unwrap();
        let mut tags: Vec<u16> = (0..100)
            .map(|_| reply(&mut socket))
            .map(|(kind, tag, size)| {
                assert_eq!((kind, size), (117, count as usize + 11));
                tag
            })
            .collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 100);
        drop(socket);
        assert!(thread.join().unwrap().is_ok());
    }
}
