//! Letters to the data plane's thread: a queue, and a bell that is rung once for many, and not at all
//! while the thread is awake and will look by itself.

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
    /// The bell need not be rung: it has been, or the receiver looks before it sleeps.
    awake: AtomicBool,
    waker: mio::Waker,
}

impl<T> Mailbox<T> {
    /// A mailbox whose bell is `waker`.
    pub fn new(waker: mio::Waker) -> Mailbox<T> {
        let awake = AtomicBool::new(false);
        Mailbox { shared: Arc::new(Shared { queue: SegQueue::new(), awake, waker }) }
    }

    /// A sending end.
    pub fn sender(&self) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared) }
    }

    /// The receiver is awake and will look: nobody needs to ring until [`listen`](Self::listen).
    pub fn mute(&self) {
        self.shared.awake.store(true, Ordering::SeqCst);
    }

    /// The receiver is about to sleep: from here on the first letter rings. Says whether one has come
    /// before that, which did not.
    pub fn listen(&self) -> bool {
        self.shared.awake.store(false, Ordering::SeqCst);
        !self.shared.queue.is_empty()
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
        if !self.shared.awake.swap(true, Ordering::SeqCst) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_bell_rings_once_and_only_for_one_who_sleeps() {
        let mut poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let mailbox = Mailbox::new(waker);
        let sender = mailbox.sender();
        let mut rings = || {
            let mut events = mio::Events::with_capacity(8);
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            events.iter().count()
        };
        sender.send(1);
        sender.send(2);
        assert_eq!(rings(), 1);
        mailbox.mute();
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
        sender.send(3);
        assert_eq!(rings(), 0);
        assert!(mailbox.listen());
        assert_eq!(mailbox.take(), Some(3));
        assert!(!mailbox.listen());
        sender.send(4);
        assert_eq!(rings(), 1);
    }
}
