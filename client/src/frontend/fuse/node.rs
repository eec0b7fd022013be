//! The nodes that the kernel knows, under numbers of ours.
//!
//! A node stays from the first reply that names it until the kernel has forgotten it as often as it was
//! told of it (FUSE_FORGET). One inode of the server is one node, by however many names it is reached,
//! so that the kernel keeps one page cache and one set of attributes of it. Numbers are never used
//! again: an inode number that the server's disk has given to another file is another node.
//!
//! A kernel with much memory remembers any number of names, and a server has only so many fids for a
//! client. So beyond [`LIMIT`] it is asked to forget those that it was told of first, folders excepted:
//! who works in one would find it gone.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Instant;

use rustix::fs::FileType;
use rustix::io::Errno;
use transport::ninep::Qid;

use super::abi::ROOT;
use super::attr::Attr;
use super::ninep::OwnedFid;
use super::places::{Place, Places};

/// Nodes beyond which the kernel is asked to forget some: half of the fids that the file server here has
/// for a client.
pub const LIMIT: usize = 100_000;

/// What makes a server's node the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The qid's path.
    pub path: u64,
    kind: u32,
    born: Option<(u64, u64)>,
}

impl Identity {
    /// Of the node with this qid and these attributes.
    pub fn of(qid: Qid, attr: &Attr) -> Identity {
        let kind = FileType::from_raw_mode(attr.attributes.mode).as_raw_mode();
        Identity { path: qid.path, kind, born: attr.born }
    }
}

/// A node.
pub struct Node {
    /// The kernel's name for it.
    pub id: u64,
    /// The server's.
    pub identity: Identity,
    /// The folder and the name by which the kernel was told of it last.
    place: RefCell<Place>,
    /// A fid of it, never opened: the one by its latest name.
    fid: RefCell<Rc<OwnedFid>>,
    /// Fids by which it is open: they know it even when its names are gone.
    opened: RefCell<Vec<Weak<OwnedFid>>>,
    /// Times that the kernel was told of it.
    lookups: Cell<u64>,
    /// The mode, as last seen.
    pub mode: Cell<u32>,
    /// The group there, as last seen.
    pub gid: Cell<u32>,
    /// The size, as last seen or made by a write from here.
    pub size: Cell<u64>,
    /// The qid's version of what the kernel's page cache has; 0: of nothing.
    pub cached: Cell<u32>,
    /// Until when it is known to have no extended attributes.
    no_xattrs: Cell<Option<Instant>>,
}

impl Node {
    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.mode.get()) == FileType::Directory
    }

    /// A fid that has not been opened, to walk from.
    pub fn fid(&self) -> Rc<OwnedFid> {
        Rc::clone(&self.fid.borrow())
    }

    /// A fid to ask or change the node by: an open one where there is one.
    pub fn subject(&self) -> Rc<OwnedFid> {
        let mut opened = self.opened.borrow_mut();
        while let Some(fid) = opened.last() {
            match fid.upgrade() {
                Some(fid) => return fid,
                None => drop(opened.pop()),
            }
        }
        self.fid()
    }

    /// Notes that it is open by `fid`.
    pub fn opened(&self, fid: &Rc<OwnedFid>) {
        let mut opened = self.opened.borrow_mut();
        opened.retain(|fid| fid.strong_count() > 0);
        opened.push(Rc::downgrade(fid));
    }

    /// Notes that the kernel is told of it once more.
    pub fn told(&self) {
        self.lookups.set(self.lookups.get() + 1);
    }

    /// Whether it is known to have no extended attributes now.
    pub fn has_no_xattrs(&self) -> bool {
        self.no_xattrs.get().is_some_and(|until| Instant::now() < until)
    }

    /// It may have got extended attributes.
    pub fn may_have_xattrs(&self) {
        self.no_xattrs.set(None);
    }

    /// Notes what a reply said of it, and until when it has no extended attributes.
    fn saw(&self, attr: &Attr, no_xattrs: Option<Instant>) {
        self.no_xattrs.set(no_xattrs);
        self.mode.set(attr.attributes.mode);
        self.gid.set(attr.attributes.gid);
        self.size.set(attr.attributes.size);
    }
}

/// All nodes of a mount.
pub struct Nodes {
    all: RefCell<HashMap<u64, Rc<Node>>>,
    by_identity: RefCell<HashMap<Identity, u64>>,
    /// The latest node with a qid's path.
    by_path: RefCell<HashMap<u64, u64>>,
    places: RefCell<Places>,
    next: Cell<u64>,
    /// In the order in which they came; some have gone.
    order: RefCell<VecDeque<u64>>,
}

impl Nodes {
    /// The root alone.
    pub fn new(root: OwnedFid, qid: Qid, attr: &Attr) -> Nodes {
        let nodes = Nodes {
            all: RefCell::default(),
            by_identity: RefCell::default(),
            by_path: RefCell::default(),
            places: RefCell::default(),
            next: Cell::new(ROOT),
            order: RefCell::default(),
        };
        let root = nodes.found(root, qid, attr, ROOT, b"");
        nodes.saw(&root, attr, None);
        nodes
    }

    /// The node `id`. ESTALE where the kernel has forgotten it, which it does not ask for then.
    pub fn get(&self, id: u64) -> Result<Rc<Node>, Errno> {
        self.all.borrow().get(&id).cloned().ok_or(Errno::STALE)
    }

    /// The node that `fid` was walked to from `parent` by `name`, for a reply that tells the kernel of it.
    pub fn found(
        &self,
        fid: OwnedFid,
        qid: Qid,
        attr: &Attr,
        parent: u64,
        name: &[u8],
    ) -> Rc<Node> {
        let identity = Identity::of(qid, attr);
        let fid = Rc::new(fid);
        let known = self.by_identity.borrow().get(&identity).copied();
        let node = match known.and_then(|id| self.get(id).ok()) {
            Some(node) => {
                // The name by which it was reached just now is the one most likely to be still there.
                *node.fid.borrow_mut() = fid;
                node
            }
            None => self.add(identity, fid),
        };
        self.settle(&node, parent, name);
        node.told();
        node
    }

    fn add(&self, identity: Identity, fid: Rc<OwnedFid>) -> Rc<Node> {
        let id = self.next.replace(self.next.get() + 1);
        let node = Rc::new(Node {
            id,
            identity,
            place: RefCell::default(),
            fid: RefCell::new(fid),
            opened: RefCell::default(),
            lookups: Cell::new(0),
            mode: Cell::new(0),
            gid: Cell::new(0),
            size: Cell::new(0),
            cached: Cell::new(0),
            no_xattrs: Cell::new(None),
        });
        self.all.borrow_mut().insert(id, Rc::clone(&node));
        self.by_path.borrow_mut().insert(identity.path, id);
        self.by_identity.borrow_mut().insert(identity, id);
        self.order.borrow_mut().push_back(id);
        node
    }

    /// Notes what a reply tells the kernel of a node, and until when it has no extended attributes.
    pub fn saw(&self, node: &Node, attr: &Attr, no_xattrs: Option<Instant>) {
        node.saw(attr, no_xattrs);
        if node.id != ROOT {
            self.places.borrow_mut().tell(&node.place.borrow(), node.id);
        }
    }

    /// A name has been moved, with the node that it leads to.
    pub fn moved(&self, from: (u64, &[u8]), to: (u64, &[u8])) {
        let node = self.places.borrow().at(&(from.0, Box::from(from.1)));
        if let Some(node) = node.and_then(|id| self.get(id).ok()) {
            self.settle(&node, to.0, to.1);
            self.places.borrow_mut().tell(&node.place.borrow(), node.id);
        }
    }

    /// The latest name of `node` is another one.
    fn settle(&self, node: &Node, parent: u64, name: &[u8]) {
        let place = (parent, Box::from(name));
        if *node.place.borrow() != place {
            let old = node.place.replace(place);
            self.places.borrow_mut().leave(&old, node.id);
        }
    }

    /// Calls `with` for each node that may have changed with some names, and with the folder and the name
    /// by which the kernel knows it: paths of folders and names in them, an empty one for all of a folder;
    /// without any for all nodes.
    pub fn changed(&self, names: &[(u64, &[u8])], mut with: impl FnMut(Option<Place>, u64)) {
        let (all, by_path) = (self.all.borrow(), self.by_path.borrow());
        let mut places = self.places.borrow_mut();
        let mut tell = |place, id| {
            if let Some(node) = all.get(&id) {
                node.may_have_xattrs();
                with(place, id);
            }
        };
        if names.is_empty() {
            tell(None, ROOT);
            places.take_all_back().into_iter().for_each(|(place, id)| tell(Some(place), id));
        }
        for (path, name) in names {
            let Some(&dir) = by_path.get(path) else { continue };
            tell(None, dir);
            let taken = places.take_back(dir, name).into_iter();
            taken.for_each(|(place, id)| tell(Some(place), id));
        }
    }

    /// Calls `forget` with the folder and name of what the kernel is to forget, where it knows more than
    /// `limit`.
    pub fn shrink(&self, limit: usize, mut forget: impl FnMut(u64, &[u8])) {
        let mut order = self.order.borrow_mut();
        let all = self.all.borrow();
        // Two for each that is new; what has gone is left out of the order in passing.
        let mut tries = if all.len() > limit { 2 } else { 0 };
        let mut looks = if order.len() > all.len() + 64 { 64 } else { 16 * tries };
        while looks > 0 && (tries > 0 || order.len() > all.len() + 64) {
            looks -= 1;
            let Some(id) = order.pop_front() else { return };
            let Some(node) = all.get(&id) else { continue };
            order.push_back(id);
            if tries > 0 && !node.is_dir() {
                let place = node.place.borrow();
                forget(place.0, &place.1);
                tries -= 1;
            }
        }
    }

    /// FORGET: the kernel has let go of `times` of what it was told. The root stays.
    pub fn forget(&self, id: u64, times: u64) {
        let Ok(node) = self.get(id) else { return };
        let left = node.lookups.get().saturating_sub(times);
        node.lookups.set(left);
        if left > 0 || id == ROOT {
            return;
        }
        self.all.borrow_mut().remove(&id);
        let mut by_identity = self.by_identity.borrow_mut();
        if by_identity.get(&node.identity) == Some(&id) {
            by_identity.remove(&node.identity);
        }
        let mut by_path = self.by_path.borrow_mut();
        if by_path.get(&node.identity.path) == Some(&id) {
            by_path.remove(&node.identity.path);
        }
        self.places.borrow_mut().leave(&node.place.borrow(), id);
    }
}
