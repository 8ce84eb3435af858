//! The local APIC in x2APIC mode: self-IPIs, NMI, priorities, the timer, and where interrupts open.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use guest_rt::insn::{cli, rdmsr_safe, sti, sti_hlt_cli, wrmsr_safe};
use guest_rt::{Test, Verdict, check, check_eq, event, insn, probe, skip, time, traps};

pub(crate) static TESTS: &[Test] = &[
    Test::new("apic_registers_in_x2apic_mode", registers),
    Test::new("apic_self_ipi", self_ipi),
    Test::new("apic_interrupts_wait_for_if", waits_for_if),
    Test::new("apic_sti_holds_off_for_one_instruction", sti_blocking),
    Test::new("apic_hlt_wakes_with_interrupt_pending", hlt_pending),
    Test::new("apic_higher_vector_first", priority),
    Test::new("apic_tpr_holds_lower_vectors_off", tpr),
    Test::new("apic_nmi_to_self", nmi),
    Test::new("apic_timer_oneshot", timer_oneshot),
    Test::new("apic_timer_tsc_deadline", tsc_deadline),
    Test::new("apic_mmio_page_is_not_the_hosts", mmio),
];

const LOW: u8 = 0x41;
const HIGH: u8 = 0x91;
const ICR: u32 = 0x830;
const SELF: u64 = 1 << 18;

static TAKEN: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
static ORDER: AtomicU32 = AtomicU32::new(0);

fn begin() -> Verdict {
    event::setup()?;
    for vector in [2, LOW, HIGH] {
        TAKEN[usize::from(vector)].store(0, SeqCst);
        traps::set_handler(vector, Some(take));
    }
    ORDER.store(0, SeqCst);
    Ok(())
}

fn take(frame: &mut traps::TrapFrame) {
    let vector = (frame.vector & 0xFF) as u32;
    TAKEN[vector as usize].fetch_add(1, SeqCst);
    ORDER.store(ORDER.load(SeqCst) << 8 | vector, SeqCst);
    if vector >= 32 {
        let _ = wrmsr_safe(event::X2APIC_EOI, 0);
    }
}

fn taken(vector: u8) -> u32 {
    TAKEN[usize::from(vector)].load(SeqCst)
}

fn send(vector: u8) {
    let _ = wrmsr_safe(ICR, SELF | u64::from(vector));
}

fn registers() -> Verdict {
    event::setup()?;
    let version = rdmsr_safe(0x803);
    check!(
        version.is_ok_and(|v| v & 0xF0 == 0x10 && v >> 16 & 0xFF >= 5),
        "version {version:x?}"
    );
    check_eq!(rdmsr_safe(0x80F), Ok(0x1FF), "spurious vector reads back");
    let id = rdmsr_safe(0x802).unwrap_or(u64::MAX);
    check_eq!(
        rdmsr_safe(0x80D),
        Ok(id >> 4 << 16 | 1 << (id & 15)),
        "logical id of id {id:#x}"
    );
    check_eq!(rdmsr_safe(0x808), Ok(0), "TPR");
    Ok(())
}

fn self_ipi() -> Verdict {
    begin()?;
    send(LOW);
    sti();
    cli();
    check_eq!(taken(LOW), 1, "interrupts by ICR, shorthand self");
    check!(
        wrmsr_safe(0x83F, u64::from(LOW)).is_ok(),
        "SELF_IPI register faults"
    );
    sti();
    cli();
    check_eq!(taken(LOW), 2, "interrupts by SELF_IPI");
    let id = rdmsr_safe(0x802).unwrap_or(0);
    check!(
        wrmsr_safe(ICR, id << 32 | u64::from(LOW)).is_ok(),
        "ICR with destination faults"
    );
    sti();
    cli();
    check_eq!(taken(LOW), 3, "interrupts by ICR, own id as destination");
    Ok(())
}

fn waits_for_if() -> Verdict {
    begin()?;
    send(LOW);
    let _ = insn::cpuid(0, 0);
    let _ = rdmsr_safe(0x1B);
    check_eq!(taken(LOW), 0, "interrupts with IF clear");
    let request = rdmsr_safe(0x820 + u32::from(LOW) / 32);
    check_eq!(request.map(|v| v >> (LOW % 32) & 1), Ok(1), "IRR bit");
    sti();
    cli();
    check_eq!(taken(LOW), 1, "interrupts once IF is set");
    Ok(())
}

fn sti_blocking() -> Verdict {
    begin()?;
    send(LOW);
    let seen = probe::interrupt_after_sti(LOW);
    check_eq!(seen.count, 1, "interrupts");
    check_eq!(
        seen.first,
        seen.expected,
        "address interrupted: one instruction after STI"
    );
    Ok(())
}

fn hlt_pending() -> Verdict {
    begin()?;
    for _ in 0..100 {
        send(LOW);
        let seen = probe::halt_with_interrupt_pending(LOW);
        check_eq!(seen.count, 1, "interrupts");
        check_eq!(seen.first, seen.expected, "address interrupted: behind HLT");
    }
    Ok(())
}

fn priority() -> Verdict {
    begin()?;
    send(LOW);
    send(HIGH);
    sti();
    insn::pause();
    cli();
    check_eq!(
        ORDER.load(SeqCst),
        u32::from(HIGH) << 8 | u32::from(LOW),
        "order of vectors"
    );
    Ok(())
}

fn tpr() -> Verdict {
    begin()?;
    check!(wrmsr_safe(0x808, 0x50).is_ok(), "TPR cannot be written");
    check_eq!(rdmsr_safe(0x808), Ok(0x50), "TPR reads back");
    send(LOW);
    send(HIGH);
    sti();
    insn::pause();
    cli();
    let (low, high) = (taken(LOW), taken(HIGH));
    check!(wrmsr_safe(0x808, 0).is_ok(), "TPR cannot be cleared");
    check_eq!((low, high), (0, 1), "vectors taken below and above the TPR");
    sti();
    insn::pause();
    cli();
    check_eq!(taken(LOW), 1, "vectors taken once the TPR is 0");
    Ok(())
}

fn nmi() -> Verdict {
    begin()?;
    check!(
        wrmsr_safe(ICR, SELF | 4 << 8).is_ok(),
        "ICR with NMI faults"
    );
    let _ = insn::cpuid(0, 0);
    check_eq!(taken(2), 1, "NMIs, IF clear");
    for _ in 0..50 {
        let _ = wrmsr_safe(ICR, SELF | 4 << 8);
        let _ = insn::cpuid(0, 0);
    }
    check_eq!(taken(2), 51, "NMIs: IRET unblocks each time");
    Ok(())
}

fn timer_oneshot() -> Verdict {
    begin()?;
    check!(
        wrmsr_safe(0x83E, 0xB).is_ok(),
        "divide configuration faults"
    );
    check!(
        wrmsr_safe(0x832, u64::from(LOW)).is_ok(),
        "LVT timer faults"
    );
    check!(wrmsr_safe(0x838, 10_000).is_ok(), "initial count faults");
    check!(
        time::wait(50 * time::MS, || taken(LOW) > 0),
        "no timer interrupt in 50 ms"
    );
    check!(
        !time::wait(2 * time::MS, || taken(LOW) > 1),
        "a one-shot timer fired twice"
    );
    check_eq!(rdmsr_safe(0x839), Ok(0), "current count after expiry");
    check!(
        wrmsr_safe(0x832, 1 << 16).is_ok(),
        "LVT timer cannot be masked"
    );
    Ok(())
}

fn tsc_deadline() -> Verdict {
    begin()?;
    if insn::cpuid(1, 0).ecx & 1 << 24 == 0 {
        skip!("no TSC deadline");
    }
    check!(
        wrmsr_safe(0x832, 2 << 17 | u64::from(LOW)).is_ok(),
        "LVT timer in deadline mode faults"
    );
    let deadline = insn::tsc() + time::tsc_hz() / 1000;
    check!(wrmsr_safe(0x6E0, deadline).is_ok(), "deadline faults");
    check_eq!(rdmsr_safe(0x6E0), Ok(deadline), "deadline reads back");
    while taken(LOW) == 0 && insn::tsc() < deadline + time::tsc_hz() / 20 {
        sti_hlt_cli();
    }
    check_eq!(taken(LOW), 1, "timer interrupts");
    check!(insn::tsc() >= deadline, "the timer fired early");
    check_eq!(rdmsr_safe(0x6E0), Ok(0), "deadline after expiry");
    check!(
        wrmsr_safe(0x832, 1 << 16).is_ok(),
        "LVT timer cannot be masked"
    );
    Ok(())
}

/// In x2APIC mode the page is nobody's; the host's own APIC must not show through it.
fn mmio() -> Verdict {
    event::setup()?;
    let seen = insn::peek(0xFEE0_0030);
    check!(
        matches!(seen, Ok(0 | u64::MAX) | Err(_)),
        "0xFEE00030 reads {seen:x?}"
    );
    Ok(())
}
