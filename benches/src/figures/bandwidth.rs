//! Sequential reads and writes against the bare channel, and against diod on it.

use std::time::Duration;

use anyhow::Result;

use super::{Setting, shape};
use crate::channel::{DEFAULT_RING, MAX_RING};
use crate::harness::pair::Coherence;
use crate::harness::raw::{Raw, Way};
use crate::harness::served::Served;
use crate::record::{Line, Target, interleaved, percentile};

/// Bytes of the file that is read and written: more than caches of processors hold.
const FILE: u64 = 64 << 20;
/// What a delay adds to a round trip.
const DELAY: Duration = Duration::from_millis(5);

/// A served folder at the end of a channel.
fn served(setting: &Setting, ring: usize, delay: Duration) -> Result<Served> {
    setting.served(&shape(ring, delay), FILE, Coherence::Default)
}

/// What the bare channel does.
pub fn channel(setting: &Setting) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let (bytes, calls) = (setting.effort.bytes, setting.effort.calls);
    for (ring, name) in [(DEFAULT_RING, "64K"), (MAX_RING, "1M")] {
        let shape = shape(ring, Duration::ZERO);
        let mut raw = Raw::start(&setting.programs, &shape)?;
        let mut pings = Raw::start(&setting.programs, &shape)?;
        let mut p99 = Vec::new();
        let mut one_way = || raw.rate(Way::Read, bytes);
        let mut ping = || {
            let times = pings.ping_pong(64, calls)?;
            p99.push(percentile(&times, 0.99));
            Ok(percentile(&times, 0.5))
        };
        let samples = interleaved(setting.effort.rounds, &mut [&mut one_way, &mut ping])?;
        let what = format!("bare channel, {name} ring, one way");
        lines.push(Line::new(&what, &format!("channel/one-way-{name}/raw"), "MB/s", &samples[0]));
        let what = format!("bare channel, {name} ring, 64 bytes there and back");
        let line = Line::new(&what, &format!("channel/ping-{name}/raw"), "us", &samples[1]);
        lines.push(line.note(format!("p99 {:.0} us", percentile(&p99, 0.5))));
    }
    Ok(lines)
}

/// The default ring.
pub fn read(setting: &Setting) -> Result<Vec<Line>> {
    let bytes = setting.effort.bytes;
    let ours = served(setting, DEFAULT_RING, Duration::ZERO)?;
    let mut raw = Raw::start(&setting.programs, &shape(DEFAULT_RING, Duration::ZERO))?;
    let (_peer, mut diod) = ours.diod()?;
    let (mut small, mut large) = (ours.session(65_536)?, ours.session(1 << 20)?);
    let mut deep = ours.session(1 << 20)?;
    let samples = interleaved(
        setting.effort.rounds,
        &mut [
            &mut || raw.rate(Way::Read, bytes),
            &mut || small.read_rate(1, bytes),
            &mut || large.read_rate(1, bytes),
            &mut || deep.read_rate(4, bytes),
            &mut || diod.read_rate(1, bytes),
        ],
    )?;
    let [raw, small, large, deep, diod] = &samples[..] else { unreachable!("as many as asked") };
    let line = |what: &str, name: &str, samples: &[f64]| {
        Line::new(&format!("sequential read, {what}, 64 KiB ring"), name, "MB/s", samples)
    };
    Ok(vec![
        line("one in flight, msize 64K", "bandwidth/read/64K/1/ours", small)
            .against("raw", small, raw)
            .target(Target::AtLeast(0.90)),
        line("one in flight, msize 1M", "bandwidth/read/1M/1/ours", large)
            .against("raw", large, raw)
            .target(Target::AtLeast(0.90)),
        line("four in flight, msize 1M", "bandwidth/read/1M/4/ours", deep)
            .against("raw", deep, raw),
        line("one in flight, msize 64K", "bandwidth/read/64K/1/ours-diod", small)
            .against("diod", small, diod),
        line("one in flight, msize 64K, diod itself", "bandwidth/read/64K/1/diod", diod)
            .against("raw", diod, raw),
    ])
}

/// The largest ring, where the bare channel alone fills the cores.
pub fn read_large_ring(setting: &Setting) -> Result<Vec<Line>> {
    let bytes = setting.effort.bytes;
    let ours = served(setting, MAX_RING, Duration::ZERO)?;
    let shape = shape(MAX_RING, Duration::ZERO);
    let mut raw = Raw::start(&setting.programs, &shape)?;
    let mut relayed = Raw::with_relay(&setting.programs, &shape)?;
    let mut session = ours.session(1 << 20)?;
    let samples = interleaved(
        setting.effort.rounds,
        &mut [
            &mut || raw.rate(Way::Read, bytes),
            &mut || relayed.rate(Way::Read, bytes),
            &mut || session.read_rate(1, bytes),
        ],
    )?;
    let [raw, relayed, ours] = &samples[..] else { unreachable!("as many as asked") };
    let line = |name: &str| {
        let what = "sequential read, one in flight, msize 1M, 1 MiB ring";
        Line::new(what, name, "MB/s", ours)
    };
    Ok(vec![
        line("bandwidth/read/1M/1/ours-large-ring")
            .against("raw", ours, raw)
            .target(Target::AtLeast(0.70)),
        line("bandwidth/read/1M/1/ours-large-ring-relay")
            .against("raw with one bare relay", ours, relayed)
            .target(Target::AtLeast(0.95)),
    ])
}

/// With a round trip that is longer than the machine's own.
pub fn read_delayed(setting: &Setting) -> Result<Vec<Line>> {
    // Long enough that how it begins, several round trips, does not decide.
    let bytes = 4 * setting.effort.bytes;
    let mut lines = Vec::new();
    for (ring, msize, name) in [
        (DEFAULT_RING, 65_536, "msize 64K, 64 KiB ring"),
        (DEFAULT_RING, 1 << 20, "msize 1M, 64 KiB ring"),
        (MAX_RING, 1 << 20, "msize 1M, 1 MiB ring"),
    ] {
        let near = served(setting, ring, Duration::ZERO)?;
        let far = served(setting, ring, DELAY)?;
        let (mut near, mut far) = ((near.session(msize)?, near), (far.session(msize)?, far));
        let samples = interleaved(
            setting.effort.rounds,
            &mut [&mut || near.0.read_rate(1, bytes), &mut || far.0.read_rate(1, bytes)],
        )?;
        let what = format!("sequential read, one in flight, {name}, 5 ms of added round trip");
        let case = name.replace("msize ", "").replace(", ", "-").replace(' ', "-");
        let name = format!("bandwidth/read-5ms/{case}/ours");
        lines.push(
            Line::new(&what, &name, "MB/s", &samples[1])
                .against("the same without", &samples[1], &samples[0])
                .target(Target::AtLeast(0.90)),
        );
    }
    for (ring, name) in [(DEFAULT_RING, "64 KiB ring"), (MAX_RING, "1 MiB ring")] {
        lines.push(raw_delayed(setting, ring, name, bytes)?);
    }
    Ok(lines)
}

/// What the delay costs the bare channel: the relays hold back what is on its way.
fn raw_delayed(setting: &Setting, ring: usize, name: &str, bytes: u64) -> Result<Line> {
    let mut near = Raw::start(&setting.programs, &shape(ring, Duration::ZERO))?;
    let mut far = Raw::start(&setting.programs, &shape(ring, DELAY))?;
    let samples = interleaved(
        setting.effort.rounds,
        &mut [&mut || near.rate(Way::Read, bytes), &mut || far.rate(Way::Read, bytes)],
    )?;
    let what = format!("bare channel, {name}, 5 ms of added round trip");
    let name = format!("bandwidth/read-5ms/{}/raw", name.replace(' ', "-"));
    Ok(Line::new(&what, &name, "MB/s", &samples[1]).against(
        "the same without",
        &samples[1],
        &samples[0],
    ))
}

/// Writes over a file that is there.
pub fn write(setting: &Setting) -> Result<Vec<Line>> {
    let bytes = setting.effort.bytes;
    let ours = served(setting, DEFAULT_RING, Duration::ZERO)?;
    let mut raw = Raw::start(&setting.programs, &shape(DEFAULT_RING, Duration::ZERO))?;
    let (_peer, mut diod) = ours.diod()?;
    let mut session = ours.session(1 << 20)?;
    let mut deep = ours.session(1 << 20)?;
    let samples = interleaved(
        setting.effort.rounds,
        &mut [
            &mut || raw.rate(Way::Write, bytes),
            &mut || session.write_rate(1, bytes),
            &mut || deep.write_rate(4, bytes),
            &mut || diod.write_rate(1, bytes),
        ],
    )?;
    let [raw, one, four, diod] = &samples[..] else { unreachable!("as many as asked") };
    let line = |what: &str, name: &str, samples: &[f64]| {
        Line::new(&format!("sequential write, {what}, 64 KiB ring"), name, "MB/s", samples)
    };
    Ok(vec![
        line("one in flight, msize 1M", "bandwidth/write/1M/1/ours", one)
            .against("raw", one, raw)
            .target(Target::AtLeast(0.80)),
        line("four in flight, msize 1M", "bandwidth/write/1M/4/ours", four)
            .against("raw", four, raw)
            .target(Target::AtLeast(0.90)),
        line("one in flight, msize 64K, diod itself", "bandwidth/write/64K/1/diod", diod)
            .against("raw", diod, raw),
    ])
}
