//! The sandbox through the real binary: what it forbids, what it lets through, how its two processes
//! end, and where it is refused.
//!
//! Each test runs as the user that runs the tests; as root it also runs as the user 65534, for whom
//! all of it is made. Leaves out mounts below the folder, which need a right to mount: the client's
//! kernel tests have them.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod call;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use transport::mux::Authorisation;
use transport::mux::preface::{Answer, Role, Taken};
use transport::ninep::Tmessage;
use transport::ninep::message::Names;

use call::{Channel, FILE, KINDS, Place, ROOT, User, call, good, in_time, users};

fn check(place: &Place) -> Output {
    let output = place.command(&["--check-sandbox"]).arg(place.at("a")).output().unwrap();
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn what_must_fail_fails_in_every_kind_that_can_be_had() {
    for user in users() {
        let place = Place::new(user);
        let output = check(&place);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("FAILED"));
        for kind in ["namespaces", "landlock"] {
            for (access, some) in [
                ("read-write", "ok      writing a file, with its modes: works"),
                ("read-only", "ok      making a file: "),
            ] {
                let section = text.split_once(&format!("{kind}, {access}:\n")).unwrap().1;
                let section: Vec<_> =
                    section.lines().take_while(|line| line.starts_with(' ')).collect();
                if section.iter().any(|line| line.starts_with("  none")) {
                    eprintln!("no {kind} here");
                    continue;
                }
                assert!(section.len() > 50, "{kind}, {access}: {}", section.len());
                assert!(section.iter().any(|line| line.contains(some)), "{kind}, {access}");
                let later = "  of a later call's folder, for reading only:";
                assert_eq!(section.contains(&later), kind == "namespaces", "{kind}, {access}");
                for forbidden in
                    ["making the mount writable", "a Unix socket", "tracing", "executing"]
                {
                    assert!(
                        section.iter().any(|line| line.contains(&format!("ok      {forbidden}: ")))
                    );
                }
            }
        }
        assert_eq!(fs::read_dir(place.at("a")).unwrap().count(), 0, "it left something behind");
    }
}

fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

#[test]
fn a_folder_is_served_from_within() {
    for user in users() {
        for options in KINDS {
            let place = Place::new(user);
            place.write("a/file", "text");
            let mut channel = Channel::open(&place, "a", false, options);
            let stream = channel.stream(Authorisation::Own);
            assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
            let name = b"new";
            let walk = Tmessage::Twalk { fid: ROOT, newfid: FILE, names: Names::new(&[]).unwrap() };
            good(channel.ask(stream, walk)).unwrap();
            let create =
                Tmessage::Tlcreate { fid: FILE, name, flags: 2, mode: 0o4711, gid: u32::MAX };
            good(channel.ask(stream, create)).unwrap();
            channel.ask(stream, Tmessage::Tclunk { fid: FILE });
            let made = fs::metadata(place.at("a/new")).unwrap();
            assert_eq!(made.mode() & 0o7777, 0o4711);
            let (_, confined) = channel.pids();
            let confined = confined.unwrap().as_raw_nonzero();
            let status = fs::read_to_string(format!("/proc/{confined}/status")).unwrap();
            for line in [
                "NoNewPrivs:\t1",
                "Seccomp:\t2",
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
            ] {
                // An ordinary user outside a namespace of its own cannot empty the bounding set.
                let skip =
                    line.starts_with("CapBnd") && user == User::Nobody && options[1] == "landlock";
                assert!(skip || status.lines().any(|is| is == line), "{line} not in {status}");
            }
            if options[1] == "namespaces" {
                assert_eq!(fs::read_dir(format!("/proc/{confined}/root")).unwrap().count(), 0);
            }
        }
    }
}

#[test]
fn other_owners_are_nobody_to_an_ordinary_user() {
    if !geteuid().is_root() {
        eprintln!("only root can give a file to another user");
        return;
    }
    let place = Place::new(User::Nobody);
    let owned = |name: &str, uid: u32| {
        place.write(name, "");
        std::os::unix::fs::chown(place.at(name), Some(uid), Some(uid)).unwrap();
    };
    // The user 65534 itself would not be told from others.
    owned("a/other", 1234);
    fs::set_permissions(place.at("a/other"), fs::Permissions::from_mode(0o644)).unwrap();
    let mut channel = Channel::open(&place, "a", false, KINDS[0]);
    let stream = channel.stream(Authorisation::Own);
    let (mode, uid, gid) = channel.owner(stream, b"other");
    assert_eq!((mode & 0o7777, uid, gid), (0o644, 65534, 65534));
    assert_eq!(channel.read(stream, b"other").unwrap(), b"");
}

/// The processes of this place's program.
fn living(place: &Place) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours =
        |path: PathBuf| fs::read_link(path.join("exe")).is_ok_and(|exe| exe == place.program());
    processes.filter(|process| ours(process.path())).count()
}

#[test]
fn a_later_folder_comes_into_the_sandbox() {
    for user in users() {
        for options in KINDS {
            let place = Place::new(user);
            place.write("a/file", "first");
            place.write("b/file", "second");
            let mut channel = Channel::open(&place, "a", false, options);
            let first = channel.stream(Authorisation::Own);
            let mut later = call(&place, "b", true, options, Role::Grant(channel.nonce));
            let token = match later.answer() {
                Answer::Taken(hello) => match hello.taken {
                    Taken::Grant(token) => token,
                    Taken::Channel => panic!("it became a channel"),
                },
                Answer::Refused(reason) => panic!("{}: {}", reason.text, later.stderr()),
            };
            assert!(later.ended().success());
            // Nothing of it holds on to what the call came with.
            assert_eq!(later.socket.read(&mut [0]).unwrap(), 0);
            assert_eq!(later.stderr(), "");
            let second = channel.stream(Authorisation::Token(token.0));
            assert_eq!(channel.read(second, b"file").unwrap(), b"second");
            assert_eq!(channel.read(first, b"file").unwrap(), b"first");
            if geteuid().is_root() {
                // Without a process of its own the folder is this channel's.
                assert_eq!(living(&place), if options[1] == "landlock" { 3 } else { 2 });
            }
            channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
            channel.ended();
            in_time("the end of all processes", || (living(&place) == 0).then_some(()));
        }
    }
}

#[test]
fn a_killed_keeper_or_service_takes_the_other_along() {
    for user in users() {
        for options in KINDS {
            for victim in ["keeper", "service"] {
                let place = Place::new(user);
                let mut channel = Channel::open(&place, "a", false, options);
                channel.stream(Authorisation::Own);
                let (keeper, service) = channel.pids();
                let service = service.unwrap();
                assert_eq!(place.sockets(), 1);
                kill_process(if victim == "keeper" { keeper } else { service }, Signal::KILL)
                    .unwrap();
                let ended = channel.ended();
                in_time("the end of the service", || is_gone(service).then_some(()));
                // The client sees its end at once.
                assert_eq!(channel.socket.read(&mut [0; 16]).unwrap_or(0), 0);
                if victim == "service" {
                    assert_eq!(ended.code(), Some(137));
                    assert!(channel.stderr().contains("was ended by signal 9"));
                    assert_eq!(place.sockets(), 0);
                } else {
                    assert_eq!(ended.signal(), Some(9));
                }
            }
        }
    }
}

#[test]
fn a_keeper_that_is_told_to_end_ends_the_service_and_clears_up() {
    for user in users() {
        let place = Place::new(user);
        let mut channel = Channel::open(&place, "a", false, &[]);
        channel.stream(Authorisation::Own);
        let (keeper, service) = channel.pids();
        kill_process(keeper, Signal::TERM).unwrap();
        assert_eq!(channel.ended().code(), Some(143));
        assert!(is_gone(service.unwrap()));
        assert_eq!(place.sockets(), 0);
        // As it does where the client closes the channel.
        let mut channel = Channel::open(&place, "a", false, &[]);
        channel.stream(Authorisation::Own);
        assert_eq!(place.sockets(), 1);
        channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
        channel.ended();
        assert_eq!(place.sockets(), 0);
    }
}

#[test]
fn a_stopped_service_waits_and_goes_on() {
    let place = Place::new(User::Same);
    place.write("a/file", "text");
    let mut channel = Channel::open(&place, "a", false, &[]);
    let stream = channel.stream(Authorisation::Own);
    let (keeper, service) = channel.pids();
    // The keeper alone: nothing is to be noticed of it.
    kill_process(keeper, Signal::STOP).unwrap();
    assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
    kill_process(service.unwrap(), Signal::STOP).unwrap();
    kill_process(service.unwrap(), Signal::CONT).unwrap();
    assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
    kill_process(keeper, Signal::CONT).unwrap();
}

#[test]
fn where_nothing_can_be_had_the_call_is_refused_unless_asked_for() {
    for user in users() {
        let mut place = Place::new(user);
        place.write("a/file", "text");
        place.narrow = true;
        if !place.command(&["--version"]).output().is_ok_and(|output| output.status.success()) {
            eprintln!("no user namespaces here to try it in");
            return;
        }
        let mut refused = call(&place, "a", false, &["--sandbox", "namespaces"], Role::Channel);
        match refused.answer() {
            Answer::Refused(reason) => {
                assert!(reason.text.contains("cannot be locked"), "{reason}")
            }
            Answer::Taken(_) => panic!("it was served"),
        }
        assert_eq!(refused.ended().code(), Some(1));
        assert_eq!(place.sockets(), 0);
        // A channel without a sandbox serves, and says what it lacks.
        let mut channel = Channel::open(&place, "a", false, &["--no-sandbox"]);
        let stream = channel.stream(Authorisation::Own);
        assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
        channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
        channel.ended();
        assert!(channel.stderr().contains("without a sandbox"));
        // Landlock takes the place of namespaces, where it is there, and says so.
        let mut channel = call(&place, "a", false, &[], Role::Channel);
        match channel.answer() {
            Answer::Taken(hello) => {
                channel.client.establish(Duration::ZERO, &hello.limits);
                let stream = channel.stream(Authorisation::Own);
                assert_eq!(channel.read(stream, b"file").unwrap(), b"text");
                channel.socket.shutdown(std::net::Shutdown::Both).unwrap();
                channel.ended();
                assert!(channel.stderr().contains("landlock only (namespaces: "));
            }
            Answer::Refused(_) => eprintln!("no Landlock here"),
        }
    }
}

#[test]
fn file_capabilities_are_for_root_alone() {
    let user = if geteuid().is_root() { User::Nobody } else { User::Same };
    let place = Place::new(user);
    let mut command = place.command(&["--keep-file-capabilities", "sharedfolders.Mount+-tmp"]);
    let output = command.env("QREXEC_REMOTE_DOMAIN", "work").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
