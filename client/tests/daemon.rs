//! The channel daemon through the real binary, without any mount: a shell script is the far end, and the
//! front end is a socket.
//!
//! Leaves out what needs a file server or the kernel's v9fs; `kernel.rs` has that.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod place;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use place::{Place, ended, far_end, within};
use rustix::process::{Pid, Signal, kill_process};
use transport::local::MessageSocket;

#[test]
fn a_daemon_that_is_told_to_end_does_so_while_a_call_waits() {
    let place = Place::new("ask", "exec sleep 60");
    let mut command = place.offer("socket");
    let daemon = within(|| place.daemon());
    within(|| {
        place
            .runtime()
            .read_dir()
            .ok()?
            .flatten()
            .find(|entry| entry.path().extension().is_some_and(|end| end == "sock"))
    });
    std::thread::sleep(Duration::from_millis(300));
    kill_process(daemon, Signal::TERM).unwrap();
    within(|| place.daemon().is_none().then_some(()));
    assert_eq!(ended(&mut command).0, Some(1));
}

#[test]
fn a_daemon_keeps_nothing_open_that_its_command_was_started_with() {
    let place = Place::new("plain", "exec sleep 60");
    let (_near, far) = std::io::pipe().unwrap();
    // Inherited: only what is made by other means is closed on exec.
    rustix::io::fcntl_setfd(&far, rustix::io::FdFlags::empty()).unwrap();
    let pipe = fs::read_link(format!("/proc/self/fd/{}", far.as_raw_fd())).unwrap();
    let mut command = place.offer("socket");
    drop(far);
    let daemon = within(|| place.daemon());
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.as_raw_nonzero())).unwrap().flatten();
    assert!(!open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| link == pipe));
    kill_process(Pid::from_child(&command), Signal::KILL).unwrap();
    command.wait().unwrap();
    within(|| place.daemon().is_none().then_some(()));
}

#[test]
fn a_daemon_that_was_just_leaving_is_replaced() {
    let place = Place::new("late", "exit 126");
    // The name of the pair's socket is found by looking at one.
    let first = ended(&mut place.offer("socket"));
    assert_eq!(first.0, Some(126), "{}", first.1);
    within(|| place.daemon().is_none().then_some(()));
    let logs = || place.runtime().read_dir().unwrap().flatten().map(|entry| entry.path());
    let log = logs().find(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
    let path = log.with_extension("sock");
    let leaving = MessageSocket::listen(&path).unwrap();
    let mut command = place.offer("socket");
    std::thread::sleep(Duration::from_millis(500));
    // It has connected and asked, and nobody has listened.
    fs::remove_file(&path).unwrap();
    drop(leaving);
    let (code, said) = ended(&mut command);
    assert_eq!(code, Some(126), "{said}");
}

#[test]
fn a_call_to_this_machine_has_no_word_that_could_be_an_option() {
    let place = Place::new("here", "");
    let program = place.at("qvm-mount-folder");
    fs::copy(env!("CARGO_BIN_EXE_qvm-mount-folder"), &program).unwrap();
    place.far_end("echo $# words, $QREXEC_SERVICE_ARGUMENT >&2; exit 127");
    fs::rename(place.at("via"), place.at("qvm-folder-server")).unwrap();
    let mut command = Command::new(program);
    command.env("XDG_RUNTIME_DIR", place.folder.path()).stderr(Stdio::piped());
    command.args([&place.qube, "/h", "--via", "local", "--socket"]).arg(place.at("socket"));
    let (code, said) = ended(&mut command.spawn().unwrap());
    assert_eq!(code, Some(127), "{said}");
    assert!(said.contains("0 words, -h"), "{said}");
}

#[test]
fn an_offer_ends_with_its_stream_though_the_call_goes_on() {
    let place = Place::new("fickle", &far_end("close"));
    let mut first = place.offered("first");
    let mut second = place.offered("second");
    let (code, said) = ended(&mut first);
    assert_eq!(code, Some(11), "{said}");
    assert!(!place.at("first").exists() && place.at("second").exists());
    kill_process(Pid::from_child(&second), Signal::TERM).unwrap();
    assert_eq!(ended(&mut second).0, Some(0));
}

#[test]
fn all_mounts_of_a_full_channel_are_listed() {
    let place = Place::new("many", &far_end("keep"));
    let mut offers: Vec<Child> = Vec::new();
    // As many as a channel has streams, or nearly.
    for number in 0..90 {
        let name = format!("{}{number:03}", "s".repeat(80));
        offers.push(place.offer(&name));
        within(|| place.at(&name).exists().then_some(()));
    }
    let lines = || {
        let output = place.command().arg("--list").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.starts_with(&place.qube) && line.contains("socket")).count()
    };
    within(|| (lines() == 90).then_some(()));
    for offer in &mut offers {
        kill_process(Pid::from_child(offer), Signal::TERM).unwrap();
    }
    for offer in &mut offers {
        assert_eq!(ended(offer).0, Some(0));
    }
    within(|| place.daemon().is_none().then_some(()));
}

/// Only root can be another.
#[test]
fn root_takes_a_stream_from_the_persons_own_daemon_only() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Where no login has made /run/user, the name in /tmp is anybody's to take.
    let uid = 1_900_000_000 + std::process::id();
    let folder = PathBuf::from(format!("/tmp/qubes-shared-folders-{uid}"));
    let place = Place::new("theirs", "exit 126");
    let offer = || {
        let mut command = place.command();
        command.env("SUDO_UID", uid.to_string()).env("SUDO_GID", uid.to_string());
        command.args([place.qube.as_str(), "/srv", "--socket"]).arg(place.at("socket"));
        ended(&mut command.arg("--via").arg("/bin/false").spawn().unwrap())
    };
    let (code, said) = offer();
    assert_eq!(code, Some(11), "{said}");
    let entries = || folder.join("client").read_dir().unwrap().flatten().map(|entry| entry.path());
    let log = entries().find(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
    within(|| place.daemon().is_none().then_some(()));
    let path = log.with_extension("sock");
    let _false_one = MessageSocket::listen(&path).unwrap();
    let (code, said) = offer();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("somebody else's"), "{said}");
}

/// A `qrexec-client-vm` that notes what it is asked: `help` is what its help says, `call` what a call does.
fn qrexec(place: &Place, help: &str, call: &str) -> PathBuf {
    let bin = place.at("bin");
    fs::create_dir(&bin).unwrap();
    let log = place.at("calls").display().to_string();
    let script =
        format!("#!/bin/sh\n[ \"$1\" = --help ] && {{ {help}; }}\necho \"$*\" >>'{log}'\n{call}\n");
    place.far_end(&script);
    fs::rename(place.at("via"), bin.join("qrexec-client-vm")).unwrap();
    bin
}

/// Offers a socket over that; the words of each call.
fn calls_of(place: &Place, bin: &std::path::Path) -> Vec<String> {
    let mut path = bin.as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    let mut command = place.command();
    command.env("PATH", path).args([place.qube.as_str(), "/srv", "--socket"]);
    let mut child = command.arg(place.at("socket")).spawn().unwrap();
    let listed = || {
        let output = place.command().arg("--list").output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("/socket")
    };
    within(|| (listed() || child.try_wait().unwrap().is_some()).then_some(()));
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    child.wait().unwrap();
    let calls = fs::read_to_string(place.at("calls")).unwrap_or_default();
    let words =
        |line: &str| line.replace(&place.qube, "").split_whitespace().collect::<Vec<_>>().join(" ");
    calls.lines().map(words).collect()
}

const CALL: &str = "sharedfolders.Mount+-srv";

#[test]
fn a_qrexec_that_gives_a_larger_ring_is_asked_for_one() {
    let place = Place::new("ring", "");
    let bin = qrexec(&place, "echo '  --buffer-size=BYTES'; exit 0", &far_end("keep"));
    assert_eq!(calls_of(&place, &bin), [format!("--buffer-size=1048576 {CALL}")]);
}

#[test]
fn a_qrexec_that_knows_no_rings_is_not_asked_for_one() {
    let place = Place::new("no-ring", "");
    let bin = qrexec(
        &place,
        "echo 'usage: qrexec-client-vm TARGET SERVICE' >&2; exit 1",
        &far_end("keep"),
    );
    assert_eq!(calls_of(&place, &bin), [CALL]);
}

#[test]
fn a_call_whose_ring_is_not_to_be_had_is_made_without() {
    let place = Place::new("small", "");
    let call = format!("case $1 in --buffer-size=*) exit 1;; esac\n{}", far_end("keep"));
    let bin = qrexec(&place, "echo --buffer-size; exit 0", &call);
    assert_eq!(calls_of(&place, &bin), [format!("--buffer-size=1048576 {CALL}"), CALL.into()]);
    // What dom0 refuses is refused, and not asked again.
    let place = Place::new("refused", "");
    let bin = qrexec(&place, "echo --buffer-size; exit 0", "exit 126");
    assert_eq!(calls_of(&place, &bin), [format!("--buffer-size=1048576 {CALL}")]);
}

#[test]
fn a_channel_that_is_not_to_poll_works() {
    let place = Place::new("quiet", &far_end("keep"));
    let mut command = place.command();
    command.args([place.qube.as_str(), "/srv", "--no-poll", "--socket"]).arg(place.at("socket"));
    let mut child = command.arg("--via").arg(place.at("via")).spawn().unwrap();
    within(|| place.at("socket").exists().then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
}
