//! Single measurements of a 9P session: a rate, the times of small requests, several sessions at once.
//!
//! The criterion benches repeat them in their own way, the figures in pairs. Rates are in MB/s (10⁶
//! bytes), times in microseconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use transport::id::Fid;
use transport::ninep::message::open;

use crate::client9p::Client;

/// A session with a file open for reading and writing.
#[derive(Debug)]
pub struct Session {
    /// The session.
    pub client: Client,
    fid: Fid,
    size: u64,
    data: Vec<u8>,
}

impl Session {
    /// Opens `name` in the root of `client`.
    ///
    /// # Errors
    /// The server's.
    pub fn open(mut client: Client, name: &str) -> Result<Session> {
        let fid = client.walk(Client::ROOT, &[name.as_bytes()])?;
        let size = client.getattr(fid)?;
        client.open(fid, open::RDWR)?;
        let data = vec![8; client.msize().payload() as usize];
        Ok(Session { client, fid, size, data })
    }

    /// Reads `total` bytes one after another, with `depth` requests in flight; gives the time.
    ///
    /// # Errors
    /// The server's.
    pub fn read(&mut self, depth: u16, total: u64) -> Result<Duration> {
        let start = Instant::now();
        let count = self.client.msize().payload();
        self.client.read_through(self.fid, self.size, count, depth, total)?;
        Ok(start.elapsed())
    }

    /// Writes `total` bytes over the file, with `depth` requests in flight; gives the time.
    ///
    /// # Errors
    /// The server's.
    pub fn write(&mut self, depth: u16, total: u64) -> Result<Duration> {
        let start = Instant::now();
        self.client.write_through(self.fid, self.size, &self.data, depth, total)?;
        Ok(start.elapsed())
    }

    /// The rate of [`read`](Self::read).
    ///
    /// # Errors
    /// The server's.
    pub fn read_rate(&mut self, depth: u16, total: u64) -> Result<f64> {
        Ok(rate(total, self.read(depth, total)?))
    }

    /// The rate of [`write`](Self::write).
    ///
    /// # Errors
    /// The server's.
    pub fn write_rate(&mut self, depth: u16, total: u64) -> Result<f64> {
        Ok(rate(total, self.write(depth, total)?))
    }

    /// How long each of `count` runs of `operation` took, in microseconds.
    ///
    /// # Errors
    /// The server's.
    pub fn times(&mut self, operation: Operation, count: usize) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.once(operation)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }

    /// Does `operation` once.
    ///
    /// # Errors
    /// The server's.
    pub fn once(&mut self, operation: Operation) -> Result<()> {
        let client = &mut self.client;
        match operation {
            Operation::Getattr => {
                client.getattr(self.fid)?;
            }
            Operation::Read4k => {
                client.read(self.fid, 0, 4096)?;
            }
            Operation::Walk => {
                let fid = client.walk(Client::ROOT, &[b"file"])?;
                client.clunk(fid)?;
            }
            Operation::OpenClose => {
                let fid = client.walk(Client::ROOT, &[b"file"])?;
                client.open(fid, 0)?;
                client.clunk(fid)?;
            }
            Operation::CreateRemove => {
                let fid = client.walk(Client::ROOT, &[])?;
                client.create(fid, b"passing", open::RDWR | open::CREATE)?;
                client.clunk(fid)?;
                client.unlink(Client::ROOT, b"passing")?;
            }
        }
        Ok(())
    }
}

/// What small requests are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A node's attributes: one round trip.
    Getattr,
    /// 4 KiB of a file: one.
    Read4k,
    /// To a name and away from it: two.
    Walk,
    /// A file opened and closed: three.
    OpenClose,
    /// A file created, closed and removed: four.
    CreateRemove,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 5] = [
        Operation::Getattr,
        Operation::Read4k,
        Operation::Walk,
        Operation::OpenClose,
        Operation::CreateRemove,
    ];

    /// As names of benches have it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Getattr => "getattr",
            Operation::Read4k => "read4k",
            Operation::Walk => "walk",
            Operation::OpenClose => "open-close",
            Operation::CreateRemove => "create-remove",
        }
    }
}

/// MB/s of `bytes` in `time`.
pub fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// What sessions do until they are told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Writing, not reading.
    pub write: bool,
    /// Requests in flight.
    pub depth: u16,
}

/// Puts `load` on all `sessions` at once while `meanwhile` runs. Gives the rate of each in that time.
///
/// # Errors
/// Those of the sessions, or of `meanwhile`.
pub fn together<T>(
    sessions: &mut [Session],
    load: Load,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(Vec<f64>, T)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let begin = Instant::now();
        let threads: Vec<_> = sessions
            .iter_mut()
            .map(|session| {
                scope.spawn(move || {
                    let message = u64::from(session.client.msize().payload());
                    let step = message * 4 * u64::from(load.depth);
                    let mut bytes = 0;
                    while !stop.load(Ordering::Relaxed) {
                        match load.write {
                            true => session.write(load.depth, step)?,
                            false => session.read(load.depth, step)?,
                        };
                        bytes += step;
                    }
                    Ok::<_, anyhow::Error>(rate(bytes, begin.elapsed()))
                })
            })
            .collect();
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let rates = threads.into_iter().map(|thread| thread.join().ok().context("it panicked")?);
        let rates = rates.collect::<Result<Vec<f64>>>()?;
        Ok((rates, done?))
    })
}

/// Sleeps: what [`together`] does meanwhile where nothing else is to be done.
pub fn for_a_while(time: Duration) -> impl FnOnce() -> Result<()> {
    move || {
        std::thread::sleep(time);
        Ok(())
    }
}
