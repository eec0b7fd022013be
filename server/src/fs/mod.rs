//! The embedded 9P2000.L file server: one folder, served as the folder itself behaves, and nothing
//! but it.
//!
//! ```text
//! submit ─► session ─► spot ─► dispatch ─► walk io dir attr create rename link xattr lock ─► system calls
//!              │  ▲     └ rule, disk           │            one family a file
//!     inflight ┘  └ workers                   └─► fid ─► tree ─► node ─► handles
//!    tags, flush    threads                               names, moves   descriptors, the last used ones
//! ```
//!
//! Two guards keep a client in the folder, each alone sufficient: every name is checked to be a
//! single component (`node::Name`), and every open goes through `openat2(2)` beneath its folder's
//! descriptor without following a symbolic link (`node::open_beneath`). Nothing uses a path of
//! more than one component, nor /proc.
//!
//! Everything is done as the user that the service runs as. Follows diod's `protocol.md`, and what
//! Linux's client makes of it (`fs/9p`, `net/9p`). Leaves out the transport, who may have the
//! folder, and the sandbox around it.

mod attr;
mod buffer;
mod create;
mod dir;
mod disk;
mod dispatch;
mod errno;
mod export;
mod fid;
mod handles;
mod hints;
mod inflight;
mod io;
pub mod limits;
mod link;
mod lock;
mod node;
mod qid;
mod ranges;
mod rename;
mod rule;
mod session;
mod spot;
mod tree;
mod walk;
pub mod watch;
mod workers;
mod xattr;
mod xattr_at;

pub use errno::Errno;
pub use export::{Export, ExportError};
pub use limits::Limits;
pub use session::{Replies, Session, SessionError};
pub use workers::Workers;
