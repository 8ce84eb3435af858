//! Guest code, written as assembly where it is used and copied into the guest; and what of the host's state no crate
//! reads.
//!
//! UNSAFETY: the bytes that the assembler put into the image are found by their addresses; STR has no safe wrapper.

/// The bytes of these lines of assembly, which are never executed here. Labels are numbers from 2 to 9.
#[macro_export]
macro_rules! code {
    ($($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        #[expect(unsafe_code, reason = "code as data")]
        // SAFETY: it takes two addresses; the lines go to a section of data.
        unsafe {
            core::arch::asm!(
                "lea {start}, [rip + 98f]",
                "lea {end}, [rip + 99f]",
                ".pushsection .rodata.guest, \"a\"",
                "98:",
                $($line,)+
                "99:",
                ".popsection",
                start = out(reg) start,
                end = out(reg) end,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        #[expect(unsafe_code, reason = "code as data")]
        let bytes: &'static [u8] =
            // SAFETY: both are of one section of the image, which is never written, the end behind the start.
            unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) };
        bytes
    }};
}

/// The host's task register, whose TSS has the stacks of NMIs and double faults.
pub(crate) fn host_task() -> u16 {
    let selector: u16;
    #[expect(unsafe_code, reason = "STR")]
    // SAFETY: it reads a register.
    unsafe {
        core::arch::asm!("str {0:x}", out(reg) selector, options(nomem, nostack, preserves_flags));
    }
    selector
}
