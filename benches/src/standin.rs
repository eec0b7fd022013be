//! The call around a modelled channel: what `qrexec-client-vm TARGET SERVICE+ARG` does besides moving
//! bytes.
//!
//! The calling process evaluates the policy, starts the agent's end as a process in a session of its
//! own (it stands for another qube: no signal of the caller's terminal reaches it) and relays between
//! its own descriptors 0 and 1 and the ring. [`agent`] is the other end. Everything that a test sets
//! is in the environment:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `QREXEC_STANDIN_SERVICES` | the folder of services, as `/etc/qubes-rpc` |
//! | `QREXEC_STANDIN_SOURCE` | name of the calling qube; `client` if unset |
//! | `QREXEC_STANDIN_TARGETS` | the qubes that there are, separated by spaces; any if unset |
//! | `QREXEC_STANDIN_POLICY` | a file of policy lines; everything is allowed if unset |
//! | `QREXEC_STANDIN_LOG` | a file that gets a line at the start and at the end of each call |
//! | `QREXEC_STANDIN_NOISE` | what the login shell prints before the service starts |
//!
//! Left out: `ask`, redirections and other options of real policies; the limits on concurrent calls.

pub mod agent;
mod policy;

use crate::channel::{DEFAULT_RING, Ended, MAX_RING, Relay, Shape, ring};
use anyhow::{Context, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::stdio::{dup2_stdin, dup2_stdout};
use std::env::{self, var_os};
use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio, id};
use std::time::Duration;

/// The exit code of trouble on the way, and of calls that qrexec itself would not survive.
pub const TROUBLE: u8 = 125;
/// The exit code of a call that the policy refused.
pub const REFUSED: u8 = 126;
/// The exit code of a call to a service that is not there.
pub const NO_SERVICE: u8 = 127;
/// The exit code when the other end went away.
pub const PEER_GONE: u8 = 255;
/// The exit code of a command line that `qrexec-client-vm` refuses.
pub const USAGE: u8 = 1;

/// The longest service name with its argument that the calling qube's agent survives, in bytes.
const MAX_SERVICE: usize = 3_935;
/// The longest target name, in bytes.
const MAX_TARGET: usize = 63;

/// One call, as its command line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What the channel is like.
    pub shape: Shape,
    /// The qube that is called.
    pub target: String,
    /// The service and, behind a `+`, its argument.
    pub service: String,
}

impl Call {
    /// Parses `[--buffer-size=N] [--delay-us=N] [--rate=N] TARGET SERVICE[+ARG]`.
    ///
    /// # Errors
    /// A sentence, as for a terminal.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Call, String> {
        let mut shape = Shape::default();
        let mut names = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix("--") else {
                names.push(argument);
                continue;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), arguments.next()),
            };
            let number: u64 = value
                .and_then(|value| value.parse().ok())
                .ok_or_else(|| format!("--{name} needs a number"))?;
            match name.as_str() {
                "buffer-size" => {
                    shape.ring = usize::try_from(number)
                        .ok()
                        .filter(|bytes| (1..=MAX_RING).contains(bytes))
                        .ok_or_else(|| format!("--buffer-size is at most {MAX_RING}"))?
                        .max(DEFAULT_RING);
                }
                "delay-us" => shape.delay = Duration::from_micros(number),
                "rate" => shape.rate = Some(number),
                _ => return Err(format!("unknown option --{name}")),
            }
        }
        match <[String; 2]>::try_from(names) {
            Ok([target, service]) => Ok(Call { shape, target, service: clean(&service) }),
            Err(_) => Err("usage: qrexec-standin [--buffer-size=BYTES] TARGET SERVICE+ARG".into()),
        }
    }
}

/// A service name as dom0's daemon passes it on: other characters become `_`.
fn clean(service: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    service.bytes().map(|byte| if keep(byte) { char::from(byte) } else { '_' }).collect()
}

/// Makes the call from this process's descriptors 0 and 1, and says with which code to exit.
///
/// # Errors
/// Trouble of this machine, such as no descriptors left.
pub fn run(call: &Call) -> Result<u8> {
    log(&format!("start {} {} {}", id(), call.target, call.service))?;
    let code = match refusal(call)? {
        Some((code, why)) => {
            eprintln!("{why}");
            code
        }
        None => relay(call)?,
    };
    log(&format!("end {} {code}", id()))?;
    Ok(code)
}

/// Why the call is not made, if it is not.
fn refusal(call: &Call) -> Result<Option<(u8, &'static str)>> {
    if call.service.len() > MAX_SERVICE {
        return Ok(Some((TROUBLE, "service name too long (the real agent would have died)")));
    }
    if call.target.len() > MAX_TARGET {
        return Ok(Some((USAGE, "target name too long")));
    }
    let source = source();
    let known = match env::var("QREXEC_STANDIN_TARGETS") {
        Ok(targets) => targets.split_whitespace().any(|target| target == call.target),
        Err(_) => true,
    };
    let allowed = match var_os("QREXEC_STANDIN_POLICY") {
        Some(file) => {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("cannot read the policy {file:?}"))?;
            policy::allows(&text, &call.service, &source, &call.target)
        }
        None => true,
    };
    let refused = !known || !allowed || call.target == source;
    Ok(refused.then_some((REFUSED, "Request refused")))
}

/// The calling qube's name.
fn source() -> String {
    env::var("QREXEC_STANDIN_SOURCE").unwrap_or_else(|_| "client".into())
}

fn relay(call: &Call) -> Result<u8> {
    let (agent_in, ring_out) = ring(call.shape.ring).context("cannot make the ring")?;
    let (ring_in, agent_out) = ring(call.shape.ring).context("cannot make the ring")?;
    // The agent is never waited for: it outlives a call whose service does.
    Command::new(env::current_exe()?)
        .arg(agent::ARGUMENT)
        .args(call.shape.options())
        .args([&call.target, &call.service])
        .stdin(Stdio::from(agent_in))
        .stdout(Stdio::from(agent_out))
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the agent's end")?;
    let (input, output) = take_stdio()?;
    match Relay::client(input, output, ring_in, ring_out, &call.shape)?.run()? {
        Ended::Exit(code) => Ok(code),
        Ended::PeerGone => Ok(PEER_GONE),
    }
}

/// Descriptors 0 and 1 as ones that can be closed; `/dev/null` takes their places.
pub(crate) fn take_stdio() -> Result<(OwnedFd, OwnedFd)> {
    let input = fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
    let output = fcntl_dupfd_cloexec(std::io::stdout().as_fd(), 3)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok((input, output))
}

fn log(line: &str) -> Result<()> {
    let Some(file) = var_os("QREXEC_STANDIN_LOG") else { return Ok(()) };
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .with_context(|| format!("cannot open the log {file:?}"))?;
    // One write: calls log at the same time.
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Call, String> {
        Call::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn a_command_line_is_a_call() {
        let call = parse("--buffer-size=1048576 --delay-us 2500 work svc.Name+-home-user").unwrap();
        assert_eq!(call.shape.ring, 1_048_576);
        assert_eq!(call.shape.delay, Duration::from_micros(2500));
        assert_eq!((&*call.target, &*call.service), ("work", "svc.Name+-home-user"));
    }

    #[test]
    fn a_ring_above_the_limit_and_a_missing_service_are_refused() {
        assert!(parse("--buffer-size=1048577 work svc").is_err());
        assert!(parse("--buffer-size=lots work svc").is_err());
        assert!(parse("work").is_err());
        assert!(parse("--what=1 work svc").is_err());
    }

    #[test]
    fn other_characters_of_a_service_become_underscores() {
        assert_eq!(clean("a.B-c+d/e f\u{e4}_"), "a.B-c+d_e_f___");
    }
}
