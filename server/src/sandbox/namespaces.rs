//! Step 1: namespaces of its own for the process, so that it may arrange its mounts.
//!
//! The user namespace, which an ordinary user needs for all others, holds the service's user and group
//! under their own numbers and nobody else. Of the rights that come with it the process keeps those to
//! mount and to give up rights, from the first moment: none that would open what its user cannot.
//!
//! The network and IPC namespaces keep nothing away that the list of system calls does not already
//! (`socket`, `shmget`): they are there for the day when that has a hole. Left out: PID namespaces,
//! which need another process in between, for what the list forbids anyway (`kill`, `ptrace`); UTS,
//! cgroup and time, of which nothing is to be had.

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;

use super::{Failure, Step, is_privileged, privileges, sys};

/// Moves this process, which must have one thread, into namespaces of its own.
pub fn enter() -> Result<(), Failure> {
    let own = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    if is_privileged() {
        sys::unshare(own).step("namespaces")?;
    } else {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        sys::unshare(own | UnshareFlags::NEWUSER).step("a user namespace")?;
        // Groups are not to be dropped: a file may be closed to one of them.
        std::fs::write("/proc/self/setgroups", "deny").step("the user namespace's groups")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
            .step("the user namespace's user")?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
            .step("the user namespace's group")?;
        privileges::keep_admin()?;
    }
    // What is mounted outside from now on is not seen, and nothing done here is seen there.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step("private mounts")
}
