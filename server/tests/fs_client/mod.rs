//! A small 9P client in this process, for the tests of the file servers: one method a message, and the
//! errno where the server gives one. It talks to a session in this process, or to a server at a socket.

// Every test file uses a part of it, and a mistake of the server's is to end the test.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use server::backend::Dialect;
use server::backend::dialect::Translated;
use server::fs::{Export, Limits, Replies, Session, SessionError, Workers};
use transport::id::{Fid, Msize, Tag};
use transport::ninep::codec::{Reader, Wire};
use transport::ninep::framer::Assembler;
use transport::ninep::message::{
    Attributes, Entry, Names, OrZero, SetAttributes, Statfs, VERSION, lock, setattr,
};
use transport::ninep::{Framer, Packet, Qid, Rmessage, Tmessage};

/// How long a reply may take before a test fails: a bound on hangs, never part of a verdict.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An errno.
pub type Errno = i32;

/// Name, offset, kind and qid.
pub type DirEntry = (Vec<u8>, u64, u8, Qid);

/// Replies as they came.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u16, Packet>,
    order: Vec<(u16, u8)>,
    ended: bool,
}

impl Replies for Inbox {
    fn reply(&self, reply: Packet) {
        let header = reply.header().unwrap();
        assert_eq!(header.size as usize, reply.len());
        assert!(reply.body.iter().all(|piece| !piece.is_empty()));
        let mut state = self.state.lock().unwrap();
        state.order.push((header.tag.0, header.kind));
        let old = state.waiting.insert(header.tag.0, reply);
        assert!(old.is_none(), "two replies for tag {}", header.tag.0);
        self.came.notify_all();
    }
}

impl Inbox {
    /// The reply for a tag.
    pub fn take(&self, tag: u16) -> Packet {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(packet) = state.waiting.remove(&tag) {
                return packet;
            }
            assert!(!state.ended, "no reply for tag {tag}: the server has ended");
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no reply for tag {tag}");
            state = self.came.wait_timeout(state, left).unwrap().0;
        }
    }

    /// There will be no more.
    fn end(&self) {
        self.state.lock().unwrap().ended = true;
        self.came.notify_all();
    }

    /// Waits until the server has ended.
    pub fn wait_for_end(&self) {
        let state = self.state.lock().unwrap();
        let waited = self.came.wait_timeout_while(state, PATIENCE, |state| !state.ended).unwrap();
        assert!(waited.0.ended, "the server goes on");
    }

    /// Whether there is a reply for a tag now.
    pub fn has(&self, tag: u16) -> bool {
        self.state.lock().unwrap().waiting.contains_key(&tag)
    }

    /// Tag and type of every reply so far.
    pub fn order(&self) -> Vec<(u16, u8)> {
        self.state.lock().unwrap().order.clone()
    }
}

/// What a client talks to.
pub enum Far {
    /// A session in this process.
    Here(Arc<Session>),
    /// A server at the far end of a socket, asked in its own dialect, as the demux does.
    There { socket: Mutex<UnixStream>, dialect: Dialect, inbox: Arc<Inbox> },
}

impl Far {
    /// A server at the far end of `socket`, whose replies go to `inbox`.
    fn there(socket: UnixStream, dialect: Dialect, inbox: Arc<Inbox>) -> Far {
        let (mut reader, replies) = (socket.try_clone().unwrap(), inbox.clone());
        std::thread::spawn(move || {
            let mut framer = Framer::new(Msize::MAX.bytes());
            let mut assembler = Assembler::default();
            let mut buffer = vec![0; 100_000];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                framer.push(Bytes::copy_from_slice(&buffer[..count]));
                while let Some(item) = framer.poll().unwrap() {
                    assembler.push(item).into_iter().for_each(|reply| replies.reply(reply));
                }
            }
            replies.end();
        });
        Far::There { socket: Mutex::new(socket), dialect, inbox }
    }

    pub fn submit(&self, packet: Packet) -> Result<(), SessionError> {
        let (socket, dialect, inbox) = match self {
            Far::Here(session) => return session.submit(packet),
            Far::There { socket, dialect, inbox } => (socket, dialect, inbox),
        };
        let asked = match Tmessage::decode(&packet) {
            Ok((tag, message)) => dialect.translate(tag, &message, packet.clone()),
            Err(_) => Translated::Ask(packet),
        };
        match asked {
            // A server that has ended says so by what does not come.
            Translated::Ask(packet) => {
                let _ = socket.lock().unwrap().write_all(&packet.to_vec());
            }
            Translated::Answer(reply) => inbox.reply(reply),
        }
        Ok(())
    }

    /// Whether some requests are to be made in their older form where the newer is not known, as Linux
    /// does.
    fn is_old(&self) -> bool {
        matches!(self, Far::There { dialect: Dialect::Diod { .. }, .. })
    }

    pub fn close(&self) {
        match self {
            Far::Here(session) => session.close(),
            Far::There { socket, .. } => {
                let _ = socket.lock().unwrap().shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

/// A client with its session.
pub struct Client {
    pub session: Far,
    pub inbox: Arc<Inbox>,
    tag: AtomicU16,
    fid: AtomicU32,
}

/// The root's fid in every client.
pub const ROOT: Fid = Fid(0);

/// A server's means, small.
pub fn workers() -> Arc<Workers> {
    Workers::new(Limits::default())
}

impl Client {
    /// A client of `folder`, attached.
    pub fn of(folder: &Path) -> Client {
        Client::with(Export::open(&folder.canonicalize().unwrap(), false).unwrap(), workers())
    }

    /// A client of `folder` that may not change it.
    pub fn read_only(folder: &Path) -> Client {
        Client::with(Export::open(&folder.canonicalize().unwrap(), true).unwrap(), workers())
    }

    /// A client of an export, attached.
    pub fn with(export: Arc<Export>, workers: Arc<Workers>) -> Client {
        let client = Client::raw(export, workers);
        client.version();
        client.attach(ROOT, b"").unwrap();
        client
    }

    /// A client that has said nothing yet.
    pub fn raw(export: Arc<Export>, workers: Arc<Workers>) -> Client {
        let inbox = Arc::new(Inbox::default());
        let msize = Msize::new(65_560).unwrap();
        let session = Far::Here(Session::new(export, workers, inbox.clone(), msize));
        Client { session, inbox, tag: AtomicU16::new(0), fid: AtomicU32::new(1) }
    }

    /// A client of a server at the far end of `socket`, attached.
    pub fn at(socket: UnixStream, dialect: Dialect) -> Client {
        let inbox = Arc::new(Inbox::default());
        let session = Far::there(socket, dialect, inbox.clone());
        let client = Client { session, inbox, tag: AtomicU16::new(0), fid: AtomicU32::new(1) };
        client.version();
        client.attach(ROOT, b"").unwrap();
        client
    }

    pub fn next_tag(&self) -> u16 {
        self.tag.fetch_add(1, Ordering::Relaxed) % 60_000
    }

    pub fn next_fid(&self) -> Fid {
        Fid(self.fid.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a message and gives its tag.
    pub fn send(&self, message: Tmessage<'_>, body: &[u8]) -> u16 {
        let tag = self.next_tag();
        self.submit(tag, message, body).unwrap();
        tag
    }

    pub fn submit(&self, tag: u16, message: Tmessage<'_>, body: &[u8]) -> Result<(), SessionError> {
        // In uneven pieces, as the transport cuts them.
        let pieces = body.chunks(1000).map(Bytes::copy_from_slice).collect();
        self.session.submit(message.with_body(Tag(tag), pieces))
    }

    /// Sends a message and waits for its answer.
    pub fn rpc(&self, message: Tmessage<'_>, body: &[u8]) -> Result<Packet, Errno> {
        let tag = self.send(message, body);
        let packet = self.inbox.take(tag);
        let (_, reply) = Rmessage::decode(&packet).unwrap();
        if let Rmessage::Rlerror { errno } = reply {
            assert!((1..=133).contains(&errno), "errno {errno}");
            return Err(errno as Errno);
        }
        assert_eq!(reply.kind(), message.kind().reply());
        Ok(packet)
    }

    pub fn ok(&self, message: Tmessage<'_>) -> Result<(), Errno> {
        self.rpc(message, b"").map(drop)
    }

    pub fn version(&self) -> (u32, Vec<u8>) {
        self.version_of(u32::MAX, VERSION)
    }

    pub fn version_of(&self, msize: u32, version: &[u8]) -> (u32, Vec<u8>) {
        self.submit(Tag::NONE.0, Tmessage::Tversion { msize, version }, b"").unwrap();
        let packet = self.inbox.take(Tag::NONE.0);
        match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rversion { msize, version } => (msize, version.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub fn attach(&self, fid: Fid, aname: &[u8]) -> Result<Qid, Errno> {
        let message =
            Tmessage::Tattach { fid, afid: Fid::NONE, uname: b"nobody", aname, n_uname: 0 };
        match Rmessage::decode(&self.rpc(message, b"")?).unwrap().1 {
            Rmessage::Rattach { qid } => Ok(qid),
            other => panic!("{other:?}"),
        }
    }

    pub fn walk_raw(&self, fid: Fid, newfid: Fid, names: &[&[u8]]) -> Result<Vec<Qid>, Errno> {
        let names = Names::new(names).unwrap();
        let packet = self.rpc(Tmessage::Twalk { fid, newfid, names }, b"")?;
        match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rwalk { qids } => Ok(qids.as_slice().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Walks a path of any length from a fid, one name after the other.
    pub fn walk_from(&self, fid: Fid, path: &str) -> Result<Fid, Errno> {
        let names: Vec<&[u8]> =
            path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
        let newfid = self.next_fid();
        self.walk_raw(fid, newfid, &[])?;
        for part in names.chunks(16) {
            let walked = self.walk_raw(newfid, newfid, part);
            let failed = match walked {
                Ok(qids) if qids.len() == part.len() => None,
                Ok(_) => Some(libc::ENOENT),
                Err(errno) => Some(errno),
            };
            if let Some(errno) = failed {
                self.clunk(newfid).unwrap();
                return Err(errno);
            }
        }
        Ok(newfid)
    }

    /// Walks a path from the root.
    pub fn walk(&self, path: &str) -> Result<Fid, Errno> {
        self.walk_from(ROOT, path)
    }

    pub fn clunk(&self, fid: Fid) -> Result<(), Errno> {
        self.ok(Tmessage::Tclunk { fid })
    }

    pub fn lopen(&self, fid: Fid, flags: i32) -> Result<Qid, Errno> {
        let packet = self.rpc(Tmessage::Tlopen { fid, flags: flags as u32 }, b"")?;
        match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rlopen { qid, .. } => Ok(qid),
            other => panic!("{other:?}"),
        }
    }

    /// Walks and opens.
    pub fn open(&self, path: &str, flags: i32) -> Result<Fid, Errno> {
        let fid = self.walk(path)?;
        match self.lopen(fid, flags) {
            Ok(_) => Ok(fid),
            Err(errno) => {
                self.clunk(fid).unwrap();
                Err(errno)
            }
        }
    }

    pub fn lcreate(&self, fid: Fid, name: &[u8], flags: i32, mode: u32) -> Result<Qid, Errno> {
        let message = Tmessage::Tlcreate { fid, name, flags: flags as u32, mode, gid: u32::MAX };
        match Rmessage::decode(&self.rpc(message, b"")?).unwrap().1 {
            Rmessage::Rlcreate { qid, .. } => Ok(qid),
            other => panic!("{other:?}"),
        }
    }

    /// Makes a file in a folder given by path, and opens it.
    pub fn create(&self, dir: &str, name: &str, flags: i32, mode: u32) -> Result<Fid, Errno> {
        let fid = self.walk(dir)?;
        match self.lcreate(fid, name.as_bytes(), flags, mode) {
            Ok(_) => Ok(fid),
            Err(errno) => {
                self.clunk(fid).unwrap();
                Err(errno)
            }
        }
    }

    pub fn read(&self, fid: Fid, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let packet = self.rpc(Tmessage::Tread { fid, offset, count }, b"")?;
        Ok(packet.body.concat())
    }

    pub fn write(&self, fid: Fid, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let message = Tmessage::Twrite { fid, offset, count: data.len() as u32 };
        match Rmessage::decode(&self.rpc(message, data)?).unwrap().1 {
            Rmessage::Rwrite { count } => Ok(count),
            other => panic!("{other:?}"),
        }
    }

    pub fn getattr(&self, fid: Fid) -> Result<(Qid, Attributes), Errno> {
        let packet = self.rpc(Tmessage::Tgetattr { fid, mask: 0x3fff }, b"")?;
        match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rgetattr { qid, attributes, .. } => Ok((qid, attributes)),
            other => panic!("{other:?}"),
        }
    }

    pub fn setattr(&self, fid: Fid, set: SetAttributes) -> Result<(), Errno> {
        self.ok(Tmessage::Tsetattr { fid, set })
    }

    pub fn chmod(&self, fid: Fid, mode: u32) -> Result<(), Errno> {
        self.setattr(fid, SetAttributes { valid: setattr::MODE, mode, ..Default::default() })
    }

    pub fn truncate(&self, fid: Fid, size: u64) -> Result<(), Errno> {
        self.setattr(fid, SetAttributes { valid: setattr::SIZE, size, ..Default::default() })
    }

    /// Entries from an offset: name, offset, kind, qid.
    pub fn readdir(&self, fid: Fid, offset: u64, count: u32) -> Result<Vec<DirEntry>, Errno> {
        let packet = self.rpc(Tmessage::Treaddir { fid, offset, count }, b"")?;
        let body = packet.body.concat();
        let mut reader = Reader::new(&body);
        let mut entries = Vec::new();
        while !reader.rest().is_empty() {
            let entry = Entry::read(&mut reader).unwrap();
            entries.push((entry.name.to_vec(), entry.offset, entry.kind, entry.qid));
        }
        Ok(entries)
    }

    /// All names of an open folder, in pieces of `count` bytes.
    pub fn names(&self, fid: Fid, count: u32) -> Result<Vec<Vec<u8>>, Errno> {
        let (mut offset, mut names) = (0, Vec::new());
        loop {
            let entries = self.readdir(fid, offset, count)?;
            let Some(last) = entries.last() else { return Ok(names) };
            offset = last.1;
            names.extend(entries.into_iter().map(|entry| entry.0));
        }
    }

    pub fn mkdir(&self, dfid: Fid, name: &[u8], mode: u32) -> Result<(), Errno> {
        self.ok(Tmessage::Tmkdir { dfid, name, mode, gid: u32::MAX })
    }

    pub fn symlink(&self, dfid: Fid, name: &[u8], target: &[u8]) -> Result<(), Errno> {
        self.ok(Tmessage::Tsymlink { dfid, name, target, gid: u32::MAX })
    }

    pub fn mknod(&self, dfid: Fid, name: &[u8], mode: u32) -> Result<(), Errno> {
        self.ok(Tmessage::Tmknod { dfid, name, mode, major: 1, minor: 3, gid: u32::MAX })
    }

    pub fn link(&self, fid: Fid, dfid: Fid, name: &[u8]) -> Result<(), Errno> {
        self.ok(Tmessage::Tlink { dfid, fid, name })
    }

    pub fn readlink(&self, fid: Fid) -> Result<Vec<u8>, Errno> {
        let packet = self.rpc(Tmessage::Treadlink { fid }, b"")?;
        match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rreadlink { target } => Ok(target.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub fn unlinkat(&self, dirfid: Fid, name: &[u8], flags: u32) -> Result<(), Errno> {
        let done = self.ok(Tmessage::Tunlinkat { dirfid, name, flags });
        if done != Err(libc::EOPNOTSUPP) || !self.session.is_old() {
            return done;
        }
        let fid = self.next_fid();
        self.walk_raw(dirfid, fid, &[name])?;
        self.ok(Tmessage::Tremove { fid })
    }

    pub fn renameat(&self, from: (Fid, &[u8]), to: (Fid, &[u8])) -> Result<(), Errno> {
        let done = self.ok(Tmessage::Trenameat {
            olddirfid: from.0,
            oldname: from.1,
            newdirfid: to.0,
            newname: to.1,
        });
        if done != Err(libc::EOPNOTSUPP) || !self.session.is_old() {
            return done;
        }
        let fid = self.next_fid();
        self.walk_raw(from.0, fid, &[from.1])?;
        let done = self.ok(Tmessage::Trename { fid, dfid: to.0, name: to.1 });
        self.clunk(fid)?;
        done
    }

    pub fn fsync(&self, fid: Fid) -> Result<(), Errno> {
        self.ok(Tmessage::Tfsync { fid, datasync: OrZero(1) })
    }

    pub fn statfs(&self, fid: Fid) -> Result<Statfs, Errno> {
        let packet = self.rpc(Tmessage::Tstatfs { fid }, b"")?;
        match Rmessage::decode(&packet).unwrap().1 {
            Rmessage::Rstatfs { statfs } => Ok(statfs),
            other => panic!("{other:?}"),
        }
    }

    /// An attribute's value, or the list of names, read in pieces of seven bytes.
    pub fn xattr(&self, fid: Fid, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let newfid = self.next_fid();
        let packet = self.rpc(Tmessage::Txattrwalk { fid, newfid, name }, b"")?;
        let Rmessage::Rxattrwalk { size } = Rmessage::decode(&packet).unwrap().1 else { panic!() };
        let mut value = Vec::new();
        loop {
            let piece = self.read(newfid, value.len() as u64, 7)?;
            if piece.is_empty() {
                break;
            }
            value.extend(piece);
        }
        assert_eq!(value.len() as u64, size);
        self.clunk(newfid)?;
        Ok(value)
    }

    /// Sets an attribute, in pieces of `piece` bytes, as Linux does: on a fid of its own.
    pub fn set_xattr(
        &self,
        fid: Fid,
        name: &[u8],
        value: &[u8],
        flags: u32,
        piece: usize,
    ) -> Result<(), Errno> {
        let fid = self.walk_from(fid, "")?;
        let size = value.len() as u64;
        let mut done = self.ok(Tmessage::Txattrcreate { fid, name, size, flags });
        let mut offset = 0;
        for part in value.chunks(piece.max(1)) {
            done = done.and_then(|()| self.write(fid, offset, part).map(drop));
            offset += part.len() as u64;
        }
        let clunked = self.clunk(fid);
        done.and(clunked)
    }

    pub fn lock_message(
        fid: Fid,
        kind: u8,
        flags: u32,
        range: (u64, u64),
        proc_id: u32,
    ) -> Tmessage<'static> {
        let (start, length) = range;
        Tmessage::Tlock { fid, kind, flags, start, length, proc_id, client_id: b"client" }
    }

    /// A lock without waiting; the status.
    pub fn lock(&self, fid: Fid, kind: u8, range: (u64, u64), proc_id: u32) -> Result<u8, Errno> {
        let packet = self.rpc(Self::lock_message(fid, kind, 0, range, proc_id), b"")?;
        Ok(Self::lock_status(&packet))
    }

    pub fn lock_status(packet: &Packet) -> u8 {
        match Rmessage::decode(packet).unwrap().1 {
            Rmessage::Rlock { status } => status,
            other => panic!("{other:?}"),
        }
    }

    /// The lock in the way: kind, start, length, process.
    pub fn getlock(
        &self,
        fid: Fid,
        kind: u8,
        range: (u64, u64),
        proc_id: u32,
    ) -> Result<Option<(u8, u64, u64, u32)>, Errno> {
        let (start, length) = range;
        let client_id = b"client";
        let message = Tmessage::Tgetlock { fid, kind, start, length, proc_id, client_id };
        match Rmessage::decode(&self.rpc(message, b"")?).unwrap().1 {
            Rmessage::Rgetlock { kind, .. } if kind == lock::UNLCK => Ok(None),
            Rmessage::Rgetlock { kind, start, length, proc_id, .. } => {
                Ok(Some((kind, start, length, proc_id)))
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.session.close();
    }
}

/// A path's bytes.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
