//! Programs that people use, inside a mount.

use std::path::Path;

use crate::place::{Place, shell};

#[test]
fn a_repository_is_cloned_checked_and_changed() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let line = format!(
        "git -c safe.directory='*' clone -q --no-hardlinks '{}' clone && cd clone && git fsck --strict && \
         test -z \"$(git status --porcelain)\" && \
         echo more >>README.md && git mv Makefile moved && \
         test \"$(git status --porcelain | wc -l)\" = 2 && \
         git -c user.name=n -c user.email=e commit -qam text && git gc -q && \
         git diff --stat HEAD~1 && git fsck --strict && test -z \"$(git status --porcelain)\"",
        top.display()
    );
    shell(&line, &mount.at(""));
    // What is there is the same.
    shell("git -c safe.directory='*' fsck --strict", &place.there("clone"));
}

#[test]
fn a_crate_is_built() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let copy = format!(
        "cp -r '{0}/policy' . && cp '{0}/Cargo.lock' . && \
         sed 's/^members = .*/members = [\"policy\"]/' '{0}/Cargo.toml' >Cargo.toml",
        top.display()
    );
    shell(&copy, &mount.at(""));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let build = format!("'{cargo}' build -q --offline -p policy --target-dir target");
    shell(&build, &mount.at(""));
    // Nothing is to be done once more: times and names are what they were.
    let again = format!("'{cargo}' build --offline -p policy --target-dir target 2>&1");
    let said = shell(&again, &mount.at(""));
    assert!(!said.contains("Compiling"), "{said}");
}

#[test]
fn fio_finds_what_it_wrote() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    for (name, options) in [
        ("random", "--rw=randrw --bsrange=512-70k --ioengine=psync"),
        ("large", "--rw=write --bs=1m --ioengine=psync"),
        ("direct", "--rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16"),
        ("mapped", "--rw=randwrite --bs=4k --ioengine=mmap"),
    ] {
        let line = format!(
            "fio --minimal --name={name} --directory=. --size=12m --numjobs=2 --verify=crc32c \
             --verify_fatal=1 --verify_state_save=0 --randseed=1 {options} >/dev/null"
        );
        shell(&line, &mount.at(""));
    }
}

#[test]
fn stress_ng_finds_no_fault() {
    let place = Place::new();
    let mount = place.mount("here", &[]);
    // Those that look at names, at what files hold, and at locks, all at once for a short while.
    let stressors = [
        "chmod", "dentry", "dir", "filename", "flock", "hdd", "link", "lockf", "rename", "symlink",
        "utime", "xattr",
    ];
    let stressors: String = stressors.iter().map(|name| format!(" --{name} 1")).collect();
    let line = format!(
        "stress-ng --temp-path . --timeout 5 --verify --quiet --hdd-bytes 8m --dentries 200{stressors}"
    );
    shell(&line, &mount.at(""));
}
