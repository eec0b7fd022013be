//! One mount, from a checked plan to a usable folder: what the command does while a person waits.
//!
//! The daemon makes the call and gives a descriptor that speaks 9P, of which the kernel's v9fs makes a
//! folder; or it keeps that and is given the descriptor of a FUSE mount, to serve it. What is undone when something fails, or when Ctrl-C is pressed, hangs on one thing: the
//! connection to the daemon. Its end takes back whatever had not become a mount.

use std::fs;
use std::io::{ErrorKind, IsTerminal};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use policy::printable;
use rustix::io::Errno;
use transport::id::Msize;
use transport::local::MessageSocket;

use crate::daemon::Pair;
use crate::daemon::control::{self, Event, FORM, Mounted, Request, Stream, Want};
use crate::daemon::spawn;
use crate::exit::{Exit, Failure};
use crate::frontend::choice::Choice;
use crate::frontend::fuse::{Fuse, Settings};
use crate::plan::{MsizeChoice, Place, Plan, Via};
use crate::{log, recent};

/// How long the far end may be silent before the person is told what is waited for.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long the daemon may take for its first word, which it says before anybody is asked.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// How often a daemon that was just leaving is asked again.
const TRIES: usize = 5;

/// A stream that the daemon gave.
struct Given {
    socket: MessageSocket,
    /// The end that speaks 9P; none where the daemon listens.
    fd: Option<OwnedFd>,
    /// The most that msize can be, in bytes.
    limit: u32,
    /// The server qube's name.
    qube: String,
}

/// Does what `plan` says. A failure leaves nothing mounted and no call under way.
pub fn run(plan: &Plan) -> Result<(), Failure> {
    let done = match &plan.place {
        Place::MountPoint(mount_point) => mount(plan, mount_point),
        Place::Socket(path) => offer(plan, path),
    };
    done.map_err(|failure| failure.what(plan.aim()))
}

fn mount(plan: &Plan, mount_point: &Path) -> Result<(), Failure> {
    // Found out first: nobody in dom0 should be asked for what this kernel cannot do.
    let (choice, line) = Choice::make(plan)?;
    if let Some(line) = line {
        eprintln!("{line}");
    }
    if let Some(warning) = choice.warning(plan) {
        log::warning(format_args!("warning: {warning}"));
    }
    let settings = match &choice {
        Choice::Fuse(fuse) => Some(fuse.settings(plan)),
        Choice::V9fs(_) => None,
    };
    let mut given = stream(plan, choice.msize(plan), None, settings)?;
    // The kernel only knows that its socket was closed; the daemon knows why it closed it.
    let reason = |failure, socket: &MessageSocket| told(socket).unwrap_or(failure);
    let warnings = match &choice {
        Choice::V9fs(v9fs) => {
            let fd = given.fd.take();
            let fd = fd.ok_or_else(|| Failure::new(Exit::Other, "the daemon gave no stream"))?;
            let mounted = v9fs.mount(plan, fd, given.limit);
            let mounted = mounted.map_err(|failure| reason(failure, &given.socket))?;
            tell(&given.socket, mount_point, choice.name(), None);
            log::debug(format_args!("msize {}, cache mode {}", mounted.msize, mounted.cache));
            mounted.warnings
        }
        Choice::Fuse(fuse) => {
            mount_fuse(fuse, plan, mount_point, &given)
                .map_err(|failure| reason(failure, &given.socket))?;
            Vec::new()
        }
    };
    for warning in &warnings {
        log::warning(format_args!("warning: {warning}"));
    }
    log::info(format_args!("{} of {} is on {}", plan.folder, given.qube, shown(mount_point)));
    recent::note(&plan.target);
    Ok(())
}

/// Makes the mount and gives it to the daemon, which serves it from then on.
fn mount_fuse(fuse: &Fuse, plan: &Plan, mount_point: &Path, given: &Given) -> Result<(), Failure> {
    let device = fuse.mount(plan, mount_point)?;
    tell(&given.socket, mount_point, "fuse", Some(&device));
    // Held open here it would outlive the daemon, and nobody would answer.
    drop(device);
    fuse.try_out(plan, mount_point)
}

/// Offers the stream at a socket until the person ends it.
fn offer(plan: &Plan, path: &Path) -> Result<(), Failure> {
    let listener = listen(path)?;
    let _name = Named(path);
    let given = stream(plan, plan.asked_msize(), Some(listener.into()), None)?;
    let failed = |error: std::io::Error| Failure::new(Exit::Other, error);
    let waiter = Waiter::new().map_err(failed)?;
    tell(&given.socket, path, "socket", None);
    recent::note(&plan.target);
    eprintln!("9P2000.L of {}:{} at {}", given.qube, plan.folder, shown(path));
    waiter.wait(given.socket).map_err(failed)?.map_or(Ok(()), Err)
}

/// A socket that only this person can connect to.
fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::MountPoint, format!("no socket can be made there: {error}"))
    };
    // plan.rs has seen that nothing but a socket is there. One that nobody listens at is left over.
    if let Err(error) = UnixStream::connect(path) {
        if error.kind() == ErrorKind::ConnectionRefused {
            fs::remove_file(path).map_err(failed)?;
        }
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Removes the socket's name in the end.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Who waits for the person to interrupt.
struct Waiter {
    runtime: tokio::runtime::Runtime,
    signals: [tokio::signal::unix::Signal; 3],
}

impl Waiter {
    /// From here on the signals are this one's to hear.
    fn new() -> std::io::Result<Waiter> {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        drop(guard);
        Ok(Waiter { runtime, signals })
    }

    /// Waits until the person interrupts, or the daemon lets go, for the reason that is given.
    fn wait(self, socket: MessageSocket) -> std::io::Result<Option<Failure>> {
        let [mut interrupt, mut terminate, mut hangup] = self.signals;
        self.runtime.block_on(async {
            let connection = control::Connection::new(socket)?;
            Ok(tokio::select! {
                _ = interrupt.recv() => None,
                _ = terminate.recv() => None,
                _ = hangup.recv() => None,
                ended = until_ended(&connection) => Some(ended),
            })
        })
    }
}

async fn until_ended(connection: &control::Connection) -> Failure {
    while let Some((event, _)) = connection.receive::<Event>().await {
        if let Event::Failed(failure) = event {
            return failure;
        }
    }
    Failure::new(Exit::ClosedEarly, "the connection to the other qube has ended")
}

fn tell(socket: &MessageSocket, mount_point: &Path, front_end: &str, fd: Option<&OwnedFd>) {
    let mount_point = mount_point.as_os_str().as_bytes().to_vec();
    let mounted = Mounted { mount_point, front_end: front_end.to_owned() };
    // A daemon that is gone has closed the stream, which shows in the mount.
    let _ = control::send(socket, &mounted, fd);
}

/// What the daemon has said of a stream that it ended.
fn told(socket: &MessageSocket) -> Option<Failure> {
    socket.set_timeout(Duration::from_millis(10)).ok()?;
    loop {
        match control::receive::<Event>(socket).ok()?? {
            (Event::Failed(failure), _) => return Some(failure),
            (Event::Remote(lines), _) => eprint!("{lines}"),
            _ => {}
        }
    }
}

/// Gets a stream from the pair's daemon.
fn stream(
    plan: &Plan,
    msize: Msize,
    listener: Option<OwnedFd>,
    fuse: Option<Settings>,
) -> Result<Given, Failure> {
    let pair = Pair { target: plan.target.as_str().to_owned(), via: plan.via.clone() };
    // What FUSE's kernel remembers was as old as that already when it was told.
    let coherence = if fuse.is_some() { plan.coherence / 2 } else { plan.coherence };
    let want = Want::Stream(Stream {
        service: plan.service.clone(),
        folder: plan.folder.to_string(),
        read_only: plan.read_only,
        msize: msize.bytes(),
        // Nothing of FUSE's is as large as its messages: there is nothing to be gained by smaller ones.
        tuned: plan.msize == MsizeChoice::Auto && fuse.is_none(),
        coherence: coherence.as_micros().try_into().unwrap_or(u64::MAX),
        timeout: plan.timeout.as_secs(),
        no_poll: plan.no_poll,
        source: plan.source().into_vec(),
        fuse,
    });
    let request = Request { form: FORM, want };
    for _ in 0..TRIES {
        let socket = spawn::connect(&pair)?;
        log::debug(format_args!("the channel daemon's log is {}", spawn::log_of(&pair)));
        if control::send(&socket, &request, listener.as_ref()).is_err() {
            continue;
        }
        // One that was just leaving hears nothing, and asking again does no harm then.
        match conversation(plan, socket)? {
            Some(given) => return Ok(given),
            None => continue,
        }
    }
    let why = format!("the channel daemon ended without a word, {TRIES} times");
    Err(Failure::new(Exit::Other, why).hint(format!("its log is {}", spawn::log_of(&pair))))
}

/// Listens to the daemon until there is a stream; nothing where it left without a word.
fn conversation(plan: &Plan, socket: MessageSocket) -> Result<Option<Given>, Failure> {
    let process = socket.peer_process().unwrap_or(0);
    let lost = |errno: Errno| {
        let why = match errno {
            Errno::PROTO => format!(
                "the channel daemon (process {process}) is broken: it answers \
                                     what is not to be understood"
            ),
            Errno::AGAIN => format!("the channel daemon (process {process}) does not answer"),
            Errno::PIPE => "the channel daemon ended before there was a stream".to_owned(),
            errno => format!("the channel daemon (process {process}): {errno}"),
        };
        let hint = match errno {
            Errno::PIPE => "see its log, which `qvm-mount-folder --list -v` names; try again",
            _ => "end it, which ends its mounts, and try again",
        };
        Failure::new(Exit::Other, why).hint(hint)
    };
    let begun = Instant::now();
    let mut progress = Progress::default();
    let mut waiting = false;
    loop {
        let pause = if waiting { progress.pause() } else { FIRST_WORD };
        socket.set_timeout(pause).map_err(lost)?;
        let (event, mut fds) = match control::receive::<Event>(&socket) {
            Ok(Some(received)) => received,
            // Reset: it had the connection, and left before it took it or read what was asked.
            Ok(None) | Err(Errno::CONNRESET) if !waiting => return Ok(None),
            Ok(None) => return Err(lost(Errno::PIPE)),
            Err(Errno::AGAIN) if waiting => {
                progress.show(plan, begun.elapsed());
                continue;
            }
            Err(errno) => return Err(lost(errno)),
        };
        progress.clear();
        match event {
            Event::Waiting(_) => waiting = true,
            Event::Remote(lines) => eprint!("{lines}"),
            Event::Failed(failure) => return Err(failure),
            Event::Ready { msize, qube } => {
                return Ok(Some(Given { socket, fd: fds.pop(), limit: msize, qube }));
            }
            Event::Mount(_) | Event::Channel(_) => return Err(lost(Errno::PROTO)),
        }
    }
}

/// What the person is told while nothing comes: on a terminal one line that is written anew each second,
/// elsewhere one line.
#[derive(Default)]
struct Progress {
    shown: bool,
    /// A line stands on the terminal that is to go.
    line: bool,
}

impl Progress {
    /// How long to listen before it is shown (again).
    fn pause(&self) -> Duration {
        match (self.shown, std::io::stderr().is_terminal()) {
            (false, _) => SILENCE,
            (true, true) => Duration::from_secs(1),
            (true, false) => Duration::from_secs(3600 * 24),
        }
    }

    fn show(&mut self, plan: &Plan, time: Duration) {
        let target = &plan.target;
        let what = match plan.via {
            Via::Qrexec(_) | Via::Command(_) => "dom0 may be asking, or the qube starting",
            Via::Ssh(_) => "ssh is connecting",
            Via::Local => "the service is starting",
        };
        let text = format!("waiting for {target}: {what} (Ctrl-C ends it)");
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{text} {} s", time.as_secs());
            self.line = true;
        } else if !self.shown {
            eprintln!("{text}");
        }
        self.shown = true;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.line) {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn shown(path: &Path) -> impl std::fmt::Display + '_ {
    printable(path.as_os_str().as_bytes())
}
