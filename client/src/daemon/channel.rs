//! The pair's channel, from the daemon's side: its data plane's thread, its process, and who waits
//! for what.
//!
//! ```text
//!   daemon's tasks ──Command──► mailbox ─► data plane's thread (relay::pump, relay::links)
//!        ▲                                        │
//!        └── oneshots, watch ◄── dispatch ◄─Notice┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use policy::printable;
use tokio::sync::{mpsc, oneshot, watch};
use transport::id::Msize;
use transport::mux::Reason;
use transport::mux::preface::{PrefaceError, ServerHello};
use transport::relay::channel::ChannelEnd;
use transport::relay::links::{Command, LinkId, Links, Notice, Notify, Plane, Right, Terms};
use transport::relay::mailbox::Sender;
use transport::relay::meter::Measured;
use transport::stats::StreamStats;

use super::call::{Call, Ends};
use crate::log;

/// How far a channel has come.
#[derive(Clone, Debug)]
pub enum Stage {
    /// The call has been made; nothing has come back.
    Calling,
    /// The far end has said its first byte.
    Answering,
    /// The far end has introduced itself.
    Established(ServerHello),
    /// It has ended.
    Ended(Ended),
}

/// How a channel ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What the data plane says.
    pub why: Arc<transport::relay::channel::ChannelEnd>,
    /// The exit code of the process that carried it.
    pub exit: Option<i32>,
}

/// Why there is no stream.
#[derive(Clone, Debug)]
pub enum NoStream {
    /// The far end refused it.
    Refused(Reason),
    /// The channel has ended.
    Channel,
}

/// What becomes of a stream that was asked for.
type Opening = oneshot::Sender<Result<Msize, NoStream>>;

/// A channel.
pub struct Channel {
    commands: Sender<Command>,
    /// How far it has come.
    pub stage: watch::Receiver<Stage>,
    openings: RefCell<HashMap<LinkId, Opening>>,
    /// Streams that are open: told when one has ended, and why, in words.
    ended: RefCell<HashMap<LinkId, oneshot::Sender<String>>>,
    /// Streams whose 9P client gets errors only, and why; escaped.
    lost: RefCell<HashMap<LinkId, String>>,
    counted: RefCell<Counted>,
    next: Cell<u64>,
    leases: Cell<usize>,
    given_up: Cell<bool>,
    /// The process that carries it.
    pub process: Option<u32>,
    /// When the call was made.
    pub since: Instant,
    /// What is measured of it.
    pub measured: Arc<Measured>,
}

/// What the streams of a channel have moved.
#[derive(Default)]
struct Counted {
    open: Vec<Arc<StreamStats>>,
    /// Bytes sent and received by those that have ended.
    past: (u64, u64),
}

/// Somebody's interest in a channel.
pub struct Lease(Rc<Channel>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.set(self.0.leases.get() - 1);
        if self.0.leases.get() == 0 {
            self.0.finish();
        }
    }
}

/// A stream that is open. Closed when dropped.
pub struct Stream {
    channel: Rc<Channel>,
    /// Its name towards the data plane.
    pub id: LinkId,
    /// How it is: its limit is the most that its msize can be.
    pub terms: Terms,
    /// What it has done.
    pub stats: Arc<StreamStats>,
    /// Told when it has ended, and why.
    pub ended: oneshot::Receiver<String>,
}

impl Channel {
    /// Starts the data plane of a call. The task that serves it runs in the current `LocalSet`.
    /// It looks for work before it sleeps where that pays, unless `no_poll`.
    pub fn start(call: Call, ends: Ends, no_poll: bool) -> std::io::Result<Rc<Channel>> {
        let (notices, inbox) = mpsc::unbounded_channel();
        let mut plane = Links::prepare(ends.input, ends.output, notify(notices))?;
        if no_poll {
            plane = plane.without_polling();
        }
        Channel::serve(plane, inbox, Stage::Calling, call)
    }

    /// The same of a call that was for a permission, and has become a channel: `hello` is what the far end
    /// said, `rest` what came behind it.
    pub fn resume(
        call: Call,
        ends: Ends,
        hello: ServerHello,
        rest: Bytes,
    ) -> Result<Rc<Channel>, ChannelEnd> {
        let (notices, inbox) = mpsc::unbounded_channel();
        let plane = Links::resume(ends.input, ends.output, &hello, rest, notify(notices))?;
        Channel::serve(plane, inbox, Stage::Established(hello), call).map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error);
            ChannelEnd::Io { action: "served", errno: errno.unwrap_or(rustix::io::Errno::AGAIN) }
        })
    }

    fn serve(
        plane: Plane,
        inbox: mpsc::UnboundedReceiver<Notice>,
        stage: Stage,
        call: Call,
    ) -> std::io::Result<Rc<Channel>> {
        let (commands, measured) = (plane.commands(), plane.measured());
        std::thread::Builder::new().name("data-plane".into()).spawn(move || plane.run())?;
        let (progress, stage) = watch::channel(stage);
        let process = call.pid();
        let channel = Rc::new(Channel {
            commands,
            stage,
            openings: RefCell::default(),
            ended: RefCell::default(),
            lost: RefCell::default(),
            counted: RefCell::default(),
            next: Cell::new(1),
            leases: Cell::new(0),
            given_up: Cell::new(false),
            process,
            since: Instant::now(),
            measured,
        });
        tokio::task::spawn_local(dispatch(Rc::clone(&channel), inbox, progress, call));
        Ok(channel)
    }

    /// Whether streams can still be asked for.
    pub fn is_alive(&self) -> bool {
        !self.given_up.get() && !matches!(*self.stage.borrow(), Stage::Ended(_))
    }

    /// Whether it has ended without a byte from the far end, though dom0 allowed it and the service is there.
    pub fn never_answered(&self) -> bool {
        let stage = self.stage.borrow();
        let Stage::Ended(ended) = &*stage else { return false };
        let silent =
            matches!(&*ended.why, ChannelEnd::Preface(PrefaceError::Ended(0)) | ChannelEnd::Closed);
        silent && !matches!(ended.exit, Some(126 | 127))
    }

    /// Bytes of 9P sent and received by all streams so far.
    pub fn bytes(&self) -> (u64, u64) {
        let counted = self.counted.borrow();
        counted
            .open
            .iter()
            .map(|stats| stats.read())
            .fold(counted.past, |sum, reading| (sum.0 + reading.sent, sum.1 + reading.received))
    }

    /// Why it has ended, in words, if it has; escaped.
    pub fn why_lost(&self) -> Option<String> {
        match &*self.stage.borrow() {
            Stage::Ended(ended) => Some(printable(ended.why.to_string().as_bytes()).to_string()),
            _ => None,
        }
    }

    /// Why nothing comes of a stream any more, in words, where that is so; escaped.
    pub fn why_stream_lost(&self, id: LinkId) -> Option<String> {
        self.lost.borrow().get(&id).cloned().or_else(|| self.why_lost())
    }

    /// Keeps the channel: it ends with the last of these.
    pub fn lease(self: &Rc<Self>) -> Lease {
        self.leases.set(self.leases.get() + 1);
        Lease(Rc::clone(self))
    }

    /// Waits for the end, and says how it came.
    pub async fn wait_end(&self) -> Option<Ended> {
        let mut stage = self.stage.clone();
        let end = stage.wait_for(|stage| matches!(stage, Stage::Ended(_))).await.ok()?;
        match &*end {
            Stage::Ended(ended) => Some(ended.clone()),
            _ => None,
        }
    }

    /// Asks for a stream that joins `fd`; one without only keeps its right. The far end's answer comes
    /// with the future; a future that is dropped takes the stream back.
    pub async fn open(
        self: &Rc<Self>,
        right: Right,
        terms: Terms,
        fd: Option<OwnedFd>,
    ) -> Result<Stream, NoStream> {
        if !self.is_alive() {
            return Err(NoStream::Channel);
        }
        let id = LinkId(self.next.replace(self.next.get() + 1));
        let stats = Arc::new(StreamStats::default());
        let (opening, opened) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        self.openings.borrow_mut().insert(id, opening);
        self.ended.borrow_mut().insert(id, end);
        let mut stream = Stream { channel: Rc::clone(self), id, terms, stats, ended };
        let stats = Arc::clone(&stream.stats);
        self.counted.borrow_mut().open.push(Arc::clone(&stats));
        self.commands.send(Command::Open { id, right, terms, fd, stats });
        stream.terms.limit = opened.await.unwrap_or(Err(NoStream::Channel))?;
        Ok(stream)
    }

    /// Ends the channel: what is left to say is said, then its descriptors are closed.
    pub fn finish(&self) {
        self.given_up.set(true);
        self.commands.send(Command::Finish);
    }

    fn take(&self, notice: Notice, progress: &watch::Sender<Stage>) {
        match notice {
            Notice::FirstByte => {
                progress.send_replace(Stage::Answering);
            }
            Notice::Hello(hello) => {
                progress.send_replace(Stage::Established(hello));
            }
            Notice::Opened(id, limit) => self.opened(id, Ok(limit)),
            Notice::Refused(id, reason) => self.opened(id, Err(NoStream::Refused(reason))),
            Notice::Ended(id, why) => self.closed(id, why.to_string()),
            Notice::Closed(id, reason) => {
                let text = printable(reason.to_string().as_bytes()).to_string();
                log::warning(format_args!("the other qube ended a mount: {text}"));
                self.lost.borrow_mut().insert(id, text);
            }
            // dispatch's own.
            Notice::Lost(_) => {}
        }
    }

    fn opened(&self, id: LinkId, result: Result<Msize, NoStream>) {
        if let Some(opening) = self.openings.borrow_mut().remove(&id) {
            // Nobody waits any more: the stream's guard has been dropped and closes it.
            let _ = opening.send(result);
        }
    }

    fn closed(&self, id: LinkId, why: String) {
        if let Some(end) = self.ended.borrow_mut().remove(&id) {
            let _ = end.send(why);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.channel.openings.borrow_mut().remove(&self.id);
        self.channel.ended.borrow_mut().remove(&self.id);
        self.channel.lost.borrow_mut().remove(&self.id);
        let mut counted = self.channel.counted.borrow_mut();
        let last = self.stats.read();
        counted.open.retain(|stats| !Arc::ptr_eq(stats, &self.stats));
        counted.past = (counted.past.0 + last.sent, counted.past.1 + last.received);
        drop(counted);
        self.channel.commands.send(Command::Close(self.id));
    }
}

/// Has the data plane's notices come to the daemon's own thread.
fn notify(notices: mpsc::UnboundedSender<Notice>) -> Notify {
    Box::new(move |notice| {
        let _ = notices.send(notice);
    })
}

/// Serves a channel until its thread has ended, which it does when the last 9P client has gone.
async fn dispatch(
    channel: Rc<Channel>,
    mut inbox: mpsc::UnboundedReceiver<Notice>,
    progress: watch::Sender<Stage>,
    call: Call,
) {
    let mut call = Some(call);
    while let Some(notice) = inbox.recv().await {
        let Notice::Lost(why) = notice else {
            channel.take(notice, &progress);
            continue;
        };
        // The thread has closed the channel's descriptors: what carried it sees that and goes.
        let exit = match call.take() {
            Some(call) => call.end().await,
            None => None,
        };
        log::info(format_args!("the channel has ended: {}", printable(why.to_string().as_bytes())));
        progress.send_replace(Stage::Ended(Ended { why: Arc::new(why), exit }));
        channel.openings.borrow_mut().clear();
    }
    for (_, end) in channel.ended.borrow_mut().drain() {
        let _ = end.send("the channel has ended".to_owned());
    }
}
