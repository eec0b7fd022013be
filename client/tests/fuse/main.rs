//! FUSE mounts for real, with this machine's kernel and through the real programs (`--via local`).
//!
//! Works as root and as an ordinary user. What only root can set up, an ordinary user's run does through
//! `sudo`. The folder that is shared is seen from both ends: `there` is the folder itself, `here` the
//! mount. `kernel.rs` has the same for v9fs, `conformance.rs` what other file systems' suites say.
//!
//! Needs the programs of the workspace beside each other: `cargo build --workspace --bins`.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

mod ends;
mod files;
mod locks;
mod names;
mod place;
mod programs;
mod rights;
