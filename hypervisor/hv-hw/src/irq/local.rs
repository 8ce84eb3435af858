//! This CPU's local APIC: in x2APIC mode where the CPU has it, else through its page of registers.
//!
//! UNSAFETY: writes MSRs of the local APIC.
//!
//! Source: Intel SDM vol. 3A, "Advanced Programmable Interrupt Controller".
#![expect(unsafe_code)]

use hv_core::addr::{Hpa, PAGE_SIZE};
use hv_core::mem::TableFrames;

use crate::irq::vectors;
use crate::mmio::Registers;
use crate::paging::OutOfFrames;
use crate::sync::Once;
use crate::{cpu, insn};

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;
const BASE_MASK: u64 = 0x000f_ffff_ffff_f000;
/// The first MSR of x2APIC mode: register offset / 16 is added.
const X2APIC_MSRS: u32 = 0x800;

/// Offsets of registers in the page.
#[derive(Clone, Copy)]
pub(super) enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    Spurious = 0xf0,
    ErrorStatus = 0x280,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    LvtTimer = 0x320,
    LvtThermal = 0x330,
    LvtPerformance = 0x340,
    LvtLint0 = 0x350,
    LvtLint1 = 0x360,
    LvtError = 0x370,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivide = 0x3e0,
}

const LVT_MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 4 << 8;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const COMMAND_PENDING: u32 = 1 << 12;
/// Reads of the command register before an IPI is given up: hardware takes microseconds.
const MOST_READS: u32 = 1_000_000;

/// How the registers are reached; the same on every CPU.
#[derive(Clone, Copy, Debug)]
enum Access {
    Msrs,
    Page(Registers),
}

static ACCESS: Once<Access> = Once::new();

/// Finds out how local APICs are reached, once, on the CPU that boots.
///
/// # Errors
/// [`OutOfFrames`] where the page of registers cannot be mapped.
pub(super) fn init(frames: &mut impl TableFrames) -> Result<(), OutOfFrames> {
    let has_x2apic = cpu::cpuid()
        .get_feature_info()
        .is_some_and(|features| features.has_x2apic());
    let access = if has_x2apic {
        Access::Msrs
    } else {
        Access::Page(Registers::map(frames, page(), PAGE_SIZE)?)
    };
    ACCESS.call_once(|| access);
    Ok(())
}

/// The page of registers of this CPU's local APIC, which guests must never be given.
#[must_use]
pub fn page() -> Hpa {
    // SAFETY: every CPU with VMX has the MSR.
    Hpa::new(unsafe { insn::rdmsr(IA32_APIC_BASE) } & BASE_MASK)
}

/// True where local APICs run in x2APIC mode.
#[must_use]
pub fn is_x2apic() -> bool {
    matches!(ACCESS.get(), Some(Access::Msrs))
}

/// Enables this CPU's local APIC, every source of its own masked but NMI on LINT1.
pub(super) fn enable() {
    // SAFETY: as in `page`.
    let base = unsafe { insn::rdmsr(IA32_APIC_BASE) };
    let wanted = base | APIC_ENABLE | if is_x2apic() { X2APIC_ENABLE } else { 0 };
    if wanted != base {
        // SAFETY: turns the APIC and its mode on; memory is not affected.
        unsafe { insn::wrmsr(IA32_APIC_BASE, wanted) };
    }
    write(Register::TaskPriority, 0);
    for source in [
        Register::LvtTimer,
        Register::LvtThermal,
        Register::LvtPerformance,
        Register::LvtLint0,
    ] {
        write(source, LVT_MASKED);
    }
    write(Register::LvtLint1, LVT_NMI);
    write(Register::LvtError, u32::from(vectors::APIC_ERROR));
    write(
        Register::Spurious,
        SOFTWARE_ENABLE | u32::from(vectors::SPURIOUS),
    );
    clear_errors();
    eoi();
}

/// This CPU's APIC id.
#[must_use]
pub fn id() -> u32 {
    let raw = read(Register::Id);
    if is_x2apic() { raw } else { raw >> 24 }
}

/// Ends the interrupt in service with the highest priority.
#[inline]
pub fn eoi() {
    write(Register::EndOfInterrupt, 0);
}

/// Sends `vector` to the CPU with APIC id `apic_id`. Bounded: a CPU that never accepts loses it.
///
/// What was stored before is visible to that CPU when the interrupt arrives: a WRMSR to a register of x2APIC mode may
/// be done before the stores that precede it (Intel SDM vol. 3A, "x2APIC Register Address Space"; the fence is the one
/// it names).
pub(super) fn send_ipi(apic_id: u32, vector: u8) {
    match ACCESS.get() {
        Some(Access::Msrs) => {
            let command = u64::from(apic_id) << 32 | u64::from(vector);
            insn::store_fence();
            // SAFETY: an interrupt to a CPU that has a stub for every vector.
            unsafe { insn::wrmsr(msr(Register::CommandLow), command) };
        }
        Some(Access::Page(_)) => {
            wait_for_command();
            write(Register::CommandHigh, apic_id << 24);
            write(Register::CommandLow, u32::from(vector));
            wait_for_command();
        }
        None => {}
    }
}

fn clear_errors() {
    write(Register::ErrorStatus, 0);
}

fn wait_for_command() {
    for _ in 0..MOST_READS {
        if read(Register::CommandLow) & COMMAND_PENDING == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

fn msr(register: Register) -> u32 {
    X2APIC_MSRS + register as u32 / 16
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "all but the command register have 32 bits"
)]
pub(super) fn read(register: Register) -> u32 {
    match ACCESS.get() {
        // SAFETY: the CPU is in x2APIC mode, which has these registers.
        Some(Access::Msrs) => unsafe { insn::rdmsr(msr(register)) as u32 },
        Some(Access::Page(page)) => page.read32(register as usize),
        None => 0,
    }
}

#[inline]
pub(super) fn write(register: Register, value: u32) {
    match ACCESS.get() {
        // SAFETY: the CPU is in x2APIC mode, which has these registers; none affects memory.
        Some(Access::Msrs) => unsafe { insn::wrmsr(msr(register), u64::from(value)) },
        Some(Access::Page(page)) => page.write32(register as usize, value),
        None => {}
    }
}
