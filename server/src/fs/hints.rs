//! Hints: what is told beyond what was asked (transport's `accel::hint`).
//!
//! A walk has looked at the attributes of every node on its way, and whoever reads a folder mostly asks for
//! those of all its entries next. Both are told with the reply, and with them the names of the extended
//! attributes, which the kernel asks for one by one. A node is described as `Tgetattr` and `Txattrwalk`
//! would describe it at that moment; what cannot be said cheaply is left out or said to be unknown.
//!
//! Concurrency: a request's hints are its own until they are sent, right before its reply.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

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
    pub fn tell(&mut self, folder: &Folder<'_>, name: &[u8], st: Option<&Statx>) {
        let s = folder.session;
        let list = st.and_then(|_| list(folder.fd, name));
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

/// A folder that is told of. As long as it is there, what changes in it is taken back, whether it has been
/// told yet or not.
#[derive(Debug)]
pub struct Folder<'a> {
    session: &'a Session,
    /// Its qid's path.
    path: u64,
    /// The mount that it is on.
    mount: u64,
    /// A descriptor of it.
    fd: BorrowedFd<'a>,
    /// It has been watched since before what is told of it is looked at.
    watched: bool,
}

impl<'a> Folder<'a> {
    /// A folder that is about to be looked at. What is told of it is watched if it is by now.
    pub fn new(session: &'a Session, node: &Node, fd: BorrowedFd<'a>) -> Folder<'a> {
        let path = session.export.devices().path(node.id.device, node.id.inode);
        let watched = session.workers.watches.look(session.owner, path);
        Folder { session, path, mount: node.id.mount, fd, watched }
    }

    /// The same, and from here on it is watched, if it can be.
    pub fn watched(session: &'a Session, node: &Node, fd: BorrowedFd<'a>) -> Folder<'a> {
        let mut folder = Folder::new(session, node, fd);
        if !folder.watched && folder.watch(node) {
            folder.watched = session.workers.watches.look(session.owner, folder.path);
        }
        folder
    }

    /// Watches it for the next time. What was told of `name` without a watch is taken back as well if it
    /// changes from now on.
    pub fn watch_from_here(&self, node: &Node, name: &[u8]) {
        if !self.watched && self.watch(node) {
            self.session.workers.watches.tell(self.session.owner, self.path, name);
        }
    }

    /// Watches it. Not on file systems that others change without this kernel.
    fn watch(&self, node: &Node) -> bool {
        let disk = self.session.export.disks().root(node.id.device);
        let ours = disk.is_some_and(|disk| disk.has_attributes());
        ours && self.session.workers.watches.watch(self.session.owner, self.path, self.fd)
    }

    /// Whether a watch of the folder reports what happens to such an entry.
    fn reports(&self, st: &Statx) -> bool {
        let kind = FileType::from_raw_mode(st.stx_mode.into());
        kind != FileType::Directory && st.stx_nlink == 1 && st.stx_mnt_id == self.mount
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self.watched {
            self.session.workers.watches.looked(self.session.owner, self.path);
        }
    }
}
