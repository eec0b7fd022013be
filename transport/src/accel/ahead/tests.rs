use alloc::vec;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = SECOND;
const PAYLOAD: u32 = 512 << 10;
const KIB: u64 = 1 << 10;

/// A file server of one file, and a reader of it by one fid.
struct Server {
    ahead: Ahead,
    content: Vec<u8>,
    /// Questions that have not been answered.
    asked: VecDeque<Ask>,
    /// Requests that went to the file server.
    forwarded: usize,
    now: Duration,
}

impl Server {
    fn new(size: usize) -> Server {
        let content = (0..size).map(|at| (at / 251) as u8).collect();
        let ahead = Ahead::new(SECOND, Arc::default());
        Server { ahead, content, asked: VecDeque::new(), forwarded: 0, now: NOW }
    }

    fn wanted(offset: u64, count: u32) -> Wanted {
        Wanted { tag: Tag(1), fid: Fid(1), offset, count }
    }

    fn content(&self, offset: u64, count: u32) -> Vec<u8> {
        let from = usize::try_from(offset).unwrap().min(self.content.len());
        let to = (from + count as usize).min(self.content.len());
        self.content[from..to].to_vec()
    }

    /// Asks for what there is to ask.
    fn ask(&mut self) {
        self.asked.extend(core::iter::from_fn(|| self.ahead.poll_ask()));
    }

    /// Answers the oldest question.
    fn answer(&mut self) -> bool {
        self.ask();
        match self.asked.pop_front() {
            Some(Ask::Size(fid)) => self.ahead.sized(fid, Some(self.content.len() as u64)),
            Some(Ask::Block { fid, id, offset, count }) => {
                // In pieces, as a channel brings them.
                let data = self.content(offset, count);
                let pieces = data.chunks(65_520).map(Bytes::copy_from_slice).collect();
                self.ahead.arrived(fid, id, Some(pieces));
            }
            None => return false,
        }
        true
    }

    fn start(&mut self, offset: u64, count: u32) -> Read {
        let read = self.ahead.read(self.now, Server::wanted(offset, count), Some(5), None, PAYLOAD);
        self.ask();
        read
    }

    /// Reads, and waits where it has to.
    fn read(&mut self, offset: u64, count: u32) -> Vec<u8> {
        match self.start(offset, count) {
            Read::Answer(data) => return data.concat(),
            Read::Forward => {}
            Read::Wait => loop {
                match self.ahead.poll_done() {
                    Some(Done::Answer(_, data)) => return data.concat(),
                    Some(Done::Forward(wanted)) => {
                        assert_eq!(wanted, Server::wanted(offset, count));
                        break;
                    }
                    None => assert!(self.answer(), "waits for nothing"),
                }
            },
        }
        self.forwarded += 1;
        self.content(offset, count)
    }

    /// Reads the first pieces of the file, with all answers in time.
    fn read_on(&mut self, pieces: u64, count: u32) {
        for at in 0..pieces {
            self.read(at * u64::from(count), count);
            while self.answer() {}
        }
    }

    /// A reader whose third read waits.
    fn waiting(size: usize, count: u32) -> (Server, Wanted) {
        let mut server = Server::new(size);
        server.read(0, count);
        server.read(count.into(), count);
        assert!(server.answer(), "its size");
        assert_eq!(server.start(2 * u64::from(count), count), Read::Wait);
        (server, Server::wanted(2 * u64::from(count), count))
    }

    fn used(&self) -> usize {
        self.ahead.store.used.load(Ordering::Relaxed)
    }
}

#[test]
fn a_sequential_read_is_asked_for_before_the_reader_asks() {
    let mut server = Server::new(4 << 20);
    let count = 128 * KIB as u32;
    let mut read = 0;
    while read < 4 << 20 {
        assert_eq!(server.read(read, count), server.content(read, count));
        while server.answer() {}
        read += u64::from(count);
    }
    assert_eq!(server.forwarded, 2, "the first two");
    assert_eq!(server.read(read, count), b"");
    assert_eq!((server.forwarded, server.used()), (3, 0), "beyond the end");
}

#[test]
fn nothing_is_asked_for_beyond_the_end_and_the_end_is_seen() {
    let mut server = Server::new(300 * KIB as usize + 17);
    let count = 100 * KIB as u32;
    for at in 0..4 {
        let offset = u64::from(count * at);
        assert_eq!(server.read(offset, count), server.content(offset, count), "{at}");
        server.ask();
        for ask in &server.asked {
            if let Ask::Block { offset, count, .. } = ask {
                assert!(offset + u64::from(*count) <= 300 * KIB + 18, "{ask:?}");
            }
        }
        while server.answer() {}
    }
    assert_eq!(server.forwarded, 2, "the last one came short from here");
    assert_eq!(server.used(), 0);
}

#[test]
fn the_window_grows_while_the_reader_waits_and_no_longer() {
    let mut server = Server::new(64 << 20);
    let count = 256 * KIB as u32;
    let mut offset = 0;
    let mut next = |server: &mut Server| {
        server.read(offset, count);
        offset += u64::from(count);
    };
    next(&mut server);
    next(&mut server);
    server.answer(); // its size
    server.ask();
    assert_eq!(server.asked.len(), 2, "two requests' worth at first");
    for _ in 0..60 {
        next(&mut server);
    }
    let waited = server.used();
    assert!(waited > 4 << 20 && waited as u64 <= WINDOW, "{waited}");
    while server.answer() {}
    let window = |server: &Server| server.ahead.files[&Fid(1)].runs[0].window;
    let before = window(&server);
    for _ in 0..20 {
        next(&mut server);
        while server.answer() {}
    }
    assert_eq!(window(&server), before);
}

#[test]
fn reads_here_and_there_cost_nothing_more() {
    let mut server = Server::new(64 << 20);
    for at in [9, 3, 7, 1, 8, 2, 6, 0, 5, 4] {
        server.read(at * 4 * KIB * KIB, 4096);
    }
    assert!(server.asked.is_empty());
    assert_eq!(server.forwarded, 10);
}

#[test]
fn places_that_are_read_in_turn_are_runs_of_their_own() {
    let mut server = Server::new(32 << 20);
    let count = 64 * KIB as u32;
    for step in 0..50 {
        for place in [0, 10 << 20, 20 << 20] {
            let offset = place + step * u64::from(count);
            assert_eq!(server.read(offset, count), server.content(offset, count));
        }
        while server.answer() {}
    }
    assert!(server.forwarded <= 8, "{}", server.forwarded);
}

#[test]
fn what_changes_is_read_again_and_who_waits_is_not_forgotten() {
    let mut server = Server::new(8 << 20);
    let count = 256 * KIB as u32;
    server.read_on(4, count);
    server.content.fill(7);
    server.ahead.change_node(6);
    assert!(server.used() > 0, "another file");
    server.ahead.change_node(5);
    assert_eq!(server.used(), 0);
    assert_eq!(server.read(4 * u64::from(count), count), vec![7; count as usize]);
    let (mut server, wanted) = Server::waiting(8 << 20, count);
    assert!(server.ahead.is_waiting(Tag(1)));
    server.ahead.change_all();
    assert_eq!(server.ahead.poll_done(), Some(Done::Forward(wanted)));
    assert!(!server.ahead.is_waiting(Tag(1)));
    while server.answer() {}
    assert_eq!(server.used(), 0, "what comes late is dropped");
}

#[test]
fn what_is_too_old_is_asked_for_again() {
    let mut server = Server::new(8 << 20);
    let count = 256 * KIB as u32;
    server.read_on(4, count);
    let forwarded = server.forwarded;
    server.now += SECOND + Duration::from_nanos(1);
    server.content.fill(7);
    assert_eq!(server.read(4 * u64::from(count), count), vec![7; count as usize]);
    assert_eq!(server.forwarded, forwarded + 1);
}

#[test]
fn a_file_that_shrinks_or_fails_is_left_to_the_file_server() {
    for fails in [false, true] {
        let count = 256 * KIB as u32;
        let (mut server, wanted) = Server::waiting(8 << 20, count);
        server.content.truncate(2 * count as usize + 5);
        let Some(Ask::Block { fid, id, .. }) = server.asked.pop_front() else { panic!() };
        let short = Bytes::from(server.content(wanted.offset, count));
        server.ahead.arrived(fid, id, (!fails).then(|| vec![short]));
        assert_eq!(server.ahead.poll_done(), Some(Done::Forward(wanted)));
        assert_eq!(server.used(), 0);
    }
}

#[test]
fn a_size_that_is_seen_elsewhere_counts() {
    let mut server = Server::new(8 << 20);
    let count = 256 * KIB as u32;
    server.read_on(4, count);
    server.ahead.set_size(5, 8 << 20);
    assert!(server.used() > 0);
    server.ahead.set_size(5, 9 << 20);
    server.ask();
    assert!(!server.asked.is_empty(), "all of it anew");
}

#[test]
fn what_is_no_regular_file_is_not_asked_for() {
    let mut server = Server::new(8 << 20);
    server.read(0, 4096);
    server.read(4096, 4096);
    assert_eq!(server.asked.pop_front(), Some(Ask::Size(Fid(1))));
    server.ahead.sized(Fid(1), None);
    for at in 2..9 {
        server.read(at * 4096, 4096);
    }
    assert!(server.asked.is_empty());
}

#[test]
fn memory_is_shared_and_comes_back() {
    let store = Arc::new(Store::default());
    let mut ahead = Ahead::new(SECOND, Arc::clone(&store));
    let count = 1 << 20;
    for step in 0..30 {
        for fid in 0..40 {
            let offset = step * u64::from(count);
            let wanted = Wanted { tag: Tag(fid), fid: Fid(fid.into()), offset, count };
            ahead.read(NOW, wanted, None, Some(1 << 40), count);
        }
        assert!(store.used.load(Ordering::Relaxed) <= STORE);
    }
    assert!(store.used.load(Ordering::Relaxed) > STORE / 2);
    (0..40).for_each(|fid| ahead.end(Fid(fid)));
    assert_eq!(store.used.load(Ordering::Relaxed), 0);
    assert_eq!(ahead.poll_ask(), None);
}

#[test]
fn a_read_that_is_given_up_is_not_answered() {
    let (mut server, _) = Server::waiting(8 << 20, 256 * KIB as u32);
    server.ahead.give_up(Tag(1));
    while server.answer() {}
    assert_eq!(server.ahead.poll_done(), None);
}

impl Server {
    /// Reads several pieces that follow each other, all asked for at once.
    fn read_at_once(&mut self, offset: u64, count: u32, pieces: u16) {
        let mut waiting = BTreeMap::new();
        for n in 0..pieces {
            let offset = offset + u64::from(n) * u64::from(count);
            let wanted = Wanted { tag: Tag(n), ..Server::wanted(offset, count) };
            match self.ahead.read(self.now, wanted, Some(5), None, PAYLOAD) {
                Read::Answer(data) => assert!(data.concat() == self.content(offset, count), "{n}"),
                Read::Forward => self.forwarded += 1,
                Read::Wait => drop(waiting.insert(Tag(n), wanted)),
            }
        }
        while !waiting.is_empty() {
            match self.ahead.poll_done() {
                Some(Done::Answer(tag, data)) => {
                    let wanted = waiting.remove(&tag).expect("answered once");
                    assert!(data.concat() == self.content(wanted.offset, count), "{tag:?} late");
                }
                Some(Done::Forward(wanted)) => {
                    assert_eq!(waiting.remove(&wanted.tag), Some(wanted));
                    self.forwarded += 1;
                }
                None => {
                    self.ask();
                    // Whichever comes first.
                    if self.asked.len() > 1 {
                        self.asked.rotate_left(1);
                    }
                    assert!(self.answer(), "{waiting:?} wait for nothing");
                }
            }
        }
    }
}

#[test]
fn reads_that_were_sent_together_wait_for_each_other() {
    let mut server = Server::new(8 << 20);
    let count = 64 * KIB as u32;
    for step in 0..16 {
        server.read_at_once(step * 8 * u64::from(count), count, 8);
        if step == 0 {
            while server.answer() {}
        }
    }
    assert!(server.forwarded <= 8, "{}", server.forwarded);
}

proptest! {
    /// Whatever is read in whatever order, the answers are the file's bytes, and every read is answered.
    #[test]
    fn every_read_gives_the_files_bytes(
        size in 0usize..3_000_000,
        reads in proptest::collection::vec(
            (any::<bool>(), 0u64..3_100_000, 1u32..600_000, 0usize..4, 0u8..20),
            1..60,
        ),
    ) {
        let mut server = Server::new(size);
        let mut at = 0;
        for (jump, to, count, answers, event) in reads {
            if jump {
                at = to;
            }
            match event {
                0 => {
                    server.content.iter_mut().for_each(|byte| *byte ^= 1);
                    server.ahead.change_node(5);
                }
                1 => server.now += SECOND * 2,
                2 => server.ahead.end(Fid(1)),
                _ => {}
            }
            if event % 3 == 0 {
                server.read_at_once(at, count, 4);
                at += 4 * u64::from(count);
            } else {
                let got = server.read(at, count);
                prop_assert!(got == server.content(at, count), "at {at}, {count}");
                at += u64::from(count);
            }
            for _ in 0..answers {
                server.answer();
            }
        }
        server.ahead.end(Fid(1));
        prop_assert_eq!(server.used(), 0);
    }
}
