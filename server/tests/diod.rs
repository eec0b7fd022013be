//! Debian's diod as the file server: how it is started, what it sees, and that nothing is left of it.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fs_client::{Client, PATIENCE, ROOT};
use libc::{O_RDONLY, O_RDWR};
use policy::FolderPath;
use server::backend::Dialect;
use server::backend::diod::{DiodError, start};
use transport::id::Fid;

fn path(folder: &Path) -> FolderPath {
    FolderPath::parse(folder.canonicalize().unwrap().as_os_str()).unwrap()
}

fn client(folder: &Path, read_only: bool) -> Client {
    let folder = path(folder);
    let socket = start(&folder, read_only, true).unwrap();
    let user = rustix::process::geteuid().as_raw();
    Client::at(socket.into(), Dialect::Diod { folder: folder.as_bytes().to_vec(), user })
}

/// The processes whose command line has `word` in it.
fn processes(word: &Path) -> Vec<PathBuf> {
    let word = fs_client::bytes(word);
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let named = all.filter(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        line.starts_with(b"diod\0") && line.split(|&byte| byte == 0).any(|part| part == word)
    });
    named.collect()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_folder_is_served_until_the_socket_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let client = client(dir.path(), false);
    let fid = client.create("", "f", O_RDWR, 0o640).unwrap();
    client.write(fid, 0, b"data").unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"data");
    assert_eq!(processes(dir.path()).len(), 1);
    drop(client);
    wait_for("diod is left", || processes(dir.path()).is_empty());
}

#[test]
fn nothing_outside_the_folder_is_to_be_seen() {
    let outer = tempfile::tempdir().unwrap();
    fs::create_dir(outer.path().join("in")).unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    let client = client(&outer.path().join("in"), false);
    let secret = outer.path().join("secret");
    for (name, target) in [
        ("up", Path::new("..")),
        ("file", Path::new("../secret")),
        ("absolute", secret.as_path()),
        ("root", Path::new("/")),
        ("proc", Path::new("/proc")),
    ] {
        client.symlink(ROOT, name.as_bytes(), fs_client::bytes(target)).unwrap();
        let link = client.walk(name).unwrap();
        for inner in ["secret", "etc", "usr", "self", "tmp"] {
            let walked = client.walk_raw(link, Fid(500), &[inner.as_bytes()]);
            assert!(walked.is_err(), "{name}/{inner}: {walked:?}");
        }
        assert!(client.lopen(link, O_RDONLY).is_err(), "{name} is opened");
        assert!(client.create(name, "new", O_RDWR, 0o600).is_err(), "{name}/new is made");
    }
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
}

#[test]
fn the_process_holds_nothing_of_its_starters() {
    let dir = tempfile::tempdir().unwrap();
    let held = fs::File::open("/dev/zero").unwrap();
    // As if it had come without the flag by which exec closes it.
    let open = rustix::io::dup(&held).unwrap();
    let client = client(dir.path(), false);
    let [process] = <[PathBuf; 1]>::try_from(processes(dir.path())).unwrap();
    let status = fs::read_to_string(process.join("status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    for process in [process.as_path(), &Path::new("/proc").join(parent)] {
        for entry in fs::read_dir(process.join("fd")).unwrap().flatten() {
            let target = fs::read_link(entry.path()).unwrap();
            let target = target.to_str().unwrap();
            let own = target.starts_with("socket:") || target == "/dev/null";
            assert!(own || target.starts_with("anon_inode:"), "{target}");
        }
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    drop((open, client));
}

#[test]
fn nothing_changes_in_a_folder_that_is_only_to_be_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "data").unwrap();
    let client = client(dir.path(), true);
    assert_eq!(client.open("f", O_RDWR).map(drop), Err(libc::EROFS));
    assert_eq!(client.mkdir(ROOT, b"d", 0o700), Err(libc::EROFS));
    let f = client.walk("f").unwrap();
    assert_eq!(client.chmod(f, 0o777), Err(libc::EROFS));
    assert_eq!(client.truncate(f, 0), Err(libc::EROFS));
    let fid = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.read(fid, 0, 9).unwrap(), b"data");
    let unconfined = start(&path(dir.path()), true, false);
    assert_eq!(unconfined.map(drop), Err(DiodError::ReadOnly));
}

#[test]
fn folders_with_odd_names_are_served() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"a b"[..], b"a,b=c:d", b"-x", b"\"'\\$*", b"\xff\xfe\n\t", b".hidden", b"..."] {
        let folder = dir.path().join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("f"), name).unwrap();
        if name.starts_with(b"..") {
            assert_eq!(start(&path(&folder), false, true).map(drop), Err(DiodError::Path));
            continue;
        }
        let client = client(&folder, false);
        let fid = client.open("f", O_RDONLY).unwrap();
        assert_eq!(client.read(fid, 0, 99).unwrap(), name);
    }
}

#[test]
fn the_folders_of_the_system_are_served_too() {
    for folder in ["/", "/usr", "/usr/lib", "/etc", "/dev", "/usr/sbin", "/usr/share"] {
        let client = client(Path::new(folder), true);
        let names = client.names(client.open("", O_RDONLY).unwrap(), 8192).unwrap();
        assert_eq!(names.len(), 2 + fs::read_dir(folder).unwrap().count(), "{folder}");
    }
}
