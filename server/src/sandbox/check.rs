//! `--check-sandbox`: enters the sandbox and tries what it must not be able to do, and what it must.
//!
//! Each kind is tried, for reading and writing, for reading only, and, for root, with the capabilities
//! over files. A forbidden thing counts as forbidden only by the errors that say so: one that fails
//! since its arguments mean nothing (`EFAULT`, `EBADF`) would have been carried out with others.

use std::ffi::CString;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use policy::FolderPath;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timestamps, UTIME_NOW, XattrFlags, fchmod,
    fsetxattr, fstat, linkat, mkdirat, mknodat, openat2, readlinkat, renameat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};
use rustix::thread::{CapabilitySet, capabilities, no_new_privs};

use super::{Kind, Settings, Side, enter, lend, open_folder, sys};
use crate::grant::{Grant, Source, random};

/// What says no by itself, to anybody: a guard, not a mistake in the arguments.
const FORBIDDEN: &[Errno] = &[Errno::PERM, Errno::NOSYS];
/// The same of a file: it is not there, or nobody may.
const OUT_OF_REACH: &[Errno] =
    &[Errno::PERM, Errno::ACCESS, Errno::NOENT, Errno::LOOP, Errno::XDEV, Errno::ROFS];
/// The same of a change where nothing may be changed.
const UNCHANGEABLE: &[Errno] = &[Errno::ROFS, Errno::ACCESS, Errno::PERM];

/// Checks each kind in a new folder in `within`, with a report on stdout. True where one can be had at
/// least, and all that can be had do what they must.
pub fn check(within: &Path) -> io::Result<bool> {
    let scratch = Scratch::make(&within.canonicalize()?)?;
    let mut runs = Vec::new();
    for kind in Kind::ALL {
        for read_only in [false, true] {
            runs.push((kind, read_only, false));
        }
        if rustix::process::geteuid().is_root() {
            runs.push((kind, false, true));
        }
    }
    let (mut entered, mut failed) = (0, 0);
    for (kind, read_only, keep_file_capabilities) in runs {
        let access = if read_only { "read-only" } else { "read-write" };
        let files = if keep_file_capabilities { ", file capabilities" } else { "" };
        say(format_args!("{kind}, {access}{files}:"));
        let settings = Settings { kinds: vec![kind], keep_file_capabilities };
        match run(&scratch, &settings, read_only)? {
            Ok(good) => {
                entered += 1;
                failed += usize::from(!good);
            }
            Err(why) => say(format_args!("  none    {why}")),
        }
    }
    say(match (entered, failed) {
        (0, _) => "no sandbox can be had here".to_owned(),
        (_, 0) => "everything that must fail failed, and everything else worked".to_owned(),
        _ => "THE SANDBOX HAS HOLES, or is too narrow".to_owned(),
    });
    Ok(entered > 0 && failed == 0)
}

fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    // Where nobody reads, the exit code says it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A folder to share, a file beside it, and a link that leads there.
struct Scratch {
    folder: PathBuf,
    shared: FolderPath,
    secret: CString,
}

impl Scratch {
    fn make(within: &Path) -> io::Result<Scratch> {
        let name: String = random()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = within.join(format!("qvm-folder-server-{name}"));
        std::fs::create_dir(&folder)?;
        let shared = FolderPath::parse(folder.join("shared").as_os_str())
            .map_err(|_| io::Error::other("it has no path that could be shared"))?;
        let secret = folder.join("secret");
        let scratch = Scratch { folder, shared, secret: c_string(&secret)? };
        std::fs::create_dir(scratch.shared.as_path())?;
        std::fs::write(&secret, "secret")?;
        std::fs::write(scratch.shared.as_path().join("file"), "text")?;
        std::os::unix::fs::symlink("../secret", scratch.shared.as_path().join("link"))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// One run, in a process of its own; why it could not be, where that is.
fn run(
    scratch: &Scratch,
    settings: &Settings,
    read_only: bool,
) -> io::Result<Result<bool, String>> {
    let grant = |read_only| -> io::Result<Grant> {
        let source = Source::Folder(open_folder(&scratch.shared)?);
        let (folder, max_msize) = (scratch.shared.clone(), transport::id::Msize::MAX);
        Ok(Grant { folder, read_only, max_msize, source })
    };
    // As a later call's process makes it, for reading only; there are no such descriptors in the other kind.
    let later = match settings.kinds[..] {
        [Kind::Namespaces] => match lend(settings, grant(true)?) {
            Ok(lent) => Some(lent.source),
            Err(why) => return Ok(Err(why.to_string())),
        },
        _ => None,
    };
    let kept: Vec<_> = later.iter().map(AsFd::as_fd).collect();
    let mut grant = grant(read_only)?;
    // What a caller may leave open by mistake; no longer owned here, as it is to be closed.
    let leaked = std::fs::File::open(&scratch.folder)?.into_raw_fd();
    let keeper = getpid();
    match enter(settings, &mut grant, &kept) {
        Ok(Side::Confined(kind)) => {
            let Source::Folder(root) = &grant.source else { sys::exit_now(1) };
            let keeps = settings.keep_file_capabilities;
            let report = Report { good: true };
            let mut report = report.all(scratch, root, kind, read_only, keeps, leaked, keeper);
            if let Some(later) = &later {
                report.later(later.as_fd(), keeper);
            }
            sys::exit_now(i32::from(!report.good))
        }
        Ok(Side::Keeper(child)) => {
            let ended = child.wait();
            sys::close_between(leaked, leaked + 1)?;
            Ok(Ok(ended.is_success()))
        }
        Err(why) => {
            sys::close_between(leaked, leaked + 1)?;
            Ok(Err(why.to_string()))
        }
    }
}

fn open(dir: impl AsFd, path: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    openat2(dir, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::empty())
}

struct Report {
    good: bool,
}

impl Report {
    fn line(&mut self, good: bool, what: &str, result: impl Display) {
        self.good &= good;
        say(format_args!("  {:<7} {what}: {result}", if good { "ok" } else { "FAILED" }));
    }

    fn forbidden<T>(&mut self, errors: &[Errno], what: &str, result: Result<T, Errno>) {
        match result {
            Ok(_) => self.line(false, what, "could be done"),
            Err(errno) => self.line(errors.contains(&errno), what, errno),
        }
    }

    fn allowed<T>(&mut self, what: &str, result: Result<T, Errno>) {
        match result {
            Ok(_) => self.line(true, what, "works"),
            Err(errno) => self.line(false, what, errno),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn all(
        mut self,
        scratch: &Scratch,
        root: &OwnedFd,
        kind: Kind,
        read_only: bool,
        keeps: bool,
        leaked: RawFd,
        keeper: Pid,
    ) -> Report {
        self.outside(scratch, root, kind);
        for (what, result) in sys::forbidden(root.as_fd(), keeper) {
            self.forbidden(FORBIDDEN, what, result);
        }
        let is_open = sys::is_open(leaked);
        self.line(!is_open, "using a descriptor that was left open", "it is closed");
        let expected = if keeps {
            CapabilitySet::CHOWN
                | CapabilitySet::DAC_OVERRIDE
                | CapabilitySet::FOWNER
                | CapabilitySet::FSETID
        } else {
            CapabilitySet::empty()
        };
        match capabilities(None) {
            Ok(sets) => {
                let all = sets.effective | sets.permitted | sets.inheritable;
                self.line(all == expected, "having capabilities", format_args!("{all:?}"));
            }
            // It need not be asked again: what cannot be asked cannot be set either.
            Err(errno) => self.line(errno == Errno::PERM, "asking for capabilities", errno),
        }
        if let Ok(set) = no_new_privs() {
            self.line(set, "no new privileges", set);
        }
        if read_only {
            self.unchangeable(root.as_fd())
        } else {
            self.usable(root, kind)
        }
        self
    }

    fn outside(&mut self, scratch: &Scratch, root: &OwnedFd, kind: Kind) {
        let read = OFlags::RDONLY;
        let secret = &scratch.secret;
        self.forbidden(OUT_OF_REACH, "reading a file outside", open(CWD, secret, read));
        self.forbidden(OUT_OF_REACH, "reading /etc/passwd", open(CWD, c"/etc/passwd", read));
        self.forbidden(
            OUT_OF_REACH,
            "reading /proc/self/maps",
            open(CWD, c"/proc/self/maps", read),
        );
        self.forbidden(OUT_OF_REACH, "reading above the folder", open(root, c"../secret", read));
        self.forbidden(OUT_OF_REACH, "reading through a link", open(root, c"link", read));
        let mut made = secret.clone().into_bytes();
        made.extend_from_slice(b".new");
        let made = CString::new(made).unwrap_or_default();
        let create = OFlags::WRONLY | OFlags::CREATE;
        self.forbidden(OUT_OF_REACH, "making a file outside", open(CWD, &made, create));
        self.forbidden(OUT_OF_REACH, "making a file in the root", open(CWD, c"/file", create));
        self.forbidden(OUT_OF_REACH, "removing a file outside", {
            unlinkat(CWD, secret, AtFlags::empty())
        });
        if kind == Kind::Namespaces {
            let above = open(root, c"..", OFlags::PATH).and_then(fstat);
            let same = match (above, fstat(root)) {
                (Ok(above), Ok(root)) => (above.st_dev, above.st_ino) == (root.st_dev, root.st_ino),
                _ => false,
            };
            self.line(same, "going above the folder", "ends at the folder");
        }
    }

    /// What came as a descriptor from a later call's process, for reading only.
    fn later(&mut self, root: BorrowedFd<'_>, keeper: Pid) {
        say("  of a later call's folder, for reading only:");
        for (what, result) in sys::forbidden(root, keeper) {
            if what.contains("mount") {
                self.forbidden(FORBIDDEN, what, result);
            }
        }
        self.forbidden(OUT_OF_REACH, "reading above it", open(root, c"../secret", OFlags::RDONLY));
        self.unchangeable(root);
    }

    fn unchangeable(&mut self, root: BorrowedFd<'_>) {
        let name = c"file";
        self.allowed("reading a file", read(root));
        let readable = open(root, name, OFlags::RDONLY);
        self.forbidden(UNCHANGEABLE, "writing to a file", open(root, name, OFlags::WRONLY));
        self.forbidden(UNCHANGEABLE, "emptying a file", open(root, name, OFlags::TRUNC));
        let create = OFlags::WRONLY | OFlags::CREATE;
        self.forbidden(UNCHANGEABLE, "making a file", open(root, c"new", create));
        self.forbidden(UNCHANGEABLE, "making a folder", mkdirat(root, c"new", Mode::RWXU));
        self.forbidden(UNCHANGEABLE, "making a link", symlinkat(c"x", root, c"new"));
        let none = AtFlags::empty();
        self.forbidden(UNCHANGEABLE, "making a name", linkat(root, name, root, c"new", none));
        self.forbidden(UNCHANGEABLE, "renaming a file", renameat(root, name, root, c"new"));
        self.forbidden(UNCHANGEABLE, "removing a file", unlinkat(root, name, none));
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let now = Timestamps { last_access: now, last_modification: now };
        self.forbidden(UNCHANGEABLE, "changing times", utimensat(root, name, &now, none));
        if let Ok(file) = readable {
            self.forbidden(UNCHANGEABLE, "changing a mode", fchmod(&file, Mode::RWXU));
            let set = fsetxattr(&file, c"user.check", b"x", XattrFlags::empty());
            self.forbidden(UNCHANGEABLE, "setting an attribute", set);
        }
    }

    fn usable(&mut self, root: &OwnedFd, kind: Kind) {
        self.allowed("reading a file", read(root.as_fd()));
        let write = || {
            let file = open(root, c"new", OFlags::WRONLY | OFlags::CREATE)?;
            rustix::io::write(&file, b"text")?;
            fchmod(&file, Mode::RWXU | Mode::SUID)?;
            let mode = fstat(&file)?.st_mode & 0o7777;
            if mode == 0o4700 { Ok(()) } else { Err(Errno::IO) }
        };
        self.allowed("writing a file, with its modes", write());
        let folders = || {
            mkdirat(root, c"folder", Mode::RWXU)?;
            let folder = open(root, c"folder", OFlags::RDONLY | OFlags::DIRECTORY)?;
            renameat(root, c"new", &folder, c"moved")?;
            unlinkat(&folder, c"moved", AtFlags::empty())?;
            unlinkat(root, c"folder", AtFlags::REMOVEDIR)
        };
        self.allowed("making, moving and removing", folders());
        let mode = Mode::RUSR | Mode::WUSR;
        let pipe = || {
            mknodat(root, c"pipe", FileType::Fifo, mode, 0)?;
            unlinkat(root, c"pipe", AtFlags::empty())
        };
        self.allowed("making a FIFO", pipe());
        let links = || {
            symlinkat(c"/anywhere", root, c"made")?;
            let target = readlinkat(root, c"made", Vec::new())?;
            unlinkat(root, c"made", AtFlags::empty())?;
            if target.as_bytes() == b"/anywhere" { Ok(()) } else { Err(Errno::IO) }
        };
        self.allowed("making and reading a symbolic link", links());
        let device =
            mknodat(root, c"null", FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3));
        self.forbidden(FORBIDDEN, "making a device", device);
        let thread = std::thread::Builder::new().spawn(|| ());
        self.line(thread.is_ok_and(|thread| thread.join().is_ok()), "starting a thread", "works");
        if kind == Kind::Namespaces {
            self.allowed("a working folder of a thread's own", crate::sys::own_working_folder());
        }
    }
}

fn read(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let file = open(root, c"file", OFlags::RDONLY)?;
    let mut to = [0; 8];
    let count = rustix::io::read(&file, &mut to)?;
    if &to[..count] == b"text" { Ok(()) } else { Err(Errno::IO) }
}
