//! What the server end tells beyond 9P: hints, and their ends.
//!
//! Both are messages of a stream like 9P's own, with types that 9P2000.L does not have. Neither is passed
//! on to a 9P client, but `Rforget` to one that is [told](crate::session::Session::telling). Integers,
//! strings and qids are as in 9P (intro(5)):
//!
//! ```text
//! Rhint    size[4]  3[1] tag[2] dir[8] flags[1] entry*
//! Rforget  size[4]  5[1] tag[2] (dir[8] name[s])*
//!
//! entry    name[s] what[1]
//!          and, where `what` has NODE:  valid[8] qid[13] attributes[132] n[1] xattr[s]*n
//! ```
//!
//! A hint belongs to the request that `tag` names and comes before its reply. `dir` is the qid's path of
//! the folder in which the names are; an empty name is the folder itself. An entry without a node says
//! that there is no such name. The node is what `Rgetattr` would say of it, and the names of the
//! extended attributes that it has (`n` 255: not known).
//!
//! What is *watched* is true until it is taken back. `Rforget` takes back a name, the node that it led
//! to and the folder's own attributes; with an empty name all that was said of the folder; without any
//! record everything. Its tag is `NOTAG`. It goes out before every reply to a request that came after
//! the change.

use alloc::vec::Vec;

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::Tag;
use crate::ninep::codec::{Reader, Wire};
use crate::ninep::message::{Attributes, QidKind};
use crate::ninep::packet::HEADER;
use crate::ninep::{DecodeError, Kind, Packet, Pieces, Qid};

/// The longest name that a folder can hold (limits.h: `NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Bytes of a node's description on the wire, without extended attributes.
pub const NODE: usize = 8 + Qid::SIZE + 132;
/// The most extended attributes that are told of a node, and their names' bytes: with more, none are.
pub const MAX_XATTRS: usize = 16;
/// Bytes of all their names together, with the two of each one's length.
pub const MAX_XATTR_BYTES: usize = 512;

/// Bytes of the longest `Rhint`: what is said in it is held as a list for a moment, which takes a hundred times
/// the memory of the smallest entries.
pub const MAX_HINT: usize = 64 << 10;
/// Bytes of the longest `Rforget`. What is longer could not go before all other messages; where there is
/// more to take back, everything is.
pub const MAX_FORGET: usize = 32 << 10;

/// In `valid` of an `Rgetattr` that a [telling](crate::session::Session::telling) session answers: whatever
/// makes it untrue will be said.
pub const WATCHED: u64 = 1 << 63;
/// There as well: the node has no extended attributes.
pub const NO_XATTRS: u64 = 1 << 62;

const HAS_NODE: u8 = 1;
const NODE_WATCHED: u8 = 2;
const NAMES_WATCHED: u8 = 1;
const XATTRS_UNKNOWN: u8 = 255;

impl Kind {
    /// What is true of some names of a folder, and of what they lead to.
    #[allow(non_upper_case_globals)]
    pub const Rhint: Kind = Kind(3);
    /// What is true no longer.
    #[allow(non_upper_case_globals)]
    pub const Rforget: Kind = Kind(5);

    /// Whether such a message is none of 9P's: it answers nothing.
    pub fn is_hint(self) -> bool {
        matches!(self, Kind::Rhint | Kind::Rforget)
    }
}

/// A node as a hint describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node<'a> {
    /// Which of the attributes are valid, as in `Rgetattr`.
    pub valid: u64,
    /// Its qid.
    pub qid: Qid,
    /// Its attributes.
    pub attributes: Attributes,
    /// Whether the attributes are watched.
    pub watched: bool,
    /// The names of its extended attributes, if they are known.
    pub xattrs: Option<Xattrs<'a>>,
}

/// Names of extended attributes, each a counted string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Xattrs<'a>(&'a [u8]);

impl<'a> Xattrs<'a> {
    /// No attributes.
    pub const NONE: Xattrs<'static> = Xattrs(&[]);

    /// Their wire form, without the count.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Takes back what [`as_bytes`](Self::as_bytes) gave.
    pub fn from_bytes(bytes: &'a [u8]) -> Xattrs<'a> {
        Xattrs(bytes)
    }

    /// The names.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut from = Reader::new(self.0);
        core::iter::from_fn(move || from.field::<&[u8]>().ok())
    }
}

/// A name of a folder, and what there is by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The name; empty for the folder itself.
    pub name: &'a [u8],
    /// What it leads to; nothing where there is no such name.
    pub node: Option<Node<'a>>,
}

/// An `Rhint` being written.
#[derive(Debug)]
pub struct Writer {
    to: BytesMut,
}

impl Writer {
    /// A hint for the request `tag` about the folder whose qid has the path `dir`. `watched`: which of
    /// its names there are.
    pub fn new(tag: Tag, dir: u64, watched: bool) -> Writer {
        let mut to = BytesMut::with_capacity(1024);
        Packet::start(&mut to, Kind::Rhint.0, tag);
        dir.write(&mut to);
        to.put_u8(if watched { NAMES_WATCHED } else { 0 });
        Writer { to }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.to.len()
    }

    /// Whether nothing has been said.
    pub fn is_empty(&self) -> bool {
        self.to.len() <= HEADER + 9
    }

    /// The most bytes that an entry of a name so long takes.
    pub const fn most(name: usize) -> usize {
        2 + name + 1 + NODE + 1 + MAX_XATTR_BYTES
    }

    /// Adds an entry. `xattrs` of its node are told as unknown where they are too many.
    pub fn push(&mut self, entry: &Entry<'_>) {
        entry.name.write(&mut self.to);
        let Some(node) = &entry.node else {
            self.to.put_u8(0);
            return;
        };
        self.to.put_u8(HAS_NODE | if node.watched { NODE_WATCHED } else { 0 });
        node.valid.write(&mut self.to);
        node.qid.write(&mut self.to);
        node.attributes.write(&mut self.to);
        let known = node.xattrs.filter(|xattrs| {
            xattrs.0.len() <= MAX_XATTR_BYTES && xattrs.iter().count() <= MAX_XATTRS
        });
        match known {
            Some(xattrs) => {
                self.to.put_u8(xattrs.iter().count() as u8);
                self.to.put_slice(xattrs.0);
            }
            None => self.to.put_u8(XATTRS_UNKNOWN),
        }
    }

    /// The message.
    pub fn finish(self) -> Packet {
        Packet::finish(self.to, Pieces::new())
    }
}

/// Writes an `Rforget` of folders' paths and names; of everything where there are none.
pub fn forget<'a>(records: impl IntoIterator<Item = (u64, &'a [u8])>) -> Packet {
    let mut to = BytesMut::with_capacity(64);
    Packet::start(&mut to, Kind::Rforget.0, Tag::NONE);
    for (dir, name) in records {
        dir.write(&mut to);
        name.write(&mut to);
    }
    Packet::finish(to, Pieces::new())
}

/// Writes the wire form of extended attributes' names from what listxattr(2) gives: names, each with a
/// NUL behind it. Nothing where they are too many to be told.
pub fn xattrs_of_list(list: &[u8]) -> Option<Bytes> {
    let mut to = BytesMut::new();
    let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    for (at, name) in names.enumerate() {
        if at == MAX_XATTRS || to.len() + 2 + name.len() > MAX_XATTR_BYTES {
            return None;
        }
        name.write(&mut to);
    }
    Some(to.freeze())
}

/// An `Rhint`, taken apart.
#[derive(Debug)]
pub struct Hint<'a> {
    /// The request that it belongs to.
    pub tag: Tag,
    /// The folder's path.
    pub dir: u64,
    /// Whether the names are watched.
    pub watched: bool,
    /// What is said.
    pub entries: Vec<Entry<'a>>,
}

impl<'a> Hint<'a> {
    /// Takes a whole message apart, and checks that it says what can be.
    pub fn decode(message: &'a [u8]) -> Result<Hint<'a>, DecodeError> {
        let (tag, mut from) = begin(message, MAX_HINT)?;
        let (dir, flags): (u64, u8) = (from.field()?, from.field()?);
        let mut entries = Vec::new();
        while !from.rest().is_empty() {
            entries.push(entry(&mut from)?);
        }
        Ok(Hint { tag, dir, watched: flags & NAMES_WATCHED != 0, entries })
    }
}

/// Takes an `Rforget` apart.
pub fn decode_forget(message: &[u8]) -> Result<Vec<(u64, &[u8])>, DecodeError> {
    let (_, mut from) = begin(message, MAX_FORGET)?;
    let mut records = Vec::new();
    while !from.rest().is_empty() {
        records.push((from.field()?, from.field()?));
    }
    Ok(records)
}

fn begin(message: &[u8], most: usize) -> Result<(Tag, Reader<'_>), DecodeError> {
    if message.len() > most {
        return Err(DecodeError::Hint);
    }
    let mut from = Reader::new(message);
    let (size, _, tag): (u32, u8, Tag) = (from.field()?, from.field()?, from.field()?);
    if size as usize != message.len() {
        return Err(DecodeError::SizeMismatch { said: size, have: message.len() });
    }
    Ok((tag, from))
}

fn entry<'a>(from: &mut Reader<'a>) -> Result<Entry<'a>, DecodeError> {
    let name: &[u8] = from.field()?;
    let what: u8 = from.field()?;
    if !is_name(name) || what & !(HAS_NODE | NODE_WATCHED) != 0 {
        return Err(DecodeError::Hint);
    }
    if what & HAS_NODE == 0 {
        return Ok(Entry { name, node: None });
    }
    let (valid, qid, attributes) = (from.field()?, from.field()?, from.field()?);
    let count: u8 = from.field()?;
    let xattrs = if count == XATTRS_UNKNOWN {
        None
    } else if usize::from(count) <= MAX_XATTRS {
        let all = from.rest();
        for _ in 0..count {
            if from.field::<&[u8]>()?.is_empty() {
                return Err(DecodeError::Hint);
            }
        }
        Some(Xattrs(&all[..all.len() - from.rest().len()]))
    } else {
        return Err(DecodeError::Hint);
    };
    let node = Node { valid, qid, attributes, watched: what & NODE_WATCHED != 0, xattrs };
    if is_possible(&node) { Ok(Entry { name, node: Some(node) }) } else { Err(DecodeError::Hint) }
}

/// Whether a folder can hold such a name, or it is none. The kernel keeps `.` and `..` to itself.
fn is_name(name: &[u8]) -> bool {
    name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// Whether a node can be so: its type is one that there is, and the same in its qid; sizes and times
/// are within what the kernel's types hold.
fn is_possible(node: &Node<'_>) -> bool {
    const TYPE: u32 = 0o170_000;
    let kind = match node.attributes.mode & TYPE {
        0o040_000 => QidKind::DIR,
        0o120_000 => QidKind::SYMLINK,
        0o100_000 | 0o010_000 | 0o140_000 | 0o020_000 | 0o060_000 => QidKind::FILE,
        _ => return false,
    };
    let a = &node.attributes;
    node.qid.kind == kind
        && i64::try_from(a.size).is_ok()
        && i64::try_from(a.blocks).is_ok()
        && [a.atime, a.mtime, a.ctime, a.btime].iter().all(|time| time.nsec < 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node<'a>(xattrs: Option<Xattrs<'a>>) -> Node<'a> {
        let attributes = Attributes { mode: 0o100_644, nlink: 1, size: 5, ..Default::default() };
        let qid = Qid { kind: QidKind::FILE, version: 7, path: 99 };
        Node { valid: 0x7ff, qid, attributes, watched: true, xattrs }
    }

    #[test]
    fn what_is_written_is_read() {
        let list = xattrs_of_list(b"user.one\0security.selinux\0").unwrap();
        let entries = [
            Entry { name: b"", node: Some(node(None)) },
            Entry { name: b"gone", node: None },
            Entry { name: b"file", node: Some(node(Some(Xattrs::from_bytes(&list)))) },
            Entry { name: b"bare", node: Some(node(Some(Xattrs::NONE))) },
        ];
        let mut writer = Writer::new(Tag(5), 42, true);
        assert!(writer.is_empty());
        for entry in &entries {
            let before = writer.len();
            writer.push(entry);
            assert!(writer.len() - before <= Writer::most(entry.name.len()));
        }
        let packet = writer.finish();
        assert_eq!(packet.header().unwrap().kind, Kind::Rhint.0);
        let hint = Hint::decode(&packet.head).unwrap();
        assert_eq!((hint.tag, hint.dir, hint.watched), (Tag(5), 42, true));
        assert_eq!(hint.entries, entries);
        let names: Vec<&[u8]> = hint.entries[2].node.unwrap().xattrs.unwrap().iter().collect();
        assert_eq!(names, [&b"user.one"[..], b"security.selinux"]);
    }

    #[test]
    fn more_extended_attributes_than_are_told_are_told_as_unknown() {
        let many: Vec<u8> = (0..17).flat_map(|n| [b'a' + n, 0]).collect();
        assert_eq!(xattrs_of_list(&many), None);
        assert_eq!(xattrs_of_list(&many[..32]).unwrap().len(), 16 * 3);
        assert_eq!(xattrs_of_list(&[b'x'; 600]), None);
        let long = [9, 0, b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x', b'x'].repeat(60);
        let mut writer = Writer::new(Tag(5), 42, false);
        writer.push(&Entry { name: b"f", node: Some(node(Some(Xattrs::from_bytes(&long)))) });
        let packet = writer.finish();
        assert_eq!(Hint::decode(&packet.head).unwrap().entries[0].node.unwrap().xattrs, None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |entry: Entry<'_>| {
            let mut writer = Writer::new(Tag(5), 42, false);
            writer.push(&entry);
            Hint::decode(&writer.finish().head).is_err()
        };
        let with = |change: &dyn Fn(&mut Node<'_>)| {
            let mut node = node(Some(Xattrs::NONE));
            change(&mut node);
            refused(Entry { name: b"f", node: Some(node) })
        };
        assert!(!with(&|_| {}));
        assert!(with(&|node| node.attributes.mode = 0o040_755));
        assert!(with(&|node| node.attributes.mode = 0o644));
        assert!(with(&|node| node.attributes.size = u64::MAX));
        assert!(with(&|node| node.attributes.mtime.nsec = 1_000_000_000));
        for name in [&b"a/b"[..], b".", b"..", b"a\0", &[b'x'; 256]] {
            assert!(refused(Entry { name, node: None }), "{name:?}");
        }
        assert!(!refused(Entry { name: &[b'x'; 255], node: None }));
    }

    #[test]
    fn what_is_cut_is_refused() {
        let mut writer = Writer::new(Tag(5), 42, false);
        writer.push(&Entry { name: b"f", node: Some(node(Some(Xattrs::NONE))) });
        let whole = writer.finish().head;
        for cut in HEADER + 10..whole.len() {
            let mut part = whole[..cut].to_vec();
            part[..4].copy_from_slice(&(cut as u32).to_le_bytes());
            assert!(Hint::decode(&part).is_err(), "{cut}");
        }
        assert!(Hint::decode(&whole[..whole.len() - 1]).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_looked_at() {
        let mut writer = Writer::new(Tag(5), 42, false);
        while writer.len() <= MAX_HINT {
            writer.push(&Entry { name: b"f", node: None });
        }
        assert!(Hint::decode(&writer.finish().head).is_err());
        let many = core::iter::repeat_n((1, &b"f"[..]), MAX_FORGET / 11 + 1);
        assert!(decode_forget(&forget(many).head).is_err());
    }

    #[test]
    fn forgetting_names_and_everything() {
        let packet = forget([(1, &b"a"[..]), (2, b"")]);
        assert_eq!(decode_forget(&packet.head).unwrap(), [(1, &b"a"[..]), (2, b"")]);
        assert_eq!(decode_forget(&forget([]).head).unwrap(), []);
        assert_eq!(packet.header().unwrap().tag, Tag::NONE);
        assert!(decode_forget(&packet.head[..20]).is_err());
    }
}
