//! Which front end makes a mount: `--frontend auto|v9fs|fuse`.
//!
//! v9fs where it can be had without asking anybody for a password: it needs no further process between
//! a program and the channel. Else FUSE. Found out before another qube is asked for anything.

use std::process::{Command, Stdio};

use transport::id::Msize;

use super::fuse::Fuse;
use super::v9fs::V9fs;
use crate::cli::{CacheMode, FrontEnd};
use crate::exit::Failure;
use crate::kernel;
use crate::plan::{FuseOptions, MsizeChoice, Plan, find_program};

/// A front end that can work here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The kernel's own.
    V9fs(V9fs),
    /// FUSE.
    Fuse(Fuse),
}

impl Choice {
    /// What `plan` asks for, or what is best here; with a line that says which, where that was left
    /// open.
    pub fn make(plan: &Plan) -> Result<(Choice, Option<String>), Failure> {
        let v9fs = || V9fs::prepare(plan).map(Choice::V9fs);
        let fuse = || Fuse::prepare(plan).map(Choice::Fuse);
        match plan.frontend {
            FrontEnd::V9fs => Ok((v9fs()?, None)),
            FrontEnd::Fuse => Ok((fuse()?, None)),
            FrontEnd::Auto => {
                let why_not = match (kernel::v9fs(true), kernel::may_mount()) {
                    (kernel::V9fs::Missing, _) => "this kernel has no v9fs",
                    (_, true) => return Ok((v9fs()?, said("v9fs", "this kernel has it"))),
                    (_, false) if sudo() => {
                        let why = "this kernel has it, and sudo asks for no password";
                        return Ok((v9fs()?, said("v9fs", why)));
                    }
                    (_, false) => "v9fs would need root",
                };
                match fuse() {
                    Ok(choice) => Ok((choice, said("FUSE", why_not))),
                    // With v9fs there is still the password; without it, its absence is the cause.
                    Err(_) => Ok((v9fs()?, said("v9fs", "FUSE cannot be used here"))),
                }
            }
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Choice::V9fs(_) => "v9fs",
            Choice::Fuse(_) => "fuse",
        }
    }

    /// What of `plan` this one has no use for, in words.
    pub fn warning(&self, plan: &Plan) -> Option<&'static str> {
        match self {
            Choice::V9fs(_) if plan.fuse != FuseOptions::DEFAULT => {
                Some("--idmap and --allow-other are FUSE's; v9fs takes no notice of them")
            }
            Choice::Fuse(_) if plan.cache != CacheMode::Auto => {
                Some("--cache is v9fs's; FUSE takes no notice of it (--coherence is its own)")
            }
            _ => None,
        }
    }

    /// The msize to ask for. FUSE's messages are no blocks of the kernel's memory, so the largest is
    /// best.
    pub fn msize(&self, plan: &Plan) -> Msize {
        match (self, plan.msize) {
            (Choice::Fuse(_), MsizeChoice::Auto) => Msize::MAX,
            _ => plan.asked_msize(),
        }
    }
}

fn said(name: &str, why: &str) -> Option<String> {
    Some(format!("mounting with {name}: {why}"))
}

/// Whether sudo would do what it is asked without asking back.
fn sudo() -> bool {
    let Some(sudo) = find_program("sudo".as_ref()) else { return false };
    let mut trial = Command::new(sudo);
    trial.args(["-n", "--", "true"]).stdin(Stdio::null());
    let trial = trial.stdout(Stdio::null()).stderr(Stdio::null()).status();
    trial.is_ok_and(|status| status.success())
}
