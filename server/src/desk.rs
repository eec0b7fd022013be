//! The desk: a socket in the runtime folder at which a channel's process is spoken to by others of its
//! user, outside the channel.
//!
//! ```text
//!  first call's process                       a later call's process (dom0 was asked again)
//!  ─ holds the channel, the Book              ─ opens its folder
//!  ─ listens in the runtime folder    ◄─────  ─ sends client, folder, access and what serves it
//!  ─ notes it, makes a token          ─────►  ─ tells the client the token, and ends
//!  ◄── OPEN with that token, over the channel
//!
//!                                             the owner's command (owner.rs)
//!  ─ tells what is used               ◄────►  ─ asks for that
//!  ─ ends streams, or the channel     ◄────►  ─ orders that
//! ```
//!
//! The socket is named for the client qube, whose name qrexec vouches for, and for the channel's nonce:
//! so a permission cannot end up at the channel of another pair, and the owner knows whose channel it is
//! without asking the process, which a client may have taken over. It is made before the process is locked
//! in, so the kernel names the keeper as its other end. The runtime folder is 0700, and whoever connects is
//! sent away unless it is the same user or root.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use policy::{FolderPath, QubeName};
use rustix::io::Errno;
use rustix::process::Pid;
use transport::id::Msize;
use transport::local::{Message, MessageSocket};

use crate::grant::{Grant, Random, SharedBook, Source, is_meant, open_book};

/// How long the other process may take with its part of the talk.
const PATIENCE: Duration = Duration::from_secs(5);
/// The form of the messages at the desk; the first byte of each.
const FORM: u8 = 3;
/// What a message wants; its second byte.
const GRANT: u8 = 0;
const LIST: u8 = 1;
const END: u8 = 2;
/// The most streams that a list is believed to have.
const MAX_LISTED: usize = 1024;

/// Where others find the channel; gone when dropped.
#[derive(Debug)]
pub struct Desk {
    path: PathBuf,
}

impl Desk {
    /// A place for the channel `nonce` of `client`, in `runtime`; nobody attends to it yet. Sockets that
    /// processes left behind when they were killed are cleared away.
    pub fn open(
        runtime: &Path,
        client: &QubeName,
        nonce: &Random,
    ) -> Result<(Desk, MessageSocket), Errno> {
        clear(runtime);
        let path = socket_path(runtime, client, nonce);
        let socket = MessageSocket::listen(&path)?;
        Ok((Desk { path }, socket))
    }

    /// Leaves it to another process to take it away.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(&self.path);
    }
}

fn socket_path(runtime: &Path, client: &QubeName, nonce: &Random) -> PathBuf {
    let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
    runtime.join(format!("{client}.{nonce}"))
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

/// The owner's orders that the desk passes on: to end the streams of a folder and those in it, or,
/// without one, the channel.
pub type End = Box<dyn Fn(Option<FolderPath>) + Send>;

/// Attends to a desk's `socket` for the channel of `client`, on a thread of its own that lives as long as
/// the process.
pub fn attend(
    socket: MessageSocket,
    client: &QubeName,
    book: SharedBook,
    end: End,
) -> Result<(), Errno> {
    let client = client.clone();
    std::thread::Builder::new()
        .name("desk".into())
        .spawn(move || serve(&socket, &client, &book, &end))
        .map(drop)
        .map_err(|_| Errno::AGAIN)
}

fn serve(socket: &MessageSocket, client: &QubeName, book: &SharedBook, end: &End) {
    loop {
        match socket.accept() {
            Ok(caller) => {
                // One that hangs up or stalls hurts itself alone.
                let _ = answer(&caller, client, book, end);
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn answer(
    caller: &MessageSocket,
    client: &QubeName,
    book: &SharedBook,
    end: &End,
) -> Result<(), Errno> {
    caller.set_timeout(PATIENCE)?;
    let message = caller.receive()?;
    match message.bytes.as_slice() {
        [FORM, GRANT, ..] => {
            let grant = parse(message, client).ok_or(Errno::PROTO)?;
            let token = open_book(book).note(grant, Instant::now())?;
            caller.send(&token, &[])
        }
        [FORM, LIST] => {
            let lines: Vec<_> =
                open_book(book).used().map(|used| Line::of(used).encode()).collect();
            // One that does not take them must not hold up the desk.
            caller.set_nonblocking()?;
            lines.iter().try_for_each(|line| caller.send(line, &[]))
        }
        [FORM, END, folder @ ..] => {
            let folder = match folder {
                [] => None,
                path => Some(FolderPath::parse(OsStr::from_bytes(path)).map_err(|_| Errno::PROTO)?),
            };
            let mut book = open_book(book);
            book.take_back(folder.as_ref());
            let ended = book.used().filter(|used| is_meant(&used.folder, folder.as_ref())).count();
            drop(book);
            // First, since this process may end with the channel.
            let told = caller.send(&(ended as u32).to_le_bytes(), &[]);
            end(folder);
            told
        }
        _ => Err(Errno::PROTO),
    }
}

fn parse(message: Message, client: &QubeName) -> Option<Grant> {
    let [fd] = <[OwnedFd; 1]>::try_from(message.fds).ok()?;
    let (&[_, _, read_only, source, name], rest) = message.bytes.split_first_chunk::<5>()?;
    let (msize, rest) = rest.split_first_chunk::<4>()?;
    let (name, folder) = rest.split_at_checked(usize::from(name))?;
    if name != client.as_str().as_bytes() {
        return None;
    }
    let folder = FolderPath::parse(OsStr::from_bytes(folder)).ok()?;
    let max_msize = Msize::new(u32::from_le_bytes(*msize))?;
    let source = match source {
        Source::FOLDER => Source::Folder(fd),
        Source::SERVER => Source::Server(fd),
        Source::DIOD => Source::Diod(fd),
        _ => return None,
    };
    Some(Grant { folder, read_only: read_only != 0, max_msize, source })
}

/// The other side of a desk: a later call's process, or the owner's command.
#[derive(Debug)]
pub struct Visitor(MessageSocket);

impl Visitor {
    /// Goes to the desk of the channel `nonce` of `client`; nothing where that is no more.
    pub fn of_channel(
        runtime: &Path,
        client: &QubeName,
        nonce: &Random,
    ) -> Result<Option<Visitor>, Errno> {
        match MessageSocket::connect(&socket_path(runtime, client, nonce)) {
            Ok(socket) => Ok(Some(Visitor(socket))),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Goes once more to the desk at `path`.
    pub fn at(path: &Path) -> Result<Visitor, Errno> {
        MessageSocket::connect(path).map(Visitor)
    }

    /// Goes to all desks in `runtime`; says whose they are.
    pub fn of_all(runtime: &Path) -> Vec<(QubeName, PathBuf, Visitor)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let client: Option<QubeName> =
                name.to_str().and_then(|name| name.rsplit_once('.')?.0.parse().ok());
            let Some(client) = client else { continue };
            if let Ok(visitor) = Visitor::at(&entry.path()) {
                found.push((client, entry.path(), visitor));
            }
        }
        found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        found
    }

    /// The process that made the desk's socket, by the kernel's word: a channel's keeper.
    pub fn keeper(&self) -> Result<Pid, Errno> {
        let number = self.0.peer_process()?.try_into().map_err(|_| Errno::SRCH)?;
        Pid::from_raw(number).ok_or(Errno::SRCH)
    }

    /// Hands `grant`, made to `client`, over; gives the token, or nothing where the channel's process ends
    /// meanwhile.
    pub fn hand_over(self, client: &QubeName, grant: &Grant) -> Result<Option<Random>, Errno> {
        let client = client.as_str();
        let name = u8::try_from(client.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let number = grant.source.number();
        let mut bytes = vec![FORM, GRANT, u8::from(grant.read_only), number, name];
        bytes.extend_from_slice(&grant.max_msize.bytes().to_le_bytes());
        bytes.extend_from_slice(client.as_bytes());
        bytes.extend_from_slice(grant.folder.as_bytes());
        self.0.set_timeout(PATIENCE)?;
        let talk = || {
            self.0.send(&bytes, &[grant.source.as_fd()])?;
            self.0.receive()
        };
        match talk() {
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(None),
            Err(errno) => Err(errno),
            Ok(answer) => Ok(Some(Random::try_from(answer.bytes).map_err(|_| Errno::ACCESS)?)),
        }
    }

    /// What the channel's streams use, as its process says.
    pub fn list(&self) -> Result<Vec<Line>, Errno> {
        let until = Instant::now() + PATIENCE;
        self.0.set_timeout(PATIENCE)?;
        self.0.send(&[FORM, LIST], &[])?;
        let mut lines = Vec::new();
        loop {
            let message = self.0.receive()?;
            if message.bytes.is_empty() {
                return Ok(lines);
            }
            // It may be a client's by now.
            if lines.len() == MAX_LISTED || Instant::now() > until {
                return Err(Errno::PROTO);
            }
            lines.push(Line::decode(&message.bytes).ok_or(Errno::PROTO)?);
        }
    }

    /// Has the streams of `folder` and those in it ended, or the whole channel; says how many those are.
    pub fn end(&self, folder: Option<&FolderPath>) -> Result<u32, Errno> {
        self.0.set_timeout(PATIENCE)?;
        let folder = folder.map_or(&[][..], FolderPath::as_bytes);
        self.0.send(&[&[FORM, END], folder].concat(), &[])?;
        let answer = self.0.receive()?;
        Ok(u32::from_le_bytes(answer.bytes.try_into().map_err(|_| Errno::PROTO)?))
    }
}

/// A stream, as the channel's process tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its folder.
    pub folder: FolderPath,
    /// Nothing in it is changed.
    pub read_only: bool,
    /// How old it is.
    pub age: Duration,
    /// Bytes of 9P from the client.
    pub received: u64,
    /// Bytes of 9P to it.
    pub sent: u64,
}

impl Line {
    fn of(used: &crate::grant::Used) -> Line {
        let (received, sent) = used.bytes();
        let (folder, read_only) = (used.folder.clone(), used.read_only);
        Line { folder, read_only, age: used.since.elapsed(), received, sent }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.read_only)];
        for number in [self.age.as_secs(), self.received, self.sent] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.folder.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Line> {
        let (&read_only, mut rest) = bytes.split_first()?;
        let mut number = || {
            let (number, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(u64::from_le_bytes(*number))
        };
        let (age, received, sent) = (number()?, number()?, number()?);
        let folder = FolderPath::parse(OsStr::from_bytes(rest)).ok()?;
        let (read_only, age) = (read_only != 0, Duration::from_secs(age));
        Some(Line { folder, read_only, age, received, sent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{Used, random};
    use std::sync::{Arc, Mutex};
    use transport::id::StreamId;

    fn grant(folder: &Path) -> Grant {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let root = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).unwrap();
        let folder = FolderPath::parse(folder.as_os_str()).unwrap();
        let max_msize = Msize::new(8192).unwrap();
        Grant { folder, read_only: true, max_msize, source: Source::Folder(root) }
    }

    fn name(name: &str) -> QubeName {
        name.parse().unwrap()
    }

    #[test]
    fn a_permission_reaches_the_channel_of_its_own_client_only() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let nonce = random().unwrap();
        let book = SharedBook::default();
        let (desk, socket) = Desk::open(runtime.path(), &name("work"), &nonce).unwrap();
        attend(socket, &name("work"), Arc::clone(&book), Box::new(|_| {})).unwrap();
        let visit = |nonce: &Random, client: &str| {
            Visitor::of_channel(runtime.path(), &name(client), nonce).unwrap()
        };
        assert!(visit(&nonce, "evil").is_none());
        assert!(visit(&random().unwrap(), "work").is_none());
        // One that has found its way to another's channel says whose it is, and nothing is noted.
        let lost = visit(&nonce, "work").unwrap();
        assert_eq!(lost.hand_over(&name("evil"), &grant(folder.path())), Err(Errno::ACCESS));
        let visitor = visit(&nonce, "work").unwrap();
        let token = visitor.hand_over(&name("work"), &grant(folder.path())).unwrap().unwrap();
        let granted = open_book(&book).redeem(&token, Instant::now()).unwrap();
        assert!(granted.read_only);
        assert_eq!(granted.max_msize.bytes(), 8192);
        assert_eq!(granted.folder.as_path(), folder.path());
        drop(desk);
        assert!(visit(&nonce, "work").is_none());
    }

    #[test]
    fn sockets_of_killed_processes_are_cleared_away() {
        let runtime = tempfile::tempdir().unwrap();
        let left = socket_path(runtime.path(), &name("work"), &[7; 16]);
        drop(MessageSocket::listen(&left).unwrap());
        assert!(left.exists());
        let nonce = random().unwrap();
        let _desk = Desk::open(runtime.path(), &name("work"), &nonce).unwrap();
        assert!(!left.exists());
        assert!(socket_path(runtime.path(), &name("work"), &nonce).exists());
    }

    #[test]
    fn the_owner_sees_what_is_used_and_orders_its_end() {
        let runtime = tempfile::tempdir().unwrap();
        let book = SharedBook::default();
        let (_desk, socket) = Desk::open(runtime.path(), &name("a.b"), &[1; 16]).unwrap();
        let orders = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&orders);
        let end = move |folder| heard.lock().unwrap().push(folder);
        attend(socket, &name("a.b"), Arc::clone(&book), Box::new(end)).unwrap();
        let path = |text: &str| FolderPath::parse(text.as_ref()).unwrap();
        for (number, folder) in ["/srv", "/srv/in", "/home"].iter().enumerate() {
            let used = Used::new(path(folder), number == 0);
            used.count_received(10);
            used.count_sent(number);
            open_book(&book).begin(StreamId(number as u32), Arc::new(used));
        }
        let visit = || {
            let mut all = Visitor::of_all(runtime.path());
            assert_eq!(all.len(), 1);
            let (client, _, visitor) = all.remove(0);
            assert_eq!(client, name("a.b"));
            visitor
        };
        assert_eq!(visit().keeper(), Ok(rustix::process::getpid()));
        let lines = visit().list().unwrap();
        let lines: Vec<_> = lines
            .iter()
            .map(|line| (line.folder.to_string(), line.read_only, line.received, line.sent))
            .collect();
        let line = |folder: &str, read_only, sent| (folder.to_owned(), read_only, 10, sent);
        assert_eq!(
            lines,
            [line("/srv", true, 0), line("/srv/in", false, 1), line("/home", false, 2)]
        );
        assert_eq!(visit().end(Some(&path("/srv"))), Ok(2));
        assert_eq!(visit().end(None), Ok(3));
        assert_eq!(*orders.lock().unwrap(), [Some(path("/srv")), None]);
    }
}
