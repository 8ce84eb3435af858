//! Copies of which one side is memory that others change.
//!
//! UNSAFETY: memory outside Rust's objects is read and written in assembly, once, with no reference to it.
#![expect(unsafe_code)]

use core::arch::asm;

/// Below this many bytes, moving words beats the start-up cost of a string instruction.
const STRING_FROM_BYTES: usize = 128;

/// Copies `bytes`, each read once, one side being memory that others change.
///
/// # Safety
/// Both sides valid for that many bytes and not overlapping; the side outside Rust's objects is not referenced.
#[inline]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    let mut done = 0;
    if bytes < STRING_FROM_BYTES {
        while bytes - done >= 8 {
            // SAFETY: inside both.
            unsafe { move_u64(from.wrapping_add(done), to.wrapping_add(done)) };
            done += 8;
        }
        if bytes & 4 != 0 {
            // SAFETY: inside both.
            unsafe { move_u32(from.wrapping_add(done), to.wrapping_add(done)) };
            done += 4;
        }
        while done < bytes {
            // SAFETY: inside the source.
            let byte = unsafe { from.wrapping_add(done).read_volatile() };
            // SAFETY: inside the target.
            unsafe { to.wrapping_add(done).write_volatile(byte) };
            done += 1;
        }
        return;
    }
    // words first: a CPU without fast byte strings moves one element a step
    // SAFETY: valid on both sides (the caller); the direction flag is clear in Rust code.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 8 bytes, of any alignment, in one load and one store.
///
/// # Safety
/// Both sides valid for that, and the side outside Rust's objects not referenced.
#[inline(always)]
unsafe fn move_u64(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for both sides.
    unsafe {
        asm!(
            "mov {word}, [{from}]",
            "mov [{to}], {word}",
            word = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// Moves 4 bytes likewise.
///
/// # Safety
/// As for [`move_u64`].
#[inline(always)]
unsafe fn move_u32(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for both sides.
    unsafe {
        asm!(
            "mov {word:e}, [{from}]",
            "mov [{to}], {word:e}",
            word = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}
