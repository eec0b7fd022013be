//! How a run ends: the exit codes, and the form of what is said about a failure.
//!
//! One table, from which `--help` is made too, so that the codes and their documentation cannot
//! drift apart. 125, 126 and 127 are qrexec's own codes and keep their meaning. Who finds out that
//! something failed, and prints it, is elsewhere.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Why the program ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// What was asked for is done.
    Done,
    /// Anything that has no code of its own.
    Other,
    /// The command line cannot be understood.
    Usage,
    /// qrexec knows no qube of that name, or the qube cannot be started.
    NoSuchQube,
    /// The server qube has no such folder for this qube.
    NoFolder,
    /// The mount point (or the socket's path) cannot be used.
    MountPoint,
    /// `--msize` is no size, or out of range.
    Msize,
    /// The kernel has no v9fs, or no FUSE, whichever was asked for.
    NoV9fs,
    /// Neither root nor sudo.
    NoRight,
    /// The far end speaks another version of the channel protocol.
    Version,
    /// The far end sends what is no channel protocol.
    Garbage,
    /// The far end closed the channel too soon.
    ClosedEarly,
    /// The far end began to answer and then stopped.
    Stalled,
    /// Trouble in qrexec itself.
    Qrexec,
    /// dom0's policy, or the person asked by it, said no.
    Refused,
    /// The server qube does not have the service.
    NoService,
    /// Ctrl-C or a termination signal.
    Interrupted,
}

impl Exit {
    /// All of them, by rising code.
    pub const ALL: [Exit; 17] = [
        Exit::Done,
        Exit::Other,
        Exit::Usage,
        Exit::NoSuchQube,
        Exit::NoFolder,
        Exit::MountPoint,
        Exit::Msize,
        Exit::NoV9fs,
        Exit::NoRight,
        Exit::Version,
        Exit::Garbage,
        Exit::ClosedEarly,
        Exit::Stalled,
        Exit::Qrexec,
        Exit::Refused,
        Exit::NoService,
        Exit::Interrupted,
    ];

    /// The number that the process exits with.
    pub const fn code(self) -> u8 {
        self.row().0
    }

    /// One line about it, for `--help`.
    pub const fn meaning(self) -> &'static str {
        self.row().1
    }

    const fn row(self) -> (u8, &'static str) {
        match self {
            Exit::Done => (0, "done; the folder is usable (or was, until it was unmounted)"),
            Exit::Other => (1, "another error; the text says which"),
            Exit::Usage => (2, "the command line cannot be understood"),
            Exit::NoSuchQube => (3, "no such qube, or it cannot be started"),
            Exit::NoFolder => (4, "no such folder there, not a folder, or not given to this qube"),
            Exit::MountPoint => (5, "mount point missing, not a folder, or otherwise unusable"),
            Exit::Msize => (6, "msize is no size or out of range (4096 to 1M)"),
            Exit::NoV9fs => (7, "this kernel has no v9fs (9P file system), or no FUSE"),
            Exit::NoRight => (8, "no right to mount: neither root nor sudo"),
            Exit::Version => (9, "the other qube has another version of this program"),
            Exit::Garbage => (10, "the other qube sent what this program does not understand"),
            Exit::ClosedEarly => (11, "the other qube ended the call too soon"),
            Exit::Stalled => (12, "the other qube began to answer and then stopped (--timeout)"),
            Exit::Qrexec => (125, "qrexec failed, or is not there"),
            Exit::Refused => (126, "refused by dom0's policy, or by the person it asked"),
            Exit::NoService => (127, "the other qube does not have this program's service"),
            Exit::Interrupted => (130, "interrupted"),
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// The table of exit codes for `--help`, at most 80 columns wide.
pub fn table() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        text += &format!("  {:>3}  {}\n", exit.code(), exit.meaning());
    }
    text
}

/// A failure as a person reads it: what could not be done, why, and what to do about it. Shown as
/// `WHAT: WHY` and, where there is one, a second line `hint: HINT`. All three are safe to print:
/// bytes of the other qube in them have been escaped by whoever built it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// What could not be done, such as `cannot mount work:/srv on /mnt/srv`.
    pub what: Option<String>,
    /// Why, in lower case, without a full stop.
    pub why: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure for the reason `why`.
    pub fn new(exit: Exit, why: impl fmt::Display) -> Failure {
        Failure { exit, what: None, why: why.to_string(), hint: None }
    }

    /// The same with advice.
    pub fn hint(self, hint: impl fmt::Display) -> Failure {
        Failure { hint: Some(hint.to_string()), ..self }
    }

    /// The same, saying what could not be done. What was said before stays.
    pub fn what(self, what: impl fmt::Display) -> Failure {
        Failure { what: self.what.or_else(|| Some(what.to_string())), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(what) = &self.what {
            write!(f, "{what}: ")?;
        }
        f.write_str(&self.why)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_there_once_and_in_order() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        for (exit, code) in [(Exit::Qrexec, 125), (Exit::Refused, 126), (Exit::NoService, 127)] {
            assert_eq!(exit.code(), code);
        }
    }

    #[test]
    fn the_table_fits_eighty_columns() {
        for line in table().lines() {
            assert!(line.len() <= 80, "{line}");
        }
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new(Exit::NoFolder, "work does not export /srv")
            .hint("add it to exports.toml in qube work")
            .what("cannot mount work:/srv on /mnt/srv");
        assert_eq!(
            failure.to_string(),
            "cannot mount work:/srv on /mnt/srv: work does not export /srv\n\
             hint: add it to exports.toml in qube work"
        );
        assert_eq!(Failure::new(Exit::Other, "no").to_string(), "no");
    }
}
