//! The server end: the qrexec service, and the file server behind it.
//!
//! ```text
//!  qrexec's stdin ═► service ─► pump ─► demux ─┬─► fs::Session ─► workers ─► *at() beneath the folder
//!  qrexec's stdout ◄═ (preface)      ◄── replies, out of order ◄┘
//!                      │
//!                      ├ exports: this qube's rules, before anything else is looked at
//!                      ├ desk: a later call hands its permission to the process with the channel
//!                      └ log: who asked for what, in this qube
//! ```
//!
//! [`owner`] is the other program in here: what the owner of the folders sees and orders.

pub mod backend;
pub mod cli;
pub mod demux;
pub mod desk;
pub mod exports;
pub mod fs;
pub mod grant;
pub mod log;
pub mod owner;
mod requests;
pub mod sandbox;
pub mod service;
pub mod stderr;
mod sys;
mod waiting;
