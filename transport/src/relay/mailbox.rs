//! Letters to the data plane's thread: a queue, and a bell that is rung once for many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::SegQueue;

/// The receiving end; [`sender`](Mailbox::sender) makes any number of sending ones.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

/// A sending end, for any thread.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    queue: SegQueue<T>,
    /// The bell has been rung and not been heard yet.
    rung: AtomicBool,
    waker: mio::Waker,
}

impl<T> Mailbox<T> {
    /// A mailbox whose bell is `waker`.
    pub fn new(waker: mio::Waker) -> Mailbox<T> {
        let rung = AtomicBool::new(false);
        Mailbox { shared: Arc::new(Shared { queue: SegQueue::new(), rung, waker }) }
    }

    /// A sending end.
    pub fn sender(&self) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared) }
    }

    /// The bell has been heard: to be called before the letters are taken, so that one which comes
    /// after the last is taken rings again.
    pub fn hear(&self) {
        self.shared.rung.store(false, Ordering::SeqCst);
    }

    /// The next letter.
    pub fn take(&self) -> Option<T> {
        self.shared.queue.pop()
    }
}

impl<T> Sender<T> {
    /// Puts a letter in and rings. Never blocks.
    pub fn send(&self, letter: T) {
        self.shared.queue.push(letter);
        if !self.shared.rung.swap(true, Ordering::SeqCst) {
            // Fails only where the other end is gone, and then nobody minds.
            let _ = self.shared.waker.wake();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("waiting", &self.shared.queue.len()).finish()
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("waiting", &self.shared.queue.len()).finish()
    }
}
