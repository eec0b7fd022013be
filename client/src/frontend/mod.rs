//! What turns a stream into a folder.
//!
//! A front end gets one end of a socketpair that speaks 9P2000.L and makes something usable of it.
