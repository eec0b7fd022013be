//! What is answered by the thread that takes messages in, because it does not wait: a thread that has
//! to be woken costs ten times what such a request does.
//!
//! Three reasons, tried in this order:
//!
//! 1. it takes no system call, or none that could wait: walks of no names, attributes of what has a
//!    descriptor, on file systems known for having them in memory;
//! 2. the kernel is asked to do it from memory or not at all: `RESOLVE_CACHED` for walks and opens,
//!    `RWF_NOWAIT` for reads and writes;
//! 3. it cannot be asked, and such requests have been short of late ([`super::rule`]).
//!
//! Whatever else becomes of it, an error too, a worker finds out: it does all of it again. All other
//! streams wait for what is done here, so that it is bounded for each request and for each turn of the
//! thread ([`Turn`]).

use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2, pwritev2};
use transport::ninep::message::open;
use transport::ninep::{Packet, Rmessage, Tmessage};

use super::disk::Disk;
use super::dispatch::{self, Answer, Subjects};
use super::errno::{Errno, Result};
use super::fid::{Fid, OpenFile, Role};
use super::hints::Hints;
use super::io;
use super::node::stat;
use super::rule::What;
use super::session::Session;
use super::{attr, walk};
use crate::sys;

/// The largest read and the largest write or part of a folder. From the page cache 256 KiB come in less time than a worker is
/// woken in, and a megabyte does not: then the two cores had better do it while this thread goes on.
const READ: usize = 256 << 10;
const WRITE: usize = 64 << 10;

/// A page of the page cache, where nothing smaller is read from a disk.
const PAGE: u64 = 4096;

/// What one turn of the thread that takes messages in may still read and write on the spot.
#[derive(Debug)]
pub struct Turn {
    left: AtomicUsize,
    each: usize,
}

impl Turn {
    /// `each` bytes a turn; without a bound until the first turn begins, if it ever does: nobody waits.
    pub fn new(each: usize) -> Turn {
        Turn { left: AtomicUsize::new(if each == 0 { 0 } else { usize::MAX }), each }
    }

    /// Begins the next.
    pub fn begin(&self) {
        self.left.store(self.each, Ordering::Relaxed);
    }

    /// Takes so much of it, if there is as much left.
    fn take(&self, bytes: usize) -> bool {
        // What a request costs besides is what copying a page costs, or nearly.
        let bytes = bytes.saturating_add(PAGE as usize);
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// What became of a request.
#[derive(Debug)]
// It lives on the stack and costs no allocation.
#[allow(clippy::large_enum_variant)]
pub enum Spot {
    /// It is answered.
    Answer(Result<Answer>),
    /// It is for a worker; so many bytes have been written already.
    Worker {
        /// Bytes.
        done: u32,
    },
}

/// A worker's, as a whole.
const WORKER: Spot = Spot::Worker { done: 0 };

/// Answers what need not wait.
pub fn at_once(
    s: &Session,
    message: &Tmessage<'_>,
    subjects: &Subjects,
    packet: &Packet,
    hints: &mut Hints,
) -> Spot {
    if let Some(answer) = certain(s, message, subjects, hints) {
        return Spot::Answer(answer);
    }
    let Some(fid) = subjects[0].as_ref() else { return WORKER };
    match *message {
        Tmessage::Tread { offset, count, .. } => match read(s, fid, offset, count) {
            Tried::Done(answer) => return Spot::Answer(answer),
            Tried::Wait => return WORKER,
            Tried::Unknown => {}
        },
        Tmessage::Twrite { offset, .. } => match write(s, fid, offset, packet) {
            Tried::Done(answer) => return answer,
            Tried::Wait => return WORKER,
            Tried::Unknown => {}
        },
        Tmessage::Treaddir { count, .. } => {
            // Another request for the folder may hold its position: the table has the fid, and this
            // one has.
            let alone = Arc::strong_count(fid) == 2;
            // To look at every entry may take long.
            if hints.are_on() {
                return WORKER;
            }
            if count as usize > WRITE || !alone || !s.workers.turn.take(count as usize) {
                return WORKER;
            }
        }
        Tmessage::Tclunk { .. } if !may_close(s, fid) => return WORKER,
        _ => {}
    }
    let Some((disk, what)) = class(s, message, fid) else { return WORKER };
    if s.workers.spotless() || !disk.may(what) {
        return WORKER;
    }
    let done = || dispatch::carry_out(s, message, subjects, &packet.body, 0, hints);
    let answer = disk.time(what, || catch_unwind(AssertUnwindSafe(done)));
    Spot::Answer(answer.unwrap_or(Err(Errno::IO)))
}

/// The first reason, and the second but for reads and writes.
fn certain(
    s: &Session,
    message: &Tmessage<'_>,
    subjects: &Subjects,
    hints: &mut Hints,
) -> Option<Result<Answer>> {
    let fid = subjects[0].as_ref();
    match message {
        Tmessage::Tclunk { .. } => {
            let fid = fid?;
            let (_, role) = fid.state();
            matches!(role, Role::Path | Role::Value(_))
                .then(|| s.retire(fid).map(|()| Rmessage::Rclunk.into()))
        }
        Tmessage::Twalk { fid: number, newfid, names } if names.as_slice().is_empty() => {
            if number == newfid {
                return None;
            }
            Some(walk::clone(s, fid?, *newfid).map(Answer::from))
        }
        Tmessage::Twalk { fid: number, newfid, names } => {
            let fid = fid?;
            // One in place ends the old fid, which may be open.
            if number == newfid && !matches!(fid.state().1, Role::Path) {
                return None;
            }
            walk::walk_in_memory(s, fid, (*number, *newfid), names.as_slice(), hints)
                .map(|done| done.map(Answer::from))
        }
        Tmessage::Tgetattr { mask, .. } => {
            attr::getattr_in_memory(s, fid?, *mask).map(|done| done.map(Answer::from))
        }
        Tmessage::Tlopen { flags, .. } if !s.workers.spotless() => {
            io::lopen_in_memory(s, fid?, *flags).map(|done| done.map(Answer::from))
        }
        Tmessage::Tauth { .. } => Some(Err(Errno::OPNOTSUPP)),
        _ => None,
    }
}

/// What became of an attempt not to wait.
enum Tried<T> {
    Done(T),
    /// It would have to, or fails.
    Wait,
    /// The file system cannot be asked.
    Unknown,
}

fn read(s: &Session, fid: &Fid, offset: u64, count: u32) -> Tried<Result<Answer>> {
    let wanted = count.min(s.payload()) as usize;
    let file = match fid.state().1 {
        Role::Open(file) if !file.is_dir => file,
        // What is held in memory, and mistakes.
        _ => return Tried::Done(io::read(s, fid, offset, count)),
    };
    if wanted > READ || !s.workers.turn.take(wanted) {
        return Tried::Wait;
    }
    if !file.disk.reads_now() {
        return Tried::Unknown;
    }
    let mut buffer = s.workers.buffers.take(wanted);
    let tried = read_now(&file, offset, wanted, &mut buffer.bytes);
    let data = buffer.bytes.split();
    s.workers.buffers.give(buffer);
    match tried {
        Tried::Done(()) => Tried::Done(Ok(io::data(data.freeze()))),
        Tried::Wait => Tried::Wait,
        Tried::Unknown => Tried::Unknown,
    }
}

/// Reads all of it, up to the end of the file at most. A short read is no sign of that end: what
/// follows may just not be in memory.
fn read_now(file: &OpenFile, offset: u64, count: usize, to: &mut bytes::BytesMut) -> Tried<()> {
    while to.len() < count {
        let Some(at) = offset.checked_add(to.len() as u64) else { return Tried::Wait };
        match sys::pread_now(file.fd.as_fd(), to, count - to.len(), at) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::OPNOTSUPP) => {
                file.disk.reads_wait();
                return Tried::Unknown;
            }
            Err(_) => return Tried::Wait,
        }
    }
    Tried::Done(())
}

fn write(s: &Session, fid: &Fid, offset: u64, packet: &Packet) -> Tried<Spot> {
    let Role::Open(file) = fid.state().1 else { return Tried::Wait };
    let count = packet.body_len();
    if file.is_synchronous() || !file.writable || count > WRITE || !s.workers.turn.take(count) {
        return Tried::Wait;
    }
    // One that appends is never done in two parts: another's could come between.
    if !file.appends() && file.disk.writes_now() {
        match write_now(&file, offset, &packet.body) {
            Ok(written) => {
                io::wrote(&file, offset, written);
                let done = written as u32;
                return Tried::Done(if written == count {
                    Spot::Answer(Ok(Rmessage::Rwrite { count: done }.into()))
                } else {
                    Spot::Worker { done }
                });
            }
            // What a file system says that waits, from 4.13 on, and the kernel for it, from 6.0 on.
            Err(Errno::OPNOTSUPP | Errno::INVAL) if i64::try_from(offset).is_ok() => {
                file.disk.writes_wait();
            }
            Err(_) => return Tried::Wait,
        }
    }
    // Where a page is not written as a whole, the rest of it may have to be read before.
    if file.disk.is_on_disk() && !has_edges(&file, offset, count as u64) {
        return Tried::Wait;
    }
    Tried::Unknown
}

fn write_now(file: &OpenFile, offset: u64, body: &[Bytes]) -> Result<usize> {
    io::with_slices(body, 0, |slices| pwritev2(&file.fd, slices, offset, ReadWriteFlags::NOWAIT))
}

/// Whether the pages are in memory of which a write takes a part, or there is nothing to be read for
/// them.
fn has_edges(file: &OpenFile, offset: u64, count: u64) -> bool {
    let written = file.written.load(Ordering::Relaxed);
    if file.appends() {
        return written != OpenFile::UNWRITTEN;
    }
    let Some(end) = offset.checked_add(count) else { return false };
    let first = offset % PAGE != 0 && offset != written;
    let last = end % PAGE != 0 && (end / PAGE != offset / PAGE || offset % PAGE == 0);
    if !first && !last {
        return true;
    }
    // A byte at the page's start: none there means that the page has none.
    let mut byte = [0];
    let mut probe = |at| {
        let piece = &mut [IoSliceMut::new(&mut byte)];
        preadv2(&file.fd, piece, at, ReadWriteFlags::NOWAIT)
    };
    if first {
        match probe(offset - offset % PAGE) {
            Ok(_) => {}
            // Open for writing alone, or not in memory.
            Err(_) => return false,
        }
    }
    if !last {
        return true;
    }
    match probe(end) {
        Ok(_) => true,
        Err(Errno::BADF) => stat(&file.fd).is_ok_and(|st| st.stx_size <= end),
        Err(_) => false,
    }
}

/// Whether nobody else is about to use what is closed, and closing it is not what removes the file,
/// which takes as long as the file is large.
fn may_close(s: &Session, fid: &Arc<Fid>) -> bool {
    // It is in the table no more, and this request has one.
    if s.workers.spotless() || Arc::strong_count(fid) != 1 {
        return false;
    }
    match fid.state() {
        (_, Role::Open(file)) => {
            let what = What::Close { writable: file.writable };
            file.disk.may(what) && stat(&file.fd).is_ok_and(|st| st.stx_nlink > 0)
        }
        _ => false,
    }
}

/// What a request is measured as, and the file system that it is about: nothing where it is not of a
/// class that may be done on the spot.
pub fn class(s: &Session, message: &Tmessage<'_>, fid: &Fid) -> Option<(Arc<Disk>, What)> {
    let looked = |what| {
        let disk = s.export.disks().root(fid.node().id.device)?.clone();
        disk.is_measured(what).then_some((disk, what))
    };
    let opened = |what: &dyn Fn(&OpenFile) -> What| {
        let file = fid.if_open()?;
        let what = what(&file);
        file.disk.is_measured(what).then(|| (file.disk.clone(), what))
    };
    match *message {
        Tmessage::Twalk { fid, newfid, .. } if fid != newfid => looked(What::Look),
        Tmessage::Tgetattr { .. } | Tmessage::Treadlink { .. } | Tmessage::Tstatfs { .. } => {
            looked(What::Look)
        }
        Tmessage::Tlopen { flags, .. } if flags & open::TRUNC == 0 => looked(What::Open),
        Tmessage::Treaddir { count, .. } => opened(&|_| What::Dir(count as usize)),
        Tmessage::Tread { count, .. } => opened(&|_| What::Read(count as usize)),
        Tmessage::Twrite { count, .. } => {
            let file = fid.if_open()?;
            if file.is_synchronous() {
                return None;
            }
            let append = file.appends();
            let count = count as usize;
            opened(&|_| if append { What::Append(count) } else { What::Write(count) })
        }
        Tmessage::Tclunk { .. } => opened(&|file| What::Close { writable: file.writable }),
        _ => None,
    }
}
