//! Settings by key: which one counts, as what type, and which nobody asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::message::{Message, Source};
use super::syntax::{Kind, Setting, Value};

/// The settings of one configuration, each key with its final value.
pub(crate) struct Settings<'a> {
    source: &'a Source,
    values: BTreeMap<String, Entry>,
    asked: RefCell<BTreeSet<String>>,
    warnings: RefCell<Vec<Message>>,
}

/// A key's final value.
pub(crate) struct Entry {
    pub(crate) key_at: Range<usize>,
    pub(crate) value: Value,
}

impl<'a> Settings<'a> {
    /// Lets later assignments win and `+=` lengthen.
    ///
    /// # Errors
    /// `+=` of a list to a string, or the other way round.
    pub(crate) fn new(source: &'a Source, settings: Vec<Setting>) -> Result<Self, Message> {
        let mut values: BTreeMap<String, Entry> = BTreeMap::new();
        for Setting {
            key,
            key_at,
            append,
            value,
        } in settings
        {
            match values.get_mut(&key) {
                Some(entry) if append => lengthen(source, &mut entry.value, value)?,
                _ => drop(values.insert(key, Entry { key_at, value })),
            }
        }
        Ok(Self {
            source,
            values,
            asked: RefCell::default(),
            warnings: RefCell::default(),
        })
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
    /// A list.
    pub(crate) fn string(&self, key: &str) -> Result<Option<(&str, Range<usize>)>, Message> {
        self.get(key)
            .map(|entry| Ok((self.atom(key, &entry.value)?, entry.value.at.clone())))
            .transpose()
    }

    /// Gives a string that is not empty.
    ///
    /// # Errors
    /// A list.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, Message> {
        Ok(self
            .string(key)?
            .map(|(text, _)| text.to_owned())
            .filter(|text| !text.is_empty()))
    }

    /// Gives a value that must be text.
    ///
    /// # Errors
    /// A list.
    pub(crate) fn atom<'v>(&self, key: &str, value: &'v Value) -> Result<&'v str, Message> {
        match &value.kind {
            Kind::Atom(text) => Ok(text),
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
        let number = integer(text)
            .ok_or_else(|| self.error(&at, format!("{key} takes a number, not \"{text}\"")))?;
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
            None => Err(self.error(&at, format!("{key} takes 1 or 0, not \"{text}\""))),
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

    /// Warns of each key that nobody asked for, with the nearest known one; gives all warnings in the text's order.
    pub(crate) fn into_warnings(self) -> Vec<Message> {
        let asked = self.asked.borrow();
        for (key, entry) in self.values.iter().filter(|(key, _)| !asked.contains(*key)) {
            let hint = nearest(key, asked.iter().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean {near}?"));
            self.warn(&entry.key_at, format!("unknown key {key} is ignored{hint}"));
        }
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(|m| (m.file == "command line", m.line, m.column));
        warnings
    }
}

fn lengthen(source: &Source, to: &mut Value, by: Value) -> Result<(), Message> {
    match (&mut to.kind, by.kind) {
        (Kind::Atom(text), Kind::Atom(more)) => text.push_str(&more),
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
    Some(if negative { -number } else { number })
}

/// Gives the name that a misspelt word most likely means: at most two edits away.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (edits(word, name), name))
        .filter(|(edits, name)| *edits <= 2 && *edits < name.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(b.chars()) {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = *cell;
            *cell = replaced.min(left + 1).min(diagonal + 1);
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
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

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        let names = ["memory", "maxmem", "vcpus", "vif"];
        assert_eq!(nearest("memroy", names.into_iter()), Some("memory"));
        assert_eq!(nearest("vcpu", names.into_iter()), Some("vcpus"));
        assert_eq!(nearest("banana", names.into_iter()), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
