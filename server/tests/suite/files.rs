//! Reading, writing, opening and creating, and what becomes of an open file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use libc::{O_APPEND, O_CREAT, O_DIRECT, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use crate::On;
use crate::fs_client::ROOT;

pub fn a_file_is_written_and_read_back(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
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
}

pub fn a_removed_open_file_lives_until_it_is_closed(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
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

pub fn a_renamed_open_file_is_still_the_same(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
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

pub fn an_access_mode_that_is_none_is_refused(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    assert_eq!(on.client(dir.path()).open("f", 3), Err(libc::EINVAL));
}

pub fn direct_access_is_the_clients_own_affair(on: On) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "0123456789").unwrap();
    let client = on.client(dir.path());
    let fid = client.open("f", O_RDONLY | O_DIRECT).unwrap();
    assert_eq!(client.read(fid, 3, 4).unwrap(), b"3456");
}

pub fn open_flags_do_what_they_say(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let client = on.client(dir.path());
    let fid = client.open("f", O_WRONLY | O_APPEND | O_CREAT).unwrap();
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
    let d = client.open("d", O_RDONLY).unwrap();
    assert_eq!(client.read(d, 0, 1), Err(libc::EISDIR));
    let fid = client.open("f", O_RDONLY).unwrap();
    assert!(client.readdir(fid, 0, 4096).is_err());
    // Set-id bits.
    let fid = client.create("", "s", O_RDWR, 0o6755).unwrap();
    assert_eq!(client.getattr(fid).unwrap().1.mode & 0o4700, 0o4700);
}

pub fn a_named_pipe_is_not_waited_for(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.mknod(ROOT, b"pipe", libc::S_IFIFO | 0o600), Ok(()));
    assert_eq!(client.open("pipe", O_WRONLY | O_NONBLOCK), Err(libc::ENXIO));
    assert_eq!(client.open("pipe", O_RDWR), Err(libc::ENXIO));
}

pub fn special_files_are_made_but_not_opened(on: On) {
    let dir = tempfile::tempdir().unwrap();
    let client = on.client(dir.path());
    assert_eq!(client.mknod(ROOT, b"null", libc::S_IFCHR | 0o666), Err(libc::EPERM));
    assert_eq!(client.mknod(ROOT, b"disk", libc::S_IFBLK | 0o666), Err(libc::EPERM));
    assert!(client.mknod(ROOT, b"dir", libc::S_IFDIR | 0o666).is_err());
    assert_eq!(client.mknod(ROOT, b"pipe", libc::S_IFIFO | 0o600), Ok(()));
    assert_eq!(client.mknod(ROOT, b"sock", libc::S_IFSOCK | 0o600), Ok(()));
    assert_eq!(client.mknod(ROOT, b"file", libc::S_IFREG | 0o600), Ok(()));
    assert_eq!(client.mknod(ROOT, b"file", libc::S_IFREG | 0o600), Err(libc::EEXIST));
    assert_eq!(client.open("sock", O_RDONLY), Err(libc::ENXIO));
    assert_eq!(client.open("sock", O_WRONLY), Err(libc::ENXIO));
    let create = client.lcreate(client.walk("").unwrap(), b"sock", O_RDWR, 0o600);
    assert_eq!(create, Err(libc::ENXIO));
    let pipe = client.walk("pipe").unwrap();
    assert_eq!(client.getattr(pipe).unwrap().1.mode, libc::S_IFIFO | 0o600);
    assert_eq!(client.chmod(pipe, 0o644), Ok(()));
    assert_eq!(client.truncate(pipe, 0), Err(libc::EINVAL));
    assert!(client.open("file", O_RDWR).is_ok());
}
