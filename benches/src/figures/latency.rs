//! Small requests, one after another, against diod directly on the same channel.
//!
//! Every question goes to the server (`--coherence strict`): what is answered without it is
//! [`super::metadata`]'s.

use std::time::Duration;

use anyhow::Result;

use super::{Setting, shape};
use crate::channel::DEFAULT_RING;
use crate::harness::pair::Coherence;
use crate::harness::peer::DIOD_MSIZE;
use crate::measure::{Operation, Session};
use crate::record::{Line, Target, interleaved, percentile};

/// Each operation, by median and by the slowest in a hundred.
pub fn all(setting: &Setting) -> Result<Vec<Line>> {
    let shape = shape(DEFAULT_RING, Duration::ZERO);
    let served = setting.served(&shape, 1 << 20, Coherence::Strict)?;
    let mut ours = served.session(DIOD_MSIZE)?;
    let (_peer, mut diod) = served.diod()?;
    let mut lines = Vec::new();
    for operation in Operation::ALL {
        lines.extend(one(setting, operation, &mut ours, &mut diod)?);
    }
    Ok(lines)
}

fn one(
    setting: &Setting,
    operation: Operation,
    ours: &mut Session,
    diod: &mut Session,
) -> Result<Vec<Line>> {
    let calls = setting.effort.calls;
    let (mut ours_p99, mut diod_p99) = (Vec::new(), Vec::new());
    let samples = interleaved(
        setting.effort.rounds,
        &mut [&mut || measured(ours.times(operation, calls)?, &mut ours_p99), &mut || {
            measured(diod.times(operation, calls)?, &mut diod_p99)
        }],
    )?;
    let name = operation.name();
    let line = |q: &str, ours: &[f64], diod: &[f64]| {
        let what = format!("{name}, one after another, strict, {q}");
        let name = format!("latency/{name}/{q}/ours");
        Line::new(&what, &name, "us", ours).against("diod", ours, diod)
    };
    // The first of each was the round that is thrown away.
    let p50 = line("p50", &samples[0], &samples[1]).target(Target::AtMost(0.8));
    Ok(vec![p50, line("p99", &ours_p99[1..], &diod_p99[1..])])
}

fn measured(times: Vec<f64>, p99: &mut Vec<f64>) -> Result<f64> {
    p99.push(percentile(&times, 0.99));
    Ok(percentile(&times, 0.5))
}
