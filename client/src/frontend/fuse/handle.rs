//! What is open: the numbers that the kernel gets for open(2) and opendir(3).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use rustix::io::Errno;

use super::folder::Listing;
use super::ninep::OwnedFid;
use super::node::Node;

/// An open file.
pub struct File {
    /// Its node.
    pub node: Rc<Node>,
    /// A fid that is open as asked for.
    pub fid: Rc<OwnedFid>,
    /// Every write goes to the end, wherever that is by then.
    pub appends: bool,
    /// A second one for pages of a mapping, where the first appends: each has its place.
    pub pages: RefCell<Option<Rc<OwnedFid>>>,
}

/// An open folder.
pub struct Folder {
    /// Its node.
    pub node: Rc<Node>,
    /// A fid that is open for reading.
    pub fid: Rc<OwnedFid>,
    /// How far it has been read, and what was found beyond that. Held over a whole READDIR: the
    /// kernel makes one at a time of an open folder.
    pub listing: tokio::sync::Mutex<Listing>,
}

/// Either.
#[derive(Clone)]
pub enum Handle {
    /// A file.
    File(Rc<File>),
    /// A folder.
    Folder(Rc<Folder>),
}

/// All that is open.
#[derive(Default)]
pub struct Handles {
    all: RefCell<HashMap<u64, Handle>>,
    next: Cell<u64>,
}

impl Handles {
    /// A number for `handle`.
    pub fn add(&self, handle: Handle) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        self.all.borrow_mut().insert(number, handle);
        number
    }

    /// Closes it: its fid is clunked when nothing uses it any more.
    pub fn remove(&self, number: u64) -> Option<Handle> {
        self.all.borrow_mut().remove(&number)
    }

    /// The open file of that number.
    pub fn file(&self, number: u64) -> Result<Rc<File>, Errno> {
        match self.all.borrow().get(&number) {
            Some(Handle::File(file)) => Ok(Rc::clone(file)),
            _ => Err(Errno::BADF),
        }
    }

    /// The open folder of that number.
    pub fn folder(&self, number: u64) -> Result<Rc<Folder>, Errno> {
        match self.all.borrow().get(&number) {
            Some(Handle::Folder(folder)) => Ok(Rc::clone(folder)),
            _ => Err(Errno::BADF),
        }
    }

    /// The fid of either.
    pub fn fid(&self, number: u64) -> Result<Rc<OwnedFid>, Errno> {
        match self.all.borrow().get(&number) {
            Some(Handle::File(file)) => Ok(Rc::clone(&file.fid)),
            Some(Handle::Folder(folder)) => Ok(Rc::clone(&folder.fid)),
            None => Err(Errno::BADF),
        }
    }
}
