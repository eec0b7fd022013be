//! How mounts end: by umount, by signals, by a server that stops or goes away.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, started, within};

fn all(processes: &[Pid], signal: Signal) {
    for &process in processes {
        let _ = kill_process(process, signal);
    }
}

#[test]
fn nothing_is_left_after_the_last_umount() {
    let place = Place::new();
    let (first, second) = (place.mount("a", &[]), place.mount("b", &["--read-only"]));
    let list = String::from_utf8(place.command().arg("--list").output().unwrap().stdout).unwrap();
    let rows: Vec<_> = list.lines().filter(|line| line.contains(" fuse ")).collect();
    assert_eq!(rows.len(), 2, "{list}");
    assert!(rows.iter().all(|row| row.contains(" 1048576 ")), "{list}");
    let servers = place.servers();
    assert!(!servers.is_empty());
    // One that is in use stays.
    let file = fs::File::open(first.at("")).unwrap();
    let busy = Command::new("umount").arg(first.at("")).stderr(Stdio::null()).status().unwrap();
    assert!(!busy.success() && first.is_there());
    drop(file);
    first.umount();
    assert!(!first.is_there() && second.is_there());
    assert!(fs::read_dir(second.at("")).is_ok());
    second.umount();
    place.ends();
    let gone = |process: &Pid| !Path::new(&format!("/proc/{}", process.as_raw_nonzero())).exists();
    within(|| servers.iter().all(gone).then_some(()));
}

#[test]
fn a_read_from_a_stopped_server_ends_with_its_process() {
    let place = Place::new();
    fs::write(place.there("x"), vec![7; 300_000]).unwrap();
    let mount = place.mount("here", &[]);
    let program = r"
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDONLY | int(sys.argv[2]))
print('open')
sys.stdin.readline()
import mmap
room = mmap.mmap(-1, 65536)
print('read', os.readv(fd, [room]))
";
    let direct = rustix::fs::OFlags::DIRECT.bits().to_string();
    for flags in ["0", &direct] {
        let mut readers: Vec<_> =
            (0..2).map(|_| started(program, &[&mount.at("x"), Path::new(flags)])).collect();
        for reader in &mut readers {
            assert_eq!(reader.line(), "open");
        }
        let servers = place.servers();
        all(&servers, Signal::STOP);
        for reader in &mut readers {
            reader.child.stdin.take();
        }
        std::thread::sleep(Duration::from_millis(300));
        // A signal that is handled does not make a read fail, even if a fatal one is to follow.
        readers.iter().for_each(|reader| reader.signal(Signal::USR1));
        std::thread::sleep(Duration::from_millis(300));
        assert!(readers.iter_mut().all(|reader| reader.child.try_wait().unwrap().is_none()));
        let since = Instant::now();
        readers[0].signal(Signal::KILL);
        readers[0].ended();
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        all(&servers, Signal::CONT);
        assert_eq!(readers[1].line(), "read 65536");
    }
    // Every other operation that waits is given up in the same way.
    let servers = place.servers();
    all(&servers, Signal::STOP);
    for line in ["exec stat y", "exec mkdir z", "exec >w", "exec ls"] {
        // Not as the new process's folder: who starts it would wait for that.
        let line = format!("cd \"$0\"; {line}");
        let mut command = Command::new("sh");
        command.args(["-c", &line]).arg(mount.at("")).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "{line}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        within(|| child.try_wait().unwrap());
    }
    all(&servers, Signal::CONT);
    assert_eq!(fs::read(mount.at("x")).unwrap().len(), 300_000);
}

#[test]
fn a_server_that_goes_away_gives_errors_and_no_hangs() {
    let place = Place::new();
    fs::write(place.there("x"), vec![7; 3_000_000]).unwrap();
    let mount = place.mount("here", &[]);
    let mut file = fs::File::open(mount.at("x")).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    let servers = place.servers();
    // One waits already.
    all(&servers, Signal::STOP);
    let waiting = std::thread::spawn({
        let path = mount.at("nothing");
        move || fs::metadata(path).map(drop)
    });
    std::thread::sleep(Duration::from_millis(200));
    all(&servers, Signal::KILL);
    let since = Instant::now();
    let errno = |error: std::io::Error| Errno::from_io_error(&error);
    assert_eq!(errno(waiting.join().unwrap().unwrap_err()), Some(Errno::IO));
    assert_eq!(errno(fs::metadata(mount.at("y")).unwrap_err()), Some(Errno::IO));
    assert_eq!(errno(fs::write(mount.at("z"), "").unwrap_err()), Some(Errno::IO));
    let read = std::io::copy(&mut file, &mut std::io::sink());
    assert_eq!(errno(read.unwrap_err()), Some(Errno::IO));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    drop(file);
    mount.umount();
    place.ends();
    // And then it can be mounted anew.
    let mount = place.mount("here", &[]);
    assert_eq!(fs::metadata(mount.at("x")).unwrap().len(), 3_000_000);
}

#[test]
fn mounts_go_with_a_daemon_that_is_told_to_end() {
    let place = Place::new();
    let mounts = [place.mount("a", &[]), place.mount("b c", &[])];
    // In use or not.
    let _file = fs::File::open(mounts[0].at("")).unwrap();
    kill_process(place.daemon().unwrap(), Signal::TERM).unwrap();
    place.ends();
    assert!(mounts.iter().all(|mount| !mount.is_there()));
}

#[test]
fn a_mount_whose_daemon_was_killed_says_so_and_can_be_taken_away() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    kill_process(place.daemon().unwrap(), Signal::KILL).unwrap();
    place.ends();
    within(|| {
        let error = fs::metadata(mount.at("")).err()?;
        (Errno::from_io_error(&error) == Some(Errno::NOTCONN)).then_some(())
    });
    mount.umount();
    assert!(!mount.is_there());
    place.mount("here", &[]);
}

#[test]
fn a_person_who_gives_up_leaves_no_mount() {
    let place = Place::new();
    fs::create_dir(place.at("here")).unwrap();
    // A far end that never says a word.
    let far = place.at("far");
    fs::write(&far, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&far, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.command_by(&["env", "--default-signal=INT"]);
    command.arg(place.qube()).arg("/srv").arg(place.at("here")).arg("--via").arg(&far);
    let mut child = command.args(["--frontend", "fuse"]).stderr(Stdio::null()).spawn().unwrap();
    within(|| place.daemon());
    std::thread::sleep(Duration::from_millis(300));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    within(|| child.try_wait().unwrap());
    place.ends();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(place.at("here").to_str().unwrap()), "{mounts}");
}
