//! Whole programs' worth of small requests, as v9fs sends them, against diod on the same channel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use transport::id::Msize;

use super::{Setting, shape};
use crate::channel::DEFAULT_RING;
use crate::client9p::Client;
use crate::harness::pair::{Coherence, Pair};
use crate::harness::peer;
use crate::harness::scratch::Scratch;
use crate::record::{Line, Target, Way, interleaved};
use crate::workload::Kernel;

/// Names in the folder that is listed.
const NAMES: usize = 1_000;
/// Files in a folder of a tree.
const FILES: usize = 50;

/// A program whose requests are replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// `ls -l` of a folder that nobody has asked about yet.
    List,
    /// `find` with a stat of everything, likewise.
    Find,
    /// `git status` of a repository without changes.
    GitStatus,
    /// Small files out of a tar.
    Unpack,
}

impl Replay {
    /// All of them.
    pub const ALL: [Replay; 4] = [Replay::List, Replay::Find, Replay::GitStatus, Replay::Unpack];

    /// As names of benches have it.
    pub fn name(self) -> &'static str {
        match self {
            Replay::List => "ls-l",
            Replay::Find => "find",
            Replay::GitStatus => "git-status",
            Replay::Unpack => "unpack",
        }
    }

    /// Makes what it works on for the `number`th time, in `scratch`; `files` is how large it is.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(self, scratch: &Scratch, number: usize, files: usize) -> Result<()> {
        let name = format!("{}-{number}", self.name());
        match self {
            Replay::List => scratch.names(&name, files.min(NAMES), false).map(drop),
            Replay::Find | Replay::GitStatus => {
                scratch.tree(&name, files.div_ceil(FILES), FILES).map(drop)
            }
            Replay::Unpack => scratch.folder(&format!("{name}/deep/down")).map(drop),
        }
    }

    /// Runs it on what was prepared as the `number`th; gives the time and how many requests it was.
    ///
    /// # Errors
    /// The server's.
    pub fn run(self, client: &mut Client, number: usize, files: usize) -> Result<(Duration, u64)> {
        let name = format!("{}-{number}", self.name());
        let (index, folders) = tree(&name, files);
        let data = [b'x'; 2048];
        let (before, start) = (client.sent, Instant::now());
        let mut kernel = Kernel::new(client);
        match self {
            Replay::List => drop(kernel.list(&name)?),
            Replay::Find => drop(kernel.find(&name, 2)?),
            Replay::GitStatus => kernel.git_status(&index, &folders)?,
            Replay::Unpack => {
                for file in 0..files {
                    kernel.unpack(
                        &format!("{name}/deep/down"),
                        &format!("file-{file}.c"),
                        &data,
                    )?;
                }
            }
        }
        Ok((start.elapsed(), client.sent - before))
    }

    /// Runs it as the `number`th on what is made for it in `scratch`, and removes that.
    ///
    /// # Errors
    /// Those of both.
    pub fn once(
        self,
        client: &mut Client,
        scratch: &Scratch,
        number: usize,
        files: usize,
    ) -> Result<(Duration, u64)> {
        self.prepare(scratch, number, files)?;
        let done = self.run(client, number, files)?;
        std::fs::remove_dir_all(scratch.at(&format!("{}-{number}", self.name())))?;
        Ok(done)
    }
}

/// The files and folders of a tree of [`Scratch::tree`]'s.
fn tree(name: &str, files: usize) -> (Vec<String>, Vec<String>) {
    let folders: Vec<String> = (0..files.div_ceil(FILES))
        .map(|number| format!("{name}/part-{}/sub-{number:03}", number % 10))
        .collect();
    let within = |folder: &String| {
        let folder = folder.clone();
        (0..FILES).map(move |file| format!("{folder}/file-{file:03}.c"))
    };
    (folders.iter().flat_map(within).collect(), folders)
}

/// Everything that is replayed, with and without an added round trip.
pub fn all(setting: &Setting) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for delay in [1, 0] {
        for replay in Replay::ALL {
            if delay == 0 || replay == Replay::List || setting.effort.slow_trees {
                lines.push(one(setting, replay, Duration::from_millis(delay))?);
            }
        }
    }
    Ok(lines)
}

fn one(setting: &Setting, replay: Replay, delay: Duration) -> Result<Line> {
    let scratch = Scratch::new(&setting.place)?;
    let shape = shape(DEFAULT_RING, delay);
    let mut pair = Pair::new(&setting.programs, &shape)?;
    let socket = pair.offer(scratch.path(), Coherence::Default)?;
    let msize = Msize::new(131_096).context("an msize")?;
    let mut ours = pair.connect(&socket, msize)?;
    let (_peer, mut diod) = peer::diod(&setting.programs, &shape, scratch.path())?;
    let files = match replay {
        // The design's own.
        Replay::List => NAMES,
        Replay::Find => setting.effort.files,
        // Three to five times the requests for a file.
        Replay::GitStatus | Replay::Unpack => setting.effort.files / 2,
    };
    let number = std::cell::Cell::new(0);
    let sent = std::cell::Cell::new(0);
    let once = |client: &mut Client| {
        let next = number.replace(number.get() + 1);
        let (time, requests) = replay.once(client, &scratch, next, files)?;
        sent.set(requests);
        Ok(time.as_secs_f64() * 1e3)
    };
    let ways: &mut [Way<'_>] = &mut [&mut || once(&mut ours), &mut || once(&mut diod)];
    let samples = interleaved(setting.effort.rounds, ways)?;
    let name = replay.name();
    let delay = delay.as_millis();
    let what = format!("v9fs's requests for {name} of {files} files, cold, {delay} ms round trip");
    let line = Line::new(&what, &format!("metadata/{name}-{delay}ms/ours"), "ms", &samples[0])
        .times_less("diod", &samples[0], &samples[1])
        .note(format!("{} requests", sent.get()));
    Ok(match (replay, delay) {
        (Replay::List, 1) => line.target(Target::AtLeast(40.0)),
        _ => line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_names_what_the_tree_has() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        scratch.tree("t", 3, FILES).unwrap();
        let (files, folders) = tree("t", 3 * FILES);
        assert_eq!((files.len(), folders.len()), (150, 3));
        assert!(files.iter().chain(&folders).all(|name| scratch.at(name).exists()));
    }
}
