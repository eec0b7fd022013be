//! The embedded file server alone, without a channel: one request at a time from a thread that sleeps
//! until the reply is there, as the data plane's does.
//!
//! Names are `fs/FILE SYSTEM/WAY/OPERATION`: on `disk` (the folder for build products) and `tmpfs`
//! (/dev/shm), answered by `spot` or `worker`. Everything that is read is in the page cache. The ways
//! stand beside each other in one run: their ratio is the figure, not the times.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Thread;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use server::fs::{Export, Limits, Replies, Session, Workers};
use transport::id::{Fid, Msize, Tag};
use transport::ninep::message::{Names, VERSION, attr, open};
use transport::ninep::{Packet, Tmessage};

/// Counts replies and wakes the thread that waits for them.
struct Desk {
    replies: AtomicU64,
    owner: Thread,
}

impl Replies for Desk {
    fn reply(&self, reply: Packet) {
        black_box(reply);
        self.replies.fetch_add(1, Ordering::Release);
        if std::thread::current().id() != self.owner.id() {
            self.owner.unpark();
        }
    }
}

struct Client {
    session: Arc<Session>,
    desk: Arc<Desk>,
    asked: u64,
}

impl Client {
    fn new(folder: &Path, limits: Limits) -> Client {
        let folder = folder.canonicalize().expect("a folder");
        let export = Export::open(&folder, false).expect("an export");
        let desk = Arc::new(Desk { replies: AtomicU64::new(0), owner: std::thread::current() });
        let session = Session::new(export, Workers::new(limits), desk.clone(), Msize::MAX);
        let mut client = Client { session, desk, asked: 0 };
        let (msize, version) = (Msize::MAX.bytes(), VERSION);
        client.call(Tmessage::Tversion { msize, version }.encode(Tag::NONE));
        let (fid, afid) = (Fid(0), Fid::NONE);
        client.ask(Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 });
        let names = Names::new(&[b"file"]).expect("one name");
        client.ask(Tmessage::Twalk { fid, newfid: Fid(1), names });
        client.ask(Tmessage::Tlopen { fid: Fid(1), flags: open::RDWR });
        client
    }

    fn ask(&mut self, message: Tmessage<'_>) {
        self.call(message.encode(Tag(1)));
    }

    fn call(&mut self, request: Packet) {
        self.asked += 1;
        self.session.submit(request).expect("9P");
        while self.desk.replies.load(Ordering::Acquire) < self.asked {
            std::thread::park();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.close();
    }
}

fn fs(criterion: &mut Criterion) {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    for (kind, folder) in [("disk", disk.path()), ("tmpfs", memory.path())] {
        std::fs::write(folder.join("file"), vec![7; 2 << 20]).expect("a file");
        let workers = Limits { on_the_spot: 0, ..Limits::default() };
        let ways = [("spot", Limits::default()), ("worker", workers)];
        for (way, limits) in ways {
            let mut client = Client::new(folder, limits);
            let mut group = criterion.benchmark_group(format!("fs/{kind}/{way}"));
            let getattr = Tmessage::Tgetattr { fid: Fid(1), mask: attr::BASIC }.encode(Tag(1));
            group.bench_function("getattr", |b| b.iter(|| client.call(getattr.clone())));
            let names = Names::new(&[b"file"]).expect("one name");
            let walk = Tmessage::Twalk { fid: Fid(0), newfid: Fid(2), names }.encode(Tag(1));
            let clunk = Tmessage::Tclunk { fid: Fid(2) }.encode(Tag(1));
            group.bench_function("walk+clunk", |b| {
                b.iter(|| {
                    client.call(walk.clone());
                    client.call(clunk.clone());
                });
            });
            let lopen = Tmessage::Tlopen { fid: Fid(2), flags: 0 }.encode(Tag(1));
            group.bench_function("walk+open+clunk", |b| {
                b.iter(|| {
                    client.call(walk.clone());
                    client.call(lopen.clone());
                    client.call(clunk.clone());
                });
            });
            for size in [4 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20] {
                let count = size as u32 - if size == 1 << 20 { 24 } else { 0 };
                let read = Tmessage::Tread { fid: Fid(1), offset: 0, count }.encode(Tag(1));
                group.throughput(Throughput::Bytes(u64::from(count)));
                group.bench_function(format!("read{}k", size >> 10), |b| {
                    b.iter(|| client.call(read.clone()));
                });
            }
            for size in [4 << 10, 64 << 10] {
                let (fid, body) = (Fid(1), Bytes::from(vec![8; size]));
                let write = Tmessage::Twrite { fid, offset: 0, count: size as u32 };
                let write = write.with_body(Tag(1), vec![body]);
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_function(format!("write{}k", size >> 10), |b| {
                    b.iter(|| client.call(write.clone()));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, fs);
criterion_main!(benches);
