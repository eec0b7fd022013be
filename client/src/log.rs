//! What this program says of its own doings, by level: a person's command on stderr, the daemon in its log
//! file or the journal.
//!
//! `--verbose` sets the level, or `QVM_MOUNT_FOLDER_LOG` to `error`, `warning`, `info` or `debug`; a daemon
//! has the level of the command that started it. Lines for the journal begin with `<N>`, which it takes for
//! the priority (sd-daemon(3)); lines in a file with the time. A library for this would bring far more than the
//! five lines that are needed: no spans, no filters, no formats.

use std::fmt::Arguments;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The environment variable with the level.
pub const VARIABLE: &str = "QVM_MOUNT_FOLDER_LOG";

/// How much a message matters; with syslog(3)'s numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Something was not done.
    Error = 3,
    /// Something is not as it should be.
    Warning = 4,
    /// What is done.
    Info = 6,
    /// What is done, in detail.
    Debug = 7,
}

impl Level {
    /// The level of so many `--verbose`, unless the environment names one.
    pub fn of(verbose: u8) -> Level {
        let named = std::env::var(VARIABLE).ok().and_then(|name| Level::parse(&name));
        let asked = match verbose {
            0 => Level::Warning,
            1 => Level::Info,
            _ => Level::Debug,
        };
        // Who asks on the command line gets at least that.
        named.map_or(asked, |named| if verbose > 0 { named.max(asked) } else { named })
    }

    fn parse(name: &str) -> Option<Level> {
        Some(match name.to_ascii_lowercase().as_str() {
            "error" => Level::Error,
            "warning" | "warn" => Level::Warning,
            "info" => Level::Info,
            "debug" => Level::Debug,
            _ => return None,
        })
    }

    /// Its name, as the variable takes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Warning as u8);
static DAEMON: AtomicBool = AtomicBool::new(false);

/// Sets what is said. A daemon's lines have a time or a priority before them.
pub fn set(level: Level, daemon: bool) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    DAEMON.store(daemon, Ordering::Relaxed);
}

/// What is said now.
pub fn level() -> Level {
    let set = LEVEL.load(Ordering::Relaxed);
    [Level::Error, Level::Warning, Level::Info]
        .into_iter()
        .find(|level| *level as u8 == set)
        .unwrap_or(Level::Debug)
}

/// Says what was not done.
pub fn error(text: Arguments<'_>) {
    say(Level::Error, text);
}

/// Says what is not as it should be.
pub fn warning(text: Arguments<'_>) {
    say(Level::Warning, text);
}

/// Says what is done.
pub fn info(text: Arguments<'_>) {
    say(Level::Info, text);
}

/// Says what is done, in detail.
pub fn debug(text: Arguments<'_>) {
    say(Level::Debug, text);
}

fn say(level: Level, text: Arguments<'_>) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    match (DAEMON.load(Ordering::Relaxed), is_journal()) {
        (false, _) => eprintln!("{text}"),
        (true, true) => eprintln!("<{}>{text}", level as u8),
        (true, false) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let (hours, minutes, seconds) = (now / 3600 % 24, now / 60 % 60, now % 60);
            eprintln!("{hours:02}:{minutes:02}:{seconds:02} UTC {}: {text}", level.name());
        }
    }
}

/// Whether stderr is the journal: systemd says which file it gave to its services for it (systemd.exec(5),
/// `JOURNAL_STREAM`).
pub fn is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    let given = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    given == format!("{}:{}", stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_their_names_back_and_syslogs_order() {
        let all = [Level::Error, Level::Warning, Level::Info, Level::Debug];
        assert!(all.is_sorted());
        for level in all {
            assert_eq!(Level::parse(level.name()), Some(level));
        }
        assert_eq!(Level::parse("WARN"), Some(Level::Warning));
        assert_eq!(Level::parse("loud"), None);
    }
}
