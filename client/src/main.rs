//! `qvm-mount-folder`: mounts a folder of another qube. Dispatch, errors, exit codes.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use client::cli::Cli;
use client::daemon::spawn;
use client::exit::{Exit, Failure};
use client::helper::{self, Helper};
use client::plan::{self, Task};
use client::{log, mount, options, recent, status, unmount};

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(helper::NAME.as_ref()) {
        return as_helper();
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    match options::expand(Cli::parse_from(&words), &words).and_then(run) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

/// As mount(8) runs it.
fn as_helper() -> ExitCode {
    let words = match Helper::try_parse() {
        Ok(words) => words,
        Err(error) => {
            // Nothing can be done about a stderr that is gone.
            let _ = error.print();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return helper::exit_code(exit).into();
        }
    };
    let mount = || {
        log::set(log::Level::of(words.verbose), false);
        helper::enter(&words)?;
        let plan = helper::plan(&words)?;
        if words.fake { Ok(()) } else { mount::run(&plan) }
    };
    match mount() {
        Ok(()) => helper::exit_code(Exit::Done).into(),
        Err(failure) => {
            eprintln!("{}: {failure}", helper::NAME);
            helper::exit_code(failure.exit).into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    log::set(log::Level::of(cli.verbose), false);
    match plan::plan(cli)? {
        Task::Mount(plan) => mount::run(&plan),
        Task::List(show) => status::run(show),
        Task::Unmount(path) => unmount::run(&path),
        Task::CompleteServers => {
            recent::servers().iter().for_each(|server| println!("{server}"));
            Ok(())
        }
        Task::Daemon(words) => spawn::daemon(&words),
    }
}
