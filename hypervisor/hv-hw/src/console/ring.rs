//! A ring of bytes of fixed size; where it is full, its user chooses between refusing and forgetting the oldest.

/// A queue of at most `N` bytes.
#[derive(Debug)]
pub(super) struct Ring<const N: usize> {
    bytes: [u8; N],
    /// Position of the oldest byte, below `N`.
    start: usize,
    /// How many bytes, at most `N`.
    len: usize,
    /// Bytes ever put in.
    total: u64,
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; N],
            start: 0,
            len: 0,
            total: 0,
        }
    }
    /// True where there is nothing in it.
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Appends `byte`; false, and nothing done, where the ring is full.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.len == N {
            return false;
        }
        self.bytes[(self.start + self.len) % N] = byte;
        self.len += 1;
        self.total += 1;
        true
    }
    /// Appends `byte`, in place of the oldest where the ring is full.
    pub(super) fn push_over(&mut self, byte: u8) {
        if self.len == N {
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
        let in_one_piece = self.len.min(N - self.start).min(most);
        &self.bytes[self.start..self.start + in_one_piece]
    }
    /// Drops the `count` oldest bytes, at most all.
    pub(super) fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.start = (self.start + count) % N;
        self.len -= count;
    }
    /// Copies bytes from stream position `position` on, or from the oldest kept where that is gone. Returns the position
    /// of the first byte copied and how many were.
    pub(super) fn copy_from(&self, position: u64, to: &mut [u8]) -> (u64, usize) {
        let oldest = self.total - self.len as u64;
        let first = position.clamp(oldest, self.total);
        let skip = usize::try_from(first - oldest).unwrap_or(self.len);
        let count = (self.len - skip).min(to.len());
        for (i, byte) in to.iter_mut().take(count).enumerate() {
            *byte = self.bytes[(self.start + skip + i) % N];
        }
        (first, count)
    }
    /// Forgets all bytes.
    pub(super) fn clear(&mut self) {
        self.advance(self.len);
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_over_the_wrap() {
        let mut ring = Ring::<4>::new();
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
        let mut ring = Ring::<3>::new();
        for byte in *b"abc" {
            assert!(ring.push(byte));
        }
        assert!(!ring.push(b'd'));
        ring.push_over(b'd');
        assert_eq!(ring.pop(), Some(b'b'));
    }

    #[test]
    fn copies_start_at_the_oldest_byte_that_is_left() {
        let mut ring = Ring::<4>::new();
        for byte in *b"abcdef" {
            ring.push_over(byte);
        }
        let mut to = [0; 8];
        assert_eq!(ring.copy_from(0, &mut to), (2, 4));
        assert_eq!(&to[..4], b"cdef");
        assert_eq!(ring.copy_from(5, &mut to), (5, 1));
        assert_eq!(ring.copy_from(99, &mut to), (6, 0));
    }
}
