//! How much of a payload is copied in user space between one descriptor and the next.
//!
//! Counted by address, not by sampling: the buffers that read(2) filled are known, and every byte that
//! writev(2) would be given either lies in one of them or was copied (or made: frame headers and heads
//! are counted as copies too). A large message goes in pieces, cut as reads cut it, through what either
//! end puts it through (framer and multiplexer of the sender, multiplexer and framer of the receiver);
//! `relay` around them reads into such buffers and writes out such slices, nothing else.
//!
//! Left out: the file server's own read(2) and write(2), between a file and one of these buffers.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use transport::id::{Fid, Tag};
use transport::mux::preface::{Capabilities, ClientHello, Role};
use transport::mux::{Authorisation, Class, Config, Connection, Event, Open, Opened, Side};
use transport::ninep::{Framer, Item, Packet, Rmessage, Tmessage};

use super::Setting;
use crate::record::{Line, Target};

const NOW: Duration = Duration::ZERO;
/// What the relay reads at a time.
const READ: usize = 256 << 10;
/// Payload of a message at the largest msize.
const PAYLOAD: usize = (1 << 20) - 24;
/// One byte in a hundred is no copy of the payload: headers of frames and messages.
const NONE: f64 = 0.01;

/// Both directions.
pub fn all(_: &Setting) -> Result<Vec<Line>> {
    let body = vec![Bytes::from(vec![7; PAYLOAD])];
    let count = PAYLOAD as u32;
    let write = Tmessage::Twrite { fid: Fid(1), offset: 0, count };
    let read = Rmessage::Rread { count };
    let mut lines = Vec::new();
    for (name, packet, from) in [
        ("write", write.with_body(Tag(1), body.clone()), Side::Client),
        ("read", read.with_body(Tag(1), body), Side::Server),
    ] {
        let copied = copied(&packet, from)? as f64 / PAYLOAD as f64;
        let what = format!("user-space bytes copied per payload byte, {name} of 1 MiB, both ends");
        let line = Line::new(&what, &format!("cost/copied-{name}/ours"), "", &[copied]);
        let note = "headers of frames and messages count as copied; 0.01 is none";
        lines.push(line.target(Target::AtMost(NONE)).note(note));
    }
    Ok(lines)
}

/// Bytes of `packet`'s way that lay outside the buffers they had been read into.
fn copied(packet: &Packet, from: Side) -> Result<usize> {
    let (mut client, mut server) = (
        Connection::new(Side::Client, Config::default()),
        Connection::new(Side::Server, Config::default()),
    );
    let hello = ClientHello {
        capabilities: Capabilities::OURS,
        limits: client.limits(),
        role: Role::Channel,
    };
    server.establish(NOW, &hello.limits);
    client.establish(NOW, &server.limits());
    let open = Open { authorisation: Authorisation::Own, msize: 1 << 20, flags: 0 };
    let stream = client.open(open).context("a stream")?;
    pass(&mut client, &mut server);
    server.accept(stream, Opened { msize: 1 << 20 });
    pass(&mut server, &mut client);
    let (sender, receiver) = match from {
        Side::Client => (&mut client, &mut server),
        Side::Server => (&mut server, &mut client),
    };

    let mut copied = 0;
    let mut read = VecDeque::from(reads(&packet.to_vec()));
    let filled: Vec<Bytes> = read.iter().cloned().collect();
    let mut framer = Framer::new(1 << 20);
    let mut started = false;
    let mut arriving = Vec::new();
    while let Some(bytes) = read.pop_front() {
        framer.push(bytes);
        while let Some(item) = framer.poll()? {
            let piece = match item {
                Item::Head { head, body } => {
                    let size = (head.len() + body) as u32;
                    sender.start(stream, Class::Bulk, size).map_err(refused)?;
                    started = true;
                    head
                }
                Item::Body(piece) => piece,
            };
            sender.extend(stream, piece).map_err(refused)?;
        }
    }
    anyhow::ensure!(started, "a message has a head");
    let mut framer = Framer::new(1 << 20);
    let mut got = 0;
    loop {
        let mut written = Vec::new();
        sender.poll_transmit(NOW, READ, &mut written);
        if written.is_empty() {
            break;
        }
        copied += outside(&written, &filled);
        // The channel's own copies are the kernel's.
        let arrived = reads(&written.concat());
        arriving.extend(arrived.iter().cloned());
        for bytes in arrived {
            receiver.handle_input(NOW, bytes).map_err(refused)?;
        }
        while let Some(event) = receiver.poll_event() {
            let pieces: Vec<Bytes> = match event {
                Event::Message { data, .. } => data.into_iter().collect(),
                Event::More { data, .. } => vec![data],
                _ => continue,
            };
            for piece in pieces {
                receiver.consumed(stream, piece.len() as u32);
                framer.push(piece);
            }
        }
        while let Some(item) = framer.poll()? {
            let (Item::Head { head: piece, .. } | Item::Body(piece)) = item;
            got += piece.len();
            copied += outside(&[piece], &arriving);
        }
        pass(receiver, sender);
    }
    if got != packet.len() {
        bail!("{got} of {} bytes arrived", packet.len());
    }
    Ok(copied)
}

fn refused(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("the multiplexer refuses: {error:?}")
}

/// `bytes` as read(2) gives them: cut, each piece in a buffer of its own.
fn reads(bytes: &[u8]) -> Vec<Bytes> {
    bytes.chunks(READ).map(Bytes::copy_from_slice).collect()
}

/// Bytes of `pieces` that do not lie in one of `buffers`.
fn outside(pieces: &[Bytes], buffers: &[Bytes]) -> usize {
    let range = |bytes: &Bytes| -> Range<usize> {
        let start = bytes.as_ptr() as usize;
        start..start + bytes.len()
    };
    let buffers: Vec<_> = buffers.iter().map(range).collect();
    let is_inside = |piece: &Bytes| {
        let piece = range(piece);
        buffers.iter().any(|buffer| buffer.start <= piece.start && piece.end <= buffer.end)
    };
    pieces.iter().filter(|piece| !is_inside(piece)).map(Bytes::len).sum()
}

/// Moves what waits from one end to the other, for frames without payload.
fn pass(from: &mut Connection, to: &mut Connection) {
    let mut pieces = Vec::new();
    from.poll_transmit(NOW, READ, &mut pieces);
    for piece in pieces {
        // Ours on both sides: it cannot be refused.
        let _ = to.handle_input(NOW, piece);
    }
    while to.poll_event().is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_a_slice() {
        let buffer = Bytes::from(vec![1; 100]);
        let copy = Bytes::copy_from_slice(&buffer);
        let buffers = [buffer.clone()];
        assert_eq!(outside(&[buffer.slice(10..20), buffer.slice(..)], &buffers), 0);
        assert_eq!(outside(&[buffer.slice(10..20), copy], &buffers), 100);
    }
}
