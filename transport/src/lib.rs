//! 9P2000.L over one multiplexed channel between two qubes.
#![cfg_attr(not(feature = "relay"), no_std)]

extern crate alloc;

pub mod id;
pub mod negotiate;
pub mod mux;
pub mod ninep;
pub mod session;
