//! What is said to the kernel without being asked: that it is to forget a name.
//!
//! Such a message waits for the folder's lock, which a request of the same folder may hold until it is
//! answered; so it is written by a thread that answers nothing (kernel `fs/fuse/dir.c`:
//! `fuse_reverse_inval_entry`). One that finds no room is dropped: forgetting is asked for again.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};

use polyfuse_kernel::{FUSE_NOTIFY_INVAL_ENTRY, fuse_notify_inval_entry_out, fuse_out_header};
use zerocopy::IntoBytes;

/// Messages that may wait.
const ROOM: usize = 256;

/// Takes what is to be said. The thread behind it ends with this.
#[derive(Clone)]
pub struct Notifier(SyncSender<Vec<u8>>);

impl Notifier {
    /// Starts a thread that writes to `device`.
    pub fn start(device: OwnedFd) -> std::io::Result<Notifier> {
        let (to, messages) = sync_channel::<Vec<u8>>(ROOM);
        std::thread::Builder::new().name("fuse-notify".into()).spawn(move || {
            for message in messages {
                // A name that the kernel has forgotten already is no error, nor is a mount that has gone.
                let _ = rustix::io::write(&device, &message);
            }
        })?;
        Ok(Notifier(to))
    }

    /// The kernel is to forget `name` in the folder `parent`.
    pub fn forget(&self, parent: u64, name: &[u8]) {
        let arg = fuse_notify_inval_entry_out { parent, namelen: name.len() as u32, padding: 0 };
        let size = size_of::<fuse_out_header>() + arg.as_bytes().len() + name.len() + 1;
        let error = FUSE_NOTIFY_INVAL_ENTRY as i32;
        let header = fuse_out_header { len: size as u32, error, unique: 0 };
        let mut message = Vec::with_capacity(size);
        message.extend_from_slice(header.as_bytes());
        message.extend_from_slice(arg.as_bytes());
        message.extend_from_slice(name);
        message.push(0);
        let _ = self.0.try_send(message);
    }
}
