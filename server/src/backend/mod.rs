//! What answers a stream: the embedded file server in this process, or a process at the far end of a
//! socket that speaks 9P2000.L and serves nothing but the stream's folder.
//!
//! ```text
//!  demux ─► Backend ─┬─ Embedded ─► fs::Session ─► workers
//!                    └─ Remote ───► socket ═► diod              (diod.rs, dialect.rs)
//!                                          ═► worker: a Session in a process of its own
//! ```
//!
//! The demux counts credit and room for both in the same way. A remote server is not trusted with the
//! channel: its replies are checked before they go there, and one that breaks a rule, or ends, ends its
//! stream alone. Leaves out who starts the process ([`diod`] does, or the sandbox where each folder has
//! one of its own).

mod confine;
pub mod dialect;
pub mod diod;
mod remote;
mod sys;
pub mod worker;

use std::sync::Arc;

pub use dialect::Dialect;
pub use remote::{Asked, Remote, RemoteError, Submitted};

use crate::fs::{Export, Session};
use crate::requests::Manners;

/// Which file server is to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    #[default]
    Embedded,
    /// Debian's diod.
    Diod,
}

/// What answers a stream.
#[derive(Debug)]
pub enum Backend {
    /// A session of the embedded file server.
    Embedded {
        /// Its folder, which further streams may share.
        export: Arc<Export>,
        /// The session.
        session: Arc<Session>,
    },
    /// A process at the far end of a socket, and the number of the socket's readiness token.
    Remote(Box<Remote>, usize),
}

impl Backend {
    /// How it treats its requests.
    pub(crate) fn manners(&self) -> Manners {
        match self {
            Backend::Embedded { .. } => {
                Manners { parks: true, keeps_locks_here: true, answers_last_flush_only: false }
            }
            Backend::Remote(remote, _) => remote.dialect().manners(),
        }
    }
}
