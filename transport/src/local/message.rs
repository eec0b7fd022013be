//! A SOCK_SEQPACKET socket: whole messages of bounded size, with descriptors beside them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};

/// The largest message in bytes; a longer one is refused whole.
const MAX: usize = 64 * 1024;
/// The most descriptors in a message.
const MAX_FDS: usize = 4;

/// What came in one piece.
#[derive(Debug, Default)]
pub struct Message {
    /// The bytes; empty where the other end has closed.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// An end of a connection, or a place where connections are taken.
#[derive(Debug)]
pub struct MessageSocket(OwnedFd);

impl MessageSocket {
    /// Connects to the socket at `path`. Errors are those of connect(2): ENOENT and ECONNREFUSED
    /// where nobody is there.
    pub fn connect(path: &Path) -> Result<MessageSocket, Errno> {
        let socket = Self::new(SocketFlags::CLOEXEC)?;
        net::connect(&socket.0, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }

    /// Whether a socket is at `path` and nobody listens there. Never waits.
    pub fn is_deserted(path: &Path) -> bool {
        let connect = || {
            let socket = Self::new(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
            net::connect(&socket.0, &SocketAddrUnix::new(path)?)
        };
        connect() == Err(Errno::CONNREFUSED)
    }

    /// Makes a socket at `path`, in a private folder, and listens. Errors are those of bind(2).
    pub fn listen(path: &Path) -> Result<MessageSocket, Errno> {
        let socket = Self::new(SocketFlags::CLOEXEC)?;
        net::bind(&socket.0, &SocketAddrUnix::new(path)?)?;
        net::listen(&socket.0, 64)?;
        Ok(socket)
    }

    /// Two connected ends.
    pub fn pair() -> Result<(MessageSocket, MessageSocket), Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((MessageSocket(a), MessageSocket(b)))
    }

    fn new(flags: SocketFlags) -> Result<MessageSocket, Errno> {
        let kind = SocketType::SEQPACKET;
        Ok(MessageSocket(net::socket_with(AddressFamily::UNIX, kind, flags, None)?))
    }

    /// The user who made the other end; for a connection, who listens there.
    pub fn peer(&self) -> Result<u32, Errno> {
        Ok(sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    /// The process that made the other end; for a connection, that listens there.
    pub fn peer_process(&self) -> Result<u32, Errno> {
        Ok(sockopt::socket_peercred(&self.0)?.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// The next connection of somebody with this process's user or root; others are closed at once.
    pub fn accept(&self) -> Result<MessageSocket, Errno> {
        loop {
            let socket = net::accept_with(&self.0, SocketFlags::CLOEXEC)?;
            let uid = sockopt::socket_peercred(&socket)?.uid;
            if uid.is_root() || uid == rustix::process::geteuid() {
                return Ok(MessageSocket(socket));
            }
        }
    }

    /// Makes calls fail with EAGAIN where they would wait, for use in a reactor.
    pub fn set_nonblocking(&self) -> Result<(), Errno> {
        rustix::io::ioctl_fionbio(&self.0, true)
    }

    /// Bounds how long a receive may wait; then it fails with EAGAIN.
    pub fn set_timeout(&self, limit: Duration) -> Result<(), Errno> {
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, Some(limit))
    }

    /// Sends one message. Errors are those of sendmsg(2); EPIPE where the other end has closed.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        if bytes.len() > MAX || bytes.is_empty() || fds.len() > MAX_FDS {
            return Err(Errno::MSGSIZE);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::MSGSIZE);
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, flags)
        })?;
        Ok(())
    }

    /// Receives one message; empty at the end. Errors are those of recvmsg(2); EMSGSIZE for one that
    /// is too long or carries too many descriptors.
    pub fn receive(&self) -> Result<Message, Errno> {
        let mut bytes = vec![0; MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
        })?;
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Errno::MSGSIZE);
        }
        bytes.truncate(received.bytes);
        Ok(Message { bytes, fds })
    }
}

impl AsFd for MessageSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for MessageSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_beside_their_message() {
        let (a, b) = MessageSocket::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        a.send(b"here", &[reader.as_fd()]).unwrap();
        a.send(b"none", &[]).unwrap();
        let first = b.receive().unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&first.fds[0], &mut byte).unwrap();
        assert_eq!((first.bytes.as_slice(), byte), (&b"here"[..], *b"x"));
        let second = b.receive().unwrap();
        assert_eq!((second.bytes.as_slice(), second.fds.len()), (&b"none"[..], 0));
        drop(a);
        assert!(b.receive().unwrap().bytes.is_empty());
    }
}
