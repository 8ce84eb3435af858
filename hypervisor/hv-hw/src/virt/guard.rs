//! What VM entry and exit do against leaks by speculation: the decision ([`Plan`]) as each vendor's `entry` carries
//! it out.
//!
//! A CPU on which there is nothing to do pays nothing. On the others the assembly of VM entry and exit reads a
//! [`Guard`]: what is to be done, and the two values of IA32_SPEC_CTRL. The guest's accesses to that MSR exit, so its
//! value is always known here and the MSR need not be read.
// UNSAFETY: writes MSRs that steer prediction and caches.
#![expect(unsafe_code, reason = "WRMSR of speculation controls")]

use hv_core::msr::number::{IA32_FLUSH_CMD, IA32_PRED_CMD, IA32_SPEC_CTRL};
use hv_core::speculation::{CpuFacts, Defences, Means, Plan};

use crate::cpu::msr::wrmsr_safe;
use crate::insn::wrmsr;
use crate::percpu::IrqsOff;

/// IBPB in IA32_PRED_CMD.
const IBPB: u64 = 1;
/// L1D_FLUSH in IA32_FLUSH_CMD.
pub(super) const FLUSH_L1D: u64 = 1;

/// Assembly of VM entry, with the [`Guard`] in R8: IA32_SPEC_CTRL as the guest has it. Changes RAX, RCX and RDX.
/// Operands: `guest` and `host`, the offsets of the two values.
macro_rules! load_guest_spec_ctrl {
    () => {
        concat!(
            "mov rax, [r8 + {guest}]\n",
            "cmp rax, [r8 + {host}]\n",
            "je 2f\n",
            "mov rdx, rax\n",
            "shr rdx, 32\n",
            "mov ecx, 0x48\n",
            "wrmsr\n",
            "2:",
        )
    };
}
pub(super) use load_guest_spec_ctrl;

/// Assembly of VM exit, with the [`Guard`] in R8: IA32_SPEC_CTRL as the hypervisor has it. Where IBRS is not enhanced,
/// writing it is what protects, whatever it was. Changes RAX, RCX and RDX; R9D has the defences after it.
/// Operands: as above, the offset `defences`, and the bits `ibrs` and `enhanced`.
macro_rules! load_host_spec_ctrl {
    () => {
        concat!(
            "mov r9d, [r8 + {defences}]\n",
            "mov eax, r9d\n",
            "and eax, {ibrs} | {enhanced}\n",
            "cmp eax, {ibrs}\n",
            "mov rax, [r8 + {host}]\n",
            "je 2f\n",
            "cmp rax, [r8 + {guest}]\n",
            "je 3f\n",
            "2:\n",
            "mov rdx, rax\n",
            "shr rdx, 32\n",
            "mov ecx, 0x48\n",
            "wrmsr\n",
            "3:",
        )
    };
}
pub(super) use load_host_spec_ctrl;

/// Assembly of VM exit, with the defences in R9D: fills the return stack with 32 entries, each of which leads a
/// mispredicted return nowhere. Changes ECX. Operand: the bit `stuff`.
macro_rules! stuff_return_stack {
    () => {
        concat!(
            "test r9d, {stuff}\n",
            "jz 5f\n",
            "mov ecx, 32\n",
            "4:\n",
            "call 8f\n",
            "9: pause\n",
            "lfence\n",
            "jmp 9b\n",
            "8:\n",
            "dec ecx\n",
            "jnz 4b\n",
            "add rsp, 32 * 8\n",
            "5:",
        )
    };
}
pub(super) use stuff_return_stack;

/// What the assembly of VM entry and exit reads.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Guard {
    /// IA32_SPEC_CTRL while the hypervisor runs.
    pub(super) host_spec_ctrl: u64,
    /// IA32_SPEC_CTRL while the guest runs.
    pub(super) guest_spec_ctrl: u64,
    /// What is to be done.
    pub(super) defences: u32,
}

impl Guard {
    /// As `plan` has it, with the guest's IA32_SPEC_CTRL as after reset.
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            host_spec_ctrl: plan.host_spec_ctrl(),
            guest_spec_ctrl: 0,
            defences: plan.defences.bits(),
        }
    }

    /// True where VM entry and exit have something to do.
    pub(super) fn is_needed(&self) -> bool {
        self.has(Defences::AT_ENTRY_OR_EXIT)
    }

    fn has(&self, any: Defences) -> bool {
        self.defences & any.bits() != 0
    }

    /// Keeps what the CPU has learnt of branches in one domain from another's.
    pub(super) fn forget_branches(&self) {
        if self.has(Defences::IBPB_DOMAIN) {
            // SAFETY: the plan has IBPB only where the CPU took it in `means_that_work`; it changes nothing that a
            // program sees.
            unsafe { wrmsr(IA32_PRED_CMD, IBPB) };
        }
    }
}

/// Has this CPU run the hypervisor with `plan`'s IA32_SPEC_CTRL, from now on. Once a CPU.
pub fn defend(plan: &Plan, _irqs_off: &IrqsOff) {
    let value = plan.host_spec_ctrl();
    if value != 0 {
        // SAFETY: the plan has its bits only where the CPU took them in `means_that_work`; no program sees them.
        unsafe { wrmsr(IA32_SPEC_CTRL, value) };
    }
}

/// `facts` without the means that CPUID shows and the CPU refuses, as an emulator or a hypervisor under us may.
#[must_use]
pub fn means_that_work(facts: CpuFacts) -> CpuFacts {
    const IBRS: u64 = 1 << 0;
    const SSBD: u64 = 1 << 2;
    const BHI_DIS_S: u64 = 1 << 10;
    let mut facts = facts;
    let mut try_out = |means, msr, value| {
        if facts.means.contains(means) {
            // SAFETY: none of these MSRs changes what a program sees.
            let works = unsafe { wrmsr_safe(msr, value) };
            facts.means.set(means, works);
        }
    };
    try_out(Means::SSBD, IA32_SPEC_CTRL, SSBD);
    try_out(Means::BHI_CTRL, IA32_SPEC_CTRL, BHI_DIS_S);
    try_out(Means::IBRS_IBPB, IA32_SPEC_CTRL, IBRS);
    try_out(Means::IBRS_IBPB, IA32_SPEC_CTRL, 0);
    try_out(Means::IBRS_IBPB, IA32_PRED_CMD, IBPB);
    try_out(Means::IBPB, IA32_PRED_CMD, IBPB);
    try_out(Means::L1D_FLUSH, IA32_FLUSH_CMD, FLUSH_L1D);
    facts
}

#[cfg(test)]
mod tests {
    use hv_core::speculation::Weakness;

    use super::*;

    fn guard(defences: Defences) -> Guard {
        Guard::new(&Plan {
            defences,
            unprotected: Weakness::empty(),
            lacking: Defences::empty(),
        })
    }

    #[test]
    fn cpu_on_which_there_is_nothing_to_do_enters_without_a_guard() {
        assert!(!guard(Defences::empty()).is_needed());
        assert!(!guard(Defences::IBPB_DOMAIN).is_needed());
    }

    #[test]
    fn whatever_is_done_at_entry_or_exit_needs_the_guard() {
        for defence in Defences::all().iter() {
            let is_needed = guard(defence).is_needed();
            let is_there = Defences::AT_ENTRY_OR_EXIT.contains(defence);
            assert_eq!(is_needed, is_there, "{defence:?}");
        }
    }
}
