//! Names and what they stand for: LOOKUP, and what makes, moves and removes names.

use polyfuse_kernel::{
    fuse_entry_out, fuse_link_in, fuse_mkdir_in, fuse_mknod_in, fuse_rename_in, fuse_rename2_in,
};
use rustix::io::Errno;
use transport::id::Fid;
use transport::ninep::message::AT_REMOVEDIR;
use transport::ninep::{Qid, Rmessage, Tmessage};

use super::abi::{self, Reply, Request};
use super::attr::{Attr, decode_device};
use super::interrupt::Cancel;
use super::mount::Mount;
use super::ninep::OwnedFid;
use super::node::Node;

/// The mode's set-gid bit.
const SGID: u32 = 0o2000;
/// The longest target of a symbolic link (limits.h: `PATH_MAX` less its NUL).
const TARGET: usize = 4095;

impl Mount {
    /// Walks to `name` and asks what is there: two round trips.
    pub async fn look(
        &self,
        cancel: &Cancel,
        parent: Fid,
        name: &[u8],
    ) -> Result<(OwnedFid, Qid, Attr), Errno> {
        let at = self.client.taken_back();
        let (fid, _) = self.client.walk(cancel, parent, Some(name)).await?;
        let (qid, attr) = self.client.getattr(cancel, fid.number()).await?;
        Ok((fid, qid, Attr { at, ..attr }))
    }

    /// What the kernel is told of a node.
    pub fn entry(&self, node: &Node, qid: Qid, attr: &Attr) -> fuse_entry_out {
        let lifetime = self.lifetime_of(attr);
        // A folder's own watch does not report its name.
        let named = if attr.is_dir() { self.lifetime } else { lifetime };
        fuse_entry_out {
            nodeid: node.id,
            // Node numbers are not used again.
            generation: 0,
            entry_valid: named.as_secs(),
            attr_valid: lifetime.as_secs(),
            entry_valid_nsec: named.subsec_nanos(),
            attr_valid_nsec: lifetime.subsec_nanos(),
            attr: self.fuse_attr(qid, attr),
        }
    }

    /// LOOKUP.
    pub async fn lookup(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let parent = self.nodes.get(request.header.nodeid)?;
        let name = request.name()?;
        match self.look(cancel, parent.fid().number(), name).await {
            Ok((fid, qid, attr)) => {
                let node = self.found(fid, qid, &attr, parent.id, name);
                Ok(Reply::of(&self.entry(&node, qid, &attr)))
            }
            // That it is not there is known for as long as what is there.
            Err(Errno::NOENT) if !self.lifetime.is_zero() => Ok(Reply::of(&fuse_entry_out {
                entry_valid: self.lifetime.as_secs(),
                entry_valid_nsec: self.lifetime.subsec_nanos(),
                ..fuse_entry_out::default()
            })),
            Err(errno) => Err(errno),
        }
    }

    /// The group of something new in `parent`: that folder's where it says so, as on a disk.
    pub fn group_in(&self, parent: &Node, request: &Request) -> u32 {
        match parent.mode.get() & SGID {
            0 => self.idmap.new_group(request.header.gid),
            _ => parent.gid.get(),
        }
    }

    /// Makes something by `request`, then looks at what has been made.
    async fn make(
        &self,
        cancel: &Cancel,
        parent: &Node,
        name: &[u8],
        request: &Tmessage<'_>,
    ) -> Result<Reply, Errno> {
        self.client.call(cancel, request).await?;
        let (fid, qid, attr) = self.look(cancel, parent.fid().number(), name).await?;
        let node = self.found(fid, qid, &attr, parent.id, name);
        Ok(Reply::of(&self.entry(&node, qid, &attr)))
    }

    /// MKNOD.
    pub async fn mknod(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_mknod_in>()?;
        let (name, _) = abi::name(rest)?;
        let parent = self.nodes.get(request.header.nodeid)?;
        let folder = parent.fid();
        let (major, minor) = decode_device(arg.rdev);
        let (dfid, mode, gid) = (folder.number(), arg.mode, self.group_in(&parent, request));
        let make = Tmessage::Tmknod { dfid, name, mode, major, minor, gid };
        self.make(cancel, &parent, name, &make).await
    }

    /// MKDIR.
    pub async fn mkdir(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_mkdir_in>()?;
        let (name, _) = abi::name(rest)?;
        let parent = self.nodes.get(request.header.nodeid)?;
        let folder = parent.fid();
        let (dfid, mode) = (folder.number(), arg.mode & 0o7777);
        let make = Tmessage::Tmkdir { dfid, name, mode, gid: self.group_in(&parent, request) };
        self.make(cancel, &parent, name, &make).await
    }

    /// SYMLINK: the name, then the target.
    pub async fn symlink(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (name, rest) = abi::name(&request.body)?;
        let (target, _) = abi::name(rest)?;
        let parent = self.nodes.get(request.header.nodeid)?;
        let folder = parent.fid();
        let (dfid, gid) = (folder.number(), self.group_in(&parent, request));
        let make = Tmessage::Tsymlink { dfid, name, target, gid };
        self.make(cancel, &parent, name, &make).await
    }

    /// LINK: the node gets another name.
    pub async fn link(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_link_in>()?;
        let (name, _) = abi::name(rest)?;
        let parent = self.nodes.get(request.header.nodeid)?;
        let (folder, node) = (parent.fid(), self.nodes.get(arg.oldnodeid)?.fid());
        let link = Tmessage::Tlink { dfid: folder.number(), fid: node.number(), name };
        self.make(cancel, &parent, name, &link).await
    }

    /// READLINK.
    pub async fn readlink(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let fid = self.nodes.get(request.header.nodeid)?.fid();
        let packet = self.client.call(cancel, &Tmessage::Treadlink { fid: fid.number() }).await?;
        match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rreadlink { target }))
                if !target.is_empty() && target.len() <= TARGET && !target.contains(&0) =>
            {
                Ok(Reply { head: target.to_vec(), pieces: Vec::new() })
            }
            _ => Err(Errno::IO),
        }
    }

    /// UNLINK and RMDIR.
    pub async fn remove(
        &self,
        cancel: &Cancel,
        request: &Request,
        folder: bool,
    ) -> Result<Reply, Errno> {
        let parent = self.nodes.get(request.header.nodeid)?.fid();
        let flags = if folder { AT_REMOVEDIR } else { 0 };
        let (dirfid, name) = (parent.number(), request.name()?);
        self.client.call(cancel, &Tmessage::Tunlinkat { dirfid, name, flags }).await?;
        Ok(Reply::empty())
    }

    /// RENAME.
    pub async fn rename(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_rename_in>()?;
        self.rename_to(cancel, request, arg.newdir, rest).await
    }

    /// RENAME2. 9P's rename replaces what is there and cannot exchange: to look first would be a
    /// promise that another client could make a lie of.
    pub async fn rename2(&self, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_rename2_in>()?;
        if arg.flags != 0 {
            return Err(Errno::INVAL);
        }
        self.rename_to(cancel, request, arg.newdir, rest).await
    }

    async fn rename_to(
        &self,
        cancel: &Cancel,
        request: &Request,
        to: u64,
        names: &[u8],
    ) -> Result<Reply, Errno> {
        let (oldname, rest) = abi::name(names)?;
        let (newname, _) = abi::name(rest)?;
        let from = self.nodes.get(request.header.nodeid)?;
        let to = self.nodes.get(to)?;
        let (old, new) = (from.fid(), to.fid());
        let (olddirfid, newdirfid) = (old.number(), new.number());
        let rename = Tmessage::Trenameat { olddirfid, oldname, newdirfid, newname };
        self.client.call(cancel, &rename).await?;
        self.moved((from.id, oldname), (to.id, newname));
        Ok(Reply::empty())
    }
}
