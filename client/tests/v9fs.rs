//! Mounts with the kernel's v9fs for real, with diod at the far end of the socket.
//!
//! Ignored here and run by `kernel.rs`: they need a kernel that has v9fs, root, Debian's `diod`, and /mnt
//! as a folder of their own to write in:
//! user-mode Linux, for instance. There: `v9fs-... --ignored --test-threads=1`. In place of root, a
//! user whom sudo asks nothing will do; then sudo mounts. What travels through a channel is tested
//! elsewhere.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use clap::Parser;
use client::cli::Cli;
use client::exit::{Exit, Failure};
use client::frontend::mountinfo;
use client::frontend::v9fs::{Mounted, V9fs};
use client::frontend::{SocketPair, socket_pair};
use client::kernel::{self, Version};
use client::plan::{self, Plan, Task};
use rustix::mount::{UnmountFlags, unmount};
use transport::id::Msize;

/// A folder to serve, a mount point, and whatever was mounted there.
struct Place {
    base: PathBuf,
}

impl Place {
    fn new(name: &str) -> Place {
        let base = Path::new("/mnt").join(name);
        fs::create_dir_all(base.join("served")).unwrap();
        fs::create_dir_all(base.join("here")).unwrap();
        fs::write(base.join("served/hello"), "hello").unwrap();
        Place { base }
    }

    fn here(&self) -> PathBuf {
        self.base.join("here")
    }

    fn plan(&self, options: &[&str]) -> Plan {
        self.plan_at(&self.here(), options)
    }

    fn plan_at(&self, here: &Path, options: &[&str]) -> Plan {
        let mut words: Vec<OsString> =
            ["q", "work", "/My docs", "--via", "local"].map(Into::into).into();
        words.push(here.into());
        words.extend(options.iter().map(Into::into));
        match plan::plan(Cli::try_parse_from(words).unwrap()).unwrap() {
            Task::Mount(plan) => plan,
            _ => unreachable!(),
        }
    }

    /// Starts diod behind a relay that makes up for what diod wants otherwise than this program's
    /// server: the folder's path as `aname`, and messages above 64 KiB. `most` is the largest msize
    /// that is answered; what is above 64 KiB is agreed to and must not be made use of.
    fn serve(&self, end: OwnedFd, most: u32) -> Far {
        let folder = self.base.join("served");
        let (far, far_end) = UnixStream::pair().unwrap();
        let diod = Command::new("/usr/sbin/diod")
            .args(["-f", "-n", "-r", "0", "-w", "0", "-L", "stderr", "-e"])
            .arg(&folder)
            .stdin(Stdio::from(OwnedFd::from(far_end)))
            .spawn()
            .unwrap();
        let near = UnixStream::from(end);
        let (mut near_in, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let (send_asked, asked) = std::sync::mpsc::channel();
        let there = std::thread::spawn(move || {
            while let Some(mut message) = message(&mut near_in) {
                let folder = folder.as_os_str().as_bytes();
                match message[4] {
                    TVERSION => send_asked.send(msize(&message).min(most)).unwrap(),
                    TATTACH => name_folder(&mut message, folder),
                    _ => {}
                }
                far_out.write_all(&message).unwrap();
            }
            far_out.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let back = std::thread::spawn(move || {
            let (mut far_in, mut near_out) = (far, near);
            while let Some(mut message) = message(&mut far_in) {
                if message[4] == TVERSION + 1 {
                    let msize: u32 = asked.recv().unwrap();
                    message[7..11].copy_from_slice(&msize.to_le_bytes());
                }
                if near_out.write_all(&message).is_err() {
                    break;
                }
            }
        });
        Far { diod, threads: [there, back] }
    }

    fn mount(&self, plan: &Plan, server_msize: u32) -> (Result<Mounted, Failure>, Far) {
        let SocketPair { client, relay } = socket_pair(Msize::MAX).unwrap();
        let far = self.serve(relay, u32::MAX);
        (V9fs::prepare(plan).and_then(|v9fs| v9fs.mount(plan, client, server_msize)), far)
    }

    fn assert_nothing_is_mounted(&self) {
        let below = |entry: &mountinfo::Entry| entry.mount_point.starts_with(&self.base);
        assert!(!mountinfo::entries().unwrap().iter().any(below));
    }
}

/// What is at the other end of a mount's socket.
struct Far {
    diod: Child,
    threads: [JoinHandle<()>; 2],
}

impl Far {
    /// Waits for the server, which must see the end of the conversation.
    fn wait(mut self) {
        self.diod.wait().unwrap();
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn end(here: &Path, far: Far) {
    if kernel::may_mount() {
        unmount(here, UnmountFlags::empty()).unwrap();
    } else {
        let umount = Command::new("sudo").args(["-n", "umount", "-i"]).arg(here).status();
        assert!(umount.unwrap().success());
    }
    far.wait();
}

/// The next 9P message; `None` at the end.
fn message(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 4];
    from.read_exact(&mut message).ok()?;
    let size = u32::from_le_bytes(message[..4].try_into().unwrap());
    message.resize(size as usize, 0);
    from.read_exact(&mut message[4..]).ok()?;
    Some(message)
}

/// size[4] type[1] tag[2] msize[4] version[s]
const TVERSION: u8 = 100;
/// size[4] type[1] tag[2] fid[4] afid[4] uname[s] aname[s] n_uname[4]
const TATTACH: u8 = 104;

fn msize(version: &[u8]) -> u32 {
    u32::from_le_bytes(version[7..11].try_into().unwrap())
}

fn name_folder(attach: &mut Vec<u8>, folder: &[u8]) {
    let at = 17 + usize::from(u16::from_le_bytes([attach[15], attach[16]]));
    assert_eq!(attach[at..at + 2], [0, 0], "aname is empty");
    let length = u16::try_from(folder.len()).unwrap().to_le_bytes();
    attach.splice(at..at + 2, [&length, folder].concat());
    let size = u32::try_from(attach.len()).unwrap();
    attach[..4].copy_from_slice(&size.to_le_bytes());
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn a_mounted_folder_is_usable_and_harmless() {
    let place = Place::new("usable");
    let (mounted, far) = place.mount(&place.plan(&[]), u32::MAX);
    let mounted = mounted.unwrap();
    let here = place.here();
    assert_eq!(fs::read(here.join("hello")).unwrap(), b"hello");
    fs::write(here.join("back"), vec![7; 20_000]).unwrap();
    assert_eq!(fs::read(place.base.join("served/back")).unwrap(), vec![7; 20_000]);

    let entry = mountinfo::at(&here).unwrap().unwrap();
    assert_eq!(entry.source, "work:/My docs");
    for option in ["rw", "nosuid", "nodev"] {
        assert!(entry.options.split(',').any(|o| o == option), "{}", entry.options);
    }
    eprintln!("{entry:?}");
    let device = fs::metadata(&here).unwrap().dev();
    assert_eq!((rustix::fs::major(device), rustix::fs::minor(device)), mounted.device);
    assert_eq!(mounted.warnings, Vec::<String>::new());
    end(&here, far);
    place.assert_nothing_is_mounted();
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn reading_only_is_kept_by_the_kernel_too() {
    let place = Place::new("read-only");
    let (mounted, far) = place.mount(&place.plan(&["--read-only"]), u32::MAX);
    mounted.unwrap();
    let here = place.here();
    assert_eq!(fs::read(here.join("hello")).unwrap(), b"hello");
    let error = fs::write(here.join("new"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    end(&here, far);
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn the_msize_is_what_was_asked_for_or_a_warning_says_why_not() {
    let place = Place::new("msize");
    for (asked, server, msize, warning) in [
        ("4K", u32::MAX, 4_096, None),
        ("64K", u32::MAX, 65_536, None),
        ("128K", u32::MAX, 131_072, None),
        ("131096", u32::MAX, 131_096, None),
        ("524312", u32::MAX, 524_312, None),
        ("1M", u32::MAX, 1_048_576, None),
        ("1M", 262_168, 262_168, Some("262168 is used instead of 1048576: the other qube")),
    ] {
        let (mounted, far) = place.mount(&place.plan(&["--msize", asked]), server);
        let mounted = mounted.unwrap();
        assert_eq!(mounted.msize.bytes(), msize, "{asked}");
        match warning {
            None => assert_eq!(mounted.warnings, Vec::<String>::new()),
            Some(text) => assert!(mounted.warnings[0].contains(text), "{:?}", mounted.warnings),
        }
        fs::write(place.here().join("data"), vec![1; 20_000]).unwrap();
        assert_eq!(fs::read(place.here().join("data")).unwrap().len(), 20_000);
        end(&place.here(), far);
    }
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn an_answer_with_a_smaller_msize_is_noticed() {
    let place = Place::new("smaller");
    let plan = place.plan(&["--msize", "1M"]);
    let SocketPair { client, relay } = socket_pair(Msize::MAX).unwrap();
    let far = place.serve(relay, 65_536);
    let mounted = V9fs::prepare(&plan).unwrap().mount(&plan, client, u32::MAX).unwrap();
    assert_eq!(mounted.msize.bytes(), 65_536);
    assert_eq!(
        mounted.warnings,
        ["msize 65536 is used instead of 1048576: the other qube takes no more"]
    );
    end(&place.here(), far);
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn every_cache_mode_that_the_kernel_knows_works() {
    let place = Place::new("cache");
    let old = Version::running() < Version(6, 4);
    for mode in ["auto", "none", "mmap", "loose", "readahead"] {
        if mode == "loose" && !kernel::may_mount() {
            // The kernel then writes as root, which diod does not take from a server's user.
            continue;
        }
        let plan = place.plan(&["--cache", mode]);
        let (mounted, far) = place.mount(&plan, u32::MAX);
        if mode == "readahead" && old {
            let failure = mounted.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.why.contains("came with Linux 6.4"), "{failure}");
            far.wait();
            continue;
        }
        let mounted = mounted.unwrap();
        assert_eq!(mounted.warnings.len(), usize::from(mode == "loose"), "{mode}");
        fs::write(place.here().join("data"), mode).unwrap();
        assert_eq!(fs::read_to_string(place.here().join("data")).unwrap(), mode);
        let shown = mountinfo::at(&place.here()).unwrap().unwrap();
        eprintln!("{mode}: {}", shown.super_options);
        end(&place.here(), far);
    }
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn a_mount_points_name_is_bytes() {
    let place = Place::new("bytes");
    let here = place.base.join(OsStr::from_bytes(b"a b\t\\\n#,\xff"));
    fs::create_dir(&here).unwrap();
    let (mounted, far) = place.mount(&place.plan_at(&here, &[]), u32::MAX);
    mounted.unwrap();
    assert_eq!(fs::read(here.join("hello")).unwrap(), b"hello");
    end(&here, far);
}

#[test]
#[ignore = "needs root, v9fs and diod"]
fn a_far_end_that_is_none_leaves_nothing_mounted() {
    let place = Place::new("none");
    let plan = place.plan(&[]);
    let v9fs = V9fs::prepare(&plan).unwrap();

    let SocketPair { client, relay } = socket_pair(Msize::MAX).unwrap();
    drop(relay);
    let failure = v9fs.mount(&plan, client, u32::MAX).unwrap_err();
    eprintln!("{failure}");
    assert_eq!(failure.exit, Exit::ClosedEarly, "{failure}");
    place.assert_nothing_is_mounted();

    // A version that is none; what is no 9P at all; an Rlerror; the end.
    for (answer, exit) in [
        (&b"\x13\0\0\0\x65\xff\xff\0\x10\0\0\x06\09P3000"[..], Exit::Garbage),
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", Exit::ClosedEarly),
        (b"\x0b\0\0\0\x07\xff\xff\x02\0\0\0", Exit::NoFolder),
        (b"", Exit::ClosedEarly),
    ] {
        let SocketPair { client, relay } = socket_pair(Msize::MAX).unwrap();
        let mut far = UnixStream::from(relay);
        let server = std::thread::spawn(move || {
            far.read_exact(&mut [0; 21]).unwrap();
            far.write_all(answer).unwrap();
            // Where there was an answer, the end must not come before it was understood.
            Some(far).filter(|_| !answer.is_empty())
        });
        let failure = v9fs.mount(&plan, client, u32::MAX).unwrap_err();
        eprintln!("{failure}");
        assert_eq!(failure.exit, exit, "{failure}");
        drop(server.join().unwrap());
        place.assert_nothing_is_mounted();
    }
}
