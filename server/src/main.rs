//! `qvm-folder-server`: the qrexec service that serves a folder of this qube to another.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use server::service::{Caller, ServiceError, serve};

/// Serve a folder of this qube to another, as a qrexec service.
///
/// qrexec starts it, with the channel on stdin and stdout and the folder in the service's argument. It
/// ends when the other qube closes the channel.
#[derive(Debug, Parser)]
#[command(name = "qvm-folder-server", version)]
struct Cli {
    /// The service's argument, as qrexec gives it; `SERVICE+ARGUMENT` where qrexec is not there
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true)]
    argument: Option<OsString>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Modes come from the client as they are meant.
    rustix::process::umask(rustix::fs::Mode::empty());
    server::fs::limits::raise_descriptors();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::stderr::say(format_args!("qvm-folder-server: {}", shown(&error)));
            ExitCode::FAILURE
        }
    }
}

/// What is said of a failure: all of it to a person at a terminal, to another qube, which is where
/// qrexec takes stderr, no more than the channel tells it.
fn shown(error: &anyhow::Error) -> String {
    match error.downcast_ref::<ServiceError>() {
        _ if std::io::stderr().is_terminal() => format!("{error:#}"),
        Some(error) => error.reason().text,
        None => "the service cannot be started".to_owned(),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let caller = Caller::from_environment(cli.argument)?;
    // The channel's own descriptors: nothing else of this process writes to its stdout.
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    serve(&caller, input, output)?;
    Ok(())
}
