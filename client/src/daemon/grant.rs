//! A later mount's own call: dom0 is asked, the service hands the permission to the process that
//! holds the channel, and we get its token. The call ends there.
//!
//! Two things can have happened meanwhile. The channel's process is no more: then the call is answered as
//! a channel. Or the person in dom0 has chosen another qube than the one that was called: it knows nothing
//! of our channel, so its answer is a channel as well, and a permission from there is none for ours.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use transport::mux::Config;
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Preface, PrefaceError, PrefaceReader, Role, ServerHello,
    Taken,
};
use transport::relay::channel::ChannelEnd;

use super::call::Ends;
use super::channel::{Channel, Ended, Stage};
use super::control::{self, Connection};
use super::{Pair, failure, start_call};
use crate::exit::{Exit, Failure};

/// What a later call comes to.
pub enum Given {
    /// A token, for an `OPEN` in the channel that it was asked for.
    Token([u8; 16]),
    /// A channel of its own.
    Channel(Rc<Channel>),
}

/// Asks for `want` over a call of its own, for use in `channel`. Dropping the future ends the call.
pub async fn ask(
    pair: &Pair,
    want: &control::Stream,
    channel: &Channel,
    connection: &Connection,
) -> Result<Given, Failure> {
    let target = pair.target.as_str();
    let Stage::Established(ref ours) = *channel.stage.borrow() else {
        let why = format!("the connection to {target} was lost meanwhile");
        return Err(Failure::new(Exit::ClosedEarly, why).hint("try again"));
    };
    let ours = ours.clone();
    let (call, ends) = start_call(pair, connection, &want.service, false)?;
    let talked = talk(ends, &ours, Duration::from_secs(want.timeout)).await;
    let lost = match talked {
        Ok(Talked { hello, rest, ends }) if hello.taken == Taken::Channel => {
            return Channel::resume(call, ends, hello, rest)
                .map(Given::Channel)
                .map_err(|error| Failure::new(Exit::Other, format!("no channel: {error}")));
        }
        Ok(Talked { hello, .. }) => Ok(hello),
        Err(lost) => Err(lost),
    };
    // The descriptors are closed: the call's process ends by itself.
    let exit = call.end().await;
    match lost {
        Ok(ServerHello { taken: Taken::Grant(token), .. }) => Ok(Given::Token(token.0)),
        Ok(_) => Err(Failure::new(Exit::Other, "no permission came")),
        Err(None) => Err(failure::stalled(target, want.timeout)),
        Err(Some(why)) => {
            let ended = Ended { why: std::sync::Arc::new(why), exit };
            Err(failure::ended(target, &pair.via, &want.folder, &ended))
        }
    }
}

/// What came of two prefaces.
struct Talked {
    hello: ServerHello,
    rest: Bytes,
    ends: Ends,
}

/// The two prefaces of a call for `ours`. The error is `None` where the time was up.
async fn talk(
    ends: Ends,
    ours: &ServerHello,
    time: Duration,
) -> Result<Talked, Option<ChannelEnd>> {
    let io = |action| {
        move |error: std::io::Error| {
            let errno = rustix::io::Errno::from_io_error(&error);
            Some(ChannelEnd::Io { action, errno: errno.unwrap_or(rustix::io::Errno::IO) })
        }
    };
    let asynchronous = |fd| {
        let stream = StdUnixStream::from(fd);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    };
    let mut input = asynchronous(ends.input).map_err(io("read"))?;
    let mut output = asynchronous(ends.output).map_err(io("written"))?;
    let hello = ClientHello {
        capabilities: Capabilities::OURS,
        limits: Config::default().limits(),
        role: Role::Grant(ours.nonce),
    };
    // A far end that is gone already shows in what can be read.
    let _ = output.write_all(&hello.encode()).await;
    let preface = |error| Some(ChannelEnd::Preface(error));
    let mut reader = PrefaceReader::<Answer>::default();
    let mut buffer = vec![0; 4096];
    let mut deadline = None;
    loop {
        let count = match deadline {
            None => input.read(&mut buffer).await,
            Some(deadline) => tokio::time::timeout_at(deadline, input.read(&mut buffer))
                .await
                .map_err(|_| None)?,
        };
        let count = count.map_err(io("read"))?;
        if count == 0 {
            return Err(preface(reader.ended()));
        }
        deadline.get_or_insert_with(|| tokio::time::Instant::now() + time);
        let fed = reader.feed(Bytes::copy_from_slice(&buffer[..count])).map_err(preface)?;
        match fed {
            None => {}
            Some((Answer::Refused(reason), _)) => return Err(Some(ChannelEnd::Refused(reason))),
            Some((Answer::Taken(theirs), rest)) => {
                theirs.check(&hello).map_err(preface)?;
                if matches!(theirs.taken, Taken::Grant(_)) {
                    // Another qube has no permissions for this one's channel.
                    if theirs.nonce != ours.nonce {
                        return Err(preface(PrefaceError::Field("nonce")));
                    }
                    if theirs.name != ours.name {
                        return Err(preface(PrefaceError::Field("name")));
                    }
                }
                let input = input.into_std().map_err(io("read"))?;
                let output = output.into_std().map_err(io("written"))?;
                let ends = Ends { input: OwnedFd::from(input), output: OwnedFd::from(output) };
                return Ok(Talked { hello: theirs, rest, ends });
            }
        }
    }
}
