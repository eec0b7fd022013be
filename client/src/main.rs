//! qvm-mount-folder: dispatch, errors, exit codes.

use std::process::ExitCode;

use clap::Parser;
use client::cli::Cli;
use client::exit::{Exit, Failure};
use client::frontend::v9fs::V9fs;
use client::plan::{self, Place, Task};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match plan::plan(cli)? {
        Task::Mount(plan) => {
            if let Place::MountPoint(_) = plan.place {
                V9fs::prepare(&plan)?;
            }
            Err(Failure::new(Exit::Other, "there is no channel yet").what(plan.aim()))
        }
        Task::List => Ok(()),
        Task::Daemon(_) => Ok(()),
    }
}
