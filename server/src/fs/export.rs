//! The granted folder: the one descriptor that everything else is opened beneath.
//!
//! Leaves out who may have it (the service's) and what the process is locked into (the sandbox's).

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Statx, openat2};
use rustix::io::retry_on_intr;

use super::disk::Disks;
use super::errno::Errno;
use super::node::stat;
use super::qid::{Devices, device};

/// Why a folder cannot be served. The words do not tell a client more than the folder that it
/// named: where a symbolic link leads is nobody's business.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The path is not an absolute one.
    #[error("cannot share {}: it is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// A component of the path is a symbolic link.
    #[error("cannot share {}: a symbolic link is in its path", .0.display())]
    SymbolicLink(PathBuf),
    /// It is something else than a folder.
    #[error("cannot share {}: it is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// It cannot be opened.
    #[error("cannot share {}: {errno}", folder.display())]
    Open {
        /// The folder.
        folder: PathBuf,
        /// Why.
        errno: Errno,
    },
}

/// A granted folder. May be shared by sessions.
#[derive(Debug)]
pub struct Export {
    root: Arc<OwnedFd>,
    st: Statx,
    folder: PathBuf,
    read_only: bool,
    devices: Devices,
    disks: Disks,
}

impl Export {
    /// Opens `folder`, which must be absolute, without following any symbolic link on the way: a
    /// client may have planted one in a folder that it may write to.
    pub fn open(folder: &Path, read_only: bool) -> Result<Arc<Export>, ExportError> {
        if !folder.is_absolute() {
            return Err(ExportError::Relative(folder.into()));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let root = retry_on_intr(|| openat2(CWD, folder, flags, Mode::empty(), resolve)).map_err(
            |errno| match errno {
                Errno::LOOP => ExportError::SymbolicLink(folder.into()),
                Errno::NOTDIR => ExportError::NotAFolder(folder.into()),
                errno => ExportError::Open { folder: folder.into(), errno },
            },
        )?;
        Export::from_dir(root, folder, read_only)
    }

    /// Serves the folder that `root` is open on (`O_PATH` is enough), as `folder`: the name that an
    /// attach may give. For a folder that came as a descriptor, such as a detached mount.
    pub fn from_dir(
        root: OwnedFd,
        folder: &Path,
        read_only: bool,
    ) -> Result<Arc<Export>, ExportError> {
        let st = stat(&root).map_err(|errno| ExportError::Open { folder: folder.into(), errno })?;
        if FileType::from_raw_mode(st.stx_mode.into()) != FileType::Directory {
            return Err(ExportError::NotAFolder(folder.into()));
        }
        let devices = Devices::new(device(&st));
        let disks = Disks::new(device(&st), &root);
        let folder = folder.into();
        Ok(Arc::new(Export { root: Arc::new(root), st, folder, read_only, devices, disks }))
    }

    /// Whether every change is refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether an attach to `aname` is to this folder: it is empty, or names it.
    pub(super) fn is_called(&self, aname: &[u8]) -> bool {
        aname.is_empty() || aname == self.folder.as_os_str().as_bytes()
    }

    pub(super) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    pub(super) fn disks(&self) -> &Disks {
        &self.disks
    }

    /// The root's attributes when it was opened.
    pub(super) fn root_stat(&self) -> &Statx {
        &self.st
    }

    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        assert!(Export::open(&base.join("real/sub"), false).is_ok());
        let error = |path: &str| Export::open(&base.join(path), false).unwrap_err();
        assert!(matches!(error("link/sub"), ExportError::SymbolicLink(_)));
        assert!(matches!(error("link"), ExportError::NotAFolder(_) | ExportError::SymbolicLink(_)));
        assert!(matches!(error("file"), ExportError::NotAFolder(_)));
        assert!(matches!(error("none"), ExportError::Open { errno: Errno::NOENT, .. }));
        assert!(matches!(
            Export::open(Path::new("tmp"), false).unwrap_err(),
            ExportError::Relative(_)
        ));
    }
}
