//! The other end of a call: finds the service, starts it as a qube's agent does, relays for it.
//!
//! A service runs below a shell that stands for the login shell: it prints what a profile script might
//! ([`crate::standin`], `QREXEC_STANDIN_NOISE`), then becomes the service. No profile of this machine is
//! read, so that a test sees the same everywhere. Its stdin and stdout are two socketpairs with the
//! system's buffers, its stderr is a pipe, and its environment is only what qrexec's services have.

use super::{Call, NO_SERVICE, TROUBLE};
use crate::channel::{End, Ended, HAND_OVER, Kind, Relay, Source, hand_over};
use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};
use std::env::{self, var_os};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The first argument of the process that is the agent's end; descriptors 0 and 1 are its ring.
pub const ARGUMENT: &str = "--as-agent";

/// The login shell's script: `$1` is the noise, the rest is the service. What this process inherited by
/// mistake from the calling qube stays here.
const LOGIN: &str = r#"exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
printf %s "$1"; shift; exec "$@""#;

/// Serves one call until it has ended. The exit code goes to the other end, not to anyone here.
///
/// # Errors
/// Trouble of this machine; the other end sees the ring close.
pub fn run(call: &Call) -> Result<()> {
    rustix::process::setsid()?;
    let (ring_in, ring_out) = super::take_stdio()?;
    let (stdin, service_stdin) = UnixStream::pair()?;
    let (stdout, service_stdout) = UnixStream::pair()?;
    let (stderr, service_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let sources = vec![
        Source { fd: Some(stdout.into()), kind: Kind::Stdout },
        Source { fd: Some(stderr), kind: Kind::Stderr },
    ];
    let service = if let Ok(name) = env::var(HAND_OVER) {
        drop(service_stderr);
        hand_over(&name, &End { input: service_stdin.into(), output: service_stdout.into() })?;
        None
    } else {
        let stdio = [service_stdin.into(), service_stdout.into(), service_stderr];
        Some(start(call, stdio).or_else(|_| exit_with(TROUBLE))?)
    };
    let relay = Relay::agent(sources, stdin.into(), service, ring_in, ring_out, &call.shape)?;
    match relay.run()? {
        // A service that lost its call sees end-of-file and EPIPE, and is left to itself.
        Ended::Exit(_) | Ended::PeerGone => Ok(()),
    }
}

fn start(call: &Call, [stdin, stdout, stderr]: [OwnedFd; 3]) -> Result<Child> {
    let Some(program) = find(&call.service) else { return exit_with(NO_SERVICE) };
    let argument = call.service.split_once('+').map_or("", |(_, argument)| argument);
    let home = env::var("HOME").unwrap_or_else(|_| "/".into());
    let user = env::var("USER").unwrap_or_else(|_| "user".into());
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", LOGIN, "-sh"])
        .arg(var_os("QREXEC_STANDIN_NOISE").unwrap_or_default())
        .arg(program);
    if !argument.is_empty() {
        shell.arg(argument);
    }
    shell
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", &home)
        .env("USER", &user)
        .env("LOGNAME", &user)
        .env("SHELL", "/bin/sh")
        .env("QREXEC_REMOTE_DOMAIN", super::source())
        .env("QREXEC_SERVICE_FULL_NAME", &call.service)
        .env("QREXEC_SERVICE_ARGUMENT", argument)
        .env("QREXEC_AGENT_PID", std::process::id().to_string())
        .current_dir(&home)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    shell.spawn().context("cannot start the service's shell")
}

/// The service's file: with the argument in its name before the one without.
fn find(service: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(var_os("QREXEC_STANDIN_SERVICES")?);
    let name = service.split('+').next().unwrap_or(service);
    [service, name].iter().map(|file| folder.join(file)).find(|file| file.is_file())
}

/// A service that ends at once with `code`.
fn exit_with(code: u8) -> Result<Child> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exit {code}")]);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().context("cannot start a shell")
}
