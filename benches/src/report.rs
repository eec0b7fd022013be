//! A [`Record`] written out, one form a file: [`json`] for programs, [`markdown`] for people, and
//! [`readme`] for the table in the README.

pub mod json;
pub mod markdown;
pub mod readme;

use crate::record::{Line, Record, Spread, Target};

/// A number with three figures that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 || v == 0.0 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.0995 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The middle and, where there is more than one sample, how far half of them reach.
fn spread(value: &Spread) -> String {
    if value.samples < 2 {
        return number(value.median);
    }
    format!("{} ({}–{})", number(value.median), number(value.low), number(value.high))
}

fn target(line: &Line) -> String {
    match line.target {
        Some(Target::AtLeast(least)) => format!("≥ {least:.2}"),
        Some(Target::AtMost(most)) => format!("≤ {most:.2}"),
        None => String::new(),
    }
}

/// "yes" or "no", with a question mark where another run may say otherwise.
fn reached(line: &Line) -> String {
    let word = match line.reached() {
        Some(true) => "yes",
        Some(false) if line.value.is_none() => "not measured",
        Some(false) => "**no**",
        None => return String::new(),
    };
    format!("{word}{}", if line.is_uncertain() { " ?" } else { "" })
}

/// Where and when, in a sentence.
fn circumstances(record: &Record) -> String {
    let machine = &record.machine;
    format!(
        "{}, {} cores, {} MiB, {}; commit {}, {}; `{}`, {:.0} s.",
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        record.commit,
        record.date,
        record.command,
        record.seconds
    )
}

/// A cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
pub(crate) mod sample {
    use super::*;
    use crate::record::{Machine, SCHEMA};

    pub(crate) fn record() -> Record {
        let ours = [900.0, 910.0, 890.0];
        let raw = [1000.0, 1000.0, 1000.0];
        Record {
            schema: SCHEMA,
            machine: Machine {
                cpu: "A Processor".into(),
                cores: 2,
                kernel: "Linux 6.18".into(),
                memory_mib: 4096,
            },
            commit: "abc1234".into(),
            date: "2026-01-02 03:04".into(),
            command: "make bench".into(),
            seconds: 12.0,
            lines: vec![
                Line::new("a read", "bandwidth/read/1M/1/ours", "MB/s", &ours)
                    .against("raw", &ours, &raw)
                    .target(Target::AtLeast(0.90)),
                Line::new("what | it costs", "cost/cpu/ours", "s/GiB", &[0.5]).note("all of it"),
                Line::missing("a mount", "mount/read/ours", "no FUSE here")
                    .target(Target::AtLeast(1.8)),
            ],
            warnings: vec!["it was loud".into()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_figures() {
        let shown = [0.0, 0.00123, 0.1234, 1.0, 12.34, 99.96, 1234.5].map(number);
        assert_eq!(shown, ["0", "0.0012", "0.12", "1.00", "12.3", "100", "1234"]);
    }

    #[test]
    fn what_is_reached_is_said_in_a_word() {
        let record = sample::record();
        assert_eq!(
            record.lines.iter().map(reached).collect::<Vec<_>>(),
            ["yes ?", "", "not measured"]
        );
        assert_eq!(target(&record.lines[0]), "≥ 0.90");
    }
}
