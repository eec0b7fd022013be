//! FUSE: a folder without the kernel's v9fs, and without root.
//!
//! ```text
//!   command line                       channel daemon
//!   kernel_side: open /dev/fuse,  ───► thread: one a mount
//!   mount(2) or fusermount3      fd      mount ─ device ══ /dev/fuse
//!                                        names file folder attr xattr lock
//!                                        ninep ══ 9P socket ══ the channel's relay
//! ```
//!
//! The session is a 9P client at the same kind of socket that v9fs gets, so that the relay, what it
//! checks, what it answers after a loss and what it counts are the same. The kernel is trusted, the
//! server is not: `attr` and `folder` check what it says. A node is a fid, an open file is another
//! one; a request that waits can be given up by what `interrupt` says. What the server takes back
//! concerns those of the names in `places` that the kernel has been told of, and `notify` tells it.
//!
//! Left out: a write-back cache, since a write that succeeded would fail later; rename(2)'s flags,
//! fallocate(2), and looking for holes, which 9P cannot do.

mod abi;
mod attr;
mod device;
mod file;
mod folder;
mod handle;
pub mod idmap;
mod interrupt;
pub mod kernel_side;
mod lock;
mod mount;
mod names;
mod ninep;
mod node;
mod notify;
mod places;
pub mod thread;
mod xattr;

pub use kernel_side::Fuse;
pub use thread::{Serving, Settings, start};
