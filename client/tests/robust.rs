//! A daemon that is killed, broken, of another version, or asked by many at once; through the real binary.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod place;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use place::{Place, ended, far_end, within};
use rustix::process::{Pid, Signal, kill_process};
use transport::local::MessageSocket;

fn stop(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    let (code, said) = ended(child);
    assert_eq!(code, Some(0), "{said}");
}

/// The pair's socket: its name is found by looking at one.
fn socket(place: &Place) -> PathBuf {
    let lists = || place.runtime().read_dir().into_iter().flatten().flatten();
    let ends = |path: &PathBuf, end: &str| path.extension().is_some_and(|other| other == end);
    let log = within(|| lists().map(|entry| entry.path()).find(|path| ends(path, "log")));
    log.with_extension("sock")
}

#[test]
fn many_first_mounts_at_once_end_up_on_one_channel() {
    let place = Place::new("rush", "");
    let calls = place.at("calls");
    place.far_end(&format!("echo $$ >>'{}'; {}", calls.display(), far_end("keep")));
    let names: Vec<String> = (0..24).map(|number| format!("socket{number}")).collect();
    let mut offers: Vec<Child> = names.iter().map(|name| place.offer(name)).collect();
    for name in &names {
        within(|| place.at(name).exists().then_some(()));
    }
    let list = || {
        let output = place.command().args(["--list", "--json"]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let all = within(|| {
        let all = list();
        (all["mounts"].as_array().unwrap().len() == names.len()).then_some(all)
    });
    let channels = all["channels"].as_array().unwrap();
    assert_eq!(channels.len(), 1, "{all}");
    assert_eq!(channels[0]["mounts"], names.len());
    // Each has asked, and one call lasts.
    let processes = fs::read_to_string(&calls).unwrap();
    assert_eq!(processes.lines().count(), names.len());
    let lives = |process: &&str| fs::exists(format!("/proc/{process}/fd/0")).unwrap();
    within(|| (processes.lines().filter(lives).count() == 1).then_some(()));
    offers.iter_mut().for_each(stop);
    within(|| place.daemon().is_none().then_some(()));
}

#[test]
fn what_a_killed_daemon_leaves_is_in_nobodys_way() {
    let place = Place::new("crashed", &far_end("keep"));
    let mut offer = place.offered("one");
    let path = socket(&place);
    kill_process(place.daemon().unwrap(), Signal::KILL).unwrap();
    let (code, said) = ended(&mut offer);
    assert_eq!(code, Some(11), "{said}");
    assert!(path.exists());
    // A list clears it away.
    let output = place.command().arg("--list").output().unwrap();
    assert!(output.stderr.is_empty() && output.status.success());
    assert!(!path.exists());
    // And a mount does not mind it.
    drop(MessageSocket::listen(&path).unwrap());
    assert!(MessageSocket::is_deserted(&path));
    let mut offer = place.offered("two");
    stop(&mut offer);
}

/// Something that listens in the daemon's place and answers each request with `answer`.
fn impostor(place: &Place, answer: &'static [u8]) -> (PathBuf, JoinHandle<()>) {
    let first = ended(&mut place.offer("first"));
    assert_eq!(first.0, Some(126), "{}", first.1);
    within(|| place.daemon().is_none().then_some(()));
    let path = socket(place);
    let listener = MessageSocket::listen(&path).unwrap();
    let thread = std::thread::spawn(move || {
        for _ in 0..2 {
            let socket = listener.accept().unwrap();
            let request = socket.receive().unwrap();
            assert!(request.bytes.starts_with(br#"{"form":"#));
            socket.send(answer, &[]).unwrap();
            // Until the other side has gone.
            while socket.receive().is_ok_and(|message| !message.bytes.is_empty()) {}
        }
    });
    (path, thread)
}

#[test]
fn a_daemon_of_another_version_is_named_as_such() {
    let place = Place::new("older", "exit 126");
    let answer = br#"{"Failed":{"exit":"Other","what":null,"why":"the mounts of this qube are held by another version of this program","hint":"unmount them and mount again"}}"#;
    let (path, thread) = impostor(&place, answer);
    let (code, said) = ended(&mut place.offer("socket"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another version") && said.contains("hint: unmount them"), "{said}");
    let output = place.command().arg("--list").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another version") && said.contains(path.to_str().unwrap()), "{said}");
    thread.join().unwrap();
}

#[test]
fn a_command_of_another_version_is_told_so() {
    let place = Place::new("newer", &far_end("keep"));
    let mut offer = place.offered("socket");
    let socket = MessageSocket::connect(&socket(&place)).unwrap();
    socket.send(br#"{"form":9999,"want":{"Dance":["a","b"]}}"#, &[]).unwrap();
    let answer: serde_json::Value =
        serde_json::from_slice(&socket.receive().unwrap().bytes).unwrap();
    assert!(answer["Failed"]["why"].as_str().unwrap().contains("another version"), "{answer}");
    stop(&mut offer);
}

#[test]
fn a_broken_daemon_is_named_with_its_process_and_what_to_do() {
    let place = Place::new("broken", "exit 126");
    let (_path, thread) = impostor(&place, b"what?");
    let (code, said) = ended(&mut place.offer("socket"));
    assert_eq!(code, Some(1), "{said}");
    let process = std::process::id();
    assert!(said.contains(&format!("process {process}) is broken")), "{said}");
    assert!(said.contains("hint: end it"), "{said}");
    let output = place.command().arg("--list").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("process {process} answers what is not")), "{said}");
    thread.join().unwrap();
}

#[test]
fn a_daemon_that_is_stopped_is_listed_as_a_problem() {
    let place = Place::new("stopped", &far_end("keep"));
    let mut offer = place.offered("socket");
    let daemon = place.daemon().unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    let output = place.command().args(["--list", "--json"]).output().unwrap();
    kill_process(daemon, Signal::CONT).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = all["problems"][0].as_str().unwrap();
    let process = daemon.as_raw_nonzero();
    assert!(problem.contains(&format!("process {process} does not answer")), "{problem}");
    stop(&mut offer);
}

#[test]
fn a_daemon_survives_the_terminal_that_started_it() {
    let place = Place::new("terminal", &far_end("keep"));
    let program = env!("CARGO_BIN_EXE_qvm-mount-folder");
    // The terminal belongs to `script` and goes with it; the second offer holds the daemon.
    let (qube, via, one) = (&place.qube, place.at("via"), place.at("one"));
    let line = format!(
        "exec '{program}' {qube} /srv --via '{}' --socket '{}'",
        via.display(),
        one.display()
    );
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("XDG_RUNTIME_DIR", place.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    within(|| one.exists().then_some(()));
    let daemon = within(|| place.daemon());
    let mut second = place.offered("two");
    // It has a session of its own, and no terminal.
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.as_raw_nonzero())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(
        (fields[3], fields[4]),
        (daemon.as_raw_nonzero().to_string().as_str(), "0"),
        "{stat}"
    );
    kill_process(Pid::from_child(&script), Signal::KILL).unwrap();
    script.wait().unwrap();
    within(|| (!one.exists()).then_some(()));
    assert_eq!(place.daemon(), Some(daemon));
    let output = place.command().arg("--list").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("/two"));
    stop(&mut second);
    within(|| place.daemon().is_none().then_some(()));
}

#[test]
fn a_log_has_what_its_level_says() {
    for (level, has) in [("warning", false), ("info", true)] {
        let place = Place::new(level, &far_end("keep"));
        let mut command = place.command();
        command.args([place.qube.as_str(), "/srv", "--socket"]).arg(place.at("socket"));
        command.arg("--via").arg(place.at("via")).env("QVM_MOUNT_FOLDER_LOG", level);
        let mut offer = command.spawn().unwrap();
        within(|| {
            let output = place.command().arg("--list").output().unwrap();
            String::from_utf8(output.stdout).unwrap().contains("/srv").then_some(())
        });
        stop(&mut offer);
        within(|| place.daemon().is_none().then_some(()));
        let text = fs::read_to_string(socket(&place).with_extension("log")).unwrap();
        assert_eq!(text.contains("UTC info: opened /srv of far"), has, "{text}");
    }
}
