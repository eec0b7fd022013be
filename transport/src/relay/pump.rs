//! The loop of the data plane's thread.
//!
//! It sleeps only after a whole pass in which nothing moved: so every stop for fairness or for want
//! of room is taken up again as soon as something else has moved, without a queue of its own. A pass
//! in which nothing can move makes no system call.

use std::time::{Duration, Instant};

use mio::{Events, Poll, Registry, Token};

use super::buffer::Buffers;
use super::channel::{Channel, ChannelEnd, Greeting};
use super::ready::Ready;
use super::spin::Spin;
use crate::mux::{Code, Connection, Event};

/// The token of the mailbox's bell.
pub const BELL: Token = Token(2);
/// The first token that a [`Role`] may use.
pub const FIRST: usize = 3;

/// How long what is left to say at the end may take.
const FAREWELL: Duration = Duration::from_millis(300);
/// Passes in a row before it is looked whether something else has become ready.
const PASSES: usize = 8;
/// Readiness events taken at a time.
pub(super) const EVENTS: usize = 256;

/// What the pump lends to its role.
pub struct Context<'a> {
    /// The channel.
    pub mux: &'a mut Connection,
    /// Where descriptors are registered, with tokens from [`FIRST`] on.
    pub registry: &'a Registry,
    /// Time since the pump began.
    pub now: Duration,
    /// Buffers to read into.
    pub buffers: &'a mut Buffers,
}

/// What a pump joins the channel to: 9P sockets at the client end, file servers at the other.
pub trait Role {
    /// Takes what the far end said before the first frame; at the client end only.
    fn handle_greeting(&mut self, greeting: Greeting) {
        let _ = greeting;
    }
    /// Takes what came over the channel.
    fn handle_event(&mut self, cx: &mut Context<'_>, event: Event);
    /// Takes readiness of a descriptor of its own.
    fn handle_ready(&mut self, token: Token, ready: Ready);
    /// Does what can be done now; says whether anything moved. After a pass in which nothing did, the
    /// thread may sleep until an event, or a bell that was registered as [`BELL`].
    fn pass(&mut self, cx: &mut Context<'_>) -> bool;
    /// When the next pass is due although nothing has come.
    fn poll_timeout(&self) -> Option<Duration>;
    /// Whether the channel is needed no more.
    fn is_done(&self) -> bool;
}

/// Runs a channel until it ends, and says why it did.
pub fn run(poll: &mut Poll, channel: Channel, role: &mut impl Role) -> ChannelEnd {
    run_spinning(poll, channel, role, Spin::new(false))
}

/// As [`run`], looking for work before it sleeps where `spin` finds it worth it.
pub fn run_spinning(
    poll: &mut Poll,
    mut channel: Channel,
    role: &mut impl Role,
    mut spin: Spin,
) -> ChannelEnd {
    let start = Instant::now();
    let mut buffers = Buffers::new();
    let mut events = Events::with_capacity(EVENTS);
    let mut farewell = None;
    loop {
        let now = start.elapsed();
        let mut moved = true;
        for _ in 0..PASSES {
            moved = match pass(&mut channel, role, poll, now, &mut buffers) {
                Ok(moved) => moved,
                Err(end) => {
                    // A last word tells the other end why.
                    let _ = channel.write(now);
                    return end;
                }
            };
            if !moved {
                break;
            }
        }
        let mut timeout = earliest(role.poll_timeout(), channel.mux.poll_timeout());
        if role.is_done() {
            let until = *farewell.get_or_insert(now + FAREWELL);
            if channel.is_idle() || now >= until {
                return ChannelEnd::Done;
            }
            timeout = earliest(timeout, Some(until));
        }
        let sleep = match (moved, timeout) {
            (true, _) => Some(Duration::ZERO),
            (false, due) => due.map(|due| due.saturating_sub(now)),
        };
        if let Err(error) = wait(poll, &mut events, sleep, &mut spin, start) {
            if error.kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
            return ChannelEnd::Io { action: "waited for", errno };
        }
        for event in &events {
            match event.token() {
                BELL => {}
                token if channel.handle_ready(token, Ready::of(event)) => {}
                token => role.handle_ready(token, Ready::of(event)),
            }
        }
    }
}

/// Waits for events for at most `sleep`: looks for them first where that is worth it.
fn wait(
    poll: &mut Poll,
    events: &mut Events,
    sleep: Option<Duration>,
    spin: &mut Spin,
    start: Instant,
) -> std::io::Result<()> {
    if sleep == Some(Duration::ZERO) {
        return poll.poll(events, sleep);
    }
    let began = start.elapsed();
    let mut slept = true;
    if spin.is_worth_it(began) {
        let mut last = began;
        loop {
            poll.poll(events, Some(Duration::ZERO))?;
            let now = start.elapsed();
            slept = events.is_empty();
            if !slept || !spin.goes_on(began, last, now) {
                break;
            }
            last = now;
        }
    }
    if slept {
        poll.poll(events, sleep)?;
    }
    spin.waited(began, start.elapsed(), slept);
    Ok(())
}

fn pass(
    channel: &mut Channel,
    role: &mut impl Role,
    poll: &Poll,
    now: Duration,
    buffers: &mut Buffers,
) -> Result<bool, ChannelEnd> {
    if channel.mux.poll_timeout().is_some_and(|due| due <= now) {
        channel.mux.handle_timeout(now).map_err(ChannelEnd::Broken)?;
    }
    let read = channel.read(now, buffers);
    channel.take_greetings().into_iter().for_each(|greeting| role.handle_greeting(greeting));
    let mut cx = Context { mux: &mut channel.mux, registry: poll.registry(), now, buffers };
    let mut left = None;
    while let Some(event) = cx.mux.poll_event() {
        match event {
            // Its last frame: whether it closes or not, nothing more is read or answered.
            Event::GoAway { reason } if reason.code != Code::DONE => left = Some(reason),
            event => role.handle_event(&mut cx, event),
        }
    }
    if let Some(reason) = left {
        return Err(ChannelEnd::Left(reason));
    }
    let moved = role.pass(&mut cx);
    let written = channel.write(now);
    Ok(read? | moved | written?)
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
