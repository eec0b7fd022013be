//! What the owner of a server qube sees and orders: `--explain`, `--list`, `--disconnect`.
//!
//! Channels are found by their desks in the runtime folder of the user who asks. What a channel's process
//! says is not believed further than it must be: a client may have taken it over. Its words are bounded and
//! escaped, whose channel it is stands in its socket's name, and one that does not end when it is told to
//! is ended with its keeper, which the kernel names and the client cannot reach.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use policy::{Folder, FolderPath, QubeName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use transport::local::{RuntimeError, runtime_folder};

use crate::desk::{Line, Visitor};
use crate::exports::Exports;

/// How long a process may take to end by itself, and then by order.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why an order cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// There is no private folder for sockets.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Nothing is there to be ended.
    #[error("{0} has nothing of that mounted here")]
    Nothing(QubeName),
    /// A channel does not do what it is told.
    #[error(
        "the channel of {0} does not answer ({1}); `--disconnect {0}` ends all that it has, whatever \
         it does"
    )]
    Silent(QubeName, Errno),
    /// It cannot even be ended.
    #[error("the channel of {0} cannot be ended: {1}")]
    Endless(QubeName, Errno),
    /// An alias that the rules do not have.
    #[error("there is no such alias in this qube's rules")]
    Alias,
}

/// What the rules say of `folder` for `client`: the words, and whether it may be had.
pub fn explain(exports: &Exports, client: &QubeName, folder: &Folder) -> (String, bool) {
    match exports.permit(client, folder, false) {
        Ok(permission) => {
            let access =
                if permission.read_only { "for reading only" } else { "to read and write" };
            let mut text = format!("{client} may have {}, {access}", permission.folder);
            if permission.max_msize < transport::id::Msize::MAX {
                let _ = write!(text, ", with an msize of {} at the most", permission.max_msize);
            }
            let _ = write!(text, "\n  {}", permission.why);
            (text, true)
        }
        Err(refused) => (format!("{client} may not have {folder}\n  {refused}"), false),
    }
}

/// A table of all streams of this user's services.
pub fn list() -> Result<String, OwnerError> {
    let mut rows =
        vec![["CLIENT", "FOLDER", "ACCESS", "AGE", "FROM CLIENT", "TO CLIENT"].map(String::from)];
    for (client, _, desk) in Visitor::of_all(&runtime_folder("server")?) {
        match desk.list() {
            Ok(lines) => rows.extend(lines.iter().map(|line| row(&client, line))),
            Err(errno) => {
                let silent = format!("(does not answer: {errno})");
                let none = String::new;
                rows.push([client.to_string(), silent, none(), none(), none(), none()]);
            }
        }
    }
    Ok(table(&rows))
}

fn row(client: &QubeName, line: &Line) -> [String; 6] {
    let access = if line.read_only { "ro" } else { "rw" };
    let seconds = line.age.as_secs();
    let age = match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours:02}h"),
    };
    // A path shows itself escaped.
    let folder = line.folder.to_string();
    let [received, sent] = [line.received, line.sent].map(|bytes| bytes.to_string());
    [client.to_string(), folder, access.into(), age, received, sent]
}

fn table(rows: &[[String; 6]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| match at {
            4 | 5 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Ends the streams of `client` in `folder` and what is in it, or, without one, its channels; says how
/// many streams those were.
pub fn disconnect(
    exports: &Exports,
    client: &QubeName,
    folder: Option<&Folder>,
) -> Result<u32, OwnerError> {
    let folder = match (folder, exports) {
        (None, _) => None,
        (Some(Folder::Path(path)), _) => Some(path),
        (Some(alias), Exports::File(_, rules)) => {
            Some(rules.resolve(alias).ok_or(OwnerError::Alias)?)
        }
        (Some(_), Exports::None) => return Err(OwnerError::Alias),
    };
    let runtime = runtime_folder("server")?;
    let (mut streams, mut channels) = (0, 0);
    for (whose, path, desk) in Visitor::of_all(&runtime) {
        if whose != *client {
            continue;
        }
        channels += 1;
        streams += match folder {
            Some(folder) => end_folder(client, &desk, folder)?,
            None => end_channel(client, &path, &desk)?,
        };
    }
    match folder {
        Some(_) if streams == 0 => Err(OwnerError::Nothing(client.clone())),
        None if channels == 0 => Err(OwnerError::Nothing(client.clone())),
        _ => Ok(streams),
    }
}

fn end_folder(client: &QubeName, desk: &Visitor, folder: &FolderPath) -> Result<u32, OwnerError> {
    desk.end(Some(folder)).map_err(|errno| OwnerError::Silent(client.clone(), errno))
}

/// Has a channel end, or sees to it.
fn end_channel(client: &QubeName, path: &Path, desk: &Visitor) -> Result<u32, OwnerError> {
    let endless = |errno| OwnerError::Endless(client.clone(), errno);
    let keeper = desk.keeper().map_err(endless)?;
    let process = match pidfd_open(keeper, PidfdFlags::empty()) {
        Ok(process) => process,
        // It has ended by itself.
        Err(Errno::SRCH) => return Ok(0),
        Err(errno) => return Err(endless(errno)),
    };
    // The number is still the keeper's if the desk, which is gone when the keeper is, is still there.
    if Visitor::at(path).and_then(|again| again.keeper()) != Ok(keeper) {
        return Ok(0);
    }
    let streams = desk.end(None).unwrap_or(0);
    for signal in [None, Some(Signal::TERM), Some(Signal::KILL)] {
        if let Some(signal) = signal {
            match pidfd_send_signal(&process, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(endless(errno)),
            }
        }
        if ends(&process) {
            return Ok(streams);
        }
    }
    Err(endless(Errno::TIMEDOUT))
}

/// Whether a process ends in time.
fn ends(process: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut ready = [PollFd::new(process, PollFlags::IN)];
    matches!(rustix::io::retry_on_intr(|| poll(&mut ready, Some(&limit))), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_nothing_that_a_terminal_would_obey() {
        let line = Line {
            folder: FolderPath::parse("/a\x1b[2J".as_ref()).unwrap(),
            read_only: true,
            age: Duration::from_secs(3723),
            received: 10,
            sent: 1_000_000_000,
        };
        let shown = table(&[row(&"work".parse().unwrap(), &line)]);
        assert_eq!(shown, "work  /a\\u{1b}[2J  ro  1h02m  10  1000000000\n");
    }
}
