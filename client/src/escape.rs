//! What the far end printed on stderr, made fit for this person's terminal.
//!
//! It comes through qrexec unfiltered, from a qube that may wish this one ill. So it is shown by
//! whole lines, each with the far end's name before it, escaped as [`printable()`] says, each
//! cut at a bound, and bounded in all: it can neither pass for this program's own words nor flood
//! the terminal. Reading it from the pipe is the daemon's.

use std::fmt::Write as _;
use std::io::{self, Write};

use policy::printable;

/// The most bytes of a line that are shown: some six lines of a terminal.
pub const MAX_LINE: usize = 480;

/// The most bytes of one call's stderr that are looked at.
pub const MAX_TOTAL: usize = 16 * 1024;

/// Cuts one call's stderr into lines that are safe to show.
#[derive(Debug)]
pub struct FarLines {
    prefix: String,
    line: Vec<u8>,
    /// The line has more bytes than are kept.
    cut: bool,
    /// Bytes that may still come.
    left: usize,
    /// More came than that, and it was said.
    flooded: bool,
}

impl FarLines {
    /// For the far end called `name`, which is known to be safe to show (a parsed target).
    pub fn new(name: &str) -> FarLines {
        let prefix = name.to_owned();
        FarLines { prefix, line: Vec::new(), cut: false, left: MAX_TOTAL, flooded: false }
    }

    /// Takes what came and writes the lines that are whole now, each in one write. Every line is
    /// given to `out` as `NAME: TEXT` and a newline.
    pub fn push(&mut self, input: &[u8], out: &mut impl Write) -> io::Result<()> {
        let taken = input.len().min(self.left);
        for &byte in &input[..taken] {
            if byte == b'\n' {
                self.write_line(out)?;
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            } else {
                self.cut = true;
            }
        }
        self.left -= taken;
        if taken < input.len() && !self.flooded {
            self.flooded = true;
            self.write_line(out)?;
            writeln!(out, "{}: (it printed more, which is not shown)", self.prefix)?;
        }
        Ok(())
    }

    /// The far end has closed its stderr: writes what is left of a last line.
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.write_line(out)
    }

    fn write_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        let shown = line.strip_suffix(b"\r").unwrap_or(&line);
        if shown.is_empty() && !cut {
            return Ok(());
        }
        let mut text = format!("{}: {}", self.prefix, printable(shown));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", if cut { " [...]" } else { "" });
        out.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut lines = FarLines::new("work");
        let mut out = Vec::new();
        for piece in pieces {
            lines.push(piece, &mut out).unwrap();
        }
        lines.finish(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_come_whole_and_say_whose_they_are() {
        assert_eq!(
            shown(&[b"no su", b"ch fol", b"der\r\n\nbye"]),
            "work: no such folder\nwork: bye\n"
        );
    }

    #[test]
    fn a_character_cut_between_two_reads_stays_whole() {
        assert_eq!(shown(&[b"M\xc3", b"\xbcll\n"]), "work: Müll\n");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        assert_eq!(
            shown(&[b"\x1b]0;title\x07\rhint: type your password\x9b\n"]),
            "work: \\u{1b}]0;title\\u{7}\\u{d}hint: type your password\\x9b\n"
        );
    }

    #[test]
    fn long_lines_are_cut() {
        let text = shown(&[&[b'a'; MAX_LINE], b"\n", &[b'b'; MAX_LINE + 1], b"\nend\n"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("work: {}", "a".repeat(MAX_LINE)));
        assert_eq!(lines[1], format!("work: {} [...]", "b".repeat(MAX_LINE)));
        assert_eq!(lines[2], "work: end");
    }

    #[test]
    fn a_flood_ends_with_a_word_about_it() {
        let flood = b"0123456\n".repeat(MAX_TOTAL);
        let text = shown(&[&flood, &flood]);
        assert_eq!(text.lines().count(), MAX_TOTAL / 8 + 1);
        assert_eq!(text.lines().last(), Some("work: (it printed more, which is not shown)"));
        assert!(text.len() < 3 * MAX_TOTAL);
    }

    #[test]
    fn exactly_the_bound_is_no_flood() {
        let most = b"0123456\n".repeat(MAX_TOTAL / 8);
        let text = shown(&[&most]);
        assert_eq!(text.lines().count(), MAX_TOTAL / 8);
        assert!(!text.contains("not shown"));
        assert!(shown(&[&most, b"x"]).ends_with("not shown)\n"));
    }
}
