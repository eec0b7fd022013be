//! Requests that are given up, and locks: who excludes whom, who waits, and what ends the wait.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use fs_client::{Client, ROOT, workers};
use libc::{O_RDONLY, O_RDWR};
use server::fs::{Export, SessionError};
use transport::id::Tag;
use transport::ninep::Tmessage;
use transport::ninep::message::lock::{BLOCKED, FLAG_BLOCK, RDLCK, SUCCESS, UNLCK, WRLCK};

const ALL: (u64, u64) = (0, 0);

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "0123456789").unwrap();
    dir
}

/// Takes or lets go of a lock as another process would: by a description of its own.
#[allow(unsafe_code)]
fn local(file: &File, kind: i32, start: i64, length: i64) -> bool {
    // SAFETY: zeros are a `struct flock`, and the descriptor is open.
    let done = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as _;
        lock.l_start = start;
        lock.l_len = length;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock)
    };
    done == 0
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Makes sure that everything sent before has been looked at: a lock that must wait is parked by
/// then, as a worker that parks it is done with it before it answers something else for the last.
fn settle(client: &Client) {
    for _ in 0..50 {
        client.statfs(ROOT).unwrap();
    }
}

#[test]
fn a_lock_in_a_folder_for_reading_opens_nothing_for_writing() {
    let dir = folder();
    let client = Client::read_only(dir.path());
    let fid = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.lock(fid, RDLCK, ALL, 1), Ok(SUCCESS));
    let file = dir.path().canonicalize().unwrap().join("f");
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    let mut seen = 0;
    for entry in descriptors.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == file))
    {
        let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
        let info = fs::read_to_string(info).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_eq!(flags & libc::O_ACCMODE, O_RDONLY, "{info}");
        seen += 1;
    }
    assert!(seen >= 2, "the fid's and the lock's");
    // As fcntl(2) has it for a file that is open for reading.
    assert_eq!(client.lock(fid, WRLCK, ALL, 2), Err(libc::EBADF));
}

#[test]
fn owners_exclude_each_other_and_other_processes() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert_eq!(client.lock(fid, WRLCK, (0, 5), 1), Ok(SUCCESS));
    assert_eq!(client.lock(fid, RDLCK, (4, 1), 2), Ok(BLOCKED), "one mount, one fid, two owners");
    assert_eq!(client.lock(fid, WRLCK, (5, 0), 2), Ok(SUCCESS), "next to it");
    assert_eq!(client.lock(fid, WRLCK, (0, 3), 1), Ok(SUCCESS), "its own");
    assert!(!local(&outside, libc::F_RDLCK, 0, 1));
    assert!(!local(&outside, libc::F_RDLCK, 100, 1));
    assert_eq!(client.lock(fid, UNLCK, (0, 5), 1), Ok(SUCCESS));
    assert!(local(&outside, libc::F_RDLCK, 0, 1));
    assert_eq!(client.lock(fid, WRLCK, (0, 1), 1), Ok(BLOCKED));
    assert_eq!(client.lock(fid, RDLCK, (0, 1), 1), Ok(SUCCESS), "shared");
    assert_eq!(client.getlock(fid, WRLCK, (0, 1), 1), Ok(Some((RDLCK, 0, 1, 0))), "the process");
    assert_eq!(client.getlock(fid, WRLCK, (9, 1), 1), Ok(Some((WRLCK, 5, 0, 2))), "the owner");
    assert_eq!(client.getlock(fid, WRLCK, (9, 1), 2), Ok(None), "its own");
    assert_eq!(client.getlock(fid, WRLCK, (2, 1), 3), Ok(None));
    // As Linux asks, whatever its program wants to know.
    assert_eq!(client.getlock(fid, UNLCK, (0, 1), 1), Ok(Some((RDLCK, 0, 1, 0))), "the kernel");
    assert_eq!(client.lock(fid, UNLCK, ALL, 77), Ok(SUCCESS), "nothing to let go");
    assert_eq!(client.lock(fid, 9, ALL, 1), Err(libc::EINVAL));
    assert_eq!(client.lock(fid, WRLCK, (u64::MAX, 1), 1), Err(libc::EINVAL));
    assert_eq!(client.lock(fid, WRLCK, (1 << 62, 1 << 63), 1), Err(libc::EOVERFLOW));
    let unopened = client.walk("f").unwrap();
    assert_eq!(client.lock(unopened, WRLCK, ALL, 1), Err(libc::EBADF));
}

#[test]
fn two_mounts_exclude_each_other() {
    let dir = folder();
    let export = Export::open(&dir.path().canonicalize().unwrap(), false).unwrap();
    let workers = workers();
    let one = Client::with(export.clone(), workers.clone());
    let two = Client::with(export, workers);
    let (a, b) = (one.open("f", O_RDWR).unwrap(), two.open("f", O_RDWR).unwrap());
    assert_eq!(one.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(two.lock(b, WRLCK, ALL, 1), Ok(BLOCKED), "the same numbers on another mount");
    let tag = two.send(Client::lock_message(b, WRLCK, FLAG_BLOCK, ALL, 1), b"");
    settle(&two);
    assert!(!two.inbox.has(tag));
    one.session.close();
    assert_eq!(Client::lock_status(&two.inbox.take(tag)), SUCCESS, "the other mount is gone");
}

#[test]
fn locks_go_with_the_last_fid_that_has_the_file_open() {
    let dir = folder();
    let client = Client::of(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDONLY).unwrap());
    let outside = open(&dir.path().join("f"));
    assert_eq!(client.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(client.lock(b, UNLCK, (1, 1), 1), Ok(SUCCESS), "locks are the file's");
    assert!(local(&outside, libc::F_WRLCK, 1, 1));
    client.clunk(a).unwrap();
    assert!(!local(&outside, libc::F_WRLCK, 5, 1));
    client.clunk(b).unwrap();
    assert!(local(&outside, libc::F_WRLCK, 5, 1));
    // A version begins anew.
    let fid = client.open("f", O_RDWR).unwrap();
    local(&outside, libc::F_UNLCK, 0, 0);
    assert_eq!(client.lock(fid, WRLCK, ALL, 1), Ok(SUCCESS));
    client.version();
    client.attach(ROOT, b"").unwrap();
    let fid = client.open("f", O_RDWR).unwrap();
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 2), b"");
    assert_eq!(Client::lock_status(&client.inbox.take(tag)), SUCCESS);
}

#[test]
fn a_file_that_was_removed_can_still_be_locked() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    client.unlinkat(ROOT, b"f", 0).unwrap();
    assert_eq!(client.lock(fid, WRLCK, ALL, 1), Ok(SUCCESS));
    assert!(!local(&outside, libc::F_WRLCK, 0, 0));
    assert_eq!(client.lock(fid, UNLCK, ALL, 1), Ok(SUCCESS));
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
}

#[test]
fn a_lock_that_is_waited_for_blocks_nobody() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
    // More than there are threads.
    let tags: Vec<u16> = (0..100)
        .map(|owner| client.send(Client::lock_message(fid, RDLCK, FLAG_BLOCK, ALL, owner), b""))
        .collect();
    settle(&client);
    assert_eq!(client.read(fid, 0, 3).unwrap(), b"012");
    assert!(tags.iter().all(|&tag| !client.inbox.has(tag)), "none is answered `blocked`");
    assert!(local(&outside, libc::F_UNLCK, 0, 0));
    for tag in tags {
        assert_eq!(Client::lock_status(&client.inbox.take(tag)), SUCCESS);
    }
    // One of this mount's own.
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 0), b"");
    for owner in 1..100 {
        assert_eq!(client.lock(fid, UNLCK, ALL, owner), Ok(SUCCESS));
    }
    assert_eq!(Client::lock_status(&client.inbox.take(tag)), SUCCESS);
}

#[test]
fn a_flush_ends_the_wait_and_leaves_no_lock() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 1), b"");
    settle(&client);
    client.ok(Tmessage::Tflush { oldtag: Tag(tag) }).unwrap();
    assert!(!client.inbox.has(tag), "no answer to what was flushed");
    assert!(local(&outside, libc::F_UNLCK, 0, 0));
    assert_eq!(client.lock(fid, WRLCK, ALL, 2), Ok(SUCCESS), "owner 1 never got it");
    settle(&client);
    assert!(!client.inbox.has(tag));
    // The tag may be used again.
    client.submit(tag, Tmessage::Tgetattr { fid, mask: 0 }, b"").unwrap();
    client.inbox.take(tag);
    // Of what is not there, of itself.
    client.ok(Tmessage::Tflush { oldtag: Tag(50_000) }).unwrap();
    client.submit(60_001, Tmessage::Tflush { oldtag: Tag(60_001) }, b"").unwrap();
    client.inbox.take(60_001);
}

#[test]
fn a_session_that_ends_waits_for_nothing_and_holds_nothing() {
    let dir = folder();
    let outside = open(&dir.path().join("f"));
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    assert!(local(&outside, libc::F_WRLCK, 5, 1));
    assert_eq!(client.lock(fid, WRLCK, (0, 1), 1), Ok(SUCCESS));
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 2), b"");
    settle(&client);
    client.session.close();
    client.session.close();
    let after = client.submit(9, Tmessage::Tclunk { fid }, b"");
    assert_eq!(after, Err(SessionError::Closed));
    // Its lock is let go soon.
    let until = std::time::Instant::now() + fs_client::PATIENCE;
    while !local(&outside, libc::F_WRLCK, 0, 1) {
        assert!(std::time::Instant::now() < until);
        std::thread::yield_now();
    }
    local(&outside, libc::F_UNLCK, 0, 0);
    assert!(!client.inbox.has(tag));
}

#[test]
fn a_version_ends_what_waits() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 1), b"");
    settle(&client);
    client.version();
    assert!(local(&outside, libc::F_UNLCK, 0, 0));
    client.attach(ROOT, b"").unwrap();
    settle(&client);
    assert!(!client.inbox.has(tag), "it is another session's");
}

#[test]
fn a_tag_that_is_used_twice_ends_the_session() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 1), b"");
    let again = client.submit(tag, Tmessage::Tgetattr { fid, mask: 0 }, b"");
    assert_eq!(again, Err(SessionError::TagInUse(Tag(tag))));
    let flush = client.submit(tag, Tmessage::Tflush { oldtag: Tag(1) }, b"");
    assert_eq!(flush, Err(SessionError::TagInUse(Tag(tag))));
}

#[test]
fn clunked_while_it_waits_a_lock_is_not_left_behind() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
    let tag = client.send(Client::lock_message(fid, WRLCK, FLAG_BLOCK, ALL, 1), b"");
    settle(&client);
    client.clunk(fid).unwrap();
    assert!(local(&outside, libc::F_UNLCK, 0, 0));
    let packet = client.inbox.take(tag);
    let (_, reply) = transport::ninep::Rmessage::decode(&packet).unwrap();
    assert_eq!(reply, transport::ninep::Rmessage::Rlerror { errno: libc::EBADF as u32 });
    assert!(local(&outside, libc::F_WRLCK, 0, 0));
}
