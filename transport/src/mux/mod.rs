//! The multiplexer: many streams over one channel. No I/O, no clock; the caller moves the bytes and
//! says what time it is. The protocol is specified in PROTOCOL.md.
//!
//! ```text
//!  9P messages ─► send ─► scheduler ─► output ─► bytes for writev(2)
//!                  ▲         ▲
//!               credit    credit           (connection composes them)
//!                  │         │
//!  9P messages ◄─ receive ◄─ incoming ◄─ input ◄─ bytes of read(2)
//! ```
//!
//! A call begins with [`preface`], which stands on its own: the server end reads the client's, decides,
//! and answers. Then both have a [`Connection`]. The client end has its own before the answer came, so
//! that its first `OPEN` rides with its preface:
//!
//! ```
//! use core::time::Duration;
//! use transport::mux::preface::*;
//! use transport::mux::*;
//!
//! // Client end: preface and OPEN in one write.
//! let mut client = Connection::new(Side::Client, Config::default());
//! let (capabilities, limits) = (Capabilities::OURS, client.limits());
//! let hello = ClientHello { capabilities, limits, role: Role::Channel };
//! let open = Open { authorisation: Authorisation::Own, msize: 1 << 20, flags: 0 };
//! let stream = client.open(open).unwrap();
//! let mut to_server = vec![hello.encode()];
//! client.poll_transmit(Duration::ZERO, 65_536, &mut to_server);
//!
//! // Server end: reads the preface, answers, goes on with what followed.
//! let bytes = bytes::Bytes::from(to_server.concat());
//! let (hello, rest) = PrefaceReader::<ClientHello>::default().feed(bytes).unwrap().unwrap();
//! let mut server = Connection::new(Side::Server, Config::default());
//! server.establish(Duration::ZERO, &hello.limits);
//! server.handle_input(Duration::ZERO, rest).unwrap();
//! assert_eq!(server.poll_event(), Some(Event::Open { stream, open }));
//! ```
//!
//! The multiplexer knows nothing of 9P: it is handed lengths and classes.

pub mod config;
pub mod connection;
pub mod credit;
pub mod error;
pub mod event;
pub mod frame;
mod incoming;
pub mod input;
mod output;
mod ping;
pub mod preface;
mod receive;
pub mod scheduler;
mod send;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{Config, Limits};
pub use connection::{Connection, Side, Stats};
pub use error::{ChannelError, Code, OpenError, Reason, SendError};
pub use event::Event;
pub use frame::{Authorisation, Open, Opened};
pub use input::Pieces;
pub use scheduler::Class;
