//! Properties of the multiplexer under arbitrary treatment: by its callers (operation sequences
//! against a simple model), by a hostile peer that speaks the protocol, and by one that does not.
#![allow(clippy::unwrap_used)] // a test stops where its helpers do

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use transport::id::StreamId;
use transport::mux::frame::{Frame, HEADER};
use transport::mux::preface::*;
use transport::mux::*;

const CHUNK: u32 = 1024;

fn config() -> Config {
    let window = 6 * (CHUNK + config::FRAME_CHARGE);
    Config {
        chunk: CHUNK,
        stream_window: window,
        stream_window_max: 4 * window,
        channel_window: 2 * window,
        channel_window_max: 8 * window,
        max_streams: 3,
        max_message: 8000,
        small_burst: 3000,
        ..Config::default()
    }
}

fn own() -> Open {
    Open { authorisation: Authorisation::Own, msize: 4096, flags: 0 }
}

// --- operation sequences against a model ---------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Open,
    Start {
        client: bool,
        stream: u32,
        bulk: bool,
        length: u32,
    },
    Extend {
        client: bool,
        stream: u32,
        bytes: u32,
    },
    Consume {
        client: bool,
        stream: u32,
        bytes: u32,
    },
    Close {
        client: bool,
        stream: u32,
    },
    /// Transmits into the link, and delivers from it.
    Move {
        client: bool,
        max: usize,
        deliver: usize,
    },
    Wait {
        ms: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (any::<bool>(), 1..5u32);
    prop_oneof![
        1 => Just(Step::Open),
        4 => (at(), any::<bool>(), 1..8000u32)
            .prop_map(|((client, stream), bulk, length)| Step::Start { client, stream, bulk, length }),
        4 => (at(), 1..6000u32)
            .prop_map(|((client, stream), bytes)| Step::Extend { client, stream, bytes }),
        4 => (at(), 1..6000u32)
            .prop_map(|((client, stream), bytes)| Step::Consume { client, stream, bytes }),
        1 => at().prop_map(|(client, stream)| Step::Close { client, stream }),
        6 => (any::<bool>(), 1..10_000usize, 1..10_000usize)
            .prop_map(|(client, max, deliver)| Step::Move { client, max, deliver }),
        1 => (0..30_000u32).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// What one end's caller has done and seen of a stream.
#[derive(Default)]
struct Model {
    /// Lengths of the messages started, by lane, that the other end has not seen.
    on_their_way: [VecDeque<u32>; 2],
    /// Bytes that the message started last lacks, and its lane.
    lacks: u32,
    lane: usize,
    /// Bytes given to the connection.
    given: u64,
    /// Bytes that came and were not passed on.
    held: u32,
    /// The long message that comes: its length, and what of it has come.
    coming: Option<(u32, u32)>,
}

/// Every byte of a message says its stream and its lane.
fn filling(stream: StreamId, lane: usize) -> u8 {
    (stream.0 * 2) as u8 + lane as u8
}

struct End {
    connection: Connection,
    streams: BTreeMap<StreamId, Model>,
    link: VecDeque<u8>,
}

struct Pair {
    now: Duration,
    client: End,
    server: End,
}

impl Pair {
    fn new() -> Pair {
        let side = |side| {
            let mut connection = Connection::new(side, config());
            connection.establish(Duration::ZERO, &config().limits());
            End { connection, streams: BTreeMap::new(), link: VecDeque::new() }
        };
        Pair { now: Duration::ZERO, client: side(Side::Client), server: side(Side::Server) }
    }

    fn side(&mut self, client: bool) -> &mut End {
        if client { &mut self.client } else { &mut self.server }
    }

    fn apply(&mut self, step: &Step) {
        let (now, live) = (self.now, |side: &End, stream| side.streams.contains_key(&stream));
        match *step {
            Step::Open => {
                let stream = self.client.connection.open(own()).unwrap();
                self.client.streams.insert(stream, Model::default());
            }
            Step::Start { client, stream, bulk, length } => {
                let stream = StreamId(stream);
                let side = self.side(client);
                let class = if bulk { Class::Bulk } else { Class::Small };
                let result = side.connection.start(stream, class, length);
                let Some(model) = side.streams.get_mut(&stream) else {
                    assert_eq!(result, Err(SendError::NotOpen));
                    return;
                };
                match result {
                    Ok(()) => {
                        assert_eq!(model.lacks, 0);
                        model.lacks = length;
                        model.lane = usize::from(bulk || length > CHUNK);
                        model.on_their_way[model.lane].push_back(length);
                    }
                    Err(SendError::Unfinished(lacks)) => assert_eq!(lacks, model.lacks),
                    // Not open yet, or its end is among the events.
                    Err(error) => assert_eq!(error, SendError::NotOpen),
                }
            }
            Step::Extend { client, stream, bytes } => {
                let stream = StreamId(stream);
                let side = self.side(client);
                let lane = side.streams.get(&stream).map_or(0, |model| model.lane);
                let filling = Bytes::from(vec![filling(stream, lane); bytes as usize]);
                let result = side.connection.extend(stream, filling);
                let Some(model) = side.streams.get_mut(&stream) else {
                    assert_eq!(result, Err(SendError::NotOpen));
                    return;
                };
                match result {
                    Ok(()) => {
                        assert!(bytes <= model.lacks);
                        model.lacks -= bytes;
                        model.given += u64::from(bytes);
                    }
                    Err(SendError::Overrun { extra }) => {
                        assert_eq!(extra as u32, bytes - model.lacks);
                    }
                    Err(error) => assert_eq!(error, SendError::NotOpen),
                }
                assert!(side.connection.queued(stream) as u64 <= model.given);
            }
            Step::Consume { client, stream, bytes } => {
                let stream = StreamId(stream);
                let side = self.side(client);
                if let Some(model) = side.streams.get_mut(&stream) {
                    let bytes = bytes.min(model.held);
                    model.held -= bytes;
                    side.connection.consumed(stream, bytes);
                } else {
                    side.connection.consumed(stream, bytes);
                }
            }
            Step::Close { client, stream } => {
                let stream = StreamId(stream);
                let side = self.side(client);
                if live(side, stream) {
                    side.connection.close(stream, Reason::done());
                    side.streams.remove(&stream);
                }
            }
            Step::Move { client, max, deliver } => {
                let side = self.side(client);
                let mut out = Vec::new();
                let bytes = side.connection.poll_transmit(now, max, &mut out);
                assert!(bytes < max + HEADER + CHUNK as usize + Reason::MAX_TEXT);
                side.link.extend(out.iter().flatten());
                let input: Vec<u8> = side.link.drain(..deliver.min(side.link.len())).collect();
                if !input.is_empty() {
                    let other = self.side(!client);
                    other.connection.handle_input(now, Bytes::from(input)).unwrap();
                    self.take_events(!client);
                }
            }
            Step::Wait { ms } => {
                self.now += Duration::from_millis(u64::from(ms));
                let now = self.now;
                // A wait longer than the timeout may be a dead peer, which is not the subject.
                for client in [true, false] {
                    let wait = self.side(client).connection.poll_timeout();
                    if wait.is_some_and(|at| at > now) {
                        self.side(client).connection.handle_timeout(now).unwrap();
                    }
                }
            }
        }
    }

    fn take_events(&mut self, client: bool) {
        let (side, other) = match client {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        while let Some(event) = side.connection.poll_event() {
            let stream = event.stream();
            let mut arrived = |lane: usize, length: u32| {
                // The other caller may have closed and forgotten it.
                if let Some(model) = other.streams.get_mut(&stream) {
                    let expected = model.on_their_way[lane].pop_front();
                    assert_eq!(expected, Some(length), "lane {lane} of {stream} in order");
                }
            };
            match event {
                Event::Open { .. } => {
                    side.connection.accept(stream, Opened { msize: 4096 });
                    side.streams.insert(stream, Model::default());
                }
                Event::Opened { .. } => assert!(side.streams.contains_key(&stream)),
                Event::Refused { ref reason, .. } => {
                    assert_eq!(reason.code, Code::TOO_MANY_STREAMS);
                    assert!(side.streams.remove(&stream).is_some());
                }
                Event::Closed { by_peer, .. } => {
                    assert!(by_peer);
                    assert!(side.streams.remove(&stream).is_some());
                }
                Event::Message { data, .. } => {
                    let bytes: Vec<u8> = data.into_iter().flatten().collect();
                    let lane = usize::from(bytes[0] & 1);
                    assert!(bytes.iter().all(|&byte| byte == filling(stream, lane)));
                    side.streams.get_mut(&stream).unwrap().held += bytes.len() as u32;
                    arrived(lane, bytes.len() as u32);
                }
                Event::Begin { total, .. } => {
                    let model = side.streams.get_mut(&stream).unwrap();
                    assert_eq!(model.coming.replace((total, 0)), None);
                }
                Event::More { data, .. } => {
                    assert!(data.iter().all(|&byte| byte == filling(stream, 1)));
                    let model = side.streams.get_mut(&stream).unwrap();
                    model.held += data.len() as u32;
                    let (total, came) = model.coming.take().unwrap();
                    let came = came + data.len() as u32;
                    if came == total {
                        arrived(1, total);
                    } else {
                        model.coming = Some((total, came));
                    }
                }
                Event::GoAway { .. } => unreachable!("nobody leaves"),
            }
        }
        let stats = side.connection.stats();
        let held: u64 = side.streams.values().map(|model| u64::from(model.held)).sum();
        assert!(held <= stats.held && stats.held <= stats.window);
        assert!(stats.window <= u64::from(config().channel_window_max));
    }

    /// Gives all that is lacking, passes all on, moves everything.
    fn settle(&mut self) {
        for _ in 0..200 {
            for client in [true, false] {
                let streams: Vec<StreamId> = self.side(client).streams.keys().copied().collect();
                for StreamId(stream) in streams {
                    let model = &self.side(client).streams[&StreamId(stream)];
                    let (bytes, held) = (model.lacks, model.held);
                    if bytes > 0 {
                        self.apply(&Step::Extend { client, stream, bytes });
                    }
                    self.apply(&Step::Consume { client, stream, bytes: held });
                }
                self.apply(&Step::Move { client, max: 1 << 20, deliver: usize::MAX });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_operations_agree_with_the_model(steps in proptest::collection::vec(step(), 0..150)) {
        let mut pair = Pair::new();
        pair.apply(&Step::Open);
        pair.apply(&Step::Open);
        for step in &steps {
            pair.apply(step);
        }
        pair.settle();
        prop_assert!(pair.client.streams.keys().eq(pair.server.streams.keys()));
        for side in [&pair.client, &pair.server] {
            for (stream, model) in &side.streams {
                prop_assert!(model.on_their_way.iter().all(VecDeque::is_empty), "{} lags", stream);
                prop_assert_eq!((model.lacks, model.coming), (0, None));
                prop_assert_eq!(side.connection.queued(*stream), 0);
            }
            let stats = side.connection.stats();
            prop_assert_eq!(stats.held, 0);
            prop_assert_eq!(stats.streams, side.streams.len() as u64);
        }
    }
}

// --- a hostile peer ------------------------------------------------------------------------------

/// A frame of the protocol, with numbers near those that matter, or bytes that are none.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let stream = || (0..6u32).prop_map(StreamId);
    let length = || prop_oneof![1..40usize, 1020..1026usize];
    let code = || (0..20u32).prop_map(Code);
    let encode = |frame: Frame<'_>| {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        bytes.to_vec()
    };
    prop_oneof![
        (stream(), 0..3u32, 0..9u32).prop_map(move |(stream, flags, of)| {
            let authorisation = Authorisation::Sibling(StreamId(of));
            encode(Frame::Open {
                stream,
                open: Open { authorisation, msize: of, flags: flags / 2 },
            })
        }),
        stream().prop_map(move |stream| {
            encode(Frame::Opened { stream, opened: Opened { msize: 9 } })
        }),
        (stream(), code(), ".{0,20}").prop_map(move |(stream, code, text)| {
            encode(Frame::Refused { stream, reason: Reason { code, text } })
        }),
        (stream(), code(), ".{0,20}").prop_map(move |(stream, code, text)| {
            encode(Frame::Close { stream, reason: Reason { code, text } })
        }),
        (stream(), length()).prop_map(move |(stream, length)| {
            encode(Frame::Message { stream, data: &vec![1; length] })
        }),
        (stream(), length(), 0..9000u32).prop_map(move |(stream, length, total)| {
            encode(Frame::Begin { stream, total, piece: &vec![1; length] })
        }),
        (stream(), length()).prop_map(move |(stream, length)| {
            encode(Frame::More { stream, piece: &vec![1; length] })
        }),
        (stream(), any::<u32>(), 0..32u32).prop_map(move |(stream, bytes, shift)| {
            encode(Frame::Credit { stream, bytes: bytes >> shift })
        }),
        (0..5u64).prop_map(move |value| encode(Frame::Ping { value })),
        (0..5u64).prop_map(move |value| encode(Frame::Pong { value })),
        (0..2u32).prop_map(move |code| {
            encode(Frame::GoAway { reason: Reason::new(Code(code), "x") })
        }),
        proptest::collection::vec(any::<u8>(), 1..20),
    ]
}

/// The callers of a connection under attack: they use it as it is meant to be used.
fn attack(connection: &mut Connection, inputs: Vec<Bytes>) {
    let mut now = Duration::ZERO;
    for (i, input) in inputs.into_iter().enumerate() {
        now += Duration::from_millis(100);
        let result = connection.handle_input(now, input);
        while let Some(event) = connection.poll_event() {
            match event {
                Event::Open { stream, .. } if i % 3 == 0 => {
                    connection.refuse(stream, Reason::done());
                }
                Event::Open { stream, .. } => connection.accept(stream, Opened { msize: 4096 }),
                Event::Message { stream, data } => {
                    // An echo, and credit for every other one.
                    let length = data.len() as u32;
                    if connection.start(stream, Class::Small, length).is_ok() {
                        for piece in data {
                            connection.extend(stream, piece).unwrap();
                        }
                    }
                    if i % 2 == 0 {
                        connection.consumed(stream, length);
                    }
                }
                Event::More { stream, data } if i % 5 == 0 => {
                    connection.consumed(stream, data.len() as u32);
                }
                Event::More { stream, .. } if i % 7 == 0 => {
                    connection.close(stream, Reason::done());
                }
                _ => {}
            }
        }
        let mut out = Vec::new();
        connection.poll_transmit(now, 3000, &mut out);
        if i % 11 == 0 {
            let _ = connection.handle_timeout(now);
        }
        let stats = connection.stats();
        assert!(stats.held <= stats.window, "what is held is within the window");
        assert!(stats.window <= u64::from(config().channel_window_max));
        assert!(stats.streams <= 3, "the table is bounded");
        if let Err(error) = result {
            let again = connection.handle_input(now, Bytes::from_static(b"more"));
            assert_eq!(again, Err(error), "once broken, always broken");
        }
    }
}

fn established(side: Side) -> Connection {
    let mut connection = Connection::new(side, config());
    if side == Side::Client {
        connection.open(own()).unwrap();
        connection.open(own()).unwrap();
    }
    connection.establish(Duration::ZERO, &config().limits());
    connection
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn frames_in_any_order_never_panic_and_never_exceed_what_may_be_held(
        client in any::<bool>(),
        frames in proptest::collection::vec(hostile(), 0..80),
        cut in 1..3000usize,
    ) {
        let side = if client { Side::Client } else { Side::Server };
        // One frame an input, and the whole cut anywhere.
        attack(&mut established(side), frames.iter().cloned().map(Bytes::from).collect());
        let all = Bytes::from(frames.concat());
        let pieces = (0..all.len()).step_by(cut).map(|at| all.slice(at..all.len().min(at + cut)));
        attack(&mut established(side), pieces.collect());
    }

    #[test]
    fn any_bytes_never_panic(
        client in any::<bool>(),
        inputs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
    ) {
        let side = if client { Side::Client } else { Side::Server };
        attack(&mut established(side), inputs.into_iter().map(Bytes::from).collect());
    }

    #[test]
    fn any_bytes_as_a_preface_never_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..50),
        fields in proptest::collection::vec(any::<u8>(), 0..200),
        size in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        cut in 1..300usize,
    ) {
        let mut bytes = noise;
        bytes.extend_from_slice(&MAGIC);
        let size = size.unwrap_or(12 + fields.len() as u32);
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&fields);
        let mut client = PrefaceReader::<ClientHello>::default();
        let mut server = PrefaceReader::<Answer>::default();
        for piece in bytes.chunks(cut) {
            if !matches!(client.feed(Bytes::copy_from_slice(piece)), Ok(None)) {
                break;
            }
        }
        for piece in bytes.chunks(cut) {
            if !matches!(server.feed(Bytes::copy_from_slice(piece)), Ok(None)) {
                break;
            }
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same(bytes in hostile()) {
        let Some((raw, payload)) = bytes.split_first_chunk::<HEADER>() else { return Ok(()) };
        let Ok(header) = frame::Header::read(raw) else { return Ok(()) };
        if let Ok(frame) = Frame::decode(header, payload) {
            let mut back = BytesMut::new();
            frame.encode(&mut back);
            let (raw, payload) = back.split_first_chunk::<HEADER>().unwrap();
            let header = frame::Header::read(raw).unwrap();
            prop_assert_eq!(Frame::decode(header, payload), Ok(frame));
        }
    }
}
