//! Conversations with one end: send this frame, expect that one.

use alloc::vec::Vec;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use super::config::FRAME_CHARGE;
use super::frame::{Frame, FrameError, HEADER, Header, Kind};
use super::*;
use crate::id::StreamId;

const NOW: Duration = Duration::from_secs(1);
const S1: StreamId = StreamId(1);
const CHUNK: u32 = 1024;
const FULL: u32 = CHUNK + FRAME_CHARGE;

fn config() -> Config {
    Config {
        chunk: CHUNK,
        stream_window: 8 * FULL,
        stream_window_max: 8 * FULL,
        channel_window: 16 * FULL,
        channel_window_max: 16 * FULL,
        max_streams: 2,
        max_message: 5000,
        ..Config::default()
    }
}

fn reason(code: Code) -> Reason {
    Reason::new(code, "because")
}

fn own() -> Open {
    Open { authorisation: Authorisation::Own, msize: 4096, flags: 0 }
}

/// One end under test, and a scripted peer.
struct Script {
    end: Connection,
}

impl Script {
    fn new(side: Side) -> Script {
        let mut end = Connection::new(side, config());
        end.establish(NOW, &config().limits());
        let mut script = Script { end };
        script.expect(&[Frame::Ping { value: 1 }]);
        script
    }

    /// A server end with stream 1 open.
    fn open() -> Script {
        let mut script = Script::new(Side::Server);
        script.send(Frame::Open { stream: S1, open: own() }).unwrap();
        assert_eq!(script.end.poll_event(), Some(Event::Open { stream: S1, open: own() }));
        let opened = Opened { msize: 4096 };
        script.end.accept(S1, opened);
        script.expect(&[Frame::Opened { stream: S1, opened }]);
        script
    }

    /// A client end with stream 1 open.
    fn client() -> Script {
        let mut script = Script::new(Side::Client);
        assert_eq!(script.end.open(own()), Ok(S1));
        script.expect(&[Frame::Open { stream: S1, open: own() }]);
        let opened = Opened { msize: 4096 };
        script.send(Frame::Opened { stream: S1, opened }).unwrap();
        assert_eq!(script.end.poll_event(), Some(Event::Opened { stream: S1, opened }));
        script
    }

    fn send(&mut self, frame: Frame<'_>) -> Result<(), ChannelError> {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.end.handle_input(NOW, bytes.freeze())
    }

    fn message(&mut self, length: usize) -> Result<(), ChannelError> {
        self.send(Frame::Message { stream: S1, data: &alloc::vec![5; length] })
    }

    fn transmit(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.end.poll_transmit(NOW, 1 << 20, &mut out);
        out.concat()
    }

    #[track_caller]
    fn expect(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = BytesMut::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        let got = self.transmit();
        assert!(got == bytes, "sent {got:x?}, expected {frames:?}");
    }

    /// The kinds of the frames that go out.
    fn kinds(&mut self) -> Vec<Kind> {
        let bytes = self.transmit();
        let mut rest = &bytes[..];
        let mut kinds = Vec::new();
        while let Some((raw, after)) = rest.split_first_chunk::<HEADER>() {
            let header = Header::read(raw).unwrap();
            rest = &after[header.length as usize..];
            kinds.push(header.kind);
        }
        kinds
    }

    fn event(&mut self) -> Option<Event> {
        self.end.poll_event()
    }
}

#[test]
fn the_first_open_goes_before_the_peers_limits_are_known_and_nothing_else() {
    let mut script = Script { end: Connection::new(Side::Client, config()) };
    let stream = script.end.open(own()).unwrap();
    script.end.ping(NOW);
    assert_eq!(script.end.start(stream, Class::Small, 5), Err(SendError::NotOpen));
    script.expect(&[Frame::Open { stream, open: own() }]);
    script.end.establish(NOW, &config().limits());
    script.expect(&[Frame::Ping { value: 1 }]);
}

#[test]
fn input_before_the_peers_limits_is_an_error() {
    let mut script = Script { end: Connection::new(Side::Client, config()) };
    assert_eq!(script.send(Frame::Pong { value: 1 }), Err(ChannelError::NotEstablished));
}

#[test]
fn a_ping_is_answered_before_all_data() {
    let mut script = Script::open();
    script.end.start(S1, Class::Small, 2).unwrap();
    script.end.extend(S1, Bytes::from("hi")).unwrap();
    script.send(Frame::Ping { value: 77 }).unwrap();
    let data = Frame::Message { stream: S1, data: b"hi" };
    script.expect(&[Frame::Pong { value: 77 }, data]);
}

#[test]
fn streams_above_the_limit_are_refused_and_the_channel_lives() {
    let mut script = Script::open();
    for id in 2..=4 {
        script.send(Frame::Open { stream: StreamId(id), open: own() }).unwrap();
    }
    assert!(matches!(script.event(), Some(Event::Open { stream: StreamId(2), .. })));
    assert_eq!(script.event(), None);
    assert_eq!(script.kinds(), [Kind::Refused, Kind::Refused]);
    script.send(Frame::Close { stream: S1, reason: reason(Code::DONE) }).unwrap();
    script.send(Frame::Open { stream: StreamId(5), open: own() }).unwrap();
    assert_eq!(script.kinds(), [Kind::Close]);
}

#[test]
fn a_closed_stream_counts_until_the_peer_has_closed_it_too() {
    let mut script = Script::open();
    script.end.close(S1, reason(Code::BACKEND));
    script.expect(&[Frame::Close { stream: S1, reason: reason(Code::BACKEND) }]);
    script.send(Frame::Open { stream: StreamId(2), open: own() }).unwrap();
    script.send(Frame::Open { stream: StreamId(3), open: own() }).unwrap();
    assert_eq!(script.kinds(), [Kind::Refused], "or a peer that never answers fills the table");
    script.send(Frame::Close { stream: S1, reason: Reason::done() }).unwrap();
    script.send(Frame::Open { stream: StreamId(4), open: own() }).unwrap();
    assert_eq!(script.kinds(), []);
}

#[test]
fn unknown_flags_are_refused_in_words() {
    let mut script = Script::new(Side::Server);
    script.send(Frame::Open { stream: S1, open: Open { flags: 2, ..own() } }).unwrap();
    let reason = Reason::new(Code::UNSUPPORTED, "unknown flags in OPEN");
    script.expect(&[Frame::Refused { stream: S1, reason }]);
}

#[test]
fn a_stream_number_is_never_used_again() {
    let mut script = Script::open();
    script.send(Frame::Close { stream: S1, reason: Reason::done() }).unwrap();
    let again = script.send(Frame::Open { stream: S1, open: own() });
    assert_eq!(again, Err(ChannelError::StreamNumber { stream: S1, last: 1 }));
}

#[test]
fn a_close_is_answered_and_the_stream_forgotten() {
    let mut script = Script::open();
    script.end.start(S1, Class::Small, 2).unwrap();
    script.end.extend(S1, Bytes::from("hi")).unwrap();
    script.send(Frame::Close { stream: S1, reason: reason(Code::DONE) }).unwrap();
    let closed = Event::Closed { stream: S1, reason: reason(Code::DONE), by_peer: true };
    assert_eq!(script.event(), Some(closed));
    script.expect(&[Frame::Close { stream: S1, reason: Reason::done() }]);
    assert_eq!(script.end.start(S1, Class::Small, 2), Err(SendError::NotOpen));
    assert_eq!(script.end.stats().streams, 0);
    assert!(script.end.scheduler.is_empty());
}

#[test]
fn a_stream_that_we_close_is_not_scheduled_any_more() {
    let mut script = Script::open();
    script.end.start(S1, Class::Small, 2).unwrap();
    script.end.extend(S1, Bytes::from("hi")).unwrap();
    script.end.close(S1, Reason::done());
    assert!(script.end.scheduler.is_empty());
    script.expect(&[Frame::Close { stream: S1, reason: Reason::done() }]);
}

#[test]
fn after_close_no_event_is_about_the_stream() {
    let mut script = Script::open();
    script.message(10).unwrap();
    script.send(Frame::Close { stream: S1, reason: Reason::done() }).unwrap();
    script.end.close(S1, Reason::done());
    assert_eq!(script.event(), None);
    assert_eq!(script.end.stats().held, 0);
}

#[test]
fn data_that_crosses_our_close_is_dropped_and_its_channel_credit_goes_back() {
    let mut script = Script::open();
    script.end.close(S1, Reason::done());
    assert_eq!(script.kinds(), [Kind::Close]);
    // More than both windows in all: possible only because credit comes back.
    for _ in 0..10 {
        for _ in 0..4 {
            script.message(CHUNK as usize).unwrap();
        }
        script.expect(&[Frame::Credit { stream: StreamId::CHANNEL, bytes: 4 * FULL }]);
    }
    assert_eq!(script.event(), None);
    assert_eq!(script.end.stats().held, 0);
}

#[test]
fn a_frame_that_is_half_there_at_close_is_dropped_to_its_end() {
    let mut script = Script::open();
    let mut bytes = BytesMut::new();
    Frame::Message { stream: S1, data: &[1; 500] }.encode(&mut bytes);
    Frame::Ping { value: 3 }.encode(&mut bytes);
    let second = bytes.split_off(300);
    script.end.handle_input(NOW, bytes.freeze()).unwrap();
    script.end.close(S1, Reason::done());
    script.end.handle_input(NOW, second.freeze()).unwrap();
    assert_eq!(script.event(), None);
    assert_eq!(script.kinds(), [Kind::Close, Kind::Pong]);
    assert_eq!(script.end.stats().held, 0);
}

#[test]
fn a_refusal_may_cross_the_clients_close() {
    let mut client = Script::new(Side::Client);
    client.end.open(own()).unwrap();
    client.end.close(S1, Reason::done());
    assert_eq!(client.kinds(), [Kind::Open, Kind::Close]);
    client.send(Frame::Refused { stream: S1, reason: reason(Code::FOLDER) }).unwrap();
    assert_eq!((client.event(), client.end.stats().streams), (None, 0));

    let mut server = Script::new(Side::Server);
    server.send(Frame::Open { stream: S1, open: own() }).unwrap();
    server.event().unwrap();
    server.end.refuse(S1, reason(Code::FOLDER));
    server.send(Frame::Close { stream: S1, reason: Reason::done() }).unwrap();
    assert_eq!(server.event(), None);
    server.expect(&[Frame::Refused { stream: S1, reason: reason(Code::FOLDER) }]);
}

#[test]
fn a_stream_closed_before_its_answer_needs_no_answer() {
    let mut server = Script::new(Side::Server);
    server.send(Frame::Open { stream: S1, open: own() }).unwrap();
    server.send(Frame::Close { stream: S1, reason: reason(Code::DONE) }).unwrap();
    server.event().unwrap();
    server.end.accept(S1, Opened { msize: 4096 });
    server.expect(&[Frame::Close { stream: S1, reason: Reason::done() }]);
    assert!(matches!(server.event(), Some(Event::Closed { by_peer: true, .. })));
}

#[test]
fn a_message_too_long_ends_its_stream_only() {
    let mut script = Script::open();
    let piece = alloc::vec![0; CHUNK as usize - 4];
    script.send(Frame::Begin { stream: S1, total: 5001, piece: &piece }).unwrap();
    let Some(Event::Closed { reason, by_peer: false, .. }) = script.event() else { panic!() };
    assert_eq!(reason.code, Code::MESSAGE_TOO_LONG);
    assert_eq!(reason.text, "a message of 5001 bytes where 5000 are the most");
    script.expect(&[Frame::Close { stream: S1, reason }]);
    // The rest was on its way already.
    script.send(Frame::More { stream: S1, piece: &[0; CHUNK as usize] }).unwrap();
    script.send(Frame::Close { stream: S1, reason: Reason::done() }).unwrap();
    assert_eq!((script.event(), script.end.stats().held), (None, 0));
}

#[test]
fn a_rule_broken_inside_a_stream_ends_that_stream_only() {
    let mut script = Script::open();
    script.send(Frame::More { stream: S1, piece: b"x" }).unwrap();
    let Some(Event::Closed { reason, by_peer: false, .. }) = script.event() else { panic!() };
    assert_eq!(reason.code, Code::PROTOCOL);
    assert!(script.end.wants_input());
}

#[test]
fn credit_goes_back_in_quarters_as_payload_is_passed_on() {
    let mut script = Script::open();
    for _ in 0..4 {
        script.message(CHUNK as usize).unwrap();
    }
    assert_eq!(script.end.stats().held, u64::from(4 * FULL));
    script.end.consumed(S1, CHUNK);
    script.expect(&[]);
    script.end.consumed(S1, CHUNK);
    script.expect(&[Frame::Credit { stream: S1, bytes: 2 * FULL }]);
    script.end.consumed(S1, 2 * CHUNK);
    script.expect(&[
        Frame::Credit { stream: StreamId::CHANNEL, bytes: 4 * FULL },
        Frame::Credit { stream: S1, bytes: 2 * FULL },
    ]);
    script.end.consumed(S1, 1000);
    script.expect(&[]);
}

#[test]
fn tiny_messages_cost_their_charge_until_they_are_passed_on() {
    let mut script = Script::open();
    for _ in 0..10 {
        script.message(1).unwrap();
    }
    assert_eq!(script.end.stats().held, 10 * u64::from(1 + FRAME_CHARGE));
    script.end.consumed(S1, 5);
    assert_eq!(script.end.stats().held, 5 * u64::from(1 + FRAME_CHARGE));
}

#[test]
fn what_a_closed_stream_held_goes_back_when_the_caller_hears_of_it() {
    let mut script = Script::open();
    for _ in 0..4 {
        script.message(CHUNK as usize).unwrap();
    }
    script.send(Frame::Close { stream: S1, reason: Reason::done() }).unwrap();
    for _ in 0..4 {
        script.event().unwrap();
    }
    assert_eq!(script.end.stats().held, u64::from(4 * FULL));
    assert!(matches!(script.event(), Some(Event::Closed { .. })));
    assert_eq!(script.end.stats().held, 0);
}

#[test]
fn data_is_sent_within_the_peers_credit() {
    let mut script = Script::open();
    for _ in 0..20 {
        script.end.start(S1, Class::Small, CHUNK).unwrap();
        script.end.extend(S1, Bytes::from(alloc::vec![0; CHUNK as usize])).unwrap();
    }
    assert_eq!(script.kinds().len(), 8, "the stream's window");
    script.send(Frame::Credit { stream: S1, bytes: FULL }).unwrap();
    assert_eq!(script.kinds().len(), 1);
    script.send(Frame::Credit { stream: S1, bytes: 100 * FULL }).unwrap();
    assert_eq!(script.kinds().len(), 7, "the channel's window");
    script.send(Frame::Credit { stream: StreamId::CHANNEL, bytes: FULL }).unwrap();
    assert_eq!(script.kinds().len(), 1);
}

#[test]
fn a_long_message_goes_out_as_its_bytes_come_and_uncopied() {
    let mut script = Script::open();
    let bytes = Bytes::from((0..4000u32).map(|i| i as u8).collect::<Vec<u8>>());
    script.end.start(S1, Class::Bulk, 4000).unwrap();
    script.end.extend(S1, bytes.slice(..1019)).unwrap();
    script.expect(&[]);
    script.end.extend(S1, bytes.slice(1019..4000)).unwrap();
    assert_eq!(script.end.queued(S1), 4000);
    let mut out = Vec::new();
    script.end.poll_transmit(NOW, 1 << 20, &mut out);
    let range = bytes.as_ptr_range();
    let shared: usize = out.iter().filter(|p| range.contains(&p.as_ptr())).map(Bytes::len).sum();
    assert_eq!(shared, 2 * 1024, "what fills a frame in one piece");
    assert_eq!(out.concat().len(), 4000 + 4 + 4 * HEADER);
    assert_eq!(script.end.queued(S1), 0);
}

#[test]
fn a_long_message_comes_as_it_came() {
    let mut script = Script::open();
    let mut bytes = BytesMut::new();
    Frame::Begin { stream: S1, total: 1100, piece: &[1; 1020] }.encode(&mut bytes);
    Frame::More { stream: S1, piece: &[2; 80] }.encode(&mut bytes);
    script.end.handle_input(NOW, bytes.freeze()).unwrap();
    assert_eq!(script.event(), Some(Event::Begin { stream: S1, total: 1100 }));
    assert!(matches!(script.event(), Some(Event::More { data, .. }) if data == [1; 1020][..]));
    assert!(matches!(script.event(), Some(Event::More { data, .. }) if data == [2; 80][..]));
}

#[test]
fn what_breaks_the_channel() {
    type Case = (fn() -> Script, fn(&mut Script) -> Result<(), ChannelError>, ChannelError);
    let (stream, other) = (S1, StreamId(9));
    let cases: &[Case] = &[
        (
            Script::open,
            |s| s.send(Frame::Message { stream: StreamId(9), data: b"x" }),
            ChannelError::NoStream { kind: Kind::Message, stream: other },
        ),
        (
            Script::open,
            |s| s.send(Frame::Credit { stream: StreamId(9), bytes: 1 }),
            ChannelError::NoStream { kind: Kind::Credit, stream: other },
        ),
        (
            Script::open,
            |s| s.send(Frame::Close { stream: StreamId(9), reason: Reason::done() }),
            ChannelError::NoStream { kind: Kind::Close, stream: other },
        ),
        (
            Script::open,
            |s| s.message(CHUNK as usize + 1),
            FrameError::TooLong { length: CHUNK + 1, chunk: CHUNK }.into(),
        ),
        (
            Script::open,
            |s| (0..9).try_for_each(|_| s.message(CHUNK as usize)),
            ChannelError::CreditExceeded { stream, charge: FULL, left: 0 },
        ),
        (
            Script::open,
            |s| {
                s.send(Frame::Open { stream: StreamId(2), open: own() })?;
                s.end.accept(StreamId(2), Opened { msize: 1 });
                for i in 0..17 {
                    s.send(Frame::Message { stream: StreamId(1 + i % 2), data: &[0; 1024] })?;
                }
                Ok(())
            },
            ChannelError::CreditExceeded { stream: StreamId::CHANNEL, charge: FULL, left: 0 },
        ),
        (
            Script::open,
            |s| s.send(Frame::Credit { stream: StreamId::CHANNEL, bytes: u32::MAX }),
            ChannelError::CreditOverflow(StreamId::CHANNEL),
        ),
        (
            Script::open,
            |s| s.send(Frame::Credit { stream: S1, bytes: u32::MAX }),
            ChannelError::CreditOverflow(stream),
        ),
        (
            Script::open,
            |s| s.send(Frame::Opened { stream: S1, opened: Opened { msize: 1 } }),
            ChannelError::WrongSide(Kind::Opened),
        ),
        (
            Script::client,
            |s| s.send(Frame::Open { stream: StreamId(2), open: own() }),
            ChannelError::WrongSide(Kind::Open),
        ),
        (
            Script::client,
            |s| s.send(Frame::Refused { stream: S1, reason: Reason::done() }),
            ChannelError::OutOfOrder { kind: Kind::Refused, stream },
        ),
        (
            Script::open,
            |s| {
                s.send(Frame::Open { stream: StreamId(9), open: own() })?;
                s.send(Frame::Message { stream: StreamId(9), data: b"x" })
            },
            ChannelError::OutOfOrder { kind: Kind::Message, stream: other },
        ),
        (
            Script::open,
            |s| s.end.handle_input(NOW, Bytes::from_static(b"\x01\0\0\x0c\x01\0\0\0x")),
            FrameError::NotAgreed(Kind::Hint).into(),
        ),
        (
            Script::open,
            |s| {
                s.end.handle_input(NOW, Bytes::from_static(b"\x01\0\0"))?;
                s.end.handle_eof()
            },
            ChannelError::CutFrame,
        ),
    ];
    for (i, (script, act, error)) in cases.iter().enumerate() {
        let mut script = script();
        assert_eq!(act(&mut script).as_ref(), Err(error), "case {i}");
        assert_eq!(script.message(1).as_ref(), Err(error), "once broken, always broken");
        assert!(!script.end.wants_input());
        let kinds = script.kinds();
        assert_eq!(kinds.last(), Some(&Kind::GoAway), "case {i}: the peer is told");
        assert_eq!(script.kinds(), [], "and nothing follows");
    }
}

#[test]
fn an_end_between_frames_is_clean() {
    let mut script = Script::open();
    assert_eq!(script.end.handle_eof(), Ok(()));
    assert_eq!(script.end.poll_timeout(), None, "and is pinged no more");
}

#[test]
fn leaving_lets_live_streams_go_on_and_takes_no_new_ones() {
    let mut server = Script::open();
    server.end.go_away(Reason::done());
    server.expect(&[Frame::GoAway { reason: Reason::done() }]);
    server.send(Frame::Open { stream: StreamId(2), open: own() }).unwrap();
    let refusal = Reason::new(Code::GOING_AWAY, "no new streams are taken");
    server.expect(&[Frame::Refused { stream: StreamId(2), reason: refusal }]);
    server.message(5).unwrap();
    assert!(matches!(server.event(), Some(Event::Message { .. })));

    let mut client = Script::client();
    client.send(Frame::GoAway { reason: Reason::done() }).unwrap();
    assert_eq!(client.end.open(own()), Err(OpenError::GoingAway));
    client.message(5).unwrap();
}

#[test]
fn after_a_go_away_with_a_reason_nothing_is_read_or_written() {
    let mut script = Script::open();
    script.end.start(S1, Class::Small, 2).unwrap();
    script.end.extend(S1, Bytes::from("hi")).unwrap();
    script.end.go_away(reason(Code::DISCONNECTED));
    script.expect(&[Frame::GoAway { reason: reason(Code::DISCONNECTED) }]);
    script.expect(&[]);

    let mut script = Script::open();
    script.send(Frame::GoAway { reason: reason(Code::DISCONNECTED) }).unwrap();
    assert_eq!(script.event(), Some(Event::GoAway { reason: reason(Code::DISCONNECTED) }));
    script.end.handle_input(NOW, Bytes::from_static(b"what follows is not read")).unwrap();
    assert_eq!(script.end.handle_eof(), Ok(()));
}

#[test]
fn a_flood_of_pings_stops_the_reading() {
    let mut script = Script::open();
    let mut flood = BytesMut::new();
    for value in 0..5000 {
        Frame::Ping { value }.encode(&mut flood);
    }
    script.end.handle_input(NOW, flood.freeze()).unwrap();
    assert!(!script.end.wants_input());
    assert_eq!(script.transmit().len(), 5000 * 16);
    assert!(script.end.wants_input());
}

#[test]
fn a_peer_that_sends_anything_lives_even_without_pongs() {
    let mut script = Script::open();
    for second in 1..100 {
        let now = NOW + Duration::from_secs(second);
        let credit = Bytes::from_static(b"\x04\0\0\x07\x01\0\0\0\0\0\0\0");
        script.end.handle_input(now, credit).unwrap();
        script.end.handle_timeout(now).unwrap();
    }
}

#[test]
fn a_peer_that_does_not_answer_is_given_up_and_told_so() {
    let mut script = Script::open();
    let mut now = NOW;
    while let Some(next) = script.end.poll_timeout() {
        now = next;
        if let Err(error) = script.end.handle_timeout(now) {
            assert_eq!(error, ChannelError::Unresponsive(20));
            assert_eq!(script.kinds(), [Kind::GoAway]);
            break;
        }
    }
    assert_eq!(now, NOW + Duration::from_secs(20));
}
