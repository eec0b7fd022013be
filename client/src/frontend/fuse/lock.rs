//! Locks: GETLK, SETLK, SETLKW, and their ends with FLUSH and RELEASE.
//!
//! An owner is a number of the kernel's: a process's table of descriptors for fcntl(2), an open file for
//! flock(2). Towards the server each is a process of its own under this mount's name, so that owners
//! exclude each other here, in other mounts and there. 9P does not tell the two kinds of lock apart:
//! a program that takes both of one file excludes itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use polyfuse_kernel::{FUSE_LK_FLOCK, fuse_file_lock, fuse_lk_in, fuse_lk_out};
use rustix::io::Errno;
use transport::ninep::message::lock as wire;
use transport::ninep::{Rmessage, Tmessage};

use super::abi::{Reply, Request};
use super::handle::File;
use super::interrupt::Cancel;
use super::mount::Mount;

/// The last byte of a file (kernel `OFFSET_MAX`): a range to there has no end.
const LAST: u64 = i64::MAX as u64;
/// How long is waited where a server says "blocked" rather than wait itself.
const PAUSE: Duration = Duration::from_millis(100);

/// Whose lock it is: of a file, by the kernel's number, and which kind.
type Owner = (u64, u64, bool);

/// The owners that may hold locks.
pub struct Owners {
    /// This mount's name, unlike any other's.
    client: Box<[u8]>,
    known: RefCell<HashMap<Owner, Known>>,
    next: Cell<u32>,
}

#[derive(Clone, Copy)]
struct Known {
    /// Its number towards the server.
    number: u32,
    /// The process that asked first.
    pid: u32,
}

impl Owners {
    /// Nobody.
    pub fn new(client: String) -> Owners {
        Owners { client: client.into_bytes().into(), known: RefCell::default(), next: Cell::new(1) }
    }

    fn known(&self, owner: Owner, pid: u32) -> u32 {
        let mut known = self.known.borrow_mut();
        let entry = known.entry(owner).or_insert_with(|| {
            let number = self.next.replace(self.next.get().wrapping_add(1));
            Known { number, pid }
        });
        entry.number
    }

    /// The process here that is `number` towards the server; 0 for those of others.
    fn pid(&self, client: &[u8], number: u32) -> u32 {
        let known = self.known.borrow();
        let mut known = known.values().filter(|known| known.number == number);
        let found = if *self.client == *client { known.next() } else { None };
        found.map_or(0, |known| known.pid)
    }
}

struct Range {
    start: u64,
    length: u64,
}

impl Range {
    fn of(lock: &fuse_file_lock) -> Range {
        let length = if lock.end >= LAST { 0 } else { (lock.end - lock.start).saturating_add(1) };
        Range { start: lock.start, length }
    }
}

fn kind(lock: &fuse_file_lock) -> Result<u8, Errno> {
    match lock.typ as i32 {
        libc_lock::READ => Ok(wire::RDLCK),
        libc_lock::WRITE => Ok(wire::WRLCK),
        libc_lock::NONE => Ok(wire::UNLCK),
        _ => Err(Errno::INVAL),
    }
}

/// fcntl(2)'s kinds of lock, the same on every machine that Qubes runs on.
mod libc_lock {
    pub const READ: i32 = 0;
    pub const WRITE: i32 = 1;
    pub const NONE: i32 = 2;
}

impl Mount {
    /// GETLK.
    pub async fn getlk(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_lk_in = request.arg()?;
        let file = self.handles.file(arg.fh)?;
        let owner = (file.node.id, arg.owner, arg.lk_flags & FUSE_LK_FLOCK != 0);
        let Range { start, length } = Range::of(&arg.lk);
        let proc_id = self.owners.known(owner, request.header.pid);
        let (fid, kind) = (file.fid.number(), kind(&arg.lk)?);
        let client_id = &self.owners.client;
        let ask = Tmessage::Tgetlock { fid, kind, start, length, proc_id, client_id };
        let packet = self.client.call(cancel, &ask).await?;
        let Ok((_, Rmessage::Rgetlock { kind, start, length, proc_id, client_id })) =
            Rmessage::decode(&packet)
        else {
            return Err(Errno::IO);
        };
        let end = match length {
            0 => LAST,
            length => start.saturating_add(length - 1).min(LAST),
        };
        if kind > wire::UNLCK || start > end {
            return Err(Errno::IO);
        }
        let pid = self.owners.pid(client_id, proc_id);
        Ok(Reply::of(&fuse_lk_out { lk: fuse_file_lock { start, end, typ: kind.into(), pid } }))
    }

    /// SETLK, and SETLKW where `wait` says so.
    pub async fn setlk(
        &self,
        cancel: &Cancel,
        request: &Request,
        wait: bool,
    ) -> Result<Reply, Errno> {
        let arg: fuse_lk_in = request.arg()?;
        let file = self.handles.file(arg.fh)?;
        let owner = (file.node.id, arg.owner, arg.lk_flags & FUSE_LK_FLOCK != 0);
        let kind = kind(&arg.lk)?;
        if kind == wire::UNLCK && !self.owners.known.borrow().contains_key(&owner) {
            return Ok(Reply::empty());
        }
        let proc_id = self.owners.known(owner, request.header.pid);
        self.lock(cancel, &file, proc_id, kind, Range::of(&arg.lk), wait).await?;
        Ok(Reply::empty())
    }

    async fn lock(
        &self,
        cancel: &Cancel,
        file: &File,
        proc_id: u32,
        kind: u8,
        range: Range,
        wait: bool,
    ) -> Result<(), Errno> {
        let Range { start, length } = range;
        let (fid, client_id) = (file.fid.number(), &*self.owners.client);
        let flags = if wait { wire::FLAG_BLOCK } else { 0 };
        let lock = Tmessage::Tlock { fid, kind, flags, start, length, proc_id, client_id };
        loop {
            let packet = self.client.call(cancel, &lock).await?;
            match Rmessage::decode(&packet) {
                Ok((_, Rmessage::Rlock { status: wire::SUCCESS })) => return Ok(()),
                Ok((_, Rmessage::Rlock { status: wire::BLOCKED })) if !wait => {
                    return Err(Errno::AGAIN);
                }
                Ok((_, Rmessage::Rlock { status: wire::BLOCKED | wire::GRACE })) => {}
                Ok((_, Rmessage::Rlock { .. })) => return Err(Errno::NOLCK),
                _ => return Err(Errno::IO),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = cancel.wanted() => return Err(Errno::INTR),
            }
        }
    }

    /// Lets go of all that `owner` holds of an open file: at close(2) for fcntl(2)'s, at the last one
    /// for flock(2)'s.
    pub async fn unlock_all(&self, file: &File, owner: u64, flock: bool) {
        let owner = (file.node.id, owner, flock);
        let Some(known) = self.owners.known.borrow_mut().remove(&owner) else { return };
        let all = Range { start: 0, length: 0 };
        let never = Cancel::default();
        // Where it fails, the far end has lost them already.
        let _ = self.lock(&never, file, known.number, wire::UNLCK, all, false).await;
    }
}
