//! Nodes: what fids name.
//!
//! A node is a place (parent node and name) and an identity (device and inode, and the birth time
//! where the file system has one, as inode numbers are used again). A descriptor for it is only
//! kept while it is among those used last ([`super::handles`]); a node that lost its own is opened
//! again by its place, and must then have the same identity. So a hundred thousand fids cost memory
//! and no descriptors. How nodes move is [`super::tree`]'s.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx,
};
use rustix::io::retry_on_intr;

use super::errno::{Errno, Result};
use super::fid::{OpenFile, Slot};
use super::{limits, qid};

/// Locks; what a panic elsewhere left behind is still consistent, as nothing here is half done
/// while a lock is held.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One component of a path, checked: not empty, not `.` or `..`, no `/`, no NUL, at most 255 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// `bytes` as a component; `EINVAL` or `ENAMETOOLONG` where they are none.
    pub fn new(bytes: &'a [u8]) -> Result<Name<'a>> {
        if bytes.len() > limits::NAME {
            return Err(Errno::NAMETOOLONG);
        }
        let plain = !matches!(bytes, b"" | b"." | b"..");
        if plain && !bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            Ok(Name(bytes))
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Opens one component beneath `dir`: the second guard. Whatever the name is, the kernel neither
/// leaves `dir` nor follows a symbolic link.
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    retry_on_intr(|| openat2(dir, name, flags, mode, resolve))
}

/// As [`open_beneath`], but only by what the kernel has in memory, and on the same file system:
/// `EAGAIN` and `EXDEV` otherwise. Finding it never waits.
pub fn open_cached(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_XDEV
        | ResolveFlags::CACHED;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat2(dir, name, flags, Mode::empty(), resolve)
}

/// The attributes of what `fd` is open on.
pub fn stat(fd: impl AsFd) -> Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    statx(fd, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)
}

/// The attributes of a folder's entry, which is not followed.
pub fn stat_entry(dir: impl AsFd, name: &[u8]) -> Result<Statx> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID)
}

/// Which node it is.
#[derive(Clone, Copy, Debug)]
pub struct Id {
    /// The device it is on.
    pub device: u64,
    /// Its inode number there.
    pub inode: u64,
    /// The mount it was reached through; not part of what makes two nodes the same.
    pub mount: u64,
    /// When it was born; `None` where the file system does not say.
    born: Option<(i64, u32)>,
}

impl Id {
    /// The identity in `st`.
    pub fn of(st: &Statx) -> Id {
        let born = st.stx_mask & StatxFlags::BTIME.bits() != 0;
        Id {
            device: qid::device(st),
            inode: st.stx_ino,
            mount: st.stx_mnt_id,
            born: born.then_some((st.stx_btime.tv_sec, st.stx_btime.tv_nsec)),
        }
    }

    /// Whether both are the same file.
    pub fn same(&self, other: &Id) -> bool {
        let born = match (self.born, other.born) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.device == other.device && self.inode == other.inode && born
    }
}

/// Where a node is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder that it is in.
    pub parent: Arc<Node>,
    /// Its name there.
    pub name: Arc<[u8]>,
}

/// A file, folder, link or other beneath the root.
#[derive(Debug)]
pub struct Node {
    /// Unique in the process; never used again, unlike an address.
    pub serial: u64,
    /// Which it is.
    pub id: Id,
    /// Its type, which never changes.
    pub kind: FileType,
    /// Steps below the root when it was met.
    pub depth: u32,
    place: Mutex<Option<Place>>,
    handle: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
    opens: Mutex<Alive<OpenFile>>,
    _slot: Option<Slot>,
}

impl Node {
    /// A node that nothing knows of yet. `slot` is its part of the nodes of all sessions; roots have
    /// none.
    pub(super) fn new(
        serial: u64,
        st: &Statx,
        place: Option<Place>,
        handle: Option<Arc<OwnedFd>>,
        slot: Option<Slot>,
    ) -> Node {
        Node {
            serial,
            id: Id::of(st),
            kind: FileType::from_raw_mode(st.stx_mode.into()),
            depth: place.as_ref().map_or(0, |place| place.parent.depth + 1),
            place: Mutex::new(place),
            handle: Mutex::new(handle),
            used: AtomicBool::new(false),
            opens: Mutex::default(),
            _slot: slot,
        }
    }

    /// Where it is; nothing for the root and for what has been removed.
    pub fn place(&self) -> Option<Place> {
        lock(&self.place).clone()
    }

    pub(super) fn set_place(&self, place: Option<Place>) -> Option<Place> {
        std::mem::replace(&mut *lock(&self.place), place)
    }

    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Its descriptor, if it has one now.
    pub(super) fn cached(&self) -> Option<Arc<OwnedFd>> {
        let handle = lock(&self.handle).clone();
        if handle.is_some() {
            self.used.store(true, Ordering::Relaxed);
        }
        handle
    }

    /// Gives it a descriptor. False where it had one: that one stays.
    pub(super) fn offer(&self, fd: &Arc<OwnedFd>) -> bool {
        let mut handle = lock(&self.handle);
        if handle.is_some() {
            return false;
        }
        *handle = Some(fd.clone());
        true
    }

    /// Takes its descriptor away, unless it has been used since this was last asked.
    pub(super) fn take_idle(&self) -> Option<Arc<OwnedFd>> {
        if self.used.swap(false, Ordering::Relaxed) { None } else { self.take_handle() }
    }

    pub(super) fn take_handle(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.handle).take()
    }

    /// Notes that `file` is open on it.
    pub(super) fn opened(&self, file: &Arc<OpenFile>) {
        lock(&self.opens).add(file);
    }

    /// An open file of it that `fits`: what remains of a node whose name is gone.
    pub(super) fn open_file(&self, fits: impl Fn(&OpenFile) -> bool) -> Option<Arc<OpenFile>> {
        lock(&self.opens).list.iter().filter_map(Weak::upgrade).find(|file| fits(file))
    }
}

/// Those of a number of things that are still there. What is gone is looked for when the list has
/// doubled: a client that opens one file as often as it may has each added at the same price.
#[derive(Debug)]
struct Alive<T> {
    list: Vec<Weak<T>>,
    /// The length at which it is looked through.
    full: usize,
}

impl<T> Default for Alive<T> {
    fn default() -> Alive<T> {
        Alive { list: Vec::new(), full: 0 }
    }
}

impl<T> Alive<T> {
    /// Adds one; gives the number of those that were looked at for that.
    fn add(&mut self, one: &Arc<T>) -> usize {
        let mut looked = 0;
        if self.list.len() >= self.full {
            looked = self.list.len();
            self.list.retain(|one| one.strong_count() > 0);
            self.full = 2 * self.list.len() + 2;
        }
        self.list.push(Arc::downgrade(one));
        looked
    }
}

impl Drop for Node {
    /// Lets go of the parents one after the other: the chain may be deeper than the stack.
    fn drop(&mut self) {
        let take =
            |node: &mut Node| node.place.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let mut next = take(self);
        while let Some(place) = next {
            next = Arc::into_inner(place.parent).and_then(|mut parent| take(&mut parent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_opened_very_often_costs_the_same_each_time() {
        let mut alive = Alive::default();
        let all: Vec<Arc<usize>> = (0..10_000).map(Arc::new).collect();
        let looked: usize = all.iter().map(|one| alive.add(one)).sum();
        assert!(looked <= 2 * all.len(), "{looked}");
        drop(all);
        for n in 0..30_000 {
            alive.add(&Arc::new(n));
        }
        assert!(alive.list.len() <= 3, "what is gone is forgotten: {}", alive.list.len());
    }

    #[test]
    fn only_single_components_are_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", b"\0", b"../x"] {
            assert_eq!(Name::new(bad), Err(Errno::INVAL), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'x'; 256]), Err(Errno::NAMETOOLONG));
        for good in [&b"a"[..], b"...", b".a", b"\xff\xfe", &[b'x'; 255], b"a b\n"] {
            assert_eq!(Name::new(good).unwrap().bytes(), good);
        }
    }
}
