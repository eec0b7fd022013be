//! Random sequences of operations, done through the server on one folder and by system calls on
//! another: both must give the same results and errors all the way, and be the same in the end.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fs_client::{Client, Errno, ROOT};
use libc::{O_APPEND, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC};
use proptest::prelude::*;
use transport::id::Fid;
use transport::ninep::Tmessage;
use transport::ninep::message::AT_REMOVEDIR;

/// A path of up to three names out of few, so that they meet often.
type Names = Vec<u8>;

/// An open file, by its place in the list of those that are open.
type Handle = usize;

#[derive(Clone, Debug)]
enum Op {
    Create(Names, bool, bool, bool),
    Open(Names, bool, bool),
    Close(Handle),
    Write(Handle, u16, u16),
    Read(Handle, u16, u16),
    Truncate(Handle, u16),
    Stat(Handle),
    Mkdir(Names),
    Unlink(Names),
    Rmdir(Names),
    Remove(Names),
    Rename(Names, Names),
    Link(Names, Names),
    Symlink(Names, u8),
    Readlink(Names),
    Chmod(Names, u8),
    TruncatePath(Names, u16),
    StatPath(Names),
    List(Names),
}

fn names() -> impl Strategy<Value = Names> {
    proptest::collection::vec(0u8..4, 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    let handle = || 0usize..6;
    prop_oneof![
        4 => (names(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(n, a, b, c)| Op::Create(n, a, b, c)),
        2 => (names(), any::<bool>(), any::<bool>()).prop_map(|(n, a, b)| Op::Open(n, a, b)),
        1 => handle().prop_map(Op::Close),
        3 => (handle(), 0u16..9000, 0u16..9000).prop_map(|(h, a, b)| Op::Write(h, a, b)),
        2 => (handle(), 0u16..9000, 0u16..9000).prop_map(|(h, a, b)| Op::Read(h, a, b)),
        1 => (handle(), 0u16..9000).prop_map(|(h, a)| Op::Truncate(h, a)),
        2 => handle().prop_map(Op::Stat),
        5 => names().prop_map(Op::Mkdir),
        2 => names().prop_map(Op::Unlink),
        2 => names().prop_map(Op::Rmdir),
        1 => names().prop_map(Op::Remove),
        5 => (names(), names()).prop_map(|(a, b)| Op::Rename(a, b)),
        2 => (names(), names()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => (names(), 0u8..4).prop_map(|(n, t)| Op::Symlink(n, t)),
        1 => names().prop_map(Op::Readlink),
        1 => (names(), any::<u8>()).prop_map(|(n, m)| Op::Chmod(n, m)),
        1 => (names(), 0u16..9000).prop_map(|(n, s)| Op::TruncatePath(n, s)),
        2 => names().prop_map(Op::StatPath),
        2 => names().prop_map(Op::List),
    ]
}

/// What an operation gives, as far as both sides can be alike: text, and data.
type Outcome = Result<(String, Vec<u8>), Errno>;

fn done() -> Outcome {
    Ok((String::new(), Vec::new()))
}

fn name(of: u8) -> String {
    format!("n{of}")
}

fn data(seed: u16, length: u16) -> Vec<u8> {
    (0..length).map(|i| (i ^ seed) as u8).collect()
}

fn mode_of(byte: u8) -> u32 {
    0o600 | u32::from(byte) & 0o177
}

/// The folder by system calls.
struct Local {
    root: PathBuf,
    open: Vec<Option<File>>,
}

fn errno<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| error.raw_os_error().unwrap())
}

impl Local {
    /// A path, if everything above its last name is a folder: no link is followed.
    fn path(&self, names: &[u8]) -> Result<PathBuf, Errno> {
        let mut path = self.root.clone();
        let (last, above) = names.split_last().unwrap();
        for &of in above {
            path.push(name(of));
            if !errno(fs::symlink_metadata(&path))?.is_dir() {
                return Err(libc::ENOTDIR);
            }
        }
        path.push(name(*last));
        Ok(path)
    }

    fn existing(&self, names: &[u8]) -> Result<PathBuf, Errno> {
        let path = self.path(names)?;
        errno(fs::symlink_metadata(&path))?;
        Ok(path)
    }

    fn file(&self, handle: Handle) -> Result<&File, Errno> {
        self.open.get(handle).and_then(Option::as_ref).ok_or(libc::EBADF)
    }

    fn is_read_only_truncation(&self, op: &Op) -> bool {
        let Op::Truncate(handle, _) = op else { return false };
        let Ok(file) = self.file(*handle) else { return false };
        rustix::fs::fcntl_getfl(file).unwrap() & rustix::fs::OFlags::RWMODE
            == rustix::fs::OFlags::RDONLY
    }

    fn keep(&mut self, file: File) -> Outcome {
        self.open.push(Some(file));
        done()
    }

    fn run(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Create(names, exclusive, truncate, append) => {
                let path = self.path(names)?;
                let flags = if *exclusive { O_EXCL } else { 0 } | libc::O_NOFOLLOW;
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .mode(0o644)
                    .custom_flags(
                        flags
                            | if *append { O_APPEND } else { 0 }
                            | if *truncate { O_TRUNC } else { 0 },
                    )
                    .open(path);
                self.keep(errno(file)?)
            }
            Op::Open(names, write, truncate) => {
                let path = self.existing(names)?;
                let file = OpenOptions::new()
                    .read(true)
                    .write(*write)
                    .custom_flags(libc::O_NOFOLLOW | if *truncate { O_TRUNC } else { 0 })
                    .open(path);
                self.keep(errno(file)?)
            }
            Op::Close(handle) => {
                self.file(*handle)?;
                self.open[*handle] = None;
                done()
            }
            Op::Write(handle, offset, length) => {
                let data = data(*offset, *length);
                let n = errno(self.file(*handle)?.write_at(&data, (*offset).into()))?;
                Ok((n.to_string(), Vec::new()))
            }
            Op::Read(handle, offset, length) => {
                let mut data = vec![0; (*length).into()];
                let n = errno(self.file(*handle)?.read_at(&mut data, (*offset).into()))?;
                data.truncate(n);
                Ok((String::new(), data))
            }
            Op::Truncate(handle, size) => {
                let file = self.file(*handle)?;
                if errno(file.metadata())?.is_dir() {
                    return Err(libc::EISDIR);
                }
                errno(file.set_len((*size).into()))?;
                done()
            }
            Op::Stat(handle) => Ok(describe(&errno(self.file(*handle)?.metadata())?)),
            Op::Mkdir(names) => {
                errno(fs::create_dir(self.path(names)?))?;
                errno(fs::set_permissions(self.path(names)?, fs::Permissions::from_mode(0o755)))?;
                done()
            }
            Op::Unlink(names) => unlink(&self.path(names)?, false),
            Op::Rmdir(names) => unlink(&self.path(names)?, true),
            Op::Remove(names) => {
                let path = self.existing(names)?;
                let is_dir = errno(fs::symlink_metadata(&path))?.is_dir();
                unlink(&path, is_dir)
            }
            Op::Rename(from, to) => {
                let (from, to) = (self.path(from)?, self.path(to)?);
                errno(fs::rename(from, to))?;
                done()
            }
            Op::Link(from, to) => {
                let from = self.existing(from)?;
                let to = self.path(to)?;
                errno(fs::hard_link(from, to))?;
                done()
            }
            Op::Symlink(names, target) => {
                errno(symlink(name(*target), self.path(names)?))?;
                done()
            }
            Op::Readlink(names) => {
                let target = errno(fs::read_link(self.existing(names)?))?;
                Ok((String::new(), target.as_os_str().as_bytes().to_vec()))
            }
            Op::Chmod(names, mode) => {
                let path = self.existing(names)?;
                let meta = errno(fs::symlink_metadata(&path))?;
                if meta.is_symlink() {
                    return Err(libc::EOPNOTSUPP);
                }
                let mode = if meta.is_dir() { 0o700 } else { 0 } | mode_of(*mode);
                errno(fs::set_permissions(path, fs::Permissions::from_mode(mode)))?;
                done()
            }
            Op::TruncatePath(names, size) => {
                let path = self.existing(names)?;
                let meta = errno(fs::symlink_metadata(&path))?;
                if meta.is_symlink() {
                    return Err(libc::EINVAL);
                }
                let file = errno(OpenOptions::new().write(true).open(path))?;
                errno(file.set_len((*size).into()))?;
                done()
            }
            Op::StatPath(names) => {
                Ok(describe(&errno(fs::symlink_metadata(self.existing(names)?))?))
            }
            Op::List(names) => {
                let path = self.existing(names)?;
                if !errno(fs::symlink_metadata(&path))?.is_dir() {
                    return Err(libc::ENOTDIR);
                }
                let mut list: Vec<Vec<u8>> = errno(fs::read_dir(path))?
                    .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                    .chain([b".".to_vec(), b"..".to_vec()])
                    .collect();
                list.sort();
                Ok((String::new(), list.join(&b'/')))
            }
        }
    }
}

/// What is the same wherever the folder is. A folder's size is the file system's affair.
fn describe(meta: &fs::Metadata) -> (String, Vec<u8>) {
    text(meta.mode(), meta.nlink(), meta.size(), meta.uid())
}

fn text(mode: u32, nlink: u64, size: u64, uid: u32) -> (String, Vec<u8>) {
    let size = if mode & libc::S_IFMT == libc::S_IFDIR { 0 } else { size };
    (format!("{mode:o} {nlink} {size} {uid}"), Vec::new())
}

fn unlink(path: &Path, dir: bool) -> Outcome {
    errno(if dir { fs::remove_dir(path) } else { rustix::fs::unlink(path).map_err(Into::into) })?;
    done()
}

/// The folder through the server.
struct Remote {
    client: Client,
    open: Vec<Option<Fid>>,
}

impl Remote {
    fn walk(&self, names: &[u8]) -> Result<Fid, Errno> {
        let fid = self.client.walk_from(ROOT, "").unwrap();
        for &of in names {
            if let Err(errno) = self.client.walk_raw(fid, fid, &[name(of).as_bytes()]) {
                self.client.clunk(fid).unwrap();
                return Err(errno);
            }
        }
        Ok(fid)
    }

    /// The folder above the last name, and that.
    fn above(&self, names: &[u8]) -> Result<(Fid, Vec<u8>), Errno> {
        let (last, above) = names.split_last().unwrap();
        let fid = self.walk(above)?;
        let is_dir = self.client.getattr(fid).unwrap().1.mode & libc::S_IFMT == libc::S_IFDIR;
        if is_dir {
            return Ok((fid, name(*last).into_bytes()));
        }
        self.client.clunk(fid).unwrap();
        Err(libc::ENOTDIR)
    }

    fn file(&self, handle: Handle) -> Result<Fid, Errno> {
        self.open.get(handle).copied().flatten().ok_or(libc::EBADF)
    }

    fn keep(&mut self, fid: Fid, result: Result<(), Errno>) -> Outcome {
        if let Err(errno) = result {
            self.client.clunk(fid).unwrap();
            return Err(errno);
        }
        self.open.push(Some(fid));
        done()
    }

    /// Does something in the folder above a name.
    fn in_folder(
        &self,
        names: &[u8],
        f: impl FnOnce(&Client, Fid, &[u8]) -> Result<(), Errno>,
    ) -> Outcome {
        let (fid, name) = self.above(names)?;
        let result = f(&self.client, fid, &name);
        self.client.clunk(fid).unwrap();
        result.and_then(|()| done())
    }

    /// Does something with a fid for a path.
    fn with(&self, names: &[u8], f: impl FnOnce(&Client, Fid) -> Outcome) -> Outcome {
        let fid = self.walk(names)?;
        let result = f(&self.client, fid);
        self.client.clunk(fid).unwrap();
        result
    }

    fn run(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Create(names, exclusive, truncate, append) => {
                let (fid, name) = self.above(names)?;
                let flags = O_RDWR
                    | if *exclusive { O_EXCL } else { 0 }
                    | if *truncate { O_TRUNC } else { 0 }
                    | if *append { O_APPEND } else { 0 };
                let result = self.client.lcreate(fid, &name, flags, 0o644).map(drop);
                self.keep(fid, result)
            }
            Op::Open(names, write, truncate) => {
                let fid = self.walk(names)?;
                let flags =
                    if *write { O_RDWR } else { O_RDONLY } | if *truncate { O_TRUNC } else { 0 };
                let result = self.client.lopen(fid, flags).map(drop);
                self.keep(fid, result)
            }
            Op::Close(handle) => {
                self.client.clunk(self.file(*handle)?)?;
                self.open[*handle] = None;
                done()
            }
            Op::Write(handle, offset, length) => {
                let data = data(*offset, *length);
                let n = self.client.write(self.file(*handle)?, (*offset).into(), &data)?;
                Ok((n.to_string(), Vec::new()))
            }
            Op::Read(handle, offset, length) => {
                let fid = self.file(*handle)?;
                Ok((String::new(), self.client.read(fid, (*offset).into(), (*length).into())?))
            }
            Op::Truncate(handle, size) => {
                self.client.truncate(self.file(*handle)?, (*size).into())?;
                done()
            }
            Op::Stat(handle) => stat(&self.client, self.file(*handle)?),
            Op::Mkdir(names) => self.in_folder(names, |c, fid, name| c.mkdir(fid, name, 0o755)),
            Op::Unlink(names) => self.in_folder(names, |c, fid, name| c.unlinkat(fid, name, 0)),
            Op::Rmdir(names) => {
                self.in_folder(names, |c, fid, name| c.unlinkat(fid, name, AT_REMOVEDIR))
            }
            Op::Remove(names) => {
                let fid = self.walk(names)?;
                self.client.ok(Tmessage::Tremove { fid })?;
                done()
            }
            Op::Rename(from, to) => {
                let (old, oldname) = self.above(from)?;
                let result = self
                    .in_folder(to, |c, new, newname| c.renameat((old, &oldname), (new, newname)));
                self.client.clunk(old).unwrap();
                result
            }
            Op::Link(from, to) => {
                let fid = self.walk(from)?;
                let result = self.in_folder(to, |c, dfid, name| c.link(fid, dfid, name));
                self.client.clunk(fid).unwrap();
                result
            }
            Op::Symlink(names, target) => {
                self.in_folder(names, |c, fid, at| c.symlink(fid, at, name(*target).as_bytes()))
            }
            Op::Readlink(names) => self.with(names, |c, fid| Ok((String::new(), c.readlink(fid)?))),
            Op::Chmod(names, mode) => self.with(names, |c, fid| {
                let is_dir = c.getattr(fid)?.1.mode & libc::S_IFMT == libc::S_IFDIR;
                c.chmod(fid, if is_dir { 0o700 } else { 0 } | mode_of(*mode))?;
                done()
            }),
            Op::TruncatePath(names, size) => self.with(names, |c, fid| {
                c.truncate(fid, (*size).into())?;
                done()
            }),
            Op::StatPath(names) => self.with(names, stat),
            Op::List(names) => self.with(names, |c, fid| {
                let is_dir = c.getattr(fid)?.1.mode & libc::S_IFMT == libc::S_IFDIR;
                if !is_dir {
                    return Err(libc::ENOTDIR);
                }
                c.lopen(fid, O_RDONLY)?;
                let mut list = c.names(fid, 300)?;
                list.sort();
                Ok((String::new(), list.join(&b'/')))
            }),
        }
    }
}

fn stat(client: &Client, fid: Fid) -> Outcome {
    let (_, a) = client.getattr(fid)?;
    Ok(text(a.mode, a.nlink, a.size, a.uid))
}

/// Everything in a folder.
fn tree(root: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        };
        let relative = path.strip_prefix(root).unwrap().to_path_buf();
        if !relative.as_os_str().is_empty() {
            seen.push((relative, describe(&meta).0, content));
        }
    }
    seen.sort();
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_server_does_what_the_disk_does(ops in proptest::collection::vec(op(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        rustix::process::umask(rustix::fs::Mode::empty());
        // So few descriptors that nodes are opened again all the time.
        let limits = server::fs::Limits { handles: 3, ..Default::default() };
        let export = server::fs::Export::open(&ours.canonicalize().unwrap(), false).unwrap();
        let client = Client::with(export, server::fs::Workers::new(limits));
        let mut remote = Remote { client, open: Vec::new() };
        let mut local = Local { root: theirs.clone(), open: Vec::new() };
        for (at, op) in ops.iter().enumerate() {
            // ftruncate(2) of a file open for reading is refused by the client's own kernel, while
            // open(2) with O_RDONLY and O_TRUNC has to get through.
            if local.is_read_only_truncation(op) {
                continue;
            }
            let (got, expected) = (remote.run(op), local.run(op));
            prop_assert_eq!(got, expected, "operation {}: {:?}", at, op);
        }
        prop_assert_eq!(tree(&ours), tree(&theirs));
    }
}
