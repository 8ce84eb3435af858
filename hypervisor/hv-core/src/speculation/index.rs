//! Numbers from guests as indices, so that a CPU that guesses the bounds check wrong still reads within them.
//!
//! A check alone is a branch, which the CPU predicts: trained by valid numbers it goes on with one that is not, reads what
//! lies there, and leaves a trace of it in the cache (Spectre, variant 1). Here the number itself is made harmless, without
//! a branch: out of bounds it is 0. Behind the check the compiler would prove that away, and did, so it must not
//! know the number: twelve instructions an access.

use core::hint::black_box;

/// `index` where it is below `len`, else 0, without a branch. `len` must not be above `isize::MAX`, which no slice is.
#[inline(always)]
#[must_use]
pub fn clamp(index: usize, len: usize) -> usize {
    let index = black_box(index);
    // the sign of `len - 1 - index` or of `index` itself is set where the index is not below the length
    let outside =
        (index | len.wrapping_sub(1).wrapping_sub(index)).cast_signed() >> (usize::BITS - 1);
    index & !outside.cast_unsigned()
}

/// The element at `index`, a number from a guest.
#[inline(always)]
#[must_use]
pub fn get<T>(slice: &[T], index: usize) -> Option<&T> {
    if index >= slice.len() {
        return None;
    }
    slice.get(clamp(index, slice.len()))
}

/// The element at `index`, a number from a guest, to be changed.
#[inline(always)]
#[must_use]
pub fn get_mut<T>(slice: &mut [T], index: usize) -> Option<&mut T> {
    if index >= slice.len() {
        return None;
    }
    let index = clamp(index, slice.len());
    slice.get_mut(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn index_is_kept_below_the_length_and_0_from_there_on() {
        for len in 0..=260 {
            for index in 0..=600 {
                let kept = if index < len { index } else { 0 };
                assert_eq!(clamp(index, len), kept, "{index} of {len}");
            }
        }
    }

    #[test]
    fn extremes_are_clamped() {
        const MOST: usize = isize::MAX.cast_unsigned();
        let numbers = [
            0,
            1,
            63,
            64,
            1 << 31,
            1 << 32,
            MOST - 1,
            MOST,
            MOST + 1,
            usize::MAX - 1,
            usize::MAX,
        ];
        for len in numbers.into_iter().filter(|len| *len <= MOST) {
            for index in numbers {
                let kept = if index < len { index } else { 0 };
                assert_eq!(clamp(index, len), kept, "{index:#x} of {len:#x}");
            }
        }
    }

    /// Kinds of number that guests give, where they are bounded, and how often. Not among them: event ports and the numbers of
    /// hypercalls, whose paths are the hottest and would pay too much for it this way; page-table indices, which are
    /// nine bits of an address; CPUID leaves, of whose answers no address is made; what only dom0 may ask for, which is
    /// trusted (domctl, sysctl, machine frames); and numbers that an enum was made of.
    #[test]
    fn every_kind_of_number_from_guests_is_clamped_where_it_is_bounded() {
        const PLACES: [(&str, &str, usize); 7] = [
            ("event words", include_str!("../evtchn/fifo.rs"), 2),
            ("vCPUs of events", include_str!("../evtchn/mod.rs"), 3),
            ("vCPUs of VIRQs", include_str!("../evtchn/bind.rs"), 1),
            ("grant references", include_str!("../grant/table.rs"), 2),
            ("grant handles", include_str!("../grant/maptrack.rs"), 2),
            ("MSRs", include_str!("../msr/mtrr.rs"), 4),
            ("vCPUs", include_str!("../../../src/domain/mod.rs"), 1),
        ];
        for (kind, source, times) in PLACES {
            let found: usize = ["index::get(", "index::get_mut(", "index::clamp("]
                .into_iter()
                .map(|call| source.matches(call).count())
                .sum();
            assert_eq!(found, times, "{kind}");
        }
    }

    #[test]
    fn get_is_that_of_slices() {
        let mut numbers: Vec<usize> = (0..100).collect();
        for index in (0..200).chain([usize::MAX]) {
            assert_eq!(get(&numbers, index).copied(), numbers.get(index).copied());
            let changed = get_mut(&mut numbers, index).map(|n| *n);
            assert_eq!(changed, numbers.get(index).copied());
        }
    }
}
