//! Addresses and frame numbers, each a type of its own. The only file that shifts by 12.
//!
//! | space | address | frame | who counts in it |
//! |---|---|---|---|
//! | guest linear | [`Gva`] | – | the guest's page tables |
//! | guest physical | [`Gpa`] | [`Gfn`] | the p2m (second stage) |
//! | host physical | [`Hpa`] | [`Mfn`] | the machine |
//!
//! Frame numbers take offsets (`gfn + 1`), addresses take byte offsets; mixing two spaces does not compile. Arithmetic
//! on numbers that come from a guest goes through the `checked_*` methods.

use core::fmt;
use core::ops::{Add, Sub};

/// Bytes in the smallest page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// `PAGE_SIZE` for indexing.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
const PAGE_SHIFT: u32 = 12;

/// A number of a space as a type of its own: it takes offsets, and the difference of two is one.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Names number `raw` of its space.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }
            /// The plain number.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }
            /// The one `offset` further, or `None` past the end of the numbers.
            #[must_use]
            pub const fn checked_add(self, offset: u64) -> Option<Self> {
                match self.0.checked_add(offset) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }
        impl Add<u64> for $name {
            type Output = Self;
            fn add(self, offset: u64) -> Self {
                Self(self.0 + offset)
            }
        }
        impl Sub<$name> for $name {
            type Output = u64;
            fn sub(self, other: Self) -> u64 {
                self.0 - other.0
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        number!($(#[$doc])* $name);

        impl $name {
            /// Bytes from the start of its page, below [`PAGE_SIZE`].
            #[must_use]
            pub const fn page_offset(self) -> usize {
                (self.0 & (PAGE_SIZE - 1)) as usize
            }
            /// The highest multiple of `align` (a power of two) that is not above this address.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }
            /// The lowest multiple of `align` (a power of two) that is not below this address.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Self {
                Self((self.0 + (align - 1)) & !(align - 1))
            }
            /// True where the address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
            /// Cuts the `len` bytes from here on where pages end: (address, bytes) of each piece, in order. An
            /// address past 2^64 wraps to 0, which is after one that nobody has.
            #[inline]
            pub fn page_pieces(self, len: usize) -> impl Iterator<Item = (Self, usize)> {
                let mut at = self;
                let mut left = len;
                core::iter::from_fn(move || {
                    let piece = (at, left.min(PAGE_BYTES - at.page_offset()));
                    at = Self(at.0.wrapping_add(piece.1 as u64));
                    left -= piece.1;
                    (piece.1 > 0).then_some(piece)
                })
            }
        }
    };
}

macro_rules! frame {
    ($(#[$doc:meta])* $name:ident, $address:ident) => {
        number!($(#[$doc])* $name);

        impl $name {
            /// The frame that holds `address`.
            #[must_use]
            pub const fn containing(address: $address) -> Self {
                Self(address.as_u64() >> PAGE_SHIFT)
            }
            /// The address of the frame's first byte. The number must be below 2^52, as every number that a
            /// page table can hold is; guest-given numbers are checked first.
            #[must_use]
            pub const fn base(self) -> $address {
                $address::new(self.0 << PAGE_SHIFT)
            }
            /// True where the frame starts a naturally aligned block of `order`.
            #[must_use]
            pub const fn is_aligned(self, order: PageOrder) -> bool {
                self.0 & (order.frames() - 1) == 0
            }
            /// The first frame of the block of `order` that holds this frame.
            #[must_use]
            pub const fn align_down(self, order: PageOrder) -> Self {
                Self(self.0 & !(order.frames() - 1))
            }
        }
    };
}

address!(
    /// A guest linear ("virtual") address.
    Gva
);
address!(
    /// A guest physical address.
    Gpa
);
address!(
    /// A host physical address.
    Hpa
);
frame!(
    /// A guest frame number: a [`Gpa`] in pages.
    Gfn,
    Gpa
);
frame!(
    /// A machine frame number: an [`Hpa`] in pages.
    Mfn,
    Hpa
);

/// The size of a block of frames, as a power of two: order 0 is 4 KiB, 9 is 2 MiB, 18 is 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageOrder(u8);

impl PageOrder {
    /// 4 KiB.
    pub const SIZE_4K: Self = Self(0);
    /// 2 MiB.
    pub const SIZE_2M: Self = Self(9);
    /// 1 GiB.
    pub const SIZE_1G: Self = Self(18);
    /// The largest order that is dealt in.
    pub const MAX: Self = Self(18);

    /// The order `raw`, or `None` above [`PageOrder::MAX`].
    #[must_use]
    pub const fn new(raw: u8) -> Option<Self> {
        if raw <= Self::MAX.0 {
            Some(Self(raw))
        } else {
            None
        }
    }
    /// The exponent.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
    /// Frames in a block of this order.
    #[must_use]
    pub const fn frames(self) -> u64 {
        1 << self.0
    }
    /// Bytes in a block of this order.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << self.0
    }
}

/// A half-open range of machine frames: `start` is in it, `end` is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MfnRange {
    pub start: Mfn,
    /// The frame after the last; not below `start`.
    pub end: Mfn,
}

impl MfnRange {
    /// The frames from `start` up to, not including, `end`; empty where `end` is below `start`.
    #[must_use]
    pub fn new(start: Mfn, end: Mfn) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }
    /// The whole frames inside the bytes from `start` up to, not including, `end`.
    #[must_use]
    pub fn inside(start: Hpa, end: Hpa) -> Self {
        Self::new(
            Mfn::containing(start.align_up(PAGE_SIZE)),
            Mfn::containing(end),
        )
    }
    /// The frames that hold any of the bytes from `start` up to, not including, `end`.
    #[must_use]
    pub fn covering(start: Hpa, end: Hpa) -> Self {
        Self::new(
            Mfn::containing(start),
            Mfn::containing(end.align_up(PAGE_SIZE)),
        )
    }
    #[must_use]
    pub fn len(self) -> u64 {
        self.end - self.start
    }
    /// True where it holds no frame.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
    /// True where `mfn` is in it.
    #[must_use]
    pub fn contains(self, mfn: Mfn) -> bool {
        self.start <= mfn && mfn < self.end
    }
    /// True where the two share a frame.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn pieces_cover_the_range_in_order_and_never_cross_a_page(start in any::<u64>(), len in 0usize..20_000) {
            let pieces: Vec<_> = Gva::new(start).page_pieces(len).collect();
            prop_assert_eq!(pieces.iter().map(|piece| piece.1).sum::<usize>(), len);
            let mut at = start;
            for (gva, bytes) in pieces {
                prop_assert_eq!(gva.as_u64(), at);
                prop_assert!(bytes > 0 && gva.page_offset() + bytes <= PAGE_BYTES);
                at = at.wrapping_add(bytes as u64);
            }
        }
    }
}
