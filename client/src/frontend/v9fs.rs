//! The kernel's own 9P file system, over a socket (`trans=fd`).
//!
//! First [`V9fs::prepare`], before another qube is asked for anything: whether this kernel has v9fs,
//! whether this process may mount, and which cache mode it is to be. Then [`V9fs::mount`] with a
//! socket at whose other end 9P2000.L is spoken. Who is not root asks sudo for the mount itself and
//! nothing else: `mount` gets the socket as its stdin.
//!
//! Options (kernel `Documentation/filesystems/9p.rst`, `fs/9p/v9fs.c`): set-id bits and device nodes
//! of the other qube would be live here, so `nosuid,nodev` always. `access` stays at its default
//! `client`, one attach for each local user: the kernel checks permissions as for any file system
//! with either setting, and a server that does tell users apart can. `uname` and `aname` stay at
//! their defaults too, they would tell the other qube this user's name and nothing that it needs.
//! `noxattr` would save a question before each write on 6.12 but lose what programs keep in
//! extended attributes. `posixacl` costs another two questions a name and the other end's kernel
//! enforces its own.
//!
//! Left out: a time limit. mount(2) waits for the far end's answers and hears no signal but a
//! fatal one, so whoever holds the other end of the socket closes it when the time is up.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use policy::printable;
use rustix::fs::StatxFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use transport::id::Msize;
use transport::negotiate::{Limiter, Negotiated, negotiate};

use super::mountinfo;
use crate::cli::CacheMode;
use crate::exit::{Exit, Failure};
use crate::kernel::{self, Version};
use crate::options;
use crate::plan::{MsizeChoice, Place, Plan, find_program, search_path};

/// A kernel that has v9fs, and the right to use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct V9fs {
    version: Version,
    right: Right,
    cache: Cache,
}

/// Who mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Right {
    /// This process.
    Own,
    /// sudo, at this path.
    Sudo(PathBuf),
}

/// A cache mode that the running kernel knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cache {
    /// As the kernel calls it.
    pub name: &'static str,
    /// What a person should know who asked for it.
    pub warning: Option<&'static str>,
}

/// A mount that is there and was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// Where.
    pub mount_point: PathBuf,
    /// The msize that the kernel and the far end agreed upon.
    pub msize: Msize,
    /// v9fs's cache mode.
    pub cache: &'static str,
    /// The device number that files on it have; tells this mount from others.
    pub device: (u32, u32),
    /// What a person should know, a sentence each.
    pub warnings: Vec<String>,
}

/// The cache mode for `mode` on a kernel of `version`.
///
/// `auto` is, before 6.4, `mmap`: reads and writes go straight to the server, and unlike with `none`
/// files can be mapped for shared writing. From 6.4 on the same name means write-back caching,
/// which on 6.6 goes out in pieces of 4 KiB, and everywhere lets a write succeed that later fails:
/// when the other qube goes away, close(2) reports success and the data is lost. `readahead` has
/// none of that: it reads ahead and writes through. Its price is that shared writable mappings fail
/// with EINVAL; who needs them asks for `mmap`.
pub fn cache(mode: CacheMode, version: Version) -> Result<Cache, Failure> {
    let new = version >= Version(6, 4);
    let (name, warning) = match mode {
        CacheMode::Auto if new => ("readahead", None),
        CacheMode::Auto => ("mmap", None),
        CacheMode::None => ("none", None),
        CacheMode::Readahead if new => ("readahead", None),
        CacheMode::Readahead => {
            let Version(major, minor) = version;
            return Err(Failure::new(
                Exit::Usage,
                format!("cache mode readahead came with Linux 6.4, and this is {major}.{minor}"),
            )
            .hint("leave --cache away, or use --cache mmap"));
        }
        CacheMode::Mmap => ("mmap", None),
        CacheMode::Loose if new => (
            "loose",
            Some(
                "with cache mode loose, changes made in the other qube are not seen, and what was \
                 not yet written back is lost when the other qube goes away",
            ),
        ),
        CacheMode::Loose => (
            "loose",
            Some(
                "with cache mode loose, changes made in the other qube are not seen, and this \
                 kernel can crash when the other qube goes away before everything is written back",
            ),
        ),
    };
    Ok(Cache { name, warning })
}

impl V9fs {
    /// Finds out whether mounting as `plan` wants it can work here; tries to load v9fs's modules
    /// where that needs nobody's password.
    pub fn prepare(plan: &Plan) -> Result<V9fs, Failure> {
        Self::find(plan).map_err(|failure| failure.what(plan.aim()))
    }

    fn find(plan: &Plan) -> Result<V9fs, Failure> {
        let version = Version::running();
        let cache = cache(plan.cache, version)?;
        if kernel::v9fs(true) == kernel::V9fs::Missing {
            return Err(no_v9fs());
        }
        let right = if kernel::may_mount() {
            Right::Own
        } else {
            Right::Sudo(find_program("sudo".as_ref()).ok_or_else(|| {
                Failure::new(Exit::NoRight, "mounting needs root, and sudo is not installed")
                    .hint("run it as root, or offer 9P to another client with --socket PATH")
            })?)
        };
        Ok(V9fs { version, right, cache })
    }

    /// Mounts the folder of `plan` at its mount point, over `socket`, and tries whether it can be
    /// used. `server_msize` is the largest that the server end takes. Returns when it is usable;
    /// after a failure nothing is mounted. The socket is the kernel's from then on.
    pub fn mount(
        &self,
        plan: &Plan,
        socket: OwnedFd,
        server_msize: u32,
    ) -> Result<Mounted, Failure> {
        self.mount_and_try(plan, socket, server_msize).map_err(|failure| failure.what(plan.aim()))
    }

    fn mount_and_try(
        &self,
        plan: &Plan,
        socket: OwnedFd,
        server_msize: u32,
    ) -> Result<Mounted, Failure> {
        let Place::MountPoint(mount_point) = &plan.place else {
            return Err(Failure::new(Exit::Other, "a socket is no place for v9fs"));
        };
        let asked = plan.asked_msize();
        let agreed = negotiate(asked, kernel::largest_msize(self.version), server_msize)
            .map_err(|error| Failure::new(Exit::Garbage, error))?;

        match &self.right {
            Right::Own => self.by_system_call(plan, mount_point, &socket, agreed.msize)?,
            Right::Sudo(sudo) => self.by_sudo(sudo, plan, mount_point, socket, agreed.msize)?,
        }
        let (device, msize) = match self.try_out(plan, mount_point, agreed.msize) {
            Ok(found) => found,
            Err(failure) => {
                self.undo(plan, mount_point);
                return Err(failure);
            }
        };

        let mut warnings: Vec<String> = self.cache.warning.map(str::to_owned).into_iter().collect();
        if matches!(plan.msize, MsizeChoice::Exactly(_)) {
            // The far end's Rversion may have made it less once more.
            let limited_by = agreed.limited_by.filter(|_| msize == agreed.msize);
            let limited_by = limited_by.or((msize < asked).then_some(Limiter::Server));
            warnings.extend(Negotiated { msize, limited_by }.warning(asked).map(|w| w.to_string()));
        }
        Ok(Mounted {
            mount_point: mount_point.clone(),
            msize,
            cache: self.cache.name,
            device,
            warnings,
        })
    }

    /// v9fs's own options, with the socket at descriptor `fd` of whoever mounts.
    fn options(&self, fd: i32, msize: Msize) -> String {
        let cache = self.cache.name;
        format!("trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,msize={msize},cache={cache}")
    }

    fn by_system_call(
        &self,
        plan: &Plan,
        mount_point: &Path,
        socket: &OwnedFd,
        msize: Msize,
    ) -> Result<(), Failure> {
        let options = CString::new(self.options(socket.as_raw_fd(), msize))
            .expect("nothing in the options has a NUL");
        let mut flags = plan.flags | MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, plan.read_only);
        rustix::mount::mount(plan.source(), mount_point, "9p", flags, Some(options.as_c_str()))
            .map_err(|errno| refused(errno, mount_point))
    }

    fn by_sudo(
        &self,
        sudo: &Path,
        plan: &Plan,
        mount_point: &Path,
        socket: OwnedFd,
        msize: Msize,
    ) -> Result<(), Failure> {
        let access = if plan.read_only { "ro" } else { "rw" };
        let mut options = format!("{access},nosuid,nodev");
        options::names(plan.flags).for_each(|name| options = format!("{options},{name}"));
        let output = Command::new(sudo)
            .args(["--", "mount", "-i", "-c", "-t", "9p", "-o"])
            .arg(format!("{options},{}", self.options(0, msize)))
            .args([plan.source().as_os_str(), mount_point.as_os_str()])
            // A password is asked for on the terminal itself. What is printed is searched for
            // words, so they are to be the untranslated ones.
            .env("LC_ALL", "C")
            .env("PATH", search_path())
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| Failure::new(Exit::NoRight, format!("sudo cannot be run: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(refused_by_sudo(output.status.code(), &output.stderr, mount_point))
    }

    /// Looks whether the mount is really there and answers.
    fn try_out(
        &self,
        plan: &Plan,
        mount_point: &Path,
        agreed: Msize,
    ) -> Result<((u32, u32), Msize), Failure> {
        let entry = mountinfo::at(mount_point)
            .ok()
            .flatten()
            .filter(|entry| entry.kind == "9p" && entry.source == plan.source())
            .ok_or_else(|| {
                Failure::new(Exit::Other, "mounting succeeded, but the mount cannot be seen here")
                    .hint("this happens where sudo works in a mount namespace of its own")
            })?;
        // An old mount(8) hands a flag that it does not know to v9fs, which may not mind it.
        entry.check_flags(plan.flags)?;
        let attributes = rustix::fs::statx(
            rustix::fs::CWD,
            mount_point,
            rustix::fs::AtFlags::empty(),
            StatxFlags::TYPE,
        )
        .map_err(|errno| refused(errno, mount_point))?;
        if (attributes.stx_dev_major, attributes.stx_dev_minor) != entry.device {
            return Err(Failure::new(Exit::Other, "another mount covers it already"));
        }
        let shown = entry.super_option("msize").and_then(|text| text.parse().ok());
        // The kernel's default is not shown. If it is what was asked for, it is what was had.
        let msize = match shown {
            Some(bytes) => Msize::new(bytes).unwrap_or(agreed),
            None => kernel::default_msize(self.version).min(agreed),
        };
        Ok((entry.device, msize))
    }

    /// Takes a mount away that cannot be used. Where that fails, nothing is left to try.
    fn undo(&self, plan: &Plan, mount_point: &Path) {
        let ours = mountinfo::at(mount_point)
            .ok()
            .flatten()
            .is_some_and(|entry| entry.kind == "9p" && entry.source == plan.source());
        if !ours {
            return;
        }
        match &self.right {
            Right::Own => {
                let _ = rustix::mount::unmount(
                    mount_point,
                    UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
                );
            }
            Right::Sudo(sudo) => {
                let _ = Command::new(sudo)
                    .args(["-n", "--", "umount", "-i", "-l"])
                    .arg(mount_point)
                    .env("PATH", search_path())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }
}

fn no_v9fs() -> Failure {
    Failure::new(Exit::NoV9fs, "this kernel has no v9fs (the 9P file system, module 9p)")
        .hint("use a kernel that has it, or offer 9P to another client with --socket PATH")
}

/// What mount(2) means by `errno` when v9fs says it over a socket.
fn refused(errno: Errno, mount_point: &Path) -> Failure {
    let text = text_of(errno);
    match errno {
        Errno::NODEV => no_v9fs(),
        Errno::NOPROTOOPT => {
            Failure::new(Exit::NoV9fs, "this kernel's v9fs cannot work over a socket")
                .hint("its module 9pnet_fd may be missing")
        }
        Errno::NOENT | Errno::NOTDIR if !mount_point.is_dir() => {
            Failure::new(Exit::MountPoint, "the mount point has gone away")
        }
        Errno::NOENT => Failure::new(Exit::NoFolder, "the folder is not there in the other qube"),
        Errno::NOTDIR => Failure::new(Exit::NoFolder, "it is not a folder in the other qube"),
        // This process's own right has been checked before.
        Errno::ACCESS | Errno::PERM => {
            Failure::new(Exit::NoFolder, "the other qube does not give access to the folder")
                .hint("if it should, look whether this qube's kernel log blames a security policy")
        }
        Errno::IO | Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN => Failure::new(
            Exit::ClosedEarly,
            format!("the connection ended while mounting ({})", text),
        ),
        Errno::REMOTEIO | Errno::PROTO | Errno::FAULT => Failure::new(
            Exit::Garbage,
            format!("the kernel does not understand the answer ({})", text),
        ),
        Errno::NOMEM => Failure::new(Exit::Other, "there is too little memory in one piece")
            .hint("try a smaller --msize, such as 64K"),
        Errno::INTR => Failure::new(Exit::Interrupted, "interrupted"),
        _ => Failure::new(Exit::Other, format!("the kernel says: {}", text)),
    }
}

/// What a failed `sudo mount` means, by its exit code and by what it printed (mount(8), sudo(8)).
fn refused_by_sudo(code: Option<i32>, stderr: &[u8], mount_point: &Path) -> Failure {
    let lines = |program: &str| -> Vec<String> {
        stderr
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty() && line.starts_with(program.as_bytes()))
            .take(3)
            .map(|line| printable(&line[..line.len().min(300)]).to_string())
            .collect()
    };
    let (mount, sudo) = (lines("mount: "), lines("sudo: "));
    if code.is_none() {
        return Failure::new(Exit::Interrupted, "sudo was ended by a signal");
    }
    if let [first, ..] = &mount[..] {
        return match errno_of(first) {
            Some(errno) => refused(errno, mount_point),
            None => Failure::new(Exit::Other, mount.join("; ")),
        };
    }
    // sudo does not put its name before all that it says.
    let said = if sudo.is_empty() { lines("") } else { sudo };
    let why = if said.is_empty() { "it said nothing".to_owned() } else { said.join("; ") };
    Failure::new(Exit::NoRight, format!("sudo does not let this user mount: {why}"))
        .hint("run it as root, or permit this user to run mount in /etc/sudoers")
}

/// What mount(2) returned, from the line that mount(8) makes of it: the system's text for it, or
/// words of its own (util-linux, `libmount/src/context_mount.c`).
fn errno_of(line: &str) -> Option<Errno> {
    const OWN_WORDS: [(&str, Errno); 4] = [
        ("unknown filesystem type", Errno::NODEV),
        ("special device", Errno::NOENT),
        ("permission denied", Errno::PERM),
        ("can't read superblock", Errno::IO),
    ];
    const SYSTEM_WORDS: [Errno; 13] = [
        Errno::PERM,
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::ACCESS,
        Errno::IO,
        Errno::CONNRESET,
        Errno::PIPE,
        Errno::NOTCONN,
        Errno::REMOTEIO,
        Errno::PROTO,
        Errno::FAULT,
        Errno::NOMEM,
        Errno::NOPROTOOPT,
    ];
    // The mount point comes first in the line, and has colons where it likes: only the end counts.
    let line = line.trim_end_matches('.').to_lowercase();
    let words = line.rsplit(": ").next()?;
    let own = OWN_WORDS.into_iter().find(|(text, _)| words.starts_with(text));
    own.map(|(_, errno)| errno)
        .or_else(|| SYSTEM_WORDS.into_iter().find(|&errno| words == text_of(errno)))
}

/// The system's text for `errno` in lower case.
fn text_of(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_never_a_mode_that_loses_what_was_written() {
        for (version, name) in [
            (Version(0, 0), "mmap"),
            (Version(6, 1), "mmap"),
            (Version(6, 3), "mmap"),
            (Version(6, 4), "readahead"),
            (Version(6, 18), "readahead"),
        ] {
            let cache = cache(CacheMode::Auto, version).unwrap();
            assert_eq!((cache.name, cache.warning), (name, None));
        }
    }

    #[test]
    fn what_was_asked_for_is_had_or_refused() {
        for version in [Version(6, 1), Version(6, 12)] {
            for (mode, name, warned) in [
                (CacheMode::None, "none", false),
                (CacheMode::Mmap, "mmap", false),
                (CacheMode::Loose, "loose", true),
            ] {
                let cache = cache(mode, version).unwrap();
                assert_eq!((cache.name, cache.warning.is_some()), (name, warned));
            }
        }
        assert_eq!(cache(CacheMode::Readahead, Version(6, 12)).unwrap().name, "readahead");
        let failure = cache(CacheMode::Readahead, Version(6, 1)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.why.ends_with("and this is 6.1"), "{failure}");
    }

    #[test]
    fn each_errno_is_told_apart() {
        let here = Path::new("/");
        for (errno, exit) in [
            (Errno::NODEV, Exit::NoV9fs),
            (Errno::NOPROTOOPT, Exit::NoV9fs),
            (Errno::PERM, Exit::NoFolder),
            (Errno::NOENT, Exit::NoFolder),
            (Errno::NOTDIR, Exit::NoFolder),
            (Errno::PIPE, Exit::ClosedEarly),
            (Errno::REMOTEIO, Exit::Garbage),
            (Errno::INTR, Exit::Interrupted),
            (Errno::NOMEM, Exit::Other),
            (Errno::NOSPC, Exit::Other),
        ] {
            assert_eq!(refused(errno, here).exit, exit, "{errno:?}");
        }
        assert_eq!(refused(Errno::NOENT, Path::new("/no/such")).exit, Exit::MountPoint);
        assert_eq!(
            refused(Errno::NOSPC, here).to_string(),
            "the kernel says: no space left on device"
        );
    }

    #[test]
    fn what_sudo_and_mount_print_is_understood() {
        let cases: [(Option<i32>, &[u8], Exit); 12] = [
            (Some(1), b"sudo: a password is required\n", Exit::NoRight),
            (Some(1), b"", Exit::NoRight),
            (Some(1), b"Sorry, user a may not run sudo on work.\n", Exit::NoRight),
            (None, b"", Exit::Interrupted),
            (Some(32), b"mount: /mnt: unknown filesystem type '9p'.\n", Exit::NoV9fs),
            (Some(32), b"mount: /mnt: special device work:/srv does not exist.\n", Exit::NoFolder),
            (Some(32), b"mount: /mnt: permission denied.\n", Exit::NoFolder),
            (
                Some(32),
                b"sudo: unable to resolve host a: Name or service not known\n\
                  mount: /mnt: mount(2) system call failed: Broken pipe.\n\
                  dmesg(1) may have more information after failed mount system call.\n",
                Exit::ClosedEarly,
            ),
            (
                Some(32),
                b"mount: /mnt: mount(2) system call failed: Remote I/O error.\n",
                Exit::Garbage,
            ),
            (
                Some(32),
                b"mount: /mnt/unknown filesystem type: mount(2) failed: Broken pipe.\n",
                Exit::ClosedEarly,
            ),
            (Some(32), b"mount: /mnt: wrong fs type, bad option, \x1b[31m.\n", Exit::Other),
            (Some(1), b"mount: bad usage\n", Exit::Other),
        ];
        for (code, stderr, exit) in cases {
            let failure = refused_by_sudo(code, stderr, Path::new("/"));
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(!failure.to_string().contains('\x1b'), "{failure}");
        }
        let sorry = b"\nSorry, user a may not run sudo on work.\n";
        let failure = refused_by_sudo(Some(1), sorry, Path::new("/"));
        assert!(failure.why.ends_with("Sorry, user a may not run sudo on work."), "{failure}");
    }
}
