//! Names that cross the border between qubes (folders, qubes, services), and a server qube's rules about
//! who may have which folder.
//!
//! Both ends and dom0 must read the same thing in them, so they are parsed once, here, into types
//! that cannot hold anything else. This crate does no I/O: where rules are kept, and whether a folder
//! exists, is asked elsewhere.

pub mod decide;
pub mod folder;
pub mod name;
pub mod printable;
pub mod rule;
pub mod service;

pub use decide::{Decision, Refusal, decide};
pub use folder::{Alias, Folder, FolderPath};
pub use name::{QubeName, Target};
pub use printable::printable;
pub use rule::{Access, Rules};
pub use service::Call;
