//! Settings by key: which one counts, as what type, and which nobody asked for.
//!
//! What is wrong is noted and reading goes on, so that one run tells everything: [`Settings::keep`] takes a mistake's
//! place and gives nothing in its stead, and [`Settings::finish`] gives all of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::message::{Message, Source};
use super::nearest;
use super::syntax::{self, Kind, Setting, Value};

/// Of so many unknown keys the nearest known one is looked for.
const HINTS: usize = 100;

/// The settings of one configuration, each key with its final value.
pub(crate) struct Settings<'a> {
    source: &'a Source,
    values: BTreeMap<String, Entry>,
    asked: RefCell<BTreeSet<String>>,
    warnings: RefCell<Vec<Message>>,
    errors: RefCell<Vec<Message>>,
    /// Keys that must be there and are not, each with an example.
    missing: RefCell<Vec<(&'static str, &'static str)>>,
    /// Some of the text could not be read: what seems to be missing may be in there.
    is_broken: bool,
}

/// A key's final value.
pub(crate) struct Entry {
    pub(crate) key_at: Range<usize>,
    pub(crate) value: Value,
}

impl<'a> Settings<'a> {
    /// Reads a text: later assignments win, `+=` lengthens.
    pub(crate) fn new(source: &'a Source) -> Self {
        let mut values: BTreeMap<String, Entry> = BTreeMap::new();
        let (settings, mut errors) = syntax::parse(source);
        let is_broken = !errors.is_empty();
        for Setting {
            key,
            key_at,
            append,
            value,
        } in settings
        {
            match values.get_mut(&key) {
                Some(entry) if append => {
                    errors.extend(lengthen(source, &mut entry.value, value).err());
                }
                _ => drop(values.insert(key, Entry { key_at, value })),
            }
        }
        Self {
            source,
            values,
            asked: RefCell::default(),
            warnings: RefCell::default(),
            errors: RefCell::new(errors),
            missing: RefCell::default(),
            is_broken,
        }
    }

    /// Notes an error; `None` in place of what is wrong.
    pub(crate) fn keep<T>(&self, result: Result<T, Message>) -> Option<T> {
        result
            .map_err(|error| self.errors.borrow_mut().push(error))
            .ok()
    }

    /// Notes that a key is missing.
    pub(crate) fn miss(&self, key: &'static str, example: &'static str) {
        self.missing.borrow_mut().push((key, example));
    }

    /// Makes an error about a place.
    pub(crate) fn error(&self, at: &Range<usize>, text: impl Into<String>) -> Message {
        self.source.message(at.clone(), text)
    }

    /// Notes a warning about a place.
    pub(crate) fn warn(&self, at: &Range<usize>, text: impl Into<String>) {
        self.warnings
            .borrow_mut()
            .push(self.source.message(at.clone(), text));
    }

    /// Gives a key's value and marks the key as known.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.values.get(key)
    }

    /// Gives a string or number as text.
    ///
    /// # Errors
    /// A list, or bytes that are no UTF-8.
    pub(crate) fn string(&self, key: &str) -> Result<Option<(&str, Range<usize>)>, Message> {
        self.get(key)
            .map(|entry| Ok((self.atom(key, &entry.value)?, entry.value.at.clone())))
            .transpose()
    }

    /// Gives a path that is not empty, whatever bytes it has.
    ///
    /// # Errors
    /// A list.
    pub(crate) fn path(&self, key: &str) -> Result<Option<PathBuf>, Message> {
        let bytes = self
            .get(key)
            .map(|entry| self.bytes(key, &entry.value))
            .transpose()?;
        let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
        Ok(bytes.filter(|bytes| !bytes.is_empty()).map(path))
    }

    /// Gives a string that is not empty.
    ///
    /// # Errors
    /// A list, or bytes that are no UTF-8.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, Message> {
        Ok(self
            .string(key)?
            .map(|(text, _)| text.to_owned())
            .filter(|text| !text.is_empty()))
    }

    /// Gives a value that must be text.
    ///
    /// # Errors
    /// A list, or bytes that are no UTF-8.
    pub(crate) fn atom<'v>(&self, key: &str, value: &'v Value) -> Result<&'v str, Message> {
        std::str::from_utf8(self.bytes(key, value)?).map_err(|error| {
            let at = value.at.start + 1 + error.valid_up_to();
            self.error(&(at..at + 1), format!("{key} has bytes that are no UTF-8"))
        })
    }

    /// Gives a value that is no list.
    ///
    /// # Errors
    /// A list.
    pub(crate) fn bytes<'v>(&self, key: &str, value: &'v Value) -> Result<&'v [u8], Message> {
        match &value.kind {
            Kind::Atom(bytes) => Ok(bytes),
            Kind::List(_) => {
                Err(self.error(&value.at, format!("{key} takes one value, not a list")))
            }
        }
    }

    /// Gives a number within a range: decimal, or hex after `0x`.
    ///
    /// # Errors
    /// No number, or one outside.
    pub(crate) fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, Message> {
        let Some((text, at)) = self.string(key)? else {
            return Ok(None);
        };
        let number = integer(text).ok_or_else(|| {
            let hint = match syntax::mebibytes(text) {
                Some(mib) if key.contains("mem") => format!("; it is in MiB: {mib}"),
                _ => String::new(),
            };
            self.error(&at, format!("{key} takes a number, not \"{text}\"{hint}"))
        })?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (low, high) = range.into_inner();
        Err(self.error(&at, format!("{key} is from {low} to {high}, not {number}")))
    }

    /// Gives a number as `u32`.
    ///
    /// # Errors
    /// No number, or one above `most`.
    pub(crate) fn number_u32(&self, key: &str, most: u32) -> Result<Option<u32>, Message> {
        Ok(self
            .number(key, 0..=i64::from(most))?
            .and_then(|n| u32::try_from(n).ok()))
    }

    /// Gives a yes or no, which the format writes as 1 or 0.
    ///
    /// # Errors
    /// Anything but a number.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, Message> {
        let Some((text, at)) = self.string(key)? else {
            return Ok(None);
        };
        match integer(text) {
            Some(number) => Ok(Some(number != 0)),
            None => {
                let hint = match text.to_ascii_lowercase().as_str() {
                    "yes" | "true" | "on" => "; yes is 1",
                    "no" | "false" | "off" => "; no is 0",
                    _ => "",
                };
                Err(self.error(&at, format!("{key} takes 1 or 0, not \"{text}\"{hint}")))
            }
        }
    }

    /// Gives a list's elements; a single string counts as a list of one if `or_one`.
    ///
    /// # Errors
    /// A string where a list is needed.
    pub(crate) fn list(&self, key: &str, or_one: bool) -> Result<Option<&[Value]>, Message> {
        match self.get(key).map(|entry| &entry.value) {
            None => Ok(None),
            Some(Value {
                kind: Kind::List(items),
                ..
            }) => Ok(Some(items)),
            Some(value) if or_one => Ok(Some(std::slice::from_ref(value))),
            Some(value) => {
                Err(self.error(&value.at, format!("{key} takes a list: {key} = [ \"…\" ]")))
            }
        }
    }

    /// Gives all errors and all warnings, each in the text's order. A key that nobody asked for is warned of, with the
    /// nearest known one; where that one is missing, the two are one error.
    pub(crate) fn finish(self) -> (Vec<Message>, Vec<Message>) {
        let asked = self.asked.borrow();
        let mut missing = self.missing.take();
        let unknown = self.values.iter().filter(|(key, _)| !asked.contains(*key));
        for (count, (key, entry)) in unknown.enumerate() {
            // What is missing is meant before what is there.
            let names = || missing.iter().map(|(name, _)| *name);
            let near = (count < HINTS)
                .then(|| nearest(key, names()))
                .flatten()
                .or_else(|| {
                    let known = asked.iter().map(String::as_str);
                    (count < HINTS).then(|| nearest(key, known)).flatten()
                });
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            let is_missing = |(known, _): &(&str, &str)| near == Some(known);
            match missing.iter().position(is_missing) {
                Some(at) => {
                    let (near, example) = missing.remove(at);
                    let text = format!("unknown key {key}{hint} {near} is missing: {example}");
                    self.errors
                        .borrow_mut()
                        .push(self.error(&entry.key_at, text));
                }
                None => self.warn(&entry.key_at, format!("unknown key {key} is ignored{hint}")),
            }
        }
        // What seems to be missing may be where the text could not be read.
        for (key, example) in missing.into_iter().filter(|_| !self.is_broken) {
            let text = format!("{key} is missing: {example}");
            self.errors
                .borrow_mut()
                .push(self.source.message_of_all(text));
        }
        let in_order = |mut messages: Vec<Message>| {
            messages.sort_by_key(|message| message.offset);
            messages
        };
        (in_order(self.errors.take()), in_order(self.warnings.take()))
    }
}

fn lengthen(source: &Source, to: &mut Value, by: Value) -> Result<(), Message> {
    match (&mut to.kind, by.kind) {
        (Kind::Atom(text), Kind::Atom(more)) => text.extend(more),
        (Kind::List(items), Kind::List(more)) => items.extend(more),
        (Kind::Atom(_), Kind::List(_)) => {
            return Err(source.message(by.at, "a list cannot be added to a string"));
        }
        (Kind::List(_), Kind::Atom(_)) => {
            return Err(source.message(by.at, "a string cannot be added to a list"));
        }
    }
    Ok(())
}

/// Reads a number as C does: decimal, `0x` hex, leading `0` octal.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let number = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(hex) => i64::from_str_radix(hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse(),
    }
    .ok()?;
    if negative {
        number.checked_neg()
    } else {
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        assert_eq!(integer("0x10"), Some(16));
        assert_eq!(integer("010"), Some(8));
        assert_eq!(integer("-3"), Some(-3));
        assert_eq!(integer("12f"), None);
        assert_eq!(integer(""), None);
    }
}
