//! What the criterion benches and the table of figures measure: each implementation over the same
//! modelled channel ([`crate::channel`]).
//!
//! ```text
//!  ours   9P client ─ socket ─ channel daemon ═ relay ═ ring ═ relay ═ qvm-folder-server
//!  diod   9P client ═════════════════════════ relay ═ ring ═ relay ═ diod
//!  sshfs  kernel ─ sshfs ════════════════════ relay ═ ring ═ relay ═ sftp-server
//!  raw    reader ════════════════════════════ relay ═ ring ═ relay ═ writer
//! ```
//!
//! Ours is the real programs in processes of their own ([`pair`]); the others ([`peer`], [`raw`])
//! have nothing between themselves and the channel.

pub mod pair;
pub mod peer;
pub mod raw;
pub mod scratch;
pub mod served;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a program may take to be there, or to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// The programs of one build.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    help: String,
}

impl Programs {
    /// Those in `folder`.
    ///
    /// # Errors
    /// One is not there.
    pub fn at(folder: &Path) -> Result<Programs> {
        for name in ["qrexec-standin", "qvm-mount-folder", "qvm-folder-server"] {
            let program = folder.join(name);
            ensure!(program.is_file(), "{} is not there\nhint: make build", program.display());
        }
        let folder = folder.canonicalize()?;
        let help = Command::new(folder.join("qvm-mount-folder")).arg("--help").output()?;
        Ok(Programs { folder, help: String::from_utf8_lossy(&help.stdout).into_owned() })
    }

    /// Those beside `program`, as they are built.
    ///
    /// # Errors
    /// One is not there.
    pub fn beside(program: &Path) -> Result<Programs> {
        Programs::at(program.parent().context("a program lies in a folder")?)
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether `qvm-mount-folder --help` names `option`.
    pub fn knows(&self, option: &str) -> bool {
        self.help.split(|c: char| c.is_whitespace() || "=,[]".contains(c)).any(|w| w == option)
    }

    /// Whether a folder can be mounted with this machine's FUSE; a sentence where not.
    pub fn fuse(&self) -> Result<(), String> {
        if !self.knows("--frontend") {
            return Err("this build of qvm-mount-folder has no FUSE front end".into());
        }
        fuse_of_this_machine()
    }
}

/// Whether this machine has FUSE for this user; a sentence where not.
pub fn fuse_of_this_machine() -> Result<(), String> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.map(drop).map_err(|error| format!("/dev/fuse cannot be opened here: {error}"))?;
    find("fusermount3").map(drop).ok_or("fusermount3 is not there (package fuse3)".into())
}

/// A program of the system, also where an ordinary user's PATH does not name its folder.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/lib/openssh"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|it| it.is_file())
}

/// A command for `program` that is told to end when this thread does, however it does: what is offered
/// or mounted for a measurement does not outlive it.
pub fn bound(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Runs a command to its end without its output.
///
/// # Errors
/// It cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Looks again and again until `look` finds something.
///
/// # Errors
/// It finds nothing in time, or fails.
pub fn within<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{what}: not within {} seconds", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
