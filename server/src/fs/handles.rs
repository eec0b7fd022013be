//! The descriptors of nodes that are not open for I/O: as many as the process can spare, over all
//! sessions; those that were not used for longest are closed first.
//!
//! Second chance instead of a true order of use: a use costs one flag and no lock that all share.
//! Concurrency: the ring's lock is held for no system call; a node's own lock is taken inside it,
//! never the other way round.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};

use super::node::{Node, lock};

/// The ring of nodes that hold a descriptor.
#[derive(Debug)]
pub struct Handles {
    capacity: usize,
    ring: Mutex<VecDeque<Weak<Node>>>,
}

impl Handles {
    /// A ring of at most `capacity` descriptors, and at least one.
    pub fn new(capacity: usize) -> Handles {
        Handles { capacity: capacity.max(1), ring: Mutex::default() }
    }

    /// Notes that `node` has got a descriptor; others may lose theirs.
    pub fn keep(&self, node: &Arc<Node>) {
        for closed in self.turn(node) {
            drop(closed);
        }
    }

    /// What is to be closed, once the lock has been let go.
    fn turn(&self, node: &Arc<Node>) -> Vec<Arc<OwnedFd>> {
        let mut closed = Vec::new();
        let mut ring = lock(&self.ring);
        ring.push_back(Arc::downgrade(node));
        // Each flag is cleared by the first turn, so that two suffice.
        let mut turns = ring.len() * 2;
        while ring.len() > self.capacity && turns > 0 {
            turns -= 1;
            let Some(front) = ring.pop_front() else { break };
            let Some(oldest) = front.upgrade() else { continue };
            match oldest.take_idle() {
                Some(fd) => closed.push(fd),
                None => ring.push_back(front),
            }
        }
        closed
    }
}
