//! Two ends of a channel, joined through a virtual clock by a link with delay, little room and cuts
//! anywhere. Nothing here waits for real time.
//!
//! Every run is made from a seed alone; a failure prints it. `SIM_SEED=n cargo test -p transport
//! --test sim` runs that one, `SIM_RUNS=n` makes more of them.
//!
//! What is checked: messages arrive whole and in order per stream and lane; nothing starves; what an
//! end holds stays within its window; closing and refusing at any moment leaves both ends agreed.

#![allow(clippy::unwrap_used)] // a test stops where its helpers do

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use transport::id::StreamId;
use transport::mux::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// xorshift64*: the same sequence everywhere, for ever.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SIM_SEED={}", self.0);
        }
    }
}

fn seeds(runs: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_RUNS").unwrap_or(runs),
    }
}

/// One direction of the channel.
struct Link {
    delay: Duration,
    room: usize,
    under_way: VecDeque<(Duration, Bytes)>,
    used: usize,
    /// Given out by `poll_transmit` and not taken by the link.
    unsent: VecDeque<Bytes>,
    /// The most that is asked of `poll_transmit` at a time.
    max: usize,
}

impl Link {
    fn new(delay: Duration, room: usize, max: usize) -> Link {
        let (under_way, unsent) = (VecDeque::new(), VecDeque::new());
        Link { delay, room, under_way, used: 0, unsent, max }
    }

    /// Moves bytes from the sender into the link, as far as there is room.
    fn fill(&mut self, now: Duration, from: &mut Connection) -> bool {
        let mut moved = false;
        loop {
            if self.unsent.is_empty() {
                let mut out = Vec::new();
                let bytes = from.poll_transmit(now, self.max, &mut out);
                assert_eq!(bytes, out.iter().map(Bytes::len).sum::<usize>());
                assert!(out.iter().all(|piece| !piece.is_empty()));
                self.unsent.extend(out);
            }
            let room = self.room - self.used;
            let Some(front) = self.unsent.front_mut().filter(|_| room > 0) else { return moved };
            let piece = front.split_to(front.len().min(room));
            if front.is_empty() {
                self.unsent.pop_front();
            }
            self.used += piece.len();
            self.under_way.push_back((now + self.delay, piece));
            moved = true;
        }
    }

    /// What has arrived, at most `max` bytes in one piece.
    fn take(&mut self, now: Duration, max: usize) -> Option<Bytes> {
        let (at, piece) = self.under_way.front_mut()?;
        if *at > now {
            return None;
        }
        let taken = piece.split_to(piece.len().min(max.max(1)));
        if piece.is_empty() {
            self.under_way.pop_front();
        }
        self.used -= taken.len();
        Some(taken)
    }

    fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.unsent.is_empty()
    }
}

/// A message's bytes follow from what it is.
fn message(stream: StreamId, class: Class, number: u32, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.push(class as u8);
    let mut filling = Random::new(u64::from(stream.0) << 40 | u64::from(number) << 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&filling.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What the caller at one end knows of a stream.
#[derive(Default)]
struct Conversation {
    /// Numbers of the next message to send, by class.
    sent: [u32; 2],
    /// Numbers of the next message to come.
    came: [u32; 2],
    /// The rest of the message begun last, not given to the connection.
    rest: Bytes,
    /// The long message that is coming.
    coming: Option<(usize, Vec<u8>)>,
    /// Payload not passed on.
    held: usize,
    left_to_send: usize,
}

struct End {
    connection: Connection,
    streams: BTreeMap<StreamId, Conversation>,
    /// Streams that are over for this caller: no event may name them.
    over: Vec<StreamId>,
    messages: usize,
    go_away: Option<Reason>,
}

impl End {
    fn new(side: Side, config: Config) -> End {
        let connection = Connection::new(side, config);
        End { connection, streams: BTreeMap::new(), over: Vec::new(), messages: 0, go_away: None }
    }

    fn whole(&mut self, stream: StreamId, bytes: &[u8]) {
        let conversation = self.streams.get_mut(&stream).unwrap();
        let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let class = if bytes[4] == Class::Small as u8 { Class::Small } else { Class::Bulk };
        assert_eq!(number, conversation.came[class as usize], "{class:?} of {stream} in order");
        conversation.came[class as usize] += 1;
        assert!(bytes == message(stream, class, number, bytes.len()), "{stream} {number} is whole");
        self.messages += 1;
    }

    fn end(&mut self, stream: StreamId) {
        assert!(self.streams.remove(&stream).is_some(), "{stream} ends once");
        self.over.push(stream);
    }

    /// Takes all events; answers every `OPEN` by `answer`.
    fn take_events(&mut self, mut answer: impl FnMut() -> bool) {
        while let Some(event) = self.connection.poll_event() {
            assert!(!self.over.contains(&event.stream()), "{event:?} after the end");
            match event {
                Event::Open { stream, .. } => {
                    if answer() {
                        self.connection.accept(stream, Opened { msize: 4096 });
                        self.streams.insert(stream, Conversation::default());
                    } else {
                        let reason = Reason::new(Code::NOT_PERMITTED, "not today");
                        self.connection.refuse(stream, reason);
                        // Its CLOSE may be among the events that wait.
                        self.connection.close(stream, Reason::done());
                        self.over.push(stream);
                    }
                }
                Event::Opened { stream, opened } => {
                    assert_eq!(opened.msize, 4096);
                    assert!(self.streams.contains_key(&stream));
                }
                Event::Refused { stream, .. } | Event::Closed { stream, .. } => self.end(stream),
                Event::Message { stream, data } => {
                    self.streams.get_mut(&stream).unwrap().held += data.len();
                    let bytes: Vec<u8> = data.iter().flatten().copied().collect();
                    self.whole(stream, &bytes);
                }
                Event::Begin { stream, total } => {
                    let conversation = self.streams.get_mut(&stream).unwrap();
                    assert!(conversation.coming.is_none(), "one long message at a time");
                    conversation.coming = Some((total as usize, Vec::new()));
                }
                Event::More { stream, data } => {
                    let conversation = self.streams.get_mut(&stream).unwrap();
                    conversation.held += data.len();
                    let (total, mut bytes) = conversation.coming.take().unwrap();
                    bytes.extend_from_slice(&data);
                    if bytes.len() == total {
                        self.whole(stream, &bytes);
                    } else {
                        conversation.coming = Some((total, bytes));
                    }
                }
                Event::GoAway { reason } => self.go_away = Some(reason),
            }
        }
        self.check_memory();
    }

    fn check_memory(&self) {
        let stats = self.connection.stats();
        let held: usize = self.streams.values().map(|conversation| conversation.held).sum();
        assert!(held as u64 <= stats.held, "what the caller holds is counted");
        assert!(stats.held <= stats.window, "what is held is within the window");
    }

    /// Queues a message, all of it or its beginning.
    fn queue(&mut self, stream: StreamId, class: Class, length: usize, given: usize) -> bool {
        let conversation = self.streams.get_mut(&stream).unwrap();
        if !conversation.rest.is_empty() {
            return false;
        }
        let number = &mut conversation.sent[class as usize];
        if self.connection.start(stream, class, length as u32).is_err() {
            return false;
        }
        let mut bytes = Bytes::from(message(stream, class, *number, length));
        *number += 1;
        conversation.rest = bytes.split_off(given.min(length));
        self.connection.extend(stream, bytes).unwrap();
        true
    }

    fn go_on(&mut self, stream: StreamId, given: usize) {
        let conversation = self.streams.get_mut(&stream).unwrap();
        let bytes = conversation.rest.split_to(given.min(conversation.rest.len()));
        // An error says that the stream is over, and the event that says so is on its way.
        if self.connection.extend(stream, bytes).is_err() {
            conversation.rest.clear();
            conversation.left_to_send = 0;
        }
    }

    fn consume(&mut self, stream: StreamId, most: usize) {
        let conversation = self.streams.get_mut(&stream).unwrap();
        let bytes = conversation.held.min(most);
        conversation.held -= bytes;
        self.connection.consumed(stream, bytes as u32);
    }

    fn close(&mut self, stream: StreamId) {
        self.connection.close(stream, Reason::new(Code::DONE, "enough"));
        self.end(stream);
    }
}

struct World {
    now: Duration,
    client: End,
    server: End,
    up: Link,
    down: Link,
}

impl World {
    fn new(client: Config, server: Config, up: Link, down: Link) -> World {
        let mut client = End::new(Side::Client, client);
        let mut server = End::new(Side::Server, server);
        server.connection.establish(MS(0), &client.connection.limits());
        client.connection.establish(MS(0), &server.connection.limits());
        World { now: MS(0), client, server, up, down }
    }

    fn open(&mut self) -> StreamId {
        let open = Open { authorisation: Authorisation::Own, msize: 4096, flags: 0 };
        let stream = self.client.connection.open(open).unwrap();
        self.client.streams.insert(stream, Conversation::default());
        stream
    }

    /// Opens streams and waits until they are open.
    fn open_all(&mut self, n: usize) -> Vec<StreamId> {
        let streams: Vec<StreamId> = (0..n).map(|_| self.open()).collect();
        for _ in 0..100 {
            self.exchange(usize::MAX, usize::MAX);
            self.tick(MS(1));
        }
        assert_eq!(self.server.connection.live().count(), n);
        streams
    }

    fn tick(&mut self, by: Duration) {
        self.now += by;
        self.client.connection.handle_timeout(self.now).unwrap();
        self.server.connection.handle_timeout(self.now).unwrap();
    }

    /// Moves bytes in both directions as far as they go, in inputs of at most the given sizes.
    fn exchange(&mut self, up: usize, down: usize) -> bool {
        let mut moved = false;
        loop {
            let mut any = self.up.fill(self.now, &mut self.client.connection);
            any |= self.down.fill(self.now, &mut self.server.connection);
            if let Some(input) = self.up.take(self.now, up) {
                self.server.connection.handle_input(self.now, input).unwrap();
                any = true;
            }
            if let Some(input) = self.down.take(self.now, down) {
                self.client.connection.handle_input(self.now, input).unwrap();
                any = true;
            }
            self.server.take_events(|| true);
            self.client.take_events(|| true);
            if !any {
                return moved;
            }
            moved = true;
        }
    }

    fn is_quiet(&self) -> bool {
        self.up.is_empty() && self.down.is_empty()
    }
}

fn tiny(random: &mut Random) -> Config {
    let chunk = 1024 + random.below(3000) as u32;
    let least = 4 * (chunk + config::FRAME_CHARGE);
    let stream_window = least + random.below(40_000) as u32;
    Config {
        chunk,
        max_streams: 1 + random.below(6) as u32,
        stream_window,
        stream_window_max: stream_window * (1 + random.below(4) as u32),
        channel_window: least + random.below(80_000) as u32,
        channel_window_max: 300_000,
        max_message: 100_000,
        small_burst: 500 + random.below(10_000) as u32,
        ..Config::default()
    }
}

fn link(random: &mut Random) -> Link {
    let delay = MS(random.below(20) as u64);
    Link::new(delay, 1 + random.below(30_000), 1 + random.below(20_000))
}

fn size(random: &mut Random) -> usize {
    5 + match random.below(10) {
        0..6 => random.below(200),
        6..8 => random.below(5000),
        8 => random.below(30_000),
        _ => random.below(90_000),
    }
}

/// Talk at random, with everything that may happen, then wait until all is quiet.
fn talk(seed: u64) {
    let _seed = Seed(seed);
    let random = &mut Random::new(seed);
    let (client, server) = (tiny(random), tiny(random));
    let (up, down) = (link(random), link(random));
    let mut world = World::new(client, server, up, down);
    let closing = random.one_in(2);
    let mut to_open = 1 + random.below(6);
    let (mut idle, mut came) = (0, [0; 2]);
    for step in 0.. {
        let busy = step < 400;
        if !busy {
            // What is left may go fast.
            (world.up.room, world.up.delay) = (1 << 20, MS(1));
            (world.down.room, world.down.delay) = (1 << 20, MS(1));
        }
        let mut lively = false;
        if busy && to_open > 0 && random.one_in(4) {
            world.open();
            to_open -= 1;
        }
        for client_side in [true, false] {
            let end = if client_side { &mut world.client } else { &mut world.server };
            let streams: Vec<StreamId> = end.streams.keys().copied().collect();
            for stream in streams {
                if !end.streams[&stream].rest.is_empty() {
                    end.go_on(stream, 1 + random.below(5000));
                    lively = true;
                } else if busy && random.one_in(3) {
                    let class = if random.one_in(2) { Class::Bulk } else { Class::Small };
                    let length = size(random);
                    // A message that is cut is bulk, whatever its class: it is counted as such.
                    let class = if length > 1024 { Class::Bulk } else { class };
                    let given = if random.one_in(2) { length } else { random.below(length) };
                    end.queue(stream, class, length, given);
                }
                if random.one_in(3) || !busy {
                    let most = if busy { random.below(20_000) } else { usize::MAX };
                    lively |= end.streams[&stream].held > 0;
                    end.consume(stream, most);
                }
                if closing && busy && random.one_in(60) {
                    end.close(stream);
                }
            }
        }
        // One round of moving bytes, in pieces of random sizes.
        for _ in 0..random.below(20) {
            world.up.fill(world.now, &mut world.client.connection);
            world.down.fill(world.now, &mut world.server.connection);
            let cut = if random.one_in(3) { 1 + random.below(20) } else { 40_000 };
            if let Some(input) = world.up.take(world.now, cut) {
                world.server.connection.handle_input(world.now, input).unwrap();
            }
            if let Some(input) = world.down.take(world.now, cut) {
                world.client.connection.handle_input(world.now, input).unwrap();
            }
            if random.one_in(2) {
                world.server.take_events(|| !random.one_in(5));
                world.client.take_events(|| true);
            }
        }
        world.tick(MS(random.below(8) as u64));
        if !busy {
            let moved = world.exchange(40_000, 40_000);
            if !moved && !lively && world.is_quiet() {
                break;
            }
        }
        // A channel where nothing comes at all any more, pings aside, is stuck.
        let bytes = [&world.client, &world.server].map(|end| end.connection.stats().bytes_in);
        idle = if bytes == came { idle + 1 } else { 0 };
        came = bytes;
        assert!(idle < 1000, "the channel is stuck");
    }
    // All is delivered on the streams that are left, and both ends agree which those are.
    assert!(world.client.streams.keys().eq(world.server.streams.keys()));
    assert!(world.client.connection.live().eq(world.server.connection.live()));
    for (stream, client) in &world.client.streams {
        let server = &world.server.streams[stream];
        assert_eq!(client.sent, server.came, "{stream} upwards");
        assert_eq!(server.sent, client.came, "{stream} downwards");
        assert_eq!(world.client.connection.queued(*stream), 0);
    }
    for end in [&world.client, &world.server] {
        let stats = end.connection.stats();
        assert_eq!(stats.held, 0, "all credit has come home");
        assert_eq!(stats.streams, end.streams.len() as u64, "closed streams are forgotten");
    }
}

#[test]
fn any_talk_arrives_whole_and_in_order() {
    for seed in seeds(200) {
        talk(seed);
    }
}

fn wide(delay: Duration) -> (Link, Link) {
    (Link::new(delay, 512 << 10, 64 << 10), Link::new(delay, 512 << 10, 64 << 10))
}

#[test]
fn bulk_arrives_while_small_messages_never_stop() {
    let (up, down) = wide(MS(1));
    let mut world = World::new(Config::default(), Config::default(), up, down);
    let streams = world.open_all(3);
    for stream in &streams[..2] {
        world.client.queue(*stream, Class::Bulk, 1_000_000, usize::MAX);
    }
    let mut small_bytes = 0;
    // The two long messages need 32 frames; between two of them at most a burst of small ones goes.
    while streams[..2].iter().any(|stream| world.server.streams[stream].came[1] == 0) {
        for stream in &streams {
            while world.client.connection.queued(*stream) < 1_200_000 {
                world.client.queue(*stream, Class::Small, 1000, usize::MAX);
                small_bytes += 1000;
            }
        }
        world.up.fill(world.now, &mut world.client.connection);
        world.exchange(usize::MAX, usize::MAX);
        for stream in &streams {
            world.server.consume(*stream, usize::MAX);
        }
        world.tick(MS(1));
        assert!(small_bytes < 60_000_000, "bulk starves");
    }
}

#[test]
fn a_small_message_overtakes_the_bulk_of_every_stream() {
    let (up, down) = wide(MS(1));
    let mut world = World::new(Config::default(), Config::default(), up, down);
    let streams = world.open_all(4);
    for stream in &streams {
        for _ in 0..3 {
            world.client.queue(*stream, Class::Bulk, 1_000_000, usize::MAX);
        }
    }
    let mut out = Vec::new();
    world.client.connection.poll_transmit(world.now, 100_000, &mut out);
    for stream in &streams {
        world.client.queue(*stream, Class::Small, 100, usize::MAX);
    }
    let mut out = Vec::new();
    world.client.connection.poll_transmit(world.now, 1, &mut out);
    let bytes = world.client.connection.poll_transmit(world.now, 430, &mut out);
    assert_eq!(bytes, 3 * 108 + 8 + 65_520, "three more, and then bulk again");
}

#[test]
fn a_stream_whose_reader_sleeps_holds_up_nobody_else() {
    let (up, down) = wide(MS(1));
    let mut world = World::new(Config::default(), Config::default(), up, down);
    let streams = world.open_all(2);
    for _ in 0..8 {
        world.client.queue(streams[0], Class::Bulk, 1_000_000, usize::MAX);
    }
    for round in 0..20 {
        world.client.queue(streams[1], Class::Bulk, 1_000_000, usize::MAX);
        for _ in 0..20 {
            world.exchange(usize::MAX, usize::MAX);
            world.server.consume(streams[1], usize::MAX);
            world.tick(MS(1));
        }
        assert_eq!(world.server.streams[&streams[1]].came[1], round + 1);
    }
    let sleeping = world.server.streams[&streams[0]].held;
    assert!(sleeping <= 2 << 20, "{sleeping} bytes are within the stream's window");
    assert!(sleeping > (2 << 20) - (3 << 16), "and use nearly all of it");
}

#[test]
fn many_streams_share_the_channel_evenly() {
    // The link takes 256 KiB a millisecond: the writers wait for it, not for credit.
    let links = || Link::new(MS(1), 256 << 10, 64 << 10);
    let mut world = World::new(Config::default(), Config::default(), links(), links());
    let streams = world.open_all(16);
    let mut read = BTreeMap::new();
    for _ in 0..200 {
        for (i, stream) in streams.iter().enumerate() {
            // Different message sizes, the same share.
            while world.client.connection.queued(*stream) < 1 << 20 {
                world.client.queue(*stream, Class::Bulk, 20_000 + 60_000 * i, usize::MAX);
            }
        }
        world.up.fill(world.now, &mut world.client.connection);
        world.tick(MS(1));
        while let Some(input) = world.up.take(world.now, usize::MAX) {
            world.server.connection.handle_input(world.now, input).unwrap();
            world.server.take_events(|| true);
        }
        for stream in &streams {
            *read.entry(stream).or_insert(0) += world.server.streams[stream].held;
            world.server.consume(*stream, usize::MAX);
        }
        world.exchange(0, usize::MAX);
    }
    let (least, most) = (read.values().min().unwrap(), read.values().max().unwrap());
    assert!(most - least <= most / 10, "shares from {least} to {most}");
    assert!(*least > 1_000_000, "and the comparison is over many frames");
}

/// Virtual time for 64 MiB in one direction of one stream.
fn time_for_64_mib(config: Config, delay: Duration) -> Duration {
    let unlimited = || Link::new(delay, usize::MAX, 1 << 20);
    let mut world = World::new(config.clone(), config, unlimited(), unlimited());
    let stream = world.open_all(1)[0];
    let start = world.now;
    for _ in 0..64 {
        world.client.queue(stream, Class::Bulk, 1 << 20, usize::MAX);
    }
    while world.server.streams[&stream].came[1] < 64 {
        world.exchange(usize::MAX, usize::MAX);
        world.server.consume(stream, usize::MAX);
        world.tick(Duration::from_micros(500));
    }
    world.now - start
}

#[test]
fn windows_grow_where_the_round_trip_asks_for_it() {
    let fixed = Config {
        stream_window_max: Config::default().stream_window,
        channel_window_max: Config::default().channel_window,
        ..Config::default()
    };
    let growing = Config { stream_window_max: 8 << 20, ..Config::default() };
    let (slow, fast) = (time_for_64_mib(fixed, MS(5)), time_for_64_mib(growing, MS(5)));
    assert!(fast * 2 < slow, "{fast:?} with growing windows, {slow:?} without");
}

#[test]
fn a_close_at_any_moment_leaves_both_ends_agreed() {
    // Both ends close the same stream after every possible number of bytes delivered each way.
    for cut in 0..120 {
        for both in [false, true] {
            let links = || Link::new(MS(0), 1 << 20, 1 << 20);
            let mut world = World::new(Config::default(), Config::default(), links(), links());
            let stream = world.open();
            let mut delivered = 0;
            let mut closed = false;
            loop {
                world.up.fill(world.now, &mut world.client.connection);
                world.down.fill(world.now, &mut world.server.connection);
                let mut any = false;
                if let Some(input) = world.up.take(world.now, 1) {
                    world.server.connection.handle_input(world.now, input).unwrap();
                    any = true;
                }
                if let Some(input) = world.down.take(world.now, 1) {
                    world.client.connection.handle_input(world.now, input).unwrap();
                    any = true;
                }
                world.server.take_events(|| cut % 3 != 0);
                world.client.take_events(|| true);
                if !any {
                    break;
                }
                delivered += 1;
                for end in [&mut world.client, &mut world.server] {
                    if end.connection.live().any(|id| id == stream) && end.messages == 0 {
                        let _ = end.queue(stream, Class::Small, 20, usize::MAX);
                        end.messages = 1;
                    }
                }
                if delivered >= cut && !closed {
                    closed = true;
                    if world.client.streams.contains_key(&stream) {
                        world.client.close(stream);
                    }
                    if both && world.server.streams.contains_key(&stream) {
                        world.server.close(stream);
                    }
                }
            }
            let (client, server) = (world.client.connection, world.server.connection);
            assert_eq!(client.live().count(), server.live().count(), "cut {cut}");
            assert_eq!(client.stats().streams, server.stats().streams, "cut {cut}");
            assert_eq!(client.stats().streams, u64::from(!closed && cut % 3 != 0));
        }
    }
}
