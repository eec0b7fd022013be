//! The whole table for people.

use std::fmt::Write;

use super::{cell, circumstances, number, reached, spread, target};
use crate::record::{Line, Record};

/// The record as a Markdown page.
pub fn write(record: &Record) -> String {
    let judged = record.lines.iter().filter_map(Line::reached);
    let (reached_all, all) = (judged.clone().filter(|reached| *reached).count(), judged.count());
    let mut page = format!(
        "# Figures\n\n{}\n\n{reached_all} of {all} targets reached. Ratios are medians of rounds in \
         which both sides were measured one after the other, with quartiles; `?` marks a target \
         that lies within them.\n",
        circumstances(record)
    );
    for warning in &record.warnings {
        // Writing to a String does not fail, here and below.
        let _ = write!(page, "\n> **Warning:** {warning}\n");
    }
    page += "\n| what | measured | against | ratio | to reach | reached | |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n";
    for line in &record.lines {
        let _ = writeln!(page, "{}", row(line));
    }
    page
}

fn row(line: &Line) -> String {
    let value =
        line.value.map_or("–".into(), |value| format!("{} {}", spread(&value), line.unit));
    let against = line.baseline.as_ref().map_or(String::new(), |base| {
        format!("{} {} {}", base.name, number(base.value.median), line.unit)
    });
    let cells = [
        format!("{}<br>`{}`", cell(&line.what), line.name),
        value.trim().into(),
        against.trim().into(),
        line.ratio.as_ref().map_or(String::new(), spread),
        target(line),
        reached(line),
        cell(line.note.as_deref().unwrap_or("")),
    ];
    format!("| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_page_has_every_line_and_warning() {
        let page = write(&sample::record());
        assert!(page.contains("1 of 2 targets reached"));
        assert!(page.contains("> **Warning:** it was loud"));
        let row = "| a read<br>`bandwidth/read/1M/1/ours` | 900 (895–905) MB/s | raw 1000 MB/s \
                   | 0.90 (0.90–0.91) | ≥ 0.90 | yes ? |  |";
        assert!(page.contains(row), "{page}");
        assert!(page.contains("what \\| it costs"));
        assert!(page.contains("| – |  |  | ≥ 1.80 | not measured | no FUSE here |"));
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(page.lines().filter(|line| line.starts_with('|')).all(|line| columns(line) == 8));
    }
}
