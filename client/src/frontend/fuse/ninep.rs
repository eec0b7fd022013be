//! The 9P client at the near end of a mount's socket: many requests at once, each of which can be
//! given up.
//!
//! Follows intro(5), version(5), flush(5), clunk(5). What a reply's *type* is the session in
//! [`transport::session`] has checked already; what is in it is checked by whoever asked. Payloads are
//! slices of the buffers that the socket was read into, and of those that `/dev/fuse` was.
//!
//! One thread, so no locks: a borrow is never held over an `await`.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;

use bytes::BytesMut;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use transport::accel::hint;
use transport::id::{Fid, Msize, Tag};
use transport::ninep::framer::Assembler;
use transport::ninep::message::{VERSION, attr};
use transport::ninep::packet::Header;
use transport::ninep::{Framer, Kind, Names, Packet, Pieces, Qid, Rmessage, Tmessage};
use transport::relay::buffer::Buffers;
use transport::relay::outbox::Outbox;

use super::attr::Attr;
use super::interrupt::Cancel;

/// The largest errno that programs know (asm-generic/errno.h: `EHWPOISON`).
const LAST_ERRNO: u32 = 133;

/// Called with what is taken back.
type TakeBack = Box<dyn Fn(&[(u64, &[u8])])>;

/// A conversation.
pub struct Client {
    state: RefCell<State>,
    /// Something waits to be sent.
    more: Notify,
    /// It has ended; [`Client::run`] returns.
    ended: Notify,
    msize: Cell<Msize>,
    /// How often something has been taken back: what was asked for before that is to be believed only for
    /// as long as what is not watched.
    taken_back: Cell<u64>,
    take_back: OnceCell<TakeBack>,
}

struct State {
    waiting: HashMap<Tag, Waiting>,
    next_tag: u16,
    free_fids: Vec<Fid>,
    next_fid: u32,
    outbox: Outbox,
    slab: BytesMut,
    /// The socket has failed: whoever asks gets EIO.
    dead: bool,
}

enum Waiting {
    /// For the reply to a request.
    Reply(oneshot::Sender<Packet>),
    /// For a fid's number to be free again, and whether it went well.
    Clunk(Fid, Option<oneshot::Sender<Packet>>),
}

/// A request that has been made.
pub struct Asked {
    tag: Tag,
    /// How often something had been taken back.
    at: u64,
    reply: oneshot::Receiver<Packet>,
}

/// A fid that is there; clunked when dropped.
pub struct OwnedFid {
    client: Rc<Client>,
    number: Fid,
}

impl OwnedFid {
    /// The fid.
    pub fn number(&self) -> Fid {
        self.number
    }

    /// Clunks it, and says whether that went well: only where an attribute is set can it not.
    pub async fn clunk(mut self) -> Result<(), Errno> {
        let number = std::mem::replace(&mut self.number, Fid::NONE);
        let (told, reply) = oneshot::channel();
        self.client.clunk(number, Some(told));
        checked(reply.await.map_err(|_| Errno::IO)?).map(drop)
    }
}

impl Drop for OwnedFid {
    fn drop(&mut self) {
        if self.number != Fid::NONE {
            self.client.clunk(self.number, None);
        }
    }
}

impl Client {
    /// A client that will speak over a socket whose other end takes messages of at most `limit`.
    pub fn new(limit: Msize) -> Rc<Client> {
        Rc::new(Client {
            state: RefCell::new(State {
                waiting: HashMap::new(),
                next_tag: 0,
                free_fids: Vec::new(),
                next_fid: 0,
                outbox: Outbox::default(),
                slab: BytesMut::new(),
                dead: false,
            }),
            more: Notify::new(),
            ended: Notify::new(),
            msize: Cell::new(limit),
            taken_back: Cell::new(0),
            take_back: OnceCell::new(),
        })
    }

    /// Has `to` called with what is taken back: paths of folders and names in them, an empty one for all
    /// of a folder, an empty list for everything. Once.
    pub fn on_take_back(&self, to: impl Fn(&[(u64, &[u8])]) + 'static) {
        let _ = self.take_back.set(Box::new(to));
    }

    /// How often something has been taken back.
    pub fn taken_back(&self) -> u64 {
        self.taken_back.get()
    }

    /// The most payload of one message.
    pub fn payload(&self) -> u32 {
        self.msize.get().payload()
    }

    /// Moves messages until the socket fails or [`finish`](Self::finish) is called. Whoever waits then
    /// gets EIO.
    pub async fn run(&self, socket: OwnedFd) {
        if let Err(error) = self.serve(socket).await {
            eprintln!("a FUSE mount lost its 9P socket: {error}");
        }
        let mut state = self.state.borrow_mut();
        state.dead = true;
        state.waiting.clear();
        state.outbox = Outbox::default();
    }

    /// Ends the conversation.
    pub fn finish(&self) {
        self.state.borrow_mut().dead = true;
        self.ended.notify_one();
    }

    async fn serve(&self, socket: OwnedFd) -> std::io::Result<()> {
        let socket = StdUnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        tokio::select! {
            () = self.ended.notified() => Ok(()),
            sent = self.send_all(&socket) => sent,
            received = self.receive_all(&socket) => received,
        }
    }

    async fn send_all(&self, socket: &UnixStream) -> std::io::Result<()> {
        loop {
            let waits = !self.state.borrow().outbox.is_empty();
            if !waits {
                self.more.notified().await;
                continue;
            }
            socket.writable().await?;
            let written = socket.try_io(Interest::WRITABLE, || {
                let written = self.state.borrow_mut().outbox.write(socket)?;
                if written.full { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match written {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    async fn receive_all(&self, socket: &UnixStream) -> std::io::Result<()> {
        let mut buffers = Buffers::new();
        let mut framer = Framer::new(self.msize.get().bytes());
        let mut assembler = Assembler::default();
        loop {
            socket.readable().await?;
            let mut came = None;
            let read = socket.try_io(Interest::READABLE, || {
                let read = buffers.read(socket)?.ok_or(ErrorKind::UnexpectedEof)?;
                came = Some(read.bytes);
                // A short read has emptied the socket: the next one would find nothing (epoll(7)).
                if read.all { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match read {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => framer.push(came.unwrap_or_default()),
            }
            while let Some(item) = framer.poll().map_err(garbage)? {
                if let Some(packet) = assembler.push(item) {
                    self.take(packet).map_err(garbage)?;
                }
            }
            framer.set_max(self.msize.get().bytes());
        }
    }

    fn take(&self, packet: Packet) -> Result<(), &'static str> {
        let Header { tag, kind, .. } = packet.header().map_err(|_| "a message without a header")?;
        if Kind(kind) == Kind::Rforget {
            let records = hint::decode_forget(&packet.head).map_err(|_| "no list of names")?;
            self.taken_back.set(self.taken_back.get() + 1);
            if let Some(to) = self.take_back.get() {
                to(&records);
            }
            return Ok(());
        }
        let mut state = self.state.borrow_mut();
        match state.waiting.remove(&tag).ok_or("a reply that nobody asked for")? {
            // Who asked may have gone.
            Waiting::Reply(to) => drop(to.send(packet)),
            Waiting::Clunk(fid, to) => {
                state.free_fids.push(fid);
                if let Some(to) = to {
                    let _ = to.send(packet);
                }
            }
        }
        Ok(())
    }

    /// Makes a request; it is on its way when this returns.
    pub fn ask(&self, request: &Tmessage<'_>, body: Pieces) -> Result<Asked, Errno> {
        let (to, reply) = oneshot::channel();
        let at = self.taken_back();
        let tag = self.put(request, body, Waiting::Reply(to))?;
        Ok(Asked { tag, at, reply })
    }

    fn put(&self, request: &Tmessage<'_>, body: Pieces, waiting: Waiting) -> Result<Tag, Errno> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.dead {
            return Err(Errno::IO);
        }
        let tag = match request {
            Tmessage::Tversion { .. } => Tag::NONE,
            _ => state.free_tag().ok_or(Errno::AGAIN)?,
        };
        state.waiting.insert(tag, waiting);
        if state.slab.capacity() < 512 {
            state.slab.reserve(16 * 1024);
        }
        let packet = request.write_to(&mut state.slab, tag, body);
        state.outbox.push_packet(packet);
        self.more.notify_one();
        Ok(tag)
    }

    /// Waits for the reply to `asked`. Where `cancel` comes first, the request is given up, and is
    /// either answered all the same or ends with EINTR.
    pub async fn reply(&self, cancel: &Cancel, asked: Asked) -> Result<Packet, Errno> {
        let Asked { tag, mut reply, .. } = asked;
        let packet = tokio::select! {
            biased;
            packet = &mut reply => packet.map_err(|_| Errno::IO)?,
            () = cancel.wanted() => {
                let flush = self.ask(&Tmessage::Tflush { oldtag: tag }, Pieces::new())?;
                tokio::select! {
                    biased;
                    packet = &mut reply => packet.map_err(|_| Errno::IO)?,
                    flushed = flush.reply => {
                        flushed.map_err(|_| Errno::IO)?;
                        self.state.borrow_mut().waiting.remove(&tag);
                        return Err(Errno::INTR);
                    }
                }
            }
        };
        checked(packet)
    }

    /// Makes a request without payload and waits for its reply.
    pub async fn call(&self, cancel: &Cancel, request: &Tmessage<'_>) -> Result<Packet, Errno> {
        let asked = self.ask(request, Pieces::new())?;
        self.reply(cancel, asked).await
    }

    /// A fid made by `request`, which is given its number.
    async fn make<'a>(
        self: &Rc<Self>,
        cancel: &Cancel,
        request: impl FnOnce(Fid) -> Tmessage<'a>,
    ) -> Result<(OwnedFid, Packet), Errno> {
        let number = self.state.borrow_mut().free_fid().ok_or(Errno::NFILE)?;
        match self.call(cancel, &request(number)).await {
            Ok(packet) => Ok((OwnedFid { client: Rc::clone(self), number }, packet)),
            Err(errno) => {
                self.state.borrow_mut().free_fids.push(number);
                Err(errno)
            }
        }
    }

    /// Begins the session, and gives the root.
    pub async fn attach(self: &Rc<Self>) -> Result<(OwnedFid, Qid, Attr), Errno> {
        let never = Cancel::default();
        let asked = self.msize.get();
        let version = Tmessage::Tversion { msize: asked.bytes(), version: VERSION };
        let packet = self.call(&never, &version).await?;
        let Ok((_, Rmessage::Rversion { msize, version: VERSION })) = Rmessage::decode(&packet)
        else {
            return Err(Errno::PROTO);
        };
        let agreed = Msize::new(msize).filter(|agreed| *agreed <= asked).ok_or(Errno::PROTO)?;
        self.msize.set(agreed);
        let attach = |fid| {
            let (uname, aname) = (&b""[..], &b""[..]);
            Tmessage::Tattach { fid, afid: Fid::NONE, uname, aname, n_uname: u32::MAX }
        };
        let (root, _) = self.make(&never, attach).await?;
        let (qid, attributes) = self.getattr(&never, root.number()).await?;
        Ok((root, qid, attributes))
    }

    /// A fid for the node `name` in `from`, and its qid; `from`'s own node without a name.
    pub async fn walk(
        self: &Rc<Self>,
        cancel: &Cancel,
        from: Fid,
        name: Option<&[u8]>,
    ) -> Result<(OwnedFid, Option<Qid>), Errno> {
        let number = self.state.borrow_mut().free_fid().ok_or(Errno::NFILE)?;
        let free = |errno| {
            self.state.borrow_mut().free_fids.push(number);
            errno
        };
        let list: &[&[u8]] = match &name {
            Some(name) => std::slice::from_ref(name),
            None => &[],
        };
        let names = Names::new(list).unwrap_or_default();
        let walk = Tmessage::Twalk { fid: from, newfid: number, names };
        let packet = self.call(cancel, &walk).await.map_err(free)?;
        match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rwalk { qids })) if qids.as_slice().len() == list.len() => {
                let fid = OwnedFid { client: Rc::clone(self), number };
                Ok((fid, qids.as_slice().first().copied()))
            }
            // It went less far than asked: no fid has been made (walk(5)).
            Ok((_, Rmessage::Rwalk { qids })) if qids.as_slice().is_empty() => {
                Err(free(Errno::NOENT))
            }
            _ => Err(free(Errno::IO)),
        }
    }

    /// A fid that reads the attribute `name`, and the value's size; the list of names where it is
    /// empty.
    pub async fn xattr(
        self: &Rc<Self>,
        cancel: &Cancel,
        fid: Fid,
        name: &[u8],
    ) -> Result<(OwnedFid, u64), Errno> {
        let walk = |newfid| Tmessage::Txattrwalk { fid, newfid, name };
        let (value, packet) = self.make(cancel, walk).await?;
        match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rxattrwalk { size })) => Ok((value, size)),
            _ => Err(Errno::IO),
        }
    }

    /// A node's attributes, checked.
    pub async fn getattr(&self, cancel: &Cancel, fid: Fid) -> Result<(Qid, Attr), Errno> {
        let asked = self.ask_attr(fid)?;
        self.attr_reply(cancel, asked).await
    }

    /// Asks for a node's attributes.
    pub fn ask_attr(&self, fid: Fid) -> Result<Asked, Errno> {
        let mask = attr::BASIC | attr::BTIME;
        self.ask(&Tmessage::Tgetattr { fid, mask }, Pieces::new())
    }

    /// The answer to [`ask_attr`](Self::ask_attr).
    pub async fn attr_reply(&self, cancel: &Cancel, asked: Asked) -> Result<(Qid, Attr), Errno> {
        let at = asked.at;
        let packet = self.reply(cancel, asked).await?;
        match Rmessage::decode(&packet) {
            Ok((_, Rmessage::Rgetattr { valid, qid, attributes })) => {
                Attr::checked(valid, qid, attributes).map(|attr| (qid, Attr { at, ..attr }))
            }
            _ => Err(Errno::IO),
        }
    }

    /// Forgets a fid; its number is used again once the far end has forgotten it too.
    fn clunk(&self, fid: Fid, to: Option<oneshot::Sender<Packet>>) {
        // Where there is no tag left, or no far end, the number is not used again.
        let _ = self.put(&Tmessage::Tclunk { fid }, Pieces::new(), Waiting::Clunk(fid, to));
    }
}

impl State {
    fn free_tag(&mut self) -> Option<Tag> {
        // The session at the other end gives up earlier; here it only has to end.
        if self.waiting.len() > usize::from(u16::MAX / 2) {
            return None;
        }
        loop {
            let tag = Tag(self.next_tag);
            self.next_tag = self.next_tag.wrapping_add(1);
            if tag != Tag::NONE && !self.waiting.contains_key(&tag) {
                return Some(tag);
            }
        }
    }

    fn free_fid(&mut self) -> Option<Fid> {
        if let Some(fid) = self.free_fids.pop() {
            return Some(fid);
        }
        let fid = Fid(self.next_fid);
        self.next_fid = self.next_fid.checked_add(1)?;
        (fid != Fid::NONE).then_some(fid)
    }
}

fn garbage(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidData, error)
}

/// A reply that is no error; an errno that no program knows becomes EIO.
fn checked(packet: Packet) -> Result<Packet, Errno> {
    match Rmessage::decode(&packet) {
        Ok((_, Rmessage::Rlerror { errno })) => Err(match errno {
            1..=LAST_ERRNO => Errno::from_raw_os_error(errno as i32),
            _ => Errno::IO,
        }),
        Ok(_) => Ok(packet),
        Err(_) => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::{SocketPair, socket_pair};
    use std::io::{Read, Write};
    use std::time::Duration;
    use tokio::task::LocalSet;

    /// A client, and what its server hears and says.
    fn joined(test: impl AsyncFnOnce(Rc<Client>, StdUnixStream)) {
        let SocketPair { client: near, relay: far } = socket_pair(Msize::MIN).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let client = Client::new(Msize::MIN);
            let running = Rc::clone(&client);
            tokio::task::spawn_local(async move { running.run(near).await });
            test(client, StdUnixStream::from(far)).await;
        });
    }

    /// The next request of `size` bytes: its type and tag.
    fn hear(mut far: &StdUnixStream, size: usize) -> (u8, Tag) {
        let mut bytes = vec![0; size];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(usize::from(bytes[0]), size);
        (bytes[4], Tag(u16::from_le_bytes([bytes[5], bytes[6]])))
    }

    fn say(mut far: &StdUnixStream, reply: Packet) {
        far.write_all(&reply.to_vec()).unwrap();
    }

    /// Lets the client's tasks do what they can.
    async fn pause() {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }

    #[test]
    fn a_request_that_is_given_up_is_flushed_first() {
        joined(async |client, far| {
            for answered in [false, true] {
                let cancel = Rc::new(Cancel::default());
                let waiting = tokio::task::spawn_local({
                    let (client, cancel) = (Rc::clone(&client), Rc::clone(&cancel));
                    async move { client.call(&cancel, &Tmessage::Treadlink { fid: Fid(7) }).await }
                });
                pause().await;
                let (_, asked) = hear(&far, 11);
                cancel.cancel();
                pause().await;
                let (kind, flush) = hear(&far, 9);
                assert_eq!(kind, 108);
                assert!(!waiting.is_finished());
                if answered {
                    say(&far, Rmessage::Rreadlink { target: b"x" }.encode(asked));
                }
                say(&far, Rmessage::Rflush.encode(flush));
                let result = waiting.await.unwrap();
                assert_eq!(result.is_ok(), answered);
                assert_eq!(result.err(), (!answered).then_some(Errno::INTR));
                pause().await;
                assert!(client.state.borrow().waiting.is_empty());
            }
        });
    }

    #[test]
    fn errors_that_no_program_knows_are_eio() {
        joined(async |client, far| {
            for (errno, known) in [(2, 2), (133, 133), (0, 5), (134, 5), (512, 5), (u32::MAX, 5)] {
                let asked =
                    client.ask(&Tmessage::Treadlink { fid: Fid(7) }, Pieces::new()).unwrap();
                pause().await;
                let (_, tag) = hear(&far, 11);
                say(&far, Rmessage::error(tag, errno));
                let error = client.reply(&Cancel::default(), asked).await.unwrap_err();
                assert_eq!(error.raw_os_error(), known);
            }
        });
    }

    #[test]
    fn a_fids_number_is_used_again_only_when_the_server_has_forgotten_it() {
        async fn walk(client: &Rc<Client>, far: &StdUnixStream) -> OwnedFid {
            let walked = tokio::task::spawn_local({
                let client = Rc::clone(client);
                async move { client.walk(&Cancel::default(), Fid(900), None).await }
            });
            pause().await;
            let (_, tag) = hear(far, 17);
            say(far, Rmessage::Rwalk { qids: Default::default() }.encode(tag));
            walked.await.unwrap().unwrap().0
        }
        joined(async |client, far| {
            let first = walk(&client, &far).await;
            let number = first.number();
            drop(first);
            pause().await;
            let (kind, clunk) = hear(&far, 11);
            assert_eq!(kind, 120);
            let second = walk(&client, &far).await;
            assert_ne!(second.number(), number);
            say(&far, Rmessage::Rclunk.encode(clunk));
            pause().await;
            assert_eq!(walk(&client, &far).await.number(), number);
        });
    }

    #[test]
    fn whoever_waits_gets_eio_when_the_socket_ends() {
        for garbage in [&b""[..], b"\x01\0\0\0\0\0\0", b"\x07\0\0\0\x79\x55\x55"] {
            joined(async |client, mut far| {
                let ask = || client.ask(&Tmessage::Treadlink { fid: Fid(7) }, Pieces::new());
                let asked = ask().unwrap();
                far.write_all(garbage).unwrap();
                drop(far);
                let error = client.reply(&Cancel::default(), asked).await.unwrap_err();
                assert_eq!(error, Errno::IO);
                pause().await;
                assert_eq!(ask().err(), Some(Errno::IO));
            });
        }
    }
}
