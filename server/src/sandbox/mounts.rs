//! Step 2: the granted folder as a detached bind mount, and an empty root around the process.
//!
//! The mount is in no namespace: the process holds it by its descriptor, and `..` ends at its root.
//! What was mounted below the folder is in it, and so crossed. Nothing in it can be executed, no device
//! opened, no set-id bit used, no symbolic link followed, and nothing changed where the grant is for
//! reading: by any process, whatever it may do otherwise. Modes and links are read and set as ever.
//!
//! A folder is opened twice: outside by the user's own rights, which decides whether it may be, and
//! here, where it must be the same one.

use std::os::fd::{AsFd, OwnedFd};

use policy::FolderPath;
use rustix::fs::{CWD, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::{Failure, Step, open_folder, sys};

/// `folder` with all that is mounted below it; it must be what `outside` is open on.
pub fn detach(folder: &FolderPath, outside: &OwnedFd, read_only: bool) -> Result<OwnedFd, Failure> {
    let inside = open_folder(folder).step("the folder")?;
    let identity = |fd: &OwnedFd| fstat(fd).map(|st| (st.st_dev, st.st_ino)).step("the folder");
    if identity(&inside)? != identity(outside)? {
        return Err(Failure { step: "the folder is another now", errno: Errno::STALE });
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(&inside, c"", flags).step("the folder's mount")?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    sys::set_mount_attributes(mount.as_fd(), attributes).step("the mount's attributes")?;
    Ok(mount)
}

/// Makes an empty folder that nobody can write to this process's root, and lets go of the old one.
pub fn empty_root() -> Result<(), Failure> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).step("the empty root")?;
    for (key, value) in [(c"size", c"4k"), (c"nr_inodes", c"1"), (c"mode", c"555")] {
        fsconfig_set_string(&fs, key, value).step("the empty root's size")?;
    }
    fsconfig_set_flag(&fs, c"ro").step("the empty root, read-only")?;
    fsconfig_create(&fs).step("the empty root, made")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).step("the empty root")?;
    // On top of the old one, which is a folder for sure; then they change places.
    move_mount(&root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step("the empty root, mounted")?;
    fchdir(&root).step("the empty root, entered")?;
    pivot_root(c".", c".").step("pivot_root")?;
    // The old root is on top of the new one now, and goes with all that it holds.
    unmount(c".", UnmountFlags::DETACH).step("the old root")?;
    chdir(c"/").step("the new root")
}
