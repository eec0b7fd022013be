//! The two processes: the keeper, which stays outside, and the one that is locked in.
//!
//! The keeper touches nothing that the client sent. It waits for the other, ends it when it is told to
//! end, and is what qrexec sees: its end is the call's. The other does not survive it: not even
//! SIGKILL to the keeper leaves it behind.
//!
//! ```text
//!  keeper ─ fork ─► tries ─ "done", or the step that failed ─► keeper: waits, or tries the next kind
//! ```
//!
//! Each kind is tried in a new process: one that got half-way is no place to go on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process,
    set_parent_process_death_signal, waitpid,
};
use transport::local::MessageSocket;

use super::{Failure, Kind, Side, Step, Unavailable, sys};
use crate::stderr;

/// Says that a step has been taken; a failure is its words.
const DONE: &[u8] = &[0];

/// How the locked-in process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(u8);

impl Ended {
    /// Whether all went well.
    pub fn is_success(self) -> bool {
        self.0 == 0
    }
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> ExitCode {
        ended.0.into()
    }
}

/// The keeper's end.
#[derive(Debug)]
pub struct Keeper {
    child: Pid,
    signals: sys::Blocked,
}

impl Keeper {
    /// Waits for the other process. A signal that asks this one to end ends the other.
    pub fn wait(self) -> Ended {
        let mut told = None;
        loop {
            match waitpid(Some(self.child), WaitOptions::NOHANG) {
                Ok(None) | Err(Errno::INTR) => {}
                Ok(Some((_, status))) => return self.ended(status, told),
                Err(_) => return Ended(1),
            }
            let signal = self.signals.wait();
            if signal != Signal::CHILD {
                told = Some(signal);
                let _ = kill_process(self.child, Signal::KILL);
            }
        }
    }

    fn ended(&self, status: WaitStatus, told: Option<Signal>) -> Ended {
        let of_signal = |signal: i32| Ended(128u8.saturating_add(signal.try_into().unwrap_or(0)));
        match (status.exit_status(), status.terminating_signal(), told) {
            (Some(code), ..) => Ended(code.try_into().unwrap_or(1)),
            (_, _, Some(told)) => of_signal(told.as_raw()),
            (_, Some(signal), _) => {
                stderr::say(format_args!(
                    "qvm-folder-server: the sandboxed process was ended by signal {signal}"
                ));
                of_signal(signal)
            }
            _ => Ended(1),
        }
    }
}

/// What a locked-in process has of its keeper.
#[derive(Clone, Copy, Debug)]
pub struct Tie<'a> {
    /// Nobody, where it is to live on.
    keeper: Option<Pid>,
    /// Where it reports; to be kept.
    pub report: BorrowedFd<'a>,
}

impl Tie<'_> {
    /// Has the kernel end this process with its keeper. To be done again after a change of rights, at
    /// which the kernel forgets it.
    pub fn fasten(&self) -> Result<(), Failure> {
        if let Some(keeper) = self.keeper {
            set_parent_process_death_signal(Some(Signal::KILL)).step("the tie to the keeper")?;
            // It may have been gone before the line above.
            if getppid() != Some(keeper) {
                sys::exit_now(1);
            }
        }
        Ok(())
    }
}

/// Tries `kinds` one after the other, each in a new process by `enter`, which gets the socket that it
/// reports by, to keep. Returns in both processes.
pub fn split(
    kinds: &[Kind],
    mut enter: impl FnMut(Kind, Tie<'_>) -> Result<(), Failure>,
) -> Result<Side, Unavailable> {
    let mut reasons = Vec::new();
    for &kind in kinds {
        match try_one(kind, &mut enter) {
            Ok(side) => {
                if matches!(side, Side::Keeper(_)) && !reasons.is_empty() {
                    let reasons = reasons.join("; ");
                    stderr::say(format_args!("confined by {kind} only ({reasons})"));
                }
                return Ok(side);
            }
            Err(reason) => reasons.push(format!("{kind}: {reason}")),
        }
    }
    Err(Unavailable(reasons))
}

fn try_one(
    kind: Kind,
    enter: &mut impl FnMut(Kind, Tie<'_>) -> Result<(), Failure>,
) -> Result<Side, String> {
    let words = |failure: Failure| failure.to_string();
    let (near, far) = MessageSocket::pair().step("a socket").map_err(words)?;
    let signals = sys::Blocked::new();
    let keeper = getpid();
    match sys::fork().step("a new process").map_err(words)? {
        Some(child) => {
            drop(far);
            match heard(&near) {
                Ok(_) => Ok(Side::Keeper(Box::new(Keeper { child, signals }))),
                Err(reason) => {
                    reap(child);
                    Err(reason)
                }
            }
        }
        None => {
            drop((near, signals));
            let tie = Tie { keeper: Some(keeper), report: far.as_fd() };
            let done = tie.fasten().and_then(|()| enter(kind, tie)).map(|()| None);
            let failed = done.is_err();
            report(&far, done);
            if failed {
                sys::exit_now(1);
            }
            Ok(Side::Confined(kind))
        }
    }
}

/// Has a descriptor made in a process of its own, which ends at once.
pub fn borrow(make: impl FnOnce() -> Result<OwnedFd, Failure>) -> Result<OwnedFd, Unavailable> {
    let lend = || {
        let words = |failure: Failure| failure.to_string();
        let (near, far) = MessageSocket::pair().step("a socket").map_err(words)?;
        let Some(child) = sys::fork().step("a new process").map_err(words)? else {
            report(&far, make().map(Some));
            sys::exit_now(0);
        };
        drop(far);
        let heard = heard(&near);
        reap(child);
        heard?.ok_or_else(|| "no descriptor came".to_owned())
    };
    lend().map_err(|reason| Unavailable(vec![format!("{}: {reason}", Kind::Namespaces)]))
}

/// Has a process made that lives on without this one: `make` prepares it, `run` is its life.
pub fn release<T>(
    kind: Kind,
    make: impl FnOnce(Tie<'_>) -> Result<T, Failure>,
    run: impl FnOnce(T),
) -> Result<(), Unavailable> {
    let words = |failure: Failure| failure.to_string();
    let start = || {
        let (near, far) = MessageSocket::pair().step("a socket").map_err(words)?;
        match sys::fork().step("a new process").map_err(words)? {
            Some(child) => {
                drop(far);
                heard(&near).map(drop).inspect_err(|_| reap(child))
            }
            None => {
                drop(near);
                match make(Tie { keeper: None, report: far.as_fd() }) {
                    Ok(made) => {
                        report(&far, Ok(None));
                        drop(far);
                        run(made);
                        sys::exit_now(0)
                    }
                    Err(failure) => {
                        report(&far, Err(failure));
                        sys::exit_now(1)
                    }
                }
            }
        }
    };
    start().map_err(|reason| Unavailable(vec![format!("{kind}: {reason}")]))
}

fn report(to: &MessageSocket, what: Result<Option<OwnedFd>, Failure>) {
    // A keeper that is gone takes this process with it.
    let _ = match what {
        Ok(None) => to.send(DONE, &[]),
        Ok(Some(fd)) => to.send(DONE, &[fd.as_fd()]),
        Err(failure) => to.send(failure.to_string().as_bytes(), &[]),
    };
}

fn heard(from: &MessageSocket) -> Result<Option<OwnedFd>, String> {
    let message = from.receive().map_err(|errno| errno.to_string())?;
    match message.bytes.as_slice() {
        DONE => Ok(message.fds.into_iter().next()),
        [] => Err("the process ended before it was ready".into()),
        words => Err(String::from_utf8_lossy(words).into_owned()),
    }
}

fn reap(child: Pid) {
    while matches!(waitpid(Some(child), WaitOptions::empty()), Err(Errno::INTR)) {}
}
