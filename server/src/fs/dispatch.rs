//! Message to operation.
//!
//! Three looks at a message: which fids it names ([`fids`], in the order in which messages come),
//! whether it is answered on the spot ([`super::spot`]), and the operation itself ([`carry_out`],
//! mostly on a worker). One row a message; what an operation does stands in its family's file.

use std::sync::Arc;

use bytes::Bytes;
use transport::id;
use transport::ninep::{Rmessage, Tmessage};

use super::errno::{Errno, Result};
use super::fid::{Fid, Fids};
use super::hints::Hints;
use super::inflight::Request;
use super::session::Session;
use super::{attr, create, dir, io, link, lock, rename, spot, walk, xattr};

/// The fids that a message names first and second, as they were when it came.
pub type Subjects = [Option<Arc<Fid>>; 2];

/// What an operation answers with.
#[derive(Debug)]
pub enum Answer {
    /// A message that borrows nothing.
    Message(Rmessage<'static>),
    /// A message and its payload.
    Payload(Rmessage<'static>, Bytes),
    /// `Rreadlink`.
    Target(Vec<u8>),
    /// `Rgetlock`.
    Lock {
        /// Kind of the lock in the way, or none.
        kind: u8,
        /// Its first byte.
        start: u64,
        /// Its length; 0 to the end.
        length: u64,
        /// Whose it is.
        proc_id: u32,
        /// On which client.
        client_id: Vec<u8>,
    },
    /// Nothing yet: try again later.
    Wait,
}

impl From<Rmessage<'static>> for Answer {
    fn from(message: Rmessage<'static>) -> Answer {
        Answer::Message(message)
    }
}

/// The fids that a message names; `EBADF` where there is none of that number. Those that it ends
/// are out of the table from here on.
pub fn fids(table: &Fids, message: &Tmessage<'_>) -> Result<Subjects> {
    if let Tmessage::Tclunk { fid } | Tmessage::Tremove { fid } = *message {
        return Ok([Some(table.take(fid).ok_or(Errno::BADF)?), None]);
    }
    let find = |fid: Option<id::Fid>| fid.map(|fid| table.find(fid).ok_or(Errno::BADF)).transpose();
    let [first, second] = message.fids();
    Ok([find(first)?, find(second)?])
}

/// Carries a request out, on a worker. May wait for disks.
pub fn work(s: &Session, request: &Request, hints: &mut Hints) -> Result<Answer> {
    // It has been decoded before; `EPROTO` is never seen.
    let (_, message) = Tmessage::decode(&request.packet).map_err(|_| Errno::PROTO)?;
    let class = request.fids[0].as_ref().and_then(|fid| spot::class(s, &message, fid));
    let body = &request.packet.body;
    let mut work = || carry_out(s, &message, &request.fids, body, request.done, hints);
    match class {
        Some((disk, what)) => disk.time(what, work),
        None => work(),
    }
}

/// Carries a request out whose payload is `body`, of which `done` bytes have been written already.
pub fn carry_out(
    s: &Session,
    message: &Tmessage<'_>,
    subjects: &Subjects,
    body: &[Bytes],
    done: u32,
    hints: &mut Hints,
) -> Result<Answer> {
    let fid = || subjects[0].as_ref().ok_or(Errno::BADF);
    let second = || subjects[1].as_ref().ok_or(Errno::BADF);
    let answer: Rmessage<'static> = match *message {
        Tmessage::Tattach { fid, afid, aname, .. } => walk::attach(s, fid, afid, aname, hints)?,
        Tmessage::Twalk { fid: number, newfid, names } => {
            walk::walk(s, fid()?, number, newfid, names.as_slice(), hints)?
        }
        Tmessage::Tclunk { .. } => {
            s.retire(fid()?)?;
            Rmessage::Rclunk
        }
        Tmessage::Tlopen { flags, .. } => io::lopen(s, fid()?, flags)?,
        Tmessage::Tread { offset, count, .. } => return io::read(s, fid()?, offset, count),
        Tmessage::Twrite { offset, .. } => io::write(s, fid()?, offset, body, done)?,
        Tmessage::Tfsync { datasync, .. } => io::fsync(fid()?, datasync.0 != 0)?,
        Tmessage::Treaddir { offset, count, .. } => {
            return dir::readdir(s, fid()?, offset, count, hints);
        }
        Tmessage::Tgetattr { mask, .. } => attr::getattr(s, fid()?, mask)?,
        Tmessage::Tsetattr { set, .. } => attr::setattr(s, fid()?, &set)?,
        Tmessage::Tstatfs { .. } => attr::statfs(s, fid()?)?,
        Tmessage::Tlcreate { name, flags, mode, gid, .. } => {
            create::lcreate(s, fid()?, name, flags, mode, gid)?
        }
        Tmessage::Tmkdir { name, mode, gid, .. } => create::mkdir(s, fid()?, name, mode, gid)?,
        Tmessage::Tsymlink { name, target, gid, .. } => {
            create::symlink(s, fid()?, name, target, gid)?
        }
        Tmessage::Tmknod { name, mode, gid, .. } => create::mknod(s, fid()?, name, mode, gid)?,
        Tmessage::Tlink { name, .. } => link::link(s, second()?, fid()?, name)?,
        Tmessage::Treadlink { .. } => return link::readlink(s, fid()?),
        Tmessage::Trename { name, .. } => rename::rename(s, fid()?, second()?, name)?,
        Tmessage::Trenameat { oldname, newname, .. } => {
            rename::renameat(s, (fid()?, oldname), (second()?, newname))?
        }
        Tmessage::Tunlinkat { name, flags, .. } => rename::unlinkat(s, fid()?, name, flags)?,
        Tmessage::Tremove { .. } => rename::remove(s, fid()?)?,
        Tmessage::Txattrwalk { newfid, name, .. } => xattr::walk(s, fid()?, newfid, name)?,
        Tmessage::Txattrcreate { name, size, flags, .. } => {
            xattr::create(s, fid()?, name, size, flags)?
        }
        Tmessage::Tlock { kind, flags, start, length, proc_id, client_id, .. } => {
            let owner = lock::OwnerName { client_id, proc_id };
            return lock::lock(s, fid()?, kind, flags, (start, length), owner);
        }
        Tmessage::Tgetlock { kind, start, length, proc_id, client_id, .. } => {
            let owner = lock::OwnerName { client_id, proc_id };
            return lock::getlock(s, fid()?, kind, (start, length), owner);
        }
        // These have been answered when they came in.
        Tmessage::Tversion { .. } | Tmessage::Tauth { .. } | Tmessage::Tflush { .. } => {
            return Err(Errno::OPNOTSUPP);
        }
        Tmessage::Never(never, _) => match never {},
    };
    Ok(answer.into())
}
