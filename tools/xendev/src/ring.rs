//! Byte rings between domains: free-running indices, and what to believe of them.
//!
//! The far end can write both indices of a ring at any time, so each use reads them once and checks that no more is
//! pending than the ring holds; what does not hold is [`BadIndices`], and the connection is given up. The order is the
//! usual one: data before the producer's index, the consumer's index after the data was copied out.
//!
//! Source: `public/io/console.h`.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use guest_abi::io::console::{XENCONS_IN_LEN, XENCONS_OUT_LEN, XenconsInterface};

use crate::MappedPages;

/// Where one direction of a ring lies in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Offset of the data.
    data: usize,
    /// Bytes of the data, a power of two.
    size: u32,
    /// Offset of the consumer's index.
    cons: usize,
    /// Offset of the producer's index.
    prod: usize,
}

/// The far end wrote indices that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring's indices are impossible: producer {prod:#x}, consumer {cons:#x}, {size} bytes")]
pub struct BadIndices {
    /// The producer's index.
    pub prod: u32,
    /// The consumer's index.
    pub cons: u32,
    /// Bytes of the ring.
    pub size: u32,
}

/// Console: what is typed, from xenconsoled to a domain.
pub const CONSOLE_INPUT: Ring = Ring::new(
    offset_of!(XenconsInterface, in_),
    XENCONS_IN_LEN,
    offset_of!(XenconsInterface, in_cons),
    offset_of!(XenconsInterface, in_prod),
);
/// Console: what is printed, from a domain to xenconsoled.
pub const CONSOLE_OUTPUT: Ring = Ring::new(
    offset_of!(XenconsInterface, out),
    XENCONS_OUT_LEN,
    offset_of!(XenconsInterface, out_cons),
    offset_of!(XenconsInterface, out_prod),
);

impl Ring {
    const fn new(data: usize, size: usize, cons: usize, prod: usize) -> Self {
        assert!(
            size.is_power_of_two() && size <= 4096,
            "a ring fits its page"
        );
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        let size = size as u32;
        Self {
            data,
            size,
            cons,
            prod,
        }
    }

    /// The bytes of the ring.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How many bytes wait to be read.
    ///
    /// # Errors
    /// [`BadIndices`].
    pub fn readable(&self, page: &MappedPages) -> Result<u32, BadIndices> {
        self.indices(page).map(|(_, pending)| pending)
    }

    /// How many bytes there is room for.
    ///
    /// # Errors
    /// [`BadIndices`].
    pub fn writable(&self, page: &MappedPages) -> Result<u32, BadIndices> {
        self.readable(page).map(|pending| self.size - pending)
    }

    /// Takes bytes out, as many as are there and `out` has room for; returns how many. Notify the far end if any.
    ///
    /// # Errors
    /// [`BadIndices`]; nothing is taken then.
    pub fn read(&self, page: &MappedPages, out: &mut [u8]) -> Result<usize, BadIndices> {
        let (cons, pending) = self.indices(page)?;
        let count = min(pending, out.len());
        let (first, second) = self.parts(cons, count);
        let (head, tail) = out.split_at_mut(first);
        page.read(self.data + self.index(cons), head);
        page.read(self.data, tail.get_mut(..second).unwrap_or_default());
        self.advance(page, self.cons, cons, first + second);
        Ok(first + second)
    }

    /// Puts bytes in, as many as there is room for; returns how many. Notify the far end if any.
    ///
    /// # Errors
    /// [`BadIndices`]; nothing is put then.
    pub fn write(&self, page: &MappedPages, data: &[u8]) -> Result<usize, BadIndices> {
        let (cons, pending) = self.indices(page)?;
        let prod = cons.wrapping_add(pending);
        let count = min(self.size - pending, data.len());
        let (first, second) = self.parts(prod, count);
        let (head, tail) = data.split_at(first);
        page.write(self.data + self.index(prod), head);
        page.write(self.data, tail.get(..second).unwrap_or_default());
        self.advance(page, self.prod, prod, first + second);
        Ok(first + second)
    }

    /// Drops what waits to be read: what a restarted reader does.
    pub fn reset(&self, page: &MappedPages) {
        page.store_u32(self.cons, 0, Ordering::Relaxed);
        page.store_u32(self.prod, 0, Ordering::Release);
    }

    /// The consumer's index and how much is pending, from one read of each.
    fn indices(&self, page: &MappedPages) -> Result<(u32, u32), BadIndices> {
        let prod = page.load_u32(self.prod, Ordering::Acquire);
        let cons = page.load_u32(self.cons, Ordering::Acquire);
        let pending = prod.wrapping_sub(cons);
        if pending > self.size {
            return Err(BadIndices {
                prod,
                cons,
                size: self.size,
            });
        }
        Ok((cons, pending))
    }

    fn index(&self, index: u32) -> usize {
        (index & (self.size - 1)) as usize
    }

    /// How many of `count` bytes from `index` on lie before the ring's end, and how many at its start.
    fn parts(&self, index: u32, count: usize) -> (usize, usize) {
        let first = count.min(self.size as usize - self.index(index));
        (first, count - first)
    }

    fn advance(&self, page: &MappedPages, at: usize, from: u32, by: usize) {
        // the copy is not atomic accesses: keep it before the index on its way out
        fence(Ordering::SeqCst);
        let by = u32::try_from(by).expect("no more than the ring's size");
        page.store_u32(at, from.wrapping_add(by), Ordering::Release);
        // and the index before whatever decides about a notification
        fence(Ordering::SeqCst);
    }
}

fn min(bytes: u32, len: usize) -> usize {
    len.min(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn the_layouts_are_xen_ones() {
        assert_eq!(
            (
                CONSOLE_OUTPUT.data,
                CONSOLE_OUTPUT.cons,
                CONSOLE_OUTPUT.prod
            ),
            (1024, 3080, 3084)
        );
        assert_eq!((CONSOLE_INPUT.size(), CONSOLE_OUTPUT.size()), (1024, 2048));
    }

    #[test]
    fn impossible_indices_are_refused() {
        let page = MappedPages::anonymous(1).unwrap();
        page.store_u32(CONSOLE_INPUT.prod, 1025, Ordering::Relaxed);
        let bad = BadIndices {
            prod: 1025,
            cons: 0,
            size: 1024,
        };
        assert_eq!(CONSOLE_INPUT.read(&page, &mut [0; 4]), Err(bad));
        assert_eq!(CONSOLE_INPUT.write(&page, b"x"), Err(bad));
        assert_eq!(CONSOLE_INPUT.writable(&page), Err(bad));
        CONSOLE_INPUT.reset(&page);
        assert_eq!(CONSOLE_INPUT.readable(&page), Ok(0));
    }

    proptest! {
        #[test]
        fn a_ring_is_a_bounded_queue(start: u32, steps in proptest::collection::vec((any::<bool>(), 0usize..1500), 1..40)) {
            let page = MappedPages::anonymous(1).unwrap();
            let ring = CONSOLE_INPUT;
            page.store_u32(ring.prod, start, Ordering::Relaxed);
            page.store_u32(ring.cons, start, Ordering::Relaxed);
            let mut model = VecDeque::new();
            let mut next = 0u8;
            for (write, len) in steps {
                if write {
                    let data: Vec<u8> = (0..len).map(|i| next.wrapping_add(i.to_le_bytes()[0])).collect();
                    let took = ring.write(&page, &data).unwrap();
                    prop_assert_eq!(took, len.min(1024 - model.len()));
                    model.extend(&data[..took]);
                    next = next.wrapping_add(took.to_le_bytes()[0]);
                } else {
                    let mut out = vec![0; len];
                    let got = ring.read(&page, &mut out).unwrap();
                    prop_assert_eq!(got, len.min(model.len()));
                    prop_assert!(out[..got].iter().copied().eq(model.drain(..got)));
                }
                prop_assert_eq!(ring.readable(&page).unwrap() as usize, model.len());
            }
        }
    }
}
