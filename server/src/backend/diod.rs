//! `--backend diod`: Debian's diod, one process for each granted folder.
//!
//! Run as `diod -f -n -r 0 -w 0 -e FOLDER -L stderr` with one end of a socketpair as its stdin, and `-N`,
//! since it cannot look users up where there is no /etc. For the same reason the machine's diod.conf
//! changes nothing, but where that is in the folder. Who it runs as and what it sees is
//! `confine`'s; what it is asked is `dialect`'s. It ends when the other end of its socket is closed.
//!
//! What it prints goes to /dev/null: it names what clients send, at any length, and its stderr would be
//! the call's, which the other qube reads. Nor could anybody pass it on: a later call's process ends
//! while its diod lives, and to write to nobody would kill it.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use policy::FolderPath;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::confine::{self, Failure};

/// The program's name.
const NAME: &str = "diod";
/// Where Debian has it; an ordinary user's PATH does not name that.
const PLACES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Why diod does not serve a folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiodError {
    /// It is not there.
    #[error("diod is not installed (Debian's package diod)")]
    NotInstalled,
    /// It refuses such a path as an export (`libdiod/diod_conf.c`).
    #[error("diod does not take a folder in whose path a name begins with '..'")]
    Path,
    /// A read-only grant that nothing would enforce.
    #[error(
        "diod can only be kept from writing in namespaces of its own, which --no-sandbox forgoes"
    )]
    ReadOnly,
    /// It cannot be started so that it sees the folder alone.
    #[error("diod cannot be confined to the folder: {0}")]
    Confine(Failure),
    /// It cannot be started.
    #[error("diod cannot be started: {0}")]
    Start(Errno),
}

/// Starts a diod that serves `folder` at the far end of the socket that is given back, and ends with it.
/// Without `confined` it can read, through links that a client plants, whatever its user can.
pub fn start(folder: &FolderPath, read_only: bool, confined: bool) -> Result<OwnedFd, DiodError> {
    if read_only && !confined {
        return Err(DiodError::ReadOnly);
    }
    if folder.components().any(|name| name.starts_with(b"..")) {
        return Err(DiodError::Path);
    }
    let program = find(std::env::var_os("PATH").as_deref()).ok_or(DiodError::NotInstalled)?;
    let (ours, its) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(DiodError::Start)?;
    let mut command = Command::new(&program);
    command
        .arg0(NAME)
        .args(["-f", "-n", "-r", "0", "-w", "0", "-e"])
        .arg(folder.as_path())
        .args(["-L", "stderr", "-N"])
        .env_clear()
        .stdin(its)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !confined {
        command.args(["-c", "/dev/null"]);
    }
    let report = confine::keep(&mut command, &program, folder, read_only, confined)
        .map_err(DiodError::Start)?;
    match command.spawn() {
        Ok(mut first) => {
            // The first process has ended by now; the keeper is nobody's child.
            let _ = first.wait();
            Ok(ours)
        }
        Err(error) => {
            drop(command);
            let failure = report.failure(&error);
            Err(match confined {
                true => DiodError::Confine(failure),
                false => DiodError::Start(failure.errno),
            })
        }
    }
}

/// The program, as the path that it really has.
fn find(path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let path = path.unwrap_or_default();
    let places = std::env::split_paths(path).chain(PLACES.map(PathBuf::from));
    places
        .filter(|place| place.is_absolute())
        .map(|place| place.join(NAME))
        .filter(|program| is_program(program))
        .find_map(|program| program.canonicalize().ok())
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
