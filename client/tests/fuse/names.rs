//! Names, links, folders, extended attributes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use crate::place::{LIFETIME, Place, as_root, shell};

#[test]
fn numbers_and_links_are_those_of_the_disk() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::create_dir_all(mount.at("d/e")).unwrap();
    fs::write(mount.at("a"), "text").unwrap();
    fs::hard_link(mount.at("a"), mount.at("d/b")).unwrap();
    for name in ["a", "d/b", "d", "d/e", ""] {
        let (here, there) =
            (fs::metadata(mount.at(name)).unwrap(), fs::metadata(place.there(name)).unwrap());
        assert_eq!(here.ino(), there.ino(), "{name}");
        assert_eq!(here.nlink(), there.nlink(), "{name}");
        assert_eq!(here.mode(), there.mode(), "{name}");
        assert_eq!((here.mtime(), here.mtime_nsec()), (there.mtime(), there.mtime_nsec()));
    }
    assert_eq!(fs::metadata(mount.at("a")).unwrap().nlink(), 2);
    // One inode, one set of attributes and one page cache, whatever its name.
    fs::write(mount.at("d/b"), "other text").unwrap();
    assert_eq!(fs::read_to_string(mount.at("a")).unwrap(), "other text");
    fs::remove_file(mount.at("a")).unwrap();
    assert_eq!(fs::metadata(mount.at("d/b")).unwrap().nlink(), 1);
    assert_eq!(fs::read_to_string(mount.at("d/b")).unwrap(), "other text");
}

#[test]
fn an_inode_number_used_again_is_another_file() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    for round in 0..30 {
        let text = format!("round {round}");
        fs::write(place.there("a"), &text).unwrap();
        let open = fs::File::open(mount.at("a")).unwrap();
        fs::remove_file(place.there("a")).unwrap();
        fs::create_dir(place.there("b")).unwrap();
        assert!(fs::metadata(mount.at("b")).unwrap().is_dir());
        assert_eq!(std::io::read_to_string(&open).unwrap(), text);
        fs::remove_dir(place.there("b")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
}

#[test]
fn names_are_bytes() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let long = [b'n'; 255];
    let names: [&[u8]; 6] =
        [b"\xff\xfe", b"a\nb", b" ", b"\\", b"\xc3\xa4 und \xe2\x82\xac", &long];
    for name in names {
        let name = OsStr::from_bytes(name);
        fs::write(mount.at(name), "x").unwrap();
        assert_eq!(fs::read(place.there(name)).unwrap(), b"x");
    }
    let listed = fs::read_dir(mount.at("")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut listed: Vec<_> = listed.map(|name| name.as_bytes().to_vec()).collect();
    let mut expected: Vec<_> = names.iter().map(|name| name.to_vec()).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let longer = OsStr::from_bytes(&[b'n'; 256]).to_owned();
    let error = fs::write(mount.at(longer), "x").unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NAMETOOLONG));
}

#[test]
fn a_folder_of_ten_thousand_is_listed_once_each() {
    let place = Place::new();
    let mut expected = BTreeMap::new();
    for number in 0..10_000 {
        let name = format!("{number:05}-{}", "x".repeat(number % 60));
        match number % 3 {
            0 => fs::create_dir(place.there(&name)).unwrap(),
            1 => fs::write(place.there(&name), name.as_bytes()).unwrap(),
            _ => symlink("nowhere", place.there(&name)).unwrap(),
        }
        let ino = fs::symlink_metadata(place.there(&name)).unwrap().ino();
        expected.insert(name, ino);
    }
    // Where nothing is believed, each name that is asked about is asked for: some will do.
    for (options, every) in [(&[][..], 1), (&["--coherence", "strict"], 50)] {
        let mount = place.mount("here", options);
        // Two at once, each at its own place, and one that asks about each name.
        let list = |looks: usize| {
            let entries = fs::read_dir(mount.at("")).unwrap().map(Result::unwrap);
            let entries = entries.enumerate().map(|(at, entry)| {
                let name = entry.file_name().into_string().unwrap();
                if at % looks == 0 {
                    let seen = entry.metadata().unwrap();
                    assert_eq!(seen.ino(), expected[&name]);
                    assert_eq!(seen.file_type(), entry.file_type().unwrap());
                }
                (name, rustix::fs::DirEntryExt::ino(&entry))
            });
            let listed: Vec<_> = entries.collect();
            assert_eq!(listed.len(), expected.len());
            assert!(listed.into_iter().collect::<BTreeMap<_, _>>() == expected);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| list(every));
            scope.spawn(|| list(usize::MAX));
        });
        list(every);
        mount.umount();
    }
}

#[test]
fn a_listing_can_begin_again_and_go_on_elsewhere() {
    let place = Place::new();
    for number in 0..2000 {
        fs::write(place.there(format!("{number}")), "").unwrap();
    }
    let mount = place.mount("here", &[]);
    let open = || {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        rustix::fs::Dir::new(rustix::fs::open(mount.at(""), flags, Mode::empty()).unwrap()).unwrap()
    };
    let mut folder = open();
    let names = |folder: &mut rustix::fs::Dir| {
        let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().to_owned()).collect();
        names.sort();
        names
    };
    let first = names(&mut folder);
    assert_eq!(first.len(), 2002);
    folder.rewind();
    let again: Vec<_> = folder.by_ref().take(700).map(Result::unwrap).collect();
    folder.rewind();
    assert_eq!(names(&mut folder), first);
    // From a place in the middle, as telldir(3) gave it.
    let middle = again.last().unwrap().offset();
    folder.seek(middle).unwrap();
    assert_eq!(names(&mut folder).len(), 2002 - 700);
}

#[test]
fn what_is_not_there_is_believed_for_as_long_as_what_is() {
    let place = Place::new();
    let (second, strict) = (place.mount("a", &[]), place.mount("b", &["--coherence", "strict"]));
    for mount in [&second, &strict] {
        let error = fs::metadata(mount.at("x")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    fs::write(place.there("x"), "").unwrap();
    assert!(strict.at("x").exists());
    std::thread::sleep(LIFETIME);
    assert!(second.at("x").exists());
    // What is made here is seen here at once.
    assert!(!second.at("y").exists());
    fs::create_dir(second.at("y")).unwrap();
    assert!(second.at("y").is_dir());
    fs::rename(second.at("y"), second.at("z")).unwrap();
    assert!(!second.at("y").exists() && second.at("z").is_dir());
}

#[test]
fn extended_attributes_are_those_of_the_disk() {
    use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let (here, there) = (mount.at("a"), place.there("a"));
    fs::write(&here, "text").unwrap();
    let mut room = vec![0; 4000];
    let get = |path: &std::path::Path, name: &str, room: &mut [u8]| getxattr(path, name, room);
    assert_eq!(get(&here, "user.a", &mut room), Err(Errno::NODATA));
    assert_eq!(listxattr(&here, &mut room), Ok(0));
    let value = [b'v'; 3000];
    setxattr(&here, "user.a", &value, XattrFlags::CREATE).unwrap();
    setxattr(&here, "user.empty", b"", XattrFlags::empty()).unwrap();
    assert_eq!(get(&there, "user.a", &mut room), Ok(3000));
    assert_eq!(get(&here, "user.a", &mut room), Ok(3000));
    assert_eq!(room[..3000], value);
    // Asked for their size first, as getfattr(1) does; and with too little room.
    let asked = shell("getfattr --only-values -n user.a a | wc -c", &mount.at(""));
    assert_eq!(asked, "3000\n");
    assert_eq!(get(&here, "user.empty", &mut room), Ok(0));
    assert_eq!(get(&here, "user.a", &mut room[..2999]), Err(Errno::RANGE));
    assert_eq!(listxattr(&here, &mut room[..5]), Err(Errno::RANGE));
    let count = listxattr(&here, &mut room).unwrap();
    let mut names: Vec<_> = room[..count].split(|&byte| byte == 0).collect();
    names.sort();
    assert_eq!(names, [&b""[..], b"user.a", b"user.empty"]);
    // Flags, and what is not there.
    assert_eq!(setxattr(&here, "user.a", b"x", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(setxattr(&here, "user.b", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
    setxattr(&here, "user.a", b"shorter", XattrFlags::REPLACE).unwrap();
    assert_eq!(get(&there, "user.a", &mut room), Ok(7));
    setxattr(&here, "user.a", b"", XattrFlags::REPLACE).unwrap();
    assert_eq!(get(&there, "user.a", &mut room), Ok(0));
    assert_eq!(setxattr(&here, "user.b", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    removexattr(&here, "user.a").unwrap();
    assert_eq!(get(&there, "user.a", &mut room), Err(Errno::NODATA));
    assert_eq!(removexattr(&here, "user.a"), Err(Errno::NODATA));
    shell(
        "setfattr -n user.shell -v word . && getfattr --only-values -n user.shell .",
        &mount.at(""),
    );
    assert_eq!(get(&place.there(""), "user.shell", &mut room), Ok(4));
}

#[test]
fn links_and_special_files_are_what_they_are() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    symlink("../else where", mount.at("link")).unwrap();
    assert_eq!(fs::read_link(mount.at("link")).unwrap(), OsStr::new("../else where"));
    assert_eq!(fs::read_link(place.there("link")).unwrap(), OsStr::new("../else where"));
    shell("mkfifo pipe && ln -s pipe to && test -p to", &mount.at(""));
    assert!(fs::metadata(place.there("pipe")).unwrap().file_type().is_fifo());
    let _listener = std::os::unix::net::UnixListener::bind(mount.at("s")).unwrap();
    assert!(fs::metadata(place.there("s")).unwrap().file_type().is_socket());
    let made =
        rustix::fs::mknodat(CWD, mount.at("file"), FileType::RegularFile, Mode::from(0o640), 0);
    made.unwrap();
    assert_eq!(fs::metadata(place.there("file")).unwrap().mode(), 0o100640);
    // A device node would be live there.
    let null = as_root("mknod").arg(mount.at("null")).args(["c", "1", "3"]).output().unwrap();
    assert!(!null.status.success());
    assert!(!place.there("null").exists());
    // The far side's own is shown with its numbers, and does not work here.
    let made = as_root("mknod").arg(place.there("n")).args(["c", "1", "3"]).status().unwrap();
    assert!(made.success());
    assert_eq!(shell("stat -c '%t %T' n", &mount.at("")), "1 3\n");
    let error = fs::read(mount.at("n")).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::ACCESS));
    as_root("rm").arg(place.there("n")).status().unwrap();
}

#[test]
fn modes_follow_the_umask_and_the_folder() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let modes = "stat -c %a d d/e f";
    shell("umask 027; mkdir d; mkdir -m 700 d/e; : >f; chmod 2775 d; mkdir d/s", &mount.at(""));
    assert_eq!(shell(modes, &mount.at("")), "2775\n700\n640\n");
    assert_eq!(shell(modes, &place.there("")), "2775\n700\n640\n");
    let group = |name| fs::metadata(place.there(name)).unwrap();
    assert_eq!(group("d/s").gid(), group("d").gid());
    assert_eq!(group("d/s").permissions().mode() & 0o2000, 0o2000);
    shell("touch -d '1999-12-31 23:59:58.25 UTC' f", &mount.at(""));
    let seen = fs::metadata(place.there("f")).unwrap();
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (946_684_798, 250_000_000));
    shell("touch -a -d '@-5' f", &mount.at(""));
    assert_eq!(fs::metadata(mount.at("f")).unwrap().atime(), -5);
}

#[test]
fn errors_are_those_of_a_disk() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::create_dir_all(mount.at("d/e")).unwrap();
    fs::write(mount.at("f"), "").unwrap();
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap();
    for at in [mount.at(""), place.there("")] {
        assert_eq!(errno(fs::remove_dir(at.join("d")).unwrap_err()), Errno::NOTEMPTY);
        assert_eq!(errno(fs::remove_dir(at.join("f")).unwrap_err()), Errno::NOTDIR);
        assert_eq!(errno(fs::remove_file(at.join("d")).unwrap_err()), Errno::ISDIR);
        assert_eq!(errno(fs::create_dir(at.join("d")).unwrap_err()), Errno::EXIST);
        assert_eq!(errno(fs::read(at.join("d")).unwrap_err()), Errno::ISDIR);
        assert_eq!(errno(fs::read(at.join("f/x")).unwrap_err()), Errno::NOTDIR);
        assert_eq!(errno(fs::rename(at.join("d"), at.join("d/e/x")).unwrap_err()), Errno::INVAL);
        assert_eq!(errno(fs::hard_link(at.join("d"), at.join("x")).unwrap_err()), Errno::PERM);
    }
}
