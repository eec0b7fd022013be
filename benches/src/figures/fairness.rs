//! Several mounts on one channel: small requests beside bulk, many that want everything, and what that
//! takes of memory.
//!
//! The small requests follow each other without a pause, beside bulk as when idle: that is harder on
//! the bulk than a person at a desk would be.

use std::time::Duration;

use anyhow::Result;

use super::{Setting, shape};
use crate::channel::DEFAULT_RING;
use crate::harness::pair::Coherence;
use crate::harness::served::Served;
use crate::measure::{Load, Operation, Session, for_a_while, together};
use crate::process::{family, used_by};
use crate::record::{Line, Target, interleaved, percentile, ratios};

/// msize of many mounts: messages small enough that the share of each is made of many.
const MSIZE: u32 = 131_096;
/// How many.
const COUNTS: [usize; 4] = [1, 4, 16, 64];
/// What the design allows either end with sixteen saturated mounts, in MiB.
const MEMORY: f64 = 64.0;

fn served(setting: &Setting) -> Result<Served> {
    let shape = shape(DEFAULT_RING, Duration::ZERO);
    setting.served(&shape, 32 << 20, Coherence::Strict)
}

fn sessions(served: &Served, count: usize, msize: u32) -> Result<Vec<Session>> {
    (0..count).map(|_| served.session(msize)).collect()
}

/// The slowest in a hundred small requests beside a mount that takes all it can get.
pub fn small_beside_bulk(setting: &Setting) -> Result<Vec<Line>> {
    let served = served(setting)?;
    let mut bulk = sessions(&served, 1, 1 << 20)?;
    let mut small = sessions(&served, 1, MSIZE)?;
    let mut lines = Vec::new();
    for (write, name, does) in [(false, "read", "reading"), (true, "write", "writing")] {
        let load = Load { write, depth: 4 };
        let (window, calls) = (setting.effort.window, setting.effort.calls);
        let small = std::cell::RefCell::new(&mut small[0]);
        let bulk = std::cell::RefCell::new(&mut bulk);
        let mut beside = Vec::new();
        let p99 = || {
            // At least as many calls as a percentile needs, and no fewer than the window holds.
            let start = std::time::Instant::now();
            let mut times = Vec::new();
            while times.len() < calls || start.elapsed() < window {
                times.extend(small.borrow_mut().times(Operation::Getattr, 10)?);
            }
            Ok(percentile(&times, 0.99))
        };
        let samples = interleaved(
            setting.effort.rounds,
            &mut [
                &mut || p99(),
                &mut || Ok(together(&mut bulk.borrow_mut(), load, for_a_while(window))?.0[0]),
                &mut || {
                    let (rates, p99) = together(&mut bulk.borrow_mut(), load, p99)?;
                    beside.push(rates[0]);
                    Ok(p99)
                },
            ],
        )?;
        let [idle, alone, loaded] = &samples[..] else { unreachable!("as many as asked") };
        // The first was in the round that is thrown away.
        let beside = &beside[1..];
        lines.push(
            Line::new(
                &format!("getattr p99 while another mount {name}s all it can"),
                &format!("fairness/small-p99-{name}/ours"),
                "us",
                loaded,
            )
            .against("idle", loaded, idle)
            .target(Target::AtMost(3.0)),
        );
        lines.push(
            Line::new(
                &format!("the rate of that mount, {does}"),
                &format!("fairness/bulk-{name}/ours"),
                "MB/s",
                beside,
            )
            .against("alone", beside, alone)
            .target(Target::AtLeast(0.75)),
        );
    }
    Ok(lines)
}

/// N mounts that read all they can get, together and by their shares.
pub fn mounts(setting: &Setting) -> Result<Vec<Line>> {
    let served = served(setting)?;
    let most = COUNTS[COUNTS.len() - 1];
    let sessions = std::cell::RefCell::new(sessions(&served, most, MSIZE)?);
    let spreads = std::cell::RefCell::new(vec![Vec::new(); COUNTS.len()]);
    let load = Load { write: false, depth: 2 };
    let total = |at: usize| {
        let count = COUNTS[at];
        // The more there are, the longer it takes until a share says something.
        let window = setting.effort.window * if count > 8 { 3 } else { 1 };
        let mut sessions = sessions.borrow_mut();
        let (rates, ()) = together(&mut sessions[..count], load, for_a_while(window))?;
        spreads.borrow_mut()[at].push(unfairness(&rates));
        Ok(rates.iter().sum())
    };
    let samples = interleaved(
        setting.effort.rounds,
        &mut [&mut || total(0), &mut || total(1), &mut || total(2), &mut || total(3)],
    )?;
    let spreads = spreads.into_inner();
    let mut lines = Vec::new();
    for (at, count) in COUNTS.iter().enumerate().skip(1) {
        let what = format!("{count} mounts reading at once, together");
        lines.push(
            Line::new(&what, &format!("fairness/total-{count}/ours"), "MB/s", &samples[at])
                .compared("one mount", &samples[0], &ratios(&samples[at], &samples[0]))
                .target(Target::AtLeast(0.95)),
        );
        let what = format!("{count} mounts reading at once, the share farthest from the mean");
        let name = format!("fairness/share-{count}/ours");
        lines.push(Line::new(&what, &name, "%", &spreads[at][1..]).target(Target::AtMost(10.0)));
    }
    Ok(lines)
}

/// How far the farthest of `rates` is from their mean, in per cent of that.
fn unfairness(rates: &[f64]) -> f64 {
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let off = rates.iter().map(|rate| (rate - mean).abs() / mean * 100.0);
    off.fold(0.0, f64::max)
}

/// Both ends' memory at its highest, with eight mounts reading and eight writing.
pub fn memory(setting: &Setting) -> Result<Vec<Line>> {
    let served = served(setting)?;
    let mut readers = sessions(&served, 8, 1 << 20)?;
    let mut writers = sessions(&served, 8, 1 << 20)?;
    let family = family(&served.pair.roots());
    let window = setting.effort.window * 4;
    let used = used_by(&family, || {
        let write = Load { write: true, depth: 4 };
        let read = Load { write: false, depth: 4 };
        together(&mut readers, read, || {
            together(&mut writers, write, for_a_while(window)).map(drop)
        })
        .map(drop)
    })?;
    let line = |end: &str, name: &str| {
        let peak = used.get(end).map_or(f64::NAN, |usage| usage.peak as f64 / f64::from(1 << 20));
        let what = format!("memory of the {end} with 16 saturated mounts");
        let line = Line::new(&what, &format!("memory/16-mounts/{name}"), "MiB", &[peak]);
        line.target(Target::AtMost(MEMORY))
    };
    let server = "the process that serves and the one that waits for it, added up";
    Ok(vec![line("client end", "client-end"), line("server end", "server-end").note(server)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfairness_is_the_farthest_share() {
        assert_eq!(unfairness(&[10.0, 10.0]), 0.0);
        assert_eq!(unfairness(&[8.0, 10.0, 12.0]), 20.0);
    }
}
