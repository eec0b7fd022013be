//! 9P2000.L over one multiplexed channel between two qubes.
//!
//! # The road of a request
//!
//! ```text
//!  client qube                                                    server qube
//!  v9fs, or any 9P client                                         file server
//!    │ 9P socket, one a mount                                        ▲ whole messages
//!    ▼                                                               │
//!  ninep::framer   bytes to messages,                             ninep::framer
//!    │             heads apart from payloads                         │
//!  session         tags and fids of the channel's own,               │
//!    │             flushes answered in time;                         │
//!    │             from accel what need not be asked                 │
//!  mux             messages to frames: credit, scheduling  ═══════► mux
//!    │                                                               │
//!  relay::channel  many frames, one vectored write ═══ qrexec ═══ relay::channel
//! ```
//!
//! Replies take the same road back. A payload is sliced all the way and copied nowhere in user space
//! ([`relay::buffer`] to [`relay::outbox`]). [`relay::pump`] is the loop that drives either end;
//! [`relay::links`] is its part at the client end.
//!
//! Without the feature `relay` what is left is `no_std`: the compiler proves that [`ninep`], [`mux`],
//! [`accel`] and [`session`] do no I/O and read no clock. The channel protocol is specified in `PROTOCOL.md`.
#![cfg_attr(not(feature = "relay"), no_std)]

extern crate alloc;

pub mod accel;
pub mod id;
#[cfg(feature = "relay")]
pub mod local;
pub mod mux;
pub mod negotiate;
pub mod ninep;
#[cfg(feature = "relay")]
pub mod relay;
pub mod session;
#[cfg(feature = "relay")]
pub mod stats;
