//! A file server's end of a call, on stdin and stdout of a test's own process: takes streams and answers
//! nothing in them. What the test's harness prints comes before it, as from a login shell.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use transport::id::StreamId;
use transport::mux::preface::{
    Answer, Capabilities, ClientHello, Nonce, Preface, PrefaceReader, Role, ServerHello, Taken,
};
use transport::mux::{Config, Connection, Event, Open, Opened, Side};

/// A script that runs the test `far_end_of_a_call` of this program with `FAR_END` set to `does`.
pub fn script(does: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = "far_end_of_a_call --exact --ignored --nocapture";
    format!("FAR_END={does} {} {test}", program.display())
}

/// Answers a call as `answer` says: with a name, a nonce and what becomes of it. Each stream is taken, and
/// then `opened` is called. Ends the process with the call.
pub fn run(
    answer: impl Fn(Role) -> (&'static str, Nonce, Taken),
    mut opened: impl FnMut(&mut Connection, StreamId, Open),
) -> ! {
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    let mut buffer = [0; 4096];
    let mut reader = PrefaceReader::<ClientHello>::default();
    let (hello, rest) = loop {
        let count = input.read(&mut buffer).unwrap();
        if let Some(read) = reader.feed(Bytes::copy_from_slice(&buffer[..count])).unwrap() {
            break read;
        }
    };
    let (name, nonce, taken) = answer(hello.role);
    let mut mux = Connection::new(Side::Server, Config::default());
    let (capabilities, limits, name) = (Capabilities::OURS, mux.limits(), name.into());
    let answer = Answer::Taken(ServerHello { capabilities, limits, taken, name, nonce });
    output.write_all(&answer.encode()).unwrap();
    output.flush().unwrap();
    if taken != Taken::Channel {
        std::process::exit(0);
    }
    mux.establish(Duration::ZERO, &hello.limits);
    let mut bytes = rest;
    loop {
        mux.handle_input(Duration::ZERO, bytes).unwrap();
        while let Some(event) = mux.poll_event() {
            if let Event::Open { stream, open } = event {
                mux.accept(stream, Opened { msize: open.msize });
                opened(&mut mux, stream, open);
            }
        }
        let mut frames = Vec::new();
        mux.poll_transmit(Duration::ZERO, usize::MAX, &mut frames);
        let written = output.write_all(&frames.concat()).and_then(|()| output.flush());
        let count = input.read(&mut buffer).unwrap();
        // A client end that has gone hears nothing.
        if count == 0 || written.is_err() {
            std::process::exit(0);
        }
        bytes = Bytes::copy_from_slice(&buffer[..count]);
    }
}
