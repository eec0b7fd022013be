//! In the steady state reading, writing and asking for attributes allocate nothing, wherever they are
//! carried out: on the spot or by workers.
//!
//! In a binary of its own, as it counts what every thread of the process asks the allocator for.

#![allow(clippy::unwrap_used)]

mod sys;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use server::fs::{Export, Limits, Replies, Session, Workers};
use transport::id::{Fid, Msize, Tag};
use transport::ninep::message::{Names, VERSION, attr, open};
use transport::ninep::{Packet, Tmessage};

use sys::ALLOCATIONS;

/// One measurement at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Counts replies by kind, and drops them.
#[derive(Default)]
struct Dropped {
    replies: AtomicU64,
    errors: AtomicU64,
}

impl Replies for Dropped {
    fn reply(&self, reply: Packet) {
        let error = reply.header().is_ok_and(|header| header.kind == 7);
        self.errors.fetch_add(u64::from(error), Ordering::Relaxed);
        drop(reply);
        self.replies.fetch_add(1, Ordering::Release);
    }
}

struct Client {
    session: Arc<Session>,
    workers: Arc<Workers>,
    replies: Arc<Dropped>,
    asked: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Client {
    fn new(folder: &Path, limits: Limits) -> Client {
        let alone = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::write(folder.join("file"), vec![7; 1 << 20]).unwrap();
        let export = Export::open(&folder.canonicalize().unwrap(), false).unwrap();
        let (workers, replies) = (Workers::new(limits), Arc::new(Dropped::default()));
        let session = Session::new(export, workers.clone(), replies.clone(), Msize::MAX);
        let mut client = Client { session, workers, replies, asked: 0, _alone: alone };
        let (msize, version) = (Msize::MAX.bytes(), VERSION);
        client.call(&Tmessage::Tversion { msize, version }.encode(Tag::NONE));
        let (fid, afid) = (Fid(0), Fid::NONE);
        let attach = Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 };
        client.call(&attach.encode(Tag(1)));
        let names = Names::new(&[b"file"]).unwrap();
        client.call(&Tmessage::Twalk { fid, newfid: Fid(1), names }.encode(Tag(1)));
        client.call(&Tmessage::Tlopen { fid: Fid(1), flags: open::RDWR }.encode(Tag(1)));
        client
    }

    fn call(&mut self, request: &Packet) {
        self.asked += 1;
        self.session.submit(request.clone()).unwrap();
        while self.replies.replies.load(Ordering::Acquire) < self.asked {
            std::thread::yield_now();
        }
    }

    /// Allocations, and requests handed to workers, per request, once `requests` have been carried out
    /// before.
    fn cost(&mut self, requests: &[Packet]) -> (f64, f64) {
        const ROUNDS: u64 = 10_000;
        for _ in 0..300 {
            requests.iter().for_each(|request| self.call(request));
        }
        let handed_over = self.workers.handed_over();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..ROUNDS {
            requests.iter().for_each(|request| self.call(request));
        }
        let count = (ROUNDS * requests.len() as u64) as f64;
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let handed_over = self.workers.handed_over() - handed_over;
        assert_eq!(self.replies.errors.load(Ordering::Relaxed), 0);
        (allocations as f64 / count, handed_over as f64 / count)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.close();
    }
}

fn requests() -> Vec<(&'static str, Vec<Packet>)> {
    let fid = Fid(1);
    let read = |count| Tmessage::Tread { fid, offset: 4096, count }.encode(Tag(1));
    let write = |offset, size: usize| {
        let write = Tmessage::Twrite { fid, offset, count: size as u32 };
        write.with_body(Tag(1), vec![Bytes::from(vec![8; size])])
    };
    let getattr = Tmessage::Tgetattr { fid, mask: attr::BASIC }.encode(Tag(1));
    vec![
        ("getattr", vec![getattr.clone()]),
        ("read of 4 KiB", vec![read(4 << 10)]),
        ("read of 64 KiB", vec![read(64 << 10)]),
        ("write of 4 KiB", vec![write(8192, 4 << 10)]),
        ("all of them in turn", vec![getattr, read(100), read(64 << 10), write(10_000, 4096)]),
    ]
}

/// A figure of the harness's own threads may come between; nothing that comes with each request can.
const BOUND: f64 = 0.001;

#[test]
fn on_the_spot_nothing_is_allocated() {
    for base in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
        let folder = tempfile::tempdir_in(base).unwrap();
        let mut client = Client::new(folder.path(), Limits::default());
        for (name, requests) in requests() {
            let (allocations, handed_over) = client.cost(&requests);
            println!("{base} {name}: {allocations:.5} allocations, {handed_over:.3} by workers");
            assert!(allocations <= BOUND, "{name} in {base}: {allocations}");
        }
    }
}

#[test]
fn by_workers_nothing_is_allocated() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut client = Client::new(folder.path(), Limits { on_the_spot: 0, ..Limits::default() });
    for (name, requests) in requests().into_iter().skip(1) {
        let (allocations, handed_over) = client.cost(&requests);
        println!("{name}: {allocations:.5} allocations, {handed_over:.3} by workers");
        assert!(allocations <= BOUND, "{name}: {allocations}");
        assert!(handed_over > 0.7, "{name}: {handed_over}");
    }
}
