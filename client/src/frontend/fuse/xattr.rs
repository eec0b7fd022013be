//! Extended attributes: GETXATTR, LISTXATTR, SETXATTR, REMOVEXATTR.
//!
//! A value is read through a fid of its own and set by the clunk of one (diod `protocol.md` § xattrwalk,
//! xattrcreate). A folder that has none at all is asked once: its answer for the root is passed on as
//! ENOSYS, after which the kernel answers by itself.

use polyfuse_kernel::{fuse_getxattr_in, fuse_getxattr_out, fuse_setxattr_in};
use rustix::io::Errno;
use transport::id::Fid;
use transport::ninep::{Rmessage, Tmessage};

use super::abi::{self, ROOT, Reply, Request};
use super::interrupt::Cancel;
use super::mount::Mount;

/// The largest value and the largest list (xattr(7): `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LARGEST: u64 = 64 << 10;
/// setxattr(2)'s flag, with which a size of 0 removes.
const REPLACE: u32 = 2;

impl Mount {
    /// GETXATTR, and LISTXATTR where `list` says so.
    pub async fn xattr(
        &self,
        cancel: &Cancel,
        request: &Request,
        list: bool,
    ) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_getxattr_in>()?;
        let name = if list { &[][..] } else { abi::name(rest)?.0 };
        let node = self.nodes.get(request.header.nodeid)?;
        if node.has_no_xattrs() {
            return match (list, arg.size) {
                (false, _) => Err(Errno::NODATA),
                (true, 0) => Ok(Reply::of(&fuse_getxattr_out { size: 0, padding: 0 })),
                (true, _) => Ok(Reply::empty()),
            };
        }
        let fid = node.subject();
        let (value, size) = match self.client.xattr(cancel, fid.number(), name).await {
            Err(Errno::OPNOTSUPP) if list && request.header.nodeid == ROOT => {
                return Err(Errno::NOSYS);
            }
            walked => walked?,
        };
        if arg.size == 0 {
            let size = u32::try_from(size).map_err(|_| Errno::TOOBIG)?;
            return Ok(Reply::of(&fuse_getxattr_out { size, padding: 0 }));
        }
        if size > LARGEST {
            return Err(Errno::TOOBIG);
        }
        if size > arg.size.into() {
            return Err(Errno::RANGE);
        }
        self.value(cancel, value.number(), size).await
    }

    async fn value(&self, cancel: &Cancel, fid: Fid, size: u64) -> Result<Reply, Errno> {
        let mut pieces = Vec::new();
        let mut offset = 0;
        while offset < size {
            let count = self.client.payload().min((size - offset) as u32);
            let packet = self.client.call(cancel, &Tmessage::Tread { fid, offset, count }).await?;
            match Rmessage::decode(&packet) {
                Ok((_, Rmessage::Rread { count: got })) if (1..=count).contains(&got) => {
                    offset += u64::from(got);
                }
                _ => return Err(Errno::IO),
            }
            pieces.extend(packet.body);
        }
        Ok(Reply::payload(pieces))
    }

    /// SETXATTR: the name, then the value.
    pub async fn setxattr(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_setxattr_in>()?;
        let (name, value) = abi::name(rest)?;
        let value = value.get(..arg.size as usize).ok_or(Errno::INVAL)?;
        // 9P has no words for a replacement by an empty value: they mean removal.
        if value.is_empty() && arg.flags & REPLACE != 0 {
            let fid = self.nodes.get(request.header.nodeid)?.subject();
            self.client.xattr(cancel, fid.number(), name).await?;
            return self.set(cancel, request, name, value, 0).await;
        }
        self.set(cancel, request, name, value, arg.flags).await
    }

    /// REMOVEXATTR.
    pub async fn removexattr(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        self.set(cancel, request, request.name()?, &[], REPLACE).await
    }

    async fn set(
        &self,
        cancel: &Cancel,
        request: &Request,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<Reply, Errno> {
        let node = self.nodes.get(request.header.nodeid)?;
        node.may_have_xattrs();
        let (sink, _) = self.client.walk(cancel, node.fid().number(), None).await?;
        let fid = sink.number();
        let size = value.len() as u64;
        self.client.call(cancel, &Tmessage::Txattrcreate { fid, name, size, flags }).await?;
        let mut offset = 0;
        while offset < value.len() {
            let count = (value.len() - offset).min(self.client.payload() as usize);
            let piece = bytes::Bytes::copy_from_slice(&value[offset..offset + count]);
            let write = Tmessage::Twrite { fid, offset: offset as u64, count: count as u32 };
            let asked = self.client.ask(&write, piece.into())?;
            let packet = self.client.reply(cancel, asked).await?;
            match Rmessage::decode(&packet) {
                Ok((_, Rmessage::Rwrite { count: got })) if got as usize == count => {}
                _ => return Err(Errno::IO),
            }
            offset += count;
        }
        sink.clunk().await?;
        node.may_have_xattrs();
        Ok(Reply::empty())
    }
}
