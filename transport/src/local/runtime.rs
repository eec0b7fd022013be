//! The private folder for sockets.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, Stat};
use rustix::io::Errno;

/// The name of this project's folder among others'.
const NAME: &str = "qubes-shared-folders";

/// Why there is no private folder.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It cannot be made.
    #[error("cannot make the folder {0} for sockets: {1}")]
    Make(PathBuf, Errno),
    /// Somebody else could have put something there.
    #[error("the folder {0} is not private: it must be a folder, mode 0700, owned by user {1}")]
    NotPrivate(PathBuf, u32),
}

/// The folder for sockets of `part` ("client" or "server") of this process's user, made where it is
/// not there: mode 0700, owned by that user, reached through no symbolic link of another's.
///
/// `$XDG_RUNTIME_DIR` where it is this user's, else `/run/user/UID`, else `/run` for root, else a
/// folder in `/tmp` with the user's number in its name.
pub fn runtime_folder(part: &str) -> Result<PathBuf, RuntimeError> {
    let uid = rustix::process::geteuid().as_raw();
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = match xdg.filter(|base| is_base(base, uid)) {
        Some(base) => base.join(NAME),
        None => base_of(uid),
    };
    private(&base, uid)?;
    let folder = base.join(part);
    private(&folder, uid)?;
    Ok(folder)
}

/// The folder that [`runtime_folder`] gives to a process of user `uid` without `$XDG_RUNTIME_DIR`;
/// it is not made, nor looked at.
pub fn runtime_folder_of(part: &str, uid: u32) -> PathBuf {
    base_of(uid).join(part)
}

fn base_of(uid: u32) -> PathBuf {
    let login = PathBuf::from(format!("/run/user/{uid}"));
    if is_base(&login, uid) {
        login.join(NAME)
    } else if uid == 0 {
        Path::new("/run").join(NAME)
    } else {
        PathBuf::from(format!("/tmp/{NAME}-{uid}"))
    }
}

fn is_base(base: &Path, uid: u32) -> bool {
    base.is_absolute() && rustix::fs::stat(base).is_ok_and(|stat| is_private(&stat, uid))
}

fn private(folder: &Path, uid: u32) -> Result<(), RuntimeError> {
    let failed = |errno| RuntimeError::Make(folder.to_owned(), errno);
    match rustix::fs::mkdirat(CWD, folder, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    // Not followed: in /tmp anybody could have made a link of this name.
    let stat = rustix::fs::lstat(folder).map_err(failed)?;
    if is_private(&stat, uid) {
        Ok(())
    } else {
        Err(RuntimeError::NotPrivate(folder.to_owned(), uid))
    }
}

fn is_private(stat: &Stat, uid: u32) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
        && stat.st_uid == uid
        && stat.st_mode & 0o077 == 0
}
