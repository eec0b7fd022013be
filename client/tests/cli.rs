//! The command line through the real binary: help, usage errors, exit codes and what is said.
//!
//! Leaves out whatever needs a far end. Every run is with an empty PATH, so that nothing is ever
//! called by accident, and with 80 columns.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod snapshot;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(words: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_qvm-mount-folder"))
        .args(words)
        .env_clear()
        .env("PATH", "/nonexistent")
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs into an error before any call is made, and returns what was said.
fn fails(code: i32, words: &[&str]) -> String {
    let ended = run(words);
    assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.stderr);
    assert_eq!(ended.stdout, "", "{words:?}");
    ended.stderr
}

#[test]
fn short_help_fits_a_terminal() {
    let help = run(&["-h"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.lines().count() <= 24, "{}", help.stdout);
    snapshot::compare("help-short.txt", &help.stdout);
    for line in help.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(line.is_ascii(), "{line}");
    }
}

#[test]
fn long_help_documents_every_option_and_exit_code() {
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for line in help.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(line.is_ascii(), "{line}");
    }
    for option in [
        "--read-only",
        "--msize",
        "--frontend",
        "--idmap",
        "--coherence",
        "--allow-other",
        "--cache",
        "--via",
        "--socket",
        "--options",
        "--timeout",
        "--list",
        "--json",
        "--watch",
        "--unmount",
        "--verbose",
        "--version",
    ] {
        assert!(help.stdout.contains(option), "{option}");
    }
    let (_, codes) = help.stdout.split_once("Exit codes:\n").unwrap();
    let codes: Vec<u8> = codes
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!(codes, client::exit::Exit::ALL.map(client::exit::Exit::code));
    for hidden in ["--daemon", "--sloppy", "--complete-servers"] {
        assert!(!help.stdout.contains(hidden), "{hidden}");
    }
    snapshot::compare("help-long.txt", &help.stdout);
}

#[test]
fn usage_errors_exit_with_2() {
    for words in [
        &[][..],
        &["work"],
        &["work", "/srv"],
        &["work", "/srv", "/mnt", "more"],
        &["work", "/srv", "/mnt", "--no-such-option"],
        &["work", "/srv", "/mnt", "--cache", "lots"],
        &["work", "/srv", "/mnt", "--frontend", "nfs"],
        &["work", "/srv", "/mnt", "--idmap", "all"],
        &["work", "/srv", "/mnt", "--timeout", "0"],
        &["work", "/srv", "/mnt", "--timeout", "soon"],
        &["work", "/srv", "/mnt", "--socket", "/tmp/x"],
        &["--list", "work"],
        &["--list", "--msize", "64K"],
        &["--list", "--frontend", "fuse"],
        &["--list", "--coherence", "2s"],
        &["--list", "-o", "ro"],
        &["--json"],
        &["--list", "--watch", "0"],
        &["--list", "--watch", "often"],
        &["--list", "--unmount", "/mnt"],
        &["--unmount"],
        &["--unmount", "/mnt", "work"],
    ] {
        let said = fails(2, words);
        assert!(said.contains("--help"), "{words:?}: {said}");
    }
}

#[test]
fn each_mistake_is_named_with_its_own_code_and_advice() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let missing = folder.path().join("missing");
    let missing = missing.to_str().unwrap();
    let long = format!("/{}", "x".repeat(200));
    for (code, words, why, hint) in [
        (2, &["1work", "/srv", "/"][..], "1work is no qube", Some("as dom0 does")),
        (2, &["@anyvm", "/srv", "/"], "@default", Some("as dom0 does")),
        (2, &["work", "srv/data", "/"], "relative path", Some("whole path")),
        (2, &["work", "/srv/../etc", "/"], "'..'", Some("whole path")),
        (2, &["work", "my media", "/"], "an alias has only", Some("whole path")),
        (2, &["work", "", "/"], "empty", Some("whole path")),
        (2, &["work", &long, "/"], "221 bytes", Some("alias")),
        (2, &["work", "/srv", "/", "--via", "/no/such"], "no such program", Some("PATH")),
        (5, &["work", "/srv", missing, "--via", "local"], "does not exist", Some("mkdir -p")),
        (5, &["work", "/srv", file, "--via", "local"], "is a regular file", Some("folder")),
        (
            5,
            &["work", "/srv", "--socket", file, "--via", "local"],
            "regular file",
            Some("not there"),
        ),
        (6, &["work", "/srv", "/", "--msize", "2M"], "from 4096 to 1048576", Some("auto")),
        (6, &["work", "/srv", "/", "--msize", "4095"], "from 4096 to 1048576", Some("auto")),
        (6, &["work", "/srv", "/", "--msize", "big"], "is no size", Some("auto")),
        (2, &["work", "/srv", "/", "--coherence", "soon"], "is no time", Some("1s")),
        (2, &["work", "/srv", "/", "--coherence=-1s"], "is no time", Some("1s")),
        (125, &["work", "/srv", "/"], "qrexec-client-vm is not there", Some("--via local")),
        (
            2,
            &["work", "/srv", "/", "-o", "bogus"],
            "option bogus is not known",
            Some("mount.qvm(8)"),
        ),
        (
            2,
            &["work", "/srv", "/", "-o", "noexec,suid"],
            "option suid is not",
            Some("nosuid,nodev"),
        ),
        (2, &["work", "/srv", "/", "--via", "ssh"], "ssh is not installed", Some("openssh-client")),
    ] {
        let said = fails(code, words);
        let mut lines = said.lines();
        let first = lines.next().unwrap();
        assert!(first.starts_with("cannot "), "{said}");
        assert!(first.contains(&format!("{}:{}", words[0], words[1])), "{said}");
        assert!(first.contains(why), "{said}");
        let second = lines.next();
        assert_eq!(second.is_some(), hint.is_some(), "{said}");
        if let (Some(line), Some(hint)) = (second, hint) {
            assert!(line.starts_with("hint: ") && line.contains(hint), "{said}");
        }
        assert_eq!(lines.next(), None, "{said}");
    }
}

#[test]
fn what_cannot_be_unmounted_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    for (path, why, hint) in [
        (here, "nothing is mounted there", "--list"),
        ("/no/such", "nothing is mounted there", "--list"),
        ("/proc", "is no mount of this program's", "umount(8)"),
    ] {
        let said = fails(5, &["--unmount", path]);
        assert!(said.starts_with(&format!("cannot unmount {path}: ")), "{said}");
        assert!(said.contains(why) && said.contains(hint), "{said}");
    }
}

#[test]
fn recent_servers_are_bounded_names_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("qubes-shared-folders");
    std::fs::create_dir(&kept).unwrap();
    let names: String = (0..30).map(|number| format!("qube{number}\n")).collect();
    std::fs::write(kept.join("servers"), format!("$(id)\n\x1b[1m\n{names}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_qvm-mount-folder"))
        .arg("--complete-servers")
        .env_clear()
        .env("XDG_STATE_HOME", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().next(), Some("qube0"));
    assert_eq!(said.lines().count(), client::recent::MOST - 2);
}

#[test]
fn a_program_that_cannot_be_run_makes_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).unwrap();
    let said = fails(2, &["work", "/srv", "/", "--via", program.to_str().unwrap()]);
    assert!(said.contains("no such program"), "{said}");
}

#[test]
fn what_was_written_is_shown_escaped() {
    let said = fails(2, &["wo\x1b[31mrk", "/a\nb", "/"]);
    assert!(said.starts_with(r"cannot mount wo\u{1b}[31mrk:/a\u{a}b on /: "), "{said}");
    assert!(!said.contains('\x1b'));
}
