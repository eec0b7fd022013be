//! Watching folders: hints that were given are taken back when something changes what they said.
//!
//! A folder is watched by inotify(7) before anything in it is told as watched. Each watch remembers what has
//! been told since it was last taken back, so that only that is taken back: a file that is written a
//! thousand times after it was told of is one message. What the kernel does not report to a folder's watch is
//! never told as watched: files with other names, other folders' attributes, file systems that others
//! change too. Changes through a shared mapping are reported by nobody; the client end has a time for those.
//!
//! The sandbox has no /proc to name a descriptor by, so a thread with a working folder of its own goes into
//! the folder and watches `.`.
//!
//! Order: [`Watches::drain`] is called by the thread that takes requests in, before it sends replies. What
//! changed before a request came is then taken back before that request's reply.
//!
//! Concurrency: one lock, held for no system call but those of inotify, which do not wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, OnceLock};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags};
use transport::accel::hint::{MAX_FORGET, forget};
use transport::id::Msize;
use transport::ninep::Packet;
use transport::ninep::packet::HEADER;

use super::errno::Errno;
use super::node::lock;
use super::xattr_at::in_folder;

/// Folders watched at a time. The kernel allows a user 8,192 of them on a small machine.
const MOST: usize = 4096;
/// Names of a folder that are remembered as told; with more, any may have been.
const TOLD: usize = 8192;
/// Names of all folders together that are remembered as told: a few megabytes.
const ALL_TOLD: usize = 256 << 10;
/// How often it is counted anew while that is full.
const RECOUNT: u64 = 4096;
/// Events' bytes taken at a time.
const EVENTS: usize = 16 << 10;
/// Times that events are taken in one go: a client is not to wait for a folder that never comes to rest.
const ROUNDS: usize = 64;

/// What every session's messages may have: the least msize.
const SMALLEST: usize = Msize::MIN.bytes() as usize;

/// Whose hints they are.
pub type Owner = u64;

/// The watches of a process.
#[derive(Debug, Default)]
pub struct Watches {
    /// inotify's descriptor, if there is one to be had.
    fd: OnceLock<Option<OwnedFd>>,
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    by_wd: HashMap<i32, Watch>,
    /// The watch of an owner's folder, which it knows by its path.
    by_path: HashMap<(Owner, u64), i32>,
    clock: u64,
    /// Names remembered as told, or more: those that were taken back are still counted until it is full.
    told: usize,
    /// What was taken back because a watch ended.
    pending: Vec<(Owner, u64)>,
}

#[derive(Debug, Default)]
struct Watch {
    owners: Vec<Told>,
    used: u64,
}

/// What has been told of a folder to one owner.
#[derive(Debug)]
struct Told {
    owner: Owner,
    path: u64,
    names: HashSet<u64>,
    /// Any name may have been.
    any: bool,
    /// Requests that look at what is in the folder now, and will tell of it.
    looking: u32,
}

impl Told {
    fn new(owner: Owner, path: u64) -> Told {
        Told { owner, path, names: HashSet::new(), any: false, looking: 0 }
    }
}

/// A folder's path and a name in it that has changed; an empty one for all of it.
type Record = (u64, Vec<u8>);
type Records = BTreeMap<Owner, BTreeSet<Record>>;

/// What is to be sent to an owner: an `Rforget`.
pub type Forgotten = (Owner, Packet);

impl Watches {
    /// The descriptor that is readable when something has changed; `None` before there is a watch.
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.fd.get()?.as_ref()
    }

    fn open(&self) -> Option<&OwnedFd> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        self.fd.get_or_init(|| rustix::fs::inotify::init(flags).ok()).as_ref()
    }

    /// Somebody is about to look at what is in `owner`'s folder `path`; says whether it is watched. If so,
    /// everything that changes in it is taken back until [`looked`](Self::looked): what was seen before and is
    /// told later would never be.
    pub fn look(&self, owner: Owner, path: u64) -> bool {
        let mut state = lock(&self.state);
        state.clock += 1;
        let clock = state.clock;
        let Some(watch) = state.watch(owner, path) else { return false };
        watch.used = clock;
        watch.of(owner).into_iter().for_each(|told| told.looking += 1);
        true
    }

    /// The same has been looked at, and told.
    pub fn looked(&self, owner: Owner, path: u64) {
        let mut state = lock(&self.state);
        // A watch that has ended meanwhile, and one that has begun, know nothing of it.
        let told = state.watch(owner, path).and_then(|watch| watch.of(owner));
        told.into_iter().for_each(|told| told.looking = told.looking.saturating_sub(1));
    }

    /// Whether `owner`'s folder `path` is being watched.
    pub fn is_watched(&self, owner: Owner, path: u64) -> bool {
        lock(&self.state).by_path.contains_key(&(owner, path))
    }

    /// Watches the folder `dir`, which `owner` knows by `path`; says whether it is watched now. What is looked
    /// at from then on may be told as watched.
    pub fn watch(&self, owner: Owner, path: u64, dir: BorrowedFd<'_>) -> bool {
        let mut state = lock(&self.state);
        state.clock += 1;
        let clock = state.clock;
        if let Some(watch) = state.watch(owner, path) {
            watch.used = clock;
            return true;
        }
        let Some(fd) = self.open() else { return false };
        if state.by_wd.len() >= MOST {
            state.evict(fd);
        }
        let Ok(wd) = add(fd, dir) else { return false };
        let watch = state.by_wd.entry(wd).or_default();
        watch.used = clock;
        let told = Told::new(owner, path);
        // The same folder by another path: it has one watch.
        let other = watch.owners.iter().position(|told| told.owner == owner);
        let other = other.map(|at| watch.owners.swap_remove(at).path);
        watch.owners.push(told);
        if let Some(other) = other {
            state.by_path.remove(&(owner, other));
            state.pending.push((owner, other));
        }
        state.by_path.insert((owner, path), wd);
        true
    }

    /// `name` of the folder has been looked at and is told of; the folder itself where it is empty.
    pub fn tell(&self, owner: Owner, path: u64, name: &[u8]) {
        let hash = self.hasher.hash_one(name);
        let mut state = lock(&self.state);
        state.clock += 1;
        if state.told >= ALL_TOLD && state.clock % RECOUNT == 0 {
            state.told = state.count();
        }
        let room = state.told < ALL_TOLD;
        let told = state.watch(owner, path).and_then(|watch| watch.of(owner));
        let Some(told) = told else { return };
        if room && told.names.len() < TOLD {
            let new = told.names.insert(hash);
            state.told += usize::from(new);
        } else {
            told.any = true;
        }
    }

    /// Forgets an owner.
    pub fn end(&self, owner: Owner) {
        let mut state = lock(&self.state);
        state.by_path.retain(|(of, _), _| *of != owner);
        let Some(fd) = self.fd() else { return };
        state.by_wd.retain(|wd, watch| {
            watch.owners.retain(|told| told.owner != owner);
            if watch.owners.is_empty() {
                let _ = rustix::fs::inotify::remove_watch(fd, *wd);
            }
            !watch.owners.is_empty()
        });
    }

    /// Takes what has changed: what is to be sent to whom.
    pub fn drain(&self) -> Vec<Forgotten> {
        let Some(fd) = self.fd() else { return Vec::new() };
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(fd, &mut buffer);
        let mut state = lock(&self.state);
        let mut records = Records::new();
        for (owner, path) in std::mem::take(&mut state.pending) {
            records.entry(owner).or_default().insert((path, Vec::new()));
        }
        let mut overflow = false;
        let mut events = 0;
        while events < ROUNDS * EVENTS / 16 {
            let Ok(event) = reader.next() else { break };
            events += 1;
            overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().map_or(&b""[..], |name| name.to_bytes());
            let gone = event.events().contains(ReadFlags::IGNORED);
            self.happened(&mut state, event.wd(), name, gone, &mut records);
        }
        if overflow {
            let owners: BTreeSet<Owner> = state.by_path.keys().map(|(owner, _)| *owner).collect();
            state.by_wd.values_mut().flat_map(|watch| &mut watch.owners).for_each(|told| {
                told.names.clear();
                told.any = false;
            });
            return owners.into_iter().map(|owner| (owner, forget([]))).collect();
        }
        records.iter().map(|(owner, records)| (*owner, message(records))).collect()
    }

    fn happened(&self, state: &mut State, wd: i32, name: &[u8], gone: bool, records: &mut Records) {
        let Some(watch) = state.by_wd.get_mut(&wd) else { return };
        let (hash, own) = (self.hasher.hash_one(name), self.hasher.hash_one(&b""[..]));
        for told in &mut watch.owners {
            // What happens in a folder changes its own attributes too.
            let itself = told.names.remove(&own);
            let any = told.any || told.looking > 0 || name.is_empty();
            if told.names.remove(&hash) || itself || any {
                records.entry(told.owner).or_default().insert((told.path, name.to_vec()));
            }
            if name.is_empty() {
                told.names.clear();
                told.any = false;
            }
        }
        if gone {
            let watch = state.by_wd.remove(&wd).unwrap_or_default();
            for told in watch.owners {
                state.by_path.remove(&(told.owner, told.path));
            }
        }
    }
}

impl Watch {
    /// What has been told to `owner`.
    fn of(&mut self, owner: Owner) -> Option<&mut Told> {
        self.owners.iter_mut().find(|told| told.owner == owner)
    }
}

impl State {
    /// The watch of an owner's folder.
    fn watch(&mut self, owner: Owner, path: u64) -> Option<&mut Watch> {
        self.by_wd.get_mut(self.by_path.get(&(owner, path))?)
    }

    /// Names that are remembered as told.
    fn count(&self) -> usize {
        let owners = self.by_wd.values().flat_map(|watch| &watch.owners);
        owners.map(|told| told.names.len()).sum()
    }

    /// Ends the watch that was used longest ago.
    fn evict(&mut self, fd: &OwnedFd) {
        let oldest = self.by_wd.iter().min_by_key(|(_, watch)| watch.used).map(|(wd, _)| *wd);
        let Some(wd) = oldest else { return };
        let _ = rustix::fs::inotify::remove_watch(fd, wd);
        for told in self.by_wd.remove(&wd).unwrap_or_default().owners {
            self.by_path.remove(&(told.owner, told.path));
            self.pending.push((told.owner, told.path));
        }
    }
}

/// Adds a watch, or finds the one that there is.
fn add(fd: &OwnedFd, dir: BorrowedFd<'_>) -> Result<i32, Errno> {
    let what = WatchFlags::ATTRIB
        | WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::DONT_FOLLOW;
    in_folder(dir, || rustix::fs::inotify::add_watch(fd, c".", what))
        .unwrap_or(Err(Errno::OPNOTSUPP))
}

/// As a message. Where it would be too long, everything is taken back.
fn message(records: &BTreeSet<Record>) -> Packet {
    let bytes: usize = records.iter().map(|(_, name)| 10 + name.len()).sum();
    if bytes + HEADER > MAX_FORGET.min(SMALLEST) {
        forget([])
    } else {
        forget(records.iter().map(|(path, name)| (*path, &name[..])))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_changes_while_somebody_looks_is_taken_back_told_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(dir.path()).unwrap();
        let watches = Watches::default();
        let change = |name: &str| std::fs::write(dir.path().join(name), "x").unwrap();
        let taken = || watches.drain().len();
        assert!(watches.watch(1, 9, folder.as_fd()));
        change("untold");
        assert_eq!(taken(), 0);
        assert!(watches.look(1, 9) && !watches.look(2, 9) && !watches.look(1, 8));
        for name in ["a", "a", "b"] {
            change(name);
            assert_eq!(taken(), 1, "{name}");
        }
        watches.looked(1, 9);
        watches.looked(2, 9);
        change("b");
        assert_eq!(taken(), 0);
    }

    #[test]
    fn what_is_remembered_as_told_is_bounded_and_nothing_is_missed_for_it() {
        let watches = Watches::default();
        {
            let mut state = lock(&watches.state);
            for wd in 0..64 {
                let told = Told::new(1, wd as u64);
                state.by_wd.insert(wd, Watch { owners: vec![told], used: 0 });
                state.by_path.insert((1, wd as u64), wd);
            }
        }
        for path in 0..64 {
            for name in 0..TOLD as u32 + 10 {
                watches.tell(1, path, &name.to_le_bytes());
            }
        }
        let mut state = lock(&watches.state);
        assert_eq!(state.count(), ALL_TOLD);
        for wd in [0, 63] {
            let mut records = Records::new();
            let last = (TOLD as u32 + 9).to_le_bytes();
            watches.happened(&mut state, wd, &last, false, &mut records);
            assert_eq!(records.len(), 1, "{wd}");
        }
        // What has been taken back makes room.
        state.by_wd.get_mut(&1).unwrap().owners[0].names.clear();
        drop(state);
        for name in 0..=RECOUNT {
            watches.tell(1, 1, &name.to_be_bytes());
        }
        let state = lock(&watches.state);
        assert!(!state.by_wd[&1].owners[0].names.is_empty());
    }
}
