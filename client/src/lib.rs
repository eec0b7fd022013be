//! Mounts folders of other qubes: what the command `qvm-mount-folder` is made of.
//!
//! The command line ([`cli`]) becomes a checked plan ([`plan`]); a front end ([`frontend`]) turns a
//! stream of the channel into a folder, as far as the kernel ([`kernel`]) can; what goes wrong has a
//! code and a sentence ([`exit`]); what the far end says is shown escaped ([`escape`]).

pub mod cli;
pub mod escape;
pub mod exit;
pub mod frontend;
pub mod kernel;
pub mod plan;
