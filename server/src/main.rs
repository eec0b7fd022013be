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
use server::exports::Exports;
use server::sandbox::{self, Kind};
use server::service::{Caller, ServiceError, Settings, serve};
use server::{backend, grant, log, owner};

/// Serve a folder of this qube to another, as a qrexec service.
///
/// qrexec starts it, with the channel on stdin and stdout and the folder in the service's argument. It
/// ends when the other qube closes the channel. Which qube may have which folder, dom0 decides, and then
/// the rules in exports.toml, if there are any: in /rw/config/qubes-shared-folders, else in
/// /etc/qubes-shared-folders.
#[derive(Debug, Parser)]
#[command(name = "qvm-folder-server", version)]
struct Cli {
    /// The service's argument, as qrexec gives it; `SERVICE+ARGUMENT` where qrexec is not there
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true, group = "does")]
    argument: Option<OsString>,

    /// Show what other qubes have mounted from here
    #[arg(long, group = "does")]
    list: bool,

    /// End what CLIENT has mounted of FOLDER and what is in it; without FOLDER, all of it
    #[arg(long, num_args = 1..=2, value_names = ["CLIENT", "FOLDER"], group = "does")]
    disconnect: Option<Vec<OsString>>,

    /// Say which rule decides whether CLIENT may have FOLDER; exits with 0 if it may, 1 if not
    #[arg(long, num_args = 2, value_names = ["CLIENT", "FOLDER"], group = "does")]
    explain: Option<Vec<OsString>>,

    /// Read the rules from FILE, and from nowhere else
    #[arg(long, value_name = "FILE")]
    exports: Option<PathBuf>,

    /// Log to FILE, or to the syslog socket of that name; otherwise to /dev/log, and where that is not
    /// there to a file in the runtime folder
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// How long a later call's token is good
    #[arg(long, hide = true, value_name = "MILLISECONDS")]
    token_lifetime: Option<u64>,

    /// The file server: the embedded one, or Debian's diod in a process of its own for each folder
    #[arg(long, value_enum, default_value_t, value_name = "SERVER")]
    backend: Backend,

    /// Do not lock the process into the folder: any user's rights there are the service's whole limit
    #[arg(long, conflicts_with_all = ["sandbox", "keep_file_capabilities"])]
    no_sandbox: bool,

    /// Use this sandbox and no other
    #[arg(long, hide = true, value_name = "KIND")]
    sandbox: Option<SandboxKind>,

    /// Let a service of root's act on all files in the folder as root does, whoever owns them
    #[arg(long)]
    keep_file_capabilities: bool,

    /// Try what the sandbox forbids, in a folder of its own in FOLDER, and say what came of it
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, group = "does")]
    check_sandbox: Option<Option<PathBuf>>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SandboxKind {
    Namespaces,
    Landlock,
    None,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Backend {
    #[default]
    Embedded,
    Diod,
}

impl From<Backend> for backend::Kind {
    fn from(backend: Backend) -> backend::Kind {
        match backend {
            Backend::Embedded => backend::Kind::Embedded,
            Backend::Diod => backend::Kind::Diod,
        }
    }
}

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
