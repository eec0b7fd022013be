//! What a transfer costs each process: CPU time, sleeps, system calls.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use transport::id::Msize;

use super::{Setting, shape};
use crate::channel::DEFAULT_RING;
use crate::harness::pair::Coherence;
use crate::measure::{Operation, Session};
use crate::process::{Process, Usage, family, system_calls, used_by};
use crate::record::Line;

/// Requests that strace counts: it slows them down some thirtyfold.
const COUNTED: usize = 200;

/// Who is measured.
struct Subject {
    who: &'static str,
    session: Session,
    family: Vec<Process>,
    /// The parts that are not the channel.
    ends: &'static [&'static str],
}

/// All costs, ours and diod's.
pub fn all(setting: &Setting) -> Result<Vec<Line>> {
    let shape = shape(DEFAULT_RING, Duration::ZERO);
    let served = setting.served(&shape, 32 << 20, Coherence::Strict)?;
    let (peer, diod) = served.diod()?;
    let mut subjects = [
        Subject {
            who: "ours",
            session: served.session(Msize::MAX.bytes())?,
            family: family(&served.pair.roots()),
            ends: &["client end", "server end"],
        },
        Subject { who: "diod", session: diod, family: family(&peer.roots()), ends: &["diod"] },
    ];
    let mut lines = Vec::new();
    for subject in &mut subjects {
        lines.extend(transfers(setting, subject)?);
        lines.push(small(setting, subject)?);
    }
    for subject in &mut subjects {
        lines.extend(calls(subject));
    }
    Ok(lines)
}

/// CPU seconds per GiB, read and written.
fn transfers(setting: &Setting, subject: &mut Subject) -> Result<Vec<Line>> {
    let bytes = setting.effort.bytes * 4;
    let mut lines = Vec::new();
    for write in [false, true] {
        let name = if write { "write" } else { "read" };
        let depth = 4;
        let Subject { who, session, family, ends } = &mut *subject;
        let mut samples = Vec::new();
        let mut parts = BTreeMap::new();
        for _ in 0..setting.effort.rounds.least {
            let used = used_by(family, || match write {
                true => session.write(depth, bytes).map(drop),
                false => session.read(depth, bytes).map(drop),
            })?;
            let cost = |part: &str| {
                let cpu = used.get(part).map_or(Duration::ZERO, |usage| usage.cpu);
                cpu.as_secs_f64() * (1_u64 << 30) as f64 / bytes as f64
            };
            samples.push(ends.iter().map(|part| cost(part)).sum());
            parts = used.keys().map(|part| (*part, cost(part))).collect();
        }
        let what = format!("CPU time of the ends, {who}, {name} four in flight");
        let parts: Vec<_> =
            parts.iter().map(|(part, cost): (&&str, &f64)| format!("{part} {cost:.2}")).collect();
        let line = Line::new(&what, &format!("cost/cpu-{name}/{who}"), "s/GiB", &samples);
        lines.push(line.note(parts.join(", ")));
    }
    Ok(lines)
}

/// CPU time and sleeps of a small request.
fn small(setting: &Setting, subject: &mut Subject) -> Result<Line> {
    let calls = setting.effort.calls * 5;
    let Subject { who, session, family, ends } = subject;
    let used = used_by(family, || session.times(Operation::Getattr, calls).map(drop))?;
    let sum = |of: &dyn Fn(&Usage) -> f64| -> f64 {
        ends.iter().filter_map(|part| used.get(part)).map(of).sum::<f64>() / calls as f64
    };
    let cpu = sum(&|usage| usage.cpu.as_secs_f64() * 1e6);
    let sleeps: Vec<_> = used
        .iter()
        .map(|(part, usage)| format!("{part} {:.2}", usage.sleeps as f64 / calls as f64))
        .collect();
    let what = format!("CPU time of the ends, {who}, a getattr");
    let line = Line::new(&what, &format!("cost/cpu-getattr/{who}"), "us", &[cpu]);
    Ok(line.note(format!("times asleep: {}", sleeps.join(", "))))
}

/// System calls of each end for a small request and for a large read.
fn calls(subject: &mut Subject) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, what) in
        [("getattr", "a getattr"), ("read", "a read of msize"), ("write", "a write of msize")]
    {
        for &end in subject.ends {
            let Subject { who, session, family, .. } = &mut *subject;
            let part = end.replace(' ', "-");
            let what = format!("system calls of the {end} for {what}");
            let name = format!("cost/calls-{name}-{part}/{who}");
            let counted = count(session, family, end, &name);
            lines.push(match counted {
                Ok(calls) => {
                    let total = calls.values().sum::<u64>() as f64 / COUNTED as f64;
                    Line::new(&what, &name, "", &[total]).note(shown(&calls))
                }
                Err(error) => Line::missing(&what, &name, format!("{error:#}")),
            });
        }
    }
    lines
}

fn count(
    session: &mut Session,
    family: &[Process],
    end: &str,
    name: &str,
) -> Result<BTreeMap<String, u64>> {
    let message = u64::from(session.client.msize().payload());
    system_calls(family, end, || {
        let total = message * COUNTED as u64;
        match name {
            _ if name.contains("getattr") => session.times(Operation::Getattr, COUNTED).map(drop),
            _ if name.contains("read") => session.read(1, total).map(drop),
            _ => session.write(1, total).map(drop),
        }
        .context("while strace watched")
    })
}

/// The most frequent, each per message.
fn shown(calls: &BTreeMap<String, u64>) -> String {
    let mut calls: Vec<_> =
        calls.iter().filter(|(_, count)| **count * 20 >= COUNTED as u64).collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown: Vec<_> = calls
        .iter()
        .map(|(name, count)| format!("{name} {:.2}", **count as f64 / COUNTED as f64))
        .collect();
    shown.join(", ")
}
