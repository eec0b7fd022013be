//! Fewer round trips than the kernel asks for.
//!
//! ```text
//!  kernel ──► request ─┬─► answered from the cache, or from what was read ahead ──► reply
//!                      └─► to the far end ──► Rhint ───► cache
//!                                             Rforget ─► cache
//!                                             reply
//! ```
//!
//! The far end says more than it is asked ([`hint`]), the client end remembers it ([`cache`]) and asks for
//! what a sequential reader will want ([`ahead`]); [`crate::session`] answers walks, attributes, questions for
//! extended attributes and reads from it. Whatever goes through the same conversation and may change
//! something takes it out of both before it is sent and once more when it is answered. Nothing here does
//! I/O or reads a clock.

pub mod ahead;
pub mod cache;
pub mod hint;

use alloc::sync::Arc;
use core::time::Duration;

pub use ahead::Ahead;
pub use cache::Cache;

/// The memory that all streams of a channel share.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    budget: Arc<cache::Budget>,
    store: Arc<ahead::Store>,
}

/// What a stream has without asking.
#[derive(Debug)]
pub struct Accel {
    /// Names and attributes.
    pub cache: Cache,
    /// Contents of files.
    pub ahead: Ahead,
}

impl Accel {
    /// Nothing yet, and nothing that is older than `coherence` will be given out.
    pub fn new(coherence: Duration, shared: &Shared) -> Accel {
        Accel {
            cache: Cache::new(coherence, Arc::clone(&shared.budget)),
            ahead: Ahead::new(coherence, Arc::clone(&shared.store)),
        }
    }

    /// A node changes.
    pub fn change_node(&mut self, path: u64) {
        self.cache.change_node(path);
        self.ahead.change_node(path);
    }

    /// A name of the folder `dir` is taken away or led to another node. No file's contents change.
    pub fn change_name(&mut self, dir: u64, name: &[u8]) {
        self.cache.change_name(dir, name);
    }

    /// A name of the folder `dir` has changed at the far end, or what it leads to.
    pub fn forget(&mut self, dir: u64, name: &[u8]) {
        // Of a name that is not known nobody has read anything lately, or it was taken back before.
        if let Some(path) = self.cache.leads_to(dir, name) {
            self.ahead.change_node(path);
        }
        self.cache.change_name(dir, name);
    }

    /// All of a folder may have changed.
    pub fn forget_folder(&mut self, dir: u64) {
        self.cache.change_folder(dir);
        self.ahead.change_all();
    }

    /// Anything may have changed.
    pub fn change_all(&mut self) {
        self.cache.change_all();
        self.ahead.change_all();
    }
}
