//! The server end: the qrexec service, and the file server behind it.
//!
//! ```text
//!  qrexec's stdin ═► service ─► pump ─► demux ─┬─► fs::Session ─► workers ─► *at() beneath the folder
//!  qrexec's stdout ◄═ (preface)      ◄── replies, out of order ◄┘
//!                      │
//!                      └ grant: a later call hands its permission to the process with the channel
//! ```

pub mod backend;
pub mod demux;
pub mod fs;
pub mod grant;
mod requests;
pub mod sandbox;
pub mod service;
pub mod stderr;
mod sys;
mod waiting;
