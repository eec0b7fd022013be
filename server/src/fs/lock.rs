//! `Tlock` and `Tgetlock`: byte-range locks, and flock(2), which Linux's client sends as locks of
//! the whole file (diod `protocol.md` § lock, getlock; kernel `fs/9p/vfs_file.c`).
//!
//! Each owner (client and process) of a file has an open file description of its own, and its locks
//! are that description's (fcntl(2), "open file description locks"): so two owners of one mount,
//! owners of two mounts, and processes of this machine exclude each other, and the kernel is the
//! judge. An owner's description is closed when it holds nothing any more, when the last fid that
//! has the file open goes, or with the session.
//!
//! A lock that is to be waited for is not answered "blocked", after which Linux's client sleeps for
//! 30 seconds: it is parked, holds no worker, and is tried again when a lock of that file is let go
//! by this process, and from time to time, as other processes let go without a word. Deadlocks are
//! not noticed; a signal on the client ends them.
//!
//! Concurrency: one lock an owner, held over its system calls, as they change what it holds; the
//! table's lock is held for no system call.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use transport::ninep::Rmessage;
use transport::ninep::message::lock as wire;

use super::dispatch::Answer;
use super::errno::{Errno, Result};
use super::fid::{Budget, Fid, OpenFile, Slot};
use super::inflight::Request;
use super::limits;
use super::node::{Id, Node, lock as hold};
use super::ranges::{Held, Ranges};
use super::session::Session;
use crate::sys::{self, Flock};

/// Whose a lock is, as the message says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerName<'a> {
    /// The client machine's name.
    pub client_id: &'a [u8],
    /// The process there.
    pub proc_id: u32,
}

type FileKey = (u64, u64);

fn key(id: &Id) -> FileKey {
    (id.device, id.inode)
}

/// The locks of one session, and how many of its fids have which file open.
#[derive(Debug)]
pub struct Locks {
    slots: Arc<Budget>,
    ranges: Arc<Budget>,
    files: Mutex<HashMap<FileKey, File>>,
}

#[derive(Debug, Default)]
struct File {
    opens: usize,
    owners: Vec<Arc<Owner>>,
}

/// Owners that are in no table any more.
#[derive(Debug, Default)]
pub struct Owners(Vec<(FileKey, Vec<Arc<Owner>>)>);

impl Owners {
    /// Lets their locks go, and those who wait for them in.
    pub fn end(self, waiting: &Waiting) {
        for (file, owners) in self.0 {
            for owner in owners {
                hold(&owner.state).end();
            }
            waiting.hurry_file(file);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
struct Owner {
    client_id: Box<[u8]>,
    proc_id: u32,
    state: Mutex<State>,
    _slot: Slot,
}

#[derive(Debug, Default)]
struct State {
    description: Option<Description>,
    ranges: Ranges,
    /// The ranges' part of what all sessions may hold.
    counted: Option<Slot>,
    /// It is in the table no more: look for it again.
    gone: bool,
}

/// Whose open file description the locks are.
#[derive(Debug)]
enum Description {
    Own(OwnedFd),
    /// The fid's, where the file's name is gone and it cannot be opened again. Owners that use one
    /// fid do not exclude each other then.
    Fid(Arc<OpenFile>),
}

impl AsFd for Description {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Description::Own(fd) => fd.as_fd(),
            Description::Fid(file) => file.fd.as_fd(),
        }
    }
}

impl State {
    /// Ends it. Whether anything was let go.
    fn end(&mut self) -> bool {
        self.gone = true;
        self.ranges = Ranges::default();
        self.counted = None;
        match self.description.take() {
            Some(Description::Fid(file)) => {
                let all = Flock { kind: libc::F_UNLCK, start: 0, length: 0, pid: 0 };
                // Nothing can be done about a failure, and the description's end is near.
                let _ = sys::ofd_lock(file.fd.as_fd(), all);
                true
            }
            Some(Description::Own(_)) => true,
            None => false,
        }
    }
}

impl Locks {
    /// No locks. Owners are counted by `slots`, what they hold by `ranges`.
    pub fn new(slots: Arc<Budget>, ranges: Arc<Budget>) -> Locks {
        Locks { slots, ranges, files: Mutex::default() }
    }

    /// Notes that a fid has the file open.
    pub fn opened(&self, id: &Id) {
        hold(&self.files).entry(key(id)).or_default().opens += 1;
    }

    /// Notes that one has it open no more; after the last of them the file's locks go. Whether any
    /// did.
    pub fn closed(&self, id: &Id) -> bool {
        let owners = {
            let mut files = hold(&self.files);
            let Some(file) = files.get_mut(&key(id)) else { return false };
            file.opens = file.opens.saturating_sub(1);
            if file.opens > 0 {
                return false;
            }
            files.remove(&key(id)).map(|file| file.owners).unwrap_or_default()
        };
        owners.iter().fold(false, |any, owner| hold(&owner.state).end() | any)
    }

    /// Takes all owners out: their fids are another session's past. Their locks go with
    /// [`Owners::end`]; who takes locks from here on is another owner.
    pub fn take_owners(&self) -> Owners {
        let mut files = hold(&self.files);
        let taken = files.iter_mut().map(|(&key, file)| (key, std::mem::take(&mut file.owners)));
        Owners(taken.filter(|(_, owners)| !owners.is_empty()).collect())
    }

    /// An owner, made where there is none and `make` says so. `EBADF` where no fid has the file
    /// open any more.
    fn owner(&self, id: &Id, name: OwnerName<'_>, make: bool) -> Result<Option<Arc<Owner>>> {
        let mut files = hold(&self.files);
        let file = files.get_mut(&key(id)).ok_or(Errno::BADF)?;
        let is = |owner: &&Arc<Owner>| {
            owner.proc_id == name.proc_id && *owner.client_id == *name.client_id
        };
        if let Some(owner) = file.owners.iter().find(is) {
            return Ok(Some(owner.clone()));
        }
        if !make {
            return Ok(None);
        }
        let owner = Arc::new(Owner {
            client_id: name.client_id.into(),
            proc_id: name.proc_id,
            state: Mutex::default(),
            _slot: self.slots.take(1).ok_or(Errno::NOLCK)?,
        });
        file.owners.push(owner.clone());
        Ok(Some(owner))
    }

    fn forget(&self, id: &Id, owner: &Arc<Owner>) {
        if let Some(file) = hold(&self.files).get_mut(&key(id)) {
            file.owners.retain(|one| !Arc::ptr_eq(one, owner));
        }
    }

    /// The lock of another owner of this session that is in the way.
    fn other(&self, id: &Id, name: OwnerName<'_>, wanted: &Held) -> Option<(Held, Arc<Owner>)> {
        let owners = hold(&self.files).get(&key(id))?.owners.clone();
        owners
            .into_iter()
            .filter(|owner| owner.proc_id != name.proc_id || *owner.client_id != *name.client_id)
            .find_map(|owner| {
                let held = hold(&owner.state).ranges.conflict(wanted)?;
                Some((held, owner))
            })
    }
}

/// The range of a message: `length` 0 is to the end.
fn range(kind: u8, (start, length): (u64, u64)) -> Result<Held> {
    const END: u64 = i64::MAX as u64;
    if start > END {
        return Err(Errno::INVAL);
    }
    let last = match length {
        0 => END,
        length => {
            start.checked_add(length - 1).filter(|&last| last <= END).ok_or(Errno::OVERFLOW)?
        }
    };
    Ok(Held { start, last, exclusive: kind == wire::WRLCK })
}

fn flock(kind: u8, (start, length): (u64, u64)) -> Result<Flock> {
    let kind = match kind {
        wire::RDLCK => libc::F_RDLCK,
        wire::WRLCK => libc::F_WRLCK,
        wire::UNLCK => libc::F_UNLCK,
        _ => return Err(Errno::INVAL),
    };
    Ok(Flock { kind, start: start as i64, length: length as i64, pid: 0 })
}

/// `Tlock`.
pub fn lock(
    s: &Session,
    fid: &Fid,
    kind: u8,
    flags: u32,
    bytes: (u64, u64),
    name: OwnerName<'_>,
) -> Result<Answer> {
    let file = fid.open_file()?;
    let node = fid.node();
    if name.client_id.len() > limits::CLIENT_ID {
        return Err(Errno::NAMETOOLONG);
    }
    let (range, wanted) = (range(kind, bytes)?, flock(kind, bytes)?);
    let status = |status| Ok(Answer::Message(Rmessage::Rlock { status }));
    let unlock = kind == wire::UNLCK;
    loop {
        let Some(owner) = s.locks.owner(&node.id, name, !unlock)? else {
            return status(wire::SUCCESS);
        };
        let mut state = hold(&owner.state);
        if state.gone {
            continue;
        }
        let done = take(s, &node, &file, &mut state, wanted, range);
        let idle = state.ranges.is_empty();
        if idle {
            state.end();
        }
        drop(state);
        if idle {
            s.locks.forget(&node.id, &owner);
        }
        return match done {
            Ok(()) => {
                // An exclusive lock that became a shared one lets others in, too.
                if !range.exclusive {
                    s.workers.waiting.hurry(&node.id);
                }
                status(wire::SUCCESS)
            }
            Err(Errno::AGAIN | Errno::ACCESS) if flags & wire::FLAG_BLOCK != 0 => Ok(Answer::Wait),
            Err(Errno::AGAIN | Errno::ACCESS) => status(wire::BLOCKED),
            Err(errno) => Err(errno),
        };
    }
}

/// Asks the kernel, and notes what the owner holds then.
fn take(
    s: &Session,
    node: &Arc<Node>,
    file: &Arc<OpenFile>,
    state: &mut State,
    wanted: Flock,
    range: Held,
) -> Result<()> {
    let unlock = wanted.kind == libc::F_UNLCK;
    // At most two more: what is cut in the middle leaves both ends.
    let mut room = s.locks.ranges.take(2).ok_or(Errno::NOLCK)?;
    if state.description.is_none() {
        if unlock {
            return Ok(());
        }
        state.description = Some(describe(s, node, file)?);
    }
    let Some(description) = &state.description else { return Ok(()) };
    sys::ofd_lock(description.as_fd(), wanted)?;
    state.ranges.set(range, !unlock);
    if let Some(counted) = state.counted.take() {
        room.absorb(counted);
    }
    room.shrink_to(state.ranges.len());
    state.counted = Some(room);
    Ok(())
}

/// An open file description for an owner: for writing too, where that is permitted, as an exclusive
/// lock needs that. Not in a folder for reading: a file that is open for writing cannot be run, and
/// those who watch it hear of a writer.
fn describe(s: &Session, node: &Arc<Node>, file: &Arc<OpenFile>) -> Result<Description> {
    let opened = if file.is_dir {
        s.tree.open(node, OFlags::RDONLY | OFlags::DIRECTORY)
    } else if s.export.read_only() {
        s.tree.open(node, OFlags::RDONLY)
    } else {
        s.tree.open(node, OFlags::RDWR).or_else(|errno| match errno {
            Errno::ACCESS | Errno::ROFS | Errno::PERM | Errno::TXTBSY => {
                s.tree.open(node, OFlags::RDONLY)
            }
            other => Err(other),
        })
    };
    match opened {
        Ok((fd, _)) => Ok(Description::Own(fd)),
        Err(Errno::STALE | Errno::NOENT | Errno::ACCESS) => Ok(Description::Fid(file.clone())),
        Err(errno) => Err(errno),
    }
}

/// `Tgetlock`.
pub fn getlock(
    s: &Session,
    fid: &Fid,
    kind: u8,
    bytes: (u64, u64),
    name: OwnerName<'_>,
) -> Result<Answer> {
    let file = fid.open_file()?;
    let node = fid.node();
    // Linux asks about "no lock", whatever its program asked (`fs/9p/vfs_file.c`,
    // `v9fs_file_getlock`): it wants to know of any lock in the way.
    let kind = if kind == wire::UNLCK { wire::WRLCK } else { kind };
    let (range, wanted) = (range(kind, bytes)?, flock(kind, bytes)?);
    let client_id = name.client_id.to_vec();
    if let Some((held, owner)) = s.locks.other(&node.id, name, &range) {
        return Ok(Answer::Lock {
            kind: if held.exclusive { wire::WRLCK } else { wire::RDLCK },
            start: held.start,
            length: held.length(),
            proc_id: owner.proc_id,
            client_id: owner.client_id.to_vec(),
        });
    }
    let found = match s.locks.owner(&node.id, name, false)? {
        Some(owner) => {
            let state = hold(&owner.state);
            match &state.description {
                Some(description) => sys::ofd_test(description.as_fd(), wanted)?,
                None => sys::ofd_test(file.fd.as_fd(), wanted)?,
            }
        }
        None => sys::ofd_test(file.fd.as_fd(), wanted)?,
    };
    Ok(match found {
        None => {
            let (start, length) = bytes;
            Answer::Lock { kind: wire::UNLCK, start, length, proc_id: name.proc_id, client_id }
        }
        Some(held) => Answer::Lock {
            kind: if held.kind == libc::F_WRLCK { wire::WRLCK } else { wire::RDLCK },
            start: held.start as u64,
            length: held.length as u64,
            // A process of this machine, or of another mount: no number that means anything there.
            proc_id: u32::try_from(held.pid).unwrap_or(0),
            client_id: Vec::new(),
        },
    })
}

/// How long until a lock is tried again, at first and at most.
const FIRST: Duration = Duration::from_millis(1);
const LAST: Duration = Duration::from_millis(100);

/// How long the thread that tries stays when nothing waits.
const IDLE: Duration = Duration::from_secs(5);

/// The locks that are waited for, over all sessions.
#[derive(Debug, Default)]
pub struct Waiting {
    list: Mutex<List>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct List {
    waiters: Vec<Waiter>,
    running: bool,
}

#[derive(Debug)]
struct Waiter {
    session: Weak<Session>,
    request: Arc<Request>,
    file: FileKey,
    due: Instant,
}

impl Waiter {
    /// Has it tried again, unless it was given up.
    fn wake(self) {
        if let Some(session) = self.session.upgrade() {
            if self.request.retry() {
                session.enqueue(self.request);
            }
        }
    }
}

impl Waiting {
    /// Has `request`, which is parked, tried again later.
    pub fn wait_for(self: &Arc<Waiting>, session: &Arc<Session>, request: &Arc<Request>) {
        use std::sync::atomic::Ordering::Relaxed;
        let Some(fid) = &request.fids[0] else { return };
        let times = request.parked.fetch_add(1, Relaxed).min(16);
        let waiter = Waiter {
            session: Arc::downgrade(session),
            request: request.clone(),
            file: key(&fid.node().id),
            due: Instant::now() + (FIRST * (1 << times)).min(LAST),
        };
        let mut list = hold(&self.list);
        list.waiters.push(waiter);
        if list.running {
            self.changed.notify_one();
        } else {
            let waiting = self.clone();
            let thread = thread::Builder::new().name("locks".into());
            list.running = thread.spawn(move || waiting.run()).is_ok();
        }
    }

    /// Has those that wait for a lock of this file tried again now.
    pub fn hurry(&self, id: &Id) {
        self.hurry_file(key(id));
    }

    fn hurry_file(&self, file: FileKey) {
        let due: Vec<Waiter> = {
            let mut list = hold(&self.list);
            if list.waiters.is_empty() {
                return;
            }
            let (due, rest) = list.waiters.drain(..).partition(|waiter| waiter.file == file);
            list.waiters = rest;
            due
        };
        due.into_iter().for_each(Waiter::wake);
    }

    fn run(&self) {
        let mut list = hold(&self.list);
        loop {
            let now = Instant::now();
            let (due, rest): (Vec<_>, Vec<_>) = list
                .waiters
                .drain(..)
                .filter(|waiter| waiter.request.is_parked())
                .partition(|waiter| waiter.due <= now);
            list.waiters = rest;
            if !due.is_empty() {
                drop(list);
                due.into_iter().for_each(Waiter::wake);
                list = hold(&self.list);
                continue;
            }
            let next = list.waiters.iter().map(|waiter| waiter.due).min();
            let pause = next.map_or(IDLE, |next| next.saturating_duration_since(now));
            let (woken, timeout) = self
                .changed
                .wait_timeout(list, pause)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            list = woken;
            if timeout.timed_out() && list.waiters.is_empty() {
                list.running = false;
                return;
            }
        }
    }
}
