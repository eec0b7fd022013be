//! Mounts folders of other qubes: what the command `qvm-mount-folder` is made of.
//!
//! ```text
//!  cli ─► plan ─► mount ──control socket──► daemon ─► the pair's channel (transport::relay)
//!                   │   ◄── a 9P socket ──┘
//!                   └─► frontend: v9fs makes a folder of it
//! ```
//!
//! What goes wrong has a code and a sentence ([`exit`]); what the far end prints is shown escaped
//! ([`escape`]); what the running kernel can do is found out in [`kernel`].

pub mod cli;
pub mod daemon;
pub mod escape;
pub mod exit;
pub mod frontend;
pub mod helper;
pub mod kernel;
pub mod log;
pub mod mount;
pub mod options;
pub mod plan;
pub mod recent;
#[cfg(test)]
#[path = "../tests/snapshot/mod.rs"]
mod snapshot;
pub mod status;
mod sys;
pub mod unmount;
