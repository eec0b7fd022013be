//! The command line, as clap derives it; its help and its man page are made from here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::backend;

/// Serve a folder of this qube to another, as a qrexec service.
///
/// qrexec starts it, with the channel on stdin and stdout and the folder in the service's argument. It
/// ends when the other qube closes the channel. Which qube may have which folder, dom0 decides, and then
/// the rules in exports.toml, if there are any: in /rw/config/qubes-shared-folders, else in
/// /etc/qubes-shared-folders.
#[derive(Debug, Parser)]
#[command(name = "qvm-folder-server", version)]
pub struct Cli {
    /// The service's argument, as qrexec gives it; `SERVICE+ARGUMENT` where qrexec is not there
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true, group = "does")]
    pub argument: Option<OsString>,

    /// Show what other qubes have mounted from here
    #[arg(long, group = "does")]
    pub list: bool,

    /// End what CLIENT has mounted of FOLDER and what is in it; without FOLDER, all of it
    #[arg(long, num_args = 1..=2, value_names = ["CLIENT", "FOLDER"], group = "does")]
    pub disconnect: Option<Vec<OsString>>,

    /// Say which rule decides whether CLIENT may have FOLDER; exits with 0 if it may, 1 if not
    #[arg(long, num_args = 2, value_names = ["CLIENT", "FOLDER"], group = "does")]
    pub explain: Option<Vec<OsString>>,

    /// Read the rules from FILE, and from nowhere else
    #[arg(long, value_name = "FILE")]
    pub exports: Option<PathBuf>,

    /// Log to FILE, or to the syslog socket of that name; otherwise to /dev/log, and where that is not
    /// there to a file in the runtime folder
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// How long a later call's token is good
    #[arg(long, hide = true, value_name = "MILLISECONDS")]
    pub token_lifetime: Option<u64>,

    /// The file server: the embedded one, or Debian's diod in a process of its own for each folder
    #[arg(long, value_enum, default_value_t, value_name = "SERVER")]
    pub backend: Backend,

    /// Do not lock the process into the folder: any user's rights there are the service's whole limit
    #[arg(long, conflicts_with_all = ["sandbox", "keep_file_capabilities"])]
    pub no_sandbox: bool,

    /// Use this sandbox and no other
    #[arg(long, hide = true, value_name = "KIND")]
    pub sandbox: Option<SandboxKind>,

    /// Let a service of root's act on all files in the folder as root does, whoever owns them
    #[arg(long)]
    pub keep_file_capabilities: bool,

    /// Try what the sandbox forbids, in a folder of its own in FOLDER, and say what came of it
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, group = "does")]
    pub check_sandbox: Option<Option<PathBuf>>,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum SandboxKind {
    /// Namespaces.
    Namespaces,
    /// Landlock.
    Landlock,
    /// None at all.
    None,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum Backend {
    /// The embedded one.
    #[default]
    Embedded,
    /// diod.
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
