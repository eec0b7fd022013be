//! One mount, from a checked plan to a usable folder: what the command does while a person waits.
//!
//! The daemon makes the call and gives a descriptor that speaks 9P, of which the kernel's v9fs makes a
//! folder; or it keeps that and is given the descriptor of a FUSE mount, to serve it. What is undone when something fails, or when Ctrl-C is pressed, hangs on one thing: the
//! connection to the daemon. Its end takes back whatever had not become a mount.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

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
use crate::plan::{Place, Plan};

/// How long the far end may be silent before the person is told what is waited for.
const SILENCE: Duration = Duration::from_millis(1500);
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
            mounted.warnings
        }
        Choice::Fuse(fuse) => {
            mount_fuse(fuse, plan, mount_point, &given)
                .map_err(|failure| reason(failure, &given.socket))?;
            Vec::new()
        }
    };
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    if plan.verbose > 0 {
        eprintln!("{} of {} is on {}", plan.folder, given.qube, shown(mount_point));
    }
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
    tell(&given.socket, path, "socket", None);
    eprintln!("9P2000.L of {}:{} at {}", given.qube, plan.folder, shown(path));
    let ended = wait(given.socket);
    match ended {
        Some(Exit::Interrupted) | None => Ok(()),
        Some(exit) => Err(Failure::new(exit, "the connection to the other qube has ended")),
    }
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

/// Waits until the person interrupts, or the daemon lets go.
fn wait(socket: MessageSocket) -> Option<Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).ok()?;
        let mut hangup = signal(SignalKind::hangup()).ok()?;
        let connection = control::Connection::new(socket).ok()?;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Some(Exit::Interrupted),
            _ = terminate.recv() => Some(Exit::Interrupted),
            _ = hangup.recv() => Some(Exit::Interrupted),
            () = until_ended(&connection) => Some(Exit::ClosedEarly),
        }
    })
}

async fn until_ended(connection: &control::Connection) {
    while connection.receive::<Event>().await.is_some() {}
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
    let want = Want::Stream(Stream {
        service: plan.service.clone(),
        folder: plan.folder.to_string(),
        read_only: plan.read_only,
        msize: msize.bytes(),
        timeout: plan.timeout.as_secs(),
        source: plan.source().into_vec(),
        fuse,
    });
    let request = Request { form: FORM, want };
    let lost = || Failure::new(Exit::Other, "the channel daemon ended unexpectedly");
    for _ in 0..TRIES {
        let socket = spawn::connect(&pair)?;
        if control::send(&socket, &request, listener.as_ref()).is_err() {
            continue;
        }
        // One that was just leaving hears nothing, and asking again does no harm then.
        match conversation(plan, socket)? {
            Some(given) => return Ok(given),
            None => continue,
        }
    }
    Err(lost())
}

/// Listens to the daemon until there is a stream; nothing where it left without a word.
fn conversation(plan: &Plan, socket: MessageSocket) -> Result<Option<Given>, Failure> {
    let lost = |errno: Errno| Failure::new(Exit::Other, format!("the channel daemon: {errno}"));
    socket.set_timeout(SILENCE).map_err(lost)?;
    let mut waiting = None;
    loop {
        let (event, mut fds) = match control::receive::<Event>(&socket) {
            Ok(Some(received)) => received,
            // Reset: it had the connection, and left before it took it or read what was asked.
            Ok(None) | Err(Errno::CONNRESET) if waiting.is_none() => return Ok(None),
            Ok(None) => return Err(lost(Errno::PIPE)),
            Err(Errno::AGAIN) => {
                eprintln!(
                    "waiting for {}: dom0 may be asking, or the qube starting (Ctrl-C ends it)",
                    plan.target
                );
                socket.set_timeout(Duration::from_secs(3600 * 24)).map_err(lost)?;
                continue;
            }
            Err(errno) => return Err(lost(errno)),
        };
        match event {
            Event::Waiting(target) => waiting = Some(target),
            Event::Remote(lines) => eprint!("{lines}"),
            Event::Failed(failure) => return Err(failure),
            Event::Ready { msize, qube } => {
                return Ok(Some(Given { socket, fd: fds.pop(), limit: msize, qube }));
            }
            Event::Mount(_) => return Err(lost(Errno::PROTO)),
        }
    }
}

fn shown(path: &Path) -> impl std::fmt::Display + '_ {
    printable(path.as_os_str().as_bytes())
}
