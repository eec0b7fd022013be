//! Permissions for folders, and the book in which a channel's process keeps them: those that wait for
//! their stream, and those that have one.
//!
//! A token is 128 random bits, good once, for half a minute, in this channel alone. Leaves out how a later
//! call's permission gets here, and who may look into the book: that is [`desk`](crate::desk)'s.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policy::FolderPath;
use rustix::io::Errno;
use transport::id::{Msize, StreamId};

/// How long a token is good: the client needs one round trip.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// Tokens that may wait at once; more calls than that at a time are no person's doing.
const MAX_WAITING: usize = 64;

/// A channel's nonce, or a token.
pub type Random = [u8; 16];

/// A folder that a client may have.
#[derive(Debug)]
pub struct Grant {
    /// The folder as it was asked for.
    pub folder: FolderPath,
    /// Nothing in it may be changed.
    pub read_only: bool,
    /// The largest msize that it is served with.
    pub max_msize: Msize,
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
    pub(crate) const FOLDER: u8 = 0;
    pub(crate) const SERVER: u8 = 1;
    pub(crate) const DIOD: u8 = 2;

    pub(crate) fn number(&self) -> u8 {
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

/// A permission in use: a stream, as the folder's owner sees it.
#[derive(Debug)]
pub struct Used {
    /// The folder.
    pub folder: FolderPath,
    /// Nothing in it is changed.
    pub read_only: bool,
    /// When the stream began.
    pub since: Instant,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Used {
    /// One that begins now.
    pub fn new(folder: FolderPath, read_only: bool) -> Used {
        let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Used { folder, read_only, since: Instant::now(), received, sent }
    }

    /// Counts bytes that came from the client.
    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that go to it.
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of 9P that came, and that went.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

/// The permissions that a channel's process holds.
#[derive(Debug)]
pub struct Book {
    lifetime: Duration,
    waiting: Vec<(Random, Instant, Grant)>,
    used: BTreeMap<StreamId, Arc<Used>>,
}

impl Default for Book {
    fn default() -> Book {
        Book::new(LIFETIME)
    }
}

impl Book {
    /// A book whose tokens are good for `lifetime`.
    pub fn new(lifetime: Duration) -> Book {
        Book { lifetime, waiting: Vec::new(), used: BTreeMap::new() }
    }

    /// Notes a permission; gives its token.
    pub(crate) fn note(&mut self, grant: Grant, now: Instant) -> Result<Random, Errno> {
        self.forget_old(now);
        if self.waiting.len() >= MAX_WAITING {
            return Err(Errno::BUSY);
        }
        let token = random()?;
        self.waiting.push((token, now + self.lifetime, grant));
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

    /// Takes back what waits for `folder` and what is in it; everything, where there is none.
    pub(crate) fn take_back(&mut self, folder: Option<&FolderPath>) {
        self.waiting.retain(|(.., grant)| !is_meant(&grant.folder, folder));
    }

    /// Notes that a stream uses a permission.
    pub(crate) fn begin(&mut self, stream: StreamId, used: Arc<Used>) {
        self.used.insert(stream, used);
    }

    /// Notes that it does no more.
    pub(crate) fn end(&mut self, stream: StreamId) {
        self.used.remove(&stream);
    }

    /// What is used now.
    pub fn used(&self) -> impl Iterator<Item = &Arc<Used>> {
        self.used.values()
    }
}

/// Whether an order about `named`, or about everything, is about `folder`.
pub(crate) fn is_meant(folder: &FolderPath, named: Option<&FolderPath>) -> bool {
    named.is_none_or(|named| folder.is_within(named))
}

/// A book that two threads write in.
pub type SharedBook = Arc<Mutex<Book>>;

/// Opens a shared book; a thread that died over it has left it whole, since each entry is one step.
pub fn open_book(book: &SharedBook) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn grant(folder: &Path) -> Grant {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let root = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).unwrap();
        let folder = FolderPath::parse(folder.as_os_str()).unwrap();
        Grant { folder, read_only: true, max_msize: Msize::MAX, source: Source::Folder(root) }
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
    fn what_is_taken_back_is_good_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let parent = FolderPath::parse(folder.path().parent().unwrap().as_os_str()).unwrap();
        let other = FolderPath::parse("/srv/other".as_ref()).unwrap();
        let now = Instant::now();
        for (taken_back, is_gone) in [(Some(&other), false), (Some(&parent), true), (None, true)] {
            let mut book = Book::default();
            let token = book.note(grant(folder.path()), now).unwrap();
            book.take_back(taken_back);
            assert_eq!(book.redeem(&token, now).is_none(), is_gone, "{taken_back:?}");
        }
    }
}
