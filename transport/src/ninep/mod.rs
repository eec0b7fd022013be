//! The 9P2000.L wire format: what Linux's v9fs sends and what it understands.
//!
//! ```text
//! bytes ─► framer ─► Packet (head in one piece, payload in the pieces it came in) ─► message
//! ```
//!
//! No I/O, no clock, no allocation that a length did not pass a check for. Strings are bytes: a
//! file name on Linux is any bytes but `/` and NUL. Follows diod's `protocol.md` and, where that is
//! silent, the kernel's `net/9p/protocol.c` and `include/net/9p/9p.h`.

pub mod codec;
pub mod framer;
pub mod message;
pub mod packet;
pub mod pieces;

pub use codec::DecodeError;
pub use framer::{Framer, Item};
pub use message::{Kind, Names, Qid, QidKind, Qids, Rmessage, Tmessage};
pub use packet::Packet;
pub use pieces::Pieces;
