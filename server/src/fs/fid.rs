//! Fids: the client's names for nodes, and what a node is open for.
//!
//! A fid has one role at a time: it names a node, or is open for I/O, or carries an extended
//! attribute. Concurrency: the table's lock and each fid's lock are held for no system call. A
//! request finds its fids when it is taken in, in the order in which requests came; a fid that is
//! clunked meanwhile lives until the last of them is done, but takes no new role.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use transport::id;

use super::disk::Disk;
use super::errno::{Errno, Result};
use super::io::Wanted;
use super::limits;
use super::node::{Node, lock};
use super::xattr::{Held, Sink};

/// Counts what there is only so much of.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    most: usize,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Slot {
    budget: Arc<Budget>,
    amount: usize,
}

impl Budget {
    /// A budget of `most`.
    pub fn new(most: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), most })
    }

    /// Takes `amount`, if there is as much left.
    pub fn take(self: &Arc<Budget>, amount: usize) -> Option<Slot> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(amount).filter(|&used| used <= self.most)
        });
        taken.ok().map(|_| Slot { budget: self.clone(), amount })
    }
}

impl Slot {
    /// Takes over another part of the same budget.
    pub fn absorb(&mut self, mut other: Slot) {
        self.amount += std::mem::take(&mut other.amount);
    }

    /// Gives back what is above `amount`.
    pub fn shrink_to(&mut self, amount: usize) {
        let above = self.amount.saturating_sub(amount);
        self.amount -= above;
        self.budget.used.fetch_sub(above, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// A file or folder that is open for I/O.
#[derive(Debug)]
pub struct OpenFile {
    /// Its own open file description.
    pub fd: OwnedFd,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// How it was opened.
    pub flags: OFlags,
    /// What it is on.
    pub disk: Arc<Disk>,
    /// Where the last write of this fid ended; that page is in memory.
    pub written: AtomicU64,
    /// Held while the description's position is used: reading a folder sets it first.
    pub position: Mutex<()>,
    _slot: Slot,
}

impl OpenFile {
    /// `written`, while nothing is.
    pub const UNWRITTEN: u64 = u64::MAX;

    /// `slot` is its part of the process's open files.
    pub fn new(
        fd: OwnedFd,
        wanted: &Wanted,
        is_dir: bool,
        disk: Arc<Disk>,
        slot: Slot,
    ) -> Arc<OpenFile> {
        Arc::new(OpenFile {
            fd,
            writable: wanted.writable,
            is_dir,
            flags: wanted.flags,
            disk,
            written: AtomicU64::new(OpenFile::UNWRITTEN),
            position: Mutex::new(()),
            _slot: slot,
        })
    }

    /// Whether every write goes to the end.
    pub fn appends(&self) -> bool {
        self.flags.contains(OFlags::APPEND)
    }

    /// Whether every write waits for the disk.
    pub fn is_synchronous(&self) -> bool {
        self.flags.intersects(OFlags::SYNC | OFlags::DSYNC)
    }
}

/// What a fid is for.
#[derive(Clone, Debug)]
pub enum Role {
    /// Names a node.
    Path,
    /// Open for I/O.
    Open(Arc<OpenFile>),
    /// Reads an extended attribute, or the list of them.
    Value(Arc<Held>),
    /// Takes an extended attribute's value.
    Sink(Arc<Mutex<Sink>>),
}

/// One fid.
#[derive(Debug)]
pub struct Fid(Mutex<State>);

#[derive(Debug)]
struct State {
    node: Arc<Node>,
    role: Role,
    retired: bool,
    /// Its part of the fids of all sessions, once it is in a table.
    slot: Option<Slot>,
}

impl Fid {
    /// A fid in its first role.
    pub fn new(node: Arc<Node>, role: Role) -> Arc<Fid> {
        Arc::new(Fid(Mutex::new(State { node, role, retired: false, slot: None })))
    }

    /// The node that it names.
    pub fn node(&self) -> Arc<Node> {
        lock(&self.0).node.clone()
    }

    /// Node and role.
    pub fn state(&self) -> (Arc<Node>, Role) {
        let state = lock(&self.0);
        (state.node.clone(), state.role.clone())
    }

    /// What it is open on; `EBADF` where it is not.
    pub fn open_file(&self) -> Result<Arc<OpenFile>> {
        match &lock(&self.0).role {
            Role::Open(file) => Ok(file.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// What it is open on, if it is.
    pub fn if_open(&self) -> Option<Arc<OpenFile>> {
        self.open_file().ok()
    }

    /// Its node, if it names one and does nothing else; `EINVAL` where it has another role.
    pub fn unopened(&self) -> Result<Arc<Node>> {
        let state = lock(&self.0);
        if matches!(state.role, Role::Path) { Ok(state.node.clone()) } else { Err(Errno::INVAL) }
    }

    /// Gives a fid that only named a node another role, and node. `EBADF` where it was clunked
    /// meanwhile, `EINVAL` where another request was quicker.
    pub fn become_role(&self, node: Arc<Node>, role: Role) -> Result<()> {
        let mut state = lock(&self.0);
        if state.retired {
            return Err(Errno::BADF);
        }
        if !matches!(state.role, Role::Path) {
            return Err(Errno::INVAL);
        }
        (state.node, state.role) = (node, role);
        Ok(())
    }

    /// Ends it: gives its last role, and takes no other.
    pub fn retire(&self) -> (Arc<Node>, Role) {
        let mut state = lock(&self.0);
        state.retired = true;
        (state.node.clone(), std::mem::replace(&mut state.role, Role::Path))
    }
}

/// The fids of one session.
#[derive(Debug)]
pub struct Fids {
    table: Mutex<Table>,
    /// Those of all sessions.
    all: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Table {
    fids: HashMap<u32, Arc<Fid>>,
    closed: bool,
}

impl Fids {
    /// No fids. They are counted by `all` as well.
    pub fn new(all: Arc<Budget>) -> Fids {
        Fids { table: Mutex::default(), all }
    }

    /// The fid of that number.
    pub fn find(&self, fid: id::Fid) -> Option<Arc<Fid>> {
        lock(&self.table).fids.get(&fid.0).cloned()
    }

    /// Takes a fid out of the table.
    pub fn take(&self, fid: id::Fid) -> Option<Arc<Fid>> {
        lock(&self.table).fids.remove(&fid.0)
    }

    /// Whether a fid of that number can be made now.
    pub fn is_free(&self, fid: id::Fid) -> Result<()> {
        lock(&self.table).room(fid).map(drop)
    }

    /// Puts a new fid in. `EBADF` where the number is in use or is none, `ENFILE` over the limit.
    pub fn put(&self, number: id::Fid, fid: Arc<Fid>) -> Result<()> {
        let mut table = lock(&self.table);
        table.room(number)?;
        lock(&fid.0).slot = Some(self.all.take(1).ok_or(Errno::NFILE)?);
        table.fids.insert(number.0, fid);
        Ok(())
    }

    /// Puts `fid` in the place of `old`, if that is still there.
    pub fn replace(&self, number: id::Fid, old: &Arc<Fid>, fid: Arc<Fid>) -> Result<Arc<Fid>> {
        match lock(&self.table).fids.entry(number.0) {
            Entry::Occupied(mut at) if Arc::ptr_eq(at.get(), old) => {
                let slot = lock(&old.0).slot.take();
                lock(&fid.0).slot = slot;
                Ok(at.insert(fid))
            }
            _ => Err(Errno::BADF),
        }
    }

    /// Takes all out; with `close` no other goes in any more.
    pub fn drain(&self, close: bool) -> Vec<Arc<Fid>> {
        let mut table = lock(&self.table);
        table.closed |= close;
        std::mem::take(&mut table.fids).into_values().collect()
    }
}

impl Table {
    fn room(&self, fid: id::Fid) -> Result<()> {
        if self.closed || fid == id::Fid::NONE || self.fids.contains_key(&fid.0) {
            Err(Errno::BADF)
        } else if self.fids.len() >= limits::FIDS {
            Err(Errno::NFILE)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_of_a_budget_grows_shrinks_and_comes_back() {
        let budget = Budget::new(10);
        let mut slot = budget.take(4).unwrap();
        slot.absorb(budget.take(6).unwrap());
        assert!(budget.take(1).is_none());
        slot.shrink_to(7);
        slot.shrink_to(9);
        assert!(budget.take(4).is_none() && budget.take(3).is_some());
        drop(slot);
        assert!(budget.take(10).is_some());
    }
}
