//! The threads that work on files, shared by all sessions of a process, and its other means:
//! descriptors, buffers, and the list of locks that are waited for.
//!
//! Threads are started when work finds none idle, up to a bound, and end when there is nothing to
//! do for a while. A session hands in no more than its share at a time; the rest waits in the
//! session, so that one client's slow disk does not hold every thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::buffer::Buffers;
use super::fid::{Budget, Fid};
use super::handles::Handles;
use super::inflight::Request;
use super::limits::{self, Limits};
use super::lock::{Owners, Waiting};
use super::session::Session;

/// How long an idle thread stays.
const IDLE: Duration = Duration::from_secs(10);

/// Threads and other means of a process.
#[derive(Debug)]
pub struct Workers {
    limits: Limits,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    threads: AtomicUsize,
    idle: AtomicUsize,
    pub(super) handles: Arc<Handles>,
    pub(super) open_files: Arc<Budget>,
    pub(super) lock_owners: Arc<Budget>,
    pub(super) lock_ranges: Arc<Budget>,
    pub(super) xattr_held: Arc<Budget>,
    pub(super) fids: Arc<Budget>,
    pub(super) nodes: Arc<Budget>,
    pub(super) buffers: Buffers,
    pub(super) waiting: Arc<Waiting>,
}

/// Something to do on a thread that may wait for a disk.
#[derive(Debug)]
pub(super) enum Job {
    /// Carry a request out.
    Request(Arc<Session>, Arc<Request>),
    /// End fids and owners of locks that are in no table any more.
    Retire(Arc<Session>, Vec<Arc<Fid>>, Owners),
}

impl Workers {
    /// Means within `limits`. No thread is started yet.
    pub fn new(limits: Limits) -> Arc<Workers> {
        let (jobs, queue) = unbounded();
        Arc::new(Workers {
            limits,
            jobs,
            queue,
            threads: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            handles: Arc::new(Handles::new(limits.handles)),
            open_files: Budget::new(limits.open_files),
            lock_owners: Budget::new(limits.lock_owners),
            lock_ranges: Budget::new(limits::LOCKS),
            xattr_held: Budget::new(limits::XATTR_HELD),
            fids: Budget::new(limits.fids),
            nodes: Budget::new(limits.nodes),
            buffers: Buffers::default(),
            waiting: Arc::default(),
        })
    }

    /// Threads that one session may hold.
    pub(super) fn share(&self) -> usize {
        self.limits.share.clamp(1, self.limits.threads.max(1))
    }

    /// Has `job` done soon; never waits for it.
    pub(super) fn push(self: &Arc<Workers>, job: Job) {
        // The receiver lives in `self`: sending cannot fail.
        let _ = self.jobs.send(job);
        if self.idle.load(Ordering::SeqCst) < self.queue.len() {
            self.start();
        }
    }

    fn start(self: &Arc<Workers>) {
        let most = self.limits.threads.max(1);
        let more = |threads| (threads < most).then_some(threads + 1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            return;
        }
        let (queue, workers) = (self.queue.clone(), Arc::downgrade(self));
        let started =
            thread::Builder::new().name("files".into()).spawn(move || work(&queue, &workers));
        if started.is_err() && self.threads.fetch_sub(1, Ordering::SeqCst) == 1 {
            // No thread can be had and there is none: slowly is better than never.
            while let Ok(job) = self.queue.try_recv() {
                carry_out(job);
            }
        }
    }
}

/// One thread's life. It does not keep the means alive: without sessions they go, and it ends.
fn work(queue: &Receiver<Job>, workers: &Weak<Workers>) {
    loop {
        let Some(idle) = workers.upgrade() else { return };
        idle.idle.fetch_add(1, Ordering::SeqCst);
        drop(idle);
        let received = queue.recv_timeout(IDLE);
        let Some(means) = workers.upgrade() else { return };
        means.idle.fetch_sub(1, Ordering::SeqCst);
        // What came between the time-out and now saw this thread as idle.
        let received = match received {
            Err(RecvTimeoutError::Timeout) => queue.try_recv().ok(),
            other => other.ok(),
        };
        let Some(job) = received else {
            means.threads.fetch_sub(1, Ordering::SeqCst);
            // The same once more: now it would be seen that there is no thread.
            if let Ok(job) = queue.try_recv() {
                means.push(job);
            }
            return;
        };
        drop(means);
        carry_out(job);
    }
}

fn carry_out(job: Job) {
    match job {
        Job::Request(session, request) => session.carry_out(&request),
        Job::Retire(session, fids, owners) => session.retire_all(fids, owners),
    }
}
