//! One end of a channel: composes frames, streams, credit and scheduler, with no I/O and no clock.
//!
//! What comes in is handled in `incoming.rs`; here are the caller's side and what goes out.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use super::config::{Config, Limits};
use super::credit::{ReceiveCredit, SendCredit};
use super::error::{ChannelError, Code, OpenError, Reason, SendError};
use super::event::{Event, EventQueue};
use super::frame::{Frame, Open, Opened};
use super::input::Input;
use super::output::{ControlQueue, Gather};
use super::ping::{Due, Pinger};
use super::receive::ReceiveHalf;
use super::scheduler::{Class, Scheduler};
use super::send::SendHalf;
use super::stream::{Halves, State};
use crate::id::StreamId;

/// Which end this is. Only the client end opens streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The end that mounts.
    Client,
    /// The end that owns the folder.
    Server,
}

/// Counters since the beginning, for people and tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes taken in, and given out to be written.
    pub bytes_in: u64,
    /// See `bytes_in`.
    pub bytes_out: u64,
    /// Frames that began to come in, and that were given out.
    pub frames_in: u64,
    /// See `frames_in`.
    pub frames_out: u64,
    /// Small messages given out, and frames of bulk.
    pub small_out: u64,
    /// See `small_out`.
    pub bulk_out: u64,
    /// Whole and begun messages that came in.
    pub messages_in: u64,
    /// Streams there are now, those included that the peer has not closed yet.
    pub streams: u64,
    /// The charge of what came in and the caller has not passed on: at most `window`.
    pub held: u64,
    /// The channel's receive window as it has grown.
    pub window: u64,
}

/// One end of a channel after (at the client end: beside) the prefaces.
///
/// The methods are of four kinds:
/// - *in*: [`handle_input`](Self::handle_input), [`handle_eof`](Self::handle_eof),
///   [`handle_timeout`](Self::handle_timeout) take what happened at the channel;
/// - *out*: [`poll_event`](Self::poll_event), [`poll_transmit`](Self::poll_transmit),
///   [`poll_timeout`](Self::poll_timeout) say what is to be done about it;
/// - *the caller's wishes*: [`open`](Self::open), [`accept`](Self::accept), [`start`](Self::start),
///   [`extend`](Self::extend), [`consumed`](Self::consumed), [`close`](Self::close), ...;
/// - *questions* that change nothing.
///
/// After any call of the first or third kind: take all events, then transmit what the channel takes,
/// then ask for the timeout. `now` is the time since an epoch of the caller's choice, never going
/// back.
///
/// An error of the first kind ends the channel: every later call gives it again. There is a `GOAWAY`
/// left to be transmitted that tells the peer why.
///
/// # Memory
///
/// Whatever the peer does, we hold at most: `channel_window_max` bytes of charges (payload, and 128
/// bytes for each frame); one frame that is not whole; `control_limit` and what one input can cause
/// of control frames, if the caller heeds [`wants_input`](Self::wants_input) (a ping of 16 bytes
/// causes a pong of 16, an `OPEN` of 17 a `REFUSED` of some 60); and `max_streams` table entries. A
/// payload slice keeps the input buffer alive that it is part of. Only frames of more than 16 KiB are
/// sliced, and one may keep the two buffers that it begins and ends in: a peer that means harm and puts
/// something else between such frames can make inputs cut from buffers of `B` bytes cost up to
/// `2 B / 16 KiB` times the window, where well-meant bulk fills its buffers. What the caller holds counts until it says
/// [`consumed`](Self::consumed), or lets go with `close` or [`Event::Closed`].
#[derive(Debug)]
pub struct Connection {
    pub(super) side: Side,
    pub(super) config: Config,
    /// Ours and the peer's, known once the peer's preface is.
    pub(super) peer: Option<Limits>,
    /// The channel's: the lesser of both ends'.
    pub(super) chunk: u32,
    pub(super) streams: BTreeMap<StreamId, State>,
    /// The highest stream number used.
    pub(super) last: u32,
    pub(super) send: SendCredit,
    pub(super) receive: ReceiveCredit,
    /// Streams whose `CREDIT` is due, each once.
    due: Vec<StreamId>,
    pub(super) scheduler: Scheduler,
    pub(super) control: ControlQueue,
    pub(super) input: Input,
    pub(super) events: EventQueue,
    pub(super) pinger: Pinger,
    /// We take no new streams, or the peer does not.
    pub(super) leaving: bool,
    pub(super) peer_leaving: bool,
    /// The channel is over for us: control frames that wait are the last.
    pub(super) ended: bool,
    /// The peer has ended the channel: what follows is not read.
    pub(super) peer_ended: bool,
    pub(super) broken: Option<ChannelError>,
    pub(super) stats: Stats,
    own: BytesMut,
}

impl Connection {
    /// A channel's end. Nothing but `OPEN` can be sent until the peer's limits are known
    /// ([`establish`](Self::establish)).
    pub fn new(side: Side, config: Config) -> Connection {
        let config = config.sane();
        Connection {
            side,
            peer: None,
            chunk: config.chunk,
            streams: BTreeMap::new(),
            last: 0,
            send: SendCredit::default(),
            receive: ReceiveCredit::new(config.channel_window, config.channel_window_max),
            due: Vec::new(),
            scheduler: Scheduler::new(config.chunk, config.small_burst),
            control: ControlQueue::default(),
            input: Input::new(),
            events: EventQueue::default(),
            pinger: Pinger::new(config.ping_interval, config.ping_timeout),
            leaving: false,
            peer_leaving: false,
            ended: false,
            peer_ended: false,
            broken: None,
            stats: Stats::default(),
            own: BytesMut::new(),
            config,
        }
    }

    /// What our preface is to say.
    pub fn limits(&self) -> Limits {
        self.config.limits()
    }

    /// The peer's preface has come, and its capabilities were agreed to. Once; before any input.
    pub fn establish(&mut self, now: Duration, peer: &Limits) {
        if self.peer.is_some() || self.ended {
            return;
        }
        self.peer = Some(*peer);
        self.chunk = self.chunk.min(peer.chunk());
        self.scheduler = Scheduler::new(self.chunk, self.config.small_burst);
        self.send = SendCredit::new(peer.channel_window());
        if let Some(value) = self.pinger.start(now) {
            self.push(&Frame::Ping { value });
        }
    }

    /// Opens a stream; [`Event::Opened`] or [`Event::Refused`] answers. Client end only.
    pub fn open(&mut self, open: Open) -> Result<StreamId, OpenError> {
        if self.side != Side::Client {
            return Err(OpenError::WrongSide);
        }
        if self.leaving || self.peer_leaving || self.ended || self.peer_ended {
            return Err(OpenError::GoingAway);
        }
        self.last = self.last.checked_add(1).ok_or(OpenError::Exhausted)?;
        let stream = StreamId(self.last);
        self.streams.insert(stream, State::Opening);
        self.push(&Frame::Open { stream, open });
        Ok(stream)
    }

    /// Grants a stream that [`Event::Open`] asked for. Without effect where it is over meanwhile.
    pub fn accept(&mut self, stream: StreamId, opened: Opened) {
        if let Some(State::Offered) = self.streams.get(&stream) {
            self.opened(stream);
            self.push(&Frame::Opened { stream, opened });
        }
    }

    /// Refuses a stream that [`Event::Open`] asked for. Without effect where it is over meanwhile.
    pub fn refuse(&mut self, stream: StreamId, reason: Reason) {
        if let Some(State::Offered) = self.streams.get(&stream) {
            self.streams.remove(&stream);
            self.push(&Frame::Refused { stream, reason });
        }
    }

    /// Begins a message of `total` bytes, which [`extend`](Self::extend) gives. All bytes of the
    /// message before must have been given. One longer than a chunk is [`Class::Bulk`] whatever
    /// `class` says.
    pub fn start(&mut self, stream: StreamId, class: Class, total: u32) -> Result<(), SendError> {
        let max = self.peer.map_or(0, |peer| peer.max_message());
        let Some(State::Open(halves)) = self.streams.get_mut(&stream) else {
            return Err(SendError::NotOpen);
        };
        if total > max {
            return Err(SendError::TooLong { total, max });
        }
        halves.send.start(class, total)
    }

    /// Adds bytes to the message begun last on the stream. They are sent when they fill a frame or
    /// end the message.
    pub fn extend(&mut self, stream: StreamId, bytes: Bytes) -> Result<(), SendError> {
        let Some(State::Open(halves)) = self.streams.get_mut(&stream) else {
            return Err(SendError::NotOpen);
        };
        halves.send.extend(bytes)?;
        self.scheduler.offer(stream, halves.send.offer());
        Ok(())
    }

    /// Bytes of the stream that wait to be sent. The caller keeps this low by not reading where they
    /// come from: the multiplexer takes all it is given.
    pub fn queued(&self, stream: StreamId) -> usize {
        match self.streams.get(&stream) {
            Some(State::Open(halves)) => halves.send.queued(),
            _ => 0,
        }
    }

    /// Messages of the stream that wait to be sent, wholly or in part: many small ones are few bytes
    /// and much memory.
    pub fn queued_messages(&self, stream: StreamId) -> usize {
        match self.streams.get(&stream) {
            Some(State::Open(halves)) => halves.send.messages(),
            _ => 0,
        }
    }

    /// Payload of the stream that the caller has passed on: its credit goes back to the peer, when
    /// enough has come together. Never more than the events gave. Without effect where the stream is
    /// over: all went back then.
    pub fn consumed(&mut self, stream: StreamId, bytes: u32) {
        if let Some(State::Open(halves)) = self.streams.get_mut(&stream) {
            self.receive.release(halves.receive.consume(bytes));
            if halves.receive.is_due() && !halves.credit_due {
                halves.credit_due = true;
                self.due.push(stream);
            }
        }
    }

    /// Ends a stream. What waits to be sent is dropped, and no event is about this stream any more;
    /// the caller lets go of what it holds of it.
    pub fn close(&mut self, stream: StreamId, reason: Reason) {
        let undelivered = self.events.forget(stream);
        self.receive.release(undelivered);
        match self.streams.get(&stream) {
            Some(State::Offered) => self.refuse(stream, reason),
            Some(State::Opening | State::Open(_)) => {
                let held = self.close_our_half(stream, reason);
                self.receive.release(held);
            }
            Some(State::Closing) | None => {}
        }
    }

    /// Tells the peer that we leave. With [`Code::DONE`] live streams go on and no new ones are
    /// taken; with any other code nothing is sent after it, and the channel is over for us.
    pub fn go_away(&mut self, reason: Reason) {
        let ends = reason.code != Code::DONE;
        self.push(&Frame::GoAway { reason });
        self.leaving = true;
        self.ended |= ends;
    }

    /// Measures the round trip now, if no ping is under way.
    pub fn ping(&mut self, now: Duration) {
        if self.peer.is_some() {
            if let Some(value) = self.pinger.ask(now) {
                self.push(&Frame::Ping { value });
            }
        }
    }

    /// The next thing that happened. To be asked until there is none after every `handle_*`: what
    /// waits here is held.
    pub fn poll_event(&mut self) -> Option<Event> {
        let (event, back) = self.events.pop()?;
        self.receive.release(back);
        Some(event)
    }

    /// Appends to `out` what is to be written now, in order, as pieces for one vectored write; gives
    /// the bytes. Whole frames only. Ends with the frame that reaches `max` bytes, so that it may
    /// exceed it by less than a frame (8 bytes and a chunk), and gives at least one frame if there
    /// is one. What is given counts as sent.
    pub fn poll_transmit(&mut self, now: Duration, max: usize, out: &mut Vec<Bytes>) -> usize {
        if !self.ended && self.peer.is_some() {
            self.give_credit(now);
        }
        let mut to = Gather::new(&mut self.own, out);
        self.stats.frames_out += self.control.drain(&mut to, max) as u64;
        if self.control.len() == 0 {
            self.pinger.sent(now);
        }
        while !self.ended && (to.total() < max || to.total() == 0) {
            let Some((stream, class)) = self.scheduler.next(self.send.available()) else { break };
            let Some(State::Open(halves)) = self.streams.get_mut(&stream) else { continue };
            let Some(sent) = halves.send.send(stream, class, &mut to) else { continue };
            self.scheduler.offer(stream, halves.send.offer());
            self.send.take(sent.charge);
            self.stats.frames_out += 1;
            match class {
                Class::Small => self.stats.small_out += 1,
                Class::Bulk => self.stats.bulk_out += 1,
            }
        }
        let bytes = to.finish();
        self.stats.bytes_out += bytes as u64;
        bytes
    }

    /// Whether input should be read. It should not while the peer makes us answer more than it takes
    /// answers in; after the next `poll_transmit` it may be asked again.
    pub fn wants_input(&self) -> bool {
        self.broken.is_none() && self.control.len() <= self.config.control_limit
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, unless it changes before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.ended || self.peer_ended { None } else { self.pinger.timeout() }
    }

    /// Sends the ping that is due; an error when the peer has not answered for `ping_timeout`.
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), ChannelError> {
        self.alive()?;
        if self.ended || self.peer_ended {
            return Ok(());
        }
        match self.pinger.handle_timeout(now) {
            Due::Nothing => {}
            Due::Ping(value) => self.push(&Frame::Ping { value }),
            Due::Dead(silent) => return self.fail(ChannelError::Unresponsive(silent.as_secs())),
        }
        Ok(())
    }

    /// The round trip of a ping, smoothed; none before the first has come back.
    pub fn rtt(&self) -> Option<Duration> {
        self.pinger.rtt()
    }

    /// Streams that are not over, in ascending order; those that we closed and the peer has not are
    /// not among them.
    pub fn live(&self) -> impl Iterator<Item = StreamId> + '_ {
        let live = |(&id, state): (&StreamId, &State)| {
            if matches!(state, State::Closing) { None } else { Some(id) }
        };
        self.streams.iter().filter_map(live)
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        Stats {
            streams: self.streams.len() as u64,
            held: self.receive.held(),
            window: u64::from(self.receive.window()),
            ..self.stats
        }
    }

    /// Queues a control frame, unless the last has been queued.
    pub(super) fn push(&mut self, frame: &Frame<'_>) {
        if !self.ended {
            self.control.push(frame);
        }
    }

    /// Makes a stream open, with the windows of the prefaces.
    pub(super) fn opened(&mut self, stream: StreamId) {
        let config = &self.config;
        let window = self.peer.map_or(0, |peer| peer.stream_window());
        let halves = Halves {
            send: SendHalf::new(window, self.chunk, config.small_burst),
            receive: ReceiveHalf::new(config.stream_window, config.stream_window_max),
            credit_due: false,
        };
        self.streams.insert(stream, State::Open(halves));
    }

    /// Sends `CLOSE` and waits for the peer's; gives the charge of what was not passed on.
    pub(super) fn close_our_half(&mut self, stream: StreamId, reason: Reason) -> u64 {
        self.push(&Frame::Close { stream, reason });
        self.scheduler.remove(stream);
        match self.streams.insert(stream, State::Closing) {
            Some(State::Open(halves)) => halves.receive.held(),
            _ => 0,
        }
    }

    pub(super) fn alive(&self) -> Result<(), ChannelError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// The channel cannot go on: tells the peer, and remembers why.
    pub(super) fn fail(&mut self, error: ChannelError) -> Result<(), ChannelError> {
        self.go_away(error.reason());
        self.ended = true;
        self.broken = Some(error.clone());
        Err(error)
    }

    fn give_credit(&mut self, now: Duration) {
        let rtt = self.pinger.rtt();
        let bytes = self.receive.grant(now, rtt);
        if bytes > 0 {
            self.control.push(&Frame::Credit { stream: StreamId::CHANNEL, bytes });
        }
        for stream in self.due.drain(..) {
            let Some(State::Open(halves)) = self.streams.get_mut(&stream) else { continue };
            halves.credit_due = false;
            let bytes = halves.receive.grant(now, rtt);
            if bytes > 0 {
                self.control.push(&Frame::Credit { stream, bytes });
            }
        }
    }
}
