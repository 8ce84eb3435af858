//! What is wrong in a configuration, and where: `web.cfg:3:10: …`, the line, and a caret below it.
//!
//! A file may have very many lines, or one very long one, and each may be wrong: a place is found by indexes, and of a
//! long line only the part around it is shown, so that all messages together take time and memory in proportion.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// Bytes between two entries of the index of columns.
const STRIDE: usize = 1024;
/// Most bytes of a line that are shown before the caret, and from it on.
const SHOWN: usize = 160;

/// A configuration's text with its parts: the file, then the words of the command line. Bytes: paths are no text.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    text: Vec<u8>,
    /// Where the command line's words start in `text`.
    extra_at: usize,
    /// Where each line starts.
    lines: Vec<usize>,
    /// Characters before every [`STRIDE`]th byte.
    chars: Vec<usize>,
}

impl Source {
    /// Joins a file's text and the words that follow it on the command line, one a line.
    pub(crate) fn new<S: AsRef<OsStr>>(name: &str, text: &[u8], extra: &[S]) -> Self {
        let mut joined = text.to_owned();
        if !joined.is_empty() && !joined.ends_with(b"\n") {
            joined.push(b'\n');
        }
        let extra_at = joined.len();
        for word in extra {
            joined.extend(word.as_ref().as_bytes());
            joined.push(b'\n');
        }
        let ends = (0..joined.len()).filter(|at| joined.get(*at) == Some(&b'\n'));
        let lines = std::iter::once(0).chain(ends.map(|at| at + 1)).collect();
        let chars = joined.chunks(STRIDE).scan(0, |sum, chunk| {
            let before = *sum;
            *sum += count_chars(chunk);
            Some(before)
        });
        let chars = chars.collect();
        Self {
            name: name.to_owned(),
            text: joined,
            extra_at,
            lines,
            chars,
        }
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Makes a message about the whole file.
    pub(crate) fn message_of_all(&self, text: impl Into<String>) -> Message {
        Message {
            offset: usize::MAX,
            file: self.name.clone(),
            text: text.into(),
            ..Message::default()
        }
    }

    /// Makes a message about the bytes `at` of the text.
    pub(crate) fn message(&self, at: Range<usize>, text: impl Into<String>) -> Message {
        let offset = at.start.min(self.text.len());
        let is_extra = offset >= self.extra_at && self.extra_at < self.text.len();
        // What ends early is shown where the file's last line ends, not on the command line's.
        let offset = if is_extra || self.extra_at == self.text.len() {
            offset
        } else {
            offset.min(self.extra_at.saturating_sub(1))
        };
        let line = self.lines.partition_point(|start| *start <= offset) - 1;
        let start = self.lines.get(line).copied().unwrap_or(0);
        let end = self
            .lines
            .get(line + 1)
            .map_or(self.text.len(), |next| next - 1);
        let first = if is_extra {
            self.line_of(self.extra_at)
        } else {
            0
        };
        let whole = self.text.get(start..end.max(start)).unwrap_or_default();
        let (before, from) = whole.split_at(offset.saturating_sub(start).min(whole.len()));
        let before = before
            .get(before.len().saturating_sub(SHOWN)..)
            .unwrap_or_default();
        let from = from.get(..SHOWN).unwrap_or(from);
        let from = from.strip_suffix(b"\r").unwrap_or(from);
        let before = String::from_utf8_lossy(before).into_owned();
        let wanted = at.end.saturating_sub(offset).min(from.len());
        Message {
            offset,
            file: if is_extra { "command line" } else { &self.name }.to_owned(),
            line: line - first + 1,
            column: self.chars_before(offset) - self.chars_before(start) + 1,
            width: small(count_chars(from.get(..wanted).unwrap_or_default())).max(1),
            lead: small(before.len()),
            shown: before + &String::from_utf8_lossy(from),
            text: text.into(),
        }
    }

    fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset) - 1
    }

    fn chars_before(&self, offset: usize) -> usize {
        let whole = offset / STRIDE;
        let rest = self.text.get(whole * STRIDE..offset).unwrap_or_default();
        let before = self.chars.get(whole).copied();
        // behind the last byte there may be no entry any more
        before.unwrap_or_else(|| count_chars(&self.text)) + count_chars(rest)
    }
}

/// Gives a length within what is shown of a line.
fn small(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Counts characters of UTF-8; a byte that belongs to none is one too.
fn count_chars(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

/// An error or a warning about one place of a configuration, or about all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// File's name, or `command line`.
    pub file: String,
    /// From 1; 0 where all of it is meant.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub text: String,
    /// Where in the text, to sort by.
    pub(super) offset: usize,
    /// The line, or the part of it around the place.
    shown: String,
    /// Bytes of `shown` before the caret, and characters that it is wide.
    lead: u16,
    width: u16,
}

impl std::error::Error for Message {}

impl fmt::Display for Message {
    /// Writes three lines: where and what, the line itself, the caret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file, self.text);
        }
        // The line's tabs stay under the caret's, so that both are shown at the same columns.
        let before = self.shown.get(..self.lead.into()).unwrap_or_default();
        let lead: String = before
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.text
        )?;
        writeln!(f, "    {}", self.shown)?;
        write!(f, "    {lead}{}", "^".repeat(self.width.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[&str] = &[];

    fn find(source: &Source, what: &str) -> Range<usize> {
        let text = std::str::from_utf8(source.text()).unwrap();
        let at = text.find(what).unwrap();
        at..at + what.len()
    }

    #[test]
    fn a_message_shows_its_line_with_a_caret() {
        let source = Source::new("web.cfg", b"name=\"web\"\n\tmemory = lots\n", &["vcpus=0"]);
        assert_eq!(
            source
                .message(find(&source, "lots"), "no number")
                .to_string(),
            "web.cfg:2:11: no number\n    \tmemory = lots\n    \t         ^^^^"
        );
        assert_eq!(
            source.message(find(&source, "vcpus"), "odd").to_string(),
            "command line:1:1: odd\n    vcpus=0\n    ^^^^^"
        );
        assert_eq!(source.message_of_all("empty").to_string(), "web.cfg: empty");
    }

    #[test]
    fn a_place_beyond_the_end_is_still_shown() {
        let source = Source::new("a", b"x=\"y", NONE);
        assert_eq!(source.message(99..99, "ends early").line, 2);
        assert_eq!(Source::new("a", b"", NONE).message(0..0, "empty").line, 1);
    }

    #[test]
    fn columns_are_characters_however_long_the_line() {
        let long = "é".repeat(5000) + "x=1";
        let source = Source::new("a", long.as_bytes(), NONE);
        let message = source.message(find(&source, "x=1"), "odd");
        assert_eq!((message.line, message.column), (1, 5001));
        assert!(message.to_string().len() < 1000);
        let latin = Source::new("a", b"kernel='/caf\xe9'; x=1", NONE);
        let message = latin.message(17..18, "odd");
        assert_eq!(message.column, 18);
        assert!(message.to_string().contains("caf\u{fffd}"));
    }
}
