//! Bytes that somebody else chose, made safe to show on a terminal or in a log.
//!
//! Names and messages come from the other qube. A control character, an escape sequence or a
//! bidirectional override in one could repaint the terminal or make a refusal look like a success.
//! So everything that is not plainly printable is written as `\xHH` (a byte) or `\u{H}` (a
//! character), and so is the backslash (`\\`): what is shown can be told apart from its original.

use std::fmt::{self, Write};

/// `bytes` in a form that is safe to show. Valid UTF-8 that is plainly printable stands for itself,
/// everything else is escaped.
pub fn printable(bytes: &[u8]) -> Printable<'_> {
    Printable(bytes)
}

/// What [`printable`] returns; shown by its `Display`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                write_char(f, character)?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn write_char(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '\\' => f.write_str("\\\\"),
        ' '..='~' => f.write_char(character),
        _ if is_hidden(character) => write!(f, "\\u{{{:x}}}", u32::from(character)),
        // `escape_debug` knows Unicode's tables of what has no glyph (unassigned, private use,
        // format characters, separators, combining marks at the start).
        _ if character.escape_debug().len() > 1 => {
            write!(f, "\\u{{{:x}}}", u32::from(character))
        }
        _ => f.write_char(character),
    }
}

/// Characters that change how others are shown, or that show as nothing. Listed besides the
/// standard library's tables, so that what is refused here does not hang on their version.
fn is_hidden(character: char) -> bool {
    matches!(character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}'         // C0, DEL, C1
        | '\u{ad}' | '\u{34f}' | '\u{61c}'        // soft hyphen, grapheme joiner, Arabic letter mark
        | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'                 // zero width, direction marks
        | '\u{2028}'..='\u{202e}'                 // line, paragraph, bidirectional embeddings
        | '\u{2060}'..='\u{206f}'                 // invisible operators, isolates
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{fff0}'..='\u{ffff}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printable_stands_for_itself() {
        for text in ["/home/user/My docs", "/home/user/Müll", "日本語", "~^`'\""] {
            assert_eq!(printable(text.as_bytes()).to_string(), text);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (bytes, shown) in [
            (&b"\x1b[2J"[..], r"\u{1b}[2J"),
            (b"a\tb\nc\r\x07", r"a\u{9}b\u{a}c\u{d}\u{7}"),
            (b"\x9b31m\xff", r"\x9b31m\xff"),
            ("\u{9b}31m".as_bytes(), r"\u{9b}31m"),
            ("\u{202e}txt.exe".as_bytes(), r"\u{202e}txt.exe"),
            ("\u{2066}\u{200b}\u{feff}\u{ad}".as_bytes(), r"\u{2066}\u{200b}\u{feff}\u{ad}"),
            ("\u{e000}".as_bytes(), r"\u{e000}"),
            (b"\xe2\x82", r"\xe2\x82"),
            (br"\x1b", r"\\x1b"),
            (b"\x7f\0", r"\u{7f}\u{0}"),
        ] {
            assert_eq!(printable(bytes).to_string(), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_control_character_gets_through(bytes: Vec<u8>) {
            let shown = printable(&bytes).to_string();
            proptest::prop_assert!(!shown.chars().any(|c| c.is_control() || is_hidden(c)));
        }
    }
}
