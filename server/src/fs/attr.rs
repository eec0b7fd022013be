//! `Tgetattr`, `Tsetattr`, `Tstatfs` (diod `protocol.md` § getattr, setattr, statfs).
//!
//! An open fid is asked and changed by its own descriptor, so that a file that was renamed or
//! removed meanwhile is still the same one. Concurrency: no locks; each of a `Tsetattr`'s changes
//! is atomic, all of them together are not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, chownat, fchmod, fstatfs, ftruncate, makedev, utimensat,
};
use transport::ninep::message::{Attributes, SetAttributes, Statfs, Time, attr, setattr as valid};
use transport::ninep::{Qid, Rmessage};

use super::errno::{Errno, Result};
use super::fid::{Fid, OpenFile};
use super::limits;
use super::node::{Node, stat};
use super::session::Session;
use crate::sys;

/// The file system type that `Rstatfs` names (kernel `include/uapi/linux/magic.h`: `V9FS_MAGIC`).
/// What is below is not the client's: programs that choose by it, such as tail(1) between watching
/// and polling, have to know that this one is remote.
const V9FS_MAGIC: u32 = 0x0102_1997;

/// A descriptor to ask for attributes: open for I/O, or `O_PATH`.
enum Subject {
    Open(Arc<OpenFile>),
    Handle(Arc<OwnedFd>),
}

impl AsFd for Subject {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Subject::Open(file) => file.fd.as_fd(),
            Subject::Handle(fd) => fd.as_fd(),
        }
    }
}

/// What a fid stands for. A node whose name is gone may still be open under another fid.
fn subject(s: &Session, fid: &Fid, node: &Arc<Node>) -> Result<Subject> {
    if let Some(file) = fid.if_open() {
        return Ok(Subject::Open(file));
    }
    match s.tree.handle(node) {
        Ok(fd) => Ok(Subject::Handle(fd)),
        Err(errno) => node.open_file(|_| true).map(Subject::Open).ok_or(errno),
    }
}

/// `Tgetattr`: all of stat(2) whatever is asked for, and the birth time where it is.
pub fn getattr(s: &Session, fid: &Fid, mask: u64) -> Result<Rmessage<'static>> {
    answer(s, stat(subject(s, fid, &fid.node())?), mask)
}

/// `Tgetattr`, where the answer is in memory; nothing where it might not be.
pub fn getattr_in_memory(s: &Session, fid: &Fid, mask: u64) -> Option<Result<Rmessage<'static>>> {
    let node = fid.node();
    s.export.disks().root(node.id.device).filter(|disk| disk.has_attributes())?;
    let st = match fid.if_open() {
        Some(file) => stat(&file.fd),
        None => stat(node.cached()?),
    };
    Some(answer(s, st, mask))
}

fn answer(s: &Session, st: Result<Statx>, mask: u64) -> Result<Rmessage<'static>> {
    let (valid, qid, attributes) = fields(s, &st?, mask);
    Ok(Rmessage::Rgetattr { valid, qid, attributes })
}

/// All that `Rgetattr` can say of a node: what is valid, its qid, its attributes.
pub fn all(s: &Session, st: &Statx) -> (u64, Qid, Attributes) {
    fields(s, st, attr::BASIC | attr::BTIME)
}

fn fields(s: &Session, st: &Statx, mask: u64) -> (u64, Qid, Attributes) {
    let born = mask & attr::BTIME != 0 && st.stx_mask & StatxFlags::BTIME.bits() != 0;
    let valid = if born { attr::BASIC | attr::BTIME } else { attr::BASIC };
    (valid, s.export.devices().qid(st), attributes(st, born))
}

fn attributes(st: &Statx, born: bool) -> Attributes {
    let time =
        |t: rustix::fs::StatxTimestamp| Time { sec: t.tv_sec as u64, nsec: t.tv_nsec.into() };
    Attributes {
        mode: st.stx_mode.into(),
        uid: st.stx_uid,
        gid: st.stx_gid,
        nlink: st.stx_nlink.into(),
        rdev: makedev(st.stx_rdev_major, st.stx_rdev_minor),
        size: st.stx_size,
        blksize: st.stx_blksize.into(),
        blocks: st.stx_blocks,
        atime: time(st.stx_atime),
        mtime: time(st.stx_mtime),
        ctime: time(st.stx_ctime),
        btime: if born { time(st.stx_btime) } else { Time::default() },
        generation: 0,
        data_version: 0,
    }
}

/// `Tsetattr`. Size first, as the mode may be about to forbid it, and it drops set-id bits as a change
/// of owner does; times last, as truncation sets them.
pub fn setattr(s: &Session, fid: &Fid, set: &SetAttributes) -> Result<Rmessage<'static>> {
    s.writable()?;
    let node = fid.node();
    let has = |bit| set.valid & bit != 0;
    let on = subject(s, fid, &node)?;
    let uid = has(valid::UID).then(|| owner(set.uid)).transpose()?;
    let gid = has(valid::GID).then(|| owner(set.gid)).transpose()?;
    if has(valid::SIZE) {
        truncate(s, &node, &on, set.size)?;
    }
    // A change of nothing but the change time is chown(2) to nobody new.
    if uid.is_some() || gid.is_some() || set.valid & !valid::CTIME == 0 {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        chownat(&on, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    if has(valid::MODE) {
        chmod(s, &node, &on, set.mode & 0o7777)?;
    }
    if has(valid::ATIME) || has(valid::MTIME) {
        let times = Timestamps {
            last_access: time(has(valid::ATIME), has(valid::ATIME_SET), set.atime)?,
            last_modification: time(has(valid::MTIME), has(valid::MTIME_SET), set.mtime)?,
        };
        utimensat(&on, c"", &times, AtFlags::EMPTY_PATH)?;
    }
    Ok(Rmessage::Rsetattr)
}

/// An owner or group to set; −1 is nobody's number (chown(2): "no change").
fn owner(id: u32) -> Result<u32> {
    if id == u32::MAX { Err(Errno::INVAL) } else { Ok(id) }
}

fn time(set: bool, given: bool, to: Time) -> Result<Timespec> {
    let special = |tv_nsec| Ok(Timespec { tv_sec: 0, tv_nsec });
    match (set, given) {
        (false, _) => special(UTIME_OMIT),
        (true, false) => special(UTIME_NOW),
        (true, true) if to.nsec >= 1_000_000_000 => Err(Errno::INVAL),
        (true, true) => Ok(Timespec { tv_sec: to.sec as i64, tv_nsec: to.nsec as _ }),
    }
}

/// Never by a path: between a look and a change the name could have become a symbolic link.
fn chmod(s: &Session, node: &Arc<Node>, on: &Subject, mode: u32) -> Result<()> {
    /// Whether the kernel is known not to have the call.
    static MISSING: AtomicBool = AtomicBool::new(false);
    if let Subject::Open(file) = on {
        return fchmod(&file.fd, Mode::from_raw_mode(mode));
    }
    if !MISSING.load(Ordering::Relaxed) {
        match sys::fchmodat2_empty(on.as_fd(), mode) {
            Err(Errno::NOSYS) => MISSING.store(true, Ordering::Relaxed),
            done => return done,
        }
    }
    chmod_by_descriptor(s, node, mode)
}

/// Before Linux 6.6: what can neither be read nor written cannot be changed either.
fn chmod_by_descriptor(s: &Session, node: &Arc<Node>, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode);
    match node.kind {
        FileType::RegularFile | FileType::Directory | FileType::Fifo => {}
        _ => return Err(Errno::OPNOTSUPP),
    }
    if let Some(file) = node.open_file(|_| true) {
        return fchmod(&file.fd, mode);
    }
    let fd = match s.tree.open(node, OFlags::RDONLY) {
        Err(Errno::ACCESS) if node.kind == FileType::RegularFile => {
            s.tree.open(node, OFlags::WRONLY)?
        }
        opened => opened?,
    };
    fchmod(fd.0, mode)
}

fn truncate(s: &Session, node: &Arc<Node>, on: &Subject, size: u64) -> Result<()> {
    if i64::try_from(size).is_err() {
        return Err(Errno::INVAL);
    }
    match node.kind {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    if let Subject::Open(file) = on {
        if file.writable {
            return ftruncate(&file.fd, size);
        }
    }
    match s.tree.open(node, OFlags::WRONLY) {
        Ok((fd, _)) => ftruncate(fd, size),
        // A program may have made the file unwritable, or removed it, while it has it open.
        Err(errno) => match node.open_file(|file| file.writable) {
            Some(file) => ftruncate(&file.fd, size),
            None => Err(errno),
        },
    }
}

/// `Tstatfs`.
pub fn statfs(s: &Session, fid: &Fid) -> Result<Rmessage<'static>> {
    let st = fstatfs(subject(s, fid, &fid.node())?)?;
    let statfs = Statfs {
        kind: V9FS_MAGIC,
        bsize: u32::try_from(st.f_bsize).unwrap_or(u32::MAX),
        blocks: st.f_blocks,
        bfree: st.f_bfree,
        bavail: st.f_bavail,
        files: st.f_files,
        ffree: st.f_ffree,
        // Told apart by nobody: the number itself is the server's business.
        fsid: 0,
        namelen: u32::try_from(st.f_namelen).unwrap_or(0).min(limits::NAME as u32),
    };
    Ok(Rmessage::Rstatfs { statfs })
}
