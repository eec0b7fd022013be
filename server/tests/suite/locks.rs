//! Byte-range locks: who excludes whom.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use libc::O_RDWR;
use transport::ninep::message::lock::{BLOCKED, FLAG_BLOCK, RDLCK, SUCCESS, UNLCK, WRLCK};

use crate::On;
use crate::fs_client::{Client, ROOT};

const ALL: (u64, u64) = (0, 0);

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "0123456789").unwrap();
    dir
}

/// Takes or lets go of a lock as another process would: by a description of its own.
#[allow(unsafe_code)]
fn local(file: &File, kind: i32) -> bool {
    // SAFETY: zeros are a `struct flock`, and the descriptor is open.
    let done = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as _;
        libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock)
    };
    done == 0
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

pub fn a_lock_excludes_other_fids_until_it_is_let_go(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDWR).unwrap());
    assert_eq!(client.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(client.lock(b, WRLCK, ALL, 2), Ok(BLOCKED));
    assert_eq!(client.lock(b, RDLCK, ALL, 2), Ok(BLOCKED));
    assert_eq!(client.lock(a, UNLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(client.lock(a, RDLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(client.lock(b, RDLCK, ALL, 2), Ok(SUCCESS), "shared");
    assert_eq!(client.lock(b, WRLCK, ALL, 2), Ok(BLOCKED));
    assert_eq!(client.lock(a, 9, ALL, 1), Err(libc::EINVAL));
    let unopened = client.walk("f").unwrap();
    assert_eq!(client.lock(unopened, WRLCK, ALL, 1), Err(libc::EBADF));
}

pub fn a_lock_excludes_other_mounts(on: On) {
    let dir = folder();
    let (one, two) = (on.client(dir.path()), on.client(dir.path()));
    let (a, b) = (one.open("f", O_RDWR).unwrap(), two.open("f", O_RDWR).unwrap());
    assert_eq!(one.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(two.lock(b, WRLCK, ALL, 1), Ok(BLOCKED), "the same numbers on another mount");
    one.clunk(a).unwrap();
    assert_eq!(two.lock(b, WRLCK, ALL, 1), Ok(SUCCESS), "it went with its fid");
}

pub fn owners_of_one_fid_exclude_each_other(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    assert_eq!(client.lock(fid, WRLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(client.lock(fid, WRLCK, ALL, 2), Ok(BLOCKED));
}

pub fn a_lock_is_of_its_range_alone(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDWR).unwrap());
    assert_eq!(client.lock(a, WRLCK, (0, 5), 1), Ok(SUCCESS));
    assert_eq!(client.lock(b, WRLCK, (5, 5), 2), Ok(SUCCESS));
}

pub fn record_locks_of_local_programs_count(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let fid = client.open("f", O_RDWR).unwrap();
    let outside = open(&dir.path().join("f"));
    assert!(local(&outside, libc::F_WRLCK));
    assert_eq!(client.lock(fid, WRLCK, ALL, 1), Ok(BLOCKED));
    assert!(local(&outside, libc::F_UNLCK));
    assert_eq!(client.lock(fid, WRLCK, ALL, 1), Ok(SUCCESS));
    assert!(!local(&outside, libc::F_WRLCK));
}

pub fn a_lock_in_the_way_is_told(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDWR).unwrap());
    assert_eq!(client.getlock(b, WRLCK, ALL, 2), Ok(None));
    assert_eq!(client.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    let found = client.getlock(b, WRLCK, ALL, 2).unwrap().unwrap();
    assert_eq!((found.0, found.1, found.2), (WRLCK, 0, 0));
}

pub fn the_owner_of_a_lock_in_the_way_is_told(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDWR).unwrap());
    assert_eq!(client.lock(a, WRLCK, (2, 3), 1), Ok(SUCCESS));
    assert_eq!(client.getlock(b, WRLCK, ALL, 2), Ok(Some((WRLCK, 2, 3, 1))));
}

pub fn a_lock_in_the_way_is_told_as_linux_asks(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDWR).unwrap());
    assert_eq!(client.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    // Whatever its program wants to know.
    assert_eq!(client.getlock(b, UNLCK, ALL, 2).unwrap().map(|found| found.0), Some(WRLCK));
}

pub fn a_lock_that_is_waited_for_comes_when_it_is_free(on: On) {
    let dir = folder();
    let client = on.client(dir.path());
    let (a, b) = (client.open("f", O_RDWR).unwrap(), client.open("f", O_RDWR).unwrap());
    assert_eq!(client.lock(a, WRLCK, ALL, 1), Ok(SUCCESS));
    let tag = client.send(Client::lock_message(b, WRLCK, FLAG_BLOCK, ALL, 2), b"");
    client.statfs(ROOT).unwrap();
    assert_eq!(client.lock(a, UNLCK, ALL, 1), Ok(SUCCESS));
    assert_eq!(Client::lock_status(&client.inbox.take(tag)), SUCCESS);
}
