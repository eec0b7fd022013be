//! The connection's handling of what comes in: which frame is permitted when, and what it does.
//!
//! A frame breaks a rule of the channel (an error here) when it shows that the two ends no longer
//! agree on what streams and credit there are; a rule of its stream (the stream is closed, the
//! channel lives) when only the order or size of that stream's messages is wrong.

use core::time::Duration;

use bytes::Bytes;

use super::config::Limits;
use super::connection::{Connection, Side};
use super::error::{ChannelError, Code, Reason};
use super::event::Event;
use super::frame::{Frame, FrameError, Kind, Open};
use super::input::{Head, Item, Pieces, Wanted};
use super::receive::charge;
use super::stream::State;
use crate::id::StreamId;

impl Connection {
    /// Takes in bytes of the channel after the peer's preface, in any cut. Slices of them come out as
    /// events.
    pub fn handle_input(&mut self, now: Duration, input: Bytes) -> Result<(), ChannelError> {
        self.alive()?;
        if self.peer.is_none() {
            return self.fail(ChannelError::NotEstablished);
        }
        self.stats.bytes_in += input.len() as u64;
        self.pinger.heard(now);
        match self.frames(now, input) {
            Err(error) => self.fail(error),
            Ok(()) => Ok(()),
        }
    }

    /// The peer will send no more. An error where it stopped inside a frame.
    pub fn handle_eof(&mut self) -> Result<(), ChannelError> {
        self.alive()?;
        let clean = self.input.is_between() || self.peer_ended;
        self.peer_ended = true;
        self.peer_leaving = true;
        if clean { Ok(()) } else { self.fail(ChannelError::CutFrame) }
    }

    fn frames(&mut self, now: Duration, mut from: Bytes) -> Result<(), ChannelError> {
        while !self.peer_ended && !self.ended {
            match self.input.next(&mut from, self.chunk)? {
                None => break,
                Some(Item::Head(head)) => {
                    self.stats.frames_in += 1;
                    let wanted = self.head(head)?;
                    self.input.want(wanted);
                }
                Some(Item::Piece(head, data)) => self.piece(head.header.stream, data),
                Some(Item::Whole(head, data)) if head.header.kind == Kind::Message => {
                    self.message(head.header.stream, data);
                }
                Some(Item::Whole(head, data)) => {
                    let payload = data.into_iter().next().unwrap_or_default();
                    self.control_frame(now, Frame::decode(head.header, &payload)?)?;
                }
            }
        }
        Ok(())
    }

    /// A frame begins: checks its credit and its place, before anything of it is kept.
    fn head(&mut self, head: Head) -> Result<Wanted, ChannelError> {
        let (kind, stream) = (head.header.kind, head.header.stream);
        if !kind.is_data() {
            return Ok(Wanted::Whole);
        }
        let charge = charge(head);
        let exceeded = |stream, left| ChannelError::CreditExceeded { stream, charge, left };
        let state = self.streams.get_mut(&stream);
        let state = state.ok_or(ChannelError::NoStream { kind, stream })?;
        if !self.receive.receive(charge) {
            return Err(exceeded(StreamId::CHANNEL, self.receive.left()));
        }
        match state {
            State::Opening | State::Offered => Err(ChannelError::OutOfOrder { kind, stream }),
            State::Closing => {
                self.receive.release(u64::from(charge));
                Ok(Wanted::Nothing)
            }
            State::Open(halves) => {
                if !halves.receive.receive(head) {
                    return Err(exceeded(stream, halves.receive.left()));
                }
                if let Err(reason) =
                    halves.receive.follow(head, self.chunk, self.config.max_message)
                {
                    let held = self.close_our_half(stream, reason.clone());
                    self.events.push_closed(stream, reason, false, held);
                    return Ok(Wanted::Nothing);
                }
                self.stats.messages_in += u64::from(kind != Kind::More);
                if kind == Kind::Begin {
                    self.events.push(Event::Begin { stream, total: head.total });
                }
                Ok(if kind == Kind::Message { Wanted::Whole } else { Wanted::AsItComes })
            }
        }
    }

    /// The stream may have been closed since the frame began: then its charge went back with it.
    fn piece(&mut self, stream: StreamId, data: Bytes) {
        if let Some(State::Open(_)) = self.streams.get(&stream) {
            self.events.push(Event::More { stream, data });
        }
    }

    /// See [`Connection::piece`].
    fn message(&mut self, stream: StreamId, data: Pieces) {
        if let Some(State::Open(_)) = self.streams.get(&stream) {
            self.events.push(Event::Message { stream, data });
        }
    }

    fn control_frame(&mut self, now: Duration, frame: Frame<'_>) -> Result<(), ChannelError> {
        let kind = frame.kind();
        match (frame, self.side) {
            (Frame::Open { stream, open }, Side::Server) => self.open_frame(stream, open),
            (Frame::Opened { stream, opened }, Side::Client) => {
                match self.streams.get(&stream) {
                    Some(State::Opening) => {
                        self.opened(stream);
                        self.events.push(Event::Opened { stream, opened });
                        Ok(())
                    }
                    // We closed it before the answer came.
                    Some(State::Closing) => Ok(()),
                    Some(_) => Err(ChannelError::OutOfOrder { kind, stream }),
                    None => Err(ChannelError::NoStream { kind, stream }),
                }
            }
            (Frame::Refused { stream, reason }, Side::Client) => match self.streams.get(&stream) {
                Some(State::Opening) => {
                    self.streams.remove(&stream);
                    self.events.push(Event::Refused { stream, reason });
                    Ok(())
                }
                Some(State::Closing) => {
                    self.streams.remove(&stream);
                    Ok(())
                }
                Some(_) => Err(ChannelError::OutOfOrder { kind, stream }),
                None => Err(ChannelError::NoStream { kind, stream }),
            },
            (Frame::Credit { stream, bytes }, _) => self.credit_frame(stream, bytes),
            (Frame::Close { stream, reason }, _) => self.close_frame(stream, reason),
            (Frame::Ping { value }, _) => {
                self.push(&Frame::Pong { value });
                Ok(())
            }
            (Frame::Pong { value }, _) => {
                self.pinger.pong(now, value);
                Ok(())
            }
            (Frame::GoAway { reason }, _) => {
                self.peer_leaving = true;
                self.peer_ended |= reason.code != Code::DONE;
                self.events.push(Event::GoAway { reason });
                Ok(())
            }
            (Frame::Open { .. } | Frame::Opened { .. } | Frame::Refused { .. }, _) => {
                Err(ChannelError::WrongSide(kind))
            }
            (Frame::Message { .. } | Frame::Begin { .. } | Frame::More { .. }, _) => {
                // Never asked for whole by this road.
                Err(FrameError::Malformed(kind).into())
            }
        }
    }

    fn open_frame(&mut self, stream: StreamId, open: Open) -> Result<(), ChannelError> {
        if stream.0 <= self.last {
            return Err(ChannelError::StreamNumber { stream, last: self.last });
        }
        self.last = stream.0;
        let refusal = if self.leaving {
            Some((Code::GOING_AWAY, "no new streams are taken"))
        } else if open.flags & !Open::HINTS != 0 {
            Some((Code::UNSUPPORTED, "unknown flags in OPEN"))
        } else if self.streams.len() >= self.config.max_streams as usize {
            Some((Code::TOO_MANY_STREAMS, "as many streams are open as this end takes"))
        } else {
            None
        };
        match refusal {
            Some((code, text)) => {
                self.push(&Frame::Refused { stream, reason: Reason::new(code, text) });
            }
            None => {
                self.streams.insert(stream, State::Offered);
                self.events.push(Event::Open { stream, open });
            }
        }
        Ok(())
    }

    fn credit_frame(&mut self, stream: StreamId, bytes: u32) -> Result<(), ChannelError> {
        let kind = Kind::Credit;
        let fits = if stream == StreamId::CHANNEL {
            self.send.add(bytes)
        } else {
            match self.streams.get_mut(&stream) {
                Some(State::Open(halves)) => {
                    let fits = halves.send.add_credit(bytes);
                    self.scheduler.offer(stream, halves.send.offer());
                    fits
                }
                Some(State::Closing) => true,
                Some(_) => return Err(ChannelError::OutOfOrder { kind, stream }),
                None => return Err(ChannelError::NoStream { kind, stream }),
            }
        };
        if fits { Ok(()) } else { Err(ChannelError::CreditOverflow(stream)) }
    }

    fn close_frame(&mut self, stream: StreamId, reason: Reason) -> Result<(), ChannelError> {
        match self.streams.get(&stream) {
            Some(State::Open(_) | State::Offered) => {
                let held = self.close_our_half(stream, Reason::done());
                self.events.push_closed(stream, reason, true, held);
            }
            Some(State::Closing) => {}
            Some(State::Opening) => {
                return Err(ChannelError::OutOfOrder { kind: Kind::Close, stream });
            }
            // The client end closed while we refused.
            None if self.side == Side::Server && stream.0 <= self.last => {}
            None => return Err(ChannelError::NoStream { kind: Kind::Close, stream }),
        }
        self.streams.remove(&stream);
        Ok(())
    }

    /// The peer's limits, once known.
    pub fn peer_limits(&self) -> Option<&Limits> {
        self.peer.as_ref()
    }
}
