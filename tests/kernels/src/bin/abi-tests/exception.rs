//! Exceptions and injection: what faults in the guest stays in the guest, at the right place.

use guest_rt::insn::{self, cr0, cr4};
use guest_rt::{
    Fault, Test, Verdict, check, check_eq, hypercall, probe, skip, timed, traps, xsave,
};

pub(crate) static TESTS: &[Test] = &[
    Test::new("exception_invalid_opcode", invalid_opcode),
    Test::new("exception_divide_error", divide_error),
    Test::new("exception_page_fault_reports_cr2_and_error", page_fault),
    Test::new(
        "exception_general_protection_has_error_code_0",
        general_protection,
    ),
    Test::new("exception_breakpoint_is_a_trap", breakpoint),
    Test::new(
        "exception_single_step_over_an_exiting_instruction",
        single_step,
    ),
    Test::new(
        "exception_hidden_instructions_are_invalid_opcodes",
        hidden_instructions,
    ),
    Test::new("exception_cache_flushes_exit", cache_flushes),
    Test::new("exception_reserved_control_bits", reserved_control_bits),
    Test::new("exception_cr0_ne_is_the_guests", cr0_ne),
    Test::new("exception_xsetbv_rules", xsetbv_rules),
    Test::new("exception_storm", storm),
];

fn need_hypervisor() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    Ok(())
}

fn invalid_opcode() -> Verdict {
    check_eq!(
        insn::ud2_safe(),
        Err(Fault {
            vector: traps::UD,
            error: 0,
            cr2: insn::cr2()
        }),
        "UD2"
    );
    Ok(())
}

fn divide_error() -> Verdict {
    check_eq!(
        insn::div_by_zero_safe().map_err(|f| (f.vector, f.error)),
        Err((0, 0)),
        "DIV by zero"
    );
    Ok(())
}

fn page_fault() -> Verdict {
    const NOWHERE: u64 = 5 << 30 | 0x123;
    check_eq!(
        insn::peek(NOWHERE),
        Err(Fault {
            vector: traps::PF,
            error: 0,
            cr2: NOWHERE
        }),
        "read of an unmapped page"
    );
    let is_gp = insn::peek(1 << 63).is_err_and(|f| f.vector == traps::GP && f.error == 0);
    check!(
        is_gp,
        "read of a non-canonical address: {:x?}",
        insn::peek(1 << 63)
    );
    Ok(())
}

fn general_protection() -> Verdict {
    need_hypervisor()?;
    check_eq!(
        insn::rdmsr_safe(0xDEAD_0000).map_err(|f| (f.vector, f.error)),
        Err((traps::GP, 0)),
        "RDMSR of no MSR"
    );
    check_eq!(
        insn::wrmsr_safe(0xDEAD_0000, 0).map_err(|f| (f.vector, f.error)),
        Err((traps::GP, 0)),
        "WRMSR of no MSR"
    );
    Ok(())
}

fn breakpoint() -> Verdict {
    let seen = probe::breakpoint();
    check_eq!(seen.count, 1, "breakpoints");
    check_eq!(seen.first, seen.expected, "address that #BP reports");
    Ok(())
}

fn single_step() -> Verdict {
    let seen = probe::single_step_over_cpuid();
    check!(seen.count >= 1, "no #DB");
    check_eq!(seen.first, seen.expected, "first #DB: behind CPUID");
    check!(
        seen.count <= 4,
        "{} #DBs, want one an instruction",
        seen.count
    );
    Ok(())
}

/// A guest does not empty everybody's caches: the hypervisor answers, which takes longer than an instruction of an
/// emulator's. On a chip either takes long, and the test says nothing.
fn cache_flushes() -> Verdict {
    need_hypervisor()?;
    const FEWEST_OF_AN_EXIT: u64 = 50;
    let nothing = timed::nothing();
    for (name, ticks) in [("WBINVD", timed::wbinvd()), ("INVD", timed::invd())] {
        check!(
            ticks > nothing + FEWEST_OF_AN_EXIT,
            "{name} takes {ticks} ticks, nothing {nothing}"
        );
    }
    Ok(())
}

fn hidden_instructions() -> Verdict {
    need_hypervisor()?;
    let [vmcall, vmmcall] = insn::HYPERCALLS;
    let others = if insn::is_amd() { vmcall } else { vmmcall };
    for (name, attempt) in insn::NEVER.into_iter().chain([others]) {
        let outcome = attempt();
        check!(
            outcome.is_err_and(|f| f.vector == traps::UD),
            "{name}: {outcome:x?}"
        );
    }
    Ok(())
}

fn reserved_control_bits() -> Verdict {
    need_hypervisor()?;
    const VMXE: u64 = 1 << 13;
    const SMXE: u64 = 1 << 14;
    for bit in [VMXE, SMXE, 1 << 15, 1 << 25, 1 << 31, 1 << 40] {
        let before = cr4();
        // every one of these writes must fault, and so change nothing
        let result = guest_rt::probe::set_cr4_reserved(bit);
        check!(
            result.is_err_and(|f| f.vector == traps::GP),
            "CR4 bit {:#x} can be set: {result:x?}",
            bit
        );
        check_eq!(cr4(), before, "CR4 after the fault");
    }
    let result = guest_rt::probe::set_cr0_reserved(1 << 40);
    check!(
        result.is_err_and(|f| f.vector == traps::GP),
        "CR0 bit 40 can be set: {result:x?}"
    );
    Ok(())
}

fn cr0_ne() -> Verdict {
    let before = cr0();
    check!(
        guest_rt::probe::toggle_cr0_ne().is_ok(),
        "CR0.NE cannot be changed"
    );
    check_eq!(cr0(), before ^ 0x20, "CR0 with NE toggled");
    check!(
        guest_rt::probe::toggle_cr0_ne().is_ok(),
        "CR0.NE cannot be changed back"
    );
    check_eq!(cr0(), before, "CR0 as before");
    Ok(())
}

fn xsetbv_rules() -> Verdict {
    if !xsave::is_available() {
        skip!("no XSAVE");
    }
    check!(
        xsave::enable().is_ok(),
        "XCR0 cannot be set to what CPUID offers"
    );
    let offered = xsave::offered();
    let mut invalid = [
        (0, 0u64, "nothing"),
        (0, 2, "SSE without x87"),
        (0, 1 << 62, "bit 62"),
        (1, 1, "XCR1"),
        (0, 0, ""),
    ];
    if offered & 4 != 0 {
        invalid[4] = (0, 5, "AVX without SSE");
    }
    for (index, value, what) in invalid {
        let result = insn::xsetbv_safe(index, value);
        check!(
            result.is_err_and(|f| f.vector == traps::GP),
            "XSETBV of {what}: {result:x?}"
        );
        check_eq!(insn::xgetbv0(), offered, "XCR0 after the fault");
    }
    if offered & 0xE0 != 0 {
        check!(
            insn::xsetbv_safe(0, 0x27).is_err(),
            "XSETBV takes a part of AVX-512"
        );
    }
    Ok(())
}

/// Faults of several kinds in a row, with exits between: none is lost, none comes twice.
fn storm() -> Verdict {
    need_hypervisor()?;
    for round in 0..2000u32 {
        check!(
            insn::ud2_safe().is_err_and(|f| f.vector == traps::UD),
            "round {round}: UD2"
        );
        check!(
            insn::rdmsr_safe(0xDEAD_0000).is_err_and(|f| f.vector == traps::GP),
            "round {round}: RDMSR"
        );
        check!(
            insn::peek(5 << 30).is_err_and(|f| f.vector == traps::PF),
            "round {round}: page fault"
        );
        check!(
            insn::rdmsr_safe(0x1B).is_ok(),
            "round {round}: RDMSR of APIC_BASE"
        );
    }
    Ok(())
}
