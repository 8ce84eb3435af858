//! Exceptions in the hypervisor itself: an MSR that is not there is reported to who asked, all others are bugs or dying
//! hardware, and end the host with a dump.
//!
//! UNSAFETY: assembly stubs enter here with the address of the saved registers.
#![expect(unsafe_code)]

use core::sync::atomic::Ordering;

use crate::percpu::{self, PerCpu};

core::arch::global_asm!(
    include_str!("entry.S"),
    taken_vector = const PerCpu::TAKEN_VECTOR_OFFSET,
    exception = sym exception,
);

unsafe extern "C" {
    /// The first of 256 stubs, 16 bytes apart.
    static hv_stubs: u8;
    static hv_rdmsr_at: u8;
    static hv_wrmsr_at: u8;
    static hv_msr_failed: u8;
}

/// Bytes from one stub to the next.
const STUB_BYTES: u64 = 16;

/// The linear address of the stub of `vector`.
pub(super) fn stub(vector: u8) -> u64 {
    (&raw const hv_stubs).addr() as u64 + u64::from(vector) * STUB_BYTES
}

/// The registers as the stub saved them, in ascending address.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExceptionFrame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

const NMI: u64 = 2;
const GENERAL_PROTECTION: u64 = 13;

/// Handles an exception; returning resumes at `frame.rip`.
extern "C" fn exception(frame: &mut ExceptionFrame) {
    match frame.vector {
        NMI => {
            percpu::this().nmis.fetch_add(1, Ordering::Relaxed);
        }
        GENERAL_PROTECTION if is_msr_access(frame.rip) => {
            frame.rip = (&raw const hv_msr_failed).addr() as u64;
        }
        _ => crate::panic::unexpected_exception(frame),
    }
}

/// True where `rip` is the instruction of `rdmsr_safe` or `wrmsr_safe`.
fn is_msr_access(rip: u64) -> bool {
    rip == (&raw const hv_rdmsr_at).addr() as u64 || rip == (&raw const hv_wrmsr_at).addr() as u64
}

/// What the manual calls exception `vector`.
pub(crate) fn name(vector: u64) -> &'static str {
    match vector {
        0 => "#DE divide error",
        1 => "#DB debug",
        2 => "NMI",
        3 => "#BP breakpoint",
        4 => "#OF overflow",
        5 => "#BR bound range",
        6 => "#UD invalid opcode",
        7 => "#NM device not available",
        8 => "#DF double fault",
        10 => "#TS invalid TSS",
        11 => "#NP segment not present",
        12 => "#SS stack fault",
        13 => "#GP general protection",
        14 => "#PF page fault",
        16 => "#MF x87 error",
        17 => "#AC alignment check",
        18 => "#MC machine check",
        19 => "#XM SIMD error",
        20 => "#VE virtualisation",
        21 => "#CP control protection",
        _ => "unknown exception",
    }
}
