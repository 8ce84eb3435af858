//! The journal: what the daemon must still know after it was killed.
//!
//! One file in /run, of frames: each has a head (mark, number, length, checksums) and a body of records. A frame holds all
//! that one round of the main loop did, and is appended by one `write` before any reply of that round leaves; so whatever
//! a client has seen is in the file, and a frame that was cut off was never answered. The file outlives the process, not
//! the machine: /run is memory, and no `fsync` is needed. When it has grown, it is written anew from a snapshot, in
//! frames of its own, and renamed.
//!
//! A damaged frame costs that frame only: the next one is found by its mark, which is random for each file, so that no
//! guest can write a value that looks like a frame. What is missing is counted by the frames' numbers.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::record::Record;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"HXSTORE2";
/// The file is not rewritten below this size.
const SMALL: u64 = 1 << 20;
/// A snapshot's frame is closed once it holds this many bytes.
const PART: usize = 1 << 14;

/// What each frame of one file begins with.
type Mark = [u8; 16];

/// Bytes of a frame's head: mark, number, parts that follow, body's length and checksum, the head's own checksum.
const HEAD: usize = 16 + 8 + 4 + 8 + 4 + 4;

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    mark: Mark,
    /// Frames written so far.
    count: u64,
    len: u64,
    compact_above: u64,
}

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

impl Journal {
    /// Reads the journal at `path`; no file is an empty one.
    ///
    /// # Errors
    /// It exists and cannot be read, or is something else.
    pub(crate) fn load(path: &Path) -> io::Result<Loaded> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(error),
        };
        read_file(&bytes).ok_or_else(|| {
            let what = "is no journal of this xenstored; remove it or choose another --state-dir";
            io::Error::new(io::ErrorKind::InvalidData, what)
        })
    }

    /// Replaces the journal at `path` by a snapshot, and opens it for more.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(path: &Path, snapshot: &[Record]) -> io::Result<Self> {
        let mut mark = Mark::default();
        File::open("/dev/urandom")?.read_exact(&mut mark)?;
        let (bytes, count) = new_file(&mark, snapshot);
        let (file, len) = write_new(path, &bytes)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            mark,
            count,
            len,
            compact_above: limit_for(len),
        })
    }

    /// Puts `records` on file: appended, or all anew from `snapshot` once the file has grown or where that fails.
    ///
    /// # Errors
    /// Neither can be written; the file lacks these records.
    pub(crate) fn write(
        &mut self,
        records: &[Record],
        snapshot: impl FnOnce() -> Vec<Record>,
    ) -> io::Result<()> {
        if let Err(error) = self.append(records) {
            log::warn!("journal: {error}; it is written anew");
            return self.compact(&snapshot());
        }
        if self.len > self.compact_above
            && let Err(error) = self.compact(&snapshot())
        {
            log::warn!("journal: cannot be shortened: {error}");
            self.compact_above = limit_for(self.len);
        }
        Ok(())
    }

    /// Gives the journal up: the file is gone.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }

    /// Appends one frame; where that fails, the file is cut back to what it was.
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let frame = frame(&self.mark, self.count, 0, &encode(records));
        if let Err(error) = self.file.write_all(&frame) {
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.count += 1;
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Writes the file anew; where that fails, the old one stays in use.
    fn compact(&mut self, snapshot: &[Record]) -> io::Result<()> {
        *self = Self::create(&self.path, snapshot)?;
        Ok(())
    }

    /// Has appends fail from now on, as on a full file system.
    #[cfg(test)]
    pub(crate) fn fail_appends(&mut self) {
        let full = OpenOptions::new().append(true).open("/dev/full");
        self.file = full.expect("Linux has it");
    }
}

fn limit_for(len: u64) -> u64 {
    SMALL.max(len.saturating_mul(4))
}

/// Writes a journal beside the one at `path` and puts it in its place; what was begun does not stay.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<(File, u64)> {
    let new = path.with_extension("new");
    let written = write_file(&new, bytes).and_then(|()| {
        // Later writes go to the end, wherever a failed one left off.
        let file_at_end = OpenOptions::new().append(true).open(&new)?;
        fs::rename(&new, path)?;
        Ok(file_at_end)
    });
    if written.is_err() {
        // It takes room that others lack; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&new);
    }
    Ok((written?, bytes.len() as u64))
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    private_file::create(path)?.write_all(bytes)
}

/// Makes a file of a snapshot; tells how many frames it has.
fn new_file(mark: &Mark, snapshot: &[Record]) -> (Vec<u8>, u64) {
    let mut parts = vec![Vec::new()];
    for record in snapshot {
        if parts.last().is_some_and(|part| part.len() >= PART) {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            record.encode(part);
        }
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(mark);
    let mut following = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let mut count = 0;
    for part in &parts {
        bytes.extend_from_slice(&frame(mark, count, following, part));
        count += 1;
        following = following.saturating_sub(1);
    }
    (bytes, count)
}

fn encode(records: &[Record]) -> Vec<u8> {
    let mut body = Vec::new();
    records.iter().for_each(|record| record.encode(&mut body));
    body
}

/// Makes a frame; `parts` is how many of the snapshot begin here, 0 for what a round has changed.
fn frame(mark: &Mark, number: u64, parts: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = mark.to_vec();
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&parts.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
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
fn read_file(bytes: &[u8]) -> Option<Loaded> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release(domid: u16) -> Record {
        Record::Release { domid }
    }

    fn records(path: &Path) -> Vec<Record> {
        Journal::load(path).unwrap().records
    }

    #[test]
    fn what_was_appended_is_read_back_and_a_cut_frame_is_dropped_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        assert_eq!(records(&path), []);
        let mut journal = Journal::create(&path, &[release(1)]).unwrap();
        journal.append(&[release(2), release(3)]).unwrap();
        journal.append(&[release(4), release(5)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let all = [1, 2, 3, 4, 5].map(release);
        assert_eq!(records(&path), all);
        let frame_4 = HEAD + encode(&[release(4), release(5)]).len();
        for cut in 1..=frame_4 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let loaded = Journal::load(&path).unwrap();
            assert_eq!(loaded.records, all[..3], "{cut}");
            assert!(!loaded.damage.is_loss(), "{cut}: {}", loaded.damage);
        }
    }

    #[test]
    fn compaction_replaces_the_file_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, &[]).unwrap();
        journal.append(&[release(1)]).unwrap();
        journal.compact(&[release(9)]).unwrap();
        journal.append(&[release(10)]).unwrap();
        assert_eq!(records(&path), [9, 10].map(release));
    }

    #[test]
    fn records_that_cannot_be_appended_are_in_a_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, &[release(1)]).unwrap();
        journal.fail_appends();
        journal
            .write(&[release(2)], || [1, 2].map(release).to_vec())
            .unwrap();
        journal.write(&[release(3)], Vec::new).unwrap();
        assert_eq!(records(&path), [1, 2, 3].map(release));
    }

    #[test]
    fn a_long_journal_that_cannot_be_shortened_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, &[]).unwrap();
        journal.compact_above = 0;
        fs::create_dir(path.with_extension("new")).unwrap();
        journal.write(&[release(1)], Vec::new).unwrap();
        journal.write(&[release(2)], Vec::new).unwrap();
        assert_eq!(records(&path), [1, 2].map(release));
    }

    #[test]
    fn another_file_is_not_overwritten_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "something else").unwrap();
        assert!(Journal::load(&path).is_err());
    }

    /// Makes a file of parts of a snapshot and rounds, and tells where each frame ends and what it holds.
    fn file_of(parts: usize, rounds: u16) -> (Vec<u8>, Vec<(usize, Vec<Record>)>) {
        let big = |n: usize| {
            Record::Op(crate::tree::Op::Write {
                path: format!("/{n}").into(),
                value: vec![b'v'; PART].into(),
                creator: 0,
            })
        };
        let mark = *b"0123456789abcdef";
        let snapshot: Vec<_> = (0..parts).map(big).collect();
        let (mut bytes, mut count) = new_file(&mark, &snapshot);
        let mut frames = Vec::new();
        let mut end = MAGIC.len() + mark.len();
        for record in snapshot {
            end += HEAD + encode(std::slice::from_ref(&record)).len();
            frames.push((end, vec![record]));
        }
        for n in 0..rounds {
            let round: Vec<_> = (0..=n % 3).map(|m| release(10 * n + m)).collect();
            bytes.extend_from_slice(&frame(&mark, count, 0, &encode(&round)));
            count += 1;
            frames.push((bytes.len(), round));
        }
        (bytes, frames)
    }

    fn but(frames: &[(usize, Vec<Record>)], lost: Option<usize>) -> Vec<Record> {
        let kept = frames.iter().enumerate().filter(|(n, _)| Some(*n) != lost);
        kept.flat_map(|(_, (_, records))| records.clone()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// One damaged byte costs the frame that it is in, which is counted; all others are back.
        #[test]
        fn a_damaged_byte_costs_its_frame_only(
            parts in 1usize..4, rounds in 1u16..6, at: prop::sample::Index, flip in 1u8..,
        ) {
            let (mut bytes, frames) = file_of(parts, rounds);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let loaded = read_file(&bytes).unwrap();
            let start = MAGIC.len() + size_of::<Mark>();
            let hit = frames.iter().position(|(end, _)| at < *end).filter(|_| at >= start);
            prop_assert_eq!(&loaded.records, &but(&frames, hit), "{}", loaded.damage);
            let is_last = hit == Some(frames.len() - 1);
            let damage = loaded.damage;
            match hit {
                None => prop_assert!(damage.head && !damage.is_loss()),
                Some(n) if n < parts => prop_assert_eq!((damage.parts, damage.rounds), (1, 0)),
                // Without a head it is not known that the last frame was one.
                Some(_) if is_last => prop_assert_eq!(
                    (damage.parts, damage.rounds, damage.unknown > 0), (0, u64::from(damage.unknown == 0), damage.rounds == 0)
                ),
                Some(_) => prop_assert_eq!((damage.parts, damage.rounds), (0, 1)),
            }
        }

        /// Bytes that are missing cost the frames that they are missing from: all that are still there whole, are back.
        #[test]
        fn missing_bytes_cost_their_frames_only(
            parts in 1usize..4, rounds in 2u16..6, at: prop::sample::Index, len in 1usize..30,
        ) {
            let (whole, frames) = file_of(parts, rounds);
            let start = MAGIC.len() + size_of::<Mark>();
            let at = start + at.index(whole.len() - start);
            let mut bytes = whole.clone();
            let gone = bytes.drain(at..(at + len).min(whole.len())).count();
            let starts = std::iter::once(start).chain(frames.iter().map(|(end, _)| *end));
            // What follows the gap may be what was taken: zeros at the end of a frame, and in the next one's head.
            let is_there: Vec<_> = starts.zip(&frames).map(|(start, (end, _))| {
                let frame = &whole[start..*end];
                let is_at = |at: usize| bytes.get(at..at + frame.len()) == Some(frame);
                is_at(start) || start.checked_sub(gone).is_some_and(is_at)
            }).collect();
            let kept = is_there.iter().zip(&frames).filter(|(is_there, _)| **is_there);
            let kept: Vec<_> = kept.flat_map(|(_, (_, records))| records.clone()).collect();
            let loaded = read_file(&bytes).unwrap();
            prop_assert_eq!(&loaded.records, &kept, "{}", loaded.damage);
            if is_there.last() == Some(&true) {
                let lost = is_there.iter().filter(|is_there| !**is_there).count() as u64;
                prop_assert!(lost > 0);
                prop_assert_eq!(loaded.damage.rounds + loaded.damage.parts, lost);
            }
        }

        /// A file that ends anywhere has all whole frames before; a round that was being written is no loss.
        #[test]
        fn a_file_that_ends_early_has_all_before(
            parts in 1usize..4, rounds in 1u16..6, at: prop::sample::Index,
        ) {
            let (mut bytes, frames) = file_of(parts, rounds);
            let start = MAGIC.len() + size_of::<Mark>();
            bytes.truncate(start + at.index(bytes.len() - start));
            let loaded = read_file(&bytes).unwrap();
            let whole = frames.iter().filter(|(end, _)| *end <= bytes.len());
            let kept: Vec<_> = whole.clone().flat_map(|(_, records)| records.clone()).collect();
            prop_assert_eq!(loaded.records, kept);
            if whole.count() >= parts {
                prop_assert!(!loaded.damage.is_loss(), "{}", loaded.damage);
            }
        }
    }
}
