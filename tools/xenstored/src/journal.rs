//! The journal: what the daemon must still know after it was killed.
//!
//! One file in /run, of frames: length, checksum, records. A frame holds all that one round of the main loop did, and is
//! appended by one `write` before any reply of that round leaves; so whatever a client has seen is in the file, and a
//! frame that was cut off (or whose checksum fails) was never answered. The file outlives the process, not the machine:
//! /run is memory, and no `fsync` is needed. When it has grown, it is written anew from a snapshot and renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::record::Record;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"HXSTORE1";
/// The file is not rewritten below this size.
const SMALL: u64 = 1 << 20;

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    compact_above: u64,
}

impl Journal {
    /// Reads the journal at `path`; no file is an empty one.
    ///
    /// # Errors
    /// It exists and cannot be read, or is something else.
    pub(crate) fn load(path: &Path) -> io::Result<Vec<Record>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let Some(frames) = bytes.strip_prefix(MAGIC) else {
            let what = "is no journal of this xenstored; remove it or choose another --state-dir";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        Ok(read_frames(frames))
    }

    /// Replaces the journal at `path` by a snapshot, and opens it for more.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(path: &Path, snapshot: &[Record]) -> io::Result<Self> {
        let (file, len) = write_new(path, snapshot)?;
        Ok(Self {
            path: path.to_owned(),
            file,
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
        let frame = frame(records);
        if let Err(error) = self.file.write_all(&frame) {
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Writes the file anew; where that fails, the old one stays in use.
    fn compact(&mut self, snapshot: &[Record]) -> io::Result<()> {
        let (file, len) = write_new(&self.path, snapshot)?;
        (self.file, self.len, self.compact_above) = (file, len, limit_for(len));
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
fn write_new(path: &Path, snapshot: &[Record]) -> io::Result<(File, u64)> {
    let new = path.with_extension("new");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&frame(snapshot));
    let written = write_file(&new, &bytes).and_then(|()| {
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

fn frame(records: &[Record]) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    records.iter().for_each(|record| record.encode(&mut bytes));
    let (head, body) = bytes.split_at_mut(12);
    let checksum = crc32fast::hash(body).to_le_bytes();
    let (len_field, crc_field) = head.split_at_mut(8);
    len_field.copy_from_slice(&(body.len() as u64).to_le_bytes());
    crc_field.copy_from_slice(&checksum);
    bytes
}

fn read_frames(mut rest: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(body) = next_frame(&mut rest) {
        let mut from = body;
        while !from.is_empty() {
            let Some(record) = Record::decode(&mut from) else {
                log::error!("journal: a record is malformed; what follows it is dropped");
                return records;
            };
            records.push(record);
        }
    }
    if !rest.is_empty() {
        log::warn!("journal: the last frame was cut off; nobody was told of what it held");
    }
    records
}

fn next_frame<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (len, after) = rest.split_first_chunk::<8>()?;
    let (checksum, after) = after.split_first_chunk::<4>()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let (body, after) = after.split_at_checked(len)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    *rest = after;
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(domid: u16) -> Record {
        Record::Release { domid }
    }

    #[test]
    fn what_was_appended_is_read_back_and_a_cut_frame_is_dropped_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        assert_eq!(Journal::load(&path).unwrap(), []);
        let mut journal = Journal::create(&path, &[release(1)]).unwrap();
        journal.append(&[release(2), release(3)]).unwrap();
        journal.append(&[release(4), release(5)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let all = [1, 2, 3, 4, 5].map(release);
        assert_eq!(Journal::load(&path).unwrap(), all);
        let frame_4 = frame(&[release(4), release(5)]).len();
        for cut in 1..=frame_4 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(Journal::load(&path).unwrap(), all[..3], "{cut}");
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
        assert_eq!(Journal::load(&path).unwrap(), [9, 10].map(release));
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
        assert_eq!(Journal::load(&path).unwrap(), [1, 2, 3].map(release));
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
        assert_eq!(Journal::load(&path).unwrap(), [1, 2].map(release));
    }

    #[test]
    fn another_file_is_not_overwritten_in_silence() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        fs::write(&path, "something else").unwrap();
        assert!(Journal::load(&path).is_err());
    }
}
