//! Fewer round trips than the kernel asks for.

pub mod hint;
