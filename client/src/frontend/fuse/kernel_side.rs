//! Making and taking away the mount itself: with mount(2) where this process may, else through
//! `fusermount3`.
//!
//! The options (fuse(4), mount.fuse3(8)): `nosuid,nodev` always, as for v9fs. A mount made by root is
//! there for everybody, as mounts are, and one made by another user is that user's alone unless
//! `--allow-other` says else. Where others see it this kernel checks permissions by the owners and
//! modes shown (`default_permissions`); where they do not, the server alone decides, as it would for
//! its own user.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use policy::printable;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::idmap::Wish;
use super::thread::Settings;
use crate::exit::{Exit, Failure};
use crate::frontend::mountinfo;
use crate::kernel;
use crate::options;
use crate::plan::{Plan, find_program};

/// What the kernel knows mounts of this program by, behind `fuse.`.
const SUBTYPE: &str = "qvm";
/// The type that /proc/self/mountinfo shows.
const KIND: &str = "fuse.qvm";
/// The device.
const DEVICE: &str = "/dev/fuse";

/// A kernel that has FUSE, and the right to use it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fuse {
    right: Right,
    /// Others than the mounting user see it.
    shared: bool,
    /// The user and group that the mount belongs to.
    owner: (u32, u32),
}

/// Who mounts.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Right {
    /// This process.
    Own,
    /// fusermount3, at this path.
    Helper(PathBuf),
}

impl Fuse {
    /// Finds out whether mounting can work here.
    pub fn prepare(plan: &Plan) -> Result<Fuse, Failure> {
        if !Path::new(DEVICE).exists() {
            return Err(Failure::new(
                Exit::NoV9fs,
                format!("this kernel has no FUSE: no {DEVICE}"),
            )
            .hint("load the module fuse, or offer 9P to another client with --socket PATH"));
        }
        let own = kernel::may_mount();
        let right = if own {
            Right::Own
        } else {
            let helper = ["fusermount3", "fusermount"];
            let helper = helper.into_iter().find_map(|name| find_program(name.as_ref()));
            Right::Helper(helper.ok_or_else(|| {
                Failure::new(Exit::NoRight, "mounting without root needs fusermount3")
                    .hint("install the package fuse3, or run it as root")
            })?)
        };
        Ok(Fuse { right, shared: own || plan.fuse.allow_other, owner: owner(own) })
    }

    /// What the daemon is to make of it.
    pub fn settings(&self, plan: &Plan) -> Settings {
        let (uid, gid) = self.owner;
        let idmap = match plan.fuse.idmap {
            crate::cli::IdMapMode::User => Wish::User(uid, gid),
            crate::cli::IdMapMode::None => Wish::None,
        };
        Settings { idmap, lifetime: plan.coherence / 2 }
    }

    /// Mounts the folder of `plan` on `mount_point`; gives the descriptor by which it is served.
    pub fn mount(&self, plan: &Plan, mount_point: &Path) -> Result<OwnedFd, Failure> {
        match &self.right {
            Right::Own => self.by_system_call(plan, mount_point),
            Right::Helper(helper) => self.by_helper(helper, plan, mount_point),
        }
    }

    fn options(&self) -> &'static str {
        if self.shared { ",allow_other,default_permissions" } else { "" }
    }

    fn by_system_call(&self, plan: &Plan, mount_point: &Path) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| {
            Failure::new(Exit::NoV9fs, format!("{DEVICE} cannot be opened: {errno}"))
        })?;
        let (uid, gid) = self.owner;
        let options = format!(
            "fd={},rootmode=40000,user_id={uid},group_id={gid}{}",
            device.as_raw_fd(),
            self.options()
        );
        let options = CString::new(options).expect("nothing in the options has a NUL");
        let mut flags = plan.flags | MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::RDONLY, plan.read_only);
        rustix::mount::mount(plan.source(), mount_point, KIND, flags, Some(options.as_c_str()))
            .map_err(|errno| refused(errno, mount_point))?;
        Ok(device)
    }

    /// fusermount3 gives the descriptor over a socket, which is its stdin here.
    fn by_helper(
        &self,
        helper: &Path,
        plan: &Plan,
        mount_point: &Path,
    ) -> Result<OwnedFd, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Exit::NoRight, format!("{} cannot be run: {error}", helper.display()))
        };
        let flags = SocketFlags::CLOEXEC;
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .map_err(|errno| failed(errno.into()))?;
        let access = if plan.read_only { "ro" } else { "rw" };
        let mut options =
            OsString::from(format!("{access},nosuid,nodev,subtype={SUBTYPE}{}", self.options()));
        options::shown(plan.flags).for_each(|name| options.push(format!(",{name}")));
        options.push(",fsname=");
        options.push(escaped(&plan.source()));
        let output = Command::new(helper)
            .arg("-o")
            .arg(options)
            .arg("--")
            .arg(mount_point)
            .env("_FUSE_COMMFD", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(failed)?;
        if !output.status.success() {
            return Err(refused_by_helper(&output.stderr));
        }
        receive(&near).ok_or_else(|| {
            let _ = unmount(mount_point);
            Failure::new(Exit::Other, "fusermount3 gave no descriptor")
        })
    }

    /// Looks whether the mount answers; takes it away where it does not.
    pub fn try_out(&self, plan: &Plan, mount_point: &Path) -> Result<(), Failure> {
        let entry = mountinfo::at(mount_point).ok().flatten();
        let tried = match entry.filter(|entry| is_ours(entry, &plan.source())) {
            Some(entry) => entry
                .check_flags(plan.flags)
                .and_then(|()| rustix::fs::stat(mount_point).map(drop).map_err(no_answer)),
            None => Err(no_answer(Errno::NOENT)),
        };
        tried.inspect_err(|_| self.undo(mount_point))
    }

    /// Takes a mount away that nobody can use.
    pub fn undo(&self, mount_point: &Path) {
        let _ = unmount(mount_point);
    }
}

fn no_answer(errno: Errno) -> Failure {
    Failure::new(Exit::Other, format!("the mount does not answer: {errno}"))
}

/// Whom a mount belongs to: with `sudo`, the person who invoked it.
fn owner(root: bool) -> (u32, u32) {
    let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let id = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match (root, id("SUDO_UID"), id("SUDO_GID")) {
        (true, Some(uid), Some(gid)) => (uid, gid),
        _ => own,
    }
}

fn is_ours(entry: &mountinfo::Entry, source: &OsStr) -> bool {
    entry.kind == KIND && entry.source == source
}

/// Takes the mount of `source` at `mount_point` away, whether or not it is in use: for a daemon that is
/// told to end. Another that has been made over it stays.
pub fn take_away(mount_point: &Path, source: &OsStr) {
    let entry = mountinfo::at(mount_point).ok().flatten();
    if entry.is_some_and(|entry| is_ours(&entry, source)) {
        let _ = unmount(mount_point);
    }
}

fn unmount(mount_point: &Path) -> Result<(), Errno> {
    // Lazily: somebody may be in it, and finds ENOTCONN there.
    match rustix::mount::unmount(mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => {}
        done => return done,
    }
    let helper = ["fusermount3", "fusermount"].into_iter();
    let helper = helper.filter_map(|name| find_program(name.as_ref())).next();
    let status = Command::new(helper.ok_or(Errno::PERM)?)
        .args(["-u", "-z", "-q", "--"])
        .arg(mount_point)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(Errno::PERM) }
}

/// `source` as a part of fusermount3's options, where a comma ends one.
fn escaped(source: &OsStr) -> OsString {
    let escape = |&byte: &u8| match byte {
        b',' | b'\\' => vec![b'\\', byte],
        byte => vec![byte],
    };
    OsString::from_vec(source.as_bytes().iter().flat_map(escape).collect())
}

/// The descriptor that fusermount3 sent.
fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut vector = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(socket.as_fd(), &mut vector, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// What mount(2) says.
fn refused(errno: Errno, mount_point: &Path) -> Failure {
    let shown = printable(mount_point.as_os_str().as_bytes());
    match errno {
        Errno::NODEV => Failure::new(Exit::NoV9fs, "this kernel has no FUSE")
            .hint("load the module fuse, or offer 9P to another client with --socket PATH"),
        Errno::PERM | Errno::ACCESS => {
            Failure::new(Exit::NoRight, format!("the kernel refuses a mount on {shown}: {errno}"))
        }
        Errno::NOENT | Errno::NOTDIR => {
            Failure::new(Exit::MountPoint, format!("{shown} cannot be mounted on: {errno}"))
        }
        errno => Failure::new(Exit::Other, format!("the kernel refuses the mount: {errno}")),
    }
}

/// What fusermount3 says, in its last line.
fn refused_by_helper(stderr: &[u8]) -> Failure {
    let last = stderr.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty());
    let last = printable(last.unwrap_or(b"it does not say why")).to_string();
    let failure = |exit| Failure::new(exit, last.clone());
    match &last {
        _ if last.contains("user_allow_other") => {
            failure(Exit::NoRight).hint("ask root to set it, or leave --allow-other away")
        }
        _ if last.contains("fuse device not found") => {
            failure(Exit::NoV9fs).hint("load the module fuse")
        }
        _ if last.contains("unknown option") => {
            failure(Exit::Usage).hint("leave it away, or mount as root")
        }
        _ if last.contains("mountpoint") || last.contains("write access") => {
            failure(Exit::MountPoint)
                .hint("without root a mount point has to be this user's own folder")
        }
        _ => failure(Exit::NoRight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_folders_name_ends_no_option() {
        assert_eq!(escaped(OsStr::new("work:/a,b\\c")), OsStr::new("work:/a\\,b\\\\c"));
    }

    #[test]
    fn what_fusermount3_prints_is_understood() {
        let cases: [(&[u8], Exit); 4] = [
            (
                b"fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n",
                Exit::NoRight,
            ),
            (b"fusermount3: user has no write access to mountpoint /mnt\n", Exit::MountPoint),
            (b"fusermount3: fuse device not found, try 'modprobe fuse' first\n", Exit::NoV9fs),
            (b"", Exit::NoRight),
        ];
        for (stderr, exit) in cases {
            assert_eq!(refused_by_helper(stderr).exit, exit);
        }
    }
}
