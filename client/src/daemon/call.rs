//! One qrexec call: the process that carries it, and the descriptors that we hold of it.
//!
//! `qrexec-client-vm TARGET SERVICE+ARGUMENT` uses its own stdin and stdout as the channel and makes
//! them non-blocking, so it gets two socketpairs whose other ends are ours alone (QREXEC
//! documentation; `qrexec-client-vm.c`). Another command takes its place with `--via`; `--via local`
//! starts the service itself, with the environment that the qrexec agent would give it; `--via ssh` has
//! sshd start it on another host.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::process::{Child, ChildStderr, Command};

use crate::plan::Via;

/// The service's program, for `--via local` and `--via ssh`.
const SERVICE: &str = "qvm-folder-server";
/// Bytes of the socket buffers that the channel's processes read from and write to.
const BUFFER: usize = 64 * 1024;
/// Bytes of qrexec's own ring that are asked for: the most that it gives. It carries half as much again as
/// one of the default 64 KiB.
pub const RING: &str = "--buffer-size=1048576";
/// How long `qrexec-client-vm --help` may take.
const HELP: Duration = Duration::from_secs(5);
/// How long the process of a call that has ended may take to go.
const PARTING: Duration = Duration::from_millis(500);

/// The program that a call starts, for people too.
pub fn program(via: &Via) -> PathBuf {
    match via {
        Via::Qrexec(program) | Via::Command(program) | Via::Ssh(program) => program.clone(),
        Via::Local => beside(SERVICE),
    }
}

/// Whether `via` is a qrexec that can be asked for a larger ring: one that does not know the option ends
/// before dom0 is asked, and knows no word of it in its help either.
pub async fn takes_ring(via: &Via) -> bool {
    let Via::Qrexec(program) = via else { return false };
    let mut command = Command::new(program);
    let help = command.arg("--help").stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(HELP, help).await {
        Ok(Ok(output)) => {
            let says = |text: &[u8]| String::from_utf8_lossy(text).contains("--buffer-size");
            says(&output.stdout) || says(&output.stderr)
        }
        _ => false,
    }
}

/// A call under way: the process that carries it.
pub struct Call {
    child: Child,
    /// What it, or the far end, has to say to people.
    pub stderr: Option<ChildStderr>,
}

/// The channel of a call, from our side.
pub struct Ends {
    /// What the far end says.
    pub input: OwnedFd,
    /// What the far end hears.
    pub output: OwnedFd,
}

impl Call {
    /// Starts a call of `service` (`SERVICE+ARGUMENT`) in `target`, with a large ring if qrexec takes
    /// that ([`takes_ring`]).
    pub fn start(
        via: &Via,
        target: &str,
        service: &str,
        ring: bool,
    ) -> std::io::Result<(Call, Ends)> {
        let (output, stdin) = socketpair()?;
        let (input, stdout) = socketpair()?;
        let mut command = Command::new(program(via));
        match via {
            Via::Local => {
                let argument = service.split_once('+').map_or("", |(_, argument)| argument);
                // Not as a word too: that of /h would be taken for an option.
                command
                    .env("QREXEC_REMOTE_DOMAIN", "local")
                    .env("QREXEC_SERVICE_FULL_NAME", service)
                    .env("QREXEC_SERVICE_ARGUMENT", argument)
                    .env("QREXEC_AGENT_PID", std::process::id().to_string());
            }
            Via::Qrexec(_) | Via::Command(_) => {
                if ring {
                    command.arg(RING);
                }
                command.arg(target).arg(service);
            }
            Via::Ssh(_) => {
                // A target has nothing in it that ssh or a shell there would take for more than a word.
                command.arg(target).arg(SERVICE).arg(service);
            }
        }
        let mut child = command
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take();
        Ok((Call { child, stderr }, Ends { input, output }))
    }

    /// The process's id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the process to end by itself, as it does when the channel has been closed or its
    /// service has ended; gives its exit code (128 and the signal's number where a signal ended it). One
    /// that does not is ended.
    pub async fn end(mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = match tokio::time::timeout(PARTING, self.child.wait()).await {
            Ok(status) => status.ok()?,
            Err(_) => {
                let _ = self.child.start_kill();
                self.child.wait().await.ok()?
            }
        };
        status.code().or(status.signal().map(|signal| 128 + signal))
    }
}

fn socketpair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    for end in [a.as_fd(), b.as_fd()] {
        // A smaller buffer than wished for is slower, not wrong.
        let _ = sockopt::set_socket_send_buffer_size(end, BUFFER);
    }
    Ok((a, b))
}

/// A program of this project: beside the running one, as they are built and installed, else by name.
fn beside(name: &str) -> PathBuf {
    let here = std::env::current_exe().ok();
    let beside = here.and_then(|path| Some(path.parent()?.join(name)));
    beside.filter(|path| path.exists()).unwrap_or_else(|| OsString::from(name).into())
}
