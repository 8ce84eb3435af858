//! Extended state is the guest's own: what it loaded is there after any exit.

use guest_abi::sched::SCHEDOP_yield;
use guest_abi::xen::{__HYPERVISOR_sched_op, __HYPERVISOR_xen_version};
use guest_rt::{Test, Verdict, check, hypercall, insn, say, skip, xsave};

pub(crate) static TESTS: &[Test] = &[
    Test::new("xsave_state_survives_exits", survives),
    Test::new("xsave_state_survives_every_subset_of_xcr0", subsets),
];

/// x87, SSE, AVX, AVX-512 (3 parts), PKRU: what a pattern may be loaded into.
const PATTERN: u64 = 0x2E7;

fn exits() {
    let _ = insn::cpuid(0, 0);
    let _ = insn::inb(0x20);
    let _ = insn::rdmsr_safe(0x1B);
    let _ = insn::rdmsr_safe(0xDEAD_0000);
    if hypercall::present() {
        let _ = hypercall::plain(__HYPERVISOR_xen_version, [0, 0]);
        let _ = hypercall::plain(__HYPERVISOR_sched_op, [u64::from(SCHEDOP_yield), 0]);
        // formats and prints in the hypervisor
        say!("(text while extended state is loaded)");
    }
}

fn survives() -> Verdict {
    if !xsave::is_available() {
        skip!("no XSAVE");
    }
    let Ok(enabled) = xsave::enable() else {
        skip!("XSAVE cannot be enabled: see cpuid_xsave_sizes_follow_xcr0")
    };
    for round in 0..20 {
        compare(round, enabled & PATTERN)?;
    }
    say!("(XCR0 {enabled:#x})");
    Ok(())
}

fn subsets() -> Verdict {
    if !xsave::is_available() || xsave::enable().is_err() {
        skip!("no XSAVE");
    }
    for xcr0 in [1, 3, 7, 0xE7] {
        if xcr0 & !xsave::offered() == 0 {
            check!(
                insn::xsetbv_safe(0, xcr0).is_ok(),
                "XCR0 cannot be {xcr0:#x}"
            );
            compare(xcr0, xcr0)?;
        }
    }
    check!(xsave::enable().is_ok(), "XCR0 cannot be put back");
    Ok(())
}

fn compare(seed: u64, components: u64) -> Verdict {
    xsave::load(seed, components);
    exits();
    let difference = xsave::first_difference(components);
    check!(
        difference.is_none(),
        "with components {components:#x}: (component, byte) {difference:?} changed"
    );
    Ok(())
}
