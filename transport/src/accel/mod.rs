//! Fewer round trips than the kernel asks for.
//!
//! ```text
//!  kernel ──► request ─┬─► answered from the cache ──► reply
//!                      └─► to the far end ──► Rhint ──► cache
//!                                             Rforget ─► cache
//!                                             reply
//! ```
//!
//! The far end says more than it is asked ([`hint`]), the client end remembers it ([`cache`]), and
//! [`crate::session`] answers walks, attributes and questions for extended attributes from it. Whatever
//! goes through the same conversation and may change something takes it out of the cache before it is
//! sent and once more when it is answered. Nothing here does I/O or reads a clock.

pub mod cache;
pub mod hint;

pub use cache::{Budget, Cache};
