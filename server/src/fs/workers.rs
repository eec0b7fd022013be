//! The threads that work on files, shared by all sessions of a process, and its other means:
//! descriptors, buffers, and the list of locks that are waited for.
//!
//! Threads are started when work finds none idle, up to a bound, and end when there is nothing to
//! do for a while. A session hands in no more than its share at a time; the rest waits in the
//! session, so that one client's slow disk does not hold every thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::buffer::Buffers;
use super::fid::{Budget, Fid};
use super::handles::Handles;
use super::inflight::{Request, Spare};
use super::limits::{self, Limits};
use super::lock::{Owners, Waiting};
use super::node::lock;
use super::session::Session;
use super::spot::Turn;
use super::watch::Watches;

/// How long an idle thread stays.
const IDLE: Duration = Duration::from_secs(10);

/// Threads and other means of a process.
#[derive(Debug)]
pub struct Workers {
    limits: Limits,
    queue: Arc<Queue>,
    pub(super) turn: Turn,
    pub(super) spare: Spare,
    pub(super) handles: Arc<Handles>,
    pub(super) open_files: Arc<Budget>,
    pub(super) lock_owners: Arc<Budget>,
    pub(super) lock_ranges: Arc<Budget>,
    pub(super) xattr_held: Arc<Budget>,
    pub(super) fids: Arc<Budget>,
    pub(super) nodes: Arc<Budget>,
    pub(super) buffers: Buffers,
    pub(super) waiting: Arc<Waiting>,
    pub(super) watches: Watches,
}

/// Something to do on a thread that may wait for a disk.
#[derive(Debug)]
pub(super) enum Job {
    /// Carry a request out.
    Request(Arc<Session>, Arc<Request>),
    /// End fids and owners of locks that are in no table any more.
    Retire(Arc<Session>, Vec<Arc<Fid>>, Owners),
}

/// What is to be done. A list that keeps its memory, unlike a channel.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Those of them that sleep.
    idle: usize,
    /// Jobs handed in so far.
    pushed: u64,
    closed: bool,
}

impl Workers {
    /// Means within `limits`. No thread is started yet.
    pub fn new(limits: Limits) -> Arc<Workers> {
        Arc::new(Workers {
            limits,
            queue: Arc::default(),
            turn: Turn::new(limits.on_the_spot),
            spare: Spare::default(),
            handles: Arc::new(Handles::new(limits.handles)),
            open_files: Budget::new(limits.open_files),
            lock_owners: Budget::new(limits.lock_owners),
            lock_ranges: Budget::new(limits::LOCKS),
            xattr_held: Budget::new(limits::XATTR_HELD),
            fids: Budget::new(limits.fids),
            nodes: Budget::new(limits.nodes),
            buffers: Buffers::default(),
            waiting: Arc::default(),
            watches: Watches::default(),
        })
    }

    /// Threads that one session may hold.
    pub(super) fn share(&self) -> usize {
        self.limits.share.clamp(1, self.limits.threads.max(1))
    }

    /// Whether nothing is to be done on the spot but what takes no more than a look.
    pub(super) fn spotless(&self) -> bool {
        self.limits.on_the_spot == 0
    }

    /// Begins another turn of the thread that takes the sessions' messages in: after what it reads and
    /// writes itself in one, it hands the rest to the workers.
    pub fn turn(&self) {
        self.turn.begin();
    }

    /// The watches behind hints.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// How much has been handed to the threads so far.
    pub fn handed_over(&self) -> u64 {
        lock(&self.queue.state).pushed
    }

    /// Has `job` done soon; never waits for it.
    pub(super) fn push(self: &Arc<Workers>, job: Job) {
        let start = {
            let mut state = lock(&self.queue.state);
            state.jobs.push_back(job);
            state.pushed += 1;
            // Each that sleeps is woken for one.
            let start = state.idle < state.jobs.len();
            let start = start && state.threads < self.limits.threads.max(1);
            state.threads += usize::from(start);
            start
        };
        if start {
            self.start();
        } else {
            // No system call where none sleeps.
            self.queue.work.notify_one();
        }
    }

    /// Starts a thread, which has been counted.
    fn start(self: &Arc<Workers>) {
        let queue = self.queue.clone();
        let started = thread::Builder::new().name("files".into()).spawn(move || work(&queue));
        if started.is_ok() {
            return;
        }
        let alone = {
            let mut state = lock(&self.queue.state);
            state.threads -= 1;
            state.threads == 0
        };
        // No thread can be had and there is none: slowly is better than never.
        while let Some(job) = alone.then(|| lock(&self.queue.state).jobs.pop_front()).flatten() {
            carry_out(job);
        }
    }
}

impl Drop for Workers {
    /// No session is left, and so no job.
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.work.notify_all();
    }
}

/// One thread's life. It does not keep the means alive: without sessions they go, and it ends.
fn work(queue: &Queue) {
    let mut state = lock(&queue.state);
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            carry_out(job);
            state = lock(&queue.state);
            continue;
        }
        if state.closed {
            break;
        }
        state.idle += 1;
        let woken = queue.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state = woken.0;
        state.idle -= 1;
        if woken.1.timed_out() && state.jobs.is_empty() {
            break;
        }
    }
    state.threads -= 1;
}

fn carry_out(job: Job) {
    match job {
        Job::Request(session, request) => session.carry_out(request),
        Job::Retire(session, fids, owners) => session.retire_all(fids, owners),
    }
}
