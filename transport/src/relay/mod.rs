//! The data plane: joins file descriptors to the multiplexer.
//!
//! ```text
//!   9P fd ─► link (framer, session) ─┐                    ┌─► channel's writing fd
//!   9P fd ─► link (framer, session) ─┼─► mux::Connection ─┤
//!   9P fd ◄─ link (session)         ◄┘                    └─◄ channel's reading fd
//!            └──────────── one thread: pump ─────────────────┘
//! ```
//!
//! One thread a channel, on mio's edge-triggered readiness, descriptors non-blocking, AF_UNIX sockets
//! and pipes alike. Everything that decides lives in [`crate::mux`] and [`crate::session`]; here bytes
//! are read, written and counted.

pub mod buffer;
pub mod channel;
pub mod class;
pub mod link;
pub mod links;
pub mod mailbox;
pub mod meter;
pub mod outbox;
pub mod pump;
pub mod ready;
pub mod spin;
mod sys;
mod unsent;
