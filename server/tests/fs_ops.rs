//! What each operation does, on a real folder, looked at from both sides.

mod fs_client;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use fs_client::{Client, ROOT, bytes};
use libc::{O_APPEND, O_CREAT, O_DIRECT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use transport::id::Fid;
use transport::ninep::message::AT_REMOVEDIR;
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
