//! System time, by the paravirtual clock in the shared info page.

use crate::{event, insn};
use guest_abi::xen::VcpuTimeInfo;

/// ns per ms.
pub const MS: u64 = 1_000_000;

/// A consistent copy of the clock's parameters, for vCPU 0.
#[must_use]
pub fn parameters() -> VcpuTimeInfo {
    loop {
        let copy = event::vcpu_time();
        if copy.version & 1 == 0 && event::vcpu_time().version == copy.version {
            return copy;
        }
    }
}

/// ns since the hypervisor started. [`event::setup`] must have mapped the shared info page.
#[must_use]
pub fn now_ns() -> u64 {
    at_tsc(&parameters(), insn::tsc())
}

/// What the clock says at a TSC value.
#[must_use]
pub fn at_tsc(clock: &VcpuTimeInfo, tsc: u64) -> u64 {
    let delta = u128::from(tsc.wrapping_sub(clock.tsc_timestamp));
    let shift = u32::from(clock.tsc_shift.unsigned_abs());
    let shifted = if clock.tsc_shift >= 0 { delta << shift } else { delta >> shift };
    let ns = (shifted * u128::from(clock.tsc_to_system_mul)) >> 32;
    clock.system_time.wrapping_add(ns as u64)
}

/// TSC ticks per second, as the clock's parameters say.
#[must_use]
pub fn tsc_hz() -> u64 {
    let clock = parameters();
    let unshifted = (1_000_000_000u128 << 32) / u128::from(clock.tsc_to_system_mul.max(1));
    let shift = u32::from(clock.tsc_shift.unsigned_abs());
    (if clock.tsc_shift >= 0 { unshifted >> shift } else { unshifted << shift }) as u64
}

/// Spins with interrupts on until `done` or for `timeout_ns`; whether it was done. Interrupts are off after.
pub fn wait(timeout_ns: u64, mut done: impl FnMut() -> bool) -> bool {
    let deadline = now_ns() + timeout_ns;
    insn::sti();
    let mut is_done = done();
    while !is_done && now_ns() < deadline {
        insn::pause();
        is_done = done();
    }
    insn::cli();
    is_done
}
