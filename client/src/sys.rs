//! The one place of this crate with unsafe code: promises about descriptors.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};
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

/// As [`register`], for a descriptor by itself.
pub fn register_descriptor(
    descriptor: OwnedFd,
    interest: Interest,
) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always gives the same descriptor, and gives it up only when it is dropped,
    // which AsyncFd does after it has left the reactor.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    Ok(registered?)
}

/// Lets no program that is started from here on have what this one was started with besides the
/// standard three: whoever waits for the end of a pipe among them would wait for a daemon's.
pub fn keep_descriptors() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers.collect::<Vec<_>>().into_iter().filter(|&number| number > 2) {
        // SAFETY: only a flag of the descriptor is set; where it has been closed meanwhile, as the
        // folder's own has, that fails, and where the number was taken again, it loses nothing.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
}
