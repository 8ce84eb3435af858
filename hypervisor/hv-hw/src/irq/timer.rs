//! One timer a CPU: the local APIC's timer, set to a moment of the TSC.
//!
//! UNSAFETY: writes the TSC-deadline MSR.
//!
//! Where the CPU has no TSC-deadline mode, the timer counts down at a rate measured at boot, and may fire early: who
//! set it looks at the clock and sets it again.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use crate::irq::local::{self, Register};
use crate::irq::vectors;
use crate::{cpu, insn, time};

const IA32_TSC_DEADLINE: u32 = 0x6e0;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const LVT_MASKED: u32 = 1 << 16;
/// Counts at the bus clock divided by 16: at 100 MHz and more, 32 bits last a minute.
const DIVIDE_BY_16: u32 = 3;
/// How long the rate is measured.
const WINDOW_NS: u64 = 10_000_000;

/// Counts a tick of the TSC in units of 2^-32; 0 in TSC-deadline mode.
static COUNTS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Chooses the mode on the CPU that boots; needs the TSC's frequency.
pub(super) fn init() {
    if !has_deadline_mode() {
        COUNTS_PER_TICK.store(measure(), Ordering::Relaxed);
    }
}

/// Prepares this CPU's timer.
pub(super) fn enable() {
    let vector = u32::from(vectors::TIMER);
    if is_deadline() {
        local::write(Register::LvtTimer, LVT_TSC_DEADLINE | vector);
        // In xAPIC mode the write above must be seen before the MSR is written (Intel SDM vol. 3A,
        // "TSC-Deadline Mode").
        core::sync::atomic::fence(Ordering::SeqCst);
    } else {
        local::write(Register::TimerDivide, DIVIDE_BY_16);
        local::write(Register::LvtTimer, vector);
    }
    disarm();
}

/// True where the timer takes moments of the TSC.
#[must_use]
pub fn is_deadline() -> bool {
    COUNTS_PER_TICK.load(Ordering::Relaxed) == 0
}

/// Fires once when the TSC reaches `deadline_tsc`, at once where that has passed; replaces an earlier deadline. May
/// fire early without TSC-deadline mode.
#[inline]
pub fn arm(deadline_tsc: u64) {
    let rate = COUNTS_PER_TICK.load(Ordering::Relaxed);
    if rate == 0 {
        // Zero would disarm.
        // SAFETY: the CPU has the MSR (`has_deadline_mode`); it only times an interrupt.
        unsafe { insn::wrmsr(IA32_TSC_DEADLINE, deadline_tsc.max(1)) };
        return;
    }
    let ticks = deadline_tsc.saturating_sub(time::now());
    let counts = (u128::from(ticks) * u128::from(rate)) >> 32;
    let counts = u32::try_from(counts).unwrap_or(u32::MAX).max(1);
    local::write(Register::TimerInitialCount, counts);
}

/// Disarms the timer. An interrupt that is pending already still arrives.
#[inline]
pub fn disarm() {
    if is_deadline() {
        // SAFETY: as in `arm`.
        unsafe { insn::wrmsr(IA32_TSC_DEADLINE, 0) };
    } else {
        local::write(Register::TimerInitialCount, 0);
    }
}

fn has_deadline_mode() -> bool {
    cpu::cpuid()
        .get_feature_info()
        .is_some_and(|features| features.has_tsc_deadline())
}

/// Counts a tick of the TSC, in units of 2^-32, above 0.
fn measure() -> u64 {
    local::write(Register::LvtTimer, LVT_MASKED | u32::from(vectors::TIMER));
    local::write(Register::TimerDivide, DIVIDE_BY_16);
    local::write(Register::TimerInitialCount, u32::MAX);
    let begin = time::now();
    time::spin_ns(WINDOW_NS);
    let counts = u32::MAX - local::read(Register::TimerCurrentCount);
    let ticks = time::now().saturating_sub(begin).max(1);
    local::write(Register::TimerInitialCount, 0);
    ((u64::from(counts) << 32) / ticks).max(1)
}
