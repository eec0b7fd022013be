//! A client and a server qube with the real programs, and the modelled channel between them.
//!
//! Each pair has a runtime folder of its own, so that its channel daemon is nobody else's. Folders are
//! offered at sockets (`qvm-mount-folder --socket`), where each connection is a 9P session of the
//! channel's, as each mount is; or mounted by FUSE.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use transport::id::Msize;

use super::{Programs, within};
use crate::channel::Shape;
use crate::client9p::Client;

/// What a program of ours is to do of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Coherence {
    /// As it is by default: fewer round trips than are asked for.
    #[default]
    Default,
    /// Every question reaches the server (`--coherence strict`, where the build knows it; one that
    /// does not has nothing to turn off).
    Strict,
}

/// Two qubes.
#[derive(Debug)]
pub struct Pair {
    programs: Programs,
    /// For sockets and scripts; its path is short, as a socket's must be.
    folder: TempDir,
    offers: Vec<Child>,
    mounts: Vec<PathBuf>,
}

impl Pair {
    /// A pair with a channel of `shape` between its qubes, which the first folder starts.
    ///
    /// # Errors
    /// Trouble of this machine.
    pub fn new(programs: &Programs, shape: &Shape) -> Result<Pair> {
        let folder = tempfile::Builder::new().prefix("qsf-").tempdir()?;
        for name in ["client", "server", "services"] {
            fs::create_dir(folder.path().join(name))?;
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o700))?;
        }
        let pair =
            Pair { programs: programs.clone(), folder, offers: Vec::new(), mounts: Vec::new() };
        let service = format!(
            "XDG_RUNTIME_DIR='{}' exec '{}'",
            pair.at("server").display(),
            pair.programs.path("qvm-folder-server").display()
        );
        for name in ["sharedfolders.Mount", "sharedfolders.MountReadOnly"] {
            pair.script(&format!("services/{name}"), &service)?;
        }
        let standin = pair.programs.path("qrexec-standin");
        let options = shape.options().join(" ");
        pair.script("via", &format!("exec '{}' {options} \"$@\"", standin.display()))?;
        Ok(pair)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, line: &str) -> Result<()> {
        fs::write(self.at(name), format!("#!/bin/sh\n{line}\n"))?;
        Ok(fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755))?)
    }

    /// Offers `folder` and gives the socket where it is.
    ///
    /// # Errors
    /// The programs' own.
    pub fn offer(&mut self, folder: &Path, coherence: Coherence) -> Result<PathBuf> {
        let socket = self.at(&format!("9p.{}", self.offers.len()));
        let program = super::bound(&self.programs.path("qvm-mount-folder"));
        let mut command = self.command(program, folder, coherence)?;
        let mut child = command.arg("--socket").arg(&socket).spawn()?;
        within("offering a folder", || match child.try_wait()? {
            Some(status) => bail!("qvm-mount-folder --socket: {status}: {}", said(&mut child)),
            // It is there once it has been granted; before that a connection would only wait.
            None => Ok(self.is_listed(&socket)?.then_some(())),
        })?;
        self.offers.push(child);
        Ok(socket)
    }

    fn is_listed(&self, socket: &Path) -> Result<bool> {
        let name = socket.to_str().context("a temporary folder's name is text")?;
        Ok(self.list(&[])?.contains(name))
    }

    fn list(&self, options: &[&str]) -> Result<String> {
        let mut list = Command::new(self.programs.path("qvm-mount-folder"));
        list.arg("--list").args(options).env("XDG_RUNTIME_DIR", self.at("client"));
        Ok(String::from_utf8(list.output()?.stdout)?)
    }

    /// Round trips that the folders of this pair have taken so far.
    ///
    /// # Errors
    /// The daemon does not say.
    pub fn round_trips(&self) -> Result<u64> {
        let list: serde_json::Value = serde_json::from_str(&self.list(&["--json"])?)?;
        let mounts = list["mounts"].as_array().context("a list of mounts")?;
        let count = |mount: &serde_json::Value| mount["round_trips"].as_u64();
        mounts.iter().map(count).sum::<Option<u64>>().context("a count of round trips")
    }

    /// A new 9P session with the folder at `socket`.
    ///
    /// # Errors
    /// No session comes of it.
    pub fn connect(&self, socket: &Path, msize: Msize) -> Result<Client> {
        let socket = UnixStream::connect(socket)?;
        let input = socket.try_clone()?.into();
        Ok(Client::start(input, socket.into(), msize, b"", 0)?)
    }

    /// The processes whose descendants are both qubes'. A channel daemon that a mount has started is
    /// nobody's child any more; it is found by the runtime folder in its environment.
    pub fn roots(&self) -> Vec<u32> {
        let mark = format!("XDG_RUNTIME_DIR={}", self.at("client").display());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let daemon = pids.filter(|pid| {
            let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let is =
                |bytes: &[u8], word: &str| bytes.split(|b| *b == 0).any(|w| w == word.as_bytes());
            is(&read("cmdline"), "--daemon") && is(&read("environ"), &mark)
        });
        daemon.collect()
    }

    /// Mounts `folder` at `mount_point` by FUSE, with `options` of `qvm-mount-folder`'s own.
    ///
    /// # Errors
    /// The program's own.
    pub fn mount_fuse(
        &mut self,
        folder: &Path,
        mount_point: &Path,
        options: &[&str],
    ) -> Result<()> {
        let program = Command::new(self.programs.path("qvm-mount-folder"));
        let mut command = self.command(program, folder, Coherence::Default)?;
        command.arg(mount_point).args(["--frontend", "fuse"]).args(options);
        let mut child = command.spawn()?;
        let status = child.wait()?;
        if !status.success() {
            bail!("qvm-mount-folder --frontend fuse: {status}: {}", said(&mut child));
        }
        self.mounts.push(mount_point.to_owned());
        Ok(())
    }

    fn command(
        &self,
        mut command: Command,
        folder: &Path,
        coherence: Coherence,
    ) -> Result<Command> {
        command.arg("work").arg(folder.canonicalize()?).arg("--via").arg(self.at("via"));
        if coherence == Coherence::Strict && self.programs.knows("--coherence") {
            command.args(["--coherence", "strict"]);
        }
        command
            .env("XDG_RUNTIME_DIR", self.at("client"))
            .env("QREXEC_STANDIN_SERVICES", self.at("services"))
            .env_remove("SUDO_UID")
            .env_remove("SUDO_GID")
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// What a program that has ended had to say.
fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = std::io::Read::read_to_string(stderr, &mut text);
    }
    text.trim().to_owned()
}

impl Drop for Pair {
    fn drop(&mut self) {
        for mount in &self.mounts {
            super::peer::unmount(mount);
        }
        for offer in &mut self.offers {
            let _ = kill_process(Pid::from_child(offer), Signal::TERM);
            let _ = offer.wait();
        }
    }
}
