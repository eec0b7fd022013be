//! What a client cannot use up. One test: it lowers the process's own limit of descriptors.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs;

use fs_client::{Client, ROOT};
use libc::{O_RDONLY, O_RDWR, O_TRUNC};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::fs::{Export, Limits, Workers, limits};
use transport::id::{Fid, Tag};
use transport::ninep::message::lock::WRLCK;
use transport::ninep::message::{AT_REMOVEDIR, Names, lock};
use transport::ninep::{Rmessage, Tmessage};

/// Descriptors that the process may have while the test runs.
const DESCRIPTORS: u64 = 256;

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
fn a_hundred_thousand_fids_cost_memory_only() {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..before }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (folders, files) = (100, 100);
    for folder in 0..folders {
        let path = dir.path().join(format!("d{folder}"));
        fs::create_dir(&path).unwrap();
        for file in 0..files {
            fs::write(path.join(format!("f{file}")), format!("{folder}/{file}")).unwrap();
        }
    }
    let export = Export::open(&dir.path().canonicalize().unwrap(), false).unwrap();
    let workers = Workers::new(Limits::default());
    let client = Client::with(export.clone(), workers.clone());

    // Fids.
    let total = folders * files * 10;
    for fid in 0..total {
        let (folder, file) = (fid / files % folders, fid % files);
        let names = [format!("d{folder}"), format!("f{file}")];
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(client.walk_raw(ROOT, Fid(1000 + fid), &names).unwrap().len(), 2);
    }
    assert!(descriptors() < DESCRIPTORS as usize / 4 * 3, "{} descriptors", descriptors());
    // Each of them is still good for everything.
    for fid in (0..total).step_by(997) {
        let size = client.getattr(Fid(1000 + fid)).unwrap().1.size;
        client.lopen(Fid(1000 + fid), O_RDONLY).unwrap();
        let content = format!("{}/{}", fid / files % folders, fid % files);
        assert_eq!(client.read(Fid(1000 + fid), 0, 99).unwrap(), content.as_bytes());
        assert_eq!(size, content.len() as u64);
        client.clunk(Fid(1000 + fid)).unwrap();
        client.walk_raw(ROOT, Fid(1000 + fid), &[]).unwrap();
    }
    // Also when its folder was renamed meanwhile.
    client.renameat((ROOT, b"d7"), (ROOT, b"other")).unwrap();
    let moved = Fid(1000 + 7 * files + 5);
    assert_eq!(client.getattr(moved).unwrap().1.size, 3);
    let mut fid = 1000 + total;
    let more = loop {
        match client.walk_raw(ROOT, Fid(fid), &[]) {
            Ok(_) => fid += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!(more, libc::ENFILE);
    assert_eq!((fid - 1000) as usize + 1, limits::FIDS);
    client.version();
    client.attach(ROOT, b"").unwrap();

    // Open files.
    let mut open = Vec::new();
    let more = loop {
        match client.open("d1/f1", O_RDWR) {
            Ok(fid) => open.push(fid),
            Err(errno) => break errno,
        }
    };
    assert_eq!(more, libc::EMFILE);
    assert_eq!(open.len(), Limits::default().open_files);
    // What cannot be opened is not made nor emptied.
    assert_eq!(client.open("d1/f1", O_RDWR | O_TRUNC), Err(libc::EMFILE));
    assert_eq!(fs::read(dir.path().join("d1/f1")).unwrap(), b"1/1");
    assert_eq!(client.create("d1", "new", O_RDWR, 0o600), Err(libc::EMFILE));
    assert!(!dir.path().join("d1/new").exists());

    // Owners of locks.
    let taken = (0..).take_while(|&owner| {
        let range = (u64::from(owner), 1);
        match client.lock(open[0], WRLCK, range, owner) {
            Ok(status) => status == lock::SUCCESS,
            Err(errno) => {
                assert_eq!(errno, libc::ENOLCK);
                false
            }
        }
    });
    assert_eq!(taken.count(), Limits::default().lock_owners);
    assert!(descriptors() < DESCRIPTORS as usize, "{} descriptors", descriptors());
    // Walks go on in between.
    assert!(client.walk("d99/f99").is_ok());
    for fid in open {
        client.clunk(fid).unwrap();
    }
    assert!(client.open("d1/f1", O_RDWR).is_ok());

    // Requests. A lock of this process's own keeps them waiting.
    let holder = client.open("d1/f1", O_RDWR).unwrap();
    client.lock(holder, WRLCK, (0, 0), 1).unwrap();
    let waiting = Client::lock_message(holder, WRLCK, lock::FLAG_BLOCK, (0, 0), 2);
    let mut tag = 0;
    while !client.inbox.has(tag) {
        tag += 1;
        client.submit(tag, waiting, b"").unwrap();
        assert!((tag as usize) <= limits::REQUESTS + 1);
    }
    let packet = client.inbox.take(tag);
    let (_, refused) = Rmessage::decode(&packet).unwrap();
    assert_eq!(refused, Rmessage::Rlerror { errno: libc::EAGAIN as u32 });
    // A flush and a clunk always go through.
    client.submit(60_001, Tmessage::Tflush { oldtag: Tag(1) }, b"").unwrap();
    client.inbox.take(60_001);
    let spare = Tmessage::Twalk { fid: ROOT, newfid: Fid(5), names: Names::default() };
    client.submit(60_002, spare, b"").unwrap();
    client.inbox.take(60_002);
    client.submit(60_003, Tmessage::Tclunk { fid: Fid(5) }, b"").unwrap();
    client.inbox.take(60_003);
    client.version();
    client.attach(ROOT, b"").unwrap();

    // Depth.
    let deep = client.walk("").unwrap();
    let mut depth = 0;
    let errno = loop {
        if let Err(errno) = client.mkdir(deep, b"d", 0o755) {
            break errno;
        }
        depth += 1;
        match client.walk_raw(deep, deep, &[b"d"]) {
            Ok(_) => {}
            Err(errno) => break errno,
        }
    };
    assert_eq!(errno, libc::ENAMETOOLONG);
    assert_eq!(depth, limits::DEPTH);
    // Another client pushes the descriptors of that chain out.
    let other = Client::with(export, workers);
    for folder in 8..folders {
        other.walk(&format!("d{folder}/f1")).unwrap();
    }
    assert!(client.getattr(deep).is_ok(), "opened again, link by link");
    assert!(descriptors() < DESCRIPTORS as usize);
    // Values.
    let fid = client.walk("d1/f1").unwrap();
    let large = Tmessage::Txattrcreate { fid, name: b"user.x", size: 1 << 40, flags: 0 };
    assert_eq!(client.ok(large), Err(libc::E2BIG));
    drop(other);
    // What removes the folder after the test could not: it holds a descriptor for each step.
    for _ in 0..depth {
        client.walk_raw(deep, deep, &[b".."]).unwrap();
        client.unlinkat(deep, b"d", AT_REMOVEDIR).unwrap();
    }
    assert_eq!(client.getattr(deep).unwrap().0.path, client.getattr(ROOT).unwrap().0.path);
}
