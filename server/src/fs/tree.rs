//! The nodes of one session and where they are.
//!
//! Folders are known by device, inode and mount, so that a folder that was renamed, by this client
//! or behind its back, is one node wherever it is met; everything else by parent and name, as a
//! file may have several names. A node's descendants hold the node, not its path: they move along.
//!
//! Concurrency: one lock over the index, never held during a system call. A walk looks before the
//! lock is taken; where a rename of this session finished meanwhile it looks again, so that no node
//! is put where it no longer is. Renames go one after the other ([`Tree::renaming`]), so that the
//! index changes in the order in which the file system did.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rustix::fs::{Mode, OFlags, Statx};

use super::errno::{Errno, Result};
use super::export::Export;
use super::fid::Budget;
use super::handles::Handles;
use super::limits;
use super::node::{Id, Name, Node, Place, lock, open_beneath, open_cached, stat, stat_entry};

/// Numbers nodes, over all sessions.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// The nodes of one session.
#[derive(Debug)]
pub struct Tree {
    root: Arc<Node>,
    handles: Arc<Handles>,
    /// What there may be of nodes, over all sessions.
    nodes: Arc<Budget>,
    index: Mutex<Index>,
    /// Counts finished renames; changed only under the index's lock.
    moves: AtomicU64,
    renames: Mutex<()>,
}

type Key = (u64, u64, u64);

#[derive(Debug, Default)]
struct Index {
    /// By the parent's serial and the name.
    places: HashMap<u64, HashMap<Arc<[u8]>, Weak<Node>>>,
    folders: HashMap<Key, Weak<Node>>,
    /// Nodes put in since the dead ones were last swept out, and when that is due.
    added: usize,
    due: usize,
}

/// What is at a place now.
#[derive(Debug)]
pub struct Found {
    /// The node.
    pub node: Arc<Node>,
    /// Its attributes as they were when it was found.
    pub st: Statx,
}

fn key(id: &Id) -> Key {
    (id.device, id.inode, id.mount)
}

impl Tree {
    /// A tree that only knows its root.
    pub fn new(export: &Export, handles: Arc<Handles>, nodes: Arc<Budget>) -> Tree {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let root = Node::new(serial, export.root_stat(), None, Some(export.root().clone()), None);
        let root = Arc::new(root);
        let mut index = Index::default();
        index.folders.insert(key(&root.id), Arc::downgrade(&root));
        Tree {
            root,
            handles,
            nodes,
            index: Mutex::new(index),
            moves: AtomicU64::new(0),
            renames: Mutex::new(()),
        }
    }

    /// The granted folder.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Whether `node` is the granted folder.
    pub fn is_root(&self, node: &Node) -> bool {
        node.serial == self.root.serial
    }

    /// A descriptor (`O_PATH`) for `node`: its own, or one opened again by parent and name, from
    /// the nearest folder above that has one. `ESTALE` where that is another file now.
    pub fn handle(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = node.cached() {
            return Ok(fd);
        }
        let mut missing = Vec::new();
        let mut top = node.clone();
        let mut fd = loop {
            if let Some(fd) = top.cached() {
                break fd;
            }
            let Place { parent, name } = top.place().ok_or(Errno::STALE)?;
            missing.push((top, name));
            // Deeper than a walk goes: only what many renames piled up, or a ring of them.
            if missing.len() > limits::DEPTH as usize * 2 {
                return Err(Errno::STALE);
            }
            top = parent;
        };
        while let Some((node, name)) = missing.pop() {
            let opened = open_beneath(fd.as_fd(), &name, OFlags::PATH, Mode::empty())?;
            if !Id::of(&stat(&opened)?).same(&node.id) {
                return Err(Errno::STALE);
            }
            fd = Arc::new(opened);
            if node.offer(&fd) {
                self.handles.keep(&node);
            }
        }
        Ok(fd)
    }

    /// What `name` in `parent` is. Two system calls, one where it is known and has a descriptor: that
    /// is not opened again to find out that it is still there.
    pub fn look(&self, parent: &Arc<Node>, name: Name<'_>) -> Result<Found> {
        let dir = self.handle(parent)?;
        loop {
            let moves = self.moves.load(Ordering::Acquire);
            // Held on to until it has been entered: another may be letting it go.
            let held = self.held(parent, name);
            let (fd, st) = if held.is_some() {
                (None, stat_entry(&dir, name.bytes())?)
            } else {
                let fd = open_beneath(dir.as_fd(), name.bytes(), OFlags::PATH, Mode::empty())?;
                let st = stat(&fd)?;
                (Some(fd), st)
            };
            if let Some(node) = self.enter(parent, name, &st, fd, moves)? {
                return Ok(Found { node, st });
            }
        }
    }

    /// As [`Tree::look`], where it never waits: nothing where it might have to. What is held has its
    /// name in memory as well, unless another program removed it a moment ago, which had to have the
    /// folder in memory.
    pub fn look_in_memory(&self, parent: &Arc<Node>, name: Name<'_>) -> Option<Result<Found>> {
        let dir = parent.cached()?;
        let moves = self.moves.load(Ordering::Acquire);
        let held = self.held(parent, name);
        let looked = if held.is_some() {
            stat_entry(&dir, name.bytes()).map(|st| (None, st))
        } else {
            match open_cached(dir.as_fd(), name.bytes(), OFlags::PATH) {
                Ok(fd) => stat(&fd).map(|st| (Some(fd), st)),
                Err(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::ACCESS)) => Err(errno),
                // Not in memory, or a kernel before 5.12, or another file system.
                Err(_) => return None,
            }
        };
        let found = looked.and_then(|(fd, st)| {
            Ok(self.enter(parent, name, &st, fd, moves)?.map(|node| Found { node, st }))
        });
        found.transpose()
    }

    /// What `name` in `parent` was when it was last looked at, if there is a descriptor for that.
    fn held(&self, parent: &Node, name: Name<'_>) -> Option<Arc<Node>> {
        let known = lock(&self.index).at(parent.serial, name.bytes());
        known.filter(|node| node.cached().is_some())
    }

    /// The node for what was found at a place; nothing where a rename came between.
    fn enter(
        &self,
        parent: &Arc<Node>,
        name: Name<'_>,
        st: &Statx,
        fd: Option<OwnedFd>,
        moves: u64,
    ) -> Result<Option<Arc<Node>>> {
        if parent.depth >= limits::DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let fd = fd.map(Arc::new);
        let node = {
            let mut index = lock(&self.index);
            if self.moves.load(Ordering::Acquire) != moves {
                return Ok(None);
            }
            index.enter(parent, name, st, &self.nodes)?
        };
        if fd.is_some_and(|fd| node.offer(&fd)) {
            self.handles.keep(&node);
        }
        Ok(Some(node))
    }

    /// Checks that `place` still holds `node`, before something is done to it by name; `ESTALE`
    /// where it does not. Gives the parent's descriptor.
    pub fn verify(&self, node: &Node, place: &Place) -> Result<Arc<OwnedFd>> {
        let dir = self.handle(&place.parent)?;
        if Id::of(&stat_entry(&dir, &place.name)?).same(&node.id) {
            Ok(dir)
        } else {
            Err(Errno::STALE)
        }
    }

    /// Opens `node` itself for I/O, by parent and name, and makes sure that it is this one. Never
    /// waits: a fifo that took its place answers at once, and is then refused. Gives its attributes
    /// as well.
    pub fn open(&self, node: &Arc<Node>, flags: OFlags) -> Result<(OwnedFd, Statx)> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match node.place() {
            Some(place) => {
                let dir = self.handle(&place.parent)?;
                open_beneath(dir.as_fd(), &place.name, flags, Mode::empty())?
            }
            None if self.is_root(node) => {
                let root = self.handle(node)?;
                open_beneath(root.as_fd(), b".", flags, Mode::empty())?
            }
            None => return Err(Errno::STALE),
        };
        let st = stat(&fd)?;
        if Id::of(&st).same(&node.id) { Ok((fd, st)) } else { Err(Errno::STALE) }
    }

    /// As [`Tree::open`], by what the kernel has in memory alone: nothing where that does not suffice,
    /// or fails.
    pub fn open_in_memory(&self, node: &Node, flags: OFlags) -> Option<(OwnedFd, Statx)> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match node.place() {
            Some(place) => open_cached(place.parent.cached()?.as_fd(), &place.name, flags),
            None if self.is_root(node) => open_cached(node.cached()?.as_fd(), b".", flags),
            None => return None,
        };
        let fd = fd.ok()?;
        let st = stat(&fd).ok()?;
        Id::of(&st).same(&node.id).then_some((fd, st))
    }

    /// Waits for its turn to rename; held over the system call and [`Tree::moved`].
    pub fn renaming(&self) -> MutexGuard<'_, ()> {
        lock(&self.renames)
    }

    /// Notes that this session renamed what was at the first place to the second.
    pub fn moved(&self, from: (&Arc<Node>, Name<'_>), to: (&Arc<Node>, Name<'_>)) {
        let mut index = lock(&self.index);
        index.relocate(from, to);
        self.moves.fetch_add(1, Ordering::Release);
    }

    /// Notes that this session removed what was at a place.
    pub fn removed(&self, parent: &Node, name: Name<'_>) {
        lock(&self.index).forget(parent.serial, name.bytes());
    }
}

impl Index {
    fn at(&self, parent: u64, name: &[u8]) -> Option<Arc<Node>> {
        self.places.get(&parent)?.get(name)?.upgrade()
    }

    fn put(&mut self, parent: u64, name: Arc<[u8]>, node: &Arc<Node>) {
        self.places.entry(parent).or_default().insert(name, Arc::downgrade(node));
    }

    /// The node for what was found at a place. `ENFILE` where there may be no other.
    fn enter(
        &mut self,
        parent: &Arc<Node>,
        name: Name<'_>,
        st: &Statx,
        nodes: &Arc<Budget>,
    ) -> Result<Arc<Node>> {
        let id = Id::of(st);
        if let Some(node) = self.at(parent.serial, name.bytes()) {
            if node.id.same(&id) && node.id.mount == id.mount {
                return Ok(node);
            }
        }
        let place = || Place { parent: parent.clone(), name: name.bytes().into() };
        let known = self.folders.get(&key(&id)).and_then(Weak::upgrade);
        if let Some(node) = known.filter(|node| node.id.same(&id)) {
            // It was renamed behind this session's back, unless that would put it into itself:
            // then what is known of the folders above is stale, and it is left out of the index.
            if node.place().is_some() && !is_above(&node, parent) {
                self.settle(&node, place());
                return Ok(node);
            }
            let slot = nodes.take(1).ok_or(Errno::NFILE)?;
            return Ok(Arc::new(Node::new(serial(), st, Some(place()), None, Some(slot))));
        }
        let slot = nodes.take(1).ok_or(Errno::NFILE)?;
        let place = place();
        let label = place.name.clone();
        let node = Arc::new(Node::new(serial(), st, Some(place), None, Some(slot)));
        self.sweep();
        if node.is_dir() {
            self.folders.insert(key(&id), Arc::downgrade(&node));
        }
        self.put(parent.serial, label, &node);
        Ok(node)
    }

    /// Puts a known node at `place`.
    fn settle(&mut self, node: &Arc<Node>, place: Place) {
        self.put(place.parent.serial, place.name.clone(), node);
        let Some(old) = node.set_place(Some(place.clone())) else { return };
        let moved = old.parent.serial != place.parent.serial || old.name != place.name;
        if moved && self.at(old.parent.serial, &old.name).is_some_and(|at| Arc::ptr_eq(&at, node)) {
            self.unlist(old.parent.serial, &old.name);
        }
    }

    fn unlist(&mut self, parent: u64, name: &[u8]) {
        if let Some(children) = self.places.get_mut(&parent) {
            children.remove(name);
            if children.is_empty() {
                self.places.remove(&parent);
            }
        }
    }

    fn relocate(&mut self, from: (&Arc<Node>, Name<'_>), to: (&Arc<Node>, Name<'_>)) {
        let moving = self.at(from.0.serial, from.1.bytes());
        let there = self.at(to.0.serial, to.1.bytes());
        let same = match (&moving, &there) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        if same {
            return;
        }
        // A walk after the rename may have met a file at its new place already.
        let met = match (&moving, &there) {
            (Some(a), Some(b)) => a.id.same(&b.id),
            _ => false,
        };
        if there.is_some() && !met {
            self.forget(to.0.serial, to.1.bytes());
        }
        let Some(node) = moving else { return };
        if is_above(&node, to.0) {
            self.forget(from.0.serial, from.1.bytes());
            return;
        }
        self.settle(&node, Place { parent: to.0.clone(), name: to.1.bytes().into() });
    }

    fn forget(&mut self, parent: u64, name: &[u8]) {
        let Some(node) = self.at(parent, name) else { return };
        self.unlist(parent, name);
        // A folder may have been met elsewhere meanwhile: then it is there.
        let here = |place: &Place| place.parent.serial == parent && *place.name == *name;
        if node.place().as_ref().is_some_and(here) {
            node.set_place(None);
            let key = key(&node.id);
            let listed = self.folders.get(&key).and_then(Weak::upgrade);
            if listed.is_some_and(|listed| Arc::ptr_eq(&listed, &node)) {
                self.folders.remove(&key);
            }
        }
    }

    /// Forgets nodes that no fid names any more, once as many came as there were at the last time.
    fn sweep(&mut self) {
        self.added += 1;
        if self.added <= self.due.max(256) {
            return;
        }
        self.places.retain(|_, children| {
            children.retain(|_, node| node.strong_count() > 0);
            !children.is_empty()
        });
        self.folders.retain(|_, node| node.strong_count() > 0);
        self.added = 0;
        self.due = self.places.values().map(HashMap::len).sum();
    }
}

fn serial() -> u64 {
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Whether `node` is `below` or one of the folders above it.
fn is_above(node: &Node, below: &Arc<Node>) -> bool {
    let mut at = below.clone();
    loop {
        if at.serial == node.serial {
            return true;
        }
        let Some(place) = at.place() else { return false };
        at = place.parent;
    }
}
