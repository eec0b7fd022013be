//! Names: walked, listed, made, linked, renamed and removed.

use std::fs;
use std::os::unix::fs::MetadataExt;

use libc::{O_EXCL, O_RDONLY, O_RDWR, O_WRONLY};
use transport::id::Fid;
use transport::ninep::message::{AT_REMOVEDIR, SetAttributes, VERSION, setattr};
use transport::ninep::{QidKind, Tmessage};

use crate::On;
use crate::fs_client::ROOT;

pub fn a_walk_gives_the_qids_of_what_it_found(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/f"), "x").unwrap();
    let client = on.client(dir.path());
    let qids = client.walk_raw(ROOT, Fid(10), &[b"a", b"b", b"f"]).unwrap();
    let inode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().ino();
    assert_eq!(
        qids.iter().map(|qid| (qid.kind, qid.path)).collect::<Vec<_>>(),
        [(QidKind::DIR, inode("a")), (QidKind::DIR, inode("a/b")), (QidKind::FILE, inode("a/b/f"))]
    );
    // The first name: an error. A later one: fewer qids, and no fid.
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"z", b"b"]), Err(libc::ENOENT));
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"a", b"z", b"f"]).unwrap().len(), 1);
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"a", b"b", b"f", b"g"]).unwrap().len(), 3);
    // In place.
    client.walk_raw(ROOT, Fid(12), &[]).unwrap();
    client.walk_raw(Fid(12), Fid(12), &[b"a", b"b"]).unwrap();
    assert_eq!(client.getattr(Fid(12)).unwrap().0.path, inode("a/b"));
}

pub fn a_walk_in_place_that_stops_leaves_the_fid_where_it_was(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    let client = on.client(dir.path());
    client.walk_raw(ROOT, Fid(12), &[]).unwrap();
    assert_eq!(client.walk_raw(Fid(12), Fid(12), &[b"a", b"z"]).unwrap().len(), 1);
    let root = client.getattr(ROOT).unwrap().0.path;
    assert_eq!(client.getattr(Fid(12)).unwrap().0.path, root);
}

pub fn a_walk_that_stops_makes_no_fid(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.walk_raw(ROOT, Fid(11), &[b"a", b"z"]).unwrap().len(), 1);
    assert!(client.getattr(Fid(11)).is_err());
}

pub fn a_folder_is_listed_whole_in_pieces_of_any_size(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let mut expected: Vec<Vec<u8>> = vec![b".".to_vec(), b"..".to_vec()];
    for i in 0..500 {
        let name = format!("{}-{i}", "n".repeat(i % 200));
        fs::write(dir.path().join(&name), "").unwrap();
        expected.push(name.into_bytes());
    }
    expected.sort();
    for count in [240, 1000, 4096, 60_000] {
        let fid = client.open("", O_RDONLY).unwrap();
        let mut names = client.names(fid, count).unwrap();
        names.sort();
        assert_eq!(names, expected, "in pieces of {count}");
        client.clunk(fid).unwrap();
    }
    let fid = client.open("", O_RDONLY).unwrap();
    let root = client.getattr(ROOT).unwrap().0;
    for (name, _, kind, qid) in client.readdir(fid, 0, 60_000).unwrap() {
        if name == b"." {
            assert_eq!((qid.path, kind), (root.path, libc::DT_DIR));
        } else if name != b".." {
            let path = dir.path().join(std::str::from_utf8(&name).unwrap());
            assert_eq!((qid.path, kind), (fs::metadata(path).unwrap().ino(), libc::DT_REG));
        }
    }
}

pub fn a_count_that_no_entry_fits_into_is_refused(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let fid = client.open("", O_RDONLY).unwrap();
    assert_eq!(client.readdir(fid, 0, 24), Err(libc::EINVAL));
}

pub fn nothing_above_the_folder_is_named(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let fid = client.open("", O_RDONLY).unwrap();
    let root = client.getattr(ROOT).unwrap().0.path;
    for (name, _, _, qid) in client.readdir(fid, 0, 60_000).unwrap() {
        assert_eq!(qid.path, root, "{name:?}");
    }
    assert_eq!(client.walk_raw(ROOT, Fid(9), &[b"..", b".."]).unwrap()[1].path, root);
}

pub fn qids_change_with_the_file(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    let fid = client.create("", "f", O_RDWR, 0o600).unwrap();
    let before = client.getattr(fid).unwrap().0.version;
    client.truncate(fid, 5000).unwrap();
    assert_ne!(client.getattr(fid).unwrap().0.version, before);
    assert_ne!(before, 0);
}

pub fn unlinkat_and_renameat_are_known(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    client.create("", "f", O_RDWR, 0o600).unwrap();
    let (oldname, newname) = (&b"f"[..], &b"g"[..]);
    let rename = Tmessage::Trenameat { olddirfid: ROOT, oldname, newdirfid: ROOT, newname };
    assert_eq!(client.ok(rename), Ok(()));
    assert_eq!(client.ok(Tmessage::Tunlinkat { dirfid: ROOT, name: b"g", flags: 0 }), Ok(()));
}

pub fn a_name_is_removed_as_what_it_is_taken_for(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    client.create("", "f", O_RDWR, 0o600).unwrap();
    assert_eq!(client.unlinkat(ROOT, b"d", 0), Err(libc::EISDIR));
    assert_eq!(client.unlinkat(ROOT, b"f", AT_REMOVEDIR), Err(libc::ENOTDIR));
    assert_eq!(client.unlinkat(ROOT, b"d", 1), Err(libc::EINVAL));
}

pub fn folders_are_made_and_removed(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.mkdir(ROOT, b"d", 0o755), Ok(()));
    assert_eq!(client.mkdir(ROOT, b"d", 0o755), Err(libc::EEXIST));
    let d = client.walk("d").unwrap();
    assert_eq!(client.mkdir(d, b"e", 0o700), Ok(()));
    assert_eq!(client.unlinkat(ROOT, b"d", AT_REMOVEDIR), Err(libc::ENOTEMPTY));
    assert_eq!(client.unlinkat(d, b"e", AT_REMOVEDIR), Ok(()));
    assert_eq!(client.unlinkat(d, b"e", AT_REMOVEDIR), Err(libc::ENOENT));
    let f = client.create("d", "f", O_RDWR, 0o600).unwrap();
    assert_eq!(client.unlinkat(d, b"f", 0), Ok(()));
    client.clunk(f).unwrap();
    assert_eq!(client.ok(Tmessage::Tremove { fid: d }), Ok(()));
    assert!(!dir.path().join("d").exists());
    assert!(client.getattr(d).is_err(), "remove ends the fid");
}

pub fn all_below_an_open_folder_moves_with_it(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    fs::write(dir.path().join("a/b/c/f"), "deep").unwrap();
    let client = on.client(dir.path());
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

pub fn a_file_that_was_replaced_is_still_what_its_fid_names(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    fs::write(dir.path().join("g"), "").unwrap();
    let client = on.client(dir.path());
    let over = client.walk("g").unwrap();
    client.renameat((ROOT, b"f"), (ROOT, b"g")).unwrap();
    assert_eq!(client.getattr(over).unwrap().1.nlink, 0);
}

pub fn renames_answer_as_the_disk_does(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
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
    assert_eq!(rename(b"f", b"g"), Ok(()));
    assert_eq!(fs::read(dir.path().join("g")).unwrap(), b"f");
    // By fid.
    let g = client.walk("g").unwrap();
    assert_eq!(client.ok(Tmessage::Trename { fid: g, dfid: full, name: b"r" }), Ok(()));
    assert_eq!(fs::read(dir.path().join("full/r")).unwrap(), b"f");
    let busy = Tmessage::Trename { fid: ROOT, dfid: full, name: b"r" };
    assert!(client.ok(busy).is_err(), "the root");
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

pub fn a_target_is_no_longer_than_a_message(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    client.symlink(ROOT, b"long", &[b'x'; 4095]).unwrap();
    client.version_of(4096, VERSION);
    client.attach(ROOT, b"").unwrap();
    let long = client.walk("long").unwrap();
    assert_eq!(client.readlink(long).map(|target| target.len()), Err(libc::ENAMETOOLONG));
}

pub fn what_a_link_is_not_has_its_errno(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    client.symlink(ROOT, b"l", b"d").unwrap();
    let fid = client.walk("l").unwrap();
    assert_eq!(client.walk_raw(fid, Fid(700), &[b"f"]), Err(libc::ENOTDIR));
    assert_eq!(client.truncate(fid, 0), Err(libc::EINVAL));
    assert_eq!(client.chmod(fid, 0o600), Err(libc::EOPNOTSUPP));
}

pub fn links_are_made_and_read_and_never_followed(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let client = on.client(dir.path());
    for (name, target) in [(&b"l"[..], &b"d"[..]), (b"dangling", b"../none"), (b"abs", b"/etc")] {
        assert_eq!(client.symlink(ROOT, name, target), Ok(()));
        let fid = client.walk(std::str::from_utf8(name).unwrap()).unwrap();
        assert_eq!(client.readlink(fid).unwrap(), target);
        let (qid, attributes) = client.getattr(fid).unwrap();
        assert_eq!(qid.kind, QidKind::SYMLINK);
        assert_eq!(attributes.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(client.lopen(fid, O_RDONLY), Err(libc::ELOOP));
        assert!(client.walk_raw(fid, Fid(700), &[b"f"]).is_err());
        assert!(client.mkdir(fid, b"x", 0o755).is_err());
        let times = SetAttributes { valid: setattr::MTIME, ..Default::default() };
        assert_eq!(client.setattr(fid, times), Ok(()), "of the link itself");
        assert!(client.truncate(fid, 0).is_err());
        assert!(client.chmod(fid, 0o600).is_err());
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
}

pub fn names_that_are_none_are_refused_everywhere(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
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
