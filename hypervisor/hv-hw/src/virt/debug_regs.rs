//! The debug registers, which belong to the guest while the hypervisor runs.
// UNSAFETY: reads and writes debug registers.
#![expect(unsafe_code, reason = "MOV to and from debug registers")]

use core::arch::asm;

use super::regs::merge_dr6 as merged_dr6;

/// Adds `bits` to DR6, as the CPU would have on delivering the debug exception that exited instead.
pub(super) fn merge_dr6(bits: u64) {
    let dr6: u64;
    // SAFETY: reads a register of the guest's.
    unsafe { asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack)) };
    let merged = merged_dr6(dr6, bits);
    // SAFETY: writes a register of the guest's; no reserved bit is set.
    unsafe { asm!("mov dr6, {}", in(reg) merged, options(nomem, nostack)) };
}

/// Sets DR0 to DR3 and DR6, which has no reserved bit set.
pub(super) fn write_debug(debug: &[u64; 5]) {
    // SAFETY: DR7 is 0 while the host runs, so the breakpoints are the guest's only.
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {1}", "mov dr2, {2}", "mov dr3, {3}", "mov dr6, {4}",
            in(reg) debug[0], in(reg) debug[1], in(reg) debug[2], in(reg) debug[3], in(reg) debug[4],
            options(nomem, nostack));
    }
}

/// Reads DR0 to DR3 and DR6.
pub(super) fn read_debug() -> [u64; 5] {
    let (dr0, dr1, dr2, dr3, dr6): (u64, u64, u64, u64, u64);
    // SAFETY: reads registers of the guest's.
    unsafe {
        asm!("mov {0}, dr0", "mov {1}, dr1", "mov {2}, dr2", "mov {3}, dr3", "mov {4}, dr6",
            out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3, out(reg) dr6, options(nomem, nostack));
    }
    [dr0, dr1, dr2, dr3, dr6]
}
