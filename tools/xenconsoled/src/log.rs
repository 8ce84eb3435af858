//! Log files that stay small: at its limit a file is renamed to NAME.1, that one to NAME.2, and so on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Limits and form of logs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Bytes at which a file is renamed.
    pub(crate) limit: u64,
    /// How many renamed files are kept.
    pub(crate) keep: u32,
    /// Whether lines begin with the time.
    pub(crate) has_time: bool,
    /// Whether a dot stands for each escape character, so that a log shown on a terminal does nothing to it.
    pub(crate) replaces_escape: bool,
}

/// One log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    form: Form,
    is_at_line_start: bool,
}

impl Log {
    /// Opens `DIR/STEM.log` for appending, and makes the directory. A stem from a guest's name is made harmless.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open(dir: &Path, stem: &str, form: Form) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}.log", harmless(stem)));
        let file = append_to(&path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            len,
            form,
            is_at_line_start: true,
        })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// The disk is full, or the like: the caller goes on without.
    pub(crate) fn write(&mut self, bytes: &[u8], now: SystemTime) -> io::Result<()> {
        let replaced;
        let bytes = if self.form.replaces_escape {
            replaced = without_escape(bytes);
            &replaced
        } else {
            bytes
        };
        let stamped;
        let out = if self.form.has_time {
            stamped = self.stamp(bytes, now);
            &stamped
        } else {
            bytes
        };
        let more = u64::try_from(out.len()).unwrap_or(u64::MAX);
        if self.len > 0 && self.len.saturating_add(more) > self.form.limit {
            self.rotate()?;
        }
        self.file.write_all(out)?;
        self.len = self.len.saturating_add(more);
        Ok(())
    }

    /// Puts the time before each line that begins in `bytes`.
    fn stamp(&mut self, bytes: &[u8], now: SystemTime) -> Vec<u8> {
        let prefix = format!("[{}] ", utc(now));
        let mut out = Vec::with_capacity(bytes.len() + prefix.len());
        for &byte in bytes {
            if self.is_at_line_start {
                out.extend_from_slice(prefix.as_bytes());
            }
            out.push(byte);
            self.is_at_line_start = byte == b'\n';
        }
        out
    }

    /// Opens the file anew, which may have been renamed; failing that, the old one stays in use.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let file = append_to(&self.path)?;
        self.len = file.metadata()?.len();
        self.file = file;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..self.form.keep).rev() {
            ignore_missing(fs::rename(numbered(n), numbered(n + 1)))?;
        }
        if self.form.keep > 0 {
            fs::rename(&self.path, numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = append_to(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn without_escape(bytes: &[u8]) -> Vec<u8> {
    const ESCAPE: u8 = 0x1b;
    let shown = |byte: &u8| if *byte == ESCAPE { b'.' } else { *byte };
    bytes.iter().map(shown).collect()
}

fn append_to(path: &Path) -> io::Result<File> {
    private_file::append(path)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Replaces what would lead out of the directory or hide the file.
fn harmless(stem: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.+@:".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = stem.chars().take(200).map(allowed).collect();
    if name.starts_with('.') {
        name.replacen('.', "_", 1)
    } else {
        name
    }
}

/// Writes a time as `YYYY-MM-DD HH:MM:SS+0000`.
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86400, seconds % 86400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}+0000")
}

/// Returns year, month and day of the day `days` after 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted in eras of 400 years that begin on the first of March, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FORM: Form = Form {
        limit: 10,
        keep: 2,
        has_time: false,
        replaces_escape: false,
    };

    #[test]
    fn full_logs_are_renamed_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), "guest-web", FORM).unwrap();
        for text in ["aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"] {
            log.write(text.as_bytes(), SystemTime::now()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("guest-web.log").as_deref(), Some("dddddddd"));
        assert_eq!(read("guest-web.log.1").as_deref(), Some("cccccccc"));
        assert_eq!(read("guest-web.log.2").as_deref(), Some("bbbbbbbb"));
        assert_eq!(read("guest-web.log.3"), None);
    }

    #[test]
    fn a_log_that_was_renamed_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), "g", FORM).unwrap();
        log.write(b"one", SystemTime::now()).unwrap();
        fs::rename(dir.path().join("g.log"), dir.path().join("old")).unwrap();
        log.reopen().unwrap();
        log.write(b"two", SystemTime::now()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("old"), read("g.log")), ("one".into(), "two".into()));
    }

    #[test]
    fn escapes_become_dots_if_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let form = Form {
            replaces_escape: true,
            ..FORM
        };
        let mut log = Log::open(dir.path(), "g", form).unwrap();
        log.write(b"\x1b[1mx\n", SystemTime::now()).unwrap();
        let text = fs::read(dir.path().join("g.log")).unwrap();
        assert_eq!(text, b".[1mx\n");
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_directory() {
        assert_eq!(harmless("../../etc/passwd"), "_._.._etc_passwd");
        assert_eq!(harmless("guest-web.1"), "guest-web.1");
    }

    #[test]
    fn lines_begin_with_the_time_once() {
        let dir = tempfile::tempdir().unwrap();
        let form = Form {
            limit: 1000,
            has_time: true,
            ..FORM
        };
        let mut log = Log::open(dir.path(), "g", form).unwrap();
        let leap = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_208_061);
        log.write(b"one\ntw", leap).unwrap();
        log.write(b"o\n", leap).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("g.log")).unwrap(),
            "[2024-02-29 12:01:01+0000] one\n[2024-02-29 12:01:01+0000] two\n"
        );
    }

    #[test]
    fn dates_agree_with_a_naive_count() {
        let is_leap =
            |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
        let mut days = 0;
        for year in 1970..2105 {
            for (month, len) in (1..).zip([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
                let len = len + u64::from(month == 2 && is_leap(year));
                assert_eq!(date(days), (year, month, 1));
                assert_eq!(date(days + len - 1), (year, month, len));
                days += len;
            }
        }
    }
}
