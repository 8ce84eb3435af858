//! What is wrong in a configuration, and where: `web.cfg:3:10: …`, the line, and a caret below it.

use std::fmt;
use std::ops::Range;

/// A configuration's text with its parts: the file, then the words of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    text: String,
    /// Where the command line's words start in `text`.
    extra_at: usize,
}

impl Source {
    /// Joins a file's text and the words that follow it on the command line, one a line.
    pub(crate) fn new<S: AsRef<str>>(name: &str, text: &str, extra: &[S]) -> Self {
        let mut joined = text.to_owned();
        if !joined.is_empty() && !joined.ends_with('\n') {
            joined.push('\n');
        }
        let extra_at = joined.len();
        for word in extra {
            joined.push_str(word.as_ref());
            joined.push('\n');
        }
        Self {
            name: name.to_owned(),
            text: joined,
            extra_at,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Makes a message about the bytes `at` of the text.
    pub(crate) fn message(&self, at: Range<usize>, text: impl Into<String>) -> Message {
        let offset = at.start.min(self.text.len());
        let (file, part) = if offset >= self.extra_at && self.extra_at < self.text.len() {
            ("command line", self.extra_at..self.text.len())
        } else {
            (
                self.name.as_str(),
                0..self.extra_at.max(1).min(self.text.len()),
            )
        };
        let part_text = self.text.get(part.clone()).unwrap_or_default();
        let within = offset.saturating_sub(part.start).min(part_text.len());
        let before = part_text.get(..within).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let shown = part_text
            .get(line_start..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let column = before.get(line_start..).map_or(0, |s| s.chars().count());
        let room = shown.chars().count().saturating_sub(column);
        let wanted = self
            .text
            .get(at)
            .map_or(1, |s| s.lines().next().unwrap_or_default().chars().count());
        Message {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: column + 1,
            width: wanted.min(room).max(1),
            shown: shown.to_owned(),
            text: text.into(),
        }
    }
}

/// An error or a warning about one place of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// File's name, or `command line`.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub text: String,
    shown: String,
    width: usize,
}

impl std::error::Error for Message {}

impl fmt::Display for Message {
    /// Writes three lines: where and what, the line itself, the caret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The line's tabs stay under the caret's, so that both are shown at the same columns.
        let lead: String = self
            .shown
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.text
        )?;
        writeln!(f, "    {}", self.shown)?;
        write!(f, "    {lead}{}", "^".repeat(self.width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_its_line_with_a_caret() {
        let source = Source::new("web.cfg", "name=\"web\"\n\tmemory = lots\n", &["vcpus=0"]);
        let at = source.text().find("lots").unwrap();
        assert_eq!(
            source.message(at..at + 4, "no number").to_string(),
            "web.cfg:2:11: no number\n    \tmemory = lots\n    \t         ^^^^"
        );
        let at = source.text().find("vcpus").unwrap();
        assert_eq!(
            source.message(at..at + 5, "odd").to_string(),
            "command line:1:1: odd\n    vcpus=0\n    ^^^^^"
        );
    }

    #[test]
    fn a_place_beyond_the_end_is_still_shown() {
        let source = Source::new("a", "x=\"y", &[] as &[&str]);
        assert_eq!(source.message(99..99, "ends early").line, 2);
        assert_eq!(
            Source::new("a", "", &[] as &[&str])
                .message(0..0, "empty")
                .line,
            1
        );
    }
}
