//! public/arch-x86/xen.h and xen-x86_64.h: a vCPU's registers as domctl exchanges them, and core dumps keep them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Flag of [`VcpuGuestContext`]: the FPU's registers hold something.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// Flag of [`VcpuGuestContext`]: in the kernel.
pub const VGCF_in_kernel: u64 = 1 << 2;
/// Flag of [`VcpuGuestContext`]: online.
pub const VGCF_online: u64 = 1 << 5;

/// General-purpose registers, and selectors.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct CpuUserRegs {
    /// R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI.
    pub gprs: [u64; 15],
    /// Private.
    pub error_code: u32,
    /// Private.
    pub entry_vector: u32,
    /// RIP.
    pub rip: u64,
    /// CS.
    pub cs: u16,
    /// Padding.
    pub _pad0: u16,
    /// PV's interrupt mask.
    pub saved_upcall_mask: u8,
    /// Padding.
    pub _pad1: [u8; 3],
    /// RFLAGS.
    pub rflags: u64,
    /// RSP.
    pub rsp: u64,
    /// SS, ES, DS, FS, GS.
    pub selectors: [u64; 5],
}

/// A vCPU's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct VcpuGuestContext {
    /// FXSAVE's area.
    pub fpu_ctxt: [u8; 512],
    /// [`VGCF_online`] and its like.
    pub flags: u64,
    /// General-purpose registers.
    pub user_regs: CpuUserRegs,
    /// PV's handlers of exceptions.
    pub trap_ctxt: [[u64; 2]; 256],
    /// PV's LDT.
    pub ldt_base: u64,
    /// Its entries.
    pub ldt_ents: u64,
    /// PV's GDT.
    pub gdt_frames: [u64; 16],
    /// Its entries.
    pub gdt_ents: u64,
    /// PV's kernel stack.
    pub kernel_ss: u64,
    /// PV's kernel stack.
    pub kernel_sp: u64,
    /// CR0 to CR7.
    pub ctrlreg: [u64; 8],
    /// DR0 to DR7.
    pub debugreg: [u64; 8],
    /// PV's entry points: events, failsafe, system calls.
    pub callbacks: [u64; 3],
    /// PV's vm_assist.
    pub vm_assist: u64,
    /// FS's base.
    pub fs_base: u64,
    /// GS's base in the kernel.
    pub gs_base_kernel: u64,
    /// GS's base in programs.
    pub gs_base_user: u64,
}
