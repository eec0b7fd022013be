//! What is said to the kernel without being asked: that it is to forget a name, to look at it again, or to
//! ask for a node anew.
//!
//! Such a message may wait for a folder's lock, which a request of the same folder may hold until it is
//! answered; so it is written by a thread that answers nothing (kernel `fs/fuse/dir.c`:
//! `fuse_reverse_inval_entry`). What waits to be said is said once however often it is wanted, so it is
//! never more than what the kernel knows.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use polyfuse_kernel::{
    FUSE_NOTIFY_INVAL_ENTRY, FUSE_NOTIFY_INVAL_INODE, fuse_notify_inval_entry_out,
    fuse_notify_inval_inode_out, fuse_out_header,
};
use zerocopy::{Immutable, IntoBytes};

/// A flag of `fuse_notify_inval_entry_out`, where older kernels have padding (linux/fuse.h:
/// `FUSE_EXPIRE_ONLY`): the name stays, and is looked at again before it is used. Without it the kernel
/// drops the name, and unmounts what is mounted below it.
const EXPIRE_ONLY: u32 = 1;

/// What is to be said; in the order in which it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Note {
    /// A node's attributes and contents are to be asked for again.
    Node(u64),
    /// A name in a folder is to be looked at again.
    Look(u64, Box<[u8]>),
    /// A name in a folder is to be forgotten.
    Forget(u64, Box<[u8]>),
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    notes: BTreeSet<Note>,
    ended: bool,
}

/// Takes what is to be said. The thread behind it ends with this.
#[derive(Debug)]
pub struct Notifier(Arc<Shared>);

impl Notifier {
    /// Starts a thread that writes to `device`.
    pub fn start(device: OwnedFd) -> std::io::Result<Notifier> {
        let shared = Arc::<Shared>::default();
        let behind = Arc::clone(&shared);
        std::thread::Builder::new().name("fuse-notify".into()).spawn(move || {
            while let Some(note) = behind.next() {
                // What the kernel has forgotten already is no error, nor is a mount that has gone.
                let _ = rustix::io::write(&device, &note.message());
            }
        })?;
        Ok(Notifier(shared))
    }

    /// The kernel is to forget `name` in the folder `parent`, if it is not in use.
    pub fn forget(&self, parent: u64, name: &[u8]) {
        self.say(Note::Forget(parent, name.into()));
    }

    /// The kernel is to look at `name` in the folder `parent` again (Linux 6.2 or later).
    pub fn look_again(&self, parent: u64, name: &[u8]) {
        self.say(Note::Look(parent, name.into()));
    }

    /// The kernel is to ask for the attributes and contents of `node` again.
    pub fn ask_again(&self, node: u64) {
        self.say(Note::Node(node));
    }

    fn say(&self, note: Note) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).notes.insert(note);
        self.0.more.notify_one();
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.0.more.notify_one();
    }
}

impl Shared {
    /// The next to be said; nothing once there will be no more.
    fn next(&self) -> Option<Note> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |waiting: &mut Waiting| waiting.notes.is_empty() && !waiting.ended;
        let waiting = self.more.wait_while(waiting, none);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if waiting.ended { None } else { waiting.notes.pop_first() }
    }
}

impl Note {
    fn message(&self) -> Vec<u8> {
        match self {
            Note::Node(ino) => {
                // The attributes, and the contents from the start to the end.
                let arg = fuse_notify_inval_inode_out { ino: *ino, off: 0, len: 0 };
                message(FUSE_NOTIFY_INVAL_INODE as i32, &arg, &[])
            }
            Note::Look(parent, name) => entry(*parent, name, EXPIRE_ONLY),
            Note::Forget(parent, name) => entry(*parent, name, 0),
        }
    }
}

fn entry(parent: u64, name: &[u8], flags: u32) -> Vec<u8> {
    let namelen = name.len() as u32;
    let arg = fuse_notify_inval_entry_out { parent, namelen, padding: flags };
    message(FUSE_NOTIFY_INVAL_ENTRY as i32, &arg, &[name, b"\0"].concat())
}

fn message(what: i32, arg: &(impl IntoBytes + Immutable), rest: &[u8]) -> Vec<u8> {
    let len = (size_of::<fuse_out_header>() + size_of_val(arg) + rest.len()) as u32;
    let header = fuse_out_header { len, error: what, unique: 0 };
    [header.as_bytes(), arg.as_bytes(), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_name_is_a_message_with_its_flags_and_a_nul() {
        let bytes = entry(7, b"ab", EXPIRE_ONLY);
        assert_eq!(bytes.len(), 16 + 16 + 3);
        assert_eq!(bytes[..4], 35_u32.to_le_bytes());
        assert_eq!(bytes[4..8], 3_i32.to_le_bytes());
        assert_eq!(bytes[8..16], [0; 8]);
        assert_eq!(bytes[16..24], 7_u64.to_le_bytes());
        assert_eq!(bytes[24..28], 2_u32.to_le_bytes());
        assert_eq!(bytes[28..], [1, 0, 0, 0, b'a', b'b', 0]);
        assert_eq!(Note::Node(9).message()[4..8], 2_i32.to_le_bytes());
    }

    #[test]
    fn what_is_wanted_often_is_said_once_while_it_waits() {
        let shared = Shared::default();
        for _ in 0..1000 {
            shared.waiting.lock().unwrap().notes.insert(Note::Node(1));
            shared.waiting.lock().unwrap().notes.insert(Note::Look(1, b"a"[..].into()));
        }
        assert_eq!(shared.next(), Some(Note::Node(1)));
        assert_eq!(shared.next(), Some(Note::Look(1, b"a"[..].into())));
        shared.waiting.lock().unwrap().ended = true;
        assert_eq!(shared.next(), None);
    }

    #[test]
    fn the_thread_ends_with_the_notifier() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let notifier = Notifier::start(near.into()).unwrap();
        notifier.ask_again(3);
        let mut header = [0; 40];
        far.read_exact(&mut header).unwrap();
        drop(notifier);
        let mut rest = Vec::new();
        assert_eq!(far.read_to_end(&mut rest).unwrap(), 0);
    }
}
