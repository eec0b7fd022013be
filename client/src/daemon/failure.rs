//! What a call's end means, in words and exit codes.
//!
//! qrexec tells by exit codes (QREXEC documentation, `qrexec-client-vm`): 126 refused, 127 no such
//! service, 125 trouble of its own, 255 the other qube went away; everything else is the service's. Text
//! that the far end chose is escaped here.

use policy::printable;
use rustix::io::Errno;
use transport::mux::preface::PrefaceError;
use transport::mux::{Code, Reason};
use transport::relay::channel::ChannelEnd;

use super::call;
use super::channel::Ended;
use crate::exit::{Exit, Failure};
use crate::plan::Via;

/// Why a stream that the far end refused is not there.
pub fn refused(server: &str, folder: &str, reason: &Reason) -> Failure {
    let text = printable(reason.text.as_bytes()).to_string();
    let says = if text.is_empty() { reason.code.to_string() } else { text };
    match reason.code {
        Code::FOLDER | Code::NOT_PERMITTED => {
            Failure::new(Exit::NoFolder, format!("{server} does not offer {folder}: {says}"))
                .hint(format!("see which folders qube {server} has, and what its exports permit"))
        }
        Code::VERSION => version(server, &says),
        _ => Failure::new(Exit::Other, format!("{server} refused: {says}")),
    }
}

/// Why a channel that has ended never brought a stream.
pub fn ended(server: &str, via: &Via, folder: &str, ended: &Ended) -> Failure {
    let exit = ended.exit.unwrap_or(0);
    match (&*ended.why, exit) {
        (ChannelEnd::Refused(reason) | ChannelEnd::Left(reason), _) => {
            refused(server, folder, reason)
        }
        (ChannelEnd::Preface(PrefaceError::Version(theirs)), _) => {
            version(server, &format!("it speaks version {theirs} of the channel protocol"))
        }
        (ChannelEnd::Preface(PrefaceError::Ended(0)) | ChannelEnd::Closed, code) => {
            unanswered(server, via, code)
        }
        (ChannelEnd::Preface(PrefaceError::Ended(_)) | ChannelEnd::Cut(_), 127) => {
            unanswered(server, via, 127)
        }
        (ChannelEnd::Preface(PrefaceError::Ended(_)) | ChannelEnd::Cut(_), code) => Failure::new(
            Exit::ClosedEarly,
            format!("{server} ended the call in the middle of its answer{}", code_words(code)),
        )
        .hint(format!("look at the log of qube {server}, and try again")),
        (ChannelEnd::Preface(error), _) => garbage(server, error),
        (ChannelEnd::Broken(error), _) => garbage(server, error),
        (ChannelEnd::Io { .. } | ChannelEnd::Done, _) => {
            Failure::new(Exit::Other, ended.why.to_string())
        }
    }
}

/// The far end said nothing before the call ended.
fn unanswered(server: &str, via: &Via, code: i32) -> Failure {
    let program = call::program(via).display().to_string();
    match code {
        255 if matches!(via, Via::Ssh(_)) => Failure::new(
            Exit::NoSuchQube,
            format!("ssh did not get to {server}"),
        )
        .hint(
            "see what it printed above; it cannot ask for a password here: use a key, or an agent",
        ),
        126 | 127 if matches!(via, Via::Ssh(_)) => Failure::new(
            Exit::NoService,
            format!("host {server} has no qvm-folder-server that a login by ssh can run"),
        )
        .hint("install qubes-shared-folders there, so that `ssh HOST qvm-folder-server` finds it"),
        126 => Failure::new(Exit::Refused, format!("dom0 refused the call to {server}"))
            .hint("ask the person at dom0 to allow it, or look at the policy there"),
        127 => Failure::new(Exit::NoService, format!("qube {server} does not have the service"))
            .hint(format!("install qubes-shared-folders in the template of {server}")),
        125 => Failure::new(Exit::Qrexec, format!("{program} could not make the call"))
            .hint("see what it printed above, and the journal of qubes-qrexec-agent"),
        255 => Failure::new(
            Exit::NoSuchQube,
            format!("qube {server} is not there, could not be started, or went away"),
        )
        .hint("check the name; start the qube and try again"),
        code => Failure::new(
            Exit::ClosedEarly,
            format!("{server} ended the call before it answered{}", code_words(code)),
        )
        .hint(format!("look at the log of qube {server}, and try again")),
    }
}

/// The file server did not give the root of its folder.
pub fn not_attached(server: &str, errno: Errno) -> Failure {
    let says = std::io::Error::from(errno);
    match errno {
        Errno::IO => {
            Failure::new(Exit::ClosedEarly, format!("the connection to {server} was lost"))
                .hint("try again")
        }
        Errno::PROTO => garbage(server, &says),
        _ => Failure::new(Exit::NoFolder, format!("{server} does not give the folder: {says}")),
    }
}

/// The far end began to answer and did not go on.
pub fn stalled(server: &str, seconds: u64) -> Failure {
    Failure::new(
        Exit::Stalled,
        format!("{server} began to answer and then said nothing for {seconds} seconds"),
    )
    .hint(format!("see whether qube {server} is overloaded or paused; --timeout waits longer"))
}

fn garbage(server: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Garbage,
        format!("what {server} sent is not this program's protocol: {error}"),
    )
    .hint(format!("see that qube {server} has the same version of qubes-shared-folders"))
}

fn version(server: &str, says: &str) -> Failure {
    Failure::new(
        Exit::Version,
        format!("qube {server} has another version of this program: {says}"),
    )
    .hint("bring both templates to the same version of qubes-shared-folders")
}

fn code_words(code: i32) -> String {
    if code == 0 { String::new() } else { format!(" (exit code {code})") }
}
