//! A folder with one large file, served by ours over a channel of its own; by diod beside it on demand.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use transport::id::Msize;

use super::Programs;
use super::pair::{Coherence, Pair};
use super::peer::{self, Peer};
use super::scratch::Scratch;
use crate::channel::Shape;
use crate::measure::Session;

/// The folder, and who serves it.
#[derive(Debug)]
pub struct Served {
    programs: Programs,
    shape: Shape,
    /// Our programs.
    pub pair: Pair,
    socket: PathBuf,
    /// The folder; its file is `file`.
    pub scratch: Scratch,
}

impl Served {
    /// A folder below `place` with a file of `bytes`.
    ///
    /// # Errors
    /// It cannot be made, or is not served.
    pub fn new(
        programs: &Programs,
        place: &Path,
        shape: &Shape,
        bytes: u64,
        coherence: Coherence,
    ) -> Result<Served> {
        let scratch = Scratch::new(place)?;
        // Written back now, not in the middle of a measurement.
        File::open(scratch.file("file", bytes)?)?.sync_all()?;
        let mut pair = Pair::new(programs, shape)?;
        let socket = pair.offer(scratch.path(), coherence)?;
        Ok(Served { programs: programs.clone(), shape: *shape, pair, socket, scratch })
    }

    /// A session of ours with the file.
    ///
    /// # Errors
    /// The server's.
    pub fn session(&self, msize: u32) -> Result<Session> {
        let msize = Msize::new(msize).context("an msize")?;
        Session::open(self.pair.connect(&self.socket, msize)?, "file")
    }

    /// A session of diod's with the file, over a channel of the same shape.
    ///
    /// # Errors
    /// diod's.
    pub fn diod(&self) -> Result<(Peer, Session)> {
        let (peer, client) = peer::diod(&self.programs, &self.shape, self.scratch.path())?;
        Ok((peer, Session::open(client, "file")?))
    }
}
