//! What is answered on the spot and what goes to the file workers, seen by how much these are handed;
//! and that it makes no difference to the answers.

#![allow(clippy::unwrap_used)]

mod fs_client;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_client::Client;
use rustix::fs::{Advice, fadvise, fstatfs};
use server::fs::{Export, Limits, Workers};
use tempfile::TempDir;
use transport::ninep::{Rmessage, Tmessage};

const SIZE: usize = 300_000;

/// A folder on this machine's disk.
fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Whether it is on a file system that is known to be one of those with `RWF_NOWAIT` for reading.
fn reads_now(folder: &Path) -> bool {
    let kind = fstatfs(std::fs::File::open(folder).unwrap()).unwrap().f_type;
    let known = [0xef53, 0x5846_5342, 0x9123_683e].contains(&kind);
    if !known {
        println!("skipped: on a file system of type {kind:#x}");
    }
    known
}

fn client(folder: &Path, limits: Limits) -> (Client, Arc<Workers>) {
    let export = Export::open(&folder.canonicalize().unwrap(), false).unwrap();
    let workers = Workers::new(limits);
    (Client::with(export, workers.clone()), workers)
}

/// Requests that `work` hands to the workers.
fn handed_over(workers: &Workers, work: impl FnOnce()) -> u64 {
    let before = workers.handed_over();
    work();
    workers.handed_over() - before
}

fn pattern(at: usize) -> u8 {
    (at % 251) as u8 + 1
}

/// A reply's count is made from what has been read, never before: so there is nothing to be made up for
/// when a file shrinks, and zeros appear only where the file had them.
fn read_while_it_shrinks(limits: Limits) {
    let folder = on_disk();
    let path = folder.path().join("file");
    let whole: Vec<u8> = (0..SIZE).map(pattern).collect();
    std::fs::write(&path, &whole).unwrap();
    let (client, _) = client(folder.path(), limits);
    let fid = client.open("file", libc::O_RDONLY).unwrap();
    let stop = AtomicBool::new(false);
    let mut short = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 7919;
                file.set_len((round % SIZE) as u64).unwrap();
                file.set_len(SIZE as u64).unwrap();
                file.write_all_at(&whole, 0).unwrap();
            }
        });
        for round in 0..3000 {
            let offset = round * 4801 % SIZE;
            let count = [4096, 20_000, 65_536][round % 3];
            let message = Tmessage::Tread { fid, offset: offset as u64, count };
            let packet = client.rpc(message, b"").unwrap();
            // Decoding fails where count, size and payload are not the same.
            let (_, reply) = Rmessage::decode(&packet).unwrap();
            let Rmessage::Rread { count: said } = reply else { panic!("{reply:?}") };
            let data = packet.body.concat();
            assert_eq!(data.len(), said as usize);
            assert!(said <= count.min((SIZE - offset) as u32));
            short += u32::from(said < count.min((SIZE - offset) as u32));
            for (at, &byte) in data.iter().enumerate() {
                assert!(
                    byte == 0 || byte == pattern(offset + at),
                    "byte {} is {byte}",
                    offset + at
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{short} of 3000 were short");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_on_the_spot_gives_what_it_has() {
    read_while_it_shrinks(Limits::default());
}

#[test]
fn a_file_that_shrinks_while_workers_read_it_gives_what_it_has() {
    read_while_it_shrinks(Limits { on_the_spot: 0, ..Limits::default() });
}

#[test]
fn what_is_in_the_page_cache_is_read_on_the_spot_and_what_is_not_by_a_worker() {
    let folder = on_disk();
    if !reads_now(folder.path()) {
        return;
    }
    let path = folder.path().join("file");
    std::fs::write(&path, vec![7; SIZE]).unwrap();
    let (client, workers) = client(folder.path(), Limits::default());
    let fid = client.open("file", libc::O_RDONLY).unwrap();
    let read = |offset, count| assert_eq!(client.read(fid, offset, count).unwrap().len(), 60_000);
    assert_eq!(handed_over(&workers, || read(0, 60_000)), 0);
    let at_the_end = handed_over(&workers, || read(SIZE as u64 - 60_000, 65_536));
    assert_eq!(at_the_end, 0, "a short read at the end needs no worker either");
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    // It may come into the cache between being asked for and being looked at: not every time.
    let cold = (0..10).any(|_| {
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        handed_over(&workers, || read(0, 60_000)) == 1
    });
    assert!(cold, "no read of what is not in the cache went to a worker");
    assert_eq!(handed_over(&workers, || read(0, 60_000)), 0, "now it is");
}

#[test]
fn after_its_share_of_a_turn_the_rest_is_the_workers() {
    let folder = on_disk();
    if !reads_now(folder.path()) {
        return;
    }
    std::fs::write(folder.path().join("file"), vec![7; SIZE]).unwrap();
    let limits = Limits { on_the_spot: 64 << 10, ..Limits::default() };
    let (client, workers) = client(folder.path(), limits);
    let fid = client.open("file", libc::O_RDONLY).unwrap();
    for _ in 0..3 {
        workers.turn();
        let reads =
            || (0..20).for_each(|_| assert_eq!(client.read(fid, 0, 4096).unwrap().len(), 4096));
        assert_eq!(
            handed_over(&workers, reads),
            12,
            "eight of a page, and what each costs besides"
        );
        client.getattr(fid).unwrap();
    }
}

#[test]
fn a_synchronous_write_is_never_done_on_the_spot() {
    for base in [on_disk(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        std::fs::write(base.path().join("file"), vec![7; SIZE]).unwrap();
        let (client, workers) = client(base.path(), Limits::default());
        for flags in [libc::O_SYNC, libc::O_DSYNC] {
            let fid = client.open("file", libc::O_RDWR | flags).unwrap();
            let writes = || (0..50).for_each(|_| assert_eq!(client.write(fid, 0, b"x"), Ok(1)));
            assert_eq!(handed_over(&workers, writes), 50);
        }
    }
}

#[test]
fn what_was_written_is_read_whoever_did_either() {
    for (base, on_the_spot) in
        [(on_disk(), 24 << 10), (tempfile::tempdir_in("/dev/shm").unwrap(), 24 << 10)]
    {
        std::fs::write(base.path().join("file"), vec![0; SIZE]).unwrap();
        let limits = Limits { on_the_spot, ..Limits::default() };
        let (client, workers) = client(base.path(), limits);
        let fid = client.open("file", libc::O_RDWR).unwrap();
        let mut model = vec![0; SIZE];
        for round in 0..3000usize {
            // A share of two writes a turn: the rest is the workers'.
            if round % 4 == 0 {
                workers.turn();
            }
            let at = round * 7919 % (SIZE - 10_000);
            let data = vec![round as u8; 1 + round * 31 % 9000];
            assert_eq!(client.write(fid, at as u64, &data), Ok(data.len() as u32));
            model[at..at + data.len()].copy_from_slice(&data);
            let from = at.saturating_sub(500);
            let read = client.read(fid, from as u64, 10_000).unwrap();
            assert!(read == model[from..from + 10_000], "round {round}");
        }
        assert!(std::fs::read(base.path().join("file")).unwrap() == model);
    }
}

#[test]
fn appends_go_to_the_end_and_stay_whole() {
    for base in [on_disk(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        std::fs::write(base.path().join("file"), b"").unwrap();
        let (client, _) = client(base.path(), Limits::default());
        let appenders = [1, 2, 3]
            .map(|letter| (client.open("file", libc::O_WRONLY | libc::O_APPEND).unwrap(), letter));
        for round in 0..500u64 {
            for (fid, letter) in appenders {
                assert_eq!(client.write(fid, round % 3, &[letter; 1500]), Ok(1500));
            }
        }
        let data = std::fs::read(base.path().join("file")).unwrap();
        assert_eq!(data.len(), 500 * 3 * 1500);
        for (at, record) in data.chunks(1500).enumerate() {
            assert!(record.iter().all(|&byte| usize::from(byte) == at % 3 + 1), "record {at}");
        }
    }
}

#[test]
fn a_walk_and_an_open_of_what_is_in_memory_need_no_worker() {
    let folder = on_disk();
    if !reads_now(folder.path()) {
        return;
    }
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    std::fs::write(folder.path().join("a/b/file"), b"12345").unwrap();
    let (client, workers) = client(folder.path(), Limits::default());
    // What has just been made is in memory. A thread that is preempted in an open makes it look slow,
    // and for a while opens are the workers'.
    let at_once = (0..20).filter(|_| {
        let mut fid = None;
        let walk = handed_over(&workers, || fid = Some(client.walk("a/b/file").unwrap()));
        assert_eq!(walk, 0);
        let fid = fid.unwrap();
        let open = handed_over(&workers, || assert!(client.lopen(fid, libc::O_RDONLY).is_ok()));
        assert_eq!(client.read(fid, 0, 100).unwrap(), b"12345");
        client.clunk(fid).unwrap();
        open == 0
    });
    assert!(at_once.count() > 0);
    // Emptying it is a change, and may wait.
    let truncate = || {
        client.open("a/b/file", libc::O_WRONLY | libc::O_TRUNC).unwrap();
    };
    assert_eq!(handed_over(&workers, truncate), 1);
}

#[test]
fn a_known_name_that_leads_elsewhere_is_noticed() {
    let folder = on_disk();
    let path = folder.path().join("name");
    std::fs::write(&path, b"one").unwrap();
    let (client, _) = client(folder.path(), Limits::default());
    let one = client.walk("name").unwrap();
    let first = client.getattr(one).unwrap().0;
    std::fs::write(folder.path().join("other"), b"other").unwrap();
    std::fs::rename(folder.path().join("other"), &path).unwrap();
    let two = client.walk("name").unwrap();
    let (second, attributes) = client.getattr(two).unwrap();
    assert_ne!(first.path, second.path);
    assert_eq!(attributes.size, 5);
    client.lopen(two, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(two, 0, 10).unwrap(), b"other");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(client.walk("name"), Err(libc::ENOENT));
    std::os::unix::fs::symlink("/etc", &path).unwrap();
    let link = client.walk("name").unwrap();
    assert_eq!(client.readlink(link).unwrap(), b"/etc");
}
