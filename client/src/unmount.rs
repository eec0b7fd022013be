//! `--unmount`: for those who look for it here. `umount` and `fusermount3 -u` do the same.
//!
//! A mount point is never looked into: behind one whose other end is gone every call may wait.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, path};

use policy::printable;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::exit::{Exit, Failure};
use crate::frontend::mountinfo::{self, Entry};
use crate::plan::{find_program, search_path};
use crate::{kernel, status};

/// How long the daemon may take to let go of what has been unmounted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Unmounts what is at `path`, if it is a mount of this program's, and says so.
pub fn run(path: &Path) -> Result<(), Failure> {
    unmount(path).map_err(|failure| failure.what(format!("cannot unmount {}", shown(path))))
}

fn unmount(path: &Path) -> Result<(), Failure> {
    let entry = find(path)?;
    let (source, place) = (printable(entry.source.as_bytes()), shown(&entry.mount_point));
    match () {
        () if kernel::may_mount() => by_system_call(&entry)?,
        () if entry.kind == "9p" => by_program("sudo", &["--", "umount", "-i", "--"], &entry)?,
        () => by_program("fusermount3", &["-u", "--"], &entry)?,
    }
    // Where it was mounted twice, the one below is there now.
    let below = at(&entry.mount_point).is_some_and(|now| now.device == entry.device);
    if below {
        return Err(Failure::new(Exit::Other, "it was unmounted, and it is still there"));
    }
    let until = Instant::now() + PATIENCE;
    while held(&entry) {
        if Instant::now() > until {
            let why = format!("{source} was unmounted, but its daemon has not let go of it");
            return Err(
                Failure::new(Exit::Other, why).hint("see its log: qvm-mount-folder --list -v")
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("unmounted {source} from {place}");
    Ok(())
}

/// The mount that is meant: by its path as it is, or with symbolic links on the way resolved.
fn find(path: &Path) -> Result<Entry, Failure> {
    let absolute = path::absolute(path)
        .map_err(|_| Failure::new(Exit::MountPoint, "no mount point is named"))?;
    let entry = at(&absolute).or_else(|| at(&parent_resolved(&absolute)?)).or_else(|| {
        // A link to a mount point. That it is no mount itself is known now.
        at(&fs::canonicalize(&absolute).ok()?)
    });
    let Some(entry) = entry else {
        return Err(Failure::new(Exit::MountPoint, "nothing is mounted there")
            .hint("qvm-mount-folder --list shows what is mounted where"));
    };
    if entry.is_ours() {
        return Ok(entry);
    }
    let (source, kind) = (printable(entry.source.as_bytes()), printable(entry.kind.as_bytes()));
    let why =
        format!("{source} is mounted there (type {kind}), which is no mount of this program's");
    Err(Failure::new(Exit::MountPoint, why).hint("umount(8) unmounts anything"))
}

fn parent_resolved(path: &Path) -> Option<PathBuf> {
    Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?))
}

fn at(path: &Path) -> Option<Entry> {
    mountinfo::at(path).ok().flatten()
}

/// Whether a daemon still has it in its books.
fn held(entry: &Entry) -> bool {
    let place = entry.mount_point.as_os_str().as_bytes();
    // Another mount there is not the one that was unmounted.
    at(&entry.mount_point).is_none()
        && status::look(None).mounts.iter().any(|mount| mount.mount_point == place)
}

fn by_system_call(entry: &Entry) -> Result<(), Failure> {
    rustix::mount::unmount(&entry.mount_point, UnmountFlags::NOFOLLOW).map_err(
        |errno| match errno {
            Errno::BUSY => busy(&entry.mount_point),
            errno => Failure::new(Exit::Other, format!("the kernel says: {errno}")),
        },
    )
}

fn by_program(name: &str, words: &[&str], entry: &Entry) -> Result<(), Failure> {
    let program = find_program(OsStr::new(name)).ok_or_else(|| {
        Failure::new(Exit::NoRight, format!("unmounting needs root, and {name} is not installed"))
            .hint("run it as root")
    })?;
    let output = Command::new(program)
        .args(words)
        .arg(&entry.mount_point)
        .env("LC_ALL", "C")
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| Failure::new(Exit::NoRight, format!("{name} cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = printable(&output.stderr[..output.stderr.len().min(300)]).to_string();
    if said.contains("busy") {
        return Err(busy(&entry.mount_point));
    }
    let said = said.replace("\\u{a}", " ");
    Err(Failure::new(Exit::NoRight, format!("{name} does not unmount it: {}", said.trim()))
        .hint("run it as root, or permit this user to run umount in /etc/sudoers"))
}

fn busy(path: &Path) -> Failure {
    Failure::new(Exit::Other, "it is in use: a program works there, or has a file of it open")
        .hint(format!("find out which: fuser -vm {}", shown(path)))
}

fn shown(path: &Path) -> impl std::fmt::Display + '_ {
    printable(path.as_os_str().as_bytes())
}
