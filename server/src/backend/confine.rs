//! Where a file server that is not ours runs: in an empty root with nothing in it but the folder, the
//! program and the libraries that it is linked with, under a keeper that sees to its end.
//!
//! ```text
//!  service ─fork─► A ─ namespaces (user, mount, pid, net, ipc) ─ root ─┬─ ends
//!                                                                      └fork─► keeper (pid 1 there)
//!                                                                                └fork─► exec the program
//! ```
//!
//! diod follows symbolic links that a client may have planted, so the folder's mount lets nobody follow
//! one, and what diod can see at all is the folder and what it is itself loaded from. Read-only grants are
//! read-only mounts. The keeper is nobody's
//! child once A has ended, so no zombie is left to a service that cannot wait. It holds the program's end
//! of the socket and waits for either of two: that the program ends, or that the other end is closed;
//! then the program has a second to end by itself, and with the keeper all that is left in the
//! namespace is killed. No descriptor of the call's is left to either.
//!
//! Everything between fork and exec is system calls alone: what they need is made before. Leaves out
//! system call filters: the process is as confined as it is foreign.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use policy::FolderPath;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::sys;

/// Where libraries and the loader are.
const LIBRARIES: [&str; 8] =
    ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/lib", "/lib32", "/lib64", "/libx32"];
/// The loader's index of them.
const CACHE: &str = "/etc/ld.so.cache";
/// Where the new root is attached before it takes the old one's place: over that.
const OVER: &CStr = c"/";
/// How long the program may take to end once its socket is closed.
const GRACE: Duration = Duration::from_secs(1);
/// What a root service's server keeps: the rights by which root reads and changes others' files, and the
/// setting of limits, without which diod does not start.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SYS_RESOURCE);

const READ_ONLY: u64 = MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64;
const NO_LINKS: u64 = MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW.bits() as u64;
const SAFE: u64 =
    (MountAttrFlags::MOUNT_ATTR_NOSUID.bits() | MountAttrFlags::MOUNT_ATTR_NODEV.bits()) as u64;

/// Why the process could not be put where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct Failure {
    /// What failed.
    pub step: &'static str,
    /// Why.
    pub errno: Errno,
}

/// The steps, in the order of their numbers on the pipe to the service.
const STEPS: [&str; 8] = [
    "no process",
    "no namespaces",
    "no user of its own",
    "the folder",
    "the libraries",
    "no empty root",
    "no change of root",
    "no lesser rights",
];

/// Something of the outer root that is to be in the inner one.
struct Part {
    /// Its path, outside.
    path: CString,
    kind: PartKind,
}

enum PartKind {
    Folder,
    File,
    /// Its target.
    Link(CString),
}

/// The empty root, prepared.
struct Root {
    parts: Vec<Part>,
    /// Folders to be made for them, outermost first, relative to the root.
    folders: Vec<CString>,
    /// The granted folder's own path, and the folders on its way.
    folder: CString,
    way: Vec<CString>,
    /// The attributes of its mount.
    attributes: u64,
    /// The new namespace's users: files in /proc/self, and what is written into them. Empty for root,
    /// which needs no namespace for its users, but loses most of its rights.
    users: Vec<(&'static CStr, Vec<u8>)>,
}

/// What happens between fork and exec.
pub struct Plan {
    root: Option<Root>,
    report: OwnedFd,
}

/// Where the plan says what failed.
pub struct Report(OwnedFd);

impl Report {
    /// What failed, if a start ended with `error`.
    pub fn failure(self, error: &std::io::Error) -> Failure {
        let mut step = [0];
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        let count = std::fs::File::from(self.0).read(&mut step).unwrap_or(0);
        let number = if count == 1 { usize::from(step[0]) } else { 0 };
        Failure { step: STEPS.get(number).copied().unwrap_or(STEPS[0]), errno }
    }
}

/// Has `command`, which runs `program` with the socket as its stdin, start under a keeper, and in a root
/// with nothing but `folder` where `confined`.
pub fn keep(
    command: &mut Command,
    program: &Path,
    folder: &FolderPath,
    read_only: bool,
    confined: bool,
) -> Result<Report, Errno> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let (read, report) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let root = confined.then(|| Root::of(program, folder, read_only)).transpose()?;
    sys::carry_out_before_exec(command, Plan { root, report });
    Ok(Report(read))
}

fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

/// The folders above `path`, outermost first, relative to the root.
fn above(path: &Path) -> Result<Vec<CString>, Errno> {
    let mut above: Vec<CString> = path
        .ancestors()
        .skip(1)
        .filter_map(|folder| folder.strip_prefix("/").ok())
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| c_string(folder.as_os_str().as_bytes()))
        .collect::<Result<_, _>>()?;
    above.reverse();
    Ok(above)
}

impl Root {
    fn of(program: &Path, folder: &FolderPath, read_only: bool) -> Result<Root, Errno> {
        let (mut parts, mut folders) = (Vec::new(), Vec::new());
        let found = LIBRARIES.iter().map(Path::new).chain([Path::new(CACHE), program]);
        for path in found {
            let Ok(data) = std::fs::symlink_metadata(path) else { continue };
            let kind = if data.is_dir() {
                PartKind::Folder
            } else if data.is_symlink() {
                let target = std::fs::read_link(path);
                let target = target.map_err(|_| Errno::NOENT)?.into_os_string().into_vec();
                PartKind::Link(c_string(&target)?)
            } else {
                PartKind::File
            };
            folders.extend(above(path)?);
            parts.push(Part { path: c_string(path.as_os_str().as_bytes())?, kind });
        }
        let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let users = if user.0 == 0 {
            Vec::new()
        } else {
            vec![
                (c"/proc/self/setgroups", b"deny".to_vec()),
                (c"/proc/self/uid_map", format!("{0} {0} 1", user.0).into_bytes()),
                (c"/proc/self/gid_map", format!("{0} {0} 1", user.1).into_bytes()),
            ]
        };
        let mut attributes = SAFE;
        if read_only {
            attributes |= READ_ONLY;
        }
        // The loader finds libraries by links: where they are shared themselves, those are followed.
        let own = parts.iter().any(|part| {
            let path = Path::new(std::ffi::OsStr::from_bytes(part.path.as_bytes()));
            path.starts_with(folder.as_path()) || folder.as_path().starts_with(path)
        });
        if !own {
            attributes |= NO_LINKS;
        }
        let way = above(&folder.as_path().join("x"))?;
        Ok(Root { parts, folders, folder: c_string(folder.as_bytes())?, way, attributes, users })
    }

    /// Moves the process into it.
    fn enter(&self) -> Result<(), (u8, Errno)> {
        self.unshare().map_err(|errno| (1, errno))?;
        self.become_user().map_err(|errno| (2, errno))?;
        let folder = self.open_folder().map_err(|errno| (3, errno))?;
        let root = if self.folder.as_bytes() == b"/" {
            attach(folder.as_fd(), CWD, OVER).map_err(|errno| (5, errno))?;
            folder
        } else {
            let root = empty_root().map_err(|errno| (5, errno))?;
            self.furnish(root.as_fd()).map_err(|errno| (4, errno))?;
            self.place(folder.as_fd(), root.as_fd()).map_err(|errno| (5, errno))?;
            root
        };
        change_root(root.as_fd()).map_err(|errno| (6, errno))?;
        self.renounce().map_err(|errno| (7, errno))
    }

    fn unshare(&self) -> Result<(), Errno> {
        let mut flags = UnshareFlags::NEWNS
            | UnshareFlags::NEWPID
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC;
        if !self.users.is_empty() {
            flags |= UnshareFlags::NEWUSER;
        }
        sys::unshare(flags)
    }

    fn become_user(&self) -> Result<(), Errno> {
        for (path, text) in &self.users {
            let file = rustix::fs::open(*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&file, text)?;
        }
        Ok(())
    }

    /// The granted folder and all mounts below it, detached.
    fn open_folder(&self) -> Result<OwnedFd, Errno> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change(c"/", private)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Once more, since this is another namespace's tree of mounts.
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let folder =
            rustix::fs::openat2(CWD, self.folder.as_c_str(), flags, Mode::empty(), resolve)?;
        let tree = open_tree(folder.as_fd(), c"", true)?;
        sys::mount_setattr(tree.as_fd(), true, self.attributes)?;
        Ok(tree)
    }

    /// Puts everything but the folder into the root.
    fn furnish(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        make_folders(root, &self.folders)?;
        for part in &self.parts {
            let inner = relative(&part.path);
            match &part.kind {
                PartKind::Link(target) => rustix::fs::symlinkat(target.as_c_str(), root, inner)?,
                PartKind::Folder => make_folder(root, inner)?,
                PartKind::File => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
                    drop(rustix::fs::openat(root, inner, flags, Mode::RUSR)?);
                }
            }
            if !matches!(part.kind, PartKind::Link(_)) {
                let tree = open_tree(CWD, &part.path, true)?;
                sys::mount_setattr(tree.as_fd(), true, SAFE | READ_ONLY)?;
                attach(tree.as_fd(), root, inner)?;
            }
        }
        Ok(())
    }

    /// Puts the folder where it is outside; the rest is not to be written any more.
    fn place(&self, folder: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<(), Errno> {
        make_folders(root, &self.way)?;
        attach(folder, root, relative(&self.folder))?;
        sys::mount_setattr(root, false, SAFE | READ_ONLY)
    }

    /// Gives up what a program started from here could become.
    fn renounce(&self) -> Result<(), Errno> {
        rustix::thread::set_no_new_privs(true)?;
        if self.users.is_empty() {
            for capability in CapabilitySet::all().difference(KEPT).iter() {
                match rustix::thread::remove_capability_from_bounding_set(capability) {
                    // One that this kernel does not know.
                    Ok(()) | Err(Errno::INVAL) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }
}

/// A path's form beneath a root's descriptor.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let inner = bytes.strip_prefix(b"/").unwrap_or(bytes);
    CStr::from_bytes_with_nul(inner).unwrap_or(path)
}

fn open_tree(from: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(from, path, flags)
}

fn attach(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, at: &CStr) -> Result<(), Errno> {
    rustix::mount::move_mount(mount, c"", root, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// An empty file system of its own, attached.
fn empty_root() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"mode", c"0755")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"size", c"64k")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let root = rustix::mount::fsmount(context.as_fd(), flags, MountAttrFlags::empty())?;
    attach(root.as_fd(), CWD, OVER)?;
    Ok(root)
}

fn make_folders(root: BorrowedFd<'_>, folders: &[CString]) -> Result<(), Errno> {
    folders.iter().try_for_each(|folder| make_folder(root, folder))
}

fn make_folder(root: BorrowedFd<'_>, folder: &CStr) -> Result<(), Errno> {
    match rustix::fs::mkdirat(root, folder, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn change_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // The old root lies over the new one until it is taken away (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

impl Plan {
    /// Runs in the process that is to exec. Makes system calls only: no allocation, no lock.
    pub(super) fn carry_out(&self) -> Result<(), Errno> {
        self.steps().map_err(|(step, errno)| {
            let _ = rustix::io::write(&self.report, &[step]);
            errno
        })
    }

    fn steps(&self) -> Result<(), (u8, Errno)> {
        let process = |errno| (0, errno);
        // Nothing that ends the call, or the terminal that it came from, ends this.
        rustix::process::setsid().map_err(process)?;
        if let Some(root) = &self.root {
            root.enter()?;
        }
        if sys::fork_again().map_err(process)?.is_some() {
            sys::exit(0);
        }
        // The keeper. It takes the program along when it is killed.
        if let Some(program) = sys::fork_again().map_err(process)? {
            sys::exit(watch(program));
        }
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(process)?;
        sys::close_from(3, true).map_err(process)
    }
}

/// The keeper's life. Its stdin is the program's socket.
fn watch(program: Pid) -> i32 {
    let _ = rustix::thread::set_name(c"qvm-diod-keeper");
    if sys::close_from(1, false).is_err() {
        return 1;
    }
    let Ok(ended) = rustix::process::pidfd_open(program, PidfdFlags::empty()) else { return 1 };
    let socket = rustix::stdio::stdin();
    loop {
        let mut ready = [
            // No event but the other end's close, which is always told.
            PollFd::new(&socket, PollFlags::empty()),
            PollFd::new(&ended, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) if !ready[1].revents().is_empty() => break,
            Ok(_) if !ready[0].revents().is_empty() => {
                let mut ready = [PollFd::new(&ended, PollFlags::IN)];
                let grace = Timespec { tv_sec: GRACE.as_secs() as i64, tv_nsec: 0 };
                let _ = retry_on_intr(|| poll(&mut ready, Some(&grace)));
                let _ = rustix::process::pidfd_send_signal(&ended, Signal::KILL);
                break;
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    // With it goes whatever it has started, where this is the first process of a namespace.
    let _ = retry_on_intr(|| rustix::process::waitpid(Some(program), WaitOptions::empty()));
    0
}
