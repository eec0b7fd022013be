//! The table of `make bench`: each of the design's figures beside its baseline and its target.
//!
//! A group measures what belongs together, over channels that it sets up itself, everything that is
//! compared in turn ([`crate::record::interleaved`]). A group that fails becomes a line that says why;
//! the others go on. Names of lines are `operation/case/implementation`.
//!
//! What is read is in the page cache of the server's side, and what is written overwrites a file that
//! is there: this is about the way between two qubes, not about a disk.

mod acceleration;
mod bandwidth;
mod copied;
mod cost;
mod fairness;
mod latency;
mod metadata;
mod mount;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::channel::Shape;
use crate::harness::Programs;
use crate::harness::pair::Coherence;
use crate::harness::served::Served;
use crate::record::{Line, Rounds};

pub use metadata::Replay;
pub use mount::{Mounts, Native};

/// How much is done for a figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Effort {
    /// Of each comparison.
    pub rounds: Rounds,
    /// Bytes read or written for one rate.
    pub bytes: u64,
    /// Small requests for one sample.
    pub calls: usize,
    /// How long a load lasts for one sample.
    pub window: Duration,
    /// Files of trees that are walked through or unpacked.
    pub files: usize,
    /// Whether trees are walked with an added delay as well.
    pub slow_trees: bool,
}

impl Effort {
    /// Everything in some minutes.
    pub const SHORT: Effort = Effort {
        rounds: rounds(3, 15, 5),
        bytes: 64 << 20,
        calls: 300,
        window: Duration::from_millis(400),
        files: 1_000,
        slow_trees: false,
    };
    /// Everything, as long as it takes to be sure.
    pub const FULL: Effort = Effort {
        rounds: rounds(7, 41, 40),
        bytes: 256 << 20,
        calls: 2_000,
        window: Duration::from_secs(2),
        files: 10_000,
        slow_trees: true,
    };
    /// As little as shows that it works.
    pub const TRIAL: Effort = Effort {
        rounds: rounds(1, 1, 0),
        bytes: 2 << 20,
        calls: 10,
        window: Duration::from_millis(30),
        files: 20,
        slow_trees: false,
    };
}

const fn rounds(least: usize, most: usize, seconds: u64) -> Rounds {
    let (time, limit) = (Duration::from_secs(seconds), Duration::from_secs(3 * seconds));
    Rounds { least, most, time, limit }
}

/// What all groups need.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The programs of this build.
    pub programs: Programs,
    /// Where folders to serve are made.
    pub place: PathBuf,
    /// How much is done.
    pub effort: Effort,
}

impl Setting {
    /// That of the criterion benches: the programs beside `standin`, as they are built.
    ///
    /// # Errors
    /// One is not there.
    pub fn of_benches(standin: &str) -> Result<Setting> {
        let programs = Programs::beside(Path::new(standin))?;
        let place = place(programs.folder());
        Ok(Setting { programs, place, effort: Effort::FULL })
    }

    /// A folder with a file of `bytes`, served over a channel of `shape`.
    ///
    /// # Errors
    /// It cannot be made, or is not served.
    pub fn served(&self, shape: &Shape, bytes: u64, coherence: Coherence) -> Result<Served> {
        Served::new(&self.programs, &self.place, shape, bytes, coherence)
    }
}

/// A group: its name, and what measures it.
pub type Group = (&'static str, fn(&Setting) -> Result<Vec<Line>>);

/// All groups, in the table's order.
pub const GROUPS: &[Group] = &[
    ("channel", bandwidth::channel),
    ("read", bandwidth::read),
    ("read-large-ring", bandwidth::read_large_ring),
    ("read-delayed", bandwidth::read_delayed),
    ("write", bandwidth::write),
    ("latency", latency::all),
    ("fairness", fairness::small_beside_bulk),
    ("mounts", fairness::mounts),
    ("memory", fairness::memory),
    ("metadata", metadata::all),
    ("acceleration", acceleration::all),
    ("mount", mount::all),
    ("copied", copied::all),
    ("cost", cost::all),
];

/// Measures a group. What goes wrong becomes a line of its own.
pub fn run(setting: &Setting, group: Group) -> Vec<Line> {
    let (name, measure) = group;
    measure(setting).unwrap_or_else(|error| {
        vec![Line::missing(&format!("the group {name}"), name, format!("{error:#}"))]
    })
}

/// The default place for folders to serve: on the disk of the build.
pub fn place(programs: &Path) -> PathBuf {
    programs.join("../bench-scratch")
}

/// A channel with a ring of `ring` bytes and `delay` added to a round trip.
pub fn shape(ring: usize, delay: Duration) -> Shape {
    Shape { ring, delay: delay / 2, rate: None }
}
