//! A ring of bytes of fixed size; where it is full, its user chooses between refusing and forgetting the oldest.

use alloc::vec::Vec;

/// A queue of at most as many bytes as `B`, an array or a vector, has.
#[derive(Debug)]
pub(super) struct Ring<B> {
    bytes: B,
    /// Position of the oldest byte, below the size.
    start: usize,
    /// How many bytes, at most the size.
    len: usize,
    /// Bytes ever put in.
    total: u64,
}

impl<const N: usize> Ring<[u8; N]> {
    /// An empty ring.
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; N],
            start: 0,
            len: 0,
            total: 0,
        }
    }
}

impl Ring<Vec<u8>> {
    /// A ring over `bytes`, with what `other` has kept, as far as there is room.
    pub(super) fn succeeding<const N: usize>(bytes: Vec<u8>, other: &Ring<[u8; N]>) -> Self {
        let mut ring = Self {
            bytes,
            start: 0,
            len: 0,
            total: other.oldest_position(),
        };
        for part in other.pieces() {
            for byte in part {
                ring.push_over(*byte);
            }
        }
        ring
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ring<B> {
    /// How many bytes it can have.
    fn size(&self) -> usize {
        self.bytes.as_ref().len()
    }
    /// The place `offset` bytes after the start, at most the size.
    fn place(&self, offset: usize) -> usize {
        let place = self.start + offset;
        if place < self.size() {
            place
        } else {
            place - self.size()
        }
    }
    /// True where there is nothing in it.
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// How many bytes it has room for.
    pub(super) fn room(&self) -> usize {
        self.size() - self.len
    }
    /// Appends `byte`; false, and nothing done, where the ring is full.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.len == self.size() {
            return false;
        }
        let place = self.place(self.len);
        self.bytes.as_mut()[place] = byte;
        self.len += 1;
        self.total += 1;
        true
    }
    /// Appends `byte`, in place of the oldest where the ring is full.
    pub(super) fn push_over(&mut self, byte: u8) {
        if self.len == self.size() {
            self.advance(1);
        }
        self.push(byte);
    }
    /// Takes the oldest byte.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = *self.oldest(1).first()?;
        self.advance(1);
        Some(byte)
    }
    /// Up to `most` of the oldest bytes, as many as lie in one piece.
    pub(super) fn oldest(&self, most: usize) -> &[u8] {
        let in_one_piece = self.len.min(self.size() - self.start).min(most);
        &self.bytes.as_ref()[self.start..self.start + in_one_piece]
    }
    /// All bytes in order: up to the end of the buffer, then from its start on.
    fn pieces(&self) -> [&[u8]; 2] {
        let first = self.oldest(self.len);
        [first, &self.bytes.as_ref()[..self.len - first.len()]]
    }
    /// Drops the `count` oldest bytes, at most all.
    pub(super) fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.start = self.place(count);
        self.len -= count;
    }
    /// The stream position of the oldest byte kept; where there is none, of the next that comes.
    pub(super) fn oldest_position(&self) -> u64 {
        self.total - self.len as u64
    }
    /// The stream position of the next byte that comes.
    pub(super) fn end_position(&self) -> u64 {
        self.total
    }
    /// Copies bytes from stream position `position` on, or from the oldest kept where that is gone. Returns the
    /// position of the first byte copied and how many were.
    pub(super) fn copy_from(&self, position: u64, to: &mut [u8]) -> (u64, usize) {
        let oldest = self.oldest_position();
        let first = position.clamp(oldest, self.total);
        let mut skip = usize::try_from(first - oldest).unwrap_or(self.len);
        let mut done = 0;
        for piece in self.pieces() {
            let piece = &piece[skip.min(piece.len())..];
            skip = skip.saturating_sub(self.pieces()[0].len());
            let part = piece.len().min(to.len() - done);
            to[done..done + part].copy_from_slice(&piece[..part]);
            done += part;
        }
        (first, done)
    }
    /// Forgets the bytes before stream position `position`.
    pub(super) fn forget_before(&mut self, position: u64) {
        let gone = position.saturating_sub(self.oldest_position());
        self.advance(usize::try_from(gone).unwrap_or(usize::MAX));
    }
}

impl<const N: usize> Default for Ring<[u8; N]> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn bytes_come_out_in_order_over_the_wrap() {
        let mut ring = Ring::<[u8; 4]>::new();
        for round in 0..10u8 {
            assert!(ring.push(round));
            assert!(ring.push(round + 100));
            assert_eq!(ring.pop(), Some(round));
            assert_eq!(ring.pop(), Some(round + 100));
        }
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn full_ring_refuses_or_forgets_the_oldest() {
        let mut ring = Ring::<[u8; 3]>::new();
        for byte in *b"abc" {
            assert!(ring.push(byte));
        }
        assert_eq!(ring.room(), 0);
        assert!(!ring.push(b'd'));
        ring.push_over(b'd');
        assert_eq!(ring.pop(), Some(b'b'));
    }

    #[test]
    fn copies_start_at_the_oldest_byte_that_is_left() {
        let mut ring = Ring::<[u8; 4]>::new();
        for byte in *b"abcdef" {
            ring.push_over(byte);
        }
        let mut to = [0; 8];
        assert_eq!(ring.copy_from(0, &mut to), (2, 4));
        assert_eq!(&to[..4], b"cdef");
        assert_eq!(ring.copy_from(5, &mut to), (5, 1));
        assert_eq!(to[0], b'f');
        assert_eq!(ring.copy_from(99, &mut to), (6, 0));
        assert_eq!(ring.copy_from(3, &mut to[..2]), (3, 2));
        assert_eq!(&to[..2], b"de");
    }

    #[test]
    fn what_is_forgotten_is_not_copied() {
        let mut ring = Ring::<[u8; 4]>::new();
        for byte in *b"abcdef" {
            ring.push_over(byte);
        }
        ring.forget_before(4);
        let mut to = [0; 8];
        assert_eq!(ring.copy_from(0, &mut to), (4, 2));
        ring.forget_before(2);
        assert_eq!(ring.oldest_position(), 4);
        ring.forget_before(u64::MAX);
        assert_eq!((ring.oldest_position(), ring.end_position()), (6, 6));
    }

    #[test]
    fn successor_keeps_text_and_positions() {
        let mut ring = Ring::<[u8; 4]>::new();
        for byte in *b"abcdef" {
            ring.push_over(byte);
        }
        let mut next = Ring::succeeding(vec![0; 6], &ring);
        for byte in *b"ghi" {
            next.push_over(byte);
        }
        let mut to = [0; 8];
        assert_eq!(next.copy_from(0, &mut to), (3, 6));
        assert_eq!(&to[..6], b"defghi");
    }
}
