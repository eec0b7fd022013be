//! Properties of the multiplexer under arbitrary treatment: by its callers (operation sequences
//! against the model in `mux_model`), by a hostile peer that speaks the protocol, and by one that does not.
#![allow(clippy::unwrap_used)] // a test stops where its helpers do

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use transport::id::StreamId;
use transport::mux::frame::{Frame, HEADER};
use transport::mux::preface::*;
use transport::mux::*;

#[path = "mux_model/mod.rs"]
mod mux_model;

use mux_model::{Pair, Step, config, own};

// --- operation sequences against a model ---------------------------------------------------------

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
