//! A file system below the granted folder: what is known of its waiting, and what has been measured.
//!
//! | | asked not to wait | known to be in memory | measured ([`super::rule`]) |
//! | --- | --- | --- | --- |
//! | ext4, XFS, btrfs, F2FS | reads, writes (not ext4), walks, opens | attributes | writes without `RWF_NOWAIT`, closing |
//! | tmpfs | reads, walks, opens | attributes | the same, and whatever the kernel says it cannot do so |
//! | ramfs, hostfs | | | everything that changes no names |
//! | others | reads, writes where they know it | | nothing |
//!
//! "Others" may wait for a network or for a program (NFS, FUSE): a measurement says nothing of the next
//! time there.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::fstatfs;

use super::node::lock;
use super::rule::{Rule, What};

/// File systems whose inodes, once in memory, are asked for attributes without a disk or a network
/// (kernel `include/uapi/linux/magic.h`): ext4, XFS, btrfs, F2FS.
const LOCAL: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];
/// tmpfs: the same, and there is no disk but the one that is swapped to.
const TMPFS: u64 = 0x0102_1994;
/// ramfs, and hostfs, whose waiting stops the whole machine in any case.
const PLAIN: [u64; 2] = [0x8584_58f6, 0x00c0_ffee];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Local,
    Tmpfs,
    Plain,
    Other,
}

/// One file system.
#[derive(Debug)]
pub struct Disk {
    kind: Kind,
    /// It does not know `RWF_NOWAIT` for reading, for writing.
    reads_wait: AtomicBool,
    writes_wait: AtomicBool,
    rule: Rule,
}

impl Disk {
    /// The file system that `fd` is on.
    pub fn of(fd: impl AsFd) -> Disk {
        let kind = match fstatfs(fd).map(|numbers| numbers.f_type as u64) {
            Ok(magic) if LOCAL.contains(&magic) => Kind::Local,
            Ok(TMPFS) => Kind::Tmpfs,
            Ok(magic) if PLAIN.contains(&magic) => Kind::Plain,
            _ => Kind::Other,
        };
        let (reads_wait, writes_wait) = Default::default();
        Disk { kind, reads_wait, writes_wait, rule: Rule::default() }
    }

    /// Whether attributes of nodes that have a descriptor are in memory.
    pub fn has_attributes(&self) -> bool {
        matches!(self.kind, Kind::Local | Kind::Tmpfs)
    }

    /// Whether its files are on a disk, of which a write may have to read before.
    pub fn is_on_disk(&self) -> bool {
        self.kind == Kind::Local
    }

    /// Whether reads are to be tried with `RWF_NOWAIT`.
    pub fn reads_now(&self) -> bool {
        !self.reads_wait.load(Ordering::Relaxed)
    }

    /// The same for writes.
    pub fn writes_now(&self) -> bool {
        !self.writes_wait.load(Ordering::Relaxed)
    }

    /// It said that it does not know `RWF_NOWAIT` for reading.
    pub fn reads_wait(&self) {
        self.reads_wait.store(true, Ordering::Relaxed);
    }

    /// The same for writing.
    pub fn writes_wait(&self) {
        self.writes_wait.store(true, Ordering::Relaxed);
    }

    /// Whether the rule decides about such an operation: where the file system cannot be asked.
    pub fn is_measured(&self, what: What) -> bool {
        match what {
            What::Close { .. } | What::Append(_) => self.kind != Kind::Other,
            What::Write(_) => self.kind != Kind::Other && !self.writes_now(),
            What::Read(_) => self.kind != Kind::Other && !self.reads_now(),
            What::Look | What::Open | What::Dir(_) => {
                matches!(self.kind, Kind::Tmpfs | Kind::Plain)
            }
        }
    }

    /// Whether it may be done on the spot, as measured.
    pub fn may(&self, what: What) -> bool {
        self.is_measured(what) && self.rule.may(what, now())
    }

    /// Whether what the kernel is asked to do from memory alone has kept to that.
    pub fn may_still(&self, what: What) -> bool {
        self.rule.may_still(what, now())
    }

    /// Does it, and notes how long it took where the rule decides about such.
    pub fn time<T>(&self, what: What, work: impl FnOnce() -> T) -> T {
        if self.is_measured(what) { self.clock(what, work) } else { work() }
    }

    /// Does it, and notes how long it took.
    pub fn clock<T>(&self, what: What, work: impl FnOnce() -> T) -> T {
        let start = now();
        let done = work();
        let end = now();
        self.rule.note(what, end.saturating_sub(start), end);
        done
    }
}

/// Time since the first call.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// The file systems below one folder.
#[derive(Debug)]
pub struct Disks {
    root: (u64, Arc<Disk>),
    others: Mutex<Vec<(u64, Arc<Disk>)>>,
}

/// File systems that are remembered. Beyond it each file is on one of its own, of which nothing is
/// known.
const MOST: usize = 256;

impl Disks {
    /// For a folder on `device`, open as `root`.
    pub fn new(device: u64, root: impl AsFd) -> Disks {
        Disks { root: (device, Arc::new(Disk::of(root))), others: Mutex::default() }
    }

    /// The root's, if that is `device`.
    pub fn root(&self, device: u64) -> Option<&Arc<Disk>> {
        (self.root.0 == device).then_some(&self.root.1)
    }

    /// The one that `fd` is on, which is `device`.
    pub fn find(&self, device: u64, fd: impl AsFd) -> Arc<Disk> {
        if self.root.0 == device {
            return self.root.1.clone();
        }
        let known = |others: &[(u64, Arc<Disk>)]| {
            others.iter().find(|other| other.0 == device).map(|other| other.1.clone())
        };
        if let Some(disk) = known(&lock(&self.others)) {
            return disk;
        }
        let disk = Arc::new(Disk::of(fd));
        let mut others = lock(&self.others);
        if let Some(disk) = known(&others) {
            return disk;
        }
        if others.len() < MOST {
            others.push((device, disk.clone()));
        }
        disk
    }
}
