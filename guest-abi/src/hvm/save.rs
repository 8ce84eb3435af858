//! public/hvm/save.h and public/arch-x86/hvm/save.h: the state of an HVM domain beside its memory, as a stream of
//! records.
//!
//! Each record is a [`HvmSaveDescriptor`] and `length` bytes. The header comes first, a record of type 0 and length 0
//! ends the stream. A record that is shorter than its struct counts as filled up with zeroes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`HvmSaveHeader::magic`].
pub const HVM_FILE_MAGIC: u32 = 0x5438_1286;
/// [`HvmSaveHeader::version`].
pub const HVM_FILE_VERSION: u32 = 1;

/// Type: the end, without a body.
pub const HVM_SAVE_CODE_END: u16 = 0;
/// Type: [`HvmSaveHeader`].
pub const HVM_SAVE_CODE_HEADER: u16 = 1;
/// Type: [`HvmHwCpu`], one a vCPU.
pub const HVM_SAVE_CODE_CPU: u16 = 2;
/// Type: [`HvmHwLapic`], one a vCPU.
pub const HVM_SAVE_CODE_LAPIC: u16 = 5;
/// Type: the local APIC's page, [`HVM_LAPIC_REGS_BYTES`], one a vCPU.
pub const HVM_SAVE_CODE_LAPIC_REGS: u16 = 6;
/// Type: [`HvmHwMtrr`], one a vCPU.
pub const HVM_SAVE_CODE_MTRR: u16 = 14;
/// Type: [`HvmHwCpuXsave`] and the components behind the legacy area, one a vCPU.
pub const HVM_SAVE_CODE_CPU_XSAVE: u16 = 16;
/// Type: machine-check state, 32 bytes, one a vCPU.
pub const HVM_SAVE_CODE_VMCE_VCPU: u16 = 18;
/// Type: IA32_TSC_ADJUST, 8 bytes, one a vCPU.
pub const HVM_SAVE_CODE_TSC_ADJUST: u16 = 19;
/// Type: a count in 8 bytes and that many [`HvmOneMsr`], one a vCPU.
pub const HVM_SAVE_CODE_CPU_MSR: u16 = 20;
/// The highest type.
pub const HVM_SAVE_CODE_MAX: u16 = 20;

/// Bytes of the body of [`HVM_SAVE_CODE_LAPIC_REGS`].
pub const HVM_LAPIC_REGS_BYTES: usize = 1024;
/// Bit of [`HvmHwCpu::flags`]: `fpu_regs` hold something.
pub const XEN_X86_FPU_INITIALISED: u32 = 1;
/// Variable ranges of [`HvmHwMtrr`].
pub const HVM_MTRR_VARIABLE: usize = 8;
/// Fixed ranges' MSRs of [`HvmHwMtrr`].
pub const HVM_MTRR_FIXED: usize = 11;

/// Head of each record.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmSaveDescriptor {
    /// [`HVM_SAVE_CODE_CPU`] and its like.
    pub typecode: u16,
    /// Which of the type: a vCPU's number.
    pub instance: u16,
    /// Bytes that follow.
    pub length: u32,
}

/// Body of the first record.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmSaveHeader {
    /// [`HVM_FILE_MAGIC`].
    pub magic: u32,
    /// [`HVM_FILE_VERSION`].
    pub version: u32,
    /// Which hypervisor wrote it; all ones where that has no number.
    pub changeset: u64,
    /// EAX of CPUID leaf 1 where it was written.
    pub cpuid: u32,
    /// The guest's TSC frequency.
    pub gtsc_khz: u32,
}

/// Indices of the arrays of segments in [`HvmHwCpu`].
pub mod segment {
    /// CS.
    pub const CS: usize = 0;
    /// DS.
    pub const DS: usize = 1;
    /// ES.
    pub const ES: usize = 2;
    /// FS.
    pub const FS: usize = 3;
    /// GS.
    pub const GS: usize = 4;
    /// SS.
    pub const SS: usize = 5;
    /// TR.
    pub const TR: usize = 6;
    /// LDTR.
    pub const LDTR: usize = 7;
    /// IDTR, of limits and bases.
    pub const IDTR: usize = 8;
    /// GDTR, of limits and bases.
    pub const GDTR: usize = 9;
}

/// A vCPU's registers. What the header declares one by one for each segment is an array here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HvmHwCpu {
    /// FXSAVE's area.
    pub fpu_regs: [u8; 512],
    /// RAX, RBX, RCX, RDX, RBP, RSI, RDI, RSP, R8 to R15.
    pub gprs: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Selectors, by [`segment`].
    pub sel: [u32; 8],
    /// Limits, by [`segment`].
    pub limit: [u32; 10],
    /// Bases, by [`segment`].
    pub base: [u64; 10],
    /// Access rights in 12 bits (type 3:0, S 4, DPL 6:5, P 7, AVL 8, L 9, D/B 10, G 11), by [`segment`].
    pub arbytes: [u32; 8],
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_KERNEL_GS_BASE.
    pub shadow_gs: u64,
    /// Obsolete.
    pub msr_flags: u64,
    /// IA32_LSTAR.
    pub msr_lstar: u64,
    /// IA32_STAR.
    pub msr_star: u64,
    /// IA32_CSTAR.
    pub msr_cstar: u64,
    /// IA32_FMASK.
    pub msr_syscall_mask: u64,
    /// IA32_EFER.
    pub msr_efer: u64,
    /// IA32_TSC_AUX.
    pub msr_tsc_aux: u64,
    /// The guest's TSC.
    pub tsc: u64,
    /// An event that is to be injected: vector 7:0, type 10:8, error code valid 11, valid 31.
    pub pending_event: u32,
    /// Its error code.
    pub error_code: u32,
    /// [`XEN_X86_FPU_INITIALISED`].
    pub flags: u32,
    /// 0.
    pub pad0: u32,
}

/// The local APIC beside its page.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmHwLapic {
    /// IA32_APIC_BASE.
    pub apic_base_msr: u64,
    /// Bit 0: switched off in the spurious-vector register. Bit 1: in APIC_BASE.
    pub disabled: u32,
    /// The timer's divider, 1 to 128.
    pub timer_divisor: u32,
    /// IA32_TSC_DEADLINE.
    pub tdt_msr: u64,
}

/// PAT and MTRRs.
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmHwMtrr {
    /// IA32_PAT.
    pub msr_pat_cr: u64,
    /// IA32_MTRR_PHYSBASEn and PHYSMASKn by turns.
    pub msr_mtrr_var: [u64; 2 * HVM_MTRR_VARIABLE],
    /// The fixed ranges' MSRs: one of 64 KiB, two of 16 KiB, eight of 4 KiB.
    pub msr_mtrr_fixed: [u64; HVM_MTRR_FIXED],
    /// IA32_MTRRCAP.
    pub msr_mtrr_cap: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub msr_mtrr_def_type: u64,
}

/// Head of extended state, up to and with the XSAVE header; components in standard format follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HvmHwCpuXsave {
    /// Ignored.
    pub xfeature_mask: u64,
    /// XCR0.
    pub xcr0: u64,
    /// All bits that XCR0 ever had.
    pub xcr0_accum: u64,
    /// FXSAVE's area.
    pub fpu_sse: [u8; 512],
    /// XSTATE_BV.
    pub xstate_bv: u64,
    /// XCOMP_BV, 0.
    pub xcomp_bv: u64,
    /// 0.
    pub reserved: [u64; 6],
}

/// An MSR of [`HVM_SAVE_CODE_CPU_MSR`].
#[derive(
    Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HvmOneMsr {
    /// Its number.
    pub index: u32,
    /// 0.
    pub _rsvd: u32,
    /// Its value.
    pub val: u64,
}
