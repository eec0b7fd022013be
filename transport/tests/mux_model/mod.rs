//! Both ends of a channel against a simple model, under any sequence of operations: messages arrive
//! whole and in order, credit is kept to, nothing is lost or lags, and bytes are written in the order
//! that the rules of [`watch`] allow. Properties and fuzzing both drive it.
#![allow(clippy::unwrap_used)] // a mistake is to end the run

mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use transport::id::StreamId;
use transport::mux::frame::HEADER;
use transport::mux::*;

use watch::Watch;

/// The channel's chunk, small so that frames are many.
pub const CHUNK: u32 = 1024;

/// Little of everything, at both ends.
pub fn config() -> Config {
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

/// What is asked for in every `OPEN`.
pub fn own() -> Open {
    Open { authorisation: Authorisation::Own, msize: 4096, flags: 0 }
}

/// What is done to one of the ends, by its caller or by time.
#[derive(Clone, Debug)]
pub enum Step {
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
    watch: Watch,
    link: VecDeque<u8>,
}

/// Two ends, and a link between them that holds any number of bytes.
pub struct Pair {
    now: Duration,
    client: End,
    server: End,
}

impl Pair {
    /// A channel without streams.
    pub fn new() -> Pair {
        let side = |side| {
            let mut connection = Connection::new(side, config());
            connection.establish(Duration::ZERO, &config().limits());
            let (streams, link) = (BTreeMap::new(), VecDeque::new());
            End { connection, streams, watch: Watch::new(), link }
        };
        Pair { now: Duration::ZERO, client: side(Side::Client), server: side(Side::Server) }
    }

    fn side(&mut self, client: bool) -> &mut End {
        if client { &mut self.client } else { &mut self.server }
    }

    /// Does one thing, and checks what comes of it.
    pub fn apply(&mut self, step: &Step) {
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
                        side.watch.start(stream, model.lane, length);
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
                        side.watch.extend(stream, bytes);
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
                    side.watch.forget(stream);
                }
            }
            Step::Move { client, max, deliver } => {
                let side = self.side(client);
                let mut out = Vec::new();
                let bytes = side.connection.poll_transmit(now, max, &mut out);
                assert!(bytes < max + HEADER + CHUNK as usize + Reason::MAX_TEXT);
                let out = out.concat();
                side.watch.sent(&out);
                side.link.extend(&out);
                let input: Vec<u8> = side.link.drain(..deliver.min(side.link.len())).collect();
                if !input.is_empty() {
                    let other = self.side(!client);
                    other.watch.came(&input);
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
                    side.watch.forget(stream);
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

    /// Gives all that is lacking, passes all on, moves everything: then nothing may be left.
    pub fn settle(&mut self) {
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
        assert!(self.client.streams.keys().eq(self.server.streams.keys()));
        for side in [&self.client, &self.server] {
            for (stream, model) in &side.streams {
                assert!(model.on_their_way.iter().all(VecDeque::is_empty), "{stream} lags");
                assert_eq!((model.lacks, model.coming), (0, None));
                assert_eq!(side.connection.queued(*stream), 0);
            }
            let stats = side.connection.stats();
            assert_eq!(stats.held, 0);
            assert_eq!(stats.streams, side.streams.len() as u64);
        }
    }
}
