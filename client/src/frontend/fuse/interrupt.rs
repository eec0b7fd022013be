//! Which waiting requests are given up, and when.
//!
//! The kernel says FUSE_INTERRUPT once for each request whose process got any signal at all. A disk's
//! operations are not ended by a signal that a handler takes, and programs rely on it: a timer must not
//! make a read fail with EINTR. So a wait for a lock is given up at any signal, as fcntl(2) has it, and
//! everything else only once its process is to die. That shows in /proc: a fatal signal has been turned
//! into SIGKILL for each of the process's threads (kernel `kernel/signal.c`).

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;

/// How often is looked whether a process is to die.
pub const LOOK: Duration = Duration::from_millis(150);
/// How long a request waits whose process cannot be seen from here.
pub const UNSEEN: Duration = Duration::from_secs(5);

/// Whether a request is to be given up.
#[derive(Debug, Default)]
pub struct Cancel {
    wanted: Cell<bool>,
    changed: Notify,
}

impl Cancel {
    /// Gives it up.
    pub fn cancel(&self) {
        self.wanted.set(true);
        self.changed.notify_waiters();
    }

    /// Returns once it is to be given up.
    pub async fn wanted(&self) {
        let changed = self.changed.notified();
        if !self.wanted.get() {
            changed.await;
        }
    }
}

/// What can be seen of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes on after what it waits for.
    Lives,
    /// It ends as soon as it is let go.
    Dies,
    /// Nothing: it is of another pid namespace, or hidden.
    Unseen,
}

/// What is to become of task `id`.
pub fn fate(id: u32) -> Fate {
    let status = match id {
        0 => None,
        _ => std::fs::read_to_string(format!("/proc/{id}/status")).ok(),
    };
    status.map_or(Fate::Unseen, |status| fate_by(&status))
}

fn fate_by(status: &str) -> Fate {
    const SIGKILL: u64 = 1 << (9 - 1);
    let pending = ["SigPnd:", "ShdPnd:"].into_iter().filter_map(|field| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    match pending.reduce(|a, b| a | b) {
        Some(signals) if signals & SIGKILL != 0 => Fate::Dies,
        Some(_) => Fate::Lives,
        None => Fate::Unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_is_told_from_who_handles_a_signal() {
        let status = |own, shared| format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        for (own, shared, fate) in [
            ("0000000000000000", "0000000000000000", Fate::Lives),
            ("0000000000002000", "0000000000000001", Fate::Lives),
            ("0000000000000100", "0000000000000000", Fate::Dies),
            ("0000000000000000", "0000000000004100", Fate::Dies),
        ] {
            assert_eq!(fate_by(&status(own, shared)), fate, "{own} {shared}");
        }
        assert_eq!(fate_by(""), Fate::Unseen);
    }

    #[test]
    fn a_living_task_is_seen() {
        assert_eq!(fate(std::process::id()), Fate::Lives);
        assert_eq!(fate(0), Fate::Unseen);
    }
}
