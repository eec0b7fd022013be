//! `qvm-folder-server`: the qrexec service that serves a folder of this qube to another, and what the
//! folder's owner asks of it.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use policy::{Folder, QubeName};
use rustix::process::geteuid;
use server::cli::{Cli, SandboxKind};
use server::exports::Exports;
use server::sandbox::{self, Kind};
use server::service::{Caller, ServiceError, Settings, serve};
use server::{grant, log, owner};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Modes come from the client as they are meant.
    rustix::process::umask(rustix::fs::Mode::empty());
    server::fs::limits::raise_descriptors();
    if let Some(folder) = cli.check_sandbox {
        return check(folder);
    }
    if let Some(code) = asked(&cli) {
        return code;
    }
    log::open(cli.log.as_deref());
    match run(cli) {
        Ok(code) => code,
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

fn check(folder: Option<PathBuf>) -> ExitCode {
    match sandbox::check(&folder.unwrap_or_else(std::env::temp_dir)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("qvm-folder-server: the sandbox cannot be checked: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the owner asks, if this is no call.
fn asked(cli: &Cli) -> Option<ExitCode> {
    let done = if cli.list {
        owner::list().map(|table| say(&table)).map_err(Into::into)
    } else if let Some(words) = &cli.disconnect {
        disconnect(cli, words)
    } else if let Some(words) = &cli.explain {
        return Some(explain(cli, words).unwrap_or_else(failed));
    } else {
        return None;
    };
    Some(done.map_or_else(failed, |()| ExitCode::SUCCESS))
}

fn failed(error: anyhow::Error) -> ExitCode {
    eprintln!("qvm-folder-server: {error:#}");
    ExitCode::FAILURE
}

/// To a reader who may have gone.
fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn client(word: &OsString) -> anyhow::Result<QubeName> {
    let shown = policy::printable(word.as_encoded_bytes());
    let name = word.to_str().unwrap_or_default();
    name.parse().map_err(|error| anyhow::anyhow!("{shown} is no qube: {error}"))
}

fn explain(cli: &Cli, words: &[OsString]) -> anyhow::Result<ExitCode> {
    let (client, folder) = (client(&words[0])?, Folder::parse(&words[1])?);
    let exports = Exports::read(cli.exports.as_deref());
    let exports = exports.map_err(|error| anyhow::anyhow!("nobody may have anything: {error}"))?;
    let (text, may) = owner::explain(&exports, &client, &folder);
    say(&format!("{text}\n"));
    Ok(ExitCode::from(u8::from(!may)))
}

fn disconnect(cli: &Cli, words: &[OsString]) -> anyhow::Result<()> {
    let client = client(&words[0])?;
    let folder = words.get(1).map(|word| Folder::parse(word)).transpose()?;
    // Rules are needed for aliases alone: a mistake in them must not keep anybody connected.
    let exports = match &folder {
        Some(Folder::Alias(_)) => Exports::read(cli.exports.as_deref())?,
        _ => Exports::None,
    };
    let count = owner::disconnect(&exports, &client, folder.as_ref())?;
    say(&format!("ended {count} of {client}'s mounts\n"));
    Ok(())
}

fn settings(cli: &Cli) -> anyhow::Result<Settings> {
    anyhow::ensure!(
        !cli.keep_file_capabilities || geteuid().is_root(),
        "--keep-file-capabilities is for a service of root's: another user has none to keep"
    );
    let kinds = match cli.sandbox {
        _ if cli.no_sandbox => Vec::new(),
        Some(SandboxKind::None) => Vec::new(),
        Some(SandboxKind::Namespaces) => vec![Kind::Namespaces],
        Some(SandboxKind::Landlock) => vec![Kind::Landlock],
        None => Kind::ALL.to_vec(),
    };
    let keep_file_capabilities = cli.keep_file_capabilities;
    let sandbox = sandbox::Settings { kinds, keep_file_capabilities };
    Ok(Settings {
        backend: cli.backend.into(),
        sandbox,
        exports: cli.exports.clone(),
        token_lifetime: cli.token_lifetime.map_or(grant::LIFETIME, Duration::from_millis),
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let settings = settings(&cli)?;
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
    drop(null);
    Ok(serve(&caller, &settings, input, output)?)
}
