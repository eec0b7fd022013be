//! A mount under way: what its operations share, the first words with the kernel, and the loop that
//! gives each request a task of its own.
//!
//! ```text
//!  /dev/fuse ─► device ─► a task a request: names, file, folder, attr, xattr, lock
//!                 ▲                  │ nodes · handles · owners · idmap
//!                 └──── replies ─────┤
//!                                    └─► ninep ═ 9P socket ═► the channel's relay
//! ```

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use polyfuse_kernel::*;
use rustix::io::Errno;
use transport::ninep::Qid;
use zerocopy::FromBytes;

use super::abi::{self, Reply, Request};
use super::attr::Attr;
use super::device::{Device, MAX_WRITE};
use super::handle::Handles;
use super::idmap::IdMap;
use super::interrupt::{Cancel, Fate, LOOK, UNSEEN, fate};
use super::lock::Owners;
use super::ninep::{Client, OwnedFid};
use super::node::{LIMIT, Node, Nodes};
use super::notify::Notifier;

/// Requests that the kernel makes of its own accord at once, such as reads ahead of a program: enough
/// to keep a channel with a long way full.
const BACKGROUND: u16 = 64;
/// Pages in one request.
const PAGES: u16 = (MAX_WRITE / 4096) as u16;

/// What is wanted of the kernel where it has it. Not wanted: FUSE_WRITEBACK_CACHE, with which a write
/// succeeds that later fails; FUSE_ASYNC_DIO, with which a direct read cannot be interrupted, not even
/// to die; FUSE_DONT_MASK, as the kernel's umask is the disk's; FUSE_EXPORT_SUPPORT.
const WANTED: u32 = FUSE_ASYNC_READ
    | FUSE_POSIX_LOCKS
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_BIG_WRITES
    | FUSE_FLOCK_LOCKS
    | FUSE_AUTO_INVAL_DATA
    | FUSE_PARALLEL_DIROPS
    | FUSE_MAX_PAGES
    | abi::HANDLE_KILLPRIV_V2
    | abi::INIT_EXT;
/// Wanted where what is told lives for some time at all.
const PLUS: u32 = FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO;

/// How long the kernel may believe what is taken back when it is not true any more: as long as the relay
/// itself believes it, for the sake of what no watch sees.
const LONG: Duration = transport::accel::cache::LONGEST;
/// The protocol's minor version since which a name can be made to be looked at again: Linux 6.2's.
const EXPIRES: u32 = 38;

/// A mount.
pub struct Mount {
    /// The server.
    pub client: Rc<Client>,
    /// What the kernel knows.
    pub nodes: Nodes,
    /// What is open.
    pub handles: Handles,
    /// Who holds locks.
    pub owners: Owners,
    /// Whose files they appear to be.
    pub idmap: IdMap,
    /// How long the kernel may believe what it was told.
    pub lifetime: Duration,
    /// The kernel can be told to look at a name again.
    expires: Cell<bool>,
    notifier: OnceCell<Notifier>,
    /// Requests without an answer that may be interrupted.
    waiting: RefCell<HashMap<u64, Rc<Waiting>>>,
}

struct Waiting {
    cancel: Cancel,
    pid: u32,
    /// Any signal ends it, not only one that ends its process.
    gives_way: bool,
}

impl Mount {
    /// A mount of what `nodes` has the root of.
    pub fn new(
        client: Rc<Client>,
        nodes: Nodes,
        owners: Owners,
        idmap: IdMap,
        lifetime: Duration,
    ) -> Rc<Mount> {
        Rc::new(Mount {
            client,
            nodes,
            handles: Handles::default(),
            owners,
            idmap,
            lifetime,
            expires: Cell::new(false),
            notifier: OnceCell::new(),
            waiting: RefCell::default(),
        })
    }

    /// Answers what the kernel asks, until the mount has gone.
    pub async fn serve(self: Rc<Self>, device: Device) -> std::io::Result<()> {
        let device = Rc::new(device);
        let _ = self.notifier.set(Notifier::start(device.again()?)?);
        let mount = Rc::downgrade(&self);
        self.client.on_take_back(move |names| {
            if let Some(mount) = mount.upgrade() {
                mount.take_back(names);
            }
        });
        let mut buffers = Device::buffers();
        let mut turn = 0_u32;
        while let Some(request) = device.next(&mut buffers).await? {
            let unique = request.header.unique;
            match request.header.opcode {
                FUSE_INIT => device.answer(unique, self.init(&request)),
                FUSE_FORGET => self.forget(&request),
                FUSE_BATCH_FORGET => self.forget_many(&request),
                FUSE_INTERRUPT => self.interrupt(&request),
                FUSE_DESTROY => device.answer(unique, Ok(Reply::empty())),
                _ => self.start(&device, request),
            }
            // Requests may come faster than they are answered.
            turn = turn.wrapping_add(1);
            if turn % 16 == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// The node that `fid` was walked to from `parent` by `name`. The kernel is about to be told of it; of
    /// too many it is asked to forget some.
    pub fn found(
        &self,
        fid: OwnedFid,
        qid: Qid,
        attr: &Attr,
        parent: u64,
        name: &[u8],
    ) -> Rc<Node> {
        let node = self.nodes.found(fid, qid, attr, parent, name);
        self.saw(&node, attr);
        if let Some(notifier) = self.notifier.get() {
            self.nodes.shrink(LIMIT, |parent, name| notifier.forget(parent, name));
        }
        node
    }

    /// How long the kernel may believe attributes, and a name that leads to them.
    pub fn lifetime_of(&self, attr: &Attr) -> Duration {
        let lasting = attr.watched && self.expires.get() && attr.at == self.client.taken_back();
        if lasting { LONG } else { self.lifetime }
    }

    /// Notes what a reply said of a node.
    pub fn saw(&self, node: &Node, attr: &Attr) {
        let lifetime = self.lifetime_of(attr);
        let known = attr.no_xattrs && attr.at == self.client.taken_back();
        self.nodes.saw(node, attr, known.then(|| Instant::now() + lifetime));
    }

    /// What has been said of some names, and of what they lead to, is true no longer.
    fn take_back(&self, names: &[(u64, &[u8])]) {
        let Some(notifier) = self.notifier.get() else { return };
        self.nodes.changed(names, |place, node| {
            notifier.ask_again(node);
            if let (Some((parent, name)), true) = (place, self.expires.get()) {
                notifier.look_again(parent, &name);
            }
        });
    }

    /// A name has been moved. The kernel takes along how long it may believe it, but nobody watches the
    /// new one yet.
    pub fn moved(&self, from: (u64, &[u8]), to: (u64, &[u8])) {
        self.nodes.moved(from, to);
        if let Some(notifier) = self.notifier.get().filter(|_| self.expires.get()) {
            notifier.look_again(to.0, to.1);
        }
    }

    /// INIT: what both can do.
    fn init(&self, request: &Request) -> Result<Reply, Errno> {
        let (arg, rest) = request.take::<fuse_init_in>()?;
        if arg.major != FUSE_KERNEL_VERSION {
            // A kernel of a later protocol asks again, by ours.
            return Ok(Reply::of(&fuse_init_out::default()));
        }
        self.expires.set(arg.minor >= EXPIRES);
        let plus = if self.lifetime.is_zero() { 0 } else { PLUS };
        let flags = arg.flags & (WANTED | plus);
        let more = match u32::read_from_prefix(rest) {
            Ok((more, _)) if flags & abi::INIT_EXT != 0 => more & abi::DIRECT_IO_ALLOW_MMAP,
            _ => 0,
        };
        let mut unused = [0; 8];
        unused[0] = more;
        Ok(Reply::of(&fuse_init_out {
            major: FUSE_KERNEL_VERSION,
            minor: FUSE_KERNEL_MINOR_VERSION.min(arg.minor),
            max_readahead: arg.max_readahead,
            flags,
            max_background: BACKGROUND,
            congestion_threshold: BACKGROUND / 4 * 3,
            max_write: MAX_WRITE,
            time_gran: 1,
            max_pages: PAGES,
            padding: 0,
            unused,
        }))
    }

    fn forget(&self, request: &Request) {
        if let Ok(arg) = request.arg::<fuse_forget_in>() {
            self.nodes.forget(request.header.nodeid, arg.nlookup);
        }
    }

    fn forget_many(&self, request: &Request) {
        let Ok((arg, mut rest)) = request.take::<fuse_batch_forget_in>() else { return };
        for _ in 0..arg.count {
            let Ok((one, left)) = fuse_forget_one::read_from_prefix(rest) else { return };
            self.nodes.forget(one.nodeid, one.nlookup);
            rest = left;
        }
    }

    fn interrupt(self: &Rc<Self>, request: &Request) {
        let Ok(arg) = request.arg::<fuse_interrupt_in>() else { return };
        let Some(waiting) = self.waiting.borrow().get(&arg.unique).cloned() else { return };
        if waiting.gives_way || fate(waiting.pid) == Fate::Dies {
            return waiting.cancel.cancel();
        }
        // The kernel does not say it again where a fatal signal follows.
        let mount = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let since = Instant::now();
            loop {
                tokio::time::sleep(LOOK).await;
                if !mount.waiting.borrow().contains_key(&arg.unique) {
                    return;
                }
                match fate(waiting.pid) {
                    Fate::Lives => {}
                    Fate::Unseen if since.elapsed() < UNSEEN => {}
                    Fate::Dies | Fate::Unseen => return waiting.cancel.cancel(),
                }
            }
        });
    }

    fn start(self: &Rc<Self>, device: &Rc<Device>, request: Request) {
        let waiting = Rc::new(Waiting {
            cancel: Cancel::default(),
            pid: request.header.pid,
            gives_way: request.header.opcode == FUSE_SETLKW,
        });
        let unique = request.header.unique;
        self.waiting.borrow_mut().insert(unique, Rc::clone(&waiting));
        let (mount, device) = (Rc::clone(self), Rc::clone(device));
        tokio::task::spawn_local(async move {
            let result = mount.perform(&waiting.cancel, &request).await;
            mount.waiting.borrow_mut().remove(&unique);
            device.answer(unique, result);
        });
    }

    async fn perform(self: &Rc<Self>, cancel: &Cancel, request: &Request) -> Result<Reply, Errno> {
        match request.header.opcode {
            FUSE_LOOKUP => self.lookup(cancel, request).await,
            FUSE_GETATTR => self.getattr(cancel, request).await,
            FUSE_SETATTR => self.setattr(cancel, request).await,
            FUSE_READLINK => self.readlink(cancel, request).await,
            FUSE_SYMLINK => self.symlink(cancel, request).await,
            FUSE_MKNOD => self.mknod(cancel, request).await,
            FUSE_MKDIR => self.mkdir(cancel, request).await,
            FUSE_UNLINK => self.remove(cancel, request, false).await,
            FUSE_RMDIR => self.remove(cancel, request, true).await,
            FUSE_RENAME => self.rename(cancel, request).await,
            FUSE_RENAME2 => self.rename2(cancel, request).await,
            FUSE_LINK => self.link(cancel, request).await,
            FUSE_OPEN => self.open(cancel, request).await,
            FUSE_CREATE => self.create(cancel, request).await,
            FUSE_READ => self.read(cancel, request).await,
            FUSE_WRITE => self.write(cancel, request).await,
            FUSE_FLUSH => self.flush(request).await,
            FUSE_RELEASE | FUSE_RELEASEDIR => self.release(request).await,
            FUSE_FSYNC | FUSE_FSYNCDIR => self.fsync(cancel, request).await,
            FUSE_STATFS => self.statfs(cancel, request).await,
            FUSE_OPENDIR => self.opendir(cancel, request).await,
            FUSE_READDIR => self.readdir(cancel, request, false).await,
            FUSE_READDIRPLUS => self.readdir(cancel, request, true).await,
            FUSE_GETXATTR => self.xattr(cancel, request, false).await,
            FUSE_LISTXATTR => self.xattr(cancel, request, true).await,
            FUSE_SETXATTR => self.setxattr(cancel, request).await,
            FUSE_REMOVEXATTR => self.removexattr(cancel, request).await,
            FUSE_GETLK => self.getlk(cancel, request).await,
            FUSE_SETLK => self.setlk(cancel, request, false).await,
            FUSE_SETLKW => self.setlk(cancel, request, true).await,
            // FALLOCATE, which becomes EOPNOTSUPP, LSEEK and COPY_FILE_RANGE, which the kernel does by
            // other means, ACCESS, where the server decides, IOCTL, POLL and BMAP: 9P has none of them.
            _ => Err(Errno::NOSYS),
        }
    }
}
