//! The one place of this crate with unsafe code: tokio's promise about descriptors.
#![allow(unsafe_code)]

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use transport::local::MessageSocket;

/// Takes a socket into the reactor of the current runtime. Errors are those of epoll_ctl(2).
pub fn register(socket: MessageSocket) -> std::io::Result<AsyncFd<MessageSocket>> {
    // SAFETY: a MessageSocket owns its descriptor, always gives the same one, and gives it up only
    // when it is dropped, which AsyncFd does after it has left the reactor.
    let registered =
        unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::WRITABLE) };
    Ok(registered?)
}
