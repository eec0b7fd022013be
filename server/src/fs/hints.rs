//! Hints: what is told beyond what was asked (transport's `accel::hint`).
//!
//! A walk has looked at the attributes of every node on its way, and whoever reads a folder mostly asks for
//! those of all its entries next. Both are told with the reply, and with them the names of the extended
//! attributes, which the kernel asks for one by one. A node is described as `Tgetattr` and `Txattrwalk`
//! would describe it at that moment; what cannot be said cheaply is left out or said to be unknown.
//!
//! Concurrency: a request's hints are its own until they are sent, right before its reply.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{FileType, Statx};
use transport::accel::hint::{Entry, Node as Told, Writer, Xattrs, xattrs_of_list};
use transport::id::Tag;
use transport::ninep::Packet;

use super::attr;
use super::node::Node;
use super::session::Session;
use super::xattr_at;

/// Bytes of the largest message with hints. Several go where there is more to tell, so that other messages
/// pass between.
const MOST: usize = 60 << 10;
/// Bytes of extended attributes' names that are asked for; with more they are told as unknown.
const LIST: usize = 1 << 10;

/// What one request tells.
#[derive(Debug, Default)]
pub struct Hints {
    on: bool,
    most: usize,
    writer: Option<((u64, bool), Writer)>,
    done: Vec<Packet>,
}

impl Hints {
    /// Hints of a session with messages of at most `msize` bytes, or none.
    pub fn new(on: bool, msize: u32) -> Hints {
        Hints { on, most: MOST.min(msize as usize), writer: None, done: Vec::new() }
    }

    /// Whether anything is to be told.
    pub fn are_on(&self) -> bool {
        self.on
    }

    /// Tells of `name` in a folder, or of that itself where the name is empty. `st` is what it leads to,
    /// nothing where it leads nowhere.
    pub fn tell(&mut self, s: &Session, folder: &Folder<'_>, name: &[u8], st: Option<&Statx>) {
        if !self.on {
            return;
        }
        let list = st.zip(folder.fd).and_then(|(_, fd)| list(fd, name));
        let node = st.map(|st| {
            let (valid, qid, attributes) = attr::all(s, st);
            let xattrs = list.as_deref().map(Xattrs::from_bytes);
            let watched = folder.watched && (name.is_empty() || folder.reports(st));
            Told { valid, qid, attributes, watched, xattrs }
        });
        if folder.watched {
            s.workers.watches.tell(s.owner, folder.path, name);
        }
        self.push((folder.path, folder.watched), &Entry { name, node });
    }

    fn push(&mut self, dir: (u64, bool), entry: &Entry<'_>) {
        let other = self.writer.take_if(|(of, writer)| {
            *of != dir || writer.len() + Writer::most(entry.name.len()) > self.most
        });
        self.done.extend(other.map(|(_, writer)| writer.finish()));
        // Its tag is filled in when it is sent.
        let new = || (dir, Writer::new(Tag::NONE, dir.0, dir.1));
        let (_, writer) = self.writer.get_or_insert_with(new);
        if writer.len() + Writer::most(entry.name.len()) <= self.most {
            writer.push(entry);
        }
    }

    /// The messages, for the request `tag`.
    pub fn take(&mut self, tag: Tag) -> impl Iterator<Item = Packet> + use<> {
        let last = self.writer.take().filter(|(_, writer)| !writer.is_empty());
        self.done.extend(last.map(|(_, writer)| writer.finish()));
        std::mem::take(&mut self.done).into_iter().map(move |packet| tagged(packet, tag))
    }
}

/// The message with another tag.
fn tagged(packet: Packet, tag: Tag) -> Packet {
    let mut head = packet.head.try_into_mut().unwrap_or_else(|head| head[..].into());
    head[5..7].copy_from_slice(&tag.0.to_le_bytes());
    Packet::whole(head.freeze())
}

/// The names of the extended attributes of a folder's entry, or of the folder itself; nothing where they
/// are not to be had, or too many.
fn list(folder: BorrowedFd<'_>, name: &[u8]) -> Option<Bytes> {
    let name = CString::new(if name.is_empty() { b"." } else { name }).ok()?;
    let mut to = [0; LIST];
    let length = xattr_at::list(folder, &name, &mut to).ok()?;
    xattrs_of_list(&to[..length])
}

/// A folder that is told of.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// Its qid's path.
    path: u64,
    /// The mount that it is on.
    mount: u64,
    /// A descriptor of it, if there is one.
    fd: Option<BorrowedFd<'a>>,
    /// It has been watched since before what is told of it was looked at.
    watched: bool,
}

impl<'a> Folder<'a> {
    /// A folder whose entries have yet to be looked at: it is watched from here on, if it can be.
    pub fn before(s: &Session, node: &Node, fd: Option<BorrowedFd<'a>>) -> Folder<'a> {
        let folder = Folder::after(s, node, fd);
        let watched = folder.watched || folder.watch(s, node);
        Folder { watched, ..folder }
    }

    /// A folder of which something has been looked at already: that is watched if the folder was.
    pub fn after(s: &Session, node: &Node, fd: Option<BorrowedFd<'a>>) -> Folder<'a> {
        let path = s.export.devices().path(node.id.device, node.id.inode);
        let watched = s.workers.watches.is_watched(s.owner, path);
        Folder { path, mount: node.id.mount, fd, watched }
    }

    /// Watches it for the next time. What was told of `name` without a watch is taken back as well if it
    /// changes from now on.
    pub fn watch_from_here(&self, s: &Session, node: &Node, name: &[u8]) {
        if self.watch(s, node) {
            s.workers.watches.tell(s.owner, self.path, name);
        }
    }

    /// Watches it. Not on file systems that others change without this kernel.
    fn watch(&self, s: &Session, node: &Node) -> bool {
        let disk = s.export.disks().root(node.id.device);
        let ours = disk.is_some_and(|disk| disk.has_attributes());
        let fd = self.fd.filter(|_| ours);
        fd.is_some_and(|fd| s.workers.watches.watch(s.owner, self.path, fd))
    }

    /// Whether a watch of the folder reports what happens to such an entry.
    fn reports(&self, st: &Statx) -> bool {
        let kind = FileType::from_raw_mode(st.stx_mode.into());
        kind != FileType::Directory && st.stx_nlink == 1 && st.stx_mnt_id == self.mount
    }
}

/// Tells of a folder's own attributes.
pub fn tell_folder(s: &Session, hints: &mut Hints, node: &Arc<Node>, st: &Statx) {
    if hints.are_on() {
        let handle = s.tree.handle(node).ok();
        let folder = Folder::after(s, node, handle.as_ref().map(|fd| fd.as_fd()));
        hints.tell(s, &folder, b"", Some(st));
    }
}
