//! The folder that is served, and what lies beside it: small, in memory, made anew for each run.
//!
//! A run cannot fill the machine: it writes less than half a megabyte at 60 requests of 8 KiB, and what
//! it makes larger than that is sparse. A limit on file sizes would be a signal to libFuzzer.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::inbox::SENTINEL;

/// The folder, and what is not of it.
pub struct Place {
    base: PathBuf,
    before: Vec<(PathBuf, Seen)>,
}

/// What would show a change.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    changed: (i64, i64),
    contents: Vec<u8>,
}

impl Place {
    /// A place of this process's own beneath FUZZ_DIR, or in memory.
    pub fn new() -> Place {
        let dir = std::env::var_os("FUZZ_DIR").unwrap_or_else(|| "/dev/shm".into());
        let base = Path::new(&dir).join(format!("qsf-requests-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let outside = base.join("outside");
        let hidden = String::from_utf8_lossy(SENTINEL).into_owned();
        fs::create_dir_all(outside.join(&hidden)).unwrap();
        fs::write(outside.join("secret"), SENTINEL).unwrap();
        fs::write(outside.join("file"), SENTINEL).unwrap();
        let base = base.canonicalize().unwrap();
        let before = listed(&base.join("outside"));
        Place { base, before }
    }

    /// The folder that is served.
    pub fn folder(&self) -> PathBuf {
        self.base.join("folder")
    }

    /// Makes the folder as every run begins with it.
    pub fn fill(&self) {
        let folder = self.folder();
        if folder.exists() {
            // The run may have taken the rights away from whoever is not root.
            let _ = fs::set_permissions(&folder, Permissions::from_mode(0o700));
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(folder.join("dir/a")).unwrap();
        fs::write(folder.join("file"), b"contents").unwrap();
        fs::write(folder.join("dir/b"), [7; 5000]).unwrap();
        symlink("../outside/secret", folder.join("out")).unwrap();
        symlink("../outside", folder.join("outdir")).unwrap();
        symlink("/", folder.join("rootdir")).unwrap();
        symlink("/proc/self/root", folder.join("magic")).unwrap();
    }

    /// What is in the folder now, for a run that may change nothing.
    pub fn contents(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        listed(&self.folder())
    }

    /// Nothing beside the folder has changed.
    pub fn check_outside(&self) {
        assert_eq!(listed(&self.base.join("outside")), self.before, "something outside changed");
        let mut names: Vec<_> =
            fs::read_dir(&self.base).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["folder", "outside"]);
    }
}

fn listed(at: &Path) -> Vec<(PathBuf, Seen)> {
    let mut found = vec![(at.into(), seen(at))];
    let mut next = vec![at.to_path_buf()];
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let seen = seen(&path);
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                next.push(path.clone());
            }
            found.push((path, seen));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn seen(path: &Path) -> Seen {
    let st: Metadata = fs::symlink_metadata(path).unwrap();
    let contents = if st.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    Seen {
        mode: st.mode(),
        owner: (st.uid(), st.gid()),
        links: st.nlink(),
        size: st.size(),
        changed: (st.ctime(), st.ctime_nsec()),
        contents,
    }
}
