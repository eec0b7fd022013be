//! One call of the qrexec service, from its first byte to its last.
//!
//! ```text
//!   environment ─► which client, which folder, reading only?      (qrexec vouches for the client)
//!   preface     ─► the pair's first call, or a later one?
//!     first: becomes the channel: splits in two, of which the locked-in half serves until
//!            end-of-file of stdin, and the other half waits for it
//!     later: hands its permission to the channel's process, answers with the token, ends
//! ```
//!
//! The folder is opened without following any symbolic link: a client that may write somewhere above
//! it could have planted one. A refusal says no more than that.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use policy::{Call, Folder, QubeName};
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
use crate::grant::{self, Desk, Grant, SharedBook, Source, hand_over};
use crate::sandbox::{self, Side as Half, Unavailable};
use crate::stderr;

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
    /// The folder cannot be served.
    #[error("{0}")]
    Folder(String),
    /// The file server that is wanted cannot serve it.
    #[error(transparent)]
    Diod(#[from] diod::DiodError),
    /// The channel that the call is for is no more.
    #[error("the channel that this call is for has ended")]
    NoChannel,
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
            ServiceError::NoChannel => Reason::new(Code::GOING_AWAY, self.to_string()),
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

/// Who calls, and for what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client qube, by qrexec's word.
    pub client: String,
    /// What it asks for.
    pub call: Call,
}

impl Caller {
    /// Reads the environment that qrexec gives a service. Where there is none, as over ssh, the call
    /// is the command's `word`, `SERVICE+ARGUMENT`, and the client has no name.
    pub fn from_environment(word: Option<OsString>) -> Result<Caller, ServiceError> {
        let name = match (std::env::var_os("QREXEC_SERVICE_FULL_NAME"), word) {
            (Some(name), _) => name,
            (None, Some(word)) if word.as_bytes().contains(&b'+') => word,
            (None, _) => return Err(ServiceError::NotACall("QREXEC_SERVICE_FULL_NAME")),
        };
        let client = std::env::var("QREXEC_REMOTE_DOMAIN")
            .map_err(|_| ServiceError::NotACall("QREXEC_REMOTE_DOMAIN"))?;
        if client.parse::<QubeName>().is_err() {
            return Err(ServiceError::Client);
        }
        Ok(Caller { client, call: Call::parse(name.as_bytes())? })
    }
}

/// What the person who set the service up wants of it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which file server serves.
    pub backend: backend::Kind,
    /// What it is locked into.
    pub sandbox: sandbox::Settings,
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
        Err(error) => return Err(refuse(&output, error)),
    };
    if let Err(error) = hello.capabilities.agree(Capabilities::OURS) {
        return Err(refuse(&output, error.into()));
    }
    let grant = match open(&caller.call, settings) {
        Ok(grant) => grant,
        Err(error) => return Err(refuse(&output, error)),
    };
    match hello.role {
        Role::Grant(nonce) => match later_call(caller, settings, grant, &nonce) {
            Ok(token) => {
                let taken = Taken::Grant(token);
                say(&output, &Answer::Taken(introduction(taken, nonce)))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => Err(refuse(&output, error)),
        },
        Role::Channel => first_call(caller, settings, grant, &hello, rest, input, output),
    }
}

/// Opens the folder of a call.
fn open(call: &Call, settings: &Settings) -> Result<Grant, ServiceError> {
    let Folder::Path(folder) = &call.folder else {
        return Err(ServiceError::Folder("there is no folder of that name".into()));
    };
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
    let source = match settings.backend {
        backend::Kind::Embedded => Source::Folder(root),
        backend::Kind::Diod => Source::Diod(diod::start(folder, call.read_only, confined)?),
    };
    Ok(Grant { folder: folder.clone(), read_only: call.read_only, source })
}

/// Hands the folder over as the process with the channel can use it, which is locked in.
fn later_call(
    caller: &Caller,
    settings: &Settings,
    grant: Grant,
    nonce: &Nonce,
) -> Result<Token, ServiceError> {
    let runtime = runtime_folder("server")?;
    let grant = sandbox::lend(&settings.sandbox, grant)?;
    let handed = hand_over(&runtime, &nonce.0, &caller.client, &grant);
    let token = handed.map_err(|errno| ServiceError::System("the channel's process", errno))?;
    token.map(Token).ok_or(ServiceError::NoChannel)
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
        let desk = Desk::open(&runtime, &nonce)
            .map_err(|errno| ServiceError::System("the socket for later calls", errno))?;
        Ok((nonce, desk))
    };
    let (nonce, (desk, socket)) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Err(refuse(&output, error)),
    };
    if settings.sandbox.kinds.is_empty() {
        stderr::say("running without a sandbox, as --no-sandbox asks for");
    } else {
        let keep = [input.as_fd(), output.as_fd(), socket.as_fd()];
        match sandbox::enter(&settings.sandbox, &mut grant, &keep) {
            Ok(Half::Confined(_)) => {
                // It is outside, and the keeper's.
                desk.leave();
                let served = channel(caller, grant, nonce, socket, hello, rest, input, output);
                return served.map(|()| ExitCode::SUCCESS);
            }
            Ok(Half::Keeper(keeper)) => {
                drop((input, output, socket, grant));
                let ended = keeper.wait();
                drop(desk);
                return Ok(ended.into());
            }
            Err(error) => return Err(refuse(&output, error.into())),
        }
    }
    let served = channel(caller, grant, nonce, socket, hello, rest, input, output);
    drop(desk);
    served.map(|()| ExitCode::SUCCESS)
}

/// The channel itself, from the answer to its preface to its end.
#[allow(clippy::too_many_arguments)]
fn channel(
    caller: &Caller,
    grant: Grant,
    nonce: grant::Random,
    socket: MessageSocket,
    hello: &ClientHello,
    rest: Bytes,
    input: OwnedFd,
    output: OwnedFd,
) -> Result<(), ServiceError> {
    let prepare = || {
        let book = SharedBook::default();
        grant::attend(socket, &caller.client, Arc::clone(&book))
            .map_err(|errno| ServiceError::System("the thread for later calls", errno))?;
        let poll = mio::Poll::new().map_err(system)?;
        let demux = Demux::new(poll.registry(), grant, book).map_err(system)?;
        Ok((poll, demux))
    };
    let (mut poll, mut demux) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => return Err(refuse(&output, error)),
    };
    let mut mux = Connection::new(Side::Server, Config::default());
    let now = std::time::Duration::ZERO;
    mux.establish(now, &hello.limits);
    mux.handle_input(now, rest)
        .map_err(|error| ServiceError::Channel(ChannelEnd::Broken(error)))?;
    let answer = Answer::Taken(introduction(Taken::Channel, Nonce(nonce)));
    let channel = Channel::server(input, output, &answer, mux, poll.registry()).map_err(system)?;
    match pump::run(&mut poll, channel, &mut demux) {
        ChannelEnd::Closed | ChannelEnd::Done => Ok(()),
        end => Err(ServiceError::Channel(end)),
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

/// Tells the client why not, and gives the error back for this side's log.
fn refuse(output: &OwnedFd, error: ServiceError) -> ServiceError {
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
