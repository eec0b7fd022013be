//! The programs to compare with, directly at the ends of a modelled channel: diod for 9P, sshfs with
//! `sftp-server` for mounts (Debian's packages diod, sshfs, openssh-sftp-server).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use transport::id::Msize;

use super::{Programs, find, within};
use crate::channel::{Channel, End, Shape};
use crate::client9p::Client;

/// A server at the far end of a channel; it ends when the near end is closed.
#[derive(Debug)]
pub struct Peer {
    relay: Child,
    server: Child,
}

impl Peer {
    /// The processes whose descendants, with them, are both ends.
    pub fn roots(&self) -> Vec<u32> {
        vec![self.relay.id(), self.server.id()]
    }
}

/// diod's msize: all that Debian's takes.
pub const DIOD_MSIZE: u32 = 65_536;

/// A 9P session with a diod of its own over a channel of `shape`.
///
/// # Errors
/// diod is not there or does not serve `folder`.
pub fn diod(programs: &Programs, shape: &Shape, folder: &Path) -> Result<(Peer, Client)> {
    let diod = find("diod").context("diod is not there\nhint: install the package diod")?;
    let mut command = Command::new(diod);
    command.args(["-f", "-n", "-N", "-c", "/dev/null", "-L", "stderr", "-r", "0", "-w", "1", "-e"]);
    let folder = folder.canonicalize()?;
    command.arg(&folder);
    let (peer, end) = start(programs, shape, &mut command)?;
    let msize = Msize::new(DIOD_MSIZE).context("an msize")?;
    // It wants its folder by name, and a user who may attach.
    let (aname, uid) = (folder.as_os_str().as_bytes(), rustix::process::geteuid().as_raw());
    let client = Client::start(end.input, end.output, msize, aname, uid);
    let client = client.context("diod does not answer")?;
    Ok((peer, client))
}

/// Starts `server` as the service at the far end, and gives the near one.
fn start(programs: &Programs, shape: &Shape, server: &mut Command) -> Result<(Peer, End)> {
    let channel = Channel::start(&programs.path("qrexec-standin"), shape)?;
    let Channel { program, service, relay } = channel;
    let server = server
        .stdin(Stdio::from(service.input))
        .stdout(Stdio::from(service.output))
        .stderr(Stdio::null())
        .spawn()?;
    Ok((Peer { relay, server }, program))
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Whoever held the near end has dropped it, or is about to be too late.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

/// A folder mounted by sshfs.
#[derive(Debug)]
pub struct Sshfs {
    mount_point: PathBuf,
    sshfs: Child,
    _peer: Peer,
}

impl Sshfs {
    /// Mounts `folder` at `mount_point` over a channel of `shape`.
    ///
    /// # Errors
    /// sshfs or `sftp-server` is not there, or it cannot be mounted.
    pub fn mount(
        programs: &Programs,
        shape: &Shape,
        folder: &Path,
        mount_point: &Path,
    ) -> Result<Sshfs> {
        let missing = "is not there\nhint: install the packages sshfs and openssh-sftp-server";
        let sftp = find("sftp-server").with_context(|| format!("sftp-server {missing}"))?;
        let sshfs = find("sshfs").with_context(|| format!("sshfs {missing}"))?;
        let (peer, end) = start(programs, shape, &mut Command::new(sftp))?;
        let mut remote = std::ffi::OsString::from("work:");
        remote.push(folder.canonicalize()?);
        let mut sshfs = super::bound(&sshfs)
            .arg(remote)
            .arg(mount_point)
            .args(["-f", "-o", "passive"])
            .stdin(Stdio::from(end.input))
            .stdout(Stdio::from(end.output))
            .stderr(Stdio::null())
            .spawn()?;
        let device = device(mount_point)?;
        within("mounting by sshfs", || match sshfs.try_wait()? {
            Some(status) => bail!("sshfs: {status}"),
            None => Ok((self::device(mount_point)? != device).then_some(())),
        })?;
        Ok(Sshfs { mount_point: mount_point.to_owned(), sshfs, _peer: peer })
    }
}

/// Whether sshfs can mount here; the error says what is not there.
///
/// # Errors
/// FUSE or one of the programs is missing.
pub fn sshfs_can_mount() -> Result<(), String> {
    super::fuse_of_this_machine()?;
    match find("sshfs").and(find("sftp-server")) {
        Some(_) => Ok(()),
        None => {
            Err("sshfs and sftp-server are not there (packages sshfs, openssh-sftp-server)"
                .to_owned())
        }
    }
}

fn device(path: &Path) -> Result<u64> {
    Ok(rustix::fs::stat(path)?.st_dev)
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        unmount(&self.mount_point);
        let _ = self.sshfs.wait();
    }
}

/// Unmounts what FUSE has mounted; what cannot be is left, with a word.
pub(super) fn unmount(mount_point: &Path) {
    let mut command = Command::new("fusermount3");
    if let Err(error) = super::run(command.arg("-u").arg(mount_point)) {
        eprintln!("warning: {} stays mounted: {error:#}", mount_point.display());
    }
}
