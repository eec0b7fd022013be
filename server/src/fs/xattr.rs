//! `Txattrwalk` and `Txattrcreate`: extended attributes (diod `protocol.md` § xattrwalk,
//! xattrcreate).
//!
//! A value is read whole when its fid is made, and handed out in pieces. One that is set is
//! collected, and set as soon as it is complete: by the last `Twrite`, or by `Txattrcreate` itself
//! where the size is 0, so that the client hears of a failure also where it does not listen to
//! `Rclunk` (Linux before 6.2). One that never got complete is an error of the clunk. Size 0 with
//! `XATTR_REPLACE` is what removexattr(2) sends: the attribute is removed. Any other size 0 is an
//! empty value.
//!
//! Concurrency: a fid's value is collected by one write at a time; what is set at once by two fids is
//! the file system's to order. How a node is named to the kernel is [`super::xattr_at`]'s.

use std::ffi::CString;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use transport::id;
use transport::ninep::Rmessage;

use super::errno::{Errno, Result};
use super::fid::{Fid, Role, Slot};
use super::limits;
use super::node::{Node, lock};
use super::session::Session;
use super::xattr_at::{At, Call};

/// `flags` of setxattr(2).
const CREATE: u32 = 1;
const REPLACE: u32 = 2;

/// A value that is read, or a list of names.
#[derive(Debug)]
pub struct Held {
    bytes: Bytes,
    _slot: Slot,
}

impl Held {
    /// At most `count` bytes from `offset`.
    pub fn read(&self, offset: u64, count: usize) -> Bytes {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = start.saturating_add(count).min(self.bytes.len());
        self.bytes.slice(start..end)
    }
}

/// A value that is collected.
#[derive(Debug)]
pub struct Sink {
    name: CString,
    flags: u32,
    size: usize,
    bytes: Vec<u8>,
    /// It has been set, or that failed and was said.
    done: bool,
    _slot: Slot,
}

fn name(of: &[u8]) -> Result<CString> {
    match of.len() {
        0 => Err(Errno::RANGE),
        1..=limits::XATTR_NAME => CString::new(of).map_err(|_| Errno::INVAL),
        _ => Err(Errno::RANGE),
    }
}

/// `Txattrwalk`: `newfid` reads the attribute, or, without a name, the list.
pub fn walk(s: &Session, fid: &Fid, newfid: id::Fid, of: &[u8]) -> Result<Rmessage<'static>> {
    s.fids.is_free(newfid)?;
    let node = fid.node();
    let at = At::find(s, fid.if_open(), &node)?;
    let bytes: Bytes = if of.is_empty() {
        read(|to| at.call(Call::List(to)))?.into()
    } else {
        let name = name(of)?;
        read(|to| at.call(Call::Get(&name, to)))?.into()
    };
    let size = bytes.len() as u64;
    let slot = s.workers.xattr_held.take(bytes.len()).ok_or(Errno::NOMEM)?;
    let held = Arc::new(Held { bytes, _slot: slot });
    s.fids.put(newfid, Fid::new(node, Role::Value(held)))?;
    Ok(Rmessage::Rxattrwalk { size })
}

/// Reads what is mostly small and may be 64 KiB.
fn read(get: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    for room in [1 << 10, limits::XATTR] {
        let mut to = vec![0; room];
        match get(&mut to) {
            Ok(size) => {
                to.truncate(size);
                return Ok(to);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::TOOBIG)
}

/// `Txattrcreate`: the fid takes the value.
pub fn create(
    s: &Session,
    fid: &Fid,
    of: &[u8],
    size: u64,
    flags: u32,
) -> Result<Rmessage<'static>> {
    s.writable()?;
    let node = fid.unopened()?;
    let name = name(of)?;
    if flags & !(CREATE | REPLACE) != 0 {
        return Err(Errno::INVAL);
    }
    let size = usize::try_from(size).ok().filter(|&size| size <= limits::XATTR);
    let size = size.ok_or(Errno::TOOBIG)?;
    let slot = s.workers.xattr_held.take(size).ok_or(Errno::NOMEM)?;
    let mut sink = Sink { name, flags, size, bytes: Vec::new(), done: false, _slot: slot };
    if size == 0 {
        sink.set(s, &node)?;
    }
    fid.become_role(node, Role::Sink(Arc::new(Mutex::new(sink))))?;
    Ok(Rmessage::Rxattrcreate)
}

/// `Twrite` of a value's next piece.
pub fn write(
    s: &Session,
    node: &Arc<Node>,
    sink: &mut Sink,
    offset: u64,
    body: &[Bytes],
) -> Result<u32> {
    let count: usize = body.iter().map(Bytes::len).sum();
    if sink.done || offset != sink.bytes.len() as u64 {
        return Err(Errno::INVAL);
    }
    if count > sink.size - sink.bytes.len() {
        return Err(Errno::NOSPC);
    }
    body.iter().for_each(|piece| sink.bytes.extend_from_slice(piece));
    if sink.bytes.len() == sink.size {
        sink.set(s, node)?;
    }
    Ok(count as u32)
}

/// The clunk of a fid that takes a value: an error where the value never got complete.
pub fn finish(sink: &Mutex<Sink>) -> Result<()> {
    if lock(sink).done { Ok(()) } else { Err(Errno::INVAL) }
}

impl Sink {
    fn set(&mut self, s: &Session, node: &Arc<Node>) -> Result<()> {
        self.done = true;
        let at = At::find(s, None, node)?;
        let call = if self.size == 0 && self.flags & REPLACE != 0 {
            Call::Remove(&self.name)
        } else {
            Call::Set(&self.name, &self.bytes, self.flags)
        };
        at.call(call).map(drop)
    }
}
