//! What the suites of other file systems say of a FUSE mount.
//!
//! Every case of pjdfstest that passes in a folder has to pass in a mount of such a folder, or stand in
//! `conformance/fuse.txt` with the reason: `CASE REASON`, a line each. One that stands there and passes
//! fails this test too. fsx has to find nothing.
//!
//! Both come with `.ci/install-suites`. pjdfstest acts as several users, so it needs root: where it is
//! not run as root, through `sudo`.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

#[path = "fuse/place.rs"]
#[allow(dead_code)] // The tests of `fuse` use more of it.
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use place::Place;

fn suite(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = top.join("target/tools/bin").join(name);
    assert!(program.exists(), "{} is not there: run .ci/install-suites", program.display());
    program
}

/// Cases that are run, and whether each passed.
type Cases = BTreeMap<String, bool>;

/// Runs pjdfstest in `folder`, which others have to reach.
fn pjdfstest(place: &Place, folder: &Path) -> Cases {
    let settings = place.at("pjdfstest.toml");
    // The features that Linux has, and two users that every Debian has.
    let text = "[features]\nposix_fallocate = {}\nrename_ctime = {}\nutime_now = {}\nutimensat = {}\n\
                [settings]\nnaptime = 0.01\nallow_remount = false\n\
                [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n";
    fs::write(&settings, text).unwrap();
    let mut command = Command::new(suite("pjdfstest"));
    let output = command.arg("-c").arg(settings).arg("-p").arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let cases: Cases = said.lines().filter_map(case).collect();
    assert!(said.contains("\nSummary: "), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(cases.len() > 350, "{said}");
    cases
}

/// `open::etxtbsy     ok`.
fn case(line: &str) -> Option<(String, bool)> {
    let mut words = line.split_ascii_whitespace();
    match (words.next()?, words.next()?, words.next()) {
        (name, "ok", None) => Some((name.to_owned(), true)),
        (name, "FAILED" | "skipped", _) => Some((name.to_owned(), false)),
        _ => None,
    }
}

/// The cases that need not pass, each with its reason.
fn exceptions(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().map(|line| line.split_once(' ').expect("a case and its reason"));
    lines.collect()
}

/// Runs this test again as root; whether it did.
fn again_as_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "--", "env", "-u", "SUDO_UID", "-u", "SUDO_GID"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    assert!(command.status().unwrap().success());
    true
}

/// `COHERENCE` in the environment is the mounts' `--coherence`.
fn coherence() -> Vec<&'static str> {
    match std::env::var("COHERENCE") {
        Ok(time) => vec!["--coherence", time.leak()],
        Err(_) => Vec::new(),
    }
}

#[test]
fn cases_that_pass_in_a_folder_pass_in_its_mount() {
    if again_as_root("cases_that_pass_in_a_folder_pass_in_its_mount") {
        return;
    }
    let place = Place::new();
    let native = place.at("native");
    fs::create_dir(&native).unwrap();
    for folder in [&native, &place.there("")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mount = place.mount("here", &[&["--idmap", "none"], &coherence()[..]].concat());
    let (in_folder, in_mount) = std::thread::scope(|scope| {
        let in_folder = scope.spawn(|| pjdfstest(&place, &native));
        let in_mount = pjdfstest(&place, &mount.at(""));
        (in_folder.join().unwrap(), in_mount)
    });
    let exceptions = exceptions(include_str!("conformance/fuse.txt"));
    let mut wrong = Vec::new();
    for (name, passes) in &in_folder {
        let passes_here = in_mount.get(name).copied().unwrap_or(false);
        match (*passes, passes_here, exceptions.get(name.as_str())) {
            (true, false, None) => wrong.push(format!("{name} passes in a folder only")),
            (true, true, Some(_)) => wrong.push(format!("{name} passes: take it off the list")),
            _ => {}
        }
    }
    for name in exceptions.keys().filter(|name| !in_folder.contains_key(**name)) {
        wrong.push(format!("{name} is no case of this suite"));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn fsx_finds_no_difference() {
    let place = Place::new();
    let mount = place.mount("here", &coherence());
    let settings = place.at("fsx.toml");
    // Reads, writes and mappings beside truncation, and what makes the page cache forget.
    let text = "flen = 1048576\n[opsize]\nmax = 131072\n[weights]\nclose_open = 1\nread = 10\n\
                write = 10\nmapread = 10\nmapwrite = 10\ntruncate = 5\ninvalidate = 1\nfsync = 1\n\
                fdatasync = 1\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 2\n";
    fs::write(&settings, text).unwrap();
    let mut command = Command::new(suite("fsx"));
    command.arg("-f").arg(settings).args(["-N", "10000", "-S", "9", "-P"]).arg(place.at(""));
    let output = command.arg(mount.at("file")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("A-OK") || errors.contains("A-OK"), "{said}\n{errors}");
}
