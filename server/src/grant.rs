//! Permissions for folders, and how a later call hands its own to the process that holds the channel.
//!
//! ```text
//!  first call's process                       a later call's process (dom0 was asked again)
//!  ─ holds the channel, the Book              ─ opens its folder
//!  ─ listens in the runtime folder    ◄─────  ─ sends client, folder, access and what serves it
//!  ─ notes it, makes a token          ─────►  ─ tells the client the token, and ends
//!  ◄── OPEN with that token, over the channel
//! ```
//!
//! A token is 128 random bits, good once, for half a minute, in this channel alone. The channel's
//! nonce names the socket, so that a permission cannot end up at the channel of another pair; the
//! client qube's name, which qrexec vouches for at both ends of the talk, is compared besides.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policy::FolderPath;
use rustix::io::Errno;
use transport::local::{Message, MessageSocket};

/// How long a token is good: the client needs one round trip.
const LIFETIME: Duration = Duration::from_secs(30);
/// Tokens that may wait at once; more calls than that at a time are no person's doing.
const MAX_WAITING: usize = 64;
/// How long the other process may take with its part of the talk.
const PATIENCE: Duration = Duration::from_secs(5);
/// The form of the message between the two processes.
const FORM: u8 = 2;

/// A channel's nonce, or a token.
pub type Random = [u8; 16];

/// A folder that a client may have.
#[derive(Debug)]
pub struct Grant {
    /// The folder as it was asked for.
    pub folder: FolderPath,
    /// Nothing in it may be changed.
    pub read_only: bool,
    /// What serves it.
    pub source: Source,
}

/// What serves a granted folder.
#[derive(Debug)]
pub enum Source {
    /// This process: the folder, opened.
    Folder(OwnedFd),
    /// Another process, which speaks 9P2000.L at the far end of this stream socket and serves nothing
    /// but the folder.
    Server(OwnedFd),
    /// As [`Server`](Source::Server), and it is diod, which wants to be asked in its own way.
    Diod(OwnedFd),
}

impl Source {
    /// Its number in the message between the two processes.
    const FOLDER: u8 = 0;
    const SERVER: u8 = 1;
    const DIOD: u8 = 2;

    fn number(&self) -> u8 {
        match self {
            Source::Folder(_) => Source::FOLDER,
            Source::Server(_) => Source::SERVER,
            Source::Diod(_) => Source::DIOD,
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Folder(fd) | Source::Server(fd) | Source::Diod(fd) => fd.as_fd(),
        }
    }
}

/// Sixteen random bytes from the kernel.
pub fn random() -> Result<Random, Errno> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// The permissions that a channel's process holds and nobody has used yet.
#[derive(Debug, Default)]
pub struct Book {
    waiting: Vec<(Random, Instant, Grant)>,
}

impl Book {
    /// Notes a permission; gives its token.
    fn note(&mut self, grant: Grant, now: Instant) -> Result<Random, Errno> {
        self.forget_old(now);
        if self.waiting.len() >= MAX_WAITING {
            return Err(Errno::BUSY);
        }
        let token = random()?;
        self.waiting.push((token, now + LIFETIME, grant));
        Ok(token)
    }

    /// The permission that a token is good for; it is not good again.
    pub fn redeem(&mut self, token: &Random, now: Instant) -> Option<Grant> {
        self.forget_old(now);
        let at = self.waiting.iter().position(|(known, ..)| known == token)?;
        Some(self.waiting.swap_remove(at).2)
    }

    fn forget_old(&mut self, now: Instant) {
        self.waiting.retain(|(_, until, _)| *until > now);
    }
}

/// A book that two threads write in.
pub type SharedBook = Arc<Mutex<Book>>;

/// Opens a shared book; a thread that died over it has left it whole, since each entry is one step.
pub fn open_book(book: &SharedBook) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where later calls find the channel; gone when dropped.
#[derive(Debug)]
pub struct Desk {
    path: PathBuf,
}

impl Desk {
    /// A place for later calls, at a socket named for `nonce` in `runtime`; nobody attends to it yet.
    /// Sockets that processes left behind when they were killed are cleared away.
    pub fn open(runtime: &Path, nonce: &Random) -> Result<(Desk, MessageSocket), Errno> {
        clear(runtime);
        let path = socket_path(runtime, nonce);
        let socket = MessageSocket::listen(&path)?;
        Ok((Desk { path }, socket))
    }

    /// Leaves it to another process to take it away.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

/// Takes permissions for `client` into `book`, at a desk's `socket`, on a thread of its own that lives
/// as long as the process.
pub fn attend(socket: MessageSocket, client: &str, book: SharedBook) -> Result<(), Errno> {
    let client = client.to_owned();
    std::thread::Builder::new()
        .name("grants".into())
        .spawn(move || serve(&socket, &client, &book))
        .map(drop)
        .map_err(|_| Errno::AGAIN)
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(&self.path);
    }
}

fn socket_path(runtime: &Path, nonce: &Random) -> PathBuf {
    let name: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    runtime.join(name)
}

/// Removes sockets that nobody listens at.
fn clear(runtime: &Path) {
    for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
        let path = entry.path();
        if MessageSocket::is_deserted(&path) {
            let _ = rustix::fs::unlink(&path);
        }
    }
}

fn serve(socket: &MessageSocket, client: &str, book: &SharedBook) {
    loop {
        match socket.accept() {
            Ok(caller) => {
                // One that hangs up or stalls hurts itself alone.
                let _ = take(&caller, client, book);
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn take(caller: &MessageSocket, client: &str, book: &SharedBook) -> Result<(), Errno> {
    caller.set_timeout(PATIENCE)?;
    let grant = parse(caller.receive()?, client).ok_or(Errno::PROTO)?;
    let token = open_book(book).note(grant, Instant::now())?;
    caller.send(&token, &[])
}

fn parse(message: Message, client: &str) -> Option<Grant> {
    let [fd] = <[OwnedFd; 1]>::try_from(message.fds).ok()?;
    let (&[form, read_only, source, name], rest) = message.bytes.split_first_chunk::<4>()?;
    let (name, folder) = rest.split_at_checked(usize::from(name))?;
    if form != FORM || name != client.as_bytes() {
        return None;
    }
    let folder = FolderPath::parse(OsStr::from_bytes(folder)).ok()?;
    let source = match source {
        Source::FOLDER => Source::Folder(fd),
        Source::SERVER => Source::Server(fd),
        Source::DIOD => Source::Diod(fd),
        _ => return None,
    };
    Some(Grant { folder, read_only: read_only != 0, source })
}

/// Hands `grant`, made to `client`, to the process that holds the channel with this nonce; gives the
/// token, or nothing where that process is no more.
pub fn hand_over(
    runtime: &Path,
    nonce: &Random,
    client: &str,
    grant: &Grant,
) -> Result<Option<Random>, Errno> {
    let desk = match MessageSocket::connect(&socket_path(runtime, nonce)) {
        Ok(desk) => desk,
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let name = u8::try_from(client.len()).map_err(|_| Errno::NAMETOOLONG)?;
    let mut bytes = vec![FORM, u8::from(grant.read_only), grant.source.number(), name];
    bytes.extend_from_slice(client.as_bytes());
    bytes.extend_from_slice(grant.folder.as_bytes());
    desk.set_timeout(PATIENCE)?;
    desk.send(&bytes, &[grant.source.as_fd()])?;
    let answer = desk.receive()?;
    Ok(Some(Random::try_from(answer.bytes).map_err(|_| Errno::ACCESS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(folder: &Path) -> Grant {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let root = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).unwrap();
        let folder = FolderPath::parse(folder.as_os_str()).unwrap();
        Grant { folder, read_only: true, source: Source::Folder(root) }
    }

    #[test]
    fn a_token_is_good_once_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Book::default();
        let now = Instant::now();
        let token = book.note(grant(folder.path()), now).unwrap();
        assert!(book.redeem(&[0; 16], now).is_none());
        assert!(book.redeem(&token, now).is_some());
        assert!(book.redeem(&token, now).is_none());
        let token = book.note(grant(folder.path()), now).unwrap();
        assert!(book.redeem(&token, now + LIFETIME).is_none());
    }

    #[test]
    fn tokens_that_wait_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Book::default();
        let now = Instant::now();
        for _ in 0..MAX_WAITING {
            book.note(grant(folder.path()), now).unwrap();
        }
        assert_eq!(book.note(grant(folder.path()), now), Err(Errno::BUSY));
        assert!(book.note(grant(folder.path()), now + LIFETIME).is_ok());
    }

    #[test]
    fn a_permission_reaches_the_channel_of_its_own_client_only() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let nonce = random().unwrap();
        let book = SharedBook::default();
        let (desk, socket) = Desk::open(runtime.path(), &nonce).unwrap();
        attend(socket, "work", Arc::clone(&book)).unwrap();
        let hand = |nonce: &Random, client: &str| {
            hand_over(runtime.path(), nonce, client, &grant(folder.path()))
        };
        assert_eq!(hand(&nonce, "evil"), Err(Errno::ACCESS));
        assert_eq!(hand(&random().unwrap(), "work"), Ok(None));
        let token = hand(&nonce, "work").unwrap().unwrap();
        let granted = open_book(&book).redeem(&token, Instant::now()).unwrap();
        assert!(granted.read_only);
        assert_eq!(granted.folder.as_path(), folder.path());
        drop(desk);
        assert_eq!(hand(&nonce, "work"), Ok(None));
    }

    #[test]
    fn sockets_of_killed_processes_are_cleared_away() {
        let runtime = tempfile::tempdir().unwrap();
        let left = socket_path(runtime.path(), &[7; 16]);
        drop(MessageSocket::listen(&left).unwrap());
        assert!(left.exists());
        let nonce = random().unwrap();
        let _desk = Desk::open(runtime.path(), &nonce).unwrap();
        assert!(!left.exists());
        assert!(socket_path(runtime.path(), &nonce).exists());
    }
}
