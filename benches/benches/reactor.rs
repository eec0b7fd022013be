//! What readiness costs: mio's loop on its own thread against tokio's current-thread runtime, whose socket
//! waits as its `AsyncFd` does (that one takes unsafe code to make).
//!
//! Both do the relay's least: wait, read what has come from each of some sockets, write it back. Names
//! are `reactor/SOCKETS/{mio,tokio}`; an iteration is one message of 64 bytes there and back, or 16 at once
//! on 16 sockets. The client is a blocking thread in either case.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mio::{Events, Interest, Poll, Token};
use tokio::net::UnixStream;
use tokio::task::LocalSet;

const MESSAGE: usize = 64;

fn reactor(criterion: &mut Criterion) {
    for sockets in [1, 16] {
        let mut group = criterion.benchmark_group(format!("reactor/{sockets}"));
        group.throughput(Throughput::Elements(sockets as u64));
        for name in ["mio", "tokio"] {
            let run = if name == "mio" { by_mio } else { by_tokio };
            let (mut near, far): (Vec<_>, Vec<_>) =
                (0..sockets).map(|_| net::UnixStream::pair().expect("sockets")).unzip();
            for socket in &far {
                socket.set_nonblocking(true).expect("a socket");
            }
            let thread = std::thread::spawn(move || run(far));
            group.bench_function(name, |b| b.iter_custom(|count| exchange(&mut near, count)));
            drop(near);
            thread.join().expect("an end");
        }
        group.finish();
    }
}

fn exchange(near: &mut [net::UnixStream], count: u64) -> Duration {
    let mut message = [7; MESSAGE];
    let start = Instant::now();
    for _ in 0..count {
        near.iter_mut().for_each(|socket| socket.write_all(&message).expect("room"));
        near.iter_mut().for_each(|socket| socket.read_exact(&mut message).expect("an echo"));
    }
    start.elapsed()
}

fn by_mio(sockets: Vec<net::UnixStream>) {
    let mut poll = Poll::new().expect("epoll");
    let mut events = Events::with_capacity(256);
    let mut sockets: Vec<_> = sockets.into_iter().map(mio::net::UnixStream::from_std).collect();
    for (at, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(at), Interest::READABLE).expect("epoll");
    }
    let mut open = sockets.len();
    let mut buffer = [0; 4096];
    while open > 0 {
        poll.poll(&mut events, None).expect("epoll");
        for event in &events {
            let socket = &mut sockets[event.token().0];
            match socket.read(&mut buffer) {
                Ok(0) => open -= 1,
                Ok(count) => socket.write_all(&buffer[..count]).expect("room"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
}

fn by_tokio(sockets: Vec<net::UnixStream>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().build().expect("a runtime");
    let tasks = LocalSet::new();
    for socket in sockets {
        let socket = {
            let _context = runtime.enter();
            UnixStream::from_std(socket).expect("epoll")
        };
        tasks.spawn_local(async move {
            let mut buffer = [0; 4096];
            loop {
                socket.readable().await.expect("epoll");
                match socket.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => assert_eq!(socket.try_write(&buffer[..count]).ok(), Some(count)),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        });
    }
    runtime.block_on(tasks);
}

criterion_group!(benches, reactor);
criterion_main!(benches);
