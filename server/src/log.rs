//! The service's log, in its own qube: who asked for what, and what came of it.
//!
//! A call's stderr is shown in the other qube, so what is nobody's business there goes here: one line a
//! matter, to the system's log (`/dev/log`, as syslog(3) writes to it), else to a file in a private folder
//! beside that of the sockets. It is opened before the process is locked in, and works from within, where no socket can be
//! made; that is why it is not left to a library, all of which connect when they like.
//!
//! A client can make lines. They are bounded: a hundred at once, then one a second; what is left out is
//! counted in the next one. A system log that is full, or gone, costs a line and no time.

use std::fmt::{Display, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Where the system's log is.
const SYSTEM: &str = "/dev/log";
/// The file's folder and name.
const FILE: [&str; 2] = ["log", "server"];
/// LOG_DAEMON and LOG_NOTICE, as syslog(3) writes them.
const PRIORITY: u8 = 3 << 3 | 5;
/// The most bytes of a line.
const MAX_LINE: usize = 1000;
/// A file that is longer is begun anew.
const MAX_FILE: u64 = 1 << 20;
/// Lines at once.
const BURST: u32 = 100;
/// One more each.
const PACE: Duration = Duration::from_secs(1);

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    sink: Sink,
    pace: Mutex<Pace>,
}

enum Sink {
    /// A datagram a line, to a socket that is connected.
    System(OwnedFd),
    File(OwnedFd),
}

/// Opens the log: at `place`, a socket or a file, where one is named. Without a log nothing is said.
pub fn open(place: Option<&Path>) {
    let sink = match place {
        Some(place) => system(place).or_else(|| file(place)),
        None => system(Path::new(SYSTEM)).or_else(|| {
            let [folder, name] = FILE;
            file(&transport::local::runtime_folder(folder).ok()?.join(name))
        }),
    };
    if let Some(sink) = sink {
        let _ = LOG.set(Log { sink, pace: Mutex::new(Pace::new(Instant::now())) });
    }
}

fn system(place: &Path) -> Option<Sink> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::DGRAM;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(place).ok()?).ok()?;
    Some(Sink::System(socket))
}

fn file(place: &Path) -> Option<Sink> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK;
    let file = rustix::fs::open(place, flags, Mode::RUSR | Mode::WUSR).ok()?;
    if u64::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok()? > MAX_FILE {
        rustix::fs::ftruncate(&file, 0).ok()?;
    }
    Some(Sink::File(file))
}

/// What it needs to go on writing, for whoever closes descriptors.
pub fn descriptor() -> Option<BorrowedFd<'static>> {
    LOG.get().map(|log| match &log.sink {
        Sink::System(fd) | Sink::File(fd) => fd.as_fd(),
    })
}

/// Says one line. Whatever a peer chose in it is to be escaped already; what is not printable goes.
pub fn say(line: impl Display) {
    let Some(log) = LOG.get() else { return };
    let left_out = log.pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
    let Some(left_out) = left_out else { return };
    let text = one_line(&line, left_out);
    let pid = rustix::process::getpid();
    // A log that takes nothing must not be in the way of anything.
    let _ = match &log.sink {
        Sink::System(socket) => {
            let line = format!("<{PRIORITY}>qvm-folder-server[{pid}]: {text}");
            rustix::io::write(socket, line.as_bytes())
        }
        Sink::File(file) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = now.unwrap_or_default().as_secs();
            rustix::io::write(file, format!("{seconds} [{pid}] {text}\n").as_bytes())
        }
    };
}

fn one_line(line: &impl Display, left_out: u32) -> String {
    let mut text = String::new();
    if left_out > 0 {
        let _ = write!(text, "({left_out} lines before this were left out) ");
    }
    let _ = write!(text, "{line}");
    let mut text = text.replace(|character: char| character.is_control(), "?");
    if text.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// How many lines may be said.
struct Pace {
    left: u32,
    since: Instant,
    left_out: u32,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { left: BURST, since: now, left_out: 0 }
    }

    /// Takes one, if there is one; says how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u32> {
        let more = now.saturating_duration_since(self.since).as_secs() / PACE.as_secs();
        if more > 0 {
            self.left = self.left.saturating_add(u32::try_from(more).unwrap_or(BURST)).min(BURST);
            self.since = now;
        }
        if self.left == 0 {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_is_left_out_is_counted() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let taken = (0..1000).filter(|_| pace.take(start).is_some()).count();
        assert_eq!(taken, BURST as usize);
        assert_eq!(pace.take(start + PACE), Some(900));
        assert_eq!(pace.take(start + PACE), None);
        assert_eq!(pace.take(start + PACE * 1_000_000), Some(1));
        assert_eq!(pace.left, BURST - 1);
    }

    #[test]
    fn a_line_stays_one_line_of_some_length() {
        assert_eq!(one_line(&"a\nb\x1b", 0), "a?b?");
        assert_eq!(one_line(&"a", 3), "(3 lines before this were left out) a");
        let long = one_line(&"\u{e9}".repeat(2000), 0);
        assert!(long.len() <= MAX_LINE + 3 && long.ends_with("\u{e9}..."), "{}", long.len());
    }
}
