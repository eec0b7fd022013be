//! The channel daemon: holds a pair's channel for as long as there are mounts.
//!
//! Started by the first mount, gone with the last. It outlives the command and the terminal that
//! started it: it is the process at the near end of every 9P socket of the pair.
//!
//! ```text
//!   qvm-mount-folder ──control socket──► mod.rs   one task a connection
//!                                          │ establish: the first call, or a grant
//!                                          ▼
//!                                       channel.rs ─► data plane's thread
//! ```
//!
//! Control runs on one thread (tokio's current-thread runtime); bytes move on another.

pub mod call;
pub mod channel;
pub mod control;
mod failure;
mod grant;
mod report;
pub mod spawn;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::ChildStderr;
use tokio::sync::Notify;
use transport::id::Msize;
use transport::local::MessageSocket;
use transport::relay::links::{LinkId, Right, Terms};

use self::call::Call;
use self::channel::{Channel, Lease, NoStream, Stage, Stream};
use self::control::{Connection, Downgraded, Event, Mounted, Want};
use self::grant::Given;
use crate::escape::FarLines;
use crate::exit::{Exit, Failure};
use crate::frontend::{SocketPair, fuse, socket_pair};
use crate::kernel;
use crate::log;
use crate::plan::Via;

/// Whose channel a daemon holds.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The qube that was named, or `@default` and the like.
    pub target: String,
    /// How it is reached.
    pub via: Via,
}

/// A mount, as the daemon's books have it.
struct Booked {
    /// The qube that it is of: the one that was named may have been another, or a word for any.
    qube: String,
    folder: String,
    /// The mount's source, as the kernel shows it.
    source: OsString,
    read_only: bool,
    since: Instant,
    /// The stream that the mount itself is, and its channel.
    channel: Rc<Channel>,
    stream: LinkId,
    mounted: RefCell<Option<Mounted>>,
    stats: RefCell<Vec<std::sync::Arc<transport::stats::StreamStats>>>,
}

struct Daemon {
    pair: Pair,
    /// The channel that later calls are for, and the right to make one: held while one is being made.
    /// There may be others, each for the one mount whose call became it.
    channel: tokio::sync::Mutex<Option<Rc<Channel>>>,
    /// The same, for whoever only looks.
    current: RefCell<Option<Rc<Channel>>>,
    /// Whether qrexec gives a larger ring, once that is known.
    ring: Cell<Option<bool>>,
    /// Where this process's messages go.
    log: String,
    /// Those that later calls have become.
    others: RefCell<Vec<Weak<Channel>>>,
    mounts: RefCell<BTreeMap<u64, Rc<Booked>>>,
    next: Cell<u64>,
    /// Connections and mounts that keep the daemon alive.
    busy: Cell<usize>,
    changed: Notify,
}

/// Runs the daemon of `pair` with its socket at `path`, until its last mount has gone. `started` is
/// called once it takes connections; not at all where another daemon has the socket. `log` says where its
/// messages go.
pub fn run(pair: Pair, path: &Path, log: String, started: impl FnOnce()) -> std::io::Result<()> {
    // Held until the process ends. Whoever has it owns the socket's name.
    let lock = std::fs::File::create(path.with_extension("lock"))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let _ = rustix::process::setsid();
    let _ = std::fs::remove_file(path);
    let listener = MessageSocket::listen(path)?;
    started();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, serve(pair, listener, path, log))
}

async fn serve(
    pair: Pair,
    listener: MessageSocket,
    path: &Path,
    log: String,
) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = Connection::new(listener)?;
    let daemon = Rc::new(Daemon {
        pair,
        channel: tokio::sync::Mutex::new(None),
        current: RefCell::default(),
        ring: Cell::new(None),
        log,
        others: RefCell::default(),
        mounts: RefCell::default(),
        next: Cell::new(1),
        busy: Cell::new(0),
        changed: Notify::new(),
    });
    // Whoever started it comes at once; a daemon that nobody asks for anything does not stay.
    let mut idle = Duration::from_secs(10);
    loop {
        tokio::select! {
            connection = listener.accept() => {
                idle = Duration::ZERO;
                if let Ok(connection) = connection {
                    let daemon = Rc::clone(&daemon);
                    let busy = Busy::new(&daemon);
                    tokio::task::spawn_local(async move {
                        daemon.answer(connection).await;
                        drop(busy);
                    });
                }
            }
            () = daemon.idle(idle) => break,
            // The terminal that started it is gone: nothing to do with us.
            _ = hangup.recv() => {}
            _ = terminate.recv() => {
                log::warning(format_args!("told to end: all mounts are given up"));
                break;
            }
        }
    }
    // From here on a new command finds nobody and starts a daemon of its own.
    let _ = std::fs::remove_file(path);
    daemon.take_away();
    // Whoever holds the lock waits for a call, perhaps for long; it ends with this daemon's tasks.
    let channel = daemon.channel.try_lock().ok().and_then(|mut channel| channel.take());
    let others = daemon.others.take();
    let channels: Vec<_> = others.iter().filter_map(Weak::upgrade).chain(channel).collect();
    channels.iter().for_each(|channel| channel.finish());
    let ends = async {
        for channel in &channels {
            channel.wait_end().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), ends).await;
    Ok(())
}

/// Keeps the daemon alive.
struct Busy(Rc<Daemon>);

impl Busy {
    fn new(daemon: &Rc<Daemon>) -> Busy {
        daemon.busy.set(daemon.busy.get() + 1);
        Busy(Rc::clone(daemon))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.changed.notify_one();
    }
}

impl Daemon {
    /// Returns once nothing keeps the daemon alive for `time`.
    async fn idle(&self, time: Duration) {
        loop {
            while self.busy.get() > 0 {
                self.changed.notified().await;
            }
            tokio::time::sleep(time).await;
            if self.busy.get() == 0 {
                return;
            }
        }
    }

    async fn answer(self: &Rc<Self>, connection: Connection) {
        let (request, fds) = match connection.request().await {
            Ok(request) => request,
            Err(failure) => {
                if let Some(failure) = failure {
                    connection.send(&Event::Failed(failure), None).await;
                }
                return;
            }
        };
        match request.want {
            Want::List => {
                for channel in self.reports() {
                    connection.send(&Event::Channel(channel), None).await;
                }
                for mount in self.list() {
                    connection.send(&Event::Mount(mount), None).await;
                }
            }
            Want::Stream(want) => {
                let listener = fds.into_iter().next();
                if let Err(failure) = self.stream(&connection, want, listener).await {
                    connection.send(&Event::Failed(failure), None).await;
                }
            }
        }
    }

    /// Takes away the mounts that nobody would answer any more. Those of v9fs stay, without a server.
    fn take_away(&self) {
        for mount in self.mounts.borrow().values() {
            let mounted = mount.mounted.borrow();
            if let Some(mounted) = mounted.as_ref().filter(|mounted| mounted.front_end == "fuse") {
                let mount_point = Path::new(OsStr::from_bytes(&mounted.mount_point));
                fuse::kernel_side::take_away(mount_point, &mount.source);
            }
        }
    }

    /// Gives a stream to the command at `connection`, and keeps its books until it ends.
    async fn stream(
        self: &Rc<Self>,
        connection: &Connection,
        want: control::Stream,
        listener: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        let terms = self.terms(&want)?;
        let (near, far) = match &listener {
            Some(_) => (None, None),
            None => {
                let SocketPair { client, relay } = socket_pair(terms.limit)
                    .map_err(|error| Failure::new(Exit::Other, format!("no socket: {error}")))?;
                (Some(client), Some(relay))
            }
        };
        let opened = tokio::select! {
            opened = self.open(connection, &want, terms, far) => opened?,
            // The person pressed Ctrl-C: dropping the other branch takes everything back.
            _ = connection.receive::<Mounted>() => return Ok(()),
        };
        // The lease is dropped behind the stream.
        let Opened { lease: _lease, channel, mut stream, qube } = opened;
        let (near, serving) = match (near, want.fuse) {
            (Some(near), Some(settings)) => {
                let serving = fuse::start(near, stream.terms.limit, settings)
                    .map_err(|error| Failure::new(Exit::Other, format!("no thread: {error}")))?;
                match self.attach(connection, &mut stream, serving, &want).await? {
                    Some(serving) => (None, Some(serving)),
                    None => return Ok(()),
                }
            }
            (near, _) => (near, None),
        };
        log::info(format_args!(
            "opened {} of {qube}, msize at most {}",
            want.folder, stream.terms.limit
        ));
        let booked = Rc::new(Booked {
            qube: qube.clone(),
            folder: want.folder.clone(),
            source: OsString::from_vec(want.source.clone()),
            read_only: want.read_only,
            since: Instant::now(),
            channel: Rc::clone(&channel),
            stream: stream.id,
            mounted: RefCell::new(None),
            stats: RefCell::new(vec![std::sync::Arc::clone(&stream.stats)]),
        });
        let id = self.next.replace(self.next.get() + 1);
        self.mounts.borrow_mut().insert(id, Rc::clone(&booked));
        let ready = Event::Ready { msize: stream.terms.limit.bytes(), qube };
        connection.send(&ready, near.as_ref().map(std::os::fd::AsFd::as_fd)).await;
        // Held open here it would outlive the mount.
        drop(near);
        match listener {
            Some(listener) => self.offer(connection, listener, &channel, stream, &booked).await,
            None => self.keep(connection, stream, &booked, &want, serving).await,
        }
        self.mounts.borrow_mut().remove(&id);
        log::info(format_args!("let go of {} of {}", want.folder, booked.qube));
        Ok(())
    }

    /// Waits until a FUSE session has its folder; nothing where the person did not.
    async fn attach(
        &self,
        connection: &Connection,
        stream: &mut Stream,
        mut serving: fuse::Serving,
        want: &control::Stream,
    ) -> Result<Option<fuse::Serving>, Failure> {
        let target = &self.pair.target;
        let stats = std::sync::Arc::clone(&stream.stats);
        let attached = tokio::select! {
            attached = &mut serving.attached => attached.unwrap_or(Err(rustix::io::Errno::IO)),
            _ = &mut stream.ended => Err(rustix::io::Errno::IO),
            () = stall(&stats, want.timeout) => return Err(failure::stalled(target, want.timeout)),
            _ = connection.receive::<Mounted>() => return Ok(None),
        };
        match attached {
            Ok(()) => Ok(Some(serving)),
            Err(errno) => Err(failure::not_attached(target, errno)),
        }
    }

    /// Keeps a mount's stream until it ends. A command that goes without having mounted closes the
    /// last descriptor of its socket, which ends the stream; one that was interrupted behind mount(2)
    /// leaves a mount that works.
    async fn keep(
        &self,
        connection: &Connection,
        mut stream: Stream,
        booked: &Booked,
        want: &control::Stream,
        serving: Option<fuse::Serving>,
    ) {
        let stats = std::sync::Arc::clone(&stream.stats);
        tokio::select! {
            mounted = connection.receive::<Mounted>() => {
                let unknown = || Mounted { mount_point: b"?".to_vec(), front_end: "v9fs".to_owned() };
                let (mounted, fds) = mounted.unwrap_or_else(|| (unknown(), Vec::new()));
                *booked.mounted.borrow_mut() = Some(mounted);
                if let (Some(serving), Some(device)) = (serving, fds.into_iter().next()) {
                    let _ = serving.device.send(device);
                }
            }
            _ = &mut stream.ended => return,
            // mount(2) waits for the far end and cannot be interrupted: closing its socket frees it.
            () = stall(&stats, want.timeout) => {
                let failure = failure::stalled(&self.pair.target, want.timeout);
                return connection.send(&Event::Failed(failure), None).await;
            }
        }
        let _ = (&mut stream.ended).await;
    }

    /// Makes a 9P session of each connection at `listener`, while the command is there.
    async fn offer(
        &self,
        connection: &Connection,
        listener: OwnedFd,
        channel: &Rc<Channel>,
        mut base: Stream,
        booked: &Rc<Booked>,
    ) {
        let listener = std::os::unix::net::UnixListener::from(listener);
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let Ok(listener) = UnixListener::from_std(listener) else { return };
        let sessions = tokio::task::LocalSet::new();
        let accept = async {
            while let Ok((client, _)) = listener.accept().await {
                let channel = Rc::clone(channel);
                let (right, terms) = (Right::Sibling(base.id), base.terms);
                let booked = Rc::clone(booked);
                sessions.spawn_local(session(channel, right, terms, client, booked));
            }
        };
        tokio::select! {
            () = sessions.run_until(accept) => {}
            () = async {
                while let Some((mounted, _)) = connection.receive::<Mounted>().await {
                    *booked.mounted.borrow_mut() = Some(mounted);
                }
            } => {}
            ended = &mut base.ended => {
                let why = channel.why_stream_lost(base.id).or(ended.ok()).unwrap_or_default();
                let failure = Failure::new(
                    Exit::ClosedEarly,
                    format!("the connection to {} has ended: {why}", booked.qube),
                );
                connection.send(&Event::Failed(failure), None).await;
            }
        }
    }

    /// How a stream is to be: as it was asked for, or as the channel has shown that it had better be.
    fn terms(&self, want: &control::Stream) -> Result<Terms, Failure> {
        let limit = Msize::new(want.msize)
            .ok_or_else(|| Failure::new(Exit::Msize, "the msize is out of range"))?;
        let current = self.current.borrow();
        let measured = current.as_ref().filter(|_| want.tuned).map(|channel| &channel.measured);
        let limit = match measured.and_then(|seen| seen.rate().zip(seen.rtt())) {
            Some((rate, rtt)) => {
                log::debug(format_args!("seen: {rate} bytes a second, a round trip of {rtt:?}"));
                kernel::tuned_msize(limit, kernel::memory(), rate, rtt)
            }
            None => limit,
        };
        let coherence = Duration::from_micros(want.coherence);
        Ok(Terms { limit, coherence, tells: want.fuse.is_some() })
    }

    /// Opens a stream for a folder, over the channel if there is one, else over one that is made now.
    async fn open(
        self: &Rc<Self>,
        connection: &Connection,
        want: &control::Stream,
        terms: Terms,
        mut fd: Option<OwnedFd>,
    ) -> Result<Opened, Failure> {
        let target = self.pair.target.as_str();
        connection.send(&Event::Waiting(target.to_owned()), None).await;
        let mut held = self.channel.lock().await;
        let time = Duration::from_secs(want.timeout);
        let living = held.as_ref().filter(|channel| channel.is_alive()).cloned();
        let (lease, channel, right) = match living {
            Some(channel) => {
                drop(held);
                // It must not end while it is asked for.
                let lease = channel.lease();
                match grant::ask(&self.pair, want, &channel, connection).await? {
                    Given::Token(token) => (lease, channel, Right::Token(token)),
                    Given::Channel(channel) => {
                        self.keep_channel(&channel);
                        (channel.lease(), channel, Right::Own)
                    }
                }
            }
            None => {
                let mut ring = match self.ring.get() {
                    Some(known) => known,
                    None => call::takes_ring(&self.pair.via).await,
                };
                // The right to make a channel is held until one is established: a second mount at the
                // same moment finds it rather than makes another.
                loop {
                    let (call, ends) = start_call(&self.pair, connection, &want.service, ring)?;
                    let no = |error| Failure::new(Exit::Other, format!("no channel: {error}"));
                    let channel = Channel::start(call, ends, want.no_poll).map_err(no)?;
                    *held = Some(Rc::clone(&channel));
                    *self.current.borrow_mut() = Some(Rc::clone(&channel));
                    log::info(format_args!("called {target} for {}", want.service));
                    let lease = channel.lease();
                    let again = fd.as_ref().map(OwnedFd::try_clone).transpose().map_err(no)?;
                    match self.first(&channel, terms, fd.take(), want).await {
                        Ok(stream) => {
                            self.ring.set(Some(ring));
                            let qube = qube_name(&channel, target);
                            return Ok(Opened { lease, channel, stream, qube });
                        }
                        // A small qube may not have the memory for a large ring.
                        Err(failure) if ring && channel.never_answered() => {
                            log::warning(format_args!(
                                "a call with {} failed ({failure}); calling again without",
                                call::RING
                            ));
                            self.ring.set(Some(false));
                            (ring, fd) = (false, again);
                        }
                        Err(failure) => return Err(failure),
                    }
                }
            }
        };
        let stream = match tokio::time::timeout(time, channel.open(right, terms, fd)).await {
            Err(_) => return Err(failure::stalled(target, want.timeout)),
            Ok(Err(NoStream::Refused(reason))) => {
                return Err(failure::refused(target, &want.folder, &reason));
            }
            Ok(Err(NoStream::Channel)) => {
                let why = format!("the connection to {target} was lost meanwhile");
                return Err(Failure::new(Exit::ClosedEarly, why).hint("try again"));
            }
            Ok(Ok(stream)) => stream,
        };
        let qube = qube_name(&channel, target);
        Ok(Opened { lease, channel, stream, qube })
    }

    /// Takes a channel that a later call has become: the one that later calls are for from now on, unless
    /// there is one that the same cannot be said of, since it leads to another qube.
    fn keep_channel(&self, channel: &Rc<Channel>) {
        let mut others = self.others.borrow_mut();
        others.retain(|other| other.strong_count() > 0);
        others.push(Rc::downgrade(channel));
        let Ok(mut held) = self.channel.try_lock() else { return };
        let target = self.pair.target.as_str();
        let stays = held.as_ref().is_some_and(|held| {
            held.is_alive() && qube_name(held, target) != qube_name(channel, target)
        });
        if !stays {
            *held = Some(Rc::clone(channel));
            *self.current.borrow_mut() = Some(Rc::clone(channel));
        }
    }

    /// The stream of a channel's own call: asked for together with the channel.
    async fn first(
        &self,
        channel: &Rc<Channel>,
        terms: Terms,
        fd: Option<OwnedFd>,
        want: &control::Stream,
    ) -> Result<Stream, Failure> {
        let target = self.pair.target.as_str();
        let mut stage = channel.stage.clone();
        let limited = async {
            // A person may be reading dom0's question, or a qube booting: the time starts with the
            // far end's first byte.
            let _ = stage.wait_for(|stage| !matches!(stage, Stage::Calling)).await;
            tokio::time::sleep(Duration::from_secs(want.timeout)).await;
        };
        let opened = tokio::select! {
            opened = channel.open(Right::Own, terms, fd) => opened,
            () = limited => return Err(failure::stalled(target, want.timeout)),
        };
        match opened {
            Ok(stream) => Ok(stream),
            Err(NoStream::Refused(reason)) => Err(failure::refused(target, &want.folder, &reason)),
            Err(NoStream::Channel) => match channel.wait_end().await {
                Some(ended) => Err(failure::ended(target, &self.pair.via, &want.folder, &ended)),
                None => Err(Failure::new(Exit::Other, "the channel was lost")),
            },
        }
    }
}

/// Starts a call, with its stderr shown to whoever waits for it.
fn start_call(
    pair: &Pair,
    connection: &Connection,
    service: &str,
    ring: bool,
) -> Result<(Call, call::Ends), Failure> {
    let started = Call::start(&pair.via, &pair.target, service, ring);
    let (mut call, ends) = started.map_err(|error| {
        let program = call::program(&pair.via);
        Failure::new(Exit::Qrexec, format!("cannot run {}: {error}", program.display()))
            .hint("qrexec-client-vm is there in a qube only; elsewhere use --via local")
    })?;
    if let Some(stderr) = call.stderr.take() {
        tokio::task::spawn_local(relay_stderr(stderr, connection.downgrade(), pair.target.clone()));
    }
    Ok((call, ends))
}

/// Passes on what the far end prints, escaped and bounded, to the command that waits; to this
/// process's own stderr, which is the log, when that has gone. The call may go on for long after the
/// command's part in it has ended, and the command waits for the connection's end.
async fn relay_stderr(mut stderr: ChildStderr, connection: Downgraded, name: String) {
    let mut lines = FarLines::new(&name);
    let mut buffer = [0; 4096];
    loop {
        let mut text = Vec::new();
        let count = stderr.read(&mut buffer).await.unwrap_or(0);
        // Writing to memory cannot fail.
        let _ = match count {
            0 => lines.finish(&mut text),
            count => lines.push(&buffer[..count], &mut text),
        };
        if !text.is_empty() {
            let text = String::from_utf8_lossy(&text).into_owned();
            eprint!("{text}");
            if let Some(connection) = connection.upgrade() {
                connection.send(&Event::Remote(text), None).await;
            }
        }
        if count == 0 {
            return;
        }
    }
}

/// Returns once requests have waited for `seconds` in which nothing at all came.
async fn stall(stats: &transport::stats::StreamStats, seconds: u64) {
    let (mut last, mut since) = (stats.read(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = stats.read();
        if now.in_flight == 0 || now.received != last.received {
            (last, since) = (now, Instant::now());
        } else if since.elapsed().as_secs() >= seconds {
            return;
        }
    }
}

/// One connection at a socket front end, from its beginning to its end.
async fn session(
    channel: Rc<Channel>,
    right: Right,
    terms: Terms,
    client: UnixStream,
    booked: Rc<Booked>,
) {
    let Ok(client) = client.into_std() else { return };
    let Ok(mut stream) = channel.open(right, terms, Some(OwnedFd::from(client))).await else {
        return;
    };
    let stats = std::sync::Arc::clone(&stream.stats);
    booked.stats.borrow_mut().push(std::sync::Arc::clone(&stats));
    let _ = (&mut stream.ended).await;
    booked.stats.borrow_mut().retain(|other| !std::sync::Arc::ptr_eq(other, &stats));
}

/// A stream that is open, and what it is in.
struct Opened {
    lease: Lease,
    channel: Rc<Channel>,
    stream: Stream,
    /// The qube at the other end.
    qube: String,
}

/// The far end's name: its own word where it is a qube's name, else the one that was called.
fn qube_name(channel: &Channel, target: &str) -> String {
    match &*channel.stage.borrow() {
        Stage::Established(hello) => match std::str::from_utf8(&hello.name) {
            Ok(name) if name.parse::<policy::QubeName>().is_ok() => name.to_owned(),
            _ => target.to_owned(),
        },
        _ => target.to_owned(),
    }
}
