//! How processes of one person on one side find and talk to each other: a private folder, and in it
//! sockets that carry whole messages and descriptors.
//!
//! The command line talks so to the channel daemon, and a later service process to the one that holds
//! the channel. Nothing of it ever crosses between qubes; still nothing is believed of a folder or a
//! peer whose owner is another.

mod message;
mod runtime;

pub use message::{Message, MessageSocket};
pub use runtime::{RuntimeError, runtime_folder, runtime_folder_of};
