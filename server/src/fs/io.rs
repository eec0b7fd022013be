//! `Tlopen`, `Tread`, `Twrite`, `Tfsync` (diod `protocol.md` § lopen, read, write, fsync).
//!
//! Concurrency: reads and writes of one fid go side by side, each at its own offset, as pread(2)
//! and pwrite(2) of one descriptor do; the file system orders those that overlap. Opening takes no
//! lock over its system calls; of two that open one fid the second is refused.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::{FileType, OFlags, fdatasync, fsync as sync_all, ftruncate};
use rustix::io::{pwritev, retry_on_intr};
use transport::ninep::Rmessage;
use transport::ninep::message::open;

use super::dispatch::Answer;
use super::errno::{Errno, Result};
use super::fid::{Fid, OpenFile, Role, Slot};
use super::node::{Node, lock, stat};
use super::rule::What;
use super::session::Session;
use super::xattr;
use crate::sys;

/// Slices in one pwritev(2) (limits.h: `IOV_MAX`).
const PIECES: usize = 1024;
/// Slices that need no allocation: what came in one or two reads of the channel, and a megabyte.
const FEW: usize = 16;

/// What `Rlopen` and `Rlcreate` say: as much as fits a message, which is what Linux's client then
/// takes (kernel `net/9p/client.c`: `p9_client_read_once`).
pub const IOUNIT: u32 = 0;

/// How a client wants a file opened: what is left of its flags.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// For open(2), but for creation and truncation.
    pub flags: OFlags,
    /// Whether the access mode has writing in it.
    pub writable: bool,
    /// Whether the file is to be emptied.
    pub truncate: bool,
    /// Whether it must be new.
    pub exclusive: bool,
}

impl Wanted {
    /// The message's flags, which are x86's whatever the machine, as this machine's. Left out:
    /// `O_CREAT` (the message says it), `O_DIRECT` (the client's business: its buffers are not
    /// ours), and those that only mean something where the program is.
    pub fn from_wire(flags: u32) -> Result<Wanted> {
        let mut to = match flags & open::ACCMODE {
            0 => OFlags::RDONLY,
            open::WRONLY => OFlags::WRONLY,
            open::RDWR => OFlags::RDWR,
            _ => return Err(Errno::INVAL),
        };
        let writable = to != OFlags::RDONLY;
        for (wire, local) in [
            (open::APPEND, OFlags::APPEND),
            (open::DSYNC, OFlags::DSYNC),
            (open::SYNC, OFlags::SYNC),
            (open::NOATIME, OFlags::NOATIME),
            (open::DIRECTORY, OFlags::DIRECTORY),
        ] {
            if flags & wire != 0 {
                to |= local;
            }
        }
        let truncate = flags & open::TRUNC != 0;
        Ok(Wanted { flags: to, writable, truncate, exclusive: flags & open::EXCL != 0 })
    }
}

/// `Tlopen`.
pub fn lopen(s: &Session, fid: &Fid, flags: u32) -> Result<Rmessage<'static>> {
    let node = fid.unopened()?;
    let wanted = Wanted::from_wire(flags)?;
    let slot = slot(s)?;
    let (fd, st) = open_node(s, &node, wanted)?;
    opened(s, fid, &node, &wanted, (fd, st), slot)
}

/// `Tlopen`, where the file is found in memory; nothing where it might not be, or it is not to be
/// opened so.
pub fn lopen_in_memory(s: &Session, fid: &Fid, flags: u32) -> Option<Result<Rmessage<'static>>> {
    let (node, wanted) = (fid.unopened().ok()?, Wanted::from_wire(flags).ok()?);
    let disk = s.export.disks().root(node.id.device).filter(|disk| disk.has_attributes())?;
    if wanted.truncate || wanted.writable && s.writable().is_err() {
        return None;
    }
    let how = match node.kind {
        FileType::RegularFile => wanted.flags,
        FileType::Directory if !wanted.writable => wanted.flags | OFlags::DIRECTORY,
        _ => return None,
    };
    if !disk.may_still(What::Open) {
        return None;
    }
    let slot = slot(s).ok()?;
    let found = disk.clock(What::Open, || s.tree.open_in_memory(&node, how))?;
    Some(opened(s, fid, &node, &wanted, found, slot))
}

fn opened(
    s: &Session,
    fid: &Fid,
    node: &Arc<Node>,
    wanted: &Wanted,
    (fd, st): (OwnedFd, rustix::fs::Statx),
    slot: Slot,
) -> Result<Rmessage<'static>> {
    let qid = s.export.devices().qid(&st);
    let disk = s.export.disks().find(node.id.device, &fd);
    bind(s, fid, node, OpenFile::new(fd, wanted, node.is_dir(), disk, slot))?;
    Ok(Rmessage::Rlopen { qid, iounit: IOUNIT })
}

/// Opens a file or folder as `wanted`. Never a fifo, a socket or a device: those are opened by the
/// client's kernel, and what is behind them is not the folder's.
pub fn open_node(
    s: &Session,
    node: &Arc<Node>,
    wanted: Wanted,
) -> Result<(OwnedFd, rustix::fs::Statx)> {
    if wanted.writable || wanted.truncate {
        s.writable()?;
    }
    let flags = match node.kind {
        FileType::RegularFile => wanted.flags,
        FileType::Directory if wanted.writable || wanted.truncate => return Err(Errno::ISDIR),
        FileType::Directory => wanted.flags | OFlags::DIRECTORY,
        FileType::Symlink => return Err(Errno::LOOP),
        _ => return Err(Errno::NXIO),
    };
    let (fd, st) = s.tree.open(node, flags)?;
    if !wanted.truncate {
        return Ok((fd, st));
    }
    // Not by the open itself: that would empty whatever has taken the name meanwhile.
    if wanted.writable {
        ftruncate(&fd, 0)?;
    } else {
        ftruncate(s.tree.open(node, OFlags::WRONLY)?.0, 0)?;
    }
    let st = stat(&fd)?;
    Ok((fd, st))
}

/// An open file's part of what the process may have; `EMFILE` where there is none left. To be taken
/// before anything is made or emptied.
pub fn slot(s: &Session) -> Result<Slot> {
    s.workers.open_files.take(1).ok_or(Errno::MFILE)
}

/// Makes `fid` the open file's.
pub fn bind(s: &Session, fid: &Fid, node: &Arc<Node>, file: Arc<OpenFile>) -> Result<()> {
    node.opened(&file);
    s.locks.opened(&node.id);
    fid.become_role(node.clone(), Role::Open(file)).inspect_err(|_| {
        s.locks.closed(&node.id);
    })
}

/// `Tread`, of a file or of an extended attribute.
pub fn read(s: &Session, fid: &Fid, offset: u64, count: u32) -> Result<Answer> {
    let count = count.min(s.payload()) as usize;
    let data = match fid.state().1 {
        Role::Open(file) if file.is_dir => return Err(Errno::ISDIR),
        Role::Open(file) => read_file(s, &file, offset, count)?,
        Role::Value(value) => value.read(offset, count),
        Role::Path | Role::Sink(_) => return Err(Errno::BADF),
    };
    Ok(self::data(data))
}

/// What was read, as it is answered: the count is that of what is there, whatever the file has become
/// meanwhile.
pub fn data(data: Bytes) -> Answer {
    Answer::Payload(Rmessage::Rread { count: data.len() as u32 }, data)
}

fn read_file(s: &Session, file: &OpenFile, offset: u64, count: usize) -> Result<Bytes> {
    let mut buffer = s.workers.buffers.take(count);
    let read = retry_on_intr(|| sys::pread_into(file.fd.as_fd(), &mut buffer.bytes, count, offset));
    let data = buffer.bytes.split().freeze();
    s.workers.buffers.give(buffer);
    read.map(|_| data)
}

/// `Twrite`, of a file or of an extended attribute, of which `done` bytes have been written already.
/// May write less than all, as write(2) may.
pub fn write(
    s: &Session,
    fid: &Fid,
    offset: u64,
    body: &[Bytes],
    done: u32,
) -> Result<Rmessage<'static>> {
    let count = match fid.state() {
        (_, Role::Open(file)) => write_file(&file, offset, body, done)?,
        (node, Role::Sink(sink)) => xattr::write(s, &node, &mut lock(&sink), offset, body)?,
        (_, Role::Path | Role::Value(_)) => return Err(Errno::BADF),
    };
    Ok(Rmessage::Rwrite { count })
}

fn write_file(file: &OpenFile, offset: u64, body: &[Bytes], done: u32) -> Result<u32> {
    let mut done = done as usize;
    let mut before = 0;
    for pieces in body.chunks(PIECES) {
        let whole: usize = before + pieces.iter().map(Bytes::len).sum::<usize>();
        if done >= whole && whole > 0 {
            before = whole;
            continue;
        }
        let at = offset.checked_add(done as u64).ok_or(Errno::FBIG)?;
        let written = with_slices(pieces, done - before, |slices| {
            retry_on_intr(|| pwritev(&file.fd, slices, at))
        });
        match written {
            Ok(written) => done += written,
            // What has been written has been written: the client asks again for the rest.
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
        if done < whole {
            break;
        }
        before = whole;
    }
    wrote(file, offset, done);
    Ok(done as u32)
}

/// `pieces` without their first `skip` bytes, as the kernel takes them; few of them without a list.
pub fn with_slices<T>(pieces: &[Bytes], skip: usize, to: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
    let mut skip = skip;
    let slices = pieces.iter().map(|piece| {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        IoSlice::new(&piece[skipped..])
    });
    let mut few = [IoSlice::new(&[]); FEW];
    if pieces.len() <= FEW {
        slices.zip(&mut few).for_each(|(slice, to)| *to = slice);
        to(&few[..pieces.len()])
    } else {
        to(&slices.collect::<Vec<_>>())
    }
}

/// Notes where a write ended.
pub fn wrote(file: &OpenFile, offset: u64, count: usize) {
    let end = if file.appends() { 0 } else { offset.saturating_add(count as u64) };
    file.written.store(end, Ordering::Relaxed);
}

/// `Tfsync`.
pub fn fsync(fid: &Fid, data_only: bool) -> Result<Rmessage<'static>> {
    let file = fid.open_file()?;
    if data_only {
        fdatasync(&file.fd)?
    } else {
        sync_all(&file.fd)?
    }
    Ok(Rmessage::Rfsync)
}
