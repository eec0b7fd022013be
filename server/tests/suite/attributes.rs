//! Attributes, ordinary and extended.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use libc::O_RDWR;
use transport::ninep::Tmessage;
use transport::ninep::message::{SetAttributes, Time, setattr};

use crate::On;
use crate::fs_client::{Client, ROOT};

pub fn attributes_are_those_of_the_disk(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, vec![7; 5000]).unwrap();
    let client = on.client(dir.path());
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
    check();
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
                mode: 0o751,
                size: 123,
                atime: time(-5, 1),
                mtime: time(1_000_000_000, 999_999_999),
                ..Default::default()
            },
        )
        .unwrap();
    client.chmod(fid, 0o4751).unwrap();
    let (_, attributes) = check();
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

/// A folder with extended attributes: not every temporary one has them.
fn place(on: On) -> Option<(tempfile::TempDir, Client)> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().canonicalize().unwrap();
    let set = rustix::fs::setxattr(&path, "user.try", b"x", rustix::fs::XattrFlags::empty());
    if set.is_err() {
        eprintln!("no extended attributes here");
        // What is in the table has to fail.
        assert_ne!(on, On::Diod);
        return None;
    }
    rustix::fs::removexattr(&path, "user.try").unwrap();
    let client = on.client(&path);
    Some((dir, client))
}

pub fn extended_attributes_come_and_go(on: On) {
    let Some((_dir, client)) = place(on) else { return };
    client.create("", "f", O_RDWR, 0o600).unwrap();
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    let (f, d) = (client.walk("f").unwrap(), client.walk("d").unwrap());
    for fid in [f, d, ROOT] {
        let value: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        client.set_xattr(fid, b"user.big", &value, 0, 1000).unwrap();
        assert_eq!(client.xattr(fid, b"user.big").unwrap(), value);
        assert_eq!(client.set_xattr(fid, b"user.small", b"s", 0, 1), Ok(()));
        assert_eq!(client.set_xattr(fid, b"user.big", b"v", 1, 1), Err(libc::EEXIST));
        assert_eq!(client.set_xattr(fid, b"user.none", b"v", 2, 1), Err(libc::ENODATA));
        assert_eq!(client.set_xattr(fid, b"user.big", b"new", 2, 2), Ok(()));
        assert_eq!(client.xattr(fid, b"user.big").unwrap(), b"new");
        let list = client.xattr(fid, b"").unwrap();
        let mut names: Vec<&[u8]> = list.split(|&b| b == 0).filter(|n| !n.is_empty()).collect();
        names.retain(|name| name.starts_with(b"user."));
        names.sort();
        assert_eq!(names, [&b"user.big"[..], b"user.small"]);
        assert_eq!(client.xattr(fid, b"user.none"), Err(libc::ENODATA));
        assert_eq!(client.xattr(fid, b"nonsense"), Err(libc::EOPNOTSUPP));
        // What removexattr(2) sends.
        assert_eq!(client.set_xattr(fid, b"user.big", b"", 2, 1), Ok(()));
        assert_eq!(client.xattr(fid, b"user.big"), Err(libc::ENODATA));
        assert_eq!(client.set_xattr(fid, b"user.big", b"", 2, 1), Err(libc::ENODATA));
        assert_eq!(client.set_xattr(fid, &[b'n'; 256], b"v", 0, 1), Err(libc::ERANGE));
        assert_eq!(client.set_xattr(fid, b"user.x", b"v", 8, 1), Err(libc::EINVAL));
    }
    // Of a link, which has none of its own that a user may set.
    client.symlink(ROOT, b"l", b"d").unwrap();
    let l = client.walk("l").unwrap();
    assert_eq!(client.set_xattr(l, b"user.x", b"v", 0, 1), Err(libc::EPERM));
    assert!(client.xattr(l, b"user.small").is_err(), "not followed");
    assert_eq!(client.xattr(d, b"user.x"), Err(libc::ENODATA));
}

pub fn an_extended_attribute_is_written_in_order_and_whole(on: On) {
    let Some((_dir, client)) = place(on) else { return };
    client.create("", "f", O_RDWR, 0o600).unwrap();
    let f = client.walk("f").unwrap();
    // A value that never gets complete is not set.
    let fid = client.walk("f").unwrap();
    client.ok(Tmessage::Txattrcreate { fid, name: b"user.half", size: 4, flags: 0 }).unwrap();
    assert_eq!(client.write(fid, 0, b"ab"), Ok(2));
    assert_eq!(client.write(fid, 0, b"cd"), Err(libc::EINVAL), "not where it goes on");
    assert_eq!(client.write(fid, 2, b"cde"), Err(libc::ENOSPC));
    assert_eq!(client.clunk(fid), Err(libc::EINVAL));
    assert_eq!(client.xattr(f, b"user.half"), Err(libc::ENODATA));
}

pub fn an_extended_attribute_too_large_is_refused_at_once(on: On) {
    let Some((_dir, client)) = place(on) else { return };
    let fid = client.walk("").unwrap();
    let create = Tmessage::Txattrcreate { fid, name: b"user.x", size: 65_537, flags: 0 };
    assert_eq!(client.ok(create), Err(libc::E2BIG));
}

pub fn an_empty_extended_attribute_is_one(on: On) {
    let Some((_dir, client)) = place(on) else { return };
    assert_eq!(client.set_xattr(ROOT, b"user.empty", b"", 0, 1), Ok(()));
    assert_eq!(client.xattr(ROOT, b"user.empty").unwrap(), b"");
}

pub fn extended_attributes_outlive_the_name(on: On) {
    let Some((_dir, client)) = place(on) else { return };
    let open = client.create("", "f", O_RDWR, 0o600).unwrap();
    let f = client.walk("f").unwrap();
    client.set_xattr(f, b"user.x", b"still", 0, 9).unwrap();
    client.unlinkat(ROOT, b"f", 0).unwrap();
    assert_eq!(client.xattr(open, b"user.x").unwrap(), b"still");
}

pub fn creates_take_the_group_that_was_asked_for_where_that_may_be(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
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
