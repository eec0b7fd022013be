//! What a client may use up, each bound with its reason.
//!
//! Two kinds: constants that hold for each session, and [`Limits`], the process's own means that
//! all sessions share. Over a limit a request gets an errno; nothing grows without bound.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fids of one session. Linux's caches keep one per cached name, and 100,000 names are an ordinary
/// source tree. What all sessions may have together, and the nodes behind them, is in [`Limits`].
pub const FIDS: usize = 200_000;

/// Requests of one session that have no answer yet. Linux sends one per waiting task. More are
/// answered `EAGAIN` at once.
pub const REQUESTS: usize = 4096;

/// Bytes of unanswered requests of one session: 32 writes of the largest msize. Beyond it `EAGAIN`.
pub const REQUEST_BYTES: usize = 32 << 20;

/// The largest extended attribute and the largest list of them, as Linux's own (xattr(7):
/// `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
pub const XATTR: usize = 64 << 10;

/// Values of extended attributes that are held for their fids, in bytes, over all sessions. Linux
/// holds one for as long as a getxattr(2) takes.
pub const XATTR_HELD: usize = 16 << 20;

/// The longest name of a component in bytes (limits.h: `NAME_MAX`).
pub const NAME: usize = 255;

/// The longest name of an extended attribute (xattr(7): `XATTR_NAME_MAX`).
pub const XATTR_NAME: usize = 255;

/// The longest target of a symbolic link (limits.h: `PATH_MAX` less its NUL).
pub const TARGET: usize = 4095;

/// How deep below the root a walk goes. Paths end at 2,048 components; what a program reaches step
/// by step may be deeper. It bounds what a forgotten descriptor costs to open again.
pub const DEPTH: u32 = 4096;

/// The longest `client_id` of a lock: Linux sends the machine's name (uname(2): 64 bytes).
pub const CLIENT_ID: usize = 255;

/// Ranges that the lock owners of all sessions hold together. Each costs the kernel some 200 bytes.
/// Beyond it `ENOLCK`.
pub const LOCKS: usize = 65_536;

/// The means of a process that its sessions share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads that work on files, at most. More than the disk's queue is deep helps nobody.
    pub threads: usize,
    /// Threads that one session may hold at a time.
    pub share: usize,
    /// Descriptors kept for nodes that are not open; the least recently used go first.
    pub handles: usize,
    /// Files open for I/O, over all sessions. Beyond it `EMFILE`.
    pub open_files: usize,
    /// Fids, over all sessions: those of two that use up theirs, and some more. Beyond it `ENFILE`.
    pub fids: usize,
    /// Nodes, over all sessions: what fids name, and the folders above that, of which a client that
    /// makes and removes folders by two mounts can have any number for each fid. With its fid a node
    /// costs some 400 bytes, so a hostile client can take about 200 MiB. Beyond it `ENFILE`.
    pub nodes: usize,
    /// Bytes that are read and written by the thread that takes messages in, in one turn of its: what
    /// other streams wait for then. 4 MiB/ms is what a slow machine copies. 0: all is the workers'.
    pub on_the_spot: usize,
    /// Owners of locks that hold an open file description, over all sessions. Beyond it `ENOLCK`.
    pub lock_owners: usize,
}

impl Limits {
    /// Limits that leave a quarter of `descriptors` (this process's `RLIMIT_NOFILE`) to others.
    pub fn for_descriptors(descriptors: u64) -> Limits {
        let n = usize::try_from(descriptors).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        Limits {
            threads: 32,
            share: 16,
            handles: (n / 8).min(4096),
            open_files: n / 2,
            fids: 500_000,
            nodes: 500_000,
            on_the_spot: 512 << 10,
            lock_owners: n / 8,
        }
    }
}

/// Raises this process's `RLIMIT_NOFILE` as far as it may without a privilege, and gives it. Linux's
/// client in `cache=loose` before 6.3 keeps an open fid for every file that it has written to, so
/// that the usual 1,024 descriptors end a build. To be called before [`Limits::default`].
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised it stays as it was: no error.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

impl Default for Limits {
    /// Limits that fit this process's `RLIMIT_NOFILE` as it is now.
    fn default() -> Limits {
        Limits::for_descriptors(getrlimit(Resource::Nofile).current.unwrap_or(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_never_promised_twice() {
        for n in [64, 256, 1024, 20_000, 1 << 19, u64::MAX] {
            let limits = Limits::for_descriptors(n);
            let promised = limits.handles + limits.open_files + limits.lock_owners;
            assert!(promised as u64 <= n / 4 * 3, "{n}: {limits:?}");
        }
    }
}
