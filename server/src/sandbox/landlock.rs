//! In place of namespaces, where an ordinary user has none: a Landlock rule set.
//!
//! It forbids to open, make, remove and move anything outside the granted folder, to connect to or
//! listen at the network, and, where the kernel can, to signal others and to reach abstract sockets.
//! It has no say over what needs no file to be opened: attributes can be read everywhere, and modes,
//! extended attributes, owners and times changed. The list of system calls therefore leaves out here
//! whatever changes modes and extended attributes by a name or an `O_PATH` descriptor; the file
//! server then opens the file, which the rules decide about. What is left of it are times and groups
//! of the user's own files.
//!
//! The third version, of Linux 6.2, is the least: before, neither truncation was covered nor could a
//! file be moved to another folder. It is one process a folder: a rule for a second one cannot be
//! added, and no later call's folder can be opened in here: it gets a process of its own.

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;

use super::Failure;
use crate::grant::{Grant, Source};

/// What a file server does in a folder; left out are executing and devices.
fn wanted(read_only: bool) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::MakeFifo
        | AccessFs::MakeSym
        | AccessFs::Refer;
    if read_only { read } else { read | write }
}

/// Confines this process to the folder of `grant`.
pub fn enter(grant: &Grant) -> Result<(), Failure> {
    let root = match &grant.source {
        Source::Folder(root) => Some(root),
        Source::Server(_) | Source::Diod(_) => None,
    };
    match restrict(root, grant.read_only) {
        Ok(RulesetStatus::NotEnforced) => Err(Failure { step: "rules", errno: Errno::NOSYS }),
        Ok(_) => Ok(()),
        // The crate's errors have their own words, which nobody outside needs to know.
        Err(_) => Err(Failure { step: "rules", errno: Errno::OPNOTSUPP }),
    }
}

fn restrict(root: Option<&OwnedFd>, read_only: bool) -> Result<RulesetStatus, RulesetError> {
    let newest = ABI::V7;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V3))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?;
    if let Some(root) = root {
        rules = rules.add_rule(PathBeneath::new(root, wanted(read_only)))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
