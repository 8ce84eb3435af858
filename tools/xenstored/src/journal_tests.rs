//! The journal, whole and damaged.

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
