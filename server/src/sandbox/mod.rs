//! What the process is locked into that answers the client, before it parses the first byte of 9P.
//!
//! ```text
//!  service: preface, folder, desk's socket
//!     │
//!     ├─ keeper    [process]     outside; waits, takes the desk's socket away, says how the other ended
//!     └─ fork ─►   namespaces    user (none where it is root already), mounts, network, IPC
//!                  mounts        the folder as a detached, recursive bind mount; an empty root
//!                  privileges    no capability, no way to get one, no descriptor that is not needed
//!                  seccomp       only the system calls that the service makes
//!                  ─► 9P
//! ```
//!
//! Where there are no user namespaces for an ordinary user, `landlock` takes the place of the first
//! two: the outer root stays, and a rule set forbids all but the folder. Where there is neither, the
//! call is refused.
//!
//! What the empty root costs, and who pays: mounts made below the folder after it was granted are not
//! seen; a mount below it that is there stays busy for as long; there is no /proc (the file server
//! names nothing by it); an ordinary user's service sees other owners as 65534, and can give files to
//! no group but its first. Kernels before 5.12 cannot make a tree of mounts read-only at once: there
//! it counts as not to be had.
//!
//! All of it costs a call some 2 ms, most of them for the network namespace, and each
//! system call none that can be measured: the kernel remembers which calls are always allowed.
//!
//! Follows virtiofsd's `sandbox.rs` (one step a file, each with its own error), bubblewrap's order of
//! steps, and crosvm's `9p_device.policy` for what a file server needs to call.

mod check;
mod landlock;
mod mounts;
mod namespaces;
mod privileges;
mod process;
mod seccomp;
mod sys;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use policy::FolderPath;
use rustix::io::Errno;

use crate::backend;
use crate::grant::{Grant, Source};
pub use check::check;
use process::Tie;
pub use process::{Ended, Keeper};

/// A way of locking the process in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An empty root.
    Namespaces,
    /// The outer root, but for all that is in it.
    Landlock,
}

impl Kind {
    /// All, the better one first.
    pub const ALL: [Kind; 2] = [Kind::Namespaces, Kind::Landlock];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Namespaces => "namespaces",
            Kind::Landlock => "landlock",
        })
    }
}

/// What is asked of the sandbox.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What to try, in that order; nothing where the person wants no sandbox.
    pub kinds: Vec<Kind>,
    /// Whether a root service keeps the capabilities by which root acts on others' files.
    pub keep_file_capabilities: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { kinds: Kind::ALL.to_vec(), keep_file_capabilities: false }
    }
}

/// A step that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct Failure {
    step: &'static str,
    errno: Errno,
}

/// Gives an error the name of its step.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step, errno })
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).step(step)
    }
}

/// No sandbox can be had: why, for each that was tried.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no sandbox can be had here ({}); --no-sandbox goes without", .0.join("; "))]
pub struct Unavailable(Vec<String>);

/// What serves a later call's folder to a channel whose process is confined: the folder's mount for an
/// empty root, else a process of its own.
pub fn lend(settings: &Settings, mut grant: Grant) -> Result<Grant, Unavailable> {
    let Source::Folder(_) = &grant.source else { return Ok(grant) };
    let mut reasons = Vec::new();
    for kind in &settings.kinds {
        let lent = match kind {
            Kind::Namespaces => detach(&grant).map(Source::Folder),
            Kind::Landlock => serve_apart(settings, &mut grant).map(Source::Server),
        };
        match lent {
            Ok(source) => return Ok(Grant { source, ..grant }),
            Err(Unavailable(why)) => reasons.extend(why),
        }
    }
    if settings.kinds.is_empty() { Ok(grant) } else { Err(Unavailable(reasons)) }
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The one that is locked in; what serves the grant is reached from here.
    Confined(Kind),
    /// The one that stayed.
    Keeper(Box<Keeper>),
}

/// Splits this process, which must have no second thread, and locks the new half in, with `grant` and
/// the descriptors `keep`; every other one but stdin, stdout and stderr is closed there. The grant of
/// that half is the folder as it is seen from within.
pub fn enter(
    settings: &Settings,
    grant: &mut Grant,
    keep: &[BorrowedFd<'_>],
) -> Result<Side, Unavailable> {
    process::split(&settings.kinds, |kind, tie| confine(kind, settings, grant, keep, tie))
}

/// The folder of `grant` as a detached mount, for a process that lives in an empty root. This process
/// stays as it is.
fn detach(grant: &Grant) -> Result<OwnedFd, Unavailable> {
    process::borrow(|| {
        let Source::Folder(outside) = &grant.source else {
            return Err(Failure { step: "a folder", errno: Errno::INVAL });
        };
        namespaces::enter()?;
        mounts::detach(&grant.folder, outside, grant.read_only)
    })
}

/// A process that serves the folder of `grant` at the socket that is given, locked into that folder by
/// Landlock, until the socket is closed: for a channel whose own process can open no second folder.
fn serve_apart(settings: &Settings, grant: &mut Grant) -> Result<OwnedFd, Unavailable> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let kind = Kind::Landlock;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let mut pair =
        Some(pair.map_err(|errno| Unavailable(vec![format!("{kind}: a socket: {errno}")]))?);
    let no_more = Failure { step: "a socket", errno: Errno::BADF };
    let make = |tie: Tie<'_>| {
        let (near, far) = pair.take().ok_or(no_more)?;
        drop(near);
        // The call ends now, and with it whoever would read what this process has to say.
        rustix::process::setsid().step("a session of its own")?;
        rustix::stdio::dup2_stderr(rustix::stdio::stdin()).step("no stderr")?;
        confine(kind, settings, grant, &[far.as_fd()], tie)?;
        Ok((far, grant))
    };
    let run = |(far, grant): (OwnedFd, &mut Grant)| {
        let Source::Folder(root) = &grant.source else { return };
        // How it ends is seen at the socket.
        let _ = root.try_clone().map_err(Into::into).and_then(|root| {
            backend::worker::run(root, grant.folder.as_path(), grant.read_only, far)
        });
    };
    process::release(kind, make, run)?;
    pair.map(|(near, _)| near).ok_or_else(|| Unavailable(Vec::new()))
}

fn confine(
    kind: Kind,
    settings: &Settings,
    grant: &mut Grant,
    keep: &[BorrowedFd<'_>],
    tie: Tie<'_>,
) -> Result<(), Failure> {
    match kind {
        Kind::Namespaces => {
            namespaces::enter()?;
            if let Source::Folder(outside) = &grant.source {
                let inside = mounts::detach(&grant.folder, outside, grant.read_only)?;
                grant.source = Source::Folder(inside);
            }
            mounts::empty_root()?;
        }
        Kind::Landlock => landlock::enter(grant)?,
    }
    privileges::drop_capabilities(settings.keep_file_capabilities)?;
    let mut kept: Vec<_> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    kept.extend([grant.source.as_fd().as_raw_fd(), tie.report.as_raw_fd()]);
    kept.extend(crate::log::descriptor().map(|log| log.as_raw_fd()));
    privileges::close_others(kept)?;
    privileges::hide()?;
    tie.fasten()?;
    seccomp::install(kind, grant.read_only)
}

/// Whether root's own rights are there, so that no user namespace is needed.
fn is_privileged() -> bool {
    privileges::has_admin()
}

/// Opens a granted folder, following no symbolic link anywhere on the way. Errors are those of
/// openat2(2).
pub fn open_folder(folder: &FolderPath) -> Result<OwnedFd, Errno> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::io::retry_on_intr(|| {
        rustix::fs::openat2(CWD, folder.as_path(), flags, Mode::empty(), resolve)
    })
}
