//! `mount.qvm` through the real binary by that name, and the lines of /etc/fstab that its page shows.
//!
//! Leaves out mount(8) itself and real mounts; `kernel/mount8.sh` has those.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod snapshot;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn helper(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvm-mount-folder"));
    command.arg0("/sbin/mount.qvm").args(words).env_clear().env("COLUMNS", "80").output().unwrap()
}

#[test]
fn help_is_its_own() {
    let output = helper(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    snapshot::compare("mount.qvm-help.txt", &String::from_utf8(output.stdout).unwrap());
}

#[test]
fn exit_codes_are_those_of_mount() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    for (code, words, said) in [
        (1, &[][..], "Usage: mount.qvm"),
        (1, &["work:/srv"], "Usage: mount.qvm"),
        (1, &["work:/srv", here, "--list"], "unexpected argument"),
        (1, &["work:/srv", here, "-o", "bogus"], "mount option bogus is not known"),
        (1, &["work:/srv", here, "-N", "0"], "mount namespace 0 cannot be entered"),
        (32, &["work:/srv", "/no/such", "-o", "via=local"], "does not exist"),
        (32, &["work:/srv", here], "qrexec-client-vm is not there"),
        (0, &["work:/srv", here, "-f", "-o", "via=local,noexec"], ""),
        (0, &["work:/srv", here, "-sfnv", "-t", "qvm", "-o", "via=local,bogus"], ""),
    ] {
        let output = helper(words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(said) && said.is_empty() == stderr.is_empty(), "{stderr}");
    }
}

/// The lines of fstab in a text, with roff's escapes taken back.
fn lines(text: &str) -> Vec<String> {
    let plain = text.replace("\\e", "\\").replace("\\-", "-");
    let lines = plain.lines().filter(|line| line.contains(" qvm ") && line.ends_with(" 0 0"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn fstab() -> (tempfile::TempDir, PathBuf) {
    let text = lines(include_str!("../man/mount.qvm.8.roff")).join("\n") + "\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fstab");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn the_documented_lines_of_fstab_are_what_they_look_like() {
    let (_folder, fstab) = fstab();
    let output = Command::new("findmnt")
        .args(["-n", "-r", "-o", "SOURCE,TARGET,FSTYPE,OPTIONS", "--tab-file"])
        .arg(&fstab)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    let mut seen = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    assert_eq!(
        seen.next().unwrap(),
        ["work:/home/user/My\\x20docs", "/mnt/docs", "qvm", "noauto,user,nosymfollow"]
    );
    for line in seen {
        assert_eq!(line[2], "qvm");
        // Every option of theirs is known here.
        let here = tempfile::tempdir().unwrap();
        let options = format!("via=local,{}", line[3]);
        let output = helper(&[line[0], here.path().to_str().unwrap(), "-f", "-o", &options]);
        assert!(output.status.success(), "{output:?}");
    }
    // The README shows the same.
    let documented = lines(include_str!("../man/mount.qvm.8.roff"));
    let readme = lines(include_str!("../../README.md"));
    assert!(
        !readme.is_empty() && readme.iter().all(|line| documented.contains(line)),
        "{readme:?}"
    );
}

/// systemd makes units of them, where it is installed.
#[test]
fn the_documented_automount_is_one_for_systemd() {
    const GENERATOR: &str = "/usr/lib/systemd/system-generators/systemd-fstab-generator";
    let (folder, fstab) = fstab();
    if !Path::new(GENERATOR).exists() {
        let text = fs::read_to_string(fstab).unwrap();
        assert!(text.contains("/mnt/media qvm noauto,x-systemd.automount,"));
        return;
    }
    let mut generator = Command::new(GENERATOR);
    generator.args([folder.path(); 3]).env("SYSTEMD_FSTAB", &fstab);
    assert!(generator.output().unwrap().status.success());
    let unit = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(unit("mnt-media.automount").contains("Where=/mnt/media\n"));
    let mount = unit("mnt-media.mount");
    for line in ["What=work:media\n", "Type=qvm\n", "Before=remote-fs.target\n"] {
        assert!(mount.contains(line), "{mount}");
    }
    assert!(unit("mnt-docs.mount").contains("What=work:/home/user/My docs\n"));
}
