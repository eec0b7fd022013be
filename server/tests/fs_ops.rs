//! What each operation does, on a real folder, looked at from both sides.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use fs_client::{Client, ROOT, bytes};
use libc::{O_APPEND, O_CREAT, O_DIRECT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use transport::id::Fid;
use transport::ninep::message::{AT_REMOVEDIR, SetAttributes, Time, VERSION, setattr};
use transport::ninep::{QidKind, Tmessage};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_file_is_written_and_read_back() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.create("", "f", O_RDWR, 0o640).unwrap();
    let data: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
    assert_eq!(client.write(fid, 0, &data), Ok(50_000));
    assert_eq!(client.read(fid, 0, 60_000).unwrap(), data);
    assert_eq!(client.read(fid, 49_999, 10).unwrap(), data[49_999..]);
    assert_eq!(client.read(fid, 50_000, 10).unwrap(), b"");
    assert_eq!(client.fsync(fid), Ok(()));
    assert_eq!(client.clunk(fid), Ok(()));
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), data);
    let mode = fs::metadata(dir.path().join("f")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777 | 0o022, 0o640 | 0o022, "{mode:o}");
    assert_eq!(client.read(fid, 0, 1), Err(libc::EBADF));
}

#[test]
fn attach_is_to_the_granted_folder_alone() {
    let dir = folder();
    let path = dir.path().canonicalize().unwrap();
    let client = Client::of(&path);
    assert!(client.attach(Fid(100), bytes(&path)).is_ok());
    assert_eq!(client.attach(Fid(101), b"/"), Err(libc::ENOENT));
    assert_eq!(client.attach(Fid(101), b"/etc"), Err(libc::ENOENT));
    assert_eq!(client.attach(Fid(100), b""), Err(libc::EBADF), "the fid is in use");
    let auth = Tmessage::Tauth { afid: Fid(7), uname: b"", aname: b"", n_uname: 0 };
    assert_eq!(client.ok(auth), Err(libc::EOPNOTSUPP));
}

#[test]
fn a_walk_gives_the_qids_of_what_it_found() {
    let dir = folder();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/f"), "x").unwrap();
    let client = Client::of(dir.path());
    let qids = client.walk_raw(ROOT, Fid(10), &[b"a", b"b", b"f"]).unwrap();
    let inode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().ino();
    assert_eq!(
        qids.iter().map(|qid| (qid.kind, qid.path)).collect::<Vec<_>>(),
        [(QidKind::DIR, inode("a")), (QidKind::DIR, inode("a/b")), (QidKind::FILE, inode("a/b/f"))]
    );
    assert!(qids.iter().all(|qid| qid.version != 0));
    // The first name: an error. A later one: fewer qids, and no fid.
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"z", b"b"]), Err(libc::ENOENT));
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"a", b"z", b"f"]).unwrap().len(), 1);
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"a", b"b", b"f", b"g"]).unwrap().len(), 3);
    assert_eq!(client.getattr(Fid(11)), Err(libc::EBADF));
    assert_eq!(client.walk_raw(ROOT, Fid(10), &[b"a"]), Err(libc::EBADF), "newfid is in use");
    assert_eq!(client.walk_raw(ROOT, Fid(10), &[]), Err(libc::EBADF));
    assert_eq!(client.walk_raw(Fid(999), Fid(12), &[]), Err(libc::EBADF));
    // In place.
    client.walk_raw(ROOT, Fid(12), &[]).unwrap();
    client.walk_raw(Fid(12), Fid(12), &[b"a", b"b"]).unwrap();
    assert_eq!(client.getattr(Fid(12)).unwrap().0.path, inode("a/b"));
    assert_eq!(client.walk_raw(Fid(12), Fid(12), &[b"f", b"z"]).unwrap().len(), 1);
    assert_eq!(client.getattr(Fid(12)).unwrap().0.path, inode("a/b"), "unchanged");
}

#[test]
fn a_folder_is_listed_whole_in_pieces_of_any_size() {
    let dir = folder();
    let client = Client::of(dir.path());
    let mut expected: Vec<Vec<u8>> = vec![b".".to_vec(), b"..".to_vec()];
    for i in 0..500 {
        let name = format!("{}-{i}", "n".repeat(i % 200));
        fs::write(dir.path().join(&name), "").unwrap();
        expected.push(name.into_bytes());
    }
    expected.sort();
    for count in [240, 1000, 4096, 65_536] {
        let fid = client.open("", O_RDONLY).unwrap();
        let mut names = client.names(fid, count).unwrap();
        names.sort();
        assert_eq!(names, expected, "in pieces of {count}");
        client.clunk(fid).unwrap();
    }
    let fid = client.open("", O_RDONLY).unwrap();
    assert_eq!(client.readdir(fid, 0, 24), Err(libc::EINVAL), "no entry fits");
    let root = client.getattr(ROOT).unwrap().0;
    for (name, _, kind, qid) in client.readdir(fid, 0, 65_536).unwrap() {
        assert_ne!(qid.version, 0);
        if name == b"." || name == b".." {
            assert_eq!((qid.path, kind), (root.path, libc::DT_DIR), "nothing above the root");
        } else {
            let path = dir.path().join(std::str::from_utf8(&name).unwrap());
            assert_eq!((qid.path, kind), (fs::metadata(path).unwrap().ino(), libc::DT_REG));
        }
    }
}

#[test]
fn folders_are_made_and_removed() {
    let dir = folder();
    let client = Client::of(dir.path());
    assert_eq!(client.mkdir(ROOT, b"d", 0o755), Ok(()));
    assert_eq!(client.mkdir(ROOT, b"d", 0o755), Err(libc::EEXIST));
    let d = client.walk("d").unwrap();
    assert_eq!(client.mkdir(d, b"e", 0o700), Ok(()));
    assert_eq!(client.unlinkat(ROOT, b"d", AT_REMOVEDIR), Err(libc::ENOTEMPTY));
    assert_eq!(client.unlinkat(d, b"e", 0), Err(libc::EISDIR));
    assert_eq!(client.unlinkat(d, b"e", AT_REMOVEDIR), Ok(()));
    assert_eq!(client.unlinkat(d, b"e", AT_REMOVEDIR), Err(libc::ENOENT));
    assert_eq!(client.unlinkat(d, b"e", 1), Err(libc::EINVAL));
    let f = client.create("d", "f", O_RDWR, 0o600).unwrap();
    assert_eq!(client.unlinkat(d, b"f", AT_REMOVEDIR), Err(libc::ENOTDIR));
    assert_eq!(client.unlinkat(d, b"f", 0), Ok(()));
    client.clunk(f).unwrap();
    assert_eq!(client.ok(Tmessage::Tremove { fid: d }), Ok(()));
    assert!(!dir.path().join("d").exists());
    assert_eq!(client.getattr(d), Err(libc::EBADF), "remove ends the fid");
}

#[test]
fn a_renamed_open_file_is_still_the_same() {
    let dir = folder();
    let client = Client::of(dir.path());
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    let fid = client.create("d", "f", O_RDWR, 0o600).unwrap();
    let inode = client.getattr(fid).unwrap().0.path;
    let d = client.walk("d").unwrap();
    client.renameat((d, b"f"), (ROOT, b"g")).unwrap();
    assert_eq!(client.getattr(fid).unwrap().0.path, inode);
    assert_eq!(client.write(fid, 0, b"after"), Ok(5));
    assert_eq!(fs::read(dir.path().join("g")).unwrap(), b"after");
    // A fid that only names it follows, too.
    let named = client.walk("g").unwrap();
    client.renameat((ROOT, b"g"), (d, b"h")).unwrap();
    let again = client.walk_from(named, "").unwrap();
    client.lopen(again, O_RDONLY).unwrap();
    assert_eq!(client.read(again, 0, 10).unwrap(), b"after");
}

#[test]
fn a_removed_open_file_lives_until_it_is_closed() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.create("", "f", O_RDWR, 0o600).unwrap();
    let named = client.walk("f").unwrap();
    client.write(fid, 0, b"data").unwrap();
    client.unlinkat(ROOT, b"f", 0).unwrap();
    for fid in [fid, named] {
        let (_, attributes) = client.getattr(fid).unwrap();
        assert_eq!((attributes.nlink, attributes.size), (0, 4));
    }
    assert_eq!(client.truncate(fid, 2), Ok(()));
    assert_eq!(client.chmod(fid, 0o400), Ok(()));
    assert_eq!(client.read(fid, 0, 10).unwrap(), b"da");
    assert_eq!(client.walk("f"), Err(libc::ENOENT));
    client.create("", "f", O_RDWR, 0o600).unwrap();
    assert_eq!(client.getattr(fid).unwrap().1.size, 2, "not the new file");
}

#[test]
fn all_below_an_open_folder_moves_with_it() {
    let dir = folder();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    fs::write(dir.path().join("a/b/c/f"), "deep").unwrap();
    let client = Client::of(dir.path());
    let open = client.open("a/b", O_RDONLY).unwrap();
    let file = client.walk("a/b/c/f").unwrap();
    let x = client.walk("x").unwrap();
    client.renameat((ROOT, b"a"), (x, b"moved")).unwrap();
    let mut names = client.names(open, 4096).unwrap();
    names.sort();
    assert_eq!(names, [&b"."[..], b"..", b"c"]);
    client.lopen(file, O_RDONLY).unwrap();
    assert_eq!(client.read(file, 0, 9).unwrap(), b"deep");
    let up = client.walk("x/moved/b").unwrap();
    let qids = client.walk_raw(up, Fid(900), &[b"..", b"..", b"..", b".."]).unwrap();
    assert_eq!(qids[1].path, fs::metadata(dir.path().join("x")).unwrap().ino());
    assert_eq!(qids[2], qids[3], "the root's parent is the root");
}

#[test]
fn renames_answer_as_the_disk_does() {
    let dir = folder();
    let client = Client::of(dir.path());
    for name in [&b"d"[..], b"e", b"full"] {
        client.mkdir(ROOT, name, 0o755).unwrap();
    }
    let full = client.walk("full").unwrap();
    client.mkdir(full, b"sub", 0o755).unwrap();
    for name in ["f", "g"] {
        let fid = client.create("", name, O_WRONLY, 0o600).unwrap();
        client.write(fid, 0, name.as_bytes()).unwrap();
        client.clunk(fid).unwrap();
    }
    let rename = |from: &[u8], to: &[u8]| client.renameat((ROOT, from), (ROOT, to));
    assert_eq!(rename(b"d", b"full"), Err(libc::ENOTEMPTY));
    assert_eq!(rename(b"d", b"f"), Err(libc::ENOTDIR));
    assert_eq!(rename(b"f", b"d"), Err(libc::EISDIR));
    assert_eq!(rename(b"none", b"x"), Err(libc::ENOENT));
    let d = client.walk("d").unwrap();
    assert_eq!(client.renameat((ROOT, b"d"), (d, b"x")), Err(libc::EINVAL), "into itself");
    assert_eq!(rename(b"d", b"e"), Ok(()), "an empty folder is replaced");
    let over = client.walk("g").unwrap();
    assert_eq!(rename(b"f", b"g"), Ok(()));
    assert_eq!(fs::read(dir.path().join("g")).unwrap(), b"f");
    assert_eq!(client.getattr(over).unwrap().1.nlink, 0, "the one that was replaced");
    // By fid.
    let g = client.walk("g").unwrap();
    assert_eq!(client.ok(Tmessage::Trename { fid: g, dfid: full, name: b"r" }), Ok(()));
    assert_eq!(fs::read(dir.path().join("full/r")).unwrap(), b"f");
    let busy = Tmessage::Trename { fid: ROOT, dfid: full, name: b"r" };
    assert_eq!(client.ok(busy), Err(libc::EBUSY));
    // Two names of one file.
    let r = client.walk("full/r").unwrap();
    client.link(r, full, b"s").unwrap();
    let s = client.walk("full/s").unwrap();
    assert_eq!(client.renameat((full, b"r"), (full, b"s")), Ok(()), "does nothing");
    assert!(dir.path().join("full/r").exists());
    assert_eq!(client.ok(Tmessage::Tremove { fid: s }), Ok(()));
    assert!(dir.path().join("full/r").exists(), "the fid's own name went");
    assert!(!dir.path().join("full/s").exists());
}

#[test]
fn links_are_made_and_read_and_never_followed() {
    let dir = folder();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let client = Client::of(dir.path());
    for (name, target) in [(&b"l"[..], &b"d"[..]), (b"dangling", b"../none"), (b"abs", b"/etc")] {
        assert_eq!(client.symlink(ROOT, name, target), Ok(()));
        let fid = client.walk(std::str::from_utf8(name).unwrap()).unwrap();
        assert_eq!(client.readlink(fid).unwrap(), target);
        let (qid, attributes) = client.getattr(fid).unwrap();
        assert_eq!(qid.kind, QidKind::SYMLINK);
        assert_eq!(attributes.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(client.lopen(fid, O_RDONLY), Err(libc::ELOOP));
        assert_eq!(client.walk_raw(fid, Fid(700), &[b"f"]), Err(libc::ENOTDIR));
        assert_eq!(client.mkdir(fid, b"x", 0o755), Err(libc::ENOTDIR));
        let times = SetAttributes { valid: setattr::MTIME, ..Default::default() };
        assert_eq!(client.setattr(fid, times), Ok(()), "of the link itself");
        assert_eq!(client.truncate(fid, 0), Err(libc::EINVAL));
        assert_eq!(client.chmod(fid, 0o600), Err(libc::EOPNOTSUPP));
    }
    assert_eq!(client.symlink(ROOT, b"l", b"x"), Err(libc::EEXIST));
    assert_eq!(client.symlink(ROOT, b"empty", b""), Err(libc::ENOENT));
    assert_eq!(client.symlink(ROOT, b"long", &[b'x'; 4096]), Err(libc::ENAMETOOLONG));
    assert_eq!(client.symlink(ROOT, b"long", &[b'x'; 4095]), Ok(()));
    let long = client.walk("long").unwrap();
    assert_eq!(client.readlink(long).unwrap().len(), 4095);
    assert_eq!(client.lcreate(client.walk("").unwrap(), b"abs", O_RDWR, 0o600), Err(libc::ELOOP));
    let create = client.lcreate(client.walk("").unwrap(), b"abs", O_RDWR | O_EXCL, 0o600);
    assert_eq!(create, Err(libc::EEXIST));
    let f = client.walk("f").unwrap();
    assert_eq!(client.readlink(f), Err(libc::EINVAL));
    assert_eq!(client.link(f, ROOT, b"hard"), Ok(()));
    assert_eq!(client.link(f, ROOT, b"hard"), Err(libc::EEXIST));
    assert_eq!(client.getattr(f).unwrap().1.nlink, 2);
    let d = client.walk("d").unwrap();
    assert_eq!(client.link(d, ROOT, b"hard2"), Err(libc::EPERM));
    let l = client.walk("l").unwrap();
    assert_eq!(client.link(l, ROOT, b"hard3"), Ok(()), "of the link itself");
    assert_eq!(fs::read_link(dir.path().join("hard3")).unwrap().as_os_str(), "d");
    // A reply is never longer than the session's messages.
    client.version_of(4096, VERSION);
    client.attach(ROOT, b"").unwrap();
    let long = client.walk("long").unwrap();
    assert_eq!(client.readlink(long).map(|target| target.len()), Err(libc::ENAMETOOLONG));
}

#[test]
fn special_files_are_made_but_not_opened() {
    let dir = folder();
    let client = Client::of(dir.path());
    assert_eq!(client.mknod(ROOT, b"null", libc::S_IFCHR | 0o666), Err(libc::EPERM));
    assert_eq!(client.mknod(ROOT, b"disk", libc::S_IFBLK | 0o666), Err(libc::EPERM));
    assert_eq!(client.mknod(ROOT, b"dir", libc::S_IFDIR | 0o666), Err(libc::EINVAL));
    assert_eq!(client.mknod(ROOT, b"pipe", libc::S_IFIFO | 0o600), Ok(()));
    assert_eq!(client.mknod(ROOT, b"sock", libc::S_IFSOCK | 0o600), Ok(()));
    assert_eq!(client.mknod(ROOT, b"file", libc::S_IFREG | 0o600), Ok(()));
    assert_eq!(client.mknod(ROOT, b"file", libc::S_IFREG | 0o600), Err(libc::EEXIST));
    for name in ["pipe", "sock"] {
        assert_eq!(client.open(name, O_RDONLY), Err(libc::ENXIO));
        assert_eq!(client.open(name, O_WRONLY), Err(libc::ENXIO));
        let create = client.lcreate(client.walk("").unwrap(), name.as_bytes(), O_RDWR, 0o600);
        assert_eq!(create, Err(libc::ENXIO));
    }
    let pipe = client.walk("pipe").unwrap();
    assert_eq!(client.getattr(pipe).unwrap().1.mode, libc::S_IFIFO | 0o600);
    assert_eq!(client.chmod(pipe, 0o644), Ok(()));
    assert_eq!(client.truncate(pipe, 0), Err(libc::EINVAL));
    assert!(client.open("file", O_RDWR).is_ok());
}

#[test]
fn attributes_are_those_of_the_disk() {
    let dir = folder();
    let path = dir.path().join("f");
    fs::write(&path, vec![7; 5000]).unwrap();
    let client = Client::of(dir.path());
    let fid = client.walk("f").unwrap();
    let check = || {
        let (qid, ours) = client.getattr(fid).unwrap();
        let disk = fs::metadata(&path).unwrap();
        assert_eq!(qid.path, disk.ino());
        assert_eq!((ours.mode, ours.uid, ours.gid), (disk.mode(), disk.uid(), disk.gid()));
        assert_eq!((ours.nlink, ours.rdev, ours.size), (disk.nlink(), disk.rdev(), disk.size()));
        assert_eq!((ours.blksize, ours.blocks), (disk.blksize(), disk.blocks()));
        let pair = |time: Time| (time.sec as i64, time.nsec as i64);
        assert_eq!(pair(ours.atime), (disk.atime(), disk.atime_nsec()));
        assert_eq!(pair(ours.mtime), (disk.mtime(), disk.mtime_nsec()));
        assert_eq!(pair(ours.ctime), (disk.ctime(), disk.ctime_nsec()));
        (qid, ours)
    };
    let (before, _) = check();
    let time = |sec: i64, nsec| Time { sec: sec as u64, nsec };
    client
        .setattr(
            fid,
            SetAttributes {
                valid: setattr::MODE
                    | setattr::SIZE
                    | setattr::ATIME
                    | setattr::ATIME_SET
                    | setattr::MTIME
                    | setattr::MTIME_SET,
                mode: 0o4751,
                size: 123,
                atime: time(-5, 1),
                mtime: time(1_000_000_000, 999_999_999),
                ..Default::default()
            },
        )
        .unwrap();
    let (after, attributes) = check();
    assert_ne!(after.version, before.version);
    assert_eq!((attributes.mode & 0o7777, attributes.size), (0o4751, 123));
    assert_eq!(attributes.atime, time(-5, 1));
    assert_eq!(attributes.mtime, time(1_000_000_000, 999_999_999));
    let now = SetAttributes { valid: setattr::MTIME, ..Default::default() };
    client.setattr(fid, now).unwrap();
    let (_, attributes) = check();
    assert!(attributes.mtime.sec > 1_500_000_000);
    assert_eq!(attributes.atime, time(-5, 1), "left alone");
    let bad = Time { sec: 0, nsec: 1_000_000_000 };
    let set = SetAttributes {
        valid: setattr::MTIME | setattr::MTIME_SET,
        mtime: bad,
        ..Default::default()
    };
    assert_eq!(client.setattr(fid, set), Err(libc::EINVAL));
    assert_eq!(client.truncate(fid, u64::MAX), Err(libc::EINVAL));
    assert_eq!(client.truncate(ROOT, 0), Err(libc::EISDIR));
    assert_eq!(client.chmod(ROOT, 0o711), Ok(()));
    let owner = SetAttributes {
        valid: setattr::UID | setattr::GID,
        uid: attributes.uid,
        gid: attributes.gid,
        ..Default::default()
    };
    assert_eq!(client.setattr(fid, owner), Ok(()));
    check();
    let numbers = client.statfs(fid).unwrap();
    assert!(numbers.blocks >= numbers.bfree && numbers.bsize >= 512 && numbers.namelen == 255);
}

#[test]
fn open_flags_do_what_they_say() {
    let dir = folder();
    let path = dir.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let client = Client::of(dir.path());
    let fid = client.open("f", O_WRONLY | O_APPEND | O_DIRECT | O_CREAT).unwrap();
    assert_eq!(client.write(fid, 0, b"end"), Ok(3));
    assert_eq!(client.read(fid, 0, 1), Err(libc::EBADF));
    assert_eq!(fs::read(&path).unwrap(), b"0123456789end");
    assert_eq!(client.lopen(fid, O_RDONLY), Err(libc::EINVAL), "it is open");
    let fid = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.write(fid, 0, b"x"), Err(libc::EBADF));
    assert_eq!(client.read(fid, 3, 4).unwrap(), b"3456");
    assert_eq!(client.read(fid, u64::MAX, 4), Err(libc::EINVAL));
    let fid = client.open("f", O_RDONLY | O_TRUNC).unwrap();
    assert_eq!(client.read(fid, 0, 1).unwrap(), b"");
    let fid = client.open("f", O_RDWR).unwrap();
    // A hole.
    assert_eq!(client.write(fid, 1 << 40, b"far"), Ok(3));
    assert_eq!(client.read(fid, (1 << 40) - 2, 9).unwrap(), b"\0\0far");
    let (_, attributes) = client.getattr(fid).unwrap();
    assert!(attributes.size == (1 << 40) + 3 && attributes.blocks < 1000);
    let fid = client.open("f", O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(client.getattr(fid).unwrap().1.size, 0);
    // Creation.
    assert_eq!(client.create("", "f", O_RDWR | O_EXCL, 0o600), Err(libc::EEXIST));
    client.write(fid, 0, b"kept").unwrap();
    let same = client.create("", "f", O_RDWR, 0o600).unwrap();
    assert_eq!(client.read(same, 0, 9).unwrap(), b"kept");
    let emptied = client.create("", "f", O_RDWR | O_TRUNC, 0o600).unwrap();
    assert_eq!(client.read(emptied, 0, 9).unwrap(), b"");
    fs::create_dir(dir.path().join("d")).unwrap();
    assert_eq!(client.create("", "d", O_RDWR, 0o600), Err(libc::EISDIR));
    assert_eq!(client.open("d", O_RDWR), Err(libc::EISDIR));
    assert_eq!(client.open("d", O_RDONLY | O_TRUNC), Err(libc::EISDIR));
    assert_eq!(client.open("f", O_RDONLY | libc::O_DIRECTORY), Err(libc::ENOTDIR));
    assert_eq!(client.open("f", 3), Err(libc::EINVAL));
    let d = client.open("d", O_RDONLY).unwrap();
    assert_eq!(client.read(d, 0, 1), Err(libc::EISDIR));
    let fid = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.readdir(fid, 0, 4096), Err(libc::ENOTDIR));
    // Set-id bits.
    let fid = client.create("", "s", O_RDWR, 0o6755).unwrap();
    assert_eq!(client.getattr(fid).unwrap().1.mode & 0o4700, 0o4700);
}

#[test]
fn names_that_are_none_are_refused_everywhere() {
    let dir = folder();
    let client = Client::of(dir.path());
    let f = client.create("", "f", O_RDWR, 0o600).unwrap();
    let long = [b'n'; 256];
    for (name, errno) in [
        (&b""[..], libc::EINVAL),
        (b".", libc::EINVAL),
        (b"..", libc::EINVAL),
        (b"a/b", libc::EINVAL),
        (b"/etc", libc::EINVAL),
        (b"a\0b", libc::EINVAL),
        (&long, libc::ENAMETOOLONG),
    ] {
        if name != b".." {
            assert_eq!(client.walk_raw(ROOT, Fid(800), &[name]), Err(errno), "{name:?}");
        }
        let here = client.walk("").unwrap();
        assert_eq!(client.lcreate(here, name, O_RDWR, 0o600), Err(errno));
        assert_eq!(client.mkdir(ROOT, name, 0o700), Err(errno));
        assert_eq!(client.symlink(ROOT, name, b"x"), Err(errno));
        assert_eq!(client.mknod(ROOT, name, libc::S_IFIFO), Err(errno));
        assert_eq!(client.link(f, ROOT, name), Err(errno));
        assert_eq!(client.renameat((ROOT, b"f"), (ROOT, name)), Err(errno));
        assert_eq!(client.renameat((ROOT, name), (ROOT, b"g")), Err(errno));
        assert_eq!(client.unlinkat(ROOT, name, 0), Err(errno));
        assert_eq!(client.unlinkat(ROOT, name, AT_REMOVEDIR), Err(errno));
        assert_eq!(client.ok(Tmessage::Trename { fid: f, dfid: ROOT, name }), Err(errno));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // Names are bytes.
    assert_eq!(client.mkdir(ROOT, b"\xff\xfe \n", 0o700), Ok(()));
    assert_eq!(client.mkdir(ROOT, &[b'n'; 255], 0o700), Ok(()));
}

#[test]
fn nothing_changes_in_a_folder_that_is_only_to_be_read() {
    let dir = folder();
    fs::write(dir.path().join("f"), "data").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let client = Client::read_only(dir.path());
    let f = client.walk("f").unwrap();
    let here = || client.walk("").unwrap();
    let refused = Err(libc::EROFS);
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND] {
        assert_eq!(client.open("f", flags).map(drop), refused);
    }
    assert_eq!(client.lcreate(here(), b"n", O_RDONLY, 0o600).map(drop), refused);
    assert_eq!(client.lcreate(here(), b"f", O_RDONLY, 0o600).map(drop), refused);
    assert_eq!(client.mkdir(ROOT, b"n", 0o700), refused);
    assert_eq!(client.symlink(ROOT, b"n", b"x"), refused);
    assert_eq!(client.mknod(ROOT, b"n", libc::S_IFIFO), refused);
    assert_eq!(client.link(f, ROOT, b"n"), refused);
    assert_eq!(client.renameat((ROOT, b"f"), (ROOT, b"n")), refused);
    assert_eq!(client.ok(Tmessage::Trename { fid: f, dfid: ROOT, name: b"n" }), refused);
    assert_eq!(client.unlinkat(ROOT, b"f", 0), refused);
    assert_eq!(client.unlinkat(ROOT, b"d", AT_REMOVEDIR), refused);
    assert_eq!(client.ok(Tmessage::Tremove { fid: here() }), refused);
    assert_eq!(client.chmod(f, 0o777), refused);
    assert_eq!(client.truncate(f, 0), refused);
    assert_eq!(client.set_xattr(f, b"user.x", b"v", 0, 9), Err(libc::EROFS));
    let fid = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.read(fid, 0, 9).unwrap(), b"data");
    assert_eq!(client.lock(fid, 0, (0, 0), 1), Ok(0), "locks change nothing");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn extended_attributes_come_and_go() {
    // Not every temporary folder has them.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let client = Client::of(dir.path());
    let open = client.create("", "f", O_RDWR, 0o600).unwrap();
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    let (f, d) = (client.walk("f").unwrap(), client.walk("d").unwrap());
    for fid in [f, d, ROOT] {
        let value: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        if client.set_xattr(fid, b"user.big", &value, 0, 1000) == Err(libc::EOPNOTSUPP) {
            eprintln!("no extended attributes here");
            return;
        }
        assert_eq!(client.xattr(fid, b"user.big").unwrap(), value);
        assert_eq!(client.set_xattr(fid, b"user.empty", b"", 0, 1), Ok(()));
        assert_eq!(client.xattr(fid, b"user.empty").unwrap(), b"");
        assert_eq!(client.set_xattr(fid, b"user.big", b"v", 1, 1), Err(libc::EEXIST));
        assert_eq!(client.set_xattr(fid, b"user.none", b"v", 2, 1), Err(libc::ENODATA));
        assert_eq!(client.set_xattr(fid, b"user.big", b"new", 2, 2), Ok(()));
        assert_eq!(client.xattr(fid, b"user.big").unwrap(), b"new");
        let list = client.xattr(fid, b"").unwrap();
        let mut names: Vec<&[u8]> = list.split(|&b| b == 0).filter(|n| !n.is_empty()).collect();
        names.retain(|name| name.starts_with(b"user."));
        names.sort();
        assert_eq!(names, [&b"user.big"[..], b"user.empty"]);
        assert_eq!(client.xattr(fid, b"user.none"), Err(libc::ENODATA));
        assert_eq!(client.xattr(fid, b"nonsense"), Err(libc::EOPNOTSUPP));
        // What removexattr(2) sends.
        assert_eq!(client.set_xattr(fid, b"user.big", b"", 2, 1), Ok(()));
        assert_eq!(client.xattr(fid, b"user.big"), Err(libc::ENODATA));
        assert_eq!(client.set_xattr(fid, b"user.big", b"", 2, 1), Err(libc::ENODATA));
        assert_eq!(client.set_xattr(fid, &[b'n'; 256], b"v", 0, 1), Err(libc::ERANGE));
        assert_eq!(client.set_xattr(fid, b"user.x", &[0; 65_537], 0, 65_537), Err(libc::E2BIG));
        assert_eq!(client.set_xattr(fid, b"user.x", b"v", 8, 1), Err(libc::EINVAL));
    }
    // A value that never gets complete is not set.
    let fid = client.walk("f").unwrap();
    client.ok(Tmessage::Txattrcreate { fid, name: b"user.half", size: 4, flags: 0 }).unwrap();
    assert_eq!(client.write(fid, 0, b"ab"), Ok(2));
    assert_eq!(client.write(fid, 0, b"cd"), Err(libc::EINVAL), "not where it goes on");
    assert_eq!(client.write(fid, 2, b"cde"), Err(libc::ENOSPC));
    assert_eq!(client.clunk(fid), Err(libc::EINVAL));
    assert_eq!(client.xattr(f, b"user.half"), Err(libc::ENODATA));
    // By a file whose name is gone.
    client.set_xattr(f, b"user.x", b"still", 0, 9).unwrap();
    client.unlinkat(ROOT, b"f", 0).unwrap();
    assert_eq!(client.xattr(open, b"user.x").unwrap(), b"still");
    // Of a link, which has none of its own that a user may set.
    client.symlink(ROOT, b"l", b"d").unwrap();
    let l = client.walk("l").unwrap();
    assert_eq!(client.set_xattr(l, b"user.x", b"v", 0, 1), Err(libc::EPERM));
    assert!(client.xattr(l, b"user.empty").is_err(), "not followed");
    assert_eq!(client.xattr(d, b"user.x"), Err(libc::ENODATA));
}

#[test]
fn what_others_did_meanwhile_is_noticed() {
    let dir = folder();
    fs::write(dir.path().join("f"), "old").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/g"), "g").unwrap();
    let client = Client::of(dir.path());
    let f = client.walk("f").unwrap();
    fs::write(dir.path().join("new"), "new!").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("f")).unwrap();
    assert_eq!(client.lopen(f, O_RDONLY), Err(libc::ESTALE), "another file has the name");
    let again = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.read(again, 0, 9).unwrap(), b"new!");
    // A folder that moved is found where it is, also by the fid that was there before.
    let g = client.walk("d/g").unwrap();
    fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
    client.walk("e").unwrap();
    assert!(client.lopen(g, O_RDONLY).is_ok());
    // Swapped with a link.
    let e = client.walk("e").unwrap();
    fs::rename(dir.path().join("e"), dir.path().join("away")).unwrap();
    symlink("/etc", dir.path().join("e")).unwrap();
    assert_eq!(client.walk_raw(e, Fid(600), &[b"passwd"]), Err(libc::ENOENT));
    assert_eq!(client.walk_raw(ROOT, Fid(601), &[b"e", b"passwd"]).unwrap().len(), 1);
}

#[test]
fn creates_take_the_group_that_was_asked_for_where_that_may_be() {
    let dir = folder();
    let client = Client::of(dir.path());
    let root = rustix::process::geteuid().is_root();
    let own = fs::metadata(dir.path()).unwrap().gid();
    let asked = own + 1;
    let expected = if root { asked } else { own };
    client.ok(Tmessage::Tmkdir { dfid: ROOT, name: b"d", mode: 0o755, gid: asked }).unwrap();
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().gid(), expected);
    let fid = client.walk("").unwrap();
    let create =
        Tmessage::Tlcreate { fid, name: b"f", flags: O_RDWR as u32, mode: 0o4711, gid: asked };
    client.ok(create).unwrap();
    let made = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((made.gid(), made.mode() & 0o4700), (expected, 0o4700));
    // A set-group-id folder decides itself.
    fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    let d = client.walk("d").unwrap();
    client.ok(Tmessage::Tmkdir { dfid: d, name: b"e", mode: 0o755, gid: asked + 5 }).unwrap();
    assert_eq!(fs::metadata(dir.path().join("d/e")).unwrap().gid(), expected);
}

#[test]
fn versions_are_agreed_and_begin_anew() {
    let dir = folder();
    let client = Client::of(dir.path());
    let fid = client.create("", "f", O_RDWR, 0o600).unwrap();
    assert_eq!(client.version_of(8192, b"9P2000.L"), (8192, b"9P2000.L".to_vec()));
    assert_eq!(client.getattr(fid), Err(libc::EBADF), "fids are gone");
    client.attach(ROOT, b"").unwrap();
    let fid = client.open("f", O_RDWR).unwrap();
    client.write(fid, 0, &vec![1; 8192 - 24]).unwrap();
    assert_eq!(client.read(fid, 0, 65_000).unwrap().len(), 8192 - 24, "clamped");
    assert_eq!(client.version_of(8192, b"9P2000.u").1, b"unknown");
    let early = client.submit(1, Tmessage::Tclunk { fid }, b"").unwrap_err();
    assert!(early.to_string().contains("before Tversion"), "{early}");
    assert_eq!(client.version(), (65_560, b"9P2000.L".to_vec()));
}

#[test]
fn what_is_no_9p_ends_the_session_in_words() {
    use bytes::Bytes;
    use transport::ninep::Packet;
    let dir = folder();
    let client = Client::of(dir.path());
    let words = |bytes: &'static [u8]| {
        client.session.submit(Packet::whole(Bytes::from_static(bytes))).unwrap_err().to_string()
    };
    assert_eq!(
        words(&[7, 0, 0, 0, 1, 0, 0]),
        "not a 9P message: message type 1 is not one of 9P2000.L here"
    );
    assert_eq!(words(&[1, 0]), "not a 9P message: message ends inside a field");
    assert!(words(&[9, 0, 0, 0, 120, 0, 0]).contains("says 9 bytes and has 7"));
    assert!(words(&[255, 255, 255, 127, 120, 0, 0]).contains("larger than msize"));
}
