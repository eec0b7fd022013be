//! One call of the qrexec service, from its first byte to its last.
//!
//! ```text
//!   environment ─► which client, which folder, reading only?      (qrexec vouches for the client)
//!   rules       ─► may it have that? Until then nothing is looked at; a refusal always has the same words
//!   preface     ─► the pair's first call, or a later one?
//!     first: becomes the channel: splits in two, of which the locked-in half serves until
//!            end-of-file of stdin, and the other half waits for it
//!     later: hands its permission to the channel's process, answers with the token, ends;
//!            where that process is no more, it becomes the channel
//! ```
//!
//! The folder is opened without following any symbolic link: a client that may write somewhere above
//! it could have planted one. A refusal says no more than that.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use policy::{Call, QubeName};
use rustix::io::Errno;
use transport::local::{MessageSocket, RuntimeError, runtime_folder};
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, Preface, PrefaceError, PrefaceReader, Role,
    ServerHello, Taken, Token,
};
use transport::mux::{Code, Config, Connection, Reason, Side};
use transport::relay::channel::{Channel, ChannelEnd};
use transport::relay::pump;

use crate::backend::{self, diod};
use crate::demux::Demux;
use crate::desk::{self, Desk, Visitor};
use crate::exports::{Exports, Permission};
use crate::grant::{self, Book, Grant, Source};
use crate::sandbox::{self, Side as Half, Unavailable};
use crate::{log, stderr};

/// Why a call comes to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It was not started as a service is.
    #[error("{0} is not set: this program is started by qrexec, not by hand")]
    NotACall(&'static str),
    /// qrexec's word for the client is no qube's name.
    #[error("QREXEC_REMOTE_DOMAIN is not a qube's name")]
    Client,
    /// The argument is no folder.
    #[error("the call's argument is no folder: {0}")]
    Argument(#[from] policy::service::CallError),
    /// The client end did not say what it wants.
    #[error("the client end is not to be understood: {0}")]
    Preface(#[from] PrefaceError),
    /// This qube's rules do not let the client have it, whether it is there or not.
    #[error("it is not permitted to this qube; the log over there says why")]
    NotPermitted,
    /// The folder cannot be served.
    #[error("{0}")]
    Folder(String),
    /// The file server that is wanted cannot serve it.
    #[error(transparent)]
    Diod(#[from] diod::DiodError),
    /// There is no private folder for sockets.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// There is nothing to lock the service into.
    #[error(transparent)]
    Sandbox(#[from] Unavailable),
    /// Something of the system failed.
    #[error("{0}: {1}")]
    System(&'static str, Errno),
    /// The channel ended otherwise than by its end.
    #[error("{0}")]
    Channel(ChannelEnd),
}

impl ServiceError {
    /// What the client is told; nothing of this qube's insides.
    pub fn reason(&self) -> Reason {
        match self {
            ServiceError::Preface(error) => error.reason(),
            ServiceError::Folder(why) => Reason::new(Code::FOLDER, why.as_str()),
            ServiceError::Argument(error) => Reason::new(Code::FOLDER, error.to_string()),
            ServiceError::Diod(error) => Reason::new(Code::BACKEND, error.to_string()),
            ServiceError::NotPermitted => Reason::new(Code::NOT_PERMITTED, self.to_string()),
            ServiceError::Channel(ChannelEnd::Broken(error)) => error.reason(),
            ServiceError::Channel(ChannelEnd::Cut(_)) => {
                Reason::new(Code::PROTOCOL, "the channel was cut off")
            }
            ServiceError::Sandbox(_) => Reason::new(
                Code::RESOURCES,
                "the service cannot be locked into its folder there; see its log",
            ),
            ServiceError::NotACall(_) => Reason::new(Code::INTERNAL, self.to_string()),
            _ => Reason::new(Code::RESOURCES, "the service cannot be started; see its log"),
        }
    }
}

/// The client's name where it comes by ssh, for the rules of exports too.
pub const SSH: &str = "ssh";

/// Who calls, and for what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client qube, by qrexec's word.
    pub client: QubeName,
    /// What it asks for.
    pub call: Call,
}

impl Caller {
    /// Reads the environment that qrexec gives a service. Where there is none, but sshd's, the call is the
    /// command's `word`, `SERVICE+ARGUMENT`, and the client is called [`SSH`]: whoever logs in by ssh is
    /// this qube's own person.
    pub fn from_environment(word: Option<OsString>) -> Result<Caller, ServiceError> {
        let by_ssh = std::env::var_os("SSH_CONNECTION").is_some()
            && std::env::var_os("QREXEC_REMOTE_DOMAIN").is_none();
        let name = match (std::env::var_os("QREXEC_SERVICE_FULL_NAME"), word) {
            (Some(name), _) if !by_ssh => name,
            (_, Some(word)) if by_ssh && word.as_bytes().contains(&b'+') => word,
            _ => return Err(ServiceError::NotACall("QREXEC_SERVICE_FULL_NAME")),
        };
        let client = match std::env::var("QREXEC_REMOTE_DOMAIN") {
            Ok(client) => client,
            Err(_) if by_ssh => SSH.to_owned(),
            Err(_) => return Err(ServiceError::NotACall("QREXEC_REMOTE_DOMAIN")),
        };
        let client = client.parse().map_err(|_| ServiceError::Client)?;
        Ok(Caller { client, call: Call::parse(name.as_bytes())? })
    }
}

/// What the person who set the service up wants of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which file server serves, where no rule says it.
    pub backend: backend::Kind,
    /// What it is locked into.
    pub sandbox: sandbox::Settings,
    /// This qube's rules, where they are in none of the usual places.
    pub exports: Option<PathBuf>,
    /// How long a token is good.
    pub token_lifetime: Duration,
}

/// Serves one call over `input` and `output`, until the client end closes it. To be called with one
/// thread in the process.
pub fn serve(
    caller: &Caller,
    settings: &Settings,
    input: OwnedFd,
    output: OwnedFd,
) -> Result<ExitCode, ServiceError> {
    let (hello, rest) = match read_preface(&input) {
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Ok(Some(read)) => read,
        Err(error) => return Err(refuse(caller, &output, error)),
    };
    if let Err(error) = hello.capabilities.agree(Capabilities::OURS) {
        return Err(refuse(caller, &output, error.into()));
    }
    let permission = match permit(caller, settings) {
        Ok(permission) => permission,
        Err(error) => return Err(refuse(caller, &output, error)),
    };
    match answer(caller, settings, &permission, &hello.role) {
        Ok(Taking::Grant(token, nonce)) => {
            say(&output, &Answer::Taken(introduction(Taken::Grant(token), nonce)))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(Taking::Channel(grant)) => {
            first_call(caller, settings, grant, &hello, rest, input, output)
        }
        Err(error) => Err(refuse(caller, &output, error)),
    }
}

/// What becomes of a call that may have its folder.
enum Taking {
    /// The channel, which serves that folder first.
    Channel(Grant),
    /// A permission for the channel of this name.
    Grant(Token, Nonce),
}

/// What this qube's rules give; nothing of the folder is looked at.
fn permit(caller: &Caller, settings: &Settings) -> Result<Permission, ServiceError> {
    let Caller { client, call } = caller;
    let refused = |why: &dyn std::fmt::Display| {
        log::say(format_args!("{client} asked for {call}: refused: {why}"));
        ServiceError::NotPermitted
    };
    let exports = Exports::read(settings.exports.as_deref()).map_err(|error| refused(&error))?;
    let permission = exports.permit(client, &call.folder, call.read_only);
    let permission = permission.map_err(|why| refused(&why))?;
    let access = if permission.read_only { "read-only" } else { "read-write" };
    let Permission { folder, why, .. } = &permission;
    log::say(format_args!("{client} may have {folder} ({access}): {why}"));
    if permission.narrowed {
        stderr::say(format_args!("{folder} is for reading only there"));
    }
    Ok(permission)
}

fn answer(
    caller: &Caller,
    settings: &Settings,
    permission: &Permission,
    role: &Role,
) -> Result<Taking, ServiceError> {
    let channel = |errno| ServiceError::System("the channel's process", errno);
    if let Role::Grant(nonce) = role {
        let runtime = runtime_folder("server")?;
        let visitor = Visitor::of_channel(&runtime, &caller.client, &nonce.0);
        if let Some(visitor) = visitor.map_err(channel)? {
            // As the process with the channel can use it, which is locked in.
            let grant = sandbox::lend(&settings.sandbox, open(permission, settings)?)?;
            let handed = visitor.hand_over(&caller.client, &grant);
            if let Some(token) = handed.map_err(channel)? {
                return Ok(Taking::Grant(Token(token), *nonce));
            }
        }
        log::say(format_args!("{}: the channel is no more; this call is the next", caller.client));
    }
    Ok(Taking::Channel(open(permission, settings)?))
}

/// Opens a folder that the client may have.
fn open(permission: &Permission, settings: &Settings) -> Result<Grant, ServiceError> {
    let &Permission { ref folder, read_only, max_msize, backend, .. } = permission;
    let root = sandbox::open_folder(folder).map_err(|errno| {
        ServiceError::Folder(match errno {
            Errno::NOENT => "there is no such folder".into(),
            Errno::NOTDIR => "it is not a folder".into(),
            // A symbolic link on the way: where it leads is not said.
            Errno::LOOP => "a symbolic link is on its way; name the folder itself".into(),
            Errno::ACCESS => "the service may not read it".into(),
            errno => format!("it cannot be opened: {errno}"),
        })
    })?;
    let confined = !settings.sandbox.kinds.is_empty();
    let source = match backend.unwrap_or(settings.backend) {
        backend::Kind::Embedded => Source::Folder(root),
        backend::Kind::Diod => Source::Diod(diod::start(folder, read_only, confined)?),
    };
    Ok(Grant { folder: folder.clone(), read_only, max_msize, source })
}

fn first_call(
    caller: &Caller,
    settings: &Settings,
    mut grant: Grant,
    hello: &ClientHello,
    rest: Bytes,
    input: OwnedFd,
    output: OwnedFd,
) -> Result<ExitCode, ServiceError> {
    let prepare = || {
        let nonce = grant::random().map_err(|errno| ServiceError::System("random", errno))?;
        let runtime = runtime_folder("server")?;
        let desk = Desk::open(&runtime, &caller.client, &nonce)
            .map_err(|errno| ServiceError::System("the socket for later calls", errno))?;
        Ok((nonce, desk))
    };
    let (nonce, (desk, socket)) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Err(refuse(caller, &output, error)),
    };
    if settings.sandbox.kinds.is_empty() {
        stderr::say("running without a sandbox, as --no-sandbox asks for");
    } else {
        let keep = [input.as_fd(), output.as_fd(), socket.as_fd()];
        match sandbox::enter(&settings.sandbox, &mut grant, &keep) {
            Ok(Half::Confined(_)) => {
                // It is outside, and the keeper's.
                desk.leave();
                let served =
                    channel(caller, settings, grant, nonce, socket, hello, rest, input, output);
                return served.map(|()| ExitCode::SUCCESS);
            }
            Ok(Half::Keeper(keeper)) => {
                drop((input, output, socket, grant));
                let ended = keeper.wait();
                drop(desk);
                return Ok(ended.into());
            }
            Err(error) => return Err(refuse(caller, &output, error.into())),
        }
    }
    let served = channel(caller, settings, grant, nonce, socket, hello, rest, input, output);
    drop(desk);
    served.map(|()| ExitCode::SUCCESS)
}

/// The channel itself, from the answer to its preface to its end.
#[allow(clippy::too_many_arguments)]
fn channel(
    caller: &Caller,
    settings: &Settings,
    grant: Grant,
    nonce: grant::Random,
    socket: MessageSocket,
    hello: &ClientHello,
    rest: Bytes,
    input: OwnedFd,
    output: OwnedFd,
) -> Result<(), ServiceError> {
    let prepare = || {
        let book = Arc::new(Mutex::new(Book::new(settings.token_lifetime)));
        let poll = mio::Poll::new().map_err(system)?;
        let demux = Demux::new(poll.registry(), &caller.client, grant, Arc::clone(&book));
        let demux = demux.map_err(system)?;
        desk::attend(socket, &caller.client, book, demux.ender())
            .map_err(|errno| ServiceError::System("the thread for later calls", errno))?;
        Ok((poll, demux))
    };
    let (mut poll, mut demux) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Err(refuse(caller, &output, error)),
    };
    let mut mux = Connection::new(Side::Server, Config::default());
    let now = Duration::ZERO;
    mux.establish(now, &hello.limits);
    mux.handle_input(now, rest)
        .map_err(|error| ServiceError::Channel(ChannelEnd::Broken(error)))?;
    let answer = Answer::Taken(introduction(Taken::Channel, Nonce(nonce)));
    let channel = Channel::server(input, output, &answer, mux, poll.registry()).map_err(system)?;
    match pump::run(&mut poll, channel, &mut demux) {
        ChannelEnd::Closed | ChannelEnd::Done => Ok(()),
        end => {
            log::say(format_args!("{}: {end}", caller.client));
            Err(ServiceError::Channel(end))
        }
    }
}

fn system(error: std::io::Error) -> ServiceError {
    ServiceError::System("the channel", Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn introduction(taken: Taken, nonce: Nonce) -> ServerHello {
    ServerHello {
        capabilities: Capabilities::OURS,
        limits: Config::default().limits(),
        taken,
        name: own_name(),
        nonce,
    }
}

/// This qube's name: the host's name is that in every Qubes qube.
fn own_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

/// Reads the client's preface and what came behind it; nothing where the client left without a word.
fn read_preface(input: &OwnedFd) -> Result<Option<(ClientHello, Bytes)>, ServiceError> {
    let mut reader = PrefaceReader::<ClientHello>::default();
    let mut buffer = [0; 4096];
    loop {
        let read = rustix::io::retry_on_intr(|| rustix::io::read(input.as_fd(), &mut buffer));
        let count = read.map_err(|errno| ServiceError::System("standard input", errno))?;
        if count == 0 {
            return if reader.has_begun() { Err(reader.ended().into()) } else { Ok(None) };
        }
        if let Some(read) = reader.feed(Bytes::copy_from_slice(&buffer[..count]))? {
            return Ok(Some(read));
        }
    }
}

/// Tells this qube's log why not, and the client less; gives the error back for the exit code.
fn refuse(caller: &Caller, output: &OwnedFd, error: ServiceError) -> ServiceError {
    // That has been said together with the rule.
    if !matches!(error, ServiceError::NotPermitted) {
        log::say(format_args!("{} asked for {}: {error}", caller.client, caller.call));
    }
    // A client that does not listen any more loses nothing.
    let _ = say(output, &Answer::Refused(error.reason()));
    error
}

fn say(output: &OwnedFd, answer: &Answer) -> Result<(), ServiceError> {
    let mut bytes = answer.encode();
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(output.as_fd(), &bytes));
        let written = written.map_err(|errno| ServiceError::System("standard output", errno))?;
        let _ = bytes.split_to(written);
    }
    Ok(())
}
