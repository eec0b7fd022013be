//! Names that cross the border between qubes: folders, qubes, services.
//!
//! Both ends and dom0 must read the same thing in them, so they are parsed once, here, into types
//! that cannot hold anything else. Export rules and verdicts belong here too. This crate does no
//! I/O: whether a folder exists, and who may have it, is asked elsewhere.

pub mod folder;
pub mod name;
pub mod printable;
pub mod service;

pub use folder::{Alias, Folder, FolderPath};
pub use name::{QubeName, Target};
pub use printable::printable;
pub use service::Call;
