//! The journal: what the daemon must still know after it was killed.
//!
//! One file in /run, of frames: each has a head (mark, number, length, checksums) and a body of records. A frame holds
//! all that one round of the main loop did, and is appended by one `write` before any reply of that round leaves; so
//! whatever a client has seen is in the file, and a frame that was cut off was never answered. The file outlives the
//! process, not the machine: /run is memory, and no `fsync` is needed. When it has grown, it is written anew from a
//! snapshot, in frames of its own, and renamed.
//!
//! A damaged frame costs that frame only: the next one is found by its mark, which is random for each file, so that no
//! guest can write a value that looks like a frame. What is missing is counted by the frames' numbers.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::journal_reader::{Loaded, read_file};
use crate::record::Record;

/// First bytes of the file.
pub(crate) const MAGIC: &[u8; 8] = b"HXSTORE2";
/// The file is not rewritten below this size.
const SMALL: u64 = 1 << 20;
/// A snapshot's frame is closed once it holds this many bytes.
const PART: usize = 1 << 14;

/// What each frame of one file begins with.
pub(crate) type Mark = [u8; 16];

/// Bytes of a frame's head: mark, number, parts that follow, body's length and checksum, the head's own checksum.
pub(crate) const HEAD: usize = 16 + 8 + 4 + 8 + 4 + 4;

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

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
