//! `qvm-mount-folder`: mounts a folder of another qube. Dispatch, errors, exit codes.

use std::process::ExitCode;

use clap::Parser;
use client::cli::Cli;
use client::daemon::spawn;
use client::exit::{Exit, Failure};
use client::plan::{self, Task};
use client::{mount, status};

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
        Task::Mount(plan) => mount::run(&plan),
        Task::List => status::print(&status::mounts(), &mut std::io::stdout())
            .map_err(|error| Failure::new(Exit::Other, format!("cannot write: {error}"))),
        Task::Daemon(words) => spawn::daemon(&words),
    }
}
