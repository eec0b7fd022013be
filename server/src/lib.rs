//! The server end: the embedded 9P2000.L file server and what carries it.

pub mod fs;
mod sys;
