//! Sequences of requests against the embedded file server, over two sessions of one folder.
//!
//! There is no model of what should come of them. What must hold whatever is asked: each request gets
//! one answer, of its type or an errno, within the sizes that it named; nothing outside the folder is
//! read or changed, and nothing inside where the grant is for reading; nothing panics or hangs; and
//! when the sessions are closed no descriptor is left.
#![no_main]

mod ask;
mod folder;
mod inbox;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use server::fs::{Export, Limits, Session, SessionError, Workers};
use transport::id::{Fid, Msize, Tag};
use transport::ninep::message::VERSION;
use transport::ninep::{Packet, Tmessage};

use ask::Ask;
use folder::Place;
use inbox::{Inbox, MSIZE};

/// Requests of a run: enough to make, open, move and remove something.
const MOST: usize = 60;

#[derive(Arbitrary, Debug)]
struct Run {
    read_only: bool,
    /// Nothing is answered on the spot.
    workers_only: bool,
    steps: Vec<Step>,
    /// Bytes that may be no message, at the end.
    raw: Option<Vec<u8>>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A request to one of the sessions; the next is made before its answer, or after.
    Ask {
        second: bool,
        wait: bool,
        ask: Ask,
    },
    Flush {
        second: bool,
        tag: u8,
    },
    Version {
        second: bool,
        msize: u16,
    },
}

/// Small, so that runs reach the limits. The threads are shared by all runs.
fn workers(on_the_spot: usize) -> Arc<Workers> {
    Workers::new(Limits {
        threads: 4,
        share: 2,
        handles: 6,
        open_files: 10,
        fids: 24,
        nodes: 20,
        on_the_spot,
        lock_owners: 3,
    })
}

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);
static SPOT: LazyLock<Arc<Workers>> = LazyLock::new(|| workers(512 << 10));
static THREADS: LazyLock<Arc<Workers>> = LazyLock::new(|| workers(0));

struct Client {
    session: Arc<Session>,
    inbox: Arc<Inbox>,
    /// The agreed msize.
    msize: u32,
    next: u16,
}

impl Client {
    fn new(export: &Arc<Export>, workers: &Arc<Workers>) -> Client {
        let inbox = Arc::new(Inbox::default());
        let msize = Msize::new(MSIZE).unwrap();
        let session = Session::new(export.clone(), workers.clone(), inbox.clone(), msize);
        let mut client = Client { session, inbox, msize: MSIZE, next: 0 };
        client.version(u16::MAX);
        let tag = client.tag();
        let root =
            Tmessage::Tattach { fid: Fid(0), afid: Fid::NONE, uname: b"", aname: b"", n_uname: 0 };
        client.send(root.encode(tag));
        client.inbox.wait_for(tag);
        client
    }

    fn send(&mut self, packet: Packet) -> Tag {
        let tag = packet.header().unwrap().tag;
        self.inbox.expect(&packet);
        self.session.submit(packet).expect("a well-formed request is taken");
        tag
    }

    fn tag(&mut self) -> Tag {
        self.next += 1;
        // A tag is free once it was answered, and is used again soon.
        let free = (0..).map(|n| Tag((self.next + n) % 96)).find(|&tag| !self.inbox.waits_for(tag));
        free.unwrap()
    }

    fn version(&mut self, msize: u16) {
        let msize = Msize::MIN.bytes() + u32::from(msize);
        self.msize = msize.min(MSIZE);
        let tag = self.send(Tmessage::Tversion { msize, version: VERSION }.encode(Tag::NONE));
        self.inbox.wait_for(tag);
    }

    fn flush(&mut self, old: Tag) {
        let tag = self.tag();
        self.send(Tmessage::Tflush { oldtag: old }.encode(tag));
        self.inbox.wait_for(tag);
    }

    /// Everything has its answer.
    fn finish(&mut self) {
        self.inbox.held_up().into_iter().for_each(|tag| self.flush(tag));
        self.inbox.wait_for_all();
        assert_eq!(self.session.load(), (0, 0));
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fuzz_target!(|run: Run| {
    PLACE.fill();
    let workers = if run.workers_only { &*THREADS } else { &*SPOT };
    let contents = run.read_only.then(|| PLACE.contents());
    let before = descriptors();
    let export = Export::open(&PLACE.folder(), run.read_only).unwrap();
    let mut clients = [Client::new(&export, workers), Client::new(&export, workers)];
    for step in run.steps.iter().take(MOST) {
        workers.turn();
        match *step {
            Step::Ask { second, wait, ask } => {
                let client = &mut clients[usize::from(second)];
                let tag = client.tag();
                let packet = ask.packet(tag);
                if packet.len() > client.msize as usize {
                    continue;
                }
                client.send(packet);
                if wait {
                    client.inbox.wait_for(tag);
                }
            }
            Step::Flush { second, tag } => {
                clients[usize::from(second)].flush(Tag(u16::from(tag) % 96));
            }
            Step::Version { second, msize } => clients[usize::from(second)].version(msize),
        }
    }
    clients.iter_mut().for_each(Client::finish);
    if let Some(raw) = run.raw {
        // What is no 9P is refused; what is, is answered to nobody.
        let packet = Packet::whole(Bytes::from(raw));
        if let Ok((tag, message)) = Tmessage::decode(&packet) {
            if !matches!(message, Tmessage::Tversion { .. }) {
                clients[0].inbox.expect(&packet);
                let taken = clients[0].session.submit(packet);
                assert!(!matches!(taken, Err(SessionError::Malformed(_))) || tag == Tag::NONE);
                clients[0].finish();
            }
        } else {
            assert!(clients[0].session.submit(packet).is_err());
        }
    }
    clients.iter().for_each(|client| client.session.close());
    drop((clients, export));
    // A worker ends what the sessions had open as soon as it can.
    let until = Instant::now() + Duration::from_secs(60);
    while descriptors() > before {
        assert!(Instant::now() < until, "{} descriptors are left", descriptors() - before);
        std::thread::sleep(Duration::from_micros(200));
    }
    PLACE.check_outside();
    if let Some(contents) = contents {
        assert!(contents == PLACE.contents(), "a folder granted for reading changed");
    }
});
