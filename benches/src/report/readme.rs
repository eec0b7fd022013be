//! The README's table of figures: written between two marks, never by hand.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{cell, circumstances, number, reached, target};
use crate::record::Record;

/// The line before the table.
pub const BEGIN: &str = "<!-- figures: written by `make readme-figures` -->";
/// The line behind it.
pub const END: &str = "<!-- figures: end -->";

/// `readme` with the table of `record` in the place of the one that it has.
///
/// # Errors
/// It has no place for one.
pub fn update(readme: &str, record: &Record) -> Result<String> {
    let missing = || format!("the README has no lines {BEGIN} and {END}");
    let (before, rest) = readme.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", table(record)))
}

/// The lines with a target, and where they come from.
fn table(record: &Record) -> String {
    let mut table = format!("{}\n", circumstances(record));
    for warning in &record.warnings {
        // Writing to a String does not fail, here and below.
        let _ = writeln!(table, "Warning: {warning}.");
    }
    table += "\n| what | measured | against | ratio | to reach | reached |\n\
              | --- | --- | --- | --- | --- | --- |\n";
    for line in record.lines.iter().filter(|line| line.target.is_some()) {
        let value =
            line.value.map_or("–".into(), |v| format!("{} {}", number(v.median), line.unit));
        let against = line.baseline.as_ref().map_or(String::new(), |base| {
            format!("{} {} {}", base.name, number(base.value.median), line.unit)
        });
        let ratio = line.ratio.map_or(String::new(), |ratio| number(ratio.median));
        let cells =
            [cell(&line.what), value.trim().into(), against, ratio, target(line), reached(line)];
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let readme = format!("# Title\n{BEGIN}\nold\n{END}\n\nThe rest\n");
        let once = update(&readme, &sample::record()).unwrap();
        assert!(once.starts_with("# Title\n<!--") && once.ends_with("-->\n\nThe rest\n"));
        assert!(once.contains("| a read | 900 MB/s | raw 1000 MB/s | 0.90 | ≥ 0.90 | yes ? |"));
        assert!(!once.contains("old") && !once.contains("it costs"));
        assert_eq!(update(&once, &sample::record()).unwrap(), once);
    }

    #[test]
    fn a_readme_without_marks_is_left_alone() {
        assert!(update("# Title\n", &sample::record()).is_err());
    }
}
