//! `--list`, `--json` and `--watch` through the real binary, with a socket as front end.
//!
//! Leaves out what needs a mount; `kernel.rs` has that.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod place;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use place::{Place, ended, far_end, within};
use rustix::process::{Pid, Signal, kill_process};

fn list(place: &Place, words: &[&str]) -> (String, String) {
    let output = place.command().args(words).output().unwrap();
    assert!(output.status.success());
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn json(place: &Place) -> serde_json::Value {
    serde_json::from_str(&list(place, &["--list", "--json"]).0).unwrap()
}

fn end(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    assert_eq!(ended(child).0, Some(0));
}

#[test]
fn nothing_is_a_list_too() {
    let place = Place::new("none", "exit 1");
    let heads =
        "SERVER  FOLDER  MOUNTPOINT  BY  MSIZE  RW  AGE  SENT  RECV  REQ  P50  P99  STATE\n";
    assert_eq!(list(&place, &["--list"]), (heads.to_owned(), String::new()));
    let empty = serde_json::json!({ "mounts": [], "channels": [], "problems": [] });
    assert_eq!(json(&place), empty);
}

#[test]
fn a_list_says_whose_folder_through_which_process_and_where_the_log_is() {
    let place = Place::new("@default", &far_end("keep"));
    // What dom0 makes of it, the far end says itself.
    let place = Place { qube: "@default".to_owned(), ..place };
    let mut offer = place.offered("socket");
    let all = json(&place);
    let (mount, channel) = (&all["mounts"][0], &all["channels"][0]);
    let socket = place.at("socket");
    for (name, value) in [
        ("server", "@default"),
        ("qube", "far"),
        ("folder", "/srv"),
        ("mount_point", socket.to_str().unwrap()),
        ("front_end", "socket"),
        ("access", "rw"),
        ("state", "ok"),
    ] {
        assert_eq!(mount[name], value, "{all}");
    }
    assert_eq!((&channel["qube"], &channel["state"]), (&"far".into(), &"ok".into()), "{all}");
    // The process is the call's: what stands for qrexec-client-vm here.
    let process = channel["process"].as_u64().unwrap();
    let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap();
    assert!(String::from_utf8_lossy(&words).contains("far_end_of_a_call"));
    let daemon = place.daemon().unwrap().as_raw_nonzero().get();
    assert_eq!(channel["daemon"], daemon);
    let log = std::path::PathBuf::from(channel["log"].as_str().unwrap());
    assert!(log.starts_with(place.runtime()) && log.exists(), "{log:?}");
    let (table, _) = list(&place, &["--list", "-v"]);
    assert!(table.contains("@default (far)"), "{table}");
    assert!(table.contains(&format!("log of @default: {}", log.display())), "{table}");
    assert!(!list(&place, &["--list"]).0.contains("log of"));
    end(&mut offer);
    within(|| place.daemon().is_none().then_some(()));
}

#[test]
fn watching_elsewhere_than_on_a_terminal_is_one_list_after_another() {
    let place = Place::new("watched", &far_end("keep"));
    let mut offer = place.offered("socket");
    let mut command = place.command();
    command.args(["--list", "--json", "--watch", "1"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    for _ in 0..2 {
        let line: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["channels"][0]["server"], place.qube.as_str());
    }
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert_eq!(ended(&mut watch).0, Some(0));
    end(&mut offer);
}

/// Runs a command line of this program at a terminal of its own, writes `keys` there once `shown` is, and
/// gives all that it showed.
fn at_a_terminal(place: &Place, words: &str, shown: &str, keys: &str) -> String {
    let line = format!(
        "stty rows 30 cols 100; '{}' {words}; stty -a",
        env!("CARGO_BIN_EXE_qvm-mount-folder")
    );
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("XDG_RUNTIME_DIR", place.folder.path())
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = script.stdin.take().unwrap();
    let mut stdout = script.stdout.take().unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let mut keys = Some(keys);
    loop {
        let count = stdout.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..count]);
        if String::from_utf8_lossy(&text).contains(shown) {
            if let Some(keys) = keys.take() {
                stdin.write_all(keys.as_bytes()).unwrap();
            }
        }
    }
    assert!(script.wait().unwrap().success());
    String::from_utf8(text).unwrap()
}

#[test]
fn watching_on_a_terminal_leaves_it_as_it_was() {
    let place = Place::new("screen", "exit 1");
    for keys in ["q", "\x03"] {
        let text = at_a_terminal(&place, "--watch", "q ends", keys);
        let entered = text.find("\x1b[?1049h").unwrap();
        let left = text.find("\x1b[?1049l").unwrap();
        assert!(entered < text.find("SERVER").unwrap() && text.find("q ends").unwrap() < left);
        // The cursor is shown, and the terminal has its own modes back.
        assert!(text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"));
        let after = &text[left..];
        for mode in [" isig ", " icanon ", " echo "] {
            assert!(after.replace(['\r', '\n'], " ").contains(mode), "{after}");
        }
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let place = Place::new("colours", "exit 1");
    let coloured = at_a_terminal(&place, "--help", "Exit codes", "");
    assert!(coloured.contains("\x1b["), "{coloured}");
    let program = env!("CARGO_BIN_EXE_qvm-mount-folder");
    let words = format!("--version >/dev/null; NO_COLOR=1 '{program}' --help");
    let plain = at_a_terminal(&place, &words, "Exit codes", "");
    assert!(!plain.contains("\x1b["), "{plain}");
}

#[test]
fn progress_is_one_line_on_a_terminal_and_said_once_elsewhere() {
    let place = Place::new("slow", "exec sleep 60");
    let words = format!(
        "--version; timeout --foreground 5 '{}' {} /srv --via '{}' --socket '{}'",
        env!("CARGO_BIN_EXE_qvm-mount-folder"),
        place.qube,
        place.at("via").display(),
        place.at("socket").display()
    );
    let text = at_a_terminal(&place, &words, "", "");
    let line = format!("\r\x1b[Kwaiting for {}: dom0 may be asking", place.qube);
    assert!(text.matches(&line).count() > 1, "{text}");
    let mut command = place.offer("socket");
    std::thread::sleep(std::time::Duration::from_secs(4));
    kill_process(Pid::from_child(&command), Signal::TERM).unwrap();
    let (_, said) = ended(&mut command);
    assert_eq!(said.matches("waiting for").count(), 1, "{said}");
    assert!(!said.contains(['\r', '\x1b']), "{said:?}");
}
