//! The frame decoder, and an end of a channel that is sent any bytes.
//!
//! What decodes must encode to the same; a cut inside a frame must change nothing that comes of it;
//! what an end holds stays within its window and its table within its bound. The first byte of an
//! input says which end it is and what chunk it wants, the second how frames are cut.
#![no_main]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use transport::mux::frame::{Frame, HEADER, Header};
use transport::mux::{
    Authorisation, ChannelError, Config, Connection, Event, Open, Opened, Reason, Side, config,
};

const NOW: Duration = Duration::ZERO;

fn config(chunk: u32) -> Config {
    let window = 6 * (chunk + config::FRAME_CHARGE);
    Config {
        chunk,
        stream_window: window,
        stream_window_max: window,
        channel_window: 2 * window,
        channel_window_max: 2 * window,
        max_streams: 3,
        max_message: 8000,
        ..Config::default()
    }
}

/// The stream's frames, by their headers alone; the last may be cut.
fn split(stream: &Bytes) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut rest = stream.clone();
    while let Some(&[a, b, c, ..]) = rest.get(..HEADER) {
        let length = HEADER + u32::from_le_bytes([a, b, c, 0]) as usize;
        frames.push(rest.split_to(length.min(rest.len())));
    }
    frames.push(rest);
    frames
}

fn codec(frame: &[u8]) {
    let Some((raw, payload)) = frame.split_first_chunk::<HEADER>() else { return };
    let Ok(header) = Header::read(raw) else { return };
    assert_eq!(header.write(), *raw);
    let Ok(decoded) = Frame::decode(header, payload) else { return };
    let mut back = BytesMut::new();
    decoded.encode(&mut back);
    match &decoded {
        // A text that was not UTF-8 reads as another.
        Frame::Refused { reason, .. } | Frame::Close { reason, .. } | Frame::GoAway { reason }
            if reason.text.contains(char::REPLACEMENT_CHARACTER) =>
        {
            assert!(back.len() <= HEADER + 6 + Reason::MAX_TEXT);
        }
        _ => assert_eq!(back, frame),
    }
}

/// What has come of the frames, each in pieces of at most `step` bytes, and what is answered.
fn feed(side: Side, chunk: u32, frames: &[Bytes], step: usize) -> (Vec<Event>, Vec<u8>, End) {
    let mut connection = Connection::new(side, config(chunk));
    let open = Open { authorisation: Authorisation::Own, msize: 4096, flags: 0 };
    for _ in 0..2 {
        assert_eq!(connection.open(open).is_ok(), side == Side::Client);
    }
    connection.establish(NOW, &config(chunk).limits());
    let (mut events, mut end) = (Vec::new(), Ok(()));
    for frame in frames {
        for at in (0..frame.len()).step_by(step) {
            let piece = frame.slice(at..frame.len().min(at + step));
            end = connection.handle_input(NOW, piece);
            while let Some(event) = connection.poll_event() {
                take(&mut connection, &mut events, event);
            }
            let stats = connection.stats();
            assert!(stats.held <= stats.window, "what is held is within the window");
            assert!(stats.streams <= 3, "the table is bounded");
        }
    }
    if let Err(error) = &end {
        let again = connection.handle_input(NOW, Bytes::from_static(b"more"));
        assert_eq!(again.as_ref(), Err(error), "once broken, always broken");
    }
    let mut out = Vec::new();
    connection.poll_transmit(NOW, usize::MAX, &mut out);
    let end = End { input: end, eof: connection.handle_eof() };
    (events, out.concat(), end)
}

#[derive(PartialEq, Debug)]
struct End {
    input: Result<(), ChannelError>,
    eof: Result<(), ChannelError>,
}

/// Notes an event; pieces of one message as if they had come in one.
fn take(connection: &mut Connection, events: &mut Vec<Event>, event: Event) {
    match event {
        Event::Open { stream, .. } => {
            events.push(event);
            connection.accept(stream, Opened { msize: 4096 });
        }
        Event::More { stream, data } => {
            assert!(!data.is_empty());
            match events.last_mut() {
                Some(Event::More { stream: last, data: before }) if *last == stream => {
                    *before = [&before[..], &data[..]].concat().into();
                }
                _ => events.push(Event::More { stream, data }),
            }
        }
        Event::Message { stream, data } => {
            let whole = data.into_iter().collect::<Vec<_>>().concat();
            events.push(Event::Message { stream, data: Bytes::from(whole).into() });
        }
        other => events.push(other),
    }
}

fuzz_target!(|data: &[u8]| {
    let [how, cut, stream @ ..] = data else { return };
    let side = if how & 1 == 0 { Side::Client } else { Side::Server };
    let chunk = if how & 2 == 0 { 1024 } else { 20_000 };
    let frames = split(&Bytes::copy_from_slice(stream));
    frames.iter().for_each(|frame| codec(frame));
    let whole = feed(side, chunk, &frames, usize::MAX);
    let pieces = feed(side, chunk, &frames, 1 + usize::from(*cut));
    assert_eq!(whole, pieces);
});
