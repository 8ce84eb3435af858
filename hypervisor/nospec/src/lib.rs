//! Numbers from guests as indices, so that a CPU that guesses the bounds check wrong still reads within them.
//!
//! UNSAFETY: only instructions that the compiler knows nothing of stay where a check has already proved them void.
//!
//! A check alone is a branch, which the CPU predicts: trained by valid numbers it goes on with one that is not, reads
//! what lies there, and leaves a trace of it in the cache (Spectre, variant 1). Here the number itself is made
//! harmless, without a branch: out of bounds it is 0. CMP, SBB and AND, as Linux's `array_index_mask_nospec` has it. In
//! Rust the compiler would compute the mask at compile time, behind the check.
//!
//! Not among the tables: page-table indices, which are nine bits of an address; CPUID leaves, of whose answers no
//! address is made; what only dom0 may ask for, which is trusted (domctl, sysctl, machine frames); numbers that an enum
//! was made of; and offsets in shared pages, which are masked where they are used.
//!
//! Each clamp leaves its address and its table's number in the section `.nospec` of the program, which is not loaded:
//! `cargo xtask build` looks there whether each table's clamp is in the code.
#![no_std]
#![expect(unsafe_code)]

use core::arch::asm;

/// Names tables by number, as parameters of the functions below.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "the names of the constants")]
        enum Number {
            $($name,)*
        }
        $($(#[$doc])* pub const $name: u8 = Number::$name as u8;)*
        /// What the tables are called, each at its number.
        pub const TABLES: &[&str] = &[$(stringify!($name),)*];
    };
}

tables! {
    HYPERCALLS,
    /// Event channels, by port.
    PORTS,
    /// vCPUs that events are bound to.
    EVENT_VCPUS,
    /// Pages of event words, by port.
    EVENT_WORDS,
    /// Control blocks of event queues, by vCPU.
    EVENT_QUEUES,
    /// Frames of a grant table, by grant reference.
    GRANTS,
    /// Grants that are mapped, by handle.
    GRANT_HANDLES,
    /// Memory type range registers, by MSR.
    MTRRS,
    /// vCPUs of a domain.
    VCPUS,
}

/// All ones where `index` is below `len`, else 0.
#[inline(always)]
fn mask<const TABLE: u8>(index: usize, len: usize) -> usize {
    let mask: usize;
    // SAFETY: reads and writes registers only; the section that it adds to is not loaded.
    unsafe {
        asm!(
            "2: cmp {index}, {len}",
            "sbb {mask}, {mask}",
            ".pushsection .nospec, \"\", @progbits",
            ".quad 2b, {table}",
            ".popsection",
            index = in(reg) index,
            len = in(reg) len,
            mask = lateout(reg) mask,
            table = const TABLE,
            options(pure, nomem, nostack),
        );
    }
    mask
}

/// The same where the length is known, and takes no register.
#[inline(always)]
fn mask_of<const TABLE: u8, const LEN: usize>(index: usize) -> usize {
    const { assert!(LEN <= i32::MAX as usize, "an immediate has 32 bits") };
    let mask: usize;
    // SAFETY: reads and writes registers only; the section that it adds to is not loaded.
    unsafe {
        asm!(
            "2: cmp {index}, {len}",
            "sbb {mask}, {mask}",
            ".pushsection .nospec, \"\", @progbits",
            ".quad 2b, {table}",
            ".popsection",
            index = in(reg) index,
            len = const LEN,
            mask = lateout(reg) mask,
            table = const TABLE,
            options(pure, nomem, nostack),
        );
    }
    mask
}

/// `index` where it is below `len`, also for a CPU that runs ahead of that test: to clear bits makes it no greater.
#[inline(always)]
fn clamped<const TABLE: u8>(index: usize, len: usize) -> Option<usize> {
    (index < len).then(|| index & mask::<TABLE>(index, len))
}

/// The element at `index`, a number from a guest.
#[inline(always)]
#[must_use]
pub fn get<const TABLE: u8, T>(slice: &[T], index: usize) -> Option<&T> {
    let index = clamped::<TABLE>(index, slice.len())?;
    // SAFETY: it is below the length.
    Some(unsafe { slice.get_unchecked(index) })
}

/// The element at `index`, a number from a guest, to be changed.
#[inline(always)]
#[must_use]
pub fn get_mut<const TABLE: u8, T>(slice: &mut [T], index: usize) -> Option<&mut T> {
    let index = clamped::<TABLE>(index, slice.len())?;
    // SAFETY: it is below the length.
    Some(unsafe { slice.get_unchecked_mut(index) })
}

/// The element of an array at `index`, a number from a guest.
#[inline(always)]
#[must_use]
pub fn get_of<const TABLE: u8, T, const LEN: usize>(array: &[T; LEN], index: usize) -> Option<&T> {
    if index >= LEN {
        return None;
    }
    let index = index & mask_of::<TABLE, LEN>(index);
    // SAFETY: it is below the length; to clear bits of it makes it no greater.
    Some(unsafe { array.get_unchecked(index) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_is_all_ones_below_the_length_and_0_from_there_on() {
        let numbers = [0, 1, 63, 64, 1 << 31, 1 << 32, usize::MAX - 1, usize::MAX];
        for len in (0..260).chain(numbers) {
            for index in (0..300).chain(numbers) {
                let due = if index < len { usize::MAX } else { 0 };
                assert_eq!(mask::<PORTS>(index, len), due, "{index:#x} of {len:#x}");
            }
        }
        for index in (0..300).chain(numbers) {
            let due = if index < 61 { usize::MAX } else { 0 };
            assert_eq!(mask_of::<PORTS, 61>(index), due, "{index:#x}");
        }
    }

    #[test]
    fn get_is_that_of_slices() {
        let mut numbers: [usize; 100] = core::array::from_fn(|place| 3 * place);
        for index in (0..200).chain([usize::MAX]) {
            let due = numbers.get(index).copied();
            assert_eq!(get::<PORTS, _>(&numbers, index).copied(), due);
            assert_eq!(get_of::<PORTS, _, 100>(&numbers, index).copied(), due);
            assert_eq!(get_mut::<PORTS, _>(&mut numbers, index).copied(), due);
        }
        assert_eq!(get::<PORTS, usize>(&[], 0), None);
    }
}
