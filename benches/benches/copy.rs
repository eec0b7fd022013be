//! Two ways for a payload between descriptors: through a pooled buffer in user space, one copy out of the
//! kernel and one into it, or by splice(2) through a pipe, none (or none that this process makes).
//!
//! Names are `copy/FROM-TO/SIZE/{pooled,splice,sendfile}`: from a file in the page cache (a read at the
//! server) or a socket (a reply at the client end) to a socket, as qrexec's are, or a pipe. A thread
//! drains the far end into a buffer, as the next relay does. Where splice is slower, the data plane
//! copies: the crossover is what this is for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::sendfile;
use rustix::io::{pread, write};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

const SIZES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];

fn copy(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    std::fs::write(folder.path().join("file"), vec![7; 1 << 20]).expect("a file");
    let file = File::open(folder.path().join("file")).expect("a file");
    for target in ["socket", "pipe"] {
        for source in ["file", "socket"] {
            let mut group = criterion.benchmark_group(format!("copy/{source}-{target}"));
            group.sample_size(20).measurement_time(Duration::from_secs(2));
            group.warm_up_time(Duration::from_millis(500));
            for size in SIZES {
                group.throughput(Throughput::Bytes(size as u64));
                for way in ["pooled", "splice", "sendfile"] {
                    if (way, source) == ("sendfile", "socket") {
                        continue;
                    }
                    group.bench_function(format!("{}K/{way}", size >> 10), |b| {
                        b.iter_custom(|count| {
                            moved(way, source, target, &file, size, count as usize)
                        });
                    });
                }
            }
            group.finish();
        }
    }
}

/// A connection to `target`: its writing end, and its reading one.
fn connection(target: &str) -> (OwnedFd, OwnedFd) {
    if target == "socket" {
        let (near, far) = UnixStream::pair().expect("sockets");
        return (near.into(), far.into());
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    // As large as a socket's buffer.
    fcntl_setpipe_size(&write, 256 << 10).expect("a larger pipe");
    (write, read)
}

/// How long `count` payloads of `size` take.
fn moved(
    way: &str,
    source: &str,
    target: &str,
    file: &File,
    size: usize,
    count: usize,
) -> Duration {
    let (output, far) = connection(target);
    let (feed, input) = connection("socket");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut far = File::from(far);
            let mut buffer = vec![0; 256 << 10];
            while far.read(&mut buffer).expect("bytes") > 0 {}
        });
        if source == "socket" {
            scope.spawn(move || {
                let mut feed = File::from(feed);
                let payload = vec![7; size];
                (0..count).for_each(|_| feed.write_all(&payload).expect("room"));
            });
        } else {
            drop(feed);
        }
        let start = Instant::now();
        let mut one: Box<dyn FnMut()> = match (way, source) {
            ("pooled", "file") => {
                let mut buffer = vec![0; size];
                let output = &output;
                Box::new(move || {
                    pread(file, &mut buffer, 0).expect("a file");
                    all(size, |at| write(output, &buffer[at..]));
                })
            }
            ("pooled", _) => {
                let mut buffer = vec![0; size.min(256 << 10)];
                let (input, output) = (&input, &output);
                Box::new(move || {
                    let mut left = size;
                    while left > 0 {
                        let room = left.min(buffer.len());
                        let got = rustix::io::read(input, &mut buffer[..room]).expect("bytes");
                        all(got, |at| write(output, &buffer[at..got]));
                        left -= got;
                    }
                })
            }
            ("sendfile", _) => {
                let output = &output;
                Box::new(move || {
                    let mut offset = 0;
                    all(size, |at| sendfile(output, file, Some(&mut offset), size - at));
                })
            }
            (_, source) => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
                fcntl_setpipe_size(&write, 1 << 20).expect("a larger pipe");
                let from = if source == "file" { file.as_fd() } else { input.as_fd() };
                let (from_file, output) = (source == "file", &output);
                Box::new(move || {
                    let mut offset = 0;
                    let flags = SpliceFlags::MOVE | SpliceFlags::MORE;
                    let mut left = size;
                    while left > 0 {
                        let at = from_file.then_some(&mut offset);
                        let got = splice(from, at, &write, None, left, flags).expect("bytes");
                        all(got, |done| splice(&read, None, output, None, got - done, flags));
                        left -= got;
                    }
                })
            }
        };
        (0..count).for_each(|_| one());
        let time = start.elapsed();
        drop(one);
        drop(output);
        time
    })
}

/// Repeats `step`, which is told how much is done, until `size` is.
fn all(size: usize, mut step: impl FnMut(usize) -> rustix::io::Result<usize>) {
    let mut done = 0;
    while done < size {
        done += step(done).expect("room");
    }
}

criterion_group!(benches, copy);
criterion_main!(benches);
