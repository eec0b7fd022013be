//! The bare channel: what it moves with nobody but a reader and a writer at its ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Programs;
use crate::channel::{Channel, Shape};

/// Bytes of a write and of a read: what qrexec's sockets hold, rounded up.
const BLOCK: usize = 256 << 10;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the service to the program, as what is read.
    Read,
    /// From the program to the service, as what is written.
    Write,
}

/// A channel without any program of ours at its ends.
#[derive(Debug)]
pub struct Raw {
    near_in: File,
    near_out: File,
    far_in: File,
    far_out: File,
    relay: Child,
}

impl Raw {
    /// The channel alone.
    ///
    /// # Errors
    /// Trouble of this machine.
    pub fn start(programs: &Programs, shape: &Shape) -> Result<Raw> {
        let channel = Channel::start(&programs.path("qrexec-standin"), shape)?;
        Ok(Raw {
            near_in: channel.program.input.into(),
            near_out: channel.program.output.into(),
            far_in: channel.service.input.into(),
            far_out: channel.service.output.into(),
            relay: channel.relay,
        })
    }

    /// With one bare copying relay at the near end, for what is read.
    ///
    /// # Errors
    /// Trouble of this machine.
    pub fn with_relay(programs: &Programs, shape: &Shape) -> Result<Raw> {
        let mut raw = Raw::start(programs, shape)?;
        let (near, far) = UnixStream::pair()?;
        let channel = std::mem::replace(&mut raw.near_in, File::from(OwnedFd::from(near)));
        std::thread::spawn(move || copy(channel, File::from(OwnedFd::from(far))));
        Ok(raw)
    }

    /// How long `bytes` take one way.
    ///
    /// # Errors
    /// The channel has ended.
    pub fn one_way(&mut self, way: Way, bytes: u64) -> Result<Duration> {
        let (from, to) = match way {
            Way::Read => (&mut self.far_out, &mut self.near_in),
            Way::Write => (&mut self.near_out, &mut self.far_in),
        };
        let start = Instant::now();
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let block = vec![7; BLOCK];
                let mut left = bytes;
                while left > 0 {
                    let count = left.min(BLOCK as u64);
                    from.write_all(&block[..count as usize])?;
                    left -= count;
                }
                Ok::<(), std::io::Error>(())
            });
            let mut block = vec![0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                let room = left.min(BLOCK as u64) as usize;
                let count = to.read(&mut block[..room])?;
                anyhow::ensure!(count > 0, "the channel has ended");
                left -= count as u64;
            }
            writer.join().ok().context("the writer panicked")??;
            Ok(start.elapsed())
        })
    }

    /// The rate of [`one_way`](Self::one_way), in MB/s.
    ///
    /// # Errors
    /// The channel has ended.
    pub fn rate(&mut self, way: Way, bytes: u64) -> Result<f64> {
        Ok(crate::measure::rate(bytes, self.one_way(way, bytes)?))
    }

    /// Sends `size` bytes there and back `count` times, and gives how long each took.
    ///
    /// # Errors
    /// The channel has ended.
    pub fn ping_pong(&mut self, size: usize, count: usize) -> Result<Vec<f64>> {
        let Raw { near_in, near_out, far_in, far_out, .. } = self;
        std::thread::scope(|scope| {
            let echo = scope.spawn(move || {
                let mut block = vec![0; size];
                for _ in 0..count {
                    far_in.read_exact(&mut block)?;
                    far_out.write_all(&block)?;
                }
                Ok::<(), std::io::Error>(())
            });
            let mut block = vec![7; size];
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                near_out.write_all(&block)?;
                near_in.read_exact(&mut block)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            echo.join().ok().context("the echo panicked")??;
            Ok(times)
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

/// What any client end does at the least: bytes from the channel to a socket, until either ends.
fn copy(mut input: File, mut output: File) {
    let mut buffer = vec![0; BLOCK];
    while let Ok(count @ 1..) = input.read(&mut buffer) {
        if output.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}
