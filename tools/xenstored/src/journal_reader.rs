//! Reads a [`crate::journal`], whatever has become of it: from frame to frame by their marks, counting what is missing.

use std::fmt;

use crate::journal::{HEAD, MAGIC, Mark};
use crate::record::Record;

/// What was read of a journal.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) records: Vec<Record>,
    pub(crate) damage: Damage,
}

/// What could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Frames with what rounds of requests have changed.
    pub(crate) rounds: u64,
    /// Frames with parts of the snapshot.
    pub(crate) parts: u64,
    /// Bytes at the end that are the start of a frame: it was being written when the daemon was killed.
    pub(crate) cut_off: usize,
    /// Bytes at the end that are no frame: frames that were damaged, of unknown number.
    pub(crate) unknown: usize,
    /// The file's own head does not agree with its frames.
    pub(crate) head: bool,
}

impl Damage {
    /// Tells whether something is lost that somebody may have been told of.
    pub(crate) fn is_loss(&self) -> bool {
        self.rounds > 0 || self.parts > 0 || self.unknown > 0
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Vec::new();
        if self.rounds > 0 {
            let what = "what that many rounds of requests changed is lost";
            all.push(format!("{} frames are damaged: {what}", self.rounds));
        }
        if self.parts > 0 {
            let what = "the nodes, watches or domains in them are lost";
            all.push(format!(
                "{} parts of the snapshot are damaged: {what}",
                self.parts
            ));
        }
        if self.unknown > 0 {
            all.push(format!("the last {} bytes are damaged", self.unknown));
        }
        if self.cut_off > 0 {
            all.push("the last frame was cut off; nobody was told of what it held".to_owned());
        }
        if self.head {
            all.push("the file's head is damaged".to_owned());
        }
        f.write_str(&all.join("; "))
    }
}

/// A frame's head, whose checksum was right.
#[derive(Clone, Copy, Debug)]
struct Head {
    number: u64,
    parts: u32,
    len: usize,
    checksum: u32,
}

impl Head {
    fn read(mark: &Mark, from: &[u8]) -> Option<Self> {
        let (checked, rest) = from.split_at_checked(HEAD - 4)?;
        let (sum, _) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*sum) {
            return None;
        }
        let fields = checked.strip_prefix(mark)?;
        let (number, fields) = fields.split_first_chunk::<8>()?;
        let (parts, fields) = fields.split_first_chunk::<4>()?;
        let (len, fields) = fields.split_first_chunk::<8>()?;
        let (checksum, _) = fields.split_first_chunk::<4>()?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            parts: u32::from_le_bytes(*parts),
            len: usize::try_from(u64::from_le_bytes(*len)).ok()?,
            checksum: u32::from_le_bytes(*checksum),
        })
    }

    /// Takes the body off what follows the head.
    fn body(self, after: &[u8]) -> Option<&[u8]> {
        let body = after.get(..self.len)?;
        (crc32fast::hash(body) == self.checksum).then_some(body)
    }
}

/// Reads a whole file; `None`: there is no frame in it, and it does not even begin as a journal does.
pub(crate) fn read_file(bytes: &[u8]) -> Option<Loaded> {
    let Some((head, frames)) = bytes.split_at_checked(MAGIC.len() + size_of::<Mark>()) else {
        // Nothing was ever written behind the head; an empty file is no journal either.
        return bytes.starts_with(MAGIC).then(Loaded::default);
    };
    let (magic, mark) = head.split_at(MAGIC.len());
    // The first frame has the mark as well: one of the two may be damaged.
    let marks = [mark, frames.get(..size_of::<Mark>()).unwrap_or(mark)];
    let mut all = marks.into_iter().filter_map(|mark| {
        let mut reader = Reader::new(mark.try_into().ok()?);
        reader.read(frames);
        Some(reader).filter(|reader| reader.found > 0)
    });
    let is_head_right = |reader: &Reader| magic == MAGIC && mark == reader.mark;
    match all.next() {
        Some(mut reader) => {
            reader.loaded.damage.head = !is_head_right(&reader);
            Some(reader.loaded)
        }
        None if magic == MAGIC => Some(Loaded {
            damage: Damage {
                unknown: frames.len(),
                ..Damage::default()
            },
            ..Loaded::default()
        }),
        None => None,
    }
}

/// The walk from frame to frame.
#[derive(Debug)]
struct Reader {
    mark: Mark,
    loaded: Loaded,
    /// Frames whose heads were right.
    found: u64,
    /// The next frame's number, if none is missing.
    expected: u64,
    /// Parts of the snapshot that are still to come; unknown before the first.
    parts: Option<u32>,
}

impl Reader {
    fn new(mark: Mark) -> Self {
        Self {
            mark,
            loaded: Loaded::default(),
            found: 0,
            expected: 0,
            parts: None,
        }
    }

    fn read(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            let Some(head) = Head::read(&self.mark, rest) else {
                match self.next_mark(rest) {
                    Some(at) => rest = rest.get(at..).unwrap_or_default(),
                    None => return self.end(rest),
                }
                continue;
            };
            let after = rest.get(HEAD..).unwrap_or_default();
            self.found += 1;
            self.skip_to(head);
            if let Some(body) = head.body(after) {
                self.take(head, body);
                rest = after.get(head.len..).unwrap_or_default();
            } else if let Some(at) = self.next_mark(after) {
                self.lose(1, head.parts > 0);
                rest = after.get(at..).unwrap_or_default();
            } else if after.len() < head.len && head.parts == 0 {
                self.loaded.damage.cut_off = rest.len();
                break;
            } else {
                self.lose(1, head.parts > 0);
                break;
            }
        }
        self.end(&[]);
    }

    /// Finds the next mark behind the first byte.
    fn next_mark(&self, bytes: &[u8]) -> Option<usize> {
        let mut windows = bytes.windows(self.mark.len()).skip(1);
        windows
            .position(|window| window == self.mark)
            .map(|at| at + 1)
    }

    /// Counts the frames that are missing before this one.
    fn skip_to(&mut self, head: Head) {
        let missing = head.number.saturating_sub(self.expected);
        // A snapshot comes first; how much of it there was, its parts tell.
        let parts = match self.parts {
            None if head.parts > 0 => missing,
            None => missing.min(1),
            Some(left) => missing.min(u64::from(left).saturating_sub(u64::from(head.parts))),
        };
        self.lose(parts, true);
        self.lose(missing - parts, false);
        self.expected = head.number.saturating_add(1);
        self.parts = Some(head.parts.saturating_sub(1));
    }

    fn take(&mut self, head: Head, mut body: &[u8]) {
        while !body.is_empty() {
            let Some(record) = Record::decode(&mut body) else {
                log::error!("journal: frame {} has a malformed record", head.number);
                return self.lose(1, head.parts > 0);
            };
            self.loaded.records.push(record);
        }
    }

    fn lose(&mut self, count: u64, is_snapshot: bool) {
        let damage = &mut self.loaded.damage;
        *(if is_snapshot {
            &mut damage.parts
        } else {
            &mut damage.rounds
        }) += count;
    }

    /// Ends with bytes in which there is no further frame.
    fn end(&mut self, rest: &[u8]) {
        let left = self.parts.take().unwrap_or(0);
        self.lose(left.into(), true);
        let start = rest.get(..self.mark.len()).unwrap_or(rest);
        let damage = &mut self.loaded.damage;
        if !rest.is_empty() && rest.len() < HEAD && self.mark.starts_with(start) {
            damage.cut_off = rest.len();
        } else {
            damage.unknown += rest.len();
        }
    }
}
