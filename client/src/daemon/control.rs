//! What the command line and the channel daemon say to each other, over a socket in a private folder.
//!
//! One JSON message a datagram, descriptors beside it. A connection carries one request; what becomes
//! of it comes back as events, the last of which is not [`Event::Waiting`] or [`Event::Remote`]. Behind
//! [`Event::Ready`] there may be an [`Event::Failed`] yet, where the far end stopped before a mount. The
//! connection's end takes back what had not become a mount. Both ends are the same program of the same
//! person, perhaps of different versions, so the first thing said is the version: [`Request`] keeps its
//! field `form` and [`Event`] its variant `Failed` in every version, and the rest is read only by who has
//! the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use transport::local::MessageSocket;

use crate::exit::{Exit, Failure};
use crate::frontend::fuse;
use crate::sys;

/// The form of these messages; a daemon of another is told so.
pub const FORM: u32 = 5;

/// What the command line wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`FORM`].
    pub form: u32,
    /// What is wanted.
    pub want: Want,
}

/// What every version can read of a request.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Form {
    /// [`FORM`] of whoever asks.
    pub form: u32,
}

/// The kinds of request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Want {
    /// A stream of 9P for a folder. It answers with [`Event::Ready`] and a descriptor; where a
    /// descriptor comes with the request, that is a listening socket, and each of its connections
    /// becomes a 9P session of its own while this connection lasts. For a FUSE mount no descriptor is
    /// given, and the mount's own is expected with [`Mounted`].
    Stream(Stream),
    /// What there is, which may be too long for one message: each [`Event::Channel`], any number of
    /// [`Event::Mount`], then the connection's end.
    List,
}

/// A wanted stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// `SERVICE+ARGUMENT` of the call.
    pub service: String,
    /// The folder, for people.
    pub folder: String,
    /// Nothing in it is to be changed.
    pub read_only: bool,
    /// The largest msize wanted, in bytes.
    pub msize: u32,
    /// It is the default for a new channel; one that has been measured may do better with another.
    pub tuned: bool,
    /// Microseconds that what is answered without the far end may be old; 0: nothing is.
    pub coherence: u64,
    /// Seconds that the far end may take from its first byte on.
    pub timeout: u64,
    /// A channel that is made for it is to sleep at once when there is nothing to do.
    pub no_poll: bool,
    /// What the mount's source is, as the kernel shows it.
    pub source: Vec<u8>,
    /// It is for a FUSE mount, which the daemon serves.
    pub fuse: Option<fuse::Settings>,
}

/// What becomes of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Nothing yet, and for whom it waits.
    Waiting(String),
    /// Lines that the far end, or what calls it, wrote to its stderr; escaped.
    Remote(String),
    /// The stream is there; its descriptor comes with this message, unless it listens.
    Ready {
        /// The most that msize can be.
        msize: u32,
        /// The far end's name, as it says itself.
        qube: String,
    },
    /// There will be no stream.
    Failed(Failure),
    /// The daemon and its channel.
    Channel(ChannelReport),
    /// One of the mounts.
    Mount(Mount),
}

/// What the command line did with its stream. A FUSE mount's descriptor comes with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mounted {
    /// Where it is mounted.
    pub mount_point: Vec<u8>,
    /// By which front end.
    pub front_end: String,
}

/// A mount that is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// The server qube, as it was asked for.
    pub server: String,
    /// The qube that it is, by its own word.
    pub qube: String,
    /// The folder in it.
    pub folder: String,
    /// Where it is mounted; the socket's path for the socket front end.
    pub mount_point: Vec<u8>,
    /// By which front end.
    pub front_end: String,
    /// The msize that both ends agreed on, 0 before they did.
    pub msize: u32,
    /// Nothing in it can be changed.
    pub read_only: bool,
    /// Seconds since it was mounted.
    pub age: u64,
    /// Bytes of 9P sent.
    pub sent: u64,
    /// Bytes of 9P received.
    pub received: u64,
    /// Round trips through the channel that somebody waited for.
    pub round_trips: u64,
    /// Requests answered without one.
    pub answered_here: u64,
    /// Requests that somebody waits for now.
    pub in_flight: u32,
    /// Microseconds that half of the requests took at most.
    pub p50: Option<u64>,
    /// The same for 99 of a hundred.
    pub p99: Option<u64>,
    /// Why it does not work any more; escaped.
    pub lost: Option<String>,
}

/// A daemon and its channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChannelReport {
    /// The server qube, as it was asked for.
    pub server: String,
    /// The qube that it is, by its own word; empty before it has said it.
    pub qube: String,
    /// How it is reached: `qrexec`, `local`, `ssh`, or a program's path.
    pub via: String,
    /// The daemon's process.
    pub daemon: u32,
    /// The process that carries the call, while there is one.
    pub process: Option<u32>,
    /// How many mounts it carries.
    pub mounts: usize,
    /// Milliseconds since the call was made.
    pub age: u64,
    /// Bytes of 9P sent.
    pub sent: u64,
    /// Bytes of 9P received.
    pub received: u64,
    /// How far it is: `calling`, `ok`, `lost` or `none`.
    pub state: String,
    /// Why it was lost; escaped.
    pub why: Option<String>,
    /// Where the daemon's messages go: a file, or `journal`.
    pub log: String,
}

/// A [`MessageSocket`] in the daemon's reactor.
#[derive(Clone)]
pub struct Connection(Rc<AsyncFd<MessageSocket>>);

/// A [`Connection`] for as long as somebody else has it.
#[derive(Clone)]
pub struct Downgraded(Weak<AsyncFd<MessageSocket>>);

impl Downgraded {
    /// The connection, if it is still there.
    pub fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(Connection)
    }
}

impl Connection {
    /// Takes a socket in. Errors are those of epoll_ctl(2).
    pub fn new(socket: MessageSocket) -> std::io::Result<Connection> {
        socket.set_nonblocking()?;
        Ok(Connection(Rc::new(sys::register(socket)?)))
    }

    /// The same without holding it open.
    pub fn downgrade(&self) -> Downgraded {
        Downgraded(Rc::downgrade(&self.0))
    }

    /// The next message and its descriptors; nothing at the end or where it cannot be understood.
    pub async fn receive<T: for<'de> Deserialize<'de>>(&self) -> Option<(T, Vec<OwnedFd>)> {
        let receive = |socket: &MessageSocket| socket.receive().map_err(Errno::into);
        let message = self.0.async_io(Interest::READABLE, receive).await.ok()?;
        Some((serde_json::from_slice(&message.bytes).ok()?, message.fds))
    }

    /// The next request; the error is what to say to one of another version, or nothing.
    pub async fn request(&self) -> Result<(Request, Vec<OwnedFd>), Option<Failure>> {
        let receive = |socket: &MessageSocket| socket.receive().map_err(Errno::into);
        let received: std::io::Result<_> = self.0.async_io(Interest::READABLE, receive).await;
        let message = received.map_err(|_| None)?;
        let form = serde_json::from_slice::<Form>(&message.bytes).map_err(|_| None)?;
        if form.form != FORM {
            return Err(Some(other_version()));
        }
        let request = serde_json::from_slice(&message.bytes).map_err(|_| None)?;
        Ok((request, message.fds))
    }

    /// Sends a message; an end that has gone hears nothing.
    pub async fn send<T: Serialize>(&self, message: &T, fd: Option<BorrowedFd<'_>>) {
        let Ok(bytes) = serde_json::to_vec(message) else { return };
        let fds: Vec<_> = fd.into_iter().collect();
        let send = |socket: &MessageSocket| socket.send(&bytes, &fds).map_err(Errno::into);
        let _: std::io::Result<()> = self.0.async_io(Interest::WRITABLE, send).await;
    }

    /// The next connection at a listening socket.
    pub async fn accept(&self) -> std::io::Result<Connection> {
        let accept = |socket: &MessageSocket| socket.accept().map_err(Errno::into);
        Connection::new(self.0.async_io(Interest::READABLE, accept).await?)
    }
}

/// A daemon or a command of another version.
pub fn other_version() -> Failure {
    let why = "the mounts of this qube are held by a daemon of another version of this program";
    Failure::new(Exit::Other, why)
        .hint("unmount all that --list of that version shows, and mount again")
}

/// Sends a message from the command line's side.
pub fn send<T: Serialize>(
    socket: &MessageSocket,
    message: &T,
    fd: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    let fds: Vec<_> = fd.into_iter().map(|fd| fd.as_fd()).collect();
    socket.send(&bytes, &fds)
}

/// Receives a message on the command line's side; nothing at the end.
pub fn receive<T: for<'de> Deserialize<'de>>(
    socket: &MessageSocket,
) -> Result<Option<(T, Vec<OwnedFd>)>, Errno> {
    let message = socket.receive()?;
    if message.bytes.is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&message.bytes).map_err(|_| Errno::PROTO)?;
    Ok(Some((value, message.fds)))
}
