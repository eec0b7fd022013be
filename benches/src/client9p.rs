//! A 9P client for measuring: blocking, as many requests in flight as it is told, like the kernel's
//! over two descriptors.
//!
//! It does what v9fs does and no more: one write a request, replies read as they come. A payload that
//! is read is thrown away where it lies. Leaves out flushes, locks and everything about files that
//! last; what the kernel asks for a system call is [`crate::workload`]'s.

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt;
use transport::id::{Fid, Msize, Tag};
use transport::ninep::message::{Entry, Kind, Names, VERSION, attr};
use transport::ninep::{Rmessage, Tmessage, codec};

/// Bytes of size, type and tag.
const HEADER: usize = 7;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server says so.
    #[error("the server answers {0}")]
    Refused(Errno),
    /// The connection is no more.
    #[error("the 9P connection failed: {0}")]
    Io(#[from] Errno),
    /// The server has closed it.
    #[error("the server closed the 9P connection")]
    Closed,
    /// What came is not the reply that was waited for.
    #[error("not the reply to {asked}: {why}")]
    Reply {
        /// Type of the request.
        asked: u8,
        /// What is wrong.
        why: String,
    },
}

/// What requests come to.
pub type Result<T> = std::result::Result<T, ClientError>;

/// A session.
#[derive(Debug)]
pub struct Client {
    input: OwnedFd,
    output: OwnedFd,
    msize: Msize,
    buffer: Vec<u8>,
    /// What of `buffer` has been read and not used yet.
    have: Range<usize>,
    next: u32,
    free: Vec<Fid>,
    unlinks_by_name: bool,
    /// Requests sent so far.
    pub sent: u64,
}

impl Client {
    /// The root of the session.
    pub const ROOT: Fid = Fid(0);

    /// Begins a session over `input` and `output`, with at most `msize`, and attaches as user `uid`
    /// to what the server knows as `aname`.
    ///
    /// # Errors
    /// The server's.
    pub fn start(
        input: OwnedFd,
        output: OwnedFd,
        msize: Msize,
        aname: &[u8],
        uid: u32,
    ) -> Result<Client> {
        // As the mount's own socket: a whole request fits. Where that is not permitted it goes in
        // pieces.
        let room = msize.bytes() as usize + (64 << 10);
        if sockopt::set_socket_send_buffer_size_force(&output, room).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&output, room);
        }
        let mut client = Client {
            input,
            output,
            msize,
            buffer: vec![0; 2 * msize.bytes() as usize],
            have: 0..0,
            next: 1,
            free: Vec::new(),
            unlinks_by_name: true,
            sent: 0,
        };
        let (bytes, version) = (msize.bytes(), VERSION);
        client.send(Tag::NONE, &Tmessage::Tversion { msize: bytes, version }, &[])?;
        let agreed = client.receive(Kind::Tversion, |_, message, _| match message {
            Rmessage::Rversion { msize, version: VERSION } => Ok(msize),
            other => Err(format!("{other:?}")),
        })?;
        client.msize = Msize::new(agreed.min(bytes)).ok_or_else(|| ClientError::Reply {
            asked: Kind::Tversion.0,
            why: format!("msize {agreed}"),
        })?;
        let fid = Client::ROOT;
        let (afid, uname) = (Fid::NONE, b"nobody");
        let attach = Tmessage::Tattach { fid, afid, uname, aname, n_uname: uid };
        client.call(&attach)?;
        Ok(client)
    }

    /// The msize that was agreed on.
    pub fn msize(&self) -> Msize {
        self.msize
    }

    /// A fid that names nothing.
    pub fn fid(&mut self) -> Fid {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            Fid(self.next - 1)
        })
    }

    /// Asks, and waits for the answer; errors of the server's are [`ClientError::Refused`].
    pub fn call(&mut self, message: &Tmessage<'_>) -> Result<()> {
        self.ask(message, |_, _| Ok(()))
    }

    /// Asks, and gives what `take` makes of the answer and its payload.
    pub fn ask<T>(
        &mut self,
        message: &Tmessage<'_>,
        mut take: impl FnMut(Rmessage<'_>, &[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        self.send(Tag(0), message, &[])?;
        self.receive(message.kind(), |_, message, body| take(message, body))
    }

    /// A new fid for what `names` lead to from `fid`.
    pub fn walk(&mut self, fid: Fid, names: &[&[u8]]) -> Result<Fid> {
        let newfid = self.fid();
        let names = Names::new(names).ok_or(ClientError::Io(Errno::INVAL))?;
        let walked = self.ask(&Tmessage::Twalk { fid, newfid, names }, |reply, _| match reply {
            Rmessage::Rwalk { qids } if qids.as_slice().len() == names.as_slice().len() => Ok(true),
            _ => Ok(false),
        });
        match walked {
            Ok(true) => Ok(newfid),
            Ok(false) => {
                self.free.push(newfid);
                Err(ClientError::Refused(Errno::NOENT))
            }
            Err(error) => {
                self.free.push(newfid);
                Err(error)
            }
        }
    }

    /// Forgets `fid`.
    pub fn clunk(&mut self, fid: Fid) -> Result<()> {
        self.call(&Tmessage::Tclunk { fid })?;
        self.free.push(fid);
        Ok(())
    }

    /// Attributes, as stat(2) needs them; gives the size.
    pub fn getattr(&mut self, fid: Fid) -> Result<u64> {
        self.ask(&Tmessage::Tgetattr { fid, mask: attr::BASIC }, |reply, _| match reply {
            Rmessage::Rgetattr { attributes, .. } => Ok(attributes.size),
            other => Err(format!("{other:?}")),
        })
    }

    /// Opens.
    pub fn open(&mut self, fid: Fid, flags: u32) -> Result<()> {
        self.call(&Tmessage::Tlopen { fid, flags })
    }

    /// Creates `name` in the folder `fid`, which becomes the open file.
    pub fn create(&mut self, fid: Fid, name: &[u8], flags: u32) -> Result<()> {
        self.call(&Tmessage::Tlcreate { fid, name, flags, mode: 0o100_644, gid: 0 })
    }

    /// Removes a name; by a fid of its own where the server, as Debian's diod, knows no `Tunlinkat`
    /// (as `fs/9p/vfs_inode.c` does it: `v9fs_remove`).
    pub fn unlink(&mut self, dirfid: Fid, name: &[u8]) -> Result<()> {
        if self.unlinks_by_name {
            match self.call(&Tmessage::Tunlinkat { dirfid, name, flags: 0 }) {
                Err(ClientError::Refused(Errno::OPNOTSUPP)) => self.unlinks_by_name = false,
                done => return done,
            }
        }
        let fid = self.walk(dirfid, &[name])?;
        self.call(&Tmessage::Tremove { fid })?;
        self.free.push(fid);
        Ok(())
    }

    /// Reads once; gives how many bytes came.
    pub fn read(&mut self, fid: Fid, offset: u64, count: u32) -> Result<u32> {
        self.ask(&Tmessage::Tread { fid, offset, count }, |reply, _| match reply {
            Rmessage::Rread { count } => Ok(count),
            other => Err(format!("{other:?}")),
        })
    }

    /// Writes once; gives how many bytes were taken.
    pub fn write(&mut self, fid: Fid, offset: u64, data: &[u8]) -> Result<u32> {
        let count = data.len() as u32;
        self.send(Tag(0), &Tmessage::Twrite { fid, offset, count }, data)?;
        self.receive(Kind::Twrite, |_, message, _| match message {
            Rmessage::Rwrite { count } => Ok(count),
            other => Err(format!("{other:?}")),
        })
    }

    /// All names of the open folder `fid`, without `.` and `..`.
    pub fn names(&mut self, fid: Fid) -> Result<Vec<Vec<u8>>> {
        let (mut names, mut offset) = (Vec::new(), 0);
        let count = self.msize.payload();
        loop {
            let end = self.ask(&Tmessage::Treaddir { fid, offset, count }, |_, body| {
                let mut reader = codec::Reader::new(body);
                let mut last = None;
                while !reader.rest().is_empty() {
                    let entry: Entry<'_> = reader.field().map_err(|error| error.to_string())?;
                    last = Some(entry.offset);
                    if entry.name != b"." && entry.name != b".." {
                        names.push(entry.name.to_vec());
                    }
                }
                Ok(last)
            })?;
            match end {
                Some(next) => offset = next,
                None => return Ok(names),
            }
        }
    }

    /// Reads `total` bytes of the open file `fid` of `size` bytes from its start, over and over, with
    /// `depth` requests of `count` bytes in flight.
    pub fn read_through(
        &mut self,
        fid: Fid,
        size: u64,
        count: u32,
        depth: u16,
        total: u64,
    ) -> Result<()> {
        let count = count.min(self.msize.payload());
        let mut at = 0;
        self.pipelined(Kind::Tread, depth, total, |client, tag| {
            if at + u64::from(count) > size {
                at = 0;
            }
            let read = Tmessage::Tread { fid, offset: at, count };
            at += u64::from(count);
            client.send(tag, &read, &[])
        })
    }

    /// Writes as [`read_through`](Self::read_through) reads.
    pub fn write_through(
        &mut self,
        fid: Fid,
        size: u64,
        data: &[u8],
        depth: u16,
        total: u64,
    ) -> Result<()> {
        let data = &data[..data.len().min(self.msize.payload() as usize)];
        let mut at = 0;
        self.pipelined(Kind::Twrite, depth, total, |client, tag| {
            if at + data.len() as u64 > size {
                at = 0;
            }
            let write = Tmessage::Twrite { fid, offset: at, count: data.len() as u32 };
            at += data.len() as u64;
            client.send(tag, &write, data)
        })
    }

    /// Keeps `depth` requests in flight until `total` bytes have been answered for.
    fn pipelined(
        &mut self,
        kind: Kind,
        depth: u16,
        total: u64,
        mut next: impl FnMut(&mut Client, Tag) -> Result<()>,
    ) -> Result<()> {
        for tag in 0..depth {
            next(self, Tag(tag))?;
        }
        let (mut done, mut flying) = (0, u64::from(depth));
        while flying > 0 {
            let (tag, count) = self.receive(kind, |tag, message, _| match message {
                Rmessage::Rread { count } | Rmessage::Rwrite { count } if count > 0 => {
                    Ok((tag, count))
                }
                other => Err(format!("{other:?}")),
            })?;
            done += u64::from(count);
            if done + (flying - 1) * u64::from(count) < total {
                next(self, tag)?;
            } else {
                flying -= 1;
            }
        }
        Ok(())
    }

    fn send(&mut self, tag: Tag, message: &Tmessage<'_>, body: &[u8]) -> Result<()> {
        let mut head = message.encode(tag).to_vec();
        // The payload is not in the packet that was encoded.
        let size = (head.len() + body.len()) as u32;
        head[..4].copy_from_slice(&size.to_le_bytes());
        let (mut head, mut body) = (&head[..], body);
        self.sent += 1;
        while !head.is_empty() || !body.is_empty() {
            let count =
                rustix::io::writev(&self.output, &[IoSlice::new(head), IoSlice::new(body)])?;
            let of_head = count.min(head.len());
            head = &head[of_head..];
            body = &body[count - of_head..];
        }
        Ok(())
    }

    /// The next reply, which must be one to a request of `kind`.
    fn receive<T>(
        &mut self,
        kind: Kind,
        take: impl FnOnce(Tag, Rmessage<'_>, &[u8]) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let size = self.fill()?;
        let message = &self.buffer[self.have.start..self.have.start + size];
        self.have.start += size;
        let head = Kind(message[4]).payload_head().unwrap_or(size).min(size);
        let (head, body) = message.split_at(head);
        let wrong = |why: String| ClientError::Reply { asked: kind.0, why };
        let (tag, reply) =
            Rmessage::decode_head(head, body.len()).map_err(|error| wrong(error.to_string()))?;
        match reply {
            Rmessage::Rlerror { errno } => {
                Err(ClientError::Refused(Errno::from_raw_os_error(errno as i32)))
            }
            reply if reply.kind() != kind.reply() => Err(wrong(format!("{reply:?}"))),
            reply => take(tag, reply, body).map_err(wrong),
        }
    }

    /// Reads until a whole message is there, and gives its size.
    fn fill(&mut self) -> Result<usize> {
        loop {
            let have = &self.buffer[self.have.clone()];
            let mut wanted = HEADER;
            if let Some(size) = have.first_chunk::<4>() {
                wanted = (u32::from_le_bytes(*size) as usize).max(HEADER);
                if wanted > self.msize.bytes() as usize {
                    let why = format!("a message of {wanted} bytes");
                    return Err(ClientError::Reply { asked: 0, why });
                }
                if have.len() >= wanted {
                    return Ok(wanted);
                }
            }
            if self.have.is_empty() {
                self.have = 0..0;
            } else if self.have.start + wanted > self.buffer.len() {
                self.buffer.copy_within(self.have.clone(), 0);
                self.have = 0..self.have.len();
            }
            match rustix::io::read(&self.input, &mut self.buffer[self.have.end..]) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.have.end += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
