//! What is in files: reads, writes, mappings, ends.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::place::{LIFETIME, Place, as_nobody, python};

/// Bytes that are unlike each other.
fn noise(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn what_is_written_here_is_there_and_the_reverse() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let bytes = noise(5_000_011, 1);
    fs::write(mount.at("a"), &bytes).unwrap();
    assert!(fs::read(place.there("a")).unwrap() == bytes);
    fs::write(place.there("b"), &bytes).unwrap();
    assert!(fs::read(mount.at("b")).unwrap() == bytes);
    // At odd offsets, in one call for more than a message, past the page cache and through it.
    for flags in [0, rustix::fs::OFlags::DIRECT.bits() as i32] {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(mount.at("a"));
        let file = file.unwrap();
        let piece = noise(3_000_001, 2);
        file.write_all_at(&piece, 777_777).unwrap();
        let mut back = vec![0; piece.len()];
        file.read_exact_at(&mut back, 777_777).unwrap();
        assert!(back == piece);
        let mut expected = bytes.clone();
        expected[777_777..][..piece.len()].copy_from_slice(&piece);
        assert!(fs::read(place.there("a")).unwrap() == expected);
    }
}

#[test]
fn small_messages_carry_large_requests_too() {
    let place = Place::new();
    let mount = place.mount("here", &["--msize", "4096"]);
    let bytes = noise(1_234_567, 3);
    fs::write(mount.at("a"), &bytes).unwrap();
    assert!(fs::read(place.there("a")).unwrap() == bytes);
    fs::write(place.there("b"), &bytes).unwrap();
    assert!(fs::read(mount.at("b")).unwrap() == bytes);
    let list = String::from_utf8(place.command().arg("--list").output().unwrap().stdout).unwrap();
    assert!(list.contains(" fuse ") && list.contains(" 4096 "), "{list}");
}

#[test]
fn files_are_larger_than_four_gigabytes() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    const FAR: u64 = 5 << 30;
    let mut file = File::create_new(mount.at("a")).unwrap();
    file.seek(SeekFrom::Start(FAR)).unwrap();
    file.write_all(b"far").unwrap();
    let seen = fs::metadata(place.there("a")).unwrap();
    assert_eq!(seen.len(), FAR + 3);
    assert!(seen.blocks() < 1000);
    let file = File::open(mount.at("a")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), FAR + 3);
    let mut end = [1; 8];
    file.read_exact_at(&mut end, FAR - 5).unwrap();
    assert_eq!(&end, b"\0\0\0\0\0far");
    OpenOptions::new().write(true).open(mount.at("a")).unwrap().set_len(FAR - 1).unwrap();
    assert_eq!(fs::metadata(place.there("a")).unwrap().len(), FAR - 1);
    assert_eq!(fs::metadata(mount.at("a")).unwrap().len(), FAR - 1);
}

#[test]
fn two_writers_append_without_losing_a_line() {
    let place = Place::new();
    let mounts = [place.mount("a", &[]), place.mount("b", &[])];
    const LINES: usize = 300;
    std::thread::scope(|scope| {
        for (writer, mount) in (0..).zip([&mounts[0], &mounts[1], &mounts[0]]) {
            scope.spawn(move || {
                let file = OpenOptions::new().create(true).append(true).open(mount.at("log"));
                let mut file = file.unwrap();
                for line in 0..LINES {
                    file.write_all(format!("{writer} {line:0100}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(place.there("log")).unwrap();
    for writer in 0..3 {
        let own = format!("{writer} ");
        let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(&own)).collect();
        assert_eq!(lines.len(), LINES, "of writer {writer}");
        assert!(lines.iter().enumerate().all(|(at, line)| line.parse() == Ok(at)));
    }
    assert_eq!(text.lines().count(), 3 * LINES);
    // What was appended elsewhere is read here.
    std::thread::sleep(LIFETIME);
    for mount in &mounts {
        assert!(fs::read_to_string(mount.at("log")).unwrap() == text);
    }
}

#[test]
fn files_are_mapped_shared_and_private() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let program = r"
import mmap, os, sys
for mode, flags in (('a', os.O_RDWR), ('b', os.O_RDWR | os.O_APPEND)):
    fd = os.open(sys.argv[1] + mode, flags | os.O_CREAT)
    os.ftruncate(fd, 3 << 20)
    shared = mmap.mmap(fd, 3 << 20)
    shared[1000:1005] = b'hello'
    shared[(2 << 20) + 1:(2 << 20) + 6] = b'world'
    private = mmap.mmap(fd, 3 << 20, flags=mmap.MAP_PRIVATE)
    private[1000:1001] = b'J'
    shared.flush()
    assert os.pread(fd, 5, 1000) == b'hello', os.pread(fd, 5, 1000)
    assert private[1000:1005] == b'Jello'
    shared[0:5] = b'later'
    shared.close()
    os.close(fd)
";
    python(program, &[&mount.at("")]);
    for name in ["a", "b"] {
        let bytes = fs::read(place.there(name)).unwrap();
        assert_eq!(bytes.len(), 3 << 20, "{name}");
        assert_eq!(&bytes[1000..1005], b"hello", "{name}");
        assert_eq!(&bytes[(2 << 20) + 1..][..5], b"world", "{name}");
        // Written back when the last descriptor was closed.
        assert_eq!(&bytes[..5], b"later", "{name}");
    }
}

#[test]
fn a_file_without_a_name_is_still_the_same_file() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let mut file =
        OpenOptions::new().create_new(true).read(true).write(true).open(mount.at("a")).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(mount.at("a")).unwrap();
    assert_eq!(fs::metadata(mount.at("a")).unwrap_err().kind(), ErrorKind::NotFound);
    file.write_all(b" after").unwrap();
    // Longer than the kernel remembers, so that it has to ask.
    std::thread::sleep(LIFETIME);
    let seen = file.metadata().unwrap();
    assert_eq!((seen.nlink(), seen.len()), (0, 12));
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.set_len(9).unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before af");
    // Another of the same name is another.
    fs::write(mount.at("a"), "new").unwrap();
    assert_eq!(fs::read(mount.at("a")).unwrap(), b"new");
    assert_eq!(file.metadata().unwrap().len(), 9);
}

#[test]
fn a_file_that_was_replaced_while_open_is_read_to_its_end() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::write(mount.at("old"), "old text").unwrap();
    fs::write(mount.at("new"), "new").unwrap();
    let mut file = File::open(mount.at("old")).unwrap();
    fs::rename(mount.at("new"), mount.at("old")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old text");
    assert_eq!(fs::read(mount.at("old")).unwrap(), b"new");
    assert!(!mount.at("new").exists());
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}

#[test]
fn truncation_at_open_is_the_servers() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::write(mount.at("a"), noise(100_000, 4)).unwrap();
    let reader = File::open(mount.at("a")).unwrap();
    fs::write(mount.at("a"), "short").unwrap();
    assert_eq!(fs::read(place.there("a")).unwrap(), b"short");
    assert_eq!(reader.metadata().unwrap().len(), 5);
    assert_eq!(fs::read(mount.at("a")).unwrap(), b"short");
}

#[test]
fn changes_made_there_are_seen_within_the_time_that_is_asked_for() {
    let place = Place::new();
    let (second, strict) = (place.mount("a", &[]), place.mount("b", &["--coherence", "strict"]));
    for (text, wait) in [("one", true), ("two", true), ("six", true), ("a longer one", true)] {
        fs::write(place.there("x"), text).unwrap();
        assert_eq!(fs::read_to_string(strict.at("x")).unwrap(), text);
        assert_eq!(fs::metadata(strict.at("x")).unwrap().len(), text.len() as u64);
        if wait {
            std::thread::sleep(LIFETIME);
        }
        assert_eq!(fs::read_to_string(second.at("x")).unwrap(), text);
    }
}

#[test]
fn what_9p_cannot_do_is_refused_and_not_pretended() {
    use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let file = File::create(mount.at("a")).unwrap();
    for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        assert_eq!(fallocate(&file, flags, 0, 4096), Err(Errno::OPNOTSUPP));
    }
    fs::write(mount.at("b"), "").unwrap();
    for flags in [RenameFlags::NOREPLACE, RenameFlags::EXCHANGE] {
        let renamed = renameat_with(CWD, mount.at("a"), CWD, mount.at("c"), flags);
        assert!(matches!(renamed, Err(Errno::INVAL | Errno::NOENT)), "{renamed:?}");
    }
    assert!(mount.at("a").exists() && !mount.at("c").exists());
    // Holes are not looked for, but ends are found.
    file.set_len(100).unwrap();
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(10)), Ok(100));
}

#[test]
fn what_is_written_is_on_the_disk_when_it_is_asked_for() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    fs::create_dir(mount.at("d")).unwrap();
    let mut file = File::create(mount.at("d/a")).unwrap();
    file.write_all(b"text").unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    File::open(mount.at("d")).unwrap().sync_all().unwrap();
    let (here, there) = (
        rustix::fs::statvfs(mount.at("d")).unwrap(),
        rustix::fs::statvfs(place.there("d")).unwrap(),
    );
    assert_eq!(here.f_blocks * here.f_frsize, there.f_blocks * there.f_frsize);
    assert_eq!(here.f_namemax, 255);
}

#[test]
fn set_id_bits_go_when_somebody_else_writes() {
    let place = Place::new();
    fs::write(place.there("a"), "text").unwrap();
    let bits = || fs::metadata(place.there("a")).unwrap().permissions().mode() & 0o7777;
    let mount = place.mount("here", &["--idmap", "none"]);
    for line in ["echo more >>\"$0\"", ": >\"$0\"", "printf x | dd of=\"$0\" conv=notrunc"] {
        fs::set_permissions(place.there("a"), fs::Permissions::from_mode(0o6777)).unwrap();
        std::thread::sleep(LIFETIME);
        let status = as_nobody("sh").args(["-c", line]).arg(mount.at("a")).status();
        assert!(status.unwrap().success(), "{line}");
        assert_eq!(bits(), 0o777, "{line}");
    }
}

#[test]
fn what_changes_at_the_server_is_seen_long_before_the_kernel_would_ask_again() {
    let place = Place::new();
    fs::write(place.there("a"), "").unwrap();
    // Without being told the kernel would believe for ten seconds what it was told.
    let mount = place.mount("here", &["--coherence", "20"]);
    assert_eq!(fs::read_dir(mount.at("")).unwrap().count(), 1);
    // How long it takes until something is seen.
    let soon = |what: &str, seen: &dyn Fn() -> bool| {
        let changed = Instant::now();
        while !seen() {
            assert!(changed.elapsed() < Duration::from_secs(5), "{what}");
        }
        changed.elapsed()
    };
    let size = || fs::metadata(mount.at("a")).unwrap().len();
    let mut slowest = Duration::ZERO;
    for next in 1..=20 {
        assert_eq!(size(), next - 1);
        // It has been looked at; now the other side changes it.
        fs::write(place.there("a"), noise(next as usize, 7)).unwrap();
        slowest = slowest.max(soon("a change", &|| size() == next));
        assert_eq!(fs::read(mount.at("a")).unwrap(), noise(next as usize, 7));
    }
    fs::rename(place.there("a"), place.there("b")).unwrap();
    soon("a name", &|| !mount.at("a").exists() && mount.at("b").exists());
    // What this side has moved is watched no less.
    fs::rename(mount.at("b"), mount.at("c")).unwrap();
    fs::remove_file(place.there("c")).unwrap();
    soon("a name that was moved here", &|| !mount.at("c").exists());
    println!("seen after {slowest:?} at the latest");
}
