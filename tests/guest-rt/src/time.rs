//! System time, by the paravirtual clock in the shared info page, and the areas that tell where time went.

// UNSAFETY: areas that the hypervisor writes at any time.
#![expect(unsafe_code, reason = "areas that the hypervisor writes")]

use crate::{event, hypercall, insn};
use core::cell::UnsafeCell;
use guest_abi::vcpu::{
    VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_time_memory_area,
    VcpuRegisterMemoryArea, VcpuRunstateInfo,
};
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
    let shifted = if clock.tsc_shift >= 0 {
        delta << shift
    } else {
        delta >> shift
    };
    let ns = (shifted * u128::from(clock.tsc_to_system_mul)) >> 32;
    clock.system_time.wrapping_add(ns as u64)
}

/// TSC ticks per second, as the clock's parameters say.
#[must_use]
pub fn tsc_hz() -> u64 {
    let clock = parameters();
    let unshifted = (1_000_000_000u128 << 32) / u128::from(clock.tsc_to_system_mul.max(1));
    let shift = u32::from(clock.tsc_shift.unsigned_abs());
    (if clock.tsc_shift >= 0 {
        unshifted >> shift
    } else {
        unshifted << shift
    }) as u64
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

#[repr(C, align(4096))]
struct Areas(UnsafeCell<[u8; 8192]>);
// SAFETY: read through volatile copies only.
unsafe impl Sync for Areas {}
static AREAS: Areas = Areas(UnsafeCell::new([0; 8192]));
/// The runstate area lies across the two pages, as Linux's per-CPU data may.
const RUNSTATE_AT: usize = 4096 - 24;
const SECOND_CLOCK_AT: usize = 64;

/// Registers vCPU 0's runstate area, which straddles two pages; the result.
pub fn register_runstate() -> i64 {
    let addr = AREAS.0.get() as u64 + RUNSTATE_AT as u64;
    hypercall::vcpu(
        VCPUOP_register_runstate_memory_area,
        0,
        VcpuRegisterMemoryArea { addr },
    )
    .0
}

/// A copy of the registered runstate area.
#[must_use]
pub fn runstate() -> VcpuRunstateInfo {
    let at = AREAS.0.get() as usize + RUNSTATE_AT;
    // SAFETY: inside the areas, 8-aligned; volatile, as the hypervisor writes it; any bytes are one.
    unsafe { (at as *const VcpuRunstateInfo).read_volatile() }
}

/// Registers a second copy of vCPU 0's clock; the result.
pub fn register_second_clock() -> i64 {
    let addr = AREAS.0.get() as u64 + SECOND_CLOCK_AT as u64;
    hypercall::vcpu(
        VCPUOP_register_vcpu_time_memory_area,
        0,
        VcpuRegisterMemoryArea { addr },
    )
    .0
}

/// A copy of it.
#[must_use]
pub fn second_clock() -> VcpuTimeInfo {
    let at = AREAS.0.get() as usize + SECOND_CLOCK_AT;
    // SAFETY: as above.
    unsafe { (at as *const VcpuTimeInfo).read_volatile() }
}
