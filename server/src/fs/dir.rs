//! `Treaddir` (diod `protocol.md` § readdir).
//!
//! An entry's offset is the file system's own cookie (getdents(2), `d_off`): it stays good while
//! other entries come and go. Concurrency: a folder's position belongs to its open file
//! description, so the reads of one fid go one after the other; those of two fids do not meet.

use std::os::fd::AsFd;

use bytes::{Bytes, BytesMut};
use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use transport::ninep::codec::Wire;
use transport::ninep::message::Entry;
use transport::ninep::{Qid, Rmessage};

use super::dispatch::Answer;
use super::errno::{Errno, Result};
use super::fid::{Fid, OpenFile};
use super::hints::{Folder, Hints};
use super::node::{Node, lock, stat, stat_entry};
use super::session::Session;
use super::{limits, qid};

/// The version of an entry's qid. getdents(2) does not say when a node changed, Linux's client does
/// not look, and 0 would say that it must not be cached.
const VERSION: u32 = 1;

/// Bytes asked of the kernel at a time, at most, and at least: a `struct linux_dirent64` with the
/// longest name is 280.
const MOST: usize = 64 << 10;
const LEAST: usize = 1 << 10;

/// `Treaddir`: whole entries, as many as fit. `EINVAL` where not one does.
pub fn readdir(
    s: &Session,
    fid: &Fid,
    offset: u64,
    count: u32,
    hints: &mut Hints,
) -> Result<Answer> {
    let file = fid.open_file()?;
    if !file.is_dir {
        return Err(Errno::NOTDIR);
    }
    let count = count.min(s.payload()) as usize;
    let data = entries(s, &fid.node(), &file, offset, count, hints)?;
    Ok(Answer::Payload(Rmessage::Rreaddir { count: data.len() as u32 }, data))
}

fn entries(
    s: &Session,
    node: &Node,
    file: &OpenFile,
    offset: u64,
    count: usize,
    hints: &mut Hints,
) -> Result<Bytes> {
    let mut raw = Vec::with_capacity(count.clamp(LEAST, MOST));
    let mut out = BytesMut::with_capacity(count.min(MOST));
    let folder = hints.are_on().then(|| Folder::watched(s, node, file.fd.as_fd()));
    if let Some((folder, st)) = folder.as_ref().zip(stat(&file.fd).ok()) {
        hints.tell(folder, b"", Some(&st));
    }
    let _position = lock(&file.position);
    seek(&file.fd, SeekFrom::Start(offset))?;
    let mut dir = RawDir::new(&file.fd, raw.spare_capacity_mut());
    while let Some(entry) = dir.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(_) if !out.is_empty() => break,
            Err(errno) => return Err(errno),
        };
        let name = entry.file_name().to_bytes();
        // The client could not name it.
        if name.len() > limits::NAME {
            continue;
        }
        if out.len() + Entry::size(name.len()) > count {
            if out.is_empty() {
                return Err(Errno::INVAL);
            }
            break;
        }
        let (inode, kind) = if name == b".." && s.tree.is_root(node) {
            // What is above is not shared, not even its number.
            (node.id.inode, FileType::Directory)
        } else {
            (entry.ino(), kind_of(file, name, entry.file_type()))
        };
        let path = s.export.devices().path(node.id.device, inode);
        let qid = Qid { kind: qid::kind(kind), version: VERSION, path };
        let offset = entry.next_entry_cookie();
        Entry { qid, offset, kind: dirent_type(kind), name }.write(&mut out);
        if let Some(folder) = folder.as_ref().filter(|_| !matches!(name, b"." | b"..")) {
            if let Ok(st) = stat_entry(&file.fd, name) {
                hints.tell(folder, name, Some(&st));
            }
        }
    }
    Ok(out.freeze())
}

/// The entry's type; asked for where the file system does not keep it in the folder.
fn kind_of(file: &OpenFile, name: &[u8], known: FileType) -> FileType {
    if known != FileType::Unknown {
        return known;
    }
    stat_entry(&file.fd, name).map_or(known, |st| FileType::from_raw_mode(st.stx_mode.into()))
}

/// `DT_*` of readdir(3): the mode's type bits, moved down.
fn dirent_type(kind: FileType) -> u8 {
    match kind {
        FileType::Unknown => 0,
        kind => (kind.as_raw_mode() >> 12) as u8,
    }
}
