//! What a run found: samples, their spread, and lines of figures with their baselines.
//!
//! Measurements on a shared machine are believed in pairs only: what is compared runs in turn within
//! one run ([`interleaved`]), each round gives one ratio, and the figure is the median of the ratios
//! with its quartiles. So a slow minute of the machine slows both sides of a ratio and says nothing.
//!
//! The form of the JSON is this module's types; [`SCHEMA`] changes with them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The version of [`Record`]'s form.
pub const SCHEMA: u32 = 1;

/// Above this, half of the samples lie so far apart that one run proves little.
const NOISY: f64 = 0.25;

/// The middle of some samples, and how far half of them reach around it.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// Half of the samples are below.
    pub median: f64,
    /// A quarter of them is below.
    pub low: f64,
    /// A quarter of them is above.
    pub high: f64,
    /// How many there are.
    pub samples: usize,
}

impl Spread {
    /// The spread of `samples`; nothing where there are none, or one is no number.
    pub fn of(samples: &[f64]) -> Option<Spread> {
        let sorted = sorted(samples)?;
        Some(Spread {
            median: quantile(&sorted, 0.5),
            low: quantile(&sorted, 0.25),
            high: quantile(&sorted, 0.75),
            samples: samples.len(),
        })
    }

    /// Half of the samples as a share of their median.
    pub fn width(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / self.median.abs() }
    }

    /// Whether they lie too far apart to be believed.
    pub fn is_noisy(&self) -> bool {
        self.width() > NOISY
    }
}

/// The sample below which a share of `q` (0 to 1) of `samples` lies; 0 where there are none.
pub fn percentile(samples: &[f64], q: f64) -> f64 {
    sorted(samples).map_or(0.0, |sorted| quantile(&sorted, q))
}

fn sorted(samples: &[f64]) -> Option<Vec<f64>> {
    if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

/// Between the two nearest samples (Hyndman and Fan's type 7, as R and NumPy do it).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (at - at.floor())
}

/// How long to go on with a comparison.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rounds {
    /// At least as many.
    pub least: usize,
    /// At most as many.
    pub most: usize,
    /// No new one behind this time, once there are as many as that.
    pub time: Duration,
    /// No new one behind this time, however few there are: a busy machine makes a run less sure, not
    /// endless.
    pub limit: Duration,
}

/// One way to do what others do too; a call gives one sample.
pub type Way<'a> = &'a mut dyn FnMut() -> anyhow::Result<f64>;

/// The samples of `ways`, taken in turn: each round asks every one once, every other round from the
/// last to the first, so that what drifts meets all alike. One round before them is thrown away.
pub fn interleaved(rounds: Rounds, ways: &mut [Way<'_>]) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); ways.len()];
    for way in ways.iter_mut() {
        way()?;
    }
    let start = Instant::now();
    for round in 0..rounds.most {
        let elapsed = start.elapsed();
        if (round >= rounds.least && elapsed > rounds.time) || (round > 0 && elapsed > rounds.limit)
        {
            break;
        }
        for turn in 0..ways.len() {
            let at = if round % 2 == 0 { turn } else { ways.len() - 1 - turn };
            samples[at].push(ways[at]()?);
        }
    }
    Ok(samples)
}

/// The ratios of two ways' samples, round by round.
pub fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

/// What is to be reached.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The ratio, or the value where there is no baseline, is this or more.
    AtLeast(f64),
    /// It is this or less.
    AtMost(f64),
}

/// A figure to compare with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Baseline {
    /// What it is of.
    pub name: String,
    /// The figure.
    pub value: Spread,
}

/// One line of the table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// In words.
    pub what: String,
    /// `operation/case/implementation`.
    pub name: String,
    /// Of the value and of the baseline.
    pub unit: String,
    /// What was measured; nothing where it could not be, and `note` says why.
    pub value: Option<Spread>,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// The comparison: the median of the rounds' own ratios.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
    /// What the ratio, or the value, is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Line {
    /// A line with a value of its own.
    pub fn new(what: &str, name: &str, unit: &str, samples: &[f64]) -> Line {
        Line {
            what: what.to_owned(),
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: Spread::of(samples),
            baseline: None,
            ratio: None,
            target: None,
            note: None,
        }
    }

    /// A line that could not be measured.
    pub fn missing(what: &str, name: &str, why: impl Into<String>) -> Line {
        Line::new(what, name, "", &[]).note(why)
    }

    /// Compares with `base`, by the ratio of this line's samples to it.
    pub fn against(self, name: &str, samples: &[f64], base: &[f64]) -> Line {
        self.compared(name, base, &ratios(samples, base))
    }

    /// Compares with `base`, by how many times less this line's samples are.
    pub fn times_less(self, name: &str, samples: &[f64], base: &[f64]) -> Line {
        self.compared(name, base, &ratios(base, samples))
    }

    /// Compares with `base` by ratios that were worked out elsewhere.
    pub fn compared(mut self, name: &str, base: &[f64], ratios: &[f64]) -> Line {
        self.baseline = Spread::of(base).map(|value| Baseline { name: name.to_owned(), value });
        self.ratio = Spread::of(ratios);
        self
    }

    /// Sets what is to be reached.
    pub fn target(mut self, target: Target) -> Line {
        self.target = Some(target);
        self
    }

    /// Adds a remark.
    pub fn note(mut self, note: impl Into<String>) -> Line {
        self.note = Some(note.into());
        self
    }

    /// What the target is compared with.
    pub fn judged(&self) -> Option<Spread> {
        if self.baseline.is_some() { self.ratio } else { self.value }
    }

    /// Whether the target was reached; nothing where there is none. What could not be measured was
    /// not reached.
    pub fn reached(&self) -> Option<bool> {
        let target = self.target?;
        Some(self.judged().is_some_and(|judged| match target {
            Target::AtLeast(least) => judged.median >= least,
            Target::AtMost(most) => judged.median <= most,
        }))
    }

    /// Whether the target lies within the spread, or the spread is wide: another run may say
    /// otherwise.
    pub fn is_uncertain(&self) -> bool {
        let Some(judged) = self.judged() else { return false };
        let bound = match self.target {
            Some(Target::AtLeast(bound) | Target::AtMost(bound)) => bound,
            None => return judged.is_noisy(),
        };
        judged.low < bound && bound < judged.high
    }
}

/// Where a run took place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Processors that the run could use.
    pub cores: usize,
    /// Kernel and its release.
    pub kernel: String,
    /// MiB of memory.
    pub memory_mib: u64,
}

/// A run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where.
    pub machine: Machine,
    /// Of which commit; a `+` behind it means changes that were not committed.
    pub commit: String,
    /// Day and time, UTC.
    pub date: String,
    /// The command.
    pub command: String,
    /// How long it took.
    pub seconds: f64,
    /// The table.
    pub lines: Vec<Line>,
    /// What a reader has to know before believing it.
    pub warnings: Vec<String>,
}

impl Record {
    /// Warns where many comparisons are too far spread, with what helps.
    pub fn warn_of_noise(&mut self) {
        let judged: Vec<_> = self.lines.iter().filter_map(Line::judged).collect();
        let noisy = judged.iter().filter(|spread| spread.is_noisy()).count();
        if noisy * 4 > judged.len() {
            self.warnings.push(format!(
                "{noisy} of {} figures spread over more than a quarter of their median: something \
                 else used this machine; run it again when it is idle",
                judged.len()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_samples() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0, 5.0], 1.0), 5.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_slow_minute_that_meets_both_ways_changes_no_ratio() {
        let (ours, base) = ([10.0, 1.0, 10.0, 10.0], [20.0, 2.0, 20.0, 20.0]);
        let line = Line::new("w", "a/b/c", "MB/s", &ours).against("raw", &ours, &base);
        let ratio = line.ratio.unwrap();
        assert_eq!((ratio.low, ratio.median, ratio.high), (0.5, 0.5, 0.5));
        assert!(!ratio.is_noisy() && line.value.unwrap().median == 10.0);
    }

    #[test]
    fn ways_take_turns_in_both_orders() {
        let order = std::cell::RefCell::new(String::new());
        let say = |name| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(f64::from(name as u8))
            }
        };
        let (mut a, mut b) = (say('a'), say('b'));
        let (time, limit) = (Duration::MAX, Duration::MAX);
        let rounds = Rounds { least: 2, most: 3, time, limit };
        let samples = interleaved(rounds, &mut [&mut a, &mut b]).unwrap();
        assert_eq!(*order.borrow(), "ababbaab");
        assert_eq!(samples, [vec![97.0; 3], vec![98.0; 3]]);
        let time = Duration::ZERO;
        for (limit, expected) in [(Duration::MAX, 2), (Duration::ZERO, 1)] {
            let rounds = Rounds { least: 2, most: 9, time, limit };
            assert_eq!(interleaved(rounds, &mut [&mut a]).unwrap()[0].len(), expected);
        }
    }

    #[test]
    fn a_target_is_judged_by_the_ratio_where_there_is_a_baseline() {
        let line = Line::new("w", "n", "us", &[80.0, 80.0]);
        assert_eq!(line.reached(), None);
        let alone = line.clone().target(Target::AtMost(64.0));
        assert_eq!(alone.reached(), Some(false));
        let line = line.against("diod", &[80.0, 80.0], &[100.0, 100.0]);
        assert_eq!(line.clone().target(Target::AtMost(0.8)).reached(), Some(true));
        assert_eq!(line.target(Target::AtLeast(0.9)).reached(), Some(false));
        let missing = Line::missing("w", "n", "no FUSE").target(Target::AtLeast(2.0));
        assert_eq!(missing.reached(), Some(false));
    }

    #[test]
    fn a_bound_within_the_spread_is_uncertain() {
        let samples = [0.85, 0.95, 0.92, 0.86];
        let line = Line::new("w", "n", "", &samples).target(Target::AtLeast(0.9));
        assert!(line.is_uncertain());
        let line = Line::new("w", "n", "", &samples).target(Target::AtLeast(0.5));
        assert!(!line.is_uncertain());
    }

    #[test]
    fn times_less_is_the_baselines_time_in_ours() {
        let line = Line::new("w", "n", "s", &[2.0]).times_less("diod", &[2.0], &[80.0]);
        assert_eq!(line.ratio.unwrap().median, 40.0);
    }
}
