//! What turns a stream into a folder.
//!
//! A front end gets one end of a socketpair that speaks 9P2000.L, with the channel's daemon at the
//! other end, and makes something usable of it. There is the kernel's own 9P file system
//! ([`v9fs`]), and there is [`fuse`]; [`choice`] takes one of them, and [`mountinfo`] finds out what
//! became of a mount. How the stream gets through the
//! channel is no concern here.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use transport::id::Msize;

pub mod choice;
pub mod fuse;
pub mod mountinfo;
pub mod v9fs;

/// The two ends of a stream's last step.
#[derive(Debug)]
pub struct SocketPair {
    /// For the kernel, or another 9P client.
    pub client: OwnedFd,
    /// For the relay.
    pub relay: OwnedFd,
}

/// A connected pair of Unix stream sockets, blocking, closed on exec, whose buffers hold a whole
/// message of `msize` each way where that is permitted.
///
/// A message that does not fit goes in pieces, each with wake-ups of its own on either side. Only
/// root may have buffers above `net.core.wmem_max`; others get what that allows.
pub fn socket_pair(msize: Msize) -> io::Result<SocketPair> {
    let (client, relay) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for end in [&client, &relay] {
        // A Unix socket accounts what is on its way to the sender's buffer alone. The kernel
        // doubles what it is told, for its own overhead; 64 KiB are for small messages beside a
        // large one.
        let wanted = msize.bytes() as usize + (64 << 10);
        let have = sockopt::socket_send_buffer_size(end.as_fd())? / 2;
        if wanted > have && sockopt::set_socket_send_buffer_size_force(end.as_fd(), wanted).is_err()
        {
            sockopt::set_socket_send_buffer_size(end.as_fd(), wanted)?;
        }
    }
    Ok(SocketPair { client, relay })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd, ioctl_fionbio, write};

    #[test]
    fn a_whole_message_fits_into_the_socket_each_way() {
        for bytes in [Msize::MIN.bytes(), 131_096, 524_312, Msize::MAX.bytes()] {
            let pair = socket_pair(Msize::new(bytes).unwrap()).unwrap();
            for end in [&pair.client, &pair.relay] {
                assert!(fcntl_getfd(end).unwrap().contains(FdFlags::CLOEXEC));
                ioctl_fionbio(end, true).unwrap();
                let sent = write(end, &vec![0; bytes as usize]).unwrap();
                // Without the right to larger buffers, what the system grants everybody.
                let most = if rustix::process::geteuid().is_root() { bytes } else { 100_000 };
                assert!(sent >= most.min(bytes) as usize, "{sent} of {bytes}");
            }
        }
    }
}
