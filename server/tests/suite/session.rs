//! Where a session begins and what it may do at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use libc::{O_APPEND, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use transport::id::{Fid, Tag};
use transport::ninep::message::{AT_REMOVEDIR, VERSION};
use transport::ninep::{Kind, Tmessage};

use crate::On;
use crate::fs_client::{ROOT, bytes};

pub fn attach_is_to_the_granted_folder_alone(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let client = on.client(&path);
    assert!(client.attach(Fid(100), bytes(&path)).is_ok());
    assert_eq!(client.attach(Fid(101), b"/"), Err(libc::ENOENT));
    assert_eq!(client.attach(Fid(101), b"/etc"), Err(libc::ENOENT));
    let auth = Tmessage::Tauth { afid: Fid(7), uname: b"", aname: b"", n_uname: 0 };
    assert_eq!(client.ok(auth), Err(libc::EOPNOTSUPP));
}

pub fn a_fid_in_use_is_not_made_again(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.attach(ROOT, b""), Err(libc::EBADF));
    client.mkdir(ROOT, b"d", 0o700).unwrap();
    client.walk_raw(ROOT, Fid(10), &[]).unwrap();
    assert_eq!(client.walk_raw(ROOT, Fid(10), &[b"d"]), Err(libc::EBADF));
}

pub fn a_fid_that_is_none_has_an_errno_of_its_own(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.getattr(Fid(99)), Err(libc::EBADF));
    assert_eq!(client.read(Fid(99), 0, 1), Err(libc::EBADF));
    assert_eq!(client.walk_raw(Fid(99), Fid(12), &[]), Err(libc::EBADF));
}

pub fn a_fid_that_is_none_is_refused(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let fid = client.walk("").unwrap();
    client.clunk(fid).unwrap();
    assert!(client.getattr(fid).is_err());
    assert!(client.lopen(fid, O_RDONLY).is_err());
    assert!(client.walk_raw(fid, Fid(12), &[]).is_err());
    assert!(client.clunk(fid).is_err());
}

pub fn a_version_is_agreed(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.version_of(8192, VERSION), (8192, VERSION.to_vec()));
    client.attach(Fid(20), b"").unwrap();
    client.walk_raw(Fid(20), Fid(21), &[]).unwrap();
    client.lcreate(Fid(21), b"f", O_RDWR, 0o600).unwrap();
    client.write(Fid(21), 0, &vec![1; 8192 - 24]).unwrap();
    assert_eq!(client.read(Fid(21), 0, 8192 - 24).unwrap().len(), 8192 - 24);
}

pub fn an_msize_of_a_mebibyte_is_agreed(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let most = if on == On::Session { 65_560 } else { 1 << 20 };
    assert_eq!(client.version().0, most, "what the test has it take, or all");
}

pub fn a_version_begins_anew(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let fid = client.create("", "f", O_RDWR, 0o600).unwrap();
    client.version();
    assert_eq!(client.getattr(fid), Err(libc::EBADF), "fids are gone");
}

pub fn another_version_is_unknown(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.version_of(8192, b"9P2000.u").1, b"unknown");
}

pub fn a_count_above_msize_is_cut(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "data").unwrap();
    let client = on.client(dir.path());
    let fid = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.read(fid, 0, 2_000_000).unwrap(), b"data");
}

pub fn nothing_changes_in_a_folder_that_is_only_to_be_read(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "data").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let client = on.read_only(dir.path());
    let f = client.walk("f").unwrap();
    let here = || client.walk("").unwrap();
    let refused = Err(libc::EROFS);
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND] {
        assert_eq!(client.open("f", flags).map(drop), refused);
    }
    assert_eq!(client.lcreate(here(), b"n", O_RDONLY, 0o600).map(drop), refused);
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

pub fn a_create_is_refused_where_nothing_may_change_also_of_what_is_there(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "data").unwrap();
    let client = on.read_only(dir.path());
    assert_eq!(client.create("", "f", O_RDONLY, 0o600).map(drop), Err(libc::EROFS));
}

pub fn a_file_that_others_replaced_is_not_taken_for_the_new_one(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "old").unwrap();
    let client = on.client(dir.path());
    let f = client.walk("f").unwrap();
    fs::write(dir.path().join("new"), "new!").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("f")).unwrap();
    assert_eq!(client.lopen(f, O_RDONLY), Err(libc::ESTALE), "another file has the name");
}

pub fn what_others_moved_is_found_again(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/g"), "g").unwrap();
    let client = on.client(dir.path());
    let g = client.walk("d/g").unwrap();
    fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
    client.walk("e").unwrap();
    assert!(client.lopen(g, O_RDONLY).is_ok());
}

pub fn what_others_did_meanwhile_is_noticed(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "old").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/g"), "g").unwrap();
    let client = on.client(dir.path());
    let f = client.walk("f").unwrap();
    fs::write(dir.path().join("new"), "new!").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("f")).unwrap();
    client.clunk(f).unwrap();
    let again = client.open("f", O_RDONLY).unwrap();
    assert_eq!(client.read(again, 0, 9).unwrap(), b"new!");
    // Swapped with a link.
    fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
    let e = client.walk("e").unwrap();
    fs::rename(dir.path().join("e"), dir.path().join("away")).unwrap();
    symlink("/etc", dir.path().join("e")).unwrap();
    assert!(client.walk_raw(e, Fid(600), &[b"passwd"]).is_err());
    assert_eq!(client.walk_raw(ROOT, Fid(601), &[b"e", b"passwd"]).unwrap().len(), 1);
}

pub fn a_flush_is_answered_after_what_it_flushes_or_instead(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("big"), vec![1; 1 << 20]).unwrap();
    let client = Arc::new(on.client(dir.path()));
    let fid = client.open("big", O_RDONLY).unwrap();
    for round in 0..3000u32 {
        let read = Tmessage::Tread { fid, offset: 0, count: 1 + round * 20 };
        let tag = client.send(read, b"");
        // As late as it may be: sometimes before, sometimes while, sometimes after it is answered.
        for _ in 0..round % 50 * 40 {
            std::hint::spin_loop();
        }
        let flush = client.send(Tmessage::Tflush { oldtag: Tag(tag) }, b"");
        client.inbox.take(flush);
        if client.inbox.has(tag) {
            client.inbox.take(tag);
        }
        // From here on the tag is free: nothing may come for it any more.
        let again = Tmessage::Tgetattr { fid, mask: 0 };
        client.submit(tag, again, b"").unwrap();
        let reply = client.inbox.take(tag);
        assert_eq!(reply.header().unwrap().kind, Kind::Tgetattr.reply().0, "round {round}");
    }
    let order = client.inbox.order();
    let mut flushed = std::collections::HashSet::new();
    for (tag, kind) in order {
        assert!(!(flushed.contains(&tag) && kind == 117), "Rread after its Rflush");
        if kind == 109 {
            flushed.insert(tag);
        }
    }
}
