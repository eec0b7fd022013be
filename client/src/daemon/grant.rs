//! A later mount's own call: dom0 is asked, the service hands the permission to the process that
//! holds the channel, and we get its token. The call ends there.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use transport::mux::Config;
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, Preface, PrefaceError, PrefaceReader, Role, Taken,
};
use transport::relay::channel::ChannelEnd;

use super::call::Ends;
use super::channel::{Channel, Ended, Stage};
use super::control::{self, Connection};
use super::{Pair, failure, start_call};
use crate::exit::{Exit, Failure};

/// Asks for `want` over a call of its own; gives the token for an `OPEN` in `channel`. Dropping the
/// future ends the call.
pub async fn ask(
    pair: &Pair,
    want: &control::Stream,
    channel: &Channel,
    connection: &Connection,
) -> Result<[u8; 16], Failure> {
    let target = pair.target.as_str();
    let Stage::Established(ref hello) = *channel.stage.borrow() else {
        let why = format!("the connection to {target} was lost meanwhile");
        return Err(Failure::new(Exit::ClosedEarly, why).hint("try again"));
    };
    let nonce = hello.nonce;
    let (call, ends) = start_call(pair, connection, &want.service)?;
    let talked = talk(ends, nonce, Duration::from_secs(want.timeout)).await;
    // The descriptors are closed: the call's process ends by itself.
    let exit = call.end().await;
    match talked {
        Ok(Taken::Grant(token)) => Ok(token.0),
        Ok(Taken::Channel) => {
            let why = format!("the connection to {target} was lost meanwhile");
            Err(Failure::new(Exit::ClosedEarly, why).hint("try again"))
        }
        Err(None) => Err(failure::stalled(target, want.timeout)),
        Err(Some(why)) => {
            let ended = Ended { why: std::sync::Arc::new(why), exit };
            Err(failure::ended(target, &pair.via, &want.folder, &ended))
        }
    }
}

/// The two prefaces. The error is `None` where the time was up.
async fn talk(ends: Ends, nonce: Nonce, time: Duration) -> Result<Taken, Option<ChannelEnd>> {
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
        role: Role::Grant(nonce),
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
        match fed.map(|(answer, _)| answer) {
            None => {}
            Some(Answer::Refused(reason)) => return Err(Some(ChannelEnd::Refused(reason))),
            Some(Answer::Taken(answer)) => {
                answer.check(&hello).map_err(preface)?;
                if matches!(answer.taken, Taken::Grant(_)) && answer.nonce != nonce {
                    return Err(preface(PrefaceError::Field("nonce")));
                }
                return Ok(answer.taken);
            }
        }
    }
}
