//! Who may do what: ordinary users, other users, owners, read-only mounts, and which front end is taken.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Output;

use rustix::io::Errno;

use crate::place::{Place, as_nobody, as_root, within};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder of `nobody`'s with copies of the programs, which may lie where only root gets.
struct Unprivileged {
    place: Place,
}

impl Unprivileged {
    fn new() -> Unprivileged {
        let place = Place::new();
        let built = PathBuf::from(env!("CARGO_BIN_EXE_qvm-mount-folder"));
        for name in ["qvm-mount-folder", "qvm-folder-server"] {
            fs::copy(built.with_file_name(name), place.at(name)).unwrap();
            fs::set_permissions(place.at(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(place.at("here")).unwrap();
        if rustix::process::geteuid().is_root() {
            for name in ["here", "there", "run"] {
                std::os::unix::fs::chown(place.at(name), Some(65_534), Some(65_534)).unwrap();
            }
        }
        Unprivileged { place }
    }

    fn mount(&self, options: &[&str]) -> Output {
        let mut command = as_nobody(self.place.at("qvm-mount-folder"));
        command.env("XDG_RUNTIME_DIR", self.place.at("run"));
        command.arg(self.place.qube()).arg(self.place.at("there")).arg(self.place.at("here"));
        command.args(["--via", "local"]).args(options).output().unwrap()
    }

    fn shell(&self, line: &str) -> Output {
        as_nobody("sh").args(["-euc", line]).current_dir(self.place.at("")).output().unwrap()
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        let _ = self.shell("! grep -q \"$PWD/here\" /proc/self/mounts || fusermount3 -uz here");
    }
}

#[test]
fn an_ordinary_user_mounts_for_itself_alone() {
    let user = Unprivileged::new();
    let mounted = user.mount(&["--frontend", "fuse"]);
    assert!(mounted.status.success(), "{}", said(&mounted));
    let done = user.shell(
        "echo text >here/a; mkdir here/d; cat there/a; test \"$(stat -c %u here/a)\" = \"$(id -u)\"; \
         ls -l here; flock here/a true",
    );
    assert!(done.status.success(), "{}", said(&done));
    // Not even root.
    let other = as_root("ls").arg(user.place.at("here")).output().unwrap();
    assert!(!other.status.success());
    assert!(said(&other).contains("Permission denied"), "{}", said(&other));
    let flags = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = flags.lines().find(|line| line.contains(user.place.at("here").to_str().unwrap()));
    let line = line.unwrap();
    assert!(line.starts_with(&format!("{}:", user.place.qube())), "{line}");
    assert!(line.contains(" fuse.qvm rw,nosuid,nodev,"), "{line}");
    let ended = user.shell("fusermount3 -u here");
    assert!(ended.status.success(), "{}", said(&ended));
    user.place.ends();
}

#[test]
fn an_ordinary_users_mount_goes_with_its_daemon() {
    let user = Unprivileged::new();
    let mounted = user.mount(&["--frontend", "fuse"]);
    assert!(mounted.status.success(), "{}", said(&mounted));
    let daemon = user.place.daemon().unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
    user.place.ends();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(user.place.at("here").to_str().unwrap()), "{mounts}");
}

#[test]
fn others_are_let_in_where_the_administrator_lets_users_do_so() {
    let user = Unprivileged::new();
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let may = conf.lines().any(|line| line.trim() == "user_allow_other");
    let mounted = user.mount(&["--frontend", "fuse", "--allow-other"]);
    assert_eq!(mounted.status.code(), Some(if may { 0 } else { 8 }), "{}", said(&mounted));
    if !may {
        assert!(said(&mounted).contains("user_allow_other"), "{}", said(&mounted));
        assert!(said(&mounted).contains("hint: "), "{}", said(&mounted));
    }
    assert!(as_root("ls").arg(user.place.at("here")).output().unwrap().status.success());
}

/// The options of a mount itself, as the kernel has them.
fn flags(place: &Place) -> String {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = format!(" {} ", place.at("here").display());
    let line = info.lines().find(|line| line.contains(&here)).unwrap();
    line.split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn the_flags_of_mount_are_the_mounts_own() {
    if rustix::process::geteuid().is_root() {
        let place = Place::new();
        let mount = place.mount("here", &["-o", "noexec,noatime,nosymfollow"]);
        let flags = flags(&place);
        for flag in ["noexec", "noatime", "nosymfollow", "nosuid", "nodev"] {
            assert!(flags.split(',').any(|one| one == flag), "{flags}");
        }
        fs::write(mount.at("program"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(mount.at("program"), fs::Permissions::from_mode(0o755)).unwrap();
        let refused = std::process::Command::new(mount.at("program")).status().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    }
    let user = Unprivileged::new();
    let mounted = user.mount(&["--frontend", "fuse", "-o", "noexec,noatime"]);
    assert!(mounted.status.success(), "{}", said(&mounted));
    let flags = flags(&user.place);
    assert!(flags.contains("noexec") && flags.contains("noatime"), "{flags}");
}

#[test]
fn a_mount_point_of_somebody_elses_is_refused_in_words() {
    let user = Unprivileged::new();
    as_root("chown").arg("0:0").arg(user.place.at("here")).status().unwrap();
    let mounted = user.mount(&["--frontend", "fuse"]);
    assert_eq!(mounted.status.code(), Some(5), "{}", said(&mounted));
    assert!(said(&mounted).contains("hint: "), "{}", said(&mounted));
    user.place.ends();
}

#[test]
fn roots_mounts_are_everybodys_as_far_as_modes_go() {
    let place = Place::new();
    let mount = place.mount("here", &["--allow-other"]);
    fs::write(mount.at("open"), "text").unwrap();
    fs::write(mount.at("closed"), "text").unwrap();
    fs::set_permissions(mount.at("closed"), fs::Permissions::from_mode(0o600)).unwrap();
    let cat = |name: &str| as_nobody("cat").arg(mount.at(name)).output().unwrap();
    assert!(cat("open").status.success());
    if rustix::process::geteuid().is_root() {
        assert!(said(&cat("closed")).contains("Permission denied"));
        let made = as_nobody("touch").arg(mount.at("new")).output().unwrap();
        assert!(said(&made).contains("Permission denied"));
        fs::set_permissions(mount.at(""), fs::Permissions::from_mode(0o777)).unwrap();
        let line = ": >\"$0\"";
        let made = as_nobody("sh").args(["-c", line]).arg(mount.at("new")).output().unwrap();
        assert!(made.status.success(), "{}", said(&made));
    }
}

#[test]
fn read_only_is_read_only() {
    let place = Place::new();
    fs::write(place.there("a"), "text").unwrap();
    let mount = place.mount("here", &["--read-only"]);
    assert_eq!(fs::read(mount.at("a")).unwrap(), b"text");
    let errno = |error: std::io::Error| Errno::from_io_error(&error);
    assert_eq!(errno(fs::write(mount.at("a"), "x").unwrap_err()), Some(Errno::ROFS));
    assert_eq!(errno(fs::create_dir(mount.at("d")).unwrap_err()), Some(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(mount.at("a")).unwrap_err()), Some(Errno::ROFS));
    assert_eq!(rustix::fs::access(mount.at("a"), rustix::fs::Access::WRITE_OK), Err(Errno::ROFS));
    assert_eq!(fs::read(place.there("a")).unwrap(), b"text");
}

#[test]
fn the_folders_owner_is_shown_as_the_mounting_user_and_back() {
    let place = Place::new();
    fs::write(place.there("a"), "text").unwrap();
    let chown = |to: &str, what: PathBuf| as_root("chown").arg(to).arg(what).status().unwrap();
    chown("4242:4243", place.there("a"));
    chown("4242:4243", place.there(""));
    let owner = |path: PathBuf| {
        let seen = fs::metadata(path).unwrap();
        (seen.uid(), seen.gid())
    };
    let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let options: [(&[&str], _); 3] =
        [(&[], own), (&["--idmap", "user"], own), (&["--idmap", "none"], (4242, 4243))];
    for (options, shown) in options {
        let mount = place.mount("here", options);
        assert_eq!(owner(mount.at("a")), shown, "{options:?}");
        assert_eq!(owner(mount.at("")), shown, "{options:?}");
        mount.umount();
        place.ends();
    }
}

#[test]
fn which_front_end_is_taken_is_said() {
    let place = Place::new();
    fs::create_dir(place.at("here")).unwrap();
    let run = |options: &[&str]| {
        let mut command = place.command();
        command.arg(place.qube()).arg(place.at("there")).arg(place.at("here"));
        command.args(["--via", "local"]).args(options).output().unwrap()
    };
    let auto = run(&[]);
    assert!(auto.status.success(), "{}", said(&auto));
    assert!(said(&auto).starts_with("mounting with "), "{}", said(&auto));
    assert_eq!(said(&auto).lines().count(), 1, "{}", said(&auto));
    as_root("umount").arg(place.at("here")).status().unwrap();
    within(|| place.daemon().is_none().then_some(()));
    let other = run(&["--frontend", "fuse", "--cache", "none"]);
    assert!(other.status.success(), "{}", said(&other));
    assert!(said(&other).contains("warning: --cache is v9fs's"), "{}", said(&other));
    as_root("umount").arg(place.at("here")).status().unwrap();
    within(|| place.daemon().is_none().then_some(()));
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
    if !filesystems.lines().any(|line| line.ends_with("\t9p")) {
        let v9fs = run(&["--frontend", "v9fs"]);
        assert_eq!(v9fs.status.code(), Some(7), "{}", said(&v9fs));
        assert!(said(&v9fs).contains("9p"), "{}", said(&v9fs));
    }
    for words in [&["--frontend", "nfs"][..], &["--coherence", "soon"], &["--idmap", "all"]] {
        let refused = run(words);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
    assert!(place.daemon().is_none());
}

#[test]
fn a_folder_that_cannot_be_had_is_said_before_anything_is_mounted() {
    let place = Place::new();
    fs::create_dir(place.at("here")).unwrap();
    fs::write(place.at("file"), "").unwrap();
    for name in ["nothing", "file"] {
        let mut command = place.command();
        command.arg(place.qube()).arg(place.at(name)).arg(place.at("here"));
        let output = command.args(["--via", "local", "--frontend", "fuse"]).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    }
    place.ends();
}
