//! Files: OPEN, CREATE, READ, WRITE and what ends them.
//!
//! A request for more than a message of the agreed msize carries goes as several at once, of equal
//! size. Payloads pass by reference: slices of what the socket gave to `/dev/fuse`, and back.
//!
//! The kernel's page cache outlives an open file where the server says that nothing has changed since
//! (the qid's version). Files that are opened to append are written past the page cache: where their
//! end is, only the server knows, and others may be appending too.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use polyfuse_kernel::{
    FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FUSE_FSYNC_FDATASYNC, FUSE_RELEASE_FLOCK_UNLOCK,
    FUSE_WRITE_CACHE, FUSE_WRITE_KILL_PRIV, fuse_create_in, fuse_flush_in, fuse_fsync_in,
    fuse_kstatfs, fuse_open_in, fuse_open_out, fuse_read_in, fuse_release_in, fuse_statfs_out,
    fuse_write_in, fuse_write_out,
};
use rustix::io::Errno;
use transport::ninep::message::{OrZero, open};
use transport::ninep::{Qid, QidKind, Rmessage, Tmessage};
use zerocopy::IntoBytes;

use super::abi::{self, OPEN_KILL_SUIDGID, Reply, Request};
use super::handle::{File, Handle};
use super::interrupt::Cancel;
use super::mount::Mount;
use super::ninep::OwnedFid;
use super::node::Node;

/// Of open(2)'s flags those that are the server's business. They have the same numbers on every
/// machine that Qubes runs on, as 9P's.
const PASSED: u32 = open::ACCMODE | open::TRUNC | open::APPEND | open::DSYNC | open::SYNC;
/// Replies with less than was asked for that one READ puts up with.
const SHORT_REPLIES: usize = 64;
/// What parts of a request are cut at.
const PAGE: u32 = 4096;

/// How `size` bytes go in messages of at most `payload`: the least number of them, of one size each but
/// the last, in whole pages where that is possible.
fn part(size: u32, payload: u32) -> u32 {
    let parts = size.div_ceil(payload).max(1);
    let even = size.div_ceil(parts);
    let pages = even.next_multiple_of(PAGE);
    if pages <= payload { pages } else { even }
}

impl Mount {
    /// OPEN.
    pub async fn open(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_open_in = request.arg()?;
        let node = self.nodes.get(request.header.nodeid)?;
        let (fid, qid) = self.open_fid(cancel, &node, arg.flags & PASSED).await?;
        if arg.unused & OPEN_KILL_SUIDGID != 0 {
            self.kill_set_id(cancel, &node).await?;
        }
        Ok(Reply::of(&self.opened(&node, fid, qid, arg.flags)))
    }

    async fn open_fid(
        &self,
        cancel: &Cancel,
        node: &Node,
        flags: u32,
    ) -> Result<(OwnedFid, Qid), Errno> {
        let (fid, _) = self.client.walk(cancel, node.fid().number(), None).await?;
        let opened = Tmessage::Tlopen { fid: fid.number(), flags };
        let packet = self.client.call(cancel, &opened).await?;
        match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rlopen { qid, .. })) if qid.kind.0 & QidKind::DIR.0 == 0 => {
                Ok((fid, qid))
            }
            _ => Err(Errno::IO),
        }
    }

    fn opened(&self, node: &Rc<Node>, fid: OwnedFid, qid: Qid, flags: u32) -> fuse_open_out {
        let fid = Rc::new(fid);
        node.opened(&fid);
        let appends = flags & open::APPEND != 0 && flags & open::ACCMODE != 0;
        let unchanged = qid.version != 0 && node.cached.replace(qid.version) == qid.version;
        let file = File { node: Rc::clone(node), fid, appends, pages: RefCell::default() };
        let fh = self.handles.add(Handle::File(Rc::new(file)));
        let open_flags = match (appends, unchanged) {
            (true, _) => FOPEN_DIRECT_IO,
            (false, true) => FOPEN_KEEP_CACHE,
            (false, false) => 0,
        };
        fuse_open_out { fh, open_flags, padding: 0 }
    }

    /// CREATE: the file is made and opened; then a fid is needed that is not open.
    pub async fn create(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_create_in>()?;
        let (name, _) = abi::name(rest)?;
        let parent = self.nodes.get(request.header.nodeid)?;
        let (fid, _) = self.client.walk(cancel, parent.fid().number(), None).await?;
        let flags = arg.flags & (PASSED | open::EXCL) | open::CREATE;
        let (mode, gid) = (arg.mode & 0o7777, self.group_in(&parent, request));
        let make = Tmessage::Tlcreate { fid: fid.number(), name, flags, mode, gid };
        let packet = self.client.call(cancel, &make).await?;
        let qid = match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rlcreate { qid, .. })) if qid.kind.0 & QidKind::DIR.0 == 0 => qid,
            _ => return Err(Errno::IO),
        };
        let asked = self.client.ask_attr(fid.number())?;
        let walked = self.client.walk(cancel, parent.fid().number(), Some(name)).await;
        let (now, attr) = self.client.attr_reply(cancel, asked).await?;
        let (unopened, there) = walked?;
        if now.path != qid.path || there.is_none_or(|there| there.path != qid.path) {
            // Another client has taken the name meanwhile.
            return Err(Errno::STALE);
        }
        let node = self.found(unopened, now, &attr, parent.id, name);
        let mut reply = Reply::of(&self.entry(&node, now, &attr));
        reply.head.extend_from_slice(self.opened(&node, fid, qid, arg.flags).as_bytes());
        Ok(reply)
    }

    /// READ.
    pub async fn read(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_read_in = request.arg()?;
        let file = self.handles.file(arg.fh)?;
        let fid = file.fid.number();
        let (end, mut at) = (arg.offset.saturating_add(arg.size.into()), arg.offset);
        let mut pieces = Vec::new();
        // A server may give less than was asked for without being at the file's end. The kernel takes
        // less for the end, so there is only one reply that says so: an empty one, or what reaches the
        // end that is known.
        let mut rounds = 0;
        while at < end {
            rounds += 1;
            if rounds > SHORT_REPLIES {
                return Err(Errno::IO);
            }
            let start = at;
            let left = (end - at) as u32;
            let step = part(left, self.client.payload());
            let mut asked = Vec::with_capacity(left.div_ceil(step) as usize);
            while at < end {
                let count = step.min((end - at) as u32);
                let read = Tmessage::Tread { fid, offset: at, count };
                asked.push((count, self.client.ask(&read, Default::default())?));
                at += u64::from(count);
            }
            at = start;
            let mut whole = true;
            for (count, asked) in asked {
                let packet = self.client.reply(cancel, asked).await?;
                let got = match Rmessage::decode(&packet) {
                    Ok((_, Rmessage::Rread { count: got })) if got <= count => got,
                    _ => return Err(Errno::IO),
                };
                // What lies behind a gap is asked for again.
                if whole {
                    pieces.extend(packet.body);
                    at += u64::from(got);
                }
                whole &= got == count;
            }
            if at == start || at == file.node.size.get() {
                break;
            }
        }
        Ok(Reply::payload(pieces))
    }

    /// WRITE: the payload stays where the kernel put it.
    pub async fn write(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_write_in = request.arg()?;
        let payload = request.body.slice(size_of::<fuse_write_in>()..);
        if payload.len() != arg.size as usize {
            return Err(Errno::INVAL);
        }
        let file = self.handles.file(arg.fh)?;
        if arg.write_flags & FUSE_WRITE_KILL_PRIV != 0 {
            self.kill_set_id(cancel, &file.node).await?;
        }
        let from_pages = arg.write_flags & FUSE_WRITE_CACHE != 0;
        let fid = if from_pages && file.appends {
            self.for_pages(cancel, &file).await?
        } else {
            Rc::clone(&file.fid)
        };
        let in_order = file.appends && !from_pages;
        let size = self.write_all(cancel, &fid, arg.offset, payload, in_order).await?;
        if !in_order {
            let end = arg.offset.saturating_add(size.into());
            file.node.size.set(file.node.size.get().max(end));
        }
        Ok(Reply::of(&fuse_write_out { size, padding: 0 }))
    }

    /// Writes; says how much from the beginning on was written.
    async fn write_all(
        &self,
        cancel: &Cancel,
        fid: &OwnedFid,
        offset: u64,
        payload: Bytes,
        in_order: bool,
    ) -> Result<u32, Errno> {
        let step = part(payload.len() as u32, self.client.payload()) as usize;
        let mut asked = Vec::with_capacity(payload.len().div_ceil(step.max(1)));
        let (mut written, mut whole, mut failure) = (0, true, None);
        let mut take = |count: u32, reply: Result<_, Errno>| {
            let got = reply.and_then(|packet| match Rmessage::decode(&packet) {
                Ok((_, Rmessage::Rwrite { count: got })) if got <= count => Ok(got),
                _ => Err(Errno::IO),
            });
            match got {
                Ok(got) if whole => {
                    written += got;
                    whole = got == count;
                }
                Ok(_) => {}
                Err(errno) => {
                    failure.get_or_insert(errno);
                    whole = false;
                }
            }
            whole
        };
        let mut at = 0;
        while at < payload.len() {
            let piece = payload.slice(at..payload.len().min(at + step));
            let (count, offset) = (piece.len() as u32, offset.saturating_add(at as u64));
            let write = Tmessage::Twrite { fid: fid.number(), offset, count };
            at += piece.len();
            let one = self.client.ask(&write, piece.into())?;
            if in_order {
                // Each goes to where the end is then.
                if !take(count, self.client.reply(cancel, one).await) {
                    break;
                }
            } else {
                asked.push((count, one));
            }
        }
        for (count, one) in asked {
            let reply = self.client.reply(cancel, one).await;
            take(count, reply);
        }
        match failure {
            Some(errno) if written == 0 => Err(errno),
            _ => Ok(written),
        }
    }

    /// A fid for pages of a mapping of a file that was opened to append.
    async fn for_pages(&self, cancel: &Cancel, file: &File) -> Result<Rc<OwnedFid>, Errno> {
        if let Some(fid) = &*file.pages.borrow() {
            return Ok(Rc::clone(fid));
        }
        let (fid, _) = self.open_fid(cancel, &file.node, open::WRONLY).await?;
        let fid = Rc::new(fid);
        *file.pages.borrow_mut() = Some(Rc::clone(&fid));
        Ok(fid)
    }

    /// FLUSH: a descriptor is closed, and with it go the locks of its process. Every write has been
    /// answered before.
    pub async fn flush(&self, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_flush_in = request.arg()?;
        let file = self.handles.file(arg.fh)?;
        self.unlock_all(&file, arg.lock_owner, false).await;
        Ok(Reply::empty())
    }

    /// RELEASE and RELEASEDIR: the last descriptor has gone.
    pub async fn release(&self, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_release_in = request.arg()?;
        if let Some(Handle::File(file)) = self.handles.remove(arg.fh) {
            if arg.release_flags & FUSE_RELEASE_FLOCK_UNLOCK != 0 {
                self.unlock_all(&file, arg.lock_owner, true).await;
            }
        }
        Ok(Reply::empty())
    }

    /// FSYNC and FSYNCDIR.
    pub async fn fsync(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let arg: fuse_fsync_in = request.arg()?;
        let fid = self.handles.fid(arg.fh)?;
        let datasync = OrZero(arg.fsync_flags & FUSE_FSYNC_FDATASYNC);
        self.client.call(cancel, &Tmessage::Tfsync { fid: fid.number(), datasync }).await?;
        Ok(Reply::empty())
    }

    /// STATFS.
    pub async fn statfs(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let fid = self.nodes.get(request.header.nodeid)?.fid();
        let packet = self.client.call(cancel, &Tmessage::Tstatfs { fid: fid.number() }).await?;
        let Ok((_, Rmessage::Rstatfs { statfs })) = Rmessage::decode(&packet) else {
            return Err(Errno::IO);
        };
        let st = fuse_kstatfs {
            blocks: statfs.blocks,
            bfree: statfs.bfree,
            bavail: statfs.bavail,
            files: statfs.files,
            ffree: statfs.ffree,
            bsize: statfs.bsize,
            namelen: statfs.namelen.min(255),
            frsize: statfs.bsize,
            padding: 0,
            spare: [0; 6],
        };
        Ok(Reply::of(&fuse_statfs_out { st }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_in_as_few_messages_as_can_be() {
        const MIB: u32 = 1 << 20;
        for (size, payload, step) in [
            (0, MIB - 24, 0),
            (4096, MIB - 24, 4096),
            (100, MIB - 24, 4096),
            (MIB - 4096, MIB - 24, MIB - 4096),
            (MIB, MIB - 24, MIB / 2),
            (MIB, MIB / 2, MIB / 2),
            (MIB, MIB, MIB),
            (MIB, MIB / 2 - 24, 352_256),
            (10_000, 4072, 3334),
        ] {
            let got = part(size, payload);
            assert_eq!(got, step, "{size} in {payload}");
            assert!(got <= payload.max(4096));
            if got > 0 {
                assert_eq!(size.div_ceil(got), size.div_ceil(payload));
            }
        }
    }
}
