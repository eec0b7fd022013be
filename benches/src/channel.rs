//! A modelled qrexec channel: what the bytes of a call go through, without Qubes.
//!
//! ```text
//!  program ─ socket ─ relay (client end) ─ ring ─ relay (agent end) ─ socket ─ service
//! ```
//!
//! It costs a byte what the real path costs it: six copies (into and out of a socket, the ring and
//! another socket), four processes and three wakeups each way. A relay is one thread that serves
//! both directions with poll(2), reads at most [`MAX_CHUNK`] bytes at a time and holds at most one
//! such message that the next stage does not take yet.
//!
//! The ring is a pipe in each direction whose size is set to the ring's: like a vchan's shared pages
//! it is bounded in pages, costs one copy in and one copy out, wakes the other side, and takes
//! qrexec's messages of an 8-byte header and its data. Two differences remain: a wakeup is the
//! kernel's own instead of an event channel's, and a page of a pipe that was written by several small
//! messages can be less than full, so that small messages fill the ring a little earlier.
//!
//! qrexec's real data path over shared-memory rings gave 550 to 1,300 MiB/s one way with a 64 KiB ring, 1,200
//! to 2,200 with 1 MiB, and 75 to 117 µs there and back, on two cores shared by everything. What this model
//! gives depends on the machine likewise, so each run measures it: the lines `channel/one-way-64K/raw`,
//! `channel/one-way-1M/raw` and `channel/ping-64K/raw` of `make bench`.
//!
//! With the reader idle a writer stalls after 500 to 560 KiB (64 KiB ring), as with real qrexec.
//! An extra delay or a rate limit ([`Shape`]) stands behind the ring, in the relay that receives:
//! the delayed bytes are in flight besides those in the ring, so that a delay alone costs no rate.
//!
//! Left out: policy, services and their environment ([`crate::standin`]).

mod line;
mod relay;

pub use relay::{Ended, Kind, Relay, Source};

use rustix::fd::OwnedFd;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The most data in one of qrexec's messages over the default ring, in bytes: the ring less a header.
pub const MAX_CHUNK: usize = 65_528;
/// The ring of a call that asks for nothing else, in bytes.
pub const DEFAULT_RING: usize = 65_536;
/// The largest ring that `qrexec-client-vm --buffer-size` grants, in bytes.
pub const MAX_RING: usize = 1_048_576;

/// What a channel is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Size of the ring in each direction, in bytes.
    pub ring: usize,
    /// Added to what a byte takes from one end to the other, in each direction.
    pub delay: Duration,
    /// Bytes a second, in each direction; `None` is as fast as this machine does it.
    pub rate: Option<u64>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { ring: DEFAULT_RING, delay: Duration::ZERO, rate: None }
    }
}

impl Shape {
    /// The options of `qrexec-standin` that give this shape.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec![format!("--buffer-size={}", self.ring)];
        if !self.delay.is_zero() {
            options.push(format!("--delay-us={}", self.delay.as_micros()));
        }
        if let Some(rate) = self.rate {
            options.push(format!("--rate={rate}"));
        }
        options
    }
}

/// One direction of a ring of `bytes`: its reading and its writing end.
pub fn ring(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&writer, bytes)?;
    Ok((reader, writer))
}

/// One end of a channel: what a program has as its stdin and stdout.
#[derive(Debug)]
pub struct End {
    /// Where the bytes of the other end come out.
    pub input: OwnedFd,
    /// Where bytes for the other end go in.
    pub output: OwnedFd,
}

/// A running channel whose both ends are in this process, for benches.
#[derive(Debug)]
pub struct Channel {
    /// The end of the program that made the call.
    pub program: End,
    /// The end of the service.
    pub service: End,
    /// The relay at the client's end; it ends when both ends are closed.
    pub relay: Child,
}

/// In the environment of a stand-in: the abstract socket where it hands over the service's end
/// instead of starting a service.
pub const HAND_OVER: &str = "QREXEC_STANDIN_HAND_OVER";

impl Channel {
    /// Starts the two relaying processes of a channel. `standin` is the binary `qrexec-standin`.
    pub fn start(standin: &Path, shape: &Shape) -> io::Result<Channel> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("qrexec-standin-{}-{number}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let (input, relay_output) = UnixStream::pair()?;
        let (output, relay_input) = UnixStream::pair()?;
        let mut relay = Command::new(standin)
            .args(shape.options())
            .args(["bench", "bench.Channel"])
            .env(HAND_OVER, &name)
            .stdin(Stdio::from(OwnedFd::from(relay_input)))
            .stdout(Stdio::from(OwnedFd::from(relay_output)))
            .spawn()?;
        match listener.accept().and_then(|(socket, _)| receive_end(&socket)) {
            Ok(service) => {
                let program = End { input: input.into(), output: output.into() };
                Ok(Channel { program, service, relay })
            }
            Err(error) => {
                relay.kill()?;
                relay.wait()?;
                Err(error)
            }
        }
    }
}

/// Sends the service's end of a channel to whoever listens at the abstract socket `name`.
pub(crate) fn hand_over(name: &str, end: &End) -> io::Result<()> {
    use rustix::fd::AsFd;
    let socket = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    let fds = [end.input.as_fd(), end.output.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[IoSlice::new(b"e")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive_end(socket: &UnixStream) -> io::Result<End> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    match (fds.pop(), fds.pop()) {
        (Some(output), Some(input)) => Ok(End { input, output }),
        _ => Err(io::Error::other("the stand-in handed over no channel")),
    }
}
