//! How a node's extended attributes are reached, on kernels old and new.
//!
//! There is no /proc to name a descriptor by, and `O_PATH` descriptors have no attributes. So a node
//! is named by its folder's descriptor and its bare name: by the `*xattrat` calls, before Linux 6.13
//! from a working folder that is this thread's own, and where that cannot be had by a descriptor
//! that is opened for reading. None of them ever follows a symbolic link. A node whose name is gone
//! is reached by a file that is open on it.
//!
//! Concurrency: it is checked that the name is the node's before it is used; a name that changes in
//! between is another entry of the same folder, never one outside. Working folders are a thread's.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    FileType, OFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr,
    llistxattr, lremovexattr, lsetxattr,
};
use rustix::process::{chdir, fchdir};

use super::errno::{Errno, Result};
use super::fid::OpenFile;
use super::node::Node;
use super::session::Session;
use crate::sys;

/// One call, whatever it names the node by. All give a size; those that set give 0.
#[derive(Debug)]
pub enum Call<'a> {
    /// The value of an attribute.
    Get(&'a CStr, &'a mut [u8]),
    /// The names, each with a NUL behind it.
    List(&'a mut [u8]),
    /// Sets one, with flags of setxattr(2).
    Set(&'a CStr, &'a [u8], u32),
    /// Removes one.
    Remove(&'a CStr),
}

impl Call<'_> {
    fn by_descriptor(&mut self, fd: BorrowedFd<'_>) -> Result<usize> {
        match self {
            Call::Get(name, to) => fgetxattr(fd, *name, &mut **to),
            Call::List(to) => flistxattr(fd, &mut **to),
            Call::Set(name, value, flags) => {
                fsetxattr(fd, *name, value, XattrFlags::from_bits_retain(*flags)).map(|()| 0)
            }
            Call::Remove(name) => fremovexattr(fd, *name).map(|()| 0),
        }
    }

    fn by_entry(&mut self, dir: BorrowedFd<'_>, entry: &CStr) -> Result<usize> {
        match self {
            Call::Get(name, to) => sys::getxattrat(dir, entry, name, to),
            Call::List(to) => sys::listxattrat(dir, entry, to),
            Call::Set(name, value, flags) => {
                sys::setxattrat(dir, entry, name, value, *flags).map(|()| 0)
            }
            Call::Remove(name) => sys::removexattrat(dir, entry, name).map(|()| 0),
        }
    }

    /// By the folder that the entry is in, as the kernel can; nothing where it cannot.
    fn by_folder(&mut self, dir: BorrowedFd<'_>, entry: &CStr) -> Option<Result<usize>> {
        if !NO_CALLS.load(Ordering::Relaxed) {
            match self.by_entry(dir, entry) {
                Err(Errno::NOSYS) => NO_CALLS.store(true, Ordering::Relaxed),
                done => return Some(done),
            }
        }
        in_folder(dir, || self.by_name(entry))
    }

    /// `entry` is a bare name, in the working folder.
    fn by_name(&mut self, entry: &CStr) -> Result<usize> {
        match self {
            Call::Get(name, to) => lgetxattr(entry, *name, &mut **to),
            Call::List(to) => llistxattr(entry, &mut **to),
            Call::Set(name, value, flags) => {
                lsetxattr(entry, *name, value, XattrFlags::from_bits_retain(*flags)).map(|()| 0)
            }
            Call::Remove(name) => lremovexattr(entry, *name).map(|()| 0),
        }
    }
}

/// A node, as its attributes are reached.
pub enum At<'s> {
    /// By an open file.
    File(Arc<OpenFile>),
    /// By its folder and name. The granted folder is its own `.`.
    Entry(&'s Session, Arc<Node>, Arc<OwnedFd>, CString),
}

/// Whether the kernel is known not to have the `*xattrat` calls.
static NO_CALLS: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread's working folder is its own; unknown at first.
    static OWN_FOLDER: Cell<Option<bool>> = const { Cell::new(None) };
}

impl<'s> At<'s> {
    /// By `open`, where that is there, otherwise by name.
    pub fn find(s: &'s Session, open: Option<Arc<OpenFile>>, node: &Arc<Node>) -> Result<At<'s>> {
        if let Some(file) = open {
            return Ok(At::File(file));
        }
        let found = match node.place() {
            Some(place) => s.tree.verify(node, &place).map(|dir| (dir, place.name)),
            None if s.tree.is_root(node) => s.tree.handle(node).map(|dir| (dir, b"."[..].into())),
            None => Err(Errno::STALE),
        };
        match found {
            Ok((dir, name)) => {
                let name = CString::new(&*name).map_err(|_| Errno::INVAL)?;
                Ok(At::Entry(s, node.clone(), dir, name))
            }
            Err(errno) => node.open_file(|_| true).map(At::File).ok_or(errno),
        }
    }

    /// Makes the call.
    pub fn call(&self, mut call: Call<'_>) -> Result<usize> {
        let (s, node, dir, entry) = match self {
            At::File(file) => return call.by_descriptor(file.fd.as_fd()),
            At::Entry(s, node, dir, entry) => (s, node, dir.as_fd(), entry),
        };
        if let Some(done) = call.by_folder(dir, entry) {
            return done;
        }
        match node.kind {
            FileType::RegularFile | FileType::Directory => {
                let (fd, _) = s.tree.open(node, OFlags::RDONLY)?;
                call.by_descriptor(fd.as_fd())
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}

/// The names of an entry's extended attributes, without looking whether it is what it was. `OPNOTSUPP`
/// also where there is no way that does not open it.
pub fn list(dir: BorrowedFd<'_>, entry: &CStr, to: &mut [u8]) -> Result<usize> {
    Call::List(to).by_folder(dir, entry).unwrap_or(Err(Errno::OPNOTSUPP))
}

/// Does something with `dir` as this thread's working folder; nothing where it has none of its own.
pub(super) fn in_folder<T>(
    dir: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T>,
) -> Option<Result<T>> {
    own_folder().then(|| {
        fchdir(dir)?;
        let done = work();
        // A folder that is somebody's working folder cannot be unmounted.
        chdir(c"/")?;
        done
    })
}

/// Gives this thread a working folder of its own, once.
fn own_folder() -> bool {
    OWN_FOLDER.with(|own| match own.get() {
        Some(own) => own,
        None => {
            let done = sys::own_working_folder().is_ok();
            own.set(Some(done));
            done
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Export, Limits, Replies, Workers};
    use rustix::fs::symlink;
    use transport::id::Msize;
    use transport::ninep::Packet;

    struct Nobody;

    impl Replies for Nobody {
        fn reply(&self, _: Packet) {}
    }

    #[test]
    fn every_way_leads_to_the_same_attributes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        symlink("f", dir.path().join("l")).unwrap();
        let export = Export::open(&dir.path().canonicalize().unwrap(), false).unwrap();
        let workers = Workers::new(Limits::default());
        let s = Session::new(export, workers, Arc::new(Nobody), Msize::MIN);
        let look = |name: &[u8]| {
            s.tree.look(s.tree.root(), super::super::node::Name::new(name).unwrap()).unwrap().node
        };
        let nodes = [look(b"f"), look(b"d"), s.tree.root().clone()];
        let name = c"user.way";
        if At::find(&s, None, &nodes[0]).unwrap().call(Call::Set(name, b"", 0)).is_err() {
            eprintln!("no extended attributes here");
            return;
        }
        for (way, folder) in [(false, None), (true, None), (true, Some(false))] {
            NO_CALLS.store(way, Ordering::Relaxed);
            OWN_FOLDER.set(folder);
            for node in &nodes {
                let call = |call: Call<'_>| At::find(&s, None, node)?.call(call);
                let mut to = [0; 64];
                assert_eq!(call(Call::Set(name, b"value", 0)), Ok(0));
                assert_eq!(call(Call::Get(name, &mut to)), Ok(5));
                assert_eq!(&to[..5], b"value");
                assert_eq!(call(Call::Set(name, b"v", 1)), Err(Errno::EXIST));
                let listed = call(Call::List(&mut to)).unwrap();
                assert!(to[..listed].split(|&b| b == 0).any(|one| one == b"user.way"));
                assert_eq!(call(Call::Get(name, &mut to[..2])), Err(Errno::RANGE));
                assert_eq!(call(Call::Remove(name)), Ok(0));
                assert_eq!(call(Call::Get(name, &mut to)), Err(Errno::NODATA));
            }
            // A link's own, of which a user has none; never those of where it leads.
            let link = At::find(&s, None, &look(b"l")).unwrap();
            assert!(link.call(Call::Set(name, b"v", 0)).is_err());
            let at = At::find(&s, None, &nodes[0]).unwrap();
            assert_eq!(at.call(Call::Get(name, &mut [0; 9])), Err(Errno::NODATA));
        }
    }
}
