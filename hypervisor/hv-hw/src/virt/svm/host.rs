//! The host side of SVM: EFER.SVME, and where each CPU's own state is kept while a guest runs.
//!
//! VMRUN saves what the hypervisor needs to go on in the host save area; what it does not save (FS, GS, TR and the
//! MSRs of SYSCALL and SYSENTER) is in a VMCB of the host's own, from which VMLOAD has it back after each exit.
// UNSAFETY: switches the CPU into SVM operation and tells it where to save the host's state.
#![expect(unsafe_code, reason = "EFER.SVME, VM_HSAVE_PA and VMSAVE")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::{Hpa, MfnRange};
use hv_core::msr::number::IA32_EFER;

use crate::insn::{rdmsr, wrmsr};
use crate::percpu::{self, IrqsOff, MAX_CPUS};

/// EFER.SVME.
pub(super) const EFER_SVME: u64 = 1 << 12;
const VM_HSAVE_PA: u32 = 0xC001_0117;

/// Addresses of the hosts' VMCBs, by CPU number.
static HOST_VMCBS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn own_place() -> &'static AtomicU64 {
    usize::try_from(percpu::cpu_id())
        .ok()
        .and_then(|cpu| HOST_VMCBS.get(cpu))
        .expect("no more than MAX_CPUS CPUs run")
}

/// Has this CPU run guests, from now on. `frames` are two that belong to the CPU from here on: the host save area, and
/// the host's VMCB. What VMLOAD has back is as it is now.
pub(super) fn enable(frames: MfnRange, _irqs_off: &IrqsOff) {
    let save_area = frames.start.base();
    let host_vmcb = (frames.start + 1).base();
    // SAFETY: every 64-bit CPU has EFER.
    let efer = unsafe { rdmsr(IA32_EFER) };
    // SAFETY: SVME changes nothing that Rust relies on; the CPU has SVM and the firmware has not switched it off.
    unsafe { wrmsr(IA32_EFER, efer | EFER_SVME) };
    // SAFETY: the frame is ours permanently.
    unsafe { wrmsr(VM_HSAVE_PA, save_area.as_u64()) };
    // SAFETY: SVME is on; the frame is ours permanently, and VMSAVE writes nothing but it.
    unsafe { asm!("vmsave rax", in("rax") host_vmcb.as_u64(), options(nostack, preserves_flags)) };
    own_place().store(host_vmcb.as_u64(), Ordering::Relaxed);
}

/// The host's VMCB of this CPU, for VMLOAD.
///
/// # Panics
/// On a CPU that does not run guests yet.
pub(super) fn vmcb() -> Hpa {
    let address = own_place().load(Ordering::Relaxed);
    assert_ne!(address, 0, "a vCPU is loaded on a CPU that runs guests");
    Hpa::new(address)
}
