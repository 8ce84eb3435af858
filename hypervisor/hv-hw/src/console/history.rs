//! The text that is kept for those who ask later: `xl dmesg`.

use alloc::vec::Vec;

use super::ring::Ring;

/// Bytes kept unless `conring_size` asks for more.
const BYTES: usize = 64 << 10;

/// Text of the hypervisor, and of guests that print to its log. A small ring serves until there is a heap, and
/// permanently where nobody asks for a larger one.
pub(super) struct History {
    small: Ring<[u8; BYTES]>,
    large: Option<Ring<Vec<u8>>>,
}

impl History {
    pub(super) const fn new() -> Self {
        Self {
            small: Ring::new(),
            large: None,
        }
    }
    /// Keeps as much as `bytes` has room for from now on, where that is more; returns what is not needed.
    pub(super) fn grow(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.large.is_some() || bytes.len() <= BYTES {
            return bytes;
        }
        self.large = Some(Ring::succeeding(bytes, &self.small));
        Vec::new()
    }
    pub(super) fn push(&mut self, byte: u8) {
        match &mut self.large {
            Some(ring) => ring.push_over(byte),
            None => self.small.push_over(byte),
        }
    }
    pub(super) fn copy_from(&self, position: u64, to: &mut [u8]) -> (u64, usize) {
        match &self.large {
            Some(ring) => ring.copy_from(position, to),
            None => self.small.copy_from(position, to),
        }
    }
    pub(super) fn forget_before(&mut self, position: u64) {
        match &mut self.large {
            Some(ring) => ring.forget_before(position),
            None => self.small.forget_before(position),
        }
    }
    /// The positions of the oldest byte and after the newest.
    fn range(&self) -> (u64, u64) {
        match &self.large {
            Some(ring) => (ring.oldest_position(), ring.end_position()),
            None => (self.small.oldest_position(), self.small.end_position()),
        }
    }
    /// The position that `index`, the low half of one, stands for; that of the oldest byte where it stands for none
    /// that is kept.
    pub(super) fn position(&self, index: Option<u32>) -> u64 {
        let (oldest, end) = self.range();
        let Some(index) = index else { return oldest };
        let [a, b, c, d, ..] = oldest.to_le_bytes();
        let ahead = index.wrapping_sub(u32::from_le_bytes([a, b, c, d]));
        let position = oldest.saturating_add(u64::from(ahead));
        if position <= end { position } else { oldest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn written(text: &[u8]) -> History {
        let mut history = History::new();
        for byte in text {
            history.push(*byte);
        }
        history
    }

    #[test]
    fn index_of_what_is_gone_or_to_come_is_the_oldest() {
        let mut history = written(b"some text");
        assert_eq!(history.position(Some(4)), 4);
        assert_eq!(history.position(Some(9)), 9);
        assert_eq!(history.position(Some(10)), 0);
        history.forget_before(5);
        assert_eq!(history.position(Some(4)), 5);
        assert_eq!(history.position(None), 5);
    }

    #[test]
    fn growing_keeps_the_text_and_is_done_once() {
        let mut history = written(b"some text");
        assert_eq!(history.grow(vec![0; 16]).len(), 16);
        assert!(history.grow(vec![0; 2 * BYTES]).is_empty());
        assert_eq!(history.grow(vec![0; 3 * BYTES]).len(), 3 * BYTES);
        let mut to = [0; 9];
        assert_eq!(history.copy_from(0, &mut to), (0, 9));
        assert_eq!(&to, b"some text");
    }
}
