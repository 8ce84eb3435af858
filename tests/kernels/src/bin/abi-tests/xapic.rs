//! The local APIC in xAPIC mode, in which every vCPU starts: registers in memory, interrupts by them, and the ways
//! between the modes. A test leaves the APIC in x2APIC mode, as the others want it.

use core::cmp::Ordering::{Equal, Greater, Less};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest_rt::insn::{cli, rdmsr_safe, sti, wrmsr_safe};
use guest_rt::register::Register;
use guest_rt::{Test, Verdict, check, check_eq, event, insn, time, traps};

/// Before any test has changed the mode.
pub(crate) static START: &[Test] = &[Test::new("xapic_is_the_mode_at_the_start", start)];

pub(crate) static TESTS: &[Test] = &[
    Test::new("xapic_registers_after_reset", || in_xapic(after_reset)),
    Test::new("xapic_registers_by_many_instructions", || {
        in_xapic(instructions)
    }),
    Test::new("xapic_ipi_to_self_and_eoi", || in_xapic(ipi)),
    Test::new("xapic_logical_destination", || in_xapic(logical)),
    Test::new("xapic_priorities_and_tpr", || in_xapic(priorities)),
    Test::new("xapic_cr8_is_the_tpr", || in_xapic(cr8)),
    Test::new("xapic_timer_oneshot_and_periodic", || in_xapic(timer)),
    Test::new("xapic_nmi_to_self", || in_xapic(nmi)),
    Test::new("xapic_errors", || in_xapic(errors)),
    Test::new("xapic_state_is_kept_in_x2apic_mode", || in_xapic(kept)),
    Test::new("xapic_transitions", || in_xapic(transitions)),
];

const APIC_BASE: u32 = 0x1B;
const OFF: u64 = 0xFEE0_0100;
const XAPIC: u64 = 0xFEE0_0900;
const X2APIC: u64 = 0xFEE0_0D00;
const PAGE: u64 = 0xFEE0_0000;

const ID: u64 = 0x20;
const VERSION: u64 = 0x30;
const TPR: u64 = 0x80;
const PPR: u64 = 0xA0;
const EOI: u64 = 0xB0;
const LDR: u64 = 0xD0;
const DFR: u64 = 0xE0;
const SVR: u64 = 0xF0;
const ISR: u64 = 0x100;
const IRR: u64 = 0x200;
const ESR: u64 = 0x280;
const ICR: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_THERMAL: u64 = 0x330;
const LVT_ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3E0;

const MASKED: u32 = 1 << 16;
const TO_SELF: u32 = 1 << 18;
const LOGICAL: u32 = 1 << 11;
const LOW: u8 = 0x41;
const HIGH: u8 = 0x91;
const ERROR: u8 = 0xA1;

static TAKEN: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
static ORDER: AtomicU32 = AtomicU32::new(0);

fn reg(offset: u64) -> Register {
    Register::at(PAGE + offset)
}

fn take(frame: &mut traps::TrapFrame) {
    let vector = (frame.vector & 0xFF) as u32;
    TAKEN[vector as usize].fetch_add(1, SeqCst);
    ORDER.store(ORDER.load(SeqCst) << 8 | vector, SeqCst);
    if vector >= 32 {
        reg(EOI).store(0);
    }
}

fn taken(vector: u8) -> u32 {
    TAKEN[usize::from(vector)].load(SeqCst)
}

fn open() {
    sti();
    insn::pause();
    cli();
}

fn send(command: u32, vector: u8) {
    reg(ICR).store(command | u32::from(vector));
}

fn bit(set: u64, vector: u8) -> u32 {
    let word = reg(set + 0x10 * u64::from(vector / 32)).load();
    word >> (vector % 32) & 1
}

/// Runs a test in xAPIC mode, from the state after reset, software-enabled.
fn in_xapic(test: fn() -> Verdict) -> Verdict {
    event::setup()?;
    for vector in [2, LOW, HIGH, ERROR] {
        TAKEN[usize::from(vector)].store(0, SeqCst);
        traps::set_handler(vector, Some(take));
    }
    ORDER.store(0, SeqCst);
    check!(wrmsr_safe(APIC_BASE, OFF).is_ok(), "cannot be switched off");
    check!(wrmsr_safe(APIC_BASE, XAPIC).is_ok(), "xAPIC mode faults");
    reg(SVR).store(0x1FF);
    let verdict = test();
    cli();
    let _ = wrmsr_safe(APIC_BASE, OFF);
    let _ = wrmsr_safe(APIC_BASE, XAPIC);
    let _ = wrmsr_safe(APIC_BASE, X2APIC);
    let _ = wrmsr_safe(event::X2APIC_SVR, 0x1FF);
    verdict
}

fn start() -> Verdict {
    let base = rdmsr_safe(APIC_BASE);
    check_eq!(base, Ok(XAPIC), "APIC_BASE: boot CPU, enabled, xAPIC");
    check_eq!(reg(SVR).load(), 0xFF, "SVR");
    reset_values()
}

fn after_reset() -> Verdict {
    reg(SVR).store(0xFF);
    reset_values()
}

fn reset_values() -> Verdict {
    let id = insn::cpuid(1, 0).ebx & 0xFF00_0000;
    for (offset, value, name) in [
        (ID, id, "ID"),
        (VERSION, 0x5_0014, "version"),
        (TPR, 0, "TPR"),
        (PPR, 0, "PPR"),
        (LDR, 0, "LDR"),
        (DFR, u32::MAX, "DFR"),
        (ESR, 0, "ESR"),
        (ICR, 0, "ICR"),
        (ICR_HIGH, 0, "upper ICR"),
        (LVT_TIMER, MASKED, "LVT timer"),
        (LVT_THERMAL, MASKED, "LVT thermal"),
        (LVT_ERROR, MASKED, "LVT error"),
        (INITIAL_COUNT, 0, "initial count"),
        (CURRENT_COUNT, 0, "current count"),
        (DIVIDE, 0, "divide configuration"),
    ] {
        check_eq!(reg(offset).load(), value, "{name}");
    }
    for msr in [0x802, 0x803, 0x808, 0x80F, 0x830, 0x83F] {
        let read = rdmsr_safe(msr);
        check!(
            read.is_err_and(|fault| fault.vector == traps::GP),
            "RDMSR of {msr:#x} in xAPIC mode: {read:x?}"
        );
        let written = wrmsr_safe(msr, 0);
        check!(
            written.is_err_and(|fault| fault.vector == traps::GP),
            "WRMSR to {msr:#x} in xAPIC mode: {written:x?}"
        );
    }
    Ok(())
}

fn instructions() -> Verdict {
    let error = reg(LVT_ERROR);
    error.store(0x1_00A5);
    check_eq!(error.load(), 0x1_00A5, "MOV m32, r32");
    error.store_constant::<0x1_00B6>();
    check_eq!(error.load(), 0x1_00B6, "MOV m32, imm32");
    error.store_narrow(0x1_00C7);
    check_eq!(error.load(), 0x1_00C7, "MOV with a 32-bit address");
    check!(error.test::<0x1_0000>(), "TEST of a set bit");
    check!(!error.test::<0x8>(), "TEST of a clear bit");
    check_eq!(error.compare(0x1_00C7), Equal, "CMP");
    check_eq!(error.compare(0x1_00C8), Less, "CMP");
    check_eq!(error.compare(0xC7), Greater, "CMP");
    error.or(0x38);
    check_eq!(error.load(), 0x1_00FF, "OR m32, r32");
    error.and::<0x1_00F0>();
    check_eq!(error.load(), 0x1_00F0, "AND m32, imm32");
    check_eq!(error.exchange(0x1_0031), 0x1_00F0, "XCHG gives the old");
    check_eq!(error.load(), 0x1_0031, "XCHG stores the new");
    check_eq!(error.load_byte(0), 0x31, "MOVZX of byte 0");
    check_eq!(error.load_byte(2), 1, "MOVZX of byte 2");
    error.store(u32::MAX);
    check_eq!(error.load(), 0x1_00FF, "reserved bits are dropped");
    let version = reg(VERSION);
    version.store(0);
    check_eq!(version.load(), 0x5_0014, "the version after a write");
    reg(DFR).store(0x0FFF_FFFF);
    check_eq!(reg(DFR).load(), 0x0FFF_FFFF, "DFR, cluster model");
    reg(LDR).store(0x15FF_FFFF);
    check_eq!(reg(LDR).load(), 0x1500_0000, "LDR");
    Ok(())
}

fn ipi() -> Verdict {
    send(TO_SELF, LOW);
    check_eq!(
        (taken(LOW), bit(IRR, LOW)),
        (0, 1),
        "taken, IRR with IF off"
    );
    open();
    check_eq!(
        (taken(LOW), bit(IRR, LOW)),
        (1, 0),
        "taken, IRR by shorthand"
    );
    check_eq!(
        (bit(ISR, LOW), reg(PPR).load()),
        (0, 0),
        "ISR, PPR after EOI"
    );
    reg(ICR_HIGH).store(reg(ID).load());
    send(0, LOW);
    open();
    check_eq!(taken(LOW), 2, "interrupts by own id as destination");
    reg(ICR_HIGH).store(0xFF00_0000);
    send(0, LOW);
    open();
    check_eq!(taken(LOW), 3, "interrupts by broadcast");
    send(2 << 18, LOW);
    open();
    check_eq!(taken(LOW), 4, "interrupts by shorthand for all");
    send(3 << 18, LOW);
    open();
    check_eq!(taken(LOW), 4, "interrupts by shorthand for all others");
    check!(
        !reg(ICR).test::<{ 1 << 12 }>(),
        "delivery status is pending"
    );
    for _ in 0..200 {
        send(TO_SELF, LOW);
        open();
    }
    check_eq!(taken(LOW), 204, "interrupts after 200 more");
    Ok(())
}

fn logical() -> Verdict {
    const CLUSTER: u32 = 0x0FFF_FFFF;
    let mut expected = 0;
    for (ldr, dfr, destination, is_meant) in [
        (0x04, u32::MAX, 0x06, true),
        (0x04, u32::MAX, 0x0A, false),
        (0x24, CLUSTER, 0x25, true),
        (0x24, CLUSTER, 0x15, false),
        (0x24, CLUSTER, 0x2B, false),
    ] {
        reg(DFR).store(dfr);
        reg(LDR).store(ldr << 24);
        reg(ICR_HIGH).store(destination << 24);
        send(LOGICAL, LOW);
        open();
        expected += u32::from(is_meant);
        check_eq!(taken(LOW), expected, "{ldr:#x} {dfr:#x} {destination:#x}");
    }
    Ok(())
}

fn priorities() -> Verdict {
    send(TO_SELF, LOW);
    send(TO_SELF, HIGH);
    open();
    let both = u32::from(HIGH) << 8 | u32::from(LOW);
    check_eq!(ORDER.load(SeqCst), both, "order of vectors");
    reg(TPR).store(0x50);
    check_eq!((reg(TPR).load(), reg(PPR).load()), (0x50, 0x50), "TPR, PPR");
    send(TO_SELF, LOW);
    send(TO_SELF, HIGH);
    open();
    check_eq!((taken(LOW), taken(HIGH)), (1, 2), "below and above the TPR");
    reg(TPR).store(0);
    open();
    check_eq!(taken(LOW), 2, "below the TPR, once that is 0");
    Ok(())
}

fn cr8() -> Verdict {
    insn::set_cr8(5);
    check_eq!(reg(TPR).load(), 0x50, "TPR after MOV to CR8");
    send(TO_SELF, LOW);
    open();
    check_eq!(taken(LOW), 0, "interrupts below CR8");
    reg(TPR).store(0x30);
    check_eq!(insn::cr8(), 3, "CR8 after a write of TPR");
    open();
    check_eq!(taken(LOW), 1, "interrupts above the TPR");
    reg(TPR).store(0x60);
    send(TO_SELF, LOW);
    open();
    check_eq!(taken(LOW), 1, "interrupts below the TPR");
    insn::set_cr8(0);
    open();
    check_eq!(taken(LOW), 2, "interrupts once CR8 is 0");
    Ok(())
}

fn timer() -> Verdict {
    reg(DIVIDE).store(0xB);
    reg(LVT_TIMER).store(u32::from(LOW));
    reg(INITIAL_COUNT).store(10_000);
    check!(
        time::wait(50 * time::MS, || taken(LOW) > 0),
        "no timer interrupt in 50 ms"
    );
    check!(
        !time::wait(2 * time::MS, || taken(LOW) > 1),
        "a one-shot timer fired twice"
    );
    check_eq!(reg(CURRENT_COUNT).load(), 0, "current count after expiry");
    reg(LVT_TIMER).store(1 << 17 | u32::from(HIGH));
    reg(INITIAL_COUNT).store(100_000);
    let count = reg(CURRENT_COUNT).load();
    check!(count > 0 && count <= 100_000, "current count {count}");
    check!(
        time::wait(100 * time::MS, || taken(HIGH) >= 5),
        "{} ticks of 1 ms in 100 ms",
        taken(HIGH)
    );
    reg(LVT_TIMER).store(MASKED);
    Ok(())
}

fn nmi() -> Verdict {
    for _ in 0..10 {
        send(TO_SELF | 4 << 8, 0);
        let _ = insn::cpuid(0, 0);
    }
    check_eq!(taken(2), 10, "NMIs");
    Ok(())
}

fn errors() -> Verdict {
    reg(LVT_ERROR).store(u32::from(ERROR));
    send(TO_SELF, 5);
    open();
    check_eq!(taken(ERROR), 1, "error interrupts of an illegal vector");
    check_eq!(reg(ESR).load(), 0, "ESR before it is written");
    reg(ESR).store(0);
    check_eq!(reg(ESR).load(), 0x20, "ESR: an illegal vector was sent");
    reg(ESR).store(0);
    check_eq!(reg(ESR).load(), 0, "ESR, written again");
    Ok(())
}

fn kept() -> Verdict {
    for (offset, value) in [
        (LDR, 0x0400_0000),
        (TPR, 0x20),
        (LVT_ERROR, u32::from(ERROR)),
        (DIVIDE, 0xB),
        (LVT_TIMER, 1 << 17 | u32::from(LOW)),
        (INITIAL_COUNT, 0x1000_0000),
        (ICR_HIGH, 0x0700_0000),
    ] {
        reg(offset).store(value);
    }
    send(TO_SELF, HIGH);
    let id = reg(ID).load() >> 24;
    check!(wrmsr_safe(APIC_BASE, X2APIC).is_ok(), "x2APIC mode faults");
    check_eq!(rdmsr_safe(APIC_BASE), Ok(X2APIC), "APIC_BASE");
    for (msr, value, name) in [
        (0x802, id, "ID"),
        (0x803, 0x5_0014, "version"),
        (0x808, 0x20, "TPR"),
        (0x80D, id >> 4 << 16 | 1 << (id & 15), "LDR"),
        (0x80F, 0x1FF, "SVR"),
        (0x824, 1 << (HIGH % 32), "IRR"),
        (0x830, TO_SELF | u32::from(HIGH), "ICR"),
        (0x832, 1 << 17 | u32::from(LOW), "LVT timer"),
        (0x837, u32::from(ERROR), "LVT error"),
        (0x838, 0x1000_0000, "initial count"),
        (0x83E, 0xB, "divide configuration"),
    ] {
        check_eq!(rdmsr_safe(msr), Ok(u64::from(value)), "{name}");
    }
    let count = rdmsr_safe(0x839).unwrap_or(0);
    check!(count > 0 && count < 0x1000_0000, "current count {count:#x}");
    check!(rdmsr_safe(0x80E).is_err(), "DFR can be read in x2APIC mode");
    let seen = insn::peek(PAGE + VERSION);
    check!(
        matches!(seen, Ok(u64::MAX) | Err(_)),
        "version in memory reads {seen:x?} in x2APIC mode"
    );
    // what was requested in the one mode is delivered in the other; its handler's EOI goes nowhere
    open();
    check_eq!(taken(HIGH), 1, "interrupts that came over");
    check_eq!(rdmsr_safe(0x814), Ok(1 << (HIGH % 32)), "ISR before EOI");
    check!(wrmsr_safe(event::X2APIC_EOI, 0).is_ok(), "EOI faults");
    check_eq!(rdmsr_safe(0x814), Ok(0), "ISR after EOI");
    Ok(())
}

fn transitions() -> Verdict {
    let refused = |value: u64, what: &str| {
        let before = rdmsr_safe(APIC_BASE);
        let result = wrmsr_safe(APIC_BASE, value);
        check!(
            result.is_err_and(|fault| fault.vector == traps::GP),
            "{what}: {result:x?}"
        );
        check_eq!(rdmsr_safe(APIC_BASE), before, "APIC_BASE after {what}");
        Ok(())
    };
    refused(0xFEE0_0500, "EXTD without EN, from xAPIC mode")?;
    refused(XAPIC | 1, "a reserved bit, from xAPIC mode")?;
    refused(XAPIC | 1 << 9, "another reserved bit, from xAPIC mode")?;
    refused(0xFED0_0900, "another address, from xAPIC mode")?;
    check!(wrmsr_safe(APIC_BASE, XAPIC).is_ok(), "xAPIC mode once more");
    check!(wrmsr_safe(APIC_BASE, X2APIC).is_ok(), "to x2APIC mode");
    check!(wrmsr_safe(APIC_BASE, X2APIC).is_ok(), "x2APIC mode again");
    refused(XAPIC, "from x2APIC to xAPIC mode")?;
    refused(0xFEE0_0500, "EXTD without EN, from x2APIC mode")?;
    check!(wrmsr_safe(APIC_BASE, OFF).is_ok(), "off from x2APIC mode");
    refused(X2APIC, "from off to x2APIC mode")?;
    refused(0xFEE0_0500, "EXTD without EN, from off")?;
    check!(
        rdmsr_safe(0x802).is_err(),
        "an MSR of x2APIC mode while off"
    );
    check!(
        wrmsr_safe(APIC_BASE, XAPIC).is_ok(),
        "to xAPIC mode from off"
    );
    check_eq!(reg(SVR).load(), 0xFF, "SVR after off and on");
    Ok(())
}
